package tether

import (
	"context"
	"math"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/gate"
	"github.com/seed-2e639f12/tether/internal/table"
	"github.com/seed-2e639f12/tether/internal/workers"
)

// queue is where tasks are numbered, held, queued and run. A pool has one, the registry
// some for the tasks on no pool: its shards. A queue is the host of its workers and
// shares their lock, which is "the queue's lock".
//
// Lock order: gate; Registry.queuesMu; drain.mu; the queue's lock; then table, tally.mu,
// stuckDetector.mu, drain.wakeMu and stopProgress.mu, of which tally.mu is locked before
// taskExtra.mu. uniqueMu is locked alone. No lock is held over code of the user's.
type queue struct {
	// Written once, and read by all: kept off the cache lines that are written.
	reg     *Registry
	pool    *Pool // nil for a shard of the registry
	num     uint32
	bounded bool // the gate counts: a place there is acquired before a task is made
	mayIdle bool // false inside a bubble of testing/synctest
	atStop  AtStop
	_       [64]byte

	table   table.Table[Task] // written by submitters
	workers workers.Workers[node, *node]

	// Guarded by the queue's lock. What each task writes comes first, next to the lock.
	phase        phase
	running      int
	mean         atomic.Int64        // of run times, in ns; written under the queue's lock, read without it
	ended        [Dropped + 1]uint64 // by state
	order        order
	alarm        alarm
	held, inline int

	idle atomic.Int32 // goroutines of workers that are idle

	_         [64]byte
	contended atomic.Int32 // submitters that wait for the queue's lock; Run reads it, and gate
	gate      gate.Gate
}

// maxIdle is how many goroutines of one queue may be idle at once.
const maxIdle = 64

// node is the same struct as Task, with the method that the package workers needs.
type node Task

func (n *node) Link() (next **node, depth *uint16) { return &n.next, &n.depth }

func (q *queue) init(r *Registry, pool *Pool, workers int) {
	q.reg, q.pool, q.mayIdle = r, pool, !r.inBubble
	q.workers.Init(q, workers)
}

func (q *queue) poolName() string {
	if q.pool == nil {
		return ""
	}
	return q.pool.name
}

func (q *queue) id(num uint64) string { return q.reg.key.Seal(q.num, num) }

// schedule sends a parked task on: into the order if it is due, and otherwise a timer
// calls schedule again. It clears notifying. The task may have ended meanwhile, or be
// held still.
func (q *queue) schedule(t *Task) {
	q.workers.Lock()
	word := t.clear(notifying)
	if State(word&stateMask) > Queued || word&aborting != 0 {
		q.workers.Unlock()
		return
	}
	due := t.due(word)
	if cause := q.stopCauseLocked(t, due); cause != nil {
		// 1. It was canceled while it could not be aborted, or cannot start in time.
		limit := q.abortLocked(t, cause)
		q.workers.Unlock()
		q.abort(limit, t, cause)
		return
	}
	if State(word&stateMask) == Held {
		q.workers.Unlock()
		return // 2. Release calls schedule
	}
	now := q.reg.now()
	if due > now {
		// 3. Delayed, or between attempts.
		*t.timer() = time.AfterFunc(time.Duration(due-now), func() { q.schedule(t) })
		q.workers.Unlock()
		return
	}
	// 4. Behind all tasks that were pushed before.
	t.ended = now // see queuedAt
	q.watchWaitLocked()
	t.clear(parked)
	q.workers.TakeOver()
	q.order.push((*node)(t), (*node)(t))
	q.workers.Unlock()
	q.workers.Wake()
}

// atOnce is when a task is due that waits for no time. It is before any time of the
// registry, which is negative in a bubble of testing/synctest if the registry was made
// outside.
const atOnce = math.MinInt64

// due returns when a task that is held or queued may start.
func (t *Task) due(word uint32) int64 {
	if word&begun != 0 {
		return t.opts().retry.due
	}
	if delay := t.startOptions().delay; delay > 0 {
		return later(t.submitted, delay)
	}
	return atOnce
}

// timer returns where the timer of a parked task is: of its backoff between two attempts, and
// of its delay before the first.
func (t *Task) timer() **time.Timer {
	if t.has(begun) {
		return &t.opts().retry.timer
	}
	return &t.startOptions().timer
}

