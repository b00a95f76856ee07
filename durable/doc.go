// Package durable runs jobs that must survive the process. Persistence, redelivery and
// scale-out are those of an existing engine, chosen by a line of code; a job that runs is
// a task of a tether.Registry, as any other.
//
//	var Invoice = durable.Define("invoice", makeInvoice, durable.Options{Timeout: time.Minute, MaxAttempts: 5})
//
//	engine, err := sqlite.Open("jobs.db") // or postgres.Open(pool), redis.Open(opt), rabbitmq.Dial(url)
//	_, err = Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Unique("order-5"))
//
//	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, Invoice, Email)
//	err = worker.Start(ctx)
//
// # Which one
//
// May the task be lost if the process crashes?
//
//	yes                  Registry.Go, Pool.Go, tetherhttp.After
//	in a crash, but not
//	in overload and drain  Job.Go: here and now, else on the engine
//	no, one machine      Job.Enqueue on sqlite: one file, no server. The default
//	no, many machines    Job.Enqueue on postgres, redis or rabbitmq: another line in main
//
// Of the last three take the one that you run already. Postgres has EnqueueTx: the job is
// there if and only if your transaction is committed, which no other engine but SQLite, in
// its own file, can promise. Redis is the fastest and confirms before the disk has it
// unless appendfsync is "always". RabbitMQ has the job of a killed worker running again at
// once, and has no unique keys.
//
// # What each engine does
//
//	                        sqlite     postgres    redis      rabbitmq
//	enqueued survives       kill, power loss       kill; power loss: the last second, with appendfsync everysec
//	                                                          kill, power loss
//	killed worker's jobs    at once if no other    within 1   at once
//	start again             worker lives, else     to 2 min
//	                        after their Timeout
//	Unique                  yes        yes         yes        no: ErrUnsupported
//	RunAt, Backoff          yes        yes         seconds    yes
//	EnqueueTx               yes        yes         no         no
//	longest Timeout         any        any         any        25 min
//	what has failed for     table river_job        archived   queue "tether.dead"
//	good
//
// [Support] says the same to programs. Asking an engine for what it cannot do is
// [ErrUnsupported], never silence.
//
// # What is promised
//
// An enqueued job is run at least once, until an attempt succeeds, fails with [Permanent],
// or is the last that MaxAttempts allows. A crash, a lost connection and a drain that
// cancels it each make it run again; a crash uses up an attempt.
//
// Not promised by any engine: exactly once, any order, when precisely a delayed job runs
// (never before its time), that a job runs in one process only at any instant (one whose
// handler ignores its context for longer than its Timeout may be given to another worker).
//
// # Handlers must be idempotent
//
// It follows that a handler may be run again after it has done its work. Three ways to
// write one, the best first: let the work itself be so (write invoice-5.pdf under its final
// name; INSERT … ON CONFLICT DO NOTHING; "set paid", not "add 1"); commit the effect
// together with [Meta].ID in a table that has it as its key, and stop if it is there; hand
// the ID on as the Idempotency-Key of somebody else's API. See the example of [MetaFrom].
package durable
