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
	Module string // the module that the table gives the version of; empty for the standard library
	// Settings are the ways to use the library that are probed. The first is the one that
	// its documentation recommends; its verdicts are the cells of the row. If another
	// setting has a different verdict, that is a note.
	Settings []setting
}

// A setting is one way to use a candidate.
type setting struct {
	Name   string   // how it differs from the first, for the note "With ..."
	Probes []string // the probes to run; nil means all
	// New returns a system that runs at most workers tasks at once, if the library can
	// limit them. If onPanic is not nil and the library accepts a panic handler, onPanic is
	// its panic handler.
	New func(workers int, onPanic func(any)) *system
	// ContainsPanics is true if, according to the documentation, the process survives a
	// panic of a task. The panic probe tests that. The other probes use tasks that panic
	// only if it is true.
	ContainsPanics bool
	// HandlesPanics is true if New uses onPanic.
	HandlesPanics bool
	// WaitName and DrainName are the names of the library's functions.
	WaitName, DrainName string
}

// A body is what a task does. ctx is the context that the library passes to tasks, or
// context.Background() if it passes none.
type body func(ctx context.Context)

// A system is a library in use. Functions that the library lacks are nil.
type system struct {
	// Go submits a task. The task is accepted if it returns nil. It may block until there is
	// room.
	Go func(name string, fn body) error
	// GoWait submits a task and returns a function that waits for it.
	GoWait func(name string, fn body) (wait func() error, err error)
	// Cancel ends the contexts of the tasks, or that of the whole system.
	Cancel func()

	// Drain is the library's function that waits for all accepted tasks. A task that calls
	// it passes its own ctx, which is ignored if the library's function takes none.
	Drain func(ctx context.Context) error
	// Closes is true if Drain stops the system: it accepts nothing afterwards, and tasks may
	// be submitted while Drain runs.
	Closes bool
	// DrainWithin is Drain with a deadline.
	DrainWithin func(d time.Duration) error
	// ByHand is true if DrainWithin is not one call of the library, but composed of several.
	ByHand bool
	// Left returns everything that the library reports about a DrainWithin that failed. If
	// it is nil, that is the text of the error.
	Left func(err error) string

	// Free releases submitters that are still blocked after Drain, if the library leaves
	// that to the program.
	Free func()
}

// free calls Free if it is not nil.
func (s *system) free() {
	if s.Free != nil {
		s.Free()
	}
}

// withHandler returns the setting with a panic handler.
func withHandler(first setting, name string) setting {
	set := first
	set.Name, set.Probes = name, []string{"panic"}
	set.New = func(workers int, _ func(any)) *system {
		return first.New(workers, func(v any) { fmt.Fprintln(os.Stderr, "handler:", v) })
	}
	return set
}

// candidates returns the rows of the table.
func candidates() []candidate {
	return []candidate{
		tetherRegistry(), tetherPool(),
		goStatement(), waitGroup(), errGroup(), weighted(),
		pondPool(), antsPool(), antsMultiPool(), concPool(), gammazero(), gopoolPool(),
	}
}
