package tether_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// stuckJournal is an Observer that writes down who is stuck.
type stuckJournal struct {
	tether.NopObserver
	mu      sync.Mutex
	stacks  map[*tether.Task][]string
	through map[*tether.Task]context.Context
}

func (d *stuckJournal) TaskStuck(ctx context.Context, t *tether.Task, stack []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stacks == nil {
		d.stacks, d.through = make(map[*tether.Task][]string), make(map[*tether.Task]context.Context)
	}
	d.stacks[t] = append(d.stacks[t], string(stack))
	d.through[t] = ctx
}

func (d *stuckJournal) of(t *tether.Task) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stacks[t]
}

// Two places to hang at.
func hangHere(end <-chan struct{})  { <-end }
func hangThere(end <-chan struct{}) { <-end }

// StuckAfter of a task takes the place of the registry's, whichever is longer, and also
// if the registry has none.
func TestStuckAfter(t *testing.T) {
	for _, registry := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint("registry ", registry), func(t *testing.T) {
			settle()
			synctest.Test(t, func(t *testing.T) {
				d := new(stuckJournal)
				r := newRegistry(t, tether.Config{StuckAfter: registry, Observer: d})
				began := time.Now()
				end := make(chan struct{})
				submit := func(limit time.Duration) *tether.Task {
					return start(t, r, fmt.Sprint("task ", limit), until(end), tether.StuckAfter(limit))
				}
				usual := start(t, r, "usual", until(end))
				limits := map[time.Duration]*tether.Task{}
				for _, limit := range []time.Duration{0, time.Hour, 16 * time.Second, time.Second, 16 * time.Millisecond} {
					limits[limit] = submit(limit)
					synctest.Wait()
				}
				// reported checks which have been reported by now, and no earlier.
				reported := func(at time.Duration, want ...time.Duration) {
					t.Helper()
					time.Sleep(at - time.Since(began))
					synctest.Wait()
					var got []time.Duration
					for limit, task := range limits {
						if len(d.of(task)) > 0 {
							got = append(got, limit)
						}
					}
					assert.ElementsMatch(t, want, got, "after %v", at)
				}
				reported(16*time.Millisecond - 1)
				reported(17*time.Millisecond, 16*time.Millisecond)
				reported(time.Second-1, 16*time.Millisecond)
				reported(time.Second+time.Second/16, 16*time.Millisecond, time.Second)
				limits[2*time.Second] = submit(2 * time.Second) // while the timer is set for later
				reported(3*time.Second-1, 16*time.Millisecond, time.Second)
				reported(3*time.Second+time.Second/4, 16*time.Millisecond, time.Second, 2*time.Second)
				reported(time.Hour+time.Hour/16, 16*time.Millisecond, time.Second, 2*time.Second, 16*time.Second, time.Hour)
				assert.Len(t, d.of(usual), map[bool]int{true: 1}[registry > 0])
				close(end)
				time.Sleep(24 * time.Hour)
				assert.Empty(t, d.of(limits[0]))
			})
		})
	}
	t.Run("invalid", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		_, err := r.Go(context.Background(), "task", succeed, tether.StuckAfter(-1))
		assert.ErrorIs(t, err, tether.ErrInvalid)
	})
}

