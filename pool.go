package tether

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/namecache"
	"github.com/seed-2e639f12/tether/internal/workers"
)

// Unbounded is the [PoolConfig].Queue of a pool without a bound on its queue.
const Unbounded = math.MaxInt32

// Overflow is what happens when a task is submitted to a full pool.
type Overflow uint8

const (
	// OverflowReject makes Go return a [*FullError] at once.
	OverflowReject Overflow = iota
	// OverflowBlock makes Go wait for room until ctx is done. Waiters are served in FIFO
	// order.
	OverflowBlock
	// OverflowDropOldest drops the task that has been queued longest, with ErrFull, and
	// admits the new one. If no queued task can be dropped, the submission is rejected.
	OverflowDropOldest
	// OverflowCallerRuns makes Go run the body itself and return when it has ended. Such
	// bodies do not count against Workers and Capacity. The submission is rejected if
	// the pool is paused, or if the task has Hold, Delay or Serial, with which it may not
	// be able to run now.
	OverflowCallerRuns
)

// AtStop is what happens to the tasks that are queued in a pool when the drain begins.
type AtStop uint8

const (
	// AtStopFinish runs them, as long as the drain has time.
	AtStopFinish AtStop = iota
	// AtStopDrop drops them at once, or hands them over: see [HandOver]. So are tasks
	// that a running task submits to the pool during the drain. A held task is dropped
	// when it is released, and no later than when contexts are canceled.
	AtStopDrop
)

// PoolConfig configures a [Pool].
type PoolConfig struct {
	// Workers is the maximum number of bodies that run at once. Zero means GOMAXPROCS,
	// which is for work that keeps a processor busy.
	Workers int

	// Queue is the maximum number of tasks that are queued. Zero means that a task needs a
	// free worker to be admitted, Unbounded that there is no bound. A held or delayed task
	// counts. A task that waits for its next attempt occupies a place even if the queue
	// is full, so the queue may exceed Queue by one for each of them for a while.
	Queue int

	// Overflow is what happens when all workers are busy and the queue is full. The zero
	// value rejects the submission.
	Overflow Overflow

	// AtStop is what happens to the queue when the drain begins. The zero value finishes
	// it.
	AtStop AtStop

	// Capacity is the maximum weight that runs at once, see [Weight]. Zero means no bound.
	// Tasks start in order: light ones do not overtake a heavy one.
	Capacity int64

	// ShareWorkers is the maximum number of tasks of one [Share] that run at once, and
	// ShareLimit the maximum number that are live: queued, held or running. Zero means no
	// bound beside those of the pool. The tasks without a Share are one share here. A
	// submission beyond the ShareLimit is refused at once with a [*FullError] that names
	// the share, whatever the Overflow is; only OverflowDropOldest makes room for it, in
	// the same share.
	ShareWorkers, ShareLimit int
}

// Pool runs its registry's tasks on a bounded number of workers, with a bounded queue. It
// is made by [Registry.NewPool] and needs no closing. Its methods are safe for concurrent
// use.
type Pool struct {
	reg      *Registry
	name     string
	cfg      PoolConfig
	kinds    namecache.Cache[kind]
	queue    queue
	refused  atomic.Uint64
	lastFull atomic.Pointer[FullError] // of the last refusal; see full
	workers  atomic.Int64              // written under the queue's lock
	paused   bool                      // guarded by the queue's lock
}

// NewPool makes a pool of the registry. The name has the form of a task's name and should
// differ from those of other pools, because statistics are grouped by it. NewPool panics
// if name or cfg is invalid, which is a programming error.
func (r *Registry) NewPool(name string, cfg PoolConfig) *Pool {
	if err := namecache.Check(name); err != nil {
		panic(fmt.Sprintf("tether: NewPool: %v", err))
	}
	if cfg.Workers < 0 || cfg.Queue < 0 || cfg.Capacity < 0 || cfg.ShareWorkers < 0 || cfg.ShareLimit < 0 || cfg.Overflow > OverflowCallerRuns || cfg.AtStop > AtStopDrop {
		panic(fmt.Sprintf("tether: NewPool(%q): negative or unknown setting in %+v", name, cfg))
	}
	p := &Pool{reg: r, name: name, cfg: cfg}
	n := workerCount(cfg.Workers)
	p.workers.Store(int64(n))
	p.kinds.Init(func(task string) *kind {
		return &kind{name: task, labels: pprof.WithLabels(context.Background(), pprof.Labels(labelTask, task, labelPool, name))}
	})
	q := &p.queue
	q.order.init(cfg)
	q.atStop = cfg.AtStop
	q.init(r, p, n)
	if q.bounded = cfg.Queue < Unbounded; q.bounded {
		q.gate.Init(n, cfg.Queue)
	}
	r.addQueue(q)
	return p
}

func workerCount(n int) int {
	if n == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return min(n, workers.Unlimited)
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.name }

// Registry returns the registry that the pool was made by.
func (p *Pool) Registry() *Registry { return p.reg }

// Go submits a task to the pool. See [Registry.Go] for its arguments and errors. If the
// pool is full, its [Overflow] says what happens. [Config].Limit refuses at once in any
// pool.
func (p *Pool) Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error) {
	return p.reg.submit(ctx, p, name, fn, nil, opts)
}

