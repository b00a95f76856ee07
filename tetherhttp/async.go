package tetherhttp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Causes of cancellation. Compare with errors.Is.
var (
	// ErrClientGone is the cause of an [Async] task that is canceled because its client has
	// gone before it was told where to find the outcome.
	ErrClientGone = errors.New("tetherhttp: the client has gone before the answer")
	// ErrCanceled is the cause of a task that a client has canceled, with DELETE or on the
	// live page. See [Tasks] and [Debug].
	ErrCanceled = errors.New("tetherhttp: canceled by a client")
)

// AsyncConfig configures [Async] and [AsyncHandler]. The zero value is ready to use.
type AsyncConfig struct {
	// Inline is how long a request waits for its task before it is answered 202. Zero means
	// 500 ms. If it is negative, a request does not wait, but a task that has ended by the
	// time of the answer is answered with its result.
	Inline time.Duration
	// Always202 makes the handler answer 202 whenever the task has been admitted, for
	// APIs that must answer an operation with a single success status. Inline and
	// Prefer: wait=N have no effect then.
	Always202 bool
	// MaxWait is the longest wait that a client can ask for with Prefer: wait=N. Zero means
	// 30 s. It has no effect if Inline is longer.
	MaxWait time.Duration
	// StatusAt is the path or URL at which Tasks is mounted, for the Location of a 202.
	// Empty means "/tasks/".
	StatusAt string
	// StatusURL, if non-nil, returns the Location of a task instead of StatusAt, for services
	// behind a proxy that adds a path prefix which not all requests have:
	//
	//	StatusURL: func(r *http.Request, id string) string {
	//		return tetherhttp.ForwardedPrefix(r) + "/tasks/" + id
	//	},
	StatusURL func(r *http.Request, id string) string
	// PollAfter, if non-nil, returns when a client that is answered 202 should ask for the
	// status. It is sent as Retry-After. If nil, it is 1 s for a young task; see
	// [TasksConfig].PollAfter.
	PollAfter func(tether.Info) time.Duration
	// Store, if non-nil, makes any replica of the service answer for the tasks that were answered
	// 202, and for their Idempotency-Keys: see [Store]. Set it in [TasksConfig] too.
	Store *Store
	// Represent, if non-nil, returns what a 202 has as its body, encoded as JSON, for APIs
	// with their own form of an operation. It may set header fields of the response, also in
	// place of those that Async sets. See [TasksConfig].Represent, which is for the status
	// resource.
	Represent func(h http.Header, r *http.Request, s Status) any
	// MaxBody is the most bytes that the body of a request may have; it is read into memory.
	// A larger one is answered 413. Zero means 1 MiB. If it is negative, only requests
	// without a body are accepted.
	MaxBody int64
	// Check, if non-nil, is called with each request, the body in memory, before a task is
	// submitted. Its error is the answer, see [ProblemOf]. A request that it refuses takes no
	// worker, does not consume its Idempotency-Key, and is not answered 202.
	Check func(*http.Request) error
	// Idempotency, if non-nil, makes the handler run one task for all requests that share an
	// Idempotency-Key.
	Idempotency *IdempotencyConfig
	// KeepOnDisconnect lets the task continue if the client disconnects while waiting.
	// Otherwise the task is canceled with ErrClientGone, because no client could fetch the
	// outcome.
	KeepOnDisconnect bool
	// Share, if non-nil, returns the [tether.Share] of a request's task: its tenant, for
	// example. A request is answered 503 if its share is full, with the Retry-After of that
	// share. If it is empty, the task has none. It must be valid as a name.
	Share func(*http.Request) string
	// TaskOptions are options for the tasks, such as [tether.Timeout]. A task with
	// [tether.Unique] may be shared by several requests, and continues if a client
	// disconnects. A task with [tether.Hold] starts when the program releases it.
	TaskOptions []tether.Option
}

