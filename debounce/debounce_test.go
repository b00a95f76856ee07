package debounce_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/debounce"
)

// noContext is a nil context.
var noContext context.Context

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bg = context.Background()

// A document that is changed three times is indexed once.
func Example() {
	reg := tether.New(tether.Config{})
	reindex := debounce.New(reg, "reindex", debounce.Config{Wait: 2 * time.Second, MaxWait: time.Minute})

	for version := range 3 {
		reindex.Go(context.Background(), "document 5", func(context.Context) error {
			fmt.Println("index version", version)
			return nil
		})
	}
	reg.Shutdown(context.Background()) // or two seconds later
	// Output: index version 2
}

func newRegistry(t *testing.T) *tether.Registry {
	r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { assert.NoError(t, r.Shutdown(bg)) })
	return r
}

// journal is what has run, and when.
type journal struct {
	began time.Time
	mu    sync.Mutex
	runs  []string
}

func newJournal() *journal { return &journal{began: time.Now()} }

func (j *journal) body(what string) tether.Func {
	return func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.runs = append(j.runs, fmt.Sprint(what, " after ", time.Since(j.began)))
		return nil
	}
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.runs
}

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestDebouncer(t *testing.T) {
	call := func(t *testing.T, d *debounce.Debouncer, key string, fn tether.Func) *tether.Task {
		t.Helper()
		task, err := d.Go(bg, key, fn)
		require.NoError(t, err)
		return task
	}
	bubble(t, "runs the last call's function once, after the last call", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: 10 * time.Second})
		var tasks []*tether.Task
		for i := range 4 {
			tasks = append(tasks, call(t, d, "a", j.body(strconv.Itoa(i))))
			time.Sleep(3 * time.Second)
		}
		call(t, d, "b", j.body("b"))
		assert.Equal(t, tether.Stats{Submitted: 2, Held: 2}, r.Stats())
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"3 after 19s", "b after 22s"}, j.all())
		for _, task := range tasks {
			assert.Same(t, tasks[0], task)
		}
		assert.Equal(t, tether.Succeeded, tasks[0].State())
		assert.Contains(t, tasks[0].Info().Func, "journal).body", "the function that was passed")
		call(t, d, "a", j.body("again"))
		time.Sleep(time.Minute)
		assert.Equal(t, "again after 1m22s", j.all()[2])
	})
	bubble(t, "is not put off beyond MaxWait", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: 2 * time.Second, MaxWait: 5 * time.Second})
		for i := range 10 {
			call(t, d, "a", j.body(strconv.Itoa(i)))
			time.Sleep(time.Second + time.Millisecond)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"4 after 5s", "9 after 10.005s"}, j.all())
	})
	bubble(t, "tasks of one key do not overlap", func(t *testing.T) {
		r := newRegistry(t)
		d := debounce.New(r, "task", debounce.Config{Wait: time.Second})
		var running, most atomic.Int32
		body := func(context.Context) error {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(10 * time.Second)
			running.Add(-1)
			return nil
		}
		first := call(t, d, "a", body)
		time.Sleep(5 * time.Second)
		second := call(t, d, "a", body)
		assert.NotSame(t, first, second, "the first runs already")
		time.Sleep(5 * time.Second)
		assert.Same(t, second, call(t, d, "a", body), "it waits for its turn")
		time.Sleep(time.Minute)
		assert.Equal(t, int32(1), most.Load())
		assert.Equal(t, uint64(2), r.Stats().Succeeded)
	})
	bubble(t, "what waits is run at once when the stop begins", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: time.Hour})
		for i := range 10 {
			call(t, d, strconv.Itoa(i), j.body("task"))
		}
		late := func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			time.Sleep(time.Second)
			_, err := d.Go(ctx, "late", j.body("late"))
			assert.NoError(t, err)
			return nil
		}
		_, err := r.Go(bg, "during the drain", late)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, r.Shutdown(bg))
		require.Len(t, j.all(), 11)
		for _, run := range j.all()[:10] {
			assert.Equal(t, "task after 0s", run)
		}
		assert.Equal(t, "late after 1s", j.all()[10])
		_, err = d.Go(bg, "refused", j.body("refused"))
		assert.ErrorIs(t, err, tether.ErrClosed)
	})
	bubble(t, "a call during the drain does not wait either, whatever waits before it", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10})
		d := debounce.New(pool, "task", debounce.Config{Wait: time.Hour})
		for i := range 3 {
			call(t, d, strconv.Itoa(i), func(ctx context.Context) error { time.Sleep(10 * time.Second); return nil })
		}
		_, err := r.Go(bg, "during the drain", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			time.Sleep(time.Second)
			_, err := d.Go(ctx, "late", j.body("late"))
			assert.NoError(t, err)
			return nil
		})
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, r.Shutdown(bg))
		assert.Equal(t, []string{"late after 30s"}, j.all())
	})
	bubble(t, "a task that was canceled is forgotten", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: time.Second})
		for range 2 { // with a call before the timer, and without one
			task := call(t, d, "a", j.body("canceled"))
			task.Cancel(nil)
			if len(j.all()) == 0 {
				assert.NotSame(t, task, call(t, d, "a", j.body("runs")))
			}
			time.Sleep(time.Minute)
		}
		assert.Equal(t, []string{"runs after 1s"}, j.all())
		call(t, d, "a", j.body("runs"))
		time.Sleep(time.Minute)
		assert.Len(t, j.all(), 2)
	})
	bubble(t, "each attempt runs the same function", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: time.Second, Options: []tether.Option{
			tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Minute }}),
		}})
		task := call(t, d, "a", func(ctx context.Context) error { _ = j.body("fails")(ctx); return errors.New("test error") })
		time.Sleep(30 * time.Second)
		assert.NotSame(t, task, call(t, d, "a", j.body("other")))
		time.Sleep(time.Hour)
		assert.Equal(t, []string{"fails after 1s", "fails after 1m1s", "fails after 2m1s", "other after 2m1s"}, j.all())
	})
	bubble(t, "a refusal is the caller's, and leaves nothing behind", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
		d := debounce.New(pool, "task", debounce.Config{Wait: time.Second})
		call(t, d, "a", j.body("a"))
		call(t, d, "b", j.body("b"))
		_, err := d.Go(bg, "c", j.body("c"))
		assert.ErrorIs(t, err, tether.ErrFull)
		call(t, d, "b", j.body("b2"))
		time.Sleep(time.Minute)
		assert.ElementsMatch(t, []string{"a after 1s", "b2 after 1s"}, j.all())
		call(t, d, "c", j.body("c"))
	})
	bubble(t, "calls wait for the one that submits", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		pool := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		_, err := pool.Go(bg, "other", func(context.Context) error { time.Sleep(10 * time.Second); return nil })
		require.NoError(t, err)
		synctest.Wait()
		d := debounce.New(pool, "task", debounce.Config{Wait: time.Second})
		var calls sync.WaitGroup
		for i := range 5 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, err := d.Go(bg, "a", j.body("task"))
				assert.NoError(t, err)
			})
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err = d.Go(ctx, "a", j.body("impatient"))
		assert.ErrorIs(t, err, tether.ErrFull)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		calls.Wait()
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"task after 11s"}, j.all())
	})
	t.Run("invalid", func(t *testing.T) {
		r, j := newRegistry(t), newJournal()
		d := debounce.New(r, "task", debounce.Config{Wait: time.Second, Options: []tether.Option{tether.Unique("x")}})
		for _, err := range []error{
			second(d.Go(bg, "", j.body("x"))), second(d.Go(bg, "a", nil)), second(d.Go(noContext, "a", j.body("x"))),
		} {
			assert.ErrorIs(t, err, tether.ErrInvalid)
		}
		call(t, d, "a", j.body("x"))
		_, err := d.Go(bg, "b", j.body("x"))
		assert.ErrorIs(t, err, tether.ErrInvalid)
		for _, make := range []func(){
			func() { debounce.New(nil, "task", debounce.Config{Wait: 1}) },
			func() { debounce.New(r, "", debounce.Config{Wait: 1}) },
			func() { debounce.New(r, "task", debounce.Config{}) },
			func() { debounce.New(r, "task", debounce.Config{Wait: 2, MaxWait: 1}) },
		} {
			assert.Panics(t, make)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// Calls from many goroutines, while tasks start and the stop begins: after the last call
// for a key that was admitted there is a run.
func TestDebouncer_Race(t *testing.T) {
	for range 20 {
		r := newRegistry(t)
		d := debounce.New(r, "task", debounce.Config{Wait: time.Microsecond, MaxWait: 3 * time.Microsecond})
		var value, seen [3]atomic.Int64 // by key: a document, and the version that was indexed last
		var calls sync.WaitGroup
		for i := range 8 {
			calls.Go(func() {
				for n := range 100 {
					key := n % 3
					value[key].Add(1)
					_, err := d.Go(bg, strconv.Itoa(key), func(context.Context) error {
						seen[key].Store(value[key].Load())
						return nil
					})
					if err != nil {
						assert.ErrorIs(t, err, tether.ErrClosed)
						value[key].Add(-1)
						return
					}
					if i == 0 && n == 90 {
						go func() { assert.NoError(t, r.Shutdown(bg)) }()
					}
				}
			})
		}
		calls.Wait()
		require.NoError(t, r.Shutdown(bg))
		s := r.Stats()
		assert.Equal(t, s.Submitted, s.Succeeded, "%+v", s)
		for key := range value {
			assert.GreaterOrEqual(t, seen[key].Load(), value[key].Load(), "key %d: a change was not seen", key)
		}
	}
}

// A task that is dropped while it waits for a worker leaves nothing behind.
func TestADroppedTaskLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRegistry(t).NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, MaxWait: time.Second})
		p.Pause()
		d := debounce.New(p, "task", debounce.Config{Wait: time.Second})
		var gone atomic.Bool
		func() {
			held := new([1 << 10]byte)
			runtime.AddCleanup(held, func(int) { gone.Store(true) }, 0)
			_, err := d.Go(bg, "key", func(context.Context) error { held[0]++; return nil })
			require.NoError(t, err)
		}()
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, p.Stats().Dropped)
		for i := 0; i < 20 && !gone.Load(); i++ {
			runtime.GC()
			runtime.Gosched()
		}
		assert.True(t, gone.Load(), "the function of the call")
		runtime.KeepAlive(d)
	})
}
