// Package tether runs background tasks safely inside a Go process.
//
// A go statement in a handler starts a goroutine that nobody waits for, nobody can
// see, that is cancelled with the request's context, that a panic turns into a dead
// process, and of which a burst of requests makes a million. A task of tether has a
// name, a handle, a bounded place to run, a context of its own and exactly one
// outcome, and is waited for when the process is told to stop:
//
//	reg := tether.New(tether.Config{})
//	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 8, Queue: 1000, Overflow: tether.OverflowReject})
//
//	_, err := mail.Go(r.Context(), "welcome mail", func(ctx context.Context) error {
//		return send(ctx, user)
//	})
//	if err != nil {
//		// not admitted: full, or shutting down. Answer 503.
//	}
//	// It will run, whatever becomes of the request. Answer 202.
//
// # Admission
//
// [Registry.Go] starts a task at once, as the go statement does; [Pool.Go] puts it
// in front of a bounded number of workers. Both return a [*Task] or a typed error;
// there is no third answer. From then on the registry holds the task until its
// outcome is known, and for a while after that, so that a status page can still be
// answered: [Registry.Find]. [Submit] is the same for bodies that return a value.
//
// Options say what differs from one submission to the next: [Timeout], [Delay],
// [Hold], [Unique], [Serial], [Weight], [Retry], [Label], [HandOver].
//
// # The body's context
//
// It has the values of the submitter's context (the trace, the user), and not its
// cancellation: a task is not cancelled because a handler has returned. Its own end
// comes by [Task.Cancel], [Timeout] or the drain, and context.Cause tells which.
//
// # Outcome
//
// A task succeeds, fails, panics, is cancelled, or is dropped before it has run;
// see [State]. A panic does not end the process, and runtime.Goexit does not hang
// anybody. A failure that nobody waits for is logged.
//
// # The drain
//
// [Registry.Shutdown] closes the intake, waits, cancels what is left shortly before
// its deadline, waits again, and reports: who was cancelled, who never started, and
// where those hang that do not end. [Registry.Run] does this on SIGTERM, after the
// server has been stopped and before the database is closed.
//
// # The honest cost
//
// An empty task costs 0.3 to 0.5 µs of a processor and one allocation of 112 bytes, where
// the go statement with a WaitGroup costs 0.5 to 1.5 µs. What comes on top, on one
// processor of a small virtual machine, with its allocations:
//
//	Config.Timeout, Limit, Stuck, Linger   nothing that can be measured
//	Retain (set to -1 to save it)          0.05 µs
//	a pool, its queue, its Overflow        nothing that can be measured
//	PoolConfig.Capacity; with a Weight     0.02 µs; 0.17 µs, 2
//	an Observer that does nothing          0.2 µs
//	Timeout, Label, HandOver               0.2 to 0.3 µs, 2 or 3
//	Hold and Release                       0.2 to 0.4 µs, 2
//	Retry, not needed                      0.5 µs, 5
//	Serial; Unique                         0.4 to 0.7 µs, 2 or 3; 0.8 µs, 4
//	Delay                                  3 µs, 4: a timer
//	Submit; Done asked for                 0.1 µs, 1; 0.2 µs, 2
//	ID asked for                           0.15 µs, 2
//	ctx.Value; ctx.Done in the body        0.13 µs, 1; 0.6 µs, 5
//	an error, logged by nobody             0.5 µs, 4
//	a panic, with its stack                37 µs
//
// The profiler's labels are 0.02 µs of each task. The repository's bench/RESULTS.md has
// where these are from, and the same workloads for other libraries.
//
// What must survive a crash of the process does not belong here but on a durable
// queue. [HandOver] takes it there when the process stops before its turn.
package tether