// Resize changes how many bodies may run at once. Zero means GOMAXPROCS; if n is negative,
// Resize returns an [ErrInvalid] and changes nothing. Running bodies are not affected;
// queued tasks start at once if there is room now.
func (p *Pool) Resize(n int) error {
	if n < 0 {
		return fmt.Errorf("%w: Resize(%d): negative", ErrInvalid, n)
	}
	p.change(func() { p.workers.Store(int64(workerCount(n))) })
	return nil
}

// Pause makes the pool start no further task. Running bodies are not affected, and tasks
// are admitted as long as the queue has room. Shutdown does not resume the pool: what is
// queued is dropped, or handed over, when the drain cancels contexts, or when it begins if
// the pool has AtStopDrop.
func (p *Pool) Pause() { p.change(func() { p.paused = true }) }

// Resume ends a Pause.
func (p *Pool) Resume() { p.change(func() { p.paused = false }) }

// change changes the pool's settings under the queue's lock, and applies them.
func (p *Pool) change(set func()) {
	q := &p.queue
	q.workers.Lock()
	set()
	n := int(p.workers.Load())
	if p.paused {
		n = 0
	}
	q.workers.SetLimit(n)
	q.gate.SetSlots(n)
	q.workers.Unlock()
	q.gate.Wake()
}

// PoolStats are a pool's counts and settings at one instant.
type PoolStats struct {
	Stats                 // the pool's share of the registry's, Refused included
	Name           string // the pool's
	Workers, Queue int    // the maximum numbers of tasks that run, and are queued
	Inline         int    // how many of the Running are run by their submitters (OverflowCallerRuns)
	Weight         int64  // of the tasks that run
	Capacity       int64
	Shares         int // that have live tasks; the tasks without a Share are not counted
	Paused         bool
}

// Stats returns the pool's counts.
func (p *Pool) Stats() PoolStats {
	q := &p.queue
	q.workers.Lock()
	defer q.workers.Unlock()
	return PoolStats{
		Stats: q.statsLocked(), Name: p.name, Workers: int(p.workers.Load()), Queue: p.cfg.Queue,
		Inline: q.inline, Weight: q.order.used, Capacity: p.cfg.Capacity, Shares: q.order.shareCount(), Paused: p.paused,
	}
}

// ShareStats are the counts of one [Share] of a pool at one instant.
type ShareStats struct {
	Share           string // the key; empty for the tasks without one
	Queued, Running int    // tasks that wait for a worker, and that run
}

// Shares returns the n shares that have the most tasks waiting for a worker, largest first.
// It returns none if the pool has not seen a Share.
func (p *Pool) Shares(n int) []ShareStats { return p.queue.sharesOf(n) }

// reserve reserves a place for a task, or returns why there is none. If inline is true,
// there is none, and the caller is to run the task. opts may be nil.
func (p *Pool) reserve(ctx context.Context, opts *submitOptions) (inline bool, err error) {
	q, lasting := &p.queue, opts.task()
	if weight := q.order.weightOf(lasting); q.order.capacity > 0 && weight > q.order.capacity {
		return false, fmt.Errorf("%w: weight %d is more than the capacity of pool %q: %d", ErrInvalid, weight, p.name, q.order.capacity)
	}
	room := queueFull
	if !q.gate.HasWaiters() {
		room = q.tryReserve(lasting)
	}
	switch {
	case room == reserved:
		return false, nil
	case p.cfg.Overflow == OverflowDropOldest:
		if p.replaceOldest(ctx, lasting) {
			return false, nil
		}
	case room == shareFull:
	case p.cfg.Overflow == OverflowBlock:
		return false, p.block(ctx, lasting)
	case p.cfg.Overflow == OverflowCallerRuns:
		if q.gate.Slots() > 0 && (opts == nil || !opts.hold && opts.delay == 0 && opts.serial == "") {
			return true, nil
		}
	}
	if room == shareFull {
		return false, p.shareFull(lasting)
	}
	return false, p.full()
}

// block waits for a place until ctx is done or the drain begins.
func (p *Pool) block(ctx context.Context, opts *options) error {
	stop := p.reg.drain.begun
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
func (q *queue) reserver(opts *options, got *room) func() bool {
	var needed *options
	if opts != nil {
		needed = new(options)
		*needed = *opts
	}
	return func() bool {
		*got = q.tryReserve(needed)
		return *got != queueFull
	}
}

// replaceOldest drops the oldest queued task, of a crowded share or of the task's own if that
// is full, and gives its place to the new one. It reports false if no task can be dropped.
func (p *Pool) replaceOldest(ctx context.Context, opts *options) bool {
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
func (p *Pool) shareFull(opts *options) *FullError {
	q := &p.queue
	err := FullError{Limit: p.cfg.ShareLimit}
	if opts != nil {
		err.Share = opts.share
	}
	q.workers.Lock()
	if s := q.order.find(opts); s != nil {
		err.Running, err.Queued = int(s.running), int(s.live-s.running)
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
	now.RetryAfter = min(after, time.Hour)
	if last := p.lastFull.Load(); last != nil && *last == now {
		return last
	}
	err := new(FullError)
	*err = now
	p.lastFull.Store(err)
	return err
}
