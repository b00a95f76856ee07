package tether_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

type ctxKey string

// fullPool returns a pool whose only worker is taken and whose queue of one is
// full, and how to free them.
func fullPool(t testing.TB, r *tether.Registry, overflow tether.Overflow) (p *tether.Pool, free func()) {
	t.Helper()
	p = r.NewPool("full", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: overflow})
	gate, running := make(chan struct{}), make(chan struct{})
	free = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(free)
	start(t, p, "running", func(context.Context) error {
		close(running)
		<-gate
		return nil
	})
	<-running
	start(t, p, "waiting", succeed)
	return p, free
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// assertAddsUp checks the sum rule T12.
func assertAddsUp(t *testing.T, s tether.Stats) bool {
	t.Helper()
	sum := s.Succeeded + s.Failed + s.Panicked + s.Canceled + s.Dropped + uint64(s.Held) + uint64(s.Queued) + uint64(s.Running)
	return assert.Equal(t, s.Submitted, sum, "%+v", s) && assert.True(t, s.Held >= 0 && s.Queued >= 0 && s.Running >= 0, "%+v", s)
}

func TestT1_EverySubmissionGetsAHandleOrATypedError(t *testing.T) {
	submit := map[string]func(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error){
		"go": func(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			return r.Go(ctx, name, fn, opts...)
		},
		"submit": func(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			var typed func(context.Context) (int, error)
			if fn != nil {
				typed = func(ctx context.Context) (int, error) { return 1, fn(ctx) }
			}
			res, err := tether.Submit(ctx, r, name, typed, opts...)
			if err != nil {
				assert.Nil(t, res)
				return nil, err
			}
			return res.Task, nil
		},
	}
	bg := context.Background()
	for how, submit := range submit {
		invalid := []struct {
			what, text string
			ctx        context.Context
			name       string
			fn         tether.Func
			opt        tether.Option
		}{
			{"an empty name", "name", bg, "", succeed, tether.Option{}},
			{"a nil context", "context", nil, "task", succeed, tether.Option{}},
			{"a nil body", "body", bg, "task", nil, tether.Option{}},
			{"no timeout", "timeout 0s", bg, "task", succeed, tether.Timeout(0)},
			{"a negative timeout", "timeout -1s", bg, "task", succeed, tether.Timeout(-time.Second)},
			{"a negative delay", "delay -1s", bg, "task", succeed, tether.Delay(-time.Second)},
			{"an empty unique key", "Unique", bg, "task", succeed, tether.Unique("")},
			{"an empty serial key", "Serial", bg, "task", succeed, tether.Serial("")},
			{"a negative weight", "weight -1", bg, "task", succeed, tether.Weight(-1)},
			{"no attempts", "0 attempts", bg, "task", succeed, tether.Retry(tether.RetryPolicy{})},
			{"a nil OnDuplicate", "OnDuplicate", bg, "task", succeed, tether.OnDuplicate(nil)},
			{"a nil hand-over", "HandOver", bg, "task", succeed, tether.HandOver(nil)},
		}
		for _, c := range invalid {
			t.Run(how+" refuses "+c.what, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
				for _, on := range []tether.Submitter{r, p} {
					task, err := submit(c.ctx, on, c.name, c.fn, c.opt)
					assert.Nil(t, task)
					if of := c.opt.Err(); of != nil { // otherwise another argument is invalid
						assert.Equal(t, of, err)
					}
					require.ErrorIs(t, err, tether.ErrInvalid)
					assert.ErrorContains(t, err, c.text)
				}
				assert.Equal(t, tether.Stats{Refused: 2}, r.Stats())
				assert.EqualValues(t, 1, p.Stats().Refused)
			})
		}
		t.Run(how+" names the first of several faults", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			_, err := submit(bg, r, "task", succeed, tether.Delay(-1), tether.Timeout(-1))
			assert.ErrorContains(t, err, "delay")
		})
		t.Run(how+" ignores an empty option and an ended context", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			ctx, cancel := context.WithCancel(bg)
			cancel()
			task, err := submit(ctx, r, "task", succeed, tether.Option{})
			require.NoError(t, err)
			assert.NoError(t, wait(task))
		})
		t.Run(how+" is refused by a registry at its limit", func(t *testing.T) {
			r := newRegistry(t, tether.Config{Limit: 1})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Overflow: tether.OverflowBlock})
			gate := make(chan struct{})
			first, err := submit(bg, r, "task", until(gate))
			require.NoError(t, err)
			for _, on := range []tether.Submitter{r, p} {
				task, err := submit(bg, on, "task", succeed)
				assert.Nil(t, task)
				var full *tether.FullError
				require.ErrorAs(t, err, &full)
				assert.ErrorIs(t, err, tether.ErrFull)
				assert.Equal(t, 1, full.Limit)
				assert.Equal(t, 1, full.Running+full.Queued)
				assert.Empty(t, full.Pool)
			}
			close(gate)
			require.NoError(t, wait(first))
			task, err := submit(bg, p, "task", succeed)
			require.NoError(t, err, "the first one's place is free, and the refused ones gave theirs back")
			assert.NoError(t, wait(task))
		})
		t.Run(how+" is refused once the drain has begun", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
			require.NoError(t, r.Shutdown(bg))
			for _, on := range []tether.Submitter{r, p} {
				task, err := submit(bg, on, "task", succeed)
				assert.Nil(t, task)
				assert.ErrorIs(t, err, tether.ErrClosed)
			}
		})
		t.Run(how+" waits for room only while its context lives", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p, free := fullPool(t, r, tether.OverflowBlock)
				defer free()
				ctx, cancel := context.WithTimeoutCause(bg, time.Minute, errTest)
				defer cancel()
				began := time.Now()
				task, err := submit(ctx, p, "task", succeed)
				assert.Nil(t, task)
				assert.ErrorIs(t, err, tether.ErrFull)
				assert.ErrorIs(t, err, errTest)
				assert.Equal(t, time.Minute, time.Since(began))
			})
		})
		t.Run(how+" waits for the first of its key only while its context lives", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p, free := fullPool(t, r, tether.OverflowBlock)
				first := make(chan error)
				go func() {
					task, err := submit(bg, p, "first", succeed, tether.Unique("key"))
					if err == nil {
						err = wait(task)
					}
					first <- err
				}()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(bg, time.Minute)
				defer cancel()
				task, err := submit(ctx, p, "second", succeed, tether.Unique("key"))
				assert.Nil(t, task)
				assert.ErrorIs(t, err, tether.ErrFull)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				free()
				assert.NoError(t, <-first)
			})
		})
	}
}

// endings counts how often each task was announced and ended.
type endings struct {
	tether.NopObserver
	mu               sync.Mutex
	submitted, ended map[string]int
}

func newEndings() *endings {
	return &endings{submitted: make(map[string]int), ended: make(map[string]int)}
}

func (e *endings) TaskSubmitted(_ context.Context, t *tether.Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.submitted[t.ID()]++
}

func (e *endings) TaskEnded(_ context.Context, t *tether.Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended[t.ID()]++
}

