package peers

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// Errgroup is x/sync's errgroup: the zero Group, with SetLimit for a limit. WithContext is
// used only by Contexts, since it makes each error more expensive. All tasks share its
// context.
func Errgroup() Candidate {
	return Candidate{
		Name: "errgroup", Module: "golang.org/x/sync", Setting: "zero `Group`; `SetLimit`; `TryGo` to reject; results in a slice",
		Unlimited: func() (*System, error) { return errgroupSystem(new(errgroup.Group)), nil },
		Limited: func(limit int) (*System, error) {
			g := new(errgroup.Group)
			g.SetLimit(limit)
			return errgroupSystem(g), nil
		},
		Rejecting: func(limit, _ int) (*Rejecting, error) {
			g := new(errgroup.Group)
			g.SetLimit(limit)
			return &Rejecting{
				Task: func(body func()) func() bool {
					task := func() error { body(); return nil }
					return func() bool { return g.TryGo(task) }
				},
				Close: g.Wait,
			}, nil
		},
		Results: func() (*Results, error) {
			g := new(errgroup.Group)
			out := new(slots)
			return &Results{
				Sum: func(n int) (int, error) {
					values := out.of(n)
					for i := range n {
						g.Go(func() error { values[i] = Answer; return nil })
					}
					err := g.Wait() // a Group may be used again if nothing has failed
					return out.sum(), err
				},
				Close: nothing,
			}, nil
		},
		Contexts: func() (*Contexts, error) {
			root, cancel := context.WithCancel(context.Background())
			g, ctx := errgroup.WithContext(root)
			return &Contexts{
				Task: func(body func(context.Context)) func() error {
					task := func() error { body(ctx); return ctx.Err() }
					return func() error { g.Go(task); return nil }
				},
				Cancel: cancel,
				Close: func() error {
					defer cancel()
					return unlessCanceled(g.Wait())
				},
			}, nil
		},
	}
}

func errgroupSystem(g *errgroup.Group) *System {
	return &System{
		Task: func(body func()) func() error {
			task := func() error { body(); return nil }
			return func() error { g.Go(task); return nil }
		},
		Close: g.Wait,
	}
}

func unlessCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
