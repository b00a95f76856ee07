package tether

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seed-2e639f12/tether/internal/stacks"
	"github.com/seed-2e639f12/tether/internal/table"
)

// stage is how far the drain is.
type stage = uint32

const (
	open       stage = iota // tasks are admitted
	draining                // only those of running tasks are
	cancelling              // none is, none starts, and those that run are cancelled
)

const (
	maxListed  = 1000 // tasks in each list of a Report
	maxPrinted = 20   // of those, in its text
	handOvers  = 16   // that run at once
)

// drain is the state of a registry's shutdown.
type drain struct {
	stage      atomic.Uint32 // written under mu; each lane has a copy under its lock
	stopping   chan struct{} // closed when the stop begins, by stopOnce
	stopOnce   sync.Once
	cancelling chan struct{}                   // closed when the stage is cancelling
	outside    atomic.Int64                    // tasks that goroutines other than workers run or end
	handOver   atomic.Pointer[context.Context] // the limit of the hand-overs; written under mu

	mu       sync.Mutex
	complete atomic.Bool // a Shutdown has found nothing live; written under mu
	report   *Report     // of the last Shutdown; guarded by mu

	pokeMu sync.Mutex
	waits  map[chan struct{}]bool // Shutdowns to be woken; guarded by pokeMu

	tallyMu                            sync.Mutex
	began                              time.Time // guarded by tallyMu, as are those below
	finished                           int
	canceled, handedOver, neverStarted []*Task
}

func (d *drain) init() {
	d.stopping, d.cancelling = make(chan struct{}), make(chan struct{})
	d.waits = make(map[chan struct{}]bool)
}

// Shutdown ends the registry's work in order:
//
//  1. No new task is admitted: [ErrClosed]. [StoppingFrom] is closed.
//  2. It waits for the tasks to end. What a running task submits with its own
//     context is still admitted, so that the last step of a chain is not lost.
//  3. [Config].CancelBefore before ctx's deadline, or when ctx ends, contexts are
//     cancelled with the cause [ErrShutdown]; tasks that have not started are
//     dropped, or handed over (see [HandOver]); nothing is admitted any more.
//  4. It waits for what is left, until ctx ends.
//
// It returns nil when every task has ended, and the goroutines that ran them. When
// ctx ends first it returns a [*DrainError], which is ctx.Err() too: it names the
// tasks that have not ended and shows where they hang. The process may exit then,
// or Shutdown be called again to wait on.
//
// It may be called many times, and concurrently: the calls share one drain. Called with
// a context of one of the registry's own tasks, for which it would wait, it returns an
// [ErrInvalid] at once.
//
// Shutdown does not stop whoever submits tasks: stop the server first, as
// [Registry.Run] does. Pools need no shutdown of their own.
func (r *Registry) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	if t, ok := FromContext(ctx); ok && t.lane.reg == r {
		return fmt.Errorf("%w: Shutdown was called with the context of task %q, for which it would wait", ErrInvalid, t.Name())
	}
	err := r.drainTasks(ctx)
	r.flushStopLog(lastRecords)
	return err
}

// drainTasks is Shutdown without the wait for the log handler.
func (r *Registry) drainTasks(ctx context.Context) error {
	d := &r.drain
	wake := d.enter()
	defer d.exit(wake)
	if d.closeIntake(r) {
		s := r.Stats()
		r.stopLog(slog.LevelInfo, "drain: intake closed", slog.Int("running", s.Running), slog.Int("queued", s.Queued), slog.Int("held", s.Held))
	}
	var grace <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		left := max(0, time.Until(deadline))
		timer := time.NewTimer(left - min(r.cfg.CancelBefore, left/2))
		defer timer.Stop()
		grace = timer.C
	}
	for !d.drained(r) {
		select {
		case <-wake:
		case <-grace:
			d.cancelAll(ctx, r)
		case <-ctx.Done():
			d.cancelAll(ctx, r)
			report := d.makeReport(r)
			for report.left == 0 && !d.drained(r) {
				<-wake // every task is in the tally: who is still at work lets go of one, and pokes
				report = d.makeReport(r)
			}
			if report.left == 0 {
				break
			}
			err := &DrainError{report, ctx}
			r.stopLog(slog.LevelError, "drain: tasks left", append(report.attrs(), slog.Any("error", err), slog.String("stacks", report.stacks()))...)
			return err
		}
	}
	if !r.stopWatch(ctx) {
		err := &DrainError{d.makeReport(r), ctx}
		r.stopLog(slog.LevelError, "drain: the report of a stuck task has not ended", slog.Any("error", err))
		return err
	}
	r.stopLog(slog.LevelInfo, "drain: done", d.makeReport(r).attrs()...)
	return nil
}

