package tether_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

// within calls Shutdown with a deadline.
func within(r *tether.Registry, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return r.Shutdown(ctx)
}

// total is how many tasks a report speaks of.
func total(r *tether.Report) int {
	return r.Finished + len(r.Canceled) + len(r.HandedOver) + len(r.NeverStarted) + len(r.Abandoned) + r.Omitted
}

func live(s tether.Stats) int { return s.Held + s.Queued + s.Running }

func names(infos []tether.Info) (names []string) {
	for _, info := range infos {
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

// again is a policy that tries again after an hour.
var again = tether.RetryPolicy{Attempts: 5, Backoff: func(int, error) time.Duration { return time.Hour }}

func TestD1_NothingLiveReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
		assert.Nil(t, r.Report())
		assert.NoError(t, wait(start(t, r, "before", succeed)))
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		assert.NoError(t, r.Shutdown(ctx), "though ctx has ended")
		assert.Zero(t, time.Since(began))
		require.NotNil(t, r.Report())
		assert.Zero(t, total(r.Report()), "what had ended before is not the drain's")
		assert.NoError(t, r.Shutdown(t.Context()))
		var none context.Context
		assert.ErrorIs(t, r.Shutdown(none), tether.ErrInvalid)
	})
}

func TestD1_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		began := time.Now()
		at := func() string { return time.Since(began).String() }
		var seen diary
		never := func(context.Context) error {
			t.Error("a task started that should not")
			return nil
		}
		running := start(t, r, "running", func(ctx context.Context) error {
			_, err := r.Go(ctx, "child", seen.entry("child before"))
			assert.NoError(t, err)
			<-tether.StoppingFrom(ctx)
			seen.add("stopping " + at())
			assert.NoError(t, ctx.Err(), "not cancelled yet")
			time.Sleep(time.Second)
			_, err = r.Go(ctx, "child", seen.entry("child while draining"))
			assert.NoError(t, err)
			_, err = p.Go(ctx, "queued child", never)
			assert.NoError(t, err)
			<-ctx.Done()
			seen.add("canceled " + at())
			assert.Equal(t, tether.ErrShutdown, context.Cause(ctx))
			_, err = r.Go(ctx, "child", never)
			assert.ErrorIs(t, err, tether.ErrClosed)
			_, err = p.Go(ctx, "child", never)
			assert.ErrorIs(t, err, tether.ErrClosed)
			time.Sleep(time.Second)
			return ctx.Err()
		})
		start(t, p, "worker's", untilCanceled)
		synctest.Wait()
		start(t, p, "queued", never)
		held := start(t, r, "held", never, tether.Hold())
		released := start(t, r, "released", seen.entry("released"), tether.Hold())
		start(t, r, "delayed", never, tether.Delay(time.Hour))
		start(t, r, "due", seen.entry("due"), tether.Delay(4*time.Second))
		backoff := start(t, r, "backoff", fail, tether.Retry(again))
		time.AfterFunc(3*time.Second, func() {
			assert.ErrorIs(t, refused(r), tether.ErrClosed)
			assert.ErrorIs(t, refused(p), tether.ErrClosed)
			assert.False(t, held.State().Final())
			released.Release()
		})
		synctest.Wait()
		require.NoError(t, within(r, 30*time.Second))
		seen.add("drained " + at())
		assert.Equal(t, []string{
			"child before", "stopping 0s", "child while draining", "released", "due", "canceled 25s", "drained 26s",
		}, seen.read())
		assert.Equal(t, tether.Canceled, running.State())
		assert.ErrorIs(t, running.Err(), tether.ErrShutdown)
		assert.Equal(t, tether.Dropped, held.State())
		assert.ErrorIs(t, held.Err(), tether.ErrShutdown)
		assert.Equal(t, tether.Canceled, backoff.State())
		assert.ErrorIs(t, backoff.Err(), tether.ErrShutdown)

		report := r.Report()
		assert.Equal(t, began, report.Began)
		assert.Equal(t, began.Add(26*time.Second), report.Ended)
		assert.Equal(t, 3, report.Finished)
		assert.Equal(t, []string{"backoff", "running", "worker's"}, names(report.Canceled))
		assert.Equal(t, []string{"delayed", "held", "queued", "queued child"}, names(report.NeverStarted))
		assert.Empty(t, report.HandedOver)
		assert.Empty(t, report.Abandoned)
		assert.Empty(t, report.Stacks)
	})
}

// refused submits with a ctx of nobody's.
func refused(to tether.Submitter) error {
	_, err := to.Go(context.Background(), "outsider", succeed)
	return err
}

func TestD1_GraceIsAtMostHalfOfTheTime(t *testing.T) {
	for _, test := range []struct{ grace, left, canceled time.Duration }{
		{0, time.Minute, 55 * time.Second},
		{10 * time.Second, time.Minute, 50 * time.Second},
		{10 * time.Second, 20 * time.Second, 10 * time.Second},
		{10 * time.Second, 19 * time.Second, 19 * time.Second / 2},
		{time.Hour, 2 * time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{CancelBefore: test.grace})
			start(t, r, "task", untilCanceled)
			began := time.Now()
			assert.NoError(t, within(r, test.left))
			assert.Equal(t, test.canceled, time.Since(began), "%+v", test)
		})
	}
}

func TestD1_OnlyRunningTasksHaveChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := newRegistry(t, tether.Config{}), newRegistry(t, tether.Config{})
		var ended, stranger context.Context
		require.NoError(t, wait(start(t, r, "ended", func(ctx context.Context) error {
			ended = ctx
			return nil
		})))
		release := make(chan struct{})
		start(t, other, "stranger", func(ctx context.Context) error {
			stranger = ctx
			<-release
			return nil
		})
		var generations int
		var next tether.Func
		next = func(ctx context.Context) error {
			time.Sleep(time.Second)
			if generations++; generations == 10 {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			_, err := r.Go(ctx, "generation", next)
			return err
		}
		first := start(t, r, "generation", next)
		synctest.Wait()
		time.AfterFunc(5*time.Second, func() {
			for _, ctx := range []context.Context{ended, stranger, context.Background()} {
				_, err := r.Go(ctx, "child", succeed)
				assert.ErrorIs(t, err, tether.ErrClosed)
			}
		})
		assert.NoError(t, within(r, time.Minute))
		assert.NoError(t, first.Err())
		assert.Equal(t, 10, generations, "the last step of a chain is not lost")
		assert.Equal(t, 10, r.Report().Finished)
		close(release)
	})
}

func TestD1_BlockedOutsiderIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		start(t, p, "running", untilCanceled)
		var submitters sync.WaitGroup
		began := time.Now()
		for range 5 {
			submitters.Go(func() {
				err := refused(p)
				assert.ErrorIs(t, err, tether.ErrClosed)
				assert.NotErrorIs(t, err, tether.ErrFull)
				assert.Zero(t, time.Since(began), "at once")
			})
		}
		synctest.Wait()
		assert.NoError(t, within(r, time.Minute))
		submitters.Wait()
		assert.EqualValues(t, 5, r.Stats().Refused)
	})
}

// A running task that waits for room when the drain begins is as welcome as one that
// comes a moment later.
func TestD1_BlockedChildIsAdmitted(t *testing.T) {
	for _, when := range []time.Duration{-time.Second, time.Second} {
		t.Run(when.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
				start(t, p, "running", func(context.Context) error {
					time.Sleep(10 * time.Second)
					return nil
				})
				parent := start(t, r, "parent", func(ctx context.Context) error {
					time.Sleep(2*time.Second + when)
					child, err := p.Go(ctx, "child", succeed)
					if err != nil {
						return err
					}
					return child.Wait(ctx)
				})
				time.Sleep(2 * time.Second)
				assert.NoError(t, within(r, time.Minute))
				assert.NoError(t, parent.Err())
			})
		})
	}
}

func TestD1_BlockedChildIsRefusedWhenTasksAreCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 10 * time.Second})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		start(t, p, "running", untilCanceled)
		var refusal error
		start(t, r, "parent", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			_, refusal = p.Go(context.WithoutCancel(ctx), "child", succeed)
			return nil
		})
		began := time.Now()
		assert.NoError(t, within(r, time.Minute))
		assert.Equal(t, 50*time.Second, time.Since(began))
		assert.ErrorIs(t, refusal, tether.ErrClosed)
	})
}

func TestD1_PoolsMadeWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 10 * time.Second})
		var child *tether.Task
		start(t, r, "parent", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			p := r.NewPool("late", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			assert.ErrorIs(t, refused(p), tether.ErrClosed)
			var err error
			child, err = p.Go(ctx, "child", succeed)
			assert.NoError(t, err)
			<-ctx.Done()
			p = r.NewPool("too late", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			assert.ErrorIs(t, refused(p), tether.ErrClosed)
			_, err = p.Go(ctx, "child", succeed)
			assert.ErrorIs(t, err, tether.ErrClosed)
			return nil
		})
		synctest.Wait()
		assert.NoError(t, within(r, time.Minute))
		assert.NoError(t, wait(child))
		assert.Equal(t, 2, r.Report().Finished)
		assert.ErrorIs(t, refused(r.NewPool("after", tether.PoolConfig{Overflow: tether.OverflowBlock})), tether.ErrClosed)
	})
}

func TestD1_PausedPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		p.Pause()
		resumed := start(t, p, "queued", succeed)
		time.AfterFunc(time.Second, p.Resume)
		time.AfterFunc(2*time.Second, p.Pause)
		stays := start(t, p, "delayed", succeed, tether.Delay(3*time.Second))
		assert.NoError(t, within(r, time.Minute))
		assert.Equal(t, tether.Succeeded, resumed.State())
		assert.Equal(t, tether.Dropped, stays.State(), "nobody has resumed the pool in time")
		p.Resume()
		synctest.Wait()
		assert.Equal(t, tether.Dropped, stays.State())
	})
}

