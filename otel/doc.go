// Package tetherotel tells OpenTelemetry of a registry's tasks: a span for each, two
// histograms of their durations, and counts of the registry and its pools.
//
//	o, err := tetherotel.New(tetherotel.Config{}) // the global providers
//	reg := tether.New(tether.Config{Observer: o})
//	_, err = o.Watch(reg)
//
// # Spans
//
// Each task has one span, of kind Internal and with the task's name, from its first
// start to its end, all attempts and the waits between them included. It is in the
// body's context: spans that the body makes are its children. A task that never ran
// has one from its submission to its end.
//
// The submitter's span is the one in the context that the task was submitted with;
// for a task that another task submits, that is the other's, or one made in its body.
// How the task's span stands to it is decided when the task starts (or is dropped), in
// this order:
//
//	the submitter's span                  the task's span
//	there is none                         a root
//	is not sampled                        its child: a parent-based sampler drops it
//	is remote                             its child
//	records still                         its child
//	has ended                             a root of a new trace, with a link to it
//
// A request's trace is thus complete when the request is, and a task of a request that
// is not sampled is never sampled by accident. Of the new roots the sampler decides
// anew, and sees the link. Where it samples few of them, the tasks of sampled requests
// would be lost with the rest: [AlwaysChild] keeps them in the request's trace.
// [AlwaysLink] makes a root of the remote and the recording cases too. A local span
// context that somebody has put into a context without its span counts as ended. The
// baggage goes with the task's context in any case.
//
// A task that submits its successor at once, and so for ever, is one endless trace:
// use [AlwaysLink] there.
//
//	attribute                   type     of which tasks
//	tether.task.name            string   all
//	tether.pool.name            string   all; "" for those of the registry itself
//	tether.task.outcome         string   all: succeeded, failed, panicked, canceled, dropped
//	tether.task.attempt         int      all: the last one, or the one it waited for; 0 if dropped
//	tether.task.queue.duration  double   all; seconds from the submission to the first start, or the drop
//	code.function.name          string   all: the body's function
//	tether.task.cause           string   canceled and dropped ones: why
//	tether.task.handed_over     bool     dropped ones that a HandOver has taken: no error
//	error.type                  string   those that went wrong
//
// They are set at the end of the task. A sampler sees the span's name, its kind and its
// link. The task's ID, by which anybody can ask for its status, its Unique key and its
// labels are left out; [Config].Attributes adds what may be known.
//
// These have gone wrong: their spans have the status Error, and, in an event
// "exception", the error.
//
//	outcome            error.type
//	failed             the type of the error, as semconv.ErrorType has it; goexit
//	panicked           panic; the event has the stack as exception.stacktrace
//	canceled, dropped  timeout, shutdown, full; none if somebody else has canceled it:
//	                   that is no error, and the status stays unset
//
// An error may be a nil pointer, whose methods panic: what they would have told is then
// _OTHER as the error.type, and a text that says so. The text of an error, that of a
// cause and a stack are cut after 16 KiB, and say so.
//
// What a retry has mended is no error either: of the attempts before the last one
// there is only the number. A task that is stuck, see [tether.Config], has an event
// "tether.task.stuck" with the stack of its goroutine as code.stacktrace.
//
// # Metrics
//
//	name                        kind           unit
//	tether.task.queue.duration  histogram      s         wait for the first start, or the drop; delays and holds too
//	tether.task.run.duration    histogram      s         first start to end, of those that ran
//	tether.task.submitted       counter        {task}    admitted
//	tether.task.refused         counter        {task}    refused
//	tether.task.ended           counter        {task}    by tether.task.outcome
//	tether.task.live            updowncounter  {task}    by tether.task.state: held, queued, running
//	tether.pool.worker.limit    updowncounter  {worker}  how many may run now: 0 while paused
//	tether.pool.queue.limit     updowncounter  {task}    PoolConfig.Queue; of bounded pools
//	tether.pool.weight.usage    updowncounter  1         weight that runs; of pools with a Capacity
//	tether.pool.weight.limit    updowncounter  1         the Capacity
//
// All have tether.pool.name, "" for the tasks on the registry itself. The histograms
// have one measurement of each task, made when it ends, with tether.task.name,
// tether.task.outcome and, as above, error.type. Beyond [Config].MaxNames names and
// 100 types of errors the names are "other" and the types "_OTHER". A task that is
// really called "other" is counted with those, and is none of the MaxNames.
//
// More tasks than tether.pool.queue.limit may be held or queued: while a worker is
// free, those that are held, delayed or between attempts wait in its place.
//
// The counts are read from [tether.Registry.Stats] whenever they are collected, and
// cost the tasks nothing. Counters never go backwards. The figures of one pool are of
// one instant. Those of pool "" are what the registry's have more than its pools', read
// a moment later: while pools are busy they may be off by a few tasks.
//
// # Cost
//
// With a no-op TracerProvider the body's context is what it would be without an
// observer. Of a task whose span does not record and whose durations nobody measures
// the name, the state and, if it is dropped, the times are read, and nothing else.
package tetherotel
