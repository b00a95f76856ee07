package tether

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"reflect"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/crew"
	"github.com/seed-2e639f12/tether/internal/names"
	"github.com/seed-2e639f12/tether/internal/retain"
	"github.com/seed-2e639f12/tether/internal/seal"
	"github.com/seed-2e639f12/tether/internal/spread"
	"github.com/seed-2e639f12/tether/internal/table"
)

// Config sets a [Registry] up. The zero Config is a good one.
type Config struct {
	// Limit is the most live tasks, all pools together: beyond it submissions are
	// refused with a [*FullError]. 0: no limit.
	Limit int
	// Timeout is that of tasks that set none, see [Timeout]. 0: none.
	Timeout time.Duration
	// CancelBefore is how long before the deadline of Shutdown's context the tasks'
	// contexts are cancelled, but at most half of the time there is. 0: 5 s.
	CancelBefore time.Duration
	// Retain is how many finished tasks Find and Finished still know, and
	// RetainFor for how long. 0: 1024, and 1 hour; Retain below 0: none. As many
	// again are known of those that failed or panicked, so that the others do not push
	// them out, and of those that were to be kept, see [Task.Keep].
	Retain    int
	RetainFor time.Duration
	// Logger gets one record for each panic (Error), for each failure, timeout or
	// drop that nobody has waited for by then (Warn), for each stuck task (Warn), and
	// for each phase of the drain (Info, Warn, Error). Success is not logged. nil:
	// slog.Default().
	Logger *slog.Logger
	// Observer is told of every task. nil: nobody is.
	Observer Observer
	// StuckAfter is how long an attempt may run before the task is reported with the stack
	// of its goroutine: once, to the Logger, to a [StuckObserver], and in [Info]. The
	// report comes at most a sixteenth of StuckAfter later, and a millisecond, unless so much
	// is stuck that to report it takes longer. The task runs on. For its stack all
	// goroutines stop for some milliseconds; in a process of more than 2000 none does,
	// and the stacks are those of all tasks of that name. 0: never.
	StuckAfter time.Duration
	// OnPanic says what a panic of a body or of a callback does.
	OnPanic PanicPolicy
}

// PanicPolicy says what a panic of a body or of a callback does.
type PanicPolicy uint8

const (
	// Recover makes a body's panic the outcome of its task, and logs it with its stack.
	PanicRecover PanicPolicy = iota
	// Crash logs it and lets it end the process, before anybody who waits for the
	// task is told.
	PanicCrash
)

// Registry admits tasks and holds each until it has ended. It is made by [New];
// all methods may be called by many goroutines at once.
type Registry struct {
	cfg       Config
	logs      logs
	birth     time.Time // before any task's: now is never 0
	key       seal.Key
	kinds     names.Cache[kind]
	own       []*lane // for tasks on no pool; a power of two
	seed      maphash.Seed
	finished  *retain.Store[Task] // nil if none is retained
	failed    *retain.Store[Task] // those that failed or panicked; nil with finished
	kept      *retain.Store[Task] // those that were to be kept; nil with finished
	live      atomic.Int64        // only counted if there is a Limit
	refused   atomic.Uint64       // by no pool
	closed    chan struct{}       // is closed: the Done of what has ended before anybody asked
	noOptions options             // never written
	cancelKey any                 // see cancelKey
	observers *observers          // the Observer; nil if there is none
	stuck     watch

	uniqueMu sync.Mutex
	unique   map[string]*uniqueTask // guarded by uniqueMu

	lanesMu sync.Mutex
	lanes   atomic.Pointer[[]*lane] // own and the pools', by number; replaced under lanesMu

	drain drain
}

// kind is what all tasks of one name on one pool share.
type kind struct {
	name   string
	labels context.Context // with the profiler labels of their goroutines
}

