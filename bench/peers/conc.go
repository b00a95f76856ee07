package peers

import (
	"context"

	"github.com/sourcegraph/conc/pool"
)

// Conc is the pool.Pool of sourcegraph/conc, which reuses goroutines; conc.WaitGroup does
// not. Go blocks at the limit. Each batch of results has a pool of its own, as intended by
// the library: only Wait returns the results, and it ends the pool.
func Conc() Candidate {
	return Candidate{
		Name: "conc", Module: "github.com/sourcegraph/conc", Setting: "`pool.New().Go`; `WithMaxGoroutines(limit)`; a `ResultPool` per batch; `WithContext`",
		Unlimited: func() (*System, error) { return concSystem(pool.New()), nil },
		Limited: func(limit int) (*System, error) {
			return concSystem(pool.New().WithMaxGoroutines(limit)), nil
		},
		Results: func() (*Results, error) {
			task := func() int { return Answer }
			return &Results{
				Sum: func(n int) (sum int, err error) {
					p := pool.NewWithResults[int]()
					for range n {
						p.Go(task)
					}
					for _, v := range p.Wait() {
						sum += v
					}
					return sum, nil
				},
				Close: nothing,
			}, nil
		},
		// All tasks share one context.
		Contexts: func() (*Contexts, error) {
			root, cancel := context.WithCancel(context.Background())
			p := pool.New().WithContext(root)
			return &Contexts{
				Task: func(body func(context.Context)) func() error {
					task := func(ctx context.Context) error { body(ctx); return nil }
					return func() error { p.Go(task); return nil }
				},
				Cancel: cancel,
				Close: func() error {
					defer cancel()
					return unlessCanceled(p.Wait())
				},
			}, nil
		},
	}
}

func concSystem(p *pool.Pool) *System {
	return &System{
		Task:  func(body func()) func() error { return func() error { p.Go(body); return nil } },
		Close: func() error { p.Wait(); return nil },
	}
}