func TestD1_ContextWithoutDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		polite := start(t, r, "polite", untilCanceled)
		release := make(chan struct{})
		start(t, r, "stubborn", until(release))
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("no more patience")
		time.AfterFunc(time.Hour, func() {
			assert.False(t, polite.State().Final(), "nobody is cancelled before")
			cancel(why)
		})
		began := time.Now()
		err := r.Shutdown(ctx)
		assert.Equal(t, time.Hour, time.Since(began))
		var drain *tether.DrainError
		require.ErrorAs(t, err, &drain)
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, why)
		assert.Contains(t, names(drain.Report.Abandoned), "stubborn")
		synctest.Wait()
		assert.ErrorIs(t, polite.Err(), tether.ErrShutdown, "it is cancelled now")
		close(release)
		assert.NoError(t, r.Shutdown(t.Context()))
		assert.Equal(t, []string{"polite"}, names(r.Report().Canceled))
		assert.Equal(t, 1, r.Report().Finished)
	})
}

func TestD1_ContextHasEndedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		polite := start(t, r, "polite", untilCanceled)
		release := make(chan struct{})
		start(t, r, "stubborn", until(release))
		held := start(t, r, "held", succeed, tether.Hold())
		synctest.Wait()
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		began := time.Now()
		err := r.Shutdown(ctx)
		assert.Zero(t, time.Since(began))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 3, total(r.Report()))
		assert.ErrorIs(t, refused(r), tether.ErrClosed)
		synctest.Wait()
		assert.Equal(t, tether.Canceled, polite.State(), "cancelled all the same")
		assert.Equal(t, tether.Dropped, held.State())
		close(release)
		assert.NoError(t, within(r, time.Minute))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, 3, total(r.Report()))
	})
}

// Hammer a registry with submissions while it is drained: what was admitted has ended
// when Shutdown returns nil, and nothing starts any more.
func TestD2_NothingStartsAfterNil(t *testing.T) {
	for round := range 30 {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 4, Overflow: tether.OverflowBlock})
		q := r.NewPool("caller", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		var drained atomic.Bool
		var bodies, admitted atomic.Int64
		run := func() {
			bodies.Add(1)
			if drained.Load() {
				t.Error("a body started after the drain")
			}
		}
		body := func(ctx context.Context) error {
			run()
			if _, err := r.Go(ctx, "child", func(context.Context) error { run(); return nil }); err == nil {
				admitted.Add(1)
			}
			return nil
		}
		var submitters sync.WaitGroup
		var early sync.WaitGroup
		for i := range 4 {
			early.Add(1)
			submitters.Go(func() {
				to := []tether.Submitter{r, p, q, r}[i]
				for n := 0; ; n++ {
					if n == 10 {
						early.Done()
					}
					over := drained.Load()
					task, err := to.Go(context.Background(), "task", body)
					if err != nil {
						if !errors.Is(err, tether.ErrClosed) {
							t.Error(err)
						}
						if n < 10 {
							early.Done()
						}
						if over {
							return
						}
						n = max(n, 11)
						runtime.Gosched()
						continue
					}
					admitted.Add(1)
					if over || drained.Load() && !task.State().Final() {
						t.Error("a task was admitted that the drain has not waited for")
						return
					}
				}
			})
		}
		early.Wait()
		err := r.Shutdown(context.Background())
		s := r.Stats()
		drained.Store(true)
		require.NoError(t, err)
		submitters.Wait()
		assert.Zero(t, live(s), "%+v", s)
		assert.Equal(t, s.Submitted, uint64(admitted.Load()), "round %d", round)
		assert.Equal(t, s.Submitted, uint64(bodies.Load()), "none was dropped: nobody was cancelled")
		after := r.Stats()
		after.Refused = s.Refused
		assert.Equal(t, s, after, "nothing has changed since")
		if t.Failed() {
			return
		}
	}
}

