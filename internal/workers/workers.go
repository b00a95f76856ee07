// Package workers runs items on goroutines that go from one item to the next.
//
// A goroutine that takes another item when it is done costs less than a new goroutine
// for each item, so a worker is started only if an item would otherwise wait. Any
// number of goroutines push items without a lock. The package knows no order: a [Host]
// is given what was pushed, in the order of the pushes, and decides what runs next.
//
// # Why no item is lost
//
// A worker is searching from the moment it is started until it takes its first item. The
// invariant is: if an item is queued that may start, then a worker is searching, or a
// worker is about to look at the queue, or the limit is reached and each worker looks
// at the queue when its item is done.
//
//   - Push publishes the item first and reads the counts second. A worker that finds
//     nothing leaves the counts first and reads the inbox second. The atomics are
//     sequentially consistent, so at least one of the two sees what the other did.
//   - A worker that takes an item ceases to be a searcher first and looks second whether
//     anything else is queued. If so it starts a searcher, unless there is one, before
//     it runs its item. So an item waits for another one to end only if the limit is
//     reached.
//
// A searcher may have to wait for a processor behind long-running items. Push therefore
// starts another searcher whenever the inbox has grown to a power of two without being
// taken over.
//
// # Idle workers
//
// A worker that finds nothing leaves the counts. If the host allows it, its goroutine
// then waits, idle, until it is made a worker again. That keeps a stack that has grown.
// An idle goroutine is no worker. The invariant does not depend on it: a worker is added
// to the counts first, and then an idle goroutine is woken or a new one is started.
//
// The goroutine that has waited least is woken first. A goroutine that has waited for
// more than a round of 100 ms exits at the end of the next one.
//
// # Bubbles
//
// In a bubble of testing/synctest no goroutine may be idle. The clock of a bubble stands
// still once the main goroutine has returned, so an idle goroutine would wait forever and the
// test would fail. And an idle goroutine from outside must not run what was pushed inside,
// because it must not use the channels of the bubble. There are three cases:
//
//   - A host that was made inside lets no goroutine idle, wherever it is used.
//   - If a host was made outside and is used inside, a goroutine inside does not idle, and a
//     Push inside leaves idle goroutines alone: it starts a goroutine, which is inside.
//   - RetireIdle may be called on either side.
//
// A host tells by its clock; see [Host] and package bubble. A host must not be used
// on both sides at the same time: a worker that is not idle runs whatever is queued.
package workers

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Unlimited is the limit of Workers without one.
const Unlimited = math.MaxInt32

// Item is a *T with the two fields by which it is linked. Both belong to Workers from
// Push on, and next belongs to the host from Host.Push on. depth must not be written
// again, because a goroutine that pushes another item may still read it. So an item must
// not be pushed twice: an item that is to run again is put into the host's queue.
type Item[T any] interface {
	*T
	Link() (next **T, depth *uint16)
}

// Host owns the queue and knows what items are. A method is called with the lock of
// Workers held, or without it, as its comment says. With the lock held it must not block.
//
// A host must follow two rules for bubbles. If it was made inside a bubble, MayIdle must
// always return false. If it was made outside, a goroutine inside must read a negative
// time, from Clock and from Run. The time since the host was made, as time.Since
// returns it, is such a time.
type Host[T any] interface {
	// Clock returns the time, in a unit of the host's choice. The lock may be held.
	Clock() int64
	// Push appends a chain of items to the queue. The items are linked by next, from
	// first, which was pushed first, to last, whose next is nil. The lock is held.
	Push(first, last *T)
	// Next takes the next item to run out of the queue, starts it and returns it.
	//
	// It returns nil and false if the queue holds nothing that may start. Next is called
	// again then if there is anything in the inbox, which is given to Push before. A
	// host that must know the inbox earlier, because of its order, calls TakeOver.
	//
	// It returns nil and true if nothing may start, not even an item that is pushed
	// later, until an item is settled or Wake is called. The inbox is left as it is.
	//
	// The lock is held.
	Next(now int64) (item *T, stalled bool)
	// Empty reports whether the queue holds nothing that may start. It may return false
	// although nothing may start, which makes a worker look without effect. The lock
	// is held.
	Empty() bool
	// Run runs the item and returns the time at its end. If it ends the goroutine
	// (runtime.Goexit), the item has been run all the same. It must not panic. The lock
	// is not held.
	Run(item *T) (now int64)
	// Settle accounts for an item that was run. The lock is held.
	Settle(item *T)
	// Finished is the last call for an item that was run. A worker that calls it is
	// counted. The lock is not held.
	Finished(item *T)
	// WorkerExited is called when a worker has left the counts. The lock is held.
	WorkerExited()
	// MayIdle is called after WorkerExited. It reports whether the goroutine of that
	// worker may idle; if so, the goroutine calls IdleEnded later. The lock is held.
	MayIdle() bool
	// IdleEnded is called by a goroutine that was allowed to idle. If rehired, it is a
	// worker again, and counted. Otherwise it is about to exit. The lock is not held.
	IdleEnded(rehired bool)
}

