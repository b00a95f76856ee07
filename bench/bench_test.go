package bench

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/bench/internal/load"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// TestMain lets the test binary be the client of W15, and the service of W16's storm.
func TestMain(m *testing.M) {
	load.Main()
	workload.StormMain()
	// The ants package starts a pool when it is imported and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// Benchmark has a benchmark for each workload and candidate:
//
//	go test -run '^$' -bench 'W1/.*/(go|tether)$' -count 10 ./bench
func Benchmark(b *testing.B) {
	for _, f := range workload.All() {
		b.Run(f.ID, func(b *testing.B) {
			for _, w := range f.Workloads {
				if !w.Long {
					b.Run(w.Name, func(b *testing.B) { candidates(b, w) })
				}
			}
		})
	}
}

func candidates(b *testing.B, w workload.Workload) {
	for _, c := range w.AllCandidates() {
		b.Run(c.Name, func(b *testing.B) {
			b.ReportAllocs()
			b.StopTimer()
			b.ResetTimer()
			switch err := w.Run(b, c, b.N); {
			case errors.Is(err, workload.ErrLacks):
				b.Skip(err)
			case err != nil:
				b.Fatal(err)
			}
		})
	}
}
