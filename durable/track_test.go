package durable_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

// line is a process's way to the store, which can be cut.
type line struct {
	store.Backend

	mu   sync.Mutex
	cut  bool
	lost bool // calls are made, and their answers are lost
	hang chan struct{}
}

var errCut = errors.New("connection refused")

func (l *line) set(f func(*line)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *line) call(f func() error) error {
	l.mu.Lock()
	cut, lost, hang := l.cut, l.lost, l.hang
	l.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if cut {
		return errCut
	}
	if err := f(); !lost {
		return err
	}
	return errCut
}

func (l *line) Get(ctx context.Context, keys ...string) (found []store.Record, err error) {
	err = l.call(func() (err error) { found, err = l.Backend.Get(ctx, keys...); return err })
	return found, err
}

func (l *line) Swap(ctx context.Context, was string, r store.Record) error {
	return l.call(func() error { return l.Backend.Swap(ctx, was, r) })
}

func (l *line) Delete(ctx context.Context, key, was string) error {
	return l.call(func() error { return l.Backend.Delete(ctx, key, was) })
}

func (l *line) Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error) {
	err = l.call(func() (err error) { asked, err = l.Backend.Renew(ctx, owner, lease); return err })
	return asked, err
}

// reporter is a handler with a result.
type reporter = func(ctx context.Context, o order) (map[string]int, error)

// tracked is a service of two replicas that enqueue the job "report", and of workers elsewhere.
type tracked struct {
	*testing.T
	memory *storetest.Memory
	engine *memory // of the replicas
	job    *durable.Job[order]
	more   []durable.EnqueueOption

	web    []*http.ServeMux
	lines  []*line
	stores []*tetherhttp.Store
}

// track makes a service whose jobs are run by h. Each test runs in a bubble.
func track(t *testing.T, h reporter, cfg durable.JobConfig) *tracked {
	t.Helper()
	s := &tracked{T: t, memory: storetest.NewMemory(), engine: newMemory(), job: durable.DefineResult("report", h, cfg)}
	for range 2 {
		reg := newRegistry(t, tether.Config{})
		shared, l := s.store(tetherhttp.StoreConfig{})
		mux := http.NewServeMux()
		mux.Handle("POST /reports", tetherhttp.AsyncJob("report", func(ctx context.Context, r *http.Request) (string, error) {
			receipt, err := s.job.Enqueue(ctx, s.engine, order{5}, append(s.more, durable.Tracked(shared.Tracker()))...)
			return receipt.ID, err
		}, tetherhttp.AsyncConfig{Store: shared, Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: 2 * time.Hour}}))
		mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared, AllowCancel: true}))
		s.web, s.lines, s.stores = append(s.web, mux), append(s.lines, l), append(s.stores, shared)
	}
	return s
}

// store makes the Store of another process.
func (s *tracked) store(cfg tetherhttp.StoreConfig) (*tetherhttp.Store, *line) {
	l := &line{Backend: s.memory}
	cfg.Logger = slog.New(slog.DiscardHandler)
	shared := tetherhttp.NewStore("shop", l, cfg)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = shared.Close(ctx)
		time.Sleep(2 * time.Minute) // what the store is told to undo
	})
	return shared, l
}

// testWorker is a worker in a process of its own.
type testWorker struct {
	*tracked
	engine *memory
	line   *line
	shared *tetherhttp.Store
	book   *logbook
	worker *durable.Worker
	reg    *tether.Registry

	tracker *slowTracker
}

// slowTracker is a Tracker whose Begin does not heed its context.
type slowTracker struct {
	store.Tracker
	hang chan struct{} // nil: it does
}

func (t *slowTracker) Begin(ctx context.Context, j store.Job, task *tether.Task) (store.Attempt, error) {
	if t.hang != nil {
		<-t.hang
	}
	return t.Tracker.Begin(ctx, j, task)
}

func (s *tracked) newWorker(cfg tetherhttp.StoreConfig) *testWorker {
	s.Helper()
	log, book := newLogger()
	c := &testWorker{tracked: s, engine: newMemory(), book: book}
	c.shared, c.line = s.store(cfg)
	c.reg, c.tracker = newRegistry(s.T, tether.Config{}), &slowTracker{Tracker: c.shared.Tracker()}
	var err error
	c.worker, err = durable.NewWorker(c.engine, durable.WorkerConfig{Registry: c.reg, Concurrency: 4, Logger: log, Tracker: c.tracker}, s.job)
	require.NoError(s, err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = c.worker.Stop(ctx)
	})
	require.NoError(s, c.worker.Start(context.Background()))
	return c
}

