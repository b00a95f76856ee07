package tether

import (
	"math"
	"slices"
	"sync/atomic"
)

// order is the order in which the tasks of a queue start: first in, first out, with four
// exceptions. Urgent tasks go first. Shares take turns. A task steps aside while another one of its Serial key
// has its turn. A task that is too heavy for what is left of the capacity stops the order
// until there is room, so that light tasks do not overtake it forever.
//
// All of it is guarded by the queue's lock. Another rule is a change of this file.
type order struct {
	ruled   bool    // a setting of the pool or a Share has a say in the order; see fifo
	turns   *turns  // nil until there is a task with a Share, or a bound of shares
	overdue []*Task // removed because they have waited for maxWait; see queue.dropOverdueLocked
	// plain is the share of the tasks without one. As long as turns is nil it has all
	// tasks, and waiting is not counted.
	plain        share
	keys         map[string]*serialKey // of live tasks
	weight, used int64                 // of live tasks, and of those that run
	theoretical  int64                 // time of the next start; see pace
	clock        int64                 // the last time that setClock has noted
	aborted      int                   // aborted tasks that are listed still; an estimate, since it only decides when to sweep

	// Written once, except counting, and read by submitters: kept off the cache lines that are
	// written.
	_            [64]byte
	capacity     int64 // of weight; 0 means no bound
	maxWait      int64 // in ns; 0 means no bound
	shareLimit   int32 // live tasks of one share
	shareWorkers int32 // running tasks of one share
	pace         pace  // of the pool
	sharePace    pace  // of each share
	bounded      bool  // shares have one of these bounds
	noShares     bool  // Share has no effect: no task waits for a worker here
	// counting: reserve counts every task, since a setting of the pool has a say in the order,
	// or there was a pause of the tasks without a share. Written with the queue's lock, and
	// read without.
	counting atomic.Bool
	_        [64]byte
}

// serialKey is the state of one Serial key.
type serialKey struct {
	live    int     // tasks that reserved a place and have not ended
	active  bool    // a task has the turn: it has started, or it is in the list of its share
	waiting []*Task // tasks that stepped aside, oldest first
}

// init sets the bounds of a pool.
func (o *order) init(cfg PoolConfig) {
	o.capacity, o.maxWait = cfg.Capacity, int64(cfg.MaxWait)
	o.shareLimit, o.shareWorkers = orMax(cfg.ShareLimit), orMax(cfg.ShareWorkers)
	o.pace, o.sharePace = cfg.Rate.pace(), cfg.ShareRate.pace()
	o.theoretical = math.MinInt64
	o.plain.theoretical, o.plain.paused = math.MinInt64, math.MinInt64
	o.bounded = cfg.ShareLimit > 0 || cfg.ShareWorkers > 0
	o.ruled = o.capacity > 0 || o.maxWait > 0 || o.pace.interval > 0
	if o.bounded || o.sharePace.interval > 0 {
		o.takeTurns()
	}
	o.counting.Store(o.ruled)
}

// orMax returns a bound, of which zero sets none.
func orMax(n int) int32 {
	if n == 0 {
		return math.MaxInt32
	}
	return int32(min(n, math.MaxInt32))
}

// counts reports whether a task with these options must be counted by reserve.
func (o *order) counts(opts *startOptions) bool {
	return o.counting.Load() || opts != nil && (opts.serial != "" || opts.share != "" || opts.urgent)
}

// before reports whether s is next before b. A free worker goes to the share with the
// fewest tasks running; of several, to the one whose last turn is the longest ago. It is a
// round robin if bodies take equally long. Turns that counted starts alone would give a
// share with long bodies all workers after a few rounds.
func (s *share) before(b *share) bool {
	return s.running < b.running || s.running == b.running && s.turn < b.turn
}

// takeTurns makes shares take turns from here on.
func (o *order) takeTurns() {
	if o.turns != nil {
		return
	}
	o.ruled = true
	o.turns = &turns{shares: make(map[string]*share)}
	for l := range o.turns.ready {
		o.turns.ready[l].Init((*share).before, func(s *share) *int32 { return &s.place[l] })
	}
	due := func(a, b *share) bool { return a.due < b.due }
	o.turns.asleep.Init(due, func(s *share) *int32 { return &s.asleepPlace })
	o.turns.idle.Init(due, func(s *share) *int32 { return &s.idlePlace })
	for _, k := range o.keys {
		for _, t := range k.waiting {
			if !t.has(aborting) {
				t.mark(listed)
				o.wait(&o.plain, 1)
			}
		}
	}
	all := o.plain.lists[normal]
	o.plain.lists[normal] = list{}
	o.push(all.head, all.tail)
}