func TestStuck(t *testing.T) {
	const limit = 16 * time.Second
	newStuck := func(t *testing.T) (*tether.Registry, *stuckJournal, *bytes.Buffer) {
		var logged bytes.Buffer
		d := new(stuckJournal)
		return newRegistry(t, tether.Config{StuckAfter: limit, Observer: d, Logger: slog.New(slog.NewTextHandler(&logged, nil))}), d, &logged
	}
	bubble := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { settle(); synctest.Test(t, f) })
	}

	bubble("reported once, with the stack of its own goroutine", func(t *testing.T) {
		r, d, logged := newStuck(t)
		end := make(chan struct{})
		var tasks []*tether.Task
		for i := range 100 {
			hang := hangHere
			if i == 42 {
				hang = hangThere
			}
			tasks = append(tasks, start(t, r, "sync", func(context.Context) error { hang(end); return nil }))
		}
		time.Sleep(limit - 1)
		synctest.Wait()
		assert.Empty(t, d.of(tasks[42]), "it is not late yet")
		time.Sleep(limit/16 + 1)
		synctest.Wait()
		for i, task := range tasks {
			found := d.of(task)
			require.Len(t, found, 1)
			want, other := "hangHere", "hangThere"
			if i == 42 {
				want, other = other, want
			}
			assert.Contains(t, found[0], "tether_test."+want)
			assert.NotContains(t, found[0], "tether_test."+other)
			assert.NotContains(t, found[0], "\n\n", "one goroutine")
			assert.Equal(t, found[0], string(task.Info().Stuck))
			assert.Equal(t, tether.Running, task.State())
		}
		time.Sleep(100 * limit)
		close(end)
		wait(tasks[42])
		assert.Len(t, d.of(tasks[42]), 1, "once")
		assert.NotEmpty(t, tasks[42].Info().Stuck, "for whoever comes later")
		assert.Equal(t, 100, strings.Count(logged.String(), `level=WARN msg="task stuck" task=sync id=`))
		assert.Contains(t, logged.String(), "id="+tasks[42].ID()+` pool="" running=16s stack="goroutine `)
	})
	bubble("who ends in time is not reported", func(t *testing.T) {
		r, d, logged := newStuck(t)
		for range 50 {
			task := start(t, r, "quick", func(context.Context) error { time.Sleep(limit - 1); return nil })
			wait(task)
			assert.Empty(t, d.of(task))
			assert.Empty(t, task.Info().Stuck)
		}
		time.Sleep(time.Hour)
		assert.Empty(t, logged.String())
	})
	bubble("found again after nothing was running", func(t *testing.T) {
		r, d, _ := newStuck(t)
		for range 3 {
			time.Sleep(10 * limit)
			end := make(chan struct{})
			task := start(t, r, "sync", until(end))
			time.Sleep(limit + limit/16)
			synctest.Wait()
			assert.Len(t, d.of(task), 1)
			close(end)
			wait(task)
		}
	})
	bubble("beside short ones", func(t *testing.T) {
		r, d, _ := newStuck(t)
		end := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(limit / 5):
					start(t, r, "short", func(context.Context) error { time.Sleep(limit / 3); return nil })
				}
			}
		}()
		time.Sleep(3 * limit)
		task := start(t, r, "sync", until(end))
		time.Sleep(limit + limit/16)
		synctest.Wait()
		assert.Len(t, d.of(task), 1)
		close(stop)
		close(end)
		wait(task)
		time.Sleep(limit)
		assert.Len(t, d.stacks, 1)
	})
	bubble("in the callback of an option", func(t *testing.T) {
		r, d, _ := newStuck(t)
		end := make(chan struct{})
		task := start(t, r, "retried", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, ShouldRetry: func(error) bool {
			hangThere(end)
			return false
		}}))
		time.Sleep(limit + limit/16)
		synctest.Wait()
		require.Len(t, d.of(task), 1)
		assert.Contains(t, d.of(task)[0], "hangThere")
		close(end)
		assert.ErrorIs(t, task.Wait(t.Context()), errTest)
	})
	bubble("each attempt has its time", func(t *testing.T) {
		r, d, _ := newStuck(t)
		attempts := 0
		task := start(t, r, "retried", func(ctx context.Context) error {
			if attempts++; attempts < 4 {
				time.Sleep(limit - 1)
			} else {
				time.Sleep(2 * limit)
			}
			return errTest
		}, tether.Retry(tether.RetryPolicy{Attempts: 4, Backoff: func(int, error) time.Duration { return limit / 3 }}))
		time.Sleep(4 * limit)
		synctest.Wait()
		assert.Equal(t, 4, attempts)
		assert.Empty(t, d.of(task))
		time.Sleep(limit + limit/16)
		synctest.Wait()
		assert.Len(t, d.of(task), 1)
		assert.ErrorIs(t, task.Wait(t.Context()), errTest)
	})
	bubble("in a pool, and run by its submitter", func(t *testing.T) {
		r, d, _ := newStuck(t)
		p := r.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		end := make(chan struct{})
		first := start(t, p, "sync", func(context.Context) error { hangHere(end); return nil })
		var inline *tether.Task
		var done sync.WaitGroup
		done.Go(func() {
			_, err := p.Go(t.Context(), "inline", func(ctx context.Context) error {
				inline, _ = tether.FromContext(ctx)
				hangThere(end)
				return nil
			})
			assert.NoError(t, err)
		})
		time.Sleep(limit + limit/16)
		synctest.Wait()
		require.Len(t, d.of(first), 1)
		assert.Contains(t, d.of(first)[0], "hangHere")
		require.Len(t, d.of(inline), 1)
		assert.Contains(t, d.of(inline)[0], "hangThere")
		close(end)
		done.Wait()
	})
	bubble("in a process of many goroutines, by the name", func(t *testing.T) {
		r, d, _ := newStuck(t)
		end := make(chan struct{})
		for range 3000 {
			go func() { <-end }()
		}
		task := start(t, r, "sync", func(context.Context) error { hangThere(end); return nil })
		start(t, r, "another", func(context.Context) error { hangHere(end); return nil })
		time.Sleep(limit + limit/16)
		synctest.Wait()
		require.Len(t, d.of(task), 1)
		assert.Contains(t, d.of(task)[0], "hangThere")
		assert.NotContains(t, d.of(task)[0], "hangHere")
		close(end)
	})
	bubble("who watches is told", func(t *testing.T) {
		r, _, _ := newStuck(t)
		end := make(chan struct{})
		task := start(t, r, "sync", until(end))
		var seen []string
		for info := range task.Watch(t.Context()) {
			seen = append(seen, fmt.Sprint(info.State, " ", len(info.Stuck) > 0))
			if len(info.Stuck) > 0 && info.State == tether.Running {
				close(end)
			}
		}
		assert.Equal(t, []string{"running true", "succeeded true"}, seen[len(seen)-2:])
	})
	bubble("a panic in the observer is logged, and others are told", func(t *testing.T) {
		var logged bytes.Buffer
		d := new(stuckJournal)
		r := newRegistry(t, tether.Config{StuckAfter: limit, Observer: tether.JoinObservers(panickyObserver{}, d),
			Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		end := make(chan struct{})
		one, two := start(t, r, "one", until(end)), start(t, r, "two", until(end))
		time.Sleep(limit + limit/16)
		synctest.Wait()
		assert.Len(t, d.of(one), 1)
		assert.Len(t, d.of(two), 1)
		assert.Equal(t, 2, strings.Count(logged.String(), "in=observer"))
		close(end)
		wait(one)
		wait(two)
	})
	bubble("never without the setting", func(t *testing.T) {
		d := new(stuckJournal)
		r := newRegistry(t, tether.Config{Observer: d, StuckAfter: 0})
		end := make(chan struct{})
		task := start(t, r, "sync", until(end))
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		assert.Empty(t, d.of(task))
		close(end)
	})
}

type panickyObserver struct{ tether.NopObserver }

func (panickyObserver) TaskStuck(context.Context, *tether.Task, []byte) { panic(errTest) }

// twinObserver makes a context of its own for each body.
type twinObserver struct {
	tether.NopObserver
	name  string
	calls *[]string
	fails bool
}

type spanKey string

func (o twinObserver) note(event string, ctx context.Context) {
	*o.calls = append(*o.calls, fmt.Sprint(o.name, " ", event, " ", ctx.Value(spanKey("a")), " ", ctx.Value(spanKey("b"))))
	if o.fails {
		panic(errors.New("broken"))
	}
}

func (o twinObserver) TaskSubmitted(ctx context.Context, _ *tether.Task)       { o.note("submitted", ctx) }
func (o twinObserver) TaskEnded(ctx context.Context, _ *tether.Task)           { o.note("ended", ctx) }
func (o twinObserver) TaskRefused(ctx context.Context, _ string, _ error)      { o.note("refused", ctx) }
func (o twinObserver) TaskStuck(ctx context.Context, _ *tether.Task, _ []byte) { o.note("stuck", ctx) }
func (o twinObserver) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	o.note("started", ctx)
	return context.WithValue(ctx, spanKey(o.name), t.Name())
}

