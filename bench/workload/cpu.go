package workload

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func cpu() Family {
	f := Family{
		ID: "W3", Title: "A task that computes",
		About: "What the overhead adds to a short computation. `inline` calls the body, on one core.",
	}
	for _, v := range []struct {
		work     time.Duration
		n, batch int
	}{
		{time.Microsecond, 30_000, 10_000},
		{10 * time.Microsecond, 4_000, 1_000},
	} {
		for _, place := range []struct {
			name string
			sys  system
		}{
			{"no-limit", unlimited},
			{"limit=16", limited(16)},
		} {
			f.Workloads = append(f.Workloads, Workload{
				Name: v.work.String() + "/" + place.name,
				N:    v.n, Quick: 500,
				Metric: NsPerOp, Baseline: goStatement,
				Candidates: func() []peers.Candidate { return append(peers.All(), peers.Inline()) },
				Run: tasks(place.sys, 1, v.batch, func(done func()) func() {
					loops := loopsFor(v.work)
					return func() { spin(loops); done() }
				}),
			})
		}
	}
	return f
}

// spin computes. It stores a result in a case that never occurs, so that the compiler
// cannot omit the computation.
//
//go:noinline
func spin(loops int) {
	x := uint64(88172645463325252)
	for range loops {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	if x == 0 { // never
		result.Store(x)
	}
}

var result atomic.Uint64

// perMillisecond is the number of loops of spin per millisecond on this machine, in the
// fastest of 50 rounds.
var perMillisecond = sync.OnceValue(func() int {
	const loops = 100_000
	fastest := time.Duration(1<<63 - 1)
	for range 50 {
		began := time.Now()
		spin(loops)
		fastest = min(fastest, time.Since(began))
	}
	return int(loops * int64(time.Millisecond) / int64(max(fastest, 1)))
})

func loopsFor(d time.Duration) int {
	return int(int64(perMillisecond()) * int64(d) / int64(time.Millisecond))
}
