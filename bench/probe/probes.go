package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A probe is a column of the table.
type probe struct {
	Name     string
	Question string // the column's heading
	Busy     bool   // it looks for a race, so no other probe runs at the same time
	Run      func(s setting, e effort) verdict
}

// The probes, in the order of the columns.
var probes = []probe{
	{Name: "panic", Question: "A panic ends the process", Run: probePanic},
	{Name: "goexit", Question: "Goexit hangs a waiter or loses a worker", Run: probeGoexit},
	{Name: "early", Question: "Wait returns before the body", Run: probeEarly},
	{Name: "late", Question: "A task starts after stop returned", Busy: true, Run: probeLate},
	{Name: "lost", Question: "An accepted task is lost", Busy: true, Run: probeLost},
	{Name: "inside", Question: "Stop inside a task deadlocks", Run: probeInside},
	{Name: "deadline", Question: "Stop has a deadline", Run: probeDeadline},
	{Name: "names", Question: "It names the stragglers", Run: probeNames},
}

// An effort is how often the probes try and how long they wait.
type effort struct {
	Name     string
	Runs     int           // of probes that look for a race, each with a new system
	Repeats  int           // of probes that should see the same each time
	Patience time.Duration // a call that takes longer hangs
}

// efforts are those that a child accepts.
var efforts = []effort{
	thorough,
	quick,
	patient,
}

var (
	thorough = effort{Name: "thorough", Runs: 1000, Repeats: 20, Patience: 3 * time.Second}
	quick    = effort{Name: "quick", Runs: 20, Repeats: 3, Patience: 500 * time.Millisecond}
	// patient is for tests of what should not hang.
	patient = effort{Name: "patient", Runs: 50, Repeats: 3, Patience: 20 * time.Second}
)

// A verdict is the result of one probe of one setting.
type verdict struct {
	Text  string
	Bad   bool
	Notes []string // whole sentences

	Raised bool // panic probe: the drain panicked, so the panic is not lost
}

const (
	workers   = 4 // of a system, except where a probe says otherwise
	producers = 4 // that submit concurrently
)

// lacking is the verdict on a feature that the candidate lacks.
var lacking = verdict{Text: "—"}

func good(text string) verdict { return verdict{Text: text} }
func bad(text string) verdict  { return verdict{Text: text, Bad: true} }

func (v verdict) note(format string, args ...any) verdict {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
	return v
}

// deliberatePanic is the value that tasks panic with. The output of a process that it ended
// contains it.
const deliberatePanic = "probe: a deliberate panic"

// probePanic runs a task that panics. If the process is alive 50 ms later, it also runs
// aftermath with tasks that panic.
//
//   - yes: the process ended with the message of that panic
//   - moved to Wait: the process continued, and the drain panicked
//   - no, but ...: the process continued, and aftermath found something
//   - no: none of these
//
// The parent, which has the child's output, adds a note if the panic is not in it.
//
// conc: if several goroutines submit, one of them may wait forever. Goroutine A takes the
// free place, starts a worker and is about to hand its task to it. B hands its task to
// that worker first. That task panics, which ends the worker, so no worker takes A's task.
// A minimal program, which must be run often enough:
//
//	p := pool.New().WithMaxGoroutines(1)
//	for range 4 {
//		go func() { p.Go(func() { panic("x") }) }() // one of them never returns
//	}
func probePanic(s setting, e effort) verdict {
	sys := s.New(workers, nil)
	var began atomic.Bool
	if err := sys.Go("panics", func(context.Context) { began.Store(true); panic(deliberatePanic) }); err != nil {
		return bad("refused: " + err.Error())
	}
	if !waitFor(e.Patience, began.Load) {
		return bad("the task never ran")
	}
	time.Sleep(50 * time.Millisecond)

	v := good("no")
	if sys.GoWait != nil {
		if wait, err := sys.GoWait("panics", func(context.Context) { panic(deliberatePanic) }); err == nil {
			if o := attempt(e.Patience, wait); o.err != nil && strings.Contains(o.err.Error(), deliberatePanic) {
				v = v.note("The error of %s reports it.", s.WaitName)
			}
		}
	}
	costs, raised := aftermath(s, e, func() { panic(deliberatePanic) })
	if raised {
		v.Text, v.Bad, v.Raised = "moved to "+s.DrainName, true, true
		v = v.note("It is recovered, and %s panics with it in its caller.", s.DrainName)
	}
	if len(costs) > 0 {
		v.Text, v.Bad = v.Text+", but "+strings.Join(costs, ", "), true
	}
	return v
}

