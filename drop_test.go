package tether_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// What is due before contexts are canceled still runs, and what is due later is dropped,
// also if it is submitted, released or fails during the drain.
func TestD8_TheLimitIsTheCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: 5 * time.Second})
		start(t, r, "due in 14s", succeed, tether.Delay(14*time.Second))
		start(t, r, "due in 15s", succeed, tether.Delay(15*time.Second))
		start(t, r, "held, due in 15s", succeed, tether.Delay(15*time.Second), tether.Hold())
		held := start(t, r, "held", succeed, tether.Hold())
		start(t, r, "parent", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			time.Sleep(10 * time.Second)
			held.Release()
			for _, delay := range []time.Duration{4 * time.Second, 5 * time.Second} {
				_, err := r.Go(ctx, fmt.Sprintf("child due in %v", delay), succeed, tether.Delay(delay))
				assert.NoError(t, err)
				policy := tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return delay }}
				_, err = r.Go(ctx, fmt.Sprintf("child again in %v", delay), fail, tether.Retry(policy))
				assert.NoError(t, err)
			}
			return nil
		})
		began := time.Now()
		require.NoError(t, within(r, 20*time.Second))
		assert.Equal(t, 14*time.Second, time.Since(began))
		report := r.Report()
		assert.Equal(t, []string{"child due in 5s", "due in 15s", "held, due in 15s"}, names(report.NeverStarted))
		assert.Equal(t, []string{"child again in 5s"}, names(report.Canceled))
		assert.Equal(t, 5, report.Finished)
	})
}

// A second Shutdown with less time drops what cannot start before its own cancellation.
func TestD8_AShorterDeadlineDropsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		delayed := start(t, r, "delayed", succeed, tether.Delay(time.Minute))
		began := time.Now()
		first := make(chan error, 1)
		go func() { first <- r.Shutdown(context.Background()) }()
		time.Sleep(time.Second)
		assert.False(t, delayed.State().Final())
		require.NoError(t, within(r, 30*time.Second))
		require.NoError(t, <-first)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, tether.Dropped, delayed.State())
	})
}

func TestD8_AtStopDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		drop := r.NewPool("drop", tether.PoolConfig{Workers: 1, Queue: 10, AtStop: tether.AtStopDrop})
		finish := r.NewPool("finish", tether.PoolConfig{Workers: 1, Queue: 10})
		began := time.Now()
		var handed []string
		handOver := tether.HandOver(func(_ context.Context, info tether.Info) error {
			assert.Zero(t, time.Since(began))
			handed = append(handed, info.Name)
			return nil
		})
		second := func(context.Context) error { time.Sleep(time.Second); return nil }
		for _, pool := range []*tether.Pool{drop, finish} {
			start(t, pool, "running in "+pool.Name(), second)
		}
		synctest.Wait()
		for _, pool := range []*tether.Pool{drop, finish} {
			start(t, pool, "queued in "+pool.Name(), second)
			start(t, pool, "to be handed over in "+pool.Name(), second, handOver)
			start(t, pool, "held in "+pool.Name(), second, tether.Hold())
		}
		require.NoError(t, within(r, 25*time.Second))
		report := r.Report()
		assert.Equal(t, []string{"to be handed over in drop"}, handed)
		assert.Equal(t, handed, names(report.HandedOver))
		assert.Subset(t, names(report.NeverStarted), []string{"queued in drop", "held in finish"})
		assert.Equal(t, 4, report.Finished, "%v", report)
	})
}

// What a running task submits to such a pool during the drain is dropped as well.
func TestD8_AtStopDropDuringTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		drop := r.NewPool("drop", tether.PoolConfig{Workers: 2, Queue: 10, AtStop: tether.AtStopDrop})
		start(t, r, "parent", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			time.Sleep(time.Second)
			for range 3 {
				child, err := drop.Go(ctx, "child", succeed)
				if err == nil { // it may be refused instead
					err = child.Wait(ctx)
				}
				assert.Error(t, err)
			}
			return nil
		})
		began := time.Now()
		require.NoError(t, within(r, 25*time.Second))
		assert.Equal(t, time.Second, time.Since(began))
	})
}

// A task whose context was canceled by Cancel or by the drain has given up for that,
// whatever words its driver returned.
func TestT5_AnyErrorAfterACancellationIsCanceled(t *testing.T) {
	var null *strictError
	for name, test := range map[string]error{
		"a driver's own": fmt.Errorf("pq: canceling statement due to user request"), "a typed nil": null,
		"whose methods panic": brokenError{}, "the context's": context.Canceled, "the cause": tether.ErrShutdown,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, book := newLogger()
				r := newRegistry(t, tether.Config{Logger: logger})
				query := func(ctx context.Context) error { <-ctx.Done(); return test }
				retried := tether.Retry(tether.RetryPolicy{Attempts: 3})
				canceled := start(t, r, "canceled", query, retried)
				drained := start(t, r, "drained", query, retried)
				synctest.Wait()
				canceled.Cancel(errTest)
				synctest.Wait()
				assert.Equal(t, tether.Canceled, canceled.State())
				assert.ErrorIs(t, canceled.Err(), errTest)
				require.NoError(t, within(r, 25*time.Second))
				assert.Equal(t, tether.Canceled, drained.State())
				assert.Equal(t, []string{"drained"}, names(r.Report().Canceled))
				assert.Equal(t, 1, canceled.Attempt(), "it is not retried")
				synctest.Wait()
				assert.Empty(t, book.about("task canceled"), "a cancellation is no failure")
				assert.NotPanics(t, func() { _ = r.Report().String() })
			})
		})
	}
}
