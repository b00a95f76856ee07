package tether_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

func TestP11_RateOfAPool(t *testing.T) {
	for _, burst := range []int{0, 1, 5} {
		t.Run(fmt.Sprint("burst ", burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 10, Queue: tether.Unbounded, Rate: tether.Rate{Tasks: 4, Per: time.Second, Burst: burst}})
				for range 2 {
					tasks := flood(t, p, "", 20, succeed)
					for i, task := range tasks {
						require.NoError(t, wait(task))
						assert.Equal(t, time.Duration(max(0, i+1-max(1, burst)))*250*time.Millisecond, waited(task))
					}
					time.Sleep(time.Minute) // no more than a burst is saved up meanwhile
				}
			})
		})
	}
}

// What is a little late, as timers are, does not make the next ones later.
func TestP11_ALateStartDoesNotLowerTheRate(t *testing.T) {
	rate := tether.Rate{Tasks: 100, Per: time.Second}
	for _, cfg := range []tether.PoolConfig{{Rate: rate}, {ShareRate: rate}} {
		synctest.Test(t, func(t *testing.T) {
			cfg.Workers, cfg.Queue = 1, tether.Unbounded
			p := newPool(t, cfg)
			var tasks []*tether.Task
			for _, ms := range []time.Duration{12, 1, 26, 1, 1} {
				tasks = append(tasks, start(t, p, "task", sleeper(ms*time.Millisecond), tether.Share("A")))
			}
			var starts []time.Duration
			for _, task := range tasks {
				require.NoError(t, wait(task))
				starts = append(starts, waited(task)/time.Millisecond)
			}
			// The second is 2 ms late. The fourth is 16 ms late, which is too much.
			assert.Equal(t, []time.Duration{0, 12, 20, 46, 56}, starts)
		})
	}
}

func TestP11_RateOfEachShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded, ShareRate: tether.Rate{Tasks: 1, Per: time.Second}})
		a, b := flood(t, p, "A", 10, succeed), flood(t, p, "B", 10, succeed)
		for i := range 10 {
			for _, task := range []*tether.Task{a[i], b[i]} {
				require.NoError(t, wait(task))
				assert.Equal(t, time.Duration(i)*time.Second, waited(task))
			}
		}
		assert.Zero(t, p.Stats().Shares)
		// A share that has no task is remembered for as long as its rate needs.
		time.Sleep(500 * time.Millisecond)
		again := start(t, p, "task", succeed, tether.Share("A"))
		require.NoError(t, wait(again))
		assert.Equal(t, 500*time.Millisecond, waited(again))
	})
}

// A body that was told to come back later: its share waits, without a worker, and the
// others go on.
func TestP11_PauseShare(t *testing.T) {
	for _, share := range []string{"slow", ""} {
		t.Run(fmt.Sprintf("share %q", share), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
				var told atomic.Bool
				tasks := flood(t, p, share, 5, func(ctx context.Context) error {
					if told.Swap(true) {
						return nil
					}
					assert.NoError(t, tether.PauseShare(ctx, time.Now().Add(time.Hour)))
					assert.NoError(t, tether.PauseShare(ctx, time.Now().Add(time.Minute)), "the latest counts")
					return errTest
				}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
				synctest.Wait()
				for range 3 {
					other := start(t, p, "other", sleeper(time.Minute), tether.Share("other"))
					require.NoError(t, wait(other))
					assert.Zero(t, waited(other))
				}
				s := p.Shares(1)[0]
				assert.Equal(t, share, s.Share)
				assert.Equal(t, 5, s.Queued)
				assert.Equal(t, 57*time.Minute, time.Until(s.NotBefore))
				began := time.Now()
				for _, task := range tasks {
					require.NoError(t, wait(task))
				}
				assert.Equal(t, 57*time.Minute, time.Since(began))
			})
		})
	}
}

func TestP11_PauseShareWithABoundAndADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: time.Second})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 1, ShareLimit: 2})
		pauses := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(time.Hour)) }
		require.NoError(t, wait(start(t, p, "task", pauses, tether.Share("A"))))
		// A worker is free, but not for this task: it takes the place in the queue.
		queued := start(t, p, "queued", succeed, tether.Share("A"))
		_, err := p.Go(context.Background(), "task", succeed, tether.Share("A"))
		assert.ErrorIs(t, err, tether.ErrFull)
		other := start(t, p, "other", succeed, tether.Share("B"))
		require.NoError(t, wait(other))
		assert.Equal(t, tether.Queued, queued.State())
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, r.Shutdown(ctx))
		assert.ErrorIs(t, queued.Err(), tether.ErrShutdown)
	})
}

// The tasks without a share fill the queue and no more, so that other shares have the workers.
func TestP11_PauseOfTasksWithoutAShareWithABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 1})
		pauses := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(time.Hour)) }
		require.NoError(t, wait(start(t, p, "task", pauses)))
		queued := start(t, p, "queued", succeed)
		_, err := p.Go(context.Background(), "task", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
		for range 3 {
			other := start(t, p, "other", sleeper(time.Minute), tether.Share("B"))
			require.NoError(t, wait(other))
			assert.Zero(t, waited(other))
		}
		assert.Equal(t, 1, p.Stats().Queued)
		assert.NoError(t, wait(queued))
	})
}

