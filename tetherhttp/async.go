package tetherhttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Causes of cancellation, to compare with errors.Is.
var (
	// ErrClientGone is why a task of [Async] is cancelled whose client has gone
	// before it was told where to find the outcome.
	ErrClientGone = errors.New("tetherhttp: the client has gone before the answer")
	// ErrCanceled is why a task is cancelled that a client has DELETEd or has cancelled on the live page, see [Tasks] and [Debug].
	ErrCanceled = errors.New("tetherhttp: canceled by a client")
)

// AsyncOption is a setting of [Async] and [AsyncHandler].
type AsyncOption interface{ applyAsync(*async) }

type asyncOption func(*async)

func (f asyncOption) applyAsync(a *async)   { f(a) }
func (d MaxWaitOption) applyAsync(a *async) { a.maxWait = time.Duration(d) }

// Inline is how long a request waits for its work before it is answered 202: 500 ms
// without it. 0: not at all; work that has ended by then is answered even so.
func Inline(d time.Duration) AsyncOption {
	return asyncOption(func(a *async) { a.inline = max(d, 0) })
}

// StatusAt says where [Tasks] is mounted, for the Location of a 202: "/tasks/"
// without it. It may be a whole URL.
func StatusAt(prefix string) AsyncOption {
	return asyncOption(func(a *async) { a.statusAt = strings.TrimSuffix(prefix, "/") + "/" })
}

// Always202 answers 202 to every request whose work is admitted, done or not, for
// APIs whose guidelines forbid an operation two kinds of success. Inline and
// Prefer: wait count for nothing then.
func Always202() AsyncOption {
	return asyncOption(func(a *async) { a.always202 = true })
}

// KeepOnDisconnect has the work go on if the client goes while it waits. Without it
// nobody could fetch the outcome, and the task is cancelled with [ErrClientGone].
func KeepOnDisconnect() AsyncOption {
	return asyncOption(func(a *async) { a.keep = true })
}

// MaxBody bounds the request's body, which is read into memory: 1 MiB without it. A
// larger one is answered 413.
func MaxBody(bytes int64) AsyncOption {
	return asyncOption(func(a *async) { a.maxBody = max(bytes, 0) })
}

// Check has ok look at a request before there is a task, with the body in memory. Its
// error is the answer, see [ProblemOf]. What is refused like that takes no worker, uses
// no Idempotency-Key, and is not answered 202.
func Check(ok func(*http.Request) error) AsyncOption {
	return asyncOption(func(a *async) { a.check = ok })
}

// TaskOptions are those of the tasks, such as [tether.Timeout]. A task with
// [tether.Unique] may be that of several requests, and goes on whoever of their clients
// goes. One with [tether.Hold] starts when somebody releases it.
func TaskOptions(opts ...tether.Option) AsyncOption {
	return asyncOption(func(a *async) { a.task = append(a.task, opts...) })
}

