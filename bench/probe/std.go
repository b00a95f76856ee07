package main

import (
	"context"
	"sync"
)

// The go statement as such: it has no way to wait and nothing to stop. What
// people put around it by hand is the next row.
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

// sync.WaitGroup with its Go method. Wait is the drain, but not a stop: Go may
// be called again afterwards, as the documentation says.
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
