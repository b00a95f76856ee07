// Package rabbitmq runs durable jobs on RabbitMQ 3.10 or later: for jobs that several
// machines share and that should start within milliseconds.
//
//	engine, err := rabbitmq.Dial("amqp://app:secret@10.0.0.5:5672/")
//
// # Queues
//
// With the default [Config].Queue, "tether", an engine has these queues. All are quorum queues: what
// the broker has confirmed is on the disks of a majority of its nodes.
//
//	tether            jobs that are due or running
//	tether.wait.2.5s  jobs that wait: a queue for each of 36 spans of time, declared when it
//	                  is first needed
//	tether.dead       dead jobs, and messages that are not jobs
//	tether.alone.ID   jobs that one worker runs, in an attempt that counts even if the
//	                  process ends: see below. It is deleted when the worker stops, and
//	                  expires two hours after its last use
//
// The wait of a job is the sum of such spans, the longest first: when a span has passed, a
// worker moves the job to the queue of the next one. A waiting job therefore needs a worker,
// as it does to run. It starts by the clock of that worker, never early, and late by at
// most 2 % of its wait and a second, beside the time that the broker and the jobs ahead of
// it take. A job that is moved is not lost: its copy is published and confirmed before the
// original is acknowledged. A crash in between leaves two copies. If the queue of jobs has
// been deleted when a span ends, the broker keeps the job and tries again minutes later.
//
// A policy that sets message-ttl, expires, max-length or delivery-limit must not apply to
// these queues: the broker would take jobs out of them.
//
// # Dead jobs
//
// A dead letter has the body of the job as it was enqueued, and headers with the error
// (tether-error), the time (tether-died, RFC 3339) and the attempt (tether-attempt). It
// stays until it is removed. One that is moved to the first queue is a job again, with all
// its attempts. [durable.RetryDead] is not supported.
//
// # Other programs
//
// Any AMQP client can enqueue: it publishes the JSON of a [durable.Message], persistent, with
// publisher confirms, to the default exchange with the name of the first queue as routing
// key.
//
// # Crashes and stops
//
// A worker that is killed, or loses its connection, has used up an attempt of the jobs that
// it had. The attempt counts against a job's MaxAttempts only if the job ran alone, which it
// does after two crashes: see [durable.JobConfig].MaxAttempts. It is delivered again at once;
// after an attempt that counts, up to five seconds later. A job with MaxAttempts 1 counts
// its only attempt, which costs two more round trips to the broker.
//
// A worker that is stopped uses up no attempt. Before version 4.3 RabbitMQ counts each
// delivery that is returned, so a copy is published instead. Close can take five seconds
// if the broker does not answer.
//
// # While the broker is away
//
// Enqueue waits for a connection until its context ends, or for [Config].Timeout if that has
// no deadline. Dial and Consume fail at once. A worker connects again by itself.
//
// # The status of tasks
//
// RabbitMQ stores no state, so the engine has no Store for tetherhttp.NewStore. Beside it, use
// that of package sqlite if the replicas are processes on one host, and of postgres or redis
// otherwise.
//
// # Limits
//
// RabbitMQ has no unique keys. It closes the channel of a consumer that holds a message for
// longer than consumer_timeout, half an hour by default: the Timeout of a job may be 25
// minutes at most.
package rabbitmq
