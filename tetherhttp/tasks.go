package tetherhttp

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// TasksConfig configures [Tasks]. The zero value is ready to use.
type TasksConfig struct {
	// Authorize, if non-nil, reports whether the sender of a request may see a task, or
	// cancel it if the method is DELETE. A request that it refuses is answered 404, as if
	// there were no such task. If nil, every client that knows a task's ID may see it.
	Authorize func(r *http.Request, t *tether.Task) bool
	// AllowCancel allows DELETE, which cancels a live task with [ErrCanceled] and forgets
	// one that has ended. Otherwise DELETE is answered 405.
	AllowCancel bool
	// MaxWait is the longest wait that a client can ask for with Prefer: wait=N. Zero means
	// 30 s. If it is negative, requests do not wait.
	MaxWait time.Duration
	// StatusURL, if non-nil, returns the URL of a task's status, for the URLs that a status
	// contains: usually the same function as [AsyncConfig].StatusURL. If nil, these URLs are
	// relative to the URL of the status, which is right behind any proxy.
	StatusURL func(r *http.Request, id string) string
	// PollAfter, if non-nil, returns when a client should ask again for a task that has not
	// ended. It is sent as Retry-After. If nil, it is a tenth of the task's age, at least 1 s
	// and at most 1 min.
	PollAfter func(tether.Info) time.Duration
	// Represent, if non-nil, returns what is sent of a task, encoded as JSON, in place of the
	// status that [Tasks] describes: for APIs with their own form of an operation, such as
	// AIP-151 or Azure's (the examples have both). The ETag is made from it, so it should
	// return the same for the same task in the same state. It may set header fields of the
	// response, except in a stream of events. If its value cannot be encoded, it is called
	// again with a Problem in place of the Result. Its panic is that of the handler.
	Represent func(h http.Header, r *http.Request, s Status) any
}

// Tasks returns a handler that serves the status of the tasks of reg, for the Location that
// [Async] gives. Mount it at "/tasks/", or where [AsyncConfig].StatusAt says. The last part of
// a path is the [tether.Task.ID]:
//
//	GET /tasks/{id}          200 with the status as JSON, and Retry-After until the task is done
//	  Prefer: wait=N         wait for the end, N seconds or MaxWait at most
//	  If-None-Match          304 if nothing has changed; with wait=N, wait for any change
//	  Accept: text/event-stream   each change as an event, the last one "done"
//	GET /tasks/{id}/result   the final answer; 409 with Retry-After before the end
//	DELETE /tasks/{id}       cancel a live task (202), or forget one that has ended (204)
//
// An ID that reg did not make is answered 404, one of a task that reg has forgotten 410.
//
// The status is
//
//	{"id", "name", "state", "done", "submitted", "started", "finished", "attempt",
//	 "progress": {"done", "total", "message"}, "result" or "problem", "result_url"}
//
// with the names of [tether.State] and times as in RFC 3339. Fields that do not apply are
// omitted, and result_url is relative to the URL of the status unless StatusURL is set. A
// result that is an [http.Handler] is not part of the status; its result_url serves it. An
// error is shown if it is a [*Problem]; of other errors only the kind is shown, see
// [ProblemOf]. [TasksConfig].Represent replaces this form by another one.
//
// The data of an event is the status. A slow reader misses intermediate states and delays
// nothing; in the long run there are at most ten events a second. After the end, EventSource's
// next request is answered 204, which makes it stop. Waits and streams end when the stop
// begins, see [tether.Registry.Stopping], or the server shuts down.
//
// EventSource gives up for good when it is answered an error or refused a connection, as it may
// be while the service restarts: a page should then poll the status, whose Retry-After says how
// often. For scripts of other origins, a CORS middleware must expose the headers Location,
// Retry-After, Link, ETag and Preference-Applied.
//
// The ID is a capability: a client that knows it may see the task, unless
// [TasksConfig].Authorize refuses. The registry logs it with failures.
//
// Tasks panics if reg is nil, which is a programming error.
func Tasks(reg *tether.Registry, cfg ...TasksConfig) http.Handler {
	if reg == nil {
		panic("tetherhttp: Tasks needs a registry")
	}
	c := optional("Tasks", cfg)
	h := &tasks{
		reg: reg, maxWait: orDefault(c.MaxWait, 30*time.Second), authorize: c.Authorize, cancel: c.AllowCancel,
		pollAfter: c.PollAfter, statusURL: c.StatusURL, representer: c.Represent, servers: make(map[*http.Server]context.Context),
	}
	if h.statusURL == nil {
		h.statusURL = func(_ *http.Request, id string) string { return id }
	}
	if h.pollAfter == nil {
		h.pollAfter = pollAfter
	}
	return h
}

