// Package sample measures one run of one candidate in one workload, in this process or
// in a process of its own.
package sample

import (
	"runtime"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// Metrics that a sample has besides those of its workload.
const (
	BytesPerOp  = "B/op"
	AllocsPerOp = "allocs/op"
	PeakRSS     = "peak-RSS-MiB" // only of a sample from a process of its own
)

// Sample is what was measured in one run of one candidate, by metric.
type Sample map[string]float64

// stopwatch is the workload.Meter of samples.
type stopwatch struct {
	sample         Sample
	n              int
	began          time.Time
	cpu            time.Duration
	mallocs, bytes uint64
}

// Measure runs a workload once, after a collection of the garbage of earlier runs.
func Measure(w workload.Workload, c peers.Candidate, n int) (Sample, error) {
	s := &stopwatch{sample: Sample{}, n: n}
	runtime.GC()
	if err := w.Run(s, c, n); err != nil {
		return nil, err
	}
	return s.sample, nil
}

func (s *stopwatch) StartTimer() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.mallocs, s.bytes = m.Mallocs, m.TotalAlloc
	s.cpu = cputime.Used()
	s.began = time.Now()
}

func (s *stopwatch) StopTimer() {
	elapsed, cpu := time.Since(s.began), cputime.Used()-s.cpu
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.add(workload.NsPerOp, float64(elapsed))
	s.add(BytesPerOp, float64(m.TotalAlloc-s.bytes))
	s.add(AllocsPerOp, float64(m.Mallocs-s.mallocs))
	if cpu > 0 {
		s.add(workload.CPUPerOp, float64(cpu))
	}
}

func (s *stopwatch) add(metric string, total float64) {
	s.sample[metric] += total / float64(s.n)
}

// ReportMetric replaces what the stopwatch itself has measured under that name.
func (s *stopwatch) ReportMetric(value float64, unit string) { s.sample[unit] = value }
