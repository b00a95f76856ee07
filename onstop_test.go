package tether_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// deriving is an Observer that derives a context for each body.
type deriving struct{ tether.NopObserver }

type derivedKey struct{}

func (deriving) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	return context.WithValue(ctx, derivedKey{}, t.Name())
}

func TestOnStop(t *testing.T) {
	// onStop returns the option, and how often its function was called.
	onStop := func() (tether.Option, *atomic.Int32) {
		calls := new(atomic.Int32)
		return tether.OnStop(func(context.Context) { calls.Add(1) }), calls
	}
	second := func(context.Context) error { time.Sleep(time.Second); return nil }
	for name, test := range map[string]func(t *testing.T){
		"of a body that runs": func(t *testing.T) {
			r := newRegistry(t, tether.Config{Observer: deriving{}})
			closed := make(chan struct{})
			var values [2]any
			task := start(t, r, "task", func(ctx context.Context) error {
				<-closed
				return ctx.Err()
			}, tether.OnStop(func(ctx context.Context) {
				task, _ := tether.FromContext(ctx)
				values = [2]any{task.Name(), ctx.Value(derivedKey{})}
				close(closed)
			}))
			time.Sleep(time.Hour)
			assert.Equal(t, tether.Running, task.State())
			drain(t, r)
			assert.Equal(t, [2]any{"task", "task"}, values)
			assert.Equal(t, tether.Succeeded, task.State())
		},
		"of a body that starts later": func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			start(t, pool, "first", second)
			option, calls := onStop()
			start(t, pool, "second", second, option)
			drained := make(chan error, 1)
			go func() { drained <- within(r, time.Minute) }()
			time.Sleep(time.Second - 1)
			assert.Zero(t, calls.Load())
			time.Sleep(2 * time.Nanosecond)
			assert.EqualValues(t, 1, calls.Load())
			require.NoError(t, <-drained)
			assert.EqualValues(t, 1, calls.Load())
		},
		"of a body that its submitter runs": func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
			start(t, pool, "first", second)
			option, calls := onStop()
			go start(t, pool, "second", second, option)
			synctest.Wait()
			drain(t, r)
			assert.EqualValues(t, 1, calls.Load())
		},
		"of a body that ends before, and of one that never starts": func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			option, calls := onStop()
			start(t, r, "ends", succeed, option)
			start(t, r, "held", succeed, option, tether.Hold())
			time.Sleep(time.Second)
			require.NoError(t, within(r, time.Minute))
			synctest.Wait()
			assert.Zero(t, calls.Load())
		},
		"of two attempts": func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			option, calls := onStop()
			backoff := func(int, error) time.Duration { return time.Second }
			task := start(t, r, "task", func(ctx context.Context) error {
				time.Sleep(time.Second)
				return errTest
			}, option, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: backoff}))
			synctest.Wait()
			require.NoError(t, within(r, time.Minute))
			assert.Equal(t, 2, task.Attempt())
			assert.EqualValues(t, 1, calls.Load())
		},
		"that does not return": func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			returns := make(chan struct{})
			start(t, r, "task", second, tether.OnStop(func(context.Context) { <-returns }))
			synctest.Wait()
			drain(t, r)
			close(returns)
		},
		"that panics": func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			task := start(t, r, "task", second, tether.OnStop(func(context.Context) { panic("bang") }))
			synctest.Wait()
			drain(t, r)
			assert.Equal(t, tether.Succeeded, task.State())
			require.Len(t, book.about("bang"), 1)
			assert.Equal(t, "OnStop", book.about("bang")[0]["in"])
		},
		"nil": func(t *testing.T) {
			assert.ErrorIs(t, tether.OnStop(nil).Err(), tether.ErrInvalid)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// A body that starts while the stop begins is told as well.
func TestOnStop_WhenTheStopBegins(t *testing.T) {
	for range 500 {
		r := newRegistry(t, tether.Config{})
		submitted := make(chan struct{})
		go func() {
			defer close(submitted)
			for range 20 {
				told := make(chan struct{})
				_, err := r.Go(context.Background(), "task", until(told), tether.OnStop(func(context.Context) { close(told) }))
				if err != nil {
					return
				}
			}
		}()
		drain(t, r) // a body that is not told hangs
		<-submitted
	}
}
