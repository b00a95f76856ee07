package tetherhttp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

const (
	maxLive     = 100_000 // tasks that a snapshot has
	maxFinished = 10_000
	maxFailures = 20 // that are shown at the top
	maxStuck    = 5
	maxText     = 16 << 10 // bytes of an error
	livePage    = 100      // rows
	endedPage   = 25
)

// snapshot is a look at a registry. It is not changed once it is made.
type snapshot struct {
	time     time.Time // when it began
	ended    time.Time // when it was made
	ready    bool
	drain    *tether.Report
	stats    tether.Stats
	pools    []tether.PoolStats
	live     []tether.Info // the oldest first
	finished []tether.Info // the newest first
	stuck    []int         // of live
	history  debugHistory

	moreLive, moreFinished bool // that were not looked at
}

// fresh reports whether a snapshot will do. One that took long does for longer: ten parts in
// eleven of the time nobody looks.
func (s *snapshot) fresh(now time.Time) bool {
	return now.Sub(s.ended) < max(time.Second, 10*s.ended.Sub(s.time))
}

func newSnapshot(reg *tether.Registry, now time.Time) *snapshot {
	s := &snapshot{time: now, ready: reg.Ready(), drain: reg.Report(), stats: reg.Stats()}
	for p := range reg.Pools() {
		s.pools = append(s.pools, p.Stats())
	}
	for t := range reg.Tasks() {
		if s.moreLive = len(s.live) == maxLive; s.moreLive {
			break
		}
		if info := t.Info(); !info.State.Final() {
			s.live = append(s.live, info)
		}
	}
	slices.SortFunc(s.live, func(a, b tether.Info) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), strings.Compare(a.ID, b.ID))
	})
	for i := range s.live {
		if s.live[i].Stuck != nil {
			s.stuck = append(s.stuck, i)
		}
	}
	for t := range reg.Finished() {
		if s.moreFinished = len(s.finished) == maxFinished; s.moreFinished {
			break
		}
		s.finished = append(s.finished, t.Info())
	}
	s.ended = time.Now()
	return s
}

// alarming tells whether an outcome is one that the registry logs: not what somebody has
// cancelled, and not what the drain has, which has a report.
func alarming(info *tether.Info) bool {
	switch info.State {
	case tether.Failed, tether.Panicked:
		return true
	case tether.Canceled, tether.Dropped:
		return errorIs(info.Err, tether.ErrTimeout) || errorIs(info.Err, tether.ErrFull)
	}
	return false
}

// debugPage is what is shown: as JSON, and, with what has no place there, as a page.
type debugPage struct {
	Time     time.Time     `json:"time"`
	State    string        `json:"state"`
	Counts   debugCounts   `json:"counts"`
	Pools    []debugPool   `json:"pools,omitempty"`
	History  *debugHistory `json:"history,omitempty"`
	Stuck    []*debugTask  `json:"stuck,omitempty"`
	Failures []*debugTask  `json:"failures,omitempty"`
	Live     *debugList    `json:"live,omitempty"`
	Finished *debugList    `json:"finished,omitempty"`
	Drain    *debugDrain   `json:"drain,omitempty"`
	Task     *debugTask    `json:"task,omitempty"`

	Query     query  `json:"-"`
	CanCancel bool   `json:"-"`
	Notice    string `json:"-"`
}

type debugCounts struct {
	Submitted uint64 `json:"submitted"`
	Refused   uint64 `json:"refused"`
	Succeeded uint64 `json:"succeeded"`
	Failed    uint64 `json:"failed"`
	Panicked  uint64 `json:"panicked"`
	Canceled  uint64 `json:"canceled"`
	Dropped   uint64 `json:"dropped"`
	Held      int    `json:"held"`
	Queued    int    `json:"queued"`
	Running   int    `json:"running"`
	Stuck     number `json:"stuck,omitzero"`
}

// number is left out of the JSON where it is none.
type number int

const none number = -1

// IsZero is for omitzero: 0 is a number.
func (n number) IsZero() bool { return n == none }