// Stopping returns a channel that is closed when the stop begins: at the first signal
// that [Registry.Run] gets, before any server is stopped, or when [Registry.Shutdown]
// is called. Streams, websockets and producers, such as a queue's consumer, should
// stop when it is closed. Tasks are still admitted until the drain begins.
// [StoppingFrom] is the same channel for the body of a task.
func (r *Registry) Stopping() <-chan struct{} { return r.drain.stopping }

// Report returns the report of the last Shutdown to return, nil if none has.
func (r *Registry) Report() *Report {
	r.drain.mu.Lock()
	defer r.drain.mu.Unlock()
	return r.drain.report
}

// enter has a Shutdown be woken when the last tasks end.
func (d *drain) enter() (wake chan struct{}) {
	wake = make(chan struct{}, 1)
	d.pokeMu.Lock()
	d.waits[wake] = true
	d.pokeMu.Unlock()
	return wake
}

func (d *drain) exit(wake chan struct{}) {
	d.pokeMu.Lock()
	delete(d.waits, wake)
	d.pokeMu.Unlock()
}

// poke wakes the Shutdowns that wait.
func (d *drain) poke() {
	d.pokeMu.Lock()
	defer d.pokeMu.Unlock()
	for wake := range d.waits {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// closeIntake begins the drain, and reports whether this call did.
func (d *drain) closeIntake(r *Registry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stage.Load() != open {
		return false
	}
	d.tallyMu.Lock()
	d.began = time.Now()
	d.tallyMu.Unlock()
	d.beginStop()
	d.setStage(r, draining)
	return true
}

// beginStop tells producers and streams that the process stops. Tasks are still
// admitted, until closeIntake.
func (d *drain) beginStop() { d.stopOnce.Do(func() { close(d.stopping) }) }

// setStage tells the lanes. The caller holds mu.
func (d *drain) setStage(r *Registry, s stage) {
	d.stage.Store(s)
	for _, l := range r.all() {
		d.tell(l)
	}
}

// join makes the stage known to a new lane.
func (d *drain) join(l *lane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tell(l)
}

// tell gives a lane its copy of the stage. The caller holds mu.
func (d *drain) tell(l *lane) {
	l.crew.Lock()
	defer l.crew.Unlock()
	if l.stage = d.stage.Load(); l.stage != open {
		l.table.Close()
	}
}

// admits tells whether this task may still submit others. from is nil if no task
// submits.
func (d *drain) admits(from *Task, r *Registry) bool {
	return from != nil && from.lane.reg == r && !from.has(released) && d.stage.Load() == draining
}

// claimLate takes a number for a task that is submitted while draining.
func (d *drain) claimLate(from *Task, r *Registry, l *lane) (table.Slot[Task], bool) {
	d.mu.Lock() // or drained could count one lane before from has ended, and another before its child has come
	defer d.mu.Unlock()
	if d.complete.Load() || !d.admits(from, r) {
		return table.Slot[Task]{}, false
	}
	return l.table.ClaimLate(), true
}

// drained tells whether nothing is live. From then on nothing is admitted.
func (d *drain) drained(r *Registry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// In this order: a claim raises outside before it counts its task as over, and
	// looks for a worker before it lowers it again.
	live := 0
	for _, l := range r.all() {
		l.crew.Lock()
		live += int(l.table.Claimed() - l.over())
		l.crew.Unlock()
	}
	busy := int(d.outside.Load())
	for _, l := range r.all() {
		busy += l.crew.Workers() // they may be releasing what has ended
	}
	if live > 0 || busy > 0 {
		return false
	}
	d.complete.Store(true)
	return true
}

// context returns the context of the Shutdown that cancels the tasks, nil if none
// does.
func (d *drain) context() context.Context {
	if ctx := d.handOver.Load(); ctx != nil {
		return *ctx
	}
	return nil
}

// cancelAll is the drain's third step.
func (d *drain) cancelAll(ctx context.Context, r *Registry) {
	d.mu.Lock()
	if lasts(ctx, d.context()) {
		d.handOver.Store(&ctx)
	}
	first := d.stage.Load() != cancelling
	if first {
		d.setStage(r, cancelling) // from here on nothing starts, and who comes late drops itself
		close(d.cancelling)
	}
	d.mu.Unlock()
	if first {
		s := r.Stats()
		r.stopLog(slog.LevelWarn, "drain: canceling", slog.Int("running", s.Running), slog.Int("queued", s.Queued), slog.Int("held", s.Held))
	}
	d.outside.Add(1)
	go func() { // for it calls observers and hand-overs, which may take their time
		defer func() {
			d.outside.Add(-1)
			d.poke()
		}()
		var queued, toHandOver []*Task
		for _, l := range r.all() {
			for t := range l.table.All() {
				switch {
				case t.has(released):
				case t.State() == Running:
					t.interrupt(ErrShutdown)
				case !first: // the first is at it
				case t.handsOver():
					toHandOver = append(toHandOver, t)
				default:
					queued = append(queued, t)
				}
			}
		}
		// Each on a goroutine of its own, which a callback may end.
		var group errgroup.Group
		group.SetLimit(handOvers)
		for _, t := range append(queued, toHandOver...) {
			group.Go(func() error {
				pprof.SetGoroutineLabels(t.kind.labels)
				t.lane.cancel(t, ErrShutdown)
				return nil
			})
		}
		_ = group.Wait() // what goes wrong is in the tasks' outcomes
	}()
}

// lasts tells whether a is a context that gives hand-overs more time than b, which
// may be nil.
func lasts(a, b context.Context) bool {
	if b == nil || b.Err() != nil {
		return true
	}
	if a.Err() != nil {
		return false
	}
	until, bounded := a.Deadline()
	before, wasBounded := b.Deadline()
	return wasBounded && (!bounded || until.After(before))
}

// note adds the end of a task to the tally.
func (d *drain) note(t *Task) {
	d.tallyMu.Lock()
	defer d.tallyMu.Unlock()
	t.state.Or(settled)
	switch {
	case t.end == Canceled && t.cause() == ErrShutdown:
		d.canceled = append(d.canceled, t)
	case t.end == Dropped && t.options().handed:
		d.handedOver = append(d.handedOver, t)
	case t.end == Dropped:
		d.neverStarted = append(d.neverStarted, t)
	default:
		d.finished++
	}
}

// Report tells what became of the tasks that were live when Shutdown began, and of
// those that they submitted. Each list holds the oldest 1000.
type Report struct {
	Began, Ended time.Time
	Finished     int    // ended by themselves
	Canceled     []Info // gave up when the drain cancelled their context
	HandedOver   []Info // never started, and their HandOver has taken them
	NeverStarted []Info // never started; Err is the error of their HandOver, if they have one
	Abandoned    []Info // had not ended when Shutdown returned
	Omitted      int    // that are not in the lists
	// Stacks shows where the abandoned are: the goroutines that run tasks of this
	// name, those started by the body among them.
	Stacks map[string][]byte

	left int // abandoned, listed or not
}

// unsettled returns the tasks that have not ended.
func (d *drain) unsettled(r *Registry) (tasks []*Task) {
	for _, l := range r.all() {
		for t := range l.table.All() {
			if !t.has(settled | released) {
				tasks = append(tasks, t)
			}
		}
	}
	return tasks
}

// makeReport makes the report of a Shutdown.
func (d *drain) makeReport(r *Registry) *Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	live := d.unsettled(r)
	report := &Report{Ended: time.Now()}
	d.tallyMu.Lock()
	if report.Began, report.Finished = d.began, d.finished; d.began.IsZero() {
		report.Began = report.Ended // there was no Shutdown yet
	}
	canceled, handedOver, neverStarted := slices.Clone(d.canceled), slices.Clone(d.handedOver), slices.Clone(d.neverStarted)
	live = slices.DeleteFunc(live, func(t *Task) bool { return t.has(settled) }) // it is in the tally now
	d.tallyMu.Unlock()
	list := func(tasks []*Task) []Info {
		slices.SortFunc(tasks, func(a, b *Task) int {
			return cmp.Or(cmp.Compare(a.came(), b.came()), cmp.Compare(a.slot.Number(), b.slot.Number()))
		})
		if len(tasks) > maxListed {
			report.Omitted += len(tasks) - maxListed
			tasks = tasks[:maxListed]
		}
		var infos []Info
		for _, t := range tasks {
			infos = append(infos, t.Info())
		}
		return infos
	}
	report.Canceled, report.HandedOver = list(canceled), list(handedOver)
	report.NeverStarted, report.Abandoned = list(neverStarted), list(live)
	report.left = len(live)
	if len(live) > 0 {
		report.Stacks = make(map[string][]byte)
		all := stacks.ByLabel(labelTask)
		for _, t := range live {
			if stack, ok := all[t.kind.name]; ok {
				report.Stacks[t.kind.name] = stack
			}
		}
	}
	d.report = report
	return report
}

// String returns the report as text of several lines, for a log. Of each list it
// has the oldest 20.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "drained in %v: %d finished, %d canceled, %d handed over, %d never started, %d abandoned",
		r.Ended.Sub(r.Began).Round(time.Millisecond), r.Finished,
		len(r.Canceled), len(r.HandedOver), len(r.NeverStarted), len(r.Abandoned))
	if r.Omitted > 0 {
		fmt.Fprintf(&b, ", and %d more", r.Omitted)
	}
	for _, list := range []struct {
		what  string
		infos []Info
	}{{"canceled", r.Canceled}, {"handed over", r.HandedOver}, {"never started", r.NeverStarted}, {"abandoned", r.Abandoned}} {
		for _, info := range list.infos[:min(len(list.infos), maxPrinted)] {
			fmt.Fprintf(&b, "\n%s: %s", list.what, info.line(r.Ended))
		}
		if more := len(list.infos) - maxPrinted; more > 0 {
			fmt.Fprintf(&b, "\n%s: and %d more", list.what, more)
		}
	}
	if len(r.Stacks) > 0 {
		b.WriteString("\n" + r.stacks())
	}
	return b.String()
}

