package tether

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/crew"
	"github.com/seed-2e639f12/tether/internal/gate"
	"github.com/seed-2e639f12/tether/internal/names"
	"github.com/seed-2e639f12/tether/internal/table"
)

// Unbounded is the [PoolConfig].Queue of a pool whose queue has no bound.
const Unbounded = math.MaxInt32

// Overflow says what happens when a task is submitted to a full pool.
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

// AtStop says what happens to the tasks that are queued in a pool when the drain
// begins.
type AtStop uint8

const (
	// AtStopFinish runs them as long as the drain has time.
	AtStopFinish AtStop = iota
	// AtStopDrop drops them at once, or hands them over: see [HandOver].
	AtStopDrop
)

// PoolConfig sets a [Pool] up.
type PoolConfig struct {
	// Workers is the most bodies that run at once. 0: GOMAXPROCS, for work that
	// keeps a processor busy.
	Workers int
	// Queue is the most tasks that wait. 0: none, a task needs a free worker to be
	// admitted. Unbounded: no bound. A held task, or one that waits for its delay,
	// needs a place as well. One that waits for its next attempt takes a place, and
	// waits even if there is none: the task that takes its worker makes up for it.
	Queue int
	// Overflow is what happens when both are full.
	Overflow Overflow
	// Capacity is the most weight that runs at once, see Weight. 0: no bound.
	// Tasks start in their order: a heavy one is not overtaken by light ones.
	Capacity int64
	// AtStop says what happens to the queue when the drain begins. The zero value
	// finishes it.
	AtStop AtStop
	// PerKey is the most tasks of one Serial key that run at once. 0: 1.
	PerKey int
}

// Pool runs its registry's tasks on a bounded number of workers, with a bounded
// queue in front of them. It is made by [Registry.NewPool] and needs no closing:
// its goroutines end when there is nothing to do.
type Pool struct {
	reg      *Registry
	name     string
	cfg      PoolConfig
	kinds    names.Cache[kind]
	lane     lane
	refused  atomic.Uint64
	lastFull atomic.Pointer[refusal]
	workers  atomic.Int64 // changed under the lane's lock
	paused   bool         // guarded by the lane's lock
}

// NewPool makes a pool of the registry. The name, one like a task's, should be
// no other pool's: statistics go by it. NewPool panics if the name is no name, or a
// number in cfg is negative: no run of the program could mend that.
func (r *Registry) NewPool(name string, cfg PoolConfig) *Pool {
	if err := names.Check(name); err != nil {
		panic(fmt.Sprintf("tether: NewPool: %v", err))
	}
	if cfg.Workers < 0 || cfg.Queue < 0 || cfg.Capacity < 0 || cfg.PerKey < 0 || cfg.Overflow > OverflowCallerRuns || cfg.AtStop > AtStopDrop {
		panic(fmt.Sprintf("tether: NewPool(%q): negative or unknown setting in %+v", name, cfg))
	}
	if cfg.PerKey == 0 {
		cfg.PerKey = 1
	}
	p := &Pool{reg: r, name: name, cfg: cfg}
	n := workers(cfg.Workers)
	p.workers.Store(int64(n))
	p.kinds.Init(func(task string) *kind {
		return &kind{task, pprof.WithLabels(context.Background(), pprof.Labels(labelTask, task, labelPool, name))}
	})
	l := &p.lane
	l.reg, l.pool, l.capacity, l.perKey = r, p, cfg.Capacity, cfg.PerKey
	r.initCrew(l, n)
	if l.bounded = cfg.Queue < Unbounded; l.bounded {
		l.gate.Init(n, cfg.Queue)
	}
	r.add(l)
	return p
}

func workers(n int) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return min(n, crew.Unlimited)
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.name }

