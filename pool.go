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
	"github.com/seed-2e639f12/tether/internal/waits"
	"github.com/seed-2e639f12/tether/internal/workers"
)

// Unbounded is the [PoolConfig].Queue of a pool without a bound on its queue.
const Unbounded = math.MaxInt32

// Overflow is what happens when a task is submitted to a full pool.
type Overflow uint8

const (
	// OverflowReject makes Go return a [*FullError] at once. After every 64 refusals of the
	// pool the submitter yields its processor, so that a loop that submits again at once
	// lets the workers run.
	OverflowReject Overflow = iota
	// OverflowBlock makes Go wait for room until ctx is done. Waiters are served in FIFO
	// order: if the queue is full and the [Share] of the first waiter may not start a task
	// now, for example because of [PauseShare], the other waiters wait behind it. What is
	// beyond a ShareLimit does not wait but is refused.
	OverflowBlock
	// OverflowDropOldest drops the task that has been queued longest, with ErrFull, and
	// admits the new one. If no queued task can be dropped, the submission is rejected.
	OverflowDropOldest
	// OverflowCallerRuns makes Go run the body itself and return when it has ended. Such
	// bodies do not count against Workers, Capacity and ShareWorkers. The submission is
	// rejected if the pool or the task's share is paused, or if the task has Hold, Delay or
	// Serial, with which it may not be able to run now. A Rate and a ShareRate cannot be
	// combined with it.
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

	// Rate bounds how many attempts of the pool start in a time, and ShareRate how many of
	// each [Share]. Tasks wait for that in the queue, without a worker. The zero value is no
	// bound. See [PauseShare] for a share that is told to wait.
	Rate, ShareRate Rate

	// MaxWait is how long a task may wait for a worker. One that has waited as long is never
	// started: it is dropped with a [*MaxWaitError], or handed over (see [HandOver]). The
	// wait begins when the task is queued, also after Hold, Delay or the wait for a retry;
	// a task that has started before is canceled instead of dropped. A task is dropped at
	// most a few percent of MaxWait late, and 10 ms. Zero means no bound.
	MaxWait time.Duration
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

	_       [64]byte        // refusals write the fields before
	overdue uint64          // tasks that have waited for MaxWait; guarded by the queue's lock
	waits   waits.Histogram // for a worker; guarded by the queue's lock
}

// NewPool makes a pool of the registry. The name has the form of a task's name and should
// differ from those of other pools, because statistics are grouped by it. NewPool panics
// if name or cfg is invalid, which is a programming error.
func (r *Registry) NewPool(name string, cfg PoolConfig) *Pool {
	if err := namecache.Check(name); err != nil {
		panic(fmt.Sprintf("tether: NewPool: %v", err))
	}
	if cfg.Workers < 0 || cfg.Queue < 0 || cfg.Capacity < 0 || cfg.ShareWorkers < 0 || cfg.ShareLimit < 0 || cfg.MaxWait < 0 || !cfg.Rate.valid() || !cfg.ShareRate.valid() || cfg.Overflow > OverflowCallerRuns || cfg.AtStop > AtStopDrop {
		panic(fmt.Sprintf("tether: NewPool(%q): negative or unknown setting in %+v", name, cfg))
	}
	if cfg.Overflow == OverflowCallerRuns && (cfg.Rate != Rate{} || cfg.ShareRate != Rate{}) {
		panic(fmt.Sprintf("tether: NewPool(%q): a task that its submitter runs cannot wait for a Rate", name))
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

	MaxWait time.Duration
	Overdue uint64 // tasks that were dropped or canceled because they have waited for MaxWait

	// How long those of the last one or two minutes have waited for a worker that have
	// started: the median, the 90th and the 99th percentile, at most a quarter too much.
	WaitP50, WaitP90, WaitP99 time.Duration
}

// Stats returns the pool's counts.
func (p *Pool) Stats() PoolStats {
	q := &p.queue
	q.workers.Lock()
	defer q.workers.Unlock()
	wait := p.waits.Quantiles(p.reg.now(), .5, .9, .99)
	return PoolStats{
		Stats: q.statsLocked(), Name: p.name, Workers: int(p.workers.Load()), Queue: p.cfg.Queue,
		Inline: q.inline, Weight: q.order.used, Capacity: p.cfg.Capacity, Shares: q.order.shareCount(), Paused: p.paused,
		MaxWait: p.cfg.MaxWait, Overdue: p.overdue, WaitP50: wait[0], WaitP90: wait[1], WaitP99: wait[2],
	}
}

// ShareStats are the counts of one [Share] of a pool at one instant.
type ShareStats struct {
	Share           string // the key; empty for the tasks without one
	Queued, Running int    // tasks that wait for a worker, and that run

	// NotBefore is when the next task may start, if that is later than now, because of
	// ShareRate or [PauseShare].
	NotBefore time.Time
}

// Shares returns the n shares that have the most tasks waiting for a worker, largest first.
// It returns none if the pool has not seen a Share.
func (p *Pool) Shares(n int) []ShareStats { return p.queue.sharesOf(n) }
