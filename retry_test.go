package tether_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// every returns a policy of that many attempts with a fixed wait between them.
func every(attempts int, wait time.Duration) tether.RetryPolicy {
	return tether.RetryPolicy{Attempts: attempts, Backoff: func(int, error) time.Duration { return wait }}
}

func TestT11_OneTaskManyAttempts(t *testing.T) {
	// failing returns a body that fails n times, and counts its attempts.
	failing := func(n int, attempts *int) tether.Func {
		return func(context.Context) error {
			if *attempts++; *attempts <= n {
				return errTest
			}
			return nil
		}
	}
	bubble := func(name string, test func(t *testing.T, r *tether.Registry, p *tether.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				test(t, r, r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowReject}))
			})
		})
	}
	bubble("only the last outcome is final", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		for _, on := range []tether.Submitter{r, p} {
			attempts := 0
			began := time.Now()
			task := start(t, on, "task", failing(2, &attempts), tether.Retry(every(5, time.Minute)))
			synctest.Wait()
			assert.Equal(t, tether.Queued, task.State())
			assert.NoError(t, task.Err())
			assert.False(t, closed(task.Done()))
			assert.NoError(t, wait(task))
			assert.Equal(t, 3, attempts)
			assert.Equal(t, 2*time.Minute, time.Since(began))
			info := task.Info()
			assert.Equal(t, 3, info.Attempt)
			assert.Equal(t, 2*time.Minute, info.Finished.Sub(info.Started))
		}
		assert.Equal(t, tether.Stats{Submitted: 2, Succeeded: 2}, r.Stats())
	})
	bubble("the last failure is the task's", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		var waits []int
		attempts := 0
		task := start(t, r, "task", failing(10, &attempts), tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(attempt int, _ error) time.Duration {
			waits = append(waits, attempt)
			return time.Duration(attempt) * time.Second
		}}))
		began := time.Now()
		assert.Equal(t, errTest, wait(task))
		assert.Equal(t, tether.Failed, task.State())
		assert.Equal(t, 3, attempts)
		assert.Equal(t, []int{1, 2}, waits)
		assert.Equal(t, 3*time.Second, time.Since(began))
	})
	bubble("one attempt is no retry", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		assert.Error(t, wait(start(t, r, "task", failing(10, &attempts), tether.Retry(every(1, 0)))))
		assert.Equal(t, 1, attempts)
	})
	bubble("without a Backoff it waits a second at most", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		began := time.Now()
		assert.NoError(t, wait(start(t, r, "task", failing(1, &attempts), tether.Retry(tether.RetryPolicy{Attempts: 2}))))
		assert.LessOrEqual(t, time.Since(began), time.Second)
	})
	bubble("a negative wait is none", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		began := time.Now()
		assert.NoError(t, wait(start(t, r, "task", failing(1, &attempts), tether.Retry(every(2, -time.Hour)))))
		assert.Zero(t, time.Since(began))
	})
	bubble("If decides", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		other := errors.New("other")
		policy := every(5, 0)
		policy.ShouldRetry = func(err error) bool { return errors.Is(err, errTest) }
		attempts := 0
		task := start(t, r, "task", func(context.Context) error {
			if attempts++; attempts < 3 {
				return errTest
			}
			return other
		}, tether.Retry(policy))
		assert.Equal(t, other, wait(task))
		assert.Equal(t, 3, attempts)
	})
	bubble("panics are final", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, r, "task", func(context.Context) error { attempts++; panic("test panic") }, tether.Retry(every(5, 0)))
		assert.Error(t, wait(task))
		assert.Equal(t, tether.Panicked, task.State())
		assert.Equal(t, 1, attempts)
	})
	bubble("panics are retried if If says so", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		policy := every(5, 0)
		policy.ShouldRetry = func(err error) bool {
			var e *tether.PanicError
			return errors.As(err, &e)
		}
		attempts := 0
		task := start(t, r, "task", func(context.Context) error {
			if attempts++; attempts < 3 {
				panic("test panic")
			}
			return nil
		}, tether.Retry(policy))
		assert.NoError(t, wait(task))
		assert.Equal(t, 3, attempts)
	})
	bubble("a cancelled attempt is final", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		for _, returned := range []error{errTest, errors.New("other")} {
			attempts := 0
			task := start(t, r, "task", func(ctx context.Context) error {
				attempts++
				<-ctx.Done()
				return returned
			}, tether.Retry(every(5, 0)))
			synctest.Wait()
			task.Cancel(errTest)
			assert.ErrorIs(t, wait(task), returned)
			assert.Equal(t, 1, attempts)
		}
	})
	bubble("an attempt that the shutdown cancelled is final", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, r, "task", func(ctx context.Context) error {
			attempts++
			<-ctx.Done()
			return errTest
		}, tether.Retry(every(5, 0)))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, tether.Canceled, task.State())
		assert.ErrorIs(t, task.Err(), errTest)
		assert.Equal(t, 1, attempts)
	})
	bubble("retries go on in the drain's first phase", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, p, "task", failing(2, &attempts), tether.Retry(every(5, time.Minute)))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		assert.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, tether.Succeeded, task.State())
	})
	bubble("cancelled between two attempts", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		for _, on := range []tether.Submitter{r, p} {
			attempts := 0
			task := start(t, on, "task", failing(5, &attempts), tether.Retry(every(5, time.Hour)))
			synctest.Wait()
			cause := errors.New("cause")
			assert.True(t, task.Cancel(cause))
			assert.True(t, closed(task.Done()), "at once")
			assert.Equal(t, tether.Canceled, task.State(), "it ran")
			assert.ErrorIs(t, task.Err(), cause)
			assert.ErrorIs(t, task.Err(), errTest, "and what the last attempt said is not lost")
			time.Sleep(24 * time.Hour)
			assert.Equal(t, 1, attempts)
		}
		assert.Equal(t, tether.Stats{Submitted: 2, Canceled: 2}, r.Stats())
		for range 3 {
			start(t, p, "task", succeed)
		}
	})
	bubble("cut short by the shutdown between two attempts", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, p, "task", failing(5, &attempts), tether.Retry(every(5, time.Hour)),
			tether.HandOver(func(context.Context, tether.Info) error { t.Error("it has started: not to be handed over"); return nil }))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, tether.Canceled, task.State())
		assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
		assert.ErrorIs(t, task.Err(), errTest)
		assert.Equal(t, 1, attempts)
		assert.Len(t, r.Report().Canceled, 1)
	})
	bubble("the timeout bounds all attempts", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, r, "task", func(ctx context.Context) error {
			attempts++
			timer := time.NewTimer(40 * time.Second)
			defer timer.Stop()
			select {
			case <-timer.C:
				return errTest
			case <-ctx.Done():
				return ctx.Err()
			}
		}, tether.Retry(every(5, 0)), tether.Timeout(time.Minute))
		began := time.Now()
		assert.ErrorIs(t, wait(task), tether.ErrTimeout)
		assert.Equal(t, tether.Canceled, task.State())
		assert.Equal(t, 2, attempts)
		assert.Equal(t, time.Minute, time.Since(began))
	})
	bubble("no attempt that would start too late is waited for", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, r, "task", failing(5, &attempts), tether.Retry(every(5, time.Minute)), tether.Timeout(90*time.Second))
		began := time.Now()
		assert.Equal(t, errTest, wait(task))
		assert.Equal(t, tether.Failed, task.State())
		assert.Equal(t, 2, attempts)
		assert.Equal(t, time.Minute, time.Since(began), "it is over when the next attempt is out of reach")
	})
	bubble("a timed-out body that fails otherwise is final", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		task := start(t, r, "task", func(context.Context) error { attempts++; time.Sleep(time.Hour); return errTest },
			tether.Retry(every(5, 0)), tether.Timeout(time.Minute))
		assert.ErrorIs(t, wait(task), errTest)
		assert.ErrorIs(t, task.Err(), tether.ErrTimeout)
		assert.Equal(t, tether.Canceled, task.State())
		assert.Equal(t, 1, attempts)
	})
	bubble("the wait holds no worker, but a place", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		retried := start(t, p, "retried", failing(1, &attempts), tether.Retry(every(2, time.Hour)))
		synctest.Wait()
		began := time.Now()
		assert.NoError(t, wait(start(t, p, "other", succeed)))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, 1, p.Stats().Queued)
		assert.Zero(t, p.Stats().Running)
		gate := make(chan struct{})
		start(t, p, "running", until(gate))
		synctest.Wait()
		start(t, p, "queued", succeed)
		_, err := p.Go(context.Background(), "one too many", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
		close(gate)
		assert.NoError(t, wait(retried))
		assert.Equal(t, time.Hour, time.Since(began))
	})
	bubble("a serial key keeps its turn", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		attempts := 0
		first := start(t, p, "first", failing(1, &attempts), tether.Serial("key"), tether.Retry(every(2, time.Hour)))
		second := start(t, p, "second", succeed, tether.Serial("key"))
		require.NoError(t, wait(second))
		assert.True(t, first.State().Final())
		assert.Equal(t, time.Hour, second.Info().Started.Sub(second.Info().Submitted))
	})
	bubble("each attempt has the task's context, live still", func(t *testing.T, r *tether.Registry, p *tether.Pool) {
		var seen []context.Context
		task := start(t, r, "task", func(ctx context.Context) error {
			seen = append(seen, ctx)
			if err := ctx.Err(); err != nil {
				return nil
			}
			return errTest
		}, tether.Retry(every(3, time.Minute)))
		assert.Equal(t, errTest, wait(task))
		assert.Len(t, seen, 3)
	})
	bubble("by its submitter", func(t *testing.T, r *tether.Registry, _ *tether.Pool) {
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		attempts := 0
		began := time.Now()
		task := start(t, p, "task", failing(2, &attempts), tether.Retry(every(5, time.Minute)))
		assert.True(t, task.State().Final())
		assert.NoError(t, wait(task))
		assert.Equal(t, 3, attempts)
		assert.Equal(t, 2*time.Minute, time.Since(began))
	})
	bubble("by its submitter, cancelled between two attempts", func(t *testing.T, r *tether.Registry, _ *tether.Pool) {
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		began := time.Now()
		task := start(t, p, "task", func(ctx context.Context) error {
			self, _ := tether.FromContext(ctx)
			time.AfterFunc(time.Minute, func() { self.Cancel(nil) })
			return errTest
		}, tether.Retry(every(5, time.Hour)))
		assert.Equal(t, time.Minute, time.Since(began))
		assert.Equal(t, tether.Canceled, task.State())
		assert.ErrorIs(t, wait(task), context.Canceled)
	})
}