// traffic submits tasks of all sorts from several goroutines, and cancels,
// releases, pauses and resizes meanwhile. It returns the tasks that were admitted.
func traffic(r *tether.Registry, perProducer int) []*tether.Task {
	pools := []tether.Submitter{
		r,
		r.NewPool("block", tether.PoolConfig{Workers: 3, Queue: 5, Overflow: tether.OverflowBlock}),
		r.NewPool("reject", tether.PoolConfig{Workers: 2, Queue: 20, Overflow: tether.OverflowReject}),
		r.NewPool("oldest", tether.PoolConfig{Workers: 2, Queue: 5, Overflow: tether.OverflowDropOldest}),
		r.NewPool("caller", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowCallerRuns}),
		r.NewPool("weighed", tether.PoolConfig{Workers: 4, Queue: 50, Capacity: 10, Overflow: tether.OverflowReject}),
	}
	bodies := []tether.Func{
		succeed, succeed, fail,
		func(context.Context) error { panic("test panic") },
		func(context.Context) error { runtime.Goexit(); return nil },
		func(ctx context.Context) error { runtime.Gosched(); return ctx.Err() },
	}
	stop := make(chan struct{})
	var meddlers sync.WaitGroup
	meddlers.Go(func() {
		for !closed(stop) {
			p := pools[1+rand.IntN(len(pools)-1)].(*tether.Pool)
			switch rand.IntN(3) {
			case 0:
				p.Resize(1 + rand.IntN(4))
			default:
				p.Pause()
				p.Resume()
			}
			runtime.Gosched()
		}
	})
	var mu sync.Mutex
	var admitted []*tether.Task
	var producers sync.WaitGroup
	for range 4 {
		producers.Go(func() {
			var done sync.WaitGroup
			defer done.Wait()
			for i := range perProducer {
				var opts []tether.Option
				held := rand.IntN(8) == 0
				if held {
					opts = append(opts, tether.Hold())
				}
				if rand.IntN(4) == 0 {
					opts = append(opts, tether.Retry(tether.RetryPolicy{Attempts: 3,
						Backoff: func(int, error) time.Duration { return time.Duration(rand.IntN(2)) * time.Microsecond }}))
				}
				if rand.IntN(8) == 0 {
					opts = append(opts, tether.Delay(time.Duration(rand.IntN(20))*time.Microsecond))
				}
				if rand.IntN(8) == 0 {
					opts = append(opts, tether.Timeout(time.Duration(1+rand.IntN(20))*time.Microsecond))
				}
				if rand.IntN(8) == 0 {
					opts = append(opts, tether.Serial(fmt.Sprint("key", rand.IntN(3))))
				}
				if rand.IntN(8) == 0 {
					opts = append(opts, tether.Weight(int64(rand.IntN(6))))
				}
				var task *tether.Task
				var submitter sync.WaitGroup
				submitter.Go(func() { // of its own: an inline body may end it
					task, _ = pools[(i+rand.IntN(2))%len(pools)].Go(context.Background(), "task", bodies[rand.IntN(len(bodies))], opts...)
				})
				submitter.Wait()
				if task == nil {
					continue
				}
				mu.Lock()
				admitted = append(admitted, task)
				mu.Unlock()
				cancel := rand.IntN(4) == 0
				if !held && !cancel {
					continue
				}
				done.Go(func() {
					if cancel {
						task.Cancel(errTest)
					}
					task.Release()
				})
			}
		})
	}
	producers.Wait()
	close(stop)
	meddlers.Wait()
	return admitted
}

func TestT2_OneFinalStateOnce(t *testing.T) {
	t.Run("whatever races", func(t *testing.T) {
		e := newEndings()
		r := newRegistry(t, tether.Config{Observer: e})
		tasks := traffic(r, 1000)
		drain(t, r)
		byState := make(map[tether.State]uint64)
		for _, task := range tasks {
			require.True(t, closed(task.Done()))
			require.True(t, task.State().Final())
			require.Equal(t, task.State() == tether.Succeeded, task.Err() == nil, "%v: %v", task, task.Err())
			assert.False(t, task.Cancel(nil))
			assert.False(t, task.Release())
			byState[task.State()]++
		}
		s := r.Stats()
		assertAddsUp(t, s)
		e.mu.Lock()
		defer e.mu.Unlock()
		assert.Len(t, e.ended, int(s.Submitted))
		for id, n := range e.ended {
			require.Equal(t, 1, n, "ends of one task")
			require.Equal(t, 1, e.submitted[id], "and submissions")
		}
	})
	t.Run("a task that ends between its attempt and its cancellation", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
		again := tether.Retry(tether.RetryPolicy{Attempts: math.MaxInt32, Backoff: func(int, error) time.Duration { return 0 }})
		for _, on := range []tether.Submitter{r, p} {
			for range 1000 {
				attempts := make(chan struct{}, 1)
				task := start(t, on, "task", func(context.Context) error {
					select {
					case attempts <- struct{}{}:
					default:
					}
					return errTest
				}, again)
				<-attempts
				for range rand.IntN(20) {
					runtime.Gosched()
				}
				task.Cancel(nil)
				// In the middle of an attempt it has failed, for it says so itself.
				require.ErrorIs(t, wait(task), errTest)
				require.Contains(t, []tether.State{tether.Canceled, tether.Failed}, task.State())
			}
		}
		s := r.Stats()
		assertAddsUp(t, s)
		assert.EqualValues(t, 2000, s.Canceled+s.Failed)
	})
	t.Run("an inline task that ends between its attempt and its cancellation", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		again := tether.Retry(tether.RetryPolicy{Attempts: math.MaxInt32, Backoff: func(int, error) time.Duration { return 0 }})
		for range 1000 {
			var canceler sync.WaitGroup
			var once sync.Once
			task := start(t, p, "task", func(ctx context.Context) error {
				once.Do(func() {
					task, _ := tether.FromContext(ctx)
					canceler.Go(func() {
						for range rand.IntN(20) {
							runtime.Gosched()
						}
						task.Cancel(nil)
					})
				})
				return errTest
			}, again)
			canceler.Wait()
			require.Error(t, wait(task))
		}
		free()
	})
	t.Run("cancellations and releases at once", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for range 500 {
			task := start(t, r, "task", succeed, tether.Hold())
			var group sync.WaitGroup
			var released atomic.Int32
			for range 3 {
				group.Go(func() { task.Cancel(errTest) })
				group.Go(func() {
					if task.Release() {
						released.Add(1)
					}
				})
			}
			group.Wait()
			wait(task)
			assert.LessOrEqual(t, released.Load(), int32(1))
		}
		s := r.Stats()
		assertAddsUp(t, s)
		assert.EqualValues(t, 500, s.Succeeded+s.Dropped)
	})
}

func TestT3_DoneOnlyAfterTheBodyHasReturned(t *testing.T) {
	for _, how := range []string{"returns", "is cancelled", "times out"} {
		t.Run("a body that "+how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				gate := make(chan struct{})
				var opts []tether.Option
				if how == "times out" {
					opts = append(opts, tether.Timeout(time.Second))
				}
				task := start(t, r, "task", until(gate), opts...)
				if how == "is cancelled" {
					synctest.Wait()
					assert.True(t, task.Cancel(errTest))
				}
				ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errTest)
				defer cancel()
				assert.Equal(t, errTest, task.Wait(ctx), "the waiter's own cause")
				assert.False(t, closed(task.Done()))
				assert.Equal(t, tether.Running, task.State())
				assert.NoError(t, task.Err())
				assert.Zero(t, task.Info().Finished)
				close(gate)
				assert.NoError(t, wait(task))
				assert.True(t, closed(task.Done()))
				assert.Equal(t, tether.Succeeded, task.State())
			})
		})
	}
	t.Run("a waiter whose context has ended gets the outcome if there is one", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "task", fail)
		assert.Equal(t, errTest, wait(task))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for range 100 {
			require.Equal(t, errTest, task.Wait(ctx))
		}
	})
	t.Run("many waiters are all released", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		gate := make(chan struct{})
		var returned atomic.Bool
		task := start(t, r, "task", func(context.Context) error {
			<-gate
			returned.Store(true)
			return errTest
		})
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				assert.Equal(t, errTest, wait(task))
				assert.True(t, returned.Load())
			})
		}
		close(gate)
		group.Wait()
	})
}