// New returns a registry. It starts no goroutine. It panics if cfg is invalid, which is
// a programming error: if a setting other than Retain is negative.
func New(cfg Config) *Registry {
	if cfg.Limit < 0 || cfg.Timeout < 0 || cfg.CancelBefore < 0 || cfg.RetainFor < 0 || cfg.StuckAfter < 0 || cfg.OnPanic > PanicCrash {
		panic(fmt.Sprintf("tether: New: negative or unknown setting in %+v", cfg))
	}
	if cfg.CancelBefore <= 0 {
		cfg.CancelBefore = 5 * time.Second
	}
	if cfg.Retain == 0 {
		cfg.Retain = 1024
	}
	if cfg.RetainFor <= 0 {
		cfg.RetainFor = time.Hour
	}
	r := &Registry{cfg: cfg, birth: time.Now().Add(-1), key: seal.NewKey(), seed: maphash.MakeSeed(), closed: make(chan struct{})}
	close(r.closed)
	r.unique = make(map[string]*uniqueTask)
	r.cancelKey = cancelKey()
	if all := JoinObservers(cfg.Observer).(*observers); len(all.each) > 0 {
		all.reg = r
		r.observers = all
	}
	r.drain.init()
	if cfg.Retain > 0 {
		r.finished, r.failed, r.kept = new(retain.Store[Task]), new(retain.Store[Task]), new(retain.Store[Task])
		age := func(t *Task) time.Duration { return time.Duration(r.now() - t.ended) }
		r.finished.Init(cfg.Retain, cfg.RetainFor, age, r.pushedOut)
		r.failed.Init(cfg.Retain, cfg.RetainFor, age, r.pushedOut)
		r.kept.Init(cfg.Retain, cfg.RetainFor, age, r.forget)
	}
	r.kinds.Init(func(name string) *kind {
		return &kind{name, pprof.WithLabels(context.Background(), pprof.Labels(labelTask, name))}
	})
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < maxLanes {
		n *= 2
	}
	r.lanes.Store(new([]*lane))
	for range n {
		l := &lane{reg: r, perKey: 1}
		r.initCrew(l, crew.Unlimited)
		r.own = append(r.own, l)
		r.add(l)
	}
	return r
}

// maxLanes bounds how many queues the registry's own tasks spread over.
const maxLanes = 64

// Profiler labels of the goroutines that run tasks.
const (
	labelTask = "tether.task"
	labelPool = "tether.pool"
)

func (r *Registry) initCrew(l *lane, workers int) {
	l.crew.Init(l, workers)
}

// add gives a lane its number.
func (r *Registry) add(l *lane) {
	r.lanesMu.Lock()
	defer r.lanesMu.Unlock()
	lanes := *r.lanes.Load()
	l.num = uint32(len(lanes))
	lanes = append(lanes[:len(lanes):len(lanes)], l)
	r.lanes.Store(&lanes)
	r.drain.join(l)
}

// all returns the lanes there are, by number.
func (r *Registry) all() []*lane { return *r.lanes.Load() }

// now returns the time as tasks note it.
func (r *Registry) now() int64 { return int64(time.Since(r.birth)) }

func (r *Registry) time(ns int64) time.Time { return r.birth.Add(time.Duration(ns)) }

// Go submits a task that starts at once on a goroutine of its own, as if by the
// go statement. The registry holds it until it has ended.
//
// It returns a typed error when the task is not admitted: [ErrInvalid] for what
// cannot be a task, [ErrClosed] once Shutdown has begun (unless ctx is that of a
// running task), a [*FullError] beyond the Limit. ctx gives the body its values;
// that ctx has ended does not matter.
//
// A task that submits its successor for ever should do so with its own ctx: one
// that it has derived from it would grow with each generation, as contexts do.
//
// A name has 1 to 128 bytes of printable UTF-8. It names a kind of task ("send
// welcome mail"), not a single one: logs, metrics and profiles go by it.
func (r *Registry) Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error) {
	return r.submit(ctx, nil, name, fn, nil, opts)
}

