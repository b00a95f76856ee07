//go:build !linux || !(amd64 || arm64)

package workload

import "time"

// ticker sleeps, for a millisecond at least on many systems.
type ticker time.Duration

func newTicker(gap time.Duration) (ticker, error) { return ticker(gap), nil }

func (t ticker) Wait() error { time.Sleep(time.Duration(t)); return nil }

func (ticker) Close() error { return nil }
