package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/seed-2e639f12/tether"
)

// startLocked starts a run that is due, or does what Overlap says. It returns the run that
// stands for it: a new one, the one that is queued, or the one that has not ended.
func (s *Scheduler) startLocked(sch *Schedule, due time.Time) *run {
	r := &run{due: due, done: make(chan struct{})}
	switch {
	case sch.queued == nil && !sch.current.live():
		sch.beginLocked(r)
		go sch.submit(r)
	case sch.cfg.Overlap == OverlapSkip:
		sch.skipped++
		return sch.current
	case sch.queued != nil:
		sch.skipped++
		return sch.queued
	default:
		sch.queued = r
		if sch.current.task != nil {
			go sch.follow(sch.current, r)
		} // otherwise the goroutine that submits it does that
	}
	return r
}

// beginLocked makes r the current run.
func (sch *Schedule) beginLocked(r *run) {
	if c := sch.current; c != nil && c.task != nil {
		sch.last = c.task
	}
	sch.current = r
	if sch.gone == nil {
		sch.gone = make(chan struct{})
	}
}

// submit submits the current run. It may block, in a pool with OverflowBlock or in an
// observer.
func (sch *Schedule) submit(r *run) {
	task, err := (*tether.Task)(nil), tether.ErrGoexit // unless Go returns
	defer func() {
		s := sch.s
		s.mu.Lock()
		r.task, r.err = task, err
		close(r.done)
		if err == nil {
			sch.runs++
		} else {
			sch.refused++
		}
		if sch.queued != nil {
			go sch.follow(r, sch.queued)
		}
		quiet := err == nil || sch.removed || s.stopping()
		s.mu.Unlock()
		if !quiet {
			sch.log(slog.LevelWarn, "schedule: the run is refused", err)
		}
	}()
	to := tether.Submitter(sch.s.reg)
	if sch.cfg.Pool != nil {
		to = sch.cfg.Pool
	}
	task, err = to.Go(&runContext{sch.ctx, r.due, sch.gone}, sch.name, sch.fn, sch.cfg.Options...)
}

// follow starts the queued run when the one before has ended.
func (sch *Schedule) follow(before, queued *run) {
	if t := before.task; t != nil {
		if sch.cfg.Overlap == OverlapCancel {
			t.Cancel(ErrReplaced)
		}
		// Watch does not mark the outcome as awaited: a failure is logged.
		for range t.Watch(stopContext{sch.s.reg}) {
		}
	}
	s := sch.s
	s.mu.Lock()
	if sch.queued != queued { // removed
		s.mu.Unlock()
		return
	}
	sch.queued = nil
	if s.stopping() {
		queued.err = tether.ErrClosed
		close(queued.done)
		s.mu.Unlock()
		return
	}
	sch.beginLocked(queued)
	s.mu.Unlock()
	sch.submit(queued)
}

// runContext is the context that a run is submitted with. It has the values of the body, and
// ends the wait for room in a pool when the schedule is removed.
type runContext struct {
	context.Context // without a cancellation
	due             time.Time
	gone            <-chan struct{}
}

type dueKey struct{}

func (c *runContext) Value(key any) any {
	if key == (dueKey{}) {
		return c.due
	}
	return c.Context.Value(key)
}

func (c *runContext) Done() <-chan struct{} { return c.gone }

func (c *runContext) Err() error {
	select {
	case <-c.gone:
		return context.Canceled
	default:
		return nil
	}
}

// Due returns when the run that ctx belongs to was due, without its jitter: the day that a
// report is about, whenever its run begins. It reports false if ctx does not belong to a
// run of a schedule.
func Due(ctx context.Context) (time.Time, bool) {
	due, ok := ctx.Value(dueKey{}).(time.Time)
	return due, ok
}

// stopContext is done when the stop of a registry begins.
type stopContext struct{ reg *tether.Registry }

func (c stopContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c stopContext) Done() <-chan struct{}       { return c.reg.Stopping() }
func (c stopContext) Value(any) any               { return nil }

func (c stopContext) Err() error {
	if c.reg.Ready() {
		return nil
	}
	return context.Canceled
}

// log logs a record about the schedule to the registry's Logger. A panic of its handler is
// contained.
func (sch *Schedule) log(level slog.Level, msg string, err error) {
	defer func() {
		if v := recover(); v != nil {
			fmt.Fprintf(os.Stderr, "tether: the log handler panicked, and its record %q is lost: %v\n%s", msg, v, debug.Stack())
		}
	}()
	pool := ""
	if sch.cfg.Pool != nil {
		pool = sch.cfg.Pool.Name()
	}
	sch.s.reg.Logger().LogAttrs(sch.ctx, level, msg,
		slog.String("schedule", sch.name), slog.String("schedule_id", sch.ID()), slog.String("pool", pool), slog.Any("error", err))
}
