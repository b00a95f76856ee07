package tether_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// assertOverdue checks that a task was dropped because it had waited for so long.
func assertOverdue(t *testing.T, task *tether.Task, waited, maxWait time.Duration) {
	t.Helper()
	var err *tether.MaxWaitError
	require.ErrorAs(t, wait(task), &err)
	assert.ErrorIs(t, err, tether.ErrFull)
	assert.Equal(t, waited, err.Waited)
	assert.Equal(t, maxWait, err.MaxWait)
	assert.Equal(t, "pool", err.Pool)
	assert.Equal(t, tether.Dropped, task.State())
	info := task.Info()
	assert.True(t, info.Failing())
}

// All workers hang, or the pool is paused: no worker looks at the queue.
func TestP10_OverdueTasksAreDroppedWhileNoWorkerLooks(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprint("paused ", paused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: time.Second})
				if paused {
					p.Pause()
				} else {
					flood(t, p, "", 1, sleeper(time.Minute))
					synctest.Wait()
				}
				first := flood(t, p, "", 3, succeed)
				serial := flood(t, p, "A", 2, succeed, tether.Serial("key"))
				time.Sleep(100 * time.Millisecond)
				later := start(t, p, "later", succeed)
				time.Sleep(800 * time.Millisecond)
				unique := start(t, p, "unique", succeed, tether.Unique("key"))
				for _, task := range append(first, serial...) {
					assertOverdue(t, task, time.Second, time.Second)
				}
				assertOverdue(t, later, time.Second, time.Second)
				assertOverdue(t, unique, time.Second, time.Second)
				assert.EqualValues(t, 7, p.Stats().Overdue)
				assert.EqualValues(t, 7, p.Stats().Dropped)
				assert.Zero(t, p.Stats().Queued)
				again := start(t, p, "again", succeed, tether.Unique("key"))
				assert.NotEqual(t, unique, again, "the key is free")
				again.Cancel(nil)
				p.Resume()
			})
		})
	}
}

// What is admitted under overload starts in time or never, also without the alarm.
func TestP10_NoTaskStartsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxWait = 2 * time.Second
		p := newPool(t, tether.PoolConfig{Workers: 3, Queue: tether.Unbounded, MaxWait: maxWait})
		random := rand.New(rand.NewPCG(6, 7))
		var tasks []*tether.Task
		for range 1000 { // three times what the workers can do
			opts := []tether.Option{}
			if n := random.IntN(4); n > 0 {
				opts = append(opts, tether.Share(fmt.Sprint(n)))
			}
			if random.IntN(4) == 0 {
				opts = append(opts, tether.Urgent())
			}
			tasks = append(tasks, start(t, p, "task", sleeper(time.Duration(random.IntN(2000))*time.Millisecond), opts...))
			time.Sleep(111 * time.Millisecond)
		}
		ran := 0
		for _, task := range tasks {
			if wait(task) != nil {
				var err *tether.MaxWaitError
				require.ErrorAs(t, task.Err(), &err)
				assert.GreaterOrEqual(t, err.Waited, maxWait)
				assert.Less(t, err.Waited, maxWait+maxWait/16)
				continue
			}
			ran++
			assert.Less(t, waited(task), maxWait)
		}
		// Workers are never without work meanwhile.
		assert.InDelta(t, 333, ran, 20)
		assert.EqualValues(t, 1000-ran, p.Stats().Overdue)
	})
}

// The wait begins when the task is queued.
func TestP10_HoldDelayAndRetryDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: time.Second})
		held := start(t, p, "held", succeed, tether.Hold())
		delayed := start(t, p, "delayed", succeed, tether.Delay(time.Minute))
		attempts := 0
		retried := start(t, p, "retried", func(context.Context) error {
			if attempts++; attempts == 1 {
				return errTest
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Hour }}))
		time.Sleep(2 * time.Hour)
		held.Release()
		for _, task := range []*tether.Task{held, delayed, retried} {
			assert.NoError(t, wait(task))
		}
	})
	t.Run("and what is overdue after them is dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 10, MaxWait: time.Second})
			held := start(t, p, "held", succeed, tether.Hold())
			delayed := start(t, p, "delayed", succeed, tether.Delay(time.Minute))
			retried := start(t, p, "retried", fail,
				tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Minute }}))
			time.Sleep(time.Second)
			flood(t, p, "", 2, sleeper(63*time.Second))
			time.Sleep(59 * time.Second)
			held.Release()
			assertOverdue(t, held, time.Second, time.Second)
			assertOverdue(t, delayed, time.Second, time.Second)
			// It has run once, so it is canceled, and says what happened then.
			err := wait(retried)
			assert.Equal(t, tether.Canceled, retried.State())
			assert.ErrorIs(t, err, tether.ErrFull)
			assert.ErrorIs(t, err, errTest)
			assert.EqualValues(t, 3, p.Stats().Overdue)
		})
	})
}

