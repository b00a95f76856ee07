package tether_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

func TestD8_AtStopDropWhileTheDrainGoesOn(t *testing.T) {
	// test begins a drain of 25 s beside a pool with AtStopDrop, whose worker is busy for a
	// second. handed counts the hand-overs.
	test := func(name string, cfg tether.PoolConfig, f func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				cfg.Workers, cfg.AtStop = 1, tether.AtStopDrop
				p := r.NewPool("pool", cfg)
				var handed atomic.Int32
				f(t, r, p, tether.HandOver(func(ctx context.Context, info tether.Info) error {
					_, ok := ctx.Deadline()
					assert.False(t, ok, "it is done with the context of Shutdown, whose deadline is not its own")
					handed.Add(1)
					return nil
				}), &handed)
			})
		})
	}
	aSecond := func(context.Context) error { time.Sleep(time.Second); return nil }

	test("what a running task submits during the drain", tether.PoolConfig{Queue: 5},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			var plain, offered, elsewhere *tether.Task
			parent := start(t, r, "parent", func(ctx context.Context) (err error) {
				<-tether.StoppingFrom(ctx)
				plain, err = p.Go(ctx, "plain", succeed) // a worker is free
				require.NoError(t, err)
				offered, err = p.Go(ctx, "offered", succeed, handOver)
				require.NoError(t, err)
				elsewhere, err = r.Go(ctx, "elsewhere", succeed)
				return err
			})
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Zero(t, time.Since(began))
			assert.Equal(t, tether.Succeeded, parent.State())
			assert.Equal(t, tether.Dropped, plain.State())
			assert.ErrorIs(t, plain.Err(), tether.ErrShutdown)
			assert.True(t, offered.Info().HandedOver)
			assert.Equal(t, tether.Succeeded, elsewhere.State())
			assert.Equal(t, []string{"plain"}, names(r.Report().NeverStarted))
		})
	test("a full one with CallerRuns", tether.PoolConfig{Overflow: tether.OverflowCallerRuns},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			start(t, p, "fills it", aSecond)
			var inline *tether.Task
			start(t, r, "parent", func(ctx context.Context) (err error) {
				<-tether.StoppingFrom(ctx)
				inline, err = p.Go(ctx, "inline", succeed, handOver)
				return err
			})
			require.NoError(t, within(r, 25*time.Second))
			assert.True(t, inline.Info().HandedOver)
			assert.EqualValues(t, 1, handed.Load())
			assert.Zero(t, p.Stats().Inline)
		})
	test("one that is paused", tether.PoolConfig{Queue: 5},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			p.Pause()
			queued := start(t, p, "queued", succeed, handOver)
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Zero(t, time.Since(began))
			assert.True(t, queued.Info().HandedOver)
		})
	test("a held task waits for its release", tether.PoolConfig{Queue: 5},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			held := start(t, p, "held", succeed, tether.Hold(), handOver)
			canceled := start(t, p, "canceled", succeed, tether.Hold(), handOver)
			go func() {
				time.Sleep(time.Second)
				assert.Equal(t, tether.Held, held.State(), "its transaction may not be committed")
				held.Release()
				canceled.Cancel(errTest)
			}()
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Equal(t, time.Second, time.Since(began))
			assert.True(t, held.Info().HandedOver)
			assert.False(t, canceled.Info().HandedOver)
			assert.ErrorIs(t, canceled.Err(), errTest)
		})
	test("tasks that wait for their key", tether.PoolConfig{Queue: 5},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			require.NoError(t, p.Resize(2))
			first := start(t, p, "first", aSecond, tether.Serial("key"))
			for range 3 {
				start(t, p, "behind it", succeed, tether.Serial("key"), handOver)
			}
			synctest.Wait()
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Equal(t, time.Second, time.Since(began))
			assert.Equal(t, tether.Succeeded, first.State())
			assert.EqualValues(t, 3, handed.Load())
			s := p.Stats()
			assert.Zero(t, s.Queued)
			assert.Zero(t, s.Weight)
		})
	test("a task between two attempts", tether.PoolConfig{Queue: 5},
		func(t *testing.T, r *tether.Registry, p *tether.Pool, handOver tether.Option, handed *atomic.Int32) {
			task := start(t, p, "retries", fail, tether.Retry(every(3, time.Second)), handOver)
			synctest.Wait()
			began := time.Now()
			require.NoError(t, within(r, 25*time.Second))
			assert.Zero(t, time.Since(began))
			assert.Equal(t, tether.Canceled, task.State())
			assert.ErrorIs(t, task.Err(), errTest)
			assert.Zero(t, handed.Load(), "it has started")
		})
}

