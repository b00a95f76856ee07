// Package gate is a FIFO semaphore with two counts, running and queued.
package gate

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// Gate bounds how many holders run at once, and how many more are queued to run. A
// holder is queued when it is acquired. It is acquired while
//
//	queued < queue + free,  free = max(0, slots - running)
//
// so that there are at most queue holders that find no slot free. Init must be called
// first. The methods are safe for concurrent use.
//
// A Gate counts; it does not know which holder is which. Each holder that was acquired must be
// released by one call of Withdraw, or started by Start and released by Exit.
type Gate struct {
	slots atomic.Int64 // the most that run; 0 while nothing may start
	queue int64        // written by Init

	waiting atomic.Int64 // length of waiters; written under mu, read without it
	mu      sync.Mutex   // held while a waiter's try is called: taken before any lock that try takes
	waiters list.List    // of *waiter, the first to wait in front; guarded by mu

	// On a cache line of its own: each holder writes it, and looks at waiting more often.
	_     [64]byte
	count atomic.Uint64 // queued<<32 | running: one word, so that to look and to acquire are one step
	_     [64]byte
}

// waiter is one call of Acquire.
type waiter struct {
	try      func() bool
	acquired chan struct{} // closed, under mu, once try has returned true
}

// The units of Gate.count.
const (
	queued  = 1 << 32
	running = 1
)

// Init sets the bounds.
func (g *Gate) Init(slots, queue int) {
	g.slots.Store(int64(slots))
	g.queue = int64(queue)
}

// SetSlots changes how many holders may run. It stops none. If there is more room, Wake
// must be called.
func (g *Gate) SetSlots(n int) { g.slots.Store(int64(n)) }

// Slots returns how many holders may run.
func (g *Gate) Slots() int { return int(g.slots.Load()) }

// Count returns how many holders are queued and how many run.
func (g *Gate) Count() (queue, run int) {
	n := g.count.Load()
	return int(n / queued), int(n % queued)
}

// TryAcquire acquires if there is room, without waiting, and reports whether it has.
// couldStart says whether the holder could start at once: only then a free slot counts
// as room. It overtakes waiters; see HasWaiters.
func (g *Gate) TryAcquire(couldStart bool) bool {
	for {
		n := g.count.Load()
		room := g.queue
		if couldStart {
			room += max(0, g.slots.Load()-int64(n%queued))
		}
		if int64(n/queued) >= room {
			return false
		}
		if g.count.CompareAndSwap(n, n+queued) {
			return true
		}
	}
}

// HasWaiters reports whether a call of Acquire waits. A caller that must not overtake it
// calls Acquire as well.
func (g *Gate) HasWaiters() bool { return g.waiting.Load() > 0 }

// Acquire waits until try returns true, ctx is done or stop is closed. It reports
// whether try has returned true. try is meant to call TryAcquire. It is called when there
// may be room, by this goroutine or by another one, and not again once it has returned
// true. Calls of Acquire are served in FIFO order: the try of a later one is not
// called before.
//
// Acquire calls try at least once, even if ctx is done.
func (g *Gate) Acquire(ctx context.Context, stop <-chan struct{}, try func() bool) bool {
	w := &waiter{try: try, acquired: make(chan struct{})}
	g.mu.Lock()
	place := g.waiters.PushBack(w)
	// Before the first try: what is released after that try finds a waiter to wake.
	g.waiting.Add(1)
	g.notifyWaiters()
	g.mu.Unlock()
	select {
	case <-w.acquired:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.acquired:
		return true // acquired meanwhile: to release it would refuse without a reason
	default:
	}
	g.waiters.Remove(place)
	g.waiting.Add(-1)
	g.notifyWaiters() // the next waiter may need less room than this one did
	return false
}

// Wake calls the try of the waiters, the first one first, until one returns false. It
// must be called when there may be more room. The caller must hold no lock that try takes.
func (g *Gate) Wake() {
	if g.waiting.Load() == 0 {
		return
	}
	g.mu.Lock()
	g.notifyWaiters()
	g.mu.Unlock()
}

// notifyWaiters is Wake with mu held.
func (g *Gate) notifyWaiters() {
	for e := g.waiters.Front(); e != nil; e = g.waiters.Front() {
		w := e.Value.(*waiter)
		if !w.try() {
			return // the ones behind must not overtake it
		}
		g.waiters.Remove(e)
		g.waiting.Add(-1)
		close(w.acquired)
	}
}

// Start makes a queued holder run. It does not look at the slots: that is up to what
// starts it.
func (g *Gate) Start() { g.count.Add(^uint64(queued - running - 1)) }

// Exit releases a holder that runs. There is room then: Wake must be called.
func (g *Gate) Exit() { g.count.Add(^uint64(running - 1)) }

// Requeue makes a holder that runs a queued one, even if the queue is full.
func (g *Gate) Requeue() { g.count.Add(queued - running) }

// Withdraw releases a queued holder. There is room then: Wake must be called.
func (g *Gate) Withdraw() { g.count.Add(^uint64(queued - 1)) }
