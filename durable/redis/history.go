package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
)

// asynq counts the attempts of a task: Retried. What else a durable.Delivery tells is in
// fields of the task's hash, where asynq leaves it until it deletes the task. They are:
//
//	tether:pardoned  the deliveries that were never answered, and not counted
//	tether:crashed   set if the last delivery was never answered
//	tether:counted   set while a delivery runs that counts if it is never answered
//	tether:dead      set when the job is archived because it is dead
//	tether:lease     the end of the lease that expired last, until the next delivery
//
// A first delivery has none of them, so they are read for Retried > 0 only.

// history is what the fields say.
type history struct {
	pardoned               int
	crashed, counted, dead bool
}

func taskKey(queue, id string) string { return "asynq:{" + queue + "}:t:" + id }

// outcomeTime bounds the commands about a job that runs. It is the time of a lease.
const outcomeTime = 30 * time.Second

var rememberScript = goredis.NewScript(`
redis.call("HDEL", KEYS[1], "tether:lease")
local is = function(field) return redis.call("HEXISTS", KEYS[1], "tether:" .. field) end
return {tonumber(redis.call("HGET", KEYS[1], "tether:pardoned") or 0), is("crashed"), is("counted"), is("dead")}`)

// remember returns the history of a task that has been delivered before.
func (c *consumer) remember(ctx context.Context, id string) (h history, err error) {
	ctx, cancel := context.WithTimeout(ctx, outcomeTime)
	defer cancel()
	values, err := rememberScript.Run(ctx, c.redis, []string{taskKey(c.queue, id)}).Int64Slice()
	if err != nil {
		return h, err
	}
	return history{int(values[0]), values[1] > 0, values[2] > 0, values[3] > 0}, nil
}

// countScript marks a delivery as one that counts even if it is never answered. It returns 0
// if the task is not active any more, or was pardoned since it was delivered (ARGV[1]):
// then another worker may have it.
var countScript = goredis.NewScript(`
if redis.call("HGET", KEYS[1], "state") ~= "active" then return 0 end
if (redis.call("HGET", KEYS[1], "tether:pardoned") or "0") ~= ARGV[1] then return 0 end
redis.call("HSET", KEYS[1], "tether:counted", 1)
return 1`)

var errNotActive = errors.New("the job is no longer this worker's")

// count is durable.Delivery.Count of a delivery with this history.
func (c *consumer) count(ctx context.Context, id string, h history) error {
	marked, err := countScript.Run(ctx, c.redis, []string{taskKey(c.queue, id)}, h.pardoned).Int()
	switch {
	case err != nil:
		return fmt.Errorf("redis: count an attempt: %w", err)
	case marked == 0:
		return fmt.Errorf("redis: count an attempt: %w", errNotActive)
	}
	return nil
}

// answerScript is what an answer other than Done changes: the delivery was answered, and the
// job is dead if ARGV[1] is 1.
var answerScript = goredis.NewScript(`
if redis.call("HGET", KEYS[1], "state") ~= "active" then return 0 end
redis.call("HDEL", KEYS[1], "tether:crashed", "tether:counted", "tether:dead")
if ARGV[1] == "1" then redis.call("HSET", KEYS[1], "tether:dead", 1) end
return 1`)

// answered notes an answer before asynq stores it. If it fails, the next delivery is taken
// for one after a crash.
func (c *consumer) answered(id string, v durable.Verdict) {
	ctx, cancel := context.WithTimeout(context.Background(), outcomeTime)
	defer cancel()
	dead := 0
	if v == durable.Dead {
		dead = 1
	}
	if err := answerScript.Run(ctx, c.redis, []string{taskKey(c.queue, id)}, dead).Err(); err != nil {
		c.log.Warn("durable: redis: the history of a job is not stored", "queue", c.queue, "task", id, "error", err)
	}
}

// crashScript notes that a delivery was never answered, once for each lease: several workers
// may find it. ARGV[1] is the task's ID.
var crashScript = goredis.NewScript(`
local lease = redis.call("ZSCORE", KEYS[2], ARGV[1])
if not lease or redis.call("HGET", KEYS[1], "tether:lease") == lease then return 0 end
if redis.call("HGET", KEYS[1], "state") ~= "active" then return 0 end
if redis.call("HDEL", KEYS[1], "tether:counted") == 0 then
	redis.call("HINCRBY", KEYS[1], "tether:pardoned", 1)
end
redis.call("HDEL", KEYS[1], "tether:dead")
redis.call("HSET", KEYS[1], "tether:crashed", 1, "tether:lease", lease)
return 1`)

// expiry is a hook of go-redis that notes a crash before asynq's recoverer has the job
// delivered again. The recoverer tells nothing else of it: the job's error, and that its
// retry has no deadline, unlike that of a job that has returned. The keys and arguments are
// those of asynq v0.26 (internal/rdb, Retry).
type expiry struct{ consumer *consumer }

func (expiry) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (expiry) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (x expiry) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	prefix := "asynq:{" + x.consumer.queue + "}:"
	return func(ctx context.Context, cmd goredis.Cmder) error {
		// evalsha SHA 8 task active lease retry … ID
		if args := cmd.Args(); len(args) > 11 && args[6] == prefix+"retry" && args[5] == prefix+"lease" {
			if _, bounded := ctx.Deadline(); !bounded {
				task, _ := args[3].(string)
				if err := crashScript.Run(ctx, x.consumer.redis, []string{task, prefix + "lease"}, args[11]).Err(); err != nil {
					cmd.SetErr(err)
					return err // the recoverer looks for the job again in a minute
				}
			}
		}
		return next(ctx, cmd)
	}
}
