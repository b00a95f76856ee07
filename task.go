package tether

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/names"
	"github.com/seed-2e639f12/tether/internal/table"
)

// Func is the body of a task.
//
// Its context has the values of the context it was submitted with, but neither
// its cancellation nor its deadline. It is cancelled by [Task.Cancel], by
// [Timeout], late in [Registry.Shutdown], and when the task has ended;
// [context.Cause] tells which. When the task has ended, the context lets go of
// the submitter's values too.
//
// The goroutine that runs a body has run others before: do not leave it locked
// to its thread (runtime.LockOSThread). Its profiler labels "tether.task" and
// "tether.pool" name the task.
type Func func(ctx context.Context) error

// CheckName returns nil for what can be the name of a task or a pool: 1 to 128 bytes of
// printable UTF-8. Else the error is an [ErrInvalid] that says why.
func CheckName(name string) error {
	if err := names.Check(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// State is where a task is in its life. Held, Queued and Running are live, the
// others final.
type State uint8

const (
	Held      State = iota // admitted, waits for Release
	Queued                 // waits for a worker, for its delay, or for its next attempt
	Running                // its body runs
	Succeeded              // the body returned nil
	Failed                 // the body returned an error, or ended its goroutine: ErrGoexit
	Panicked               // the body panicked: Err is a *PanicError
	Canceled               // it was cancelled after it had started, and gave up for that
	Dropped                // it never ran
)

func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case Queued:
		return "queued"
	case Running:
		return "running"
	case Succeeded:
		return "succeeded"
	case Failed:
		return "failed"
	case Panicked:
		return "panicked"
	case Canceled:
		return "canceled"
	case Dropped:
		return "dropped"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Final reports whether a task in this state will never change again.
func (s State) Final() bool { return s >= Succeeded }

// Task is the handle of one submission. All methods may be called by anyone at
// any time, within the task's own body too.
//
// A Task is also the registry's entry, the queue's node and the body's context:
// one allocation. What few tasks need is made when somebody asks for it, in more.
type Task struct {
	next  *node  // the queue's
	depth uint16 // the queue's

	// end is how the attempt has ended: a final state, or Queued if another one
	// follows. Whoever ends the task writes it, before it is settled.
	end State

	// state is a State and flags. Changes from Held and Queued are made under the
	// lane's lock, those from Running by whoever runs the task.
	state atomic.Uint32

	lane *lane
	kind *kind
	slot table.Slot[Task]
	pc   uintptr // of the body, which is gone at the end

	// fn and values are let go when the task is released. values is read under
	// more.mu before that: see heritage and release.
	fn     Func // nil: more.typed is the body
	values context.Context

	// Nanoseconds since the registry was made. submitted is 0 for what starts at
	// once. started is written once, before begun is set; ended, before the state
	// is final.
	submitted, started, ended int64

	more atomic.Pointer[more]
}

const (
	stateMask  = 1<<3 - 1
	claimed    = 1 << (3 + iota) // somebody is about to end it without running it
	announcing                   // nobody may claim it until setOut: the observer is being told, or an attempt has just ended
	parked                       // it is in no queue: held, delayed, or between attempts
	inlined                      // its submitter runs it: it has no place in the pool
	begun                        // it has started once
	waited                       // somebody has asked for the outcome
	settled                      // its end is in the drain's tally
	released                     // its outcome may be seen: Done is closed
	kept                         // it is to be retained apart from the others
	forgotten                    // it is retained no more; not set once kept is, but for those that were
	unseen                       // it was stuck, and its goroutine was not found
	reported                     // it was stuck, and that was reported
)

// more is the part of a task that many do without.
type more struct {
	mu    sync.Mutex
	done  chan struct{}         // made by Done, closed on release; guarded by mu
	cause error                 // the first cancellation's; guarded by mu
	inner atomic.Pointer[inner] // written under mu

	waiters      atomic.Int32 // those in Wait
	fromObserver bool         // values is what the observer has made of the parent's context

	observed  context.Context // what the observer has made of the body's; guarded by mu
	err       error           // written before the state is final
	parent    parent          // written before the task is published, as are opts, typed and timeout
	inherited *lineage        // as values: let go on release
	opts      *options        // what was wished beyond a Timeout; may be nil
	typed     typed           // of a Submit: room for its result, and its body if fn is nil
	timeout   time.Duration   // 0: the registry's
	aside     atomic.Pointer[aside]
}

// aside is the part of more that most do without.
type aside struct {
	watch    atomic.Pointer[chan struct{}] // made by Watch, taken and closed by changed
	progress Progress                      // guarded by more.mu
	stuck    []byte                        // the stack, if it is reported as stuck; guarded by more.mu
}

type parent struct {
	lane *lane
	num  uint64
}

// lineage is where the values of a task come from whose submitter was another task,
// and had derived a context from its own: those that this one lets go of at its end.
type lineage struct {
	of     *Task           // while it lives it answers for itself and all above
	values context.Context // its submitter's; nil if it has none, or none but what its observer made
	up     *lineage        // its own
}

// inner is the cancellation of a task's context, made when somebody needs it, by
// the standard library: contexts derived from it are its native children, which
// cost no goroutine. The embedded context has no values, so that a body that keeps
// it for ever keeps nothing else alive.
type inner struct {
	context.Context
	cancel func(cause error)
}

// ID returns the task's identifier: 22 letters, digits, '-' and '_', which nobody
// can guess and which tell nothing. [Registry.Find] takes it.
func (t *Task) ID() string { return t.lane.id(t.slot.Number()) }

// Name returns the name that the task was submitted with.
func (t *Task) Name() string { return t.kind.name }

// Registry returns the registry that the task was submitted to.
func (t *Task) Registry() *Registry { return t.lane.reg }

// Pool returns the name of the pool that the task is on, "" if it is on the registry
// itself.
func (t *Task) Pool() string { return t.lane.poolName() }

// Times returns when the task was submitted, started for the first time, and ended,
// as [Info] has them: zero if that has not happened.
func (t *Task) Times() (submitted, started, finished time.Time) { return t.times(t.state.Load()) }

func (t *Task) times(s uint32) (submitted, started, finished time.Time) {
	since := t.lane.reg.time
	if t.submitted != 0 {
		submitted = since(t.submitted)
	}
	if s&begun != 0 {
		started = since(t.started)
		if t.submitted == 0 {
			submitted = started
		}
	}
	if State(s & stateMask).Final() {
		finished = since(t.ended)
	}
	return submitted, started, finished
}

// Attempt returns which attempt the task is in, or has ended in, 1 for the first; 0 if
// it has not started. Between two attempts it is the one to come.
func (t *Task) Attempt() int { return t.attempt(t.state.Load()) }

func (t *Task) attempt(s uint32) int {
	if s&begun == 0 {
		return 0
	}
	if retry := t.options().retry; retry != nil {
		return retry.attempt()
	}
	return 1
}

// String returns the task's name and state. It leaves the ID out, which is a key
// to the task.
func (t *Task) String() string { return t.kind.name + " (" + t.State().String() + ")" }

// State returns the task's state at this instant.
func (t *Task) State() State { return State(t.state.Load() & stateMask) }

// Done returns a channel that is closed when the task has ended: its state is
// final, its body has returned, and the observer has been told.
func (t *Task) Done() <-chan struct{} {
	t.mark(waited)
	return t.over()
}

// over is Done for those who do not care about the outcome.
func (t *Task) over() <-chan struct{} {
	m := t.extra()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done == nil {
		if t.has(released) {
			return t.lane.reg.closed
		}
		m.done = make(chan struct{})
	}
	return m.done
}

// Err returns nil until Done is closed, and after that what went wrong: nil if
// the task succeeded; what the body returned; [ErrGoexit]; a [*PanicError]; for a
// canceled or dropped task an error that wraps the cause.
func (t *Task) Err() error {
	if !t.has(released) {
		return nil
	}
	t.mark(waited)
	if m := t.more.Load(); m != nil {
		return m.err
	}
	return nil
}

// Wait waits until the task has ended and returns its Err. If ctx ends first it
// returns context.Cause(ctx), and the task goes on.
//
// A task that waits for another task of its own pool holds its worker meanwhile:
// give that wait a ctx that ends, such as the body's own.
func (t *Task) Wait(ctx context.Context) error {
	if t.has(released) {
		return t.Err()
	}
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	m := t.extra()
	m.waiters.Add(1)
	defer m.waiters.Add(-1)
	select {
	case <-t.over():
	case <-ctx.Done():
		if !t.has(released) {
			return context.Cause(ctx)
		}
	}
	return t.Err()
}

// Watch yields the task's Info as it is now, and again whenever its state, its
// attempt or its progress has changed, or it is stuck, until it has ended or ctx ends. The last one
// is final, unless ctx ends before the task does. Whoever is slow misses what was in
// between; the task does not wait for anybody.
//
// To watch is not to wait for the outcome: a failure is logged all the same.
func (t *Task) Watch(ctx context.Context) iter.Seq[Info] {
	return func(yield func(Info) bool) {
		if ctx == nil {
			ctx = context.Background()
		}
		var last Info
		for first := true; ; first = false {
			change := t.watched() // before Info: a change after it closes this channel
			info := t.Info()
			if info.State.Final() {
				select {
				case <-t.over(): // the observer may be busy with it still
				case <-ctx.Done():
				}
				switch {
				case t.has(released):
					yield(info)
				case first: // ctx has ended before the observer has let go of the task
					yield(info.unended(t.has(begun)))
				}
				return
			}
			if (first || info.State != last.State || info.Attempt != last.Attempt || info.Progress != last.Progress ||
				len(info.Stuck) != len(last.Stuck)) && !yield(info) {
				return
			}
			last = info
			select {
			case <-change:
			case <-t.over():
			case <-ctx.Done():
				if !t.has(released) {
					return
				}
			}
		}
	}
}

// unended is the Info of a task whose end is being told to the observer, as it was
// before that.
func (i Info) unended(started bool) Info {
	i.State, i.Err, i.Finished, i.HandedOver = Queued, nil, time.Time{}, false
	if started {
		i.State = Running
	}
	return i
}

// watched returns a channel that the next change closes.
func (t *Task) watched() <-chan struct{} {
	a := t.extra().beside()
	for {
		if c := a.watch.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		a.watch.CompareAndSwap(nil, &c)
	}
}

// changed wakes those who watch. It is called after the change, with no lock held.
func (t *Task) changed() {
	m := t.more.Load()
	if m == nil {
		return
	}
	if a := m.aside.Load(); a != nil && a.watch.Load() != nil {
		if c := a.watch.Swap(nil); c != nil {
			close(*c)
		}
	}
}

// Forget has the registry forget a finished task now, before its time among the
// retained is over: [Registry.Find] says ErrExpired from here on. It reports false
// if the task has not ended, or is forgotten already. The handle stays good.
func (t *Task) Forget() bool {
	r := t.lane.reg
	if !t.has(released) || r.finished == nil || !r.finished.Take(t) && !r.failed.Take(t) && !r.kept.Take(t) {
		return false
	}
	r.forget(t)
	return true
}

// Keep has the registry retain the task, once it has ended, apart from those that
// nobody has asked to keep, which would else push it out: the last [Config].Retain
// that are kept, each for RetainFor. It is for whoever has told somebody the task's ID.
// It reports false if the task is forgotten already.
func (t *Task) Keep() bool {
	r := t.lane.reg
	if t.state.Or(kept)&forgotten != 0 || r.finished == nil {
		return false
	}
	if !t.has(released) {
		return true // finish will find the mark, or pushedOut
	}
	if r.finished.Take(t) || r.failed.Take(t) {
		r.kept.Add(t)
	}
	return r.retains(t)
}

// attended tells whether somebody has asked for the outcome, or waits for it.
func (t *Task) attended() bool {
	m := t.more.Load()
	return t.has(waited) || m != nil && m.waiters.Load() > 0
}

// Cancel asks the task to end: a body that runs finds its context cancelled with
// this cause (nil stands for context.Canceled); a task that has not started is
// Dropped at once and will not run; one that waits for its next attempt is
// Canceled. The first cause counts. Cancel reports false if the state was final
// already. It does not wait for the body.
func (t *Task) Cancel(cause error) bool {
	if cause == nil {
		cause = context.Canceled
	}
	return t.lane.cancel(t, cause)
}

// Release starts a task that was submitted with [Hold], no earlier than its [Delay]
// says. It reports whether the task was held.
func (t *Task) Release() bool { return t.lane.unhold(t) }

// Value returns what the body of a [Submit] returned, for whoever has found the
// task by its ID. It is nil until the task has succeeded, and for the tasks of
// [Registry.Go] and [Pool.Go].
func (t *Task) Value() any {
	if !t.has(released) || t.State() != Succeeded {
		return nil
	}
	if m := t.more.Load(); m != nil && m.typed != nil {
		t.mark(waited)
		return m.typed.value()
	}
	return nil
}

// Info is a copy of everything that can be said of a task.
type Info struct {
	ID, Name string
	Pool     string // "" if it runs on the registry itself
	Parent   string // the ID of the task that submitted it, "" if none did
	State    State
	Func     string // the body's function, file and line

	// When it was submitted, started for the first time, and ended; zero if that
	// has not happened. A task that starts at once has one instant for the first two.
	Submitted, Started, Finished time.Time

	Attempt     int       // 1 in the first; 0 before
	MaxAttempts int       // of Retry; 1 without it
	LastErr     error     // of the last failed attempt, until State is final; nil if none has failed
	NextAttempt time.Time // when the next attempt is due, while the task waits for it; else zero

	Progress   Progress
	Unique     string // the key, if it was submitted with one
	Labels     map[string]string
	Err        error  // set once State is final
	Stuck      []byte // the stack of its goroutine, if it was reported as stuck, see [Config]; not to be changed
	HandedOver bool   // it never ran, and its HandOver has taken it
	Waited     bool   // somebody waits for the outcome, or has seen it: by Wait, Done, Err, Value or Result
}

// Progress is what a body says of how far it is.
type Progress struct {
	Done, Total int64 // in units of the body's choice; Total 0: unknown
	Message     string
}

// Info returns a copy of the task's particulars, all of one instant.
func (t *Task) Info() Info {
	info := Info{ID: t.ID(), Name: t.kind.name, Pool: t.lane.poolName(), Func: function(t.pc)}
	if t.options().retry != nil {
		t.lane.crew.Lock() // or it could go from one attempt to the next meanwhile
		defer t.lane.crew.Unlock()
	}
	s := t.state.Load() // then more: an outcome stands there before the state says so
	m := t.more.Load()
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
	}
	info.State = State(s & stateMask)
	info.Waited = t.attended()
	info.Submitted, info.Started, info.Finished = t.times(s)
	info.Attempt, info.MaxAttempts = t.attempt(s), 1
	if m == nil {
		return info
	}
	if a := m.aside.Load(); a != nil {
		info.Progress, info.Stuck = a.progress, a.stuck
	}
	if info.State.Final() {
		info.Err, info.HandedOver = m.err, m.opts != nil && m.opts.handed
	}
	if m.parent.lane != nil {
		info.Parent = m.parent.lane.id(m.parent.num)
	}
	if o := m.opts; o != nil {
		info.Unique, info.Labels = o.unique, o.copyLabels()
		if o.retry != nil {
			info.MaxAttempts = o.retry.attempts
			if !info.State.Final() {
				info.LastErr = o.retry.last
			}
			if info.State == Queued && s&begun != 0 {
				info.NextAttempt = t.lane.reg.time(o.retry.due)
			}
		}
	}
	return info
}

func function(pc uintptr) string {
	f := runtime.FuncForPC(pc)
	if f == nil {
		return ""
	}
	file, line := f.FileLine(pc)
	return fmt.Sprintf("%s %s:%d", f.Name(), file, line)
}

func (t *Task) has(flag uint32) bool { return t.state.Load()&flag != 0 }

func (t *Task) mark(flag uint32) {
	if !t.has(flag) {
		t.state.Or(flag)
	}
}

// extra returns what most tasks do without, made now if it has to be.
func (t *Task) extra() *more {
	if m := t.more.Load(); m != nil {
		return m
	}
	t.more.CompareAndSwap(nil, new(more))
	return t.more.Load()
}

// beside returns what is beside, made now if it has to be.
func (m *more) beside() *aside {
	if a := m.aside.Load(); a != nil {
		return a
	}
	m.aside.CompareAndSwap(nil, new(aside))
	return m.aside.Load()
}

// options returns the task's options, empty ones if it has none.
func (t *Task) options() *options {
	if m := t.more.Load(); m != nil && m.opts != nil {
		return m.opts
	}
	return &t.lane.reg.noOptions
}

// run runs one attempt of the body on this goroutine and decides what follows. It
// does its work when the body ends the goroutine as well.
func (t *Task) run() {
	end, err := Failed, ErrGoexit // what stays if the body does not return
	defer func() {
		t.ended = t.lane.Clock()
		t.lane.reg.conclude(t, end, err)
	}()
	t.changed() // it is Running
	pprof.SetGoroutineLabels(t.kind.labels)
	end, err = t.body()
}

func (t *Task) body() (end State, err error) {
	defer func() {
		if v := recover(); v != nil {
			end, err = Panicked, t.panicked("body", v)
		}
	}()
	ctx := context.Context((*taskContext)(t))
	if t.lane.reg.observers != nil {
		ctx = t.lane.reg.observeStart(t)
	}
	if t.fn != nil {
		err = t.fn(ctx)
	} else {
		err = t.more.Load().typed.run(ctx)
	}
	return t.judge(err)
}

// judge tells what state a body that has returned err is in, and what its error is.
func (t *Task) judge(err error) (State, error) {
	if err == nil {
		return Succeeded, nil
	}
	ctxErr, cause := t.cancellation()
	if cause == nil || !errors.Is(err, ctxErr) && !errors.Is(err, cause) {
		return Failed, err
	}
	if !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return Canceled, err
}

// cancellation returns the error of the task's context and its cause, nil if it
// is not cancelled.
func (t *Task) cancellation() (err, cause error) {
	m := t.more.Load()
	if m == nil {
		return nil, nil
	}
	if in := m.inner.Load(); in != nil {
		return in.Err(), context.Cause(in)
	}
	if cause = t.cause(); cause == nil {
		return nil, nil
	}
	return context.Canceled, cause
}

// cause returns the cause that the task was cancelled with by name, nil if it was not.
func (t *Task) cause() error {
	m := t.more.Load()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cause
}

// noteStuck notes that the attempt that began then is stuck, if it runs still and the
// task is not noted already. It returns the body's context as the observer made it.
func (t *Task) noteStuck(began int64, stack []byte) (ctx context.Context, first bool) {
	m := t.extra()
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.State() != Running || t.attemptBegan() != began || t.state.Or(reported)&reported != 0 {
		return nil, false
	}
	m.beside().stuck = stack
	if m.observed != nil {
		return m.observed, true
	}
	return (*taskContext)(t), true
}

// observed returns the body's context as the observer has made it, as long as the
// task has not ended.
func (t *Task) observed() context.Context {
	if m := t.more.Load(); m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.observed != nil {
			return m.observed
		}
	}
	return (*taskContext)(t)
}