func TestD8_CallerRunsBetweenAttempts(t *testing.T) {
	for name, during := range map[string]bool{"the drain begins in the wait": false, "the drain begins in the attempt": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
				release := make(chan struct{})
				start(t, p, "fills it", until(release))
				returned := make(chan *tether.Task, 1)
				go func() {
					task, err := p.Go(context.Background(), "inline", func(ctx context.Context) error {
						if during {
							<-tether.StoppingFrom(ctx)
							time.Sleep(time.Second)
						}
						return errTest
					}, tether.Retry(every(3, time.Hour)))
					assert.NoError(t, err)
					returned <- task
				}()
				synctest.Wait()
				close(release)
				began := time.Now()
				require.NoError(t, within(r, 25*time.Second))
				task := <-returned
				assert.Equal(t, tether.Canceled, task.State())
				assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
				assert.ErrorIs(t, task.Err(), errTest)
				assert.Equal(t, map[bool]time.Duration{false: 0, true: time.Second}[during], time.Since(began))
			})
		})
	}
}

// A second Shutdown with an earlier deadline drops what cannot start before that.
func TestD8_AnEarlierDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		late := start(t, r, "late", succeed, tether.Delay(time.Minute))
		soon := start(t, r, "soon", succeed, tether.Delay(10*time.Second))
		began := time.Now()
		first := make(chan error)
		go func() { first <- r.Shutdown(context.Background()) }()
		time.Sleep(time.Second)
		assert.Equal(t, tether.Queued, late.State(), "without a deadline it can start")
		require.NoError(t, within(r, 20*time.Second))
		require.NoError(t, <-first)
		assert.Equal(t, tether.Dropped, late.State())
		assert.Equal(t, tether.Succeeded, soon.State())
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
}

// A held task whose delay ends after the cancellation cannot start, released or not.
func TestD8_HeldAndDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "task", succeed, tether.Hold(), tether.Delay(time.Hour))
		began := time.Now()
		require.NoError(t, within(r, 25*time.Second))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, tether.Dropped, task.State())
		assert.Zero(t, r.Stats().Held)
	})
}

func TestValuesOfKeptTasksOnly(t *testing.T) {
	answer := func(context.Context) (int, error) { return 42, nil }
	submit := func(t *testing.T, r *tether.Registry) *tether.Result[int] {
		res, err := tether.Submit(context.Background(), r, "task", answer, tether.Hold())
		require.NoError(t, err)
		return res
	}
	end := func(t *testing.T, res *tether.Result[int]) {
		require.True(t, res.Release())
		v, err := res.Value(context.Background())
		require.NoError(t, err)
		require.Equal(t, 42, v)
	}
	for _, retain := range []int{-1, 0} {
		r := newRegistry(t, tether.Config{Retain: retain})
		t.Run("kept", func(t *testing.T) {
			res := submit(t, r)
			assert.True(t, res.Task.Keep())
			assert.Nil(t, res.Task.Value(), "it has not ended")
			end(t, res)
			found, err := r.Find(res.ID())
			require.NoError(t, err)
			assert.Equal(t, 42, found.Value())
			assert.Contains(t, ids(r.Finished()), res.ID())
			assert.True(t, found.Forget())
			_, err = r.Find(res.ID())
			assert.ErrorIs(t, err, tether.ErrExpired)
		})
		t.Run("not kept", func(t *testing.T) {
			res := submit(t, r)
			end(t, res)
			assert.Nil(t, res.Task.Value())
			found, err := r.Find(res.ID())
			if retain < 0 {
				assert.ErrorIs(t, err, tether.ErrExpired)
				assert.False(t, res.Keep(), "it is forgotten")
				assert.Nil(t, res.Task.Value())
				return
			}
			require.NoError(t, err)
			assert.Nil(t, found.Value())
			assert.True(t, found.Keep())
			assert.Nil(t, found.Value(), "the value is the Result's alone")
			assert.True(t, res.Keep())
			assert.Equal(t, 42, found.Value())
		})
	}
	t.Run("kept by its own body", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: -1})
		res, err := tether.Submit(context.Background(), r, "task", func(ctx context.Context) (int, error) {
			task, _ := tether.FromContext(ctx)
			assert.True(t, task.Keep())
			return 42, nil
		})
		require.NoError(t, err)
		require.NoError(t, wait(res.Task))
		assert.Equal(t, 42, res.Task.Value())
	})
	t.Run("beside its end", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for range 500 {
			res, err := tether.Submit(context.Background(), r, "task", answer)
			require.NoError(t, err)
			kept := make(chan bool)
			go func() { kept <- res.Keep() }()
			require.NoError(t, wait(res.Task))
			require.True(t, <-kept)
			require.Equal(t, 42, res.Task.Value())
		}
	})
}

