// Package rabbitmq is the engine of package durable on RabbitMQ, 3.10 or later: for jobs
// that many machines share and that should start within milliseconds.
//
// The broker has these queues for an engine whose Queue is "tether". All are quorum
// queues: what it has confirmed is on the disks of a majority of its nodes.
//
//	tether            jobs that are due, and those that run
//	tether.wait.2.5s  jobs that wait: one queue for each of 36 spans of time, made when
//	                  first needed
//	tether.dead       jobs that have failed for good, and what is no job
//
// A job's wait is put together of these spans, the longest first: a worker takes it from
// the queue when a span has passed and puts it into the next one. So a job needs a worker
// to move on, which it needs to run as well, and it starts by the clock of the worker,
// never early, and late by at most 2 % of its wait and a second, beside what the broker and
// the jobs ahead of it take. Between queues nothing is lost: who moves a job puts its copy
// there first, confirmed, and only then takes it away. A crash in between leaves two of it. If somebody has deleted the queue of jobs when a span ends, the
// broker keeps the job and tries again minutes later.
//
// A dead letter has the job as it was enqueued, and headers that say why (tether-error),
// when (tether-died, RFC 3339) and in which attempt (tether-attempt). It stays until
// somebody takes it; one that is moved to the first queue is a job again, with all its
// attempts. Any AMQP client can enqueue: it publishes the JSON of a [durable.Message],
// persistent, with confirms, to the default exchange with the queue's name as routing key.
//
// A worker that is killed, or loses its connection, has used up an attempt of the jobs that
// it had. One that stops has not: RabbitMQ before 4.3 counts a delivery that is returned, so
// a copy is put there instead. Close may take five seconds if the broker does not answer.
//
// RabbitMQ has no unique keys, and refuses to let a consumer have a message for longer
// than its consumer_timeout, half an hour unless it is set otherwise: a job's Timeout may be 25
// minutes at most. Neither a policy that sets a message-ttl, expires, max-length or
// delivery-limit must apply to the queues: the broker would take jobs out of them.
package rabbitmq