// probeGoexit runs a task that calls runtime.Goexit, as t.FailNow does, and mocks that call
// it. If the library can wait for one task, the probe waits for that task. Then it runs
// aftermath with tasks that call runtime.Goexit.
//
//   - yes: ...: what did not happen within the effort's patience
//   - no: none of these
//
// gammazero/workerpool: a worker that ends this way is still counted and waited for. A
// minimal program:
//
//	p := workerpool.New(1)
//	p.Do(runtime.Goexit)
//	p.Do(func() {}) // never runs
//	p.StopWait()    // never returns
//
// gopool: the same. A minimal program:
//
//	p := gopool.NewPool("", 1, gopool.NewConfig())
//	p.Go(runtime.Goexit)
//	time.Sleep(time.Second)
//	p.Go(func() {}) // never runs
//
// pond: the future of the task is resolved after its body has returned, which never
// happens. The worker is replaced. A minimal program:
//
//	pond.NewPool(1).Submit(runtime.Goexit).Wait() // never returns
//
// conc: see probePanic. A Goexit ends its workers too.
func probeGoexit(s setting, e effort) verdict {
	var costs []string
	if sys := s.New(workers, nil); sys.GoWait != nil {
		wait, err := sys.GoWait("goexit", func(context.Context) { runtime.Goexit() })
		if err != nil {
			return bad("refused: " + err.Error())
		}
		if attempt(e.Patience, wait).hung {
			costs = append(costs, "hangs "+s.WaitName)
		}
	}
	more, _ := aftermath(s, e, runtime.Goexit)
	if costs = append(costs, more...); len(costs) > 0 {
		return bad("yes: " + strings.Join(costs, ", "))
	}
	return good("no")
}

// aftermath runs many tasks, some of which call misbehave. It returns what goes wrong, the
// worst first, and whether the drain panicked:
//
//   - a submitter hangs: a goroutine has not submitted its tasks within the effort's
//     patience
//   - loses workers: as many tasks as there are workers, each of which waits for the
//     others, have not met within that time
//   - hangs <drain>: it has not returned within that time
//   - loses tasks: a task that does not misbehave has not run
//
// Four goroutines submit 100 tasks each to a new system, and every tenth task misbehaves.
// This is repeated effort.Repeats times. Then they submit three tasks each, which all
// misbehave, to a system with one worker. This is repeated effort.Runs/2 times.
func aftermath(s setting, e effort, misbehave func()) (costs []string, raised bool) {
	for range e.Repeats {
		c, r := misbehaving(s.New(workers, nil), s.DrainName, e, 100, 10, workers, misbehave)
		if raised = raised || r; len(c) > 0 {
			return c, raised
		}
	}
	for run := range e.Runs / 2 {
		c, r := misbehaving(s.New(1, nil), s.DrainName, e, 3, 1, 1, misbehave)
		if raised = raised || r; len(c) > 0 {
			c[0] += fmt.Sprintf(" (in run %d of %d)", run+1, e.Runs/2)
			return c, raised
		}
	}
	return nil, raised
}

// misbehaving is one repetition of aftermath: the producers submit each tasks, and one task
// in every misbehaves.
func misbehaving(sys *system, drainName string, e effort, each, every, workers int, misbehave func()) (costs []string, raised bool) {
	defer sys.free()
	var ran atomic.Int64
	var submitters sync.WaitGroup
	for range producers {
		submitters.Go(func() {
			for i := range each {
				sys.Go("misbehaving", func(context.Context) {
					if i%every == 0 {
						misbehave()
					}
					ran.Add(1)
				})
			}
		})
	}
	if attempt(e.Patience, wait(&submitters)).hung {
		return []string{"a submitter hangs"}, false // the rest would hang too
	}
	if !meet(sys, e, workers) {
		costs = append(costs, "loses workers")
	}
	if sys.Drain != nil {
		o := attempt(e.Patience, func() error { return sys.Drain(context.Background()) })
		if o.hung {
			costs = append(costs, "hangs "+drainName)
		}
		raised = o.panicked != nil
	}
	behaved := int64(producers * (each - each/every)) // each is a multiple of every
	if len(costs) == 0 && !waitFor(e.Patience, func() bool { return ran.Load() == behaved }) {
		costs = append(costs, "loses tasks")
	}
	return costs, raised
}