// Async returns a handler that does its work as a task of r, and waits for it a
// while ([Inline]). If the task ends in time, the answer is its result: 200 and T as
// JSON, or whatever T itself writes if it is an [http.Handler]; or its error, see
// [Problem]. If not, the answer is 202 with Location and Retry-After, the task goes on, and
// [Tasks] shows it at the Location. Clients must be ready for both; [Always202] and
// Inline are for those that are not.
//
// fn gets the task's context, which is the request's context too, and a request of
// its own, with the body in memory: it may be used until fn returns. Route parameters
// are there by [http.Request.PathValue]; those that a router keeps in a context that it
// uses again (chi.URLParam, gin.Context) are not.
//
// A client can choose the wait: Prefer: respond-async for 202 at once, Prefer: wait=N
// for up to N seconds, but [MaxWait] at most (RFC 7240). The server's WriteTimeout
// begins when the wait is over.
//
// What is not admitted is not started, and never answered 202: 413 for the body, what
// [Check] says, 400, 409 and 422 for the key of [Idempotent], 503 with Retry-After for
// a stopping process or a full pool that rejects. A pool of [tether.OverflowBlock] has the
// request wait for room, and one of [tether.OverflowCallerRuns] for the end of the work,
// however long that takes.
//
// The status lives in the registry's memory, in this process alone: it keeps the last
// [tether.Config].Retain tasks that were answered 202, each for RetainFor after its
// end. With more than one replica, route the Location to the one that gave it, or use a durable
// queue. A result that was sent inline is forgotten with that.
//
// Async panics if r or fn is nil: no request could mend that.
func Async[T any](r tether.Submitter, name string, fn func(context.Context, *http.Request) (T, error), opts ...AsyncOption) http.Handler {
	if r == nil || fn == nil {
		panic("tetherhttp: Async needs a Runner and a function")
	}
	a := &async{inline: 500 * time.Millisecond, maxWait: 30 * time.Second, statusAt: "/tasks/", maxBody: 1 << 20}
	for _, opt := range opts {
		if opt != nil {
			opt.applyAsync(a)
		}
	}
	a.submit = func(in *http.Request, body []byte, opts []tether.Option) (*tether.Task, error) {
		result, err := tether.Submit(detached{in.Context()}, r, name, func(ctx context.Context) (v T, err error) {
			err = withBody(in.WithContext(ctx), body, func(in *http.Request) (err error) {
				v, err = fn(ctx, in)
				return err
			})
			return v, err
		}, opts...)
		if err != nil {
			return nil, err
		}
		return result.Task, nil
	}
	return a
}

// async is the handler that Async returns.
type async struct {
	submit    func(in *http.Request, body []byte, opts []tether.Option) (*tether.Task, error)
	inline    time.Duration
	maxWait   time.Duration
	statusAt  string // ends with a slash
	always202 bool
	keep      bool
	maxBody   int64
	check     func(*http.Request) error // may be nil
	task      []tether.Option
	keys      *keys // nil without Idempotent
}

// finder starts a request's task, or finds the one that it shares.
type finder func() (t *tether.Task, isNew bool, err error)

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
		if err := withBody(in.WithContext(in.Context()), body, a.check); err != nil { // on a copy: it may parse the form
			answerTo(err).ServeHTTP(w, r)
			return
		}
	}
	var find finder = func() (t *tether.Task, isNew bool, err error) {
		isNew = true
		t, err = a.submit(in, body, append(a.task[:len(a.task):len(a.task)], tether.OnDuplicate(func(*tether.Task) { isNew = false })))
		return t, isNew, err
	}
	hasKey := false
	if a.keys != nil {
		use, err := a.keys.read(r, body)
		if err != nil {
			answerTo(err).ServeHTTP(w, r)
			return
		}
		if hasKey = use != nil; hasKey {
			defer use.answered()
			find = use.once(client, w, find)
		}
	}
	a.answer(client, w, r, find, hasKey)
}

// withBody calls do with a request whose body is there from the start.
func withBody(in *http.Request, body []byte, do func(*http.Request) error) error {
	in.Body = io.NopCloser(bytes.NewReader(body))
	defer func() {
		if in.MultipartForm != nil {
			_ = in.MultipartForm.RemoveAll() // the server does as much for its own, and as quietly
		}
	}()
	return do(in)
}

// read reads the body, which is gone when the handler has returned.
func (a *async) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > a.maxBody {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // or the server would read on before it answers
		}
		return nil, &http.MaxBytesError{Limit: a.maxBody}
	}
	if r.MultipartForm != nil {
		// The server removes its files when the handler returns.
		logf(r, "tetherhttp: %s %q: the multipart form was parsed before Async could read it", r.Method, r.URL.Path)
		return nil, &Problem{Status: http.StatusInternalServerError}
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
		return nil, &Problem{Status: http.StatusRequestTimeout, Detail: "the body did not arrive in time"}
	}
	return nil, &Problem{Status: http.StatusBadRequest, Detail: "the body did not arrive whole"}
}