// Whatever is live when the drain begins, and whatever comes of it, is in the report
// exactly once.
func TestD2_ReportAddsUp(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			r := newRegistry(t, tether.Config{})
			var pools []tether.Submitter
			pools = append(pools, r,
				r.NewPool("narrow", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded}),
				r.NewPool("wide", tether.PoolConfig{Workers: 5, Queue: tether.Unbounded, Capacity: 5}),
				r.NewPool("caller", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns}))
			release := make(chan struct{})
			letGo := sync.OnceFunc(func() { close(release) })
			defer letGo()
			var failing atomic.Int64
			naps := func(d time.Duration, err error) tether.Func {
				return func(context.Context) error {
					time.Sleep(d)
					return err
				}
			}
			bodies := []func() tether.Func{
				func() tether.Func { return naps(time.Duration(random.IntN(70))*time.Second, nil) },
				func() tether.Func { return naps(time.Duration(random.IntN(70))*time.Second, errTest) },
				func() tether.Func { return untilCanceled },
				func() tether.Func { return func(context.Context) error { time.Sleep(time.Second); panic("boom") } },
				func() tether.Func {
					return func(context.Context) error { time.Sleep(time.Second); runtime.Goexit(); return nil }
				},
				func() tether.Func {
					return func(ctx context.Context) error {
						<-release
						return ctx.Err()
					}
				},
				func() tether.Func {
					to := pools[random.IntN(len(pools))]
					nap := time.Duration(random.IntN(70)) * time.Second
					return func(ctx context.Context) error {
						time.Sleep(nap)
						_, err := to.Go(ctx, "child", naps(time.Second, nil))
						return err
					}
				},
			}
			options := []func() tether.Option{
				tether.Hold,
				func() tether.Option { return tether.Delay(time.Duration(random.IntN(100)) * time.Second) },
				func() tether.Option { return tether.Serial(fmt.Sprint(random.IntN(3))) },
				func() tether.Option { return tether.Retry(again) },
				func() tether.Option { return tether.Timeout(time.Duration(1+random.IntN(100)) * time.Second) },
				func() tether.Option {
					return tether.HandOver(func(context.Context, tether.Info) error { return nil })
				},
				func() tether.Option {
					return tether.HandOver(func(context.Context, tether.Info) error {
						failing.Add(1)
						return errTest
					})
				},
			}
			var submitters sync.WaitGroup
			for range 1 + random.IntN(40) {
				to, body := pools[random.IntN(len(pools))], bodies[random.IntN(len(bodies))]()
				var opts []tether.Option
				for range random.IntN(3) {
					opts = append(opts, options[random.IntN(len(options))]())
				}
				// Of its own goroutine, which may have to run it.
				submitters.Go(func() { to.Go(context.Background(), "task", body, opts...) })
				synctest.Wait()
			}
			time.Sleep(time.Duration(random.IntN(5)) * time.Second)
			synctest.Wait()
			before := r.Stats()
			err := within(r, time.Minute+300*time.Millisecond) // nothing else happens at that instant
			synctest.Wait()
			after := r.Stats()
			report := r.Report()
			children := int(after.Submitted - before.Submitted)
			require.Equal(t, live(before)+children, total(report), "seed %d: %+v, %v", seed, before, report)
			require.Equal(t, err != nil, len(report.Abandoned) > 0)
			require.Len(t, report.Abandoned, live(after), "seed %d: %+v, %v", seed, after, report)
			once := make(map[string]string)
			for what, list := range map[string][]tether.Info{
				"canceled": report.Canceled, "handed over": report.HandedOver,
				"never started": report.NeverStarted, "abandoned": report.Abandoned,
			} {
				for _, info := range list {
					require.Empty(t, once[info.ID], "seed %d: %s is also %s", seed, info.Name, what)
					once[info.ID] = what
					switch what {
					case "canceled":
						assert.Equal(t, tether.Canceled, info.State)
					case "abandoned":
						assert.Equal(t, tether.Running, info.State)
					default:
						assert.Equal(t, tether.Dropped, info.State)
						assert.True(t, info.Started.IsZero())
					}
				}
			}
			assert.Equal(t, int(failing.Load()), failed(report.NeverStarted))

			letGo()
			submitters.Wait()
			require.NoError(t, within(r, time.Minute), "seed %d", seed)
			report = r.Report()
			require.Equal(t, live(before)+children, total(report), "seed %d", seed)
			assert.Empty(t, report.Abandoned)
		})
		if t.Failed() {
			return
		}
	}
}

func failed(infos []tether.Info) (n int) {
	for _, info := range infos {
		if errors.Is(info.Err, errTest) {
			n++
		}
	}
	return n
}

func TestD2_ListsHoldTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		time.Sleep(time.Second)
		const each = 1200
		var oldest [4][]string
		for i := range each {
			for kind, task := range []*tether.Task{
				start(t, r, "stuck", until(release), tether.Label("i", fmt.Sprint(i))),
				start(t, r, "polite", untilCanceled),
				start(t, r, "held", succeed, tether.Hold()),
				start(t, r, "handed over", succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error { return nil })),
			} {
				if i < 1000 {
					oldest[kind] = append(oldest[kind], task.ID())
				}
			}
			time.Sleep(time.Millisecond) // so that there is an order
		}
		err := within(r, time.Minute)
		var drain *tether.DrainError
		require.ErrorAs(t, err, &drain)
		for kind, list := range [][]tether.Info{drain.Report.Abandoned, drain.Report.Canceled, drain.Report.NeverStarted, drain.Report.HandedOver} {
			var ids []string
			for _, info := range list {
				ids = append(ids, info.ID)
			}
			assert.True(t, slices.Equal(oldest[kind], ids), "list %d: %d tasks", kind, len(ids))
		}
		assert.Equal(t, 4*200, drain.Report.Omitted)
		assert.Equal(t, 4*each, total(drain.Report))
		assert.Contains(t, err.Error(), "1200 tasks have not ended", "omitted tasks of other lists have ended")
		close(release)
		assert.NoError(t, within(r, time.Minute))
		assert.Equal(t, 4*each, total(r.Report()))
	})
}

