// Package headroom reports whether a process has memory left below its limit, which is
// that of runtime/debug.SetMemoryLimit and GOMEMLIMIT.
//
// The runtime counts garbage as memory in use until a collection has freed it, and with a
// limit it may let garbage grow up to the limit. So memory in use alone says little. Three
// cases are told apart, by what was live at the last collection and what has been
// allocated since:
//
//   - There is headroom even if nothing of it is garbage: there is room.
//   - There is none even if all that was allocated since is garbage: memory is short.
//   - Otherwise only a collection can tell. Until one has ended, memory counts as short: in
//     a storm of allocations most of it is live.
//
// A collection is started for the last case, at most so often that a tenth of the time is
// spent in collections that were started here.
package headroom

import (
	"math"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Every is the time for which one reading of the metrics is used.
const Every = 2 * time.Millisecond

// Shortage is how little memory there is.
type Shortage struct {
	InUse, Limit, Headroom int64 // in bytes
	RetryAfter             time.Duration
}

// Reading is the memory of the process at one instant, in bytes.
type Reading struct {
	Limit  int64 // math.MaxInt64 means none
	InUse  int64 // what counts against the limit, without the pages that the heap can reuse
	Recent int64 // the part of InUse that was allocated since the last collection; more of it may be garbage than not
}

// Guard reads the metrics now and then. Its methods are safe for concurrent use.
type Guard struct {
	headroom int64
	start    func(collect func()) // runs collect on a goroutine
	source   Source

	next  atomic.Int64             // when the metrics are read again
	short atomic.Pointer[Shortage] // of the last reading; nil if there was room

	mu         sync.Mutex
	collecting bool      // guarded by mu
	mayCollect time.Time // when another collection may be started; guarded by mu
}

// Source is where a Guard gets its readings from.
type Source interface {
	Read() Reading
	Collect() // a garbage collection
}

// New returns a Guard of that many bytes, at least 1. Its collections are run by start, each
// on a goroutine of its own.
func New(headroom int64, source Source, start func(collect func())) *Guard {
	g := &Guard{headroom: headroom, source: source, start: start}
	g.next.Store(math.MinInt64)
	return g
}

// Short returns how little memory there is, nil if there is enough. now is a time in
// nanoseconds of a clock of the caller's.
func (g *Guard) Short(now int64) *Shortage {
	next := g.next.Load()
	if (now >= next || now < next-int64(Every)) && g.next.CompareAndSwap(next, now+int64(Every)) {
		g.update(true)
	}
	return g.short.Load()
}

// update reads the metrics and decides. It may start a collection if mayCollect is true.
func (g *Guard) update(mayCollect bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.source.Read()
	room := r.Limit - r.InUse - min(g.headroom, r.Limit) // which does not overflow
	if r.Limit == math.MaxInt64 || room >= 0 {
		g.short.Store(nil)
		return
	}
	g.short.Store(&Shortage{InUse: r.InUse, Limit: r.Limit, Headroom: g.headroom, RetryAfter: time.Second})
	if !mayCollect || room+r.Recent < 0 || g.collecting || time.Now().Before(g.mayCollect) {
		return
	}
	g.collecting = true
	g.start(g.collect)
}

// collect runs a garbage collection and reads the metrics again.
func (g *Guard) collect() {
	began := time.Now()
	g.source.Collect()
	g.mu.Lock()
	g.collecting = false
	g.mayCollect = time.Now().Add(9 * time.Since(began))
	g.mu.Unlock()
	g.update(false)
}

// runtimeSource is the memory of this process.
type runtimeSource struct{ samples []metrics.Sample }

// Runtime returns the memory of this process. Only one goroutine may use it at a time,
// except for Collect.
func Runtime() Source {
	s := &runtimeSource{}
	for _, name := range []string{
		"/gc/gomemlimit:bytes",
		"/memory/classes/total:bytes",
		"/memory/classes/heap/released:bytes",
		"/memory/classes/heap/free:bytes",
		"/memory/classes/heap/objects:bytes",
		"/gc/heap/live:bytes",
	} {
		s.samples = append(s.samples, metrics.Sample{Name: name})
	}
	return s
}

func (s *runtimeSource) Read() Reading {
	metrics.Read(s.samples)
	var n [6]int64
	for i := range n {
		n[i] = int64(min(s.samples[i].Value.Uint64(), math.MaxInt64))
	}
	limit, total, released, free, objects, live := n[0], n[1], n[2], n[3], n[4], n[5]
	return Reading{Limit: limit, InUse: total - released - free, Recent: max(0, objects-live)}
}

func (s *runtimeSource) Collect() { runtime.GC() }
