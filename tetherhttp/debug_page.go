package tetherhttp

import (
	"fmt"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// debugPage is what is shown: all of it as a page, and the fields with a tag as JSON.
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

// number is an int that the JSON omits if it is none.
type number int

const none number = -1

// IsZero implements omitzero: 0 is not omitted.
func (n number) IsZero() bool { return n == none }

type debugPool struct {
	Name     string      `json:"name"`
	Workers  int         `json:"workers"`
	Queue    number      `json:"queue,omitzero"` // none if it has no bound
	Inline   int         `json:"inline"`
	Weight   int64       `json:"weight"`
	Capacity int64       `json:"capacity"`
	Paused   bool        `json:"paused"`
	Counts   debugCounts `json:"counts"`
}

// Bounded reports whether the pool's queue has a bound.
func (p debugPool) Bounded() bool { return p.Queue != none }

// pair is a number and its usual bound, which it may exceed.
type pair struct{ N, Of int64 }

// Bar returns the length of the bar, at most Of.
func (p pair) Bar() int64 { return min(p.N, p.Of) }

// Busy returns how many of the pool's workers are busy, which may exceed their number after a
// Resize.
func (p debugPool) Busy() pair { return pair{int64(p.Counts.Running - p.Inline), int64(p.Workers)} }

// Queued returns the number of queued tasks and the queue's bound. Idle workers, for example of
// a paused pool, make room for more; held tasks, and tasks between attempts, take up room.
func (p debugPool) Queued() pair { return pair{int64(p.Counts.Queued), int64(p.Queue)} }

// Weighs returns the weight of the running tasks and the pool's capacity.
func (p debugPool) Weighs() pair { return pair{p.Weight, p.Capacity} }

// debugTask is a task on the page.
type debugTask struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Pool       string            `json:"pool,omitempty"`
	Parent     string            `json:"parent,omitempty"`
	ParentName string            `json:"parent_name,omitempty"` // if the parent is still retained
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
	Total   int          `json:"total"`
	Matched int          `json:"matched"`          // those that pass the filters
	Capped  bool         `json:"capped,omitempty"` // there are more that were not examined
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

// begin sets the fields that every page has.
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

// list sets the fields of the page of all tasks.
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
		if s.finished[i].Failing() {
			p.Failures = append(p.Failures, show(&s.finished[i]))
		}
	}
	p.Live = p.Query.Live.apply(p.Query, s.live, show)
	p.Finished = p.Query.Finished.apply(p.Query, s.finished, show)
	p.Live.Capped, p.Finished.Capped = s.moreLive, s.moreFinished
	p.Query.Live.Page, p.Query.Finished.Page = p.Live.Page, p.Finished.Page // at most the last page
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

// span returns the time from since to the end of a task, or to now if it is live.
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
