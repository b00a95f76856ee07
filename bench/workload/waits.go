package workload

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/internal/tick"
	"github.com/seed-2e639f12/tether/bench/peers"
)

const aboutWaits = "`shares/waits`: B submits a task of W14's `life` each millisecond, while A keeps 100,000 tasks of 10 µs queued on 2 workers, or has none (`alone`): the time from its submission to its start. " +
	"`a pool each` gives B 2 workers of its own. " +
	"`urgent/waits`: the same with urgent tasks among 20,000 normal ones of 50 µs. " +
	"`urgent/progress`: half of the tasks are urgent, and all are queued before the first starts; `normal` is how many of the first half to start are normal ones, 12.5 % by the rule. "

// NormalShare is the share of normal tasks in what has started while urgent ones waited.
const NormalShare = "normal-%"

const suffixAlone = ", alone"

// alone is a candidate that has no flood.
func alone(c peers.Candidate) peers.Candidate {
	c.Name += suffixAlone
	return c
}

func waitWorkloads() []Workload {
	shares := func() peers.Candidate { return peers.TetherShares(tether.PoolConfig{}) }
	return []Workload{
		{
			Name: "shares/waits", N: 100, Quick: 10, Reps: 10,
			Metric: P99, Extra: []string{P50}, Baseline: alone(shares()).Name,
			Candidates: func() []peers.Candidate {
				return []peers.Candidate{alone(shares()), shares(), peers.TetherPools(), peers.TetherFixed(2)}
			},
			Run: waitsBehind("A", "B", 10*time.Microsecond, 100_000),
		},
		{
			Name: "urgent/waits", N: 100, Quick: 10, Reps: 10,
			Metric: P99, Extra: []string{P50}, Baseline: alone(peers.TetherUrgent()).Name,
			Candidates: func() []peers.Candidate {
				return []peers.Candidate{alone(peers.TetherUrgent()), peers.TetherUrgent(), peers.TetherFixed(2)}
			},
			Run: waitsBehind("", peers.UrgentShare, 50*time.Microsecond, 20_000),
		},
		{
			Name: "urgent/progress", N: 20_000, Quick: 200,
			Metric: NsPerOp, Extra: []string{NormalShare}, Baseline: peers.TetherFixed(2).Name,
			Candidates: func() []peers.Candidate { return []peers.Candidate{peers.TetherUrgent(), peers.TetherFixed(2)} },
			Run:        progress,
		},
	}
}

// waitsBehind measures how long n tasks of one share wait, one at each millisecond, behind
// so many of another, each of which submits another one as long as there are any of the n.
func waitsBehind(crowd, share string, work time.Duration, many int) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := limited(2)(c)
		if err != nil {
			return err
		}
		ticks, err := tick.New(time.Millisecond)
		if err != nil {
			return errors.Join(err, s.Close())
		}
		defer ticks.Close()
		loops := loopsFor(work)
		var flood, left sync.WaitGroup
		var over atomic.Bool
		var again func() error
		again = taskOf(s, crowd, func() {
			spin(loops)
			if over.Load() || again() != nil {
				flood.Done()
			}
		})
		if !strings.HasSuffix(c.Name, suffixAlone) {
			many := min(many, many*n/100)
			flood.Add(many)
			err = submitTimes(many, &flood, again)
		}
		submitted, waited, failed := make([]time.Time, n), make([]time.Duration, n), make([]error, n)
		submits := make([]func() error, n)
		for i := range n {
			submits[i] = taskOf(s, share, func() {
				waited[i] = time.Since(submitted[i])
				failed[i] = lifeTask()
				left.Done()
			})
		}
		m.StartTimer()
		left.Add(n)
		for i, submit := range submits {
			if err == nil {
				_, err = ticks.Wait()
			}
			if err == nil {
				submitted[i] = time.Now()
				err = submit()
			}
			if err != nil {
				left.Add(i - n)
				break
			}
		}
		left.Wait()
		m.StopTimer()
		over.Store(true)
		flood.Wait()
		reportPercentiles(m, waited, map[string]float64{P50: .5, P99: .99})
		return errors.Join(err, errors.Join(failed...), s.Close())
	}
}

// progress has n tasks done, every other one urgent, behind two that hold the workers until
// all are queued.
func progress(m Meter, c peers.Candidate, n int) error {
	s, err := limited(2)(c)
	if err != nil {
		return err
	}
	gate := make(chan struct{})
	for range 2 {
		err = errors.Join(err, s.Task(func() { <-gate })())
	}
	loops := loopsFor(20 * time.Microsecond)
	var left sync.WaitGroup
	var started, early atomic.Int64
	normal := taskOf(s, "", func() {
		if started.Add(1) <= int64(n/2) {
			early.Add(1)
		}
		spin(loops)
		left.Done()
	})
	urgent := taskOf(s, peers.UrgentShare, func() { started.Add(1); spin(loops); left.Done() })
	left.Add(n)
	m.StartTimer()
	for i := range n {
		if err == nil && i%2 == 0 {
			err = normal()
		} else if err == nil {
			err = urgent()
		}
		if err != nil {
			left.Add(i - n)
			break
		}
	}
	close(gate)
	left.Wait()
	m.StopTimer()
	m.ReportMetric(100*float64(early.Load())/float64(max(n/2, 1)), NormalShare)
	return errors.Join(err, s.Close())
}