func TestD3_HandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		type key struct{}
		began := time.Now()
		ctx := context.WithValue(t.Context(), key{}, "value")
		var got diary
		take := tether.HandOver(func(ctx context.Context, info tether.Info) error {
			got.add(info.Name)
			assert.Equal(t, "value", ctx.Value(key{}))
			assert.NoError(t, ctx.Err())
			at := 25 * time.Second // with the cancellation, not before
			if info.Name == "delayed" {
				at = 0 // it cannot start before that
			}
			assert.Equal(t, at, time.Since(began), info.Name)
			assert.False(t, info.State.Final())
			assert.True(t, info.Started.IsZero())
			assert.Equal(t, map[string]string{"order": "5"}, info.Labels)
			return nil
		})
		submit := func(to tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
			task, err := to.Go(ctx, name, fn, append(opts, take, tether.Label("order", "5"))...)
			require.NoError(t, err)
			return task
		}
		submit(p, "running", untilCanceled)
		synctest.Wait()
		submit(r, "backoff", fail, tether.Retry(again))
		submit(r, "finished", succeed)
		byUser := submit(r, "cancelled by its user", succeed, tether.Hold())
		require.True(t, byUser.Cancel(nil))
		queued := submit(p, "queued", succeed)
		submit(p, "serial", succeed, tether.Serial("key"))
		submit(r, "held", succeed, tether.Hold())
		submit(r, "delayed", succeed, tether.Delay(time.Hour))
		synctest.Wait()
		before := r.Stats()
		assert.NoError(t, within(r, 30*time.Second))
		want := []string{"delayed", "held", "queued", "serial"}
		assert.ElementsMatch(t, want, got.read())
		report := r.Report()
		assert.Equal(t, want, names(report.HandedOver))
		assert.Equal(t, []string{"backoff", "running"}, names(report.Canceled))
		assert.Empty(t, report.NeverStarted)
		assert.Equal(t, live(before), total(report))
		assert.Equal(t, tether.Dropped, queued.State())
		assert.ErrorIs(t, queued.Err(), tether.ErrShutdown)
	})
}

func TestD3_FailedHandOverIsNeverStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		hand := func(name string, fn func() error) *tether.Task {
			return start(t, r, name, succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error { return fn() }))
		}
		hand("error", func() error { return errTest })
		hand("panic", func() error { panic("boom") })
		hand("goexit", func() error { runtime.Goexit(); return nil })
		hand("fine", func() error { return nil })
		start(t, r, "nobody", succeed, tether.Hold())
		require.NoError(t, within(r, time.Minute))
		report := r.Report()
		assert.Equal(t, []string{"fine"}, names(report.HandedOver))
		assert.Equal(t, []string{"error", "goexit", "nobody", "panic"}, names(report.NeverStarted))
		for _, info := range report.NeverStarted {
			assert.Equal(t, tether.Dropped, info.State)
			assert.ErrorIs(t, info.Err, tether.ErrShutdown)
			switch info.Name {
			case "error":
				assert.ErrorIs(t, info.Err, errTest)
			case "goexit":
				assert.ErrorIs(t, info.Err, tether.ErrGoexit)
			case "panic":
				var panicked *tether.PanicError
				if assert.ErrorAs(t, info.Err, &panicked) {
					assert.Equal(t, "boom", panicked.Value)
				}
			}
		}
		assert.Len(t, log.about("boom"), 1, "logged once")
	})
}

func TestD3_SlowHandOverOutlivesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		began := time.Now()
		why := errors.New("no more time")
		slow := start(t, r, "slow", succeed, tether.Hold(), tether.HandOver(func(ctx context.Context, _ tether.Info) error {
			<-ctx.Done()
			assert.Equal(t, 30*time.Second, time.Since(began), "its ctx ends with Shutdown's")
			assert.Equal(t, why, context.Cause(ctx))
			time.Sleep(time.Hour)
			return nil
		}))
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, why)
		defer cancel()
		err := r.Shutdown(ctx)
		assert.Equal(t, 30*time.Second, time.Since(began))
		var drain *tether.DrainError
		require.ErrorAs(t, err, &drain)
		assert.Equal(t, []string{"slow"}, names(drain.Report.Abandoned))
		assert.Equal(t, 1, total(drain.Report))
		assert.False(t, slow.State().Final(), "not before somebody knows")
		require.NoError(t, within(r, 2*time.Hour))
		assert.Equal(t, 30*time.Second+time.Hour, time.Since(began))
		assert.Equal(t, []string{"slow"}, names(r.Report().HandedOver))
		assert.True(t, r.Report().HandedOver[0].HandedOver)
	})
}

// More of them than are called at once, and some never return: the others' turn comes.
func TestD3_ManyHandOvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: time.Minute})
		var calls atomic.Int64
		for range 500 {
			start(t, r, "task", succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error {
				time.Sleep(time.Second)
				calls.Add(1)
				return nil
			}))
		}
		assert.NoError(t, within(r, 10*time.Minute))
		assert.EqualValues(t, 500, calls.Load())
		assert.Len(t, r.Report().HandedOver, 500)
	})
}

// A task that its submitter was about to run is handed over as well if the drain is
// faster.
func TestD3_CallerRunsIsHandedOver(t *testing.T) {
	for _, overflow := range []tether.Overflow{tether.OverflowBlock, tether.OverflowCallerRuns} {
		synctest.Test(t, func(t *testing.T) {
			observer := new(slowObserver)
			r := newRegistry(t, tether.Config{Observer: observer})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: overflow})
			running := start(t, p, "running", func(context.Context) error {
				time.Sleep(time.Second)
				return nil
			})
			if overflow == tether.OverflowBlock {
				require.NoError(t, wait(running))
			}
			observer.nap = time.Hour
			var submitter sync.WaitGroup
			submitter.Go(func() {
				start(t, p, "late", func(context.Context) error {
					t.Error("it ran after the cancellation")
					return nil
				}, tether.HandOver(func(context.Context, tether.Info) error { return nil }))
			})
			synctest.Wait()
			assert.Error(t, within(r, time.Minute))
			submitter.Wait()
			assert.NoError(t, within(r, time.Minute))
			assert.Equal(t, []string{"late"}, names(r.Report().HandedOver), "overflow %d", overflow)
		})
	}
}

