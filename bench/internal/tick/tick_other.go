//go:build !linux || !(amd64 || arm64)

package tick

import "time"

// Ticker sleeps, on many systems for a millisecond at least, and then has several ticks at
// once.
type Ticker struct {
	gap  time.Duration
	last time.Time // tick
}

// New returns a ticker whose first tick is in one gap from now.
func New(gap time.Duration) (*Ticker, error) { return &Ticker{gap, time.Now()}, nil }

// Wait waits for the next tick and returns how many there were since the last call: more
// than one if the caller is late.
func (t *Ticker) Wait() (ticks int, err error) {
	time.Sleep(time.Until(t.last.Add(t.gap)))
	ticks = max(int(time.Since(t.last)/t.gap), 1)
	t.last = t.last.Add(time.Duration(ticks) * t.gap)
	return ticks, nil
}

// Close releases the ticker.
func (t *Ticker) Close() error { return nil }