// handsOver tells whether the task has a HandOver still.
func (t *Task) handsOver() bool {
	m := t.more.Load()
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opts != nil && m.opts.handOver != nil
}

// attemptBegan returns when the attempt that runs began.
func (t *Task) attemptBegan() int64 {
	if retry := t.options().retry; retry != nil {
		return max(t.started, retry.began.Load())
	}
	return t.started
}

// came returns when the task was first seen, as far as that was noted.
func (t *Task) came() int64 {
	switch {
	case t.submitted != 0:
		return t.submitted
	case t.has(begun):
		return t.started
	}
	return math.MaxInt64
}

// panicked makes the error of a panic of the body or of a callback, and logs it.
// It is called while the panic's stack is still there, and does not return if panics
// are to end the process.
func (t *Task) panicked(what string, v any) *PanicError {
	e := &PanicError{Value: v, Stack: debug.Stack(), In: what, Task: t.kind.name, ID: t.ID()}
	t.lane.reg.panicked(what, e, t.lane.poolName())
	return e
}

// guard calls a callback of the user's. A panic in it becomes an error.
func (t *Task) guard(what string, callback func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.panicked(what, v)
		}
	}()
	return callback()
}

// retry decides whether an attempt that ended so is followed by another, and after
// what wait.
func (t *Task) retry(end State, err error) (again bool, wait time.Duration, failure error) {
	retry := t.options().retry
	if retry == nil || end == Succeeded || end == Canceled || retry.attempt() >= retry.attempts {
		return false, 0, nil
	}
	if err == ErrGoexit && t.has(inlined) {
		return false, 0, nil // the goroutine that would make the next attempt is ending
	}
	if _, cause := t.cancellation(); cause != nil {
		return false, 0, nil
	}
	failure = t.guard("retry policy", func() error {
		again = end != Panicked
		if retry.policy.ShouldRetry != nil {
			again = retry.policy.ShouldRetry(err)
		}
		if again {
			wait = max(0, retry.policy.Backoff(retry.attempt(), err))
		}
		return nil
	})
	if deadline, ok := t.deadline(); ok && again {
		again = t.lane.reg.time(t.ended).Add(wait).Before(deadline) // else the next attempt would start too late
	}
	return again && failure == nil, wait, failure
}

