package tether

import (
	"math"
	"slices"
	"sync"
	"time"
)

// StopStatus is how far the stop of a registry is.
type StopStatus struct {
	Began    time.Time  // when Stopping was closed
	CancelAt time.Time  // when contexts will be canceled, or were; zero if there is no such time
	Canceled bool       // contexts have been canceled
	Steps    []StopStep // those that have begun and not ended, the first to begin first
}

// StopStep is what the stop waits for: PreStop, a server, the drain, or a closer.
type StopStep struct {
	Name     string // "PreStop", `stopping server "public"`, "drain", `closing "database"`
	Began    time.Time
	Deadline time.Time // zero for a Shutdown without a deadline
}

// StopStatus returns how far the stop is, and false if it has not begun. Before the drain
// begins, CancelAt is when [Registry.Run] would cancel contexts if it began now.
func (r *Registry) StopStatus() (s StopStatus, stopping bool) {
	if r.Ready() {
		return StopStatus{}, false
	}
	d := &r.drain
	d.mu.Lock()
	phase, canceledAt := d.phase.Load(), d.canceledAt
	d.mu.Unlock()
	p := &d.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Began, s.Canceled = p.began, phase == canceling
	switch at := d.cancelAt.Load(); {
	case s.Canceled:
		s.CancelAt = canceledAt
	case at != math.MaxInt64:
		s.CancelAt = r.time(at)
	case phase == open && !p.drainEnd.IsZero():
		s.CancelAt = p.drainEnd.Add(-r.lastPart(time.Until(p.drainEnd)))
	}
	for _, step := range p.steps {
		s.Steps = append(s.Steps, *step)
	}
	return s, true
}

// lastPart returns how long before its deadline a drain cancels contexts that has this
// time left.
func (r *Registry) lastPart(left time.Duration) time.Duration {
	return min(r.cfg.CancelBefore, max(0, left)/2)
}

// stopProgress is what StopStatus returns.
type stopProgress struct {
	mu       sync.Mutex
	began    time.Time // guarded by mu, as the others are
	drainEnd time.Time // the deadline of the drain as Run has planned it
	steps    []*StopStep
}

// start records that the stop begins.
func (p *stopProgress) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = time.Now()
}

// plan records the deadline of the drain.
func (p *stopProgress) plan(drainEnd time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drainEnd = drainEnd
}

// begin adds a step, until the returned function is called. deadline is zero if there is
// none.
func (p *stopProgress) begin(name string, deadline time.Time) (end func()) {
	step := &StopStep{name, time.Now(), deadline}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(p.steps, step)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.steps = slices.DeleteFunc(p.steps, func(s *StopStep) bool { return s == step })
	}
}
