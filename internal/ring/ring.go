// Package ring is a fixed-size ring with expiry: it holds the newest things of a
// stream, each for a limited time.
package ring

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// Ring holds the newest things that were added to it, at most a fixed number. A thing
// that has become too old leaves as well. Init must be called first. All other methods
// are safe for concurrent use, and none takes a lock.
//
// The things are counted as they are added, and the count of a thing is its position.
// Positions that are a multiple of the size apart have one place.
type Ring[T any] struct {
	// Written by Init.
	age    func(*T) time.Duration
	evict  func(*T)
	keep   time.Duration
	places []atomic.Pointer[T]

	// next is the position of the next thing.
	next atomic.Uint64
	// oldest is the position where expire goes on, so that a round costs what expires
	// in it, and not the size of the ring.
	//
	// Invariant: each thing that is in the ring, and for which Add has returned, is in
	// the place of one of the last size positions before next, and of none before
	// oldest - stride.
	//
	// expire raises oldest by a stride before it looks at the places of the stride. Add
	// fills the place first and reads oldest second. So if expire finds a place empty
	// that an Add is about to fill, the Add finds that its position was passed, and
	// lowers oldest again.
	oldest atomic.Uint64
	// armed is set from the moment a timer is set that calls expire to the end of that
	// call. The goroutine that sets it sets the timer, so there is one at a time.
	armed atomic.Bool
}

// stride is by how many positions expire raises oldest at once.
const stride = 64

// Init prepares the ring for size things, each held for keep.
//
// age returns how long ago a thing came to be, which is not later than when it was
// added. A thing that is added late may be held so much longer as it was late, but All
// does not return it.
//
// evict is called once for each thing that leaves, unless Take took it. It is called by
// Add and by a goroutine of its own.
func (r *Ring[T]) Init(size int, keep time.Duration, age func(*T) time.Duration, evict func(*T)) {
	r.places = make([]atomic.Pointer[T], size)
	r.keep, r.age, r.evict = keep, age, evict
}

// Add adds v. If the ring is full the oldest thing leaves.
func (r *Ring[T]) Add(v *T) { r.put(r.next.Add(1)-1, v) }

// put is the second half of Add: it puts v at position n, which is its own.
func (r *Ring[T]) put(n uint64, v *T) {
	if old := r.place(n).Swap(v); old != nil {
		r.evict(old)
	}
	// After the place was filled; see oldest. And before armed is read; see expire.
	r.lower(n)
	// The load spares most calls the write to a shared cache line.
	if !r.armed.Load() && r.armed.CompareAndSwap(false, true) {
		r.expireIn(r.keep)
	}
}

// place returns the place of position n.
func (r *Ring[T]) place(n uint64) *atomic.Pointer[T] {
	size := uint64(len(r.places))
	if size&(size-1) == 0 {
		return &r.places[n&(size-1)] // a mask is faster than a division
	}
	return &r.places[n%size]
}

// lower lowers oldest to n, if it is above. It writes only if a round has passed n.
func (r *Ring[T]) lower(n uint64) {
	for {
		oldest := r.oldest.Load()
		if oldest <= n || r.oldest.CompareAndSwap(oldest, n) {
			return
		}
	}
}

// last returns n, or the first of the last size positions before end if that is later.
func (r *Ring[T]) last(n, end uint64) uint64 {
	if size := uint64(len(r.places)); end > size {
		return max(n, end-size)
	}
	return n
}

// positions returns the positions from first to before end, in whose places all things are.
func (r *Ring[T]) positions() (first, end uint64) {
	oldest := r.oldest.Load() // before next, which is never below it
	end = r.next.Load()
	return r.last(oldest-min(oldest, stride), end), end
}

// All returns the things that are in the ring and not too old, newest first. A thing that
// is there throughout is yielded exactly once.
func (r *Ring[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		first, end := r.positions()
		for n := end; n > first; n-- {
			if v := r.place(n - 1).Load(); v != nil && r.age(v) < r.keep && !yield(v) {
				return
			}
		}
	}
}

// Reach returns how far back the ring is complete: each thing that was added, that is
// younger, and that was not taken, is there.
func (r *Ring[T]) Reach() time.Duration {
	first, end := r.positions()
	if end <= uint64(len(r.places)) {
		return r.keep // none was pushed out
	}
	for n := first; n < end; n++ {
		if v := r.place(n).Load(); v != nil { // a place may hold a newer thing by now
			return min(r.keep, r.age(v))
		}
	}
	return r.keep
}

// Take takes v out of the ring, without evicting it. It reports false if v was not there.
func (r *Ring[T]) Take(v *T) bool {
	first, end := r.positions()
	for n := end; n > first; n-- { // most callers want one of the newest
		if p := r.place(n - 1); p.Load() == v && p.CompareAndSwap(v, nil) {
			return true
		}
	}
	return false
}

// expireIn sets the timer. The caller has set armed, and touches nothing afterwards.
func (r *Ring[T]) expireIn(d time.Duration) { weaktimer.AfterFunc(d, r, (*Ring[T]).expire) }

// expire is one round: it removes what is too old, and sets the timer unless nothing is
// left. Rounds are a sixteenth of keep apart, and a millisecond, so that a stream of
// things does not cause one for each: a thing may be held so much too long.
func (r *Ring[T]) expire() {
	pause := max(r.keep/16, time.Millisecond)
	if left, found := r.removeOld(); found {
		r.expireIn(max(left, pause))
		return
	}
	// From here on Add sets the timer. An Add that has found it set, and whose thing
	// removeOld has not seen, has raised next or lowered oldest before: then the two
	// differ, and the timer is set here.
	r.armed.Store(false)
	if r.oldest.Load() != r.next.Load() && r.armed.CompareAndSwap(false, true) {
		r.expireIn(pause)
	}
}

// removeOld removes things, oldest first, up to the first that is not too old, and returns
// how much time that one has left. If it finds none, oldest is next as it was at
// the call, or an Add has lowered it since.
func (r *Ring[T]) removeOld() (left time.Duration, found bool) {
	oldest := r.oldest.Load()
	end := r.next.Load()
	n := r.last(oldest, end)
	for n < end {
		// Pass a stride before its places are looked at. If oldest is not as it was, an
		// Add was late, and the round goes back to its position.
		to := min(n+stride, end)
		if !r.oldest.CompareAndSwap(oldest, to) {
			oldest = r.oldest.Load()
			n = r.last(oldest, end)
			continue
		}
		oldest = to
		for ; n < to; n++ {
			p := r.place(n)
			v := p.Load()
			if v == nil {
				continue
			}
			if left := r.keep - r.age(v); left > 0 {
				r.lower(n) // the next round begins here
				return left, true
			}
			if p.CompareAndSwap(v, nil) { // else it was taken, or another thing has taken its place
				r.evict(v)
			}
		}
	}
	return 0, false
}