func TestT4_ContextHasValuesAndNoCancellation(t *testing.T) {
	parent, cancel := context.WithTimeout(context.WithValue(context.Background(), ctxKey("user"), "ann"), time.Hour)
	cancel()
	t.Run("values yes, cancellation and deadline no", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task, err := r.Go(parent, "task", func(ctx context.Context) error {
			assert.Equal(t, "ann", ctx.Value(ctxKey("user")))
			assert.Nil(t, ctx.Value(ctxKey("other")))
			assert.NoError(t, ctx.Err())
			assert.NoError(t, context.Cause(ctx))
			assert.False(t, closed(ctx.Done()))
			_, ok := ctx.Deadline()
			assert.False(t, ok)
			return nil
		})
		require.NoError(t, err)
		assert.NoError(t, wait(task))
	})
	t.Run("the submitter's cancellation while the body runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			parent, cancel := context.WithCancel(context.Background())
			gate := make(chan struct{})
			task, err := r.Go(parent, "task", func(ctx context.Context) error {
				child, stop := context.WithTimeout(context.WithValue(ctx, ctxKey("x"), 1), time.Hour)
				defer stop()
				<-gate
				assert.NoError(t, ctx.Err())
				assert.NoError(t, child.Err())
				return nil
			})
			require.NoError(t, err)
			synctest.Wait()
			cancel()
			synctest.Wait()
			close(gate)
			assert.NoError(t, wait(task))
		})
	})
	t.Run("a task of a task has the values, also when its parent has ended", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		gate := make(chan struct{})
		got := make(chan any, 3)
		ctx := context.WithValue(context.Background(), ctxKey("user"), "ann")
		task, err := r.Go(ctx, "parent", func(ctx context.Context) error {
			_, err := r.Go(context.WithValue(ctx, ctxKey("step"), 2), "child", func(ctx context.Context) error {
				<-gate
				got <- ctx.Value(ctxKey("step"))
				got <- ctx.Value(ctxKey("user"))
				got <- ctx.Err()
				return nil
			})
			return err
		})
		require.NoError(t, err)
		require.NoError(t, wait(task))
		close(gate)
		assert.Equal(t, 2, <-got)
		assert.Equal(t, "ann", <-got)
		assert.Nil(t, <-got)
	})
	t.Run("cancelled at the end, with all that was derived from it", func(t *testing.T) {
		for name, opts := range map[string][]tether.Option{"plain": nil, "with a timeout": {tether.Timeout(time.Hour)}} {
			t.Run(name, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				var leaked, untouched, derived context.Context
				called := make(chan struct{})
				task, err := r.Go(parent, "task", func(ctx context.Context) error {
					leaked = ctx
					var cancel context.CancelFunc
					derived, cancel = context.WithTimeout(context.WithValue(ctx, ctxKey("x"), 1), time.Hour)
					t.Cleanup(cancel) // long after the task's end, which releases it
					context.AfterFunc(ctx, func() { close(called) })
					return nil
				}, opts...)
				require.NoError(t, err)
				other, err := r.Go(parent, "other", func(ctx context.Context) error {
					untouched = ctx
					return nil
				}, opts...)
				require.NoError(t, err)
				<-task.Done()
				<-other.Done()
				<-called
				for _, ctx := range []context.Context{leaked, derived, untouched} {
					assert.ErrorIs(t, ctx.Err(), context.Canceled)
					assert.ErrorIs(t, context.Cause(ctx), context.Canceled)
					assert.True(t, closed(ctx.Done()))
					assert.Nil(t, ctx.Value(ctxKey("user")), "values are let go")
				}
				late, stop := context.WithCancel(leaked)
				defer stop()
				assert.Error(t, late.Err(), "derived after the end")
				assert.Equal(t, 1, derived.Value(ctxKey("x")), "that one is the body's own")
			})
		}
	})
	t.Run("whoever knows of the end finds it cancelled", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for range 2000 {
			var leaked context.Context
			task := start(t, r, "task", func(ctx context.Context) error {
				leaked = ctx
				ctx.Done()
				return nil
			})
			for !task.State().Final() {
				runtime.Gosched()
			}
			require.NoError(t, wait(task))
			require.Error(t, leaked.Err())
		}
	})
	t.Run("a body cancelled by name leaks that cause", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var leaked context.Context
		begun := make(chan struct{})
		task := start(t, r, "task", func(ctx context.Context) error {
			leaked = ctx
			close(begun)
			return untilCanceled(ctx)
		})
		<-begun
		task.Cancel(errTest)
		assert.ErrorIs(t, wait(task), errTest)
		assert.Equal(t, errTest, context.Cause(leaked))
	})
	t.Run("derived contexts start no goroutine", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		before, after := 0, 0
		task, err := r.Go(parent, "task", func(ctx context.Context) error {
			before = runtime.NumGoroutine()
			for range 1000 {
				c, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				_, cancel = context.WithCancel(context.WithValue(c, ctxKey("x"), 1))
				defer cancel()
				c, cancel2 := context.WithCancelCause(context.WithValue(ctx, ctxKey("x"), 1))
				defer cancel2(nil)
				defer context.AfterFunc(ctx, func() {})()
				defer context.AfterFunc(c, func() {})()
			}
			after = runtime.NumGoroutine()
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, wait(task))
		assert.Less(t, after, before+500, "5000 contexts were derived")
	})
	t.Run("nor do those of a context with a deadline or an observer's values", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Timeout: time.Hour, Observer: spanObserver{}})
		before, after := 0, 0
		task := start(t, r, "task", func(ctx context.Context) error {
			assert.Equal(t, "span", ctx.Value(ctxKey("span")))
			before = runtime.NumGoroutine()
			for range 1000 {
				_, cancel := context.WithCancel(ctx)
				defer cancel()
			}
			after = runtime.NumGoroutine()
			return nil
		})
		require.NoError(t, wait(task))
		assert.Less(t, after, before+500)
	})
}

type spanObserver struct{ tether.NopObserver }

func (spanObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	return context.WithValue(ctx, ctxKey("span"), "span")
}

