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

// valuer is a task of which the value is asked for: a *tether.Task or a *handle.
type valuer interface{ Value() any }

// statusOf returns the status of a task. at is the URL of the status, or a URL relative to it.
func statusOf(t valuer, info tether.Info, at string) *status {
	s := &status{
		ID: info.ID, Name: info.Name, State: info.State.String(), Done: info.State.Final(),
		Submitted: info.Submitted.UTC(), Started: info.Started.UTC(), Finished: info.Finished.UTC(),
		Attempt: info.Attempt,
	}
	if p := info.Progress; p != (tether.Progress{}) {
		s.Progress = &progress{p.Done, p.Total, p.Message}
	}
	if !s.Done {
		return s
	}
	s.ResultURL = at + "/result"
	if info.State != tether.Succeeded {
		p, known := answerTo(info.Err).(*Problem)
		if !known { // the error writes the answer itself, at result_url
			p = newProblem(ProblemFailed, "")
		}
		s.Problem = p.shown()
		return s
	}
	if v := t.Value(); v != nil {
		if _, own := v.(http.Handler); !own {
			s.Result = v
		}
	}
	return s
}

// outcome is the final answer of a task that has ended.
func outcome(t valuer, info tether.Info) http.Handler {
	if info.State != tether.Succeeded {
		return answerTo(info.Err)
	}
	v := t.Value()
	if h, ok := v.(http.Handler); ok && !isNil(v) {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, r, "application/json", http.StatusOK, v)
	})
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
	// value is an [http.Handler], which the URL of the result serves.
	Result any
	// Problem is why a task has not succeeded. It is nil for a task that has, or has not ended.
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

func (custom representer) represent(r *http.Request, t valuer, info tether.Info, at string) *representation {
	s := statusOf(t, info, at)
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
