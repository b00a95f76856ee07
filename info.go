package tether

import (
	"fmt"
	"runtime"
	"time"
)

// Info describes a task at one instant.
type Info struct {
	ID, Name string
	Pool     string // empty if the task was submitted to the registry
	Parent   string // the ID of the task that submitted it; empty if none did
	State    State
	Loop     bool   // submitted by Registry.Loop
	Func     string // the body's function, or that of Wraps, with its file and line

	// When the task was submitted, started for the first time, and ended; zero if that
	// has not happened. A task that starts at once has one instant for the first two.
	Submitted, Started, Finished time.Time

	Attempt     int       // 1 for the first; 0 before it
	MaxAttempts int       // of Retry; 1 without it; 0 for a loop that is restarted
	LastErr     error     // of the last failed attempt, while another follows or runs
	NextAttempt time.Time // when the first attempt is due if it has a Delay, or the next one, until it starts; zero otherwise

	Progress   Progress
	Unique     string // the key, if the task was submitted with one
	Share      string // the key, if the task was submitted with one
	Urgent     bool
	Labels     map[string]string
	Err        error  // set once State is final
	Stuck      []byte // the stack of its goroutine, if the task was reported as stuck, see [Config]; read-only
	HandedOver bool   // the task never ran, and its HandOver has taken it over
	Awaited    bool   // the outcome was asked for, by Wait, Done, Err or Value, or a Wait is under way
}

// Failing reports whether the outcome needs attention, by the same rule as the log:
// the task failed or panicked, or it was canceled or dropped because its time was up or
// its pool was full. A task that was canceled by the program or by the drain does not
// need attention.
func (i *Info) Failing() bool { return needsAttention(i.State, i.Err) }

// Progress is how far a body is, as it reports by [ReportProgress].
type Progress struct {
	Done, Total int64 // in units of the body's choice; a Total of zero is unknown
	Message     string
}

// Info returns a consistent snapshot of the task.
func (t *Task) Info() Info {
	info := Info{ID: t.ID(), Name: t.kind.name, Pool: t.queue.poolName(), Loop: t.IsLoop(), Func: function(t.pc), MaxAttempts: 1}
	if t.opts().retry != nil {
		t.queue.workers.Lock() // or the task could go from one attempt to the next meanwhile
		defer t.queue.workers.Unlock()
	}
	word := t.load() // before extra: an outcome is there before the word says so
	x := t.extra.Load()
	if x != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
	}
	info.State = State(word & stateMask)
	info.Awaited = t.isAwaited()
	info.Submitted, info.Started, info.Finished = t.times(word)
	info.Attempt = t.attempt(word)
	if x == nil {
		return info
	}
	if x.progress != nil {
		info.Progress = *x.progress
	}
	if x.stuck != nil {
		info.Stuck = *x.stuck
	}
	if info.State.Final() {
		info.Err, info.HandedOver = x.err, x.handedOver
	}
	if x.parent != nil {
		info.Parent = x.parent.id(x.parentNum)
	}
	if o := x.options; o != nil {
		info.Labels = o.labelMap()
		if o.retry != nil {
			info.addRetry(o.retry, word, t.queue.reg)
		}
	}
	start := t.startOptions()
	info.Unique, info.Share, info.Urgent = start.unique, start.share, start.urgent
	if start.delay > 0 && info.State <= Queued && word&begun == 0 {
		info.NextAttempt = t.queue.reg.time(later(t.submitted, start.delay))
	}
	return info
}

// addRetry adds what the options of a Retry say. The lock of the task's extra must be
// held.
func (i *Info) addRetry(retry *retrying, word uint32, r *Registry) {
	if i.MaxAttempts = retry.attempts; i.Loop && retry.attempts > 1 {
		i.MaxAttempts = 0
	}
	if i.State.Final() {
		return
	}
	i.LastErr = retry.last
	if i.State == Queued && word&begun != 0 {
		i.NextAttempt = r.time(retry.due)
	}
}

func function(pc uintptr) string {
	f := runtime.FuncForPC(pc)
	if f == nil {
		return ""
	}
	file, line := f.FileLine(pc)
	return fmt.Sprintf("%s %s:%d", f.Name(), file, line)
}

// differs reports whether Watch has to yield i after last.
func (i *Info) differs(last Info) bool {
	return i.State != last.State || i.Attempt != last.Attempt || i.Progress != last.Progress || len(i.Stuck) != len(last.Stuck)
}

// beforeEnd returns the Info of a task that the observer is being notified of as ended,
// as it was before that.
func (i Info) beforeEnd(started bool) Info {
	i.State, i.Err, i.Finished, i.HandedOver = Queued, nil, time.Time{}, false
	if started {
		i.State = Running
	}
	return i
}
