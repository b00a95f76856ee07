package tetherhttp

import (
	"fmt"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// debugPage is what is shown: all of it as a page, and the fields with a tag as JSON. The JSON
// is described in docs/livepage.md.
type debugPage struct {
	Time    time.Time     `json:"time"`
	Process debugProcess  `json:"process"`
	State   string        `json:"state"`
	Counts  debugCounts   `json:"counts"`
	Stop    *debugStop    `json:"stop,omitempty"`
	Own     *debugOwn     `json:"own,omitempty"`
	Pools   []debugPool   `json:"pools,omitempty"`
	History *debugHistory `json:"history,omitempty"`
	Stuck   []*debugTask  `json:"stuck,omitempty"`
	debugFailures
	Names     *debugNames      `json:"names,omitempty"`
	Loops     []*debugTask     `json:"loops,omitempty"` // those that are live
	Schedules []*debugSchedule `json:"schedules,omitempty"`
	Live      *debugList       `json:"live,omitempty"`
	Finished  *debugList       `json:"finished,omitempty"`
	Drain     *debugDrain      `json:"drain,omitempty"`
	Task      *debugTask       `json:"task,omitempty"`

	Query                 query             `json:"-"`
	CanCancel, CanControl bool              `json:"-"`
	Notice                string            `json:"-"`
	links                 map[string]string // of labels
	schedules             *schedule.Scheduler
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
	Loops     int    `json:"loops"` // of those three
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
	Oldest   float64     `json:"oldest_queued_seconds,omitzero"`
	Counts   debugCounts `json:"counts"`

	// Live is how many shares have live tasks, and Shares those with the most tasks waiting.
	Live    int            `json:"live_shares,omitempty"`
	MaxWait float64        `json:"max_wait_seconds,omitzero"`
	Overdue uint64         `json:"overdue,omitempty"`
	Wait    *waitQuantiles `json:"wait_seconds,omitempty"` // of the last one or two minutes
	Shares  []debugShare   `json:"shares,omitempty"`
}

// waitQuantiles are of the waits for a worker, in seconds.
type waitQuantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// waitsOf returns the waits in a pool, nil if they are not measurable or no task has started.
func waitsOf(s tether.PoolStats) *waitQuantiles {
	if s.WaitP99 == 0 {
		return nil
	}
	return &waitQuantiles{s.WaitP50.Seconds(), s.WaitP90.Seconds(), s.WaitP99.Seconds()}
}

// debugOwn is the tasks on no pool.
type debugOwn struct {
	Oldest float64     `json:"oldest_queued_seconds,omitzero"`
	Counts debugCounts `json:"counts"`
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
	Attempts   int               `json:"max_attempts,omitempty"`
	Next       time.Time         `json:"next_attempt,omitzero"`
	LastError  string            `json:"last_error,omitempty"`
	Progress   *progress         `json:"progress,omitempty"`
	Loop       bool              `json:"loop,omitempty"`
	Unique     string            `json:"unique,omitempty"`
	Share      string            `json:"share,omitempty"`
	Urgent     bool              `json:"urgent,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Error      string            `json:"error,omitempty"`
	PanicStack string            `json:"panic_stack,omitempty"`
	StuckStack string            `json:"stuck_stack,omitempty"`
	Stack      string            `json:"stack,omitempty"`
	Refused    bool              `json:"refused,omitempty"`
	nextIn     float64           // seconds until Next
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
		s.Held, s.Queued, s.Running, s.Loops, none,
	}
}

// list sets the fields of the page of all tasks.
func (p *debugPage) list(reg *tether.Registry, s *snapshot) {
	show := func(info *tether.Info) *debugTask { return newDebugTask(reg, info, s.time) }
	p.History, p.Stop = &s.history, s.stop
	p.Own = &debugOwn{s.oldest[""].Seconds(), countsOf(s.own)}
	p.Own.Counts.Stuck = 0
	p.Pools = make([]debugPool, 0, len(s.pools))
	for i, stats := range s.pools {
		pool := debugPool{
			stats.Name, stats.Workers, number(stats.Queue), stats.Inline, stats.Weight, stats.Capacity, stats.Paused, s.oldest[stats.Name].Seconds(), countsOf(stats.Stats),
			stats.Shares, stats.MaxWait.Seconds(), stats.Overdue, waitsOf(stats), s.shares[i],
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
		if s.live[i].Pool == "" {
			p.Own.Counts.Stuck++
		}
		for n := range p.Pools {
			if p.Pools[n].Name == s.live[i].Pool {
				p.Pools[n].Counts.Stuck++
			}
		}
	}
	p.debugFailures = s.failures().with(show)
	names := s.names()
	p.Names = &names
	for _, i := range s.loops[:min(len(s.loops), maxLoops)] {
		p.Loops = append(p.Loops, show(&s.live[i]))
	}
	p.Schedules = schedulesOf(p.schedules, s.time, show)
	p.Live = p.Query.Live.apply(p.Query, s.live, s.liveTexts, show)
	p.Finished = p.Query.Finished.apply(p.Query, s.finished, s.finishedTexts, show)
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
		Attempt: info.Attempt, Unique: info.Unique, Labels: info.Labels, StuckStack: string(info.Stuck), Refused: refused(info),
		Loop: info.Loop, Share: info.Share, Urgent: info.Urgent,
	}
	if info.MaxAttempts > 1 {
		t.Attempts = info.MaxAttempts
	}
	if !info.NextAttempt.IsZero() {
		t.Next, t.nextIn = info.NextAttempt.UTC(), max(0, info.NextAttempt.Sub(now).Seconds())
	}
	if info.LastErr != nil {
		t.LastError = shortError(info.LastErr)
	}
	if p := info.Progress; p != (tether.Progress{}) {
		t.Progress = &progress{p.Done, p.Total, cut(p.Message)}
	}
	if info.Err != nil {
		t.Error = shortError(info.Err)
		if panicked, ok := errorAs[*tether.PanicError](info.Err); ok {
			t.PanicStack = string(panicked.Stack)
		}
	}
	if parent, err := reg.Find(info.Parent); err == nil {
		t.ParentName = parent.Name()
	}
	return t
}

// shortError returns the text of an error, without the stack of a panic.
func shortError(err error) string {
	if panicked, ok := err.(*tether.PanicError); ok && panicked != nil {
		return cut("panic: " + panicText(panicked.Value))
	}
	return cut(errorText(err))
}

// panicText is fmt.Sprint, or says that a method of the value panicked.
func panicText(v any) string {
	text, wrong := guarded(func() string { return fmt.Sprint(v) })
	return text + wrong
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
