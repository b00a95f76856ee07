package tether

import (
	"context"
	"reflect"
	"time"
)

// taskContext is the context of a task's body: the same struct as Task, with the
// methods of a context.
//
// It answers what it can from the task's state. The standard library's cancellation is
// made by the first call that needs one, so that a body that does not use its context
// does not pay for it.
type taskContext Task

// cancelState is the cancellation of a task's context. It is made by the standard
// library, so that contexts derived from it are its native children, which cost no
// goroutine. The embedded context has no values: a body that keeps it keeps nothing
// else alive.
type cancelState struct {
	context.Context
	cancel func(cause error)
}

type taskKey struct{}

func (c *taskContext) Deadline() (time.Time, bool) { return (*Task)(c).deadline() }

func (c *taskContext) Done() <-chan struct{} { return (*Task)(c).cancelContext().Done() }

func (c *taskContext) Err() error {
	t := (*Task)(c)
	if x := t.extra.Load(); (x == nil || x.cancel.Load() == nil) && t.cause() == nil {
		// A body may ask often, and need nothing else of its context.
		switch deadline, ok := t.deadline(); {
		case t.has(done):
			return context.Canceled
		case !ok || time.Now().Before(deadline):
			return nil
		}
	}
	return t.cancelContext().Err()
}

func (c *taskContext) Value(key any) any {
	t := (*Task)(c)
	if key == (taskKey{}) {
		return t
	}
	// The context package asks by a key of its own for the nearest cancellation, which
	// must be this one and not the submitter's.
	if x := t.extra.Load(); x != nil {
		if cancel := x.cancel.Load(); cancel != nil {
			if v := cancel.Value(key); v != nil {
				return v
			}
		}
	}
	if v := t.kind.labels.Value(key); v != nil {
		return v // so that pprof.Do in a body adds to the task's labels
	}
	values := t.currentValues()
	if values == nil {
		return nil
	}
	if _, ok := key.(*int); ok {
		// It may be that key, by which Cause asks before anything has made the cancellation,
		// up to Go 1.25. WithoutCancel hides the submitter's cancellation, and nothing else.
		values = context.WithoutCancel(values)
	}
	return values.Value(key)
}

// String keeps fmt from reading the struct, which other goroutines change.
func (c *taskContext) String() string { return "tether.Context(" + c.kind.name + ")" }

// deadline returns when a started task's time is up.
func (t *Task) deadline() (time.Time, bool) {
	timeout := t.queue.reg.cfg.Timeout
	if x := t.extra.Load(); x != nil && x.timeout != 0 {
		timeout = x.timeout
	}
	if timeout <= 0 || !t.has(begun) {
		return time.Time{}, false
	}
	return t.queue.reg.time(t.started).Add(timeout), true
}

