package workload

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func protection() Family {
	return Family{
		ID: "W16", Title: "Under overload", Apart: true,
		About: "`adaptive/…`: a pool with a fixed number of workers beside one with 1 to 64, a number that package adaptive moves, as time per task. " +
			"The ratios are to the number that is best by the definition of the work. " +
			"`cpu`: tasks compute for 1 ms. `sleep`: they sleep for 10 ms. `knee`: they wait for a service that does 12 at once in 10 ms each, and with more is slower by the square of the load. " +
			"`mixed`: three of four sleep for 10 ms, the fourth computes for 1 ms. `bursts`: those of `knee` in bursts of 400, with 100 ms between them that do not count. " +
			"The first quarter of the tasks is not measured: the adaptive pool begins with 2 workers and learns. " + aboutShares + aboutWaits + aboutLate + aboutRates + aboutStorm,
		Workloads: slices.Concat(adaptiveWorkloads(), shareWorkloads(), waitWorkloads(), lateWorkloads(), rateWorkloads(), stormWorkloads()),
	}
}

const mostWorkers = 64

func adaptiveWorkloads() []Workload {
	var all []Workload
	for _, v := range []struct {
		name  string
		n     int
		burst int // 0 means that all tasks are submitted at once
		work  func() func()
		best  int
		fixed []int
	}{
		{"cpu", 4_000, 0, computing, 2, []int{1, 2, 8, 64}},
		{"sleep", 40_000, 0, asleep, 64, []int{16, 32, 64}},
		{"knee", 8_000, 0, kneeing, 12, []int{8, 12, 16, 24}},
		{"mixed", 24_000, 0, mixing, 64, []int{8, 16, 32, 64}},
		{"bursts", 8_000, 400, kneeing, 12, []int{8, 12, 16, 24}},
	} {
		all = append(all, Workload{
			Name: "adaptive/" + v.name, N: v.n, Quick: 100, Reps: 5,
			Metric: NsPerOp, Baseline: peers.TetherFixed(v.best).Name,
			Candidates: func() []peers.Candidate {
				all := []peers.Candidate{peers.TetherAdaptive()}
				for _, n := range v.fixed {
					all = append(all, peers.TetherFixed(n))
				}
				return all
			},
			Run: sustained(v.burst, v.work),
		})
	}
	return all
}

// sustained has n tasks done, in bursts or all together. The first quarter is not measured.
func sustained(burst int, work func() func()) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := limited(mostWorkers)(c)
		if err != nil {
			return err
		}
		do := work()
		tasks := func(done func()) func() { return func() { do(); done() } }
		if burst == 0 {
			burst = n
		}
		err = errors.Join(err, submitAll(s, n/4, 1, burst, tasks))
		for left := n - n/4; left > 0 && err == nil; left -= burst {
			if burst < n {
				time.Sleep(100 * time.Millisecond)
			}
			m.StartTimer()
			err = submitAll(s, min(left, burst), 1, burst, tasks)
			m.StopTimer()
		}
		return errors.Join(err, s.Close())
	}
}

func computing() func() {
	loops := loopsFor(time.Millisecond)
	return func() { spin(loops) }
}

func asleep() func() { return func() { time.Sleep(10 * time.Millisecond) } }

// kneeing is a call of a service that does 12 calls at once.
func kneeing() func() {
	var running atomic.Int64
	return func() {
		load := max(1, float64(running.Add(1))/12)
		defer running.Add(-1)
		time.Sleep(time.Duration(float64(10*time.Millisecond) * math.Pow(load, 2)))
	}
}

func mixing() func() {
	compute, sleep := computing(), asleep()
	var n atomic.Int64
	return func() {
		if n.Add(1)%4 == 0 {
			compute()
		} else {
			sleep()
		}
	}
}

func mebibytes(n int) string { return strconv.Itoa(n) + " MiB" }
