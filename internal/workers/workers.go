// Package workers runs items on goroutines that go from one item to the next.
//
// A goroutine that takes another item when it is done costs less than a new
// goroutine for each item, so a worker is started only if an item would
// otherwise wait. Any number of goroutines push items without a lock. The
// package knows no order: a [Host] is given what was pushed, in the order of the
// pushes, and decides which item runs next.
//
// # Why no item is lost
//
// A worker is searching from the moment it is started until it takes its first
// item. The invariant is: if an item is queued that a worker could run, then a
// worker is searching, or a worker is about to look at the queue again, or the
// limit is reached and each worker looks at the queue when its item is done.
//
//   - Push publishes the item first and reads the counts second. A worker that
//     finds nothing leaves the counts first and reads the inbox second. The
//     atomics are sequentially consistent, so one of the two sees the other.
//   - A worker that takes an item while others are queued starts a searcher if
//     there is none, before it runs its item. So an item never waits for another
//     one to end unless the limit is reached.
//
// A searcher may have to wait for a processor behind long-running items. Push
// therefore starts further searchers whenever the inbox has grown to a power of
// two without being taken over.
//
// # Idle workers
//
// A worker that finds nothing leaves the counts. Its goroutine may then wait,
// idle, to become a worker again, which keeps a stack that has grown. An idle
// goroutine is no worker: the invariant above does not know it, and to wake it is
// to start a worker, as to start a goroutine is. The goroutine that has waited
// least is woken first. A goroutine that nothing has woken for one to two rounds
// of 100 ms exits.
//
// # Bubbles
//
// In a bubble of testing/synctest no goroutine may wait idle, because the clock of
// a bubble stands still once its main goroutine has returned: the idle goroutine would
// wait forever and the test would fail. Nor may an idle goroutine from outside run an
// item that was pushed inside, because it must not close a channel of the bubble.
// See [Host] for the two rules that a host follows, and package bubble.
package workers

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Unlimited is the limit of Workers without one.
const Unlimited = math.MaxInt32

// Item is a *T that carries the two fields by which it is linked. Both belong to
// Workers from Push on. Host.Push hands next over to the host. depth must never be
// written again, because a goroutine that pushes another item may still read it:
// so an item must not be pushed twice, and one that is to run again is put into
// the host's own queue.
type Item[T any] interface {
	*T
	Link() (next **T, depth *uint16)
}

// Host owns the queue and knows what items are. Its methods are called either under
// the lock of Workers or without it, as each says; under the lock they must not
// block.
//
// For bubbles a host must follow two rules. If it was made inside a bubble, MayIdle
// must return false, always. If it was made outside, Clock must return a negative
// time to a goroutine inside; what time.Since returns for a time read at the making
// of the host is such a clock.
type Host[T any] interface {
	// Clock returns the time, in units of the host's choice. It is called by the
	// goroutine that the answer is about, without the lock or with it.
	Clock() int64
	// Push appends a chain of items to the queue, from first, the oldest, to last.
	// They are linked by next, which is nil in last. The lock is held.
	Push(first, last *T)
	// Next starts the next item to run and returns it, out of the queue. It returns
	// nil and false if the queue is exhausted: what is pushed later may start. It
	// returns nil and true if nothing may start until Wake is called, not even an
	// item that is still to be pushed. The lock is held. Before the answer is taken
	// for final the inbox is moved to the host and Next is called again; a host
	// whose order needs the inbox earlier calls TakeOver itself.
	Next(now int64) (item *T, stalled bool)
	// Empty reports whether the queue holds nothing that Next might start. It may be
	// wrong about items that Next would find unable to start; it must not be wrong
	// about others. The lock is held.
	Empty() bool
	// Run runs the item and returns the time at its end. If it ends the goroutine
	// (runtime.Goexit), the item counts as run. Run must not panic. The lock is not
	// held.
	Run(item *T) (now int64)
	// Settle accounts for an item that was run. The lock is held.
	Settle(item *T)
	// Finished is the last call for an item that was run. The lock is not held.
	Finished(item *T)
	// WorkerExited is called when a worker has left the counts. Its goroutine may
	// idle. The lock is held.
	WorkerExited()
	// MayIdle, called after WorkerExited, reports whether the goroutine of that
	// worker may idle. If it may, one call of IdleEnded follows. The lock is held.
	MayIdle() bool
	// IdleEnded is called by a goroutine that was idle. If rehired, the goroutine is
	// counted as a worker again already, else it is about to exit. The lock is not
	// held.
	IdleEnded(rehired bool)
}