// meet reports whether as many tasks as the system has workers can run at once.
func meet(sys *system, e effort, workers int) bool {
	var arrived atomic.Int64
	all := make(chan struct{})
	giveUp := make(chan struct{})
	for range workers {
		go sys.Go("meeting", func(context.Context) {
			if arrived.Add(1) == int64(workers) {
				close(all)
			}
			select {
			case <-all:
			case <-giveUp:
			}
		})
	}
	select {
	case <-all:
		return true
	case <-time.After(e.Patience):
		close(giveUp)
		return false
	}
}

// probeEarly waits for one task, and for all tasks, while the body of a task needs another
// 10 ms. When the wait returns, the probe looks at once whether the body and its deferred
// calls have ended, and counts how often they have not. The body returns, panics (if the
// library contains panics), calls Goexit, or is canceled, by the library's own means, and
// returns 10 ms later. A wait that never returns is not early.
//
//   - yes (n/m): n of m repetitions, in the worst case
//   - no: never
//   - a dash: the library cannot wait
//
// If a panic handler can be set, the probe does the same with a handler that takes 10 ms.
// That is only a note, since a handler is not the body.
//
// pond: a task's future is done as soon as the pool's context is. A minimal program:
//
//	ctx, cancel := context.WithCancel(context.Background())
//	task := pond.NewPool(1, pond.WithContext(ctx)).Submit(func() { time.Sleep(time.Hour) })
//	time.Sleep(time.Second)
//	cancel()
//	task.Wait() // returns at once
//
// ants: the worker is no longer counted when its panic handler is called. A minimal
// program:
//
//	p, _ := ants.NewPool(1, ants.WithPanicHandler(func(any) { time.Sleep(time.Hour) }))
//	p.Submit(func() { panic("x") })
//	p.ReleaseTimeout(time.Minute) // returns nil at once
func probeEarly(s setting, e effort) verdict {
	const left = 10 * time.Millisecond
	plain, panics, canceled := "", " that panics", " that is canceled"
	cases := []string{plain, " that calls Goexit"}
	if s.ContainsPanics {
		cases = append(cases, panics)
	}
	if s.New(1, nil).Cancel != nil {
		cases = append(cases, canceled)
	}

	// once reports whether the wait returned, whether that was early, and the error.
	once := func(single bool, kind string, handler bool) (returned, early bool, said error) {
		var ended atomic.Bool
		end := func() { time.Sleep(left); ended.Store(true) }
		var onPanic func(any)
		if handler {
			onPanic = func(any) { end() }
		}
		sys := s.New(workers, onPanic)
		defer sys.free()
		began := make(chan struct{})
		fn := func(ctx context.Context) {
			close(began)
			if !handler {
				defer end()
			}
			switch kind {
			case plain:
			case panics:
				panic(deliberatePanic)
			case canceled:
				<-ctx.Done()
			default:
				runtime.Goexit()
			}
		}
		wait := func() error { return sys.Drain(context.Background()) }
		var err error
		if single {
			wait, err = sys.GoWait("task", fn)
		} else {
			err = sys.Go("task", fn)
		}
		if err != nil {
			return false, false, err
		}
		<-began
		if kind == canceled {
			sys.Cancel()
		}
		o := attempt(e.Patience, func() error {
			// Deferred, because the wait of conc panics.
			defer func() { early = !ended.Load() }()
			return wait()
		})
		if o.hung {
			return false, false, nil
		}
		return true, early, o.err
	}

	v, worst := good("no"), 0
	count := func(single bool, kind string, handler bool) (n int, with string) {
		for range e.Repeats {
			returned, early, said := once(single, kind, handler)
			if !returned {
				break
			}
			if early {
				n++
				with = fmt.Sprintf("nil, %d/%d", n, e.Repeats)
				if said != nil {
					with = fmt.Sprintf("%q, %d/%d", said, n, e.Repeats)
				}
			}
		}
		return n, with
	}
	sys := s.New(1, nil)
	if sys.GoWait == nil && sys.Drain == nil {
		return lacking
	}
	look := func(single bool, name string) {
		for _, kind := range cases {
			if n, with := count(single, kind, false); n > 0 {
				worst = max(worst, n)
				v = v.note("%s returns while the body of a task%s still runs (%s).", name, kind, with)
			}
		}
		if s.ContainsPanics && s.HandlesPanics {
			if n, with := count(single, panics, true); n > 0 {
				v = v.note("%s returns while the panic handler still runs (%s).", name, with)
			}
		}
	}
	if sys.GoWait != nil {
		look(true, s.WaitName)
	}
	if sys.Drain != nil {
		look(false, s.DrainName)
	}
	if worst > 0 {
		v.Text, v.Bad = fmt.Sprintf("yes (%d/%d)", worst, e.Repeats), true
	}
	return v
}

