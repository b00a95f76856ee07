package workload

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/peers"
)

const aboutShares = "`shares/newcomer`: A has 100,000 tasks of 10 µs queued on 2 workers, and B submits one at a time, with the next when that has run: the time from its submission to its start. " +
	"Libraries without shares are given a tenth of A's tasks. `shares/alone`: one share has tasks of W14's `life` on 2 workers, beside the same pool without shares. "

// Metrics of the shares.
const (
	NewcomerP50 = "p50-µs"
	NewcomerMax = "max-µs"
)

func shareWorkloads() []Workload {
	shares := func() peers.Candidate { return peers.TetherShares(tether.PoolConfig{}) }
	return []Workload{
		{
			Name: "shares/newcomer", N: 20, Quick: 2, Reps: 5,
			Metric: NewcomerMax, Extra: []string{NewcomerP50}, Baseline: shares().Name,
			Candidates: func() []peers.Candidate {
				all := []peers.Candidate{shares()}
				for _, c := range peers.All() {
					if c.Limited != nil && c.Queues {
						all = append(all, c)
					}
				}
				return all
			},
			Run: newcomer,
		},
		{
			Name: "shares/alone", N: 10_000, Quick: 200,
			Metric: NsPerOp, Baseline: peers.TetherFixed(2).Name,
			Candidates: func() []peers.Candidate { return []peers.Candidate{shares(), peers.TetherFixed(2)} },
			Run:        oneShare,
		},
	}
}

// taskOf is System.TaskOf, or System.Task of a library without shares.
func taskOf(s *peers.System, share string, body func()) func() error {
	if s.TaskOf == nil {
		return s.Task(body)
	}
	return s.TaskOf(share, body)
}

// newcomer measures how long the tasks of B wait behind those of A, n times.
func newcomer(m Meter, c peers.Candidate, n int) error {
	s, err := limited(2)(c)
	if err != nil {
		return err
	}
	flood := 5_000 * n
	if s.TaskOf == nil {
		flood /= 10
	}
	loops := loopsFor(10 * time.Microsecond)
	var left sync.WaitGroup
	left.Add(flood)
	a := taskOf(s, "A", func() { spin(loops); left.Done() })
	started := make(chan time.Time)
	b := taskOf(s, "B", func() { started <- time.Now() })
	err = submitTimes(flood, &left, a)
	var waits []time.Duration
	m.StartTimer()
	for range n {
		if err != nil {
			break
		}
		began := time.Now()
		if err = b(); err == nil {
			waits = append(waits, (<-started).Sub(began))
		}
	}
	m.StopTimer()
	left.Wait()
	if len(waits) > 0 {
		slices.Sort(waits)
		m.ReportMetric(float64(waits[len(waits)/2])/float64(time.Microsecond), NewcomerP50)
		m.ReportMetric(float64(waits[len(waits)-1])/float64(time.Microsecond), NewcomerMax)
	}
	return errors.Join(err, s.Close())
}

// oneShare has n tasks done, all of one share.
func oneShare(m Meter, c peers.Candidate, n int) error {
	s, err := limited(2)(c)
	if err != nil {
		return err
	}
	var left sync.WaitGroup
	var failed atomic.Int64
	left.Add(n)
	submit := taskOf(s, "A", func() {
		if lifeTask() != nil {
			failed.Add(1)
		}
		left.Done()
	})
	m.StartTimer()
	err = submitTimes(n, &left, submit)
	left.Wait()
	m.StopTimer()
	if failed.Load() > 0 {
		err = errors.Join(err, errWrongInvoice)
	}
	return errors.Join(err, s.Close())
}