// deadline returns when a started task's time is up.
func (t *Task) deadline() (time.Time, bool) {
	d := t.lane.reg.cfg.Timeout
	if m := t.more.Load(); m != nil && m.timeout != 0 {
		d = m.timeout
	}
	if d == 0 || !t.has(begun) {
		return time.Time{}, false
	}
	return t.lane.reg.time(t.started).Add(d), true
}

// PanicError is the outcome of a task whose body, or a callback of whose options,
// panicked.
type PanicError struct {
	Value    any    // what it panicked with
	Stack    []byte // of the goroutine, as debug.Stack gives it
	In       string // what panicked: "body", "observer", `closing "database"`, …
	Task, ID string // empty if it belongs to no task
}

func (e *PanicError) Error() string {
	if e.Task == "" {
		return fmt.Sprintf("tether: panic in %s: %v", e.In, e.Value)
	}
	return fmt.Sprintf("tether: task %q panicked: %v", e.Task, e.Value)
}

func (e *PanicError) attrs() []slog.Attr {
	return []slog.Attr{slog.String("in", e.In), slog.Any("panic", e.Value), slog.String("stack", string(e.Stack))}
}

// Unwrap returns Value if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// taskContext is the same struct as Task with the methods of a context.
//
// It answers what it can from the task's state, and makes the standard library's
// cancellation (inner) on the first call that needs one.
type taskContext Task