// probeLate runs four goroutines that submit tasks without pause until they are refused.
// After ten accepted tasks it calls stop, without a deadline. When stop has returned
// without an error, it sets a flag, which each body reads first. A body that finds the flag
// set had not ended when stop returned, and its run counts. Each run has a new system with
// two workers. In every other run the goroutine that calls stop submits tasks too.
//
//   - yes (n/m): in n of m runs
//   - no (0/m): in none
//   - a dash: there is no stop; a note describes a submission after the wait
//
// ants: Submit looks whether the pool is closed before it takes a worker, and not again. A
// minimal program, which must be run often:
//
//	p, _ := ants.NewPool(2)
//	go func() { for p.Submit(task) == nil {} }() // four of these
//	p.ReleaseTimeout(time.Minute)                // nil
//	over.Store(true)                             // and a task begins to run
func probeLate(s setting, e effort) verdict {
	sys := s.New(workers, nil)
	if sys.Drain == nil {
		return lacking
	}
	if !sys.Closes {
		return lacking.note("It has no stop. After %s, %s.", s.DrainName, submitAfterDrain(s, e))
	}
	late, failed := 0, 0
	for run := range e.Runs {
		r := rush(s, e, run%2 == 0)
		if r.hung != "" {
			return bad(r.hung)
		}
		if r.err != nil {
			failed++
		}
		if r.late > 0 {
			late++
		}
	}
	v := good(fmt.Sprintf("no (0/%d)", e.Runs))
	if late > 0 {
		v = bad(fmt.Sprintf("yes (%d/%d)", late, e.Runs))
	}
	if failed > 0 {
		v = v.note("%s returned an error in %d runs, which do not count.", s.DrainName, failed)
	}
	return v
}

// submitAfterDrain describes what happens to a task that is submitted after a drain that
// is no stop.
func submitAfterDrain(s setting, e effort) string {
	sys := s.New(workers, nil)
	sys.Go("before", func(context.Context) {})
	attempt(e.Patience, func() error { return sys.Drain(context.Background()) })
	var ran atomic.Bool
	o := attempt(e.Patience, func() error { return sys.Go("after", func(context.Context) { ran.Store(true) }) })
	switch {
	case o.panicked != nil:
		return fmt.Sprintf("a submission panics in its caller (%v)", o.panicked)
	case o.hung:
		return "a submission hangs"
	case o.err != nil:
		return "a submission is refused: " + o.err.Error()
	case waitFor(e.Patience, ran.Load):
		return "a submission runs as before"
	}
	return "a submission is accepted and never runs"
}

// rushed is the result of a rush.
type rushed struct {
	accepted, late int64
	missing        int64  // accepted, but not ended
	err            error  // of the drain
	hung           string // the call that did not return
}

// rush runs four goroutines that submit tasks until they are refused, and calls stop
// meanwhile. Then it waits, within the effort's patience, until every accepted task has
// run. If apart is true, the goroutine that calls stop does not submit, so it runs when a
// submitter is preempted, at any point of its submission.
func rush(s setting, e effort, apart bool) (r rushed) {
	sys := s.New(2, nil)
	defer sys.free()
	var accepted, late, ended atomic.Int64
	var over atomic.Bool
	fn := func(context.Context) {
		if over.Load() {
			late.Add(1)
		}
		ended.Add(1)
	}
	var submitters sync.WaitGroup
	for range producers {
		submitters.Go(func() {
			for sys.Go("task", fn) == nil {
				accepted.Add(1)
			}
		})
	}
	o := attempt(e.Patience, func() error {
		for accepted.Load() < 10 {
			if apart {
				runtime.Gosched()
				continue
			}
			if err := sys.Go("task", fn); err != nil {
				return err
			}
			accepted.Add(1)
		}
		err := sys.Drain(context.Background())
		over.Store(err == nil)
		return err
	})
	if o.hung {
		r.hung = "hangs " + s.DrainName
		return r
	}
	sys.free()
	if attempt(e.Patience, wait(&submitters)).hung {
		r.hung = "a submitter hangs"
		return r
	}
	waitFor(e.Patience, func() bool { return ended.Load() == accepted.Load() })
	return rushed{
		accepted: accepted.Load(), late: late.Load(), missing: accepted.Load() - ended.Load(),
		err: o.err,
	}
}