// deliver delivers the job that was enqueued last.
func (c *testWorker) deliver(attempt int) <-chan durable.Outcome {
	all := c.tracked.engine.taken()
	require.NotEmpty(c, all)
	return c.hand(durable.Delivery{Message: all[len(all)-1], Attempt: attempt})
}

// hand delivers a job as an engine does, which stores messages as JSON.
func (c *testWorker) hand(d durable.Delivery) <-chan durable.Outcome {
	encoded, err := json.Marshal(d.Message)
	require.NoError(c, err)
	d.Message, err = durable.Decode(encoded)
	require.NoError(c, err)
	return c.engine.consumer().hand(d)
}

func (s *tracked) do(replica int, method, at string, header ...string) *httptest.ResponseRecorder {
	s.Helper()
	r := httptest.NewRequest(method, at, strings.NewReader(""))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.web[replica].ServeHTTP(w, r)
	return w
}

func (s *tracked) post(header ...string) (at string) {
	s.Helper()
	w := s.do(0, "POST", "/reports", header...)
	require.Equal(s, http.StatusAccepted, w.Code, w.Body.String())
	return w.Header().Get("Location")
}

type seen struct {
	ID, Name, State string
	Done            bool
	Submitted       time.Time
	Attempt         int
	Next            time.Time `json:"next_attempt"`
	Last            *tetherhttp.Problem
	LastProblem     *tetherhttp.Problem `json:"last_problem"`
	Progress        *struct{ Done, Total int64 }
	Result          json.RawMessage
	Problem         *tetherhttp.Problem
}

// status returns what both replicas say, which must be the same.
func (s *tracked) status(at string) (now seen) {
	s.Helper()
	synctest.Wait()
	first := s.do(0, "GET", at)
	require.Equal(s, 200, first.Code, first.Body.String())
	second := s.do(1, "GET", at)
	require.Equal(s, first.Body.String(), second.Body.String())
	require.NoError(s, json.Unmarshal(first.Body.Bytes(), &now))
	return now
}

// is checks the answer of both replicas to a GET that is a problem.
func (s *tracked) is(code int, kind, at string) {
	s.Helper()
	for i := range s.web {
		w := s.do(i, "GET", at)
		assert.Equal(s, code, w.Code, w.Body.String())
		assert.Contains(s, w.Body.String(), kind)
	}
}