type taskKey struct{}

func (c *taskContext) Deadline() (time.Time, bool) { return (*Task)(c).deadline() }

func (c *taskContext) Done() <-chan struct{} { return (*Task)(c).inner().Done() }

func (c *taskContext) Err() error {
	t := (*Task)(c)
	if t.more.Load() == nil && t.lane.reg.cfg.Timeout == 0 {
		if t.has(released) {
			return context.Canceled
		}
		return nil // nobody has cancelled it: a cause would be in more
	}
	return t.inner().Err()
}

func (c *taskContext) Value(key any) any {
	t := (*Task)(c)
	if key == (taskKey{}) {
		return t
	}
	if own := t.lane.reg.cancelKey; key == own || own == nil {
		// The library's own key to the cancellation: the submitter's context would answer
		// it with the submitter's.
		if v := t.inner().Value(key); v != nil {
			return v
		}
	}
	if v := t.kind.labels.Value(key); v != nil {
		return v // so that pprof.Do in a body adds to the task's labels
	}
	values, from := t.heritage()
	if values != nil {
		if v := values.Value(key); v != nil {
			return v
		}
	}
	// Who lives was asked by those below, if none of them has ended.
	for asked := true; from != nil; from = from.up {
		if !from.of.has(released) {
			if asked {
				return nil
			}
			if v := (*taskContext)(from.of).Value(key); v != nil {
				return v
			}
			if !from.of.has(released) {
				return nil
			}
		}
		if asked = from.values != nil; asked {
			if v := from.values.Value(key); v != nil {
				return v
			}
		}
	}
	return nil
}

