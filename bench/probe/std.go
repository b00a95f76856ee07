package main

import (
	"context"
	"sync"
)

// The go statement alone. It has no means to wait or to stop; the next row adds them.
func goStatement() candidate {
	return candidate{Name: "go statement", Settings: []setting{{
		New: func(int, func(any)) *system {
			return &system{Go: func(_ string, fn body) error {
				go fn(context.Background())
				return nil
			}}
		},
	}}}
}

// sync.WaitGroup with its Go method. Wait is the drain, but not a stop: according to the
// documentation, Go may be called again afterwards.
func waitGroup() candidate {
	return candidate{Name: "sync.WaitGroup.Go", Settings: []setting{{
		DrainName: "Wait",
		New: func(int, func(any)) *system {
			var wg sync.WaitGroup
			return &system{
				Go: func(_ string, fn body) error {
					wg.Go(func() { fn(context.Background()) })
					return nil
				},
				Drain: func(context.Context) error { wg.Wait(); return nil },
			}
		},
	}}}
}
