package tether

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"
)

// An Observer is notified of every task, in order: TaskSubmitted, TaskStarted unless the
// task is dropped, TaskEnded. Its methods are called on the goroutines that submit, run
// and cancel tasks, which wait for them, and must be safe for concurrent use. A panic in
// one of them is contained and logged. Embed [NopObserver] to implement some of them.
type Observer interface {
	// TaskSubmitted is called before the task can start. ctx is the submitter's.
	TaskSubmitted(ctx context.Context, t *Task)
	// TaskStarted is called before the first attempt. The context that it returns is the
	// body's: ctx, or one derived from it.
	TaskStarted(ctx context.Context, t *Task) context.Context
	// TaskEnded is called when the outcome is known, before the task is done. ctx is
	// what TaskStarted returned.
	TaskEnded(ctx context.Context, t *Task)
	// TaskRefused is called for each submission that returned an error.
	TaskRefused(ctx context.Context, name string, err error)
}

// A RetryObserver is an [Observer] that is also notified of failed attempts.
type RetryObserver interface {
	Observer
	// TaskRetrying is called when an attempt has ended with err and another one follows
	// after wait. ctx is what TaskStarted returned.
	TaskRetrying(ctx context.Context, t *Task, err error, wait time.Duration)
}

// A StuckObserver is an [Observer] that is also notified of stuck tasks: see
// [Config].StuckAfter.
type StuckObserver interface {
	Observer
	// TaskStuck is called once for a task that is stuck, with the stack of its goroutine.
	// It is called on another goroutine than the task's: the task may end meanwhile. The
	// calls for several tasks come one after the other, so a slow call delays the next.
	// ctx is what TaskStarted returned; if TaskStarted is what is stuck, it is the
	// context that TaskStarted was given. Shutdown waits for the call to return.
	TaskStuck(ctx context.Context, t *Task, stack []byte)
}

// NopObserver is an [Observer] that does nothing.
type NopObserver struct{}

func (NopObserver) TaskSubmitted(context.Context, *Task)                     {}
func (NopObserver) TaskStarted(ctx context.Context, _ *Task) context.Context { return ctx }
func (NopObserver) TaskEnded(context.Context, *Task)                         {}
func (NopObserver) TaskRefused(context.Context, string, error)               {}

// JoinObservers returns an Observer that calls each of obs in order; nil ones are left
// out. TaskStarted passes the context that one returned on to the next. TaskEnded,
// TaskRetrying and TaskStuck give each the context that it returned itself. The result is
// a [RetryObserver] and a [StuckObserver] for those of them that are.
func JoinObservers(obs ...Observer) Observer {
	var all observers
	for _, o := range obs {
		if joined, ok := o.(*observers); ok {
			all.each = append(all.each, joined.each...)
		} else if o != nil {
			all.each = append(all.each, o)
		}
	}
	return &all
}

type observers struct {
	each []Observer
	reg  *Registry // the registry that uses it; nil when nested
}

// notify calls fn for each observer, from the i-th on. A panic or a Goexit of one does not
// keep the others from being called. t is nil if the call is about a refusal.
func (all *observers) notify(i int, t *Task, name string, fn func(i int, o Observer)) {
	if i == len(all.each) {
		return
	}
	if i+1 < len(all.each) {
		defer all.notify(i+1, t, name, fn)
	}
	defer all.contain(t, name)
	fn(i, all.each[i])
}

// contain is deferred around the call of an observer.
func (all *observers) contain(t *Task, name string) {
	if t == nil && all.reg == nil {
		return // the observer that has nested this one contains it
	}
	switch v := recover(); {
	case v == nil:
	case t != nil:
		t.panicked("observer", v)
	default:
		e := &PanicError{Value: v, Stack: debug.Stack(), In: "observer", Task: name}
		all.reg.log(context.Background(), slog.LevelError, "panic", append(e.attrs(), slog.String("task", name))...)
		all.reg.crash(e)
	}
}

func (all *observers) TaskSubmitted(ctx context.Context, t *Task) {
	all.notify(0, t, t.kind.name, func(_ int, o Observer) { o.TaskSubmitted(ctx, t) })
}

func (all *observers) TaskRefused(ctx context.Context, name string, err error) {
	all.notify(0, nil, name, func(_ int, o Observer) { o.TaskRefused(ctx, name, err) })
}

func (all *observers) TaskStarted(ctx context.Context, t *Task) context.Context {
	all.start(&ctx, t)
	return ctx
}

// start calls TaskStarted of each. It leaves in ctx what they have returned, also if one
// of them ends the goroutine.
func (all *observers) start(ctx *context.Context, t *Task) {
	if len(all.each) == 1 {
		all.notify(0, t, t.kind.name, func(_ int, o Observer) {
			if c := o.TaskStarted(*ctx, t); c != nil {
				*ctx = c
			}
		})
		return
	}
	returned := &perObserver{t, make([]context.Context, len(all.each))}
	defer func() { *ctx = context.WithValue(*ctx, all, returned) }()
	all.notify(0, t, t.kind.name, func(i int, o Observer) {
		returned.each[i] = *ctx // unless it returns
		if c := o.TaskStarted(*ctx, t); c != nil {
			*ctx = c
		}
		returned.each[i] = *ctx
	})
}

func (all *observers) TaskEnded(ctx context.Context, t *Task) {
	all.notify(0, t, t.kind.name, func(i int, o Observer) { o.TaskEnded(all.own(ctx, t, i), t) })
}

func (all *observers) TaskRetrying(ctx context.Context, t *Task, err error, wait time.Duration) {
	all.notify(0, t, t.kind.name, func(i int, o Observer) {
		if o, ok := o.(RetryObserver); ok {
			o.TaskRetrying(all.own(ctx, t, i), t, err, wait)
		}
	})
}

func (all *observers) TaskStuck(ctx context.Context, t *Task, stack []byte) {
	all.notify(0, t, t.kind.name, func(i int, o Observer) {
		if o, ok := o.(StuckObserver); ok {
			o.TaskStuck(all.own(ctx, t, i), t, stack)
		}
	})
}

// perObserver is the contexts that several observers returned for one body. It is in the
// context that they returned together, with their observers as its key.
type perObserver struct {
	task *Task // a child has the values of its parent, too
	each []context.Context
}

// own returns the context that the i-th observer returned itself.
func (all *observers) own(ctx context.Context, t *Task, i int) context.Context {
	if len(all.each) > 1 {
		if returned, ok := ctx.Value(all).(*perObserver); ok && returned.task == t {
			return returned.each[i]
		}
	}
	return ctx // the task has not started
}

// observeStart notifies the observer of a start, and returns the body's context.
func (t *Task) observeStart() context.Context {
	if retry := t.opts().retry; retry != nil && retry.attempt() > 1 {
		return t.observedContext()
	}
	ctx := context.Context((*taskContext)(t))
	defer func() { // also if one ends this goroutine
		if own, ok := ctx.(*taskContext); ok && (*Task)(own) == t {
			return // none has derived one
		}
		x := t.getExtra()
		x.mu.Lock()
		x.observed = ctx
		x.mu.Unlock()
	}()
	t.queue.reg.observers.start(&ctx, t)
	return ctx
}

// observedContext returns the body's context as the observers derived it, until the task
// is done.
func (t *Task) observedContext() context.Context {
	if x := t.extra.Load(); x != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.observed != nil {
			return x.observed
		}
	}
	return (*taskContext)(t)
}
