package workers

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// round is the time from one look at the idle goroutines to the next. A look makes those
// exit that were idle at the look before, so a goroutine idles for less than two rounds.
// Leak detectors wait for twice as long, by default.
const round = 100 * time.Millisecond

// idleWorkers is the goroutines that wait to become workers again. One timer serves all
// of them, so that to wait is one receive from one channel. The zero idleWorkers is
// ready to use.
type idleWorkers struct {
	// n is the length of the list. It is written with mu held, and read without, so that
	// the lock is not taken for an empty list.
	n  atomic.Int32
	mu sync.Mutex
	// Guarded by mu.
	newest  *idleWorker // the list, linked by next; the last to wait comes first
	round   uint64      // number of rounds that have ended
	timer   *time.Timer // calls endRound; nil until a goroutine idles
	ticking bool        // the timer is set; it is as long as the list is not empty
	closed  bool        // no goroutine may idle any more
}

// idleWorker is one goroutine. It serves all of its waits, one after the other.
type idleWorker struct {
	// woken is sent true if the goroutine is a worker again, and false if it must exit.
	// What takes the idleWorker off the list sends, once, so that there is always room
	// for one value and a send does not block.
	woken chan bool
	// Guarded by idleWorkers.mu.
	next  *idleWorker
	round uint64 // number of rounds that had ended when the wait began
}

func newIdleWorker() *idleWorker { return &idleWorker{woken: make(chan bool, 1)} }

// any reports whether a goroutine is idle, or was a moment ago.
func (i *idleWorkers) any() bool { return i.n.Load() > 0 }

// wait makes the calling goroutine idle. It returns true when the goroutine is a worker
// again, and false if it must exit.
func (i *idleWorkers) wait(self *idleWorker) (rehired bool) {
	return i.add(self) && <-self.woken
}

// add puts a goroutine on the list, and sets the timer unless it is set. It reports false
// if no goroutine may idle any more.
func (i *idleWorkers) add(self *idleWorker) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return false
	}
	self.next, self.round = i.newest, i.round
	i.newest = self
	i.n.Add(1)
	if !i.ticking {
		i.ticking = true
		if i.timer == nil {
			// Weak, so that a host that is not used any more is not kept alive.
			i.timer = weaktimer.AfterFunc(round, i, (*idleWorkers).endRound)
		} else {
			i.timer.Reset(round)
		}
	}
	return true
}

// wake makes a worker of the goroutine that has waited least, whose stack and data are
// the likeliest to be in the caches. It reports false if no goroutine is idle.
func (i *idleWorkers) wake() bool {
	i.mu.Lock()
	w := i.newest
	if w == nil {
		i.mu.Unlock()
		return false
	}
	i.newest, w.next = w.next, nil
	i.n.Add(-1)
	i.mu.Unlock()
	w.woken <- true
	return true
}

// endRound makes the goroutines exit that have waited for the whole round, and sets the
// timer again if any is left.
func (i *idleWorkers) endRound() {
	i.mu.Lock()
	// Rounds only increase, so the goroutines that began to wait in this one come first
	// in the list. Cut the list behind them.
	n, end := int32(0), &i.newest
	for *end != nil && (*end).round == i.round {
		n, end = n+1, &(*end).next
	}
	old := *end
	*end = nil
	i.n.Store(n)
	i.round++
	if i.ticking = n > 0; i.ticking {
		i.timer.Reset(round)
	}
	i.mu.Unlock()
	retire(old)
}

// close makes all idle goroutines exit, and lets none idle from then on.
func (i *idleWorkers) close() {
	i.mu.Lock()
	old := i.newest
	i.newest, i.closed, i.ticking = nil, true, false
	i.n.Store(0)
	if i.timer != nil {
		i.timer.Stop()
	}
	i.mu.Unlock()
	retire(old)
}

// retire makes the goroutines of a list exit. The list must have been cut off, with mu
// held, so that nothing else refers to it.
func retire(w *idleWorker) {
	for w != nil {
		next := w.next // read now: the goroutine may be gone after the send
		w.woken <- false
		w = next
	}
}
