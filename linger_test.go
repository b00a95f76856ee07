package tether_test

import (
	"bytes"
	"context"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether"
)

func TestLinger(t *testing.T) {
	lingering := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ").rehired(")
	}
	bubble := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	for what, runner := range map[string]func(*tether.Registry) tether.Runner{
		"the registry": func(r *tether.Registry) tether.Runner { return r },
		"a pool": func(r *tether.Registry) tether.Runner {
			return r.NewPool("pool", tether.PoolConfig{Workers: 100, Queue: tether.Unbounded})
		},
	} {
		bubble("idle goroutines of "+what+" wait for the next task, and D6", func(t *testing.T) {
			r := newRegistry(t, tether.Config{Linger: time.Minute})
			on := runner(r)
			assert.Zero(t, lingering(), "none at construction")
			for range 3 {
				assert.NoError(t, wait(start(t, on, "task", succeed)))
				synctest.Wait()
				assert.Equal(t, 1, lingering())
				time.Sleep(time.Minute - 1)
			}
			var profile bytes.Buffer
			assert.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
			assert.NotContains(t, profile.String(), `"tether.task"`, "an idle goroutine is no task's")
			drain(t, r)
			assert.Zero(t, lingering(), "at the return of Shutdown, not some time later")
		})
		bubble("no more than 64 of "+what, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Linger: time.Minute})
			on := runner(r)
			release := make(chan struct{})
			for range 100 {
				start(t, on, "task", until(release))
			}
			synctest.Wait()
			close(release)
			synctest.Wait()
			lanes := 1
			if on == tether.Runner(r) {
				lanes = runtime.GOMAXPROCS(0)
			}
			assert.LessOrEqual(t, lingering(), 64*lanes)
			assert.GreaterOrEqual(t, lingering(), 64)
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.Zero(t, lingering(), "for so long and no longer")
		})
	}
	bubble("a task that ends its goroutine", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Linger: time.Minute})
		assert.ErrorIs(t, wait(start(t, r, "task", func(context.Context) error { runtime.Goexit(); return nil })), tether.ErrGoexit)
		assert.NoError(t, wait(start(t, r, "task", succeed)))
	})
	bubble("none after the drain has begun", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Linger: time.Minute})
		release := make(chan struct{})
		start(t, r, "task", until(release))
		go func() {
			time.Sleep(time.Second)
			close(release)
		}()
		drain(t, r)
		assert.Zero(t, lingering())
	})
}