// answer finds the request's task, waits for it, and writes the one answer that the
// request gets.
func (a *async) answer(client *client, w http.ResponseWriter, r *http.Request, find finder, hasKey bool) {
	limit := putOff(w, r)
	t, isNew, err := find()
	if err != nil {
		if errorIs(err, tether.ErrInvalid) {
			logf(r, "tetherhttp: %s %q: %v", r.Method, r.URL.Path, err) // a mistake in the program, not in the request
		}
		limit()
		answerTo(err).ServeHTTP(w, r)
		return
	}
	wish := parsePrefer(r.Header)
	info, granted := a.wait(client, t, wish)
	limit()
	ended := info.State.Final()
	ours := isNew && !hasKey && info.Unique == "" // nobody else can have been given the task
	gone := !ended && client.gone() && ours && !a.keep
	tell := !gone && (!ended || a.always202)
	if tell && !t.Keep() && ended {
		tell = false // it is forgotten: there would be nothing at the Location
	}
	switch {
	case tell:
		a.tell(w, r, t, info, granted, wish.async)
	case ended:
		applied(w, granted, false)
		outcome(t, info).ServeHTTP(w, r)
		if ours && info.State == tether.Succeeded {
			t.Forget()
		}
	default:
		t.Cancel(ErrClientGone)
		answerTo(ErrClientGone).ServeHTTP(w, r) // somebody may be there: a time limit further out looks the same
	}
}

// tell answers 202: the client finds the task at the Location.
func (a *async) tell(w http.ResponseWriter, r *http.Request, t *tether.Task, info tether.Info, granted string, async bool) {
	applied(w, granted, async)
	h := w.Header()
	h.Set("Location", a.statusAt+info.ID)
	h.Set("Retry-After", "1")
	h.Set("Cache-Control", "no-store")
	writeBody(w, "application/json", http.StatusAccepted, represent(r, t, info, a.statusAt).body)
}

// wait waits for a task as long as the request wants it. It returns what the task is
// then, and the seconds of the wait that the client has asked for, if it got them.
func (a *async) wait(client context.Context, t *tether.Task, wish preferences) (info tether.Info, granted string) {
	d := a.inline
	switch {
	case a.always202:
		d = 0
	case wish.waits:
		d, granted = wish.waitUpTo(max(a.maxWait, a.inline))
	case wish.async:
		d = 0
	}
	ctx, cancel := context.WithTimeout(client, d)
	defer cancel()
	for info = range watch(ctx, t) {
	}
	return info, granted
}

// watch is [tether.Task.Watch] for those who can wait a little: for longer the more has
// changed, so that a body that says much of its progress does not keep a processor
// busy with every one who waits for it.
func watch(ctx context.Context, t *tether.Task) iter.Seq[tether.Info] {
	return func(yield func(tether.Info) bool) {
		pause := time.Duration(0)
		for info := range t.Watch(ctx) { // to Wait would be to take a failure from the log
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

// applied says which preferences were granted.
func applied(w http.ResponseWriter, wait string, async bool) {
	if async {
		w.Header().Add("Preference-Applied", "respond-async")
	}
	if wait != "" {
		w.Header().Add("Preference-Applied", "wait="+wait)
	}
}

// putOff suspends the server's WriteTimeout for a wait, after which it would cut the
// answer off. limit has it begin anew, for the answer. A ReadTimeout does no harm: the
// server itself lifts it when the body has been read.
func putOff(w http.ResponseWriter, r *http.Request) (limit func()) {
	srv := serverOf(r)
	if srv == nil || srv.WriteTimeout <= 0 {
		return func() {}
	}
	// Not supported by all that can stand around w: then the limit holds.
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{})
	return func() { _ = control.SetWriteDeadline(time.Now().Add(srv.WriteTimeout)) }
}
