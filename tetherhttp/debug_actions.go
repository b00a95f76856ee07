package tetherhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// DebugAction is what a user of the page of [Debug] is about to do. The fields that do not
// apply are zero.
type DebugAction struct {
	Kind DebugActionKind
	Task *tether.Task // of DebugCancel
	Pool *tether.Pool // of DebugPause, DebugResume and DebugResize
	// Schedule is that of DebugRun, DebugPauseSchedule and DebugResumeSchedule.
	Schedule *schedule.Schedule
	Workers  int    // of DebugResize: the new number; zero means GOMAXPROCS
	Filter   string // of DebugCancelMatching: as in the page's URL, such as "pool=outbound&q=mail"
	Tasks    int    // of DebugCancelMatching: how many live tasks match
}

// DebugActionKind is what an action does. Its value is the last element of the path that it is
// requested by.
type DebugActionKind string

// The kinds of actions. The first two are allowed by [DebugConfig].AllowCancel, the others by
// AllowControl.
const (
	DebugCancel         DebugActionKind = "cancel"
	DebugCancelMatching DebugActionKind = "cancel-matching"
	DebugPause          DebugActionKind = "pause"
	DebugResume         DebugActionKind = "resume"
	DebugResize         DebugActionKind = "resize"
	DebugRun            DebugActionKind = "run"
	DebugPauseSchedule  DebugActionKind = "pause-schedule"
	DebugResumeSchedule DebugActionKind = "resume-schedule"
)

// String describes the action for a log: `resize pool "outbound" to 8 workers`.
func (a DebugAction) String() string {
	switch {
	case a.Task != nil:
		return fmt.Sprintf("%s task %q %s", a.Kind, a.Task.Name(), a.Task.ID())
	case a.Pool != nil && a.Kind == DebugResize:
		return fmt.Sprintf("%s pool %q to %d workers", a.Kind, a.Pool.Name(), a.Workers)
	case a.Pool != nil:
		return fmt.Sprintf("%s pool %q", a.Kind, a.Pool.Name())
	case a.Schedule != nil:
		return fmt.Sprintf("%s %q", a.Kind, a.Schedule.Name())
	case a.Kind == DebugCancelMatching:
		return fmt.Sprintf("cancel %d tasks that match %q", a.Tasks, a.Filter)
	}
	return string(a.Kind)
}

// allows reports whether the configuration allows a kind of action, and whether there is such
// a kind.
func (h *debug) allows(kind DebugActionKind) (allowed, known bool) {
	switch kind {
	case DebugCancel, DebugCancelMatching:
		return h.cfg.AllowCancel, true
	case DebugPause, DebugResume, DebugResize, DebugRun, DebugPauseSchedule, DebugResumeSchedule:
		return h.cfg.AllowControl, true
	}
	return false, false
}

// action is an action that was requested, and what it takes.
type action struct {
	DebugAction
	do func() error
}

