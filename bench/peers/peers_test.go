package peers_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/peers"
)

// ants starts a pool of its own when it is imported, which is never ended.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

// everyone are all candidates that any workload has.
func everyone() []peers.Candidate {
	all := append(peers.All(), peers.Inline(), peers.GoSharedContext(), peers.TetherFixed(1), peers.TetherAdaptive(), peers.TetherGuarded(1))
	all = append(all, peers.TetherShares(tether.PoolConfig{}), peers.TetherUrgent(), peers.TetherRate(time.Microsecond))
	all = append(all, peers.RegistryFeatures()...)
	return append(all, peers.PoolFeatures()...)
}

func TestEveryBodyRunsOnce(t *testing.T) {
	for _, c := range everyone() {
		t.Run(c.Name, func(t *testing.T) {
			if c.Unlimited != nil {
				t.Run("without a limit", func(t *testing.T) { runOnceEach(t, c.Unlimited) })
			}
			if c.Limited == nil {
				return
			}
			for _, limit := range []int{1, 2, 100} {
				t.Run("with a limit", func(t *testing.T) {
					most := runOnceEach(t, func() (*peers.System, error) { return c.Limited(limit) })
					if c.Kind != peers.Baseline || c.Name == peers.Channel().Name {
						assert.LessOrEqual(t, most, limit, "of so many at once")
					}
				})
			}
		})
	}
}

// runOnceEach has four producers submit tasks of their own and returns how many
// have run at once.
func runOnceEach(t *testing.T, open func() (*peers.System, error)) (most int) {
	t.Helper()
	const producers, each = 4, 500
	s, err := open()
	require.NoError(t, err)
	var ran [producers][each]atomic.Int32
	var running, high atomic.Int32
	var left, submitters sync.WaitGroup
	left.Add(producers * each)
	for i := range producers {
		submitters.Go(func() {
			for k := range each {
				submit := s.Task(func() {
					defer left.Done()
					now := running.Add(1)
					for h := high.Load(); now > h && !high.CompareAndSwap(h, now); h = high.Load() {
					}
					ran[i][k].Add(1)
					running.Add(-1)
				})
				assert.NoError(t, submit())
			}
		})
	}
	submitters.Wait()
	left.Wait()
	require.NoError(t, s.Close())
	for i := range producers {
		for k := range each {
			assert.EqualValues(t, 1, ran[i][k].Load())
		}
	}
	return int(high.Load())
}

func TestRejecting(t *testing.T) {
	const limit, queue = 2, 8
	for _, c := range everyone() {
		if c.Rejecting == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			s, err := c.Rejecting(limit, queue)
			require.NoError(t, err)
			gate := make(chan struct{})
			var ran atomic.Int32
			try := s.Task(func() { <-gate; ran.Add(1) })
			room := limit
			if s.Queues {
				room += queue
			}
			admitted := 0
			assert.Eventually(t, func() bool { // workers may take a moment
				if try() {
					admitted++
				}
				return admitted == room
			}, time.Minute, 10*time.Microsecond)
			for range 100 {
				assert.False(t, try(), "it is full")
			}
			close(gate)
			require.Eventually(t, func() bool { return int(ran.Load()) == admitted }, time.Minute, time.Millisecond)
			require.NoError(t, s.Close())
			assert.EqualValues(t, admitted, ran.Load(), "what was refused never runs")
		})
	}
}

func TestResults(t *testing.T) {
	for _, c := range everyone() {
		if c.Results == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			s, err := c.Results()
			require.NoError(t, err)
			for _, n := range []int{1, 100, 1, 7} {
				sum, err := s.Sum(n)
				require.NoError(t, err)
				assert.Equal(t, n*peers.Answer, sum)
			}
			require.NoError(t, s.Close())
		})
	}
}

func TestContexts(t *testing.T) {
	for _, c := range everyone() {
		if c.Contexts == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			const n = 100
			s, err := c.Contexts()
			require.NoError(t, err)
			var started, ended atomic.Int32
			submit := s.Task(func(ctx context.Context) {
				started.Add(1)
				<-ctx.Done()
				ended.Add(1)
			})
			for range n {
				require.NoError(t, submit())
			}
			require.Eventually(t, func() bool { return started.Load() == n }, time.Minute, time.Millisecond)
			assert.Zero(t, ended.Load())
			s.Cancel()
			require.NoError(t, s.Close())
			assert.EqualValues(t, n, ended.Load(), "Close waits for all")
		})
	}
}

func TestOwnContexts(t *testing.T) {
	for _, c := range everyone() {
		if c.OwnContexts == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			const n = 100
			s, err := c.OwnContexts()
			require.NoError(t, err)
			seen := make(chan (<-chan struct{}), n)
			submit := s.Task(func(ctx context.Context) {
				assert.NoError(t, ctx.Err())
				seen <- ctx.Done()
			})
			for range n {
				require.NoError(t, submit())
			}
			require.NoError(t, s.Close())
			close(seen)
			distinct := map[<-chan struct{}]bool{}
			for done := range seen {
				require.NotNil(t, done)
				distinct[done] = true
			}
			assert.Len(t, distinct, n, "each has its own")
		})
	}
}
