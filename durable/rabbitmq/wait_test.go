package rabbitmq

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSpans walks through waits of many lengths as they would be in a broker that takes no
// time, and counts the queues they need.
func TestSpans(t *testing.T) {
	const longest = 400 * 24 * time.Hour
	used := make(map[time.Duration]bool)
	for i := range 20_000 {
		wait := time.Duration(rand.Int64N(int64(longest) >> (i % 40)))
		slack := slackOf(wait)
		require.LessOrEqual(t, slack, max(spans[0], wait/50), "slack of %v", wait)
		var waited time.Duration
		steps := 0
		for ; waited < wait; steps++ {
			span := nextSpan(wait-waited, slack)
			used[span] = true
			waited += span
		}
		require.LessOrEqual(t, waited, wait+slack, "a wait of %v", wait)
		require.LessOrEqual(t, steps, 20+int(wait/spans[len(spans)-1]), "steps of a wait of %v", wait)
	}
	require.Len(t, spans, 36)
	require.LessOrEqual(t, len(used), len(spans))
	for i, span := range spans[1:] {
		require.Greater(t, span, spans[i])
		require.Zero(t, span%time.Millisecond)
	}
}

// TestDue rounds to what a header holds, never down.
func TestDue(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 1, time.UTC)
	var p parcel
	p.dueAt(at)
	require.Equal(t, at.Add(time.Millisecond-1).UnixNano(), p.due.UnixNano())
	p.dueAt(p.due)
	require.Equal(t, at.Add(time.Millisecond-1).UnixNano(), p.due.UnixNano())
	p.answered(0)
	require.True(t, p.due.IsZero())
}
