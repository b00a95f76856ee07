package tether_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// follow notes what Watch yields, as text, until the task has ended.
func follow(task *tether.Task, seen *[]string, done chan<- struct{}) {
	defer close(done)
	for info := range task.Watch(context.Background()) {
		*seen = append(*seen, fmt.Sprint(info.State, info.Attempt, info.Progress.Done))
	}
}

func TestWatch(t *testing.T) {
	t.Run("each change of a task, when the watcher keeps up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			task := start(t, r, "t", func(ctx context.Context) error {
				synctest.Wait()
				tether.ReportProgress(ctx, tether.Progress{Done: 1})
				synctest.Wait()
				tether.ReportProgress(ctx, tether.Progress{Done: 1}) // no change
				synctest.Wait()
				if info := infoOf(ctx); info.Attempt == 1 {
					return errTest
				}
				tether.ReportProgress(ctx, tether.Progress{Done: 2})
				synctest.Wait()
				return nil
			}, tether.Hold(), tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
			var seen []string
			done := make(chan struct{})
			go follow(task, &seen, done)
			synctest.Wait()
			require.True(t, task.Release())
			<-done
			want := []string{"held 0 0", "running 1 0", "running 1 1", "queued 2 1", "running 2 1", "running 2 2", "succeeded 2 2"}
			// From held to running it passes queued, which is too short to be seen for certain.
			seen = slices.DeleteFunc(seen, func(s string) bool { return s == "queued 0 0" })
			assert.Equal(t, want, seen)
		})
	})
	t.Run("from held to queued to running, in a pool", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("p", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			p.Pause()
			release := make(chan struct{})
			task := start(t, p, "t", until(release), tether.Hold())
			var seen []string
			done := make(chan struct{})
			go follow(task, &seen, done)
			synctest.Wait()
			task.Release()
			synctest.Wait()
			p.Resume()
			synctest.Wait()
			assert.Equal(t, []string{"held 0 0", "queued 0 0", "running 1 0"}, seen)
			close(release)
			<-done
		})
	})
	t.Run("between the attempts of a task that its submitter runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
			release := make(chan struct{})
			start(t, p, "fills it", until(release))
			var seen []string
			done := make(chan struct{})
			start(t, p, "t", func(ctx context.Context) error {
				task, _ := tether.FromContext(ctx)
				if task.Info().Attempt == 2 {
					return nil
				}
				go follow(task, &seen, done)
				synctest.Wait()
				return errTest
			}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
			<-done
			assert.Equal(t, []string{"running 1 0", "queued 2 0"}, seen[:2])
			close(release)
		})
	})
	t.Run("the last one is final even to those who are slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			task := start(t, r, "t", func(ctx context.Context) error {
				for i := range int64(1000) {
					tether.ReportProgress(ctx, tether.Progress{Done: i})
				}
				return nil
			}, tether.Hold())
			var last tether.Info
			n := 0
			for info := range task.Watch(t.Context()) {
				task.Release()
				synctest.Wait() // it has ended meanwhile
				last = info
				n++
			}
			assert.Equal(t, 2, n)
			assert.Equal(t, tether.Succeeded, last.State)
			assert.EqualValues(t, 999, last.Progress.Done)
		})
	})
	t.Run("of a task that has ended: once", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "t", succeed)
		require.NoError(t, wait(task))
		n := 0
		for info := range task.Watch(t.Context()) {
			assert.Equal(t, tether.Succeeded, info.State)
			n++
		}
		assert.Equal(t, 1, n)
	})
	t.Run("ends with its ctx, and when the loop does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			task := start(t, r, "t", succeed, tether.Hold())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			n := 0
			for range task.Watch(ctx) {
				n++
			}
			assert.Equal(t, 1, n)
			for range task.Watch(t.Context()) {
				break
			}
			task.Cancel(nil)
		})
	})
	t.Run("the final one comes after the observer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			observing := make(chan struct{})
			r := newRegistry(t, tether.Config{Observer: slowEnd{until: observing}})
			task, err := tether.Submit(t.Context(), r, "t", func(context.Context) (int, error) { return 7, nil })
			require.NoError(t, err)
			require.True(t, task.Keep())
			got := make(chan any, 1)
			go func() {
				for info := range task.Watch(context.Background()) {
					if info.State.Final() {
						got <- task.Task.Value()
					}
				}
			}()
			synctest.Wait()
			assert.Empty(t, got, "final before its Done is closed")
			close(observing)
			assert.Equal(t, 7, <-got)
		})
	})
	t.Run("whose ctx ends while the observer is told of the end: what the task was before", func(t *testing.T) {
		// It cannot be final, since the outcome cannot be seen, nor may it be nothing.
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for name, c := range map[string]struct {
			body tether.Func
			drop bool
			want tether.State
		}{
			"of a success":               {succeed, false, tether.Running},
			"of a failure":               {fail, false, tether.Running},
			"of a task that has not run": {succeed, true, tether.Queued},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					observing := make(chan struct{})
					letGo := sync.OnceFunc(func() { close(observing) })
					defer letGo()
					r := newRegistry(t, tether.Config{Observer: slowEnd{until: observing}})
					task := start(t, r, "t", c.body, tether.Hold())
					if c.drop {
						go task.Cancel(errTest) // the observer is told by whoever cancels
					} else {
						task.Release()
					}
					synctest.Wait()
					watch := func(ctx context.Context) (seen []tether.Info) {
						for info := range task.Watch(ctx) {
							seen = append(seen, info)
						}
						return seen
					}
					later, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					for _, ctx := range []context.Context{ended, later} {
						seen := watch(ctx)
						require.Len(t, seen, 1)
						assert.Equal(t, c.want, seen[0].State)
						assert.NoError(t, seen[0].Err)
						assert.Zero(t, seen[0].Finished)
						assert.Equal(t, task.ID(), seen[0].ID)
						assert.Equal(t, !c.drop, !seen[0].Started.IsZero())
					}
					letGo()
					<-task.Done()
					seen := watch(ended)
					require.Len(t, seen, 1, "it can be seen")
					assert.True(t, seen[0].State.Final())
					assert.Equal(t, task.Err(), seen[0].Err)
				})
			})
		}
	})
	t.Run("what has ended changes no more, whatever a goroutine of the body's reports", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var left context.Context
		task := start(t, r, "t", func(ctx context.Context) error {
			left = ctx
			tether.ReportProgress(ctx, tether.Progress{Done: 1})
			return nil
		})
		require.NoError(t, wait(task))
		before := task.Info()
		tether.ReportProgress(left, tether.Progress{Done: 2})
		assert.Equal(t, before, task.Info())
		for info := range task.Watch(t.Context()) {
			assert.Equal(t, before, info)
		}
	})
	t.Run("T8 does not count as asking for the outcome", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			task := start(t, r, "fails", fail, tether.Hold())
			var seen []string
			done := make(chan struct{})
			go follow(task, &seen, done)
			synctest.Wait()
			task.Release()
			<-done
			assert.Len(t, book.about("fails"), 1)
			assert.False(t, task.Info().Awaited)
		})
	})
	t.Run("by many at once, while it changes all the time", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "t", func(ctx context.Context) error {
			for i := range int64(20_000) {
				tether.ReportProgress(ctx, tether.Progress{Done: i})
			}
			return nil
		}, tether.Hold())
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				before, last := int64(-1), tether.Info{}
				for info := range task.Watch(context.Background()) {
					if !info.State.Final() && info.Progress.Done < before {
						t.Errorf("progress goes from %d back to %d", before, info.Progress.Done)
					}
					before, last = info.Progress.Done, info
				}
				assert.Equal(t, tether.Succeeded, last.State)
			})
		}
		task.Release()
		wg.Wait()
	})
}

