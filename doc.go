// Package tether runs background tasks safely inside a Go process.
//
// A goroutine started in a handler is untracked: nothing waits for it at shutdown, nothing
// lists it, its context is canceled when the handler returns, a panic in it kills the
// process, and nothing bounds how many a burst starts. A task has a name, a handle, a
// context of its own, a bounded place to run and exactly one outcome, and is waited for
// when the process is told to stop:
//
//	reg := tether.New(tether.Config{})
//	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 8, Queue: 1000})
//
//	_, err := mail.Go(r.Context(), "welcome mail", func(ctx context.Context) error {
//		return send(ctx, user)
//	})
//	if err != nil {
//		// not admitted: full, or shutting down. Answer 503.
//	}
//	// Admitted: it runs, whatever becomes of the request. Answer 202.
//
// # Admission
//
// [Registry.Go] starts a task at once, as the go statement does. [Pool.Go] puts it in the
// queue of a bounded number of workers. Both return a [*Task] or a typed error, and nothing
// else. From then on the registry holds the task until its outcome is known, and retains it
// for a while after that, so that a status page can be answered: [Registry.Find]. [Submit]
// is the same for a body that returns a value. [Registry.Loop] is for what runs for the life
// of the process, such as a consumer. [Detach] is Go where no caller can be told of a
// refusal.
//
// Options configure a single submission: [Timeout], [Delay], [Hold], [Unique], [Serial],
// [Share], [Urgent], [Weight], [Retry], [StuckAfter], [Label], [Wraps], [HandOver].
//
// # The body's context
//
// It has the values of the submitter's context (the trace, the user), but not its
// cancellation: a task is not canceled because a handler has returned. It is canceled by
// [Task.Cancel], a [Timeout] or the drain; context.Cause returns which.
//
// # Outcome
//
// A task succeeds, fails, panics, is canceled, or is dropped before it has run: see
// [State]. A panic does not end the process, and runtime.Goexit hangs nothing. A failure
// that is not awaited is logged.
//
// # The stop
//
// [Registry.Shutdown] admits no new tasks, waits, cancels contexts shortly before its
// deadline, waits again, and reports which tasks were canceled, which never started, and
// where the tasks that have not ended are. [Registry.Run] serves until SIGTERM and then
// stops the servers, drains the tasks and closes the databases, each within its share of
// one StopTimeout: see [RunConfig] for the timeline.
//
// # Invalid arguments
//
// Constructors (New, NewPool, and the handlers of package tetherhttp) panic on what only a
// programmer can get wrong. Calls at run time return an error that wraps [ErrInvalid], and
// change nothing. Nothing is clamped silently: where a value has a limit, the documentation
// says so, and a value beyond it is invalid.
//
// # Cost
//
// At the load of a service, where tasks come one at a time, a task costs about as much of a
// processor as a go statement does, within a tenth, and starts some 10 µs later. In a burst
// an empty task costs 0.3 to 0.5 µs and one allocation of 112 bytes, where the go statement
// with a WaitGroup costs 0.6 to 1 µs. Extra cost per feature, in µs and allocations, on one
// core of a small virtual machine:
//
//	Config.Timeout, Limit, StuckAfter      not measurable
//	Retain (set it to -1 to save this)     0.05 µs
//	Config.MemoryHeadroom                  0.1 µs
//	a pool, its queue, its Overflow        not measurable
//	PoolConfig.Capacity; with a Weight     0.1 µs; 0.6 µs, 2
//	an Observer that does nothing          0.2 µs
//	Timeout, Label, HandOver               0.4 to 0.5 µs, 2 or 3
//	Hold and Release                       0.4 to 0.5 µs, 2
//	Retry, not needed                      0.8 µs, 5
//	Serial; Unique                         0.5 to 0.9 µs, 2 or 3; 0.9 µs, 4
//	Share; Urgent                          1.1 µs, 2; 0.6 µs, 2
//	PoolConfig.MaxWait                     0.1 µs
//	Delay                                  3 µs, 4: a timer
//	Loop: to start one; a restart          3 µs, 8; 0.7 µs, none
//	Submit; Done                           0.3 µs, 2; 0.3 µs, 2
//	ID                                     0.15 µs, 2
//	ctx.Value; ctx.Done in the body        0.13 µs, 1; 0.6 µs, 5
//	an error that is awaited               0.5 µs, 4
//	a panic, with its stack                20 µs
//
// The profiler's labels cost 0.02 µs of each task. The repository's bench/RESULTS.md shows
// how these were measured, and the same workloads for other libraries.
//
// # Where it ends
//
// A task is lost if the process crashes. Work that must survive that belongs on a durable
// queue; package durable has one definition of a job for several of them. [HandOver] moves
// a task there if the process stops before it has started.
//
// The repository's docs/README.md is the guide: getting started, adopting the package in an
// existing service, choosing, stopping, clients, testing.
//
// The promises behind this documentation are numbered in the repository's PROMISES.md, each
// with the tests that guard it.
package tether
