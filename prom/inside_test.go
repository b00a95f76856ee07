package tetherprom

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// TestAllocations finds none, beyond those of the task's Info, once a name is known.
func TestAllocations(t *testing.T) {
	for _, factor := range []float64{0, 1.1} {
		m := New(Config{MaxNames: 1, NativeHistogramBucketFactor: factor})
		for _, name := range []string{"known", "unknown"} {
			end := func() {
				s := m.find(key{name, "pool", tether.Failed})
				s.wait.Observe(1)
				s.run.Observe(1)
			}
			end()
			require.Zero(t, testing.AllocsPerRun(100, end), name)
		}
	}
}

// move has some tasks come, change and end.
func (c *counts) move(rnd *rand.Rand, n int) {
	for range n {
		from := tether.State(rnd.IntN(3)) // of the live ones
		to := tether.State(rnd.IntN(len(c.in)))
		switch {
		case rnd.IntN(2) == 0:
			c.submitted++
			c.in[from]++
		case c.in[from] > 0:
			c.in[from]--
			c.in[to]++
		default:
			c.refused++
		}
	}
}

// TestAdvance has the pools move between the reading of the registry's Stats and that
// of theirs, more than any pool could.
func TestAdvance(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var own, pools, shown counts
		for range 50 {
			own.move(rnd, rnd.IntN(5))
			at := own
			at.add(pools, 1) // the registry's
			pools.move(rnd, rnd.IntN(20))
			at.add(pools, -1)
			was := shown
			shown.advance(at)

			require.LessOrEqual(t, shown.submitted, own.submitted, "tasks that never were")
			require.GreaterOrEqual(t, shown.submitted, was.submitted)
			require.LessOrEqual(t, shown.refused, own.refused)
			require.GreaterOrEqual(t, shown.refused, was.refused)
			rest := shown.submitted
			for s, n := range shown.in {
				require.GreaterOrEqual(t, n, int64(0))
				if tether.State(s).Final() {
					require.LessOrEqual(t, n, own.in[s])
					require.GreaterOrEqual(t, n, was.in[s])
				}
				rest -= n
			}
			require.Zero(t, rest, "they add up")
		}
		at := own
		at.add(pools, 1)
		at.add(pools, -1)
		shown.advance(at)
		require.Equal(t, own, shown, "when the pools do nothing")
	}
}