func got(t *testing.T, out <-chan durable.Outcome) durable.Outcome {
	t.Helper()
	select {
	case o := <-out:
		return o
	case <-time.After(time.Hour): // of the bubble
		require.Fail(t, "no outcome")
		return durable.Outcome{}
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

func TestTracked(t *testing.T) {
	bubble(t, "any replica says how far the job is, from the 202 to its result", func(t *testing.T) {
		steps := make(chan tether.Progress)
		s := track(t, func(ctx context.Context, o order) (map[string]int, error) {
			for p := range steps {
				tether.ReportProgress(ctx, p)
			}
			return map[string]int{"rows": o.Number}, nil
		}, options)
		s.more = []durable.EnqueueOption{durable.Label("tenant", "acme")}
		w := s.do(0, "POST", "/reports")
		require.Equal(t, http.StatusAccepted, w.Code, w.Body.String())
		at := w.Header().Get("Location")
		assert.NotEmpty(t, w.Header().Get("Retry-After"))
		now := s.status(at)
		assert.Equal(t, "queued", now.State)
		assert.Equal(t, "report", now.Name)
		assert.False(t, now.Done)
		assert.False(t, now.Submitted.IsZero())
		assert.JSONEq(t, w.Body.String(), s.do(1, "GET", at).Body.String())

		c := s.newWorker(tetherhttp.StoreConfig{})
		time.Sleep(time.Minute)
		out := c.deliver(1)
		now = s.status(at)
		assert.Equal(t, "running", now.State)
		assert.Equal(t, 1, now.Attempt)
		assert.Equal(t, time.Minute, time.Since(now.Submitted))
		steps <- tether.Progress{Done: 3, Total: 10}
		time.Sleep(time.Second)
		now = s.status(at)
		assert.Equal(t, int64(3), now.Progress.Done)
		tag := s.do(1, "GET", at).Header().Get("ETag")
		assert.Equal(t, http.StatusNotModified, s.do(0, "GET", at, "If-None-Match", tag).Code)
		assert.Equal(t, http.StatusConflict, s.do(1, "GET", at+"/result").Code)

		waited := make(chan *httptest.ResponseRecorder, 2)
		go func() { waited <- s.do(1, "GET", at, "Prefer", "wait=20") }()
		go func() { waited <- s.do(0, "GET", at, "Accept", "text/event-stream") }()
		time.Sleep(time.Second)
		close(steps)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		for range 2 {
			assert.Contains(t, (<-waited).Body.String(), `"succeeded"`)
		}
		now = s.status(at)
		assert.Equal(t, "succeeded", now.State)
		assert.JSONEq(t, `{"rows":5}`, string(now.Result))
		assert.JSONEq(t, `{"rows":5}`, s.do(1, "GET", at+"/result").Body.String())

		found, err := s.stores[1].Find(t.Context(), s.engine.taken()[0].ID)
		require.NoError(t, err)
		assert.Equal(t, tether.Succeeded, found.Info.State)
		assert.Equal(t, map[string]string{"tenant": "acme"}, found.Info.Labels)
		assert.JSONEq(t, `{"rows":5}`, string(found.Result.(json.RawMessage)))
		assert.Equal(t, "acme", c.info(t).Labels["tenant"])

		assert.Equal(t, http.StatusNoContent, s.do(1, "DELETE", at).Code)
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
	})
	bubble(t, "the outcome is kept for RetainFor of the worker", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return nil, nil }, options)
		at := s.post()
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{RetainFor: time.Minute}).deliver(1)))
		time.Sleep(59 * time.Second)
		assert.Nil(t, s.status(at).Result)
		assert.Equal(t, "null\n", s.do(0, "GET", at+"/result").Body.String())
		time.Sleep(2 * time.Second)
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
		id := strings.TrimPrefix(at, "/tasks/")
		_, err := s.stores[0].Find(t.Context(), id)
		assert.ErrorIs(t, err, tether.ErrExpired)
		for _, unknown := range []string{id[:26], "x", strings.Repeat("A", 26), id[:26] + ".AAAAAAAA", ""} {
			_, err = s.stores[0].Find(t.Context(), unknown)
			assert.ErrorIs(t, err, tether.ErrNotFound, unknown)
		}
		s.is(404, tetherhttp.ProblemTaskUnknown, "/tasks/"+id[:26])
		s.is(404, tetherhttp.ProblemTaskUnknown, "/tasks/"+id[:27]+"AAAAAAAA") // of another service
	})
	bubble(t, "a job that fails is tried again, and then dead", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) {
			return nil, &tetherhttp.Problem{Status: 502, Detail: "no printer"}
		}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 2, Backoff: options.Backoff})
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Retry, got(t, c.deliver(1)).Verdict)
		now := s.status(at)
		assert.Equal(t, "queued", now.State)
		assert.Equal(t, 1, now.Attempt)
		assert.Equal(t, "no printer", now.LastProblem.Detail)
		assert.Equal(t, time.Second, time.Until(now.Next))
		found, err := s.stores[0].Find(t.Context(), s.engine.taken()[0].ID)
		require.NoError(t, err)
		assert.ErrorContains(t, found.Info.LastErr, "no printer")

		assert.Equal(t, durable.Dead, got(t, c.deliver(2)).Verdict)
		now = s.status(at)
		assert.Equal(t, "failed", now.State)
		assert.Equal(t, 2, now.Attempt)
		assert.Equal(t, "no printer", now.Problem.Detail)
		assert.Nil(t, now.LastProblem)
		assert.Equal(t, 502, s.do(1, "GET", at+"/result").Code)
	})
	bubble(t, "a dead job that runs again", func(t *testing.T) {
		var n int
		s := track(t, func(context.Context, order) (map[string]int, error) {
			if n++; n == 1 {
				panic("no")
			}
			return map[string]int{"n": n}, nil
		}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1})
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Dead, got(t, c.deliver(1)).Verdict)
		assert.Equal(t, "panicked", s.status(at).State)
		c.hand(durable.Delivery{Message: s.engine.taken()[0], Attempt: 2, Revived: true})
		now := s.status(at)
		assert.Equal(t, "succeeded", now.State)
		assert.Equal(t, 2, now.Attempt)
		assert.Nil(t, now.Problem)
	})
	bubble(t, "a dead job that is moved back by hand, with all its attempts", func(t *testing.T) {
		n := 0
		s := track(t, func(context.Context, order) (map[string]int, error) {
			if n++; n < 3 {
				return nil, errTest
			}
			return nil, nil
		}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 2})
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Retry, got(t, c.deliver(1)).Verdict)
		assert.Equal(t, durable.Dead, got(t, c.deliver(2)).Verdict)
		assert.Equal(t, "failed", s.status(at).State)
		assert.Equal(t, durable.Outcome{}, got(t, c.deliver(1)))
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a job that a crash has made dead", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { panic("not called") }, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1})
		at := s.post()
		out := s.newWorker(tetherhttp.StoreConfig{}).hand(durable.Delivery{Message: s.engine.taken()[0], Attempt: 2, Crashed: true})
		assert.Equal(t, durable.Dead, got(t, out).Verdict)
		assert.Equal(t, "failed", s.status(at).State)
	})
	bubble(t, "a job that the stop interrupts waits again", func(t *testing.T) {
		s := track(t, func(ctx context.Context, o order) (map[string]int, error) { return nil, untilCanceled(ctx, o) }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		assert.Equal(t, "running", s.status(at).State)
		_ = c.worker.Stop(ended())
		assert.Equal(t, durable.Return, got(t, out).Verdict)
		assert.Equal(t, "queued", s.status(at).State)
		out = s.newWorker(tetherhttp.StoreConfig{}).deliver(1) // the same attempt
		now := s.status(at)
		assert.Equal(t, "running", now.State)
		assert.Nil(t, now.LastProblem)
		s.do(1, "DELETE", at)
		assert.Equal(t, durable.Dead, got(t, out).Verdict)
	})
	bubble(t, "a handler that ignores the stop", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(context.Context, order) (map[string]int, error) { <-free; return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		_ = c.worker.Stop(ended())
		assert.Equal(t, durable.Return, got(t, out).Verdict)
		assert.Equal(t, "queued", s.status(at).State)
		close(free)
		assert.Equal(t, "queued", s.status(at).State)
	})
	bubble(t, "a task that is abandoned while its beginning is stored", func(t *testing.T) {
		ran := false
		s := track(t, func(context.Context, order) (map[string]int, error) { ran = true; return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{Timeout: time.Minute})
		hang := make(chan struct{})
		c.line.set(func(l *line) { l.hang = hang })
		c.tracker.hang = hang
		out := c.deliver(1)
		synctest.Wait()
		_ = c.worker.Stop(ended())
		assert.Equal(t, durable.Return, got(t, out).Verdict)
		c.line.set(func(l *line) { l.hang = nil })
		close(hang)
		time.Sleep(5 * time.Second)
		assert.Equal(t, "queued", s.status(at).State)
		time.Sleep(time.Minute)
		assert.Equal(t, "queued", s.status(at).State, "nothing renews a lease for it")
		assert.False(t, ran)
	})
	bubble(t, "the store is closed before the worker", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(context.Context, order) (map[string]int, error) { <-free; return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		require.NoError(t, c.shared.Close(t.Context()))
		now := s.status(at)
		assert.Equal(t, "queued", now.State)
		assert.Equal(t, tetherhttp.ProblemTaskLost, now.LastProblem.Type)
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		out = c.deliver(2)
		assert.Equal(t, durable.Outcome{}, got(t, out), "runs all the same")
		assert.Len(t, c.book.about("the status of an attempt is not kept"), 1)
	})
	bubble(t, "a worker without a Tracker says so", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return nil, nil }, options)
		at := s.post()
		log, book := newLogger()
		e := newMemory()
		w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: newRegistry(t, tether.Config{}), Logger: log}, s.job)
		require.NoError(t, err)
		require.NoError(t, w.Start(t.Context()))
		assert.Equal(t, durable.Outcome{}, got(t, e.consumer().deliver(s.engine.taken()[0], 1)))
		assert.Equal(t, "shop", book.one(t, "has no Tracker")["service"])
		assert.Equal(t, "queued", s.status(at).State)
		require.NoError(t, w.Stop(t.Context()))
	})
}

