package tetherhttp

import (
	"context"
	"errors"
	"iter"
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
	Authorize func(r *http.Request, t tether.Info) bool
	// Store, if non-nil, makes the handler answer for the tasks of all replicas that were stored
	// there: set the one of [AsyncConfig].Store. Other tasks of reg are served as without it.
	Store *Store
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
		reg: reg, store: c.Store, maxWait: orDefault(c.MaxWait, 30*time.Second), authorize: c.Authorize, cancel: c.AllowCancel,
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
	store     *Store // nil without one
	authorize func(*http.Request, tether.Info) bool
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
	t, err := h.find(r, id)
	if err != nil {
		answerTo(err).ServeHTTP(w, r)
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

// find returns the task with an ID, if the request may see it.
func (h *tasks) find(r *http.Request, id string) (source, error) {
	t, err := h.lookUp(r, id)
	if err != nil {
		return nil, err
	}
	if h.authorize != nil && !h.authorize(r, t.now().info) {
		return nil, newProblem(ProblemTaskUnknown, "there is no such task")
	}
	return t, nil
}

func (h *tasks) lookUp(r *http.Request, id string) (source, error) {
	if h.store != nil && strings.Contains(id, ".") {
		// The store's answer is bounded in time. The request's context may have ended because the
		// process was told to stop, and the request is finished all the same.
		return h.store.find(context.WithoutCancel(r.Context()), id)
	}
	t, err := h.reg.Find(id)
	switch {
	case errors.Is(err, tether.ErrExpired):
		return nil, newProblem(ProblemTaskForgotten, "this task has ended and is no longer retained")
	case err != nil:
		return nil, newProblem(ProblemTaskUnknown, "there is no such task")
	}
	return localTask{t}, nil
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

// isID reports whether s looks like the ID of a task, stored or not.
func isID(s string) bool {
	own, check, stored := strings.Cut(s, ".")
	return isTaskID(own) && (!stored || len(check) == lenCheck)
}

// isTaskID reports whether s looks like a [tether.Task.ID].
func isTaskID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(s) == lenID || len(s) == lenJobID
}

// taskID returns the id in a path: its last part, or the one before "result".
func taskID(path string) (id string, result bool) {
	path, result = strings.CutSuffix(path, "/result")
	return path[strings.LastIndexByte(path, '/')+1:], result
}

func (h *tasks) serveStatus(w http.ResponseWriter, r *http.Request, t source) {
	w.Header().Add("Vary", "Accept, Prefer")
	wait, granted := parsePrefer(r.Header).waitUpTo(h.maxWait)
	have := r.Header.Values("If-None-Match")
	now := h.represent(r, t.now())
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
	now.linkResult(w.Header(), h.statusURL(r, now.info.ID))
	w.Header().Set("ETag", now.tag)
	if now.among(have) {
		now.write(w, http.StatusNotModified)
		return
	}
	now.write(w, http.StatusOK)
}

// await waits for a task's end, or for any change if the client sent the tags it has.
func (h *tasks) await(ctx context.Context, r *http.Request, t source, wait time.Duration, have []string) *representation {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var now *taskView
	for now = range t.watch(ctx) {
		if len(have) > 0 && !h.represent(r, now).among(have) {
			break
		}
	}
	return h.represent(r, now)
}

// represent returns the representation of a task.
func (h *tasks) represent(r *http.Request, now *taskView) *representation {
	return h.representer.represent(r, now, h.statusURL(r, now.info.ID))
}

func (h *tasks) serveResult(w http.ResponseWriter, r *http.Request, t source) {
	now := t.now()
	if !now.done() {
		newProblem(ProblemTaskUnfinished, "the task has not ended yet").after(h.pollAfter(now.info)).ServeHTTP(w, r)
		return
	}
	answer := now.answer
	if rec, ok := answer.(*recording); ok {
		answer = rec.unstored()
	}
	answer.ServeHTTP(w, r)
}

func (h *tasks) serveDelete(w http.ResponseWriter, r *http.Request, t source) {
	client := clientOf(w, r)
	defer client.stop()
	live, err := t.remove(client)
	switch {
	case err != nil:
		answerTo(err).ServeHTTP(w, r)
		return
	case live == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	now := h.represent(r, live)
	if !now.done {
		w.Header().Set("Retry-After", seconds(h.pollAfter(now.info)))
	}
	now.write(w, http.StatusAccepted)
}

// source is a task that can be shown: one of this process, or one in the store.
type source interface {
	// now returns the task as it is, or as it was found in the store.
	now() *taskView
	// watch yields the task as it is now, and then its changes, until it has ended or ctx is
	// done. It pauses between changes that follow each other quickly.
	watch(ctx context.Context) iter.Seq[*taskView]
	// gone reports whether watch has ended because the task is not kept any more.
	gone() bool
	// remove cancels the task and returns it, or forgets it if it has ended, and returns nil.
	remove(ctx context.Context) (live *taskView, err error)
}

// localTask is a task of this process that is not in the store.
type localTask struct{ *tether.Task }

func (t localTask) now() *taskView { return viewOf(t.Task, current(t.Task)) }

func (t localTask) watch(ctx context.Context) iter.Seq[*taskView] {
	return func(yield func(*taskView) bool) {
		for info := range watchPaced(ctx, t.Task) {
			if !yield(viewOf(t.Task, info)) {
				return
			}
		}
	}
}

func (t localTask) gone() bool { return false }

func (t localTask) remove(ctx context.Context) (*taskView, error) {
	if t.Cancel(ErrCanceled) {
		return t.now(), nil
	}
	for range t.Watch(ctx) { // an observer may not have returned yet
	}
	t.Forget()
	return nil, nil
}

// current returns a task's Info. Its State is final once the outcome is visible.
func current(t *tether.Task) (info tether.Info) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for info = range t.Watch(ctx) {
	}
	return info
}
