package tetherprom

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// Once a name is known, recording allocates nothing.
func TestAllocations(t *testing.T) {
	for _, factor := range []float64{0, 1.1} {
		m := New(Config{MaxNames: 1, NativeHistogramBucketFactor: factor})
		for _, name := range []string{"known", "unknown"} {
			end := func() {
				s := m.find(key{name, "pool"})
				s.wait.Observe(1)
				s.run.Observe(1)
				s.outcomes[tether.Failed].Inc()
			}
			end()
			require.Zero(t, testing.AllocsPerRun(100, end), name)
		}
	}
}
