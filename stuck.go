package tether

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/stacks"
	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// stuckDetector finds the tasks that are stuck, in rounds: one at a time, by a timer that
// is set as long as a task runs that was not reported.
type stuckDetector struct {
	armed atomic.Bool                // the timer is set, or a round is under way: no other goroutine sets it
	round atomic.Pointer[stuckRound] // the one that is under way; nil if none is

	mu    sync.Mutex
	timer *time.Timer // guarded by mu, as the next two are
	due   int64       // no later than this is the next round to begin; MaxInt64 if there is no need for one
	rest  int64       // no earlier than this

	inside atomic.Bool // the timer is of a bubble of testing/synctest, and the registry is not; written with mu held
}

type stuckRound struct {
	done    chan struct{}
	reports atomic.Bool // it calls the log handler and the observer, which may be slow
}

// stuckTask is a task of which an attempt is stuck.
type stuckTask struct {
	task  *Task
	began int64 // the attempt
	stack []byte
	ctx   context.Context // the body's, as the observers derived it
}

// stuckAfter returns how long an attempt of the task may run; 0 means that there is no
// bound.
func (t *Task) stuckAfter() time.Duration {
	if own := t.opts().stuckAfter; own != 0 {
		return max(own, 0)
	}
	return t.queue.reg.cfg.StuckAfter
}

func (d *stuckDetector) init() { d.due, d.rest = math.MaxInt64, math.MinInt64 }

// arm makes sure that an attempt that has begun is reported if it gets stuck. It is called
// once the state says that the task runs.
func (d *stuckDetector) arm(t *Task) {
	r, limit := t.queue.reg, t.stuckAfter()
	switch began := t.attemptBegan(); {
	case limit == 0:
	case began < 0 || d.inside.Load():
		d.armElsewhere(r, limit)
	case !d.armed.Load() && d.armed.CompareAndSwap(false, true):
		d.setTimer(r, limit)
	case limit != r.cfg.StuckAfter:
		d.hurry(r, limit) // the timer is set for tasks that have more time, perhaps
	}
}

// armElsewhere is arm in a bubble, if the registry was made outside, and after one: the timer
// may be of a bubble that has ended, and never ring.
func (d *stuckDetector) armElsewhere(r *Registry, limit time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := r.now()
	inside, due := now < 0, later(now, limit)
	if inside == d.inside.Load() { // outside, another goroutine was faster
		if d.armed.Load() && d.round.Load() != nil {
			return // it looks again at its end
		}
		due = min(due, d.due)
	}
	if d.timer != nil && (inside || !d.inside.Load()) { // one of a bubble must not be stopped outside
		d.timer.Stop()
	}
	d.armed.Store(true)
	d.inside.Store(inside)
	d.due, d.rest = due, math.MinInt64
	d.timer = weaktimer.AfterFunc(time.Duration(due-now), r, (*Registry).findStuck)
}

// setTimer makes the next round begin then, or when hurry has asked for one. It is called
// by the goroutine that has set armed, or runs the round.
func (d *stuckDetector) setTimer(r *Registry, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := r.now()
	d.due = max(min(d.due, later(now, after)), d.rest)
	d.timer = weaktimer.AfterFunc(time.Duration(d.due-now), r, (*Registry).findStuck)
}

// hurry makes the next round begin no later than after.
func (d *stuckDetector) hurry(r *Registry, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := r.now()
	due := max(later(now, after), d.rest)
	if due >= d.due {
		return
	}
	d.due = due
	if d.timer != nil && d.timer.Stop() { // otherwise setTimer is about to be called
		d.timer.Reset(time.Duration(due - now))
	}
}

// begin is the beginning of a round.
func (d *stuckDetector) begin(round *stuckRound) {
	d.mu.Lock()
	d.due = math.MaxInt64 // what hurries from here on, or has just now, is found by nextOverdue
	d.mu.Unlock()
	d.round.Store(round)
}

// settle is the end of a round that took so long. To look at many tasks is expensive, and
// a dump stops the world: rounds take at most a sixteenth of the time.
func (d *stuckDetector) settle(r *Registry, took time.Duration) {
	d.mu.Lock()
	d.rest = later(r.now(), max(time.Millisecond, 16*took))
	d.mu.Unlock()
	if next, runs := r.nextOverdue(); runs {
		d.setTimer(r, next)
		return
	}
	// An attempt that begins from here on sets the timer. One that has begun since
	// nextOverdue looked has found it set, so look again.
	d.mu.Lock()
	d.due = math.MaxInt64
	d.mu.Unlock()
	d.armed.Store(false)
	if next, runs := r.nextOverdue(); runs && d.armed.CompareAndSwap(false, true) {
		d.setTimer(r, next)
	}
}

