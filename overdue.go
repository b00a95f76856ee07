package tether

import (
	"fmt"
	"math"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// MaxWaitError is the error of a task that was dropped because it had waited for a worker
// for as long as its pool's MaxWait. It is an [ErrFull].
type MaxWaitError struct {
	Pool, Share string        // Share is empty if the task has none
	Waited      time.Duration // since it was queued, for the last time if it has been more than once
	MaxWait     time.Duration // of the pool
}

func (e *MaxWaitError) Error() string {
	where := fmt.Sprintf("pool %q", e.Pool)
	if e.Share != "" {
		where = fmt.Sprintf("share %q of %s", e.Share, where)
	}
	return fmt.Sprintf("tether: waited for a worker too long: %v in %s, at most %v", e.Waited, where, e.MaxWait)
}

func (e *MaxWaitError) Is(target error) bool { return target == ErrFull }

// overdue is a task that was taken away because it has waited too long.
type overdue struct {
	task *Task
	err  *MaxWaitError
}

// alarm is the one timer of a queue, for what happens to its tasks while no worker looks:
// they become overdue, their share may start one, or a submitter that waits may have a
// place. Guarded by the queue's lock.
type alarm struct {
	timer *time.Timer
	at    int64 // when it rings; 0 if it does not

	inside   bool // the timer is of a bubble of testing/synctest, and the registry is not
	reserved bool // a place was reserved since it rang: there may be a task that has no number yet

	drops []overdue // tasks that are taken away and not yet dropped
	busy  int       // goroutines that drop them
}

// noTime is a time that does not come.
const noTime = math.MaxInt64

// minAlarm is the least time from one ring of an alarm for overdue tasks to the next.
const minAlarm = 10 * time.Millisecond

// setAlarmLocked makes the alarm ring at the given time, or earlier. The queue's lock must be
// held.
func (q *queue) setAlarmLocked(at int64) {
	a := &q.alarm
	inside := at < 0
	switch {
	case at == noTime:
		return
	case a.at == 0:
	case inside && a.inside:
		at = min(at, a.at) // set it in any case: it may be set in another bubble
	case inside == a.inside && a.at <= at:
		return
	}
	if a.timer != nil && (inside || !a.inside) { // one of a bubble must not be stopped outside
		a.timer.Stop()
	}
	a.at, a.inside = at, inside
	a.timer = weaktimer.AfterFunc(time.Duration(at-q.reg.now()), q, (*queue).ring)
}

// watchWaitLocked makes sure that the alarm rings when what is submitted or queued now would
// be overdue. The queue's lock must be held.
func (q *queue) watchWaitLocked() {
	if q.order.maxWait == 0 {
		return
	}
	q.alarm.reserved = true
	if now := q.reg.now(); q.alarm.at == 0 || q.alarm.inside || now < 0 {
		q.setAlarmLocked(later(now, time.Duration(q.order.maxWait)))
	}
}

// ring is called by the alarm. As long as there are live tasks, it sets the alarm again: one
// that is neither queued nor seen now may be queued at any time.
func (q *queue) ring() {
	q.workers.Lock()
	q.workers.TakeOver()
	now := q.reg.now()
	next := q.order.tick(now)
	q.dropOverdueLocked(now)
	q.alarm.at = 0
	if q.order.maxWait > 0 && (q.alarm.reserved || q.table.Count() > q.endedLocked()) {
		next = min(next, later(now, max(time.Duration(q.order.maxWait), minAlarm)))
	}
	q.alarm.reserved = false
	q.setAlarmLocked(next)
	q.workers.Unlock()
	q.gate.Wake()
	q.workers.Wake()
}

// dropOverdueLocked takes away the tasks that the order has found to be overdue, and reports
// whether there are any: what waited behind one for its Serial key may start then. They are
// dropped by goroutines of their own, because observers and hand-overs may be slow or end
// the goroutine. The queue's lock must be held.
func (q *queue) dropOverdueLocked(now int64) bool {
	found := q.order.overdue
	q.order.overdue = nil
	for _, t := range found {
		err := &MaxWaitError{Pool: q.pool.name, Share: t.startOptions().share, Waited: time.Duration(now - t.queuedAt()), MaxWait: time.Duration(q.order.maxWait)}
		q.takeAwayLocked(t)
		q.order.aborted-- // it is out of the order already
		q.pool.overdue++
		q.alarm.drops = append(q.alarm.drops, overdue{t, err})
	}
	for range found { // those that are busy may hang in a callback
		if q.alarm.busy == maxHandOvers {
			break
		}
		q.alarm.busy++
		q.reg.drain.helpers.Add(1)
		go q.dropOverdue()
	}
	return len(found) > 0
}

// dropOverdue drops what dropOverdueLocked has taken away, until there is nothing left.
func (q *queue) dropOverdue() {
	finished := false
	defer func() {
		if !finished {
			go q.dropOverdue() // a callback has ended this goroutine
			return
		}
		q.reg.drain.helpers.Add(-1)
		q.reg.drain.notify()
	}()
	for {
		q.workers.Lock()
		a := &q.alarm
		if len(a.drops) == 0 {
			a.drops, finished = nil, true
			a.busy--
			q.workers.Unlock()
			return
		}
		next := a.drops[0]
		a.drops[0], a.drops = overdue{}, a.drops[1:]
		if q.bounded {
			q.gate.Withdraw() // not before: if hand-overs hang, the queue is full
		}
		q.workers.Unlock()
		pprof.SetGoroutineLabels(next.task.kind.labels)
		q.abort(q.reg.drain.canceled, next.task, next.err)
	}
}

// tick removes all that is overdue, and returns when the next task will be: as far as the
// first ones of the lists tell, since each list is nearly in the order of the queueing.
func (o *order) tick(now int64) (next int64) {
	o.setClock(now)
	if o.turns != nil {
		o.wake(now)
	}
	next = o.nextWake(now)
	if o.maxWait == 0 {
		return next
	}
	o.eachShare(func(s *share) {
		for l := range s.lists {
			for s.lists[l].head != nil && o.removeDead(&s.lists[l], now) {
			}
			if head := s.lists[l].head; head != nil {
				next = min(next, o.overdueAt((*Task)(head), now))
			}
		}
		o.settle(s)
	})
	for _, k := range o.keys {
		k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool {
			if t.has(aborting) {
				o.aborted--
				return true
			}
			if now-t.queuedAt() >= o.maxWait {
				o.overdue = append(o.overdue, t)
				return true
			}
			next = min(next, o.overdueAt(t, now))
			return false
		})
	}
	return next
}

// overdueAt returns when a task will be overdue, but not sooner than the alarm is to ring
// for that.
func (o *order) overdueAt(t *Task, now int64) int64 {
	return max(later(t.queuedAt(), time.Duration(o.maxWait)), later(now, minAlarm))
}
