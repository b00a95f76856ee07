package tetherhttp

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

const maxWaited = 8 // names that a stop is shown to wait for

// debugStop is how far a stop is, while it goes on.
type debugStop struct {
	Began    time.Time   `json:"began"`
	CancelAt time.Time   `json:"cancel_at,omitzero"`
	Canceled bool        `json:"canceled"`
	Steps    []debugStep `json:"steps"`
	Waiting  []waited    `json:"waiting_for"`
	now      time.Time
}

type debugStep struct {
	Name     string    `json:"name"`
	Began    time.Time `json:"began"`
	Deadline time.Time `json:"deadline,omitzero"`
}

// waited is how many live tasks there are of a name.
type waited struct {
	Name string `json:"name"`
	Live int    `json:"live"`
}

// stopOf returns how far the stop is, nil if it has not begun or nothing is waited for.
func stopOf(reg *tether.Registry, live []tether.Info, now time.Time) *debugStop {
	status, stopping := reg.StopStatus()
	if !stopping || len(status.Steps)+len(live) == 0 {
		return nil
	}
	s := &debugStop{Began: status.Began.UTC(), CancelAt: status.CancelAt.UTC(), Canceled: status.Canceled, Steps: []debugStep{}, Waiting: []waited{}, now: now}
	for _, step := range status.Steps {
		s.Steps = append(s.Steps, debugStep{step.Name, step.Began.UTC(), step.Deadline.UTC()})
	}
	counts := make(map[string]int)
	for i := range live {
		counts[live[i].Name]++
	}
	for name, n := range counts {
		s.Waiting = append(s.Waiting, waited{name, n})
	}
	slices.SortFunc(s.Waiting, func(a, b waited) int {
		return cmp.Or(cmp.Compare(b.Live, a.Live), strings.Compare(a.Name, b.Name))
	})
	return s
}

// Left returns the seconds until a time, 0 if it has passed.
func (s *debugStop) Left(until time.Time) float64 { return max(0, until.Sub(s.now).Seconds()) }

// Names returns the names to show, and More how many are left out.
func (s *debugStop) Names() []waited { return s.Waiting[:min(len(s.Waiting), maxWaited)] }

// More returns how many names Names leaves out.
func (s *debugStop) More() int { return len(s.Waiting) - len(s.Names()) }

// stackOf returns where a task is now, and nothing if it does not run, or if ctx is done
// first. To take a stack may stop all goroutines of the process, so stacks are taken one at
// a time, and take at most an eleventh of the time.
func (h *debug) stackOf(ctx context.Context, t *tether.Task) string {
	select {
	case h.stacking <- struct{}{}:
	case <-ctx.Done():
		return ""
	}
	defer func() { <-h.stacking }()
	if wait := time.Until(h.nextStack); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ""
		}
	}
	began := time.Now()
	stack := t.Stack()
	h.nextStack = time.Now().Add(10 * time.Since(began))
	return string(stack)
}
