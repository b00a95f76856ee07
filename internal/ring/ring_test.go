package ring_test

import (
	"fmt"
	"math/rand/v2"
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

	"github.com/seed-2e639f12/tether/internal/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct {
	num     int
	began   time.Time
	asked   bool // for its age, when it was too old
	evicted atomic.Int32
}

// journal is a Ring that writes down what it evicts.
type journal struct {
	ring.Ring[thing]
	mu      sync.Mutex
	evicted []int // guarded by mu
}

func newJournal(size int, keep time.Duration) *journal {
	r := new(journal)
	r.Init(size, keep, func(v *thing) time.Duration { return time.Since(v.began) }, func(v *thing) {
		v.evicted.Add(1)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.evicted = append(r.evicted, v.num)
	})
	return r
}

func (r *journal) add(num int) { r.Add(&thing{num: num, began: time.Now()}) }

// nums returns the numbers of what is listed.
func (r *journal) nums() (nums []int) {
	for v := range r.All() {
		nums = append(nums, v.num)
	}
	return nums
}

func (r *journal) gone() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.evicted)
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
		r := newJournal(size, time.Hour)
		assert.Empty(t, r.nums())
		for n := 1; n <= 3*size+1; n++ {
			r.add(n)
			assert.Equal(t, count(n, max(1, n-size+1)), r.nums(), "newest first")
		}
		assert.Equal(t, count(1, 2*size+1), r.gone(), "the oldest leave, in their order")
	}
	t.Run("a listing stops when told", func(t *testing.T) {
		r := newJournal(10, time.Hour)
		for n := range 10 {
			r.add(n)
		}
		for v := range r.All() {
			assert.Equal(t, 9, v.num)
			break
		}
	})
}

func TestTake(t *testing.T) {
	for _, size := range []int{3, 4} {
		r := newJournal(size, time.Hour)
		var things []*thing
		for n := range 2*size + 1 {
			things = append(things, &thing{num: n, began: time.Now()})
			r.Add(things[n])
			assert.True(t, r.Take(things[n]), "just added")
			assert.False(t, r.Take(things[n]), "twice")
			r.Add(things[n])
		}
		gone := r.gone()
		for n, v := range things {
			assert.Equal(t, !slices.Contains(gone, n), r.Take(v))
		}
		assert.Empty(t, r.nums())
		assert.Equal(t, gone, r.gone(), "what is taken is not evicted")
	}
}

func TestReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keep = time.Minute
		r := newJournal(3, keep)
		reach := func() float64 { return r.Reach().Seconds() }
		assert.EqualValues(t, 60, reach(), "nothing was added")
		var things []*thing
		for n := range 3 {
			things = append(things, &thing{num: n, began: time.Now()})
			r.Add(things[n])
			time.Sleep(time.Second)
		}
		assert.EqualValues(t, 60, reach(), "all are there")
		r.add(3)
		assert.EqualValues(t, 2, reach(), "the first was pushed out")
		r.Take(things[1])
		assert.EqualValues(t, 1, reach(), "the second is elsewhere")
		time.Sleep(58 * time.Second)
		assert.EqualValues(t, 59, reach())
		time.Sleep(2 * time.Minute)
		assert.Empty(t, r.nums())
		assert.EqualValues(t, 60, reach(), "all are too old")
	})
}

