package tether

import (
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/bubble"
	"github.com/seed-2e639f12/tether/internal/headroom"
	"github.com/seed-2e639f12/tether/internal/namecache"
	"github.com/seed-2e639f12/tether/internal/opaqueid"
	"github.com/seed-2e639f12/tether/internal/workers"
)

// Config configures a [Registry]. The zero value is ready to use.
type Config struct {
	// Limit is the maximum number of live tasks, all pools together. A submission beyond
	// it is refused with a [*FullError]. Zero means no limit.
	Limit int

	// MemoryHeadroom is how many bytes must be left below the process's memory limit
	// (GOMEMLIMIT, or debug.SetMemoryLimit) for a task to be admitted. A submission that
	// finds less is refused at once, in any pool, with a [*MemoryError]. It bounds what
	// waits to run, not what the admitted tasks allocate: Workers does that. The metrics of
	// package runtime/metrics are read at most every 2 ms, by a submission. If they cannot
	// tell garbage from memory that is needed, a garbage collection is started; submissions
	// are refused until it has ended. Without a memory limit there is no refusal. Zero means
	// that memory is not looked at.
	MemoryHeadroom int64

	// Timeout is the default for tasks submitted without the [Timeout] option. Zero means
	// no timeout. It does not apply to loops.
	Timeout time.Duration

	// CancelBefore is how long before the deadline of Shutdown's context the contexts of
	// the tasks are canceled. If Shutdown has less than twice that time, they are
	// canceled after half of it. Zero means 5 s.
	CancelBefore time.Duration

	// Retain is how many finished tasks [Registry.Find] and [Registry.Finished] know, and
	// RetainFor for how long. Failed tasks, panicked tasks, and tasks marked with
	// [Task.Keep], are retained separately, up to Retain each, so that others cannot evict
	// them. Zero means 1024 tasks and 1 hour. If Retain is negative, only tasks marked with Keep are retained, up
	// to 1024 of them. Of a task that was not marked with Keep, the value of a [Submit] is
	// not retained: see [Result].
	Retain    int
	RetainFor time.Duration

	// Logger gets one record for each panic (Error); for each failure, timeout or drop
	// that is not awaited by then (Warn); for each stuck task (Warn); for failed attempts
	// that are retried (Info), for loops that are restarted (Warn), for tasks that wait
	// longer than their pool's MaxWait (Warn) and for refusals of [Detach] (Warn), each at
	// most once a second for each name and pool, in which "omitted" counts the others; and
	// for the phases of the drain (Info, Warn, Error).
	// Success is not logged, and neither are cancellations, nor drops that the report of
	// the drain lists. A record about a task has its name, ID, pool, Unique key and
	// labels, and its context has the task's values. If nil, slog.Default is used, which
	// is looked up for each record.
	//
	// A panic of the Logger's handler is contained. A handler that blocks delays the task
	// that a record is about, but neither Shutdown nor Run: they do not wait for it for more
	// than a quarter of a second once all else has ended.
	Logger *slog.Logger

	// Observer, if non-nil, is notified of every task.
	Observer Observer

	// StuckAfter is how long an attempt may run before the task is reported as stuck, once,
	// with the stack of its goroutine: to the Logger, to a [StuckObserver], and in [Info].
	// The task goes on. The report is at most StuckAfter/16 (at least 1ms) late; later if
	// many tasks are stuck at once. To take a stack stops all goroutines for some
	// milliseconds; in a process with more than 2000 goroutines none is stopped, and the
	// stacks are those of all tasks of the name. Zero means that no task is reported. The
	// option [StuckAfter] overrides it for one task; a loop is not reported.
	StuckAfter time.Duration

	// OnPanic is what a panic of a body or of a callback does. The zero value recovers it.
	OnPanic PanicPolicy
}

// PanicPolicy is what a panic of a body or of a callback of a task does.
type PanicPolicy uint8

const (
	// PanicRecover makes a body's panic the outcome of its task, and logs it with its stack.
	PanicRecover PanicPolicy = iota
	// PanicCrash logs the panic and lets it end the process, before the task is done.
	PanicCrash
)