func TestObservers(t *testing.T) {
	t.Run("each is told in order, of its own context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var calls []string
			r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: tether.JoinObservers(
				twinObserver{name: "a", calls: &calls}, nil, twinObserver{name: "b", calls: &calls})})
			_, err := r.Go(t.Context(), "", succeed)
			require.Error(t, err)
			var child *tether.Task
			wait(start(t, r, "task", func(ctx context.Context) error {
				assert.Equal(t, "task", ctx.Value(spanKey("a")))
				assert.Equal(t, "task", ctx.Value(spanKey("b")))
				time.Sleep(time.Minute + time.Minute/16)
				synctest.Wait()
				var err error
				child, err = r.Go(ctx, "child", succeed, tether.Hold())
				return err
			}))
			child.Cancel(nil) // it has not started: its observers have made nothing of it
			assert.Equal(t, []string{
				"a refused <nil> <nil>", "b refused <nil> <nil>",
				"a submitted <nil> <nil>", "b submitted <nil> <nil>",
				"a started <nil> <nil>", "b started task <nil>",
				"a stuck task <nil>", "b stuck task task",
				"a submitted task task", "b submitted task task", // the child, with its parent's values
				"a ended task <nil>", "b ended task task",
				"a ended task task", "b ended task task", // the child
			}, calls)
		})
	})
	t.Run("one that panics does not keep the others from being told", func(t *testing.T) {
		var calls []string
		var logged bytes.Buffer
		r := newRegistry(t, tether.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil)), Observer: tether.JoinObservers(
			twinObserver{name: "a", calls: &calls, fails: true}, twinObserver{name: "b", calls: &calls})})
		task := start(t, r, "task", succeed)
		wait(task)
		assert.Equal(t, []string{
			"a submitted <nil> <nil>", "b submitted <nil> <nil>",
			"a started <nil> <nil>", "b started <nil> <nil>",
			"a ended <nil> <nil>", "b ended <nil> task",
		}, calls)
		assert.Equal(t, 3, strings.Count(logged.String(), "panic=broken"))
	})
	t.Run("none", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Observer: tether.JoinObservers()})
		wait(start(t, r, "task", succeed))
	})
}

