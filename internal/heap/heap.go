// Package heap is a binary heap that records the index of each item, so that one can be moved
// or removed when what it is ordered by has changed.
package heap

// Heap holds items, the least in front. Init must be called first. What an item is ordered
// by must not change while it is in the heap, except before a call of Set.
type Heap[T any] struct {
	items []T
	less  func(a, b T) bool
	place func(T) *int32 // where an item has its index plus one; 0 if it is not in the heap
}

// keepCap is the most room that an empty heap keeps.
const keepCap = 64

// Init sets the order of the items, and where each has its place, which is 0 at first.
func (h *Heap[T]) Init(less func(a, b T) bool, place func(T) *int32) { h.less, h.place = less, place }

// Len returns the number of items.
func (h *Heap[T]) Len() int { return len(h.items) }

// Items returns the items, in no order. The caller must not change them.
func (h *Heap[T]) Items() []T { return h.items }

// Top returns the least item. The heap must not be empty.
func (h *Heap[T]) Top() T { return h.items[0] }

// Has reports whether the item is in the heap.
func (h *Heap[T]) Has(item T) bool { return *h.place(item) != 0 }

// Set makes the item be in the heap, at its place, or not be in it.
func (h *Heap[T]) Set(item T, in bool) {
	switch i := int(*h.place(item)) - 1; {
	case in && i < 0:
		h.items = append(h.items, item)
		h.up(len(h.items) - 1)
	case in:
		h.fix(i)
	case i >= 0:
		h.remove(i)
	}
}

func (h *Heap[T]) remove(i int) {
	var none T
	last := len(h.items) - 1
	item, moved := h.items[i], h.items[last]
	h.items[last] = none // or the array would keep it alive
	h.items = h.items[:last]
	*h.place(item) = 0
	if i < last {
		h.put(i, moved)
		h.fix(i)
	}
	if last == 0 && cap(h.items) > keepCap {
		h.items = nil
	}
}

func (h *Heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *Heap[T]) put(i int, item T) {
	h.items[i] = item
	*h.place(item) = int32(i + 1)
}

func (h *Heap[T]) up(i int) {
	item := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(item, h.items[parent]) {
			break
		}
		h.put(i, h.items[parent])
		i = parent
	}
	h.put(i, item)
}

// down reports whether the item has moved.
func (h *Heap[T]) down(i int) (moved bool) {
	item, start := h.items[i], i
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], item) {
			break
		}
		h.put(i, h.items[child])
		i = child
	}
	h.put(i, item)
	return i > start
}