// Registry admits tasks and holds each of them until it has ended. It must be made by
// [New]. Its methods are safe for concurrent use.
type Registry struct {
	cfg       Config
	born      time.Time // before any task, so that now is never 0
	inBubble  bool      // made inside a bubble of testing/synctest
	key       opaqueid.Key
	kinds     namecache.Cache[kind] // of the tasks on no pool
	shards    []*queue              // for the tasks on no pool; their number is a power of two
	loops     *queue                // for the loops
	lost      chan *Task            // receives an essential loop that has ended on its own
	seed      maphash.Seed
	history   history
	unique    uniqueKeys
	live      atomic.Int64    // live tasks; counted only if there is a Limit
	refusals  atomic.Uint64   // by the registry, not by a pool
	closed    chan struct{}   // closed: the Done of a task that had ended before Done was called
	noOptions options         // of a task without options; never written
	noStart   startOptions    // likewise
	observers *observers      // the Observer; nil if there is none
	memory    *headroom.Guard // nil if there is no MemoryHeadroom
	stuck     stuckDetector
	logs      logs
	drain     drain

	queuesMu sync.Mutex
	queues   atomic.Pointer[[]*queue] // the shards and the pools', by number; replaced under queuesMu
}

// kind is what all tasks of one name on one pool share.
type kind struct {
	name   string
	labels context.Context // has the profiler labels of their goroutines

	retryLog, refusalLog, overdueLog rateLimit
}

// Profiler labels of the goroutines that run tasks.
const (
	labelTask = "tether.task"
	labelPool = "tether.pool"
)

const (
	defaultCancelBefore = 5 * time.Second
	defaultRetain       = 1024
	defaultRetainFor    = time.Hour
	maxShards           = 64
)

// New returns a registry. It starts no goroutine. It panics if cfg is invalid, which is
// a programming error: if a number other than Retain is negative.
func New(cfg Config) *Registry {
	if cfg.Limit < 0 || cfg.MemoryHeadroom < 0 || cfg.Timeout < 0 || cfg.CancelBefore < 0 || cfg.RetainFor < 0 || cfg.StuckAfter < 0 || cfg.OnPanic > PanicCrash {
		panic(fmt.Sprintf("tether: New: negative or unknown setting in %+v", cfg))
	}
	if cfg.CancelBefore == 0 {
		cfg.CancelBefore = defaultCancelBefore
	}
	if cfg.Retain == 0 {
		cfg.Retain = defaultRetain
	}
	if cfg.RetainFor == 0 {
		cfg.RetainFor = defaultRetainFor
	}
	now := time.Now()
	r := &Registry{cfg: cfg, born: now.Add(-1), inBubble: bubble.Inside(now), key: opaqueid.NewKey(), seed: maphash.MakeSeed(), closed: make(chan struct{}), lost: make(chan *Task, 1)}
	close(r.closed)
	r.unique.holders = make(map[string]*uniqueHolder)
	if all := JoinObservers(cfg.Observer).(*observers); len(all.each) > 0 {
		all.reg = r
		r.observers = all
	}
	r.initMemory()
	r.drain.init()
	r.stuck.init()
	r.history.init(r)
	r.kinds.Init(func(name string) *kind {
		return &kind{name: name, labels: pprof.WithLabels(context.Background(), pprof.Labels(labelTask, name))}
	})
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < maxShards {
		n *= 2
	}
	r.queues.Store(new([]*queue))
	for range n {
		r.shards = append(r.shards, r.newQueue())
	}
	r.loops = r.newQueue()
	return r
}

// newQueue makes a queue for tasks on no pool.
func (r *Registry) newQueue() *queue {
	q := new(queue)
	q.order.init(PoolConfig{})
	q.order.noShares = true
	q.init(r, nil, workers.Unlimited)
	r.addQueue(q)
	return q
}

// addQueue gives a queue its number.
func (r *Registry) addQueue(q *queue) {
	r.queuesMu.Lock()
	defer r.queuesMu.Unlock()
	queues := *r.queues.Load()
	q.num = uint32(len(queues))
	queues = append(queues[:len(queues):len(queues)], q)
	r.queues.Store(&queues)
	r.drain.join(q)
}

// allQueues returns the queues there are, by number.
func (r *Registry) allQueues() []*queue { return *r.queues.Load() }

// now returns the time as tasks record it.
func (r *Registry) now() int64 { return int64(time.Since(r.born)) }