// info returns the worker's only task that has ended.
func (c *testWorker) info(t *testing.T) tether.Info {
	t.Helper()
	for task := range c.reg.Finished() {
		return task.Info()
	}
	require.Fail(t, "no task")
	return tether.Info{}
}

func TestTrackedCancel(t *testing.T) {
	never := func(context.Context, order) (map[string]int, error) { panic("it was canceled") }
	bubble(t, "a job that waits is never begun", func(t *testing.T) {
		s := track(t, never, options)
		at := s.post()
		w := s.do(1, "DELETE", at)
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Contains(t, w.Body.String(), `"canceled"`)
		now := s.status(at)
		assert.Equal(t, "canceled", now.State)
		assert.Equal(t, tetherhttp.ProblemCanceled, now.Problem.Type)
		c := s.newWorker(tetherhttp.StoreConfig{RetainFor: time.Minute})
		assert.Equal(t, durable.Dead, got(t, c.deliver(1)).Verdict)
		assert.Equal(t, "canceled", s.status(at).State)
		time.Sleep(time.Minute)
		s.is(410, tetherhttp.ProblemTaskForgotten, at) // it is kept no longer when a worker has seen it
	})
	bubble(t, "nor if it is due in a year, and the cancellation is forgotten", func(t *testing.T) {
		s := track(t, never, options)
		due := time.Now().Add(365 * 24 * time.Hour)
		s.more = []durable.EnqueueOption{durable.RunAt(due)}
		at := s.post()
		assert.Equal(t, due.UTC(), s.status(at).Next)
		assert.Equal(t, http.StatusAccepted, s.do(1, "DELETE", at).Code)
		assert.True(t, s.status(at).Next.IsZero())
		assert.Equal(t, http.StatusNoContent, s.do(0, "DELETE", at).Code)
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
		assert.Equal(t, http.StatusGone, s.do(0, "DELETE", at).Code)
		time.Sleep(time.Until(due))
		assert.Equal(t, durable.Dead, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)).Verdict)
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
	})
	bubble(t, "a job that is due in a year has a status until then", func(t *testing.T) {
		s := track(t, never, options)
		due := time.Now().Add(365 * 24 * time.Hour)
		s.more = []durable.EnqueueOption{durable.RunAt(due)}
		at, canceled := s.post(), s.post()
		s.do(1, "DELETE", canceled)
		time.Sleep(time.Until(due))
		assert.Equal(t, "queued", s.status(at).State)
		assert.Equal(t, "canceled", s.status(canceled).State)
	})
	bubble(t, "a dead job that runs again and is canceled", func(t *testing.T) {
		s := track(t, func(ctx context.Context, o order) (map[string]int, error) { return nil, untilCanceled(ctx, o) }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.hand(durable.Delivery{Message: s.engine.taken()[0], Attempt: 2, Revived: true})
		synctest.Wait()
		c.line.set(func(l *line) { l.cut = true })
		s.do(1, "DELETE", at)
		time.Sleep(8 * time.Second)
		s.status(at)
		time.Sleep(2500 * time.Millisecond)
		assert.Equal(t, "canceled", s.status(at).State)
		c.line.set(func(l *line) { l.cut = false })
		assert.Equal(t, durable.Dead, got(t, out).Verdict)
		assert.Equal(t, "canceled", s.status(at).State)
	})
	bubble(t, "a job that runs is canceled within a second", func(t *testing.T) {
		cause := make(chan error, 1)
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return nil, ctx.Err()
		}, options)
		at := s.post()
		out := s.newWorker(tetherhttp.StoreConfig{}).deliver(1)
		synctest.Wait()
		began := time.Now()
		assert.Equal(t, http.StatusAccepted, s.do(1, "DELETE", at).Code)
		assert.Equal(t, http.StatusAccepted, s.do(0, "DELETE", at).Code)
		assert.Equal(t, durable.Dead, got(t, out).Verdict)
		assert.LessOrEqual(t, time.Since(began), time.Second)
		assert.ErrorIs(t, <-cause, tetherhttp.ErrCanceled)
		now := s.status(at)
		assert.Equal(t, "canceled", now.State)
		assert.Equal(t, 410, s.do(0, "GET", at+"/result").Code)
		assert.Equal(t, http.StatusNoContent, s.do(1, "DELETE", at).Code)
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
	})
	bubble(t, "a job that fails when it is canceled is not tried again", func(t *testing.T) {
		fails := make(chan struct{})
		var n int
		s := track(t, func(context.Context, order) (map[string]int, error) { n++; <-fails; return nil, errTest }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		assert.Equal(t, http.StatusAccepted, s.do(1, "DELETE", at).Code)
		close(fails) // before the worker is told
		assert.Equal(t, durable.Retry, got(t, out).Verdict)
		assert.Equal(t, "canceled", s.status(at).State)
		assert.Equal(t, durable.Dead, got(t, c.deliver(2)).Verdict)
		assert.Equal(t, 1, n)
	})
	bubble(t, "a job that waits for its next attempt is not tried again", func(t *testing.T) {
		var n int
		s := track(t, func(context.Context, order) (map[string]int, error) { n++; return nil, errTest }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Retry, got(t, c.deliver(1)).Verdict)
		assert.Equal(t, http.StatusAccepted, s.do(0, "DELETE", at).Code)
		assert.Equal(t, durable.Dead, got(t, c.deliver(2)).Verdict)
		assert.Equal(t, 1, n)
		assert.Equal(t, "canceled", s.status(at).State)
		// RetryDead is stronger.
		assert.Equal(t, durable.Retry, got(t, c.hand(durable.Delivery{Message: s.engine.taken()[0], Attempt: 3, Pardoned: 1, Revived: true})).Verdict)
		assert.Equal(t, 2, n)
		assert.Equal(t, "queued", s.status(at).State)
	})
	bubble(t, "a handler that succeeds all the same", func(t *testing.T) {
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) { <-ctx.Done(); return nil, nil }, options)
		at := s.post()
		out := s.newWorker(tetherhttp.StoreConfig{}).deliver(1)
		synctest.Wait()
		s.do(1, "DELETE", at)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a job whose worker is gone is canceled", func(t *testing.T) {
		s := track(t, func(ctx context.Context, o order) (map[string]int, error) { return nil, untilCanceled(ctx, o) }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		c.line.set(func(l *line) { l.cut = true })
		assert.Equal(t, http.StatusAccepted, s.do(1, "DELETE", at).Code)
		time.Sleep(8 * time.Second)
		s.status(at)
		time.Sleep(2500 * time.Millisecond)
		assert.Equal(t, "canceled", s.status(at).State)
		c.line.set(func(l *line) { l.cut = false })
		assert.Equal(t, durable.Dead, got(t, out).Verdict)
		assert.Equal(t, "canceled", s.status(at).State)
		assert.Equal(t, durable.Dead, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(2)).Verdict, "not begun")
	})
	bubble(t, "cancel and begin at once: one of them comes first", func(t *testing.T) {
		for range 100 {
			var began bool
			s := track(t, func(ctx context.Context, o order) (map[string]int, error) {
				began = true
				return nil, untilCanceled(ctx, o)
			}, options)
			at := s.post()
			c := s.newWorker(tetherhttp.StoreConfig{})
			var out <-chan durable.Outcome
			var both sync.WaitGroup
			both.Go(func() { out = c.deliver(1) })
			both.Go(func() { assert.Equal(t, http.StatusAccepted, s.do(1, "DELETE", at).Code) })
			both.Wait()
			assert.Equal(t, durable.Dead, got(t, out).Verdict)
			assert.Equal(t, "canceled", s.status(at).State)
			_ = began
		}
	})
}