// Async returns a handler that runs fn as a task of r and waits for it for a short time, see
// [AsyncConfig].Inline. If the task ends in time, the answer is its result: 200 with T as
// JSON, or what T writes if it is an [http.Handler]; or its error, see [Problem]. Otherwise
// the answer is 202 with Location and Retry-After, the task continues, and [Tasks] serves its
// status at the Location. Clients must be prepared for both; for clients that are not, set
// Always202 or a longer Inline.
//
// fn receives the task's context, which has the values of the request's, and a copy of the
// request with its body in memory, which may be used until fn returns.
// [http.Request.PathValue] works in fn. Route parameters that a router keeps in a context
// that it reuses (chi.URLParam, gin.Context) do not.
//
// A client can choose the wait (RFC 7240): Prefer: respond-async asks for 202 at once,
// Prefer: wait=N for a wait of up to N seconds, at most [AsyncConfig].MaxWait. The server's
// WriteTimeout begins when the wait has ended. A server's base context that ends, as one of
// signal.NotifyContext does when the process is told to stop, does not end the wait: the
// request is finished.
//
// A client that closes its sending side after the request, which HTTP/1 allows, counts as gone:
// net/http cannot tell the two apart. Its task is canceled unless it has an Idempotency-Key or
// KeepOnDisconnect is set.
//
// If the task is not admitted, the answer is never 202: it is 413 for the body, the
// answer of Check, 400, 409 or 422 for its Idempotency-Key, or 503 with Retry-After if the
// process is stopping or a pool rejects the task. A full pool of [tether.OverflowBlock] makes the
// request wait for room, and one of [tether.OverflowCallerRuns] runs the task before the answer.
//
// The status is kept in the registry's memory, in this process alone. The tasks that were
// answered 202 are marked with [tether.Task.Keep]: the registry retains the last
// [tether.Config].Retain of them, 1024 if Retain is negative, each for RetainFor after its end.
// A service of several replicas needs a [Store], so that any of them can answer for the Location
// that one has given. A task that succeeded is forgotten when its result has been sent inline.
//
// Async panics if r or fn is nil, or name is not valid, which are programming errors.
func Async[T any](r tether.Submitter, name string, fn func(context.Context, *http.Request) (T, error), cfg ...AsyncConfig) http.Handler {
	if r == nil || fn == nil {
		panic("tetherhttp: Async needs a Submitter and a function")
	}
	a := newAsync("Async", name, cfg)
	a.wraps = tether.Wraps(fn)
	a.submit = func(in *http.Request, body []byte, opts []tether.Option) (*handle, error) {
		result, err := tether.Submit(detached{in.Context()}, r, name, func(ctx context.Context) (v T, err error) {
			err = withBody(in.WithContext(ctx), body, func(in *http.Request) (err error) {
				v, err = fn(ctx, in)
				return err
			})
			return v, err
		}, append(slices.Clip(opts), a.wraps)...)
		if err != nil {
			return nil, err
		}
		return &handle{result.Task, result.Keep, func() any {
			v, err := result.Value(context.Background()) // the task has succeeded
			if err != nil {
				return nil
			}
			return v
		}}, nil
	}
	return a
}

// handle is a task with its value, which the registry does not retain unless the task is
// marked with Keep.
type handle struct {
	*tether.Task
	keep  func() bool // of its Result
	value func() any
}

func (h *handle) Keep() bool { return h.keep() }

// Value returns the value of a task that has succeeded.
func (h *handle) Value() any {
	if h.State() != tether.Succeeded {
		return nil
	}
	return h.value()
}

// async is the handler that Async returns.
type async struct {
	submit    func(in *http.Request, body []byte, opts []tether.Option) (*handle, error)
	inline    time.Duration
	maxWait   time.Duration
	statusURL func(r *http.Request, id string) string
	pollAfter func(tether.Info) time.Duration
	representer
	store     *Store // nil without one
	always202 bool
	keep      bool
	maxBody   int64
	check     func(*http.Request) error // may be nil
	share     func(*http.Request) string
	task      []tether.Option
	wraps     tether.Option // names what the user wrote in Info.Func
	keys      *keys         // nil without an IdempotencyConfig

	// Of AsyncJob, in place of submit.
	name    string
	enqueue func(context.Context, *http.Request) (id string, err error)
}

// newAsync returns a handler without its submit function.
func newAsync(constructor, name string, cfg []AsyncConfig) *async {
	if err := tether.CheckName(name); err != nil {
		panic("tetherhttp: " + constructor + ": " + err.Error())
	}
	c := optional(constructor, cfg)
	a := &async{
		inline: orDefault(c.Inline, 500*time.Millisecond), maxWait: orDefault(c.MaxWait, 30*time.Second),
		always202: c.Always202, keep: c.KeepOnDisconnect, maxBody: max(c.MaxBody, 0), check: c.Check,
		statusURL: c.StatusURL, pollAfter: c.PollAfter, representer: c.Represent, store: c.Store, task: slices.Clone(c.TaskOptions),
		share: c.Share,
	}
	if a.statusURL == nil {
		prefix := strings.TrimSuffix(cmp.Or(c.StatusAt, "/tasks"), "/") + "/"
		a.statusURL = func(_ *http.Request, id string) string { return prefix + id }
	}
	if a.pollAfter == nil {
		a.pollAfter = pollAfter
	}
	if c.MaxBody == 0 {
		a.maxBody = 1 << 20
	}
	if c.Idempotency != nil {
		a.keys = newKeys(*c.Idempotency)
	}
	return a
}

