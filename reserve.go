package tether

import (
	"context"
	"fmt"
	"runtime/pprof"
	"time"
)

// room is the answer of tryReserve.
type room uint8

const (
	reserved  room = iota
	queueFull      // the pool has no place
	shareFull      // the task's share is at its limit
)

// tryReserve reserves a place for a task if there is one.
func (q *queue) tryReserve(opts *startOptions) room {
	if !q.order.counts(opts) {
		if q.bounded && !q.gate.TryAcquire(true) {
			return queueFull
		}
		return reserved
	}
	q.lockBusy()
	defer q.workers.Unlock()
	if q.order.full(opts) {
		return shareFull
	}
	var read int64
	now := func() int64 { // one time for both: what could not start before it has an alarm after it
		if read == 0 {
			read = q.reg.now()
		}
		return read
	}
	if q.bounded && !q.gate.TryAcquire(q.order.couldStart(opts, now)) {
		if q.pool.cfg.Overflow == OverflowBlock {
			if at := q.order.notBefore(opts, now()); at > now() {
				q.setAlarmLocked(at) // the submitter tries again then
			}
		}
		return queueFull
	}
	q.order.reserve(opts)
	q.watchWaitLocked()
	return reserved
}

// lockBusy locks the queue for a submitter. If a goroutine has to wait for a mutex, it waits
// for a processor after that, which workers that compute leave after 10 ms only: so they yield
// as long as a submitter waits (see Run).
func (q *queue) lockBusy() {
	if q.workers.TryLock() {
		return
	}
	q.contended.Add(1)
	q.workers.Lock()
	q.contended.Add(-1)
}

// isShareFull reports whether the share of a task is at its limit.
func (q *queue) isShareFull(opts *startOptions) bool {
	if !q.order.bounded {
		return false
	}
	q.workers.Lock()
	defer q.workers.Unlock()
	return q.order.full(opts)
}

// isSharePaused reports whether the share of a task may not start one now.
func (q *queue) isSharePaused(opts *startOptions) bool {
	q.workers.Lock()
	defer q.workers.Unlock()
	now := q.reg.now()
	return q.order.notBefore(opts, now) > now // a pool of OverflowCallerRuns has no Rate
}

// unreserve gives back the place of a task that was not made.
func (q *queue) unreserve(opts *startOptions) {
	q.workers.Lock()
	q.order.unreserve(opts)
	if q.bounded {
		q.gate.Withdraw()
	}
	q.workers.Unlock()
	q.gate.Wake()
	q.workers.Wake()
}

// reserve reserves a place for a task, or returns why there is none. If inline is true,
// there is none, and the caller is to run the task. opts may be nil.
func (p *Pool) reserve(ctx context.Context, opts *submitOptions) (inline bool, err error) {
	q, start := &p.queue, opts.startOptions()
	if weight := q.order.weightOf(start); weight > q.order.capacity {
		return false, fmt.Errorf("%w: weight %d is more than the capacity of pool %q: %d", ErrInvalid, weight, p.name, q.order.capacity)
	}
	room := queueFull
	switch {
	case !q.gate.HasWaiters():
		room = q.tryReserve(start)
	case q.isShareFull(start):
		room = shareFull
	}
	switch {
	case room == reserved:
		return false, nil
	case p.cfg.Overflow == OverflowDropOldest:
		if p.replaceOldest(ctx, start) {
			return false, nil
		}
	case room == shareFull:
	case p.cfg.Overflow == OverflowBlock:
		return false, p.block(ctx, start)
	case p.cfg.Overflow == OverflowCallerRuns:
		if q.gate.Slots() > 0 && (opts == nil || !opts.hold && opts.start.delay == 0 && opts.start.serial == "") && !q.isSharePaused(start) {
			return true, nil
		}
	}
	if room == shareFull {
		return false, p.shareFull(start)
	}
	return false, p.full()
}

