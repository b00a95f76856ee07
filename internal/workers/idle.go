package workers

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// round is how often idle goroutines are looked at that wait too long. A goroutine
// idles for a whole round at least, and for less than two.
const round = 100 * time.Millisecond

// idleWorkers are goroutines that wait to become workers again. One timer serves all
// of them, so that to wait is one receive from one channel.
type idleWorkers struct {
	n  atomic.Int32 // length of the list; written under mu, read without it to avoid the lock
	mu sync.Mutex
	// Guarded by mu.
	newest  *idleWorker // a list by next. The rounds in it never increase.
	round   uint64      // rounds that have ended
	timer   *time.Timer // ends the round; made for the first goroutine that idles
	ticking bool        // the timer is set; false only if the list is empty
	closed  bool        // none may idle any more
}

// idleWorker is one goroutine. It is used for each of its waits, one after the other.
type idleWorker struct {
	// woken receives true if the goroutine is a worker again, false if it must exit.
	// The goroutine that takes the idleWorker off the list sends, once. There is room
	// for that, so it never blocks.
	woken chan bool
	// Guarded by the mu of idleWorkers.
	next  *idleWorker
	round uint64 // in which the wait began
}

func newIdleWorker() *idleWorker { return &idleWorker{woken: make(chan bool, 1)} }

// any reports whether a goroutine seems to be idle.
func (i *idleWorkers) any() bool { return i.n.Load() > 0 }

// wait makes the calling goroutine idle. It reports true when the goroutine is a
// worker again, and false if it must exit.
func (i *idleWorkers) wait(self *idleWorker) (rehired bool) {
	return i.add(self) && <-self.woken
}

// add puts a goroutine on the list and sees to it that the timer is set. It reports
// false if none may idle any more.
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
			i.timer = weaktimer.AfterFunc(round, i, (*idleWorkers).endRound)
		} else {
			i.timer.Reset(round)
		}
	}
	return true
}

// wake makes the goroutine a worker that has waited least. It reports false if none
// is idle.
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

// endRound makes the goroutines exit that have waited for the whole round. It sets the
// timer again unless none is left.
func (i *idleWorkers) endRound() {
	i.mu.Lock()
	// Keep the goroutines that began to wait in this round, which come first.
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

// close makes all goroutines exit, and lets none wait from then on.
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

// retire makes the goroutines of a list exit, which was cut off under the lock.
func retire(w *idleWorker) {
	for w != nil {
		next := w.next
		w.woken <- false
		w = next
	}
}
