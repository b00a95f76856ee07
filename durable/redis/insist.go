package redis

import (
	"context"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
)

// insist is a hook of go-redis for the client of an Engine. It repeats the commands of an
// Enqueue, which have a deadline, until their context ends, while Redis is away. They may be
// repeated: the ID of the task makes the second one find the first. Other commands, such as
// the PING of Consume and the HELLO of a new connection, are not repeated.
//
// With Config.Replicas it has the replicas confirm what a script has written.
type insist struct {
	engine *Engine
	node   *goredis.Client // nil unless there are Replicas
	slice  time.Duration   // the longest that one WAIT may take
}

// The times that WAIT is given: the first is short, so that the number of replicas that have
// confirmed is known when the context ends.
const (
	firstSlice = 20 * time.Millisecond
	maxSlice   = time.Second
)

// insist adds the hook to the engine's client.
func (e *Engine) insist() error {
	h := &insist{engine: e, slice: maxSlice}
	if e.cfg.Replicas > 0 {
		node, ok := e.redis.(*goredis.Client)
		if !ok {
			return fmt.Errorf("%w: redis: Replicas with a client of type %T", durable.ErrUnsupported, e.redis)
		}
		h.node = node
		// A pipeline that does not answer within ReadTimeout has lost its connection.
		if timeout := node.Options().ReadTimeout; timeout > 0 {
			h.slice = min(maxSlice, max(timeout/2, time.Millisecond))
		}
	}
	e.redis.AddHook(h)
	return nil
}

func (h *insist) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (h *insist) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (h *insist) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		script := strings.HasPrefix(cmd.Name(), "eval")
		if !script && cmd.Name() != "sadd" {
			return next(ctx, cmd)
		}
		_, bounded := ctx.Deadline()
		send, all := next, linesOf(ctx)
		if all != nil {
			send = all.process
		}
		if bounded && script && h.node != nil {
			send = h.confirm
		}
		for first := true; ; first = false {
			err := send(ctx, cmd)
			if !isAway(err) {
				if h.engine.failure.Load() != nil {
					h.engine.failure.Store(nil)
				}
				return err
			}
			if ctx.Err() == nil { // or the error is a consequence
				h.engine.failure.Store(&err)
			}
			if first && all != nil && ctx.Err() == nil {
				continue // the connection may have been lost since its last command
			}
			if !bounded || !pause(ctx) {
				return err
			}
		}
	}
}

// confirm runs a script, and returns when the replicas have what is written by then.
//
// WAIT is about what its own connection has written. So the script, a write and WAIT go
// through one pipeline, which go-redis sends on one connection, and repeats as a whole. The
// write is there for a script that finds the job stored by an earlier one, and so writes
// nothing. If a fail-over comes in between, the script stores the job on the new primary.
func (h *insist) confirm(ctx context.Context, cmd goredis.Cmder) error {
	result, ok := cmd.(*goredis.Cmd)
	if !ok {
		return fmt.Errorf("%w: redis: a script is a %T", durable.ErrUnsupported, cmd)
	}
	send := func(ctx context.Context, f func(goredis.Pipeliner)) { pipelined(ctx, h.node.Pipelined, f) }
	if all := linesOf(ctx); all != nil {
		l, err := all.acquire(ctx, newWaiter())
		if err != nil {
			return err
		}
		inner, release := all.hold(ctx, l)
		defer release()
		ctx, send = inner, l.pipelined
	}
	want, slice := h.engine.cfg.Replicas, min(h.slice, firstSlice)
	for stored := false; ; slice = min(h.slice, 2*slice) {
		script := goredis.NewCmd(ctx, cmd.Args()...)
		wait := goredis.NewIntCmd(ctx, "wait", want, slice.Milliseconds())
		send(ctx, func(p goredis.Pipeliner) {
			_ = p.Process(ctx, script)
			p.Set(ctx, "tether:{"+h.engine.cfg.Queue+"}:confirm", 1, 0)
			_ = p.Process(ctx, wait)
		})
		if err := script.Err(); err != nil {
			return err
		}
		stored = stored || script.Val() == int64(1) // as asynq's scripts tell it
		if err := wait.Err(); err != nil {
			return err
		}
		if have := int(wait.Val()); have < want {
			var err error = &unconfirmed{have, want}
			h.engine.failure.Store(&err)
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		if stored {
			result.SetVal(int64(1))
		} else {
			result.SetVal(script.Val())
		}
		return nil
	}
}

// unconfirmed is the error of a job that too few replicas have in time.
type unconfirmed struct{ have, want int }

func (u *unconfirmed) Error() string {
	return fmt.Sprintf("the job is stored, and may run, but only %d of %d replicas have confirmed it", u.have, u.want)
}