// settle waits until the goroutines that other tests have let go are gone: of too many
// no stacks are taken.
func settle() {
	for runtime.NumGoroutine() > 1000 {
		runtime.Gosched()
	}
}

// stuckFunc is an Observer whose TaskStuck is a function.
type stuckFunc func(ctx context.Context, t *tether.Task)

func (stuckFunc) TaskSubmitted(context.Context, *tether.Task)               {}
func (stuckFunc) TaskEnded(context.Context, *tether.Task)                   {}
func (stuckFunc) TaskRefused(context.Context, string, error)                {}
func (f stuckFunc) TaskStuck(ctx context.Context, t *tether.Task, _ []byte) { f(ctx, t) }
func (stuckFunc) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	return context.WithValue(ctx, spanKey("s"), "span")
}

// hookHandler is a log that calls a function for each record.
type hookHandler struct {
	slog.Handler
	hook func(slog.Record)
}

func (hookHandler) Enabled(context.Context, slog.Level) bool             { return true }
func (h hookHandler) Handle(_ context.Context, record slog.Record) error { h.hook(record); return nil }

// frames calls f that many frames deeper.
func frames(n int, f func()) {
	if n == 0 {
		f()
		return
	}
	frames(n-1, f)
	runtime.KeepAlive(n)
}

