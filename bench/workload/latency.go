package workload

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of W10 and W14, in microseconds.
const (
	P50  = "p50-µs"
	P99  = "p99-µs"
	P999 = "p99.9-µs"
)

func latency() Family {
	f := Family{
		ID: "W10", Title: "From submission to start",
		About: "Tasks arrive at random instants (Poisson), on a schedule that does not depend on the candidate. The latency counts from the instant at which a task was due, in microseconds. " +
			"There is no limit, or a limit of 16 in libraries that need one. High percentiles vary by a factor of two and more between repetitions.",
	}
	for _, v := range []struct {
		name      string
		gap, work time.Duration
		n         int
		long      bool
	}{
		{"idle/1µs-every-100µs", 100 * time.Microsecond, time.Microsecond, 1_000, false},
		{"half-loaded/10µs-every-20µs", 20 * time.Microsecond, 10 * time.Microsecond, 6_000, false},
		{"loaded/10µs-every-10µs", 10 * time.Microsecond, 10 * time.Microsecond, 40_000, true},
	} {
		f.Workloads = append(f.Workloads, Workload{
			Name: v.name, N: v.n, Quick: 100, Reps: 10, Long: v.long,
			Metric: P99, Extra: []string{P50, P999}, Baseline: goStatement,
			Run: arrivals(v.gap, v.work),
		})
	}
	return f
}

func unlimitedOr16(c peers.Candidate) (*peers.System, error) {
	if c.Unlimited != nil {
		return c.Unlimited()
	}
	return limited(16)(c)
}

// arrivals has one producer, which polls the clock and yields the processor in between. It
// does not wait for tasks. All tasks are made before the first is submitted.
func arrivals(gap, work time.Duration) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := unlimitedOr16(c)
		if err != nil {
			return err
		}
		due := schedule(n, gap)
		late := make([]time.Duration, n)
		submits := make([]func() error, n)
		loops := loopsFor(work)
		var left sync.WaitGroup
		left.Add(n)
		var began time.Time
		for i := range n {
			submits[i] = s.Task(func() {
				late[i] = time.Since(began) - due[i]
				spin(loops)
				left.Done()
			})
		}
		m.StartTimer()
		began = time.Now()
		for i, submit := range submits {
			for time.Since(began) < due[i] {
				runtime.Gosched()
			}
			if err = submit(); err != nil {
				left.Add(i - n)
				break
			}
		}
		left.Wait()
		m.StopTimer()
		reportPercentiles(m, late, map[string]float64{P50: .5, P99: .99, P999: .999})
		return errors.Join(err, s.Close())
	}
}

// schedule returns when the tasks are due. It is the same for every candidate.
func schedule(n int, gap time.Duration) []time.Duration {
	rnd := rand.New(rand.NewPCG(1, 2))
	due := make([]time.Duration, n)
	var at time.Duration
	for i := range due {
		at += time.Duration(rnd.ExpFloat64() * float64(gap))
		due[i] = at
	}
	return due
}
