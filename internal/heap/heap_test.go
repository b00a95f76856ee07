package heap_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/internal/heap"
)

type item struct {
	key   int
	place int32
}

func newHeap() *heap.Heap[*item] {
	h := new(heap.Heap[*item])
	h.Init(func(a, b *item) bool { return a.key < b.key }, func(i *item) *int32 { return &i.place })
	return h
}

// Random items are put in, changed and taken out. The least is always in front, and each
// knows whether it is in.
func TestHeap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	h := newHeap()
	items := make([]*item, 200)
	for i := range items {
		items[i] = new(item)
	}
	in := make(map[*item]bool)
	for range 20_000 {
		i := items[random.IntN(len(items))]
		i.key = random.IntN(50)
		if is := random.IntN(5) < 3; is {
			in[i] = true
			h.Set(i, true)
		} else {
			delete(in, i)
			h.Set(i, false)
		}
		require.Equal(t, len(in), h.Len())
		least := 1 << 30
		for each := range in {
			least = min(least, each.key)
		}
		if len(in) > 0 {
			require.Equal(t, least, h.Top().key)
		}
		require.Equal(t, in[i], h.Has(i))
	}
	for h.Len() > 0 {
		top := h.Top()
		assert.True(t, slices.Contains(h.Items(), top))
		h.Set(top, false)
		assert.Zero(t, top.place)
		assert.True(t, h.Len() == 0 || h.Top().key >= top.key)
	}
}

func TestHeap_KeepsLittleRoom(t *testing.T) {
	h := newHeap()
	items := make([]item, 10_000)
	for i := range items {
		h.Set(&items[i], true)
	}
	for i := range items {
		h.Set(&items[i], false)
	}
	assert.Zero(t, cap(h.Items()))
}