func TestT5_CauseTellsWhy(t *testing.T) {
	causes := []struct {
		name   string
		opts   []tether.Option
		cfg    tether.Config
		cancel func(r *tether.Registry, task *tether.Task)
		ctxErr error
		cause  error
	}{
		{name: "timeout", opts: []tether.Option{tether.Timeout(time.Second)}, ctxErr: context.DeadlineExceeded, cause: tether.ErrTimeout},
		{name: "timeout of the registry", cfg: tether.Config{Timeout: time.Second}, ctxErr: context.DeadlineExceeded, cause: tether.ErrTimeout},
		{name: "cancel with an error", cancel: func(_ *tether.Registry, task *tether.Task) { task.Cancel(errTest) }, ctxErr: context.Canceled, cause: errTest},
		{name: "cancel with nil", cancel: func(_ *tether.Registry, task *tether.Task) { task.Cancel(nil) }, ctxErr: context.Canceled, cause: context.Canceled},
		{name: "shutdown", cancel: func(r *tether.Registry, _ *tether.Task) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			r.Shutdown(ctx)
		}, ctxErr: context.Canceled, cause: tether.ErrShutdown},
	}
	for _, c := range causes {
		t.Run(c.name+", of a body that asks for nothing but the error", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, c.cfg)
				task := start(t, r, "task", func(ctx context.Context) error {
					assert.NoError(t, ctx.Err())
					time.Sleep(2 * time.Second)
					assert.Equal(t, c.ctxErr, ctx.Err())
					assert.Equal(t, c.cause, context.Cause(ctx))
					assert.Equal(t, c.ctxErr, ctx.Err())
					return nil
				}, c.opts...)
				synctest.Wait()
				if c.cancel != nil {
					c.cancel(r, task)
				}
				require.NoError(t, task.Wait(context.Background()))
			})
		})
	}
	other := errors.New("other")
	returns := []struct {
		name  string
		err   func(ctx context.Context) error
		state tether.State
	}{
		{"nil", func(context.Context) error { return nil }, tether.Succeeded},
		{"the context's error", context.Context.Err, tether.Canceled},
		{"the cause", context.Cause, tether.Canceled},
		{"the context's error wrapped", func(ctx context.Context) error { return fmt.Errorf("read: %w", ctx.Err()) }, tether.Canceled},
		{"the cause wrapped", func(ctx context.Context) error { return errors.Join(other, context.Cause(ctx)) }, tether.Canceled},
		{"a driver's error", func(context.Context) error { return other }, tether.Canceled},
	}
	for _, c := range causes {
		for _, ret := range returns {
			t.Run(c.name+", body returns "+ret.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRegistry(t, c.cfg)
					var ctxErr, cause, returned error
					task := start(t, r, "task", func(ctx context.Context) error {
						<-ctx.Done()
						ctxErr, cause = ctx.Err(), context.Cause(ctx)
						returned = ret.err(ctx)
						return returned
					}, c.opts...)
					synctest.Wait()
					if c.cancel != nil {
						c.cancel(r, task)
					}
					err := wait(task)
					assert.Equal(t, c.ctxErr, ctxErr)
					assert.Equal(t, c.cause, cause)
					assert.Equal(t, ret.state, task.State())
					assert.Equal(t, task.Err(), err)
					assert.Equal(t, task.Info().Err, err)
					switch ret.state {
					case tether.Succeeded:
						assert.NoError(t, err)
					case tether.Canceled:
						assert.ErrorIs(t, err, c.cause)
						assert.ErrorIs(t, err, returned)
					}
				})
			})
		}
	}
	t.Run("ErrTimeout is a deadline exceeded", func(t *testing.T) {
		assert.ErrorIs(t, tether.ErrTimeout, context.DeadlineExceeded)
		var timeout interface{ Timeout() bool }
		require.ErrorAs(t, tether.ErrTimeout, &timeout)
		assert.True(t, timeout.Timeout())
	})
	t.Run("a body that returns context.Canceled uncancelled has failed", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for _, err := range []error{context.Canceled, context.DeadlineExceeded, tether.ErrTimeout, tether.ErrShutdown} {
			task := start(t, r, "task", func(ctx context.Context) error { ctx.Done(); return err })
			assert.Equal(t, err, wait(task))
			assert.Equal(t, tether.Failed, task.State())
		}
	})
	t.Run("a body that never looked at its context", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		begun, gate := make(chan struct{}), make(chan struct{})
		task := start(t, r, "task", func(context.Context) error {
			close(begun)
			<-gate
			return errTest
		})
		<-begun
		assert.True(t, task.Cancel(errTest))
		close(gate)
		assert.ErrorIs(t, wait(task), errTest)
		assert.Equal(t, tether.Canceled, task.State())
	})
	t.Run("the first cause counts", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		begun := make(chan struct{})
		task := start(t, r, "task", func(ctx context.Context) error {
			<-begun
			return untilCanceled(ctx)
		})
		assert.True(t, task.Cancel(errTest))
		task.Cancel(other)
		close(begun)
		assert.ErrorIs(t, wait(task), errTest)
		assert.NotErrorIs(t, task.Err(), other)
	})
	t.Run("the timeout runs from the start, not from the submission", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Timeout: time.Minute})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			first := start(t, p, "first", func(context.Context) error { time.Sleep(time.Hour); return nil })
			var left time.Duration
			second := start(t, p, "second", func(ctx context.Context) error {
				deadline, ok := ctx.Deadline()
				require.True(t, ok)
				left = time.Until(deadline)
				<-ctx.Done()
				return ctx.Err()
			}, tether.Timeout(time.Second))
			assert.NoError(t, wait(first), "nil after the timeout is a success")
			assert.ErrorIs(t, wait(second), tether.ErrTimeout)
			assert.Equal(t, time.Second, left, "the option overrides the registry's")
			info := second.Info()
			assert.Equal(t, time.Second, info.Finished.Sub(info.Started))
			assert.Equal(t, time.Hour, info.Started.Sub(info.Submitted))
		})
	})
}

func TestT8_UnwaitedFailuresAreLoggedOnce(t *testing.T) {
	cases := []struct {
		name   string
		body   tether.Func
		opts   []tether.Option
		waited bool
		cancel error
		logged int
		level  string
	}{
		{name: "an unwaited failure", body: fail, logged: 1, level: "WARN"},
		{name: "a failure after retries", body: fail, opts: []tether.Option{tether.Retry(tether.RetryPolicy{Attempts: 3})}, logged: 1, level: "WARN"},
		{name: "a waited failure after retries", body: fail, opts: []tether.Option{tether.Retry(tether.RetryPolicy{Attempts: 3})}, waited: true},
		{name: "a waited failure", body: fail, waited: true},
		{name: "a success", body: succeed},
		{name: "an unwaited Goexit", body: func(context.Context) error { runtime.Goexit(); return nil }, logged: 1, level: "WARN"},
		{name: "an unwaited panic", body: func(context.Context) error { panic("test panic") }, logged: 1, level: "ERROR"},
		{name: "a waited panic", body: func(context.Context) error { panic("test panic") }, waited: true, logged: 1, level: "ERROR"},
		{name: "an unwaited timeout", body: untilCanceled, opts: []tether.Option{tether.Timeout(time.Second)}, logged: 1, level: "WARN"},
		{name: "a waited timeout", body: untilCanceled, opts: []tether.Option{tether.Timeout(time.Second)}, waited: true},
		{name: "a cancelled body", body: untilCanceled, cancel: errTest},
		{name: "a cancelled body that failed otherwise", body: func(ctx context.Context) error { <-ctx.Done(); return errTest },
			cancel: errors.New("other")},
		{name: "a cancelled task that never ran", body: succeed, opts: []tether.Option{tether.Hold()}, cancel: errTest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, book := newLogger()
				r := newRegistry(t, tether.Config{Logger: logger})
				p := r.NewPool("the pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
				task := start(t, p, "the task", func(ctx context.Context) error {
					time.Sleep(time.Millisecond) // so that the waiter comes first
					return c.body(ctx)
				}, c.opts...)
				if c.waited {
					go wait(task)
				}
				synctest.Wait()
				if c.cancel != nil {
					task.Cancel(c.cancel)
				}
				time.Sleep(24 * time.Hour) // past every backoff and timeout
				require.True(t, task.State().Final())
				outcomes := func() []map[string]string {
					return slices.DeleteFunc(book.about(task.ID()), func(r map[string]string) bool { return r["msg"] == "task retrying" })
				}
				records := outcomes()
				require.Len(t, records, c.logged)
				for _, r := range records {
					assert.Equal(t, c.level, r["level"])
					assert.Equal(t, "the task", r["task"])
					assert.Equal(t, "the pool", r["pool"])
					assert.Equal(t, task.ID(), r["id"])
					if c.level == "WARN" {
						assert.Equal(t, task.Err().Error(), r["error"])
					}
				}
				wait(task)
				assert.Len(t, outcomes(), c.logged, "waiting afterwards changes nothing")
			})
		})
	}
	t.Run("a waiter that gave up leaves the failure to the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			task := start(t, r, "task", func(context.Context) error { time.Sleep(time.Minute); return errTest })
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			require.ErrorIs(t, task.Wait(ctx), context.DeadlineExceeded)
			time.Sleep(time.Hour)
			assert.Len(t, book.about(task.ID()), 1)
		})
	})
	t.Run("a task that a full pool dropped", func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p, free := fullPool(t, r, tether.OverflowDropOldest)
		start(t, p, "newer", succeed)
		free()
		records := book.about("waiting")
		require.Len(t, records, 1)
		assert.Equal(t, "WARN", records[0]["level"])
		assert.Contains(t, records[0]["error"], "full")
	})
}

