package peers

import (
	"context"

	"github.com/alitto/pond/v2"
)

// Pond is alitto/pond v2. Go is its cheapest call: Submit makes a future for each task.
// The queue is unbounded, which is the default, except that Rejecting uses
// WithNonBlocking and a bounded queue.
func Pond() Candidate {
	return Candidate{
		Name: "pond", Module: "github.com/alitto/pond/v2", Setting: "`NewPool(limit).Go`, unbounded queue; results by a group of a `ResultPool`; `WithNonBlocking` to reject", Queues: true,
		Unlimited: func() (*System, error) { return pondSystem(pond.NewPool(0)), nil },
		Limited:   func(limit int) (*System, error) { return pondSystem(pond.NewPool(limit)), nil },
		Rejecting: func(limit, queue int) (*Rejecting, error) {
			p := pond.NewPool(limit, pond.WithNonBlocking(true), pond.WithQueueSize(queue))
			return &Rejecting{
				Queues: true,
				Task:   func(body func()) func() bool { return func() bool { return p.Go(body) == nil } },
				Close:  stopPond(p),
			}, nil
		},
		Results: pondResults,
		// The pool has one context for all tasks.
		Contexts: func() (*Contexts, error) {
			root, cancel := context.WithCancel(context.Background())
			p := pond.NewPool(0, pond.WithContext(root))
			return &Contexts{
				Task: func(body func(context.Context)) func() error {
					task := func() { body(p.Context()) }
					return func() error { return p.Go(task) }
				},
				Cancel: cancel,
				Close:  func() error { p.StopAndWait(); cancel(); return nil },
			}, nil
		},
	}
}

func pondSystem(p pond.Pool) *System {
	return &System{
		Task:  func(body func()) func() error { return func() error { return p.Go(body) } },
		Close: stopPond(p),
	}
}

func stopPond(p pond.Pool) func() error {
	return func() error { p.StopAndWait(); return nil }
}

// pondResults waits for a group, even for a single task: that is several times cheaper
// than the futures of Submit.
func pondResults() (*Results, error) {
	p := pond.NewResultPool[int](0)
	task := func() int { return Answer }
	return &Results{
		Sum: func(n int) (sum int, err error) {
			group := p.NewGroup()
			for range n {
				group.Submit(task)
			}
			values, err := group.Wait()
			for _, v := range values {
				sum += v
			}
			return sum, err
		},
		Close: func() error { p.StopAndWait(); return nil },
	}, nil
}