// heritage returns the values that a task has from its submitter, and from those
// before it. It has them until it is released.
func (t *Task) heritage() (values context.Context, inherited *lineage) {
	m := t.extra()
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.has(released) {
		return nil, nil
	}
	return t.values, m.inherited
}

// cancelKey returns the key by which the context package asks a context for its
// cancellation, nil if it does not ask so (any more).
func cancelKey() any {
	var seen askedFor
	context.Cause(&seen)
	return seen.key
}

// askedFor is a context that notes the last key.
type askedFor struct{ key any }

func (*askedFor) Deadline() (deadline time.Time, ok bool) { return }
func (*askedFor) Done() <-chan struct{}                   { return nil }
func (*askedFor) Err() error                              { return context.Canceled } // else there is no cause to ask for
func (c *askedFor) Value(key any) any                     { c.key = key; return nil }

// String keeps fmt from reading the struct, which others change meanwhile.
func (c *taskContext) String() string { return "tether.Context(" + c.kind.name + ")" }

// inner returns the context's cancellation, made now if it has to be.
func (t *Task) inner() *inner {
	m := t.extra()
	if in := m.inner.Load(); in != nil {
		if t.has(released) {
			in.cancel(nil) // release is about to; this one knows of the end already
		}
		return in
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.inner.Load(); in != nil {
		return in
	}
	in := new(inner)
	base, stop := context.Background(), context.CancelFunc(nil)
	ended := t.has(released)
	if deadline, ok := t.deadline(); ok && !ended {
		base, stop = context.WithDeadlineCause(base, deadline, ErrTimeout)
	}
	ctx, cancel := context.WithCancelCause(base)
	in.Context, in.cancel = ctx, cancel
	if stop != nil {
		in.cancel = func(cause error) {
			cancel(cause)
			stop()
		}
	}
	switch {
	case m.cause != nil:
		in.cancel(m.cause)
	case ended:
		in.cancel(nil)
	}
	m.inner.Store(in)
	return in
}

// bequeath gives a task that is submitted with ctx, which is t's or derived from
// it, its values. They outlive t.
//
// A chain of tasks, each of which submits the next, grows no chain of values unless
// the bodies derive contexts. What the observer derives for each of them does not
// count: of that, only the newest is kept.
func (t *Task) bequeath(ctx context.Context, to *more) (values context.Context) {
	values, inherited := t.heritage()
	if _, own := ctx.(*taskContext); own {
		to.inherited = inherited
		if values == nil {
			return context.Background()
		}
		return values
	}
	m := t.more.Load()
	m.mu.Lock()
	observed := m.observed
	m.mu.Unlock()
	// A context may be of a type that cannot be compared.
	to.fromObserver = reflect.ValueOf(ctx).Comparable() && ctx == observed
	if to.fromObserver && m.fromObserver {
		for inherited != nil && inherited.values == nil && inherited.of.has(released) {
			inherited = inherited.up // or a chain of tasks would grow
		}
		to.inherited = &lineage{t, nil, inherited}
	} else {
		to.inherited = &lineage{t, values, inherited}
	}
	return ctx
}

// interrupt notes why the task is to end, and cancels its context. The first cause
// counts.
func (t *Task) interrupt(cause error) {
	m := t.extra()
	m.mu.Lock()
	if m.cause == nil {
		m.cause = cause
	}
	cause = m.cause // the first
	in := m.inner.Load()
	m.mu.Unlock()
	if in != nil {
		in.cancel(cause)
	}
}

// release lets the outcome be seen and lets go of everything else.
func (t *Task) release() {
	m := t.more.Load()
	if m == nil {
		t.reveal()
		// Who makes more from here on finds released, and leaves values alone.
		if m = t.more.Load(); m == nil {
			t.fn, t.values = nil, nil
			return
		}
		m.mu.Lock()
	} else {
		m.mu.Lock()
		if in := m.inner.Load(); in != nil {
			in.cancel(nil) // before anybody can know of the end
		}
		t.reveal()
	}
	defer m.mu.Unlock()
	t.fn, t.values = nil, nil
	m.observed, m.inherited = nil, nil
	if in := m.inner.Load(); in != nil {
		in.cancel(nil)
	}
	if m.opts != nil {
		m.opts.letGo()
	}
	if m.typed != nil {
		m.typed.letGo()
	}
	if m.done != nil {
		close(m.done)
	}
}

// reveal makes the state final and sets released.
func (t *Task) reveal() {
	s := t.state.Load()
	if State(s & stateMask).Final() {
		t.state.Or(released) // the observer has seen the outcome already
		return
	}
	// Nobody else changes the state of a task that has run or is claimed, and nobody
	// else adds this flag: one addition changes both.
	t.state.Add(uint32(t.end) - s&stateMask + released)
}

// FromContext returns the task whose body was given ctx, or a context derived
// from it.
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

// ReportProgress sets the Progress of the task whose body was given ctx. Without
// a task it does nothing.
func ReportProgress(ctx context.Context, p Progress) {
	t, ok := FromContext(ctx)
	if !ok {
		return
	}
	m := t.extra()
	m.mu.Lock()
	if !t.has(released) { // a finished task changes no more
		m.beside().progress = p
	}
	m.mu.Unlock()
	t.changed()
}

// StoppingFrom returns a channel that is closed when [Registry.Shutdown] begins: a
// long body had better finish soon now, or save its place. It is not cancelled
// yet. Without a task the channel is nil.
func StoppingFrom(ctx context.Context) <-chan struct{} {
	if t, ok := FromContext(ctx); ok {
		return t.lane.reg.drain.stopping
	}
	return nil
}

// A Submitter takes tasks: it is a *[Registry] or a *[Pool].
type Submitter interface {
	Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error)

	submitter() (*Registry, *Pool) // the pool is nil for a registry
}

