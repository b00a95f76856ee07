package headroom_test

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/headroom"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a process whose memory the test sets.
type fake struct {
	mu          sync.Mutex
	now         headroom.Reading // guarded by mu
	reads       int              // guarded by mu
	collections atomic.Int64
	collected   func() // called by Collect
}

func (f *fake) Read() headroom.Reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.now
}

func (f *fake) Collect() {
	f.collections.Add(1)
	if f.collected != nil {
		f.collected()
	}
}

func (f *fake) set(r headroom.Reading) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = r
}

func (f *fake) countReads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func goFunc(collect func()) { go collect() }

const every = int64(headroom.Every)

func TestThereIsRoomWithoutALimit(t *testing.T) {
	f := &fake{now: headroom.Reading{Limit: math.MaxInt64, InUse: 1 << 40}}
	assert.Nil(t, headroom.New(1, f, goFunc).Short(0))
}

func TestHeadroom(t *testing.T) {
	f := &fake{now: headroom.Reading{Limit: 100, InUse: 90}}
	g := headroom.New(10, f, goFunc)
	assert.Nil(t, g.Short(0), "exactly the headroom is left")
	f.set(headroom.Reading{Limit: 100, InUse: 91})
	assert.Equal(t, &headroom.Shortage{InUse: 91, Limit: 100, Headroom: 10, RetryAfter: time.Second}, g.Short(every))
	assert.Zero(t, f.collections.Load(), "a collection cannot free any")
	f.set(headroom.Reading{Limit: 100, InUse: 1})
	assert.Nil(t, g.Short(2*every))
}

func TestAHeadroomAboveTheLimitIsAlwaysShort(t *testing.T) {
	for _, inUse := range []int64{1, 100, 1000} {
		f := &fake{now: headroom.Reading{Limit: 100, InUse: inUse}}
		assert.NotNil(t, headroom.New(math.MaxInt64, f, goFunc).Short(0), inUse)
	}
}

func TestReadingsAreUsedForAWhile(t *testing.T) {
	f := &fake{now: headroom.Reading{Limit: 100, InUse: 1}}
	g := headroom.New(10, f, goFunc)
	g.Short(-5 * every) // the clock of a registry in a bubble of synctest may be negative
	for now := -5 * every; now < -4*every; now += every / 100 {
		g.Short(now)
	}
	assert.Equal(t, 1, f.countReads())
	g.Short(-4 * every)
	assert.Equal(t, 2, f.countReads())
	g.Short(-100 * every)
	assert.Equal(t, 3, f.countReads(), "a clock that goes back does not leave the reading as it is")
}

func TestAShortageIsOneValue(t *testing.T) {
	g := headroom.New(10, &fake{now: headroom.Reading{Limit: 100, InUse: 99}}, goFunc)
	first := g.Short(0)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if g.Short(1) != first {
			panic("another one")
		}
	}))
}

// What may be garbage is short until a collection has told.
func TestACollectionTells(t *testing.T) {
	for name, after := range map[string]headroom.Reading{
		"garbage":          {Limit: 100, InUse: 20},
		"live":             {Limit: 100, InUse: 95},
		"live, with a few": {Limit: 100, InUse: 95, Recent: 1},
		"uncertain still":  {Limit: 100, InUse: 95, Recent: 80},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{now: headroom.Reading{Limit: 100, InUse: 95, Recent: 80}}
				collecting := make(chan struct{})
				f.collected = func() { <-collecting; f.set(after) }
				g := headroom.New(10, f, goFunc)
				for i := range int64(10) {
					assert.NotNil(t, g.Short(i*every), "short until the collection has ended")
				}
				synctest.Wait()
				assert.EqualValues(t, 1, f.collections.Load(), "one at a time")
				close(collecting)
				synctest.Wait()
				if after.InUse <= 90 {
					assert.Nil(t, g.Short(9*every), "what the collection found counts at once")
				} else {
					assert.NotNil(t, g.Short(9*every))
				}
			})
		})
	}
}

func TestCollectionsTakeATenthOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{now: headroom.Reading{Limit: 100, InUse: 95, Recent: 80}}
		f.collected = func() { time.Sleep(50 * time.Millisecond) }
		g := headroom.New(10, f, goFunc)
		began := time.Now()
		for time.Since(began) < 10*time.Second {
			assert.NotNil(t, g.Short(int64(time.Since(began))))
			time.Sleep(time.Millisecond)
		}
		assert.InDelta(t, 20, f.collections.Load(), 1) // each 50 ms of 500
	})
}

func TestRuntime(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 40))
	s := headroom.Runtime()
	r := s.Read()
	assert.EqualValues(t, 1<<40, r.Limit)
	assert.Positive(t, r.InUse)
	assert.Less(t, r.InUse, int64(1<<30))
	const size = 64 << 20
	block := make([]byte, size)
	with := s.Read()
	assert.GreaterOrEqual(t, with.InUse-r.InUse, int64(size/2), "in use")
	s.Collect()
	collected := s.Read()
	assert.GreaterOrEqual(t, collected.InUse-collected.Recent, int64(size), "live")
	runtime.KeepAlive(block)
	block = nil
	s.Collect()
	assert.LessOrEqual(t, s.Read().InUse, collected.InUse-size/2)
	debug.SetMemoryLimit(math.MaxInt64)
	require.EqualValues(t, math.MaxInt64, s.Read().Limit)
}

func BenchmarkUpdate(b *testing.B) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 40))
	g := headroom.New(1<<20, headroom.Runtime(), goFunc)
	for i := range int64(b.N) {
		g.Short(i * every)
	}
}
