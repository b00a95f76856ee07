package tether_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// loop starts a loop that must be admitted.
func loop(t testing.TB, r *tether.Registry, name string, fn tether.Func, cfg tether.LoopConfig, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Loop(context.Background(), name, fn, cfg, opts...)
	require.NoError(t, err)
	require.NotNil(t, task)
	return task
}

// second is a backoff of one second.
func second(int, error) time.Duration { return time.Second }

// The context of a loop is canceled at the signal, while the servers still serve, and long
// before that of any other task. To return then is success.
func TestL1_ALoopEndsWhenTheStopBegins(t *testing.T) {
	ends := map[string]struct {
		body  func(ctx context.Context) error
		state tether.State
		logs  int
	}{
		"nil":           {func(ctx context.Context) error { <-ctx.Done(); return nil }, tether.Succeeded, 0},
		"context error": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, tether.Succeeded, 0},
		"the cause":     {untilCanceled, tether.Succeeded, 0},
		"wrapped":       {func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("poll: %w", ctx.Err()) }, tether.Succeeded, 0},
		"another error": {func(ctx context.Context) error { <-ctx.Done(); return errTest }, tether.Canceled, 1},
		"panic":         {func(ctx context.Context) error { <-ctx.Done(); panic("test panic") }, tether.Panicked, 1},
		"Goexit":        {func(ctx context.Context) error { <-ctx.Done(); runtime.Goexit(); return nil }, tether.Failed, 1},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, logged := newLogger()
				r := newRegistry(t, tether.Config{Logger: logger})
				signal := time.Now()
				var ended atomic.Int64
				l := loop(t, r, "order events", func(ctx context.Context) error {
					defer func() { ended.Store(int64(time.Since(signal))) }()
					return end.body(ctx)
				}, tether.LoopConfig{Restarts: tether.Unbounded, Essential: true})
				other := start(t, r, "mail", func(ctx context.Context) error {
					select {
					case <-time.After(10 * time.Second):
					case <-ctx.Done():
						t.Error("the stop cancels a task that is no loop")
					}
					return nil
				})
				synctest.Wait() // they run
				err := r.Run(stopNow(), tether.RunConfig{
					Servers: server(nil, func(context.Context) error {
						synctest.Wait()
						assert.True(t, l.State().Final(), "while a server stops, the loop has ended")
						time.Sleep(3 * time.Second)
						return nil
					}),
					Signals: noSignals,
				})
				require.NoError(t, err)
				assert.Zero(t, ended.Load(), "at the signal")
				assert.Equal(t, 1, l.Attempt(), "it is not restarted")
				assert.Equal(t, end.state, l.State())
				assert.Len(t, logged.about("order events"), end.logs)
				assert.Equal(t, tether.Succeeded, other.State())
				assert.Equal(t, 10*time.Second, time.Since(signal), "the loop does not hold up the stop")
				report := r.Report()
				assert.Equal(t, 1, report.Finished, "the loop had ended before the drain began")
				assert.Empty(t, report.Canceled)
			})
		})
	}
}

// Shutdown alone is the beginning of the stop, too, and waits for loops that take their
// time to return.
func TestL1_ShutdownWaitsForLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		began := time.Now()
		slow := loop(t, r, "consumer", func(ctx context.Context) error {
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), tether.ErrShutdown)
			_, err := r.Go(ctx, "last message", succeed)
			assert.NoError(t, err, "what it submits is admitted")
			time.Sleep(2 * time.Second)
			return ctx.Err()
		}, tether.LoopConfig{})
		synctest.Wait() // it runs
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, r.Shutdown(ctx))
		assert.Equal(t, 2*time.Second, time.Since(began))
		assert.Equal(t, tether.Succeeded, slow.State())
		assert.Equal(t, 2, r.Report().Finished)
	})
}

// A loop that does not return is reported as any task is.
func TestL1_ALoopThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		end := make(chan struct{})
		loop(t, r, "deaf", until(end), tether.LoopConfig{})
		synctest.Wait() // it runs
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var drain *tether.DrainError
		require.ErrorAs(t, r.Shutdown(ctx), &drain)
		require.Len(t, drain.Report.Abandoned, 1)
		assert.True(t, drain.Report.Abandoned[0].Loop)
		assert.Contains(t, string(drain.Report.Stacks["deaf"]), "until.1")
		close(end)
	})
}