func (r *Registry) submitter() (*Registry, *Pool) { return r, nil }
func (p *Pool) submitter() (*Registry, *Pool)     { return p.reg, p }

// Result is the handle of a task that returns a T.
type Result[T any] struct{ *Task }

// Submit is Go for a body that returns a value.
func Submit[T any](ctx context.Context, to Submitter, name string, fn func(context.Context) (T, error), opts ...Option) (*Result[T], error) {
	if to == nil {
		return nil, fmt.Errorf("%w: nil Submitter", ErrInvalid)
	}
	s := &submission[T]{fn: fn}
	r, p := to.submitter()
	t, err := r.submit(ctx, p, name, nil, s, opts)
	switch {
	case err != nil:
		return nil, err
	case t != &s.task:
		return &Result[T]{t}, nil // s goes, and with it fn
	}
	s.handle.Task = t
	return &s.handle, nil
}

// Value waits as Wait does and returns what the body returned. With [Unique] the
// task may be another submission's: if that one returned something else than a T,
// Value returns an error.
func (r *Result[T]) Value(ctx context.Context) (T, error) {
	var zero T
	if err := r.Wait(ctx); err != nil {
		return zero, err
	}
	if m := r.more.Load(); m != nil { // or a Unique one's that was submitted by Go
		if s, ok := m.typed.(*submission[T]); ok {
			if s.has {
				return s.v, nil
			}
			return zero, fmt.Errorf("tether: task %q has no value", r.Name())
		}
	}
	return zero, fmt.Errorf("tether: task %q returned %T, not %T", r.Name(), r.Task.Value(), zero)
}

