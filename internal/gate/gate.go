// Package gate bounds how many may be inside a place, and how many of them may
// only wait there.
package gate

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// Gate counts those who wait inside and those who run. It lets one more in while
//
//	waiting < queue + free,  free = max(0, slots - running)
//
// so that never more than queue wait when every slot is taken. Both counts are in
// one word: to look and to enter are one step.
type Gate struct {
	count atomic.Uint64 // waiting<<32 | running
	slots atomic.Int64  // how many may run; 0 while nothing may start
	queue int64

	blocked atomic.Int64 // those in line; read without mu
	mu      sync.Mutex   // held while somebody in line tries: before any lock that tries take
	line    list.List    // of *visitor, first come at the front; guarded by mu
}

type visitor struct {
	try     func() bool
	entered chan struct{} // closed once try succeeded
}

const (
	waiting = 1 << 32
	running = 1
)

// Init sets the bounds before first use.
func (g *Gate) Init(slots, queue int) {
	g.slots.Store(int64(slots))
	g.queue = int64(queue)
}

// SetSlots changes how many may run. If there is more room then, Freed tells those
// in line.
func (g *Gate) SetSlots(n int) {
	g.slots.Store(int64(n))
}

// Slots returns how many may run.
func (g *Gate) Slots() int { return int(g.slots.Load()) }

// Count returns how many wait inside and how many run.
func (g *Gate) Count() (wait, run int) {
	n := g.count.Load()
	return int(n / waiting), int(n % waiting)
}

// Try enters, to wait at first, if there is room. Only one who could start at once
// may count on a free slot.
func (g *Gate) Try(couldStart bool) bool {
	for {
		n := g.count.Load()
		room := g.queue
		if couldStart {
			room += max(0, g.slots.Load()-int64(n%waiting))
		}
		if int64(n/waiting) >= room {
			return false
		}
		if g.count.CompareAndSwap(n, n+waiting) {
			return true
		}
	}
}

// Crowded tells whether somebody is in line: whoever comes now has to join it.
func (g *Gate) Crowded() bool { return g.blocked.Load() > 0 }

// Enter waits in line until try succeeds, which is called when a place may have
// become free, or until ctx ends or stop is closed. It reports whether try
// succeeded. Nobody in line is overtaken by one who came later.
func (g *Gate) Enter(ctx context.Context, stop <-chan struct{}, try func() bool) bool {
	v := &visitor{try: try, entered: make(chan struct{})}
	g.mu.Lock()
	place := g.line.PushBack(v)
	g.blocked.Add(1) // before the first try: who frees a place later looks for us
	g.admit()
	g.mu.Unlock()
	select {
	case <-v.entered:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-v.entered:
		return true // it has a place: to give it back would be a refusal for nothing
	default:
	}
	g.line.Remove(place)
	g.blocked.Add(-1)
	g.admit() // the next one may want less
	return false
}

// Freed lets those in line try. The caller has made room before and holds no lock
// that a try takes.
func (g *Gate) Freed() {
	if g.blocked.Load() == 0 {
		return
	}
	g.mu.Lock()
	g.admit()
	g.mu.Unlock()
}

func (g *Gate) admit() {
	for e := g.line.Front(); e != nil; e = g.line.Front() {
		v := e.Value.(*visitor)
		if !v.try() {
			return
		}
		g.line.Remove(e)
		g.blocked.Add(-1)
		close(v.entered)
	}
}

// Start moves one from waiting to running.
func (g *Gate) Start() { g.count.Add(^uint64(waiting - running - 1)) }

// Stop lets one who runs out. There is room then, which Freed tells those in line.
func (g *Gate) Stop() { g.count.Add(^uint64(running - 1)) }

// Back moves one from running to waiting, however many wait already.
func (g *Gate) Back() { g.count.Add(waiting - running) }

// Leave lets one who waits out. There is room then, which Freed tells those in line.
func (g *Gate) Leave() { g.count.Add(^uint64(waiting - 1)) }