// From the beginning of the stop on no loop starts: those that wait are dropped, and
// submissions are refused.
func TestL1_NoLoopStartsDuringTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		never := func(context.Context) error { t.Error("it runs"); return nil }
		waiting := []*tether.Task{
			loop(t, r, "held", never, tether.LoopConfig{}, tether.Hold()),
			loop(t, r, "delayed", never, tether.LoopConfig{}, tether.Delay(time.Second)),
		}
		failing := loop(t, r, "failing", fail, tether.LoopConfig{Restarts: tether.Unbounded, Backoff: second})
		synctest.Wait()
		assert.Equal(t, tether.Stats{Submitted: 3, Held: 1, Queued: 2, Loops: 3}, r.Stats())
		err := r.Run(stopNow(), tether.RunConfig{
			Servers: server(nil, func(context.Context) error {
				synctest.Wait()
				for _, l := range waiting {
					assert.Equal(t, tether.Dropped, l.State(), l.Name())
					assert.ErrorIs(t, l.Err(), tether.ErrShutdown)
				}
				assert.Equal(t, tether.Canceled, failing.State())
				assert.ErrorIs(t, failing.Err(), errTest, "its last failure")
				_, err := r.Loop(context.Background(), "late", never, tether.LoopConfig{})
				assert.ErrorIs(t, err, tether.ErrClosed)
				_, err = r.Go(context.Background(), "task", func(ctx context.Context) error {
					<-tether.StoppingFrom(ctx)
					time.Sleep(time.Second) // until the drain has begun
					_, err := r.Loop(ctx, "child", never, tether.LoopConfig{})
					assert.ErrorIs(t, err, tether.ErrClosed)
					return nil
				})
				assert.NoError(t, err, "other tasks are still admitted")
				return nil
			}),
			Signals: noSignals,
		})
		require.NoError(t, err)
	})
}

// Many loops are submitted, end and restart while the stop begins: none is left.
func TestL1_LoopsAndTheBeginningOfTheStop(t *testing.T) {
	for range 20 {
		r := newRegistry(t, tether.Config{})
		var running atomic.Int64
		body := func(ctx context.Context) error {
			defer running.Add(-1)
			l, _ := tether.FromContext(ctx)
			if running.Add(1)%2 == 0 && l.Attempt() < 3 {
				return errTest
			}
			return untilCanceled(ctx)
		}
		quick := tether.LoopConfig{Restarts: tether.Unbounded, Backoff: func(int, error) time.Duration { return 0 }}
		submitted := make(chan int)
		for i := range 4 {
			go func() {
				for n := range 100 {
					_, err := r.Loop(context.Background(), "loop", body, quick)
					if err != nil {
						assert.ErrorIs(t, err, tether.ErrClosed)
						submitted <- n
						return
					}
					runtime.Gosched()
					if n == 10 && i == 0 {
						go func() { assert.NoError(t, r.Shutdown(context.Background())) }()
					}
				}
				submitted <- 100
			}()
		}
		total := 0
		for range 4 {
			total += <-submitted
		}
		require.NoError(t, r.Shutdown(context.Background()))
		s := r.Stats()
		assert.True(t, adds(s))
		assert.Equal(t, uint64(total), s.Submitted)
		assert.Zero(t, s.Loops+s.Running+s.Queued+s.Held)
		assert.Zero(t, running.Load())
	}
}

// A loop that fails is restarted, after a wait that grows, and each restart is an attempt.
func TestL2_ALoopIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logged := newLogger()
		seen := new(retryJournal)
		r := newRegistry(t, tether.Config{Logger: logger, Observer: seen})
		var failures []int
		var starts []time.Duration
		began := time.Now()
		l := loop(t, r, "order events", func(ctx context.Context) error {
			starts = append(starts, time.Since(began))
			switch len(starts) {
			case 1:
				return errTest
			case 2:
				panic("test panic")
			case 3:
				runtime.Goexit()
			}
			return untilCanceled(ctx)
		}, tether.LoopConfig{Restarts: 3, Backoff: func(n int, err error) time.Duration {
			failures = append(failures, n)
			assert.Error(t, err)
			return time.Duration(n) * time.Second
		}})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		info := l.Info()
		assert.True(t, info.Loop)
		assert.Equal(t, tether.Queued, info.State)
		assert.Equal(t, 3, info.Attempt)
		assert.Zero(t, info.MaxAttempts)
		assert.Equal(t, 3*time.Second, info.NextAttempt.Sub(began))
		assert.ErrorContains(t, info.LastErr, "test panic")
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, []int{1, 2, 3}, failures)
		assert.Equal(t, []time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second}, starts)
		assert.Equal(t, tether.Running, l.State())
		assert.Equal(t, 4, l.Attempt())
		assert.Equal(t, 3, seen.count())
		restarts := logged.about("loop restarting")
		require.Len(t, restarts, 3)
		assert.Equal(t, "WARN", restarts[0]["level"])
		assert.Equal(t, "1s", restarts[0]["wait"])
		assert.Equal(t, errTest.Error(), restarts[0]["error"])
	})
}

