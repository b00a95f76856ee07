package tetherhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/seed-2e639f12/tether"
)

// AsyncJob returns a handler that enqueues a durable job and answers 202, with a Location at which
// [Tasks] of any replica serves the job's status. The work is done by a worker of package durable,
// in this process or another one, and survives them all.
//
//	mux.Handle("POST /invoices", tetherhttp.AsyncJob("invoice", func(ctx context.Context, r *http.Request) (string, error) {
//		receipt, err := Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Tracked(shared.Tracker()))
//		return receipt.ID, err
//	}, tetherhttp.AsyncConfig{Store: shared}))
//	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared}))
//	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Tracker: shared.Tracker()}, Invoice)
//
// enqueue returns the ID of the job's receipt, and must have enqueued it with the option Tracked
// of package durable: also in a transaction of the program, which it has then committed. The job
// is there if and only if enqueue has returned it. If it returns an error, that is the answer, see
// [Problem]; 503 if its context's deadline has passed. enqueue is called while the request
// waits, with a context that ends with the client, and may read the request as the function of
// [Async] does.
//
// The status of a job is one of
//
//	"queued"                        it was enqueued
//	"running"                       with "attempt", and "progress" if the job calls [tether.ReportProgress]
//	"queued" with "last_problem"    it is tried again, no earlier than at "next_attempt" if there is one
//	"succeeded"                     with "result" if the job has one
//	"failed", "panicked"            it is dead: "problem" says why
//	"canceled"                      on request
//
// and has the fields of that of a task otherwise, see [Tasks]. With [TasksConfig].AllowCancel,
// DELETE cancels a job. One that waits, for its first attempt or for another, is canceled at once:
// no worker begins it any more. It stays in the queue, with its key of durable.Unique, until it is
// due. One that runs is canceled within a second, wherever it runs, and
// is then dead unless its handler succeeds all the same.
//
// A job whose worker is gone waits again, within eight seconds; the queue decides when it is
// delivered. A result is stored before the queue is told that the job is done, so that a job with
// a result is not run again. [StoreConfig].RetainFor and MaxResult of the worker's Store apply to the outcome; a
// job that has not ended is kept for 30 days after its last change.
//
// The settings of cfg apply as in Async, with these exceptions. Store is required. Inline is zero:
// the answer is 202 at once, unless it is set or the client asks for a wait, and the job ends in
// time. Share, TaskOptions and KeepOnDisconnect have no effect. With Idempotency, all requests
// with the same key share one job; if enqueue returns an error the key is not used, even if the
// job was stored, which the key of durable.Unique prevents. Repetitions are answered as long as
// the job's status is retained, and 410 after that.
//
// AsyncJob panics if enqueue or cfg.Store is nil or name is not valid, which are programming
// errors. name is shown if the store cannot be reached when the job was enqueued.
func AsyncJob(name string, enqueue func(context.Context, *http.Request) (id string, err error), cfg AsyncConfig) http.Handler {
	if enqueue == nil || cfg.Store == nil {
		panic("tetherhttp: AsyncJob needs a function and a Store")
	}
	a := newAsync("AsyncJob", name, []AsyncConfig{cfg})
	a.inline, a.name, a.enqueue = max(cfg.Inline, 0), name, enqueue
	return a
}

// errNotTracked is the error of a job whose status nothing keeps.
var errNotTracked = errors.New("tetherhttp: AsyncJob: the job was not enqueued with durable.Tracked and this Store")