func TestT9_CancellingAWaitingTaskDropsItAtOnce(t *testing.T) {
	var ran atomic.Bool
	body := func(context.Context) error {
		ran.Store(true)
		return nil
	}
	cases := map[string][]tether.Option{
		"queued":           nil,
		"held":             {tether.Hold()},
		"delayed":          {tether.Delay(time.Hour)},
		"held and delayed": {tether.Hold(), tether.Delay(time.Hour)},
		"serial":           {tether.Serial("key")},
		"unique":           {tether.Unique("key")},
	}
	for name, opts := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject, Capacity: 10})
				gate := make(chan struct{})
				defer close(gate)
				start(t, p, "running", until(gate), tether.Serial("key"))
				synctest.Wait()
				for range 100 { // each takes the one place there is
					task := start(t, p, "waiting", body, opts...)
					synctest.Wait()
					_, err := p.Go(context.Background(), "one too many", succeed)
					require.ErrorIs(t, err, tether.ErrFull)
					require.True(t, task.Cancel(errTest))
					require.True(t, closed(task.Done()))
					require.Equal(t, tether.Dropped, task.State())
					require.ErrorIs(t, task.Err(), errTest)
					require.False(t, task.Cancel(nil))
					require.False(t, task.Release())
					require.Zero(t, task.Info().Started)
					require.Zero(t, task.Info().Attempt)
				}
				s := p.Stats()
				assertAddsUp(t, s.Stats)
				assert.EqualValues(t, 100, s.Dropped)
			})
			assert.False(t, ran.Load())
		})
	}
	t.Run("one that waits for room at a full pool comes in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			gate := make(chan struct{})
			start(t, p, "running", until(gate))
			waiting := start(t, p, "waiting", succeed)
			came := make(chan *tether.Task)
			go func() {
				task, err := p.Go(context.Background(), "blocked", succeed)
				assert.NoError(t, err)
				came <- task
			}()
			synctest.Wait()
			waiting.Cancel(nil)
			task := <-came
			close(gate)
			assert.NoError(t, wait(task))
		})
	})
	t.Run("many in a queue, in any order", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		gate := make(chan struct{})
		start(t, p, "running", until(gate))
		var ran atomic.Int32
		var tasks []*tether.Task
		for range 1000 {
			tasks = append(tasks, start(t, p, "waiting", func(context.Context) error { ran.Add(1); return nil }))
		}
		kept := int32(0)
		for _, i := range rand.Perm(len(tasks)) {
			if i%3 == 0 {
				kept++
			} else {
				tasks[i].Cancel(nil)
			}
		}
		close(gate)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Equal(t, kept, ran.Load())
	})
}

func TestT10_UniqueRunsOneBodyAtATime(t *testing.T) {
	t.Run("thousands of submissions at once, many generations", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		runners := []tether.Submitter{r,
			r.NewPool("a", tether.PoolConfig{Workers: 4, Queue: tether.Unbounded}),
			r.NewPool("b", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowBlock}),
		}
		const keys, producers, each = 3, 16, 1000
		var inside [keys]atomic.Int32
		var bodies [keys]atomic.Int64
		var made atomic.Int64
		var group sync.WaitGroup
		for n := range producers {
			group.Go(func() {
				var last [keys]*tether.Task
				for i := range each {
					k := (n + i) % keys
					isNew := true
					task, err := runners[i%len(runners)].Go(context.Background(), "task", func(context.Context) error {
						assert.EqualValues(t, 1, inside[k].Add(1), "bodies of one key at once")
						runtime.Gosched()
						inside[k].Add(-1)
						bodies[k].Add(1)
						return nil
					}, tether.Unique(fmt.Sprint(k)), tether.OnDuplicate(func(*tether.Task) { isNew = false }))
					if !assert.NoError(t, err) {
						return
					}
					if isNew {
						made.Add(1)
					}
					if last[k] != nil && last[k] != task {
						assert.True(t, last[k].State().Final(), "another handle while the former is live")
					}
					last[k] = task
					if i%7 == 0 {
						assert.NoError(t, wait(task))
					}
				}
			})
		}
		group.Wait()
		require.NoError(t, r.Shutdown(context.Background()))
		total := int64(0)
		for k := range bodies {
			total += bodies[k].Load()
		}
		s := r.Stats()
		assert.EqualValues(t, total, s.Submitted, "joined submissions are no submissions")
		assert.EqualValues(t, total, s.Succeeded)
		assert.Equal(t, total, made.Load(), "each task is new to one submission")
	})
	t.Run("one body under many concurrent submissions", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		gate := make(chan struct{})
		var bodies atomic.Int32
		var group sync.WaitGroup
		var handles sync.Map
		for range 2000 {
			group.Go(func() {
				task, err := r.Go(context.Background(), "task", func(context.Context) error {
					bodies.Add(1)
					<-gate
					return nil
				}, tether.Unique("key"))
				assert.NoError(t, err)
				handles.Store(task, true)
			})
		}
		group.Wait()
		close(gate)
		count := 0
		handles.Range(func(task, _ any) bool {
			count++
			assert.NoError(t, wait(task.(*tether.Task)))
			return true
		})
		assert.Equal(t, 1, count)
		assert.EqualValues(t, 1, bodies.Load())
	})
	t.Run("the key is free as soon as the task is final", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var last *tether.Task
		for range 1000 {
			task := start(t, r, "task", fail, tether.Unique("key"))
			require.NotSame(t, last, task)
			for !task.State().Final() { // by Wait it would be noticed later
				runtime.Gosched()
			}
			last = task
		}
	})
	t.Run("whatever way it ends", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for name, body := range map[string]tether.Func{
			"panic":  func(context.Context) error { panic("test panic") },
			"goexit": func(context.Context) error { runtime.Goexit(); return nil },
			"cancel": untilCanceled,
		} {
			first := start(t, r, name, body, tether.Unique("key"))
			if name == "cancel" {
				first.Cancel(nil)
			}
			wait(first)
			second := start(t, r, name, succeed, tether.Unique("key"))
			assert.NotSame(t, first, second)
			assert.NoError(t, wait(second))
		}
		dropped := start(t, r, "held", succeed, tether.Hold(), tether.OnDuplicate(func(*tether.Task) { t.Error("without a key there is no duplicate") }))
		dropped.Cancel(nil)
		dropped = start(t, r, "held", succeed, tether.Unique("key"), tether.Hold())
		var existing *tether.Task
		assert.Same(t, dropped, start(t, r, "held", succeed, tether.Unique("key"), tether.OnDuplicate(func(t *tether.Task) { existing = t })))
		assert.Same(t, dropped, existing)
		assert.Same(t, dropped, start(t, r, "held", succeed, tether.Unique("key"), tether.OnDuplicate(func(*tether.Task) { panic("test panic") })))
		dropped.Cancel(nil)
		assert.NotSame(t, dropped, start(t, r, "held", succeed, tether.Unique("key")))
	})
	t.Run("a refused submission leaves the key free", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowReject)
		_, err := p.Go(context.Background(), "task", succeed, tether.Unique("key"))
		require.ErrorIs(t, err, tether.ErrFull)
		assert.NoError(t, wait(start(t, r, "task", succeed, tether.Unique("key"))))
		free()
	})
	t.Run("live between two attempts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			first := start(t, r, "task", fail, tether.Unique("key"),
				tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Minute }}))
			synctest.Wait()
			require.Equal(t, tether.Queued, first.State())
			assert.Same(t, first, start(t, r, "task", succeed, tether.Unique("key")))
			assert.ErrorIs(t, wait(first), errTest)
		})
	})
	t.Run("a typed result is the first one's", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		gate := make(chan struct{})
		first, err := tether.Submit(context.Background(), r, "task", func(context.Context) (int, error) { <-gate; return 1, nil }, tether.Unique("key"))
		require.NoError(t, err)
		second, err := tether.Submit(context.Background(), r, "task", func(context.Context) (int, error) { return 2, nil }, tether.Unique("key"))
		require.NoError(t, err)
		wrong, err := tether.Submit(context.Background(), r, "task", func(context.Context) (string, error) { return "", nil }, tether.Unique("key"))
		require.NoError(t, err)
		assert.Same(t, first.Task, second.Task)
		assert.Same(t, first.Task, wrong.Task)
		close(gate)
		v, err := second.Value(context.Background())
		assert.NoError(t, err)
		assert.Equal(t, 1, v)
		_, err = wrong.Value(context.Background())
		assert.ErrorContains(t, err, "string")
		assert.ErrorContains(t, err, "Unique key")
		assert.Nil(t, wrong.Task.Value(), "it was not marked with Keep")
	})
	t.Run("joining a task that has no result", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		gate := make(chan struct{})
		start(t, r, "task", until(gate), tether.Unique("key"))
		res, err := tether.Submit(context.Background(), r, "task", func(context.Context) (int, error) { return 2, nil }, tether.Unique("key"))
		require.NoError(t, err)
		close(gate)
		_, err = res.Value(context.Background())
		assert.ErrorContains(t, err, "int")
		assert.Nil(t, res.Task.Value())
	})
	t.Run("the first submitter still waits for room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p, free := fullPool(t, r, tether.OverflowBlock)
			handles := make(chan *tether.Task, 10)
			var bodies atomic.Int32
			for range cap(handles) {
				go func() {
					task, err := p.Go(context.Background(), "task", func(context.Context) error { bodies.Add(1); return nil }, tether.Unique("key"))
					assert.NoError(t, err)
					handles <- task
				}()
			}
			synctest.Wait()
			assert.Empty(t, handles)
			p.Pause() // so that the one admitted stays live until all have their handle
			free()
			synctest.Wait()
			p.Resume()
			first := <-handles
			require.NoError(t, wait(first))
			for range cap(handles) - 1 {
				wait(<-handles)
			}
			assert.Equal(t, r.Stats().Submitted-2, uint64(bodies.Load()), "but for the two that filled the pool")
		})
	})
	t.Run("the first submitter gives up waiting for room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p, free := fullPool(t, r, tether.OverflowBlock)
			ctx, cancel := context.WithCancel(context.Background())
			first, second := make(chan error), make(chan error)
			go func() {
				_, err := p.Go(ctx, "first", succeed, tether.Unique("key"))
				first <- err
			}()
			synctest.Wait()
			go func() {
				task, err := p.Go(context.Background(), "second", succeed, tether.Unique("key"))
				if err == nil {
					assert.Equal(t, "second", task.Name())
					err = wait(task)
				}
				second <- err
			}()
			synctest.Wait()
			cancel()
			assert.ErrorIs(t, <-first, tether.ErrFull)
			synctest.Wait()
			free()
			assert.NoError(t, <-second, "its own ctx lives: it takes the key and the wait over")
		})
	})
	t.Run("the first submitter runs the body itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p, free := fullPool(t, r, tether.OverflowCallerRuns)
			defer free()
			gate, first := make(chan struct{}), make(chan *tether.Task, 1)
			go func() {
				p.Go(context.Background(), "first", func(ctx context.Context) error {
					task, _ := tether.FromContext(ctx)
					first <- task
					<-gate
					return nil
				}, tether.Unique("key"))
			}()
			live := <-first
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			second, err := p.Go(ctx, "second", succeed, tether.Unique("key"))
			close(gate)
			require.NoError(t, err)
			assert.Same(t, live, second)
		})
	})
	t.Run("a body that submits its own key gets itself", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		for _, on := range []tether.Submitter{r, p} {
			task := start(t, on, "task", func(ctx context.Context) error {
				self, _ := tether.FromContext(ctx)
				ctx, cancel := context.WithTimeout(ctx, time.Second) // a guard against a deadlock
				defer cancel()
				task, err := on.Go(ctx, "task", succeed, tether.Unique("key"))
				assert.Same(t, self, task)
				return err
			}, tether.Unique("key"))
			assert.NoError(t, wait(task))
		}
		free()
	})
}