// Workers are the workers of one host. Init must be called before any other method.
// The embedded lock is the host's as well: it guards the queue, and all that the
// methods of Host touch that are called under it.
//
// Lock order: the embedded lock, then that of idle. No method of Host is called
// under the latter.
type Workers[T any, P Item[T]] struct {
	// The parts are kept on cache lines of their own. Every Push writes the first
	// and reads the second, which is written only when workers come and go. The
	// last is written by the workers.
	inbox atomic.Pointer[T] // pushed and not taken over: newest first, linked by next
	_     [64]byte

	counts atomic.Uint64 // workers<<32 | searchers; a searcher is one of the workers
	limit  atomic.Int64  // of workers; those above it exit when their item is done
	host   Host[T]       // written by Init
	loop   func()        // the body of a new worker; made by Init, so that to start one allocates nothing
	idle   idleWorkers
	_      [64]byte

	sync.Mutex // guards the host's queue; held to empty inbox
}

// The units of counts.
const (
	worker   = 1 << 32
	searcher = 1
)

// Init sets the host and the most workers there may be. It starts no goroutine.
func (w *Workers[T, P]) Init(host Host[T], limit int) {
	w.host = host
	w.loop = func() { w.workerLoop(nil, true) }
	w.limit.Store(int64(limit))
}

// SetLimit changes how many workers there may be. Workers above the limit exit when
// their item is done. The lock may be held.
func (w *Workers[T, P]) SetLimit(n int) {
	w.limit.Store(int64(n))
	w.Wake()
}

// Count returns how many workers there are. Idle goroutines are not counted.
func (w *Workers[T, P]) Count() int { return int(w.counts.Load() / worker) }

// Push hands an item over to be run. It takes no lock, except to wake an idle
// worker.
func (w *Workers[T, P]) Push(item *T) {
	next, depth := P(item).Link()
	for {
		top := w.inbox.Load()
		*next, *depth = top, 1
		if top != nil {
			_, below := P(top).Link()
			*depth = max(*below, *below+1) // stays at the largest value
		}
		grown := *depth // read now: once the item is in the inbox it may run and be gone
		if w.inbox.CompareAndSwap(top, item) {
			if grown&(grown-1) == 0 {
				w.wake(bits.Len16(grown))
			}
			return
		}
	}
}

// TakeOver moves the inbox to the host's queue, which is complete then. The lock
// must be held.
func (w *Workers[T, P]) TakeOver() { w.takeOver() }

// takeOver is TakeOver. It reports whether there was anything.
func (w *Workers[T, P]) takeOver() bool {
	if w.inbox.Load() == nil {
		return false
	}
	// The inbox is newest first: reverse the links.
	last := w.inbox.Swap(nil) // not nil: only the holder of the lock empties the inbox
	var first *T
	for item := last; item != nil; {
		next, _ := P(item).Link()
		item, *next, first = *next, first, item
	}
	w.host.Push(first, last)
	return true
}

// Wake makes a worker look at the queue again. It must be called when an item was put
// into the queue by another way than Push, and when an item that could not start may
// start now, after the change and, unless the limit is all that has changed, after
// the lock was released.
func (w *Workers[T, P]) Wake() { w.wake(1) }

// RetireIdle makes all idle goroutines exit, and lets none idle from then on. It does
// not wait for their exits, which IdleEnded reports. The lock may be held.
func (w *Workers[T, P]) RetireIdle() { w.idle.close() }

// wake starts a searcher, unless there are that many or the limit is reached.
func (w *Workers[T, P]) wake(searchers int) {
	for {
		counts := w.counts.Load()
		if counts%worker >= uint64(searchers) || int64(counts/worker) >= w.limit.Load() {
			return
		}
		if w.counts.CompareAndSwap(counts, counts+worker+searcher) {
			w.start()
			return
		}
	}
}

