package durable_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

type traceKey struct{}

// traced is a configuration whose headers have the trace of the context.
func traced() durable.JobConfig {
	cfg := options
	cfg.Headers = func(ctx context.Context) map[string]string {
		trace, _ := ctx.Value(traceKey{}).(string)
		return map[string]string{"trace": trace}
	}
	return cfg
}

func TestHeadersTravel(t *testing.T) {
	in := func(trace string) context.Context { return context.WithValue(background, traceKey{}, trace) }
	t.Run("Enqueue", func(t *testing.T) {
		e := newMemory()
		_, err := durable.Define("invoice", succeed, traced()).Enqueue(in("a"), e, order{})
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"trace": "a"}, e.taken()[0].Headers)
	})
	t.Run("Go, when the pool is full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLocal(t)
			require.NoError(t, l.reg.Shutdown(background))
			_, err := durable.Define("invoice", succeed, traced()).Go(in("b"), l.reg, l.engine, order{})
			require.NoError(t, err)
			assert.Equal(t, map[string]string{"trace": "b"}, l.engine.taken()[0].Headers)
		})
	})
	t.Run("Go, when the attempt fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLocal(t)
			receipt, err := durable.Define("invoice", fail, traced()).Go(in("c"), l.reg, l.engine, order{})
			require.NoError(t, err)
			require.Error(t, receipt.Task.Wait(background))
			assert.Equal(t, map[string]string{"trace": "c"}, l.engine.taken()[0].Headers)
		})
	})
	t.Run("none", func(t *testing.T) {
		e := newMemory()
		_, err := durable.Define("invoice", succeed, options).Enqueue(in("a"), e, order{})
		require.NoError(t, err)
		assert.Nil(t, e.taken()[0].Headers)
	})
	for name, bad := range map[string]func(context.Context) map[string]string{
		"panics": func(context.Context) map[string]string { panic("of the hook") },
		"goexit": func(context.Context) map[string]string { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newMemory()
			cfg := options
			cfg.Headers = bad
			_, err := durable.Define("invoice", succeed, cfg).Enqueue(background, e, order{})
			require.NoError(t, err)
			assert.Nil(t, e.taken()[0].Headers)
		})
	}
}

func TestHeadersReachTheHandler(t *testing.T) {
	type result struct {
		value any
		ok    bool
	}
	for name, c := range map[string]struct {
		hook func(context.Context, map[string]string) context.Context
		want any
		log  string
	}{
		"value": {func(ctx context.Context, h map[string]string) context.Context {
			return context.WithValue(ctx, traceKey{}, h["trace"])
		}, "a", ""},
		"nil":     {func(context.Context, map[string]string) context.Context { return nil }, nil, ""},
		"another": {func(context.Context, map[string]string) context.Context { return ended() }, nil, ""},
		"panics":  {func(context.Context, map[string]string) context.Context { panic("of the hook") }, nil, "of the hook"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, book := newLogger()
				e, reg := newMemory(), newRegistry(t, tether.Config{})
				ran := make(chan result, 1)
				w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: reg, Logger: log, Context: c.hook}, durable.Define("invoice", func(ctx context.Context, _ order) error {
					_, ok := durable.MetaFrom(ctx)
					ran <- result{ctx.Value(traceKey{}), ok}
					return nil
				}, options))
				require.NoError(t, err)
				require.NoError(t, w.Start(background))
				m := invoice
				m.Headers = map[string]string{"trace": "a"}
				assert.Equal(t, durable.Done, (<-e.consumer().deliver(m, 1)).Verdict)
				assert.Equal(t, result{c.want, true}, <-ran)
				if c.log != "" {
					assert.Equal(t, "ERROR", book.one(t, c.log)["level"])
				}
				require.NoError(t, w.Stop(background))
			})
		})
	}
}

// An engine that cannot be reached is tried until the context ends.
func TestEnqueueWaitsForTheEngine(t *testing.T) {
	job := durable.Define("invoice", succeed, options)
	away := fmt.Errorf("%w: connection refused", durable.ErrUnavailable)
	enqueue := func(ctx context.Context, back time.Duration) (took time.Duration, ids map[string]bool, err error) {
		e := newMemory()
		began := time.Now()
		ids = make(map[string]bool)
		e.enqueue = func(_ context.Context, m durable.Message) error {
			ids[m.ID] = true
			if time.Since(began) < back {
				return away
			}
			return nil
		}
		_, err = job.Enqueue(ctx, e, order{})
		return time.Since(began), ids, err
	}
	synctest.Test(t, func(t *testing.T) {
		took, ids, err := enqueue(background, 5*time.Second)
		require.NoError(t, err)
		assert.Less(t, took, 7*time.Second)
		assert.Len(t, ids, 1, "it is the same job each time")

		took, _, err = enqueue(background, time.Hour)
		require.ErrorIs(t, err, durable.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 10*time.Second, took, "without a deadline")

		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		took, _, err = enqueue(ctx, time.Hour)
		require.ErrorIs(t, err, durable.ErrUnavailable)
		assert.Equal(t, time.Minute, took)

		because := errors.New("the client has gone")
		left, leave := context.WithCancelCause(background)
		time.AfterFunc(time.Second, func() { leave(because) })
		took, _, err = enqueue(left, time.Hour)
		require.ErrorIs(t, err, because)
		assert.Equal(t, time.Second, took)
	})
	t.Run("other errors are final", func(t *testing.T) {
		e := newMemory()
		e.enqueue = func(context.Context, durable.Message) error { return errTest }
		_, err := job.Enqueue(background, e, order{})
		require.Equal(t, errTest, err)
		assert.Equal(t, 1, e.asked())
	})
}

// retrier is an engine that notes which dead job is to run again.
type retrier struct {
	*memory
	id string
}

func (r *retrier) RetryDead(_ context.Context, id string) error { r.id = id; return nil }

func TestRetryDead(t *testing.T) {
	r := &retrier{memory: newMemory()}
	require.NoError(t, durable.RetryDead(background, r, "id"))
	assert.Equal(t, "id", r.id)
	require.ErrorIs(t, durable.RetryDead(background, newMemory(), "id"), durable.ErrUnsupported)
	require.ErrorIs(t, durable.RetryDead(background, nil, "id"), durable.ErrInvalid)
}
