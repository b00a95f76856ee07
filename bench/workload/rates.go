package workload

import (
	"errors"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/bench/peers"
)

const aboutRates = "`rate/kept`: tasks are submitted at once, and one may start each millisecond. `most` is how many started within any 100 ms: 101 with an exact clock. " +
	"`rate/idle`: 100,000 shares have each had a task, and may have the next one in an hour: the heap for each of them, how many goroutines there are, and the CPU time of one second in which nothing happens. "

// Metrics of the rates.
const (
	MostIn100ms  = "most/100ms"
	HeapPerShare = "heap-B/share"
	Goroutines   = "goroutines"
	IdleCPU      = "idle-cpu-µs/s"
)

func rateWorkloads() []Workload {
	const gap = time.Millisecond
	return []Workload{
		{
			Name: "rate/kept", N: 2_000, Quick: 20, Reps: 5,
			Metric: NsPerOp, Extra: []string{MostIn100ms, CPUPerOp}, Baseline: peers.Ticks(gap).Name,
			Candidates: func() []peers.Candidate { return []peers.Candidate{peers.TetherRate(gap), peers.Ticks(gap)} },
			Run:        rateKept,
		},
		{
			Name: "rate/idle", N: 100_000, Quick: 100, Reps: 3, Isolated: true,
			Metric: HeapPerShare, Extra: []string{Goroutines, IdleCPU}, Baseline: peers.Timers(time.Hour).Name,
			Candidates: func() []peers.Candidate {
				return []peers.Candidate{peers.TetherShares(tether.PoolConfig{ShareRate: tether.Rate{Tasks: 1, Per: time.Hour}}), peers.Timers(time.Hour)}
			},
			Run: idleShares,
		},
	}
}

func rateKept(m Meter, c peers.Candidate, n int) error {
	s, err := limited(2)(c)
	if err != nil {
		return err
	}
	starts := make([]time.Duration, n)
	var next atomic.Int64
	var left sync.WaitGroup
	left.Add(n)
	began := time.Now()
	m.StartTimer()
	err = submitTimes(n, &left, s.Task(func() {
		starts[next.Add(1)-1] = time.Since(began)
		left.Done()
	}))
	left.Wait()
	m.StopTimer()
	slices.Sort(starts)
	most, first := 0, 0
	for i := range starts {
		for starts[i]-starts[first] >= 100*time.Millisecond {
			first++
		}
		most = max(most, i-first+1)
	}
	m.ReportMetric(float64(most), MostIn100ms)
	return errors.Join(err, s.Close())
}

func idleShares(m Meter, c peers.Candidate, n int) error {
	before := settled()
	s, err := limited(2)(c)
	if err != nil {
		return err
	}
	var left sync.WaitGroup
	m.StartTimer()
	for i := 0; i < n && err == nil; i++ {
		left.Add(1)
		if err = s.TaskOf(strconv.Itoa(i), left.Done)(); err != nil {
			left.Done()
		}
	}
	left.Wait()
	m.StopTimer()
	after := settled()
	cpu := cputime.Used()
	time.Sleep(time.Duration(min(n, 10_000)) * 100 * time.Microsecond)
	m.ReportMetric(float64((cputime.Used()-cpu).Microseconds())*10_000/float64(min(n, 10_000)), IdleCPU)
	m.ReportMetric(float64(runtime.NumGoroutine()), Goroutines)
	m.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(n), HeapPerShare)
	return errors.Join(err, s.Close())
}