// A finder starts a request's task, or finds the one that the request shares.
type finder func() (t *handle, isNew bool, err error)

func (a *async) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Prefer")
	body, err := a.read(w, r)
	if err != nil {
		answerTo(err).ServeHTTP(w, r)
		return
	}
	client := clientOf(w, r)
	defer client.stop()
	in := r.Clone(client)
	in.ContentLength, in.TransferEncoding = int64(len(body)), nil
	if a.check != nil {
		if err := withBody(in.WithContext(in.Context()), body, a.check); err != nil { // a copy, because check may parse the form
			answerTo(err).ServeHTTP(w, r)
			return
		}
	}
	var find finder = func() (t *handle, isNew bool, err error) {
		isNew = true
		t, err = a.submit(in, body, append(withShare(a.task, a.share, r), tether.OnDuplicate(func(*tether.Task) { isNew = false })))
		return t, isNew, err
	}
	var use *use
	if a.keys != nil {
		if use, err = a.keys.read(r, body); err != nil {
			answerTo(err).ServeHTTP(w, r)
			return
		}
	}
	switch {
	case use == nil && a.enqueue != nil:
		a.answerJob(client, w, r, in, body, nil)
	case use == nil:
		a.answer(client, w, r, find, false, nil)
	case a.enqueue != nil:
		a.answerOnce(client, w, r, use, func(c *claim) { a.answerJob(client, w, r, in, body, c) })
	case a.store != nil:
		a.answerOnce(client, w, r, use, func(c *claim) { a.answer(client, w, r, c.once(find), true, c) })
	default:
		defer use.answered()
		a.answer(client, w, r, use.once(client, w, find), true, nil)
	}
}

// withBody calls do with a request that has its body in memory.
func withBody(in *http.Request, body []byte, do func(*http.Request) error) error {
	in.Body = io.NopCloser(bytes.NewReader(body))
	defer func() {
		if in.MultipartForm != nil {
			_ = in.MultipartForm.RemoveAll() // the server ignores this error too
		}
	}()
	return do(in)
}

// read reads the body: the server closes it when the handler returns.
func (a *async) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > a.maxBody {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // otherwise the server reads the body before it answers
		}
		return nil, &http.MaxBytesError{Limit: a.maxBody}
	}
	if r.MultipartForm != nil {
		// The server removes the form's files when the handler returns.
		logf(r, "tetherhttp: %s %q: the multipart form was parsed before Async could read it", r.Method, r.URL.Path)
		return nil, newProblem(ProblemFailed, "")
	}
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxBody))
	if err == nil {
		return body, nil
	}
	if tooMuch, ok := errorAs[*http.MaxBytesError](err); ok {
		return nil, tooMuch
	}
	if errorIs(err, os.ErrDeadlineExceeded) {
		return nil, newProblem(ProblemBodyTimeout, "the body did not arrive in time")
	}
	return nil, newProblem(ProblemBodyIncomplete, "the body did not arrive completely")
}