// Go submits a task to the pool. See [Registry.Go] for what it is given and what
// it refuses; a full pool does what its [Overflow] says. [Config].Limit refuses at
// once in any pool.
func (p *Pool) Go(ctx context.Context, name string, fn Func, opts ...Option) (*Task, error) {
	return p.reg.submit(ctx, p, name, fn, nil, opts)
}

// Resize changes how many bodies may run at once. Zero means GOMAXPROCS; below zero,
// Resize returns an [ErrInvalid] and changes nothing. Bodies that run are left alone;
// queued tasks start at once if there is room now.
func (p *Pool) Resize(n int) error {
	if n < 0 {
		return fmt.Errorf("%w: Resize(%d): negative", ErrInvalid, n)
	}
	p.lane.crew.Lock()
	p.workers.Store(int64(workers(n)))
	p.staff()
	return nil
}

// Pause has the pool start no further task. Bodies that run are left alone, and
// tasks are still admitted as long as the queue has room. Shutdown does not resume
// it: what waits there is dropped, or handed over, when the contexts are cancelled.
func (p *Pool) Pause() {
	p.lane.crew.Lock()
	p.paused = true
	p.staff()
}

// Resume ends a Pause.
func (p *Pool) Resume() {
	p.lane.crew.Lock()
	p.paused = false
	p.staff()
}

// staff makes the pool's settings take effect, and releases the lane's lock.
func (p *Pool) staff() {
	n := int(p.workers.Load())
	if p.paused {
		n = 0
	}
	p.lane.crew.SetLimit(n)
	p.lane.gate.SetSlots(n)
	p.lane.crew.Unlock()
	p.lane.gate.Freed()
}

// PoolStats are a pool's counts and settings of one instant.
type PoolStats struct {
	Stats                 // the pool's share of the registry's; Refused too
	Name           string // the pool's
	Workers, Queue int    // how many may run, and wait
	Inline         int    // how many of the Running are run by their submitters (CallerRuns)
	Weight         int64  // of those that run
	Capacity       int64
	Paused         bool
}

// Stats returns the pool's counts.
func (p *Pool) Stats() PoolStats {
	l := &p.lane
	l.crew.Lock()
	defer l.crew.Unlock()
	return PoolStats{
		Stats: l.count(), Name: p.name, Workers: int(p.workers.Load()), Queue: p.cfg.Queue,
		Inline: l.inline, Weight: l.used, Capacity: p.cfg.Capacity, Paused: p.paused,
	}
}

// enter takes a place for a task, or says why there is none. Inline tells that
// there is none, and the caller is to run the task.
func (p *Pool) enter(ctx context.Context, w *wishes) (inline bool, err error) {
	l, o := &p.lane, w.kept()
	if w := o.weightIn(l); l.capacity > 0 && w > l.capacity {
		return false, fmt.Errorf("%w: weight %d is more than pool %q can ever hold: %d", ErrInvalid, w, p.name, l.capacity)
	}
	if !l.gate.Crowded() && l.enter(o) {
		return false, nil
	}
	switch p.cfg.Overflow {
	case OverflowBlock:
		return false, p.block(ctx, o)
	case OverflowDropOldest:
		if p.replaceOldest(ctx, o) {
			return false, nil
		}
	case OverflowCallerRuns:
		if l.gate.Slots() > 0 && !w.held() && (o == nil || o.delay == 0 && o.serial == "") {
			return true, nil
		}
	}
	return false, p.full()
}

func (p *Pool) block(ctx context.Context, o *options) error {
	stop := p.reg.drain.stopping
	if from, ok := FromContext(ctx); ok && from.lane.reg == p.reg {
		stop = p.reg.drain.cancelling // what a running task submits is admitted for longer
	}
	booking := o.booking() // or all options would be on the heap, since the closure is
	if p.lane.gate.Enter(ctx, stop, func() bool { return p.lane.enter(booking) }) {
		return nil
	}
	select {
	case <-stop:
		return ErrClosed
	default:
		return fmt.Errorf("%w: %w", p.full(), context.Cause(ctx))
	}
}