func TestT12_StatsAlwaysAddUp(t *testing.T) {
	t.Run("while tasks come and go", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Limit: 300})
		stop := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			var last tether.Stats
			for !closed(stop) {
				s := r.Stats()
				if !assertAddsUp(t, s) {
					return
				}
				for p := range r.Pools() {
					assertAddsUp(t, p.Stats().Stats)
				}
				assert.GreaterOrEqual(t, s.Submitted, last.Submitted)
				assert.GreaterOrEqual(t, s.Succeeded, last.Succeeded)
				last = s
			}
		})
		tasks := traffic(r, 1000)
		close(stop)
		readers.Wait()
		drain(t, r)
		s := r.Stats()
		assertAddsUp(t, s)
		assert.Zero(t, s.Held+s.Queued+s.Running)
		assert.GreaterOrEqual(t, s.Submitted, uint64(len(tasks)))
	})
	t.Run("exact at rest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Limit: 14})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 3, Overflow: tether.OverflowReject})
			gate := make(chan struct{})
			start(t, p, "running", until(gate))
			start(t, p, "queued", succeed)
			held := start(t, p, "held", succeed, tether.Hold())
			delayed := start(t, p, "delayed", succeed, tether.Delay(time.Hour))
			_, err := p.Go(context.Background(), "refused", succeed)
			require.Error(t, err)
			_, err = r.Go(context.Background(), "", succeed)
			require.Error(t, err)
			for range 2 {
				start(t, r, "task", succeed)
			}
			start(t, r, "task", fail)
			start(t, r, "task", func(context.Context) error { panic("test panic") })
			canceled := start(t, r, "task", untilCanceled)
			synctest.Wait()
			canceled.Cancel(nil)
			start(t, r, "running", until(gate))
			synctest.Wait()
			assert.Equal(t, tether.Stats{Submitted: 10, Refused: 2, Succeeded: 2, Failed: 1, Panicked: 1, Canceled: 1, Held: 1, Queued: 2, Running: 2}, r.Stats())
			assert.Equal(t, tether.Stats{Submitted: 4, Refused: 1, Held: 1, Queued: 2, Running: 1}, p.Stats().Stats)
			held.Cancel(nil)
			delayed.Cancel(nil)
			close(gate)
			synctest.Wait()
			assert.Equal(t, tether.Stats{Submitted: 10, Refused: 2, Succeeded: 5, Failed: 1, Panicked: 1, Canceled: 1, Dropped: 2}, r.Stats())
		})
	})
	t.Run("exact right after Wait", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		for i := range 1000 {
			require.NoError(t, wait(start(t, r, "task", succeed)))
			require.Equal(t, uint64(2*i+1), r.Stats().Succeeded)
			require.NoError(t, wait(start(t, p, "task", succeed)), "its place is free as well")
			require.Equal(t, tether.Stats{Submitted: uint64(2*i + 2), Succeeded: uint64(2*i + 2)}, r.Stats())
		}
	})
}

