package tether

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/stacks"
	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// Observer is told of every task's turns, in order: TaskSubmitted, TaskStarted
// unless it is dropped, TaskEnded. It is called on the goroutines that submit, run
// and cancel, which wait for it, and must be safe for use by many of them. A
// panic in it is logged. Embed [NopObserver] to watch a few.
type Observer interface {
	// TaskSubmitted comes before the task can start. ctx is the submitter's.
	TaskSubmitted(ctx context.Context, t *Task)
	// TaskStarted comes before the first attempt. The context that it returns is
	// the body's: ctx, or one derived from it.
	TaskStarted(ctx context.Context, t *Task) context.Context
	// TaskEnded comes when the outcome is certain and before anybody who waits
	// for the task is told. ctx is what TaskStarted returned.
	TaskEnded(ctx context.Context, t *Task)
	// TaskRefused comes for each submission that returned an error.
	TaskRefused(ctx context.Context, name string, err error)
}

// StuckObserver is an [Observer] that is told of stuck tasks too, see [Config].StuckAfter.
type StuckObserver interface {
	Observer
	// TaskStuck comes once for a task that is stuck, on another goroutine than the
	// task's, which may end meanwhile. One comes after the other, so that whoever is slow
	// delays the next. ctx is what TaskStarted returned, or was given if it is what hangs.
	// Shutdown waits for this call to end.
	TaskStuck(ctx context.Context, t *Task, stack []byte)
}

// RetryObserver is an [Observer] that is told of failed attempts too.
type RetryObserver interface {
	Observer
	// TaskRetrying comes when an attempt has ended with err and another follows after
	// wait. ctx is what TaskStarted returned. It is called on the goroutine that ran the
	// attempt.
	TaskRetrying(ctx context.Context, t *Task, err error, wait time.Duration)
}

// JoinObservers returns one that tells each of these, in their order. TaskStarted hands
// the context of one on to the next; TaskEnded and TaskStuck give each what it
// returned itself. It is a [StuckObserver] to those of them that are.
func JoinObservers(each ...Observer) Observer {
	var all observers
	for _, o := range each {
		if more, ok := o.(*observers); ok {
			all.each = append(all.each, more.each...)
		} else if o != nil {
			all.each = append(all.each, o)
		}
	}
	return &all
}

type observers struct {
	each []Observer
	reg  *Registry // whose they are; nil if another observer has them
}

// event is a call of observers.
type event struct {
	what  uint8 // taskSubmitted, …
	ctx   context.Context
	task  *Task // nil if it was refused
	name  string
	err   error
	stack []byte
	wait  time.Duration     // before the next attempt
	each  []context.Context // what each has made of ctx, if there are several
}

const (
	taskSubmitted = iota
	taskStarted
	taskEnded
	taskRefused
	taskStuck
	taskRetrying
)

// tell tells all of them. In an event of one alone nothing is allocated.
func (all *observers) tell(e *event) {
	if len(all.each) == 1 {
		all.call(0, e)
	} else {
		several := *e
		defer func() { e.ctx = several.ctx }() // also if one ends this goroutine
		all.callEach(&several)
	}
}

// callEach calls each, also if one before it panics or ends this goroutine.
func (all *observers) callEach(e *event) {
	if e.what == taskStarted {
		e.each = make([]context.Context, len(all.each))
		defer func() { e.ctx = context.WithValue(e.ctx, observedKey{all}, &observed{e.task, e.each}) }()
	}
	for i := range all.each {
		defer all.call(len(all.each)-1-i, e) // they run in reverse: the first one first
	}
}

func (all *observers) call(i int, e *event) {
	reg := all.reg
	if e.task != nil {
		reg = e.task.lane.reg
	}
	if reg != nil {
		defer func() {
			if v := recover(); v != nil {
				reg.observerPanicked(e, v)
			}
		}()
	}
	switch o := all.each[i]; e.what {
	case taskSubmitted:
		o.TaskSubmitted(e.ctx, e.task)
	case taskStarted:
		if e.each != nil {
			e.each[i] = e.ctx // what stays if it panics
		}
		if c := o.TaskStarted(e.ctx, e.task); c != nil {
			e.ctx = c
		}
		if e.each != nil {
			e.each[i] = e.ctx
		}
	case taskEnded:
		o.TaskEnded(all.own(e, i), e.task)
	case taskRefused:
		o.TaskRefused(e.ctx, e.name, e.err)
	case taskRetrying:
		if o, ok := o.(RetryObserver); ok {
			o.TaskRetrying(all.own(e, i), e.task, e.err, e.wait)
		}
	case taskStuck:
		if o, ok := o.(StuckObserver); ok {
			o.TaskStuck(all.own(e, i), e.task, e.stack)
		}
	}
}

