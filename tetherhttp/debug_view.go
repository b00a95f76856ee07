package tetherhttp

import (
	"fmt"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// The methods and functions in this file are for the template.

// Bad returns how many tasks failed or panicked.
func (c debugCounts) Bad() uint64 { return c.Failed + c.Panicked }

// Nothing returns the text in place of the failures if there are none to list.
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
		return "None of the last " + grouped(p.Finished.Total) + " finished tasks failed."
	case n == 1:
		return "The one failure is no longer retained."
	}
	return "None of the " + grouped(n) + " failures is still retained."
}

// Cut returns how many of the listed failures timed out or were dropped from a full queue.
func (p *debugPage) Cut() int {
	n := 0
	for _, t := range p.Failures {
		if t.State == tether.Canceled.String() || t.State == tether.Dropped.String() {
			n++
		}
	}
	return n
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
	return cancelForm{t.ID, t.Name, p.Query.Cancel()}
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
	shown := tasks[:min(len(tasks), maxFailures)]
	return drained{what, tasks, shown, len(tasks) - len(shown)}
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
