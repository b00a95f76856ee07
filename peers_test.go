package tether_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// Each test here is of something that a well-known library gets wrong.

func TestPeerPond(t *testing.T) {
	t.Run("Wait returns while the body still runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			var returned atomic.Bool
			task := start(t, p, "task", func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Hour)
				returned.Store(true)
				return ctx.Err()
			})
			synctest.Wait()
			task.Cancel(nil)
			assert.ErrorIs(t, wait(task), context.Canceled)
			assert.True(t, returned.Load())
		})
	})
	t.Run("a full non-blocking parent loses a sub-pool's task for ever", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Limit: 4})
		sub := r.NewPool("sub", tether.PoolConfig{Workers: 2, Queue: 100, Overflow: tether.OverflowBlock})
		var ran, refused atomic.Int32
		var tasks sync.Map
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				task, err := []tether.Submitter{r, sub}[i%2].Go(context.Background(), "task", func(context.Context) error { ran.Add(1); return nil })
				if err != nil {
					assert.ErrorIs(t, err, tether.ErrFull)
					refused.Add(1)
					return
				}
				tasks.Store(task, true)
			})
		}
		group.Wait()
		tasks.Range(func(task, _ any) bool {
			assert.NoError(t, wait(task.(*tether.Task)))
			return true
		})
		assert.EqualValues(t, 1000, ran.Load()+refused.Load())
	})
	t.Run("StopAndWait inside a task deadlocks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			task := start(t, p, "task", func(ctx context.Context) error { return r.Shutdown(ctx) })
			assert.ErrorIs(t, wait(task), tether.ErrInvalid)
		})
	})
}

func TestPeerAnts(t *testing.T) {
	t.Run("tasks start after ReleaseTimeout returned nil", func(t *testing.T) {
		for range 500 {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
			var started, over, late atomic.Int32
			body := func(context.Context) error {
				started.Add(1)
				late.Add(over.Load())
				return nil
			}
			var group sync.WaitGroup
			var admitted atomic.Int32
			for i := range 4 {
				group.Go(func() {
					for { // right up to the refusal, so that one is always about to come in
						if _, err := []tether.Submitter{r, p}[i%2].Go(context.Background(), "task", body); err != nil {
							assert.ErrorIs(t, err, tether.ErrClosed)
							return
						}
						admitted.Add(1)
					}
				})
			}
			for admitted.Load() < 10 {
				runtime.Gosched()
			}
			require.NoError(t, r.Shutdown(context.Background()))
			before := started.Load()
			over.Store(1)
			group.Wait()
			runtime.Gosched()
			require.Zero(t, late.Load())
			require.Equal(t, before, started.Load())
			require.Equal(t, before, admitted.Load(), "all that were admitted had run by then")
		}
	})
	t.Run("its panic handler runs after the accounting", func(t *testing.T) {
		logger, book := newLogger()
		d := newJournal()
		r := newRegistry(t, tether.Config{Logger: logger, Observer: d})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		for range 100 {
			task := start(t, p, "task", panicking)
			wait(task)
			require.Len(t, book.about(task.ID()), 1)
		}
		assert.Len(t, d.of("task"), 300)
		start(t, p, "last", panicking)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Len(t, d.of("last"), 3, "nor is it late for the drain")
		assert.Len(t, book.about("test panic"), 101)
	})
}

func TestPeerWorkerpool(t *testing.T) {
	t.Run("stop races with submissions", func(t *testing.T) {
		// The race detector watches.
		for range 100 {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					for {
						if _, err := p.Go(context.Background(), "task", succeed); err != nil {
							assert.ErrorIs(t, err, tether.ErrClosed)
							return
						}
					}
				})
			}
			require.NoError(t, r.Shutdown(context.Background()))
			group.Wait()
		}
	})
	t.Run("one Goexit hangs StopWait for ever", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		for range 10 {
			start(t, p, "task", func(context.Context) error { runtime.Goexit(); return nil })
		}
		drain(t, r)
		assert.EqualValues(t, 10, r.Stats().Failed)
	})
}

func TestPeersTunnyGopoolOklogTombDskit(t *testing.T) {
	goexit := func(context.Context) error { runtime.Goexit(); return nil }
	t.Run("a Goexit costs a worker", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 3, Queue: 100, Overflow: tether.OverflowBlock})
		for range 100 {
			start(t, p, "task", goexit)
		}
		// All three workers are needed to get past this.
		var inside sync.WaitGroup
		inside.Add(3)
		var tasks []*tether.Task
		for range 3 {
			tasks = append(tasks, start(t, p, "meeting", func(context.Context) error { inside.Done(); inside.Wait(); return nil }))
		}
		for _, task := range tasks {
			assert.NoError(t, wait(task))
		}
	})
	t.Run("whoever waits for it hangs", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		res, err := tether.Submit(context.Background(), r, "typed", func(context.Context) (int, error) { runtime.Goexit(); return 1, nil })
		require.NoError(t, err)
		_, err = res.Value(context.Background())
		assert.ErrorIs(t, err, tether.ErrGoexit)
		task := start(t, r, "task", goexit, tether.Serial("key"))
		assert.NoError(t, wait(start(t, r, "next", succeed, tether.Serial("key"))))
		assert.ErrorIs(t, wait(task), tether.ErrGoexit)
	})
	t.Run("a server that ends its goroutine hangs the group", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // a guard against hanging
			defer cancel()
			err := r.Run(ctx, tether.RunConfig{Servers: server(func() error { runtime.Goexit(); return nil }, nil), Signals: []os.Signal{}})
			assert.Error(t, err)
			assert.NoError(t, ctx.Err(), "Run has noticed at once")
		})
	})
}

