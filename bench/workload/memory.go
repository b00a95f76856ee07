package workload

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of W8.
const (
	HeapPerTask   = "heap-B/task"
	StackPerTask  = "stack-B/task"
	AllocsPerTask = "allocs/task"
	KeptPerTask   = "kept-B/task"
)

// memoryReps is small because these figures hardly vary.
const memoryReps = 3

func memory() Family {
	f := Family{
		ID: "W8", Title: "Memory of a task",
		About: "Heap and stack with 100 000 or a million tasks blocked, or queued behind one that is, less what was in use before the system was made. `kept` is the heap that is still in use when all tasks have ended. " +
			"The differences are to a bare goroutine, and to an element of a channel's buffer.",
	}
	for _, v := range []struct {
		name string
		n    int
		long bool
	}{{"100k", 100_000, false}, {"1M", 1_000_000, true}} {
		f.Workloads = append(f.Workloads,
			Workload{
				Name: "live/" + v.name, N: v.n, Quick: 1000, Reps: memoryReps, Long: v.long, Isolated: true,
				Metric: HeapPerTask, Extra: []string{StackPerTask, AllocsPerTask, KeptPerTask},
				Compare: Difference, Baseline: goStatement, Run: liveMemory,
			},
			Workload{
				Name: "queued/" + v.name, N: v.n, Quick: 1000, Reps: memoryReps, Long: v.long, Isolated: true,
				Metric: HeapPerTask, Extra: []string{AllocsPerTask, KeptPerTask},
				Compare: Difference, Baseline: peers.Channel().Name, Run: queuedMemory,
			},
		)
	}
	return f
}

func liveMemory(m Meter, c peers.Candidate, n int) error {
	return weigh(m, n, n, func() (func(func()) func() error, func() error, error) {
		s, err := unlimited(c)
		if err != nil {
			return nil, nil, err
		}
		return s.Task, s.Close, nil
	})
}

// queuedMemory measures tasks that wait behind one that blocks the only worker. Libraries
// without a queue are left out: their submitters would wait, with a goroutine for each.
func queuedMemory(m Meter, c peers.Candidate, n int) error {
	return weigh(m, n+1, 1, func() (func(func()) func() error, func() error, error) {
		switch {
		case c.Limited != nil && c.Queues:
			s, err := c.Limited(1)
			if err != nil {
				return nil, nil, err
			}
			return s.Task, s.Close, nil
		case c.Name == peers.Channel().Name:
			s, err := c.Rejecting(1, n)
			if err != nil {
				return nil, nil, err
			}
			return mustAdmit(s), s.Close, nil
		}
		return nil, nil, ErrLacks
	})
}

func mustAdmit(s *peers.Rejecting) func(func()) func() error {
	return func(body func()) func() error {
		try := s.Task(body)
		return func() error {
			if !try() {
				return errors.New("workload: refused")
			}
			return nil
		}
	}
}

// weigh submits n tasks, of which running can start and block, and reports the memory of
// all n.
func weigh(m Meter, n, running int, open func() (task func(func()) func() error, stop func() error, err error)) error {
	before := settled()
	task, stop, err := open()
	if err != nil {
		return err
	}
	var started, ended atomic.Int64
	gate := make(chan struct{})
	submit := task(func() {
		started.Add(1)
		<-gate
		ended.Add(1)
	})
	m.StartTimer()
	var failed error
	admitted := 0
	for ; admitted < n && failed == nil; admitted++ {
		if failed = submit(); failed != nil {
			break
		}
		if admitted == 0 {
			await(&started, 1) // so that the others are queued behind it
		}
	}
	if failed == nil {
		await(&started, running)
	}
	m.StopTimer()
	with := settled()
	close(gate)
	await(&ended, admitted)
	after := settled()
	per := func(a, b uint64) float64 { return (float64(b) - float64(a)) / float64(n) }
	m.ReportMetric(per(before.HeapAlloc, with.HeapAlloc), HeapPerTask)
	m.ReportMetric(per(before.StackInuse, with.StackInuse), StackPerTask)
	m.ReportMetric(per(before.Mallocs, with.Mallocs), AllocsPerTask)
	m.ReportMetric(per(before.HeapAlloc, after.HeapAlloc), KeptPerTask)
	return errors.Join(failed, stop())
}

func settled() (s runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s
}
