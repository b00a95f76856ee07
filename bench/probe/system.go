package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// A candidate is a row of the table.
type candidate struct {
	Name   string
	Module string // whose version the table shows; "" for the standard library
	// Settings are the ways to use it that are probed. The first is the one that
	// its documentation recommends and that its row is about; what another does
	// differently becomes a note.
	Settings []setting
}

// A setting is one way to use a candidate.
type setting struct {
	Name   string   // how it differs from the first, for the note: "with ..."
	Probes []string // the probes that it is for; nil: all
	// New sets a system up that runs at most this many tasks at once, if it can
	// bound them. The library's own panic handler, if it has one that may be set,
	// is onPanic, unless that is nil.
	New func(workers int, onPanic func(any)) *system
	// ContainsPanics says that by its documentation a task may panic and the
	// process goes on. The panic probe finds out; the other probes only have tasks
	// panic where this is set.
	ContainsPanics bool
	// HandlesPanics says that New has a use for onPanic.
	HandlesPanics bool
	// What the library calls them.
	WaitName, DrainName string
}

// A body is what a task does. ctx is the one that the library gives it, or
// context.Background() where it gives none.
type body func(ctx context.Context)

// A system is a candidate, set up. What it lacks is nil.
type system struct {
	// Go submits a task. No error: it has been accepted. It may block for room.
	Go func(name string, fn body) error
	// GoWait submits a task and returns what waits for this one.
	GoWait func(name string, fn body) (wait func() error, err error)
	// Cancel ends the contexts of the tasks, or that of the whole system.
	Cancel func()

	// Drain is what the library has for the end of work: it waits for every
	// accepted task. Called in a task it is given the task's ctx; the libraries
	// whose drain takes no context ignore it.
	Drain func(ctx context.Context) error
	// Closes says that Drain is a stop: the system admits nothing afterwards, and
	// tasks may be submitted while it is called.
	Closes bool
	// DrainWithin is the drain with a deadline.
	DrainWithin func(d time.Duration) error
	// ByHand says that DrainWithin is not one call, but made of what the library offers.
	ByHand bool
	// Left renders all that the library says about a DrainWithin that has
	// failed; nil: the error's text.
	Left func(err error) string

	// Free releases submitters that are blocked for good after Drain, where the
	// library leaves this to the program.
	Free func()
}

// free calls Free if there is one.
func (s *system) free() {
	if s.Free != nil {
		s.Free()
	}
}

// withHandler is the setting with a panic handler of the program's own.
func withHandler(first setting, name string) setting {
	set := first
	set.Name, set.Probes = name, []string{"panic"}
	set.New = func(workers int, _ func(any)) *system {
		return first.New(workers, func(v any) { fmt.Fprintln(os.Stderr, "handler:", v) })
	}
	return set
}

// candidates are the rows, in their order.
func candidates() []candidate {
	return []candidate{
		tetherRegistry(), tetherPool(),
		goStatement(), waitGroup(), errGroup(), weighted(),
		pondPool(), antsPool(), antsMultiPool(), concPool(), gammazero(), gopoolPool(),
	}
}