func TestT13_NoBodyWaitsForAnotherToEnd(t *testing.T) {
	const n = 10000
	barrier := func(t *testing.T, producers int) {
		r := newRegistry(t, tether.Config{})
		var arrived atomic.Int32
		all := make(chan struct{})
		open := sync.OnceFunc(func() { close(all) })
		defer open()
		body := func(context.Context) error {
			if arrived.Add(1) == n {
				open()
			}
			<-all
			return nil
		}
		var group sync.WaitGroup
		for range producers {
			group.Go(func() {
				for range n / producers {
					start(t, r, "task", body)
				}
			})
		}
		group.Wait()
		select {
		case <-all:
		case <-time.After(time.Minute): // a guard against hanging
			t.Fatalf("%d of %d arrived", arrived.Load(), n)
		}
	}
	for _, procs := range []int{runtime.GOMAXPROCS(0), 1, 4} {
		for _, producers := range []int{1, 8, 1000} {
			t.Run(fmt.Sprintf("%d producers on %d processors", producers, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				barrier(t, producers)
			})
		}
	}
	t.Run("a chain of tasks, each waiting for the one it submits", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var link func(left int) tether.Func
		link = func(left int) tether.Func {
			return func(ctx context.Context) error {
				if left == 0 {
					return nil
				}
				next, err := r.Go(ctx, "link", link(left-1))
				if err != nil {
					return err
				}
				return next.Wait(ctx)
			}
		}
		assert.NoError(t, wait(start(t, r, "link", link(1000))))
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowBlock})
		for _, on := range []tether.Submitter{r, p} {
			task := start(t, on, "task", succeed, tether.Delay(time.Hour))
			time.Sleep(time.Hour - 1)
			synctest.Wait()
			assert.Equal(t, tether.Queued, task.State())
			assert.NoError(t, wait(task))
			info := task.Info()
			assert.Equal(t, time.Hour, info.Started.Sub(info.Submitted))
		}
		assert.Equal(t, tether.Succeeded, func() tether.State {
			task := start(t, r, "no delay", succeed, tether.Delay(0))
			wait(task)
			return task.State()
		}())
	})
}

func TestHoldAndRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		for _, on := range []tether.Submitter{r, p} {
			task := start(t, on, "task", succeed, tether.Hold())
			time.Sleep(time.Hour)
			assert.Equal(t, tether.Held, task.State())
			assert.True(t, task.Release())
			assert.False(t, task.Release())
			assert.NoError(t, wait(task))
		}
		_, err := p.Go(context.Background(), "running", succeed)
		require.NoError(t, err)

		task := start(t, r, "task", succeed, tether.Hold(), tether.Delay(time.Hour))
		time.Sleep(10 * time.Minute)
		require.True(t, task.Release())
		synctest.Wait()
		assert.Equal(t, tether.Queued, task.State())
		require.NoError(t, wait(task))
		assert.GreaterOrEqual(t, task.Info().Started.Sub(task.Info().Submitted), time.Hour, "Delay holds after Release as well")
	})
}

func TestInfo(t *testing.T) {
	t.Run("of a task through its life", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("the pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			began := time.Now()
			gate := make(chan struct{})
			attempt := 0
			task := start(t, p, "the task", func(ctx context.Context) error {
				attempt++
				tether.ReportProgress(context.WithValue(ctx, ctxKey("x"), 1), tether.Progress{Done: int64(attempt), Total: 9, Message: "at work"})
				<-gate
				return errTest
			}, tether.Hold(), tether.Label("a", "1"), tether.Label("b", "2"), tether.Label("a", "3"),
				tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Hour }}))

			info := task.Info()
			assert.Contains(t, info.Func, "task_test.go:")
			info.Func = ""
			want := tether.Info{ID: task.ID(), Name: "the task", Pool: "the pool", State: tether.Held,
				Submitted: began, Labels: map[string]string{"a": "3", "b": "2"}}
			assertInfo(t, want, info)
			info.Labels["a"] = "changed"
			assert.Equal(t, "3", task.Info().Labels["a"], "it is a copy")

			time.Sleep(time.Minute)
			task.Release()
			synctest.Wait()
			want.State, want.Started, want.Attempt = tether.Running, began.Add(time.Minute), 1
			want.Progress = tether.Progress{Done: 1, Total: 9, Message: "at work"}
			assertInfo(t, want, task.Info())
			time.Sleep(time.Minute)
			close(gate)
			synctest.Wait()
			assert.Equal(t, tether.Queued, task.Info().State)
			assert.NoError(t, task.Info().Err)

			require.ErrorIs(t, wait(task), errTest)
			want.State, want.Attempt, want.Progress.Done, want.Err, want.Awaited = tether.Failed, 2, 2, errTest, true
			want.Finished = began.Add(2*time.Minute + time.Hour)
			assertInfo(t, want, task.Info())
		})
	})
	t.Run("is of one instant", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for range 3000 {
			task := start(t, r, "task", fail)
			for {
				info := task.Info()
				final := info.State.Final()
				require.Equal(t, final, info.Err != nil, "%+v", info)
				require.Equal(t, final, !info.Finished.IsZero(), "%+v", info)
				if info.State == tether.Running || final {
					require.False(t, info.Started.IsZero(), "%+v", info)
					require.Equal(t, 1, info.Attempt)
				}
				if final {
					break
				}
			}
		}
	})
	t.Run("names the parent", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var child *tether.Task
		task := start(t, r, "parent", func(ctx context.Context) error {
			var err error
			child, err = r.Go(context.WithValue(ctx, ctxKey("x"), 1), "child", succeed)
			return err
		})
		require.NoError(t, wait(task))
		assert.Equal(t, task.ID(), child.Info().Parent)
		assert.Empty(t, task.Info().Parent)
		require.NoError(t, wait(child))
		assert.Equal(t, task.ID(), child.Info().Parent)
	})
	t.Run("names the body", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		typed := func(context.Context) (int, error) { return 0, nil }
		_, file, line, _ := runtime.Caller(0)
		here := start(t, r, "closure", func(context.Context) error { return nil })
		res, err := tether.Submit(context.Background(), r, "typed", typed)
		require.NoError(t, err)
		named := start(t, r, "named", succeed)
		assert.Contains(t, here.Info().Func, fmt.Sprintf("%s:%d", file, line+1))
		assert.Contains(t, here.Info().Func, "TestInfo.func")
		assert.Contains(t, res.Info().Func, fmt.Sprintf("%s:%d", file, line-1))
		assert.Contains(t, named.Info().Func, "tether_test.succeed ")
		require.NoError(t, wait(here))
		assert.Contains(t, here.Info().Func, "TestInfo.func", "when the body is gone as well")
	})
}

// assertInfo compares but for Func, and for the monotonic clock.
func assertInfo(t *testing.T, want, got tether.Info) {
	t.Helper()
	for _, at := range []struct{ want, got *time.Time }{{&want.Submitted, &got.Submitted}, {&want.Started, &got.Started}, {&want.Finished, &got.Finished}} {
		assert.True(t, at.want.Equal(*at.got), "want %v, got %v", at.want, at.got)
		*at.want, *at.got = time.Time{}, time.Time{}
	}
	got.Func = ""
	want.MaxAttempts, got.LastErr, got.NextAttempt = got.MaxAttempts, nil, time.Time{}
	assert.Equal(t, want, got)
}

