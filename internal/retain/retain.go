// Package retain keeps the last of a stream of things, for a while.
package retain

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/weaktimer"
)

// Store holds the newest things, at most a fixed number and none longer than a
// fixed time. Add takes no lock.
type Store[T any] struct {
	age    func(*T) time.Duration // how long ago a thing came
	evict  func(*T)               // called once for each thing that leaves
	keep   time.Duration
	places []atomic.Pointer[T] // the n-th to come is in places[place(n)]
	next   atomic.Uint64

	armed atomic.Bool // a timer will run expire
	mu    sync.Mutex  // held by expire
}

// Init prepares a store of at most size things, each kept at most for keep.
func (s *Store[T]) Init(size int, keep time.Duration, age func(*T) time.Duration, evict func(*T)) {
	s.places = make([]atomic.Pointer[T], size)
	s.keep, s.age, s.evict = keep, age, evict
}

// Add puts v in, in the place of the oldest thing if there is no other.
func (s *Store[T]) Add(v *T) {
	n := s.next.Add(1) - 1
	if old := s.places[s.place(n)].Swap(v); old != nil {
		s.evict(old)
	}
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		weaktimer.AfterFunc(s.keep, s, (*Store[T]).expire)
	}
}

// place returns n % len, which a mask does faster where it can.
func (s *Store[T]) place(n uint64) uint64 {
	size := uint64(len(s.places))
	if size&(size-1) == 0 {
		return n & (size - 1)
	}
	return n % size
}

// All returns what is there, newest first.
func (s *Store[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		size := uint64(len(s.places))
		end := s.next.Load()
		for i := range min(size, end) {
			if v := s.places[s.place(end-1-i)].Load(); v != nil && s.age(v) < s.keep && !yield(v) {
				return
			}
		}
	}
}

// Take has v leave now, and not be evicted. It reports false if v was not there.
func (s *Store[T]) Take(v *T) bool {
	end := s.next.Load()
	for i := range min(uint64(len(s.places)), end) {
		p := &s.places[s.place(end-1-i)] // the newest first: it is the likeliest
		if p.Load() == v && p.CompareAndSwap(v, nil) {
			return true
		}
	}
	return false
}

// expire removes what is too old, and sees to it that it runs again in time for
// the next.
func (s *Store[T]) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	soonest, found := s.keep, false
	for i := range s.places {
		v := s.places[i].Load()
		if v == nil {
			continue
		}
		if left := s.keep - s.age(v); left > 0 {
			soonest, found = min(soonest, left), true
		} else if s.places[i].CompareAndSwap(v, nil) {
			s.evict(v)
		}
	}
	if !found {
		// An Add that came after its place was looked at found the timer armed. It is
		// not any more: look again, or that thing would stay.
		s.armed.Store(false)
		if !s.any() || !s.armed.CompareAndSwap(false, true) {
			return
		}
	}
	weaktimer.AfterFunc(soonest, s, (*Store[T]).expire)
}

func (s *Store[T]) any() bool {
	for i := range s.places {
		if s.places[i].Load() != nil {
			return true
		}
	}
	return false
}
