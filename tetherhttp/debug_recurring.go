package tetherhttp

import (
	"slices"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// Numbers of rows that are shown.
const (
	maxLoops     = 100
	maxSchedules = 200
	maxShares    = 3 // of a pool
)

// debugSchedule is a schedule on the page.
type debugSchedule struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Pool      string     `json:"pool,omitempty"`
	Timetable string     `json:"timetable"`
	Paused    bool       `json:"paused"`
	Queued    bool       `json:"queued"` // a run waits for the end of the one before it
	Next      time.Time  `json:"next,omitzero"`
	Running   *debugTask `json:"running,omitempty"`
	Last      *debugTask `json:"last,omitempty"`
	Runs      uint64     `json:"runs"`
	Skipped   uint64     `json:"skipped"`
	Missed    uint64     `json:"missed"`
	Refused   uint64     `json:"refused"`
	Error     string     `json:"error,omitempty"`
	nextIn    float64
}

// NextIn returns the seconds until the next run.
func (s *debugSchedule) NextIn() float64 { return s.nextIn }

// schedulesOf returns the schedules, the next to run first and those that do not run last.
func schedulesOf(s *schedule.Scheduler, now time.Time, show func(*tether.Info) *debugTask) (all []*debugSchedule) {
	if s == nil {
		return nil
	}
	task := func(t *tether.Task) *debugTask {
		if t == nil {
			return nil
		}
		info := t.Info()
		return show(&info)
	}
	for sch := range s.All() {
		if len(all) == maxSchedules {
			break
		}
		info := sch.Info()
		d := &debugSchedule{
			ID: info.ID, Name: info.Name, Pool: info.Pool, Timetable: cut(info.Timetable), Paused: info.Paused, Queued: info.Queued,
			Next: info.Next.UTC(), Running: task(info.Running), Last: task(info.Last),
			Runs: info.Runs, Skipped: info.Skipped, Missed: info.Missed, Refused: info.Refused,
			nextIn: max(0, info.Next.Sub(now).Seconds()),
		}
		if info.Err != nil {
			d.Error = shortError(info.Err)
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b *debugSchedule) int {
		switch {
		case a.Next.IsZero() && b.Next.IsZero():
			return 0
		case a.Next.IsZero():
			return 1
		case b.Next.IsZero():
			return -1
		}
		return a.Next.Compare(b.Next)
	})
	return all
}

// Restarts returns how often a loop was started again.
func (t *debugTask) Restarts() int {
	n := t.Attempt - 1
	if !t.Runs() {
		n-- // the next attempt is counted already
	}
	return max(0, n)
}

// debugShare is a share of a pool on the page.
type debugShare struct {
	Share   string `json:"share"`
	Queued  int    `json:"queued"`
	Running int    `json:"running"`
}

// sharesOf returns the shares of a pool that have the most tasks waiting.
func sharesOf(p *tether.Pool) (all []debugShare) {
	for _, s := range p.Shares(maxShares) {
		all = append(all, debugShare{s.Share, s.Queued, s.Running})
	}
	return all
}