func TestResult(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
	for _, on := range []tether.Submitter{r, p} {
		gate := make(chan struct{})
		res, err := tether.Submit(context.Background(), on, "task", func(context.Context) (string, error) { <-gate; return "done", nil })
		require.NoError(t, err)
		assert.Nil(t, res.Task.Value())
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errTest)
		_, err = res.Value(ctx)
		assert.Equal(t, errTest, err)
		close(gate)
		for range 2 {
			v, err := res.Value(context.Background())
			assert.NoError(t, err)
			assert.Equal(t, "done", v)
		}
		found, err := r.Find(res.ID())
		require.NoError(t, err)
		assert.Nil(t, found.Value(), "the registry does not retain it")
		assert.True(t, res.Keep())
		assert.Equal(t, "done", found.Value())

		failed, err := tether.Submit(context.Background(), on, "task", func(context.Context) (string, error) { return "half", errTest })
		require.NoError(t, err)
		v, err := failed.Value(context.Background())
		assert.Equal(t, errTest, err)
		assert.Empty(t, v)
		assert.Nil(t, failed.Task.Value())
	}
	assert.Nil(t, start(t, r, "task", succeed).Value())
	retried := 0
	res, err := tether.Submit(context.Background(), r, "task", func(context.Context) (int, error) {
		if retried++; retried == 1 {
			return 1, errTest
		}
		return 0, nil
	}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 0 }}))
	require.NoError(t, err)
	v, err := res.Value(context.Background())
	assert.NoError(t, err)
	assert.Zero(t, v, "the last attempt's")
}

func TestWhatABodyCanAsk(t *testing.T) {
	t.Run("which task it is", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var direct, derived *tether.Task
		task := start(t, r, "task", func(ctx context.Context) error {
			direct, _ = tether.FromContext(ctx)
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, ctxKey("x"), 1), time.Hour)
			defer cancel()
			derived, _ = tether.FromContext(ctx)
			return nil
		})
		require.NoError(t, wait(task))
		assert.Same(t, task, direct)
		assert.Same(t, task, derived)
		_, ok := tether.FromContext(context.Background())
		assert.False(t, ok)
	})
	t.Run("a context of no task", func(t *testing.T) {
		assert.Nil(t, tether.StoppingFrom(context.Background()))
		tether.ReportProgress(context.Background(), tether.Progress{Done: 1})
	})
	t.Run("whether to finish soon", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			var before, after error
			task := start(t, r, "task", func(ctx context.Context) error {
				child, cancel := context.WithCancel(ctx)
				defer cancel()
				stopping := tether.StoppingFrom(child)
				if closed(stopping) {
					before = errTest
				}
				<-stopping
				after = ctx.Err()
				return nil
			})
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			assert.NoError(t, r.Shutdown(ctx))
			assert.NoError(t, before)
			assert.NoError(t, after, "not cancelled yet")
			assert.NoError(t, wait(task))
		})
	})
}

func TestStateAndText(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	task := start(t, r, "the task", succeed, tether.Hold())
	assert.Equal(t, "the task (held)", task.String())
	assert.Equal(t, "the task", task.Name())
	task.Release()
	require.NoError(t, wait(task))
	assert.Equal(t, "the task (succeeded)", fmt.Sprint(task))
	for s, text := range map[tether.State]string{tether.Held: "held", tether.Queued: "queued", tether.Running: "running", tether.Succeeded: "succeeded",
		tether.Failed: "failed", tether.Panicked: "panicked", tether.Canceled: "canceled", tether.Dropped: "dropped", 99: "State(99)"} {
		assert.Equal(t, text, s.String())
	}
	assert.False(t, tether.Running.Final())
	assert.True(t, tether.Succeeded.Final())
}

func TestProfilerLabels(t *testing.T) {
	profile := func() string {
		var b strings.Builder
		assert.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
		return b.String()
	}
	r := newRegistry(t, tether.Config{})
	p := r.NewPool("the pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
	var outer, inner, after string
	task := start(t, p, "the task", func(ctx context.Context) error {
		outer = profile()
		pprof.Do(ctx, pprof.Labels("mine", "yes"), func(ctx context.Context) {
			inner = profile()
			name, _ := pprof.Label(ctx, "tether.task")
			assert.Equal(t, "the task", name)
		})
		after = profile()
		return nil
	})
	require.NoError(t, wait(task))
	const labels = `"tether.pool":"the pool", "tether.task":"the task"`
	assert.Contains(t, outer, "{"+labels+"}")
	assert.Contains(t, inner, `{"mine":"yes", `+labels+"}")
	assert.Contains(t, after, "{"+labels+"}")
	assert.NotContains(t, after, `"mine"`)

	t.Run("a body's labels do not stay for the next", func(t *testing.T) {
		start(t, p, "first", func(context.Context) error {
			pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("mine", "left")))
			return nil
		})
		r2 := r.NewPool("queue", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowBlock})
		start(t, r2, "first", func(context.Context) error {
			pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("mine", "left")))
			return nil
		})
		var seen string
		require.NoError(t, wait(start(t, r2, "second", func(context.Context) error { seen = profile(); return nil })))
		assert.NotContains(t, seen, `"mine"`)
		assert.Contains(t, seen, `"tether.task":"second"`)
	})
	t.Run("an inline task gives the submitter's labels back", func(t *testing.T) {
		full, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		var during, after string
		pprof.Do(context.Background(), pprof.Labels("submitter", "me"), func(ctx context.Context) {
			_, err := full.Go(ctx, "inline", func(context.Context) error { during = profile(); return nil })
			assert.NoError(t, err)
			after = profile()
		})
		assert.Contains(t, during, `"tether.task":"inline"`)
		assert.Contains(t, after, `{"submitter":"me"}`)
		assert.NotContains(t, after, `"tether.task":"inline"`)
	})
	t.Run("a goroutine that has outlived its task is found by its label", func(t *testing.T) {
		end, ended := make(chan struct{}), make(chan struct{})
		require.NoError(t, wait(start(t, p, "leaky", func(context.Context) error {
			go func() {
				defer close(ended)
				<-end
			}()
			return nil
		})))
		assert.Contains(t, profile(), `{"tether.pool":"the pool", "tether.task":"leaky"}`)
		close(end)
		<-ended
	})
}

// What can be had without an Info is the same.
func TestParticulars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		check := func(task *tether.Task) {
			t.Helper()
			info := task.Info()
			submitted, started, finished := task.Times()
			assert.Equal(t, []any{info.Pool, info.Attempt, info.Submitted, info.Started, info.Finished},
				[]any{task.Pool(), task.Attempt(), submitted, started, finished})
		}
		held := start(t, p, "held", succeed, tether.Hold())
		assert.Equal(t, "pool", held.Pool())
		assert.Zero(t, held.Attempt())
		check(held)
		held.Cancel(nil)
		check(held)
		task := start(t, r, "task", func(context.Context) error {
			time.Sleep(time.Second)
			return errTest
		}, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Minute }}))
		synctest.Wait()
		check(task)
		assert.Equal(t, 1, task.Attempt())
		assert.Empty(t, task.Pool())
		time.Sleep(30 * time.Second)
		check(task) // between two attempts
		assert.ErrorIs(t, wait(task), errTest)
		check(task)
		assert.Equal(t, 3, task.Attempt())
		submitted, started, finished := task.Times()
		assert.Equal(t, submitted, started)
		assert.Equal(t, 2*time.Minute+3*time.Second, finished.Sub(started))
	})
}

func TestOwnStats(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
	require.NoError(t, wait(start(t, p, "task", succeed)))
	held := start(t, r, "task", succeed, tether.Hold())
	for _, on := range []tether.Submitter{r, p, p} {
		_, err := on.Go(t.Context(), "", succeed)
		require.Error(t, err)
	}
	assert.Equal(t, tether.Stats{Submitted: 1, Refused: 1, Held: 1}, r.OwnStats())
	assert.Equal(t, tether.Stats{Submitted: 1, Refused: 2, Succeeded: 1}, p.Stats().Stats)
	assert.Equal(t, tether.Stats{Submitted: 2, Refused: 3, Succeeded: 1, Held: 1}, r.Stats())
	held.Cancel(nil)
	assert.Equal(t, tether.Stats{Submitted: 1, Refused: 1, Dropped: 1}, r.OwnStats())
}