func (r *Report) stacks() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Stacks)) {
		fmt.Fprintf(&b, "%s: %s", name, r.Stacks[name])
	}
	return b.String()
}

func (r *Report) attrs() []slog.Attr {
	return []slog.Attr{
		slog.Duration("took", r.Ended.Sub(r.Began)), slog.Int("finished", r.Finished),
		slog.Int("canceled", len(r.Canceled)), slog.Int("handed_over", len(r.HandedOver)),
		slog.Int("never_started", len(r.NeverStarted)), slog.Int("abandoned", len(r.Abandoned)),
		slog.Int("omitted", r.Omitted),
	}
}

// line names a task with its id, state and age.
func (i Info) line(now time.Time) string {
	text := i.Name + " (" + i.ID + ", " + i.State.String()
	if since := cmp.Or(i.Started, i.Submitted); !since.IsZero() {
		text += ", " + now.Sub(since).Round(time.Millisecond).String()
	}
	text += ")"
	if i.Err != nil {
		text += fmt.Sprint(": ", i.Err) // which minds an Error that panics
	}
	return text
}

// DrainError is what Shutdown returns when its ctx ends before the tasks do. It is
// ctx.Err() too.
type DrainError struct {
	Report *Report
	ctx    context.Context
}

func (e *DrainError) Error() string {
	var b strings.Builder
	if e.Report.left == 0 {
		return fmt.Sprintf("tether: %v: the report of a stuck task, to the log or the observer, has not ended", e.ctx.Err())
	}
	fmt.Fprintf(&b, "tether: %v: %d tasks have not ended", e.ctx.Err(), e.Report.left)
	for i, info := range e.Report.Abandoned {
		if i == 10 {
			fmt.Fprintf(&b, ", and others")
			break
		}
		fmt.Fprintf(&b, "%c %s", ":,"[min(i, 1)], info.line(e.Report.Ended))
	}
	return b.String()
}

// Unwrap returns the error of Shutdown's ctx, and its cause.
func (e *DrainError) Unwrap() []error { return []error{e.ctx.Err(), context.Cause(e.ctx)} }
