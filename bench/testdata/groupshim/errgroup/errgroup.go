// Package errgroup is golang.org/x/sync/errgroup on groups of Tether, for that package's own
// tests.
package errgroup

import (
	"context"
	"log/slog"
	"sync"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/group"
)

var reg = tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})

// A Group has a group of Tether for each time that it is waited for.
type Group struct {
	ctx context.Context // nil for the zero Group, which cancels nothing
	sem chan struct{}

	mu      sync.Mutex
	current *group.Group
	first   error
}

func WithContext(ctx context.Context) (*Group, context.Context) {
	g := &Group{ctx: ctx, current: group.New(ctx, reg, "child")}
	return g, g.current.Context()
}

func (g *Group) group() *group.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		g.current = group.New(context.Background(), reg, "child", group.Config{Until: group.UntilEnd})
	}
	return g.current
}

func (g *Group) Wait() error {
	err := g.group().Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx != nil {
		return err
	}
	g.current = nil // a zero Group goes on
	return g.first
}

func (g *Group) Go(f func() error) {
	if g.sem != nil {
		g.sem <- struct{}{}
	}
	g.start(f)
}

func (g *Group) TryGo(f func() error) bool {
	if g.sem != nil {
		select {
		case g.sem <- struct{}{}:
		default:
			return false
		}
	}
	g.start(f)
	return true
}

func (g *Group) start(f func() error) {
	sem := g.sem
	g.group().Go(func(context.Context) error {
		err := f()
		g.mu.Lock()
		if g.first == nil {
			g.first = err
		}
		g.mu.Unlock()
		if sem != nil {
			<-sem
		}
		return err
	})
}

func (g *Group) SetLimit(n int) {
	if n < 0 {
		g.sem = nil
		return
	}
	if len(g.sem) > 0 {
		panic("errgroup: the limit is changed while functions run")
	}
	g.sem = make(chan struct{}, n)
}
