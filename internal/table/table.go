// Package table gives out consecutive numbers, and holds an entry for each until the
// entry is cleared.
//
// A number is never given out twice and an entry never moves. So a lookup needs no map
// of single entries, and a listing sees each entry that is there throughout exactly once,
// whatever changes meanwhile.
package table

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// chunkSize is how many consecutive numbers share a chunk. A larger chunk wastes more
// memory if one entry lives longer than its neighbors. A smaller one takes the lock
// more often: the lock is taken twice per chunk.
const chunkSize = 64

// closed is the bit of Table.next that makes Next refuse. The bit and the next number
// are one word, so how many numbers were given out before Close is known exactly.
const closed = 1 << 63

// Table is a table of entries by number. The zero Table is ready to use. All methods
// are safe for concurrent use.
type Table[T any] struct {
	// next is the next number, with the closed bit. Once it is closed the number is
	// too high by the calls of Next that were refused.
	next atomic.Uint64
	// cur is the chunk of the highest numbers so far, which most calls of Next need. It
	// saves them the lock and the map.
	cur atomic.Pointer[chunk[T]]

	mu sync.Mutex
	// Guarded by mu.
	chunks map[uint64]*chunk[T] // by number/chunkSize: those that are not cleared
	peak   int                  // most chunks since the map was made
	frozen uint64               // numbers given out before Close
	late   uint64               // numbers given out since, by NextLate
}

// chunk holds the entries of chunkSize numbers.
type chunk[T any] struct {
	table *Table[T]
	index uint64       // of its numbers, divided by chunkSize
	left  atomic.Int32 // slots that are not cleared, filled or not; the chunk leaves the map at 0
	slots [chunkSize]atomic.Pointer[T]
}

// Slot is the place of one entry. It must be cleared exactly once, and filled at most
// once, before that. A second Clear would remove the entries of other numbers.
type Slot[T any] struct {
	chunk *chunk[T]
	num   uint64
}

// Next gives out the next number and returns its slot. It reports false after Close.
func (t *Table[T]) Next() (Slot[T], bool) {
	if t.next.Load()&closed != 0 {
		return Slot[T]{}, false
	}
	// Close may have come since the load.
	n := t.next.Add(1) - 1
	if n&closed != 0 {
		return Slot[T]{}, false // the number is lost, and not counted
	}
	return t.slot(n), true
}

// NextLate is Next, except that it does not refuse after Close.
func (t *Table[T]) NextLate() Slot[T] {
	t.mu.Lock() // which Close holds: late counts no number that frozen includes
	n := t.next.Add(1) - 1
	if n&closed != 0 {
		t.late++
	}
	t.mu.Unlock()
	return t.slot(n &^ closed)
}

// slot returns the slot of number n, which was just given out.
func (t *Table[T]) slot(n uint64) Slot[T] {
	index := n / chunkSize
	// The chunk cannot be dropped: the slot of n is not cleared.
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
		// A goroutine that was given a lower number may get here later.
		if last := t.cur.Load(); last == nil || last.index < index {
			t.cur.Store(c)
		}
	}
	return Slot[T]{c, n}
}

// Close makes every later call of Next refuse.
func (t *Table[T]) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.next.Or(closed); before&closed == 0 {
		t.frozen = before
	}
}

// Count returns how many numbers were given out so far.
func (t *Table[T]) Count() uint64 {
	n := t.next.Load()
	if n&closed == 0 {
		return n
	}
	// next counts refused calls as well, since the table was closed.
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frozen + t.late
}

// Get returns the entry of number n, nil if its slot is not filled or was cleared. known
// reports whether the number was given out; after Close it is true for the few
// numbers, too, that were refused.
func (t *Table[T]) Get(n uint64) (v *T, known bool) {
	if n >= t.next.Load()&^closed {
		return nil, false
	}
	t.mu.Lock()
	c := t.chunks[n/chunkSize]
	t.mu.Unlock()
	if c == nil {
		return nil, true // all slots of the chunk were cleared, or none was filled yet
	}
	return c.slots[n%chunkSize].Load(), true
}

// All returns the entries, lowest number first. An entry that is there from the call to
// the end is yielded exactly once. One that is filled or cleared meanwhile is yielded
// at most once.
func (t *Table[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		// An entry that is there now is in one of the chunks that are there now. The
		// entries themselves are read without the lock.
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

// drop removes a chunk from the map when all its slots were cleared. All its numbers
// were given out before, so slot is not called for one of them again.
func (t *Table[T]) drop(c *chunk[T]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.chunks, c.index)
	// A map never shrinks: replace it when it is mostly empty.
	if t.peak >= 64 && len(t.chunks) < t.peak/8 {
		small := make(map[uint64]*chunk[T], len(t.chunks))
		maps.Copy(small, t.chunks)
		t.chunks, t.peak = small, len(small)
	}
}

// Number returns the number of the slot.
func (s Slot[T]) Number() uint64 { return s.num }

// Fill makes v the entry of the slot, which Get and All return.
func (s Slot[T]) Fill(v *T) { s.chunk.slots[s.num%chunkSize].Store(v) }

// Clear removes the entry, if there is one, and gives up the slot.
func (s Slot[T]) Clear() {
	s.chunk.slots[s.num%chunkSize].Store(nil)
	if s.chunk.left.Add(-1) == 0 {
		s.chunk.table.drop(s.chunk)
	}
}
