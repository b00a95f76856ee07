// Package redis runs durable jobs on Redis, by github.com/hibiken/asynq: for several
// machines that already have a Redis.
//
//	opt, err := asynq.ParseRedisURI("redis://:secret@10.0.0.5:6379/0")
//	engine, err := redis.Open(opt)
//
// # Settings of Redis
//
// A job is as safe as the Redis that holds it. [Open] checks what it can:
//
//   - maxmemory-policy must be noeviction. With an allkeys-* policy Redis drops jobs silently
//     when its memory is full: Open fails if maxmemory is set, and warns if it is not. The
//     volatile-* policies are harmless, because jobs never expire. When the memory is full,
//     no job can be enqueued or started until there is room. Running jobs can end, within
//     the 30 seconds of their lease, which cannot be renewed meanwhile.
//   - appendonly should be yes. Otherwise a restart of Redis loses all jobs since its last
//     snapshot: Open warns. With appendfsync everysec, the default, a loss of power can lose
//     the jobs that Enqueue confirmed in the last second, or in the last two if the disk is
//     busy; a kill -9 of Redis can lose the last few (up to 3 of some thousands in a trial).
//     An orderly restart loses none. With appendfsync always, Enqueue waits for the disk.
//   - Redis must be 6.2 or later: before that, dead jobs could not be archived. Open fails.
//   - The clocks of the machines should agree: Open warns if this machine's differs from
//     that of Redis by more than 10 seconds. asynq compares the leases of running jobs with
//     the workers' clocks. A worker with a clock more than 30 seconds ahead starts jobs
//     that run elsewhere, and RunAt and Backoff are off by as much.
//
// Where CONFIG or INFO is forbidden, Open skips the check.
//
// # Replicas and fail-over
//
// Replication is asynchronous. A primary that is replaced takes with it the jobs that the
// replica does not have yet: when Sentinel replaced a primary as planned (SENTINEL
// FAILOVER), 40 of 12,604 jobs were lost in one trial, and 17,923 of 168,074 at full load in
// another, though Enqueue had returned nil for all of them.
//
// With [Config].Replicas, Enqueue returns nil only when so many replicas have confirmed the
// job (the command WAIT): in the same trial no job was lost. It costs one more round trip
// between Redis and its replicas for each job. If too few replicas confirm in time, Enqueue
// returns an error, and the job may run all the same; enqueue it again, with a Unique key if
// it must not run twice. A replica that has confirmed a job has it in its memory. Which
// replica is promoted is Sentinel's choice: it takes the one that is furthest, so one
// confirmation is enough if each fail-over is planned or takes away one node only. Set
// min-replicas-to-write as well, so that a primary that is cut off stops to take writes.
//
// Outcomes of jobs are not confirmed by replicas: a fail-over can make a job that was done
// just before run again. A job that was started just before may stay active forever, and
// keep its Unique key.
//
// A single node and Sentinel are tested, with Redis 7.0. A cluster should work as far as
// asynq does, because all keys of a queue are in one slot, but is not tested.
//
// # While Redis is away
//
// Enqueue waits until its context ends, or for [Config].Timeout if that has no deadline. Open and Consume
// fail at once. A worker goes on when Redis is back; the outcomes of jobs that ended
// meanwhile are stored then, if that is within the lease of 30 seconds. This also holds
// behind a proxy that accepts connections and resets them.
//
// If Redis is away for longer than 30 seconds, running jobs are canceled, and run again
// like those of a killed worker. So does, rarely, a job that was being delivered when a
// connection broke.
//
// # Crashes
//
// The jobs of a killed worker run again as the next attempt. The crash counts against a job's
// MaxAttempts only if the job ran alone, which it does after two crashes: see
// [durable.JobConfig].MaxAttempts. The engine keeps what it needs for that in fields of the
// task's hash ("tether:pardoned" and others), which go with the task.
//
// # Differences from other engines
//
// Times are in whole seconds: RunAt, Backoff and the wait after a Return are rounded up. An
// idle worker finds a job within about a tenth of a second: see [Config].Poll.
//
// Running jobs have a lease of 30 seconds that is renewed every five. When a worker was
// killed, asynq looks for its jobs once a minute, and allows another 30 seconds for clocks
// that differ: they start again after one to two minutes. These times are asynq's constants.
//
// Dead jobs are in asynq's archive, with their last error: at most the last 10,000 of a
// queue, for 90 days. If a dead job had a Unique key, the next job with that key replaces
// it, and the log says so.
//
// The queue is an ordinary one of asynq, so its tools work: the Inspector, asynqmon. An
// archived job that is run again by them, or by [durable.RetryDead], has one more attempt.
// Canceling a running one uses its attempt. The type of a task is the name of the job, its
// payload the JSON of a
// [durable.Message]. A program that enqueues such tasks without this package should set
// generous values for MaxRetry and Timeout: the defaults of asynq, 25 retries and 30
// minutes, apply as well as the job's options. A payload that is not a Message is archived.
package redis