// answer finds the request's task, waits for it, and writes the one answer that the
// request gets. c is the claim of its key in the store, nil if there is none.
func (a *async) answer(client *client, w http.ResponseWriter, r *http.Request, find finder, hasKey bool, c *claim) {
	resume := suspendWriteTimeout(w, r)
	t, isNew, err := find()
	if err != nil {
		if errorIs(err, tether.ErrInvalid) {
			logf(r, "tetherhttp: %s %q: %v", r.Method, r.URL.Path, err) // the program is at fault, not the request
		}
		resume()
		answerTo(err).ServeHTTP(w, r)
		return
	}
	prefer := parsePrefer(r.Header)
	info, granted := a.wait(client, t.Task, prefer)
	resume()
	ended := info.State.Final()
	ours := isNew && !hasKey && info.Unique == "" // no other request can have been given the task
	gone := !ended && client.gone() && ours && !a.keep
	accept := !gone && (!ended || a.always202)
	if accept && !t.Keep() {
		// The task has ended, perhaps just now, and is forgotten: the Location would be 410.
		info = current(t.Task)
		accept, ended = false, true
	}
	switch {
	case accept && a.store != nil:
		must := !ours || a.keep
		p, err := a.store.publish(t, a.retain(), must)
		if c != nil && p != nil {
			c.settle(p)
		}
		if err != nil {
			if !must {
				t.Cancel(ErrStoreUnavailable)
			}
			logf(r, "tetherhttp: %s %q: the task %s was not answered 202: %v", r.Method, r.URL.Path, info.ID, err)
			answerTo(err).ServeHTTP(w, r)
			return
		}
		a.accept(w, r, p.view(), granted, prefer.async)
	case accept:
		a.accept(w, r, viewOf(t, info), granted, prefer.async)
	case ended:
		if c != nil { // repetitions are answered from the store
			if p, _ := a.store.publish(t, a.retain(), true); p != nil { // it goes on, whatever the error
				c.settle(p)
			}
		}
		applied(w, granted, false)
		viewOf(t, info).answer.ServeHTTP(w, r)
		if ours && info.State == tether.Succeeded {
			t.Forget()
		}
	default:
		t.Cancel(ErrClientGone)
		answerTo(ErrClientGone).ServeHTTP(w, r) // after a time limit further out, the client is still there
	}
}

// accept answers 202: the client finds the task at the Location.
func (a *async) accept(w http.ResponseWriter, r *http.Request, t *taskView, granted string, async bool) {
	applied(w, granted, async)
	h := w.Header()
	at := a.statusURL(r, t.info.ID)
	now := a.representer.represent(r, t, at)
	h.Set("Location", at)
	h.Set("Retry-After", seconds(a.pollAfter(t.info)))
	h.Set("Cache-Control", "no-store")
	now.linkResult(h, at)
	now.write(w, http.StatusAccepted)
}

// wait waits for a task as long as the configuration and the client's preferences say. It
// returns the task's Info, and in granted the seconds that the client asked for, if it got
// them.
func (a *async) wait(client context.Context, t *tether.Task, prefer preferences) (info tether.Info, granted string) {
	d, granted := a.waitFor(prefer)
	ctx, cancel := context.WithTimeout(client, d)
	defer cancel()
	for info = range watchPaced(ctx, t) {
	}
	return info, granted
}

// waitFor returns how long to wait for a task, and the seconds that the client has asked for,
// if it gets them.
func (a *async) waitFor(prefer preferences) (d time.Duration, granted string) {
	switch {
	case a.always202:
		return 0, ""
	case prefer.waits:
		return prefer.waitUpTo(max(a.maxWait, a.inline))
	case prefer.async:
		return 0, ""
	}
	return a.inline, ""
}

// retain returns how long a stored task is kept at least.
func (a *async) retain() time.Duration {
	if a.keys == nil {
		return 0
	}
	return a.keys.cfg.RetainFor
}

// watchPaced is [tether.Task.Watch], except that it pauses between changes of a running
// task's progress, for longer the more of them there are. A body that reports progress in a
// tight loop does not keep a processor busy for each request that waits.
func watchPaced(ctx context.Context, t *tether.Task) iter.Seq[tether.Info] {
	return func(yield func(tether.Info) bool) {
		pause := time.Duration(0)
		for info := range t.Watch(ctx) { // unlike Wait, it does not mark a failure as seen
			if !yield(info) {
				return
			}
			if pause = min(pause+pace/20, pace); info.State == tether.Running && info.Progress != (tether.Progress{}) {
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		}
	}
}

// applied sets Preference-Applied for the preferences that were granted.
func applied(w http.ResponseWriter, wait string, async bool) {
	if async {
		w.Header().Add("Preference-Applied", "respond-async")
	}
	if wait != "" {
		w.Header().Add("Preference-Applied", "wait="+wait)
	}
}

// suspendWriteTimeout lifts the server's WriteTimeout for a wait, after which it would cut
// the answer off. resume makes it begin again, for the answer. A ReadTimeout is not in the
// way: the server lifts it when the body has been read.
func suspendWriteTimeout(w http.ResponseWriter, r *http.Request) (resume func()) {
	srv := serverOf(r)
	if srv == nil || srv.WriteTimeout <= 0 {
		return func() {}
	}
	// A wrapper around w may not support deadlines: then the timeout stays in force.
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{})
	return func() { _ = control.SetWriteDeadline(time.Now().Add(srv.WriteTimeout)) }
}
