package adaptive

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func newRegistry(c *Controller) *tether.Registry {
	return tether.New(tether.Config{Observer: c, Logger: quiet})
}

// server is a service with a knee, whose clock is that of a bubble of synctest.
type server struct {
	capacity atomic.Int64
	running  atomic.Int64
}

func (s *server) call(context.Context) error {
	load := max(1, float64(s.running.Add(1))/float64(s.capacity.Load()))
	defer s.running.Add(-1)
	time.Sleep(time.Duration(float64(10*time.Millisecond) * math.Pow(load, 1.5)))
	return nil
}

// keepFull submits tasks until ctx is done. The pool must block.
func keepFull(ctx context.Context, p *tether.Pool, body tether.Func, opts ...tether.Option) {
	for ctx.Err() == nil {
		_, _ = p.Go(ctx, "call", body, opts...)
	}
}

func TestAPoolFollowsItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var mu sync.Mutex
		var changes []Change
		c := New(Config{
			Logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo})),
			OnChange: func(c Change) { mu.Lock(); changes = append(changes, c); mu.Unlock() },
		})
		reg := newRegistry(c)
		p := reg.NewPool("calls", tether.PoolConfig{Workers: 3, Queue: 10, Overflow: tether.OverflowBlock})
		require.NoError(t, c.Adapt(p, 2, 40))

		s := &server{}
		s.capacity.Store(12)
		ctx, stop := context.WithCancel(context.Background())
		go keepFull(ctx, p, s.call)
		time.Sleep(5 * time.Second)
		stats := c.Stats()[0]
		assert.InDelta(t, 12, stats.Best, 3)
		assert.InDelta(t, 1200, stats.Rate, 150)
		assert.InDelta(t, 10, stats.Latency.Seconds()*1000, 2)
		assert.Equal(t, stats.Workers, p.Stats().Workers)
		assert.Equal(t, "calls", stats.Pool)
		assert.Positive(t, stats.Trials)

		s.capacity.Store(30)
		time.Sleep(6 * time.Second)
		assert.InDelta(t, 30, c.Stats()[0].Best, 6)
		s.capacity.Store(4)
		time.Sleep(6 * time.Second)
		assert.InDelta(t, 4, c.Stats()[0].Best, 2)
		stop()
		require.NoError(t, reg.Shutdown(context.Background()))

		assert.Contains(t, log.String(), `level=INFO msg="workers changed" pool=calls from=3 to=6 trial=false reason="2.00 times the throughput"`)
		assert.NotContains(t, log.String(), "trial=true")
		mu.Lock()
		defer mu.Unlock()
		stats = c.Stats()[0]
		last, best := 3, 3
		var settled, trials uint64
		for _, change := range changes {
			assert.NotEmpty(t, change.Reason)
			assert.GreaterOrEqual(t, change.To, 2)
			assert.LessOrEqual(t, change.To, 40)
			assert.False(t, change.Time.IsZero())
			if change.Trial {
				assert.Equal(t, last, change.From)
				trials++
			} else {
				assert.Equal(t, best, change.From)
				best = change.To
				settled++
			}
			last = change.To
		}
		assert.Equal(t, stats.Best, best)
		assert.Equal(t, stats.Workers, last)
		assert.Equal(t, stats.Changes, settled)
		assert.GreaterOrEqual(t, trials, stats.Trials)
		assert.Equal(t, stats.Last.To, best)
	})
}