// booking returns a copy of what enter looks at.
func (o *options) booking() *options {
	if o == nil {
		return nil
	}
	return &options{serial: o.serial, weight: o.weight, weighted: o.weighted}
}

// replaceOldest drops the task at the front of the queue, and has the new one take
// its place.
func (p *Pool) replaceOldest(ctx context.Context, o *options) bool {
	l := &p.lane
	l.crew.Lock()
	oldest := l.oldest()
	if oldest == nil {
		l.crew.Unlock()
		return false
	}
	l.claim(oldest)
	l.dead-- // it is out of the queue already
	l.book(o)
	l.crew.Unlock()
	l.crew.Look() // what had to wait behind it may start
	// An observer or a hand-over may be slow, or end its goroutine.
	go func() {
		pprof.SetGoroutineLabels(oldest.kind.labels)
		l.drop(ctx, oldest, ErrFull)
	}()
	select {
	case <-oldest.over():
	case <-ctx.Done():
	}
	return true
}

// full returns the error of a refusal. As long as the pool stays as full as it was
// it is the same one: what refuses a burst should not make garbage.
func (p *Pool) full() *FullError {
	now := fullness{workers: p.workers.Load(), mean: p.lane.mean.Load()}
	now.wait, now.run = p.lane.gate.Count()
	if last := p.lastFull.Load(); last != nil && last.fullness == now {
		return last.err
	}
	after := time.Duration(now.mean) * time.Duration(now.wait+1) / time.Duration(now.workers)
	if after <= 0 {
		after = time.Second // nothing is known yet
	}
	err := &FullError{
		Pool: p.name, Running: now.run, Queued: now.wait, Limit: p.cfg.Queue + int(now.workers),
		RetryAfter: min(after, time.Hour),
	}
	p.lastFull.Store(&refusal{now, err})
	return err
}

// fullness is what a FullError is made of.
type fullness struct {
	wait, run     int
	workers, mean int64
}

type refusal struct {
	fullness
	err *FullError
}

// lane is where tasks are numbered, held, queued and run: a pool has one, the
// registry a few for its own. It is the host of its crew, and shares its lock.
//
// Lock order: gate; lanesMu; drain.mu; lane; then table, pokeMu, stuck.mu, and tallyMu
// before more. uniqueMu is taken alone. No lock is held while code of the user's runs.
type lane struct {
	// Written once, read by everybody: kept off the lines that others write.
	reg      *Registry
	pool     *Pool // nil: the registry's own
	num      uint32
	bounded  bool  // the gate counts: a place there is taken before a task is made
	capacity int64 // of weight; 0: no bound
	perKey   int
	_        [64]byte

	table table.Table[Task] // submitters write it
	crew  crew.Crew[node, *node]

	// Guarded by the crew's lock.
	held, running, inline int
	ended                 [Dropped + 1]uint64 // by state
	dead                  int                 // claimed, but in the queue still; about, since it only decides when to sweep
	weight, used          int64               // of live tasks, of those that run
	keys                  map[string]*turns
	stage                 stage
	mean                  atomic.Int64 // of run times, in ns; written under the lock
	lingering             atomic.Int32 // idle workers that wait to be hired again

	_    [64]byte
	gate gate.Gate
}

// turns are the tasks of one Serial key.
type turns struct {
	live, active int
	line         []*Task // taken out of the queue before it was their turn
}

// node is the same struct as Task with the method that the crew needs.
type node Task

func (n *node) Link() (next **node, depth *uint16) { return &n.next, &n.depth }

func (l *lane) poolName() string {
	if l.pool == nil {
		return ""
	}
	return l.pool.name
}

func (l *lane) id(num uint64) string { return l.reg.key.Seal(l.num, num) }

func (o *options) weightIn(l *lane) int64 {
	switch {
	case l.capacity == 0:
		return 0
	case o == nil || !o.weighted:
		return 1
	}
	return o.weight
}

