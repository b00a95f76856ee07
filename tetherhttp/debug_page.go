package tetherhttp

import (
	"cmp"
	"errors"
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
	time     time.Time
	ready    bool
	drain    *tether.Report
	stats    tether.Stats
	pools    []tether.PoolStats
	live     []tether.Info // the oldest first
	capped   bool          // there are more
	finished []tether.Info // the newest first
	stuck    []int         // of live
	history  debugHistory
}

func newSnapshot(reg *tether.Registry, now time.Time) *snapshot {
	s := &snapshot{time: now, ready: reg.Ready(), drain: reg.Report(), stats: reg.Stats()}
	for p := range reg.Pools() {
		s.pools = append(s.pools, p.Stats())
	}
	for t := range reg.Tasks() {
		if s.capped = len(s.live) == maxLive; s.capped {
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
		if len(s.finished) == maxFinished {
			break
		}
		s.finished = append(s.finished, t.Info())
	}
	return s
}

// alarming tells whether an outcome is one that the registry logs: not what somebody has
// cancelled, and not what the drain has, which has a report.
func alarming(info *tether.Info) bool {
	switch info.State {
	case tether.Failed, tether.Panicked:
		return true
	case tether.Canceled, tether.Dropped:
		return errors.Is(info.Err, tether.ErrTimeout) || errors.Is(info.Err, tether.ErrFull)
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

	snapshot *snapshot
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
	Stuck     int    `json:"stuck"`
}

type debugPool struct {
	Name     string      `json:"name"`
	Workers  int         `json:"workers"`
	Queue    int         `json:"queue"`
	Inline   int         `json:"inline"`
	Weight   int64       `json:"weight"`
	Capacity int64       `json:"capacity"`
	Paused   bool        `json:"paused"`
	Counts   debugCounts `json:"counts"`
}

// Bounded reports whether the pool's queue has a bound.
func (p debugPool) Bounded() bool { return p.Queue < tether.Unbounded }

// Busy is how many of the pool's workers are.
func (p debugPool) Busy() int { return p.Counts.Running - p.Inline }

// Waiting is how many places of the pool's queue are taken.
func (p debugPool) Waiting() int { return p.Counts.Queued + p.Counts.Held }

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

// newDebugPage returns what is on every page.
func newDebugPage(s *snapshot, q query) *debugPage {
	p := &debugPage{Time: s.time.UTC(), State: "serving", Counts: countsOf(s.stats), Query: q, snapshot: s}
	p.Counts.Stuck = len(s.stuck)
	switch {
	case s.ready:
	case s.drain == nil:
		p.State = "draining"
	case s.stats.Held+s.stats.Queued+s.stats.Running == 0:
		p.State = "drained"
	default:
		p.State = "abandoned"
	}
	return p
}

func countsOf(s tether.Stats) debugCounts {
	return debugCounts{
		s.Submitted, s.Refused, s.Succeeded, s.Failed, s.Panicked, s.Canceled, s.Dropped,
		s.Held, s.Queued, s.Running, 0,
	}
}

// list adds what is on the page of all tasks.
func (p *debugPage) list(reg *tether.Registry, q query) {
	s := p.snapshot
	show := func(info *tether.Info) *debugTask { return newDebugTask(reg, info, s.time) }
	p.History = &s.history
	p.Pools = make([]debugPool, 0, len(s.pools))
	for _, stats := range s.pools {
		p.Pools = append(p.Pools, debugPool{
			stats.Name, stats.Workers, stats.Queue, stats.Inline, stats.Weight, stats.Capacity, stats.Paused, countsOf(stats.Stats),
		})
	}
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
	p.Live = q.Live.apply(q, s.live, show)
	p.Live.Capped = s.capped
	p.Finished = q.Finished.apply(q, s.finished, show)
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
		t.Error = cut(fmt.Sprint(info.Err)) // fmt survives an Error method that panics
		if panicked, ok := info.Err.(*tether.PanicError); ok {
			t.Error = cut(fmt.Sprint("panic: ", panicked.Value)) // the rest of its text stands beside it
		}
		var panicked *tether.PanicError
		if errors.As(info.Err, &panicked) {
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

// pair is a number of so many.
type pair struct{ N, Of any }

// Since is when the plots begin, if that is later than what they have room for.
func (p *debugPage) Since() string {
	if len(p.History.Bars) == intervals {
		return ""
	}
	return clock(p.History.Since, p.Time)
}

// Fill returns a pair.
func (*debugPage) Fill(n, of any) pair { return pair{n, of} }

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
