package tether_test

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

const tib = 1 << 40

// setMemoryLimit sets the limit of the process until the test has ended.
func setMemoryLimit(t *testing.T, limit int64) {
	before := debug.SetMemoryLimit(limit)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
}

func TestMemoryHeadroom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		setMemoryLimit(t, tib) // far more than there is, so that it changes nothing else
		seen := &refusals{}
		r := newRegistry(t, tether.Config{MemoryHeadroom: tib, Observer: seen})
		pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		running, err := r.Go(context.Background(), "before", func(ctx context.Context) error { return nil })
		assert.Nil(t, running)
		assert.ErrorIs(t, err, tether.ErrFull)
		var short *tether.MemoryError
		require.ErrorAs(t, err, &short)
		assert.EqualValues(t, tib, short.Limit)
		assert.EqualValues(t, tib, short.Headroom)
		assert.Positive(t, short.InUse)
		assert.Equal(t, time.Second, short.RetryAfter)
		assert.Contains(t, err.Error(), "limit 1048576 MiB, headroom 1048576 MiB")

		_, err = pool.Go(context.Background(), "no waiting", func(context.Context) error { return nil })
		assert.ErrorIs(t, err, tether.ErrFull)
		assert.EqualValues(t, 2, r.Stats().Refused)
		assert.EqualValues(t, 1, pool.Stats().Refused)
		assert.Equal(t, []string{"before", "no waiting"}, seen.names)
		assert.Zero(t, pool.Stats().Queued, "no place was reserved")

		setMemoryLimit(t, 2*tib)
		time.Sleep(5 * time.Millisecond)
		task, err := pool.Go(context.Background(), "after", func(ctx context.Context) error {
			setMemoryLimit(t, tib)
			time.Sleep(5 * time.Millisecond)
			_, err := r.Go(ctx, "child", func(context.Context) error { return nil })
			return err
		})
		require.NoError(t, err)
		assert.ErrorIs(t, task.Wait(context.Background()), tether.ErrFull, "a child needs memory, too")
	})
}

func TestMemoryHeadroomWithoutALimit(t *testing.T) {
	setMemoryLimit(t, math.MaxInt64)
	r := newRegistry(t, tether.Config{MemoryHeadroom: tib})
	task, err := r.Go(context.Background(), "task", func(context.Context) error { return nil })
	require.NoError(t, err)
	assert.NoError(t, task.Wait(context.Background()))
}

// A submission that finds the live task of its Unique key needs no memory.
func TestMemoryHeadroomAndUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		setMemoryLimit(t, 2*tib)
		r := newRegistry(t, tether.Config{MemoryHeadroom: tib})
		proceed := make(chan struct{})
		body := func(context.Context) error { <-proceed; return nil }
		first, err := r.Go(context.Background(), "task", body, tether.Unique("key"))
		require.NoError(t, err)
		setMemoryLimit(t, tib)
		time.Sleep(5 * time.Millisecond)
		second, err := r.Go(context.Background(), "task", body, tether.Unique("key"))
		require.NoError(t, err)
		assert.Same(t, first, second)
		_, err = r.Go(context.Background(), "task", body, tether.Unique("another"))
		assert.ErrorIs(t, err, tether.ErrFull)
		setMemoryLimit(t, 2*tib)
		time.Sleep(5 * time.Millisecond)
		another, err := r.Go(context.Background(), "task", body, tether.Unique("another"))
		require.NoError(t, err, "the refusal has freed the key")
		close(proceed)
		require.NoError(t, first.Wait(context.Background()))
		require.NoError(t, another.Wait(context.Background()))
	})
}

func TestMemoryHeadroomMustNotBeNegative(t *testing.T) {
	assert.Panics(t, func() { tether.New(tether.Config{MemoryHeadroom: -1}) })
}

func TestARefusalForMemoryAllocatesNothing(t *testing.T) {
	setMemoryLimit(t, tib)
	r := newRegistry(t, tether.Config{MemoryHeadroom: tib})
	ctx := context.Background()
	body := func(context.Context) error { return nil }
	assert.Less(t, testing.AllocsPerRun(1000, func() { _, _ = r.Go(ctx, "task", body) }), 1.0) // but for those of a reading
}

// refusals are the names of the tasks that were refused.
type refusals struct {
	tether.NopObserver
	names []string
}

func (o *refusals) TaskRefused(_ context.Context, name string, _ error) {
	o.names = append(o.names, name)
}
