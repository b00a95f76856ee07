package bubble_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInside(t *testing.T) {
	t.Run("outside", func(t *testing.T) {
		assert.False(t, bubble.Inside(time.Now()))
		assert.False(t, bubble.Inside(time.Now().Add(-1)))
	})
	t.Run("inside", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			assert.True(t, bubble.Inside(time.Now()))
			assert.True(t, bubble.Inside(time.Now().Add(-1)))
			time.Sleep(time.Hour)
			assert.True(t, bubble.Inside(time.Now()))
			time.Sleep(200 * 365 * 24 * time.Hour)
			assert.True(t, bubble.Inside(time.Now()), "however long the bubble has slept")
		})
	})
	t.Run("a real clock that is wrong counts as inside", func(t *testing.T) {
		assert.True(t, bubble.Inside(time.Now().AddDate(-50, 0, 0)))
	})
}

// What a thing that was made outside measures: the rule in the package's comment.
func TestTimeSince(t *testing.T) {
	made := time.Now()
	assert.GreaterOrEqual(t, time.Since(made), time.Duration(0))
	synctest.Test(t, func(t *testing.T) {
		assert.Negative(t, time.Since(made))
		time.Sleep(20 * 365 * 24 * time.Hour)
		assert.Negative(t, time.Since(made))
	})
	assert.GreaterOrEqual(t, time.Since(made), time.Duration(0))
}