// later returns the time d after t, or the last time there is if that is earlier. d must
// not be negative.
func later(t int64, d time.Duration) int64 {
	if sum := t + int64(d); sum >= t {
		return sum
	}
	return math.MaxInt64
}

// release is Task.Release.
func (q *queue) release(t *Task) bool {
	q.workers.Lock()
	word := t.load()
	if State(word&stateMask) != Held || word&aborting != 0 {
		q.workers.Unlock()
		return false
	}
	q.held--
	t.stateWord.release()
	q.workers.Unlock()
	t.notifyWatchers()
	if word&notifying == 0 { // otherwise the submitter is about to call it
		q.schedule(t)
	}
	return true
}

// cancel is Task.Cancel.
func (q *queue) cancel(t *Task, cause error) bool {
	if t.State().Final() {
		return false
	}
	// First the cause, then the state: a task that is on its way into the order, or
	// between two attempts, either finds the cause or is found here.
	t.interrupt(cause)
	q.dropStopped(t)
	return true
}

// dropStopped drops t if it waits and must not start any more, for the reasons that
// stopCauseLocked has: it was canceled, or the drain does not let it start.
func (q *queue) dropStopped(t *Task) {
	q.workers.Lock()
	if !t.abortable() {
		q.workers.Unlock()
		return
	}
	cause := q.stopCauseLocked(t, t.due(t.load()))
	if cause == nil {
		q.workers.Unlock()
		return
	}
	limit := q.abortLocked(t, cause)
	q.workers.Unlock()
	q.abort(limit, t, cause)
}

// abortLocked takes a task away from all that might start or end it, and frees its place.
// The queue's lock must be held, t must be abortable, and the caller must call abort once
// it has unlocked. limit is the context of the task's hand-over, nil if it has none.
func (q *queue) abortLocked(t *Task, cause error) (limit context.Context) {
	if cause == ErrShutdown && q.phase != open {
		limit = q.reg.drain.handOverContext()
	}
	q.takeAwayLocked(t)
	if q.bounded && !t.isInline() {
		q.gate.Withdraw()
	}
	return limit
}

// takeAwayLocked is abortLocked without the place at the gate.
func (q *queue) takeAwayLocked(t *Task) {
	q.reg.drain.helpers.Add(1) // until abort has returned
	if q.order.turns != nil {
		q.workers.TakeOver() // the order counts the task only once it knows it
	}
	before := t.stateWord.abort()
	if State(before&stateMask) == Held {
		q.held--
	}
	if before&begun == 0 {
		q.ended[Dropped]++
	} else {
		q.ended[Canceled]++
	}
	if before&parked == 0 {
		q.order.abort(t)
	} else if timer := *t.timer(); timer != nil {
		timer.Stop()
	}
	if !t.isInline() {
		q.order.unreserve(t.startOptions())
	}
	if live := int(q.table.Count() - q.endedLocked()); q.order.aborted > live+64 {
		q.workers.TakeOver()
		q.order.sweep()
	}
}

// abort ends a task that abortLocked has taken away.
func (q *queue) abort(limit context.Context, t *Task, cause error) {
	q.gate.Wake()
	q.workers.Wake()
	q.drop(limit, t, cause)
}

// endedLocked returns how many tasks have ended. The queue's lock must be held.
func (q *queue) endedLocked() (n uint64) {
	for _, m := range q.ended {
		n += m
	}
	return n
}

// statsLocked returns the counts. The queue's lock must be held.
func (q *queue) statsLocked() Stats {
	s := Stats{
		Succeeded: q.ended[Succeeded], Failed: q.ended[Failed], Panicked: q.ended[Panicked],
		Canceled: q.ended[Canceled], Dropped: q.ended[Dropped],
		Held: q.held, Running: q.running,
		Submitted: q.table.Count(), // last: what is counted elsewhere is counted here
	}
	s.Queued = int(s.Submitted-q.endedLocked()) - s.Held - s.Running
	if q.pool != nil {
		s.Refused = q.pool.refused.Load()
	} else if q == q.reg.loops {
		s.Loops = s.Held + s.Queued + s.Running
	}
	return s
}

// startLocked makes a task Running. The queue's lock must be held.
func (q *queue) startLocked(t *Task, now int64) {
	q.running++
	first := !t.has(begun)
	if first {
		t.started = now
	} else {
		t.opts().retry.began.Store(now)
	}
	t.start(first)
	if q.reg.cfg.StuckAfter > 0 || t.extra.Load() != nil {
		q.reg.stuck.arm(t)
	}
}