// slowEnd holds TaskEnded up until its channel is closed.
type slowEnd struct {
	tether.NopObserver
	until chan struct{}
}

func (o slowEnd) TaskEnded(context.Context, *tether.Task) { <-o.until }

func infoOf(ctx context.Context) tether.Info {
	t, _ := tether.FromContext(ctx)
	return t.Info()
}

// ids returns the ids of tasks.
func ids(tasks iter.Seq[*tether.Task]) (list []string) {
	for task := range tasks {
		list = append(list, task.ID())
	}
	return list
}

func TestForget(t *testing.T) {
	t.Run("a finished task is forgotten at once", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		kept, gone := start(t, r, "kept", succeed), start(t, r, "gone", succeed)
		require.NoError(t, wait(kept))
		require.NoError(t, wait(gone))
		assert.True(t, gone.Forget())
		assert.False(t, gone.Forget(), "twice")
		_, err := r.Find(gone.ID())
		assert.ErrorIs(t, err, tether.ErrExpired)
		assert.Equal(t, []*tether.Task{kept}, slices.Collect(r.Finished()))
		assert.Equal(t, tether.Succeeded, gone.State(), "the handle stays good")
	})
	t.Run("a live one is not, nor one that was never retained", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: -1})
		release := make(chan struct{})
		task := start(t, r, "t", until(release))
		assert.False(t, task.Forget())
		_, err := r.Find(task.ID())
		assert.NoError(t, err)
		close(release)
		require.NoError(t, wait(task))
		assert.False(t, task.Forget())
	})
	t.Run("N3 beside tasks that take its place, each leaves once", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: 8})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 2000 {
					task := start(t, r, "t", succeed)
					if err := wait(task); err != nil {
						t.Error(err)
					}
					wg.Go(func() { task.Forget() })
				}
			})
		}
		wg.Wait()
		for task := range r.Finished() {
			assert.True(t, task.Forget())
		}
		assert.Empty(t, slices.Collect(r.Finished()))
	})
}

