package schedule

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/internal/bubble"
	"github.com/seed-2e639f12/tether/internal/heap"
)

// A Scheduler has the schedules of one registry. It must be made by [New], and needs no
// closing. Its methods are safe for concurrent use.
type Scheduler struct {
	reg *tether.Registry

	// The clock, which tests replace. maxWait is the longest time for which the timer is
	// set, because it stands still while the machine is suspended, and knows nothing of a
	// clock that is set. Zero means that there is no limit.
	now     func() time.Time
	maxWait time.Duration

	// mu guards what follows, and the fields of all schedules. No code of the user's is
	// called while it is held.
	mu        sync.Mutex
	timer     *time.Timer          // calls wake; nil until the first schedule is added
	waiting   heap.Heap[*Schedule] // the schedules that have a next run, the next one first
	schedules map[uint64]*Schedule
	lastID    uint64
	seen      time.Time // the clock at the last wake
}

const (
	wakeEvery  = time.Minute // maxWait
	retryAfter = time.Minute // after which a timetable is asked again that was wrong
)

// New returns a Scheduler without schedules. It starts no goroutine. It panics if reg is
// nil, which is a programming error.
func New(reg *tether.Registry) *Scheduler {
	if reg == nil {
		panic("schedule: New needs a registry")
	}
	s := &Scheduler{reg: reg, now: wallNow, maxWait: wakeEvery, schedules: make(map[uint64]*Schedule)}
	s.waiting.Init(func(a, b *Schedule) bool { return a.at.Before(b.at) }, func(sch *Schedule) *int32 { return &sch.place })
	if bubble.Inside(time.Now()) {
		s.maxWait = 0 // the clock of a bubble of testing/synctest goes as its timers do
	}
	return s
}

// wallNow returns the time without a monotonic reading, which stands still while the
// machine is suspended.
func wallNow() time.Time { return time.Now().Round(0) }

// Add adds a schedule, which submits fn as a task of this name whenever a run is due. ctx
// only supplies values to the body; it may already be done. See [tether.Registry.Go] for
// names: many schedules may have the same one. At most one Config may be given.
//
// Add returns a [tether.ErrInvalid] if an argument is invalid, or if the timetable panics,
// is wrong, or has no run; and [tether.ErrClosed] once the stop has begun.
func (s *Scheduler) Add(ctx context.Context, name string, when Timetable, fn tether.Func, cfg ...Config) (*Schedule, error) {
	sch := &Schedule{s: s, name: name, fn: fn}
	switch len(cfg) {
	case 0:
	case 1:
		sch.cfg = cfg[0]
		sch.cfg.Options = slices.Clone(sch.cfg.Options)
	default:
		return nil, fmt.Errorf("%w: more than one Config", tether.ErrInvalid)
	}
	switch err := tether.CheckName(name); {
	case err != nil:
		return nil, err
	case ctx == nil:
		return nil, fmt.Errorf("%w: nil context", tether.ErrInvalid)
	case fn == nil:
		return nil, fmt.Errorf("%w: nil body", tether.ErrInvalid)
	}
	now := s.now()
	due, err := checkTimetable(when, now)
	if err != nil {
		return nil, err
	}
	if err := sch.cfg.check(s.reg, when); err != nil {
		return nil, err
	}
	sch.ctx, sch.when, sch.text = context.WithoutCancel(ctx), when, describe(when)
	if sch.cfg.RunAtOnce {
		due = now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping() {
		return nil, tether.ErrClosed
	}
	s.lastID++
	sch.id = s.lastID
	s.schedules[sch.id] = sch
	s.waitLocked(sch, due)
	return sch, nil
}

// checkTimetable returns the first time after now, or what is wrong with a timetable that
// a program is about to use.
func checkTimetable(when Timetable, now time.Time) (due time.Time, err error) {
	if err := invalidTimetable(when); err != nil {
		return time.Time{}, err
	}
	due, err = next(when, now)
	if err == nil && due.IsZero() {
		err = fmt.Errorf("schedule: the timetable has no run after %v", now)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", tether.ErrInvalid, err)
	}
	return due, nil
}

// All returns the schedules, in the order in which they were added. No lock is held while it
// yields.
func (s *Scheduler) All() iter.Seq[*Schedule] {
	return func(yield func(*Schedule) bool) {
		s.mu.Lock()
		all := make([]*Schedule, 0, len(s.schedules))
		for _, sch := range s.schedules {
			all = append(all, sch)
		}
		s.mu.Unlock()
		slices.SortFunc(all, func(a, b *Schedule) int { return cmp.Compare(a.id, b.id) })
		for _, sch := range all {
			if !yield(sch) {
				return
			}
		}
	}
}

// Find returns the schedule with this [Schedule.ID]; nil if there is none, or if it was
// removed.
func (s *Scheduler) Find(id string) *Schedule {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.schedules[n]
}

func (s *Scheduler) stopping() bool { return !s.reg.Ready() }

// wake is called by the timer. It starts the runs that are due.
func (s *Scheduler) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping() {
		for s.waiting.Len() > 0 {
			s.waiting.Set(s.waiting.Top(), false)
		}
		return
	}
	now := s.now()
	s.followClockLocked(now)
	for s.waiting.Len() > 0 && !s.waiting.Top().at.After(now) {
		sch := s.waiting.Top()
		s.waiting.Set(sch, false)
		due := sch.due
		switch {
		case due.IsZero(): // no run, but the timetable is asked again
			due = now
		case sch.cfg.Missed == MissedSkip && now.Sub(sch.at) > missedAfter:
			sch.missed++
		default:
			s.startLocked(sch, due)
		}
		s.advanceLocked(sch, due, now)
	}
	s.setTimerLocked(now)
}