// cancelContext returns the context's cancellation, and makes it if there is none.
func (t *Task) cancelContext() *cancelState {
	x := t.getExtra()
	if c := x.cancel.Load(); c != nil {
		if t.has(done) {
			c.cancel(nil) // finish is about to; this caller knows of the end already
		}
		return c
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.cancel.Load(); c != nil {
		return c
	}
	c := new(cancelState)
	base, stop := context.Background(), context.CancelFunc(nil)
	ended := t.has(done)
	if deadline, ok := t.deadline(); ok && !ended {
		base, stop = context.WithDeadlineCause(base, deadline, ErrTimeout)
	}
	ctx, cancel := context.WithCancelCause(base)
	c.Context, c.cancel = ctx, cancel
	if stop != nil {
		c.cancel = func(cause error) {
			cancel(cause)
			stop()
		}
	}
	switch {
	case x.cause != nil:
		c.cancel(x.cause)
	case ended:
		c.cancel(nil)
	}
	x.cancel.Store(c)
	return c
}

// interrupt records why the task is to end, and cancels its context. The first cause
// counts.
func (t *Task) interrupt(cause error) {
	x := t.getExtra()
	x.mu.Lock()
	if x.cause == nil {
		x.cause = cause
	}
	cause = x.cause // the first
	c := x.cancel.Load()
	x.mu.Unlock()
	if c != nil {
		c.cancel(cause)
	}
}

// cause returns the cause that interrupt recorded, nil if there was none.
func (t *Task) cause() error {
	x := t.extra.Load()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cause
}

// cancellation returns why the task's context is canceled, its Timeout included; nil if
// it is not. The answer does not depend on whether the body has used its context.
func (t *Task) cancellation() (cause error) {
	if x := t.extra.Load(); x != nil {
		if c := x.cancel.Load(); c != nil && context.Cause(c) != nil {
			return context.Cause(c)
		}
	}
	if cause = t.cause(); cause != nil {
		return cause
	}
	if deadline, ok := t.deadline(); ok && !time.Now().Before(deadline) {
		return ErrTimeout
	}
	return nil
}

// # Values
//
// A task has the values of its submitter's context. It drops them when it has ended,
// because handles of finished tasks, and the registry's history, may live for long. A
// child, which is a task that another one submits with a context of its own, needs them
// for longer: its values are a context derived from its parent's, which looks up the
// parent's values. So a parent keeps its values until it has ended and so have the
// children that hold it.
//
// A chain, in which each task submits the next one, must not grow with its length.
// A child that is submitted with the very context that the body was given takes the
// parent's values over, and does not hold the parent. If an observer derives a context
// for each body, as one that traces does, the context is new for each task of the chain,
// and the child holds its parent; but when the parent ends, its values fall back to its
// base, the values below all contexts that observers derived. So each task of the chain
// refers to its parent and to the base, and to no task before. Only a chain of contexts
// that the bodies derive themselves grows, as contexts do.

// inherit gives t, which a body of parent submits with ctx, its values. No other
// goroutine knows t.
func (t *Task) inherit(parent *Task, ctx context.Context) {
	x := t.extra.Load()
	x.parent, x.parentNum = parent.queue, parent.slot.Number()
	_, own := ctx.(*taskContext)
	px := parent.getExtra()
	px.mu.Lock()
	defer px.mu.Unlock()
	switch {
	case parent.droppedValuesLocked(px):
		if t.values = ctx; own {
			t.values = context.Background()
		}
	case own:
		t.values, x.base = parent.values, px.base
		x.holds, x.baseHolds = px.holds, px.baseHolds
		x.holds.hold() // parent holds it too, so it has its values
	default:
		t.values, x.holds = ctx, parent
		px.children++
		// A context may be of a type that cannot be compared.
		if px.observed != nil && reflect.ValueOf(ctx).Comparable() && ctx == px.observed {
			if x.base, x.baseHolds = px.base, px.baseHolds; x.base == nil {
				x.base, x.baseHolds = parent.values, px.holds
			}
		}
	}
}

// droppedValuesLocked reports whether t has dropped its values. x, the extra of t, must be
// locked.
func (t *Task) droppedValuesLocked(x *taskExtra) bool { return t.has(done) && x.children == 0 }

// currentValues returns the task's values, nil if it has dropped them.
func (t *Task) currentValues() context.Context {
	x := t.getExtra()
	x.mu.Lock()
	defer x.mu.Unlock()
	if t.droppedValuesLocked(x) {
		return nil
	}
	return t.values
}

// hold makes t keep its values for one child more. t may be nil.
func (t *Task) hold() {
	if t == nil {
		return
	}
	x := t.extra.Load()
	x.mu.Lock()
	x.children++
	x.mu.Unlock()
}

// unhold ends a hold, and with the last one that of the task that t holds itself. t may
// be nil.
func (t *Task) unhold() {
	for t != nil {
		x := t.extra.Load()
		x.mu.Lock()
		var held *Task
		if x.children--; t.droppedValuesLocked(x) {
			held = t.dropValuesLocked(x)
		}
		x.mu.Unlock()
		t = held
	}
}

// endValuesLocked is what the end of t means for its values. t is done, and x, its extra,
// locked. The caller must call unhold for the returned task once x is unlocked.
func (t *Task) endValuesLocked(x *taskExtra) (held *Task) {
	switch {
	case x.children == 0:
		return t.dropValuesLocked(x)
	case x.base != nil:
		t.values, x.base = x.base, nil
		held = x.holds
		x.holds, x.baseHolds = x.baseHolds, nil
		x.holds.hold() // held holds it, directly or not, so it has its values
	}
	return held
}

func (t *Task) dropValuesLocked(x *taskExtra) (held *Task) {
	held = x.holds
	t.values, x.base, x.holds, x.baseHolds = nil, nil, nil, nil
	return held
}

// FromContext returns the task that ctx belongs to: ctx is the one that its body was given,
// or derived from it.
func FromContext(ctx context.Context) (*Task, bool) {
	if c, ok := ctx.(*taskContext); ok {
		return (*Task)(c), true
	}
	if ctx == nil {
		return nil, false
	}
	t, ok := ctx.Value(taskKey{}).(*Task)
	return t, ok
}

// ReportProgress sets the Progress of the task that ctx belongs to. If there is none, it
// does nothing.
func ReportProgress(ctx context.Context, p Progress) {
	t, ok := FromContext(ctx)
	if !ok {
		return
	}
	x := t.getExtra()
	x.mu.Lock()
	if !t.has(done) { // a finished task does not change
		if x.progress == nil {
			x.progress = new(Progress)
		}
		*x.progress = p
	}
	x.mu.Unlock()
	t.notifyWatchers()
}

// StoppingFrom returns [Registry.Stopping] of the registry of the task that ctx belongs to.
// A long body should finish soon when the channel is closed, or save its place; its
// context is not canceled yet. If ctx belongs to no task, the channel is nil.
func StoppingFrom(ctx context.Context) <-chan struct{} {
	if t, ok := FromContext(ctx); ok {
		return t.queue.reg.drain.stopping
	}
	return nil
}
