// Package workload has what is measured: the workloads of the comparison. Each workload
// takes a candidate and a number of operations, makes a fresh system, does them and
// closes the system outside the time that counts. It ends only when every body has
// run, and a body that runs twice panics.
package workload

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// ErrLacks says that the candidate has not got what the workload needs.
var ErrLacks = errors.New("workload: the candidate lacks this")

// Meter measures what happens while it is started; it is handed over stopped. A
// *testing.B is one.
type Meter interface {
	StartTimer()
	StopTimer()
	ReportMetric(value float64, unit string)
}

// NsPerOp is the metric that every workload has: time, divided by n.
const NsPerOp = "ns/op"

// Comparison says how a candidate's figure is set against the baseline's.
type Comparison uint8

const (
	Ratio      Comparison = iota
	Difference            // for what comes on top of something
)

// Family is workloads that answer one question.
type Family struct {
	ID, Title string
	About     string // how to read it
	Apart     bool   // its workloads have different candidates: no table of all of them
	Workloads []Workload
}

// Workload is one column: a way of using every candidate.
type Workload struct {
	Name     string   // such as "limit=2/producers=1"
	N, Quick int      // operations of a sample, and of one in a hurry
	Reps     int      // most repetitions that are worth their time; 0: as many as asked for
	Metric   string   // the one that is compared; less is better
	Also     []string // metrics that are compared as well
	Extra    []string // metrics that are shown
	Compare  Comparison
	Baseline string // the candidate that all are compared with
	// Isolated has each sample run in a process of its own, since it would leave
	// the next ones another heap, or to have its peak of memory.
	Isolated bool
	Long     bool // only if asked for
	// Candidates are those of the workload; nil: peers.All.
	Candidates func() []peers.Candidate
	// Run does n operations. It returns ErrLacks if the candidate cannot.
	Run func(m Meter, c peers.Candidate, n int) error
}

// Who returns the candidates, those that lack something included.
func (w Workload) Who() []peers.Candidate {
	if w.Candidates == nil {
		return peers.All()
	}
	return w.Candidates()
}

// All returns the families in order.
func All() []Family {
	return []Family{
		empty(), pools(), cpu(), sleeping(), stacks(), results(),
		overload(), memory(), draining(), latency(), live(), ablation(), lifelike(), service(),
	}
}

// Chosen reports whether the names choose the workload with that id, such as
// "W2/limit=2/producers=1". A name is an id or its beginning, up to a slash; without
// names all are chosen. A long workload is chosen only by its id.
func Chosen(id string, long bool, names []string) bool {
	if len(names) == 0 {
		return !long
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return id == name || !long && strings.HasPrefix(id, strings.TrimSuffix(name, "/")+"/")
	})
}

const goStatement = "go" // the baseline of most

// system makes the kind of system that a workload is about.
type system func(peers.Candidate) (*peers.System, error)

func unlimited(c peers.Candidate) (*peers.System, error) {
	if c.Unlimited == nil {
		return nil, ErrLacks
	}
	return c.Unlimited()
}

func limited(limit int) system {
	return func(c peers.Candidate) (*peers.System, error) {
		if c.Limited == nil {
			return nil, ErrLacks
		}
		return c.Limited(limit)
	}
}

// body makes a task's body, which calls done when it has done its work.
type body func(done func()) func()

func noWork(done func()) func() { return done }

// tasks is most workloads: producers submit n tasks in batches, and each batch has
// ended before the next begins. The body is made once and is the same for all
// tasks; that it has run is counted by one WaitGroup, so that everybody pays one
// atomic subtraction for it.
func tasks(sys system, producers, batch int, work body) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := sys(c)
		if err != nil {
			return err
		}
		m.StartTimer()
		err = submitAll(s, n, producers, batch, work)
		m.StopTimer()
		return errors.Join(err, s.Close())
	}
}

func submitAll(s *peers.System, n, producers, batch int, work body) error {
	var left sync.WaitGroup
	submit := s.Task(work(left.Done))
	for n > 0 {
		size := min(n, batch)
		n -= size
		left.Add(size)
		err := produce(producers, size, &left, submit)
		left.Wait()
		if err != nil {
			return err
		}
	}
	return nil
}

// produce has the producers submit n tasks between them. What one of them could not
// submit is taken off left, for nobody will.
func produce(producers, n int, left *sync.WaitGroup, submit func() error) error {
	if producers == 1 {
		return submitTimes(n, left, submit)
	}
	var group sync.WaitGroup
	errs := make(chan error, producers)
	for i := range producers {
		share := n / producers
		if i < n%producers {
			share++
		}
		group.Go(func() {
			if err := submitTimes(share, left, submit); err != nil {
				errs <- err
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func submitTimes(n int, left *sync.WaitGroup, submit func() error) error {
	for i := range n {
		if err := submit(); err != nil {
			left.Add(i - n)
			return err
		}
	}
	return nil
}
