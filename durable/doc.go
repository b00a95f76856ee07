// Package durable runs jobs that must survive the process. Persistence, redelivery and
// scale-out are those of an existing engine, chosen by a line of code; a job that runs is
// a task of a tether.Registry, as any other.
//
//	var Invoice = durable.Define("invoice", makeInvoice, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 5})
//
//	engine, err := sqlite.Open("jobs.db") // or postgres.Open(pool), redis.Open(opt), rabbitmq.Dial(url)
//	_, err = Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Unique("order-5"))
//
//	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, Invoice, Email)
//	err = worker.Start(ctx)
//
// The engines are in the packages sqlite, postgres, redis and rabbitmq beside this one, each
// in a module of its own: a program has only what it uses.
//
// # Which one
//
// May the task be lost if the process crashes?
//
//   - Yes: Registry.Go, Pool.Go, tetherhttp.After.
//   - In a crash, but not in overload and not at SIGTERM: [Job.Go]. In this process, now; if
//     the pool is full or the drain comes first, on the engine.
//   - No, and there is one machine: [Job.Enqueue] on sqlite. One file, no server.
//   - No, and there are many machines: [Job.Enqueue] on postgres, redis or rabbitmq, whichever
//     there is already. The jobs stay as they are; another line in main.
//
// # What each engine guarantees, and does not
//
// When Enqueue has returned, the job is
//
//   - sqlite, postgres: on the disk (fsync), or will be when the transaction of an EnqueueTx
//     is committed;
//   - rabbitmq: on the disks of a majority of the broker's nodes, confirmed;
//   - redis: in its memory and append-only file. With appendfsync everysec, the default, a loss of
//     power may take the last second; with always it does not. Without appendonly, more.
//
// When a worker is killed, its jobs start again
//
//   - sqlite: at once if no other worker is at work on the file when the next one starts;
//     else as on postgres;
//   - postgres: after half a minute, if another worker is at work; else half a minute after
//     the next one has started. Workers say every five seconds that they are alive;
//   - redis: after one to two minutes;
//   - rabbitmq: at once, or within half a minute if its host has vanished.
//
// [Unique] keys: all but rabbitmq. EnqueueTx: sqlite and postgres. RunAt and Backoff: all, in
// whole seconds on redis. The longest Timeout: any, but 25 minutes on rabbitmq. Asking an
// engine for what it cannot do is [ErrUnsupported], never silence; [Support] tells programs.
//
// What has failed for good is kept: in the state discarded of the table river_job (sqlite,
// postgres) for 90 days, in asynq's archive (redis), in the queue "tether.dead" (rabbitmq).
//
// # What is promised
//
// An enqueued job is run at least once, until an attempt succeeds, fails with [Permanent],
// or is the last that MaxAttempts allows. A crash, a lost connection and a drain that
// cancels it each make it run again; a crash uses up an attempt.
//
// Not promised by any engine: exactly once, any order, when precisely a delayed job runs
// (never before its time), that a job runs in one process only at any instant: a worker that
// cannot reach its engine, or stands still, for longer than that is taken for killed. A
// handler that ignores its Timeout is not, but by rabbitmq, after half an hour.
//
// # Handlers must be idempotent
//
// It follows that a handler may be run again after it has done its work. Three ways to
// write one, the best first: let the work itself be so (write invoice-5.pdf under its final
// name; INSERT … ON CONFLICT DO NOTHING; "set paid", not "add 1"); commit the effect
// together with [Meta].ID in a table that has it as its key, and stop if it is there; hand
// the ID on as the Idempotency-Key of somebody else's API. See the example of [MetaFrom].
package durable
