package tether_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// sleeper is a body that takes its time.
func sleeper(d time.Duration) tether.Func {
	return func(context.Context) error {
		time.Sleep(d)
		return nil
	}
}

// flood submits n tasks of a share; empty for none.
func flood(t *testing.T, p *tether.Pool, share string, n int, fn tether.Func, opts ...tether.Option) (tasks []*tether.Task) {
	if share != "" {
		opts = append(opts, tether.Share(share))
	}
	for range n {
		tasks = append(tasks, start(t, p, "task", fn, opts...))
	}
	return tasks
}

// waited returns how long a task has waited for its start.
func waited(task *tether.Task) time.Duration {
	info := task.Info()
	return info.Started.Sub(info.Submitted)
}

func TestP8_ANewcomerStartsWithinARound(t *testing.T) {
	for _, of := range []string{"", "A"} {
		t.Run(fmt.Sprintf("flood of %q", of), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const workers = 4
				p := newPool(t, tether.PoolConfig{Workers: workers, Queue: tether.Unbounded})
				flood(t, p, of, 1000, sleeper(time.Second))
				time.Sleep(10500 * time.Millisecond)
				// All bodies have the same length, and the next workers are free in half a
				// second: the newcomers' first tasks get them.
				for n := range workers - 1 {
					task := start(t, p, "task", sleeper(time.Second), tether.Share(fmt.Sprint("newcomer ", n)))
					defer func() { assert.Equal(t, 500*time.Millisecond, waited(task)) }()
				}
				time.Sleep(2 * time.Second)
			})
		})
	}
}

// Shares of which each has more work than it can do get as many workers each, however long
// their bodies are.
func TestP8_SharesGetAsManyWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 6, Queue: tether.Unbounded})
		slow := flood(t, p, "slow", 100, sleeper(20*time.Second))
		flood(t, p, "fast", 5000, sleeper(time.Second))
		flood(t, p, "", 5000, sleeper(time.Second))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, s := range p.Shares(10) {
			assert.Equal(t, 2, s.Running, "%+v", s)
		}
		assert.Len(t, p.Shares(10), 3)
		for _, task := range slow {
			task.Cancel(nil)
		}
		time.Sleep(time.Hour)
	})
}

func TestP8_OneShareAloneUsesAllWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 8, Queue: tether.Unbounded})
		tasks := flood(t, p, "A", 80, sleeper(time.Second))
		for i, task := range tasks {
			require.NoError(t, wait(task))
			assert.Equal(t, time.Duration(i/8)*time.Second, waited(task))
		}
	})
}

// Within a share, and among the tasks without one, the order is that of the submission.
func TestP8_SharesAreFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		plain := flood(t, p, "", 5, sleeper(time.Second)) // before there is any share
		a := flood(t, p, "A", 5, sleeper(time.Second))
		plain = append(plain, flood(t, p, "", 5, sleeper(time.Second))...)
		b := flood(t, p, "B", 5, sleeper(time.Second))
		time.Sleep(time.Minute)
		for _, tasks := range [][]*tether.Task{plain, a, b} {
			for i := range len(tasks) - 1 {
				assert.True(t, tasks[i].Info().Started.Before(tasks[i+1].Info().Started))
			}
		}
		// One of each in turn, after the first, which may have started before there were turns.
		assert.LessOrEqual(t, waited(b[4]), 15*time.Second)
	})
}

func TestP8_ShareWorkersBoundsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 4, Queue: tether.Unbounded, ShareWorkers: 3})
		slow := flood(t, p, "slow", 30, sleeper(time.Minute))
		synctest.Wait()
		assert.Equal(t, []tether.ShareStats{{Share: "slow", Queued: 27, Running: 3}}, p.Shares(2))
		other := start(t, p, "task", succeed, tether.Share("other"))
		require.NoError(t, wait(other))
		assert.Zero(t, waited(other), "there is a worker that is not the slow share's")
		for _, task := range slow {
			require.NoError(t, wait(task))
		}
		assert.Equal(t, 9*time.Minute, waited(slow[29]), "three at a time, until the end")
	})
}

func TestP8_ShareLimitRefusesOneShareAlone(t *testing.T) {
	for _, overflow := range []tether.Overflow{tether.OverflowReject, tether.OverflowBlock, tether.OverflowCallerRuns} {
		t.Run(fmt.Sprint(overflow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 10, ShareLimit: 5, Overflow: overflow})
				release := make(chan struct{})
				defer close(release)
				for _, share := range []string{"A", ""} {
					opts := []tether.Option{tether.Hold()} // which counts
					if share != "" {
						opts = append(opts, tether.Share(share))
					}
					held := start(t, p, "held", succeed, opts...)
					tasks := flood(t, p, share, 4, until(release))
					synctest.Wait()
					_, err := p.Go(context.Background(), "task", succeed, opts[1:]...)
					var full *tether.FullError
					require.ErrorAs(t, err, &full)
					assert.ErrorIs(t, err, tether.ErrFull)
					assert.Equal(t, share, full.Share)
					assert.Equal(t, "pool", full.Pool)
					assert.Equal(t, 5, full.Limit)
					assert.Equal(t, 5, full.Running+full.Queued)
					assert.Equal(t, time.Second, full.RetryAfter, "no task has ended yet")
					if share != "" {
						assert.ErrorContains(t, err, `share "A" of pool "pool" is full`)
					}
					start(t, p, "task", until(release), tether.Share("other "+share))
					// A place is free as soon as a task has ended.
					held.Cancel(nil)
					<-held.Done()
					start(t, p, "task", succeed, opts...).Cancel(nil)
					tasks[3].Cancel(nil)
				}
			})
		})
	}
}

