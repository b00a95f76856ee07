package tetherhttp

import (
	"bytes"
	"encoding/hex"
	"fmt"
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

// representation is an encoded status.
type representation struct {
	body []byte
	tag  string // changes whenever the body does
	done bool
	info tether.Info
}

func represent(r *http.Request, t valuer, info tether.Info, at string) *representation {
	s := statusOf(t, info, at)
	body, err := encode(s)
	if err != nil {
		logf(r, "tetherhttp: the result of a task %q cannot be encoded: %v", info.Name, err)
		s.Result, s.Problem = nil, newProblem(ProblemFailed, "").shown()
		body, _ = encode(s) // cannot fail without a result
	}
	sum := hashOf(string(body))
	return &representation{body, `"` + hex.EncodeToString(sum[:12]) + `"`, s.Done, info}
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