func TestPeerStrvBackground(t *testing.T) {
	t.Run("a panic ends the process", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var e *tether.PanicError
		assert.ErrorAs(t, wait(start(t, r, "task", panicking)), &e)
	})
	t.Run("runs tasks after Close", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		require.NoError(t, r.Shutdown(context.Background()))
		_, err := r.Go(context.Background(), "task", func(context.Context) error { t.Error("ran"); return nil })
		assert.ErrorIs(t, err, tether.ErrClosed)
	})
	t.Run("no limit", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Limit: 1})
		gate := make(chan struct{})
		defer close(gate)
		start(t, r, "task", until(gate))
		_, err := r.Go(context.Background(), "task", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
	})
	t.Run("no deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Timeout: time.Minute})
			began := time.Now()
			assert.ErrorIs(t, wait(start(t, r, "task", untilCanceled)), tether.ErrTimeout)
			assert.Equal(t, time.Minute, time.Since(began))

			gate := make(chan struct{})
			start(t, r, "stuck", until(gate))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err := r.Shutdown(ctx)
			var drainErr *tether.DrainError
			require.ErrorAs(t, err, &drainErr)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorContains(t, err, "stuck")
			assert.Equal(t, 2*time.Minute, time.Since(began))
			close(gate)
		})
	})
}

func TestPeerClientGoWorkqueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		var last atomic.Int64
		body := func(context.Context) error {
			time.Sleep(time.Minute)
			last.Store(time.Now().UnixNano())
			return nil
		}
		for range 3 {
			start(t, p, "task", body)
		}
		start(t, p, "delayed", body, tether.Delay(time.Hour))
		attempts := 0
		start(t, r, "retried", func(ctx context.Context) error {
			if attempts++; attempts < 3 {
				return errTest
			}
			_, err := r.Go(ctx, "child", body) // submitted while all is drained
			return err
		}, tether.Retry(every(3, 2*time.Hour)))
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				assert.NoError(t, r.Shutdown(context.Background()))
				assert.Equal(t, last.Load(), time.Now().UnixNano(), "not a moment before the last one has ended")
				assertAddsUp(t, r.Stats())
				assert.EqualValues(t, 6, r.Stats().Succeeded)
			})
		}
		group.Wait()
	})
}

func TestPeerStarlette(t *testing.T) {
	t.Run("a failing task closes the connection under the next request", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		ctx, cancel := context.WithCancel(context.Background()) // the first request
		defer cancel()
		task, err := r.Go(ctx, "task", fail)
		require.NoError(t, err)
		assert.Error(t, wait(task))
		assert.NoError(t, ctx.Err(), "it does nothing to its submitter")
	})
	t.Run("the first failure skips the later tasks", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		for i := range 10 {
			start(t, r, "task", func(context.Context) error {
				ran.Add(1)
				switch i % 3 {
				case 0:
					return errTest
				case 1:
					panic("test panic")
				}
				runtime.Goexit()
				return nil
			}, tether.Serial("one after the other"))
		}
		drain(t, r)
		assert.EqualValues(t, 10, ran.Load())
	})
}

func TestPeerDotnetQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		start(t, p, "running", untilCanceled)
		want := make(map[string]bool)
		for i := range 10 {
			name := fmt.Sprint("left ", i)
			want[name] = true
			opts := [][]tether.Option{nil, {tether.Hold()}, {tether.Delay(time.Hour)}}[i%3]
			start(t, p, name, func(context.Context) error { t.Error("ran"); return nil }, opts...)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, r.Shutdown(ctx))
		for _, info := range r.Report().NeverStarted {
			assert.Equal(t, tether.Dropped, info.State)
			assert.ErrorIs(t, info.Err, tether.ErrShutdown)
			delete(want, info.Name)
		}
		assert.Empty(t, want, "what was left in the queue is in the report")
		assert.Len(t, r.Report().Canceled, 1)
	})
}

func TestPeersTaskiqCelery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		gate := make(chan struct{})
		start(t, r, "stuck", until(gate))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.Error(t, r.Shutdown(ctx))
		assert.Empty(t, book.about("drain: done"), "it is not")
		left := book.about("drain: tasks left")
		require.Len(t, left, 1)
		assert.Equal(t, "ERROR", left[0]["level"])
		assert.Equal(t, "1", left[0]["abandoned"])
		assert.Equal(t, "0", left[0]["finished"])
		assert.Contains(t, left[0]["error"], "stuck")
		close(gate)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Len(t, book.about("drain: done"), 1)
		assert.Equal(t, "0", book.about("drain: done")[0]["abandoned"])
	})
}