// A submitter that waits for room in a full pool does not hold up the others if its own
// share has become full meanwhile.
func TestP8_AFullShareDoesNotBlockSubmittersOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 2, ShareLimit: 2, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		first := start(t, p, "first", sleeper(time.Second))
		flood(t, p, "A", 1, until(release))
		flood(t, p, "B", 1, until(release))
		var errs [3]error
		var group sync.WaitGroup
		submit := func(i int, share string) {
			group.Go(func() { _, errs[i] = p.Go(context.Background(), "task", until(release), tether.Share(share)) })
			synctest.Wait()
		}
		submit(0, "A") // takes the place of first, which makes A full
		submit(1, "A") // is refused then, in front of
		submit(2, "B")
		require.NoError(t, wait(first))
		synctest.Wait()
		close(release)
		group.Wait()
		assert.NoError(t, errs[0])
		assert.ErrorIs(t, errs[1], tether.ErrFull)
		assert.NoError(t, errs[2])
	})
}

func TestP8_DropOldestDropsFromACrowdedShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, ShareLimit: 9, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		flood(t, p, "", 1, until(release))
		synctest.Wait()
		quiet := flood(t, p, "quiet", 1, succeed)
		serial := flood(t, p, "A", 1, succeed, tether.Serial("key"))
		serial = append(serial, flood(t, p, "A", 2, succeed, tether.Serial("key"))...)
		a := flood(t, p, "A", 6, succeed)
		// The pool is full. What comes now makes A lose a task, also if it is of another share.
		more := flood(t, p, "B", 2, succeed)
		more = append(more, flood(t, p, "A", 2, succeed)...)
		for _, task := range serial {
			assert.ErrorIs(t, wait(task), tether.ErrFull)
		}
		assert.ErrorIs(t, wait(a[0]), tether.ErrFull)
		assert.Equal(t, []tether.ShareStats{{Share: "A", Queued: 7}, {Share: "B", Queued: 2}}, p.Shares(2))
		close(release)
		for _, task := range append(append(quiet, a[1:]...), more...) {
			assert.NoError(t, wait(task))
		}
	})
	t.Run("of its own, if that is at its limit", func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 100, ShareLimit: 2, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		defer close(release)
		flood(t, p, "", 2, until(release))
		a, b := flood(t, p, "A", 2, succeed), flood(t, p, "B", 2, succeed)
		flood(t, p, "A", 1, succeed)
		assert.ErrorIs(t, wait(a[0]), tether.ErrFull)
		assert.Equal(t, tether.Queued, b[0].State())
	})
}

func TestP9_UrgentTasksGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		p.Pause()
		flood(t, p, "", 2, sleeper(time.Second))
		flood(t, p, "A", 10, sleeper(time.Second))
		first := flood(t, p, "A", 1, sleeper(time.Second), tether.Urgent())
		last := flood(t, p, "B", 3, sleeper(time.Second), tether.Urgent())
		p.Resume()
		time.Sleep(10 * time.Second)
		assert.Zero(t, waited(first[0]))
		for i, task := range last {
			assert.Equal(t, time.Duration(i+1)*time.Second, waited(task))
		}
	})
}

func TestP9_NormalTasksProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
		urgent := flood(t, p, "A", 1000, sleeper(time.Second), tether.Urgent())
		normal := flood(t, p, "B", 30, sleeper(time.Second))
		for i, task := range normal {
			require.NoError(t, wait(task))
			assert.InDelta(t, float64(i+1)*4, waited(task).Seconds(), 1, "of two workers each starts a task in a second, and one of eight is this one")
		}
		for _, task := range urgent {
			require.NoError(t, wait(task))
		}
	})
}

// Of the tasks of one key the urgent one comes later all the same.
func TestP9_SerialKeysKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 4, Queue: tether.Unbounded})
		p.Pause()
		before := flood(t, p, "A", 3, sleeper(time.Second), tether.Serial("key"))
		after := start(t, p, "task", succeed, tether.Serial("key"), tether.Urgent())
		p.Resume()
		require.NoError(t, wait(after))
		assert.Equal(t, 3*time.Second, waited(after))
		assert.True(t, after.Info().Urgent)
		assert.False(t, before[0].Info().Urgent)
	})
}

