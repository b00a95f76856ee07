package workload

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

const aboutLate = "`late`: tasks of about a millisecond are offered to 2 workers at three times the rate that they complete, and then at half of it. A task is in time if it starts within 100 ms. " +
	"Goodput is the share of the undisturbed rate that is completed in time, `late` how many of the tasks that ran were not in time, `longest` the longest wait of one that ran. " +
	"`recovery` is when the last task was offered that was refused, dropped or waited for more than 50 ms, in units of 100 ms from the end of the overload. The queues that are bounded have 1024 places. " +
	"`late/minute` is the same for a minute. "

var errWrongInvoice = errors.New("workload: a wrong invoice")

// Metrics of late.
const (
	NsPerInTime = "ns/in-time"
	Late        = "late-%"
	LongestWait = "longest-ms"
	Recovery    = "recovery"
)

const (
	inTime      = 100 * time.Millisecond
	lateWorkers = 2
	lateOrders  = 8 // in a task; each is a task of W14
)

func lateWorkloads() []Workload {
	maxWait := func() peers.Candidate { return peers.TetherMaxWait(inTime) }
	w := Workload{
		Name: "late", N: 6_000, Quick: 50, Reps: 5,
		Metric: NsPerInTime, Extra: []string{Goodput, Late, LongestWait, Recovery}, Baseline: maxWait().Name,
		Candidates: func() []peers.Candidate {
			return []peers.Candidate{maxWait(), peers.Tether(), peers.Channel()}
		},
		Run: late,
	}
	minute := w
	minute.Name, minute.N, minute.Reps, minute.Long = "late/minute", 90_000, 1, true
	return []Workload{w, minute}
}

// offer is a task that was offered.
type offer struct {
	at     time.Duration // from the beginning
	waited atomic.Int64  // -1 if it never ran
}

// late runs for as long as n tasks take undisturbed, and for some intervals more.
func late(m Meter, c peers.Candidate, n int) error {
	var failed atomic.Int64
	work := func() {
		for range lateOrders {
			if lifeTask() != nil {
				failed.Add(1)
			}
		}
	}
	rate, err := capacity(n/8+20, work)
	if err != nil {
		return err
	}
	s, err := rejecting(c, lateWorkers, overloadQueue)
	if err != nil {
		return err
	}
	const restIntervals = 8
	overload := time.Duration(float64(n) / rate * float64(time.Second))
	end := overload + restIntervals*inTime
	due := func(now time.Duration) int {
		return int(rate * (3*min(now, overload).Seconds() + .5*max(0, now-overload).Seconds()))
	}
	offers := make([]offer, due(end))
	began := time.Now()
	m.StartTimer()
	for next := 0; next < len(offers); {
		now := time.Since(began)
		for ; next < min(due(now), len(offers)); next++ {
			o := &offers[next]
			o.at = time.Since(began)
			o.waited.Store(-1)
			s.Task(func() {
				o.waited.Store(int64(time.Since(began) - o.at))
				work()
			})()
		}
		if now > end {
			break
		}
		time.Sleep(time.Millisecond)
	}
	m.StopTimer()
	err = errors.Join(err, s.Close())
	var good, ran, tooLate int
	recovered, longest := time.Duration(0), time.Duration(0)
	for i := range offers {
		o, waited := &offers[i], time.Duration(offers[i].waited.Load())
		longest = max(longest, waited)
		switch {
		case waited > inTime:
			tooLate++
			ran++
		case waited >= 0:
			ran++
			if o.at+waited <= overload {
				good++
			}
		}
		if (waited < 0 || waited > inTime/2) && o.at > overload {
			recovered = o.at - overload
		}
	}
	m.ReportMetric(float64(overload)/float64(max(good, 1)), NsPerInTime)
	m.ReportMetric(100*float64(good)/overload.Seconds()/rate, Goodput)
	m.ReportMetric(100*float64(tooLate)/float64(max(ran, 1)), Late)
	m.ReportMetric(float64(longest)/float64(time.Millisecond), LongestWait)
	m.ReportMetric(float64(recovered)/float64(inTime), Recovery)
	if failed.Load() > 0 {
		err = errors.Join(err, errWrongInvoice)
	}
	return err
}

// capacity returns how many tasks per second as many goroutines complete as late has
// workers, if there is nothing else to do.
func capacity(n int, work func()) (rate float64, err error) {
	s, err := peers.Channel().Limited(lateWorkers)
	if err != nil {
		return 0, err
	}
	runtime.GC()
	began := time.Now()
	err = submitAll(s, n, 1, n, func(done func()) func() { return func() { work(); done() } })
	rate = float64(n) / time.Since(began).Seconds()
	return rate, errors.Join(err, s.Close())
}
