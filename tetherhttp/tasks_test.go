package tetherhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// untilCanceled is a body that runs until its context is canceled, and returns the cause.
func untilCanceled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func succeed(context.Context) error { return nil }

// start submits a task that must be admitted.
func start(t testing.TB, r tether.Submitter, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Go(context.Background(), "task", fn, opts...)
	require.NoError(t, err)
	return task
}

// steps is a body that reports progress whenever it is sent some, until there is no
// more.
func steps(c <-chan tether.Progress) tether.Func {
	return func(ctx context.Context) error {
		for {
			select {
			case p, more := <-c:
				if !more {
					return nil
				}
				tether.ReportProgress(ctx, p)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

func at(task *tether.Task) string { return "/tasks/" + task.ID() }

func TestTasksStatus(t *testing.T) {
	type fields = map[string]any
	// The clock of a bubble starts here.
	const began, second, third = "2000-01-01T00:00:00Z", "2000-01-01T00:00:01Z", "2000-01-01T00:00:02Z"
	problem := func(kind string, status int, title, detail string) fields {
		p := fields{"type": kind, "status": float64(status), "title": title}
		if detail != "" {
			p["detail"] = detail
		}
		return p
	}
	for name, test := range map[string]struct {
		task func(t *testing.T, reg *tether.Registry) *tether.Task // which is looked at two seconds later
		want fields
	}{
		"held": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task := start(t, reg, succeed, tether.Hold())
			t.Cleanup(func() { task.Release() })
			return task
		}, fields{"state": "held", "done": false}},
		"queued": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			return start(t, reg, succeed, tether.Delay(time.Hour))
		}, fields{"state": "queued", "done": false}},
		"running": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			return start(t, reg, untilCanceled)
		}, fields{"state": "running", "done": false, "started": began, "attempt": 1.0}},
		"running, with progress": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			c := make(chan tether.Progress, 1)
			c <- tether.Progress{Done: 3, Total: 10, Message: "halfway <&>"}
			return start(t, reg, steps(c))
		}, fields{"state": "running", "done": false, "started": began, "attempt": 1.0,
			"progress": fields{"done": 3.0, "total": 10.0, "message": "halfway <&>"}}},
		"running, with little progress": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			c := make(chan tether.Progress, 1)
			c <- tether.Progress{Total: 10}
			return start(t, reg, steps(c))
		}, fields{"state": "running", "done": false, "started": began, "attempt": 1.0, "progress": fields{"done": 0.0, "total": 10.0}}},
		"in its second attempt": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			first := true
			return start(t, reg, func(ctx context.Context) error {
				if first {
					first = false
					return errTest
				}
				return untilCanceled(ctx)
			}, tether.Delay(time.Second), tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 1 }}))
		}, fields{"state": "running", "done": false, "started": second, "attempt": 2.0}},
		"succeeded, with a result": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task, err := tether.Submit(t.Context(), reg, "task", func(context.Context) (report, error) {
				time.Sleep(time.Second)
				return report{7}, nil
			})
			require.NoError(t, err)
			require.True(t, task.Keep())
			return task.Task
		}, fields{"state": "succeeded", "done": true, "started": began, "finished": second, "attempt": 1.0, "result": fields{"pages": 7.0}}},
		"succeeded, without one": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			return start(t, reg, succeed, tether.Delay(2*time.Second))
		}, fields{"state": "succeeded", "done": true, "started": third, "finished": third, "attempt": 1.0}},
		"succeeded, with false": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task, err := tether.Submit(t.Context(), reg, "task", func(context.Context) (bool, error) { return false, nil })
			require.NoError(t, err)
			require.True(t, task.Keep())
			return task.Task
		}, fields{"state": "succeeded", "done": true, "started": began, "finished": began, "attempt": 1.0, "result": false}},
		"succeeded, with a result that writes itself": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task, err := tether.Submit(t.Context(), reg, "task", func(context.Context) (teapot, error) { return teapot{"short"}, nil })
			require.NoError(t, err)
			require.True(t, task.Keep())
			return task.Task
		}, fields{"state": "succeeded", "done": true, "started": began, "finished": began, "attempt": 1.0}},
		"failed": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			return start(t, reg, func(context.Context) error { return errTest })
		}, fields{"state": "failed", "done": true, "started": began, "finished": began, "attempt": 1.0,
			"problem": problem(tetherhttp.ProblemFailed, 500, "Failed", "")}},
		"panicked": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			return start(t, reg, func(context.Context) error { panic("test panic") })
		}, fields{"state": "panicked", "done": true, "started": began, "finished": began, "attempt": 1.0,
			"problem": problem(tetherhttp.ProblemFailed, 500, "Failed", "")}},
		"canceled": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task := start(t, reg, untilCanceled)
			synctest.Wait()
			task.Cancel(tetherhttp.ErrCanceled)
			return task
		}, fields{"state": "canceled", "done": true, "started": began, "finished": began, "attempt": 1.0,
			"problem": problem(tetherhttp.ProblemCanceled, 410, "Canceled", "the work was canceled on request")}},
		"dropped": {func(t *testing.T, reg *tether.Registry) *tether.Task {
			task := start(t, reg, succeed, tether.Hold())
			time.Sleep(time.Second)
			task.Cancel(errTest)
			return task
		}, fields{"state": "dropped", "done": true, "finished": second, "problem": problem(tetherhttp.ProblemFailed, 500, "Failed", "")}},
	} {
		bubble(t, name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			t0 := time.Now()
			task := test.task(t, reg)
			time.Sleep(2*time.Second - time.Since(t0))
			synctest.Wait()
			w := ask(t, tetherhttp.Tasks(reg), request("GET", at(task), ""))
			require.Equal(t, http.StatusOK, w.Code)
			var got fields
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			test.want["id"], test.want["name"], test.want["submitted"] = task.ID(), "task", began
			header := http.Header{
				"Cache-Control":          {"no-store"},
				"Content-Length":         {fmt.Sprint(w.Body.Len())},
				"Content-Type":           {"application/json"},
				"Etag":                   w.Header()["Etag"],
				"Vary":                   {"Accept, Prefer"},
				"X-Content-Type-Options": {"nosniff"},
			}
			if test.want["done"] == true {
				test.want["result_url"] = task.ID() + "/result"
				header["Link"] = []string{"<" + task.ID() + `/result>; rel="result"`}
			} else {
				header["Retry-After"] = []string{"1"}
			}
			assert.Equal(t, test.want, got)
			assert.Equal(t, header, w.Header())
			assert.Regexp(t, `^"[0-9a-f]{24}"$`, w.Header().Get("ETag"))
			task.Cancel(nil)
		})
	}
	overTheNetwork(t, "HEAD", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		n.serve(t, n.server(tetherhttp.Tasks(reg)), version == 2)
		c := clientOf(t, n, version)
		synctest.Wait()
		full := look(t, c, outbound(t.Context(), "GET", at(task), nil))
		head := look(t, c, outbound(t.Context(), "HEAD", at(task), nil))
		full.body = ""
		assert.Equal(t, full, head)
		task.Cancel(nil)
	})
	bubble(t, "what others have put into Vary stays", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		for _, accept := range []string{"application/json", "text/event-stream"} {
			w := httptest.NewRecorder()
			w.Header().Set("Vary", "Origin")
			tetherhttp.Tasks(reg).ServeHTTP(w, request("GET", at(task), "", "Accept", accept))
			assert.Contains(t, w.Header().Values("Vary"), "Origin")
			assert.Contains(t, w.Header().Values("Vary"), "Accept, Prefer")
		}
	})
	t.Run("nil is a panic", func(t *testing.T) {
		assert.Panics(t, func() { tetherhttp.Tasks(nil) })
		assert.Panics(t, func() {
			tetherhttp.Tasks(newRegistry(t, tether.Config{}), tetherhttp.TasksConfig{}, tetherhttp.TasksConfig{})
		})
	})
}