func TestP10_OverdueTasksAreHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 100, MaxWait: time.Second})
		p.Pause()
		hang := make(chan struct{})
		var tasks []*tether.Task
		for i := range 60 {
			tasks = append(tasks, start(t, p, "task", succeed, tether.HandOver(func(ctx context.Context, info tether.Info) error {
				switch i % 4 {
				case 1:
					panic("hand-over")
				case 2:
					runtime.Goexit()
				case 3:
					if i < 30 {
						<-hang
					}
				}
				return ctx.Err()
			})))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i, task := range tasks {
			if i%4 == 3 && i < 30 {
				assert.False(t, task.State().Final(), "its hand-over has not returned")
				continue
			}
			var err *tether.MaxWaitError
			assert.ErrorAs(t, wait(task), &err)
			assert.Equal(t, i%4 == 0 || i%4 == 3, task.Info().HandedOver)
		}
		close(hang)
	})
}

// A hand-over that waits for its context ends when the drain cancels contexts.
func TestP10_HandOversEndWithTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: time.Second})
		p.Pause()
		task := start(t, p, "task", succeed, tether.HandOver(func(ctx context.Context, _ tether.Info) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}))
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		began := time.Now()
		assert.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, 10*time.Second, time.Since(began))
		assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
		assert.ErrorIs(t, task.Err(), tether.ErrFull)
	})
}

// The drops of a name are one record a second.
func TestP10_OverdueTasksAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1000, MaxWait: time.Second})
		p.Pause()
		flood(t, p, "tenant", 100, succeed)
		time.Sleep(2 * time.Second)
		flood(t, p, "tenant", 1, succeed)
		time.Sleep(2 * time.Second)
		records := book.about("waited too long")
		require.Len(t, records, 2)
		assert.Equal(t, "tenant", records[0]["share"])
		assert.Equal(t, "task waited too long", records[0]["msg"])
		assert.Equal(t, `tether: waited for a worker too long: 1s in share "tenant" of pool "pool", at most 1s`, records[0]["error"])
		assert.Equal(t, "99", records[1]["omitted"])
	})
}

// A pool with MaxWait sets no timer for a task, and one in all while there are tasks.
func TestMaxWait_CostsNoTimers(t *testing.T) {
	p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded, MaxWait: time.Hour})
	const n = 10_000
	var ended sync.WaitGroup // not by Stats, which allocates
	ended.Add(n)
	body := func(context.Context) error {
		ended.Done()
		return nil
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		start(t, p, "task", body)
	}
	ended.Wait()
	runtime.ReadMemStats(&after)
	assert.Less(t, float64(after.Mallocs-before.Mallocs)/n, 1.2)
}

func TestPool_WaitPercentiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		s := p.Stats()
		assert.Zero(t, s.WaitP50+s.WaitP90+s.WaitP99)
		// They wait for 0 to 99 seconds; a hold does not count.
		held := start(t, p, "held", sleeper(time.Second), tether.Hold())
		time.Sleep(time.Hour)
		held.Release()
		synctest.Wait()
		flood(t, p, "", 99, sleeper(time.Second))
		time.Sleep(59500 * time.Millisecond)
		s = p.Stats()
		for _, c := range [][2]time.Duration{{30 * time.Second, s.WaitP50}, {54 * time.Second, s.WaitP90}, {60 * time.Second, s.WaitP99}} {
			assert.InDelta(t, c[0].Seconds()*1.12, c[1].Seconds(), c[0].Seconds()*.15)
		}
		time.Sleep(time.Hour)
		assert.Zero(t, p.Stats().WaitP50, "what is long ago is forgotten")
	})
}

func ExampleMaxWaitError() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()
	thumbnails := reg.NewPool("thumbnails", tether.PoolConfig{Workers: 1, Queue: 100, MaxWait: 10 * time.Millisecond})

	thumbnails.Pause() // or its only worker is busy
	late, _ := thumbnails.Go(ctx, "thumbnail", func(context.Context) error { return nil })
	err := late.Wait(ctx)
	var waited *tether.MaxWaitError
	fmt.Println(late.State(), errors.As(err, &waited), errors.Is(err, tether.ErrFull))
	// Output: dropped true true
}

// A hand-over that hangs delays no other task's.
func TestP10_AHandOverThatHangsDelaysNoOtherDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: time.Second})
		p.Pause()
		end := make(chan struct{})
		hangs := start(t, p, "hangs", succeed, tether.HandOver(func(context.Context, tether.Info) error { <-end; return nil }))
		time.Sleep(10 * time.Second)
		other := start(t, p, "other", succeed)
		time.Sleep(10 * time.Second)
		assert.Equal(t, tether.Dropped, other.State())
		close(end)
		assertOverdue(t, hangs, time.Second, time.Second)
		assertOverdue(t, other, time.Second, time.Second)
		p.Resume()
	})
}

// A pool that was made outside is used in one bubble after the other, and outside.
func TestP10_MaxWaitInBubblesAndOutside(t *testing.T) {
	p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: 20 * time.Millisecond})
	for _, tail := range []time.Duration{0, time.Minute} { // an alarm is set at the end of the bubble, or was
		for i := range 2 {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Duration(i) * time.Second) // to when the alarm of the bubble before has rung, by this clock
				p.Pause()
				assertOverdue(t, start(t, p, "task", succeed), 20*time.Millisecond, 20*time.Millisecond)
				p.Resume()
				assert.NoError(t, wait(start(t, p, "task", succeed)))
				time.Sleep(tail)
			})
		}
		p.Pause() // until a bubble resumes it: a worker that was started here would be outside of it
		var err *tether.MaxWaitError
		assert.ErrorAs(t, wait(start(t, p, "task", succeed)), &err)
	}
}