// slowObserver takes its time over each submission.
type slowObserver struct {
	tether.NopObserver
	nap time.Duration
}

func (o *slowObserver) TaskSubmitted(context.Context, *tether.Task) { time.Sleep(o.nap) }

//go:noinline
func hangInBody(c <-chan struct{}) { <-c }

//go:noinline
func hangInHelper(c <-chan struct{}) { <-c }

func TestD4_DrainErrorNamesTheStragglers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		release := make(chan struct{})
		stuck := start(t, r, "stuck", func(context.Context) error {
			hangInBody(release)
			return nil
		})
		helped := start(t, p, "helped", func(context.Context) error {
			var helper sync.WaitGroup
			helper.Go(func() { hangInHelper(release) })
			helper.Wait()
			return nil
		})
		var submitter sync.WaitGroup
		submitter.Go(func() { start(t, p, "inline", func(context.Context) error { hangInBody(release); return nil }) })
		start(t, r, "polite", untilCanceled)
		time.Sleep(30 * time.Second)

		why := errors.New("the node is drained")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
		defer cancel()
		began := time.Now()
		err := r.Shutdown(ctx)
		assert.Equal(t, time.Minute, time.Since(began))
		var drain *tether.DrainError
		require.ErrorAs(t, err, &drain)
		assert.ErrorIs(t, err, ctx.Err())
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, why)
		assert.NotErrorIs(t, err, context.Canceled)
		assert.Same(t, r.Report(), drain.Report)

		assert.Equal(t, []string{"helped", "inline", "stuck"}, names(drain.Report.Abandoned))
		for _, info := range drain.Report.Abandoned {
			assert.Equal(t, tether.Running, info.State)
			assert.Equal(t, 90*time.Second, drain.Report.Ended.Sub(info.Started))
		}
		for _, task := range []*tether.Task{stuck, helped} {
			for _, text := range []string{err.Error(), drain.Report.String()} {
				assert.Contains(t, text, task.Name())
				assert.Contains(t, text, task.ID())
				assert.Contains(t, text, "running")
				assert.Contains(t, text, "1m30s")
			}
		}
		assert.Contains(t, err.Error(), "3 tasks have not ended")
		assert.NotContains(t, err.Error(), "polite")
		assert.Contains(t, string(drain.Report.Stacks["stuck"]), "tether_test.hangInBody")
		assert.Contains(t, string(drain.Report.Stacks["inline"]), "tether_test.hangInBody")
		assert.Contains(t, string(drain.Report.Stacks["helped"]), "tether_test.hangInHelper", "a goroutine that the body has started")
		assert.NotContains(t, string(drain.Report.Stacks["stuck"]), "hangInHelper")
		assert.NotContains(t, drain.Report.Stacks, "polite")
		assert.Contains(t, drain.Report.String(), "hangInHelper")
		if records := log.about("tasks left"); assert.Len(t, records, 1) {
			assert.Equal(t, "ERROR", records[0]["level"])
			assert.Contains(t, records[0]["stacks"], "hangInBody")
			assert.Contains(t, records[0]["error"], stuck.ID())
		}
		close(release)
		submitter.Wait()
	})
}

func TestD4_ContextsAreCanceledBeforeShutdownReturns(t *testing.T) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for range 500 { // what canceled them later would often be in time, not always
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			release := make(chan struct{})
			var ofTask context.Context
			task := start(t, r, "task", func(ctx context.Context) error { ofTask = ctx; <-release; return errTest })
			loop, err := r.Loop(t.Context(), "loop", func(context.Context) error { <-release; return errTest }, tether.LoopConfig{})
			require.NoError(t, err)
			synctest.Wait()
			var callers sync.WaitGroup
			for range 2 {
				callers.Go(func() {
					assert.ErrorIs(t, r.Shutdown(now), context.Canceled)
					assert.ErrorIs(t, context.Cause(ofTask), tether.ErrShutdown)
				})
			}
			callers.Wait()
			close(release)
			assert.ErrorIs(t, task.Wait(t.Context()), tether.ErrShutdown)
			assert.ErrorIs(t, loop.Wait(t.Context()), tether.ErrShutdown)
		})
		if t.Failed() {
			return
		}
	}
}

func TestD4_LongErrorsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		for range 500 {
			start(t, r, "stuck", until(release))
		}
		err := within(r, time.Minute)
		assert.Contains(t, err.Error(), "500 tasks have not ended")
		assert.Less(t, len(err.Error()), 2000)
		assert.Len(t, r.Report().Abandoned, 500)
		text := r.Report().String()
		assert.Contains(t, text, "500 abandoned")
		assert.Less(t, strings.Count(text, "\nabandoned: "), 100, "the text is for a log")
		assert.Contains(t, text, "more")
		close(release)
	})
}

func TestD5_ManyShutdownsShareOneDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger, CancelBefore: 5 * time.Second})
		task := start(t, r, "task", untilCanceled)
		began := time.Now()
		var callers sync.WaitGroup
		for _, left := range []time.Duration{time.Hour, 30 * time.Second, time.Minute} {
			callers.Go(func() {
				assert.NoError(t, within(r, left))
				assert.Equal(t, 25*time.Second, time.Since(began), "the first to lose patience cancels for all")
			})
		}
		callers.Go(func() {
			time.Sleep(10 * time.Second)
			assert.NoError(t, r.Shutdown(t.Context()))
			assert.Equal(t, 25*time.Second, time.Since(began))
		})
		callers.Wait()
		assert.Equal(t, tether.Canceled, task.State())
		assert.NoError(t, within(r, 0))
		assert.Len(t, r.Report().Canceled, 1)
		assert.Equal(t, began, r.Report().Began)
		assert.Len(t, log.about("drain: intake closed"), 1)
		assert.Len(t, log.about("drain: canceling"), 1)
	})
}

func TestD5_AgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		task := start(t, r, "stuck", until(release))
		began := time.Now()
		for range 3 {
			err := within(r, time.Minute)
			var drain *tether.DrainError
			require.ErrorAs(t, err, &drain)
			assert.Equal(t, 1, total(drain.Report))
			assert.Equal(t, began, drain.Report.Began)
		}
		assert.Equal(t, 3*time.Minute, time.Since(began))
		time.AfterFunc(30*time.Second, func() { close(release) })
		assert.NoError(t, within(r, time.Minute))
		assert.Equal(t, 3*time.Minute+30*time.Second, time.Since(began))
		assert.Equal(t, tether.Succeeded, task.State())
		assert.Equal(t, 1, r.Report().Finished)
	})
}

// Shutdown waits for all tasks, so a task cannot wait for it.
func TestD5_WithATasksOwnContext(t *testing.T) {
	for name, derive := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"its own": func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} },
		"one with a deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		},
		"one without cancellation": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithoutCancel(ctx), func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
				release := make(chan struct{})
				start(t, p, "running", until(release))
				for _, to := range []tether.Submitter{r, p} { // the pool's runs inline
					task := start(t, to, "self", func(ctx context.Context) error {
						ctx, cancel := derive(ctx)
						defer cancel()
						return r.Shutdown(ctx)
					})
					err := wait(task)
					assert.ErrorIs(t, err, tether.ErrInvalid)
					assert.ErrorContains(t, err, `"self"`)
				}
				assert.True(t, r.Ready(), "the drain has not begun")
				other := newRegistry(t, tether.Config{})
				assert.NoError(t, wait(start(t, other, "another registry's", func(ctx context.Context) error {
					close(release)
					return r.Shutdown(context.WithoutCancel(ctx))
				})))
				assert.False(t, r.Ready())
			})
		})
	}
}

func TestD6_NothingOfOursIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	r := newRegistry(t, tether.Config{})
	pools := []tether.Submitter{
		r,
		r.NewPool("pool", tether.PoolConfig{Workers: 3, Queue: 1000, Overflow: tether.OverflowBlock}),
		r.NewPool("paused", tether.PoolConfig{Workers: 3, Queue: 1000, Overflow: tether.OverflowBlock}),
	}
	pools[2].(*tether.Pool).Pause()
	hour := func(int, error) time.Duration { return time.Hour }
	for i := range 100 {
		for _, to := range pools {
			start(t, to, "fine", succeed)
			start(t, to, "failing", fail, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: hour}))
			start(t, to, "panicking", func(context.Context) error { panic("boom") })
			start(t, to, "goexiting", func(context.Context) error { runtime.Goexit(); return nil }, tether.Serial(fmt.Sprint(i%5)))
			start(t, to, "delayed", succeed, tether.Delay(time.Hour))
			start(t, to, "held", succeed, tether.Hold(), tether.Timeout(time.Hour))
			start(t, to, "derived", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				_ = cancel // the task's end is enough
				<-ctx.Done()
				return ctx.Err()
			}, tether.Timeout(time.Hour))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for r.Shutdown(ctx) != nil {
		runtime.Gosched()
	}
	goleak.VerifyNone(t, before)
	s := r.Stats()
	assert.Zero(t, live(s))
	assert.EqualValues(t, 2100, s.Submitted)
}

func TestStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		assert.Nil(t, tether.StoppingFrom(t.Context()))
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "task", func(ctx context.Context) error {
			select {
			case <-tether.StoppingFrom(ctx):
				t.Error("closed before the drain")
			default:
			}
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			<-tether.StoppingFrom(derived)
			return ctx.Err()
		})
		synctest.Wait()
		select {
		case <-r.Stopping():
			t.Error("closed before the drain")
		default:
		}
		fed := make(chan struct{})
		go func() {
			<-r.Stopping()
			close(fed)
		}()
		began := time.Now()
		assert.NoError(t, r.Shutdown(t.Context()))
		assert.Zero(t, time.Since(began))
		assert.NoError(t, task.Err())
		<-fed
	})
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		assert.True(t, r.Ready())
		release := make(chan struct{})
		start(t, r, "task", until(release))
		var drain sync.WaitGroup
		drain.Go(func() { assert.NoError(t, r.Shutdown(t.Context())) })
		synctest.Wait()
		assert.False(t, r.Ready())
		close(release)
		drain.Wait()
		assert.False(t, r.Ready())
	})
}