// retryJournal counts failed attempts that were followed by another.
type retryJournal struct {
	tether.NopObserver
	n atomic.Int64
}

func (j *retryJournal) count() int { return int(j.n.Load()) }
func (j *retryJournal) TaskRetrying(context.Context, *tether.Task, error, time.Duration) {
	j.n.Add(1)
}

// What counts is how often a loop has failed in a row: a long run makes its failures
// before that forgotten.
func TestL2_ALongRunForgetsFailures(t *testing.T) {
	for _, long := range []bool{false, true} {
		t.Run(fmt.Sprint(long), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				run := 10*time.Minute - 1
				if long {
					run++
				}
				var failures []int
				l := loop(t, r, "consumer", func(ctx context.Context) error {
					tick := time.After(run)
					select {
					case <-tick:
						return errTest
					case <-ctx.Done():
						return nil
					}
				}, tether.LoopConfig{Restarts: 2, Backoff: func(n int, _ error) time.Duration {
					failures = append(failures, n)
					return time.Hour
				}})
				time.Sleep(10*time.Hour - time.Minute)
				synctest.Wait()
				if long {
					assert.Equal(t, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, failures)
					assert.False(t, l.State().Final())
				} else {
					assert.Equal(t, []int{1, 2}, failures)
					assert.Equal(t, tether.Failed, l.State())
				}
			})
		})
	}
}

// A loop that returns nil is done: it is not restarted, and the log says that it has ended.
func TestL2_ALoopMayEnd(t *testing.T) {
	logger, logged := newLogger()
	r := newRegistry(t, tether.Config{Logger: logger})
	l := loop(t, r, "import", succeed, tether.LoopConfig{Restarts: tether.Unbounded})
	require.NoError(t, wait(l))
	require.NoError(t, r.Shutdown(context.Background()))
	assert.Equal(t, 1, l.Attempt())
	ended := logged.about("loop ended")
	require.Len(t, ended, 1)
	assert.Equal(t, "import", ended[0]["task"])
	assert.Equal(t, "INFO", ended[0]["level"])
}

// The program may end a loop itself. That is no failure, whether it runs or waits for its
// restart.
func TestL2_TheProgramMayCancelALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logged := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		cfg := tether.LoopConfig{Restarts: tether.Unbounded, Backoff: second, Essential: true}
		running, waiting := loop(t, r, "running", untilCanceled, cfg), loop(t, r, "waiting", fail, cfg)
		silent := loop(t, r, "silent", func(ctx context.Context) error { <-ctx.Done(); return nil }, cfg)
		synctest.Wait()
		for _, l := range []*tether.Task{running, waiting, silent} {
			l.Cancel(nil)
		}
		synctest.Wait()
		assert.Equal(t, tether.Canceled, running.State())
		assert.Equal(t, tether.Canceled, waiting.State())
		assert.Equal(t, tether.Succeeded, silent.State())
		assert.Zero(t, r.Stats().Loops)
		assert.Empty(t, logged.about("loop ended"))
		assert.NoError(t, r.Run(stopAfter(t, time.Hour), tether.RunConfig{Signals: noSignals}), "no essential loop has ended on its own")
	})
}

// stopAfter is the context of a Run that stops after a while.
func stopAfter(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// If an essential loop gives up, Run stops and returns its error; so it does if the loop
// has given up before Run was called. A loop that returns nil stops Run without an error.
func TestL3_AnEssentialLoopStopsTheProcess(t *testing.T) {
	ends := map[string]struct {
		body tether.Func
		err  string
	}{
		"fails":   {fail, `tether: loop "order events": test error`},
		"panics":  {func(context.Context) error { panic("test panic") }, `tether: loop "order events": tether: task "order events" panicked: test panic`},
		"goexits": {func(context.Context) error { runtime.Goexit(); return nil }, `tether: loop "order events": ` + tether.ErrGoexit.Error()},
		"returns": {succeed, ""},
	}
	for name, end := range ends {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprint(name, before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					logger, logged := newLogger()
					r := newRegistry(t, tether.Config{Logger: logger})
					began := time.Now()
					body := end.body
					if !before {
						body = func(ctx context.Context) error { time.Sleep(time.Minute); return end.body(ctx) }
					}
					restarts := 0
					if name != "returns" {
						restarts = 2
					}
					loop(t, r, "harmless", fail, tether.LoopConfig{})
					loop(t, r, "order events", body, tether.LoopConfig{Restarts: restarts, Backoff: second, Essential: true})
					if before {
						time.Sleep(time.Minute)
						synctest.Wait()
					}
					stopped := make(chan struct{})
					err := r.Run(context.Background(), tether.RunConfig{
						Servers: server(func() error { <-stopped; return nil }, func(context.Context) error { close(stopped); return nil }),
						Signals: noSignals,
					})
					if end.err == "" {
						assert.NoError(t, err)
					} else {
						assert.EqualError(t, err, end.err)
					}
					if before {
						assert.Equal(t, time.Minute, time.Since(began))
					} else {
						assert.Equal(t, time.Duration(restarts)*time.Second+time.Duration(restarts+1)*time.Minute, time.Since(began))
					}
					assert.Len(t, logged.about("stopping: a loop has ended"), 1)
				})
			})
		}
	}
}