// enter takes a place for a task if there is one.
func (l *lane) enter(o *options) bool {
	if l.capacity == 0 && (o == nil || o.serial == "") {
		return !l.bounded || l.gate.Try(true)
	}
	l.crew.Lock()
	defer l.crew.Unlock()
	couldStart := l.capacity == 0 || o.weightIn(l) <= l.capacity-l.weight
	if o != nil && o.serial != "" {
		if k := l.keys[o.serial]; k != nil && k.live >= l.perKey {
			couldStart = false
		}
	}
	if l.bounded && !l.gate.Try(couldStart) {
		return false
	}
	l.book(o)
	return true
}

// book counts a task's weight and key in. The caller holds the lock.
func (l *lane) book(o *options) {
	l.weight += o.weightIn(l)
	if o == nil || o.serial == "" {
		return
	}
	if l.keys == nil {
		l.keys = make(map[string]*turns)
	}
	k := l.keys[o.serial]
	if k == nil {
		k = new(turns)
		l.keys[o.serial] = k
	}
	k.live++
}

// unbook undoes book when a task has ended. If that lets another one of its key
// start, it is in the queue again. The caller holds the lock.
func (l *lane) unbook(o *options) {
	l.weight -= o.weightIn(l)
	if o == nil || o.serial == "" {
		return
	}
	k := l.keys[o.serial]
	k.live--
	if o.active {
		o.active = false
		k.active--
	}
	for len(k.line) > 0 && k.active < l.perKey {
		t := k.line[0]
		k.line[0], k.line = nil, k.line[1:]
		if t.has(claimed) {
			l.dead--
			continue
		}
		// It has waited longer than most: it goes where its number belongs.
		t.options().active = true
		k.active++
		l.crew.Insert((*node)(t), func(other *node) bool { return other.slot.Number() > t.slot.Number() })
	}
	if k.live == 0 {
		delete(l.keys, o.serial)
	}
}

// giveBack gives a place back that was taken for a task that was not made.
func (l *lane) giveBack(o *options) {
	l.crew.Lock()
	l.unbook(o)
	if l.bounded {
		l.gate.Leave()
	}
	l.crew.Unlock()
	l.gate.Freed()
	l.crew.Look()
}

// setOut sends a task that is in no queue on its way: into the queue if it is due,
// and else has a timer do it. It may be called for a task that has ended meanwhile,
// or is held still.
func (l *lane) setOut(t *Task) {
	l.crew.Lock()
	s := t.state.And(^uint32(announcing))
	if State(s&stateMask) > Queued || s&claimed != 0 {
		l.crew.Unlock()
		return
	}
	if cause := l.forbids(t); cause != nil {
		l.remove(t, cause) // it was cancelled when nobody could claim it
		return
	}
	if State(s&stateMask) == Held {
		l.crew.Unlock()
		return
	}
	o := t.options()
	due := t.submitted + int64(o.delay)
	if s&begun != 0 {
		due = t.ended + int64(o.retry.wait)
	}
	if wait := due - l.reg.now(); wait > 0 {
		o.timer = time.AfterFunc(time.Duration(wait), func() { l.setOut(t) })
		l.crew.Unlock()
		return
	}
	t.state.And(^uint32(parked))
	l.crew.Append((*node)(t))
	l.crew.Unlock()
	l.crew.Look()
}

// forbids returns why a task is not to start any more, nil if nothing speaks
// against it. The caller holds the lock.
func (l *lane) forbids(t *Task) error {
	if cause := t.cause(); cause != nil {
		return cause
	}
	if l.stage == cancelling || l.reg.drain.complete.Load() {
		return ErrShutdown // the latter for a task that was spared: it makes no further attempt
	}
	return nil
}