func TestTasksConditional(t *testing.T) {
	bubble(t, "304 if nothing has changed", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		tag := ask(t, h, request("GET", at(task), "")).Header().Get("ETag")
		require.Equal(t, tag, ask(t, h, request("GET", at(task), "")).Header().Get("ETag"))
		same := [][]string{{tag}, {"W/" + tag}, {`"a, b", ` + tag}, {`"a","b"`, `W/"c" , W/` + tag + "\t"}, {"*"}}
		other := [][]string{{`"a"`}, {tag[1:]}, {strings.Trim(tag, `"`)}, {""}}
		for _, have := range same {
			r := request("GET", at(task), "")
			r.Header["If-None-Match"] = have
			w := ask(t, h, r)
			assert.Equal(t, http.StatusNotModified, w.Code, have)
			assert.Zero(t, w.Body.Len())
			assert.Equal(t, http.Header{"Cache-Control": {"no-store"}, "Etag": {tag}, "Retry-After": {"1"}, "Vary": {"Accept, Prefer"}}, w.Header())
		}
		for _, have := range other {
			r := request("GET", at(task), "")
			r.Header["If-None-Match"] = have
			assert.Equal(t, http.StatusOK, ask(t, h, r).Code, have)
		}
		c <- tether.Progress{Done: 1}
		synctest.Wait()
		w := ask(t, h, request("GET", at(task), "", "If-None-Match", tag))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.NotEqual(t, tag, w.Header().Get("ETag"))
		close(c)
		synctest.Wait()
		done := ask(t, h, request("GET", at(task), "")).Header().Get("ETag")
		w = ask(t, h, request("GET", at(task), "", "If-None-Match", done))
		assert.Equal(t, http.StatusNotModified, w.Code)
		assert.Empty(t, w.Header().Get("Retry-After"))
	})
}

