package tetherhttp

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

const maxNames = 100 // shown

// debugNames is the table by task name.
type debugNames struct {
	Since   time.Time    `json:"since"` // the finished tasks are complete from this time on
	Omitted int          `json:"omitted,omitempty"`
	Rows    []*debugName `json:"rows"`
}

// debugName is the tasks of one name. Those that have ended are those since a time from
// which on all of them are known.
type debugName struct {
	Name      string     `json:"name"`
	Held      int        `json:"held"`
	Queued    int        `json:"queued"`
	Running   int        `json:"running"`
	Oldest    float64    `json:"oldest_queued_seconds,omitzero"`
	Ended     int        `json:"ended"`
	Failed    int        `json:"failed"` // of those; refusals do not count
	PerMinute float64    `json:"ended_per_minute"`
	Wait      *quantiles `json:"wait_seconds,omitempty"` // from submission to start, of those that started
	Run       *quantiles `json:"run_seconds,omitempty"`  // from start to end
	waits     []time.Duration
	runs      []time.Duration
}

// quantiles are of durations, in seconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
}

// quantilesOf returns quantiles by the nearest rank, nil of nothing.
func quantilesOf(all []time.Duration) *quantiles {
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	at := func(percent int) float64 { return all[(len(all)*percent+99)/100-1].Seconds() }
	return &quantiles{at(50), at(95)}
}

// namesOf returns the table of a snapshot: at most maxNames rows, those with the most tasks,
// in alphabetical order.
func namesOf(s *snapshot) debugNames {
	byName := make(map[string]*debugName)
	row := func(name string) *debugName {
		n := byName[name]
		if n == nil {
			n = &debugName{Name: name}
			byName[name] = n
		}
		return n
	}
	for i := range s.live {
		info := &s.live[i]
		n := row(info.Name)
		switch info.State {
		case tether.Held:
			n.Held++
		case tether.Queued:
			n.Queued++
			n.Oldest = max(n.Oldest, queuedFor(info, s.time).Seconds())
		default:
			n.Running++
		}
	}
	for i := range s.finished {
		info := &s.finished[i]
		if info.Finished.Before(s.since) {
			continue
		}
		n := row(info.Name)
		n.Ended++
		if failing(info) && !refused(info) {
			n.Failed++
		}
		if !info.Started.IsZero() {
			n.waits = append(n.waits, info.Started.Sub(info.Submitted))
			n.runs = append(n.runs, info.Finished.Sub(info.Started))
		}
	}
	names := debugNames{Since: s.since.UTC(), Rows: []*debugName{}}
	for _, n := range byName {
		if known := s.time.Sub(s.since); known > 0 {
			n.PerMinute = float64(n.Ended) / max(known.Minutes(), 1.0/60)
		}
		n.Wait, n.Run = quantilesOf(n.waits), quantilesOf(n.runs)
		n.waits, n.runs = nil, nil
		names.Rows = append(names.Rows, n)
	}
	slices.SortFunc(names.Rows, func(a, b *debugName) int {
		return cmp.Or(cmp.Compare(b.live()+b.Ended, a.live()+a.Ended), strings.Compare(a.Name, b.Name))
	})
	if len(names.Rows) > maxNames {
		names.Omitted = len(names.Rows) - maxNames
		names.Rows = names.Rows[:maxNames]
	}
	slices.SortFunc(names.Rows, func(a, b *debugName) int { return strings.Compare(a.Name, b.Name) })
	return names
}

func (n *debugName) live() int { return n.Held + n.Queued + n.Running }

// Live returns how many tasks of the name are live.
func (n *debugName) Live() int { return n.live() }

// Share returns the share of failures in percent.
func (n *debugName) Share() float64 {
	if n.Ended == 0 {
		return 0
	}
	return 100 * float64(n.Failed) / float64(n.Ended)
}

// queuedFor returns for how long a queued task has waited for a worker. It is 0 while the task
// waits for a delay or a backoff.
func queuedFor(info *tether.Info, now time.Time) time.Duration {
	since := info.Submitted
	if info.NextAttempt.After(since) {
		since = info.NextAttempt
	}
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since))
}
