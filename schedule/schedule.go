package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A Schedule is the handle of one schedule. It is made by [Scheduler.Add]. Its methods are
// safe for concurrent use, including from the body of its own runs.
type Schedule struct {
	s    *Scheduler
	id   uint64
	name string
	fn   tether.Func
	ctx  context.Context // has the values of each run
	cfg  Config

	// Guarded by Scheduler.mu.

	when    Timetable
	text    string    // what Info says of when
	version uint64    // changes when what an earlier call of Next returns is not wanted any more
	due     time.Time // of the next run; zero if there is none
	at      time.Time // due with its jitter, or when the timetable is asked again
	place   int32     // in Scheduler.waiting

	paused, removed bool
	gone            chan struct{} // closed when it is removed; nil before the first run

	current *run         // that was started last; nil before the first
	queued  *run         // starts when current has ended; nil if none is queued
	last    *tether.Task // that ended before current

	runs, skipped, missed, refused uint64
	err                            error
}

// run is one run of a schedule. task and err are written before done is closed.
type run struct {
	due  time.Time
	done chan struct{} // closed when the run was submitted, or will not be
	task *tether.Task  // nil if it was not submitted
	err  error         // why not
}

// live reports whether the run has not ended. Scheduler.mu must be held.
func (r *run) live() bool {
	return r != nil && r.err == nil && (r.task == nil || !r.task.State().Final())
}

// ID returns the schedule's identifier, which [Scheduler.Find] takes.
func (sch *Schedule) ID() string { return strconv.FormatUint(sch.id, 10) }

// Name returns the name of the schedule and of its runs.
func (sch *Schedule) Name() string { return sch.name }

// Info describes a schedule at one instant.
type Info struct {
	ID, Name  string
	Pool      string // empty if the runs are submitted to the registry
	Timetable string // what its String returns, or its type
	Paused    bool

	// Next is when the next run starts, with its jitter. It is zero if there is none: the
	// schedule is paused or removed, the timetable has no further run or is wrong, its Next
	// has not returned yet, or the stop has begun.
	Next time.Time

	// Running is the run that has started and not ended, nil if there is none; Last is the
	// one that ended last. Their Info has the outcome, the times and the error.
	Running, Last *tether.Task

	Queued  bool   // a run waits for the end of Running
	Runs    uint64 // runs that were submitted
	Skipped uint64 // runs that were due, or asked for, while an earlier one had not ended
	Missed  uint64 // times at which runs were missed, with MissedSkip
	Refused uint64 // runs that were not admitted, because the pool was full, say

	// Err is what is wrong with the timetable, or else why the last run was not admitted;
	// nil if neither.
	Err error
}

// Info returns a consistent snapshot of the schedule.
func (sch *Schedule) Info() Info {
	s := sch.s
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{
		ID: sch.ID(), Name: sch.name, Timetable: sch.text, Paused: sch.paused,
		Last: sch.last, Queued: sch.queued != nil,
		Runs: sch.runs, Skipped: sch.skipped, Missed: sch.missed, Refused: sch.refused,
		Err: sch.err,
	}
	if sch.cfg.Pool != nil {
		i.Pool = sch.cfg.Pool.Name()
	}
	if s.waiting.Has(sch) && !sch.due.IsZero() && !s.stopping() {
		i.Next = sch.at
	}
	if c := sch.current; c != nil && c.task != nil {
		if c.live() {
			i.Running = c.task
		} else {
			i.Last = c.task
		}
	}
	if i.Err == nil && sch.current != nil {
		i.Err = sch.current.err
	}
	return i
}

// Run starts a run now, whatever the timetable says, also if the schedule is paused, and
// returns its task. The next run of the timetable is not affected.
//
// If an earlier run has not ended, [Overlap] decides: with OverlapSkip, Run returns the task
// of that run; otherwise it waits until the new run has started. If ctx is done first, Run
// returns context.Cause(ctx), and the run stays queued.
//
// The error is that of [tether.Registry.Go] if the run is not admitted; [ErrRemoved];
// [tether.ErrClosed] once the stop has begun.
func (sch *Schedule) Run(ctx context.Context) (*tether.Task, error) {
	if ctx == nil {
		return nil, fmt.Errorf("%w: nil context", tether.ErrInvalid)
	}
	s := sch.s
	s.mu.Lock()
	switch {
	case sch.removed:
		s.mu.Unlock()
		return nil, ErrRemoved
	case s.stopping():
		s.mu.Unlock()
		return nil, tether.ErrClosed
	}
	r := s.startLocked(sch, s.now())
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.task, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Pause makes the schedule have no runs until Resume is called. A run that has started, or
// is queued, is not affected.
func (sch *Schedule) Pause() {
	sch.s.mu.Lock()
	defer sch.s.mu.Unlock()
	sch.paused = true
	sch.version++
	sch.s.waiting.Set(sch, false)
}

// Resume ends a Pause. Runs that would have been due meanwhile are not made up for.
func (sch *Schedule) Resume() {
	s := sch.s
	s.mu.Lock()
	if !sch.paused || sch.removed {
		s.mu.Unlock()
		return
	}
	sch.paused = false
	sch.version++
	version, when := sch.version, sch.when
	s.mu.Unlock()
	sch.advance(version, when, s.now())
}

// Change replaces the timetable. The next run is the first one after now. The error is that
// of [Scheduler.Add], or [ErrRemoved]; then nothing has changed.
func (sch *Schedule) Change(when Timetable) error {
	s := sch.s
	due, err := checkTimetable(when, s.now())
	if err != nil {
		return err
	}
	if err := sch.cfg.checkJitter(when); err != nil {
		return err
	}
	text := describe(when)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sch.removed:
		return ErrRemoved
	case s.stopping():
		return tether.ErrClosed
	}
	sch.when, sch.text, sch.err = when, text, nil
	sch.version++
	s.waiting.Set(sch, false)
	if !sch.paused {
		s.waitLocked(sch, due)
	}
	return nil
}

// Remove removes the schedule, and reports whether it was there. A run that has started is
// not affected: see [tether.Task.Cancel]. A queued one does not start.
func (sch *Schedule) Remove() bool {
	s := sch.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if sch.removed {
		return false
	}
	sch.removed = true
	sch.version++
	s.waiting.Set(sch, false)
	delete(s.schedules, sch.id)
	if sch.gone != nil {
		close(sch.gone)
	}
	if q := sch.queued; q != nil {
		sch.queued = nil
		q.err = ErrRemoved
		close(q.done)
	}
	return true
}

// advance asks the timetable for the first run after t, which this version of the schedule
// waits for then. It is called without Scheduler.mu, since Next is code of the user's.
func (sch *Schedule) advance(version uint64, when Timetable, t time.Time) {
	due, err := time.Time{}, tether.ErrGoexit // unless Next returns
	defer func() {
		s := sch.s
		s.mu.Lock()
		wanted := sch.version == version && !s.stopping()
		if wanted {
			sch.err = err
			switch {
			case err != nil:
				sch.due, sch.at = time.Time{}, s.now().Add(retryAfter)
				s.pushLocked(sch)
			case due.IsZero():
				sch.due = due
			default:
				s.waitLocked(sch, due)
			}
		}
		s.mu.Unlock()
		if wanted && err != nil {
			sch.log(slog.LevelError, "schedule: the timetable is wrong", err)
		}
	}()
	first, wrong := next(when, t)
	if now := sch.s.now(); wrong == nil && !first.IsZero() && !first.After(now) {
		first, wrong = next(when, now) // what is over is not made up for
	}
	due, err = first, wrong
}