func TestTasksWait(t *testing.T) {
	// poll asks for a status, and tells how long the answer took.
	poll := func(t *testing.T, h http.Handler, task *tether.Task, header ...string) (*asked, time.Duration) {
		t.Helper()
		began := time.Now()
		w := ask(t, h, request("GET", at(task), "", header...))
		return w, time.Since(began)
	}
	sleeps := func(d time.Duration) tether.Func {
		return func(context.Context) error { time.Sleep(d); return nil }
	}
	bubble(t, "until the end", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		go func() {
			time.Sleep(time.Second)
			c <- tether.Progress{Done: 1} // not what is waited for
			time.Sleep(2 * time.Second)
			close(c)
		}()
		w, took := poll(t, tetherhttp.Tasks(reg), task, "Prefer", "wait=10")
		assert.Equal(t, 3*time.Second, took)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.True(t, readStatus(t, w.Body.Bytes()).Done)
		assert.Equal(t, "wait=10", w.Header().Get("Preference-Applied"))
		assert.Empty(t, w.Header().Get("Retry-After"))
		_, took = poll(t, tetherhttp.Tasks(reg), task, "Prefer", "wait=10")
		assert.Zero(t, took, "it has ended")
	})
	bubble(t, "as long as it was asked to", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, sleeps(20*time.Second))
		w, took := poll(t, tetherhttp.Tasks(reg), task, "Prefer", "wait=10")
		assert.Equal(t, 10*time.Second, took)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "running", readStatus(t, w.Body.Bytes()).State)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
	})
	bubble(t, "no longer than MaxWait, which is 30 s", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, sleeps(time.Minute-time.Second))
		for _, test := range []struct {
			opts    []tetherhttp.TasksConfig
			prefer  string
			took    time.Duration
			applied string
		}{
			{nil, "wait=31", 30 * time.Second, ""},
			{[]tetherhttp.TasksConfig{{MaxWait: 5 * time.Second}}, "wait=6", 5 * time.Second, ""},
			{[]tetherhttp.TasksConfig{{MaxWait: 5 * time.Second}}, "wait=5", 5 * time.Second, "wait=5"},
			{[]tetherhttp.TasksConfig{{MaxWait: -1}}, "wait=5", 0, ""},
			{nil, "wait=0", 0, "wait=0"},
			{nil, "respond-async", 0, ""},
			{nil, "wait=x", 0, ""},
		} {
			w, took := poll(t, tetherhttp.Tasks(reg, test.opts...), task, "Prefer", test.prefer)
			assert.Equal(t, test.took, took, test.prefer)
			assert.Equal(t, test.applied, w.Header().Get("Preference-Applied"))
		}
	})
	bubble(t, "until any change, if it is told what the client has", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		w, _ := poll(t, h, task)
		tag := w.Header().Get("ETag")
		w, took := poll(t, h, task, "Prefer", "wait=10", "If-None-Match", tag)
		assert.Equal(t, http.StatusNotModified, w.Code)
		assert.Equal(t, 10*time.Second, took)
		go func() {
			time.Sleep(2 * time.Second)
			c <- tether.Progress{Done: 1}
		}()
		w, took = poll(t, h, task, "Prefer", "wait=10", "If-None-Match", tag)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, 2*time.Second, took)
		assert.Equal(t, map[string]any{"done": 1.0}, readStatus(t, w.Body.Bytes()).Progress)
		_, took = poll(t, h, task, "Prefer", "wait=10", "If-None-Match", tag)
		assert.Zero(t, took, "there was a change since")
		close(c)
		synctest.Wait()
		w, _ = poll(t, h, task)
		w, took = poll(t, h, task, "Prefer", "wait=10", "If-None-Match", w.Header().Get("ETag"))
		assert.Equal(t, http.StatusNotModified, w.Code)
		assert.Zero(t, took, "there will be no other")
	})
	bubble(t, "an answer, even if the observer is slow with the end", func(t *testing.T) {
		ended := make(chan struct{})
		reg := newRegistry(t, tether.Config{Observer: slowEnd{until: ended}})
		t.Cleanup(func() { close(ended) })
		task := start(t, reg, succeed)
		synctest.Wait()
		w := httptest.NewRecorder()
		began := time.Now()
		tetherhttp.Tasks(reg).ServeHTTP(w, request("GET", at(task), "", "Prefer", "wait=2"))
		assert.Equal(t, 2*time.Second, time.Since(began))
		assert.Equal(t, task.ID(), readStatus(t, w.Body.Bytes()).ID)
	})
	bubble(t, "no longer than the client", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, sleeps(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		ask(t, tetherhttp.Tasks(reg), request("GET", at(task), "", "Prefer", "wait=20").WithContext(ctx))
		assert.Equal(t, time.Second, time.Since(began))
	})
	bubble(t, "no longer for a reader that does not read", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, sleeps(20*time.Second))
		n := newMemNet(0)
		srv := n.server(tetherhttp.Tasks(reg))
		srv.WriteTimeout = time.Second
		assert.Equal(t, 11*time.Second, n.cutOff(t, srv, "GET "+at(task)+" HTTP/1.1\r\nHost: test\r\nPrefer: wait=10\r\n\r\n"))
	})
	overTheNetwork(t, "longer than the server's limits", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, sleeps(20*time.Second))
		srv := n.server(tetherhttp.Tasks(reg))
		srv.ReadTimeout, srv.WriteTimeout = time.Second, time.Second
		n.serve(t, srv, version == 2)
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "GET", at(task), nil, "Prefer", "wait=30"))
		require.NoError(t, err)
		assert.True(t, readStatus(t, []byte(readAll(t, res))).Done)
	})
}

// event is a server-sent event, and when it came.
type event struct {
	name, id string
	status   statusJSON
	at       time.Duration
}

// eventLog is a ResponseWriter that keeps what is written and when. It is read when the
// handler has returned, or all goroutines of the bubble wait.
type eventLog struct {
	*httptest.ResponseRecorder
	began   time.Time
	flushed int // bytes
	chunks  []chunk
}

type chunk struct {
	text string
	at   time.Duration
}

func newEventLog() *eventLog {
	return &eventLog{ResponseRecorder: httptest.NewRecorder(), began: time.Now()}
}

