package tether

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seed-2e639f12/tether/internal/table"
)

// phase is how far the drain is.
type phase = uint32

const (
	open      phase = iota // tasks are admitted
	draining               // only those that running tasks submit are
	canceling              // none is, none starts, and the contexts of running tasks are canceled
)

const (
	maxHandOvers = 16                   // that run at once
	lateReport   = 5 * time.Millisecond // from one report of a drain whose time is up to the next
)

// drain is the state of a registry's shutdown.
type drain struct {
	stopping  chan struct{}   // closed when the stop begins: by Run, or with begun
	begun     chan struct{}   // closed when the phase is draining
	canceling <-chan struct{} // closed when the phase is canceling: the Done of canceled
	canceled  context.Context
	cancelAll context.CancelCauseFunc // makes canceled done
	stopOnce  sync.Once               // closes stopping

	phase    atomic.Uint32                   // written under mu; each queue has a copy under its lock
	cancelAt atomic.Int64                    // when contexts will be canceled, in registry time; MaxInt64 if no Shutdown has a deadline; written under mu
	handOver atomic.Pointer[context.Context] // when it is done, so are the contexts of hand-overs; written under mu

	_       [64]byte     // each submission reads phase; the next two are written more often
	helpers atomic.Int64 // goroutines other than workers that run or end tasks, or are idle
	idlers  atomic.Int64 // idle goroutines that may call notify

	mu         sync.Mutex
	complete   bool      // a Shutdown has found nothing live: nothing is admitted any more; guarded by mu
	canceledAt time.Time // when the phase became canceling; guarded by mu
	report     *Report   // of the last Shutdown; guarded by mu

	wakeMu sync.Mutex
	wake   chan struct{} // closed by notify; nil if no Shutdown waits; guarded by wakeMu

	tally    tally
	progress stopProgress
}

func (d *drain) init() {
	d.stopping, d.begun = make(chan struct{}), make(chan struct{})
	d.canceled, d.cancelAll = context.WithCancelCause(context.Background())
	d.canceling = d.canceled.Done()
	d.cancelAt.Store(math.MaxInt64)
}

// Shutdown drains the registry, in this order:
//
//  1. No new task is admitted: [ErrClosed]. [Registry.Stopping] is closed.
//  2. Tasks that cannot start before step 4 are dropped, or handed over (see [HandOver]):
//     those with a [Delay] or a retry's backoff that ends later, and those that are queued
//     in a pool with AtStopDrop.
//  3. It waits for the tasks to end. A running task may still submit tasks with its own
//     context, so that the last step of a chain is not lost.
//  4. [Config].CancelBefore before ctx's deadline, or when ctx is done, the contexts of
//     running tasks are canceled with the cause [ErrShutdown]; tasks that have not
//     started are dropped, or handed over; nothing is admitted any more.
//  5. It waits for the tasks that are left, until ctx is done.
//
// If ctx has no deadline and is never done, no context is ever canceled: Shutdown waits
// for as long as the tasks take.
//
// Shutdown returns nil when all tasks and the goroutines that ran them have ended. If ctx
// is done first, it returns a [*DrainError], which wraps ctx.Err(), names the tasks that
// have not ended and has their stacks; their contexts have been canceled. The process may
// then exit, or call Shutdown again to keep waiting.
//
// Shutdown may be called many times, and concurrently: the calls share one drain. If ctx
// is the context of one of the registry's own tasks, for which Shutdown would have to
// wait, it returns an [ErrInvalid] at once.
//
// Shutdown does not stop what submits tasks: stop the servers first, as [Registry.Run]
// does. Pools need no shutdown of their own.
func (r *Registry) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	if t, ok := FromContext(ctx); ok && t.queue.reg == r {
		return fmt.Errorf("%w: Shutdown was called with the context of task %q, for which it would wait", ErrInvalid, t.Name())
	}
	err := r.drainTasks(ctx)
	r.flushStopLog(lastRecords)
	return err
}

// drainTasks is Shutdown without the wait for the log handler.
func (r *Registry) drainTasks(ctx context.Context) error {
	d := &r.drain
	var cancelTime <-chan time.Time
	deadline, ok := ctx.Deadline()
	defer d.progress.begin("drain", deadline)()
	if ok {
		left := max(0, time.Until(deadline))
		until := left - r.lastPart(left)
		timer := time.NewTimer(until)
		defer timer.Stop()
		cancelTime = timer.C
		d.begin(ctx, r, later(r.now(), until))
	} else {
		d.begin(ctx, r, math.MaxInt64)
	}
	for {
		wake := d.waiter() // before drained: what ends after that closes it
		if d.drained(r) {
			break
		}
		select {
		case <-wake:
		case <-cancelTime:
			d.cancel(ctx, r)
		case <-ctx.Done():
			d.cancel(ctx, r)
			if report := d.settle(r); report != nil {
				err := &DrainError{report, ctx}
				r.stopLog(slog.LevelError, "drain: tasks left", append(report.attrs(), slog.Any("error", err), slog.String("stacks", report.stacks()))...)
				return err
			}
		}
	}
	if !r.stuck.stop(ctx, r.now()) {
		err := &DrainError{d.makeReport(r), ctx}
		r.stopLog(slog.LevelError, "drain: the report of a stuck task has not ended", slog.Any("error", err))
		return err
	}
	r.stopLog(slog.LevelInfo, "drain: done", d.makeReport(r).attrs()...)
	return nil
}