func TestKeep(t *testing.T) {
	const retain = 4
	fill := func(t *testing.T, r *tether.Registry) {
		for range 3 * retain {
			require.NoError(t, wait(start(t, r, "other", succeed)))
		}
	}
	t.Run("what is kept is not pushed out by what is not", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: retain})
		release := make(chan struct{})
		before := start(t, r, "kept while it runs", until(release))
		assert.True(t, before.Keep())
		close(release)
		require.NoError(t, wait(before))
		after := start(t, r, "kept when it has ended", succeed)
		require.NoError(t, wait(after))
		assert.True(t, after.Keep())
		assert.True(t, after.Keep(), "twice is once")
		fill(t, r)
		for _, task := range []*tether.Task{before, after} {
			found, err := r.Find(task.ID())
			require.NoError(t, err)
			assert.Same(t, task, found)
		}
		finished := slices.Collect(r.Finished())
		assert.Len(t, finished, retain+2)
		assert.Equal(t, []*tether.Task{after, before}, finished[retain:], "newest first")
		assert.True(t, before.Forget())
		assert.NotContains(t, slices.Collect(r.Finished()), before)
	})
	t.Run("N3 as many as Retain, and no longer than RetainFor", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Retain: retain, RetainFor: time.Minute})
			var kept []*tether.Task
			for range retain + 1 {
				task := start(t, r, "t", succeed)
				task.Keep()
				require.NoError(t, wait(task))
				kept = append(kept, task)
			}
			_, err := r.Find(kept[0].ID())
			assert.ErrorIs(t, err, tether.ErrExpired)
			assert.False(t, kept[0].Keep(), "it is forgotten")
			assert.Len(t, slices.Collect(r.Finished()), retain)
			time.Sleep(time.Minute)
			assert.Empty(t, slices.Collect(r.Finished()))
			_, err = r.Find(kept[retain].ID())
			assert.ErrorIs(t, err, tether.ErrExpired)
			assert.False(t, kept[retain].Keep())
		})
	})
	t.Run("what is kept is not pushed out by what is forgotten at once", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: retain})
		kept := start(t, r, "kept", func(ctx context.Context) error {
			task, _ := tether.FromContext(ctx)
			assert.True(t, task.Keep(), "by its own body")
			return nil
		})
		require.NoError(t, wait(kept))
		for range 3 * retain {
			task := start(t, r, "t", succeed)
			require.NoError(t, wait(task))
			require.True(t, task.Forget())
		}
		assert.Equal(t, []string{kept.ID()}, ids(r.Finished()))
	})
	t.Run("those that are kept push out one another, and nothing else", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: retain})
		other := start(t, r, "other", succeed)
		require.NoError(t, wait(other))
		newest := []string{other.ID()}
		for range retain + 2 {
			task := start(t, r, "t", succeed, tether.Hold())
			require.True(t, task.Keep(), "before its end it takes no place among the others")
			task.Release()
			require.NoError(t, wait(task))
			newest = slices.Insert(newest, 0, task.ID())
		}
		assert.Equal(t, append(newest[:retain], other.ID()), ids(r.Finished()))
	})
	t.Run("while the observer is told of the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			observing := make(chan struct{})
			r := newRegistry(t, tether.Config{Retain: retain, Observer: slowEnd{until: observing}})
			task := start(t, r, "t", succeed)
			synctest.Wait()
			assert.True(t, task.Keep())
			close(observing)
			require.NoError(t, wait(task))
			fill(t, r)
			_, err := r.Find(task.ID())
			assert.NoError(t, err)
		})
	})
	t.Run("the newest come first, in whatever order they were kept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Retain: retain})
			var tasks []*tether.Task
			for range 4 {
				task := start(t, r, "t", succeed)
				require.NoError(t, wait(task))
				tasks = append(tasks, task)
				time.Sleep(time.Second)
			}
			require.True(t, tasks[2].Keep())
			require.True(t, tasks[0].Keep())
			slices.Reverse(tasks)
			assert.Equal(t, ids(slices.Values(tasks)), ids(r.Finished()))
		})
	})
	t.Run("nothing is where nothing is retained", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: -1})
		task := start(t, r, "t", succeed)
		require.NoError(t, wait(task))
		assert.False(t, task.Keep())
	})
	t.Run("at the very end of a task", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: retain})
		for range 1000 {
			release, kept := make(chan struct{}), make(chan bool)
			task := start(t, r, "t", until(release))
			go func() { kept <- task.Keep() }()
			close(release)
			require.NoError(t, wait(task))
			require.True(t, <-kept)
			fill(t, r)
			_, err := r.Find(task.ID())
			require.NoError(t, err)
			require.True(t, task.Forget())
		}
	})
}