func (s *eventLog) Flush() {
	s.ResponseRecorder.Flush()
	if text := s.Body.String()[s.flushed:]; text != "" {
		s.chunks = append(s.chunks, chunk{text, time.Since(s.began)})
		s.flushed += len(text)
	}
}

// events returns what was flushed of events.
func (s *eventLog) events(t testing.TB) (events []event) {
	t.Helper()
	for _, c := range s.chunks {
		if !strings.Contains(c.text, "event:") {
			continue
		}
		e := readEvent(t, bufio.NewReader(strings.NewReader(c.text)))
		e.at = c.at
		events = append(events, e)
	}
	return events
}

// readEvent reads the next event, and skips what else there is.
func readEvent(t testing.TB, r *bufio.Reader) (e event) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.status = readStatus(t, []byte(value))
		case "":
			if e.name != "" {
				return e
			}
		}
	}
}

func follow(task *tether.Task, header ...string) *http.Request {
	return request("GET", at(task), "", append(header, "Accept", "text/event-stream")...)
}

func TestTasksEvents(t *testing.T) {
	bubble(t, "each change is an event, and done is the last", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			c <- tether.Progress{Done: 1}
			c <- tether.Progress{Done: 1} // no change
			time.Sleep(time.Second)
			close(c)
		}()
		h := tetherhttp.Tasks(reg)
		s := newEventLog()
		h.ServeHTTP(s, follow(task))
		assert.Equal(t, 200, s.Code)
		assert.Equal(t, http.Header{
			"Cache-Control":     {"no-store"},
			"Content-Type":      {"text/event-stream"},
			"Vary":              {"Accept, Prefer"},
			"X-Accel-Buffering": {"no"},
		}, s.Header())
		assert.Regexp(t, "^retry: 1000\n\nevent: status\nid: \"[0-9a-f]+\"\ndata: {.*}\n\n$", s.chunks[0].text)
		events := s.events(t)
		require.Len(t, events, 3)
		var states, names []string
		var times []time.Duration
		for _, e := range events {
			states, names, times = append(states, e.status.State), append(names, e.name), append(times, e.at)
			assert.Equal(t, e.name == "done", e.status.Done)
		}
		assert.Equal(t, []string{"running", "running", "succeeded"}, states)
		assert.Equal(t, []string{"status", "status", "done"}, names)
		assert.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, times)
		assert.Equal(t, 1.0, events[1].status.Progress["done"])
		last := ask(t, h, request("GET", at(task), ""))
		assert.Equal(t, last.Header().Get("ETag"), events[2].id)
		assert.Equal(t, readStatus(t, last.Body.Bytes()), events[2].status)
	})
	bubble(t, "a client that reconnects after the end is told that it was the end", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		s := newEventLog()
		h.ServeHTTP(s, follow(task))
		events := s.events(t)
		require.Len(t, events, 1)
		w := ask(t, h, follow(task, "Last-Event-ID", events[0].id))
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Zero(t, w.Body.Len())
		for _, id := range []string{`"000000000000000000000000"`, "", "\x00,;", strings.Repeat("x", 10_000)} {
			s := newEventLog()
			h.ServeHTTP(s, follow(task, "Last-Event-ID", id))
			assert.Equal(t, 200, s.Code)
			assert.Equal(t, events[0].status, s.events(t)[0].status)
		}
	})
	bubble(t, "a client that reconnects before the end is sent the current state", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		id := ask(t, h, request("GET", at(task), "")).Header().Get("ETag")
		go func() {
			time.Sleep(time.Second)
			close(c)
		}()
		s := newEventLog()
		h.ServeHTTP(s, follow(task, "Last-Event-ID", id))
		events := s.events(t)
		require.Len(t, events, 2)
		assert.Equal(t, id, events[0].id)
		assert.Equal(t, "done", events[1].name)
		assert.Equal(t, time.Second, events[1].at)
	})
	bubble(t, "a sign of life every 15 s", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		go func() {
			time.Sleep(50 * time.Second)
			close(c)
		}()
		s := newEventLog()
		tetherhttp.Tasks(reg).ServeHTTP(s, follow(task))
		var beats []time.Duration
		for _, c := range s.chunks {
			if c.text == ":\n\n" {
				beats = append(beats, c.at)
			}
		}
		assert.Equal(t, []time.Duration{15 * time.Second, 30 * time.Second, 45 * time.Second}, beats)
		assert.Len(t, s.events(t), 2)
	})
	bubble(t, "ten events a second in the long run, and the last one always", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(ctx context.Context) error {
			for i := range int64(1005) {
				time.Sleep(10 * time.Millisecond)
				tether.ReportProgress(ctx, tether.Progress{Done: i + 1})
			}
			return nil
		})
		synctest.Wait()
		s := newEventLog()
		tetherhttp.Tasks(reg).ServeHTTP(s, follow(task))
		events := s.events(t)
		assert.Less(t, len(events), 120)
		assert.Greater(t, len(events), 100)
		assert.Less(t, events[2].at-events[1].at, 50*time.Millisecond, "the first ones come quickly")
		for i := 1; i < len(events); i++ {
			assert.GreaterOrEqual(t, events[i].at-events[i-1].at, time.Duration(min(i-1, 20))*5*time.Millisecond)
		}
		last := events[len(events)-1]
		assert.Equal(t, "done", last.name)
		assert.Equal(t, 1005.0, last.status.Progress["done"])
	})
	bubble(t, "a client that goes", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := newEventLog()
		tetherhttp.Tasks(reg).ServeHTTP(s, follow(task).WithContext(ctx))
		assert.Equal(t, time.Minute, time.Since(s.began))
		assert.Equal(t, tether.Running, task.State())
		task.Cancel(nil)
	})
	bubble(t, "a client that goes in the pause after an event", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress, 1)
		c <- tether.Progress{Done: 1}
		task := start(t, reg, steps(c))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		s := newEventLog()
		tetherhttp.Tasks(reg).ServeHTTP(s, follow(task).WithContext(ctx))
		assert.Equal(t, time.Millisecond, time.Since(s.began))
		task.Cancel(nil)
	})
	overTheNetwork(t, "longer than the server's limits", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		srv := n.server(tetherhttp.Tasks(reg))
		srv.ReadTimeout, srv.WriteTimeout = time.Second, time.Second
		n.serve(t, srv, version == 2)
		go func() {
			for i := range int64(5) {
				time.Sleep(40 * time.Second)
				c <- tether.Progress{Done: i + 1}
			}
			time.Sleep(40 * time.Second)
			close(c)
		}()
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "GET", at(task), nil, "Accept", "text/event-stream"))
		require.NoError(t, err)
		r := bufio.NewReader(res.Body)
		for i := range 7 {
			e := readEvent(t, r)
			assert.Equal(t, i == 6, e.name == "done")
		}
		rest, err := io.ReadAll(r)
		assert.NoError(t, err)
		assert.Empty(t, rest, "the stream ends by itself")
		require.NoError(t, res.Body.Close())
	})
	bubble(t, "a reader that never reads holds nothing up, and is cut off after 30 s", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(ctx context.Context) error {
			for i := range int64(100) {
				tether.ReportProgress(ctx, tether.Progress{Done: i})
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		n := newMemNet(0)
		began := time.Now()
		returned := make(chan time.Duration, 1)
		h := tetherhttp.Tasks(reg)
		n.serve(t, n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			returned <- time.Since(began)
		})), false)
		conn, err := n.dial(t.Context(), "", "")
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n", at(task))
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
		assert.Equal(t, 10*time.Second, time.Since(began))
		assert.Equal(t, 30*time.Second, <-returned)
		require.NoError(t, conn.Close())
	})
	bubble(t, "a thousand readers of one task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(ctx context.Context) error {
			for i := range int64(4) {
				time.Sleep(500 * time.Millisecond)
				tether.ReportProgress(ctx, tether.Progress{Done: i})
			}
			return nil
		})
		h := tetherhttp.Tasks(reg)
		began := time.Now()
		last := make(chan string, 1000)
		for range 1000 {
			go func() {
				s := newEventLog()
				h.ServeHTTP(s, follow(task))
				last <- s.chunks[len(s.chunks)-1].text
			}()
		}
		require.NoError(t, task.Wait(t.Context()))
		assert.Equal(t, 2*time.Second, time.Since(began), "they hold nothing up")
		for range 1000 {
			require.True(t, strings.HasPrefix(<-last, "event: done\n"))
		}
	})
	overTheNetwork(t, "HEAD", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		h, returned := tetherhttp.Tasks(reg), make(chan bool, 1)
		n.serve(t, n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			returned <- true
		})), version == 2)
		began := time.Now()
		got := look(t, clientOf(t, n, version), outbound(t.Context(), "HEAD", at(task), nil, "Accept", "text/event-stream"))
		synctest.Wait()
		assert.Len(t, returned, 1)
		assert.Equal(t, 200, got.status)
		assert.Equal(t, "text/event-stream", got.header.Get("Content-Type"))
		assert.Empty(t, got.body)
		assert.Zero(t, time.Since(began))
		task.Cancel(nil)
	})
	bubble(t, "behind a writer that cannot flush, each attempt tells how it is", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		c := make(chan tether.Progress)
		task := start(t, reg, steps(c))
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		w := httptest.NewRecorder()
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, follow(task))
		assert.Contains(t, w.Body.String(), `"state":"running"`)
		close(c)
		require.NoError(t, task.Wait(t.Context()))
		w = httptest.NewRecorder()
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, follow(task))
		assert.Contains(t, w.Body.String(), "event: done\n")
	})
	bubble(t, "only for requests that prefer it to JSON", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		synctest.Wait()
		for _, test := range []struct {
			accept []string
			events bool
		}{
			{[]string{"text/event-stream"}, true},
			{[]string{"TEXT/Event-Stream ; q=0.9"}, true},
			{[]string{"text/html, text/event-stream"}, true},
			{[]string{"text/html", "text/event-stream"}, true},
			{[]string{"text/event-stream, */*"}, true},
			{nil, false},
			{[]string{""}, false},
			{[]string{"*/*"}, false},
			{[]string{"text/*"}, true}, // JSON is not acceptable then
			{[]string{"application/json"}, false},
			{[]string{"text/event-stream, application/json"}, false},
			{[]string{"text/event-stream", "Application/JSON;q=0.1"}, true},
			{[]string{"text/event-stream;q=0.1", "Application/JSON"}, false},
			{[]string{"text/event-streams"}, false},
			{[]string{`text/html;a=", text/event-stream"`}, false},
		} {
			r := request("GET", at(task), "")
			r.Header["Accept"] = test.accept
			want := "application/json"
			if test.events {
				want = "text/event-stream"
			}
			assert.Equal(t, want, ask(t, tetherhttp.Tasks(reg), r).Header().Get("Content-Type"), test.accept)
		}
	})
	bubble(t, "a retry's wait is a state like others", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(ctx context.Context) error {
			time.Sleep(time.Second)
			me, _ := tether.FromContext(ctx)
			if me.Info().Attempt == 1 {
				return errTest
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
		synctest.Wait()
		s := newEventLog()
		tetherhttp.Tasks(reg).ServeHTTP(s, follow(task))
		var got []string
		for _, e := range s.events(t) {
			got = append(got, fmt.Sprint(e.status.State, " ", e.status.Attempt))
		}
		assert.Equal(t, []string{"running 1", "queued 2", "running 2", "succeeded 2"}, got)
	})
}