// typed is a *submission[T].
type typed interface {
	room() (*Task, *more)
	pc() uintptr // of the body; 0 if that is nil
	run(ctx context.Context) error
	value() any
	letGo()
}

// submission is what a Submit makes: the task, what it is certain to need, the body,
// and room for its result, in one allocation.
type submission[T any] struct {
	task   Task
	more   more
	fn     func(context.Context) (T, error)
	v      T    // written by the body, read once the task is released
	has    bool // it was written
	handle Result[T]
}

func (s *submission[T]) room() (*Task, *more) { return &s.task, &s.more }
func (s *submission[T]) pc() uintptr          { return reflect.ValueOf(s.fn).Pointer() }
func (s *submission[T]) letGo()               { s.fn = nil }

func (s *submission[T]) value() any {
	if !s.has {
		return nil
	}
	return s.v
}

func (s *submission[T]) run(ctx context.Context) error {
	v, err := s.fn(ctx)
	if err == nil {
		s.v, s.has = v, true
	}
	return err
}

// Errors to compare with errors.Is.
var (
	ErrClosed   = errors.New("tether: shutting down: no new tasks, except those that a running task submits with its own context")
	ErrFull     = errors.New("tether: full")
	ErrInvalid  = errors.New("tether: invalid task")
	ErrShutdown = errors.New("tether: canceled by the shutdown")
	ErrGoexit   = errors.New("tether: the function ended its goroutine (runtime.Goexit)")
	ErrNotFound = errors.New("tether: no such task")
	ErrExpired  = errors.New("tether: the task has ended and is forgotten")

	// ErrTimeout is a context.DeadlineExceeded too.
	ErrTimeout error = timeoutError{}
)

type timeoutError struct{}

func (timeoutError) Error() string { return "tether: the task's time is up" }
func (timeoutError) Timeout() bool { return true }
func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// FullError says what was full when a task was refused. It is an [ErrFull]. Refusals
// may share one: it is not to be changed.
type FullError struct {
	Pool            string        // "" if it was the registry's Limit
	Running, Queued int           // tasks that were live then; for the Limit, Running is all of them
	Limit           int           // how many there may be
	RetryAfter      time.Duration // an estimate of when a place will be free
}

func (e *FullError) Error() string {
	where := "the registry"
	if e.Pool != "" {
		where = fmt.Sprintf("pool %q", e.Pool)
	}
	return fmt.Sprintf("tether: %s is full: %d running, %d waiting, limit %d", where, e.Running, e.Queued, e.Limit)
}

func (e *FullError) Is(target error) bool { return target == ErrFull }
