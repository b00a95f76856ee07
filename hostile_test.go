package tether_test

import (
	"context"
	"log/slog"
	"math"
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

// Up to Go 1.25, context.Cause asks a context for its cancellation before it asks
// whether it is canceled.
func TestT5_TheSubmittersCancellationIsNoCause(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	canceled, cancel := context.WithCancelCause(context.WithValue(context.Background(), ctxKey("user"), "ann"))
	cancel(errTest)
	for name, ctx := range map[string]context.Context{
		"its context":       canceled,
		"one derived of it": context.WithValue(canceled, ctxKey("x"), 1),
	} {
		task, err := r.Go(ctx, "task", func(ctx context.Context) error {
			assert.NoError(t, context.Cause(ctx), name)
			assert.NoError(t, context.Cause(context.WithValue(ctx, ctxKey("y"), 2)), name)
			assert.Equal(t, "ann", ctx.Value(ctxKey("user")))
			child, err := r.Go(context.WithValue(ctx, ctxKey("y"), 2), "child", func(ctx context.Context) error {
				assert.NoError(t, context.Cause(ctx), name)
				return nil
			})
			if err != nil {
				return err
			}
			return child.Wait(ctx)
		})
		require.NoError(t, err)
		require.NoError(t, wait(task))
	}
	t.Run("a key of the type that the context package uses", func(t *testing.T) {
		key := new(int)
		task, err := r.Go(context.WithValue(canceled, key, "value"), "task", func(ctx context.Context) error {
			assert.Equal(t, "value", ctx.Value(key))
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, wait(task))
	})
}

func TestT5_ATimeoutCountsWhetherTheBodyLooksOrNot(t *testing.T) {
	for _, looks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			task := start(t, r, "task", func(ctx context.Context) error {
				if looks {
					_ = ctx.Done()
				}
				time.Sleep(time.Hour)
				return errTest
			}, tether.Timeout(time.Minute))
			time.Sleep(2 * time.Hour)
			assert.Equal(t, tether.Canceled, task.State(), "looks: %v", looks)
			assert.Len(t, book.about("task canceled"), 1, "looks: %v", looks)
			assert.ErrorIs(t, task.Err(), tether.ErrTimeout)
			assert.ErrorIs(t, task.Err(), errTest)
		})
	}
}

// Keep right after Submit is what most callers do, while the body starts.
func TestResult_KeepWhileTheBodyStarts(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	for i := range 500 {
		res, err := tether.Submit(context.Background(), r, "task", func(context.Context) (int, error) { return i, nil })
		require.NoError(t, err)
		require.True(t, res.Keep())
		require.NoError(t, wait(res.Task))
		require.Equal(t, i, res.Task.Value())
	}
}

func TestTimesThatAreTooLong(t *testing.T) {
	const forever = time.Duration(math.MaxInt64)
	t.Run("D1 a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			time.Sleep(time.Minute) // the registry's time and the timeout have no sum
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			start(t, p, "runs", func(context.Context) error { time.Sleep(time.Second); return nil })
			queued := start(t, p, "queued", succeed)
			ctx, cancel := context.WithTimeout(context.Background(), forever)
			defer cancel()
			assert.NoError(t, r.Shutdown(ctx))
			assert.Equal(t, tether.Succeeded, queued.State())
		})
	})
	t.Run("a delay", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			time.Sleep(time.Minute)
			task := start(t, r, "task", succeed, tether.Delay(forever))
			time.Sleep(time.Hour)
			assert.Equal(t, tether.Queued, task.State())
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			assert.NoError(t, r.Shutdown(ctx))
			assert.Equal(t, tether.Dropped, task.State())
			assert.Zero(t, r.Report().Ended.Sub(r.Report().Began), "D8")
		})
	})
	t.Run("a backoff", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
			time.Sleep(time.Minute)
			retry := tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return forever }})
			var attempts atomic.Int32
			again := func(context.Context) error { attempts.Add(1); return errTest }
			task := start(t, r, "task", again, retry)
			release := make(chan struct{})
			start(t, p, "fills the pool", until(release))
			go p.Go(context.Background(), "inline", again, retry)
			time.Sleep(time.Hour)
			assert.EqualValues(t, 2, attempts.Load(), "one each")
			assert.Equal(t, tether.Queued, task.State())
			assert.True(t, task.Info().NextAttempt.After(time.Now().Add(time.Hour)))
			for task := range r.Tasks() {
				task.Cancel(nil)
			}
			close(release)
		})
	})
}