// What waits must not hold a server's shutdown up.
func TestTasksShutdown(t *testing.T) {
	for name, header := range map[string][]string{
		"a stream ends":    {"Accept", "text/event-stream"},
		"a long poll ends": {"Prefer", "wait=30"},
	} {
		overTheNetwork(t, name+" with the server", func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			task := start(t, reg, untilCanceled)
			srv := n.server(tetherhttp.Tasks(reg))
			n.serve(t, srv, version == 2)
			c := clientOf(t, n, version)
			answer, applied := make(chan string, 1), make(chan string, 1)
			go func() {
				res, err := c.Do(outbound(t.Context(), "GET", at(task), nil, header...))
				if assert.NoError(t, err) {
					applied <- res.Header.Get("Preference-Applied")
					answer <- readAll(t, res)
				}
			}()
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, srv.Shutdown(ctx))
			assert.Contains(t, <-answer, `"state":"running"`)
			assert.Empty(t, <-applied, "it was cut short")
			assert.Equal(t, tether.Running, task.State())
			task.Cancel(nil)
		})
		overTheNetwork(t, name+" when it comes late", func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			task := start(t, reg, func(ctx context.Context) error { return untilCanceled(ctx) })
			synctest.Wait()
			tasks := tetherhttp.Tasks(reg)
			in, on := make(chan struct{}), make(chan struct{})
			srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(in)
				<-on
				tasks.ServeHTTP(w, r)
			}))
			n.serve(t, srv, version == 2)
			answer := make(chan string, 1)
			go func() {
				res, err := clientOf(t, n, version).Do(outbound(t.Context(), "GET", at(task), nil, header...))
				if assert.NoError(t, err) {
					answer <- readAll(t, res)
				}
			}()
			<-in
			// As ListenAndServe does: Ready is over before the server's Shutdown begins.
			drained := make(chan error, 1)
			go func() { drained <- reg.Shutdown(context.Background()) }()
			synctest.Wait()
			require.False(t, reg.Ready())
			stopped := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			go func() { stopped <- srv.Shutdown(ctx) }()
			synctest.Wait()
			close(on)
			assert.Contains(t, <-answer, `"state":"running"`)
			require.NoError(t, <-stopped)
			task.Cancel(nil)
			require.NoError(t, <-drained)
		})
	}
	bubble(t, "streams leave nothing behind at the server", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		h := tetherhttp.Tasks(reg)
		srv := new(http.Server)
		for range 10 {
			h.ServeHTTP(newEventLog(), follow(task).WithContext(context.WithValue(t.Context(), http.ServerContextKey, srv)))
		}
		// Nothing public tells how much is registered.
		if hooks := reflect.ValueOf(srv).Elem().FieldByName("onShutdown"); hooks.IsValid() {
			assert.Equal(t, 1, hooks.Len())
		}
	})
	bubble(t, "of one server of two", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		h := tetherhttp.Tasks(reg)
		stopping, staying := new(http.Server), new(http.Server)
		returned := make(chan *http.Server, 3)
		for _, srv := range []*http.Server{stopping, staying, stopping} {
			go func() {
				ctx := context.WithValue(t.Context(), http.ServerContextKey, srv)
				h.ServeHTTP(newEventLog(), follow(task).WithContext(ctx))
				returned <- srv
			}()
		}
		synctest.Wait()
		require.NoError(t, stopping.Shutdown(t.Context()))
		synctest.Wait()
		require.Len(t, returned, 2)
		assert.Same(t, stopping, <-returned)
		assert.Same(t, stopping, <-returned)
		task.Cancel(nil)
		assert.Same(t, staying, <-returned)
	})
}

