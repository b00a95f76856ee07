package tetherhttp

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// TasksOption is a setting of [Tasks].
type TasksOption interface{ applyTasks(*tasks) }

type tasksOption func(*tasks)

func (f tasksOption) applyTasks(h *tasks)   { f(h) }
func (d MaxWaitOption) applyTasks(h *tasks) { h.maxWait = time.Duration(d) }

// Authorize has ok decide who sees a task, and who cancels it (r.Method is DELETE
// then). What it refuses is answered 404, as if there were no such task.
func Authorize(ok func(r *http.Request, t *tether.Task) bool) TasksOption {
	return tasksOption(func(h *tasks) { h.authorize = ok })
}

// Tasks shows the tasks of reg, for the Location that [Async] gives; mount it at
// "/tasks/", or where [StatusAt] says. The last part of a path is the [tether.Task.ID]:
//
//	GET /tasks/{id}          200 and the status as JSON; Retry-After until it is done
//	  Prefer: wait=N         waits for the end, N seconds at most, see MaxWait
//	  If-None-Match          304 if nothing has changed; with wait=N it waits for any change
//	  Accept: text/event-stream   each change as an event, and "done" as the last
//	GET /tasks/{id}/result   the final answer; 409 with Retry-After before
//	DELETE /tasks/{id}       a live task is cancelled (202), one that has ended is forgotten (204)
//
// An id that reg has not made, whatever it looks like, is 404; one of a task that reg
// has forgotten is 410.
//
// The status is
//
//	{"id", "name", "state", "done", "submitted", "started", "finished", "attempt",
//	 "progress": {"done", "total", "message"}, "result" or "problem", "result_url"}
//
// with the names of [tether.State], times as RFC 3339 has them, and what does not apply
// left out; result_url is relative to the status's own. A result that is an [http.Handler] is not
// shown in the status, but at its result_url. A task's error is shown only if it is a
// [*Problem]; of others, the kind.
//
// An event's data is the status. A reader that is slow misses states in between, and
// holds nothing up; in the long run there are ten a second at most. After the end,
// EventSource's next attempt is answered 204, which ends it. Waits and streams end when
// the server shuts down.
//
// The id is a key: whoever has it may see the task, unless [Authorize] says otherwise.
// It stands in the registry's log beside failures.
func Tasks(reg *tether.Registry, opts ...TasksOption) http.Handler {
	if reg == nil {
		panic("tetherhttp: Tasks needs a registry")
	}
	h := &tasks{reg: reg, maxWait: 30 * time.Second, servers: make(map[*http.Server]context.Context)}
	for _, opt := range opts {
		if opt != nil {
			opt.applyTasks(h)
		}
	}
	return h
}

// tasks is the handler that Tasks returns.
type tasks struct {
	reg       *tether.Registry
	maxWait   time.Duration
	authorize func(*http.Request, *tether.Task) bool
	cancel    bool

	mu      sync.Mutex
	servers map[*http.Server]context.Context // end when they shut down; guarded by mu
}

func (h *tasks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	id, result := taskID(r.URL.Path)
	t, err := h.reg.Find(id)
	switch {
	case errors.Is(err, tether.ErrExpired):
		(&Problem{Status: http.StatusGone, Detail: "this task has ended and is forgotten"}).ServeHTTP(w, r)
		return
	case err != nil, h.authorize != nil && !h.authorize(r, t):
		(&Problem{Status: http.StatusNotFound, Detail: "there is no such task"}).ServeHTTP(w, r)
		return
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case get && result:
		h.serveResult(w, r, t)
	case get && prefersEvents(r.Header):
		h.serveEvents(w, r, t)
	case get:
		h.serveStatus(w, r, t)
	case r.Method == http.MethodDelete && !result && h.cancel:
		h.serveDelete(w, r, t)
	default:
		w.Header().Set("Allow", "GET, HEAD")
		if h.cancel && !result {
			w.Header().Set("Allow", "GET, HEAD, DELETE")
		}
		(&Problem{Status: http.StatusMethodNotAllowed}).ServeHTTP(w, r)
	}
}

// taskID returns the id in a path: its last part, or the one before "result".
func taskID(path string) (id string, result bool) {
	path, result = strings.CutSuffix(path, "/result")
	return path[strings.LastIndexByte(path, '/')+1:], result
}