// The time of a registry that was made outside is negative inside a bubble.
func TestD1_ABubbleDrainsARegistryFromOutside(t *testing.T) {
	r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	synctest.Test(t, func(t *testing.T) {
		var child *tether.Task
		start(t, r, "parent", func(ctx context.Context) (err error) {
			<-r.Stopping()
			child, err = r.Go(ctx, "child", succeed)
			return err
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, tether.Succeeded, child.State())
	})
}

// blockingEnd is an observer that does not return from TaskEnded for tasks of that name.
type blockingEnd struct {
	tether.NopObserver
	name  string
	until <-chan struct{}
}

func (o blockingEnd) TaskEnded(_ context.Context, task *tether.Task) {
	if task.Name() == o.name {
		<-o.until
	}
}

func TestD9_ContextsAreCanceledWhileObserversHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := tether.New(tether.Config{Observer: blockingEnd{name: "held", until: hang}, Logger: slog.New(slog.DiscardHandler)})
		for range 50 {
			start(t, r, "held", succeed, tether.Hold())
		}
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1}) // its queue comes after the registry's
		running := start(t, p, "running", untilCanceled)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		begun := time.Now()
		var left *tether.DrainError
		require.ErrorAs(t, r.Shutdown(ctx), &left)
		assert.Equal(t, 20*time.Second, time.Since(begun).Truncate(time.Second))
		assert.Equal(t, tether.Canceled, running.State())
		assert.Len(t, left.Report.Canceled, 1)
		assert.Len(t, left.Report.Abandoned, 50)
		close(hang)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Len(t, r.Report().NeverStarted, 50)
		assert.Empty(t, r.Report().Abandoned)
	})
}

// goexitRetrying ends the goroutine when an attempt is to be followed by another.
type goexitRetrying struct {
	tether.NopObserver
	ended atomic.Int32
}

func (*goexitRetrying) TaskRetrying(context.Context, *tether.Task, error, time.Duration) {
	runtime.Goexit()
}
func (o *goexitRetrying) TaskEnded(context.Context, *tether.Task) { o.ended.Add(1) }

// goexitLog ends the goroutine that logs a record with this message.
type goexitLog struct {
	*logbook
	msg string
}

func (l goexitLog) Handle(ctx context.Context, record slog.Record) error {
	_ = l.logbook.Handle(ctx, record)
	if record.Message == l.msg {
		runtime.Goexit()
	}
	return nil
}

func TestT11_CallerRunsGoesOnWhenACallbackEndsItsGoroutine(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]tether.Config{
		"the observer":    {Observer: new(goexitRetrying), Logger: quiet},
		"the log handler": {Logger: slog.New(goexitLog{new(logbook), "task retrying"})},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, cfg)
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
				release := make(chan struct{})
				start(t, p, "fills the pool", until(release))
				var attempts atomic.Int32
				go p.Go(context.Background(), "inline", func(context.Context) error {
					if attempts.Add(1) < 3 {
						return errTest
					}
					return nil
				}, tether.Retry(every(3, time.Minute)))
				time.Sleep(time.Hour)
				assert.EqualValues(t, 3, attempts.Load())
				s := p.Stats()
				assert.EqualValues(t, 1, s.Succeeded)
				assert.Zero(t, s.Inline)
				close(release)
			})
		})
	}
}

func TestT7_ACallbackThatEndsItsGoroutineHidesNoOutcome(t *testing.T) {
	t.Run("the observer is notified of the end", func(t *testing.T) {
		for name, policy := range map[string]tether.RetryPolicy{
			"Backoff":     {Attempts: 3, Backoff: func(int, error) time.Duration { runtime.Goexit(); return 0 }},
			"ShouldRetry": {Attempts: 3, ShouldRetry: func(error) bool { runtime.Goexit(); return true }},
		} {
			observer := new(goexitRetrying)
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Observer: observer, Logger: logger})
			task := start(t, r, "task", fail, tether.Retry(policy))
			for range task.Watch(context.Background()) { // it is not awaited
			}
			assert.Equal(t, tether.Failed, task.State(), name)
			assert.EqualValues(t, 1, observer.ended.Load(), name)
			assert.Len(t, book.about("task failed"), 1, name)
			assert.Equal(t, errTest, task.Err(), name)
		}
	})
	t.Run("T8 the failure is logged", func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Observer: leavingObserver{}, Logger: logger})
		task := start(t, r, "task", fail)
		for range task.Watch(context.Background()) {
		}
		assert.Len(t, book.about("task failed"), 1)
	})
}