func TestStuck_Hostile(t *testing.T) {
	bubble := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { settle(); synctest.Test(t, f) })
	}

	bubble("a slow observer delays the next, and no attempt that is not stuck is reported", func(t *testing.T) {
		var logged bytes.Buffer
		release := make(chan struct{})
		seen := 0
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			Observer: stuckFunc(func(context.Context, *tether.Task) {
				if seen++; seen == 1 {
					<-release
				}
			})})
		end, end2 := make(chan struct{}), make(chan struct{})
		for range 2 {
			attempts := 0
			start(t, r, "retried", func(context.Context) error {
				if attempts++; attempts == 1 {
					<-end
					return errTest
				}
				<-end2
				return nil
			}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 0 }}))
		}
		time.Sleep(time.Minute + 4*time.Second) // the first report hangs
		synctest.Wait()
		close(end)
		time.Sleep(time.Second)
		close(release)
		synctest.Wait()
		assert.Equal(t, 2, seen)
		assert.NotContains(t, logged.String(), "running=1s")
		close(end2)
	})
	bubble("an observer that ends its goroutine does not end the round", func(t *testing.T) {
		seen := 0
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: stuckFunc(func(context.Context, *tether.Task) {
			seen++
			runtime.Goexit()
		})})
		end := make(chan struct{})
		for range 3 {
			start(t, r, "task", until(end))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 3, seen)
		start(t, r, "later", until(end))
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 4, seen)
		close(end)
	})
	bubble("the context is what TaskStarted returned, also if the task has ended", func(t *testing.T) {
		end := make(chan struct{})
		var task *tether.Task
		var span any
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute,
			Observer: stuckFunc(func(ctx context.Context, _ *tether.Task) { span = ctx.Value(spanKey("s")) }),
			Logger: slog.New(hookHandler{hook: func(record slog.Record) {
				if record.Message == "task stuck" {
					close(end)
					<-task.Done()
				}
			}})})
		task = start(t, r, "task", until(end), tether.Hold())
		task.Release()
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, "span", span)
	})
	bubble("whose goroutine cannot be found is reported too", func(t *testing.T) {
		d := new(stuckJournal)
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: d})
		end := make(chan struct{})
		p := r.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		start(t, p, "busy", until(end))
		var inline *tether.Task
		go frames(60, func() {
			_, err := p.Go(t.Context(), "inline", func(ctx context.Context) error {
				inline, _ = tether.FromContext(ctx)
				frames(60, func() { <-end }) // the runtime leaves out what is between the outermost and the innermost 50
				return nil
			})
			assert.NoError(t, err)
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, d.of(inline), 1)
		assert.Contains(t, d.of(inline)[0], "not found")
		close(end)
	})
	bubble("whose labels are lost, in a process of many goroutines", func(t *testing.T) {
		d := new(stuckJournal)
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: d})
		end := make(chan struct{})
		for range 3000 {
			go func() { <-end }()
		}
		p := r.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		start(t, p, "busy", until(end))
		task := start(t, r, "task", func(context.Context) error {
			_, err := p.Go(context.Background(), "inline", succeed) // leaves the goroutine with the labels of that context
			<-end
			return err
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Len(t, d.of(task), 1)
		close(end)
	})
	bubble("one round at a time, however long it takes", func(t *testing.T) {
		var inside, most, reports int
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: stuckFunc(func(context.Context, *tether.Task) {
			inside++
			most = max(most, inside)
			reports++
			time.Sleep(time.Minute)
			inside--
		})})
		end := make(chan struct{})
		for range 20 {
			start(t, r, "task", until(end))
		}
		time.Sleep(time.Hour)
		for range 3 {
			start(t, r, "later", until(end))
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		assert.Equal(t, 23, reports)
		assert.Equal(t, 1, most)
		close(end)
	})
	bubble("D6: Shutdown waits for a report that is under way", func(t *testing.T) {
		release, ended := make(chan struct{}), false
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: stuckFunc(func(context.Context, *tether.Task) {
			<-release
			ended = true
		})})
		end := make(chan struct{})
		start(t, r, "task", until(end))
		time.Sleep(time.Hour)
		close(end)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := r.Shutdown(ctx)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "stuck")
		go func() {
			time.Sleep(time.Second)
			close(release)
		}()
		drain(t, r)
		assert.True(t, ended)
	})
	bubble("a slow report does not put the next round off", func(t *testing.T) {
		at := make(map[string]time.Duration)
		began := time.Now()
		r := newRegistry(t, tether.Config{StuckAfter: time.Second, Observer: stuckFunc(func(_ context.Context, task *tether.Task) {
			at[task.Name()] = time.Since(began)
			time.Sleep(time.Minute)
		})})
		end := make(chan struct{})
		start(t, r, "a", until(end))
		time.Sleep(time.Minute)
		start(t, r, "b", until(end))
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Less(t, at["b"], 63*time.Second)
		close(end)
	})
	bubble("D5: Shutdown with the context of a report", func(t *testing.T) {
		var r *tether.Registry
		var err error
		r = newRegistry(t, tether.Config{StuckAfter: time.Minute, Observer: stuckFunc(func(ctx context.Context, _ *tether.Task) {
			err = r.Shutdown(ctx)
		})})
		require.NoError(t, wait(start(t, r, "task", func(context.Context) error {
			time.Sleep(time.Hour)
			return nil
		})))
		assert.ErrorIs(t, err, tether.ErrInvalid)
	})
	t.Run("D5: many Shutdowns at once, with a context that has ended", func(t *testing.T) {
		r := newRegistry(t, tether.Config{StuckAfter: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for range 2000 {
					if err := r.Shutdown(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		calls.Wait()
	})
	t.Run("first in a bubble of synctest, then outside", func(t *testing.T) {
		d := new(stuckJournal)
		r := tether.New(tether.Config{StuckAfter: time.Millisecond, Retain: -1, Observer: d, Logger: slog.New(slog.DiscardHandler)})
		synctest.Test(t, func(t *testing.T) {
			require.NoError(t, wait(start(t, r, "inside", func(context.Context) error { time.Sleep(time.Hour); return nil })))
			time.Sleep(time.Hour) // the watch has nothing to do any more
		})
		release := make(chan struct{})
		task := start(t, r, "outside", until(release))
		for info := range task.Watch(t.Context()) {
			if len(info.Stuck) > 0 {
				break
			}
		}
		close(release)
		require.NoError(t, wait(task))
		drain(t, r)
	})
	t.Run("a registry that is drained is kept alive by no timer", func(t *testing.T) {
		var gone atomic.Bool
		func() {
			r := tether.New(tether.Config{StuckAfter: time.Hour, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, wait(start(t, r, "task", succeed)))
			drain(t, r)
			runtime.AddCleanup(r, func(int) { gone.Store(true) }, 0)
		}()
		assert.True(t, collected(gone.Load))
	})
}

func TestT6_EachObserversPanicIsLogged(t *testing.T) {
	var logged bytes.Buffer
	var calls []string
	r := newRegistry(t, tether.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil)), Observer: tether.JoinObservers(
		twinObserver{name: "a", calls: &calls, fails: true}, twinObserver{name: "b", calls: &calls, fails: true})})
	require.NoError(t, wait(start(t, r, "task", succeed)))
	_, err := r.Go(t.Context(), "", succeed)
	require.Error(t, err)
	assert.Len(t, calls, 8)
	assert.Equal(t, 8, strings.Count(logged.String(), "panic=broken"))
}

// sampler hands only some events on.
type sampler struct {
	tether.Observer
	starts bool
}

func (s sampler) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	if s.starts {
		return s.Observer.TaskStarted(ctx, t)
	}
	return ctx
}