// followClockLocked keeps an interval from growing when the clock is set back. A time of
// the wall clock stays what it is: a run of 02:30 is not repeated.
func (s *Scheduler) followClockLocked(now time.Time) {
	if now.Before(s.seen) {
		for _, sch := range slices.Clone(s.waiting.Items()) {
			if d, ok := sch.when.(every); ok && sch.due.Sub(now) > time.Duration(d) {
				jitter := sch.at.Sub(sch.due)
				sch.due = sch.when.Next(now)
				sch.at = sch.due.Add(jitter)
				s.waiting.Set(sch, true)
			}
		}
	}
	s.seen = now
}

// advanceLocked finds the run that follows the one that was due.
func (s *Scheduler) advanceLocked(sch *Schedule, due, now time.Time) {
	if !isOwn(sch.when) {
		go sch.advance(sch.version, sch.when, due)
		return
	}
	next := sch.when.Next(due)
	if !next.After(now) {
		next = sch.when.Next(now)
	}
	s.waitLocked(sch, next.Round(0))
}

// waitLocked makes a schedule wait for a run that is due then.
func (s *Scheduler) waitLocked(sch *Schedule, due time.Time) {
	sch.due, sch.at = due, due
	if sch.cfg.Jitter > 0 {
		sch.at = due.Add(rand.N(sch.cfg.Jitter))
	}
	s.pushLocked(sch)
}

func (s *Scheduler) pushLocked(sch *Schedule) {
	s.waiting.Set(sch, true)
	if s.waiting.Top() == sch {
		s.setTimerLocked(s.now())
	}
}

// setTimerLocked sets the timer for the first schedule that waits.
func (s *Scheduler) setTimerLocked(now time.Time) {
	if s.waiting.Len() == 0 {
		return // an early wake does no harm
	}
	wait := max(0, s.waiting.Top().at.Sub(now))
	if s.maxWait > 0 {
		wait = min(wait, s.maxWait)
	}
	if s.timer == nil {
		s.seen = now
		s.timer = time.AfterFunc(wait, s.wake)
	} else {
		s.timer.Reset(wait)
	}
}
