package tether

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Rate bounds how many attempts start: Tasks in each Per, evenly spaced, except that Burst
// of them may start at once after a pause. A start that is a few milliseconds late, as timers
// are, does not delay those after it. The zero Rate is no bound.
type Rate struct {
	Tasks int
	Per   time.Duration
	Burst int // zero means 1
}

// valid reports whether r is the zero Rate, or has the interval of at least a nanosecond.
func (r Rate) valid() bool {
	return r == Rate{} || r.Tasks > 0 && r.Burst >= 0 && r.Per >= time.Duration(r.Tasks)
}

// pace is a Rate as the generic cell rate algorithm has it (ITU-T I.371): each start moves a
// theoretical time of the next one by the interval, and may be early by the tolerance.
type pace struct{ interval, tolerance int64 }

func (r Rate) pace() pace {
	if r.Tasks == 0 {
		return pace{}
	}
	interval := int64(r.Per) / int64(r.Tasks)
	burst := int64(max(r.Burst, 1)) - 1
	if burst > math.MaxInt64/interval {
		burst = math.MaxInt64 / interval
	}
	return pace{interval, burst * interval}
}

// earliest returns when an attempt may start, if the theoretical time is next.
func (p pace) earliest(next int64) int64 {
	if next < math.MinInt64+p.tolerance {
		return math.MinInt64
	}
	return next - p.tolerance
}

// isLater reports whether a time is later than now, which is asked for only if need be.
func (o *order) isLater(at int64, now func() int64) bool {
	if at == math.MinInt64 {
		return false
	}
	n := now()
	return at > n && !o.setClock(n)
}

// setClock notes the time. If the clock is another one, it forgets what was to be at a time of
// the last one, and reports that: each bubble of testing/synctest has a clock, which is
// negative if the registry was made outside.
func (o *order) setClock(now int64) (other bool) {
	if other = now < 0 && now < o.clock; other {
		o.theoretical = math.MinInt64
		o.eachShare(func(s *share) { s.theoretical, s.paused, s.due = math.MinInt64, math.MinInt64, math.MinInt64 })
		if o.turns != nil {
			o.wake(now)
		}
	}
	o.clock = now
	return other
}

// lateness is how late a start may be without making the next ones later: a timer is often a
// millisecond late, and the rate would be lower by that.
const lateness = int64(5 * time.Millisecond)

// start returns the theoretical time after a start.
func (p pace) start(next, now int64) int64 {
	if next < now-lateness {
		next = now
	}
	return later(next, time.Duration(p.interval))
}

// PauseShare makes no further task of the share start before the given time, on the pool of
// the task whose context ctx is: for a body that was told so, for example by a status of 429
// or 503 with Retry-After. The tasks of the share wait in the queue; they hold no worker, and
// the other shares go on, except submitters that wait for room: see [OverflowBlock]. If it is
// called more than once, the latest time counts. Tasks without a [Share] are one. What cannot
// start before the drain cancels contexts is dropped, or handed over, as soon as the drain has
// begun.
//
// To try again, the body returns an error, and the task has [Retry]. PauseShare returns an
// [ErrInvalid] if ctx is not the context of a task on a pool.
func PauseShare(ctx context.Context, until time.Time) error {
	t, ok := FromContext(ctx)
	if !ok || t.queue.pool == nil {
		return fmt.Errorf("%w: PauseShare: not the context of a task on a pool", ErrInvalid)
	}
	if t.isInline() {
		return nil // it has no share in the pool
	}
	q := t.queue
	q.workers.Lock()
	defer q.workers.Unlock()
	if t.State() == Running {
		q.workers.TakeOver()
		q.order.setClock(q.reg.now())
		q.order.pause(t.startOptions(), int64(until.Sub(q.reg.born)))
		if q.phase == draining {
			q.reg.drain.dropTasks([]*queue{q})
		}
	}
	return nil
}

// earliest returns when a share may start its next task.
func (o *order) earliest(s *share) int64 {
	return max(s.paused, o.sharePace.earliest(s.theoretical))
}

// notBefore returns when a task with these options may start, as far as rates and pauses tell;
// other tasks may be before it.
func (o *order) notBefore(opts *startOptions, now int64) int64 {
	o.setClock(now)
	at := o.pace.earliest(o.theoretical)
	if s := o.find(opts); s != nil {
		at = max(at, o.earliest(s))
	}
	return at
}

// sleeps puts the share that is next to sleep if it may not start a task yet, and reports
// whether it has. No timer is set for it: wake finds it.
func (o *order) sleeps(s *share, now int64) bool {
	if o.earliest(s) <= now {
		return false
	}
	s.due = o.earliest(s)
	o.turns.asleep.Set(s, true)
	o.settle(s)
	return true
}

// wake wakes the shares that may start a task now, and removes those without tasks that do
// not matter any more.
func (o *order) wake(now int64) {
	asleep, idle := &o.turns.asleep, &o.turns.idle
	for asleep.Len() > 0 && asleep.Top().due <= now {
		s := asleep.Top()
		asleep.Set(s, false)
		o.settle(s)
	}
	for idle.Len() > 0 && idle.Top().due <= now {
		s := idle.Top()
		idle.Set(s, false)
		o.remove(s)
	}
}

// idleRound is how often idle shares are removed while no task starts.
const idleRound = time.Minute

// nextWake returns when wake or next must be called, noTime if they need not.
func (o *order) nextWake(now int64) int64 {
	at := int64(noTime)
	if o.turns != nil {
		if o.turns.idle.Len() > 0 {
			at = later(now, idleRound)
		}
		if o.turns.asleep.Len() > 0 {
			at = min(at, o.turns.asleep.Top().due)
		}
	}
	if paced := o.pace.earliest(o.theoretical); paced > now && !o.empty() {
		at = min(at, paced)
	}
	return at
}

// pause makes the share of a task that runs start no other before the given time.
func (o *order) pause(opts *startOptions, until int64) {
	o.takeTurns()
	s := o.share(opts)
	if s == &o.plain {
		o.counting.Store(true)
	}
	s.paused = max(s.paused, until)
	if o.turns.asleep.Has(s) {
		s.due = o.earliest(s)
		o.turns.asleep.Set(s, true)
	}
}