// stop ends the rounds when no task runs any more. It waits for a round that is under
// way, and reports false if ctx is done before the round's reports are.
func (d *stuckDetector) stop(ctx context.Context, now int64) bool {
	d.mu.Lock()
	if d.timer != nil && (now < 0 || !d.inside.Load()) {
		d.timer.Stop()
	}
	d.mu.Unlock()
	round := d.round.Load()
	if round == nil {
		return true
	}
	select {
	case <-round.done:
		return true
	case <-ctx.Done():
	}
	if round.reports.Load() {
		select {
		case <-round.done:
		default:
			return false
		}
	}
	<-round.done // it has nothing to report
	return true
}

// findStuck is a round: it reports the tasks that are overdue, and sets the timer again as
// long as any other task runs.
func (r *Registry) findStuck() {
	d, round := &r.stuck, &stuckRound{done: make(chan struct{})}
	d.begin(round)
	began, took := time.Now(), time.Duration(0)
	defer func() { // also if the observer or the log handler has ended this goroutine
		defer func() {
			d.round.CompareAndSwap(round, nil) // the next one may have begun
			close(round.done)
		}()
		d.settle(r, took)
	}()
	late := r.overdue()
	if len(late) == 0 {
		return
	}
	found := findStacks(late)
	took = time.Since(began)
	round.reports.Store(len(found) > 0)
	r.reportStuck(found)
}

// Stack returns the stack of the goroutine that runs the task's body now, with the frames
// of this package below it, or nil if no goroutine runs it. It stops all goroutines of
// the process for some milliseconds; in a process with more than 2000 goroutines it stops
// none, and returns the stacks of all tasks of the name. It is for diagnosis on demand:
// [Config].StuckAfter reports tasks that run too long without being asked.
func (t *Task) Stack() []byte {
	if t.State() != Running {
		return nil
	}
	return takeStacks().Of(fmt.Sprintf("%p", t), t.kind.name)
}

// takeStacks returns the stacks of the goroutines that run bodies.
func takeStacks() stacks.Dump {
	return stacks.Take(reflect.TypeFor[Task]().PkgPath()+".(*Task).runAttempt", labelTask)
}

// findStacks returns the tasks to report, with their stacks.
func findStacks(late []stuckTask) (found []stuckTask) {
	dump := takeStacks()
	for _, s := range late {
		s.stack = dump.Of(fmt.Sprintf("%p", s.task), s.task.kind.name)
		if s.stack == nil {
			if x := s.task.getExtra(); !x.stuckMissed {
				x.stuckMissed = true // not there yet, or not any more: the next round knows
				continue
			}
			s.stack = []byte("its goroutine was not found\n")
		}
		if s.ctx = s.task.markStuck(s.began, s.stack); s.ctx != nil {
			found = append(found, s)
		}
	}
	return found
}

// markStuck records the stack for the attempt that began at began, and returns the body's
// context. It returns nil if that attempt has ended or the task was reported already.
func (t *Task) markStuck(began int64, stack []byte) context.Context {
	x := t.getExtra()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stuck != nil || t.State() != Running || t.attemptBegan() != began {
		return nil
	}
	x.stuck = &stack
	if x.observed != nil {
		return x.observed
	}
	return (*taskContext)(t)
}

func (t *Task) wasReportedStuck() bool {
	x := t.extra.Load()
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stuck != nil
}

// overdue returns the tasks that run for longer than they may.
func (r *Registry) overdue() (late []stuckTask) {
	now := r.now()
	for t := range r.unreported() {
		if began := t.attemptBegan(); now-began >= int64(t.stuckAfter()) {
			late = append(late, stuckTask{task: t, began: began})
		}
	}
	return late
}

// nextOverdue returns how long it is until a round is due, and whether a task runs that
// may become overdue. A round is not due sooner than a sixteenth of a task's time from
// now, so that one round finds many tasks.
func (r *Registry) nextOverdue() (next time.Duration, runs bool) {
	now := r.now()
	next = math.MaxInt64
	for t := range r.unreported() {
		limit := t.stuckAfter()
		next, runs = min(next, max(limit-time.Duration(now-t.attemptBegan()), limit/16)), true
	}
	return next, runs
}

// unreported returns the tasks that run, may become overdue, and were not reported as
// stuck.
func (r *Registry) unreported() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range r.Tasks() {
			if t.State() == Running && t.stuckAfter() > 0 && !t.wasReportedStuck() && !yield(t) {
				return
			}
		}
	}
}

// reportStuck notifies the log and the observer of each task. If one of them ends the
// goroutine, it goes on with the next task.
func (r *Registry) reportStuck(found []stuckTask) {
	defer func() {
		if len(found) > 0 {
			r.reportStuck(found)
		}
	}()
	for len(found) > 0 {
		s := found[0]
		found = found[1:]
		s.task.notifyWatchers()
		s.task.logWith(s.ctx, slog.LevelWarn, "task stuck",
			slog.Duration("running", time.Duration(r.now()-s.began)), slog.String("stack", string(s.stack)))
		if r.observers != nil {
			r.observers.TaskStuck(s.ctx, s.task, s.stack)
		}
	}
}
