package tether

import (
	"cmp"
	"math"
	"slices"

	"github.com/seed-2e639f12/tether/internal/heap"
)

// list is a list of tasks, linked by next.
type list struct{ head, tail *node }

// share is the tasks of one Share key in one pool, or those without one. It exists while
// it has live tasks.
type share struct {
	running int32         // tasks that next has returned
	live    int32         // tasks that reserved a place and have not ended; of plain only if bounded is set
	waiting int32         // tasks in the list, or that stepped aside, except aborted ones
	place   [levels]int32 // in turns.ready
	turn    uint64        // of its last start, or of its creation
	lists   [levels]list  // tasks that may start, oldest first
	key     string        // empty for plain

	// See rate.go.
	theoretical            int64 // time of the next start by the pace
	paused                 int64 // until when PauseShare has paused it
	due                    int64 // until when it is asleep or idle
	asleepPlace, idlePlace int32 // in turns.asleep, and in turns.idle
}

// turns are the shares of a pool.
type turns struct {
	shares  map[string]*share         // with live tasks, except plain
	most    int                       // shares at once since the map was made
	ready   [levels]heap.Heap[*share] // with a task that may start
	asleep  heap.Heap[*share]         // with a task that may start later, by the order of due
	idle    heap.Heap[*share]         // without live tasks, kept until due because of their pace or pause
	inRow   int                       // urgent tasks that have started since a normal one did, or none could
	last    uint64                    // number of turns
	waiting int                       // the sum of that of the shares
	longest *share                    // one with many tasks waiting; may be nil
}

// keepShares is the most shares for which the map is kept once they are gone.
const keepShares = 64

// find returns the share of a task with these options; nil if it has no live task.
func (o *order) find(opts *startOptions) *share {
	if opts == nil || opts.share == "" || o.noShares {
		return &o.plain
	}
	if o.turns == nil {
		return nil
	}
	return o.turns.shares[opts.share]
}

// share returns the share of a live task with these options.
func (o *order) share(opts *startOptions) *share {
	if opts == nil || opts.share == "" || o.noShares {
		return &o.plain
	}
	if opts.in == nil {
		opts.in = o.turns.shares[opts.share]
	}
	return opts.in
}

// enter counts a task that is about to be submitted in its share, and makes the share if
// there is none.
func (o *order) enter(opts *startOptions) {
	s := o.find(opts)
	if opts != nil && opts.urgent && !o.noShares {
		o.takeTurns()
	}
	if s == nil {
		o.takeTurns()
		o.turns.last++
		s = &share{key: opts.share, turn: o.turns.last, theoretical: math.MinInt64, paused: math.MinInt64}
		o.turns.shares[s.key] = s
		o.turns.most = max(o.turns.most, len(o.turns.shares))
	}
	if o.bounded || s != &o.plain {
		if s.live++; s.live == 1 && s != &o.plain {
			o.turns.idle.Set(s, false)
		}
	}
}

// leave undoes enter. A share that has no live task any more ceases to exist,
// at once or when its pace and its pause do not matter any more.
func (o *order) leave(opts *startOptions) {
	s := o.share(opts)
	if s == &o.plain {
		if o.bounded {
			s.live--
		}
		return
	}
	opts.in = nil // or a retained task would keep the share
	if s.live--; s.live > 0 {
		return
	}
	for l := range s.lists {
		for s.lists[l].pop() != nil {
			o.aborted--
		}
	}
	o.turns.asleep.Set(s, false)
	o.settle(s)
	if s.due = max(s.theoretical, s.paused); s.due > math.MinInt64 {
		o.turns.idle.Set(s, true) // until wake removes it
		return
	}
	o.remove(s)
}

// remove makes a share cease to exist.
func (o *order) remove(s *share) {
	delete(o.turns.shares, s.key)
	if o.turns.longest == s {
		o.turns.longest = nil
	}
	if len(o.turns.shares) == 0 && o.turns.most > keepShares {
		o.turns.shares, o.turns.most = make(map[string]*share), 0 // a map does not shrink
	}
}

// shareCount returns how many shares there are.
func (o *order) shareCount() int {
	if o.turns == nil {
		return 0
	}
	return len(o.turns.shares) - o.turns.idle.Len()
}

// sharesOf is Pool.Shares.
func (q *queue) sharesOf(n int) []ShareStats {
	var all []ShareStats
	q.workers.Lock()
	if turns := q.order.turns; turns != nil {
		q.workers.TakeOver()
		all = make([]ShareStats, 0, len(turns.shares)+1)
		now := q.reg.now()
		for _, s := range turns.shares {
			if s.live > 0 {
				all = append(all, q.statsOf(s, now))
			}
		}
		if plain := q.statsOf(&q.order.plain, now); plain.Queued+plain.Running > 0 {
			all = append(all, plain)
		}
	}
	q.workers.Unlock()
	slices.SortFunc(all, func(a, b ShareStats) int {
		return cmp.Or(b.Queued-a.Queued, b.Running-a.Running, cmp.Compare(a.Share, b.Share))
	})
	return all[:max(0, min(n, len(all)))]
}

func (q *queue) statsOf(s *share, now int64) ShareStats {
	stats := ShareStats{Share: s.key, Queued: int(s.waiting), Running: int(s.running)}
	if at := q.order.earliest(s); at > now {
		stats.NotBefore = q.reg.time(at)
	}
	return stats
}

// wait counts tasks of a share that wait.
func (o *order) wait(s *share, n int) {
	if o.turns == nil {
		return
	}
	s.waiting += int32(n)
	o.turns.waiting += n
	if l := o.turns.longest; l == nil || s.waiting > l.waiting {
		o.turns.longest = s
	}
}

// crowded returns a share that has at least the average number of tasks waiting, so that
// a task of it makes room for one of another.
func (o *order) crowded() *share {
	if o.turns == nil {
		return &o.plain
	}
	most := o.turns.longest
	if most == nil || int(most.waiting)*(len(o.turns.shares)+1) < o.turns.waiting {
		most = &o.plain
		for _, s := range o.turns.shares {
			if s.waiting > most.waiting {
				most = s
			}
		}
		o.turns.longest = most
	}
	return most
}

// eachShare calls fn for each share.
func (o *order) eachShare(fn func(s *share)) {
	fn(&o.plain)
	if o.turns != nil {
		for _, s := range o.turns.shares {
			fn(s)
		}
	}
}

// sweepShare removes the aborted tasks of a share's lists.
func (o *order) sweepShare(s *share) {
	for l := range s.lists {
		var kept list
		for t := s.lists[l].pop(); t != nil; t = s.lists[l].pop() {
			if !t.has(aborting) {
				kept.append((*node)(t), (*node)(t))
			}
		}
		s.lists[l] = kept
	}
	o.settle(s)
}

func (l *list) append(first, last *node) {
	if l.tail == nil {
		l.head = first
	} else {
		l.tail.next = first
	}
	l.tail = last
}

// insert puts a task that stepped aside in front of the first one that was submitted
// after it: it has waited longer than most.
func (l *list) insert(t *Task) {
	at := &l.head
	for *at != nil && (*at).slot.Number() <= t.slot.Number() {
		at = &(*at).next
	}
	t.next, *at = *at, (*node)(t)
	if t.next == nil {
		l.tail = (*node)(t)
	}
}

// pop removes the first task from the list; nil if there is none.
func (l *list) pop() *Task {
	n := l.head
	if n == nil {
		return nil
	}
	l.head, n.next = n.next, nil // or a finished task would keep all later ones alive
	if l.head == nil {
		l.tail = nil
	}
	return (*Task)(n)
}