// block waits for a place until ctx is done or the drain begins.
func (p *Pool) block(ctx context.Context, opts *startOptions) error {
	var stop <-chan struct{} = p.reg.drain.begun
	if from, ok := FromContext(ctx); ok && from.queue.reg == p.reg {
		stop = p.reg.drain.canceling // what a running task submits is admitted for longer
	}
	room := queueFull // written before Acquire returns true
	if p.queue.gate.Acquire(ctx, stop, p.queue.reserver(opts, &room)) {
		if room == shareFull {
			return p.shareFull(opts)
		}
		return nil
	}
	select {
	case <-stop:
		return ErrClosed
	default:
		return fmt.Errorf("%w: %w", p.full(), context.Cause(ctx))
	}
}

// reserver returns tryReserve for a waiter. The wait ends if the task's share is full, too:
// those behind it must not wait for that share. It copies what tryReserve needs: to capture
// opts would make the options of every submission escape to the heap.
func (q *queue) reserver(opts *startOptions, got *room) func() bool {
	var needed *startOptions
	if opts != nil {
		needed = new(startOptions)
		*needed = *opts
	}
	return func() bool {
		*got = q.tryReserve(needed)
		return *got != queueFull
	}
}

// replaceOldest drops the oldest queued task, of a crowded share or of the task's own if that
// is full, and gives its place to the new one. It reports false if no task can be dropped.
func (p *Pool) replaceOldest(ctx context.Context, opts *startOptions) bool {
	q := &p.queue
	q.workers.Lock()
	q.workers.TakeOver()
	from := q.order.crowded()
	if q.order.full(opts) {
		from = q.order.find(opts)
	}
	oldest := q.order.oldest(from)
	if oldest == nil {
		q.workers.Unlock()
		return false
	}
	q.takeAwayLocked(oldest)
	q.order.aborted-- // it is out of the order already
	q.order.reserve(opts)
	q.workers.Unlock()
	q.workers.Wake() // what had to wait behind it may start
	// On a goroutine of its own: an observer or a hand-over may be slow, or end it.
	go func() {
		pprof.SetGoroutineLabels(oldest.kind.labels)
		q.drop(ctx, oldest, ErrFull)
	}()
	select {
	case <-oldest.doneChan():
	case <-ctx.Done():
	}
	return true
}

// full returns the error of a refusal.
func (p *Pool) full() *FullError {
	queued, running := p.queue.gate.Count()
	workers := int(p.workers.Load())
	return p.fullError(FullError{Running: running, Queued: queued, Limit: p.cfg.Queue + workers}, workers)
}

// shareFull returns the error of a refusal because of the limit of a share.
func (p *Pool) shareFull(opts *startOptions) *FullError {
	q := &p.queue
	err := FullError{Limit: p.cfg.ShareLimit}
	if opts != nil {
		err.Share = opts.share
	}
	q.workers.Lock()
	if s := q.order.find(opts); s != nil {
		err.Running, err.Queued = int(s.running), int(s.live-s.running)
		err.RetryAfter = time.Duration(q.order.sharePace.interval)
		if now, at := q.reg.now(), q.order.earliest(s); at > now {
			err.RetryAfter = max(err.RetryAfter, time.Duration(at-now))
		}
	}
	q.workers.Unlock()
	return p.fullError(err, err.Running) // which is how many workers the share has had of late
}

// fullError completes the error of a refusal, by so many workers that make room. As long as
// the pool is as full as it was, it is the same error, so that refusing a burst allocates
// nothing.
func (p *Pool) fullError(now FullError, workers int) *FullError {
	now.Pool = p.name
	after := time.Duration(p.queue.mean.Load()) * time.Duration(now.Queued+1) / time.Duration(max(1, workers))
	if after <= 0 {
		after = time.Second // no task has ended yet
	}
	now.RetryAfter = min(max(after, now.RetryAfter), time.Hour)
	if last := p.lastFull.Load(); last != nil && *last == now {
		return last
	}
	err := new(FullError)
	*err = now
	p.lastFull.Store(err)
	return err
}
