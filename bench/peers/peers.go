// Package peers runs the same tasks on each library that the benchmarks compare. Each
// library has a small file, which explains its settings.
//
// The rules are the same for all. A library is used by its cheapest call that does the
// work, with the settings that its documentation recommends, or with faster ones if some
// were found. A feature that it lacks is not imitated: the field is nil, and the tables
// show a dash. The conversion of a body to the library's type of function is not
// measured: a system gets the body once, before the time starts.
package peers

import "context"

// Kind is the role of a candidate.
type Kind uint8

const (
	Peer     Kind = iota // a library
	Ours                 // Tether
	Baseline             // code written by hand with the go statement and channels
)

// Candidate is one way to run tasks. Each function returns a new system. A function is
// nil if the candidate lacks that feature.
type Candidate struct {
	Name   string
	Kind   Kind
	Module string // the module that the report gives the version of; empty for the standard library
	// Setting describes the constructor and the call used, for the report's legend.
	Setting string

	// Unlimited runs every task at once.
	Unlimited func() (*System, error)
	// Limited runs at most limit tasks at once. Further tasks wait in a queue, or their
	// submitters wait.
	Limited func(limit int) (*System, error)
	// Queues is true if the tasks of Limited wait in a queue, not their submitters.
	Queues bool
	// Rejecting runs at most limit tasks at once, queues at most queue tasks (none if it
	// has no queue) and refuses the rest.
	Rejecting func(limit, queue int) (*Rejecting, error)
	// Results runs tasks that return a value.
	Results func() (*Results, error)
	// Contexts runs tasks that receive a context, and can cancel all of them.
	Contexts func() (*Contexts, error)
	// OwnContexts runs tasks that receive a context of their own, with the values of the
	// submitter's context but not its cancellation.
	OwnContexts func() (*Contexts, error)
}

// System runs tasks.
type System struct {
	// Task converts a body to what the library wants. The returned function submits it as
	// a task, once per call. It is safe for concurrent use.
	Task func(body func()) (submit func() error)
	// TaskIn does the same for a library that takes the submitter's context, such as a
	// request's. It is nil if the library takes none.
	TaskIn func(body func()) (submit func(context.Context) error)
	// TaskOf is Task for the tasks of one share. It is nil if the library has no shares.
	TaskOf func(share string, body func()) (submit func() error)
	// Close must be called after all tasks have run. It returns when the system's
	// goroutines have ended or are about to end.
	Close func() error
}

// Rejecting is a system that may refuse a task.
type Rejecting struct {
	Task   func(body func()) (try func() (admitted bool))
	Queues bool // refused only if the queue is full
	Close  func() error
}

// Answer is the value that the tasks of Results return.
const Answer = 42

// Results is a system for tasks that return a value.
type Results struct {
	// Sum submits n tasks that return Answer, waits for all of them, and returns the sum
	// of their values. It is not safe for concurrent use.
	Sum   func(n int) (int, error)
	Close func() error
}

// Contexts is a system for tasks with a context.
type Contexts struct {
	Task   func(body func(context.Context)) (submit func() error)
	Cancel func()       // cancels all tasks
	Close  func() error // waits for all tasks
}

// All returns the candidates in the order of the tables.
func All() []Candidate {
	return []Candidate{
		Go(),
		Tether(),
		TetherQueue(),
		WaitGroup(),
		Errgroup(),
		Semaphore(),
		Channel(),
		Pond(),
		Ants(),
		AntsMulti(),
		Conc(),
		Workerpool(),
		Gopool(),
	}
}

func nothing() error { return nil }