// unhold is Task.Release.
func (l *lane) unhold(t *Task) bool {
	l.crew.Lock()
	s := t.state.Load()
	if State(s&stateMask) != Held || s&claimed != 0 {
		l.crew.Unlock()
		return false
	}
	l.held--
	t.state.Add(uint32(Queued) - uint32(Held))
	l.crew.Unlock()
	t.changed()
	if s&announcing == 0 { // else its submitter is about to do it
		l.setOut(t)
	}
	return true
}

// cancel is Task.Cancel.
func (l *lane) cancel(t *Task, cause error) bool {
	if t.State().Final() {
		return false
	}
	// First the cause, then the state: a task on its way into the queue, or from one
	// attempt to the next, either finds the cause or is found here.
	t.interrupt(cause)
	l.crew.Lock()
	if !l.claimable(t) {
		l.crew.Unlock()
		return true
	}
	l.remove(t, l.forbids(t))
	return true
}

// claimable tells whether a task can be ended without being run. The caller holds
// the lock.
func (l *lane) claimable(t *Task) bool {
	s := t.state.Load()
	return State(s&stateMask) <= Queued && s&(claimed|announcing) == 0
}

// claim takes a task away from everybody else who might start or end it, and frees
// what it has booked but for its place at the gate. The caller holds the lock, and
// calls drop when it has let go of it.
func (l *lane) claim(t *Task) {
	l.reg.drain.outside.Add(1) // until drop is done
	s := t.state.Or(claimed)
	if State(s&stateMask) == Held {
		l.held--
	}
	if s&begun == 0 {
		l.ended[Dropped]++
	} else {
		l.ended[Canceled]++
	}
	o := t.options()
	if s&parked == 0 {
		l.dead++
	} else if o.timer != nil {
		o.timer.Stop()
	}
	if s&inlined == 0 {
		l.unbook(o)
	}
	if live := int(l.table.Claimed() - l.over()); l.dead > live+64 {
		l.sweep()
	}
}

// sweep takes claimed tasks out of the queue, which would else hold any number of
// them while nothing is popped. The caller holds the lock.
func (l *lane) sweep() {
	l.dead = 0
	l.crew.Sweep(func(n *node) bool { return (*Task)(n).has(claimed) })
	for _, k := range l.keys {
		k.line = slices.DeleteFunc(k.line, func(t *Task) bool { return t.has(claimed) })
	}
}

// remove claims and drops a task that has not started and never will. It releases
// the lock.
func (l *lane) remove(t *Task, cause error) {
	l.claim(t)
	var limit context.Context
	if l.stage == cancelling && cause == ErrShutdown {
		limit = l.reg.drain.context()
	}
	if l.bounded && !t.has(inlined) {
		l.gate.Leave()
	}
	l.crew.Unlock()
	l.gate.Freed()
	l.crew.Look()
	l.drop(limit, t, cause)
}

// drop ends a claimed task. It offers it to its HandOver, if limit is not nil and it
// has never started; the hand-over's context ends with limit.
func (l *lane) drop(limit context.Context, t *Task, cause error) {
	t.interrupt(cause) // it has one cause, wherever that came from
	o := t.options()
	end, err := Dropped, cause
	// Also if a callback ends this goroutine.
	defer func() {
		t.ended = l.reg.now()
		defer func() {
			if l.reg.drain.stage.Load() != open {
				l.reg.drain.note(t)
			}
			l.reg.finish(t)
			l.reg.drain.outside.Add(-1)
			l.reg.drain.poke()
		}()
		l.reg.decide(t, end, err)
	}()
	if t.has(begun) {
		end, err = Canceled, fmt.Errorf("%w (last attempt: %w)", cause, o.retry.last)
		return
	}
	if limit == nil || o.handOver == nil {
		return
	}
	err = fmt.Errorf("%w: hand-over: %w", cause, ErrGoexit)
	failed := t.guard("hand-over", func() error {
		ctx, cancel := context.WithCancelCause(context.WithoutCancel((*taskContext)(t)))
		defer cancel(nil)
		defer context.AfterFunc(limit, func() { cancel(context.Cause(limit)) })()
		return o.handOver(ctx, t.Info())
	})
	if o.handed = failed == nil; o.handed {
		err = cause
	} else {
		err = fmt.Errorf("%w: hand-over: %w", cause, failed)
	}
}

