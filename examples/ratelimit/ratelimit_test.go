// Package ratelimit is a recipe: tasks with golang.org/x/time/rate.
package ratelimit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/seed-2e639f12/tether"
)

// GoLimited submits a task that starts when the limit has a token for it. While it waits
// it holds no worker, and it has its place in the pool's queue: if there is none, the token
// is given back, and the caller gets the pool's error. At the stop, a task whose token
// comes too late is dropped at once, or handed over.
func GoLimited(ctx context.Context, to tether.Submitter, limit *rate.Limiter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	token := limit.Reserve()
	if !token.OK() { // its burst is 0
		return nil, fmt.Errorf("%w: task %q can never start: the limit has no burst", tether.ErrInvalid, name)
	}
	task, err := to.Go(ctx, name, fn, append([]tether.Option{tether.Delay(token.Delay()), tether.Wraps(fn)}, opts...)...)
	if err != nil {
		token.Cancel()
	}
	return task, err
}

// One report each 20 ms, whatever else the pool does.
func Example() {
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("reports", tether.PoolConfig{Workers: 4, Queue: 100})
	limit := rate.NewLimiter(rate.Every(20*time.Millisecond), 1)

	began := time.Now()
	var last time.Time
	for i := range 3 {
		GoLimited(context.Background(), pool, limit, "report", func(context.Context) error {
			last = time.Now()
			fmt.Println("report", i)
			return nil
		}, tether.Serial("report")) // in order: the second may be due while the first still runs
	}
	tether.WaitIdle(context.Background(), pool)
	fmt.Println(last.Sub(began) >= 40*time.Millisecond)
	// Output:
	// report 0
	// report 1
	// report 2
	// true
}

// A body that makes many calls takes a token for each. It waits with its own context, so
// that it gives up when the stop cancels contexts, and holds its worker meanwhile.
func Example_wait() {
	reg := tether.New(tether.Config{})
	limit := rate.NewLimiter(rate.Every(time.Millisecond), 1)

	task, _ := reg.Go(context.Background(), "export", func(ctx context.Context) error {
		for page := range 3 {
			if err := limit.Wait(ctx); err != nil {
				return err
			}
			fmt.Println("page", page)
		}
		return nil
	})
	fmt.Println(task.Wait(context.Background()))
	// Output:
	// page 0
	// page 1
	// page 2
	// <nil>
}

func TestGoLimited(t *testing.T) {
	bubble := func(name string, f func(t *testing.T, reg *tether.Registry, pool *tether.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
				f(t, reg, reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5}))
				assert.NoError(t, reg.Shutdown(context.Background()))
			})
		})
	}
	bubble("one token a second, and no worker while it waits", func(t *testing.T, reg *tether.Registry, pool *tether.Pool) {
		limit := rate.NewLimiter(1, 2)
		began := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		for range 5 {
			_, err := GoLimited(context.Background(), pool, limit, "task", func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began).Round(time.Millisecond))
				return nil
			})
			require.NoError(t, err)
		}
		other, err := pool.Go(context.Background(), "other", func(context.Context) error { return nil })
		require.NoError(t, err)
		require.NoError(t, other.Wait(context.Background()))
		assert.Zero(t, time.Since(began), "the only worker is free")
		require.NoError(t, tether.WaitIdle(context.Background(), pool))
		assert.Equal(t, []time.Duration{0, 0, time.Second, 2 * time.Second, 3 * time.Second}, at)
	})
	bubble("a refused task gives its token back", func(t *testing.T, reg *tether.Registry, pool *tether.Pool) {
		limit := rate.NewLimiter(1, 1)
		full := make(chan struct{})
		wait := func(context.Context) error { // or the first task, which starts at once, might have ended before the last comes
			<-full
			return nil
		}
		for range 6 {
			_, err := GoLimited(context.Background(), pool, limit, "task", wait)
			require.NoError(t, err)
		}
		tokens := limit.Tokens()
		_, err := GoLimited(context.Background(), pool, limit, "task", wait)
		close(full)
		require.ErrorIs(t, err, tether.ErrFull)
		assert.Equal(t, tokens, limit.Tokens())
	})
	bubble("what cannot start in time does not hold up the stop", func(t *testing.T, reg *tether.Registry, pool *tether.Pool) {
		limit := rate.NewLimiter(rate.Every(time.Hour), 1)
		for range 3 {
			_, err := GoLimited(context.Background(), pool, limit, "task", func(context.Context) error { return nil })
			require.NoError(t, err)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
		defer cancel()
		require.NoError(t, reg.Shutdown(ctx))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, uint64(2), reg.Stats().Dropped)
	})
	bubble("a limit without a burst", func(t *testing.T, reg *tether.Registry, pool *tether.Pool) {
		_, err := GoLimited(context.Background(), pool, rate.NewLimiter(1, 0), "task", func(context.Context) error { return nil })
		assert.ErrorIs(t, err, tether.ErrInvalid)
	})
}
