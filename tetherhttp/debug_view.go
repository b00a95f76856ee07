package tetherhttp

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// The methods and functions in this file are for the template.

const maxDrained = 20 // tasks of a drain with the same outcome that are shown

// Bad returns how many tasks failed or panicked.
func (c debugCounts) Bad() uint64 { return c.Failed + c.Panicked }

// Nothing returns the text in place of the failures if there are none to list.
func (p *debugPage) Nothing() string {
	n := p.Counts.Bad()
	switch {
	case len(p.Failures)+len(p.Panics)+len(p.Stuck) > 0:
		return ""
	case n == 0:
		return "Nothing has failed, and nothing is stuck."
	case len(p.Refusals) > 0:
		return "Nothing is stuck, and what failed was refused."
	case p.Finished.Capped:
		return "None of the last " + grouped(p.Finished.Total) + " finished tasks failed."
	case n == 1:
		return "The one failure is no longer retained."
	}
	return "None of the " + grouped(n) + " failures is still retained."
}

// NoneEnded says why the list of finished tasks is empty.
func (p *debugPage) NoneEnded() string {
	c := p.Counts
	switch n := c.Succeeded + c.Bad() + c.Canceled + c.Dropped; n {
	case 0:
		return "No task has ended yet."
	case 1:
		return "The one finished task is no longer retained."
	default:
		return "None of the " + grouped(n) + " finished tasks is still retained."
	}
}

// Since returns when the plots begin, empty if they are full.
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
	return cancelForm{t.ID, t.Name, p.Query.Do(DebugCancel)}
}

// Until is the last time of submission of the tasks that are on the page.
func (p *debugPage) Until() string { return p.Time.Format(time.RFC3339Nano) }

// Weighs reports whether any pool has a capacity.
func (p *debugPage) Weighs() bool {
	return slices.ContainsFunc(p.Pools, func(pool debugPool) bool { return pool.Capacity > 0 })
}

// Link returns the link of a label, empty if it has none.
func (p *debugPage) Link(key, value string) string {
	link, ok := p.links[key]
	if !ok {
		return ""
	}
	return strings.ReplaceAll(link, "{value}", strings.ReplaceAll(url.QueryEscape(value), "+", "%20"))
}

// Idle reports whether nothing happened in the time of the plots.
func (p *debugPage) Idle() bool {
	return !slices.ContainsFunc(p.History.Bars, func(b bar) bool { return b.Submitted+b.Succeeded+b.Failed+b.Canceled > 0 })
}

// groupView is a group of failures on the page.
type groupView struct {
	*failureGroup
	Now          time.Time
	Chip, Detail string
}

// Grouped returns a group for the template.
func (p *debugPage) Grouped(g *failureGroup) groupView {
	v := groupView{g, p.Time, g.State, p.Query.Detail(g.Task.ID)}
	if g.Task.Refused {
		v.Chip = "refused"
	}
	return v
}

// Uptime returns for how many seconds the process runs.
func (p *debugPage) Uptime() float64 { return max(0, p.Time.Sub(p.Process.Started).Seconds()) }

// Known returns for how many seconds the finished tasks are known.
func (p *debugPage) Known() float64 { return p.Time.Sub(p.Names.Since).Seconds() }

// Waits returns what a task that has not started, or waits for another attempt, waits for;
// empty if that is a worker alone.
func (t *debugTask) Waits() string {
	text := ""
	if t.Attempts > 0 && t.Finished.IsZero() && t.Attempt > 0 {
		text = "attempt " + grouped(t.Attempt) + " of " + grouped(t.Attempts)
	}
	if t.nextIn > 0 {
		if text != "" {
			text += " "
		}
		text += "in " + duration(t.nextIn)
	}
	return text
}

// NextIn returns the seconds until the next attempt is due, 0 if it is.
func (t *debugTask) NextIn() float64 { return t.nextIn }

// Runs reports whether the task's body runs or has run to its end: a task that is queued
// again does not.
func (t *debugTask) Runs() bool {
	return !t.Started.IsZero() && t.State != tether.Queued.String()
}

// pager holds the links to the previous and the next page of a list.
type pager struct {
	Label, Previous, Next string
	Page, Pages           int
}

// Pager returns the pager of a list.
func (p *debugPage) Pager(prefix string, l *debugList) pager {
	t := pager{Label: "Pages of the live tasks", Page: l.Page, Pages: l.Pages}
	if prefix != "" {
		t.Label = "Pages of the finished tasks"
	}
	if l.Page > 1 {
		t.Previous = p.Query.PageLink(prefix, l.Page-1)
	}
	if l.Page < l.Pages {
		t.Next = p.Query.PageLink(prefix, l.Page+1)
	}
	return t
}

// drained are the tasks of a drain that had the same outcome.
type drained struct {
	What         string
	Tasks, Shown []*debugTask
	More         int
}

// Drained returns tasks of a drain, of which the page shows a few.
func (*debugPage) Drained(what string, tasks []*debugTask) drained {
	shown := tasks[:min(len(tasks), maxDrained)]
	return drained{what, tasks, shown, len(tasks) - len(shown)}
}

// shareText formats a share in percent.
func shareText(percent float64) string {
	switch {
	case percent == 0:
		return "0 %"
	case percent < 1:
		return "< 1 %"
	case percent > 99 && percent < 100:
		return "> 99 %"
	}
	return fmt.Sprintf("%.0f %%", percent)
}

// rate formats a number of tasks per minute.
func rate(perMinute float64) string {
	switch {
	case perMinute == 0:
		return "0"
	case perMinute < 0.1:
		return "< 0.1"
	case perMinute < 10:
		return fmt.Sprintf("%.1f", perMinute)
	}
	return grouped(int64(perMinute + .5))
}

// grouped formats a number with commas between groups of three digits.
func grouped(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// duration formats seconds in at most two units.
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

// clock formats a time of day, with the date if it is not today.
func clock(t, now time.Time) string {
	if now.Sub(t) < 24*time.Hour && t.Day() == now.Day() {
		return t.Format("15:04:05")
	}
	return t.Format("2 Jan 15:04:05")
}

// percent returns a progress in percent, -1 if its total is unknown.
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
