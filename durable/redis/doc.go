// Package redis runs durable jobs on Redis, by github.com/hibiken/asynq: for many
// machines that have a Redis already.
//
//	opt, err := asynq.ParseRedisURI("redis://:secret@10.0.0.5:6379/0")
//	engine, err := redis.Open(opt)
//
// # What Redis must be
//
// A job is as safe as the Redis that holds it. [Open] looks at what it may ask for:
//
//   - maxmemory-policy noeviction. With one of allkeys-* Redis drops jobs without a word
//     when its memory is full: Open fails where maxmemory is set, and warns where it is not
//     set yet. The policies volatile-* do no harm: jobs never expire.
//     When the memory is full no job begins, nor can be enqueued, until there is room. Those
//     that run can end, within the 30 seconds of their lease, which cannot be renewed then.
//   - appendonly yes; else a restart of Redis takes back what it had confirmed since its
//     last snapshot: Open warns. With appendfsync everysec, the default, a loss of power can
//     lose the jobs that Enqueue has confirmed in the last second, or two when the disk is
//     busy, and kill -9 of Redis the last few: up to 3 of some thousands, when it was tried.
//     An orderly restart loses none. With always, Enqueue waits for the disk.
//   - Redis 6.2 or later: jobs could not be put with the dead ones before that. Open fails.
//
// Where CONFIG or INFO is forbidden, Open takes Redis as it is. Replication is
// asynchronous: a fail-over loses what the replica had not got yet, and a job that was
// running just then may stay active for ever, and keep its Unique key.
//
// Tried on a single node, Redis 7.0. Sentinel and Cluster should work, as far as asynq
// does (all of a queue is in one slot), but have not been tried.
//
// # What differs from other engines
//
// Times are in whole seconds: RunAt, Backoff and the wait after a Return are rounded up,
// and go by the clocks of the machines, which should agree. An idle worker finds a job
// within a tenth of a second or so, see [Config].Poll.
//
// Running jobs are leased for 30 seconds, and the lease is renewed every five. When a
// worker was killed, asynq looks for its jobs once a minute and leaves them 30 seconds
// for clocks that differ: they start again after one to two minutes. These times are
// asynq's constants. For the same reason a Redis that is away for longer than 30 seconds
// cancels the jobs that run: they come back like those of a killed worker, and that
// attempt counts. So does one, rarely, whose delivery was under way when a connection broke.
//
// Jobs that have failed for good are in asynq's archive, with their last error: at most
// the last 10,000 of a queue, for 90 days. If one had a Unique key, the next job of that
// key takes its place: it is then gone, and the log says so.
//
// The queue is an ordinary one of asynq, so that its tools work on it: the Inspector,
// asynqmon. Running an archived job again by them gives it one attempt more; cancelling a
// running one uses its attempt up. The type of a task is the job's name, its payload the
// JSON of a [durable.Message]. Who enqueues such a task without this package should set
// MaxRetry and Timeout generously: asynq's own defaults, 25 retries and 30 minutes, apply
// besides the job's options. What is no such message is archived.
package redis