func TestP11_ASubmitterRunsNoTaskOfAPausedShare(t *testing.T) {
	for share, option := range map[string]tether.Option{"slow": tether.Share("slow"), "": {}} {
		t.Run(fmt.Sprintf("share %q", share), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 1, Overflow: tether.OverflowCallerRuns})
				pauses := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(time.Hour)) }
				require.NoError(t, wait(start(t, p, "task", pauses, option)))
				queued := start(t, p, "queued", succeed, option)
				_, err := p.Go(context.Background(), "task", succeed, option)
				assert.ErrorIs(t, err, tether.ErrFull)
				require.NoError(t, wait(queued))
				tasks := flood(t, p, share, 3, sleeper(time.Minute))
				inline := start(t, p, "task", succeed, option)
				assert.Equal(t, tether.Succeeded, inline.State(), "the pause is over: the submitter has run it")
				for _, task := range tasks {
					require.NoError(t, wait(task))
				}
			})
		})
	}
}

func TestP11_PauseShareRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 100, ShareLimit: 1})
		pauses := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(10*time.Minute)) }
		require.NoError(t, wait(start(t, p, "task", pauses, tether.Share("A"))))
		start(t, p, "queued", succeed, tether.Share("A")).Cancel(nil)
		flood(t, p, "A", 1, succeed)
		_, err := p.Go(context.Background(), "task", succeed, tether.Share("A"))
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.Equal(t, 10*time.Minute, full.RetryAfter)
		time.Sleep(10 * time.Minute)
	})
}

func TestPauseShare_Invalid(t *testing.T) {
	ctx := context.Background()
	assert.ErrorIs(t, tether.PauseShare(ctx, time.Now()), tether.ErrInvalid)
	task := start(t, newRegistry(t, tether.Config{}), "task", func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now()) })
	assert.ErrorIs(t, wait(task), tether.ErrInvalid)
	for _, rate := range []tether.Rate{{Tasks: -1, Per: 1}, {Tasks: 1}, {Per: 1}, {Burst: 1}, {Tasks: 1, Per: 1, Burst: -1}, {Tasks: 2, Per: 1}} {
		assert.Panics(t, func() { newPool(t, tether.PoolConfig{Rate: rate}) }, "%+v", rate)
		assert.Panics(t, func() { newPool(t, tether.PoolConfig{ShareRate: rate}) }, "%+v", rate)
	}
	for _, cfg := range []tether.PoolConfig{{Rate: tether.Rate{Tasks: 1, Per: 1}}, {ShareRate: tether.Rate{Tasks: 1, Per: 1}}} {
		assert.NotPanics(t, func() { newPool(t, cfg) })
		cfg.Overflow = tether.OverflowCallerRuns
		assert.Panics(t, func() { newPool(t, cfg) }, "a submitter does not wait for a rate")
	}
}

// Shares that wait for their rate, with tasks or without, have no timers and no goroutines.
func TestRate_ManyShares(t *testing.T) {
	const shares = 20_000
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 100, Queue: tether.Unbounded, ShareRate: tether.Rate{Tasks: 1, Per: time.Hour}})
		keys := make([]string, shares)
		for i := range keys {
			keys[i] = fmt.Sprint("share ", i)
		}
		var before, after runtime.MemStats
		goroutines := runtime.NumGoroutine()
		for _, key := range keys {
			require.NoError(t, wait(start(t, p, "task", succeed, tether.Share(key))))
		}
		assert.Zero(t, p.Stats().Shares)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for _, key := range keys {
			start(t, p, "task", succeed, tether.Share(key))
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
		assert.Equal(t, shares, p.Stats().Queued)
		assert.Less(t, float64(after.HeapAlloc-before.HeapAlloc)/shares, 700.0, "a task with its options")
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Zero(t, p.Stats().Queued)
		time.Sleep(2 * time.Hour)
	})
}

func ExamplePauseShare() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()
	webhooks := reg.NewPool("webhooks", tether.PoolConfig{Workers: 8, Queue: 1000, ShareWorkers: 2, ShareRate: tether.Rate{Tasks: 100, Per: time.Second, Burst: 100}})

	calls := 0
	task, _ := webhooks.Go(ctx, "webhook", func(ctx context.Context) error {
		if calls++; calls == 1 { // 429 Too Many Requests, Retry-After: 0.01
			tether.PauseShare(ctx, time.Now().Add(10*time.Millisecond))
			return fmt.Errorf("429 Too Many Requests")
		}
		return nil
	}, tether.Share("https://example.com/hook"), tether.Retry(tether.RetryPolicy{Attempts: 5, Backoff: func(int, error) time.Duration { return 0 }}))
	fmt.Println(task.Wait(ctx), calls)
	// Output: <nil> 2
}