// DropOldest drops urgent tasks last.
func TestP9_DropOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 3, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		flood(t, p, "", 1, until(release))
		synctest.Wait()
		urgent := flood(t, p, "", 2, succeed, tether.Urgent())
		normal := flood(t, p, "", 1, succeed)
		urgent = append(urgent, flood(t, p, "", 2, succeed, tether.Urgent())...)
		assert.ErrorIs(t, wait(normal[0]), tether.ErrFull)
		assert.ErrorIs(t, wait(urgent[0]), tether.ErrFull)
		close(release)
		for _, task := range urgent[1:] {
			assert.NoError(t, wait(task))
		}
	})
}

func TestP8_SharesVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
		const shares = 1000
		for _, cancel := range []bool{false, true} {
			p.Pause()
			var tasks []*tether.Task
			for i := range shares {
				tasks = append(tasks, flood(t, p, fmt.Sprint(i), 2, succeed)...)
			}
			assert.Equal(t, shares, p.Stats().Shares)
			assert.Len(t, p.Shares(10), 10)
			if !cancel {
				p.Resume()
			}
			for _, task := range tasks {
				if cancel {
					task.Cancel(nil)
				}
				_ = wait(task)
			}
			assert.Zero(t, p.Stats().Shares)
			assert.Empty(t, p.Shares(10))
		}
	})
}

func TestShare_MemoryInUse(t *testing.T) {
	r := newRegistry(t, tether.Config{Retain: -1})
	use := func(opts func(i int) []tether.Option) (bytes float64) {
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		p.Pause()
		const n = 50_000
		tasks := make([]*tether.Task, n)
		options := make([][]tether.Option, n)
		for i := range n {
			options[i] = opts(i)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			tasks[i] = start(t, p, "task", succeed, options[i]...)
		}
		p.Shares(1) // takes the inbox over
		runtime.GC()
		runtime.ReadMemStats(&after)
		for _, task := range tasks {
			task.Cancel(nil)
		}
		runtime.KeepAlive(options)
		return float64(after.HeapAlloc-before.HeapAlloc) / n
	}
	keys := make([]string, 50_000)
	for i := range keys {
		keys[i] = fmt.Sprint("share ", i)
	}
	one := use(func(int) []tether.Option { return []tether.Option{tether.Share("one")} })
	each := use(func(i int) []tether.Option { return []tether.Option{tether.Share(keys[i])} })
	assert.LessOrEqual(t, each-one, 200.0, "bytes of a share in use")
	t.Logf("a share takes %.0f bytes beside its task", each-one)
}

func TestShare_Invalid(t *testing.T) {
	p := newPool(t, tether.PoolConfig{})
	for _, key := range []string{"", strings.Repeat("x", 129), "two\nlines", "\xff"} {
		_, err := p.Go(context.Background(), "task", succeed, tether.Share(key))
		assert.ErrorIs(t, err, tether.ErrInvalid, "%q", key)
	}
	assert.Zero(t, p.Stats().Submitted)
}

// For the registry's own tasks a Share is a label.
func TestShare_OfTheRegistry(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	task := start(t, r, "task", succeed, tether.Share("A"), tether.Serial("key"))
	require.NoError(t, wait(task))
	assert.Equal(t, "A", task.Info().Share)
}

func TestShare_IsLogged(t *testing.T) {
	logger, book := newLogger()
	r := newRegistry(t, tether.Config{Logger: logger})
	start(t, r.NewPool("pool", tether.PoolConfig{}), "task", fail, tether.Share("tenant 7"))
	drain(t, r)
	if records := book.about("task failed"); assert.Len(t, records, 1) {
		assert.Equal(t, "tenant 7", records[0]["share"])
	}
}

// A share keeps its place among the others while one of its tasks waits for a retry.
func TestShare_Retry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 10, ShareLimit: 1})
		attempt := 0
		task := start(t, p, "task", func(context.Context) error {
			if attempt++; attempt < 3 {
				return errTest
			}
			return nil
		}, tether.Share("A"), tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Second }}))
		time.Sleep(1500 * time.Millisecond)
		_, err := p.Go(context.Background(), "task", succeed, tether.Share("A"))
		assert.ErrorIs(t, err, tether.ErrFull)
		assert.Equal(t, 1, p.Stats().Shares)
		require.NoError(t, wait(task))
		assert.Zero(t, p.Stats().Shares)
	})
}

// A submission beyond the ShareLimit is refused at once, although others wait for room.
func TestP8_AFullShareIsRefusedPastThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, ShareLimit: 2, Overflow: tether.OverflowBlock})
		flood(t, p, "A", 2, sleeper(time.Second))
		synctest.Wait()
		go p.Go(context.Background(), "waits", succeed, tether.Share("B"))
		synctest.Wait()
		began := time.Now()
		_, err := p.Go(context.Background(), "refused", succeed, tether.Share("A"))
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.Equal(t, "A", full.Share)
		assert.Zero(t, time.Since(began))
	})
}
