package tether

import (
	"context"
	"fmt"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/namecache"
	"github.com/seed-2e639f12/tether/internal/table"
)

// Func is the body of a task.
//
// Its context has the values of the context that the task was submitted with, but
// neither its cancellation nor its deadline. It is canceled by [Task.Cancel], by
// [Timeout], late in [Registry.Shutdown], and when the task has ended;
// [context.Cause] returns which. Once the task has ended, the context drops the
// submitter's values too.
//
// A panic of the body, or its runtime.Goexit, is the outcome of the task. A panic in a
// goroutine that the body starts ends the process, as everywhere in Go; [Registry.Go] with
// the body's context starts one that is contained. A fatal error of the runtime, such as
// concurrent map writes, ends the process too: nothing contains it.
//
// The goroutine that runs a body has run other bodies before: a body must not leave it
// locked to its thread (runtime.LockOSThread). Its profiler labels "tether.task" and
// "tether.pool" name the task.
type Func func(ctx context.Context) error

// CheckName returns an error that wraps [ErrInvalid] if name is not valid for a task or
// a pool. A valid name has 1 to 128 bytes of printable UTF-8.
func CheckName(name string) error {
	if err := namecache.Check(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// A Task is the handle of one submission. Its methods are safe for concurrent use,
// including from its own body.
type Task struct {
	// The Task is also the registry's entry, the element of the queue and the body's
	// context, so that a task is one allocation. What few tasks need is in taskExtra.

	next  *node  // the next one in the inbox or the order; see internal/workers
	depth uint16 // see internal/workers

	// end is how the last attempt ended: a final state, or Queued if another one
	// follows. It is written by the goroutine that runs or ends the task, and read by
	// others under the queue's lock, or once the task is done.
	end State

	stateWord

	queue *queue // where it is numbered, queued and run
	kind  *kind  // what it shares with the tasks of its name
	slot  table.Slot[Task]
	pc    uintptr // of the body's function, since fn is dropped at the end

	fn     Func            // nil for a Submit, whose body is taskExtra.typed; dropped at the end
	values context.Context // the submitter's context; dropped at the end. See context.go

	// Nanoseconds since the registry was made. submitted is 0 for a task that starts at
	// once. started is written before the flag begun is set, ended before the state is
	// final; between attempts it is the end of the last one. As long as the task is queued,
	// ended is when that began, 0 if that is submitted.
	submitted, started, ended int64

	extra atomic.Pointer[taskExtra]
}

// taskExtra is the part of a Task that many tasks do without. It is made when the
// first of its fields is needed.
type taskExtra struct {
	mu sync.Mutex

	doneChan chan struct{}                 // made by Done, closed by finish; guarded by mu
	changed  atomic.Pointer[chan struct{}] // made by Watch, taken and closed by notifyWatchers
	err      error                         // of the outcome; written before the state is final
	waiters  atomic.Int32                  // calls of Wait that wait

	cause    error                       // of the first cancellation; guarded by mu
	cancel   atomic.Pointer[cancelState] // of the body's context; written under mu
	observed context.Context             // what the observer derived from the body's context; guarded by mu

	// See context.go, Values. Guarded by mu, which is locked before that of the task held.
	holds     *Task           // whose values are needed by values; nil if none are
	base      context.Context // what values fall back to at the end; nil if they do not
	baseHolds *Task           // whose values are needed by base
	children  int32           // tasks that hold this one

	stuckMissed bool // its goroutine was not found by the last round of the stuckDetector; used by the rounds alone
	inline      bool // its submitter runs it: it has no place in the pool; written before the task is published
	handedOver  bool // its HandOver returned nil; written before the end is recorded

	progress *Progress // made by ReportProgress; guarded by mu
	stuck    *[]byte   // the stack with which it was reported as stuck; nil if it was not; guarded by mu

	// Written before the task is published.
	parent    *queue        // of the task that submitted it; nil if none did
	parentNum uint64        // of that task
	options   *options      // nil without options other than Timeout
	timeout   time.Duration // 0 means the registry's
	typed     typed         // of a Submit: its body, and its value at the end; guarded by mu from the end on
}

// ID returns the task's identifier: 22 letters, digits, '-' and '_'. It cannot be
// guessed and reveals nothing about the task. [Registry.Find] takes it.
func (t *Task) ID() string { return t.queue.id(t.slot.Number()) }

// Name returns the name that the task was submitted with.
func (t *Task) Name() string { return t.kind.name }

// Registry returns the registry that the task was submitted to.
func (t *Task) Registry() *Registry { return t.queue.reg }

// Pool returns the name of the task's pool. It is empty if the task was submitted to
// the registry.
func (t *Task) Pool() string { return t.queue.poolName() }

// State returns the task's state at this instant.
func (t *Task) State() State { return t.state() }

// String returns the task's name and state. It omits the ID, which gives access to the
// task.
func (t *Task) String() string { return t.kind.name + " (" + t.State().String() + ")" }

// Times returns when the task was submitted, started for the first time, and ended, as
// [Info] has them: zero if that has not happened.
func (t *Task) Times() (submitted, started, finished time.Time) { return t.times(t.load()) }

func (t *Task) times(word uint32) (submitted, started, finished time.Time) {
	since := t.queue.reg.time
	if t.submitted != 0 {
		submitted = since(t.submitted)
	}
	if word&begun != 0 {
		started = since(t.started)
		if t.submitted == 0 {
			submitted = started
		}
	}
	if State(word & stateMask).Final() {
		finished = since(t.ended)
	}
	return submitted, started, finished
}

// queuedAt returns since when a task that is queued on a pool waits for a worker. The queue's
// lock must be held.
func (t *Task) queuedAt() int64 {
	if t.ended != 0 {
		return t.ended
	}
	return t.submitted
}

// firstSeen returns the submission time, or the start time of a task that started at
// once; MaxInt64 if neither is known.
func (t *Task) firstSeen() int64 {
	switch {
	case t.submitted != 0:
		return t.submitted
	case t.has(begun):
		return t.started
	}
	return math.MaxInt64
}

// Attempt returns the number of the attempt that the task is in, or has ended in: 1 for
// the first, 0 if it has not started. Between two attempts it is the number of the next.
func (t *Task) Attempt() int { return t.attempt(t.load()) }

func (t *Task) attempt(word uint32) int {
	if word&begun == 0 {
		return 0
	}
	if retry := t.opts().retry; retry != nil {
		return retry.attempt()
	}
	return 1
}

// attemptBegan returns when the attempt that runs began.
func (t *Task) attemptBegan() int64 {
	if retry := t.opts().retry; retry != nil {
		return max(t.started, retry.began.Load())
	}
	return t.started
}

// Done returns a channel that is closed when the task has ended: its state is final,
// its body has returned, and the observer has been notified. Like Wait, Done marks the
// outcome as awaited: a failure is the caller's to handle, and is not logged. [Task.Watch]
// does not.
func (t *Task) Done() <-chan struct{} {
	t.mark(awaited)
	return t.doneChan()
}

// doneChan is Done without marking the outcome as awaited.
func (t *Task) doneChan() <-chan struct{} {
	x := t.getExtra()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.doneChan == nil {
		if t.has(done) {
			return t.queue.reg.closed
		}
		x.doneChan = make(chan struct{})
	}
	return x.doneChan
}

// Err returns nil until Done is closed, and the task's error after that: nil if the task
// succeeded, what the body returned, [ErrGoexit], a [*PanicError], or, for a canceled or
// dropped task, an error that wraps the cause.
func (t *Task) Err() error {
	if !t.has(done) {
		return nil
	}
	t.mark(awaited)
	if x := t.extra.Load(); x != nil {
		return x.err
	}
	return nil
}

// Wait waits until the task has ended and returns its Err. If ctx is done first, Wait
// returns context.Cause(ctx), and the task goes on.
//
// A task that waits for another task of its own pool occupies its worker meanwhile, so
// that ctx must be one that is done at some time, such as the body's own.
func (t *Task) Wait(ctx context.Context) error {
	if t.has(done) {
		return t.Err()
	}
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	x := t.getExtra()
	x.waiters.Add(1)
	defer x.waiters.Add(-1)
	select {
	case <-t.doneChan():
	case <-ctx.Done():
		if !t.has(done) {
			return context.Cause(ctx)
		}
	}
	return t.Err()
}

// isAwaited reports whether the outcome was asked for, or a Wait is under way.
func (t *Task) isAwaited() bool {
	x := t.extra.Load()
	return t.has(awaited) || x != nil && x.waiters.Load() > 0
}

// Watch yields the task's Info as it is now, and again whenever its state, its attempt
// or its progress has changed, or it was reported as stuck, until the task has ended or
// ctx is done. The last Info is final, unless ctx is done before the task is. A slow
// consumer misses the changes in between; the task does not wait for it.
//
// Watch does not mark the outcome as awaited: a failure is logged.
func (t *Task) Watch(ctx context.Context) iter.Seq[Info] {
	return func(yield func(Info) bool) {
		if ctx == nil {
			ctx = context.Background()
		}
		var last Info
		for first := true; ; first = false {
			change := t.nextChange() // before Info: a change after it closes this channel
			info := t.Info()
			if info.State.Final() {
				select {
				case <-t.doneChan(): // the observer may not have returned
				case <-ctx.Done():
				}
				switch {
				case t.has(done):
					yield(info)
				case first: // ctx is done before the observer has returned
					yield(info.beforeEnd(t.has(begun)))
				}
				return
			}
			if (first || info.differs(last)) && !yield(info) {
				return
			}
			last = info
			select {
			case <-change:
			case <-t.doneChan():
			case <-ctx.Done():
				if !t.has(done) {
					return
				}
			}
		}
	}
}

// nextChange returns a channel that the next change closes.
func (t *Task) nextChange() <-chan struct{} {
	x := t.getExtra()
	for {
		if c := x.changed.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		x.changed.CompareAndSwap(nil, &c)
	}
}

// notifyWatchers wakes the calls of Watch. It is called after the change, with no lock
// held.
func (t *Task) notifyWatchers() {
	x := t.extra.Load()
	if x == nil || x.changed.Load() == nil {
		return
	}
	if c := x.changed.Swap(nil); c != nil {
		close(*c)
	}
}

// Cancel asks the task to end. The context of a running body is canceled with the given
// cause; nil means context.Canceled. A task that has not started is Dropped at once and
// never runs. A task between two attempts is Canceled. The first cause counts. Cancel
// reports false if the state was final already. It does not wait for the body.
func (t *Task) Cancel(cause error) bool {
	if cause == nil {
		cause = context.Canceled
	}
	return t.queue.cancel(t, cause)
}

// Release starts a task that was submitted with [Hold], but no earlier than its [Delay]
// says. It reports whether the task was held.
func (t *Task) Release() bool { return t.queue.release(t) }

// Keep protects the task from eviction by tasks that were not kept, once it has ended:
// the registry retains the last [Config].Retain kept tasks (1024 if Retain is negative),
// each for RetainFor. Before the task has ended, it also keeps the value of a [Submit]
// reachable by [Task.Value]; after that, only [Result.Keep] does. Call it when a client has
// been given the ID. It reports false if the task is not retained any more.
func (t *Task) Keep() bool { return t.queue.reg.history.pin(t) }

// Forget makes the registry forget a finished task before its time: from then on,
// [Registry.Find] returns ErrExpired. It reports false if the task has not ended, or is
// forgotten already. The handle stays valid.
func (t *Task) Forget() bool { return t.has(done) && t.queue.reg.history.drop(t) }

// Value returns what the body of a [Submit] returned, for a program that has found the
// task by its ID. It is nil until the task has succeeded, for a task of [Registry.Go] or
// [Pool.Go], and for a finished task that was not marked with Keep: see [Result].
func (t *Task) Value() any {
	x := t.extra.Load()
	if x == nil || !t.has(done) || t.State() != Succeeded {
		return nil
	}
	t.mark(awaited)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.typed == nil {
		return nil
	}
	return x.typed.value()
}

// getExtra returns the task's extra, and makes it if there is none.
func (t *Task) getExtra() *taskExtra {
	if x := t.extra.Load(); x != nil {
		return x
	}
	t.extra.CompareAndSwap(nil, new(taskExtra))
	return t.extra.Load()
}

// opts returns the task's options, empty ones if it has none.
func (t *Task) opts() *options {
	if x := t.extra.Load(); x != nil && x.options != nil {
		return x.options
	}
	return &t.queue.reg.noOptions
}

// startOptions returns those of the task's options that decide when it starts, empty ones if it
// has none.
func (t *Task) startOptions() *startOptions {
	if start := t.opts().start; start != nil {
		return start
	}
	return &t.queue.reg.noStart
}
