// Package peers makes the same tasks run on each library that the benchmarks
// compare: one small file per library, which says what it was set to and why.
//
// The rules are the same for all. A library is used by its cheapest call that
// does the work asked for, with the settings that its documentation recommends for
// that work, or the fastest of those that were tried. What it lacks is not imitated:
// the field is nil, and the table shows a dash. Nobody pays for a conversion of the
// body to the library's type of function: a system is given the body once, and
// makes of it what it needs.
package peers

import "context"

// Kind says in which role a candidate is measured.
type Kind uint8

const (
	Peer     Kind = iota // a library
	Ours                 // Tether
	Baseline             // what one writes by hand with the go statement and channels
)

// Candidate is one way to run tasks. Each function makes a fresh system; nil means
// that the candidate has no such thing.
type Candidate struct {
	Name   string
	Kind   Kind
	Module string // whose version the report names; "" is the standard library
	// Setting is what the system is made and fed with, for the report's legend.
	Setting string

	// Unlimited runs every task at once.
	Unlimited func() (*System, error)
	// Limited runs at most limit tasks at once, and has the others wait in a queue
	// or their submitters.
	Limited func(limit int) (*System, error)
	// Queues says that Limited has the tasks wait, not their submitters.
	Queues bool
	// Rejecting runs at most limit tasks at once, lets at most queue wait (none if
	// it has no queue) and refuses the rest.
	Rejecting func(limit, queue int) (*Rejecting, error)
	// Results runs tasks that return a value.
	Results func() (*Results, error)
	// Contexts runs tasks that are given a context, and can cancel them all.
	Contexts func() (*Contexts, error)
	// OwnContexts runs tasks each of which has a context of its own, detached from
	// its submitter's cancellation and with the values of that.
	OwnContexts func() (*Contexts, error)
}

// System runs tasks.
type System struct {
	// Task makes of a body what the library wants. The function that it returns
	// submits that task, once for each call, and may be called by many at once.
	Task func(body func()) (submit func() error)
	// TaskIn does the same for a library that is given the submitter's context, such as
	// that of a request. It is nil if the library takes none.
	TaskIn func(body func()) (submit func(context.Context) error)
	// Close is called when all tasks have run. It returns when the system's
	// goroutines have ended or are about to.
	Close func() error
}

// Rejecting is a system that may say no.
type Rejecting struct {
	Task   func(body func()) (try func() (admitted bool))
	Queues bool // it has a queue
	Close  func() error
}

// Answer is what the tasks of Results return.
const Answer = 42

// Results is a system for tasks that return a value.
type Results struct {
	// Sum submits n tasks that return Answer, waits for all, and adds up what they
	// have returned. It is called by one goroutine.
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
