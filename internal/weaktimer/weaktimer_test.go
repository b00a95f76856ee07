package weaktimer_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct{ calls []time.Time }

func (v *thing) call() { v.calls = append(v.calls, time.Now()) }

func TestAfterFunc(t *testing.T) {
	t.Run("calls the method on time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			v := new(thing)
			due := time.Now().Add(time.Minute)
			weaktimer.AfterFunc(time.Minute, v, (*thing).call)
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Equal(t, []time.Time{due}, v.calls)
		})
	})
	t.Run("does not keep v alive", func(t *testing.T) {
		var gone atomic.Bool
		var timer *time.Timer
		func() {
			v := new(thing)
			runtime.AddCleanup(v, func(int) { gone.Store(true) }, 0)
			timer = weaktimer.AfterFunc(time.Hour, v, (*thing).call)
		}()
		for i := 0; i < 20 && !gone.Load(); i++ {
			runtime.GC()
			runtime.Gosched()
		}
		assert.True(t, gone.Load())
		assert.True(t, timer.Stop(), "the timer is still set")
	})
}