// A pool that was made outside is used in one bubble after the other: each has a clock of its
// own, by which nothing has started yet.
func TestP11_RatesAndPausesInBubblesAndOutside(t *testing.T) {
	hourly := tether.Rate{Tasks: 1, Per: time.Hour}
	for what, cfg := range map[string]tether.PoolConfig{
		"pause": {}, "rate": {Rate: hourly}, "rate of a share": {ShareRate: hourly},
	} {
		t.Run(what, func(t *testing.T) {
			cfg.Workers = 1 // and no queue: a task is refused that could not start at once
			p := newPool(t, cfg)
			body := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(time.Hour)) }
			once := func(t *testing.T) {
				require.NoError(t, wait(start(t, p, "task", body, tether.Share("A"))))
				_, err := p.Go(context.Background(), "task", succeed, tether.Share("A"))
				assert.ErrorIs(t, err, tether.ErrFull)
			}
			once(t)
			leaveWorkers()
			for range 2 {
				synctest.Test(t, func(t *testing.T) {
					once(t)
					time.Sleep(time.Minute)
				})
			}
		})
	}
}

func TestD8_PausedSharesAndRates(t *testing.T) {
	hourly := tether.Rate{Tasks: 1, Per: time.Hour}
	for _, c := range []struct {
		what   string
		cfg    tether.PoolConfig
		pause  time.Duration // of the share A
		during bool          // the drain
		takes  time.Duration // the drain
		runs   bool          // what is queued in A
		others bool
	}{
		{"a pause", tether.PoolConfig{}, time.Hour, false, 0, false, true},
		{"a pause during the drain", tether.PoolConfig{}, time.Hour, true, time.Second, false, true},
		{"a pause that ends in time", tether.PoolConfig{}, 30 * time.Second, false, 30 * time.Second, true, true},
		{"a rate of shares", tether.PoolConfig{ShareRate: hourly}, 0, false, 0, false, true},
		{"a rate of the pool", tether.PoolConfig{Rate: hourly}, 0, false, 0, false, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{CancelBefore: time.Second})
				c.cfg.Workers, c.cfg.Queue = 1, tether.Unbounded
				p := r.NewPool("pool", c.cfg)
				began := make(chan struct{})
				start(t, p, "pauses", func(ctx context.Context) error {
					close(began)
					if c.during {
						time.Sleep(time.Second)
					}
					return tether.PauseShare(ctx, time.Now().Add(c.pause))
				}, tether.Share("A"))
				<-began
				queued := flood(t, p, "A", 3, succeed)
				handed := start(t, p, "handed over", succeed, tether.Share("A"), tether.HandOver(func(context.Context, tether.Info) error { return nil }))
				others := flood(t, p, "B", 1, succeed)
				if !c.during {
					synctest.Wait()
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				since := time.Now()
				require.NoError(t, r.Shutdown(ctx))
				assert.Equal(t, c.takes, time.Since(since))
				for _, task := range queued {
					if c.runs {
						assert.NoError(t, task.Err())
					} else {
						assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
					}
				}
				assert.Equal(t, !c.runs, handed.Info().HandedOver)
				for _, task := range others {
					assert.Equal(t, c.others, task.Err() == nil)
				}
			})
		})
	}
}

// A submitter that waits for room in a pool without a queue has it when its task may start.
func TestP11_BlockWaitsForTheRate(t *testing.T) {
	rate := tether.Rate{Tasks: 1, Per: time.Second}
	for what, cfg := range map[string]tether.PoolConfig{"pause": {}, "rate": {Rate: rate}, "rate of a share": {ShareRate: rate}} {
		t.Run(what, func(t *testing.T) {
			cfg.Workers, cfg.Overflow = 2, tether.OverflowBlock
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, cfg)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				since, began := time.Now(), make(chan time.Duration, 3)
				for range cap(began) {
					go func() {
						_, err := p.Go(ctx, "task", func(ctx context.Context) error {
							began <- time.Since(since)
							if what == "pause" {
								return tether.PauseShare(ctx, time.Now().Add(time.Second))
							}
							return nil
						}, tether.Share("A"))
						if !assert.NoError(t, err) {
							began <- -1
						}
					}()
					synctest.Wait()
				}
				for i := range cap(began) {
					assert.Equal(t, time.Duration(i)*time.Second, <-began)
				}
			})
		})
	}
}

// What a rate or a pause was by another clock does not make the drain of a bubble end a task.
func TestD8_RatesAndPausesOfOutside(t *testing.T) {
	hourly := tether.Rate{Tasks: 1, Per: time.Hour}
	for what, cfg := range map[string]tether.PoolConfig{
		"pause": {}, "rate": {Rate: hourly}, "rate of a share": {ShareRate: hourly},
	} {
		t.Run(what, func(t *testing.T) {
			cfg.Workers, cfg.Queue = 1, tether.Unbounded
			r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)}) // drained in the bubble
			p := r.NewPool("pool", cfg)
			body := func(ctx context.Context) error { return tether.PauseShare(ctx, time.Now().Add(time.Hour)) }
			require.NoError(t, wait(start(t, p, "task", body)))
			leaveWorkers()
			synctest.Test(t, func(t *testing.T) {
				delayed := start(t, p, "task", succeed, tether.Delay(time.Second))
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				require.NoError(t, r.Shutdown(ctx))
				assert.NoError(t, delayed.Err())
			})
		})
	}
}