// weightOf returns what a task with these options weighs.
func (o *order) weightOf(opts *startOptions) int64 {
	switch {
	case o.capacity == 0:
		return 0
	case opts == nil || !opts.weighted:
		return 1
	}
	return opts.weight
}

// full reports whether the share of a task that is about to be submitted is at its limit.
func (o *order) full(opts *startOptions) bool {
	s := o.find(opts)
	return s != nil && s.live >= o.shareLimit
}

// couldStart reports whether nothing but a free worker is missing for a task that is about
// to be submitted, as far as its weight, share and key are concerned.
func (o *order) couldStart(opts *startOptions, now func() int64) bool {
	if o.capacity > 0 && o.weightOf(opts) > o.capacity-o.weight {
		return false
	}
	if s := o.find(opts); s != nil && (s.live >= o.shareWorkers || o.isLater(o.earliest(s), now)) {
		return false
	}
	if o.isLater(o.pace.earliest(o.theoretical), now) {
		return false
	}
	return opts == nil || opts.serial == "" || o.keys[opts.serial] == nil
}

// reserve counts a task that is about to be submitted.
func (o *order) reserve(opts *startOptions) {
	o.weight += o.weightOf(opts)
	o.enter(opts)
	if opts == nil || opts.serial == "" {
		return
	}
	k := o.keys[opts.serial]
	if k == nil {
		if o.keys == nil {
			o.keys = make(map[string]*serialKey)
		}
		k = new(serialKey)
		o.keys[opts.serial] = k
	}
	k.live++
}

// unreserve undoes reserve when a task has ended, or was not made. If that lets tasks of
// its key start, they are listed again.
func (o *order) unreserve(opts *startOptions) {
	o.weight -= o.weightOf(opts)
	o.leave(opts)
	if opts == nil || opts.serial == "" {
		return
	}
	k := o.keys[opts.serial]
	k.live--
	if opts.active {
		opts.active, k.active = false, false
	}
	for len(k.waiting) > 0 && !k.active {
		t := k.waiting[0]
		k.waiting[0], k.waiting = nil, k.waiting[1:]
		if t.has(aborting) {
			o.aborted--
			continue
		}
		k.active, t.startOptions().active = true, true
		s := o.share(t.startOptions())
		s.lists[o.level(t.startOptions())].insert(t)
		o.settle(s)
	}
	if k.live == 0 {
		delete(o.keys, opts.serial)
	}
}

// level is the priority of a task.
type level uint8

const (
	urgent level = iota
	normal
	levels
)

// maxInRow is how many urgent tasks start in a row while a normal one could have started.
const maxInRow = 7

// level returns the priority of a task with these options.
func (o *order) level(opts *startOptions) level {
	if opts.urgent && o.turns != nil {
		return urgent
	}
	return normal
}

// settle puts a share where it belongs after a change of it.
func (o *order) settle(s *share) {
	if o.turns != nil {
		for l := range s.lists {
			o.turns.ready[l].Set(s, s.lists[l].head != nil && s.running < o.shareWorkers && !o.turns.asleep.Has(s))
		}
	}
}

// push appends a chain of tasks, linked by next.
func (o *order) push(first, last *node) {
	if o.turns == nil {
		o.plain.lists[normal].append(first, last)
		return
	}
	for n := first; n != nil; {
		t := (*Task)(n)
		n, t.next = t.next, nil
		if t.has(aborting) {
			o.aborted--
			continue
		}
		// The tasks of a Serial key may have several shares: which is first is settled
		// now, not when one of them is next in its share.
		s := o.share(t.startOptions())
		t.mark(listed)
		o.wait(s, 1)
		if o.takeKey(t) {
			s.lists[o.level(t.startOptions())].append((*node)(t), (*node)(t))
			o.settle(s)
		}
	}
}

// takeKey gives a task the turn of its Serial key, or makes it step aside and reports
// false.
func (o *order) takeKey(t *Task) bool {
	opts := t.startOptions()
	if opts.serial == "" || opts.active {
		return true
	}
	k := o.keys[opts.serial]
	if k.active {
		k.waiting = append(k.waiting, t)
		return false
	}
	k.active, opts.active = true, true
	return true
}

// empty reports whether no task is listed that may start.
func (o *order) empty() bool {
	if o.turns != nil {
		return o.turns.ready[urgent].Len()+o.turns.ready[normal].Len() == 0
	}
	return o.plain.lists[normal].head == nil
}

// first returns the share that is next, and of which of its lists; nil if there is none.
func (o *order) first() (*share, level) {
	switch {
	case o.empty():
		return nil, normal
	case o.turns == nil:
		return &o.plain, normal
	}
	ready := &o.turns.ready
	if ready[urgent].Len() == 0 || o.turns.inRow == maxInRow && ready[normal].Len() > 0 {
		return ready[normal].Top(), normal
	}
	return ready[urgent].Top(), urgent
}

