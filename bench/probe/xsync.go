package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// errgroup with a limit and a context, as in the examples of the package. Wait is the
// drain, but not a stop. The package does not recover panics, by design.
func errGroup() candidate {
	return candidate{Name: "x/sync errgroup", Module: "golang.org/x/sync", Settings: []setting{{
		DrainName: "Wait",
		New: func(workers int, _ func(any)) *system {
			ctx, cancel := context.WithCancel(context.Background())
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(workers)
			return &system{
				Go: func(_ string, fn body) error {
					g.Go(func() error { fn(ctx); return nil })
					return nil
				},
				Cancel: cancel,
				Drain:  func(context.Context) error { return g.Wait() },
			}
		},
	}}}
}

// semaphore as in the worker pool example of the package: Acquire, go, deferred Release,
// and an Acquire of the whole semaphore at the end, with a context that can have a deadline.
// After that, every other Acquire waits until its own context ends.
func weighted() candidate {
	return candidate{Name: "x/sync semaphore", Module: "golang.org/x/sync", Settings: []setting{{
		DrainName: "Acquire of all",
		New: func(workers int, _ func(any)) *system {
			sem := semaphore.NewWeighted(int64(workers))
			ctx, cancel := context.WithCancel(context.Background())
			drain := func(ctx context.Context) error { return sem.Acquire(ctx, int64(workers)) }
			return &system{
				Go: func(_ string, fn body) error {
					if err := sem.Acquire(ctx, 1); err != nil {
						return err
					}
					go func() {
						defer sem.Release(1)
						fn(context.Background())
					}()
					return nil
				},
				Drain:  drain,
				Closes: true,
				DrainWithin: func(d time.Duration) error {
					ctx, cancel := context.WithTimeout(context.Background(), d)
					defer cancel()
					return drain(ctx)
				},
				Free: cancel,
			}
		},
	}}}
}