// requeueLocked makes a running task wait for its next attempt. The queue's lock must be
// held.
func (q *queue) requeueLocked(t *Task, flags uint32) {
	q.running--
	t.opts().retry.failed.Add(1)
	t.requeue(flags)
}

// countEndLocked counts the end of a task that has run. The queue's lock must be held.
func (q *queue) countEndLocked(t *Task) {
	q.running--
	q.ended[t.end]++
	if q.phase != open && q.reg.drain.phase.Load() != open { // loops end before the drain begins
		q.reg.drain.tally.record(t)
	}
}

// The methods of workers.Host.

// Clock returns the time of the registry.
func (q *queue) Clock() int64 { return q.reg.now() }

// Push appends what was taken over from the inbox.
func (q *queue) Push(first, last *node) { q.order.push(first, last) }

// Next starts the next task, if one may start.
func (q *queue) Next(now int64) (n *node, stalled bool) {
	if q.phase == canceling || q.phase == draining && q.atStop == AtStopDrop {
		return nil, true // all that is queued is being dropped
	}
	if q.order.turns != nil {
		q.workers.TakeOver() // what was submitted last may be next
	}
	t, stalled := q.order.next(now)
	for q.order.overdue != nil && q.dropOverdueLocked(now) && t == nil {
		t, stalled = q.order.next(now)
	}
	if q.order.turns != nil || q.order.pace.interval > 0 {
		q.setAlarmLocked(q.order.nextWake(now))
	}
	if t == nil {
		return nil, stalled
	}
	if q.bounded {
		q.gate.Start()
	}
	if q.pool != nil {
		q.pool.waits.Record(now, now-t.queuedAt())
	}
	q.startLocked(t, now)
	return (*node)(t), false
}

// Empty reports whether no task is in the order.
func (q *queue) Empty() bool { return q.order.empty() }

// Run runs one attempt of a task that Next has started.
func (q *queue) Run(n *node) (now int64) {
	q.gate.Wake() // there is a place in the queue
	if q.contended.Load() > 0 {
		runtime.Gosched()
	}
	t := (*Task)(n)
	t.runAttempt()
	if t.end != Succeeded || q.reg.observers != nil {
		return q.reg.now() // callbacks may have taken their time since the body ended
	}
	return t.ended
}

// Settle accounts for an attempt that has ended.
func (q *queue) Settle(n *node) {
	t, retried := (*Task)(n), false
	if q.order.fifo(t) {
		q.order.plain.running-- // which is all that ran and unreserve would change
	} else {
		retried = t.attempt(begun) > 1
		q.order.ran(t.startOptions())
		if t.end == Queued {
			if q.bounded {
				q.gate.Requeue()
			}
			q.requeueLocked(t, notifying) // Finished calls schedule
			return
		}
		q.order.unreserve(t.startOptions())
	}
	if q.bounded {
		q.gate.Exit()
		if !retried { // otherwise its time includes waits
			mean := q.mean.Load()
			q.mean.Store(mean + (t.ended-t.started-mean)/8)
		}
	}
	q.countEndLocked(t)
}

// Finished ends a task that Settle has accounted for, or sends it to its next attempt.
func (q *queue) Finished(n *node) {
	t := (*Task)(n)
	q.gate.Wake()
	if t.end == Queued {
		t.notifyWatchers()
		q.schedule(t)
		return
	}
	t.finish()
}

// WorkerExited notifies the drain.
func (q *queue) WorkerExited() {
	if q.phase != open {
		q.reg.drain.notify()
	}
}

// MayIdle lets the goroutine of a worker that has exited wait for another task. The drain
// does not see it among the workers, so it is counted as a helper until it exits, which
// the drain makes it do.
func (q *queue) MayIdle() bool {
	if !q.mayIdle || q.phase != open || q.idle.Load() >= maxIdle {
		return false
	}
	q.idle.Add(1)
	q.reg.drain.helpers.Add(1)
	q.reg.drain.idlers.Add(1)
	pprof.SetGoroutineLabels(context.Background())
	return true
}

// IdleEnded ends the wait of an idle goroutine.
func (q *queue) IdleEnded(rehired bool) {
	d := &q.reg.drain
	q.idle.Add(-1)
	d.helpers.Add(-1)
	if !rehired {
		d.notify()
	}
	d.idlers.Add(-1) // after notify: see drain.begin
}