func (all *observers) TaskSubmitted(ctx context.Context, t *Task) {
	all.tell(&event{what: taskSubmitted, ctx: ctx, task: t})
}

func (all *observers) TaskStarted(ctx context.Context, t *Task) context.Context {
	e := event{what: taskStarted, ctx: ctx, task: t}
	all.tell(&e)
	return e.ctx
}

func (all *observers) TaskEnded(ctx context.Context, t *Task) {
	all.tell(&event{what: taskEnded, ctx: ctx, task: t})
}

func (all *observers) TaskRefused(ctx context.Context, name string, err error) {
	all.tell(&event{what: taskRefused, ctx: ctx, name: name, err: err})
}

func (all *observers) TaskRetrying(ctx context.Context, t *Task, err error, wait time.Duration) {
	all.tell(&event{what: taskRetrying, ctx: ctx, task: t, err: err, wait: wait})
}

func (all *observers) TaskStuck(ctx context.Context, t *Task, stack []byte) {
	all.tell(&event{what: taskStuck, ctx: ctx, task: t, stack: stack})
}

// observed is what each of some observers has made of a body's context, under
// observedKey in what they have made of it together.
type observed struct {
	task *Task // a child has its parent's values too
	each []context.Context
}

type observedKey struct{ by *observers }

func (all *observers) own(e *event, i int) context.Context {
	if len(all.each) > 1 {
		if o, ok := e.ctx.Value(observedKey{all}).(*observed); ok && o.task == e.task {
			return o.each[i]
		}
	}
	return e.ctx // it has not started
}

// NopObserver does nothing.
type NopObserver struct{}

func (NopObserver) TaskSubmitted(context.Context, *Task)                     {}
func (NopObserver) TaskStarted(ctx context.Context, _ *Task) context.Context { return ctx }
func (NopObserver) TaskEnded(context.Context, *Task)                         {}
func (NopObserver) TaskRefused(context.Context, string, error)               {}

// observerPanicked logs an observer's panic. It is called while the panic's stack is
// still there.
func (r *Registry) observerPanicked(e *event, v any) {
	if e.task != nil {
		e.task.panicked("observer", v)
		return
	}
	r.panicked("observer", &PanicError{Value: v, Stack: debug.Stack(), Task: e.name}, "")
}

// observeStart returns the context of a body that the observer has seen.
func (r *Registry) observeStart(t *Task) context.Context {
	if retry := t.options().retry; retry != nil && retry.attempt() > 1 {
		return t.observed()
	}
	e := event{what: taskStarted, ctx: (*taskContext)(t), task: t}
	defer func() { // also if one ends this goroutine
		if own, ok := e.ctx.(*taskContext); ok && (*Task)(own) == t {
			return // as it was: nothing to remember
		}
		m := t.extra()
		m.mu.Lock()
		m.observed = e.ctx
		m.mu.Unlock()
	}()
	r.observers.tell(&e)
	return e.ctx
}

// watch is what finds the tasks that are stuck: rounds, one at a time, by a timer that
// is set as long as anything runs.
type watch struct {
	set   atomic.Bool // the timer is set, or a round is under way: nobody else sets it
	mu    sync.Mutex
	timer *time.Timer           // guarded by mu
	round atomic.Pointer[round] // that is under way; nil if none is
}

type round struct {
	done    chan struct{}
	reports atomic.Bool // code of the user's is called, which may take its time
}

// watch sees to it that an attempt that has begun is reported if it gets stuck. It is
// called after the state says that it runs.
func (r *Registry) watch() {
	if r.cfg.StuckAfter > 0 && !r.stuck.set.Load() && r.stuck.set.CompareAndSwap(false, true) {
		r.lookIn(r.cfg.StuckAfter)
	}
}

