package tether

import (
	"context"
	"fmt"
	"reflect"
)

// A Submitter takes tasks: it is a *[Registry] or a *[Pool].
type Submitter interface {
	Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error)

	submitter() (*Registry, *Pool) // the pool is nil for a registry
}

func (r *Registry) submitter() (*Registry, *Pool) { return r, nil }
func (p *Pool) submitter() (*Registry, *Pool)     { return p.reg, p }

// Result is the handle of a task that returns a T.
//
// The value stays in memory as long as the program holds the Result, and no longer: the
// registry, which retains finished tasks, does not retain their values. It does so for
// tasks that were marked with Keep, up to [Config].Retain of them, each for RetainFor. So
// the values that the registry holds take at most Retain times the size of a value: with
// the default of 1024 and kept values of 100 kB, 100 MB.
type Result[T any] struct {
	*Task
	s *submission[T] // of the task; nil if a Unique key has found a task without a T
}

// Submit is Go for a body that returns a value: see [Registry.Go] and [Pool.Go]. See
// [Result] for how long the value stays in memory.
func Submit[T any](ctx context.Context, to Submitter, name string, fn func(context.Context) (T, error), opts ...Option) (*Result[T], error) {
	if to == nil {
		return nil, fmt.Errorf("%w: nil Submitter", ErrInvalid)
	}
	r, p := to.submitter()
	s := &submission[T]{fn: fn}
	req := request{ctx: ctx, reg: r, pool: p, typed: s}
	t, err := req.submit(name, opts)
	if err != nil {
		return nil, err
	}
	if req.duplicate {
		s, _ = req.found.(*submission[T])
		return &Result[T]{t, s}, nil
	}
	s.result = Result[T]{t, s}
	return &s.result, nil
}

// Detach is Go for a submitter that has no caller to tell of a refusal. The refusal is
// counted in [Stats], as any is, and logged (Warn, at most one record a second for each
// name and pool, in which "omitted" counts the others). Where a caller can be told, such
// as a client with a 503, use Go. Detach panics if to is nil.
func Detach(ctx context.Context, to Submitter, name string, fn Func, opts ...Option) {
	if _, err := to.Go(ctx, name, fn, opts...); err != nil {
		r, p := to.submitter()
		r.logRefusal(ctx, p, name, err)
	}
}

// Value waits as Wait does and returns what the body returned. With [Unique] the task may
// be that of another submission: Value returns an error if that one does not return a T.
func (r *Result[T]) Value(ctx context.Context) (T, error) {
	var zero T
	if err := r.Wait(ctx); err != nil {
		return zero, err
	}
	if r.s == nil {
		return zero, fmt.Errorf("tether: task %q does not return a %T: it was submitted by another call, with its Unique key", r.Name(), zero)
	}
	return r.s.v, nil
}

// Keep is [Task.Keep]. The registry retains the value as well, even if the task has
// ended before the call.
func (r *Result[T]) Keep() bool {
	kept := r.Task.Keep()
	if kept && r.s != nil {
		x := r.extra.Load()
		x.mu.Lock()
		if x.typed == nil { // the task has ended; before, its attempts read it without the lock
			x.typed = r.s
		}
		x.mu.Unlock()
	}
	return kept
}

// typed is a *submission[T].
type typed interface {
	pc() uintptr // of the body's function; 0 if that is nil
	run(ctx context.Context) error
	value() any
	drop()
}

// submission is the body of a Submit, with room for its value and the Result.
type submission[T any] struct {
	fn     func(context.Context) (T, error) // dropped at the end
	v      T                                // written by the body; read once the task is done and has succeeded
	result Result[T]
}

func (s *submission[T]) pc() uintptr { return reflect.ValueOf(s.fn).Pointer() }
func (s *submission[T]) value() any  { return s.v }
func (s *submission[T]) drop()       { s.fn = nil }

func (s *submission[T]) run(ctx context.Context) error {
	v, err := s.fn(ctx)
	if err == nil {
		s.v = v
	}
	return err
}
