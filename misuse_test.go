package tether_test

import (
	"context"
	"log/slog"
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

// countedContext counts how often it is asked for a value.
type countedContext struct {
	context.Context
	asked *atomic.Int64
}

func (c countedContext) Value(key any) any {
	c.asked.Add(1)
	return c.Context.Value(key)
}

func TestT4_LookingAValueUpAsksEachAncestorOnce(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	var asked atomic.Int64
	ctx := countedContext{context.Background(), &asked}
	const depth = 12
	var nest func(ctx context.Context, left int) error
	nest = func(ctx context.Context, left int) error {
		if left == 0 {
			asked.Store(0)
			assert.Nil(t, ctx.Value(ctxKey("nobody has this")))
			assert.LessOrEqual(t, asked.Load(), int64(1))
			return nil
		}
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		child, err := r.Go(derived, "nested", func(ctx context.Context) error { return nest(ctx, left-1) })
		if err != nil {
			return err
		}
		return child.Wait(ctx)
	}
	assert.NoError(t, nest(ctx, depth))
}

// derivingObserver gives each body a context that counts.
type derivingObserver struct {
	tether.NopObserver
	asked *atomic.Int64
}

func (o derivingObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	return countedContext{ctx, o.asked}
}

func TestT4_AChainOfTasksGrowsNoChainOfContexts(t *testing.T) {
	var asked atomic.Int64
	r := newRegistry(t, tether.Config{Observer: derivingObserver{asked: &asked}})
	const generations = 100
	ended := make(chan struct{})
	var step func(ctx context.Context, left int) error
	step = func(ctx context.Context, left int) error {
		parent, _ := tether.FromContext(ctx)
		_, err := r.Go(ctx, "step", func(ctx context.Context) error {
			parent.Wait(context.Background())
			if left > 0 {
				return step(ctx, left-1)
			}
			defer close(ended)
			asked.Store(0)
			assert.Equal(t, "ann", ctx.Value(ctxKey("user")), "the first submitter's")
			assert.LessOrEqual(t, asked.Load(), int64(3), "contexts of the observer that were asked, of 100")
			return nil
		})
		return err
	}
	_, err := r.Go(context.WithValue(context.Background(), ctxKey("user"), "ann"), "first", func(ctx context.Context) error {
		return step(ctx, generations)
	})
	require.NoError(t, err)
	<-ended
}

// leavingObserver ends the goroutine that tells it of an end, as t.FailNow would.
type leavingObserver struct{ tether.NopObserver }

func (leavingObserver) TaskEnded(context.Context, *tether.Task) { runtime.Goexit() }

func TestD1_AnObserverThatLeavesDoesNotStopTheDrain(t *testing.T) {
	r := tether.New(tether.Config{Observer: leavingObserver{}})
	for range 50 {
		start(t, r, "held", succeed, tether.Hold())
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.Shutdown(ended) // drops them
	require.NoError(t, r.Shutdown(context.Background()))
	assert.EqualValues(t, 50, r.Stats().Dropped)
}

func TestP3_AnObserverThatLeavesCostsNoPlace(t *testing.T) {
	r := tether.New(tether.Config{Observer: leavingObserver{}})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
	release := make(chan struct{})
	running := make(chan struct{})
	start(t, p, "running", func(context.Context) error { close(running); <-release; return nil })
	<-running
	for range 20 {
		start(t, p, "queued", succeed)
	}
	s := p.Stats()
	assert.Equal(t, 1, s.Queued, "%+v", s)
	assert.EqualValues(t, 19, s.Dropped, "%+v", s)
	close(release)
	require.NoError(t, r.Shutdown(context.Background()))
}

// brokenContext panics when it is asked, as a typed nil would.
type brokenContext struct{ context.Context }

func (brokenContext) Value(any) any { panic("test panic") }

func TestT10_ASubmitterThatPanicsLeavesTheKeyFree(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	assert.Panics(t, func() {
		r.Go(brokenContext{context.Background()}, "task", succeed, tether.Unique("key"))
	})
	assert.NoError(t, wait(start(t, r, "task", succeed, tether.Unique("key"))))
}

func TestT11_ARetryOptionCanBeShared(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	shared := tether.Retry(tether.RetryPolicy{Attempts: 2})
	var submitters sync.WaitGroup
	for range 8 {
		submitters.Go(func() { assert.NoError(t, wait(start(t, r, "task", succeed, shared))) })
	}
	submitters.Wait()
}

func TestD5_ALaterShutdownLeavesHandOversTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 20 * time.Second})
		for range 100 { // more than run at once
			start(t, r, "held", succeed, tether.Hold(), tether.HandOver(func(ctx context.Context, _ tether.Info) error {
				time.Sleep(time.Second)
				return ctx.Err()
			}))
		}
		var first sync.WaitGroup
		first.Go(func() { assert.NoError(t, within(r, 40*time.Second)) })
		time.Sleep(21 * time.Second) // the hand-overs have begun
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		assert.Error(t, r.Shutdown(ended))
		first.Wait()
		assert.Len(t, r.Report().HandedOver, 100)
	})
}