// A pool that is not full, or that weights hold up, shows nothing about its workers.
func TestAPoolThatIsNotFullIsLeftAlone(t *testing.T) {
	for name, test := range map[string]struct {
		cfg tether.PoolConfig
		opt tether.Option
		gap time.Duration
	}{
		"idle at times": {cfg: tether.PoolConfig{Workers: 8, Queue: 10}, gap: 2 * time.Millisecond},
		"Capacity":      {cfg: tether.PoolConfig{Workers: 8, Queue: 10, Overflow: tether.OverflowBlock, Capacity: 4}},
		"Serial":        {cfg: tether.PoolConfig{Workers: 8, Queue: 10, Overflow: tether.OverflowBlock}, opt: tether.Serial("key")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Config{Logger: quiet})
				reg := newRegistry(c)
				p := reg.NewPool("calls", test.cfg)
				require.NoError(t, c.Adapt(p, 1, 40))
				ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
				defer stop()
				for ctx.Err() == nil {
					_, err := p.Go(ctx, "call", func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }, test.opt)
					if err != nil {
						assert.Error(t, ctx.Err())
					}
					time.Sleep(test.gap)
				}
				assert.Equal(t, 8, p.Stats().Workers)
				assert.Zero(t, c.Stats()[0].Trials)
				require.NoError(t, reg.Shutdown(context.Background()))
			})
		})
	}
}

func TestBurstsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Logger: quiet})
		reg := newRegistry(c)
		p := reg.NewPool("calls", tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
		require.NoError(t, c.Adapt(p, 1, 32))
		for range 20 {
			for range 300 {
				_, err := p.Go(context.Background(), "call", func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil })
				require.NoError(t, err)
			}
			time.Sleep(time.Second)
		}
		assert.Equal(t, 32, c.Stats()[0].Best)
		require.NoError(t, reg.Shutdown(context.Background()))
	})
}

// However tasks end, the count of the running ones comes back to zero.
func TestEveryEndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Logger: quiet})
		reg := newRegistry(c)
		p := reg.NewPool("calls", tether.PoolConfig{Workers: 4, Queue: tether.Unbounded, Overflow: tether.OverflowCallerRuns})
		before, err := p.Go(context.Background(), "started before Adapt", func(context.Context) error { time.Sleep(time.Millisecond); return nil })
		require.NoError(t, err)
		time.Sleep(time.Microsecond)
		require.NoError(t, c.Adapt(p, 1, 8))
		ctx := context.Background()
		retry := tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Millisecond }})
		var attempts atomic.Int64
		for i := range 2000 {
			var opts []tether.Option
			body := func(ctx context.Context) error { time.Sleep(time.Millisecond); return nil }
			switch i % 9 {
			case 0:
				body = func(context.Context) error { panic("on purpose") }
			case 1:
				body = func(context.Context) error { runtime.Goexit(); return nil }
			case 2:
				body = func(context.Context) error { return errors.New("on purpose") }
			case 3:
				body = func(context.Context) error { time.Sleep(time.Millisecond); return errors.New("on purpose") }
				opts = []tether.Option{retry}
			case 4:
				body = func(context.Context) error {
					if attempts.Add(1)%2 == 1 {
						panic("on purpose")
					}
					return nil
				}
				opts = []tether.Option{retry}
			case 5:
				body = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				opts = []tether.Option{tether.Timeout(time.Millisecond)}
			case 6:
				body = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			case 7:
				opts = []tether.Option{tether.Delay(time.Millisecond)}
			}
			task, err := p.Go(ctx, "call", body, opts...)
			require.NoError(t, err)
			if i%9 == 6 {
				time.AfterFunc(time.Duration(i%5)*time.Millisecond, func() { task.Cancel(nil) })
			}
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		require.NoError(t, reg.Shutdown(ctx))
		assert.NoError(t, before.Err())
		a := (*c.pools.Load())["calls"]
		a.mu.Lock()
		defer a.mu.Unlock()
		assert.Zero(t, a.running)
	})
}

func TestTheProgramResizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Logger: quiet})
		reg := newRegistry(c)
		p := reg.NewPool("calls", tether.PoolConfig{Workers: 3, Queue: 10, Overflow: tether.OverflowBlock})
		require.NoError(t, c.Adapt(p, 2, 40))
		s := &server{}
		s.capacity.Store(12)
		ctx, stop := context.WithCancel(context.Background())
		go keepFull(ctx, p, s.call)
		for _, n := range []int{1, 30} {
			time.Sleep(2 * time.Second)
			require.NoError(t, p.Resize(n))
			time.Sleep(4 * time.Second)
			assert.InDelta(t, 12, c.Stats()[0].Best, 3)
			assert.InDelta(t, 12, p.Stats().Workers, 6)
		}
		p.Pause()
		time.Sleep(time.Hour)
		p.Resume()
		time.Sleep(2 * time.Second)
		assert.InDelta(t, 12, c.Stats()[0].Best, 3)
		stop()
		require.NoError(t, reg.Shutdown(context.Background()))
	})
}