func TestExpiry(t *testing.T) {
	const keep, pause = 16 * time.Second, time.Second
	// A thing that is too old is not listed, and leaves a pause later at most.
	for _, gap := range []time.Duration{pause / 100, pause / 3, pause, 3 * pause} {
		t.Run(fmt.Sprintf("a thing every %v", gap), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newJournal(10_000, keep)
				var began []time.Time
				const things = 500
				left := 0
				for left < things {
					if len(began) < things {
						began = append(began, time.Now())
						r.add(len(began))
					}
					synctest.Wait()
					for v := range r.All() {
						if age := time.Since(v.began); age >= keep || v.evicted.Load() > 0 {
							t.Fatalf("%d is listed: %v old, evicted %d times", v.num, age, v.evicted.Load())
						}
					}
					gone := r.gone()
					for i := left; i < len(gone); i++ {
						require.Equal(t, i+1, gone[i], "in their order")
					}
					if left = len(gone); left < len(began) {
						require.Less(t, time.Since(began[left]), keep+pause)
					}
					time.Sleep(gap)
				}
				assert.Empty(t, r.nums())
			})
		})
	}
	t.Run("one thing leaves in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newJournal(4, keep)
			r.add(1)
			time.Sleep(keep - 1)
			synctest.Wait()
			assert.Equal(t, []int{1}, r.nums())
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			assert.Empty(t, r.nums())
			assert.Equal(t, []int{1}, r.gone())
		})
	})
	t.Run("things that are added out of order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// Each is added up to 5 s after it began.
			r := newJournal(1000, keep)
			rnd := rand.New(rand.NewPCG(1, 1))
			for n := range 500 {
				r.Add(&thing{num: n, began: time.Now().Add(-time.Duration(rnd.Int64N(int64(5 * time.Second))))})
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				gone := r.gone()
				for v := range r.All() {
					if age := time.Since(v.began); age >= keep || v.evicted.Load() > 0 {
						t.Fatalf("%d is listed: %v old, evicted %d times", v.num, age, v.evicted.Load())
					}
				}
				// 100 ms apart: those before n-160 were added 16 s ago, and a pause is due.
				require.GreaterOrEqual(t, len(gone), n-160-10)
			}
			time.Sleep(keep + pause)
			synctest.Wait()
			assert.ElementsMatch(t, count(0, 499), r.gone(), "each once")
		})
	})
	t.Run("again after everything was gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newJournal(4, time.Minute)
			for n := range 5 {
				r.add(n)
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Equal(t, count(0, n), r.gone())
			}
		})
	})
	t.Run("not what has been replaced", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newJournal(2, time.Minute)
			for n := range 5 {
				r.add(n)
			}
			assert.Equal(t, count(0, 2), r.gone())
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.ElementsMatch(t, count(0, 4), r.gone(), "each once")
		})
	})
	t.Run("what is too old already is neither listed nor kept forever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newJournal(2, time.Minute)
			r.Add(&thing{num: 7, began: time.Now().Add(-time.Hour)})
			assert.Empty(t, r.nums())
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Equal(t, []int{7}, r.gone())
		})
	})
	for _, size := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("what is added while the last one expires, in %d places", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The ring looks at the place of 0 and asks for its age. Before it has the
				// answer others are added, of which the last takes the place that was looked at.
				r := new(journal)
				var late []*thing
				r.Init(size, time.Minute, func(v *thing) time.Duration {
					age := time.Since(v.began)
					if v.num == 0 && age >= time.Minute && !v.asked {
						v.asked = true
						for n := 1; n <= size; n++ {
							late = append(late, &thing{num: n, began: time.Now()})
							r.Add(late[n-1])
						}
					}
					return age
				}, func(v *thing) { v.evicted.Add(1) })
				first := &thing{num: 0, began: time.Now()}
				r.Add(first)
				time.Sleep(time.Minute)
				synctest.Wait()
				assert.EqualValues(t, 1, first.evicted.Load())
				require.Len(t, late, size)
				assert.Equal(t, count(size, 1), r.nums())
				time.Sleep(time.Hour)
				synctest.Wait()
				for _, v := range append(late, first) {
					assert.EqualValues(t, 1, v.evicted.Load(), "times that %d was evicted", v.num)
				}
				assert.Empty(t, r.nums())
			})
		})
	}
}

// Things that are added at once get a place each.
func TestAddAtOnce(t *testing.T) {
	for range 1000 {
		const adders, each = 2, 16
		r := newJournal(adders*each, time.Hour)
		var ready atomic.Int32
		var wg sync.WaitGroup
		for p := range adders {
			wg.Go(func() {
				for ready.Add(1); ready.Load() < adders; { // all are on a processor when they begin
					runtime.Gosched()
				}
				for i := range each {
					r.add(p*each + i)
				}
			})
		}
		wg.Wait()
		require.ElementsMatch(t, count(0, adders*each-1), r.nums())
		require.Empty(t, r.gone())
	}
}

// Each thing leaves exactly once, and the ring never holds more than its size, whatever
// happens at the same time.
func TestConcurrent(t *testing.T) {
	for _, size := range []int{1, 3, 64} {
		synctest.Test(t, func(t *testing.T) {
			const adders, each = 8, 2000
			r := newJournal(size, time.Minute)
			things := make([]thing, adders*each)
			var adds, lists sync.WaitGroup
			stop := make(chan struct{})
			for p := range adders {
				adds.Go(func() {
					for i := range each {
						v := &things[p*each+i]
						v.num, v.began = p*each+i, time.Now()
						r.Add(v)
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
					for v := range r.All() {
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
			for v := range r.All() {
				there[v.num] = true
			}
			for i := range things {
				left := things[i].evicted.Load()
				if there[i] {
					require.Zero(t, left, "%d was evicted and is there", i)
				} else {
					require.EqualValues(t, 1, left, "times that %d was evicted", i)
				}
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Len(t, r.gone(), len(things))
			assert.Empty(t, r.nums())
		})
	}
}
