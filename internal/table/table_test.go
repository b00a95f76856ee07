package table_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/table"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is padded, so that a test of memory sees it.
type entry struct {
	num uint64
	_   [6]uint64
}

func TestNumbers(t *testing.T) {
	var tab table.Table[entry]
	const goroutines, each = 8, 5000
	got := make([][]uint64, goroutines)
	var wg sync.WaitGroup
	for p := range goroutines {
		wg.Go(func() {
			for i := range each {
				var slot table.Slot[entry]
				if i%10 == 0 {
					slot = tab.NextLate()
				} else {
					slot, _ = tab.Next()
				}
				slot.Fill(&entry{num: slot.Number()})
				got[p] = append(got[p], slot.Number())
				if i%3 > 0 {
					slot.Clear()
				}
			}
		})
	}
	wg.Wait()
	seen := make([]bool, goroutines*each)
	for _, nums := range got {
		for i, n := range nums {
			require.Less(t, n, uint64(len(seen)), "a gap in the numbers")
			require.False(t, seen[n], "number %d was given out twice", n)
			seen[n] = true
			if i > 0 {
				require.Greater(t, n, nums[i-1])
			}
			v, known := tab.Get(n)
			require.True(t, known)
			if i%3 == 0 {
				require.NotNil(t, v)
				require.Equal(t, n, v.num, "the entry of another number")
			} else {
				require.Nil(t, v)
			}
		}
	}
	assert.Equal(t, uint64(goroutines*each), tab.Count())
}

func TestGet(t *testing.T) {
	var tab table.Table[entry]
	v, known := tab.Get(0)
	assert.Nil(t, v)
	assert.False(t, known, "a number never given out")

	slot, ok := tab.Next()
	require.True(t, ok)
	v, known = tab.Get(slot.Number())
	assert.Nil(t, v)
	assert.True(t, known, "given out, not filled")

	want := &entry{}
	slot.Fill(want)
	v, known = tab.Get(slot.Number())
	assert.Same(t, want, v)
	assert.True(t, known)
	_, known = tab.Get(slot.Number() + 1)
	assert.False(t, known)

	slot.Clear()
	v, known = tab.Get(slot.Number())
	assert.Nil(t, v)
	assert.True(t, known, "given out, and cleared")

	tab.Close()
	_, known = tab.Get(slot.Number())
	assert.True(t, known, "after Close as well")
	_, known = tab.Get(1 << 62)
	assert.False(t, known)
	_, known = tab.Get(1<<63 + 1)
	assert.False(t, known)
}

func TestClose(t *testing.T) {
	t.Run("refuses, except for NextLate", func(t *testing.T) {
		var tab table.Table[entry]
		for range 40 {
			tab.Next()
		}
		tab.Close()
		_, ok := tab.Next()
		assert.False(t, ok)
		tab.Close()
		assert.Equal(t, uint64(40), tab.Count())
		slot := tab.NextLate()
		slot.Fill(&entry{num: slot.Number()})
		assert.Equal(t, uint64(41), tab.Count())
		v, _ := tab.Get(slot.Number())
		require.NotNil(t, v)
		assert.Equal(t, slot.Number(), v.num)
		assert.GreaterOrEqual(t, slot.Number(), uint64(40))
	})
	t.Run("leaves the count exact", func(t *testing.T) {
		for range 300 {
			var tab table.Table[entry]
			var granted, late atomic.Uint64
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						slot, ok := tab.Next()
						if !ok {
							return
						}
						granted.Add(1)
						slot.Fill(&entry{})
						slot.Clear()
					}
				})
			}
			wg.Go(func() {
				for range 100 {
					tab.NextLate().Fill(&entry{})
					late.Add(1)
				}
			})
			for range 2 {
				wg.Go(func() {
					for tab.Count() < 200 {
						runtime.Gosched()
					}
					tab.Close()
				})
			}
			wg.Wait()
			require.Equal(t, granted.Load()+late.Load(), tab.Count())
			// It stays exact.
			tab.NextLate()
			tab.Next()
			require.Equal(t, granted.Load()+late.Load()+1, tab.Count())
			n := uint64(0)
			for range tab.All() {
				n++
			}
			require.Equal(t, late.Load(), n)
		}
	})
	t.Run("never counts fewer than were given out", func(t *testing.T) {
		for range 300 {
			var tab table.Table[entry]
			var granted atomic.Uint64
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for range 100 {
						if _, ok := tab.Next(); ok {
							granted.Add(1)
						}
					}
				})
			}
			wg.Go(tab.Close)
			for range 50 {
				before := granted.Load()
				require.GreaterOrEqual(t, tab.Count(), before)
			}
			wg.Wait()
			require.Equal(t, granted.Load(), tab.Count())
		}
	})
}

