// Package workload defines what is measured. A workload takes a candidate and a number of
// operations. It makes a new system, does the operations, and closes the system outside
// the measured time. It ends only when every body has run. A body that runs twice panics.
package workload

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// ErrLacks reports that the candidate lacks what the workload needs.
var ErrLacks = errors.New("workload: the candidate lacks this")

// Meter measures what happens while it is started. It is stopped when a workload receives
// it. A *testing.B is a Meter.
type Meter interface {
	StartTimer()
	StopTimer()
	ReportMetric(value float64, unit string)
}

// NsPerOp is a metric of every workload: the time divided by n.
const NsPerOp = "ns/op"

// Comparison is how a candidate's figure is compared with the baseline's.
type Comparison uint8

const (
	Ratio      Comparison = iota
	Difference            // for what is added to the baseline
)

// Family is a group of workloads that answer one question.
type Family struct {
	ID, Title string
	About     string // what is measured and how to read it
	Apart     bool   // its workloads have different candidates, so there is no table of all of them
	Workloads []Workload
}

// Workload is one way to use every candidate: a column of the tables.
type Workload struct {
	Name     string   // such as "limit=2/producers=1"
	N, Quick int      // operations of a sample, and of a sample in a smoke test
	Reps     int      // most repetitions that are useful; zero means no limit
	Metric   string   // the metric that is compared; less is better
	Also     []string // metrics that are compared as well
	Extra    []string // metrics that are shown
	Compare  Comparison
	Baseline string // the candidate that the others are compared with
	// Isolated makes each sample run in a process of its own, because it would change the
	// heap of later samples, or because its peak of memory is measured.
	Isolated bool
	Long     bool // takes minutes or gigabytes, so it runs only on request
	// Candidates returns the candidates. Nil means peers.All.
	Candidates func() []peers.Candidate
	// Run does n operations. It returns ErrLacks if the candidate cannot do them.
	Run func(m Meter, c peers.Candidate, n int) error
}

// AllCandidates returns the candidates, including those that lack what the workload needs.
func (w Workload) AllCandidates() []peers.Candidate {
	if w.Candidates == nil {
		return peers.All()
	}
	return w.Candidates()
}

// All returns the families in the order of the report.
func All() []Family {
	return []Family{
		empty(), pools(), cpu(), sleeping(), stacks(), results(),
		overload(), memory(), draining(), latency(), live(), ablation(), lifelike(), service(), protection(),
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

// system makes the kind of system that a workload needs.
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

// body makes the body of a task, which must call done when it has done its work.
type body func(done func()) func()

func noWork(done func()) func() { return done }

// tasks is what most workloads do: producers submit n tasks in batches, and each batch
// has ended before the next one begins. All tasks have the same body. One WaitGroup counts
// those that have run, so each candidate pays one atomic subtraction per task.
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

// produce makes the producers submit n tasks in all. Tasks that a producer could not
// submit are subtracted from left.
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