// Records of a task have what the observer has put into its context, also those of
// attempts, panics and hand-overs.
func TestT15_RecordsHaveWhatAnObserverDerived(t *testing.T) {
	for name, observer := range map[string]tether.Observer{"one": requestObserver{}, "two": tether.JoinObservers(tether.NopObserver{}, requestObserver{})} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := requestLog{new(logbook)}
				r := tether.New(tether.Config{Logger: slog.New(book), Observer: observer, StuckAfter: time.Minute})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
				ctx := context.WithValue(context.Background(), requestID{}, "of the submitter")
				submit := func(to tether.Submitter, name string, fn tether.Func, opts ...tether.Option) {
					_, err := to.Go(ctx, name, fn, opts...)
					require.NoError(t, err)
				}
				end := make(chan struct{})
				submit(r, "fails", fail)
				submit(r, "panics", func(context.Context) error { panic("boom") })
				submit(r, "retries", fail, tether.Retry(every(2, time.Second)))
				submit(r, "stuck", until(end))
				submit(p, "fills it", until(end))
				synctest.Wait()
				submit(p, "dropped", succeed, tether.HandOver(func(context.Context, tether.Info) error { panic("boom") }))
				submit(p, "drops it", succeed)
				time.Sleep(time.Hour)
				close(end)
				require.NoError(t, within(r, time.Minute))
				for name, msgs := range map[string][]string{
					"fails": {"task failed"}, "panics": {"panic"}, "retries": {"task retrying", "task failed"}, "stuck": {"task stuck"},
					"dropped": {"panic", "task dropped"},
				} {
					want := "span of " + name
					if name == "dropped" { // it has not started
						want = "of the submitter"
					}
					for _, msg := range msgs {
						found := 0
						for _, record := range book.about(name) {
							if record["msg"] == msg && record["task"] == name {
								found++
								assert.Equal(t, want, record["request"], "%s: %s", name, msg)
							}
						}
						assert.Equal(t, 1, found, "%s: %s", name, msg)
					}
				}
			})
		})
	}
}

// requestObserver derives a value that requestLog logs.
type requestObserver struct{ tether.NopObserver }

func (requestObserver) TaskStarted(ctx context.Context, task *tether.Task) context.Context {
	return context.WithValue(ctx, requestID{}, "span of "+task.Name())
}

// TestT14_ARetryObserverHasItsOwnContext: of several, each has the context that it has returned.
func TestT14_ARetryObserverHasItsOwnContext(t *testing.T) {
	a, b := &spanRecorder{span: "a"}, &spanRecorder{span: "b"}
	r := newRegistry(t, tether.Config{Observer: tether.JoinObservers(a, tether.NopObserver{}, b)})
	assert.Error(t, wait(start(t, r, "task", fail, tether.Retry(every(3, 0)))))
	assert.Equal(t, []string{"a", "a"}, a.seen)
	assert.Equal(t, []string{"b", "b"}, b.seen)
}

