// Package tetherotel records the tasks of a registry with OpenTelemetry: a span for each
// task, two histograms of durations, and counts of the registry and its pools.
//
//	o, err := tetherotel.New(tetherotel.Config{}) // the global providers
//	reg := tether.New(tether.Config{Observer: o})
//	_, err = o.Watch(reg)
//
// # Spans
//
// Each task has one span, of kind Internal and with the task's name. It lasts from the
// first start of the task to its end, including all attempts and the waits between them.
// The span is in the body's context: spans that the body starts are its children. A task
// that never ran has a span from its submission to its end. A loop
// ([tether.Registry.Loop]) has no span: what it submits has spans of its own.
//
// The submitter's span is the one in the context that the task was submitted with. If a
// task submits another one with its own context, that is the first task's span, or one
// started in its body. How the task's span relates to the submitter's is decided when the
// task starts (or is dropped), by the first line that applies:
//
//	the submitter's span    the task's span
//	does not exist          a root
//	is not sampled          its child: a parent-based sampler drops it
//	is remote               its child
//	is still recording      its child
//	has ended               a root of a new trace, with a link to it
//
// A durable job's attempt is a task whose submitter's span is remote, if [JobHeaders] and
// [JobContext] carry it. Its span is of kind Consumer, and a root with a link in any case: a
// job may run, and be retried, long after the request.
//
// A request's trace is thus complete when the request is, and a task of a request that is
// not sampled is never sampled by accident. The sampler decides about each new root, and
// sees its link. If it samples few roots, most tasks of sampled requests are not recorded:
// [AlwaysChild] keeps them in the request's trace. [AlwaysLink] makes a root in the
// remote and the recording cases too. A local span context that was put into a context
// without its span counts as ended. The task's context has the baggage in any case.
//
// If each task submits its successor, they all are in one trace, which never ends. Use
// [AlwaysLink] for such tasks.
//
//	attribute                   type     set for
//	tether.task.name            string   all tasks
//	tether.pool.name            string   all tasks; "" if the task is on the registry itself
//	tether.task.outcome         string   all tasks: succeeded, failed, panicked, canceled, dropped
//	tether.task.attempt         int      all tasks: the last attempt, or the one it waited for; 0 if dropped
//	tether.task.queue.duration  double   all tasks; seconds from the submission to the first start, or the drop
//	code.function.name          string   all tasks: the body's function
//	tether.task.cause           string   canceled and dropped tasks: the cause
//	tether.task.handed_over     bool     dropped tasks that a HandOver has taken, which is no error
//	error.type                  string   tasks with an error
//
// The attributes are set at the end of the task. A sampler sees the span's name, kind and
// link. The task's ID, which is a key to its status, its Unique key and its labels
// are left out; use [Config].Attributes to add what may be public.
//
// A task has an error in these cases. Its span then has the status Error, and an event
// "exception" with the error:
//
//	outcome            error.type
//	failed             the error's type, or what its method ErrorType() string returns; goexit
//	panicked           panic; the event has the stack as exception.stacktrace
//	canceled, dropped  timeout, shutdown, full; none for any other cause, which is no
//	                   error: the status stays unset
//
// The methods of an error may panic, for example if it is a nil pointer. The error.type is
// then _OTHER, and the text says that the method panicked. The text of an error or of a
// cause, and a stack, are cut after 16 KiB, with a note.
//
// Events of the span:
//
//	event                attributes
//	tether.task.retry    an attempt failed and another one follows: tether.task.attempt, the failed
//	                     one; tether.task.retry.delay, in seconds; error.type; exception.message
//	tether.task.stuck    the task is stuck, see [tether.Config]: code.stacktrace
//	exception            as above: exception.type, exception.message, exception.stacktrace
//
// A failed attempt is an event and no error of the span: the outcome of the task is the
// last attempt's.
//
// # Metrics
//
//	name                        kind           unit
//	tether.task.queue.duration  histogram      s         wait for the first start or the drop, with delays and holds
//	tether.task.run.duration    histogram      s         first start to end, of tasks that started
//	tether.task.submitted       counter        {task}    tasks admitted
//	tether.task.refused         counter        {task}    submissions refused
//	tether.task.ended           counter        {task}    by tether.task.outcome
//	tether.pool.overdue         counter        {task}    of those, dropped or canceled by PoolConfig.MaxWait; of pools with one
//	tether.task.live            updowncounter  {task}    by tether.task.state: held, queued, running
//	tether.pool.worker.limit    updowncounter  {worker}  tasks that may run now: 0 while paused
//	tether.pool.queue.limit     updowncounter  {task}    PoolConfig.Queue; of bounded pools
//	tether.pool.weight.usage    updowncounter  1         weight of the running tasks; of pools with a Capacity
//	tether.pool.weight.limit    updowncounter  1         the Capacity
//	tether.pool.share.count     updowncounter  {share}   shares that have live tasks; if Config.Shares is set
//	tether.pool.share.tasks     updowncounter  {task}    by tether.share.name and tether.task.state: queued, running; likewise
//
// All have tether.pool.name, which is "" for tasks on the registry itself. The histograms
// have one measurement for each task, made when it ends, with tether.task.name,
// tether.task.outcome and, as above, error.type. The first [Config].MaxNames names and
// the first 100 error types are told apart; any further name is recorded as "other", and
// any further type as "_OTHER". A task with the name "other" is recorded with those.
//
// The [Config].Shares shares with the most tasks queued are told apart in each pool. All
// further shares together are recorded as "other", and so is a share with that key. Tasks
// without a share have the tether.share.name "". A pool has at each collection at most
// 2 * (Shares + 2) series of tether.pool.share.tasks, and may have none until it has had a
// task with a share. Which shares are the largest changes from one collection to the next.
// Tasks that are held, delayed or between attempts are not in it, nor are those that their
// submitters run. A collection visits all shares that have live tasks.
//
// While a worker of a pool is free, tasks that are held, delayed or between attempts wait
// in its place: more tasks than tether.pool.queue.limit may then be held or queued.
//
// The counts are read from the registry at each collection, and cost the tasks nothing.
// Counters never decrease. The counts of a pool are a consistent snapshot, as are those of
// each of the queues that the registry has for its own tasks, which are pool "". The counts
// of a pool's shares are a snapshot of their own.
//
// # Cost
//
// With a no-op TracerProvider the body's context is what it would be without an observer.
// For a task with a span that is not recording and durations that are not collected, the
// observer reads the name, the state and, if the task was dropped, its times.
//
// # Versions
//
// The package needs version 1.24 of OpenTelemetry or a later one, and is tested with that
// and with the newest.
package tetherotel