type debugPool struct {
	Name     string      `json:"name"`
	Workers  int         `json:"workers"`
	Queue    number      `json:"queue,omitzero"` // none: no bound
	Inline   int         `json:"inline"`
	Weight   int64       `json:"weight"`
	Capacity int64       `json:"capacity"`
	Paused   bool        `json:"paused"`
	Counts   debugCounts `json:"counts"`
}

// Bounded reports whether the pool's queue has a bound.
func (p debugPool) Bounded() bool { return p.Queue != none }

// pair is a number beside the bound that it has by and large.
type pair struct{ N, Of int64 }

// Bar is how far the bar goes.
func (p pair) Bar() int64 { return min(p.N, p.Of) }

// Busy is how many of the pool's workers are: more than there are, after a Resize.
func (p debugPool) Busy() pair { return pair{int64(p.Counts.Running - p.Inline), int64(p.Workers)} }

// Queued is how many tasks are, beside the queue's bound. Workers that have nothing to do, if
// the pool is paused say, make room for more; held tasks and those between attempts take some.
func (p debugPool) Queued() pair { return pair{int64(p.Counts.Queued), int64(p.Queue)} }

// Weighs is what its running tasks do.
func (p debugPool) Weighs() pair { return pair{p.Weight, p.Capacity} }

