package main

import (
	"context"

	"github.com/sourcegraph/conc/pool"
)

// conc's pool with a limit. Wait must be called after all tasks have been submitted, so it
// is the drain, but not a stop that may run concurrently with Go. A panic is recovered and
// raised again in Wait.
func concPool() candidate {
	first := setting{
		ContainsPanics: true,
		DrainName:      "Wait",
		New: func(workers int, _ func(any)) *system {
			p := pool.New().WithMaxGoroutines(workers)
			return &system{
				Go: func(_ string, fn body) error {
					p.Go(func() { fn(context.Background()) })
					return nil
				},
				Drain: func(context.Context) error { p.Wait(); return nil },
			}
		},
	}
	withContext := first
	withContext.Name, withContext.Probes = "WithContext", []string{"early"}
	withContext.New = func(workers int, _ func(any)) *system {
		ctx, cancel := context.WithCancel(context.Background())
		p := pool.New().WithMaxGoroutines(workers).WithContext(ctx)
		return &system{
			Go: func(_ string, fn body) error {
				p.Go(func(ctx context.Context) error { fn(ctx); return nil })
				return nil
			},
			Cancel: cancel,
			Drain:  func(context.Context) error { return p.Wait() },
		}
	}
	return candidate{
		Name: "conc pool", Module: "github.com/sourcegraph/conc",
		Settings: []setting{first, withContext},
	}
}