// account counts the end of a task that has run. The caller holds the lock.
func (l *lane) account(t *Task) {
	l.ended[t.end]++
	if l.stage != open {
		l.reg.drain.note(t)
	}
}

// over returns how many tasks have ended. The caller holds the lock.
func (l *lane) over() (n uint64) {
	for _, m := range l.ended {
		n += m
	}
	return n
}

// oldest returns the task that has waited longest for a worker, taken out of the
// queue; nil if none does. The caller holds the lock.
func (l *lane) oldest() *Task {
	var front *Task
	for n := l.crew.Pop(); n != nil; n = l.crew.Pop() {
		if front = (*Task)(n); l.claimable(front) {
			break
		}
		front = nil
		l.dead--
	}
	var first *turns
	for _, k := range l.keys {
		k.line = slices.DeleteFunc(k.line, func(t *Task) bool { return !l.claimable(t) })
		if len(k.line) > 0 && (first == nil || k.line[0].slot.Number() < first.line[0].slot.Number()) {
			first = k
		}
	}
	if first == nil || front != nil && front.slot.Number() < first.line[0].slot.Number() {
		return front
	}
	if front != nil {
		l.crew.Insert((*node)(front), func(*node) bool { return true })
	}
	t := first.line[0]
	first.line = slices.Delete(first.line, 0, 1)
	return t
}

// count returns the counts. The caller holds the lock.
func (l *lane) count() Stats {
	s := Stats{
		Succeeded: l.ended[Succeeded], Failed: l.ended[Failed], Panicked: l.ended[Panicked],
		Canceled: l.ended[Canceled], Dropped: l.ended[Dropped],
		Held: l.held, Running: l.running,
		Submitted: l.table.Claimed(), // last: what is counted elsewhere is counted here
	}
	s.Queued = int(s.Submitted-l.over()) - s.Held - s.Running
	if l.pool != nil {
		s.Refused = l.pool.refused.Load()
	}
	return s
}

// Clock returns the time of the registry.
func (l *lane) Clock() int64 { return l.reg.now() }

// Take starts the task at the front of the queue, if it may start.
func (l *lane) Take(n *node, now int64) crew.Verdict {
	t := (*Task)(n)
	if t.has(claimed) {
		l.dead--
		return crew.Skip
	}
	if l.stage == cancelling {
		return crew.Wait
	}
	if m := t.more.Load(); l.capacity > 0 || m != nil && m.opts != nil && m.opts.serial != "" {
		if verdict := l.turn(t); verdict != crew.Start {
			return verdict
		}
	}
	if l.bounded {
		l.gate.Start()
	}
	l.start(t, now)
	return crew.Start
}

// turn decides whether there is room for the weight and the key of a task.
func (l *lane) turn(t *Task) crew.Verdict {
	o := t.options()
	w := o.weightIn(l)
	if w > l.capacity-l.used {
		return crew.Wait
	}
	if o.serial != "" && !o.active {
		k := l.keys[o.serial]
		if k.active >= l.perKey {
			k.line = append(k.line, t)
			return crew.Skip
		}
		k.active++
		o.active = true
	}
	l.used += w
	return crew.Start
}

// start has a task be Running. The caller holds the lock.
func (l *lane) start(t *Task, now int64) {
	l.running++
	if t.has(begun) {
		t.options().retry.began.Store(now)
		t.state.Add(uint32(Running) - uint32(Queued))
	} else {
		t.started = now
		t.state.Add(uint32(Running) - uint32(Queued) + begun)
	}
	l.reg.watch()
}