// The error of an essential loop that gives up at the same time as a signal comes is
// not lost.
func TestL3_AnEssentialLoopAndASignalAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 { // select takes either
			r := newRegistry(t, tether.Config{})
			loop(t, r, "order events", fail, tether.LoopConfig{Essential: true})
			synctest.Wait()
			assert.ErrorIs(t, r.Run(stopNow(), tether.RunConfig{Signals: noSignals}), errTest)
		}
	})
}

// The error of a loop may be hostile: Run returns all the same.
func TestL3_ALoopWhoseErrorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		r := newRegistry(t, tether.Config{})
		for _, err := range []error{mute{end}, brokenError{}} {
			loop(t, r, "order events", func(context.Context) error { return err }, tether.LoopConfig{Essential: true})
		}
		synctest.Wait()
		assert.ErrorContains(t, r.Run(context.Background(), tether.RunConfig{Signals: noSignals}), `loop "order events"`)
		close(end)
	})
}

// A loop is not stuck, however long it runs, and has no timeout.
func TestL4_ALoopIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := new(stuckJournal)
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Timeout: time.Minute, Observer: seen})
		l := loop(t, r, "consumer", untilCanceled, tether.LoopConfig{})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		assert.Empty(t, seen.of(l))
		assert.Equal(t, tether.Running, l.State())
		assert.Equal(t, 1, r.Stats().Loops)
		assert.Equal(t, 1, r.OwnStats().Running)
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Equal(t, tether.Succeeded, l.State())
	})
}

// Options and settings that make no sense for a loop are refused, and nothing starts.
func TestLoop_Invalid(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	for name, opt := range map[string]tether.Option{
		"Timeout": tether.Timeout(time.Second), "Retry": tether.Retry(tether.RetryPolicy{Attempts: 2}),
		"Serial": tether.Serial("x"), "StuckAfter": tether.StuckAfter(time.Second),
		"HandOver": tether.HandOver(func(context.Context, tether.Info) error { return nil }),
	} {
		_, err := r.Loop(context.Background(), "loop", untilCanceled, tether.LoopConfig{}, opt)
		assert.ErrorIs(t, err, tether.ErrInvalid)
		assert.ErrorContains(t, err, name)
	}
	for _, cfg := range []tether.LoopConfig{{Restarts: -1}, {ResetAfter: -1}} {
		_, err := r.Loop(context.Background(), "loop", untilCanceled, cfg)
		assert.ErrorIs(t, err, tether.ErrInvalid)
	}
	_, err := r.Loop(context.Background(), "loop", nil, tether.LoopConfig{})
	assert.ErrorIs(t, err, tether.ErrInvalid)
	assert.Zero(t, r.Stats().Submitted)
	assert.Equal(t, uint64(8), r.Stats().Refused)
}

// One loop for each key: a second submission finds the first.
func TestLoop_Unique(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	first := loop(t, r, "topic", untilCanceled, tether.LoopConfig{}, tether.Unique("topic 1"), tether.Label("topic", "1"))
	assert.Same(t, first, loop(t, r, "topic", untilCanceled, tether.LoopConfig{}, tether.Unique("topic 1")))
	assert.NotSame(t, first, loop(t, r, "topic", untilCanceled, tether.LoopConfig{}, tether.Unique("topic 2")))
	found, err := r.Find(first.ID())
	require.NoError(t, err)
	assert.Same(t, first, found)
	assert.Equal(t, 2, len(slices.Collect(r.Tasks())))
}

// The policy is the user's: a backoff that panics ends the loop, and that is an outcome.
func TestLoop_ABackoffThatPanics(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	l := loop(t, r, "consumer", fail, tether.LoopConfig{Restarts: 1, Essential: true, Backoff: func(int, error) time.Duration { panic("backoff") }})
	err := r.Run(context.Background(), tether.RunConfig{Signals: []os.Signal{}})
	assert.ErrorContains(t, err, "backoff")
	var panicked *tether.PanicError
	assert.True(t, errors.As(l.Err(), &panicked))
	assert.Equal(t, tether.Panicked, l.State())
}
