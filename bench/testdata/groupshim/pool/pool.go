// Package pool is github.com/sourcegraph/conc/pool on groups of Tether, for that package's
// own tests.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/group"
)

// base is what all kinds of pools have in common.
type base[T any] struct {
	limit         int
	ctx           context.Context // nil without WithContext
	cancelOnError bool
	firstError    bool
	collect       bool // also the results of failures

	once     sync.Once
	inUse    bool
	children *group.Results[T]
	cancel   context.CancelFunc

	mu    sync.Mutex
	list  []*group.Child
	first error
}

func (b *base[T]) setLimit(n int) {
	if b.inUse || n < 1 {
		panic("pool: the limit is invalid, or too late")
	}
	b.limit = n
}

func (b *base[T]) begin() {
	b.once.Do(func() {
		b.inUse = true
		reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
		to := tether.Submitter(reg)
		if b.limit > 0 {
			to = reg.NewPool("pool", tether.PoolConfig{Workers: b.limit, Queue: tether.Unbounded})
		}
		if b.ctx == nil {
			b.ctx = context.Background()
		}
		b.ctx, b.cancel = context.WithCancel(b.ctx)
		// All children run, whatever becomes of the context: that is what conc promises.
		b.children = group.NewResults[T](context.Background(), to, "child", group.Config{Until: group.UntilEnd})
	})
}

func (b *base[T]) start(f func(ctx context.Context) (T, error)) {
	b.begin()
	child := b.children.Go(func(context.Context) (v T, err error) {
		returned := false
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.first == nil {
				b.first = err
			}
			if b.cancelOnError && (err != nil || !returned) {
				b.cancel()
			}
		}()
		v, err = f(b.ctx)
		returned = true
		return v, err
	})
	b.mu.Lock()
	b.list = append(b.list, child)
	b.mu.Unlock()
}

func (b *base[T]) wait() ([]T, error) {
	b.begin()
	values, err := b.children.Wait()
	b.cancel()
	var kept []T
	for i, child := range b.list {
		var p *tether.PanicError
		if errors.As(child.Err(), &p) {
			panic(p)
		}
		if child.Err() == nil || b.collect {
			kept = append(kept, values[i])
		}
	}
	if b.firstError {
		err = b.first
	}
	return kept, err
}

type none = struct{}

type Pool struct{ b *base[none] }

func New() *Pool { return &Pool{new(base[none])} }

func (p *Pool) WithMaxGoroutines(n int) *Pool { p.b.setLimit(n); return p }
func (p *Pool) MaxGoroutines() int            { return p.b.limit }
func (p *Pool) WithErrors() *ErrorPool        { return &ErrorPool{p.b} }
func (p *Pool) WithContext(ctx context.Context) *ContextPool {
	p.b.ctx = ctx
	return &ContextPool{p.b}
}

func (p *Pool) Go(f func()) {
	p.b.start(func(context.Context) (none, error) { f(); return none{}, nil })
}

func (p *Pool) Wait() { _, _ = p.b.wait() }

type ErrorPool struct{ b *base[none] }

func (p *ErrorPool) WithMaxGoroutines(n int) *ErrorPool { p.b.setLimit(n); return p }
func (p *ErrorPool) WithFirstError() *ErrorPool         { p.b.firstError = true; return p }
func (p *ErrorPool) WithContext(ctx context.Context) *ContextPool {
	p.b.ctx = ctx
	return &ContextPool{p.b}
}

func (p *ErrorPool) Go(f func() error) {
	p.b.start(func(context.Context) (none, error) { return none{}, f() })
}

func (p *ErrorPool) Wait() error { _, err := p.b.wait(); return err }

type ContextPool struct{ b *base[none] }

func (p *ContextPool) WithMaxGoroutines(n int) *ContextPool { p.b.setLimit(n); return p }
func (p *ContextPool) WithFirstError() *ContextPool         { p.b.firstError = true; return p }
func (p *ContextPool) WithCancelOnError() *ContextPool      { p.b.cancelOnError = true; return p }

func (p *ContextPool) Go(f func(ctx context.Context) error) {
	p.b.start(func(ctx context.Context) (none, error) { return none{}, f(ctx) })
}

func (p *ContextPool) Wait() error { _, err := p.b.wait(); return err }

type ResultPool[T any] struct{ b *base[T] }

func NewWithResults[T any]() *ResultPool[T] { return &ResultPool[T]{new(base[T])} }

func (p *ResultPool[T]) WithMaxGoroutines(n int) *ResultPool[T] { p.b.setLimit(n); return p }
func (p *ResultPool[T]) WithErrors() *ResultErrorPool[T]        { return &ResultErrorPool[T]{p.b} }
func (p *ResultPool[T]) WithContext(ctx context.Context) *ResultContextPool[T] {
	p.b.ctx = ctx
	return &ResultContextPool[T]{p.b}
}

func (p *ResultPool[T]) Go(f func() T) {
	p.b.start(func(context.Context) (T, error) { return f(), nil })
}

func (p *ResultPool[T]) Wait() []T { values, _ := p.b.wait(); return values }

type ResultErrorPool[T any] struct{ b *base[T] }

func (p *ResultErrorPool[T]) WithMaxGoroutines(n int) *ResultErrorPool[T] {
	p.b.setLimit(n)
	return p
}
func (p *ResultErrorPool[T]) WithFirstError() *ResultErrorPool[T] { p.b.firstError = true; return p }
func (p *ResultErrorPool[T]) WithCollectErrored() *ResultErrorPool[T] {
	p.b.collect = true
	return p
}
func (p *ResultErrorPool[T]) WithContext(ctx context.Context) *ResultContextPool[T] {
	p.b.ctx = ctx
	return &ResultContextPool[T]{p.b}
}

func (p *ResultErrorPool[T]) Go(f func() (T, error)) {
	p.b.start(func(context.Context) (T, error) { return f() })
}

func (p *ResultErrorPool[T]) Wait() ([]T, error) { return p.b.wait() }

type ResultContextPool[T any] struct{ b *base[T] }

func (p *ResultContextPool[T]) WithMaxGoroutines(n int) *ResultContextPool[T] {
	p.b.setLimit(n)
	return p
}
func (p *ResultContextPool[T]) WithFirstError() *ResultContextPool[T] {
	p.b.firstError = true
	return p
}
func (p *ResultContextPool[T]) WithCollectErrored() *ResultContextPool[T] {
	p.b.collect = true
	return p
}
func (p *ResultContextPool[T]) WithCancelOnError() *ResultContextPool[T] {
	p.b.cancelOnError = true
	return p
}

func (p *ResultContextPool[T]) Go(f func(ctx context.Context) (T, error)) { p.b.start(f) }

func (p *ResultContextPool[T]) Wait() ([]T, error) { return p.b.wait() }
