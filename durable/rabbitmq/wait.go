package rabbitmq

import "time"

// spans are how long a queue can keep what waits, each with a queue of its own: the
// broker can only tell that the first message of a queue has waited long enough. They are
// part of the names of queues that are in use, so they must stay.
var spans = func() (all []time.Duration) {
	for unit := 10 * time.Millisecond; unit < 100_000*time.Second; unit *= 10 {
		all = append(all, unit, unit*3/2, unit*5/2, unit*4, unit*13/2)
	}
	return append(all, 100_000*time.Second)
}()

// slackOf is by how much a wait of this length may be longer, so that its end does not need
// many short spans.
func slackOf(wait time.Duration) time.Duration {
	return min(max(wait/50, spans[0]), time.Second)
}

// nextSpan returns the span to wait now: the shortest that ends the wait, if it is not
// longer by more than the slack; else the longest that does not end it.
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