// noSignals has Run listen to its ctx alone.
var noSignals = []os.Signal{}

func TestD7_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		began := time.Now()
		var seen diary
		say := func(what string) { seen.add(what + " " + time.Since(began).String()) }
		stopped := make(chan struct{})
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		closer := func(name string, err error) func(context.Context) error {
			return func(ctx context.Context) error {
				assert.Equal(t, "value", ctx.Value(key{}))
				say(name)
				return err
			}
		}
		start(t, r, "task", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			say("stopping")
			assert.False(t, r.Ready())
			time.Sleep(5 * time.Second)
			say("task")
			return nil
		})
		time.AfterFunc(10*time.Second, func() {
			assert.True(t, r.Ready())
			cancel()
		})
		time.AfterFunc(12*time.Second, func() {
			assert.False(t, r.Ready(), "not ready")
			start(t, r, "request", succeed) // but still serving
			say("request")
		})
		err := r.Run(ctx, tether.RunConfig{
			Servers: server(func() error {
				say("serve")
				<-stopped
				return errTest
			}, func(ctx context.Context) error {
				deadline, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.Equal(t, began.Add(27500*time.Millisecond), deadline, "10 s + 25 s, less CloseTimeout and CancelBefore")
				say("stop")
				close(stopped)
				time.Sleep(time.Second)
				return nil
			}),
			PreStop: 3 * time.Second,
			Closers: closers(closer("database", nil), closer("broker", nil)),
			Signals: noSignals,
		})
		assert.NoError(t, err, "what Serve returns after Stop is not an error")
		assert.Equal(t, []string{
			"serve 0s", "stopping 10s", "request 12s", "stop 13s", "task 15s", "database 15s", "broker 15s",
		}, seen.read())
	})
}

func TestD7_ErrorsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		start(t, r, "stuck", until(release))
		errs := []error{errors.New("stop"), errors.New("database"), errors.New("broker")}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := r.Run(ctx, tether.RunConfig{
			Servers:     server(nil, func(context.Context) error { return errs[0] }),
			Closers:     closers(func(context.Context) error { return errs[1] }, func(context.Context) error { return errs[2] }),
			StopTimeout: 10 * time.Second,
			Signals:     noSignals,
		})
		for _, want := range errs {
			assert.ErrorIs(t, err, want)
		}
		var drain *tether.DrainError
		assert.ErrorAs(t, err, &drain)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		close(release)
	})
}

func TestD7_ServeFails(t *testing.T) {
	for _, failure := range []error{errTest, nil} {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			var seen diary
			task := start(t, r, "task", func(context.Context) error {
				time.Sleep(10 * time.Second)
				return nil
			})
			began := time.Now()
			err := r.Run(t.Context(), tether.RunConfig{
				Servers: server(func() error { time.Sleep(time.Second); return failure },
					func(context.Context) error { seen.add("stop"); return nil }),
				PreStop: 12 * time.Second,
				Closers: closers(func(context.Context) error {
					seen.add("closer")
					assert.True(t, task.State().Final())
					return nil
				}),
				Signals: noSignals,
			})
			if failure == nil {
				assert.NoError(t, err)
			} else {
				assert.ErrorIs(t, err, failure)
			}
			assert.Equal(t, 10*time.Second, time.Since(began), "drains all the same, without a PreStop")
			assert.NoError(t, task.Err())
			assert.Equal(t, []string{"stop", "closer"}, seen.read())
		})
	}
}

func TestD7_ServeFailsDuringPreStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		err := r.Run(ctx, tether.RunConfig{
			Servers: server(func() error { time.Sleep(time.Second); return errTest }, func(context.Context) error { return nil }),
			PreStop: 10 * time.Second,
			Signals: noSignals,
		})
		assert.ErrorIs(t, err, errTest)
		assert.Equal(t, time.Second, time.Since(began))
	})
}

func TestD7_HangingStopLeavesTheDrainItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		task := start(t, r, "task", untilCanceled)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		err := r.Run(ctx, tether.RunConfig{
			Servers: server(nil, func(ctx context.Context) error {
				<-ctx.Done()
				assert.Equal(t, 17500*time.Millisecond, time.Since(began))
				return ctx.Err()
			}),
			Signals: noSignals,
		})
		assert.ErrorIs(t, err, context.DeadlineExceeded, "Stop's")
		var drain *tether.DrainError
		assert.False(t, errors.As(err, &drain))
		assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
		assert.Less(t, time.Since(began), 25*time.Second)
	})
}

func TestD7_PreStopIsPartOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		stopped := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		assert.NoError(t, r.Run(ctx, tether.RunConfig{
			Servers:     server(func() error { <-stopped; return nil }, func(context.Context) error { close(stopped); return nil }),
			PreStop:     5 * time.Second,
			StopTimeout: 10 * time.Second,
			Signals:     noSignals,
		}))
		assert.Equal(t, 5*time.Second, time.Since(began), "half of it is left for the rest")
		assert.ErrorIs(t, r.Run(ctx, tether.RunConfig{PreStop: 13 * time.Second}), tether.ErrInvalid, "more than half")
		var none context.Context
		assert.ErrorIs(t, r.Run(none, tether.RunConfig{}), tether.ErrInvalid)
	})
}