func TestT6_APanicOfOnDuplicateNamesTheTask(t *testing.T) {
	logger, book := newLogger()
	r := newRegistry(t, tether.Config{Logger: logger})
	task := start(t, r, "held", succeed, tether.Hold(), tether.Unique("key"))
	var again sync.WaitGroup
	calls := 0
	for range 2 {
		again.Go(func() {
			start(t, r, "held", succeed, tether.Unique("key"), tether.OnDuplicate(func(*tether.Task) { panic("test panic") }))
		})
		again.Wait()
		calls++
	}
	records := book.about("test panic")
	require.Len(t, records, calls)
	assert.Equal(t, task.ID(), records[0]["id"])
	assert.Equal(t, "held", records[0]["task"])
	assert.Equal(t, "OnDuplicate", records[0]["in"])
	assert.Contains(t, records[0]["stack"], "TestT6_APanicOfOnDuplicateNamesTheTask")
	task.Release()
}

// Hand-overs that never return leave the others their turn when contexts are canceled,
// and each task is in the report once.
func TestD9_HandOversThatNeverReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
		hang := make(chan struct{})
		const n = 20
		var calls atomic.Int32
		for range n {
			start(t, r, "hangs", succeed, tether.Delay(time.Hour), tether.HandOver(func(context.Context, tether.Info) error {
				calls.Add(1)
				<-hang
				return nil
			}))
		}
		plain := start(t, r, "plain", succeed, tether.Delay(time.Hour))
		running := start(t, r, "running", untilCanceled)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var left *tether.DrainError
		require.ErrorAs(t, r.Shutdown(ctx), &left)
		assert.EqualValues(t, n, calls.Load(), "all were called: 16 when the drain began, the others later")
		assert.Equal(t, tether.Dropped, plain.State())
		assert.Equal(t, tether.Canceled, running.State())
		report := left.Report
		assert.Len(t, report.Abandoned, n)
		assert.Len(t, report.Canceled, 1)
		assert.Len(t, report.NeverStarted, 1)
		close(hang)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Len(t, r.Report().HandedOver, n)
		assert.Empty(t, r.Report().Abandoned)
	})
}

// chained is an observer that derives a context of each body's, as one that traces does.
type chained struct{ tether.NopObserver }

func (chained) TaskStarted(ctx context.Context, task *tether.Task) context.Context {
	return context.WithValue(ctx, ctxKey("span"), task.ID())
}

func TestT4_ALongChainStaysSmall(t *testing.T) {
	const generations, allowed = 20_000, 2 << 20
	for name, observer := range map[string]tether.Observer{"one observer": chained{}, "several": tether.JoinObservers(chained{}, chained{})} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Observer: observer, Retain: -1})
			other := newRegistry(t, tether.Config{Observer: observer, Retain: -1})
			heap := func() uint64 {
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				return stats.HeapAlloc
			}
			var before, after uint64
			ended := make(chan struct{})
			var step func(ctx context.Context, n int) error
			step = func(ctx context.Context, n int) error {
				if n == generations/2 {
					before = heap()
				}
				if n == generations {
					after = heap()
					assert.Equal(t, "ann", ctx.Value(ctxKey("user")))
					close(ended)
					return nil
				}
				to := []*tether.Registry{r, other}[n%2]
				_, err := to.Go(ctx, "step", func(ctx context.Context) error { return step(ctx, n+1) })
				return err
			}
			_, err := r.Go(context.WithValue(context.Background(), ctxKey("user"), "ann"), "first", func(ctx context.Context) error { return step(ctx, 0) })
			require.NoError(t, err)
			<-ended
			assert.Less(t, after, before+allowed, "a task takes more than 200 bytes")
		})
	}
}