// answerJob enqueues the job of a request, and writes the one answer that the request gets. c is
// the claim of its key in the store, nil if there is none.
func (a *async) answerJob(client *client, w http.ResponseWriter, r, in *http.Request, body []byte, c *claim) {
	resume := suspendWriteTimeout(w, r)
	var id string
	func() {
		defer func() { // deferred, because enqueue may panic
			if c != nil && id == "" {
				c.release()
			}
		}()
		var receipt string
		err := withBody(in.WithContext(client), body, func(in *http.Request) (err error) {
			receipt, err = a.enqueue(client, in)
			return err
		})
		if err == nil && !isTaskID(receipt) {
			err = errNotTracked
		}
		if err != nil {
			resume()
			a.refuseJob(client, w, r, err)
			return
		}
		id = a.store.taskID(receipt)
	}()
	if id == "" {
		return
	}
	if c != nil {
		c.settle(enqueued(id))
	}
	prefer := parsePrefer(r.Header)
	d, granted := a.waitFor(prefer)
	// The store's answer is bounded in time.
	t, err := a.store.find(context.WithoutCancel(client), id)
	var now *taskView
	switch {
	case err == nil:
		ctx, cancel := context.WithTimeout(client, d)
		for now = range t.watch(ctx) {
		}
		cancel()
	case errors.Is(err, ErrStoreUnavailable): // the job is there
		now = (&storedTask{ID: id, Name: a.name, State: tether.Queued.String()}).view()
	default:
		resume()
		a.refuseJob(client, w, r, errNotTracked)
		return
	}
	resume()
	if !now.done() || a.always202 {
		a.accept(w, r, now, granted, prefer.async)
		return
	}
	applied(w, granted, false)
	now.answer.ServeHTTP(w, r)
}

// refuseJob answers a request whose job was not enqueued.
func (a *async) refuseJob(client *client, w http.ResponseWriter, r *http.Request, err error) {
	if client.gone() {
		err = ErrClientGone
	} else if errorIs(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
	}
	if _, own := errorAs[http.Handler](err); !own && !errorIs(err, ErrClientGone) {
		logf(r, "tetherhttp: %s %q: the job %q was not enqueued: %v", r.Method, r.URL.Path, a.name, err)
	}
	answerTo(err).ServeHTTP(w, r)
}

// enqueued is what a claim waits for if its key is of a job: there is nothing to wait for.
func enqueued(id string) *publication {
	over := make(chan struct{})
	close(over)
	return &publication{id: id, stored: over, ended: over, job: &attempt{}}
}

// Find returns the status of a task or a job in the store, by the ID that a client is given, by
// [tether.Task.ID], or by the ID of a job's receipt. Result is a [json.RawMessage], nil if there is
// none. Of a job that waits for another attempt Info.LastErr is a [*Problem]. The URL is empty.
//
// The error is [tether.ErrNotFound], [tether.ErrExpired] if the task is known to have existed, which
// only the longer ID tells, or [ErrStoreUnavailable].
func (s *Store) Find(ctx context.Context, id string) (Status, error) {
	t, err := s.lookUp(ctx, id)
	if err != nil {
		return Status{}, err
	}
	return t.status(), nil
}

// Cancel cancels a task or a job, as DELETE does, and returns its status then. A task, or a job
// that runs, is canceled within a second; a job that waits is canceled when Cancel returns. What
// has ended is left as it is. The errors are those of Find.
func (s *Store) Cancel(ctx context.Context, id string) (Status, error) {
	t, err := s.lookUp(ctx, id)
	if err != nil {
		return Status{}, err
	}
	there, err := t.change(ctx, func() error {
		if t.shown.done() {
			return nil
		}
		return t.cancel(ctx)
	})
	if err == nil && !there {
		err = fmt.Errorf("%w: %q", tether.ErrExpired, id)
	}
	if err != nil {
		return Status{}, notFound(err, id, false)
	}
	return t.status(), nil
}

// lookUp returns what has an ID in the store, of either length.
func (s *Store) lookUp(ctx context.Context, id string) (*sharedTask, error) {
	own := isTaskID(id)
	if own {
		id = s.taskID(id)
	}
	t, err := s.find(ctx, id)
	return t, notFound(err, id, own)
}

// notFound returns the error for a program in place of a client's. own says that the store cannot
// know whether the ID has ever been that of a task.
func notFound(err error, id string, own bool) error {
	problem, ok := errorAs[*Problem](err)
	switch {
	case !ok:
		return err
	case problem.Type == ProblemTaskForgotten && !own:
		return fmt.Errorf("%w: %q", tether.ErrExpired, id)
	}
	return fmt.Errorf("%w: %q", tether.ErrNotFound, id)
}

// status returns what is known of the task.
func (t *sharedTask) status() Status {
	found := Status{Info: t.shown.info}
	if t.shown.problem != nil {
		found.Problem = t.shown.problem.shown()
	}
	if result, ok := t.shown.result.(json.RawMessage); ok {
		found.Result = result
	}
	return found
}
