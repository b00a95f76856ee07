// Package table numbers things as they come and holds each until it is cleared.
//
// A number is never used twice and an entry never moves, so a lookup needs no
// map of single entries, and a listing that runs beside any number of changes
// sees every entry that is there throughout exactly once.
package table

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// chunkSize is how many consecutive numbers share a chunk. A larger one wastes
// more memory beside a single long-lived entry, a smaller one takes the lock
// more often: it is taken twice per chunk.
const chunkSize = 32

// closed is the bit of Table.next that makes Claim refuse. The bit and the count
// are one word, so how many claims came before Close is known exactly.
const closed = 1 << 63

// Table is ready for use when it is zero. All methods may be called at once.
type Table[T any] struct {
	next atomic.Uint64            // the next number, and the closed bit
	cur  atomic.Pointer[chunk[T]] // a recent chunk: a way past the map

	mu     sync.Mutex
	chunks map[uint64]*chunk[T] // by number/chunkSize; guarded by mu
	peak   int                  // most chunks since the map was made; guarded by mu
	frozen uint64               // claims before Close; guarded by mu
	late   uint64               // claims since Close; guarded by mu
}

type chunk[T any] struct {
	table *Table[T]
	index uint64
	left  atomic.Int32 // places not cleared yet: at 0 the chunk leaves the map
	slots [chunkSize]atomic.Pointer[T]
}

// Slot is one entry's place. Its owner fills it once and clears it once.
type Slot[T any] struct {
	chunk *chunk[T]
	num   uint64
}

// Claim takes the next number. It refuses after Close.
func (t *Table[T]) Claim() (Slot[T], bool) {
	if t.next.Load()&closed != 0 {
		return Slot[T]{}, false
	}
	n := t.next.Add(1) - 1
	if n&closed != 0 {
		return Slot[T]{}, false // Close came between; the number is lost, not counted
	}
	return t.slot(n), true
}

// ClaimLate takes the next number after Close as well.
func (t *Table[T]) ClaimLate() Slot[T] {
	t.mu.Lock()
	n := t.next.Add(1) - 1
	if n&closed != 0 {
		t.late++
	}
	t.mu.Unlock()
	return t.slot(n &^ closed)
}

func (t *Table[T]) slot(n uint64) Slot[T] {
	index := n / chunkSize
	if c := t.cur.Load(); c != nil && c.index == index {
		return Slot[T]{c, n}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.chunks[index]
	if c == nil {
		c = &chunk[T]{table: t, index: index}
		c.left.Store(chunkSize)
		if t.chunks == nil {
			t.chunks = make(map[uint64]*chunk[T])
		}
		t.chunks[index] = c
		t.peak = max(t.peak, len(t.chunks))
		if last := t.cur.Load(); last == nil || last.index < index {
			t.cur.Store(c)
		}
	}
	return Slot[T]{c, n}
}

// Close makes every later Claim refuse.
func (t *Table[T]) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.next.Or(closed); before&closed == 0 {
		t.frozen = before
	}
}

// Claimed returns how many claims were granted so far.
func (t *Table[T]) Claimed() uint64 {
	n := t.next.Load()
	if n&closed == 0 {
		return n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frozen + t.late
}

// Get returns what stands at number n, nil if nothing does. Known tells whether
// the number was ever given out.
func (t *Table[T]) Get(n uint64) (v *T, known bool) {
	if n >= t.next.Load()&^closed {
		return nil, false
	}
	t.mu.Lock()
	c := t.chunks[n/chunkSize]
	t.mu.Unlock()
	if c == nil {
		return nil, true
	}
	return c.slots[n%chunkSize].Load(), true
}

// All returns every entry, oldest first. An entry that is there from the call to
// the end is yielded exactly once; one that comes or goes meanwhile at most once.
func (t *Table[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		t.mu.Lock()
		chunks := slices.SortedFunc(maps.Values(t.chunks), func(a, b *chunk[T]) int {
			if a.index < b.index {
				return -1
			}
			return 1
		})
		t.mu.Unlock()
		for _, c := range chunks {
			for i := range c.slots {
				if v := c.slots[i].Load(); v != nil && !yield(v) {
					return
				}
			}
		}
	}
}

// drop forgets a chunk whose places have all been cleared. All of its numbers
// were given out before, so nobody will look for it again to fill one.
func (t *Table[T]) drop(c *chunk[T]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.chunks, c.index)
	// A map keeps the room of its best day: give it back.
	if t.peak >= 64 && len(t.chunks) < t.peak/8 {
		small := make(map[uint64]*chunk[T], len(t.chunks))
		maps.Copy(small, t.chunks)
		t.chunks, t.peak = small, len(small)
	}
}

// Number returns the slot's number.
func (s Slot[T]) Number() uint64 { return s.num }

// Fill puts v where Get and All find it.
func (s Slot[T]) Fill(v *T) { s.chunk.slots[s.num%chunkSize].Store(v) }

// Clear takes the entry out.
func (s Slot[T]) Clear() {
	s.chunk.slots[s.num%chunkSize].Store(nil)
	if s.chunk.left.Add(-1) == 0 {
		s.chunk.table.drop(s.chunk)
	}
}