func TestTasksResult(t *testing.T) {
	bubble(t, "409 before the end", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		w := ask(t, tetherhttp.Tasks(reg), request("GET", at(task)+"/result", "", "Accept", "text/event-stream"))
		assert.Equal(t, http.StatusConflict, w.problem(t).Status)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		task.Cancel(nil)
	})
	bubble(t, "the answer after it, as often as it is asked for", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task, err := tether.Submit(t.Context(), reg, "task", func(context.Context) (report, error) { return report{7}, nil })
		require.NoError(t, err)
		require.True(t, task.Keep())
		synctest.Wait()
		for range 2 {
			w := ask(t, tetherhttp.Tasks(reg), request("GET", at(task.Task)+"/result", ""))
			assert.Equal(t, 200, w.Code)
			assert.Equal(t, sevenPages, w.Body.String())
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		}
		plain := start(t, reg, succeed)
		synctest.Wait()
		assert.Equal(t, "null\n", ask(t, tetherhttp.Tasks(reg), request("GET", at(plain)+"/result", "")).Body.String())
	})
	bubble(t, "what became of a task that never ran", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed, tether.Hold())
		task.Cancel(tetherhttp.ErrCanceled)
		w := ask(t, tetherhttp.Tasks(reg), request("GET", at(task)+"/result", ""))
		assert.Equal(t, http.StatusGone, w.problem(t).Status)
		shutdown := start(t, reg, succeed, tether.Hold())
		shutdown.Cancel(tether.ErrShutdown)
		w = ask(t, tetherhttp.Tasks(reg), request("GET", at(shutdown)+"/result", ""))
		assert.Equal(t, http.StatusServiceUnavailable, w.problem(t).Status)
		assert.Equal(t, "5", w.Header().Get("Retry-After"))
	})
}

