// Package durable runs jobs that must survive the process. An existing engine, chosen in one
// line, provides persistence, redelivery and scale-out; a running job is a task of a
// tether.Registry like any other.
//
//	var Invoice = durable.Define("invoice", makeInvoice, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 5})
//
//	engine, err := sqlite.Open("jobs.db") // or postgres.Open(pool), redis.Open(opt), rabbitmq.Dial(url)
//	_, err = Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Unique("order-5"))
//
//	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, Invoice, Email)
//	err = worker.Start(ctx)
//
// The engines are in the packages sqlite, postgres, redis and rabbitmq beside this one. Each is
// a module of its own, so that a program depends only on what it uses.
//
// # Which one
//
// May the task be lost if the process crashes?
//
//   - Yes: Registry.Go, Pool.Go, tetherhttp.After.
//   - In a crash, but not under overload or at SIGTERM: [Job.Go]. It runs the job in this
//     process, now, and puts it on the engine if the pool is full or the drain comes first.
//   - No, and there is one machine: [Job.Enqueue] on sqlite. One file, no server.
//   - No, and there are many machines: [Job.Enqueue] on postgres, redis or rabbitmq, whichever
//     is there already. The jobs do not change, only a line in main.
//
// # What each engine guarantees, and does not
//
// When Enqueue has returned, the job is
//
//   - sqlite, postgres: on the disk (fsync), or will be when the transaction of an EnqueueTx
//     is committed;
//   - rabbitmq: on the disks of a majority of the broker's nodes, confirmed;
//   - redis: in its memory and append-only file. With appendfsync everysec, the default, a loss
//     of power can lose the last second; with always it cannot. Without appendonly, more.
//
// When a worker is killed, its jobs start again
//
//   - sqlite: at once, if no other worker is at work on the file when the next one starts;
//     otherwise as on postgres;
//   - postgres: after half a minute, if another worker is at work; otherwise half a minute after
//     the next one has started. Workers report every five seconds that they are alive;
//   - redis: after one to two minutes;
//   - rabbitmq: at once, or within half a minute if its host has vanished.
//
// docs/faults.md in the repository has what was measured for other faults.
//
// [Unique] keys: all but rabbitmq. EnqueueTx: sqlite and postgres. RunAt and Backoff: all, in
// whole seconds on redis. The longest Timeout: any, but 25 minutes on rabbitmq. Unsupported
// requests return [ErrUnsupported]; [Support] reports an engine's capabilities.
//
// Dead jobs, which have failed for good, are kept: in the state discarded of the table river_job
// (sqlite, postgres) for 90 days, in asynq's archive (redis), in the queue "tether.dead"
// (rabbitmq). [RetryDead], or a tool of the engine's own, makes one run again.
//
// # What is promised
//
// An enqueued job is run at least once, until an attempt succeeds, fails with [Permanent],
// or is the last that MaxAttempts allows. After a crash, a lost connection, or a drain that
// cancels it, a job is run again. [JobConfig].MaxAttempts says which crashes count.
//
// No engine promises exactly-once execution, an order, or when precisely a delayed job runs; it
// never runs before its time. Nor that a job runs in one process only at any instant: a
// worker that is paused or cut off for longer than the times above is presumed dead, and its
// jobs run elsewhere too. On sqlite and postgres, what such a worker reports later is not
// stored. A handler that merely ignores its Timeout is not presumed dead, except by RabbitMQ
// after 30 minutes.
//
// A worker begins no job after the first signal that its registry's Run receives.
//
// # Traces
//
// [JobConfig].Headers and [WorkerConfig].Context carry the trace of a request to the handlers of
// its jobs. For OpenTelemetry they are JobHeaders and JobContext of the package tether/otel.
//
// # The status and the result of a job
//
// A job that is enqueued with [Tracked] has a status, by the ID of its [Receipt]: whether it waits,
// runs, is tried again or has ended, how far it is (tether.ReportProgress), and the result of
// [DefineResult]. It is kept by a tetherhttp.Store, whose Find and Cancel are for the program.
// tetherhttp.AsyncJob is a handler that enqueues a job and answers 202; any replica serves its
// status. Workers in other processes have a Store of the same name.
//
//	shared := tetherhttp.NewStore("shop", engine.Store())
//	receipt, err := Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Tracked(shared.Tracker()))
//	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Tracker: shared.Tracker()}, Invoice)
//	status, err := shared.Find(ctx, receipt.ID)
//
// The engines sqlite, postgres and redis have a method Store. RabbitMQ stores no state; one of the
// others is used beside it. The queue decides what is run, and the Store only says so, with two
// exceptions: a job that was canceled is not begun, and one whose result is stored is not run
// again, unless it was dead and [RetryDead] says so. What a tool of the engine's own does to a job
// that waits is not seen until a worker has it.
//
// The same Store makes any replica answer for the tasks and the Idempotency-Keys of the others.
//
// # Handlers must be idempotent
//
// So a handler may be run again after it has done its work. There are three ways to write
// one, the best first. Make the work itself idempotent: write invoice-5.pdf under its final
// name; INSERT … ON CONFLICT DO NOTHING; "set paid", not "add 1". Or commit the effect together
// with [Meta].ID in a table that has the ID as its key, and stop if it is there. Or pass the ID
// on as the Idempotency-Key of another service's API. See the example of [MetaFrom].
package durable