func (h *tasks) serveStatus(w http.ResponseWriter, r *http.Request, t *tether.Task) {
	w.Header().Add("Vary", "Accept, Prefer")
	wait, granted := parsePrefer(r.Header).waitUpTo(h.maxWait)
	have := r.Header.Values("If-None-Match")
	now := represent(r, t, current(t), "")
	if wait > 0 && !now.done && (len(have) == 0 || now.among(have)) {
		limit := putOff(w, r)
		serving, cancel := h.whileServing(r)
		defer cancel()
		now = h.await(serving, r, t, wait, have)
		limit()
		if serving.Err() != nil {
			granted = "" // cut short
		}
	}
	applied(w, granted, false)
	if !now.done {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("ETag", now.tag)
	if now.among(have) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBody(w, "application/json", http.StatusOK, now.body)
}

// await waits for a task's end, or, with the tags that the client has, for any change.
func (h *tasks) await(ctx context.Context, r *http.Request, t *tether.Task, wait time.Duration, have []string) *representation {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var info tether.Info
	for info = range watch(ctx, t) {
		if len(have) > 0 && !represent(r, t, info, "").among(have) {
			break
		}
	}
	return represent(r, t, info, "")
}

func (h *tasks) serveResult(w http.ResponseWriter, r *http.Request, t *tether.Task) {
	info := current(t)
	if !info.State.Final() {
		(&Problem{Status: http.StatusConflict, Detail: "the task has not ended yet", RetryAfter: time.Second}).ServeHTTP(w, r)
		return
	}
	answer := outcome(t, info)
	if rec, ok := answer.(*recording); ok {
		answer = rec.unstored()
	}
	answer.ServeHTTP(w, r)
}

func (h *tasks) serveDelete(w http.ResponseWriter, r *http.Request, t *tether.Task) {
	if t.Cancel(ErrCanceled) {
		writeBody(w, "application/json", http.StatusAccepted, represent(r, t, current(t), "").body)
		return
	}
	client := clientOf(w, r)
	defer client.stop()
	for range t.Watch(client) { // the observer may be busy with its end still
	}
	t.Forget()
	w.WriteHeader(http.StatusNoContent)
}

// current returns what a task is now. It is final when the outcome may be seen.
func current(t *tether.Task) (info tether.Info) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for info = range t.Watch(ctx) {
	}
	return info
}

const (
	heartbeat = 15 * time.Second       // between signs of life in a stream, for proxies that close silent ones
	pace      = 100 * time.Millisecond // between events, in the long run
	patience  = 30 * time.Second       // with a reader that does not read
)

// serveEvents is the stream of a task's states (server-sent events, HTML Living
// Standard 9.2). An event's id is the status's tag.
func (h *tasks) serveEvents(w http.ResponseWriter, r *http.Request, t *tether.Task) {
	w.Header().Add("Vary", "Accept, Prefer")
	last := r.Header.Get("Last-Event-ID")
	if info := current(t); info.State.Final() && represent(r, t, info, "").tag == last {
		w.WriteHeader(http.StatusNoContent) // it has seen the end: EventSource stops
		return
	}
	ctx, cancel := h.whileServing(r)
	defer cancel()
	control := http.NewResponseController(w)
	send := func(text string) bool {
		// Not supported by all that can stand around w: a limit, and no more.
		_ = control.SetWriteDeadline(time.Now().Add(patience))
		_, err := io.WriteString(w, text)
		return err == nil && control.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	first := "retry: 1000\n\n"
	for goOn := true; goOn; goOn = goOn && ctx.Err() == nil && send(":\n\n") {
		until, cancel := context.WithTimeout(ctx, heartbeat)
		for info := range watch(until, t) {
			now := represent(r, t, info, "")
			if now.tag == last && first == "" {
				continue
			}
			last = now.tag
			// A writer that cannot flush sends this one when the handler returns.
			if goOn = send(first+now.event()) && !now.done; !goOn {
				break
			}
			first = ""
		}
		cancel()
	}
}

// whileServing returns the request's context, cancelled when its server shuts down,
// which would else wait for the request.
func (h *tasks) whileServing(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	srv := serverOf(r)
	if srv == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(h.shutdownOf(srv), cancel)
	if !h.reg.Ready() { // it may be shutting down since before anybody asked for that
		cancel()
	}
	return ctx, func() { stop(); cancel() }
}

// shutdownOf returns a context that ends when a server shuts down.
func (h *tasks) shutdownOf(srv *http.Server) context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := h.servers[srv]
	if down == nil {
		var shutDown context.CancelFunc
		down, shutDown = context.WithCancel(context.Background())
		srv.RegisterOnShutdown(shutDown)
		h.servers[srv] = down
	}
	return down
}

// status is what a client is shown of a task.
type status struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Done      bool      `json:"done"`
	Submitted time.Time `json:"submitted,omitzero"` // not known before the start of a task that starts at once
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

// statusOf returns the status of a task, for a response whose URL has base in front of
// the status's own.
func statusOf(t *tether.Task, info tether.Info, base string) *status {
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
	s.ResultURL = base + info.ID + "/result"
	if info.State != tether.Succeeded {
		p, known := answerTo(info.Err).(*Problem)
		if !known { // it writes itself, at result_url
			p = &Problem{Status: http.StatusInternalServerError}
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
func outcome(t *tether.Task, info tether.Info) http.Handler {
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

// representation is a status as it is sent.
type representation struct {
	body []byte
	tag  string // changes whenever the body does
	done bool
}

func represent(r *http.Request, t *tether.Task, info tether.Info, base string) *representation {
	s := statusOf(t, info, base)
	body, err := encode(s)
	if err != nil {
		logf(r, "tetherhttp: the result of a task %q cannot be encoded: %v", info.Name, err)
		s.Result, s.Problem = nil, (&Problem{Status: http.StatusInternalServerError}).shown()
		body, _ = encode(s) // nothing in it can fail
	}
	sum := hashOf(string(body))
	return &representation{body, `"` + hex.EncodeToString(sum[:12]) + `"`, s.Done}
}

// among reports whether an If-None-Match lists the representation.
func (p *representation) among(lines []string) bool {
	for _, line := range lines {
		// No other tag can have this one in it, quotes and all.
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
