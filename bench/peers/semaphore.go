package peers

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// Semaphore is x/sync's weighted semaphore around the go statement, like the worker pool
// in its documentation: the submitter acquires, the task releases.
func Semaphore() Candidate {
	return Candidate{
		Name: "semaphore", Module: "golang.org/x/sync", Setting: "`Acquire(ctx, 1)`, then `go` with a deferred `Release`; `TryAcquire` to reject",
		Limited: func(limit int) (*System, error) {
			sem := semaphore.NewWeighted(int64(limit))
			ctx := context.Background()
			return &System{
				Task: func(body func()) func() error {
					task := func() { defer sem.Release(1); body() }
					return func() error {
						if err := sem.Acquire(ctx, 1); err != nil {
							return err
						}
						go task()
						return nil
					}
				},
				Close: func() error { return sem.Acquire(ctx, int64(limit)) },
			}, nil
		},
		Rejecting: func(limit, _ int) (*Rejecting, error) {
			sem := semaphore.NewWeighted(int64(limit))
			return &Rejecting{
				Task: func(body func()) func() bool {
					task := func() { defer sem.Release(1); body() }
					return func() bool {
						if !sem.TryAcquire(1) {
							return false
						}
						go task()
						return true
					}
				},
				Close: func() error { return sem.Acquire(context.Background(), int64(limit)) },
			}, nil
		},
	}
}
