package rabbitmq

import "time"

// spans has the times that a job can wait in one queue. Each has a queue of its own, because
// the broker only expires the first message of a queue. They are part of the names of
// queues that are in use, so they must not change.
var spans = func() (all []time.Duration) {
	for unit := 10 * time.Millisecond; unit < 100_000*time.Second; unit *= 10 {
		all = append(all, unit, unit*3/2, unit*5/2, unit*4, unit*13/2)
	}
	return append(all, 100_000*time.Second)
}()

// slackOf returns the time by which a wait may be longer, so that its end does not take many
// short spans.
func slackOf(wait time.Duration) time.Duration {
	return min(max(wait/50, spans[0]), time.Second)
}

// nextSpan returns the next span of a wait: the shortest that ends it, if it is too long by
// at most slack, and otherwise the longest that does not end it.
func nextSpan(wait, slack time.Duration) time.Duration {
	longest := spans[0]
	for _, s := range spans {
		if s >= wait {
			if s-wait <= slack {
				return s
			}
			return longest
		}
		longest = s
	}
	return longest
}
