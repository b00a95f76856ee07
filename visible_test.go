package tether_test

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

	"github.com/seed-2e639f12/tether"
)

// retryObserver records the failed attempts that others follow.
type retryObserver struct {
	tether.NopObserver
	mu   sync.Mutex
	seen []string
}

func (o *retryObserver) TaskRetrying(_ context.Context, t *tether.Task, err error, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, fmt.Sprint(t.Name(), " ", t.Attempt(), " ", err, " ", wait))
}

// saw returns what was recorded so far.
func (o *retryObserver) saw() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}

func TestT14_FailedAttemptsAreVisible(t *testing.T) {
	policy := tether.RetryPolicy{
		Attempts: 4,
		Backoff:  func(attempt int, _ error) time.Duration { return time.Duration(attempt) * time.Minute },
	}
	t.Run("in Info, in the log and by the observer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			o := new(retryObserver)
			r := newRegistry(t, tether.Config{Logger: logger, Observer: tether.JoinObservers(tether.NopObserver{}, o)})
			attempt := 0
			task := start(t, r, "flaky", func(context.Context) error {
				attempt++
				if attempt < 3 {
					return fmt.Errorf("attempt %d: %w", attempt, errTest)
				}
				time.Sleep(time.Hour)
				return nil
			}, tether.Retry(policy))

			synctest.Wait()
			info := task.Info()
			assert.EqualError(t, info.LastErr, "attempt 1: test error")
			assert.NoError(t, info.Err, "it is not the outcome")
			assert.Equal(t, time.Now().Add(time.Minute), info.NextAttempt)
			assert.Equal(t, []int{2, 4}, []int{info.Attempt, info.MaxAttempts})
			assert.Equal(t, []string{"flaky 1 attempt 1: test error 1m0s"}, o.saw())
			records := book.about("task retrying")
			require.Len(t, records, 1)
			assert.Equal(t, "INFO", records[0]["level"])
			assert.Equal(t, "flaky", records[0]["task"])
			assert.Equal(t, task.ID(), records[0]["id"])
			assert.Equal(t, "attempt 1: test error", records[0]["error"])
			assert.Equal(t, []string{"1", "4", "1m0s"}, []string{records[0]["attempt"], records[0]["max_attempts"], records[0]["wait"]})

			time.Sleep(90 * time.Second)
			assert.EqualError(t, task.Info().LastErr, "attempt 2: test error")
			assert.Len(t, o.saw(), 2)
			assert.Len(t, book.about("task retrying"), 2)

			time.Sleep(2 * time.Minute)
			info = task.Info()
			assert.Equal(t, tether.Running, info.State)
			assert.Error(t, info.LastErr, "while the attempt after it runs")
			assert.Zero(t, info.NextAttempt)
			require.NoError(t, wait(task))
			assert.Len(t, o.saw(), 2)
		})
	})
	t.Run("no attempt that is the last one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			o := new(retryObserver)
			r := newRegistry(t, tether.Config{Logger: logger, Observer: o})
			assert.Error(t, wait(start(t, r, "once", fail)))
			never := policy
			never.ShouldRetry = func(error) bool { return false }
			assert.Error(t, wait(start(t, r, "never", fail, tether.Retry(never))))
			assert.Empty(t, o.saw())
			assert.Empty(t, book.about("task retrying"))
			assert.Error(t, wait(start(t, r, "always", fail, tether.Retry(policy))))
			assert.Len(t, o.saw(), 3)
		})
	})
	t.Run("one record a second of each name, which counts the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			policy := tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 0 }}
			for _, name := range []string{"a", "a", "a", "b"} {
				assert.Error(t, wait(start(t, r, name, fail, tether.Retry(policy))))
			}
			require.Len(t, book.about("task retrying"), 2)
			time.Sleep(time.Second)
			assert.Error(t, wait(start(t, r, "a", fail, tether.Retry(policy))))
			records := book.about("task retrying")
			require.Len(t, records, 3)
			assert.Equal(t, []string{"a", "2"}, []string{records[2]["task"], records[2]["omitted"]})
		})
	})
}

// requestID is a key of a context value, as the middlewares of log handlers use one.
type requestID struct{}

// requestLog is a log handler that adds a value of the context to each record.
type requestLog struct{ *logbook }

func (l requestLog) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	if id, ok := ctx.Value(requestID{}).(string); ok {
		r.AddAttrs(slog.String("request", id))
	}
	return l.logbook.Handle(ctx, r)
}

