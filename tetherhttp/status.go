package tetherhttp

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// status is a task as a client sees it.
type status struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Done      bool      `json:"done"`
	Submitted time.Time `json:"submitted,omitzero"` // unknown until the start of a task that starts at once
	Started   time.Time `json:"started,omitzero"`
	Finished  time.Time `json:"finished,omitzero"`
	Attempt   int       `json:"attempt,omitempty"`
	Next      time.Time `json:"next_attempt,omitzero"` // of a job
	Last      *Problem  `json:"last_problem,omitempty"`
	Progress  *progress `json:"progress,omitempty"`
	Result    any       `json:"result,omitempty"`
	Problem   *Problem  `json:"problem,omitempty"`
	ResultURL string    `json:"result_url,omitempty"`
}

type progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total,omitempty"`
	Message string `json:"message,omitempty"`
}

// status returns what a client sees. at is the URL of the status, or a URL relative to it.
func (s *taskView) status(at string) *status {
	info := &s.info
	shown := &status{
		ID: info.ID, Name: info.Name, State: s.state(), Done: s.done(),
		Submitted: info.Submitted.UTC(), Started: info.Started.UTC(), Finished: info.Finished.UTC(),
		Attempt: info.Attempt,
	}
	if p := info.Progress; p != (tether.Progress{}) {
		shown.Progress = &progress{p.Done, p.Total, p.Message}
	}
	if s.job && !shown.Done {
		shown.Next = info.NextAttempt.UTC()
		if s.last != nil {
			shown.Last = s.last.shown()
		}
	}
	if !shown.Done {
		return shown
	}
	shown.ResultURL, shown.Result = at+"/result", s.result
	if s.problem != nil {
		shown.Problem = s.problem.shown()
	}
	return shown
}

// A Status is a task as it is shown to a client, for [AsyncConfig].Represent and
// [TasksConfig].Represent.
type Status struct {
	// Info is the task. Its errors are for the program: Problem is what a client may be told.
	Info tether.Info
	// URL is that of the status. It is relative in [Tasks] unless [TasksConfig].StatusURL is
	// set. The URL of the result is URL with "/result" behind it.
	URL string
	// Result is the value of a task that has succeeded. It is nil if there is none, or if the
	// value is an [http.Handler], which the URL of the result serves. With a [Store] it is the
	// value's JSON, a [json.RawMessage].
	Result any
	// Problem is why a task has not succeeded, or why there is no result. It is nil for a task
	// that has succeeded, or has not ended. A task whose replica is gone, see [Store], is Failed
	// with a Problem of the type [ProblemTaskLost].
	Problem *Problem
}

// representer makes representations in the form that the program has chosen.
type representer func(h http.Header, r *http.Request, s Status) any // nil means the default

// representation is an encoded status.
type representation struct {
	body   []byte
	tag    string // changes whenever the body does
	done   bool
	info   tether.Info
	header http.Header // what the program adds to the response; nil if nothing
}

func (custom representer) represent(r *http.Request, now *taskView, at string) *representation {
	s, info := now.status(at), now.info
	p := &representation{done: s.Done, info: info}
	form := func() any { return s }
	if custom != nil {
		form = func() any {
			p.header = make(http.Header)
			return custom(p.header, r, Status{Info: info, URL: at, Result: s.Result, Problem: s.Problem})
		}
	}
	var err error
	if p.body, err = encode(form()); err != nil {
		logf(r, "tetherhttp: the status of a task %q cannot be encoded: %v", info.Name, err)
		s.Result, s.Problem = nil, newProblem(ProblemFailed, "").shown() // most likely it is the result
		if p.body, err = encode(form()); err != nil {
			p.body, _ = encode(s) // cannot fail without a result
		}
	}
	sum := hashOf(string(p.body))
	p.tag = `"` + hex.EncodeToString(sum[:12]) + `"`
	return p
}

// write writes the representation as a response.
func (p *representation) write(w http.ResponseWriter, status int) {
	maps.Copy(w.Header(), p.header)
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	writeBody(w, cmp.Or(p.header.Get("Content-Type"), "application/json"), status, p.body)
}

// among reports whether an If-None-Match lists the representation.
func (p *representation) among(lines []string) bool {
	for _, line := range lines {
		// With its quotes the tag cannot be part of another one.
		if strings.Contains(line, p.tag) || strings.Trim(line, " \t") == "*" {
			return true
		}
	}
	return false
}

func (p *representation) event() string {
	name := "status"
	if p.done {
		name = "done"
	}
	return fmt.Sprintf("event: %s\nid: %s\ndata: %s\n\n", name, p.tag, bytes.TrimSuffix(p.body, []byte("\n")))
}

// pollAfter returns when a client should ask for a task again: a tenth of its age, so that a
// long task is not asked for all the time, but at least 1 s and at most 1 min.
func pollAfter(info tether.Info) time.Duration {
	since := info.Submitted
	if since.IsZero() {
		since = info.Started
	}
	if since.IsZero() {
		return time.Second
	}
	age := time.Since(since)
	return min(max((age/10).Truncate(time.Second), time.Second), time.Minute)
}

// linkResult sets the Link header of a response with a status, if the task has ended.
func (p *representation) linkResult(h http.Header, at string) {
	if p.done {
		h.Add("Link", "<"+at+`/result>; rel="result"`)
	}
}