// settle returns the report of a drain whose time is up, or nil if no task is left after
// all: if all of them are recorded, the goroutines that ended them are about to exit. A
// task that was admitted and is not in the table yet is not in the report either, so
// settle makes another one soon.
func (d *drain) settle(r *Registry) *Report {
	again := time.NewTicker(lateReport)
	defer again.Stop()
	for {
		wake := d.waiter()
		report := d.makeReport(r)
		if report.left > 0 {
			return report
		}
		if d.drained(r) {
			return nil
		}
		select {
		case <-wake:
		case <-again.C:
		}
	}
}

// Stopping returns a channel that is closed when the stop begins: at the first signal
// that [Registry.Run] receives, before any server is stopped, or when [Registry.Shutdown] is
// called. Streams, websockets and producers, such as a queue's consumer, should stop when
// it is closed. Tasks are still admitted until the drain begins. [StoppingFrom] returns
// the same channel to the body of a task.
func (r *Registry) Stopping() <-chan struct{} { return r.drain.stopping }

// Ready reports whether the process wants new work. It is false once Run has received a
// signal or Shutdown has begun. It is for the readiness probe.
func (r *Registry) Ready() bool {
	select {
	case <-r.drain.stopping:
		return false
	default:
		return true
	}
}

// beginStop closes stopping, ends the loops and calls the OnStop of running tasks. Other tasks
// are still admitted.
func (d *drain) beginStop(r *Registry) {
	d.stopOnce.Do(func() {
		d.progress.start()
		close(d.stopping)
		r.stopLoops()
		for _, q := range r.allQueues() {
			for t := range q.table.All() {
				if t.State() == Running { // one that starts from here on finds stopping closed
					t.callOnStop()
				}
			}
		}
	})
}

// begin begins the drain, if no other Shutdown has, and drops the tasks that cannot start
// before cancelAt.
func (d *drain) begin(ctx context.Context, r *Registry, cancelAt int64) {
	d.mu.Lock()
	first := d.phase.Load() == open
	earlier := cancelAt < d.cancelAt.Load()
	if earlier {
		d.cancelAt.Store(cancelAt)
	}
	if moreTime(ctx, d.handOverContext()) {
		d.handOver.Store(&ctx)
	}
	if first {
		d.tally.begin()
		close(d.begun)
		d.setPhaseLocked(r, draining)
		d.beginStop(r) // what ends after that is in the report
	}
	d.mu.Unlock()
	if first {
		s := r.Stats()
		r.stopLog(slog.LevelInfo, "drain: intake closed", slog.Int("running", s.Running), slog.Int("queued", s.Queued), slog.Int("held", s.Held))
	}
	if first || earlier {
		d.dropTasks(r.allQueues())
	}
	// In a bubble of testing/synctest, goroutines that idle outside must not close the
	// channel of waiter. They are about to exit.
	for r.now() < 0 && d.idlers.Load() > 0 {
		runtime.Gosched()
	}
}

// cancel is step 4 of the drain.
func (d *drain) cancel(ctx context.Context, r *Registry) {
	d.mu.Lock()
	if moreTime(ctx, d.handOverContext()) {
		d.handOver.Store(&ctx)
	}
	first := d.phase.Load() != canceling
	if first {
		d.canceledAt = time.Now()
		d.setPhaseLocked(r, canceling) // from here on nothing starts, and what comes late is dropped
		d.cancelAll(ErrShutdown)
		for _, q := range r.allQueues() {
			q.interruptRunning() // before any Shutdown returns, since each one needs mu for that
		}
	}
	d.mu.Unlock()
	if !first {
		return
	}
	s := r.Stats()
	r.stopLog(slog.LevelWarn, "drain: canceling", slog.Int("running", s.Running), slog.Int("queued", s.Queued), slog.Int("held", s.Held))
	d.dropTasks(r.allQueues())
}

// interruptRunning cancels the contexts of the queue's running tasks. The phase must be
// canceling, so that no other one starts. It calls no code of the user's: nothing can
// delay it.
func (q *queue) interruptRunning() {
	for t := range q.table.All() {
		if t.State() == Running {
			t.interrupt(ErrShutdown)
		}
	}
}

