package redis

import "time"

// WithClock returns the Config with a clock for Open to compare with that of Redis.
func (c Config) WithClock(now func() time.Time) Config {
	c.now = now
	return c
}

const LinesInUse = linesInUse

// AwaitWaiting returns when n calls of Enqueue wait for a connection.
func (e *Engine) AwaitWaiting(n int) { e.lines.awaitWaiting(n) }