// probeLost counts the tasks that were accepted and never ran. If the library has a stop,
// it is called while goroutines submit, as in probeLate. Otherwise four goroutines submit
// 25 tasks each, and then the probe calls the drain, if there is one. A task that has not
// run within the effort's patience is lost. Each run has a new system with two workers.
// There are half as many runs as in probeLate; two runs with a loss are enough.
//
//   - yes (n/m): in n of m runs
//   - no (0/m): in none
//
// For pond's sub-pools see pond.go.
func probeLost(s setting, e effort) verdict {
	const enough = 2
	runs, lossy, gone, of := 0, 0, int64(0), int64(0)
	hung := ""
	for runs < e.Runs/2 && lossy < enough {
		runs++
		r := rushed{}
		if s.New(1, nil).Closes {
			r = rush(s, e, runs%2 == 0)
		} else {
			r = wave(s, e)
		}
		if r.hung != "" && r.missing == 0 {
			return bad(r.hung)
		}
		if r.missing > 0 {
			lossy++
			gone, of, hung = gone+r.missing, of+r.accepted, r.hung
		}
	}
	if lossy == 0 {
		return good(fmt.Sprintf("no (0/%d)", runs))
	}
	v := bad(fmt.Sprintf("yes (%d/%d)", lossy, runs)).note("%d of the %d tasks of these runs were lost.", gone, of)
	if hung != "" {
		v = v.note("It %s, then.", hung)
	}
	return v
}

// wave has four goroutines submit 25 tasks each, and drains.
func wave(s setting, e effort) rushed {
	sys := s.New(2, nil)
	defer sys.free()
	var accepted, ended atomic.Int64
	var submitters sync.WaitGroup
	for range producers {
		submitters.Go(func() {
			for range 25 {
				if sys.Go("task", func(context.Context) { ended.Add(1) }) == nil {
					accepted.Add(1)
				}
			}
		})
	}
	r := rushed{}
	if attempt(e.Patience, wait(&submitters)).hung {
		r.hung = "a submitter hangs"
	} else if sys.Drain != nil {
		o := attempt(e.Patience, func() error { return sys.Drain(context.Background()) })
		if r.err = o.err; o.hung {
			r.hung = "hangs " + s.DrainName
		}
	}
	waitFor(e.Patience, func() bool { return ended.Load() == accepted.Load() })
	r.accepted, r.missing = accepted.Load(), accepted.Load()-ended.Load()
	return r
}

// probeInside calls the drain in a task, with that task's context and without a deadline,
// while another task needs another 50 ms.
//
//   - deadlock: it has not returned within the effort's patience
//   - deadlock, or until its deadline: the same, but the library's drain with a deadline of
//     200 ms, called in a task of another system, returns at that deadline
//   - no: it returned, and the other task had ended
//   - no: an error at once: it returned an error, and the other task had not ended
//   - returns too early: it returned no error, and the other task had not ended
//   - a dash: there is no drain
func probeInside(s setting, e effort) verdict {
	type ending struct {
		other bool // the other task had ended
		err   error
	}
	// inside calls drain in a task and reports whether it returned.
	inside := func(drain func(sys *system, ctx context.Context) error) (end ending, returned bool) {
		sys := s.New(workers, nil)
		defer sys.free()
		var otherEnded atomic.Bool
		began := make(chan struct{})
		sys.Go("other", func(context.Context) {
			close(began)
			time.Sleep(50 * time.Millisecond)
			otherEnded.Store(true)
		})
		<-began
		done := make(chan ending, 1)
		sys.Go("stops", func(ctx context.Context) {
			err := drain(sys, ctx)
			done <- ending{otherEnded.Load(), err}
		})
		select {
		case end = <-done:
			return end, true
		case <-time.After(e.Patience):
			return end, false
		}
	}

	sys := s.New(workers, nil)
	if sys.Drain == nil {
		return lacking
	}
	switch end, returned := inside(func(sys *system, ctx context.Context) error { return sys.Drain(ctx) }); {
	case returned && end.other:
		return good("no")
	case returned && end.err != nil:
		return good("no: an error at once").note("%s returns %q.", s.DrainName, end.err)
	case returned:
		return bad("returns too early")
	}
	v := bad("deadlock")
	if sys.DrainWithin == nil {
		return v
	}
	_, bounded := inside(func(sys *system, _ context.Context) error { return sys.DrainWithin(200 * time.Millisecond) })
	switch {
	case bounded && sys.ByHand:
		v = v.note("A select on the Task that Stop returns ends at its deadline.")
	case bounded:
		v.Text += ", or until its deadline"
	}
	return v
}

