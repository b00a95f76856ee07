package retain_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/retain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct {
	num   int
	came  time.Time
	asked bool // for its age, when its time was over
	times atomic.Int32
}

// store is a Store that notes what leaves.
type store struct {
	retain.Store[thing]
	mu      sync.Mutex
	evicted []int // guarded by mu
}

func newStore(size int, keep time.Duration) *store {
	s := new(store)
	s.Init(size, keep, func(v *thing) time.Duration { return time.Since(v.came) }, func(v *thing) {
		v.times.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.evicted = append(s.evicted, v.num)
	})
	return s
}

func (s *store) add(num int) { s.Add(&thing{num: num, came: time.Now()}) }

func (s *store) nums() (nums []int) {
	for v := range s.All() {
		nums = append(nums, v.num)
	}
	return nums
}

func (s *store) gone() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.evicted)
}

// count returns the numbers from first to last, down if first is greater.
func count(first, last int) (nums []int) {
	for n := first; n != last; {
		nums = append(nums, n)
		if n < last {
			n++
		} else {
			n--
		}
	}
	return append(nums, last)
}

func TestSize(t *testing.T) {
	for _, size := range []int{1, 2, 10} {
		s := newStore(size, time.Hour)
		assert.Empty(t, s.nums())
		for n := 1; n <= 3*size+1; n++ {
			s.add(n)
			assert.Equal(t, count(n, max(1, n-size+1)), s.nums(), "newest first")
		}
		assert.Equal(t, count(1, 2*size+1), s.gone(), "the oldest leave, in their order")
	}
	t.Run("a listing stops when told", func(t *testing.T) {
		s := newStore(10, time.Hour)
		for n := range 10 {
			s.add(n)
		}
		for v := range s.All() {
			assert.Equal(t, 9, v.num)
			break
		}
	})
}

func TestTake(t *testing.T) {
	for _, size := range []int{3, 4} {
		s := newStore(size, time.Hour)
		var things []*thing
		for n := range 2*size + 1 {
			things = append(things, &thing{num: n, came: time.Now()})
			s.Add(things[n])
			assert.True(t, s.Take(things[n]), "just come")
			assert.False(t, s.Take(things[n]), "twice")
			s.Add(things[n])
		}
		gone := s.gone()
		for n, v := range things {
			assert.Equal(t, !slices.Contains(gone, n), s.Take(v))
		}
		assert.Empty(t, s.nums())
		assert.Equal(t, gone, s.gone(), "what is taken is not evicted")
	}
}

func TestExpiry(t *testing.T) {
	t.Run("each when its time is over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(100, time.Minute)
			for n := range 10 {
				s.add(n)
				time.Sleep(time.Second)
			}
			// Now 0 is ten seconds old, and 9 is one.
			time.Sleep(50*time.Second - time.Nanosecond)
			assert.Equal(t, count(9, 0), s.nums())
			time.Sleep(time.Nanosecond)
			for n := range 9 {
				assert.Equal(t, count(9, n+1), s.nums())
				synctest.Wait()
				assert.Equal(t, count(0, n), s.gone(), "evicted in time too")
				time.Sleep(time.Second)
			}
			synctest.Wait()
			assert.Empty(t, s.nums())
			assert.Equal(t, count(0, 9), s.gone())
		})
	})
	t.Run("again after everything was gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(4, time.Minute)
			for n := range 5 {
				s.add(n)
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Equal(t, count(0, n), s.gone())
			}
		})
	})
	t.Run("not what has been replaced", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(2, time.Minute)
			for n := range 5 {
				s.add(n)
			}
			assert.Equal(t, count(0, 2), s.gone())
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.ElementsMatch(t, count(0, 4), s.gone(), "each once")
		})
	})
	t.Run("what is too old already is neither listed nor kept for ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(2, time.Minute)
			s.Add(&thing{num: 7, came: time.Now().Add(-time.Hour)})
			assert.Empty(t, s.nums())
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Equal(t, []int{7}, s.gone())
		})
	})
	for _, size := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("what comes while the last one expires, in %d places", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The store looks at the place of 0 and asks for its age. Before it has the
				// answer others come, of which the last takes the place that was looked at.
				s := new(store)
				var late []*thing
				s.Init(size, time.Minute, func(v *thing) time.Duration {
					age := time.Since(v.came)
					if v.num == 0 && age >= time.Minute && !v.asked {
						v.asked = true
						for n := 1; n <= size; n++ {
							late = append(late, &thing{num: n, came: time.Now()})
							s.Add(late[n-1])
						}
					}
					return age
				}, func(v *thing) { v.times.Add(1) })
				first := &thing{num: 0, came: time.Now()}
				s.Add(first)
				time.Sleep(time.Minute)
				synctest.Wait()
				assert.EqualValues(t, 1, first.times.Load())
				require.Len(t, late, size)
				assert.Equal(t, count(size, 1), s.nums())
				time.Sleep(time.Hour)
				synctest.Wait()
				for _, v := range append(late, first) {
					assert.EqualValues(t, 1, v.times.Load(), "times that %d was evicted", v.num)
				}
				assert.Empty(t, s.nums())
			})
		})
	}
}

// Things that come at once get a place each.
func TestAddAtOnce(t *testing.T) {
	for range 1000 {
		const adders, each = 2, 16
		s := newStore(adders*each, time.Hour)
		var ready atomic.Int32
		var wg sync.WaitGroup
		for p := range adders {
			wg.Go(func() {
				for ready.Add(1); ready.Load() < adders; { // all are on a processor when they begin
					runtime.Gosched()
				}
				for i := range each {
					s.add(p*each + i)
				}
			})
		}
		wg.Wait()
		require.ElementsMatch(t, count(0, adders*each-1), s.nums())
		require.Empty(t, s.gone())
	}
}

// Whatever races with what, each thing leaves exactly once, and the store is never
// fuller than its size.
func TestConcurrent(t *testing.T) {
	for _, size := range []int{1, 3, 64} {
		synctest.Test(t, func(t *testing.T) {
			const adders, each = 8, 2000
			s := newStore(size, time.Minute)
			things := make([]thing, adders*each)
			var adds, lists sync.WaitGroup
			stop := make(chan struct{})
			for p := range adders {
				adds.Go(func() {
					for i := range each {
						v := &things[p*each+i]
						v.num, v.came = p*each+i, time.Now()
						s.Add(v)
						if i%100 == p {
							time.Sleep(7 * time.Second) // so that some expire meanwhile
						}
					}
				})
			}
			lists.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
					}
					seen := make(map[int]bool)
					for v := range s.All() {
						if seen[v.num] {
							t.Errorf("%d is listed twice", v.num)
						}
						seen[v.num] = true
					}
					if len(seen) > size {
						t.Errorf("%d things in %d places", len(seen), size)
					}
				}
			})
			adds.Wait()
			close(stop)
			lists.Wait()
			there := make(map[int]bool)
			for v := range s.All() {
				there[v.num] = true
			}
			for i := range things {
				left := things[i].times.Load()
				if there[i] {
					require.Zero(t, left, "%d was evicted and is there", i)
				} else {
					require.EqualValues(t, 1, left, "times that %d was evicted", i)
				}
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Len(t, s.gone(), len(things))
			assert.Empty(t, s.nums())
		})
	}
}