// debugTask is a task as it is shown.
type debugTask struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Pool       string            `json:"pool,omitempty"`
	Parent     string            `json:"parent,omitempty"`
	ParentName string            `json:"parent_name,omitempty"` // if it is still known
	State      string            `json:"state"`
	Func       string            `json:"func,omitempty"`
	Submitted  time.Time         `json:"submitted,omitzero"`
	Started    time.Time         `json:"started,omitzero"`
	Finished   time.Time         `json:"finished,omitzero"`
	Age        float64           `json:"age_seconds,omitzero"`
	Running    float64           `json:"running_seconds,omitzero"`
	Attempt    int               `json:"attempt,omitempty"`
	Progress   *progress         `json:"progress,omitempty"`
	Unique     string            `json:"unique,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Error      string            `json:"error,omitempty"`
	PanicStack string            `json:"panic_stack,omitempty"`
	StuckStack string            `json:"stuck_stack,omitempty"`
}

// debugList is a page of a list of tasks.
type debugList struct {
	Total   int          `json:"total"`            // there are
	Matched int          `json:"matched"`          // of those, by the query
	Capped  bool         `json:"capped,omitempty"` // there are more that were not looked at
	Sort    string       `json:"sort"`
	Page    int          `json:"page"`
	Pages   int          `json:"pages"`
	Tasks   []*debugTask `json:"tasks"`
}

// debugDrain is a [tether.Report].
type debugDrain struct {
	Began        time.Time         `json:"began"`
	Ended        time.Time         `json:"ended"`
	Took         float64           `json:"took_seconds"`
	Finished     int               `json:"finished"`
	Canceled     []*debugTask      `json:"canceled"`
	HandedOver   []*debugTask      `json:"handed_over"`
	NeverStarted []*debugTask      `json:"never_started"`
	Abandoned    []*debugTask      `json:"abandoned"`
	Omitted      int               `json:"omitted"`
	Stacks       map[string]string `json:"stacks,omitempty"`
}

// begin sets what is on every page.
func (p *debugPage) begin(now time.Time, ready bool, drain *tether.Report, s tether.Stats) {
	p.Time, p.State, p.Counts = now.UTC(), "draining", countsOf(s)
	switch {
	case ready:
		p.State = "serving"
	case s.Held+s.Queued+s.Running == 0:
		p.State = "drained"
	case drain != nil && len(drain.Abandoned)+drain.Omitted > 0:
		p.State = "abandoned"
	}
}

func countsOf(s tether.Stats) debugCounts {
	return debugCounts{
		s.Submitted, s.Refused, s.Succeeded, s.Failed, s.Panicked, s.Canceled, s.Dropped,
		s.Held, s.Queued, s.Running, none,
	}
}

// list adds what is on the page of all tasks.
func (p *debugPage) list(reg *tether.Registry, s *snapshot) {
	show := func(info *tether.Info) *debugTask { return newDebugTask(reg, info, s.time) }
	p.History = &s.history
	p.Pools = make([]debugPool, 0, len(s.pools))
	for _, stats := range s.pools {
		pool := debugPool{
			stats.Name, stats.Workers, number(stats.Queue), stats.Inline, stats.Weight, stats.Capacity, stats.Paused, countsOf(stats.Stats),
		}
		if pool.Counts.Stuck = 0; stats.Queue >= tether.Unbounded {
			pool.Queue = none
		}
		p.Pools = append(p.Pools, pool)
	}
	p.Counts.Stuck = number(len(s.stuck))
	for _, i := range s.stuck {
		if len(p.Stuck) < maxStuck {
			p.Stuck = append(p.Stuck, show(&s.live[i]))
		}
		for n := range p.Pools {
			if p.Pools[n].Name == s.live[i].Pool {
				p.Pools[n].Counts.Stuck++
			}
		}
	}
	for i := 0; i < len(s.finished) && len(p.Failures) < maxFailures; i++ {
		if alarming(&s.finished[i]) {
			p.Failures = append(p.Failures, show(&s.finished[i]))
		}
	}
	p.Live = p.Query.Live.apply(p.Query, s.live, show)
	p.Finished = p.Query.Finished.apply(p.Query, s.finished, show)
	p.Live.Capped, p.Finished.Capped = s.moreLive, s.moreFinished
	p.Query.Live.Page, p.Query.Finished.Page = p.Live.Page, p.Finished.Page // which there are
	if s.drain != nil {
		p.Drain = newDebugDrain(reg, s.drain)
	}
}

func newDebugTask(reg *tether.Registry, info *tether.Info, now time.Time) *debugTask {
	t := &debugTask{
		ID: info.ID, Name: info.Name, Pool: info.Pool, Parent: info.Parent, State: info.State.String(), Func: info.Func,
		Submitted: info.Submitted.UTC(), Started: info.Started.UTC(), Finished: info.Finished.UTC(),
		Age: span(info.Submitted, info, now).Seconds(), Running: span(info.Started, info, now).Seconds(),
		Attempt: info.Attempt, Unique: info.Unique, Labels: info.Labels, StuckStack: string(info.Stuck),
	}
	if p := info.Progress; p != (tether.Progress{}) {
		t.Progress = &progress{p.Done, p.Total, cut(p.Message)}
	}
	if info.Err != nil {
		if panicked, ok := info.Err.(*tether.PanicError); ok && panicked != nil {
			t.Error = cut(fmt.Sprint("panic: ", panicked.Value)) // the rest of its text is in PanicStack
		} else {
			t.Error = cut(errorText(info.Err))
		}
		if panicked, ok := errorAs[*tether.PanicError](info.Err); ok {
			t.PanicStack = string(panicked.Stack)
		}
	}
	if parent, err := reg.Find(info.Parent); err == nil {
		t.ParentName = parent.Name()
	}
	return t
}

// span is the time since an instant in a task's life, to its end or to now.
func span(since time.Time, info *tether.Info, now time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	if info.State.Final() {
		now = info.Finished
	}
	return max(0, now.Sub(since))
}

func cut(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "… (" + grouped(len(text)) + " bytes)"
	}
	return text
}

func newDebugDrain(reg *tether.Registry, r *tether.Report) *debugDrain {
	all := func(infos []tether.Info) []*debugTask {
		tasks := make([]*debugTask, len(infos))
		for i := range infos {
			tasks[i] = newDebugTask(reg, &infos[i], r.Ended)
		}
		return tasks
	}
	d := &debugDrain{
		r.Began.UTC(), r.Ended.UTC(), r.Ended.Sub(r.Began).Seconds(), r.Finished,
		all(r.Canceled), all(r.HandedOver), all(r.NeverStarted), all(r.Abandoned), r.Omitted, make(map[string]string),
	}
	for name, stack := range r.Stacks {
		d.Stacks[name] = string(stack)
	}
	return d
}

// What follows is for the page.

// Bad is how many have failed or panicked.
func (c debugCounts) Bad() uint64 { return c.Failed + c.Panicked }

// Nothing is what stands in place of failures if none is listed.
func (p *debugPage) Nothing() string {
	n := p.Counts.Bad()
	switch {
	case len(p.Failures) > p.Cut():
		return ""
	case n > 0 && len(p.Failures) == maxFailures, n == 0 && len(p.Failures)+len(p.Stuck) > 0:
		return ""
	case n == 0:
		return "Nothing has failed, and nothing is stuck."
	case p.Finished.Capped:
		return "No failure is among the " + grouped(p.Finished.Total) + " tasks that ended last."
	case n == 1:
		return "The one failure is not retained any more."
	}
	return "None of the " + grouped(n) + " failures is retained any more."
}

// Cut is how many of the failures are ones by their cause: they timed out, or were pushed out.
func (p *debugPage) Cut() int {
	n := 0
	for _, t := range p.Failures {
		if t.State == tether.Canceled.String() || t.State == tether.Dropped.String() {
			n++
		}
	}
	return n
}

// NoneEnded says why the list of those that have ended is empty.
func (p *debugPage) NoneEnded() string {
	c := p.Counts
	switch n := c.Succeeded + c.Bad() + c.Canceled + c.Dropped; n {
	case 0:
		return "No task has ended yet."
	case 1:
		return "The one task that has ended is not retained any more."
	default:
		return "None of the " + grouped(n) + " tasks that have ended is retained any more."
	}
}

// Since is when the plots begin, if that is later than what they have room for.
func (p *debugPage) Since() string {
	if len(p.History.Bars) == intervals {
		return ""
	}
	return clock(p.History.Since, p.Time)
}

// cancelForm is a button that cancels a task.
type cancelForm struct{ ID, Name, Action string }

// CancelOf returns a task's button.
func (p *debugPage) CancelOf(t *debugTask) cancelForm {
	return cancelForm{t.ID, t.Name, p.Query.Cancel()}
}

// turns are the links to a list's pages beside this one.
type turns struct {
	Label, Previous, Next string
	Page, Pages           int
}

// Turns returns those of a list.
func (p *debugPage) Turns(prefix string, l *debugList) turns {
	t := turns{Label: "Pages of the live tasks", Page: l.Page, Pages: l.Pages}
	if prefix != "" {
		t.Label = "Pages of the finished tasks"
	}
	if l.Page > 1 {
		t.Previous = p.Query.Turn(prefix, l.Page-1)
	}
	if l.Page < l.Pages {
		t.Next = p.Query.Turn(prefix, l.Page+1)
	}
	return t
}

// lot are tasks that a drain has done the same with.
type lot struct {
	What         string
	Tasks, Shown []*debugTask
	More         int
}

// Lot returns a lot, of which the page shows a few.
func (*debugPage) Lot(what string, tasks []*debugTask) lot {
	shown := tasks[:min(len(tasks), maxFailures)]
	return lot{what, tasks, shown, len(tasks) - len(shown)}
}

// grouped writes a number with a comma before each three digits.
func grouped(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// duration writes seconds in two units at most.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	in := func(unit time.Duration) int64 { return int64(d / unit) }
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", in(time.Second))
	case d < time.Hour:
		return fmt.Sprintf("%d m %02d s", in(time.Minute), in(time.Second)%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %02d m", in(time.Hour), in(time.Minute)%60)
	}
	return fmt.Sprintf("%d d %02d h", in(time.Hour)/24, in(time.Hour)%24)
}

// clock writes a time of day, and the day if it is not now's.
func clock(t, now time.Time) string {
	if now.Sub(t) < 24*time.Hour && t.Day() == now.Day() {
		return t.Format("15:04:05")
	}
	return t.Format("2 Jan 15:04:05")
}

// percent is how far a progress is, of 100; -1 if nobody knows.
func percent(p *progress) int {
	if p.Total <= 0 {
		return -1
	}
	return int(100 * min(max(float64(p.Done)/float64(p.Total), 0), 1))
}

// first returns the first line of a text.
func first(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