// Workers is the workers of one host. Init must be called before any other method.
//
// The embedded lock belongs to the host as well: it guards the queue, and whatever else
// the methods of Host touch that are called with the lock held. Lock order: the
// embedded lock, then that of idle, under which no method of Host is called.
type Workers[T any, P Item[T]] struct {
	// The three parts are on cache lines of their own. Push writes the first and reads
	// the second, which is written only when workers come and go. The third is
	// written by the workers.
	inbox atomic.Pointer[T] // what was pushed and not taken over: newest first, linked by next
	_     [64]byte

	counts atomic.Uint64 // workers<<32 | searchers; each searcher is a worker
	limit  atomic.Int64  // the most workers; those above it exit when their item is done
	host   Host[T]       // written by Init
	loop   func()        // the body of a new worker; written by Init, so that to start one allocates nothing
	idle   idleWorkers
	_      [64]byte

	sync.Mutex // held to empty inbox, and by a worker that leaves counts
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

// Push adds an item to be run. It takes no lock, except for a moment if it wakes an idle
// goroutine. The lock may be held.
func (w *Workers[T, P]) Push(item *T) {
	next, depth := P(item).Link()
	for {
		top := w.inbox.Load()
		*next, *depth = top, 1
		if top != nil {
			_, below := P(top).Link()
			*depth = max(*below, *below+1) // the largest value, and not 0, if it overflows
		}
		grown := *depth // read now: once it is in the inbox the item may run, and be gone
		if w.inbox.CompareAndSwap(top, item) {
			if grown&(grown-1) == 0 { // a power of two
				w.wake(bits.Len16(grown))
			}
			return
		}
	}
}

// TakeOver moves the inbox to the host's queue by Host.Push, so that the queue is
// complete. The lock must be held.
func (w *Workers[T, P]) TakeOver() { w.takeOver() }

// takeOver is TakeOver, and reports whether there was anything in the inbox.
func (w *Workers[T, P]) takeOver() bool {
	if w.inbox.Load() == nil {
		return false
	}
	last := w.inbox.Swap(nil) // not nil: only the holder of the lock empties the inbox
	// The newest comes first: reverse the links.
	var first *T
	for item := last; item != nil; {
		next, _ := P(item).Link()
		item, *next, first = *next, first, item
	}
	w.host.Push(first, last)
	return true
}

// Wake makes a worker look at the queue. It must be called after an item was put into the
// queue that was not pushed, and after a change by which a queued item may start; a change
// that Settle makes needs no call. The lock may be held, but the worker waits for it.
func (w *Workers[T, P]) Wake() { w.wake(1) }

// RetireIdle makes all idle goroutines exit, and lets none idle from then on. It does not
// wait until they have exited: each calls IdleEnded. The lock may be held.
func (w *Workers[T, P]) RetireIdle() { w.idle.close() }

// wake starts a searcher, unless there are that many already or the limit is reached.
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

// start finds a goroutine for a worker that is counted already.
func (w *Workers[T, P]) start() {
	// Idle goroutines are outside of any bubble. A caller that reads a negative time is
	// inside one, and so is a goroutine that it starts. The clock is read only if there
	// is a goroutine to wake, which costs far more.
	if w.idle.any() && w.host.Clock() >= 0 && w.idle.wake() {
		return
	}
	go w.loop()
}

// workerLoop is the body of a worker. done is nil, or an item that was run by the
// goroutine that was this worker before, and has ended that goroutine.
func (w *Workers[T, P]) workerLoop(done *T, searching bool) {
	running := done // an item that was started and is not finished
	defer func() {
		if running != nil {
			// The item has ended this goroutine. The worker goes on in another one, so
			// the counts stay as they are.
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
		// 2. See whether anything else is queued. This must come after the worker has
		// ceased to be a searcher, because a Push that has found it searching has
		// started no other.
		more := next != nil && w.waiting()
		// 3. If there is nothing to run, leave the counts. A worker that has an item to
		// finish does that first, and looks once more: if there are no workers, every
		// item that was run is finished.
		if next == nil && done == nil {
			if w.exit(searching, stalled) {
				w.host.WorkerExited()
				// A goroutine that reads a negative time is inside a bubble.
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
				searching, now = true, w.host.Clock() // start has counted it as a searcher
				continue
			}
			searching = true // exit has counted it as a searcher
		}
		w.Unlock()

		// 4. Finish the last item, start a searcher, and run the next item.
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

// next returns the next item to run, as Host.Next does, of the inbox as well. The lock
// must be held.
func (w *Workers[T, P]) next(now int64) (item *T, stalled bool) {
	if int64(w.counts.Load()/worker) > w.limit.Load() {
		return nil, false // this worker is to exit
	}
	// The inbox is looked at only if the queue has nothing, and then emptied at once:
	// each Push writes it, so each look may be a cache miss.
	item, stalled = w.host.Next(now)
	if item == nil && !stalled && w.takeOver() {
		item, stalled = w.host.Next(now)
	}
	return item, stalled
}

// exit takes a worker off the counts and reports true. If an item is queued that no
// other worker will take, it reports false: the worker is counted as a searcher, and
// must look again. The lock must be held.
func (w *Workers[T, P]) exit(searching, stalled bool) bool {
	if searching {
		w.leave(worker + searcher)
	} else {
		w.leave(worker)
	}
	// Look again, now that the worker is not counted: a Push that has found it counted
	// has published its item before. If the host is stalled the item may not start, and the
	// change that ends the stall comes later, with the lock, and finds the worker gone.
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

// leave subtracts n from the counts.
func (w *Workers[T, P]) leave(n uint64) { w.counts.Add(-n) }

// waiting reports whether anything is queued that may start, or is in the inbox. The lock
// must be held.
func (w *Workers[T, P]) waiting() bool { return !w.host.Empty() || w.inbox.Load() != nil }
