package tether

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/internal/stacks"
)

const (
	maxListed  = 1000 // tasks in each list of a Report
	maxPrinted = 20   // of those, in its text
	maxNamed   = 10   // tasks in the text of a DrainError
)

// Report lists the tasks that were live when Shutdown began, and the tasks that they
// submitted, by how they ended. Each list has the oldest 1000 tasks.
type Report struct {
	Began, Ended time.Time
	Finished     int    // tasks that ended on their own
	Canceled     []Info // tasks that ended because the drain canceled their context
	HandedOver   []Info // tasks that never started, and that their HandOver has taken over
	NeverStarted []Info // tasks that never started; Err is the error of their HandOver, if they have one
	Abandoned    []Info // tasks that had not ended when Shutdown returned
	Omitted      int    // tasks that are not in the lists
	// Stacks has, by the name of the abandoned tasks, the stacks of the goroutines that
	// run tasks of that name, and of the goroutines that their bodies started.
	Stacks map[string][]byte

	left int // abandoned, listed or not
}

// Report returns the report of the last Shutdown that has returned, nil if none has.
func (r *Registry) Report() *Report {
	r.drain.mu.Lock()
	defer r.drain.mu.Unlock()
	return r.drain.report
}

// tally counts the tasks that end during the drain.
type tally struct {
	mu                                 sync.Mutex
	began                              time.Time // when the drain began; guarded by mu, as the others are
	finished                           int
	canceled, handedOver, neverStarted []*Task
}

func (y *tally) begin() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.began = time.Now()
}

// record counts a task that has ended, once. The task may not be done yet.
func (y *tally) record(t *Task) {
	y.mu.Lock()
	defer y.mu.Unlock()
	t.mark(recorded)
	switch {
	case t.end == Canceled && t.cause() == ErrShutdown:
		y.canceled = append(y.canceled, t)
	case t.end == Dropped && t.getExtra().handedOver:
		y.handedOver = append(y.handedOver, t)
	case t.end == Dropped:
		y.neverStarted = append(y.neverStarted, t)
	default:
		y.finished++
	}
}

// makeReport makes the report of a Shutdown.
func (d *drain) makeReport(r *Registry) *Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	var live []*Task
	for _, q := range r.allQueues() {
		for t := range q.table.All() {
			if !t.has(recorded | done) {
				live = append(live, t)
			}
		}
	}
	report := &Report{Ended: time.Now()}
	y := &d.tally
	y.mu.Lock()
	if report.Began, report.Finished = y.began, y.finished; y.began.IsZero() {
		report.Began = report.Ended // there was no Shutdown yet
	}
	canceled, handedOver, neverStarted := slices.Clone(y.canceled), slices.Clone(y.handedOver), slices.Clone(y.neverStarted)
	live = slices.DeleteFunc(live, func(t *Task) bool { return t.has(recorded) }) // meanwhile
	y.mu.Unlock()
	report.Canceled, report.HandedOver = report.list(canceled), report.list(handedOver)
	report.NeverStarted, report.Abandoned = report.list(neverStarted), report.list(live)
	if report.left = len(live); report.left > 0 {
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

// list returns the oldest of tasks, and counts the others as omitted.
func (r *Report) list(tasks []*Task) (infos []Info) {
	slices.SortFunc(tasks, func(a, b *Task) int {
		return cmp.Or(cmp.Compare(a.firstSeen(), b.firstSeen()), cmp.Compare(a.slot.Number(), b.slot.Number()))
	})
	if len(tasks) > maxListed {
		r.Omitted += len(tasks) - maxListed
		tasks = tasks[:maxListed]
	}
	for _, t := range tasks {
		infos = append(infos, t.Info())
	}
	return infos
}

// String returns the report as text of several lines, for a log. It has at most the 20
// oldest tasks of each list.
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

// line describes a task: refresh feed (feed=42, key "feed 42", 9iZ41-dBJn6bVBbT60XDHQ,
// running, 3s).
func (i *Info) line(now time.Time) string {
	var b strings.Builder
	b.WriteString(i.Name + " (")
	for _, key := range slices.Sorted(maps.Keys(i.Labels)) {
		fmt.Fprintf(&b, "%s=%s, ", key, i.Labels[key])
	}
	if i.Unique != "" {
		fmt.Fprintf(&b, "key %q, ", i.Unique)
	}
	b.WriteString(i.ID + ", " + i.State.String())
	if since := cmp.Or(i.Started, i.Submitted); !since.IsZero() {
		b.WriteString(", " + now.Sub(since).Round(time.Millisecond).String())
	}
	b.WriteByte(')')
	if err := i.lastErr(); err != nil {
		b.WriteString(": " + textOf(err))
	}
	return b.String()
}

// textOf returns the text of an error of the user's, whose Error method may panic, or not
// return.
func textOf(err error) string {
	text, ok := inTime(func() string { return fmt.Sprint(err) }) // which survives a panic
	if !ok {
		return withoutText(err)
	}
	return text
}

// inTime returns what f does, which may call methods of the user's errors, or false if f has
// not returned after lateReturn.
func inTime[T any](f func() T) (value T, ok bool) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	timer := time.NewTimer(lateReturn)
	defer timer.Stop()
	select {
	case value = <-result:
		return value, true
	case <-timer.C:
		return value, false
	}
}

// withoutText describes an error whose Error method has not returned.
func withoutText(err error) string {
	return fmt.Sprintf("an error of type %T, whose Error method has not returned", err)
}

// lastErr returns the error of the outcome or, before that, of the last attempt. It does
// not compare errors, whose types may not be comparable.
func (i *Info) lastErr() error {
	if i.Err != nil {
		return i.Err
	}
	return i.LastErr
}

// DrainError is returned by Shutdown if its ctx is done before all tasks have ended. It
// wraps ctx.Err().
type DrainError struct {
	Report *Report
	ctx    context.Context
}

func (e *DrainError) Error() string {
	if e.Report.left == 0 {
		return fmt.Sprintf("tether: %v: the report of a stuck task, to the log or the observer, has not ended", e.ctx.Err())
	}
	tasks := "tasks have"
	if e.Report.left == 1 {
		tasks = "task has"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "tether: %v: %d %s not ended", e.ctx.Err(), e.Report.left, tasks)
	for i, info := range e.Report.Abandoned {
		if i == maxNamed {
			fmt.Fprintf(&b, ", and others")
			break
		}
		fmt.Fprintf(&b, "%c %s", ":,"[min(i, 1)], info.line(e.Report.Ended))
	}
	return b.String()
}

// Unwrap returns the error of Shutdown's ctx, and its cause.
func (e *DrainError) Unwrap() []error { return []error{e.ctx.Err(), context.Cause(e.ctx)} }
