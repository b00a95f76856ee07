package group

import (
	"context"

	"github.com/seed-2e639f12/tether"
)

// Results is a [Group] of bodies that return a T. It must be made by [NewResults].
type Results[T any] struct {
	group Group
}

// NewResults returns a group of bodies that return a T. See [New] for its arguments.
func NewResults[T any](ctx context.Context, to tether.Submitter, name string, cfg ...Config) *Results[T] {
	r := new(Results[T])
	r.group.init(ctx, to, name, cfg)
	return r
}

// Group returns the group, to cancel it or to add children that have no result.
func (r *Results[T]) Group() *Group { return &r.group }

// Go starts a child: see [Group.Go].
func (r *Results[T]) Go(fn func(ctx context.Context) (T, error)) *Child {
	if fn == nil {
		return r.group.Go(nil)
	}
	v := new(T)
	return r.group.add(func(ctx context.Context) (err error) {
		*v, err = fn(ctx)
		return err
	}, v)
}

// Wait waits as [Group.Wait] does, and returns its error and what the bodies returned, in the
// order in which they were started. With [UntilSuccess] that is the value of the child that
// has succeeded, alone. With [UntilEnd] there are as many values as calls of Go, also if there
// is an error. Otherwise there are none if there is an error.
func (r *Results[T]) Wait() ([]T, error) {
	g := &r.group
	err := g.Wait()
	if err != nil && g.until != UntilEnd {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []T
	for _, c := range g.children {
		if v, ok := c.result.(*T); ok && (g.until != UntilSuccess || c == g.first) {
			all = append(all, *v)
		}
	}
	return all, err
}
