package tether

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// After a bubble, tasks that start at once outside set one timer, so that there is one round at
// a time; and a round that has looked for the last time is no reason to set none.
func TestStuck_OneTimerAfterABubble(t *testing.T) {
	r := New(Config{StuckAfter: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	d := &r.stuck
	synctest.Test(t, func(t *testing.T) {
		run := func() {
			task, err := r.Go(context.Background(), "task", func(context.Context) error { return nil })
			require.NoError(t, err)
			require.NoError(t, task.Wait(context.Background()))
		}
		run()
		d.armed.Store(false) // as at the end of a round
		d.round.Store(new(stuckRound))
		run()
		assert.True(t, d.armed.Load())
		d.round.Store(nil)
	})
	d.armElsewhere(r, time.Hour)
	first := d.timer
	d.armElsewhere(r, time.Minute)
	assert.False(t, first.Stop(), "two timers are set")
	assert.LessOrEqual(t, time.Duration(d.due-r.now()), time.Minute)
	require.NoError(t, r.Shutdown(context.Background()))
}