// submit admits a task to a pool, or to the registry itself if p is nil. Its body is
// fn, or what is typed if that is not nil.
func (r *Registry) submit(ctx context.Context, p *Pool, name string, fn Func, body typed, opts []Option) (*Task, error) {
	kinds := &r.kinds
	if p != nil {
		kinds = &p.kinds
	}
	k, err := kinds.Get(name)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	case ctx == nil:
		err = fmt.Errorf("%w: nil context", ErrInvalid)
	case fn == nil && (body == nil || body.pc() == 0):
		err = fmt.Errorf("%w: nil body", ErrInvalid)
	case body == nil && len(opts) == 0:
		t, err := r.admit(ctx, p, k, fn, nil)
		if err == nil {
			return t, nil
		}
		return nil, r.refuse(ctx, p, name, err)
	default:
		var w wishes
		for _, o := range opts {
			w.add(o)
		}
		w.typed = body
		var t *Task
		if t, err = r.grant(ctx, p, k, fn, &w); err == nil {
			return t, nil
		}
	}
	return nil, r.refuse(ctx, p, name, err)
}

// grant is admit for a task with wishes.
func (r *Registry) grant(ctx context.Context, p *Pool, k *kind, fn Func, w *wishes) (t *Task, err error) {
	isNew := true
	switch {
	case w.err != nil:
		return nil, w.err
	case w.unique != "":
		t, isNew, err = r.admitUnique(ctx, p, k, fn, w)
	default:
		t, err = r.admit(ctx, p, k, fn, w)
	}
	if err != nil {
		return nil, err
	}
	if !isNew {
		for _, fn := range w.onDuplicate {
			_ = r.contain("OnDuplicate", func() error { fn(t); return nil })
		}
	}
	return t, nil
}

// refuse counts a refusal and tells the observer; it returns err.
func (r *Registry) refuse(ctx context.Context, p *Pool, name string, err error) error {
	if p != nil {
		p.refused.Add(1)
	} else {
		r.refused.Add(1)
	}
	if r.observers != nil {
		r.observers.TaskRefused(ctx, name, err)
	}
	return err
}

// admit takes a task in, or says why not. w may be nil. Every refusal comes before
// the task is made, every place that was taken for it is given back.
func (r *Registry) admit(ctx context.Context, p *Pool, k *kind, fn Func, w *wishes) (*Task, error) {
	from, isChild := FromContext(ctx)
	if r.drain.stage.Load() != open && !r.drain.admits(from, r) {
		return nil, ErrClosed
	}
	var l *lane
	inline := false
	if p != nil {
		l = &p.lane
		var err error
		if inline, err = p.enter(ctx, w); err != nil {
			return nil, err
		}
	} else {
		l = r.lane(w.kept())
		l.enter(w.kept()) // there is always room
	}
	slot, err := r.claim(from, l)
	if err != nil {
		if !inline {
			l.giveBack(w.kept())
		}
		return nil, err
	}
	var t *Task
	if w == nil && !isChild {
		t = new(Task)
		t.pc = reflect.ValueOf(fn).Pointer()
	} else {
		t = w.furnish(fn)
	}
	t.lane, t.kind, t.slot, t.fn, t.values = l, k, slot, fn, ctx
	if isChild {
		m := t.more.Load()
		m.parent = parent{from.lane, from.slot.Number()}
		t.values = from.bequeath(ctx, m)
	}
	r.publish(ctx, t, w, inline)
	return t, nil
}

