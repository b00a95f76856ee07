// Package crew runs items on goroutines that go from one item to the next.
//
// A goroutine that asks for another item when it is done costs less than a new
// goroutine for each, so a crew hires a worker only when an item would wait
// for nobody. Any number of producers push without a lock; workers pop in the
// order of the pushes, one at a time, under the crew's lock.
//
// # Why no item is forgotten
//
// A worker is searching from the moment it is hired until its first item. The
// invariant is: if an item waits that a worker could take, then a worker is
// searching, or is on its way to look once more, or as many workers as the limit
// allows are at work, each of which looks again when its item is done.
//
//   - Push publishes the item first and reads the staff then. A worker that finds
//     nothing strikes itself off the staff first and reads the inbox then. With
//     sequentially consistent atomics one of the two sees the other.
//   - A worker that takes an item while more are waiting hires a searcher if there
//     is none, before it runs the item. So an item never waits for another to end
//     unless the limit is reached.
//
// A searcher may itself wait for a processor behind long-running items. So that
// a burst does not hang on one goroutine, producers hire further ones whenever
// the inbox has grown to a power of two without being emptied.
package crew

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Unlimited is the limit of a crew that may have any number of workers.
const Unlimited = math.MaxInt32

// Item is a *T that carries what the crew needs. Both belong to the crew from
// Push until Host.Take returns Start or Skip; depth keeps its value after that,
// since a producer may still read it, so an item is pushed once at the most and
// comes back by Append or Insert.
type Item[T any] interface {
	*T
	Link() (next **T, depth *uint16)
}

// Verdict is what a Host says of the item at the front of the queue.
type Verdict uint8

const (
	Start Verdict = iota // it is run now
	Skip                 // the crew forgets it
	Wait                 // it stays, and nothing behind it may start
)

// Host knows what items are. Take, Settle, Gone and MayLinger are called under the
// crew's lock and must not block; Run, Release and Lingered are called without it.
type Host[T any] interface {
	// Clock returns the time, in units of the host's choice.
	Clock() int64
	// Take decides about the item at the front of the queue.
	Take(item *T, now int64) Verdict
	// Run runs the item and returns the time at its end. If it ends the goroutine
	// (runtime.Goexit), the item has been run all the same. It must not panic.
	Run(item *T) (now int64)
	// Settle accounts for an item that was run: its place is free again.
	Settle(item *T)
	// Release is the last call for an item that was run.
	Release(item *T)
	// Gone tells that a worker has left the staff.
	Gone()
	// MayLinger, called after Gone, tells whether that worker's goroutine may wait for
	// a while to be hired again. It is not on the staff meanwhile.
	MayLinger() bool
	// Lingered tells that a goroutine which waited has been hired again, and is on the
	// staff already, or is about to end.
	Lingered(hired bool)
}

// Crew is made by Init. Its lock is the host's as well: it guards what Take and
// Settle touch.
type Crew[T any, P Item[T]] struct {
	// Each line apart: every push writes the first, and reads the second, which
	// changes only when workers come and go; every worker writes the third.
	inbox atomic.Pointer[T] // pushed and not yet taken over, newest first
	_     [64]byte
	staff atomic.Uint64 // workers<<32 | those of them that are searching
	limit atomic.Int64  // most workers; 0: each leaves when its item is done
	host  Host[T]
	idle  idle
	enter func() // the life of a worker that is hired: made once, so that to hire one allocates nothing
	_     [64]byte
	sync.Mutex
	head, tail *T // taken over, oldest first; guarded by the lock
}

const (
	worker   = 1 << 32
	searcher = 1
)

// Init prepares a crew of at most limit workers. It starts no goroutine.
func (c *Crew[T, P]) Init(host Host[T], limit int) {
	c.host = host
	c.enter = func() { c.work(nil, true) }
	c.limit.Store(int64(limit))
}

// Linger has the goroutine of a worker that leaves wait for so long, if the host
// allows it, until it is hired again, or quit is closed. It keeps a stack that has
// grown, as far as the garbage collector leaves it. Linger is called before the first
// Push, or never.
func (c *Crew[T, P]) Linger(d time.Duration, quit <-chan struct{}) {
	c.idle.linger, c.idle.quit = d, quit
}

// SetLimit changes how many workers there may be. Workers above the limit leave
// when their item is done.
func (c *Crew[T, P]) SetLimit(limit int) {
	c.limit.Store(int64(limit))
	c.Look()
}

// Workers returns how many workers there are.
func (c *Crew[T, P]) Workers() int { return int(c.staff.Load() / worker) }

// Push adds an item at the end of the queue. It takes no lock.
func (c *Crew[T, P]) Push(item *T) {
	next, depth := P(item).Link()
	for {
		top := c.inbox.Load()
		*next, *depth = top, 1
		if top != nil {
			_, below := P(top).Link()
			*depth = max(*below, *below+1) // stays at the largest value
		}
		grown := *depth // once the item is in, the link is no longer ours
		if c.inbox.CompareAndSwap(top, item) {
			if grown&(grown-1) == 0 {
				c.hire(bits.Len16(grown))
			}
			return
		}
	}
}

// Append adds an item at the end of the queue. The caller holds the lock, and
// calls Look when it has let go of it.
func (c *Crew[T, P]) Append(item *T) {
	c.takeOver()
	c.append(item, item)
}