func (r *Registry) time(ns int64) time.Time { return r.born.Add(time.Duration(ns)) }

// Go submits a task that starts at once on a goroutine of its own, as the go statement
// does. The registry holds it until it has ended.
//
// Go returns a typed error if the task is not admitted: [ErrInvalid] if an argument is
// invalid, [ErrClosed] once Shutdown has begun (unless ctx is that of a running task), a
// [*FullError] beyond the Limit, a [*MemoryError] below the MemoryHeadroom. ctx only
// supplies values to the body; it may already be done.
//
// A task that submits its successor forever should do so with its own ctx: a context that
// is derived from it would grow with each generation, as contexts do.
//
// A name has 1 to 128 bytes of printable UTF-8. It names a kind of task ("send welcome
// mail"), not a single one: logs, metrics and profiles are grouped by it.
func (r *Registry) Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error) {
	return r.submit(ctx, nil, name, fn, nil, opts)
}

// Find returns the task with this ID. The error is [ErrNotFound] for an ID that this
// registry has not made, and [ErrExpired] for a task that has ended and is no longer
// retained.
func (r *Registry) Find(id string) (*Task, error) {
	n, num, ok := r.key.Open(id)
	queues := r.allQueues()
	if !ok || int64(n) >= int64(len(queues)) {
		return nil, ErrNotFound
	}
	t, known := queues[n].table.Get(num)
	switch {
	case !known:
		return nil, ErrNotFound
	case t == nil || t.has(done) && !r.history.retains(t):
		return nil, ErrExpired
	}
	return t, nil
}

// Tasks returns the live tasks, in no order. Tasks may be submitted and end meanwhile; a
// task that is live throughout is yielded exactly once. No lock is held while it yields.
func (r *Registry) Tasks() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for _, q := range r.allQueues() {
			for t := range q.table.All() {
				if !t.State().Final() && !yield(t) {
					return
				}
			}
		}
	}
}

// Finished returns the finished tasks that are retained, newest first.
func (r *Registry) Finished() iter.Seq[*Task] { return r.history.all() }

// FinishedSince returns how far back [Registry.Finished] is complete: it has every task that
// ended after that time, except those that [Task.Forget] was called for. Rates and shares of
// the tasks that are retained are to be taken from that time on, because failures are
// retained for longer than a flood of successes.
func (r *Registry) FinishedSince() time.Time { return r.history.since() }

// Stats are counts of tasks. In every Stats that is ever read
//
//	Submitted == Succeeded+Failed+Panicked+Canceled+Dropped + Held+Queued+Running
type Stats struct {
	Submitted, Refused                             uint64
	Succeeded, Failed, Panicked, Canceled, Dropped uint64
	Held, Queued, Running                          int
	Loops                                          int // how many of those three are loops, see [Registry.Loop]
}

func (s *Stats) add(o Stats) {
	s.Submitted += o.Submitted
	s.Refused += o.Refused
	s.Succeeded += o.Succeeded
	s.Failed += o.Failed
	s.Panicked += o.Panicked
	s.Canceled += o.Canceled
	s.Dropped += o.Dropped
	s.Held += o.Held
	s.Queued += o.Queued
	s.Running += o.Running
	s.Loops += o.Loops
}

// Stats returns the registry's counts, those of its pools included. The end of a task is
// counted before its Done is closed. The standard library's expvar shows them as they
// are: expvar.Publish("tether", expvar.Func(func() any { return r.Stats() })).
func (r *Registry) Stats() Stats { return r.sum(r.allQueues()) }

// OwnStats returns the counts of the tasks that are on no pool: with the Stats of the
// Pools they add up to Stats.
func (r *Registry) OwnStats() Stats { return r.sum(append(slices.Clip(r.shards), r.loops)) }

func (r *Registry) sum(queues []*queue) Stats {
	s := Stats{Refused: r.refusals.Load()}
	for _, q := range queues {
		q.workers.Lock()
		s.add(q.statsLocked())
		q.workers.Unlock()
	}
	return s
}

// Pools returns the registry's pools, in the order in which they were made.
func (r *Registry) Pools() iter.Seq[*Pool] {
	return func(yield func(*Pool) bool) {
		for _, q := range r.allQueues() {
			if q.pool != nil && !yield(q.pool) {
				return
			}
		}
	}
}