// claim takes a number for a task that from submits, and its share of the Limit.
func (r *Registry) claim(from *Task, l *lane) (table.Slot[Task], error) {
	if limit := int64(r.cfg.Limit); limit > 0 {
		for n := r.live.Load(); ; n = r.live.Load() {
			if n >= limit {
				return table.Slot[Task]{}, &FullError{Running: int(n), Limit: r.cfg.Limit, RetryAfter: time.Second}
			}
			if r.live.CompareAndSwap(n, n+1) {
				break
			}
		}
	}
	slot, ok := l.table.Claim()
	if !ok {
		slot, ok = r.drain.claimLate(from, r, l)
	}
	if !ok {
		if r.cfg.Limit > 0 {
			r.live.Add(-1)
		}
		return table.Slot[Task]{}, ErrClosed
	}
	return slot, nil
}

// publish makes an admitted task known and sends it on its way.
func (r *Registry) publish(ctx context.Context, t *Task, w *wishes, inline bool) {
	l, o, hold := t.lane, w.kept(), w.held()
	plain := !hold && !inline && (o == nil || o.delay == 0) && r.observers == nil
	if !plain || l.pool != nil || o != nil && o.serial != "" { // else it starts now
		t.submitted = r.now()
	}
	state := uint32(Queued)
	if hold {
		state = uint32(Held)
		l.crew.Lock()
		l.held++
		l.crew.Unlock()
	}
	if !plain {
		state |= parked | announcing // nobody else can start or end it before setOut
	}
	if inline {
		state |= inlined
	}
	t.state.Store(state)
	var holder *uniqueTask
	if o != nil {
		holder = o.holder
	}
	t.slot.Fill(t) // from here on it may end at any time
	if holder != nil {
		holder.task = t
		close(holder.ready)
	}
	if plain {
		l.crew.Push((*node)(t))
		if r.drain.stage.Load() == cancelling {
			l.cancel(t, ErrShutdown) // it may have come too late for the drain to see it
		}
		return
	}
	defer func() { // also if the observer ends this goroutine
		if inline {
			l.runInline(ctx, t)
		} else {
			l.setOut(t)
		}
	}()
	if r.observers != nil {
		r.observers.TaskSubmitted(ctx, t)
	}
}

// lane returns where a task that is on no pool goes: tasks of one Serial key
// always to the same.
func (r *Registry) lane(o *options) *lane {
	n := uint32(len(r.own))
	if o != nil && o.serial != "" {
		return r.own[uint32(maphash.String(r.seed, o.serial))&(n-1)]
	}
	return r.own[spread.Hint()&(n-1)]
}

// uniqueTask holds a Unique key for a submission. task and err are written before
// ready is closed, which happens when the submission is admitted or refused.
type uniqueTask struct {
	ready chan struct{}
	task  *Task
	err   error
}

// admitUnique admits a task unless one of its key is live, which it returns then.
func (r *Registry) admitUnique(ctx context.Context, p *Pool, k *kind, fn Func, w *wishes) (t *Task, isNew bool, err error) {
	mine := &uniqueTask{ready: make(chan struct{})}
	key := w.unique
	w.holder = mine
	for {
		r.uniqueMu.Lock()
		first := r.unique[key]
		if first == nil {
			r.unique[key] = mine
			r.uniqueMu.Unlock()
			break
		}
		r.uniqueMu.Unlock()
		select {
		case <-first.ready:
		case <-ctx.Done():
			select {
			case <-first.ready:
			default: // the first one waits for room itself, as long as its own ctx lives
				return nil, false, fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
			}
		}
		if first.err == nil && !first.task.has(released) {
			return first.task, false, nil
		}
		r.freeKey(key, first)
	}
	err = ErrGoexit // unless admit returns
	defer func() {
		if mine.task == nil {
			mine.err = err
			close(mine.ready)
			r.freeKey(key, mine)
		}
	}()
	t, err = r.admit(ctx, p, k, fn, w)
	return t, true, err
}

// freeKey takes a holder's key away from it, if it still has it.
func (r *Registry) freeKey(key string, holder *uniqueTask) {
	r.uniqueMu.Lock()
	if r.unique[key] == holder {
		delete(r.unique, key)
	}
	r.uniqueMu.Unlock()
}