func TestTasksDelete(t *testing.T) {
	bubble(t, "is not allowed by itself", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		w := ask(t, tetherhttp.Tasks(reg), request("DELETE", at(task), ""))
		assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status)
		assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
		task.Cancel(nil)
	})
	bubble(t, "cancels a task that runs, and then forgets it", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		task := start(t, reg, func(ctx context.Context) error {
			<-ctx.Done()
			<-release
			return context.Cause(ctx)
		})
		synctest.Wait()
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		for range 2 {
			w := ask(t, h, request("DELETE", at(task), ""))
			assert.Equal(t, http.StatusAccepted, w.Code)
			assert.Equal(t, "running", readStatus(t, w.Body.Bytes()).State)
			assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		}
		close(release)
		require.ErrorIs(t, task.Wait(t.Context()), tetherhttp.ErrCanceled)
		s := readStatus(t, ask(t, h, request("GET", at(task), "")).Body.Bytes())
		assert.Equal(t, "canceled", s.State)
		assert.Equal(t, http.StatusGone, s.Problem.Status)

		w := ask(t, h, request("DELETE", at(task), ""))
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Zero(t, w.Body.Len())
		for _, method := range []string{"GET", "DELETE", "POST"} {
			assert.Equal(t, http.StatusGone, ask(t, h, request(method, at(task), "")).problem(t).Status, method)
		}
		assert.Empty(t, slices.Collect(reg.Finished()))
	})
	bubble(t, "drops a task that has not started", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		for _, opt := range []tether.Option{tether.Hold(), tether.Delay(time.Hour)} {
			task := start(t, reg, func(context.Context) error { t.Error("it has run"); return nil }, opt)
			w := ask(t, h, request("DELETE", at(task), ""))
			assert.Equal(t, http.StatusAccepted, w.Code)
			assert.Equal(t, "dropped", readStatus(t, w.Body.Bytes()).State)
			assert.ErrorIs(t, task.Err(), tetherhttp.ErrCanceled)
		}
	})
	bubble(t, "waits for an observer that is slow with the end", func(t *testing.T) {
		ended := make(chan struct{})
		reg := newRegistry(t, tether.Config{Observer: slowEnd{until: ended}})
		task := start(t, reg, succeed)
		synctest.Wait()
		answer := make(chan *asked, 1)
		go func() {
			answer <- ask(t, tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true}), request("DELETE", at(task), ""))
		}()
		synctest.Wait()
		assert.Empty(t, answer)
		close(ended)
		assert.Equal(t, http.StatusNoContent, (<-answer).Code)
		_, err := reg.Find(task.ID())
		assert.ErrorIs(t, err, tether.ErrExpired)
	})
}