// probeDeadline calls the drain with a deadline of 200 ms while a task hangs and ignores its
// context.
//
//   - yes: it returned an error, after 150 ms or more and within the effort's patience
//   - by hand: the same, by a select on a channel that the library's stop returns
//   - no: it did not return
//   - claims success: it returned no error
//   - a dash: the drain takes no deadline, or there is no drain
func probeDeadline(s setting, e effort) verdict {
	sys := s.New(workers, nil)
	if sys.DrainWithin == nil {
		return lacking
	}
	release := make(chan struct{})
	defer close(release)
	began := make(chan struct{})
	sys.Go("hangs", func(context.Context) { close(began); <-release })
	<-began
	start := time.Now()
	o := attempt(e.Patience, func() error { return sys.DrainWithin(200 * time.Millisecond) })
	switch {
	case o.hung:
		return bad("no")
	case o.err == nil:
		return bad("claims success")
	case time.Since(start) < 150*time.Millisecond:
		return bad("returns too early")
	case sys.ByHand:
		return good("by hand").note("Stop returns a Task, and a select can wait for its Done or a timer.")
	}
	return good("yes")
}

// probeNames has one worker, which runs a task called "send welcome mail" that hangs. If the
// library accepts it, a task called "weekly report" is queued behind it. The probe calls the
// drain with a deadline of 200 ms, and looks for these names, or the names of the bodies'
// functions, in what the library then reports.
//
//   - yes: it names all accepted tasks
//   - only what runs: it names the first one
//   - no: it names none
//   - a dash: there is no drain with a deadline
func probeNames(s setting, e effort) verdict {
	sys := s.New(1, nil)
	if sys.DrainWithin == nil || sys.ByHand {
		return lacking
	}
	release := make(chan struct{})
	defer close(release)
	began := make(chan struct{})
	sendWelcomeMail := func(context.Context) { close(began); <-release }
	weeklyReport := func(context.Context) { <-release }
	sys.Go("send welcome mail", sendWelcomeMail)
	<-began
	var queued atomic.Bool
	go func() { queued.Store(sys.Go("weekly report", weeklyReport) == nil) }()
	time.Sleep(50 * time.Millisecond)
	second := queued.Load() // the submission blocks if there is no queue

	o := attempt(e.Patience, func() error { return sys.DrainWithin(200 * time.Millisecond) })
	if o.err == nil {
		return bad("claims success")
	}
	text := o.err.Error()
	if sys.Left != nil {
		text = sys.Left(o.err)
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(text, name) })
	}
	switch {
	case !has("send welcome mail", "sendWelcomeMail"):
		return bad("no").note("It reports only %q.", text)
	case second && !has("weekly report", "weeklyReport"):
		return bad("only what runs")
	}
	return good("yes")
}

// An outcome is the result of an attempt.
type outcome struct {
	err      error
	panicked any
	hung     bool
}

// attempt calls f in a goroutine, and stops waiting for it after patience.
func attempt(patience time.Duration, f func() error) outcome {
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panicked = recover()
			done <- o
		}()
		o.err = f()
	}()
	select {
	case o := <-done:
		return o
	case <-time.After(patience):
		return outcome{hung: true}
	}
}

// wait returns a WaitGroup's Wait as an argument of attempt.
func wait(g *sync.WaitGroup) func() error {
	return func() error { g.Wait(); return nil }
}

// waitFor polls until cond holds, and reports whether it did within patience.
func waitFor(patience time.Duration, cond func() bool) bool {
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return cond()
		}
	}
	return true
}