func (r *Registry) lookIn(d time.Duration) {
	r.stuck.mu.Lock()
	defer r.stuck.mu.Unlock()
	r.stuck.timer = weaktimer.AfterFunc(d, r, (*Registry).findStuck)
}

// stopWatch ends the watch when nothing runs any more. It waits for a round that is
// under way, and reports false if ctx ends before its reports do.
func (r *Registry) stopWatch(ctx context.Context) bool {
	r.stuck.mu.Lock()
	if r.stuck.timer != nil {
		r.stuck.timer.Stop()
	}
	r.stuck.mu.Unlock()
	now := r.stuck.round.Load()
	if now == nil {
		return true
	}
	select {
	case <-now.done:
		return true
	case <-ctx.Done():
	}
	if now.reports.Load() {
		select {
		case <-now.done:
		default:
			return false
		}
	}
	<-now.done // nothing is left to report
	return true
}

// findStuck is a round: it reports what is overdue, and has the timer set again as long
// as anything else runs.
func (r *Registry) findStuck() {
	w, now := &r.stuck, &round{done: make(chan struct{})}
	w.round.Store(now)
	began, took := time.Now(), time.Duration(0)
	defer func() { // also if the observer or the log has ended this goroutine
		defer func() {
			w.round.CompareAndSwap(now, nil) // the next one may have begun
			close(now.done)
		}()
		// A look at many tasks is costly, a dump stops the world: most of the time there
		// is none.
		pause := max(r.cfg.StuckAfter/16, time.Millisecond, 16*took)
		if next, runs := r.nextOverdue(); runs {
			r.lookIn(max(next, pause))
			return
		}
		// Who begins an attempt from here on sets the timer. Who has begun one since
		// nextOverdue looked found it set.
		w.set.Store(false)
		if next, runs := r.nextOverdue(); runs && w.set.CompareAndSwap(false, true) {
			r.lookIn(max(next, pause))
		}
	}()
	late := r.overdue()
	if len(late) == 0 {
		return
	}
	dump := stacks.Take(reflect.TypeFor[Task]().PkgPath()+".(*Task).run", labelTask)
	var found []stuckTask
	for _, s := range late {
		s.stack = dump.Of(fmt.Sprintf("%p", s.task), s.task.kind.name)
		if s.stack == nil {
			if s.task.state.Or(unseen)&unseen == 0 {
				continue // it is not there yet, or there no more: the next round knows
			}
			s.stack = []byte("its goroutine was not found\n")
		}
		var first bool
		if s.ctx, first = s.task.noteStuck(s.began, s.stack); first {
			found = append(found, s)
		}
	}
	took = time.Since(began)
	now.reports.Store(len(found) > 0)
	r.reportStuck(found)
}

// stuckTask is a task of which an attempt is stuck.
type stuckTask struct {
	task  *Task
	began int64 // the attempt
	stack []byte
	ctx   context.Context
}

func (r *Registry) overdue() (late []stuckTask) {
	now := r.now()
	for t := range r.unreported() {
		if began := t.attemptBegan(); now-began >= int64(r.cfg.StuckAfter) {
			late = append(late, stuckTask{task: t, began: began})
		}
	}
	return late
}

// nextOverdue returns how long it is until an attempt may be overdue, and whether one
// runs at all.
func (r *Registry) nextOverdue() (next time.Duration, runs bool) {
	now := r.now()
	next = r.cfg.StuckAfter
	for t := range r.unreported() {
		next, runs = min(next, r.cfg.StuckAfter-time.Duration(now-t.attemptBegan())), true
	}
	return next, runs
}

// unreported returns the tasks that run and are not reported as stuck.
func (r *Registry) unreported() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range r.Tasks() {
			if s := t.state.Load(); State(s&stateMask) == Running && s&reported == 0 && !yield(t) {
				return
			}
		}
	}
}

func (r *Registry) reportStuck(found []stuckTask) {
	defer func() {
		if len(found) > 0 { // the observer or the log has ended this goroutine
			r.reportStuck(found)
		}
	}()
	for len(found) > 0 {
		s := found[0]
		found = found[1:]
		t := s.task
		t.changed()
		r.warn(t, "task stuck",
			slog.Duration("running", time.Duration(r.now()-s.began)), slog.String("stack", string(s.stack)))
		if r.observers != nil {
			r.observers.TaskStuck(s.ctx, t, s.stack)
		}
	}
}