// finish is the last act for a task that has ended: its outcome may be seen, its
// key and its place are free, and it is kept as one of the finished for a while.
func (r *Registry) finish(t *Task) {
	o := t.options() // before they are let go
	key, holder := o.unique, o.holder
	if r.cfg.Limit > 0 {
		r.live.Add(-1)
	}
	store := r.finished
	switch {
	case t.has(kept):
		store = r.kept
	case t.end == Failed || t.end == Panicked:
		store = r.failed
	}
	if store != nil {
		store.Add(t)
	}
	t.release()
	if store == nil {
		t.slot.Clear()
	}
	if holder != nil {
		r.freeKey(key, holder)
	}
}

// pushedOut forgets a finished task that has left the others, unless it is to be kept:
// Keep may have come too late for finish, and not have got round to it itself.
func (r *Registry) pushedOut(t *Task) {
	for s := t.state.Load(); s&kept == 0; s = t.state.Load() {
		if t.state.CompareAndSwap(s, s|forgotten) {
			t.slot.Clear()
			return
		}
	}
	r.kept.Add(t)
}

// forget ends the retention of a task that is in no store any more.
func (r *Registry) forget(t *Task) {
	t.state.Or(forgotten)
	t.slot.Clear()
}

// Find returns the task of this ID. Of an ID that this registry has not made it
// says [ErrNotFound]; of a task that ended and is no longer retained, [ErrExpired].
func (r *Registry) Find(id string) (*Task, error) {
	n, num, ok := r.key.Open(id)
	lanes := r.all()
	if !ok || int64(n) >= int64(len(lanes)) {
		return nil, ErrNotFound
	}
	t, known := lanes[n].table.Get(num)
	switch {
	case !known:
		return nil, ErrNotFound
	case t == nil || t.has(released) && !r.retains(t):
		return nil, ErrExpired
	}
	return t, nil
}

// retains tells whether a finished task is to be found still.
func (r *Registry) retains(t *Task) bool {
	return r.finished != nil && r.now()-t.ended < int64(r.cfg.RetainFor)
}

// Tasks returns the live tasks, in no order. It takes no lock for long: tasks may
// come and go meanwhile, and one that is live throughout is seen exactly once.
func (r *Registry) Tasks() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for _, l := range r.all() {
			for t := range l.table.All() {
				if !t.State().Final() && !yield(t) {
					return
				}
			}
		}
	}
}

// Finished returns the finished tasks that are retained, newest first.
func (r *Registry) Finished() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		if r.finished == nil {
			return
		}
		apart := slices.Concat(slices.Collect(visible(r.failed)), slices.Collect(visible(r.kept)))
		slices.SortFunc(apart, func(a, b *Task) int { return cmp.Compare(b.ended, a.ended) })
		for t := range visible(r.finished) {
			for ; len(apart) > 0 && apart[0].ended > t.ended; apart = apart[1:] {
				if !yield(apart[0]) {
					return
				}
			}
			if !yield(t) {
				return
			}
		}
		for _, t := range apart {
			if !yield(t) {
				return
			}
		}
	}
}

// visible returns the tasks of a store whose outcome may be seen.
func visible(s *retain.Store[Task]) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range s.All() {
			if t.has(released) && !yield(t) {
				return
			}
		}
	}
}

// Stats are counts of tasks. In every Stats ever read
//
//	Submitted == Succeeded+Failed+Panicked+Canceled+Dropped + Held+Queued+Running
type Stats struct {
	Submitted, Refused                             uint64
	Succeeded, Failed, Panicked, Canceled, Dropped uint64
	Held, Queued, Running                          int
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
}

// Stats returns the registry's counts, those of its pools included. The end of a
// task is counted before its Done is closed. The standard library's expvar shows
// them as they are: expvar.Publish("tether", expvar.Func(func() any { return r.Stats() })).
func (r *Registry) Stats() Stats { return r.sum(r.all()) }