func TestD7_TheFirstSignalIsNotTheSecond(t *testing.T) {
	logger, book := newLogger()
	r := tether.New(tether.Config{Logger: logger})
	err := r.Run(context.Background(), tether.RunConfig{
		Servers: server(func() error { return errTest }, func(context.Context) error { // Serve begins the stop
			terminate()
			for len(book.about("stopping already")) == 0 { // or the process has ended
				runtime.Gosched()
			}
			return nil
		}),
	})
	assert.ErrorIs(t, err, errTest)
}

// slowEndObserver takes a second over each end.
type slowEndObserver struct{ tether.NopObserver }

func (slowEndObserver) TaskEnded(context.Context, *tether.Task) { time.Sleep(time.Second) }

func TestT5_TheTimeOfASlowCallbackIsNotTheNextTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{Observer: slowEndObserver{}})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 9, Overflow: tether.OverflowBlock})
		start(t, p, "first", succeed)
		start(t, p, "timed", func(ctx context.Context) error { return ctx.Err() }, tether.Timeout(500*time.Millisecond))
		time.Sleep(1500 * time.Millisecond) // the observer has been told of the first, and is at the second
		late := start(t, p, "late", succeed)
		require.NoError(t, wait(late))
		info := late.Info()
		assert.False(t, info.Started.Before(info.Submitted), "%v before %v", info.Started, info.Submitted)
		assert.Zero(t, r.Stats().Canceled, "its time had not begun")
	})
}

func TestP2_WhatWaitedBehindADroppedTaskStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 8, Queue: 3, Capacity: 10, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		start(t, p, "running", until(release), tether.Weight(6))
		synctest.Wait()
		heavy := start(t, p, "heavy", succeed, tether.Weight(5))
		synctest.Wait()
		for range 3 {
			start(t, p, "light", succeed)
			synctest.Wait()
		}
		assert.Equal(t, tether.Dropped, heavy.State())
		assert.EqualValues(t, 3, p.Stats().Succeeded, "light ones")
		close(release)
	})
}

func TestP3_TheOldestMayWaitForItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 2, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		start(t, p, "running", until(release), tether.Serial("key"))
		synctest.Wait()
		oldest := start(t, p, "oldest", until(release), tether.Serial("key"))
		synctest.Wait()
		start(t, p, "running too", until(release))
		synctest.Wait()
		younger := start(t, p, "younger", until(release))
		start(t, p, "one too many", until(release))
		assert.Equal(t, tether.Dropped, oldest.State())
		assert.Equal(t, tether.Queued, younger.State())
		close(release)
	})
}

func TestD5_NothingLeftIsNoError(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 2000 {
		r := tether.New(tether.Config{Logger: quiet})
		require.NoError(t, wait(start(t, r, "task", succeed)))
		require.NoError(t, r.Shutdown(ended), "its goroutine may still be about to leave")
	}
}

func TestD1_TasksMayEndWhileTheyAreCancelled(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 {
		r := tether.New(tether.Config{Logger: quiet})
		release := make(chan struct{})
		for range 100 {
			start(t, r, "task", until(release), tether.Label("with", "options"))
		}
		go close(release)
		_ = r.Shutdown(ended) // cancels what has options, while those are let go
		require.NoError(t, r.Shutdown(context.Background()))
	}
}

func TestD3_AHandOverHasTheTasksContext(t *testing.T) {
	r := tether.New(tether.Config{Logger: quiet})
	var user any
	var of *tether.Task
	held := make(chan *tether.Task, 1)
	parent, err := r.Go(context.WithValue(context.Background(), ctxKey("user"), "ann"), "parent", func(ctx context.Context) error {
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		child, err := r.Go(derived, "child", succeed, tether.Hold(), tether.HandOver(func(ctx context.Context, _ tether.Info) error {
			user = ctx.Value(ctxKey("user"))
			of, _ = tether.FromContext(ctx)
			return nil
		}))
		held <- child
		return err
	})
	require.NoError(t, err)
	require.NoError(t, wait(parent))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.Shutdown(ended)
	require.NoError(t, r.Shutdown(context.Background()))
	assert.Equal(t, "ann", user, "the submitter's, though that has ended")
	assert.Same(t, <-held, of)
}

var quiet = slog.New(slog.DiscardHandler)

// uncomparableContext panics when it is compared with one of its kind.
type uncomparableContext struct {
	context.Context
	_ []int
}

type uncomparableObserver struct{ tether.NopObserver }

func (uncomparableObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	return uncomparableContext{Context: ctx}
}

func TestT1_AContextNeedNotBeComparable(t *testing.T) {
	r := newRegistry(t, tether.Config{Observer: uncomparableObserver{}})
	assert.NoError(t, wait(start(t, r, "parent", func(ctx context.Context) error {
		child, err := r.Go(ctx, "child", succeed)
		if err != nil {
			return err
		}
		return child.Wait(ctx)
	})))
}