// start finds a goroutine for a worker that the counts already include.
func (w *Workers[T, P]) start() {
	// An idle goroutine is outside of any bubble. If the caller is inside one, so must
	// the worker be, and the goroutine that the caller starts is.
	if w.idle.any() && w.host.Clock() >= 0 && w.idle.wake() {
		return
	}
	go w.loop()
}

// workerLoop is the body of a worker. done is an item that was run by a goroutine
// that has ended with it, nil for a new worker.
func (w *Workers[T, P]) workerLoop(done *T, searching bool) {
	running := done // an item that is not settled or not finished
	defer func() {
		if running != nil {
			// The item has ended the goroutine. The worker goes on in another one, which
			// settles the item: the counts stay as they are.
			go w.workerLoop(running, false)
		}
	}()
	var self *idleWorker // made when the goroutine idles for the first time
	now := w.host.Clock()
	for {
		w.Lock()
		// 1. Account for the item that was run, and take the next one.
		if done != nil {
			w.host.Settle(done)
		}
		next, stalled := w.next(now)
		if next != nil && searching {
			searching = false
			w.leave(searcher)
		}
		// 2. If more is queued, another worker is to search. This must be read after this
		// worker has ceased to be a searcher: a Push that saw it search started none.
		more := next != nil && w.waiting()
		// 3. If there is nothing to run, leave the counts. A worker that has an item to
		// finish does that first and looks once more, so that an item of a host without
		// workers is finished.
		if next == nil && done == nil {
			if w.exit(searching, stalled) {
				w.host.WorkerExited()
				// A negative time says that this goroutine is inside a bubble.
				mayIdle := now >= 0 && w.host.MayIdle()
				w.Unlock()
				if !mayIdle {
					return
				}
				if self == nil {
					self = newIdleWorker()
				}
				rehired := w.idle.wait(self)
				w.host.IdleEnded(rehired)
				if !rehired {
					return
				}
				searching, now = true, w.host.Clock()
				continue
			}
			searching = true
		}
		w.Unlock()

		// 4. Without the lock: finish the last item, start a searcher, run the next item.
		if done != nil {
			w.host.Finished(done)
			done, running = nil, nil
		}
		if more {
			w.wake(1)
		}
		if next != nil {
			running = next
			now = w.host.Run(next)
			done = next
		}
	}
}

// next returns the next item to run. If there is none, stalled is what the host says.
// The lock must be held.
func (w *Workers[T, P]) next(now int64) (item *T, stalled bool) {
	if int64(w.counts.Load()/worker) > w.limit.Load() {
		return nil, false
	}
	// The inbox is looked at only if the queue is exhausted: every Push writes it, so
	// each look is a cache miss.
	item, stalled = w.host.Next(now)
	if item == nil && !stalled && w.takeOver() {
		item, stalled = w.host.Next(now)
	}
	return item, stalled
}

// exit takes a worker off the counts and reports true, unless an item is queued that no
// other worker will take: then the worker stays, searching. The lock must be held.
func (w *Workers[T, P]) exit(searching, stalled bool) bool {
	if searching {
		w.leave(worker + searcher)
	} else {
		w.leave(worker)
	}
	// Only now: a Push that has read the counts before has published its item before.
	// If the queue is stalled there is no need to look, the Wake that ends the stall
	// finds this worker gone.
	for !stalled && w.waiting() {
		counts := w.counts.Load()
		if counts%worker > 0 || int64(counts/worker) >= w.limit.Load() {
			break // another worker is searching, or each looks when its item is done
		}
		if w.counts.CompareAndSwap(counts, counts+worker+searcher) {
			return false
		}
	}
	return true
}

// leave subtracts from the counts.
func (w *Workers[T, P]) leave(n uint64) { w.counts.Add(-n) }

// waiting reports whether anything is queued. The lock must be held.
func (w *Workers[T, P]) waiting() bool { return !w.host.Empty() || w.inbox.Load() != nil }
