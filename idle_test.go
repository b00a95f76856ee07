package tether_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

// idles reports whether a goroutine of a worker is idle.
func idles() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "idleWorkers).wait(")
}

// Workers that find nothing keep their goroutines for a while, with the stacks that
// these have grown.
func TestIdleWorkers(t *testing.T) {
	// goroutine returns which goroutine runs a task.
	goroutine := func(t *testing.T, to tether.Submitter) (id string) {
		require.NoError(t, wait(start(t, to, "task", func(context.Context) error {
			var b [64]byte
			fmt.Sscanf(string(b[:runtime.Stack(b[:], false)]), "goroutine %s", &id)
			return nil
		})))
		return id
	}
	on := func(t *testing.T, test func(t *testing.T, r *tether.Registry, to tether.Submitter)) {
		t.Run("of the registry", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			test(t, r, r)
		})
		t.Run("of a pool", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			test(t, r, r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 1}))
		})
	}
	t.Run("run the next task", func(t *testing.T) {
		on(t, func(t *testing.T, _ *tether.Registry, to tether.Submitter) {
			seen := make(map[string]bool)
			for range 200 {
				seen[goroutine(t, to)] = true
				runtime.Gosched()
			}
			assert.Less(t, len(seen), 150, "goroutines for 200 tasks, one after the other")
		})
	})
	t.Run("exit without a Shutdown", func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		r := tether.New(tether.Config{})
		goroutine(t, r)
		goroutine(t, r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 1}))
		goleak.VerifyNone(t, before) // which tries for less than a second
	})
	t.Run("D6: exit with Shutdown", func(t *testing.T) {
		on(t, func(t *testing.T, r *tether.Registry, to tether.Submitter) {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { _, _ = to.Go(context.Background(), "task", succeed) })
			}
			all.Wait()
			before := runtime.NumGoroutine()
			require.NoError(t, r.Shutdown(context.Background()))
			assert.LessOrEqual(t, runtime.NumGoroutine(), before)
		})
	})
	t.Run("resize and pause leave none with a task", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 4, Queue: 1000})
		for n := range 200 {
			require.NoError(t, p.Resize(1+n%4))
			task := start(t, p, "task", succeed)
			if n%3 == 0 {
				p.Pause()
				p.Resume()
			}
			require.NoError(t, wait(task))
		}
	})
	t.Run("in a bubble", func(t *testing.T) {
		t.Run("of a registry made there", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tether.New(tether.Config{}) // no Shutdown: an idle goroutine would be a deadlock
				goroutine(t, r)
				goroutine(t, r.NewPool("pool", tether.PoolConfig{Workers: 2}))
			})
		})
		t.Run("of a registry made outside", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 1})
			goroutine(t, r) // is idle outside
			goroutine(t, p)
			synctest.Test(t, func(t *testing.T) {
				for range 10 {
					goroutine(t, r)
					goroutine(t, p)
					time.Sleep(time.Hour)
				}
			})
			goroutine(t, r)
			goroutine(t, p)
		})
		t.Run("with Shutdown there, of a registry with idle workers outside", func(t *testing.T) {
			for range 100 {
				r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
				goroutine(t, r)
				for !idles() {
					runtime.Gosched() // a registry must not be used on both sides at once
				}
				synctest.Test(t, func(t *testing.T) {
					goroutine(t, r)
					require.NoError(t, within(r, time.Minute))
				})
			}
		})
	})
}

// leaveWorkers waits until no worker runs that might take what is submitted in a bubble: a
// registry must not be used on both sides at once.
func leaveWorkers() {
	stacks := make([]byte, 1<<20)
	for busy := true; busy; {
		runtime.Gosched()
		busy = false
		for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			busy = busy || strings.Contains(g, "workers.(*Workers[") && !strings.Contains(g, "idleWorkers).wait(")
		}
	}
}