func TestRetryWithoutAWaitYields(t *testing.T) {
	// Two tasks on one worker, each of which fails until the other has run.
	r := newRegistry(t, tether.Config{})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowBlock})
	var ran [2]bool
	tasks := make([]*tether.Task, 2)
	for i := range tasks {
		tasks[i] = start(t, p, "task", func(context.Context) error {
			ran[i] = true
			if !ran[1-i] {
				runtime.Gosched()
				return errTest
			}
			return nil
		}, tether.Retry(every(1_000_000, 0)))
	}
	for _, task := range tasks {
		assert.NoError(t, wait(task))
	}
}

func TestExponentialBackoff(t *testing.T) {
	for _, c := range []struct {
		first, most time.Duration
		attempt     int
		bound       time.Duration
	}{
		{time.Second, time.Minute, 1, time.Second},
		{time.Second, time.Minute, 2, 2 * time.Second},
		{time.Second, time.Minute, 3, 4 * time.Second},
		{time.Second, time.Minute, 7, time.Minute},
		{time.Second, time.Minute, math.MaxInt, time.Minute},
		{time.Second, time.Minute, 0, time.Second},
		{time.Second, time.Minute, -5, time.Second},
		{time.Hour, time.Minute, 1, time.Minute},
		{time.Second, math.MaxInt64, 1000, math.MaxInt64},
		{0, time.Minute, 5, 0},
		{-time.Second, time.Minute, 5, 0},
		{time.Second, 0, 5, 0},
		{time.Second, -time.Second, 5, 0},
	} {
		wait := tether.ExponentialBackoff(c.first, c.most)
		highest := time.Duration(0)
		assert.NotPanics(t, func() {
			for range 200 {
				w := wait(c.attempt, nil)
				assert.True(t, 0 <= w && w <= c.bound, "ExponentialBackoff(%v, %v)(%d) = %v", c.first, c.most, c.attempt, w)
				highest = max(highest, w)
			}
			if c.bound > 0 {
				assert.Greater(t, highest, c.bound/2, "ExponentialBackoff(%v, %v)(%d): half of the waits are longer", c.first, c.most, c.attempt)
			}
		}, "ExponentialBackoff(%v, %v)(%d)", c.first, c.most, c.attempt)
	}
}