func TestAdapt(t *testing.T) {
	c := New(Config{Logger: quiet})
	reg := newRegistry(c)
	p := reg.NewPool("pool", tether.PoolConfig{Workers: 50})
	for _, err := range []error{c.Adapt(nil, 1, 2), c.Adapt(p, 0, 2), c.Adapt(p, -1, 2), c.Adapt(p, 3, 2)} {
		assert.ErrorIs(t, err, tether.ErrInvalid)
		assert.Contains(t, err.Error(), "adaptive: ")
	}
	assert.Empty(t, c.Stats())
	require.NoError(t, c.Adapt(p, 2, 10))
	assert.ErrorIs(t, c.Adapt(p, 2, 10), tether.ErrInvalid)
	assert.Equal(t, 10, p.Stats().Workers)
	stats := c.Stats()
	require.Len(t, stats, 1)
	assert.Equal(t, "outside the bounds", stats[0].Last.Reason)
	assert.Equal(t, 50, stats[0].Last.From)
	stats[0].Last = Change{}
	assert.Equal(t, PoolStats{Pool: "pool", Min: 2, Max: 10, Workers: 10, Best: 10, Changes: 1}, stats[0])

	other := reg.NewPool("another", tether.PoolConfig{})
	require.NoError(t, c.Adapt(other, 1, 1))
	assert.Equal(t, "another", c.Stats()[0].Pool)
	assert.Equal(t, 1, other.Stats().Workers)
	assert.Panics(t, func() { New(Config{Interval: -1}) })
	require.NoError(t, reg.Shutdown(context.Background()))
}

// OnChange and the log handler may panic, end their goroutine, or call back.
func TestCallbacksThatMisbehave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Controller
		var reg *tether.Registry
		var calls atomic.Int64
		c = New(Config{Logger: quiet, OnChange: func(Change) {
			switch calls.Add(1) % 4 {
			case 0:
				panic("on purpose")
			case 1:
				runtime.Goexit()
			case 2:
				c.Stats()
				for p := range reg.Pools() {
					_ = p.Resize(5)
				}
			}
		}})
		reg = newRegistry(c)
		p := reg.NewPool("calls", tether.PoolConfig{Workers: 3, Queue: 10, Overflow: tether.OverflowBlock})
		require.NoError(t, c.Adapt(p, 1, 20))
		s := &server{}
		s.capacity.Store(12)
		ctx, stop := context.WithCancel(context.Background())
		go keepFull(ctx, p, s.call)
		time.Sleep(5 * time.Second)
		stop()
		require.NoError(t, reg.Shutdown(context.Background()))
		assert.Greater(t, calls.Load(), int64(4))
		assert.Greater(t, p.Stats().Succeeded, uint64(1000))
	})
}

// Short tasks on many goroutines, beside a program that resizes and pauses: for the race
// detector.
func TestStress(t *testing.T) {
	c := New(Config{Logger: quiet, Interval: 100 * time.Microsecond})
	reg := newRegistry(c)
	p := reg.NewPool("calls", tether.PoolConfig{Workers: 3, Queue: 100, Overflow: tether.OverflowBlock})
	require.NoError(t, c.Adapt(p, 1, 20))
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 3000 {
				_, err := p.Go(context.Background(), "call", func(context.Context) error { return nil })
				assert.NoError(t, err)
				switch {
				case i == 0 && j%500 == 0:
					assert.NoError(t, p.Resize(j/100))
				case i == 1 && j%500 == 0:
					p.Pause()
					c.Stats()
					p.Resume()
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, reg.Shutdown(context.Background()))
	a := (*c.pools.Load())["calls"]
	assert.Zero(t, a.running)
	assert.Equal(t, a.applied, p.Stats().Workers)
}