// Insert adds an item in front of the first one that it is to precede. The caller
// holds the lock, and calls Look when it has let go of it.
func (c *Crew[T, P]) Insert(item *T, precedes func(other *T) bool) {
	c.takeOver()
	at := &c.head
	for *at != nil && !precedes(*at) {
		at, _ = P(*at).Link()
	}
	next, _ := P(item).Link()
	*next, *at = *at, item
	if *next == nil {
		c.tail = item
	}
}

// Pop takes the item at the front out of the queue, whatever the host would say
// of it; nil if there is none. The caller holds the lock.
func (c *Crew[T, P]) Pop() *T {
	if c.head == nil {
		c.takeOver()
	}
	item := c.head
	if item == nil {
		return nil
	}
	next, _ := P(item).Link()
	c.head, *next = *next, nil // or a finished item would keep all later ones alive
	if c.head == nil {
		c.tail = nil
	}
	return item
}

// Sweep takes every item out of the queue that is dead. The caller holds the lock.
func (c *Crew[T, P]) Sweep(dead func(*T) bool) {
	c.takeOver()
	item := c.head
	c.head, c.tail = nil, nil
	for item != nil {
		link, _ := P(item).Link()
		next := *link
		*link = nil
		if !dead(item) {
			c.append(item, item)
		}
		item = next
	}
}

// Look has a worker look at the queue again, because an item that had to wait may
// start now.
func (c *Crew[T, P]) Look() { c.hire(1) }

// hire adds a worker unless most are searching already or the limit is reached.
func (c *Crew[T, P]) hire(most int) {
	for {
		staff := c.staff.Load()
		if staff%worker >= uint64(most) || int64(staff/worker) >= c.limit.Load() {
			return
		}
		if c.staff.CompareAndSwap(staff, staff+worker+searcher) {
			if !c.idle.hire() {
				go c.enter()
			}
			return
		}
	}
}

// rehired waits for another hire, and reports whether it came.
func (c *Crew[T, P]) rehired(s **seat) bool {
	hired := c.idle.wait(s)
	c.host.Lingered(hired)
	return hired
}

// work is the life of a worker. It begins with the end of an item, if another
// goroutine has left it one.
func (c *Crew[T, P]) work(done *T, searching bool) {
	running := done
	defer func() {
		if running != nil {
			go c.work(running, false) // the item has ended this goroutine: hand its place on
		}
	}()
	var s *seat // made for the first wait
	now := c.host.Clock()
	for {
		c.Lock()
		if done != nil {
			c.host.Settle(done)
		}
		next, stalled := c.take(now)
		if next != nil && searching {
			searching = false
			c.strike(searcher)
		}
		// Only now, when this worker is no longer counted as searching.
		more := next != nil && c.waiting()
		if next == nil && done == nil {
			if c.leave(searching, stalled) {
				c.host.Gone()
				wait := c.idle.linger > 0 && c.host.MayLinger()
				c.Unlock()
				if !wait || !c.rehired(&s) {
					return
				}
				searching, now = true, c.host.Clock()
				continue
			}
			searching = true
		}
		c.Unlock()

		if done != nil {
			c.host.Release(done)
			done, running = nil, nil
		}
		if more {
			c.hire(1)
		}
		if next != nil {
			running = next
			now = c.host.Run(next)
			done = next
		}
	}
}

// take returns the next item to run. If there is none, stalled tells whether that
// is the host's word on the item at the front.
func (c *Crew[T, P]) take(now int64) (item *T, stalled bool) {
	for int64(c.staff.Load()/worker) <= c.limit.Load() {
		item := c.Pop()
		if item == nil {
			return nil, false
		}
		switch c.host.Take(item, now) {
		case Start:
			return item, false
		case Wait:
			next, _ := P(item).Link()
			*next, c.head = c.head, item
			if *next == nil {
				c.tail = item
			}
			return nil, true
		}
	}
	return nil, false
}

// leave strikes a worker off the staff and reports true, unless an item came that
// nobody else will take: then the worker stays, searching.
func (c *Crew[T, P]) leave(searching, stalled bool) bool {
	if searching {
		c.strike(worker + searcher)
	} else {
		c.strike(worker)
	}
	for !stalled && c.waiting() {
		staff := c.staff.Load()
		if staff%worker > 0 || int64(staff/worker) >= c.limit.Load() {
			break
		}
		if c.staff.CompareAndSwap(staff, staff+worker+searcher) {
			return false
		}
	}
	return true
}

func (c *Crew[T, P]) strike(n uint64) { c.staff.Add(-n) }

// waiting tells whether the queue holds anything.
func (c *Crew[T, P]) waiting() bool { return c.head != nil || c.inbox.Load() != nil }

// takeOver moves the inbox to the end of the queue, in the order of the pushes.
func (c *Crew[T, P]) takeOver() {
	if c.inbox.Load() == nil {
		return
	}
	last := c.inbox.Swap(nil)
	var first *T
	for item := last; item != nil; {
		next, _ := P(item).Link()
		item, *next, first = *next, first, item
	}
	c.append(first, last)
}

// append adds the chain from first to last at the end of the queue.
func (c *Crew[T, P]) append(first, last *T) {
	if c.tail == nil {
		c.head = first
	} else {
		next, _ := P(c.tail).Link()
		*next = first
	}
	c.tail = last
}
