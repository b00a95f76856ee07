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
	t.Run("that submits in its turn, and twice", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var wrapped atomic.Int32
		mirror := runnerFunc(func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			var last *tether.Result[string]
			for range 2 {
				var err error
				last, err = tether.Submit(ctx, r, name, func(ctx context.Context) (string, error) {
					wrapped.Add(1)
					return "", fn(ctx)
				}, opts...)
				if err != nil {
					return nil, err
				}
			}
			return last.Task, nil
		})
		result, err := tether.Submit(t.Context(), mirror, "task", answer)
		require.NoError(t, err)
		v, err := result.Value(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 42, v)
		drain(t, r)
		assert.EqualValues(t, 2, wrapped.Load())
	})
	t.Run("that calls the body with another context", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		detaches := runnerFunc(func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			return r.Go(ctx, name, func(context.Context) error { return fn(context.Background()) }, opts...)
		})
		result, err := tether.Submit(t.Context(), detaches, "task", answer)
		require.NoError(t, err)
		_, err = result.Value(t.Context())
		assert.ErrorContains(t, err, "context", "better than a zero")
		assert.Nil(t, result.Result())
	})
	t.Run("that calls the body twice at once, and late", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		late, over := make(chan struct{}), make(chan struct{})
		hedges := runnerFunc(func(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
			return r.Go(ctx, name, func(ctx context.Context) error {
				go func() {
					defer close(over)
					<-late
					_ = fn(ctx)
				}()
				return fn(ctx)
			}, opts...)
		})
		var calls atomic.Int32
		result, err := tether.Submit(t.Context(), hedges, "task", func(context.Context) (int32, error) { return calls.Add(1), nil })
		require.NoError(t, err)
		require.NoError(t, result.Wait(t.Context()))
		close(late)
		v, err := result.Value(t.Context())
		require.NoError(t, err)
		<-over
		again, err := result.Value(t.Context())
		require.NoError(t, err)
		assert.Equal(t, v, again, "what was returned first")
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

// A task's values outlive all that stand between it and their owner, whoever of those
// lives and whoever has ended.
func TestT4_ValuesOfAGrandparentThatLives(t *testing.T) {
	for what, observer := range map[string]tether.Observer{
		"no observer":         nil,
		"one that derives":    stuckFunc(func(context.Context, *tether.Task) {}),
		"several that derive": tether.Observers(tether.NopObserver{}, tether.NopObserver{}),
	} {
		t.Run(what, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Observer: observer})
			ctx := context.WithValue(t.Context(), ctxKey("tenant"), 7)
			seen := make(chan any, 2)
			end, look := make(chan struct{}), make(chan struct{})
			var child *tether.Task
			grandparent, err := r.Go(ctx, "grandparent", func(ctx context.Context) error {
				middle, err := r.Go(ctx, "middle", func(ctx context.Context) error {
					var err error
					child, err = r.Go(ctx, "child", func(ctx context.Context) error {
						for range 2 {
							<-look
							seen <- ctx.Value(ctxKey("tenant"))
						}
						return nil
					})
					return err
				})
				if err != nil {
					return err
				}
				if err := middle.Wait(context.Background()); err != nil {
					return err
				}
				look <- struct{}{} // the middle has ended, this one lives
				<-end
				return nil
			})
			require.NoError(t, err)
			assert.Equal(t, 7, <-seen)
			close(end)
			require.NoError(t, wait(grandparent))
			look <- struct{}{}
			assert.Equal(t, 7, <-seen)
			require.NoError(t, wait(child))
		})
	}
}