func TestTrackedFaults(t *testing.T) {
	bubble(t, "a worker that is gone is noticed, and the next one goes on", func(t *testing.T) {
		free := make(chan string)
		var first, n = make(chan struct{}), 0
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
			m, _ := durable.MetaFrom(ctx)
			if m.Attempt == 1 {
				<-first
				return map[string]int{"wrong": 1}, nil
			}
			n++
			<-free
			return map[string]int{"right": m.Attempt}, nil
		}, options)
		at := s.post()
		a, b := s.newWorker(tetherhttp.StoreConfig{}), s.newWorker(tetherhttp.StoreConfig{})
		old := a.deliver(1)
		assert.Equal(t, "running", s.status(at).State)
		a.line.set(func(l *line) { l.cut = true })
		time.Sleep(5500 * time.Millisecond)
		s.status(at) // it waits for the confirmation
		now := s.status(at)
		assert.Equal(t, "queued", now.State)
		assert.Equal(t, tetherhttp.ProblemTaskLost, now.LastProblem.Type)

		out := b.deliver(2)
		assert.Equal(t, "running", s.status(at).State)
		a.line.set(func(l *line) { l.cut = false })
		time.Sleep(5 * time.Second)
		now = s.status(at)
		assert.Equal(t, "running", now.State)
		assert.Equal(t, 2, now.Attempt)
		close(first)
		assert.Equal(t, durable.Outcome{}, got(t, old))
		assert.Equal(t, "running", s.status(at).State)
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		now = s.status(at)
		assert.JSONEq(t, `{"right":2}`, string(now.Result))
		assert.Equal(t, 1, n)
	})
	bubble(t, "a worker that is presumed gone, and is not, goes on", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) { <-free; return nil, ctx.Err() }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		c.line.set(func(l *line) { l.cut = true })
		time.Sleep(30 * time.Second)
		s.status(at)
		assert.Equal(t, "queued", s.status(at).State)
		c.line.set(func(l *line) { l.cut = false })
		time.Sleep(3 * time.Second)
		assert.Equal(t, "running", s.status(at).State)
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a job is given to the same process again", func(t *testing.T) {
		free := []chan struct{}{1: make(chan struct{}), 2: make(chan struct{})}
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
			m, _ := durable.MetaFrom(ctx)
			select {
			case <-free[m.Attempt]:
				return map[string]int{"n": m.Attempt}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		first := c.deliver(1)
		synctest.Wait()
		second := c.deliver(2)
		assert.Equal(t, 2, s.status(at).Attempt)
		close(free[1])
		assert.Equal(t, durable.Outcome{}, got(t, first))
		now := s.status(at)
		assert.Equal(t, "running", now.State)
		s.do(1, "DELETE", at)
		assert.Equal(t, durable.Dead, got(t, second).Verdict)
		assert.Equal(t, "canceled", s.status(at).State)
	})
	bubble(t, "an attempt that begins after the next one has is not recorded", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
			if m, _ := durable.MetaFrom(ctx); m.Attempt == 1 {
				return nil, errTest
			}
			<-free
			return nil, nil
		}, options)
		at := s.post()
		a, b := s.newWorker(tetherhttp.StoreConfig{}), s.newWorker(tetherhttp.StoreConfig{})
		out := b.deliver(2)
		assert.Equal(t, 2, s.status(at).Attempt)
		assert.Equal(t, durable.Retry, got(t, a.deliver(1)).Verdict)
		now := s.status(at)
		assert.Equal(t, 2, now.Attempt)
		assert.Equal(t, "running", now.State)
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "of two workers with the same attempt, the second one is recorded", func(t *testing.T) {
		for _, end := range []error{nil, durable.Permanent(errTest)} {
			free, n := []chan struct{}{make(chan struct{}), make(chan struct{})}, -1
			s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
				n++
				me := n
				tether.ReportProgress(ctx, tether.Progress{Done: int64(me + 1)})
				<-free[me]
				if me == 1 {
					return map[string]int{"n": me}, end
				}
				return nil, errTest
			}, options)
			at := s.post()
			a, b := s.newWorker(tetherhttp.StoreConfig{}), s.newWorker(tetherhttp.StoreConfig{})
			old := a.deliver(1)
			synctest.Wait()
			a.line.set(func(l *line) { l.cut = true })
			out := b.deliver(1)
			time.Sleep(time.Second)
			assert.Equal(t, int64(2), s.status(at).Progress.Done)
			if end == nil { // the first one ends before the second one
				a.line.set(func(l *line) { l.cut = false })
				close(free[0])
				assert.Equal(t, durable.Retry, got(t, old).Verdict)
				assert.Equal(t, "running", s.status(at).State)
				close(free[1])
				assert.Equal(t, durable.Outcome{}, got(t, out))
				assert.Equal(t, "succeeded", s.status(at).State)
				continue
			}
			close(free[1])
			assert.Equal(t, durable.Dead, got(t, out).Verdict)
			a.line.set(func(l *line) { l.cut = false })
			close(free[0])
			assert.Equal(t, durable.Retry, got(t, old).Verdict)
			assert.Equal(t, "failed", s.status(at).State)
		}
	})
	bubble(t, "a job whose result is stored is not run again", func(t *testing.T) {
		n := 0
		s := track(t, func(context.Context, order) (map[string]int, error) { n++; return map[string]int{"n": n}, nil }, options)
		at := s.post()
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)))
		// The process ends before the engine has stored the outcome.
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Outcome{}, got(t, c.hand(durable.Delivery{Message: s.engine.taken()[0], Attempt: 2, Crashed: true, Pardoned: 1})))
		assert.Equal(t, 1, n)
		assert.JSONEq(t, `{"n":1}`, string(s.status(at).Result))
		assert.Len(t, c.book.about("done in an earlier attempt"), 1)
	})
	bubble(t, "the store is away when an attempt begins: it is made, and stored later", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(context.Context, order) (map[string]int, error) { <-free; return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		c.line.set(func(l *line) { l.cut = true })
		out := c.deliver(1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, "queued", s.status(at).State)
		c.line.set(func(l *line) { l.cut = false })
		time.Sleep(3 * time.Second)
		assert.Equal(t, "running", s.status(at).State)
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
	})
	bubble(t, "a store that hangs delays an attempt by its Timeout", func(t *testing.T) {
		began := make(chan time.Time, 1)
		s := track(t, func(context.Context, order) (map[string]int, error) { began <- time.Now(); return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{Timeout: time.Second})
		hang := make(chan struct{})
		c.line.set(func(l *line) { l.hang = hang })
		start := time.Now()
		out := c.deliver(1)
		assert.Equal(t, time.Second, (<-began).Sub(start))
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, 11*time.Second, time.Since(start), "it waits for the end to be stored")
		assert.Len(t, c.book.about("not stored yet"), 1)
		c.line.set(func(l *line) { l.hang = nil })
		close(hang)
		time.Sleep(3 * time.Second)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "the store is away when an attempt ends, and its answers are lost", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(context.Context, order) (map[string]int, error) { <-free; return map[string]int{"n": 1}, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		out := c.deliver(1)
		synctest.Wait()
		c.line.set(func(l *line) { l.lost = true })
		close(free)
		pending(t, out)
		time.Sleep(2 * time.Second)
		c.line.set(func(l *line) { l.lost = false })
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.JSONEq(t, `{"n":1}`, string(s.status(at).Result))
	})
	bubble(t, "the store has lost its data", func(t *testing.T) {
		free := make(chan struct{})
		s := track(t, func(context.Context, order) (map[string]int, error) { <-free; return nil, nil }, options)
		at := s.post()
		c := s.newWorker(tetherhttp.StoreConfig{})
		s.memory.Clear()
		s.is(410, tetherhttp.ProblemTaskForgotten, at)
		out := c.deliver(1)
		assert.Equal(t, "running", s.status(at).State)
		s.memory.Clear()
		close(free)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "the lookup does not wait for a store that hangs", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return nil, nil }, options)
		at := s.post()
		hang := make(chan struct{})
		defer close(hang)
		s.lines[0].set(func(l *line) { l.hang = hang })
		began := time.Now()
		w := s.do(0, "GET", at)
		assert.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.LessOrEqual(t, time.Since(began), 3*time.Second)
		_, err := s.stores[0].Find(t.Context(), s.engine.taken()[0].ID)
		assert.ErrorIs(t, err, tetherhttp.ErrStoreUnavailable)
		assert.Equal(t, http.StatusOK, s.do(1, "GET", at).Code)
	})
	bubble(t, "a record of a newer version", func(t *testing.T) {
		n := 0
		s := track(t, func(context.Context, order) (map[string]int, error) { n++; return nil, nil }, options)
		at := s.post()
		key := "shop/task/" + strings.TrimPrefix(at, "/tasks/")
		found, err := s.memory.Get(t.Context(), key)
		require.NoError(t, err)
		newer := found[0]
		newer.Tag, newer.Version, newer.Keep = "7-newer", newer.Version+1, time.Hour
		require.NoError(t, s.memory.Swap(t.Context(), found[0].Tag, newer))
		s.is(503, tetherhttp.ProblemStoreUnavailable, at)
		assert.Equal(t, http.StatusServiceUnavailable, s.do(0, "DELETE", at).Code)
		out := s.newWorker(tetherhttp.StoreConfig{}).deliver(1)
		assert.Equal(t, durable.Outcome{}, got(t, out))
		assert.Equal(t, 1, n, "the job is done")
		found, err = s.memory.Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, "7-newer", found[0].Tag, "what is there is not replaced")
	})
	bubble(t, "a result that is too large, or cannot be encoded", func(t *testing.T) {
		rows := map[string]int{strings.Repeat("x", 2000): 1}
		s := track(t, func(context.Context, order) (map[string]int, error) { return rows, nil }, options)
		at := s.post()
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{MaxResult: 1000}).deliver(1)))
		now := s.status(at)
		assert.Equal(t, "succeeded", now.State)
		assert.Equal(t, tetherhttp.ProblemResultTooLarge, now.Problem.Type)
		assert.Nil(t, now.Result)

		s.job = durable.DefineResult("report", func(context.Context, order) (func(), error) { return func() {}, nil }, options)
		at = s.post()
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)))
		assert.Equal(t, tetherhttp.ProblemFailed, s.status(at).Problem.Type)
	})
	bubble(t, "an error whose methods panic", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return nil, (*badError)(nil) }, options)
		at := s.post()
		assert.Equal(t, durable.Retry, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)).Verdict)
		assert.Equal(t, tetherhttp.ProblemFailed, s.status(at).LastProblem.Type)
	})
	bubble(t, "a storm of progress is written four times a second", func(t *testing.T) {
		s := track(t, func(ctx context.Context, _ order) (map[string]int, error) {
			for i := range int64(10_000) {
				tether.ReportProgress(ctx, tether.Progress{Done: i + 1})
				time.Sleep(time.Millisecond)
			}
			return nil, nil
		}, options)
		at := s.post()
		before := s.memory.Calls("Swap")
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)))
		assert.Equal(t, "succeeded", s.status(at).State)
		assert.InDelta(t, 10*4, s.memory.Calls("Swap")-before, 4)
	})
	bubble(t, "a job costs a write when it is enqueued, and two for its attempt", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return nil, nil }, options)
		s.post()
		assert.Equal(t, 1, s.memory.Calls("Swap"))
		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)))
		assert.Equal(t, 3, s.memory.Calls("Swap"))
		assert.Equal(t, 1, s.memory.Calls("Get"), "that of the 202")
	})
}