// tasks is the handler that Tasks returns.
type tasks struct {
	reg       *tether.Registry
	maxWait   time.Duration
	authorize func(*http.Request, *tether.Task) bool
	cancel    bool
	pollAfter func(tether.Info) time.Duration
	statusURL func(r *http.Request, id string) string
	representer

	mu      sync.Mutex
	servers map[*http.Server]context.Context // done when the server shuts down; guarded by mu
}

func (h *tasks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if last, ok := trailingSlash(r.URL.Path); ok {
		redirect(w, http.StatusPermanentRedirect, "../"+last, r.URL.RawQuery)
		return
	}
	id, result := taskID(r.URL.Path)
	t, err := h.reg.Find(id)
	switch {
	case errors.Is(err, tether.ErrExpired):
		newProblem(ProblemTaskForgotten, "this task has ended and is no longer retained").ServeHTTP(w, r)
		return
	case err != nil, h.authorize != nil && !h.authorize(r, t):
		newProblem(ProblemTaskUnknown, "there is no such task").ServeHTTP(w, r)
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
		newProblem(ProblemMethod, "").ServeHTTP(w, r)
	}
}

// trailingSlash reports whether a path is that of a task or its result with a slash behind it,
// and returns the last part without the slash. Relative URLs do not work below it.
func trailingSlash(path string) (last string, ok bool) {
	path, ok = strings.CutSuffix(path, "/")
	id, result := taskID(path)
	if result {
		return "result", ok && isID(id)
	}
	return id, ok && isID(id)
}

// isID reports whether s looks like the ID of a task.
func isID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(s) == lenID
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
	now := h.represent(r, t, current(t))
	if wait > 0 && !now.done && (len(have) == 0 || now.among(have)) {
		resume := suspendWriteTimeout(w, r)
		serving, cancel := h.whileServing(r)
		defer cancel()
		now = h.await(serving, r, t, wait, have)
		resume()
		if serving.Err() != nil {
			granted = "" // the wait was cut short
		}
	}
	applied(w, granted, false)
	if !now.done {
		w.Header().Set("Retry-After", seconds(h.pollAfter(now.info)))
	}
	now.linkResult(w.Header(), h.statusURL(r, t.ID()))
	w.Header().Set("ETag", now.tag)
	if now.among(have) {
		now.write(w, http.StatusNotModified)
		return
	}
	now.write(w, http.StatusOK)
}

// await waits for a task's end, or for any change if the client sent the tags it has.
func (h *tasks) await(ctx context.Context, r *http.Request, t *tether.Task, wait time.Duration, have []string) *representation {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var info tether.Info
	for info = range watchPaced(ctx, t) {
		if len(have) > 0 && !h.represent(r, t, info).among(have) {
			break
		}
	}
	return h.represent(r, t, info)
}

// represent returns the representation of a task.
func (h *tasks) represent(r *http.Request, t *tether.Task, info tether.Info) *representation {
	return h.representer.represent(r, t, info, h.statusURL(r, t.ID()))
}

func (h *tasks) serveResult(w http.ResponseWriter, r *http.Request, t *tether.Task) {
	info := current(t)
	if !info.State.Final() {
		newProblem(ProblemTaskUnfinished, "the task has not ended yet").after(h.pollAfter(info)).ServeHTTP(w, r)
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
		now := h.represent(r, t, current(t))
		if !now.done {
			w.Header().Set("Retry-After", seconds(h.pollAfter(now.info)))
		}
		now.write(w, http.StatusAccepted)
		return
	}
	client := clientOf(w, r)
	defer client.stop()
	for range t.Watch(client) { // an observer may not have returned yet
	}
	t.Forget()
	w.WriteHeader(http.StatusNoContent)
}

// current returns a task's Info. Its State is final once the outcome is visible.
func current(t *tether.Task) (info tether.Info) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for info = range t.Watch(ctx) {
	}
	return info
}