func TestT15_RecordsSayWhichTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := requestLog{new(logbook)}
		o := endObserver{func(t *tether.Task) {
			if t.Name() == "observed" {
				panic("test panic")
			}
		}}
		r := tether.New(tether.Config{Logger: slog.New(book), StuckAfter: time.Minute, Observer: o})
		ctx := context.WithValue(context.Background(), requestID{}, "request 7")
		submitTo := func(to tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
			opts = append(opts, tether.Label("feed", "42"), tether.Unique("key of "+name))
			task, err := to.Go(ctx, name, fn, opts...)
			require.NoError(t, err)
			return task
		}
		submit := func(name string, fn tether.Func, opts ...tether.Option) *tether.Task {
			return submitTo(r, name, fn, opts...)
		}
		full, free := fullPool(t, r, tether.OverflowDropOldest)
		submitTo(full, "overflows", succeed)
		submitTo(full, "replaces it", succeed)
		free()
		submit("observed", succeed)
		submit("fails", fail)
		submit("panics", func(context.Context) error { panic("boom") })
		submit("times out", untilCanceled, tether.Timeout(time.Second))
		submit("retries", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
		end := make(chan struct{})
		stuck := submit("stuck", until(end))
		held := submit("held", succeed, tether.Hold())
		time.Sleep(time.Hour)

		for name, msg := range map[string]string{
			"fails": "task failed", "panics": "panic", "times out": "task canceled", "retries": "task retrying", "stuck": "task stuck",
			"observed": "panic", "overflows": "task dropped",
		} {
			found := false
			for _, record := range book.about(msg) {
				if record["task"] == name {
					found = true
					assert.Equal(t, "request 7", record["request"], name)
					assert.Equal(t, "key of "+name, record["unique"], name)
					assert.Contains(t, record["labels"], "feed=42", name)
				}
			}
			assert.True(t, found, "no record %q of %q", msg, name)
		}

		err := within(r, time.Minute)
		var drainErr *tether.DrainError
		require.ErrorAs(t, err, &drainErr)
		assert.ErrorContains(t, err, fmt.Sprintf(`stuck (feed=42, key "key of stuck", %s, running`, stuck.ID()))
		report := r.Report().String()
		assert.Contains(t, report, fmt.Sprintf(`stuck (feed=42, key "key of stuck", %s, running`, stuck.ID()))
		assert.Contains(t, report, fmt.Sprintf(`held (feed=42, key "key of held", %s, dropped`, held.ID()))
		assert.Equal(t, map[string]string{"feed": "42"}, drainErr.Report.Abandoned[0].Labels)
		close(end)
		assert.NoError(t, within(r, time.Minute))
	})
}

func TestD8_TheDrainDoesNotIdle(t *testing.T) {
	var mu sync.Mutex // hand-overs are concurrent
	handOver := func(handed *[]string) tether.Option {
		return tether.HandOver(func(_ context.Context, info tether.Info) error {
			mu.Lock()
			defer mu.Unlock()
			*handed = append(*handed, info.Name)
			return nil
		})
	}
	t.Run("a delay or a backoff that ends after the cancellation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
			var handed []string
			start(t, r, "delayed", succeed, tether.Delay(20*time.Second))
			start(t, r, "handed over", succeed, tether.Delay(time.Hour), handOver(&handed))
			soon := start(t, r, "soon", succeed, tether.Delay(19*time.Second))
			start(t, r, "retrying", fail, tether.Retry(again))
			synctest.Wait()
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Equal(t, 19*time.Second, time.Since(began), "for the task that can start in time")
			assert.Equal(t, tether.Succeeded, soon.State())
			assert.Equal(t, []string{"handed over"}, handed)
			assert.Equal(t, []string{"delayed"}, names(r.Report().NeverStarted))
			assert.Equal(t, []string{"handed over"}, names(r.Report().HandedOver))
			assert.Equal(t, []string{"retrying"}, names(r.Report().Canceled))
			for _, info := range r.Report().Canceled {
				assert.ErrorIs(t, info.Err, tether.ErrShutdown)
			}
		})
	})
	t.Run("alone they end the drain at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			start(t, r, "delayed", succeed, tether.Delay(time.Hour))
			start(t, r, "retrying", fail, tether.Retry(again))
			synctest.Wait()
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Zero(t, time.Since(began))
		})
	})
	t.Run("without a deadline they run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			delayed := start(t, r, "delayed", succeed, tether.Delay(time.Hour))
			require.NoError(t, r.Shutdown(context.Background()))
			assert.Equal(t, tether.Succeeded, delayed.State())
		})
	})
	t.Run("a task that is submitted with a delay during the drain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
			var late *tether.Task
			start(t, r, "parent", func(ctx context.Context) (err error) {
				<-tether.StoppingFrom(ctx)
				late, err = r.Go(ctx, "late", succeed, tether.Delay(time.Hour))
				return err
			})
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Zero(t, time.Since(began))
			assert.Equal(t, tether.Dropped, late.State())
		})
	})
	t.Run("the queue of a pool", func(t *testing.T) {
		for atStop, want := range map[tether.AtStop]int{tether.AtStopFinish: 3, tether.AtStopDrop: 1} {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5, AtStop: atStop})
				ran := 0
				var handed []string
				for i := range 3 {
					start(t, p, fmt.Sprint(i), func(context.Context) error {
						time.Sleep(time.Second)
						ran++
						return nil
					}, handOver(&handed))
				}
				synctest.Wait()
				began := time.Now()
				require.NoError(t, within(r, 25*time.Second))
				assert.Equal(t, want, ran)
				assert.Equal(t, time.Duration(want)*time.Second, time.Since(began))
				assert.Len(t, handed, 3-want)
			})
		}
	})
}

func TestInfo_WhenADelayedTaskIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		now := time.Now()
		delayed := start(t, r, "delayed", func(context.Context) error { time.Sleep(time.Second); return nil }, tether.Delay(time.Minute))
		held := start(t, r, "held", succeed, tether.Delay(time.Minute), tether.Hold())
		assert.Equal(t, now.Add(time.Minute), delayed.Info().NextAttempt)
		assert.Equal(t, now.Add(time.Minute), held.Info().NextAttempt, "no earlier than that")
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, tether.Running, delayed.State())
		assert.Zero(t, delayed.Info().NextAttempt)
		held.Cancel(nil)
		assert.Zero(t, held.Info().NextAttempt)
		assert.Zero(t, start(t, r, "at once", succeed).Info().NextAttempt)
	})
}
