package workload

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of W7.
const (
	NsPerCompleted = "ns/completed"
	Goodput        = "goodput-%" // completed, over what the same pool completes when no task is refused
	NsPerOffer     = "ns/offer"
	Accepted       = "accepted-%"
)

const (
	overloadLimit = 2
	overloadQueue = 1024
	overloadWork  = 10 * time.Microsecond
	offersAtOnce  = 64 // between two readings of the clock
)

func overload() Family {
	channel := peers.Channel().Name
	producers := runtime.GOMAXPROCS(0)
	rejected := func(name string, producers int) Workload {
		return Workload{
			Name: name, N: 200_000, Quick: 2000,
			Metric: NsPerOp, Baseline: channel, Run: rejects(producers),
		}
	}
	overloaded := func(name string, offer offering, extra ...string) Workload {
		return Workload{
			Name: name, N: 40_000, Quick: 500, Reps: 10,
			Metric: NsPerCompleted, Extra: append([]string{Goodput}, extra...), Baseline: channel,
			Run: overloads(offer),
		}
	}
	return Family{
		ID: "W7", Title: "Full",
		About: "`reject`: the cost of a refusal while 2 tasks run and 64 wait (none if the library has no queue). " +
			"`overload`: tasks of 10 µs, at most 2 running and 1024 waiting, are offered at ten times the rate that the same pool completes undisturbed (`10x`), " +
			"or without pause by one producer per processor (`hammering`). Goodput is the share of that undisturbed rate that is completed. The ratios are of the time per completed task.",
		Workloads: []Workload{
			rejected("reject/producers=1", 1),
			rejected("reject/producers=P", producers),
			overloaded("overload/10x", atTenfold, Accepted),
			overloaded("overload/hammering", hammering, Accepted, NsPerOffer),
		},
	}
}

func rejecting(c peers.Candidate, limit, queue int) (*peers.Rejecting, error) {
	if c.Rejecting == nil {
		return nil, ErrLacks
	}
	return c.Rejecting(limit, queue)
}

func rejects(producers int) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		const limit, queue = 2, 64
		s, err := rejecting(c, limit, queue)
		if err != nil {
			return err
		}
		gate := make(chan struct{})
		var started atomic.Int64
		try := s.Task(func() { started.Add(1); <-gate })
		fill(try, &started, limit)
		var admitted atomic.Int64
		m.StartTimer()
		inParallel(producers, n, func() {
			if try() {
				admitted.Add(1)
			}
		})
		m.StopTimer()
		close(gate)
		if k := admitted.Load(); k > 0 {
			err = errors.New("workload: a full pool has admitted a task")
		}
		return errors.Join(err, s.Close())
	}
}

// fill submits tasks until the pool is full and all workers are busy. A pool may refuse a
// task for a moment because a worker has not yet taken the one that it is to run.
func fill(try func() bool, started *atomic.Int64, limit int) {
	for refused := 0; refused < 3; {
		if try() || started.Load() < int64(limit) {
			refused = 0
			runtime.Gosched()
			continue
		}
		refused++
		time.Sleep(100 * time.Microsecond)
	}
}

func inParallel(goroutines, n int, f func()) {
	if goroutines == 1 {
		for range n {
			f()
		}
		return
	}
	var group sync.WaitGroup
	for i := range goroutines {
		share := n / goroutines
		if i < n%goroutines {
			share++
		}
		group.Go(func() {
			for range share {
				f()
			}
		})
	}
	group.Wait()
}

// offering offers tasks until an instant and returns how many it has offered. The rate is
// the number of tasks that the pool completes per second when undisturbed.
type offering struct {
	offer  func(try func() bool, rate float64, until time.Time) (offers int64)
	queued bool // makes no sense without a queue
}

// overloads runs for as long as n tasks take on so many cores, since how many are
// completed within a time is the question.
func overloads(o offering) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := rejecting(c, overloadLimit, overloadQueue)
		if err != nil {
			return err
		}
		if o.queued && !s.Queues {
			return errors.Join(ErrLacks, s.Close())
		}
		loops := loopsFor(overloadWork)
		rate, err := undisturbed(c, n/2+1, loops)
		if err != nil {
			return errors.Join(err, s.Close())
		}
		var completed, admitted atomic.Int64
		submit := s.Task(func() { spin(loops); completed.Add(1) })
		try := func() bool {
			ok := submit()
			if ok {
				admitted.Add(1)
			}
			return ok
		}
		m.StartTimer()
		began := time.Now()
		offers := o.offer(try, rate, began.Add(time.Duration(n)*overloadWork/overloadLimit))
		elapsed, done := time.Since(began), completed.Load()
		m.StopTimer()
		await(&completed, int(admitted.Load()))
		m.ReportMetric(float64(elapsed)/float64(max(done, 1)), NsPerCompleted)
		m.ReportMetric(100*float64(done)/elapsed.Seconds()/rate, Goodput)
		m.ReportMetric(float64(elapsed)/float64(max(offers, 1)), NsPerOffer)
		m.ReportMetric(100*float64(admitted.Load())/float64(max(offers, 1)), Accepted)
		return errors.Join(err, s.Close())
	}
}

// undisturbed returns how many tasks per second the library's pool completes when one
// producer submits them and none is refused.
func undisturbed(c peers.Candidate, n, loops int) (float64, error) {
	s, err := limited(overloadLimit)(c)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = submitAll(s, n, 1, n, func(done func()) func() {
		return func() { spin(loops); done() }
	})
	rate := float64(n) / time.Since(began).Seconds()
	return rate, errors.Join(err, s.Close())
}

// hammering has a producer on each processor, which offers tasks without pause. A pool
// that refuses cheaply leaves its workers no processor.
var hammering = offering{offer: func(try func() bool, _ float64, until time.Time) int64 {
	var offers atomic.Int64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for time.Now().Before(until) {
				for range offersAtOnce {
					try()
				}
				offers.Add(offersAtOnce)
			}
		})
	}
	group.Wait()
	return offers.Load()
}}

// atTenfold offers, about every millisecond, the tasks that have become due: far more than
// the queue holds. Between two bursts the workers have the processors, so that a refusal
// costs them no more than its own time.
var atTenfold = offering{queued: true, offer: func(try func() bool, rate float64, until time.Time) (offers int64) {
	began := time.Now()
	for now := began; now.Before(until); now = time.Now() {
		due := int64(10 * rate * now.Sub(began).Seconds())
		for offers < due && time.Now().Before(until) {
			for range offersAtOnce {
				try()
			}
			offers += offersAtOnce
		}
		time.Sleep(time.Millisecond)
	}
	return offers
}}