// dropTasks drops the tasks of these queues that the phase does not let start any more,
// those with a hand-over last, since that may take its time. It does not wait: it does so
// on goroutines of its own, because observers and hand-overs may be slow or end the
// goroutine.
func (d *drain) dropTasks(queues []*queue) {
	d.helpers.Add(1)
	go func() {
		defer func() {
			d.helpers.Add(-1)
			d.notify()
		}()
		var waiting, handOvers []*Task
		for _, q := range queues {
			for t := range q.table.All() {
				switch {
				case t.has(done), t.State() == Running:
				case t.hasHandOver():
					handOvers = append(handOvers, t)
				default:
					waiting = append(waiting, t)
				}
			}
		}
		var group errgroup.Group
		group.SetLimit(maxHandOvers)
		for _, t := range append(waiting, handOvers...) {
			group.Go(func() error {
				pprof.SetGoroutineLabels(t.kind.labels)
				t.queue.dropStopped(t)
				return nil
			})
		}
		_ = group.Wait() // what goes wrong is in the outcomes of the tasks
	}()
}

// stopCauseLocked returns why a task that is due then must not start any more, nil if it
// may. The queue's lock must be held.
func (q *queue) stopCauseLocked(t *Task, due int64) error {
	if cause := t.cause(); cause != nil {
		return cause
	}
	if q.phase == open {
		return nil
	}
	if q.pool != nil && !t.isInline() {
		due = max(due, q.order.notBefore(t.startOptions(), q.reg.now()))
	}
	switch {
	case q.phase == canceling:
	case due >= q.reg.drain.cancelAt.Load():
	case q.atStop == AtStopDrop && t.State() == Queued:
	default:
		return nil
	}
	return ErrShutdown
}

func (t *Task) hasHandOver() bool {
	x := t.extra.Load()
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.options != nil && x.options.handOver != nil
}

// setPhaseLocked gives all queues the phase. mu must be held.
func (d *drain) setPhaseLocked(r *Registry, p phase) {
	d.phase.Store(p)
	for _, q := range r.allQueues() {
		d.copyPhaseLocked(q)
	}
}

// join gives a new queue the phase.
func (d *drain) join(q *queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.copyPhaseLocked(q)
}

func (d *drain) copyPhaseLocked(q *queue) {
	q.workers.Lock()
	defer q.workers.Unlock()
	if q.phase = max(q.phase, d.phase.Load()); q.phase != open { // that of the loops is ahead
		q.table.Close()
		q.workers.RetireIdle()
	}
}

// admits reports whether this task may submit others, now that the drain has begun. from is
// nil if no task submits.
func (d *drain) admits(from *Task, r *Registry) bool {
	return from != nil && from.queue.reg == r && !from.has(done) && d.phase.Load() == draining
}

// numberLate takes a number for a task that is submitted during the drain.
func (d *drain) numberLate(from *Task, r *Registry, q *queue) (table.Slot[Task], bool) {
	d.mu.Lock() // or drained could count one queue before from has ended, and another one before its child has come
	defer d.mu.Unlock()
	if d.complete || q == r.loops || !d.admits(from, r) {
		return table.Slot[Task]{}, false
	}
	return q.table.NextLate(), true
}

// drained reports whether nothing is live. If so, nothing is admitted any more.
func (d *drain) drained(r *Registry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// In this order: an abort raises helpers before it counts its task as ended, and
	// wakes a worker before it lowers helpers again.
	live := 0
	for _, q := range r.allQueues() {
		q.workers.Lock()
		live += int(q.table.Count() - q.endedLocked())
		q.workers.Unlock()
	}
	busy := int(d.helpers.Load())
	for _, q := range r.allQueues() {
		busy += q.workers.Count() // they may be finishing what has ended
	}
	d.complete = d.complete || live == 0 && busy == 0
	return live == 0 && busy == 0
}

// waiter returns a channel that the next notify closes.
func (d *drain) waiter() <-chan struct{} {
	d.wakeMu.Lock()
	defer d.wakeMu.Unlock()
	if d.wake == nil {
		d.wake = make(chan struct{})
	}
	return d.wake
}

// notify wakes the Shutdowns that wait.
func (d *drain) notify() {
	d.wakeMu.Lock()
	defer d.wakeMu.Unlock()
	if d.wake != nil {
		close(d.wake)
		d.wake = nil
	}
}

// handOverContext returns the context that hand-overs end with, nil if the drain has not
// begun.
func (d *drain) handOverContext() context.Context {
	if ctx := d.handOver.Load(); ctx != nil {
		return *ctx
	}
	return nil
}

// moreTime reports whether a context gives hand-overs more time than another, which may
// be nil.
func moreTime(ctx, than context.Context) bool {
	if than == nil || than.Err() != nil {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	until, bounded := ctx.Deadline()
	before, wasBounded := than.Deadline()
	return wasBounded && (!bounded || until.After(before))
}
