package tether_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// runnerFunc is a Runner of somebody else's.
type runnerFunc func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error)

func (f runnerFunc) Go(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	return f(ctx, name, fn, opts...)
}

func TestSubmitOnAnotherRunner(t *testing.T) {
	t.Run("that wraps the body", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var wrapped atomic.Int32
		wraps := runnerFunc(func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			return r.Go(ctx, name, func(ctx context.Context) error {
				wrapped.Add(1)
				return fn(context.WithValue(ctx, ctxKey("wrapped"), true))
			}, opts...)
		})
		result, err := tether.Submit(t.Context(), wraps, "task", answer)
		require.NoError(t, err)
		v, err := result.Value(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 42, v)
		assert.Equal(t, 42, result.Result())
		assert.EqualValues(t, 1, wrapped.Load())
		assert.Contains(t, result.Info().Func, "tether_test.answer", "the body, not what is around it")
	})
	t.Run("that submits twice", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var n atomic.Int32
		var first *tether.Task
		twice := runnerFunc(func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			var err error
			if first, err = r.Go(ctx, name, fn, opts...); err != nil {
				return nil, err
			}
			if err := first.Wait(ctx); err != nil {
				return nil, err
			}
			return r.Go(ctx, name, fn, opts...)
		})
		result, err := tether.Submit(t.Context(), twice, "task", func(context.Context) (int32, error) { return n.Add(1), nil })
		require.NoError(t, err)
		v, err := result.Value(t.Context())
		require.NoError(t, err)
		assert.EqualValues(t, 2, v)
		assert.EqualValues(t, 1, first.Result())
	})
	t.Run("that has nothing to run", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		_, err := tether.Submit[int](t.Context(), runnerFunc(r.Go), "task", nil)
		assert.ErrorIs(t, err, tether.ErrInvalid)
		_, err = tether.Submit(t.Context(), nil, "task", answer)
		assert.ErrorIs(t, err, tether.ErrInvalid)
	})
}

func TestN3_AUniqueDuplicateLetsItsBodyGo(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	end := make(chan struct{})
	first, err := tether.Submit(t.Context(), r, "task", func(context.Context) (int, error) { <-end; return 1, nil }, tether.Unique("key"))
	require.NoError(t, err)
	var gone atomic.Bool
	var second *tether.Result[int]
	func() {
		data := new([1 << 20]byte)
		runtime.AddCleanup(data, func(int) { gone.Store(true) }, 0)
		second, err = tether.Submit(t.Context(), r, "task", func(context.Context) (int, error) { return int(data[0]), nil }, tether.Unique("key"))
		require.NoError(t, err)
	}()
	assert.True(t, collected(gone.Load), "it will never run")
	close(end)
	v, err := second.Value(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, v)
	require.NoError(t, first.Wait(t.Context()))
	runtime.KeepAlive(second)
}
