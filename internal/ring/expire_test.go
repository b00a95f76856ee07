package ring

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// item is a thing whose age a test sets.
type item struct {
	old     atomic.Bool
	evicted atomic.Int32
}

func newRing(size int) *Ring[item] {
	r := new(Ring[item])
	r.Init(size, time.Hour, func(v *item) time.Duration {
		if v.old.Load() {
			return time.Hour
		}
		return 0
	}, func(v *item) { v.evicted.Add(1) })
	r.armed.Store(true) // no timer: tests call removeOld
	return r
}

// A round begins where the one before has stopped, and stops at the first thing that
// stays.
func TestRoundCostsWhatExpires(t *testing.T) {
	for _, size := range []int{1000, 1 << 16} {
		r := newRing(size)
		items := make([]item, 3*size)
		for n := range items {
			r.Add(&items[n])
			if n >= 300 {
				items[n-300].old.Store(true)
			}
			if n%100 == 0 {
				r.removeOld()
				first, end := r.positions()
				require.LessOrEqual(t, end-first, uint64(300+stride+1), "positions that are looked at")
				require.Equal(t, max(0, n-299), int(r.oldest.Load()))
			}
		}
	}
}

// A round does not look at places that it has passed, nor at a place twice.
func TestRoundLooksAtNothingElse(t *testing.T) {
	r := newRing(1000)
	r.next.Store(1 << 62) // more positions than a round could look at
	_, found := r.removeOld()
	require.False(t, found)

	passed := new(item)
	passed.old.Store(true)
	r.places[100].Store(passed) // which Add would not do without lowering oldest
	_, found = r.removeOld()
	require.False(t, found)
	assert.Zero(t, passed.evicted.Load())
}

// There are sixteen rounds, not one for each thing.
func TestRoundsArePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keep, things = 16 * time.Second, 10_000
		r := new(Ring[time.Time])
		var looks atomic.Int32
		r.Init(things, keep, func(began *time.Time) time.Duration {
			looks.Add(1)
			return time.Since(*began)
		}, func(*time.Time) {})
		for range things {
			now := time.Now()
			r.Add(&now)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2 * keep)
		// Each thing is looked at when it leaves, and one more at the end of a round.
		rounds := int(looks.Load()) - things
		assert.LessOrEqual(t, rounds, int((things*10*time.Millisecond+keep)/time.Second))
		assert.Positive(t, rounds)
	})
}

// A round that an Add makes go back goes on to the end all the same.
func TestLateAddInRound(t *testing.T) {
	r := newRing(1000)
	items := make([]item, 500)
	for n := range items {
		items[n].old.Store(true)
	}
	late := new(item)
	late.old.Store(true)
	n := r.next.Add(1) - 1
	r.evict = func(v *item) {
		if v.evicted.Add(1); v == &items[10] {
			r.put(n, late)
		}
	}
	for i := range items {
		r.Add(&items[i])
	}
	_, found := r.removeOld()
	assert.False(t, found)
	assert.Equal(t, r.next.Load(), r.oldest.Load())
	for i := range items {
		require.EqualValues(t, 1, items[i].evicted.Load())
	}
	assert.EqualValues(t, 1, late.evicted.Load())
}

// An Add may have its position long before it puts its thing there. Rounds have passed
// the position by then.
func TestLateAdd(t *testing.T) {
	for name, between := range map[string]int{
		"nothing was added meanwhile":       0,
		"less than a stride":                10,
		"a stride":                          stride,
		"more than a stride":                2*stride + 10,
		"as much as the ring holds":         500,
		"more than the ring holds":          500 + stride + 1,
		"several times what the ring holds": 1700,
	} {
		t.Run(name, func(t *testing.T) {
			for _, before := range []int{0, 1, stride - 1, stride, 500, 777} {
				r := newRing(500)
				items := make([]item, before+between)
				for n := range before {
					items[n].old.Store(true)
					r.Add(&items[n])
				}
				n := r.next.Add(1) - 1 // the first half of Add
				for m := before; m < len(items); m++ {
					items[m].old.Store(true)
					r.Add(&items[m])
				}
				_, found := r.removeOld()
				require.False(t, found)
				require.Equal(t, r.next.Load(), r.oldest.Load(), "all positions were passed")

				late := new(item)
				r.put(n, late)
				var listed []*item
				for v := range r.All() {
					listed = append(listed, v)
				}
				require.Equal(t, []*item{late}, listed)
				_, found = r.removeOld()
				require.True(t, found)
				late.old.Store(true)
				_, found = r.removeOld()
				require.False(t, found)
				require.EqualValues(t, 1, late.evicted.Load())
				for m := range items {
					require.EqualValues(t, 1, items[m].evicted.Load())
				}
				require.False(t, r.Take(late))
			}
		})
	}
}

// A thing whose Add has returned is found, whatever rounds and other Adds do.
func TestTakeBesideRounds(t *testing.T) {
	r := newRing(1 << 17) // more than is added: nothing is pushed out
	var stop atomic.Bool
	var rounds, adds sync.WaitGroup
	rounds.Go(func() {
		for !stop.Load() {
			r.removeOld()
		}
	})
	for p := range 4 {
		adds.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(p), 1))
			var old []*item
			for range 20_000 {
				v := new(item)
				r.Add(v)
				switch rnd.IntN(4) {
				case 0:
					if !r.Take(v) {
						t.Error("a thing that was added is not there")
						return
					}
				case 1:
					old = append(old, v)
					fallthrough
				default:
					v.old.Store(true)
				}
				if len(old) > 100 {
					old = old[1:]
				}
			}
		})
	}
	adds.Wait()
	stop.Store(true)
	rounds.Wait()
	_, found := r.removeOld()
	assert.False(t, found)
	for range r.All() {
		t.Error("a thing was left")
	}
	for i := range r.places {
		require.Nil(t, r.places[i].Load(), "a thing that no round will find")
	}
}

// An Add that comes as the timer is given up sets it, or the round does.
func TestTimerIsSetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(Ring[item])
		began := time.Now()
		r.Init(8, time.Second, func(*item) time.Duration { return time.Since(began) }, func(v *item) { v.evicted.Add(1) })
		items := make([]item, 1000)
		var wg sync.WaitGroup
		for p := range 4 {
			wg.Go(func() {
				for i := p; i < len(items); i += 4 {
					r.Add(&items[i]) // each is too old at once
					time.Sleep(time.Duration(i%7) * time.Second / 16)
				}
			})
		}
		wg.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for i := range items {
			require.EqualValues(t, 1, items[i].evicted.Load())
		}
		assert.False(t, r.armed.Load(), "no timer is set for an empty ring")
	})
}