// Run runs a task that Take has started.
func (l *lane) Run(n *node) int64 {
	l.gate.Freed() // a place to wait at
	(*Task)(n).run()
	if n.end != Succeeded || l.reg.observers != nil {
		return l.reg.now() // a callback may have taken its time since the body ended
	}
	return n.ended
}

// Settle accounts for a body that has ended.
func (l *lane) Settle(n *node) {
	t := (*Task)(n)
	o := t.options()
	l.used -= o.weightIn(l)
	if t.end == Queued {
		if l.bounded {
			l.gate.Back()
		}
		l.setBack(t, announcing) // nobody may end it until Release has set it out
		return
	}
	if l.bounded {
		l.gate.Stop()
		if mean := l.mean.Load(); o.retry == nil || o.retry.attempt() == 1 { // else it has waited as well
			l.mean.Store(mean + (t.ended-t.started-mean)/8)
		}
	}
	l.running--
	l.unbook(o)
	l.account(t)
}

// setBack has a task wait for its next attempt. The caller holds the lock.
func (l *lane) setBack(t *Task, flags uint32) {
	l.running--
	t.options().retry.failed.Add(1)
	t.state.Add(parked + flags - uint32(Running-Queued))
}

// Release lets a task go that has been settled.
func (l *lane) Release(n *node) {
	t := (*Task)(n)
	l.gate.Freed()
	if t.end == Queued {
		t.changed()
		l.setOut(t)
		return
	}
	l.reg.finish(t)
}

// Gone tells the drain that a worker has left.
func (l *lane) Gone() {
	if l.stage != open {
		l.reg.drain.poke()
	}
}

// maxLinger is how many idle workers of one lane may linger.
const maxLinger = 64

// MayLinger lets a worker that has left wait for another task. It is outside the
// drain's count of workers then, so it is counted as what is outside: before the
// drain begins, which makes it end.
func (l *lane) MayLinger() bool {
	if l.stage != open || l.lingering.Load() >= maxLinger {
		return false
	}
	l.lingering.Add(1)
	l.reg.drain.outside.Add(1)
	pprof.SetGoroutineLabels(context.Background())
	return true
}

// Lingered ends that wait.
func (l *lane) Lingered(hired bool) {
	l.lingering.Add(-1)
	l.reg.drain.outside.Add(-1)
	if !hired {
		l.reg.drain.poke()
	}
}

// runInline runs a task on this goroutine, its submitter's, and returns when it has
// ended.
func (l *lane) runInline(ctx context.Context, t *Task) {
	r := l.reg
	r.drain.outside.Add(1)
	defer func() {
		pprof.SetGoroutineLabels(ctx) // the submitter's own
		r.drain.outside.Add(-1)
		r.drain.poke()
	}()
	for wait := time.Duration(0); ; wait = t.options().retry.wait {
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-t.over(): // cancelled between two attempts
			}
			timer.Stop()
		}
		l.crew.Lock()
		s := t.state.And(^uint32(announcing))
		if State(s&stateMask) > Queued || s&claimed != 0 {
			l.crew.Unlock()
			<-t.over() // somebody else is ending it
			return
		}
		if cause := l.forbids(t); cause != nil {
			l.remove(t, cause)
			return
		}
		t.state.And(^uint32(parked))
		l.start(t, r.now())
		l.inline++
		l.crew.Unlock()
		if !l.attemptInline(t) {
			return
		}
	}
}

// attemptInline makes one attempt, and reports whether there is to be another.
func (l *lane) attemptInline(t *Task) (again bool) {
	defer func() { // also if the body ends this goroutine
		l.crew.Lock()
		l.inline--
		if again = t.end == Queued; again {
			l.setBack(t, 0)
			l.crew.Unlock()
			t.changed()
			return
		}
		l.running--
		l.account(t)
		l.crew.Unlock()
		l.reg.finish(t)
	}()
	t.run()
	return
}