func TestObservers_WithinOthers(t *testing.T) {
	t.Run("groups do not take each other's contexts", func(t *testing.T) {
		var calls []string
		r := newRegistry(t, tether.Config{Observer: tether.JoinObservers(
			sampler{tether.JoinObservers(twinObserver{name: "a", calls: &calls}, tether.NopObserver{}), true},
			sampler{tether.JoinObservers(twinObserver{name: "b", calls: &calls}, tether.NopObserver{}, twinObserver{name: "c", calls: &calls}), false},
		)})
		require.NoError(t, wait(start(t, r, "task", succeed)))
		assert.Equal(t, []string{"a ended task <nil>", "b ended task <nil>", "c ended task <nil>"}, calls[len(calls)-3:])
		assert.Len(t, calls, 7)
	})
	t.Run("a panic in a group within another observer", func(t *testing.T) {
		var calls []string
		var logged bytes.Buffer
		r := newRegistry(t, tether.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil)), Observer: sampler{tether.JoinObservers(
			twinObserver{name: "a", calls: &calls}, twinObserver{name: "x", calls: &calls, fails: true}, twinObserver{name: "b", calls: &calls}), true}})
		require.NoError(t, wait(start(t, r, "task", succeed)))
		assert.Equal(t, []string{"a ended task <nil>", "x ended task <nil>", "b ended task task"}, calls[len(calls)-3:])
		assert.Equal(t, 3, strings.Count(logged.String(), "panic=broken"))
	})
	t.Run("one that ends the goroutine at the start", func(t *testing.T) {
		var calls []string
		r := newRegistry(t, tether.Config{Observer: tether.JoinObservers(
			twinObserver{name: "a", calls: &calls}, exitsAtStart{}, twinObserver{name: "b", calls: &calls})})
		assert.ErrorIs(t, wait(start(t, r, "task", succeed)), tether.ErrGoexit)
		assert.Equal(t, []string{"a ended task <nil>", "b ended task task"}, calls[len(calls)-2:])
	})
}