func TestTasksRequests(t *testing.T) {
	bubble(t, "methods", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		synctest.Wait()
		plain, cancel := tetherhttp.Tasks(reg), tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		for _, method := range []string{"POST", "PUT", "PATCH", "OPTIONS", "CONNECT", "get", "FOO"} {
			w := ask(t, plain, request(method, at(task), ""))
			assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status)
			assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
			assert.Equal(t, "GET, HEAD, DELETE", ask(t, cancel, request(method, at(task), "")).Header().Get("Allow"))
		}
		w := ask(t, cancel, request("DELETE", at(task)+"/result", ""))
		assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status)
		assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
		_, err := reg.Find(task.ID())
		assert.NoError(t, err)
	})
	bubble(t, "an id that is none of ours", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		other := start(t, newRegistry(t, tether.Config{}), succeed)
		task := start(t, reg, succeed)
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		for _, path := range []string{
			"/tasks/", "/tasks", "/", "/tasks/x", "/tasks//result", "/result", "/tasks/result", at(other),
			at(task) + "//", at(task) + "/x/", "/tasks/x/", at(task) + "/result/result", at(task) + "/result/result/", at(task) + "x", at(task)[:len(at(task))-1],
			"/tasks/" + strings.Repeat("A", 22), "/tasks/" + strings.Repeat("A", 100_000),
		} {
			for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
				w := ask(t, h, request(method, path, ""))
				p := w.problem(t)
				assert.Equal(t, http.StatusNotFound, p.Status, "%.100s", path)
				assert.Equal(t, "there is no such task", p.Detail)
			}
		}
	})
	bubble(t, "a task that is forgotten", func(t *testing.T) {
		h := func(reg *tether.Registry) http.Handler { return tetherhttp.Tasks(reg) }
		reg := newRegistry(t, tether.Config{RetainFor: time.Minute})
		task := start(t, reg, succeed)
		synctest.Wait()
		time.Sleep(59 * time.Second)
		assert.Equal(t, 200, ask(t, h(reg), request("GET", at(task), "")).Code)
		time.Sleep(time.Second)
		for _, path := range []string{at(task), at(task) + "/result"} {
			w := ask(t, h(reg), request("GET", path, ""))
			assert.Equal(t, http.StatusGone, w.problem(t).Status)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		}
		reg = newRegistry(t, tether.Config{Retain: -1})
		task = start(t, reg, succeed)
		synctest.Wait()
		assert.Equal(t, http.StatusGone, ask(t, h(reg), request("GET", at(task), "")).Code)
	})
	bubble(t, "a client that may not see it gets the answer for an unknown task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled, tether.Label("owner", "me"))
		synctest.Wait()
		var asks []string
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true, Authorize: func(r *http.Request, task tether.Info) bool {
			asks = append(asks, r.Method)
			return r.Header.Get("X-User") == task.Labels["owner"]
		}})
		unknown := ask(t, h, request("GET", "/tasks/unknown", ""))
		assert.Empty(t, asks)
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
			for _, path := range []string{at(task), at(task) + "/result"} {
				asks = nil
				w := ask(t, h, request(method, path, "", "X-User", "you", "Accept", "text/event-stream", "Prefer", "wait=5"))
				assert.Equal(t, http.StatusNotFound, w.Code)
				assert.Equal(t, unknown.Header(), w.Header())
				assert.Equal(t, unknown.Body.String(), w.Body.String())
				assert.Equal(t, []string{method}, asks)
			}
		}
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
		assert.Equal(t, 200, ask(t, h, request("GET", at(task), "", "X-User", "me")).Code)
		assert.Equal(t, 202, ask(t, h, request("DELETE", at(task), "", "X-User", "me")).Code)
	})
	bubble(t, "wherever it is mounted", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		synctest.Wait()
		h := tetherhttp.Tasks(reg)
		mux := http.NewServeMux()
		mux.Handle("/tasks/", h)
		mux.Handle("/a/b/tasks/", h)
		mux.Handle("/strip/", http.StripPrefix("/strip/", h))
		mux.Handle("/strip2/", http.StripPrefix("/strip2", h))
		mux.Handle("GET /one/{id}", h)
		for _, prefix := range []string{"/tasks/", "/a/b/tasks/", "/strip/", "/strip2/", "/one/"} {
			assert.Equal(t, task.ID(), readStatus(t, ask(t, mux, request("GET", prefix+task.ID(), "")).Body.Bytes()).ID, prefix)
			if prefix != "/one/" {
				assert.Equal(t, "null\n", ask(t, mux, request("GET", prefix+task.ID()+"/result", "")).Body.String(), prefix)
			}
		}
	})
	t.Run("readers, and a task that changes all the time", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(ctx context.Context) error {
			for i := range int64(500) {
				tether.ReportProgress(ctx, tether.Progress{Done: i})
				runtime.Gosched()
			}
			return nil
		}, tether.Hold())
		h := tetherhttp.Tasks(reg)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				tag := ""
				for done := false; !done; {
					w := ask(t, h, request("GET", at(task), "", "Prefer", "wait=10", "If-None-Match", tag))
					done = readStatus(t, w.Body.Bytes()).Done
					next := w.Header().Get("ETag")
					assert.NotEqual(t, tag, next, "200 without a change")
					tag = next
				}
			})
		}
		task.Release()
		wg.Wait()
	})
}

func FuzzTasks(f *testing.F) {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	task, err := reg.Go(context.Background(), "task", succeed)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(task.Wait(context.Background()), reg.Shutdown(context.Background())); err != nil {
		f.Fatal(err)
	}
	h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
	for _, path := range []string{"/tasks/", "/", "", "/tasks/x/result", at(task), at(task) + "/result", "/tasks/\x00/result", "//", "/tasks/%2e%2e"} {
		for _, method := range []string{"GET", "DELETE", "POST"} {
			f.Add(method, path, "wait=0", `"a", W/"b"`, "text/event-stream", "x")
		}
	}
	f.Fuzz(func(t *testing.T, method, path, prefer, tag, accept, last string) {
		if p := strings.TrimSuffix(path, "/result"); strings.HasSuffix(p, "/"+task.ID()) || p == task.ID() {
			return // by rare luck
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.URL.Path = method, path
		r.Header = http.Header{"Prefer": {prefer}, "If-None-Match": {tag}, "Accept": {accept}, "Last-Event-Id": {last}}
		if w := ask(t, h, r); w.Code != http.StatusNotFound {
			t.Errorf("%s %q: %d", method, path, w.Code)
		}
		if method == "DELETE" || strings.Contains(prefer, "wait") {
			return
		}
		r.URL.Path = at(task)
		switch w := ask(t, h, r); w.Code {
		case http.StatusOK, http.StatusNoContent, http.StatusNotModified, http.StatusMethodNotAllowed:
		default:
			t.Errorf("%s %v: %d", method, r.Header, w.Code)
		}
	})
}
