package workload

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of W11.
const (
	Growth     = "growth"
	NsWithFew  = "ns/op-10-live"
	NsWithMany = "ns/op-n-live"
)

func live() Family {
	f := Family{
		ID: "W11", Title: "An empty task while others are live",
		About: "W1 with one producer, five times, in a system with 10 blocked tasks, and then with as many blocked tasks as W1 submits. Growth is the quotient of the two times. " +
			"For a library that keeps no record of its tasks, it shows the work of the garbage collector and of the scheduler.",
	}
	for _, v := range []struct {
		name string
		n    int
		reps int
		long bool
	}{{"100k", 100_000, 10, false}, {"1M", 1_000_000, 10, true}} {
		f.Workloads = append(f.Workloads, Workload{
			Name: "live=" + v.name, N: v.n, Quick: 2000, Reps: v.reps, Long: v.long, Isolated: true,
			Metric: Growth, Extra: []string{NsWithFew, NsWithMany}, Baseline: goStatement,
			Run: amongMany,
		})
	}
	return f
}

func amongMany(m Meter, c peers.Candidate, n int) error {
	const few = 10
	// A collection of the garbage with so many goroutines takes as long as 100,000 tasks. There
	// is about one in each time, so the time must be for more tasks than that.
	const times = 5
	s, err := unlimited(c)
	if err != nil {
		return err
	}
	var blocked atomic.Int64
	gate := make(chan struct{})
	block := s.Task(func() { blocked.Add(1); <-gate; blocked.Add(-1) })
	more := func(k int) (err error) {
		for ; k > 0 && err == nil; k-- {
			err = block()
		}
		return err
	}
	timed := func() (ns float64, err error) {
		m.StartTimer()
		began := time.Now()
		err = submitAll(s, times*n, 1, batch, noWork)
		ns = float64(time.Since(began)) / float64(times*n)
		m.StopTimer()
		return ns, err
	}
	var withFew, withMany float64
	err = func() error {
		if err := more(few); err != nil {
			return err
		}
		await(&blocked, few)
		if withFew, err = timed(); err != nil {
			return err
		}
		if err := more(n); err != nil {
			return err
		}
		await(&blocked, few+n)
		withMany, err = timed()
		return err
	}()
	close(gate)
	for blocked.Load() > 0 {
		time.Sleep(100 * time.Microsecond)
	}
	m.ReportMetric(withFew, NsWithFew)
	m.ReportMetric(withMany, NsWithMany)
	m.ReportMetric(withMany/withFew, Growth)
	return errors.Join(err, s.Close())
}