// serveAction does what a form of the page, or a program, requests.
func (h *debug) serveAction(w http.ResponseWriter, r *http.Request, kind DebugActionKind) {
	if err := h.origin.Check(r); err != nil {
		newProblem(ProblemCrossSite, err.Error()).ServeHTTP(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	back := parseQuery(r.URL.Query())
	back.Confirm = false
	back.Told = told{}
	a, wrong := h.requested(w, r, kind, &back)
	if wrong == nil && a != nil {
		if wrong = h.audit(r, a.DebugAction); wrong == nil {
			if err := a.do(); err != nil {
				wrong = ProblemOf(err)
			}
			now := time.Now()
			h.acted.Store(&now)
		}
	}
	if wrong != nil {
		wrong.ServeHTTP(w, r)
		return
	}
	redirect(w, http.StatusSeeOther, "./", back.encode())
}

// requested returns the action that a request is for, nil if there is nothing to do. It sets
// what the page tells afterwards.
func (h *debug) requested(w http.ResponseWriter, r *http.Request, kind DebugActionKind, back *query) (*action, *Problem) {
	a := &action{DebugAction: DebugAction{Kind: kind}}
	switch kind {
	case DebugCancel:
		id := r.PostFormValue("task") // not "id": such a field hides the id property of its form
		t, err := h.reg.Find(id)
		switch {
		case err == nil:
			a.Task, a.do = t, func() error { t.Cancel(ErrCanceled); return nil }
		case errors.Is(err, tether.ErrExpired): // such a task has ended already
			a = nil
		default:
			return nil, newProblem(ProblemTaskUnknown, "there is no such task")
		}
		back.Told = told{Asked: id}
		return a, nil
	case DebugCancelMatching:
		return h.cancelMatching(w, r, back)
	case DebugRun, DebugPauseSchedule, DebugResumeSchedule:
		return h.scheduleAction(r, kind, back)
	}
	pool, wrong := h.poolNamed(r.PostFormValue("pool"))
	if wrong != nil {
		return nil, wrong
	}
	a.Pool = pool
	switch kind {
	case DebugPause:
		a.do = func() error { pool.Pause(); return nil }
	case DebugResume:
		a.do = func() error { pool.Resume(); return nil }
	case DebugResize:
		n, err := strconv.Atoi(strings.TrimSpace(r.PostFormValue("workers")))
		if err != nil || n < 0 {
			return nil, newProblem(ProblemActionInvalid, "workers must be a number that is not negative")
		}
		a.Workers, a.do = n, func() error { return pool.Resize(n) }
	}
	back.Told = told{Did: kind, To: pool.Name()}
	return a, nil
}

// scheduleAction is an action on the schedule whose ID is in a request.
func (h *debug) scheduleAction(r *http.Request, kind DebugActionKind, back *query) (*action, *Problem) {
	var sch *schedule.Schedule
	if h.cfg.Schedules != nil {
		sch = h.cfg.Schedules.Find(r.PostFormValue("schedule"))
	}
	if sch == nil {
		return nil, newProblem(ProblemTargetUnknown, "there is no such schedule")
	}
	a := &action{DebugAction: DebugAction{Kind: kind, Schedule: sch}}
	switch kind {
	case DebugPauseSchedule:
		a.do = func() error { sch.Pause(); return nil }
	case DebugResumeSchedule:
		a.do = func() error { sch.Resume(); return nil }
	default:
		a.do = func() error {
			// The run may have to wait for the end of another one, and stays queued then.
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			_, err := sch.Run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	back.Told = told{Did: kind, To: sch.Name()}
	return a, nil
}

// poolNamed returns the pool of a name, which must be the only one.
func (h *debug) poolNamed(name string) (found *tether.Pool, wrong *Problem) {
	for p := range h.reg.Pools() {
		if p.Name() != name {
			continue
		}
		if found != nil {
			return nil, newProblem(ProblemActionInvalid, "several pools have this name")
		}
		found = p
	}
	if found == nil {
		return nil, newProblem(ProblemTargetUnknown, "there is no such pool")
	}
	return found, nil
}

// cancelMatching is the action that cancels the live tasks that match the filter of a
// request's URL and were submitted no later than its field "until", so that it cancels only
// tasks of the kind and time that the user has seen.
func (h *debug) cancelMatching(w http.ResponseWriter, r *http.Request, back *query) (*action, *Problem) {
	if !back.Filtered() {
		return nil, newProblem(ProblemActionInvalid, "a filter is required: q, pool or state")
	}
	until := time.Now()
	if text := r.PostFormValue("until"); text != "" {
		var err error
		if until, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, newProblem(ProblemActionInvalid, "until must be a time as in RFC 3339")
		}
	}
	client := clientOf(w, r)
	s := h.look(client)
	client.stop()
	if s == nil {
		return nil, newProblem(ProblemPageUnavailable, "").after(time.Second)
	}
	text := strings.ToLower(back.Name)
	matches := func(info *tether.Info) bool {
		return !info.State.Final() && !info.Submitted.After(until) && back.wants(info, text)
	}
	var tasks []*tether.Task
	for i := range s.live {
		if !matches(&s.live[i]) {
			continue
		}
		t, err := h.reg.Find(s.live[i].ID)
		if err != nil {
			continue // it has ended
		}
		if info := t.Info(); matches(&info) { // as it is now
			tasks = append(tasks, t)
		}
	}
	back.Live.Page = 1
	back.Told = told{Did: DebugCancelMatching, To: strconv.Itoa(len(tasks))}
	return &action{
		DebugAction{Kind: DebugCancelMatching, Filter: back.filter(), Tasks: len(tasks)},
		func() error {
			for _, t := range tasks {
				t.Cancel(ErrCanceled)
			}
			return nil
		},
	}, nil
}

// filter returns the parameters that select tasks.
func (q query) filter() string {
	v := make(url.Values)
	for key, value := range map[string]string{"q": q.Name, "pool": q.Pool, "state": q.State} {
		if value != "" {
			v.Set(key, value)
		}
	}
	return v.Encode()
}

// audit calls the program's hook, and returns a problem if the action must not be done: the
// hook has returned an error, or panicked.
func (h *debug) audit(r *http.Request, a DebugAction) (wrong *Problem) {
	if h.cfg.Audit == nil {
		return nil
	}
	wrong = newProblem(ProblemActionRefused, "") // unless Audit returns
	defer func() {
		if v := recover(); v != nil {
			logf(r, "tetherhttp: DebugConfig.Audit of %v panicked: %v", a, v)
		}
	}()
	err := h.cfg.Audit(r, a)
	if err == nil {
		return nil
	}
	if p, ok := errorAs[*Problem](err); ok {
		return p
	}
	logf(r, "tetherhttp: DebugConfig.Audit refuses %v: %s", a, errorText(err))
	return wrong
}