type exitsAtStart struct{ tether.NopObserver }

func (exitsAtStart) TaskStarted(context.Context, *tether.Task) context.Context {
	runtime.Goexit()
	return nil
}

func TestStack(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	end, up := make(chan struct{}), make(chan struct{}, 2)
	hang := func(at func(<-chan struct{})) tether.Func {
		return func(context.Context) error { up <- struct{}{}; at(end); return nil }
	}
	here, there := start(t, r, "hangs", hang(hangHere)), start(t, r, "hangs", hang(hangThere))
	<-up
	<-up
	// A body may be at the line where it reports still.
	for !strings.Contains(string(here.Stack()), "hangHere") || !strings.Contains(string(there.Stack()), "hangThere") {
		runtime.Gosched()
	}
	assert.NotContains(t, string(here.Stack()), "hangThere", "that is another task's")
	held := start(t, r, "held", succeed, tether.Hold())
	assert.Nil(t, held.Stack(), "it has no goroutine")
	held.Cancel(nil)
	close(end)
	require.NoError(t, wait(here))
	assert.Nil(t, here.Stack())
}

// A registry that was made outside is used in one bubble after the other, and outside.
func TestStuck_InBubblesAndOutside(t *testing.T) {
	const limit = 20 * time.Millisecond
	d := new(stuckJournal)
	reported := make(chan struct{}, 10)
	r := newRegistry(t, tether.Config{StuckAfter: limit, Observer: stuckFunc(func(ctx context.Context, task *tether.Task) {
		d.TaskStuck(ctx, task, nil)
		reported <- struct{}{}
	})})
	for range 2 {
		require.NoError(t, wait(start(t, r, "task", succeed))) // a timer is set, or was
		leaveWorkers()
		for range 2 {
			synctest.Test(t, func(t *testing.T) {
				task := start(t, r, "stuck", sleeper(time.Minute))
				time.Sleep(2 * limit)
				synctest.Wait()
				assert.Len(t, d.of(task), 1)
				require.NoError(t, wait(task))
				require.NoError(t, wait(start(t, r, "task", succeed))) // a timer is set when the bubble ends
			})
		}
		for range len(reported) {
			<-reported
		}
		end := make(chan struct{})
		task := start(t, r, "outside", func(context.Context) error { <-end; return nil })
		<-reported
		assert.Len(t, d.of(task), 1)
		close(end)
		require.NoError(t, wait(task))
	}
	leaveWorkers()
	synctest.Test(t, func(t *testing.T) { require.NoError(t, wait(start(t, r, "task", succeed))) })
	require.NoError(t, r.Shutdown(context.Background()))
}