type spanRecorder struct {
	tether.NopObserver
	span string
	seen []string // by the only task, whose end is awaited
}

func (o *spanRecorder) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	return context.WithValue(ctx, ctxKey("span"), o.span)
}

func (o *spanRecorder) TaskRetrying(ctx context.Context, _ *tether.Task, _ error, _ time.Duration) {
	o.seen = append(o.seen, ctx.Value(ctxKey("span")).(string))
}

func TestD9_ShutdownDoesNotWaitForTheLogHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, release := newBlockingLog()
		r := tether.New(tether.Config{Logger: logger})
		running := start(t, r, "running", func(context.Context) error { time.Sleep(time.Hour); return nil })
		began := time.Now()
		err := within(r, 20*time.Second)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Less(t, time.Since(began), 20*time.Second+500*time.Millisecond)
		require.NoError(t, wait(running))
		began = time.Now()
		assert.NoError(t, r.Shutdown(context.Background()))
		assert.Less(t, time.Since(began), 500*time.Millisecond)
		release()
	})
}

// Closers that do not return use up the shares of those behind them, however many they are.
func TestD9_ManyClosersThatDoNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
		hang := make(chan struct{})
		hanging := make([]func(context.Context) error, 1000)
		var inTime atomic.Int32
		for i := range hanging {
			hanging[i] = func(ctx context.Context) error {
				if ctx.Err() == nil {
					inTime.Add(1)
				}
				<-hang
				return nil
			}
		}
		began := time.Now()
		err := r.Run(stopNow(), tether.RunConfig{Closers: closers(hanging...), StopTimeout: 5 * time.Second, Signals: noSignals})
		assert.Error(t, err)
		assert.LessOrEqual(t, time.Since(began), 6*time.Second)
		assert.EqualValues(t, 1000, inTime.Load(), "closers that had time")
		close(hang)
	})
}

// slowEnds is an observer whose TaskEnded takes a second.
type slowEnds struct{ tether.NopObserver }

func (slowEnds) TaskEnded(context.Context, *tether.Task) { time.Sleep(time.Second) }

// The program cancels the last task itself, and the observer takes its time: nothing but
// the end of that call tells Shutdown.
func TestD1_TheLastTaskIsCanceledByTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tether.New(tether.Config{Observer: slowEnds{}, Logger: slog.New(slog.DiscardHandler)})
		held := start(t, r, "held", succeed, tether.Hold())
		go func() {
			<-r.Stopping()
			held.Cancel(errTest)
		}()
		began := time.Now()
		require.NoError(t, within(r, time.Hour))
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, []string{"held"}, names(r.Report().NeverStarted))
	})
}

// Hand-overs have the time of the Shutdown that has the most.
func TestD5_TheLaterDeadlineIsThatOfHandOvers(t *testing.T) {
	for _, times := range [][2]time.Duration{{20 * time.Second, time.Minute}, {time.Minute, 20 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			took := make(chan time.Duration, 1)
			begun := time.Now()
			start(t, r, "held", succeed, tether.Hold(), tether.HandOver(func(ctx context.Context, _ tether.Info) error {
				<-ctx.Done()
				took <- time.Since(begun)
				return nil
			}))
			first := make(chan error)
			go func() { first <- within(r, times[0]) }()
			synctest.Wait()
			_ = within(r, times[1]) // the one with less time fails
			<-first
			assert.Equal(t, time.Minute, <-took)
			assert.NoError(t, r.Shutdown(context.Background()))
		})
	}
}

// Hand-overs may be slow: meanwhile no worker starts what is to be handed over.
func TestD8_AtStopDropStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 100, AtStop: tether.AtStopDrop})
		start(t, p, "runs", func(context.Context) error { time.Sleep(time.Second); return nil })
		for range 100 { // more than are handed over at once
			start(t, p, "queued", succeed, tether.HandOver(func(context.Context, tether.Info) error { time.Sleep(2 * time.Second); return nil }))
		}
		synctest.Wait()
		require.NoError(t, within(r, time.Hour))
		assert.Len(t, r.Report().HandedOver, 100)
		assert.Equal(t, 1, r.Report().Finished)
	})
}
