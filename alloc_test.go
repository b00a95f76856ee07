package tether_test

import (
	"context"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// The hot paths' memory, which does not depend on the machine: a task is one
// allocation of at most 160 bytes beyond the user's closure, and a refusal none.
func TestAllocations(t *testing.T) {
	ctx := context.Background()
	var ended sync.WaitGroup
	body := func(context.Context) error {
		ended.Done()
		return nil
	}
	// each returns the allocations and bytes of one call of submit, of which n are made
	// before any of them is waited for.
	each := func(submit func()) (allocs, bytes float64) {
		const n = 10_000
		var before, after runtime.MemStats
		run := func() {
			for range n {
				submit()
			}
			ended.Wait()
		}
		run() // what is allocated once
		allocs, bytes = math.Inf(1), math.Inf(1)
		// The least of several runs: on a busy machine there are more workers, which allocate
		// too, and chance only adds.
		for range 5 {
			runtime.GC()
			runtime.ReadMemStats(&before)
			run()
			runtime.ReadMemStats(&after)
			allocs = min(allocs, float64(after.Mallocs-before.Mallocs)/n)
			bytes = min(bytes, float64(after.TotalAlloc-before.TotalAlloc)/n)
		}
		return allocs, bytes
	}
	for name, runner := range map[string]func(*tether.Registry) tether.Submitter{
		"a task of the registry": func(r *tether.Registry) tether.Submitter { return r },
		"a task of an observed registry": func(*tether.Registry) tether.Submitter {
			return newRegistry(t, tether.Config{Observer: tether.NopObserver{}})
		},
		"a task of a pool": func(r *tether.Registry) tether.Submitter {
			return r.NewPool("p", tether.PoolConfig{Workers: 4, Queue: tether.Unbounded})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := runner(newRegistry(t, tether.Config{}))
			allocs, bytes := each(func() {
				ended.Add(1)
				if _, err := r.Go(ctx, "task", body); err != nil {
					panic(err)
				}
			})
			assert.Less(t, allocs, 1.2) // a share of the table's chunks, and of workers, on top
			assert.Less(t, bytes, 160.0)
		})
	}
	t.Run("a body that asks its context for a value", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		type key struct{}
		ctx := context.WithValue(ctx, key{}, 42)
		asks := func(ctx context.Context) error {
			defer ended.Done()
			if ctx.Value(key{}) != 42 {
				return errTest
			}
			return nil
		}
		allocs, bytes := each(func() {
			ended.Add(1)
			if _, err := r.Go(ctx, "task", asks); err != nil {
				panic(err)
			}
		})
		assert.Less(t, allocs, 2.2) // the cancellation, for which the library asks by a key of its own, is not made
		assert.Less(t, bytes, 384.0)
		assert.Zero(t, r.Stats().Failed)
	})
	t.Run("a body that asks its context for an error", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		asks := func(ctx context.Context) error {
			defer ended.Done()
			if context.Cause(ctx) != nil {
				return errTest
			}
			return ctx.Err()
		}
		allocs, bytes := each(func() {
			ended.Add(1)
			if _, err := r.Go(ctx, "task", asks, tether.Timeout(time.Hour)); err != nil {
				panic(err)
			}
		})
		assert.Less(t, allocs, 2.2) // nor is it here, nor a timer
		assert.Less(t, bytes, 400.0)
		assert.Zero(t, r.Stats().Failed)
	})
	t.Run("a refusal", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		start(t, p, "fills it", until(release))
		allocs, bytes := each(func() {
			if _, err := p.Go(ctx, "task", body); err == nil {
				panic("not refused")
			}
		})
		require.Less(t, allocs, 0.1)
		assert.Less(t, bytes, 16.0)
		close(release)
	})
	t.Run("a task and its wait, one at a time", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		wait := func(task *tether.Task, err error) {
			if err == nil {
				err = task.Wait(ctx)
			}
			if err != nil {
				panic(err)
			}
		}
		for what, c := range map[string]struct {
			submit func()
			allocs float64 // of the task, of what is beside it, of the channel to wait at
		}{
			"Go":              {func() { wait(r.Go(ctx, "task", succeed)) }, 3},
			"Go with Timeout": {func() { wait(r.Go(ctx, "task", succeed, tether.Timeout(time.Hour))) }, 3},
			"Go with Weight":  {func() { wait(r.Go(ctx, "task", succeed, tether.Weight(2))) }, 3},
			"Go with Label":   {func() { wait(r.Go(ctx, "task", succeed, tether.Label("of", t.Name()))) }, 4}, // and its labels
			"Submit": {func() {
				result, err := tether.Submit(ctx, r, "task", answer)
				if err == nil {
					_, err = result.Value(ctx)
				}
				if err != nil {
					panic(err)
				}
			}, 3},
		} {
			allocs, bytes := each(c.submit)
			assert.Less(t, allocs, c.allocs+0.2, what)
			assert.Less(t, bytes, 600.0, what)
		}
	})
}

func answer(context.Context) (int, error) { return 42, nil }