// What has failed is to be found still when many others have ended after it.
func TestFailuresAreRetainedApart(t *testing.T) {
	r := newRegistry(t, tether.Config{Retain: 4})
	var failed []*tether.Task
	for range 6 {
		failed = append(failed, start(t, r, "fails", fail))
	}
	for _, task := range failed {
		require.Error(t, wait(task))
	}
	for range 100 {
		require.NoError(t, wait(start(t, r, "task", succeed)))
	}
	var found []*tether.Task
	succeeded := 0
	for task := range r.Finished() {
		if task.State() == tether.Succeeded {
			succeeded++
		} else {
			found = append(found, task)
		}
	}
	assert.Equal(t, 4, succeeded)
	assert.Len(t, found, 4, "the last of them")
	for _, task := range found {
		again, err := r.Find(task.ID())
		require.NoError(t, err)
		assert.Same(t, task, again)
	}
	assert.True(t, found[0].Keep())
	assert.True(t, found[1].Forget())
	_, err := r.Find(found[1].ID())
	assert.ErrorIs(t, err, tether.ErrExpired)
	for range 5 {
		require.Error(t, wait(start(t, r, "fails", fail)))
	}
	_, err = r.Find(found[0].ID())
	assert.NoError(t, err, "it is kept")
	_, err = r.Find(found[2].ID())
	assert.ErrorIs(t, err, tether.ErrExpired)
}

// A flood of failures does not evict the one panic.
func TestPanicsAreRetainedApart(t *testing.T) {
	r := newRegistry(t, tether.Config{Retain: 4})
	panicked := start(t, r, "panics", func(context.Context) error { panic(errTest) })
	require.Error(t, wait(panicked))
	first := start(t, r, "fails", fail)
	require.Error(t, wait(first))
	for range 20 {
		require.Error(t, wait(start(t, r, "fails", fail)))
		require.NoError(t, wait(start(t, r, "task", succeed)))
	}
	_, err := r.Find(first.ID())
	require.ErrorIs(t, err, tether.ErrExpired)
	found, err := r.Find(panicked.ID())
	require.NoError(t, err)
	assert.Same(t, panicked, found)
	all := slices.Collect(r.Finished())
	assert.Len(t, all, 9)
	assert.Same(t, panicked, all[8], "the oldest comes last")
	assert.True(t, panicked.Keep())
	for range 5 {
		require.Error(t, wait(start(t, r, "panics", func(context.Context) error { panic(errTest) })))
	}
	_, err = r.Find(panicked.ID())
	require.NoError(t, err, "it is kept")
	assert.True(t, panicked.Forget())
}

func TestFinishedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		r := newRegistry(t, tether.Config{Retain: 4, RetainFor: time.Hour})
		since := func() time.Duration { return r.FinishedSince().Sub(born).Round(time.Millisecond) }
		do := func(body tether.Func) *tether.Task {
			time.Sleep(time.Second)
			task := start(t, r, "task", body)
			_ = wait(task)
			return task
		}
		assert.Zero(t, since())
		do(fail) // at 1 s
		for range 4 {
			do(succeed) // at 2, 3, 4 and 5 s
		}
		assert.Zero(t, since(), "every task is there")
		do(succeed).Keep() // the one at 2 s is evicted
		assert.Equal(t, 3*time.Second, since(), "the oldest that is left")
		for range 4 {
			do(fail) // at 7 to 10 s: the first failure is evicted
		}
		assert.Equal(t, 7*time.Second, since(), "failures are complete for a shorter time than successes")
		time.Sleep(2 * time.Hour)
		assert.Equal(t, time.Hour+10*time.Second, since(), "older ones have expired")
		none := newRegistry(t, tether.Config{Retain: -1})
		assert.Equal(t, time.Now().Truncate(time.Millisecond), none.FinishedSince().Truncate(time.Millisecond), "none is retained")
	})
}
