package tether

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
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
	armed atomic.Bool // the timer is set, or a round is under way: no other goroutine sets it
	mu    sync.Mutex
	timer *time.Timer                // guarded by mu
	round atomic.Pointer[stuckRound] // the one that is under way; nil if none is
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

// arm makes sure that an attempt that has begun is reported if it gets stuck. It is called
// once the state says that the task runs.
func (d *stuckDetector) arm(r *Registry) {
	if r.cfg.StuckAfter > 0 && !d.armed.Load() && d.armed.CompareAndSwap(false, true) {
		d.setTimer(r, r.cfg.StuckAfter)
	}
}

func (d *stuckDetector) setTimer(r *Registry, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = weaktimer.AfterFunc(after, r, (*Registry).findStuck)
}

// stop ends the rounds when no task runs any more. It waits for a round that is under
// way, and reports false if ctx is done before the round's reports are.
func (d *stuckDetector) stop(ctx context.Context) bool {
	d.mu.Lock()
	if d.timer != nil {
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
	d.round.Store(round)
	began, took := time.Now(), time.Duration(0)
	defer func() { // also if the observer or the log handler has ended this goroutine
		defer func() {
			d.round.CompareAndSwap(round, nil) // the next one may have begun
			close(round.done)
		}()
		// To look at many tasks is expensive, and a dump stops the world: rounds take at most
		// a sixteenth of the time.
		pause := max(r.cfg.StuckAfter/16, time.Millisecond, 16*took)
		if next, runs := r.nextOverdue(); runs {
			d.setTimer(r, max(next, pause))
			return
		}
		// An attempt that begins from here on sets the timer. One that has begun since
		// nextOverdue looked has found it set, so look again.
		d.armed.Store(false)
		if next, runs := r.nextOverdue(); runs && d.armed.CompareAndSwap(false, true) {
			d.setTimer(r, max(next, pause))
		}
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
// none, and returns the stacks of all tasks of the name. It is for a person who asks where
// a task is: see [Config].StuckAfter for a report without asking.
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

// overdue returns the tasks that run for longer than StuckAfter.
func (r *Registry) overdue() (late []stuckTask) {
	now := r.now()
	for t := range r.unreported() {
		if began := t.attemptBegan(); now-began >= int64(r.cfg.StuckAfter) {
			late = append(late, stuckTask{task: t, began: began})
		}
	}
	return late
}

// nextOverdue returns how long it is until a task may be overdue, and whether one runs at
// all.
func (r *Registry) nextOverdue() (next time.Duration, runs bool) {
	now := r.now()
	next = r.cfg.StuckAfter
	for t := range r.unreported() {
		next, runs = min(next, r.cfg.StuckAfter-time.Duration(now-t.attemptBegan())), true
	}
	return next, runs
}

// unreported returns the tasks that run and were not reported as stuck.
func (r *Registry) unreported() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range r.Tasks() {
			if t.State() == Running && !t.wasReportedStuck() && !yield(t) {
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