// next removes the next task from its list and counts it as running. It returns nil and
// false if there is none, nil and true if the first one has to wait for room. It removes
// what is overdue on the way.
func (o *order) next(now int64) (t *Task, stalled bool) {
	if t := (*Task)(o.plain.lists[normal].head); t != nil && o.fifo(t) && !t.has(aborting) {
		o.plain.lists[normal].pop()
		o.plain.running++
		return t, false
	}
	o.setClock(now)
	if o.turns != nil {
		o.wake(now)
	}
	for s, l := o.first(); s != nil; s, l = o.first() {
		list := &s.lists[l]
		t := (*Task)(list.head)
		if (o.maxWait > 0 || t.has(aborting)) && o.removeDead(list, now) {
			o.settle(s)
			continue
		}
		if o.turns != nil && o.sleeps(s, now) {
			continue
		}
		if o.pace.interval > 0 && o.pace.earliest(o.theoretical) > now {
			return nil, true
		}
		if o.capacity > 0 || t.extra.Load() != nil { // otherwise it has neither a weight nor a key
			weight := o.weightOf(t.startOptions())
			if weight > o.capacity-o.used {
				return nil, true
			}
			if !o.takeKey(t) {
				list.pop() // there are no turns
				continue
			}
			o.used += weight
		}
		list.pop()
		s.running++
		if o.pace.interval > 0 {
			o.theoretical = o.pace.start(o.theoretical, now)
		}
		if o.turns != nil {
			if o.sharePace.interval > 0 {
				s.theoretical = o.sharePace.start(s.theoretical, now)
			}
			o.turns.take(s, l)
			o.wait(s, -1)
			o.settle(s)
		}
		return t, false
	}
	return nil, false
}

// removeDead removes the first task of a list if it is aborted or overdue, and reports
// whether it has.
func (o *order) removeDead(l *list, now int64) bool {
	t := (*Task)(l.head)
	switch {
	case t.has(aborting):
		o.aborted--
	case o.maxWait > 0 && now-t.queuedAt() >= o.maxWait:
		o.overdue = append(o.overdue, t)
	default:
		return false
	}
	l.pop()
	return true
}

// take counts a turn.
func (t *turns) take(s *share, l level) {
	t.last++
	s.turn = t.last
	if l == urgent && t.ready[normal].Len() > 0 {
		t.inRow++
	} else {
		t.inRow = 0
	}
}

// fifo reports whether t has no say in the order, and neither has anything but the options
// of other tasks.
func (o *order) fifo(t *Task) bool {
	if o.ruled {
		return false
	}
	x := t.extra.Load()
	return x == nil || x.options == nil || x.options.start == nil && x.options.retry == nil
}

// ran counts a task that next has returned as no longer running.
func (o *order) ran(opts *startOptions) {
	o.used -= o.weightOf(opts)
	s := o.share(opts)
	s.running--
	o.settle(s)
}

// abort counts a task of the order as aborted. Its submitter may not have pushed it yet.
func (o *order) abort(t *Task) {
	o.aborted++
	if t.has(listed) {
		o.wait(o.share(t.startOptions()), -1)
	}
}

// oldest removes the task of a share that was listed first and can be aborted, those that
// stepped aside included; nil if there is none. Of urgent tasks it removes one only if
// nothing else is listed.
func (o *order) oldest(s *share) *Task {
	list := &s.lists[normal]
	front := o.popAbortable(list)
	if front == nil {
		list = &s.lists[urgent]
		front = o.popAbortable(list)
	}
	defer o.settle(s)
	var aside *Task
	for _, k := range o.keys {
		k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool { return !t.abortable() })
		i := slices.IndexFunc(k.waiting, func(t *Task) bool { return o.share(t.startOptions()) == s })
		if i >= 0 && (aside == nil || k.waiting[i].slot.Number() < aside.slot.Number()) {
			aside = k.waiting[i]
		}
	}
	if aside == nil || front != nil && front.slot.Number() < aside.slot.Number() {
		return front
	}
	if front != nil {
		front.next, list.head = list.head, (*node)(front)
		if front.next == nil {
			list.tail = (*node)(front)
		}
	}
	k := o.keys[aside.startOptions().serial]
	k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool { return t == aside })
	return aside
}

func (o *order) popAbortable(l *list) *Task {
	t := l.pop()
	for t != nil && !t.abortable() {
		o.aborted--
		t = l.pop()
	}
	return t
}

// sweep removes aborted tasks, of which the lists could otherwise hold any number while
// nothing is taken from them.
func (o *order) sweep() {
	o.aborted = 0
	o.eachShare(o.sweepShare)
	for _, k := range o.keys {
		k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool { return t.has(aborting) })
	}
}
