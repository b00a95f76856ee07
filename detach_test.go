package tether_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// noContext is a nil context.
var noContext context.Context

// A refusal that no caller is told of is counted and logged.
func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logged := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p := r.NewPool("mails", tether.PoolConfig{Workers: 1})
		ran := make(chan struct{})
		end := make(chan struct{})
		tether.Detach(context.Background(), p, "welcome mail", func(context.Context) error { close(ran); <-end; return nil })
		<-ran
		for range 10 {
			tether.Detach(context.Background(), p, "welcome mail", succeed)
		}
		tether.Detach(context.Background(), p, "", succeed)
		tether.Detach(noContext, r, "no context", succeed)
		assert.Equal(t, uint64(11), p.Stats().Refused)
		full := logged.about("welcome mail")
		require.Len(t, full, 1, "one a second")
		assert.Equal(t, "task refused", full[0]["msg"])
		assert.Equal(t, "WARN", full[0]["level"])
		assert.Equal(t, "mails", full[0]["pool"])
		assert.Contains(t, full[0]["error"], "full")
		assert.Len(t, logged.about("nil context"), 1)
		assert.Len(t, logged.about("task refused"), 3)
		time.Sleep(time.Second)
		tether.Detach(context.Background(), p, "welcome mail", succeed)
		full = logged.about("welcome mail")
		require.Len(t, full, 2)
		assert.Equal(t, "9", full[1]["omitted"])
		close(end)
		require.NoError(t, r.Shutdown(context.Background()))
		tether.Detach(context.Background(), r, "late", succeed)
		assert.Len(t, logged.about("shutting down"), 1)
	})
}

// inBackground is a helper of a program, of the kind that Wraps is for.
func inBackground(r *tether.Registry, fn func(), opts ...tether.Option) *tether.Task {
	task, _ := r.Go(context.Background(), "task", func(context.Context) error { fn(); return nil }, opts...)
	return task
}

func writtenByTheUser() {}

// Info.Func is the function that the user wrote, and not that of a helper.
func TestWraps(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	plain := inBackground(r, writtenByTheUser)
	assert.Contains(t, plain.Info().Func, "inBackground.func1")
	for name, task := range map[string]*tether.Task{
		"writtenByTheUser":  inBackground(r, writtenByTheUser, tether.Wraps(writtenByTheUser)),
		"TestWraps.func":    inBackground(r, func() {}, tether.Wraps(func() {})),
		"untilCanceled":     start(t, r, "task", succeed, tether.Wraps(untilCanceled), tether.Label("a", "b")),
		"strings.TrimSpace": start(t, r, "task", succeed, tether.Wraps(strings.TrimSpace)),
	} {
		require.NoError(t, wait(task))
		assert.Contains(t, task.Info().Func, name)
		assert.Contains(t, task.Info().Func, ".go:")
	}
	for _, fn := range []any{nil, 5, (func())(nil)} {
		_, err := r.Go(context.Background(), "task", succeed, tether.Wraps(fn))
		assert.ErrorIs(t, err, tether.ErrInvalid)
	}
}

func TestWaitIdle(t *testing.T) {
	bubble := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	idle := func(t *testing.T, of tether.Submitter, names ...string) time.Duration {
		began := time.Now()
		require.NoError(t, tether.WaitIdle(context.Background(), of, names...))
		return time.Since(began)
	}
	sleep := func(d time.Duration) tether.Func {
		return func(context.Context) error { time.Sleep(d); return nil }
	}
	bubble("all tasks, chains and retries included, and loops left out", func(t *testing.T) {
		logger, logged := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10})
		assert.Zero(t, idle(t, r), "nothing was submitted yet")
		loop(t, r, "loop", untilCanceled, tether.LoopConfig{})
		start(t, r, "delayed", sleep(time.Second), tether.Delay(time.Second))
		start(t, p, "retried", fail, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: second}))
		var chain func(n int) tether.Func
		chain = func(n int) tether.Func {
			return func(ctx context.Context) error {
				time.Sleep(time.Second)
				if n > 1 {
					_, err := p.Go(ctx, "chain", chain(n-1))
					return err
				}
				return nil
			}
		}
		start(t, r, "chain", chain(5))
		assert.Equal(t, 5*time.Second, idle(t, r))
		assert.Equal(t, 1, r.Stats().Running, "the loop")
		assert.Len(t, logged.about("task failed"), 1, "the failure is not awaited")
		start(t, r, "next", succeed)
		idle(t, r)
	})
	bubble("a pool", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 10})
		start(t, r, "elsewhere", sleep(30*time.Second))
		for range 5 {
			start(t, p, "task", sleep(time.Second))
		}
		assert.Equal(t, 3*time.Second, idle(t, p))
		assert.Zero(t, idle(t, p))
	})
	bubble("tasks of some names", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		start(t, r, "a", sleep(time.Second))
		start(t, r, "b", sleep(2*time.Second))
		start(t, r, "c", sleep(3*time.Second))
		assert.Zero(t, idle(t, r, "d"))
		assert.Equal(t, time.Second, idle(t, r, "a"))
		assert.Equal(t, time.Second, idle(t, r, "a", "b"))
	})
	bubble("until its context is done", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		start(t, r, "task", sleep(30*time.Second))
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, errTest)
		defer cancel()
		assert.ErrorIs(t, tether.WaitIdle(ctx, r), errTest)
	})
	bubble("a task waits for others, and not for itself", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10})
		start(t, p, "part", sleep(time.Second))
		task := start(t, r, "whole", func(ctx context.Context) error {
			assert.ErrorIs(t, tether.WaitIdle(ctx, r), tether.ErrInvalid)
			assert.ErrorIs(t, tether.WaitIdle(ctx, r, "whole"), tether.ErrInvalid)
			assert.NoError(t, tether.WaitIdle(ctx, r, "part"))
			return tether.WaitIdle(ctx, p)
		})
		require.NoError(t, wait(task))
	})
	bubble("a loop may wait", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		start(t, r, "task", sleep(time.Second))
		require.NoError(t, wait(loop(t, r, "loop", func(ctx context.Context) error { return tether.WaitIdle(ctx, r) }, tether.LoopConfig{})))
	})
	t.Run("invalid", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		assert.ErrorIs(t, tether.WaitIdle(context.Background(), nil), tether.ErrInvalid)
		assert.ErrorIs(t, tether.WaitIdle(noContext, r), tether.ErrInvalid)
	})
}

// A chain of tasks that goes from queue to queue is not missed, however it is timed.
func TestWaitIdle_Chains(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	places := []tether.Submitter{r}
	for _, name := range []string{"a", "b", "c"} {
		places = append(places, r.NewPool(name, tether.PoolConfig{Workers: 2, Queue: tether.Unbounded}))
	}
	for round := range 200 {
		var ended atomic.Bool
		var next func(n int) tether.Func
		next = func(n int) tether.Func {
			return func(ctx context.Context) error {
				if n == 0 {
					ended.Store(true)
					return nil
				}
				_, err := places[(n*7+round)%len(places)].Go(ctx, "chain", next(n-1))
				return err
			}
		}
		start(t, r, "chain", next(20))
		require.NoError(t, tether.WaitIdle(context.Background(), r))
		require.True(t, ended.Load(), "round %d", round)
	}
}