// A listing sees each entry that is there throughout exactly once, whatever changes
// meanwhile.
func TestAll(t *testing.T) {
	t.Run("lowest number first, until the loop is left", func(t *testing.T) {
		var tab table.Table[entry]
		for range 100 {
			slot, _ := tab.Next()
			slot.Fill(&entry{num: slot.Number()})
		}
		next := uint64(0)
		for v := range tab.All() {
			require.Equal(t, next, v.num)
			next++
			if next == 70 {
				break
			}
		}
		assert.Equal(t, uint64(70), next)
	})
	t.Run("entries that stay when most are cleared", func(t *testing.T) {
		var tab table.Table[entry]
		var slots []table.Slot[entry]
		for range 20_000 {
			slot, _ := tab.Next()
			slot.Fill(&entry{num: slot.Number()})
			slots = append(slots, slot)
		}
		const apart = 3000
		for i, slot := range slots {
			if i%apart > 0 {
				slot.Clear()
			}
		}
		next := uint64(0)
		for v := range tab.All() {
			require.Equal(t, next, v.num)
			next += apart
		}
		assert.Equal(t, uint64(7*apart), next)
		for n := uint64(0); n < next; n += apart {
			v, known := tab.Get(n)
			require.True(t, known)
			require.NotNil(t, v)
			slots[n].Clear()
		}
		for range tab.All() {
			require.Fail(t, "it was cleared")
		}
	})
	t.Run("while others come and go", func(t *testing.T) {
		var tab table.Table[entry]
		stay := make(map[uint64]bool)
		rnd := rand.New(rand.NewPCG(1, 1))
		for len(stay) < 500 { // spread thinly, for chunks to come and go around them
			slot, _ := tab.Next()
			slot.Fill(&entry{num: slot.Number()})
			if rnd.IntN(20) == 0 {
				stay[slot.Number()] = true
			} else {
				slot.Clear()
			}
		}
		stop := make(chan struct{})
		var churn sync.WaitGroup
		for p := range 4 {
			churn.Go(func() {
				var mine []table.Slot[entry]
				rnd := rand.New(rand.NewPCG(2, uint64(p)))
				for {
					select {
					case <-stop:
						for _, slot := range mine {
							slot.Clear()
						}
						return
					default:
					}
					slot, _ := tab.Next()
					slot.Fill(&entry{num: slot.Number()})
					mine = append(mine, slot)
					for len(mine) > rnd.IntN(3000) {
						i := rnd.IntN(len(mine))
						mine[i].Clear()
						mine[i] = mine[len(mine)-1]
						mine = mine[:len(mine)-1]
					}
				}
			})
		}
		for range 50 {
			seen := make(map[uint64]bool)
			for v := range tab.All() {
				require.False(t, seen[v.num], "%d was seen twice", v.num)
				seen[v.num] = true
			}
			for n := range stay {
				require.True(t, seen[n], "%d was not seen", n)
			}
		}
		close(stop)
		churn.Wait()
		n := 0
		for v := range tab.All() {
			require.True(t, stay[v.num], "%d was cleared", v.num)
			n++
		}
		assert.Equal(t, len(stay), n)
	})
}

// Entries that were cleared take no memory, neither in slots nor in the map.
func TestMemoryIsReleased(t *testing.T) {
	heap := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	var tab table.Table[entry]
	before := heap()
	const n = 1 << 18
	slots := make([]table.Slot[entry], n)
	for i := range slots {
		slots[i], _ = tab.Next()
		slots[i].Fill(new(entry))
	}
	full := heap() - before
	require.Greater(t, full, n*8, "the test does not see what the table holds")
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		slots[i].Clear()
		slots[i] = table.Slot[entry]{}
	}
	slots = nil
	left := heap() - before
	assert.Less(t, left, 64<<10, "of %d bytes", full)
	_, known := tab.Get(n - 1)
	assert.True(t, known)
}
