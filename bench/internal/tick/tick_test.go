package tick

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The ticks are those that have come due, however they are split among the calls.
func TestTicks(t *testing.T) {
	const gap, calls = 100 * time.Microsecond, 20
	began := time.Now()
	ticker, err := New(gap)
	require.NoError(t, err)
	ticks := 0
	for range calls {
		n, err := ticker.Wait()
		require.NoError(t, err)
		assert.Positive(t, n)
		ticks += n
	}
	due := int(time.Since(began) / gap)
	assert.GreaterOrEqual(t, ticks, calls)
	assert.LessOrEqual(t, ticks, due)
	require.NoError(t, ticker.Close())
}