// OwnStats returns the counts of the tasks that are on no pool: with the Stats of the
// Pools they make up Stats.
func (r *Registry) OwnStats() Stats { return r.sum(r.own) }

func (r *Registry) sum(lanes []*lane) Stats {
	s := Stats{Refused: r.refused.Load()}
	for _, l := range lanes {
		l.crew.Lock()
		s.add(l.count())
		l.crew.Unlock()
	}
	return s
}

// Pools returns the registry's pools, in the order of their making.
func (r *Registry) Pools() iter.Seq[*Pool] {
	return func(yield func(*Pool) bool) {
		for _, l := range r.all() {
			if l.pool != nil && !yield(l.pool) {
				return
			}
		}
	}
}

// conclude decides what follows an attempt that has ended so.
func (r *Registry) conclude(t *Task, end State, err error) {
	if err == nil {
		r.decide(t, end, nil)
		return
	}
	m := t.extra()
	t.end, m.err = end, err // what stays if a callback ends the goroutine
	again, wait, failure := t.retry(end, err)
	switch {
	case again:
		t.end, m.err = Queued, nil
		m.mu.Lock()
		m.opts.retry.wait, m.opts.retry.last, m.opts.retry.due = wait, err, t.ended+int64(wait)
		m.mu.Unlock()
		if r.observers != nil {
			r.observers.TaskRetrying(t.observed(), t, err, wait)
		}
	case failure != nil:
		r.decide(t, Panicked, fmt.Errorf("%w (after %w)", failure, err))
	default:
		r.decide(t, end, err)
	}
}

// decide makes an outcome final, and tells the observer and the log.
func (r *Registry) decide(t *Task, end State, err error) {
	t.end = end
	if err != nil {
		t.extra().err = err
	}
	if r.observers != nil {
		ctx := t.observed()
		t.state.Add(uint32(end) - t.state.Load()&stateMask)
		r.observers.TaskEnded(ctx, t)
	}
	if err != nil && !t.attended() {
		r.logFailure(t, end, err)
	}
}

// logFailure logs an outcome that nobody waits for. Panics were logged when they
// happened; what somebody has cancelled, and what the drain will report, is no news.
func (r *Registry) logFailure(t *Task, end State, err error) {
	if end == Failed || (end == Canceled || end == Dropped) && (is(err, ErrTimeout) || is(err, ErrFull)) {
		r.warn(t, "task "+end.String(), slog.Any("error", err))
	}
}

// warn logs something about a task.
func (r *Registry) warn(t *Task, msg string, attrs ...slog.Attr) {
	about := []slog.Attr{slog.String("task", t.Name()), slog.String("id", t.ID()), slog.String("pool", t.Pool())}
	r.log(context.Background(), slog.LevelWarn, msg, append(about, attrs...)...)
}

// is is errors.Is for the errors of others, whose methods may panic: those of a nil
// pointer, say, that was returned as an error.
func is(err, target error) (found bool) {
	defer func() {
		if recover() != nil {
			found = false
		}
	}()
	return errors.Is(err, target)
}

// panicked logs a panic. Under Crash it does not return.
func (r *Registry) panicked(what string, e *PanicError, pool string) {
	attrs := []slog.Attr{
		slog.String("in", what), slog.Any("panic", e.Value),
		slog.String("task", e.Task), slog.String("id", e.ID), slog.String("pool", pool),
		slog.String("stack", string(e.Stack)),
	}
	r.log(context.Background(), slog.LevelError, "panic", attrs...)
	if r.cfg.OnPanic != PanicCrash {
		return
	}
	// On a goroutine of its own nothing can recover it, not even a server that runs
	// the submitter. This one stays where it is: whatever would follow the panic, the
	// release of those who wait above all, never happens.
	go func() {
		panic(fmt.Sprintf("%v\n\nin the %s of task %q:\n%s", e.Value, what, e.Task, e.Stack))
	}()
	select {}
}
