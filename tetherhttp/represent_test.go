package tetherhttp_test

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestRepresent(t *testing.T) {
	type form struct {
		State, URL string
		Result     any
		Problem    *tetherhttp.Problem
	}
	represent := func(h http.Header, r *http.Request, s tetherhttp.Status) any {
		h.Set("Content-Type", "application/vnd.form+json")
		h.Set("X-Method", r.Method)
		return form{s.Info.State.String(), s.URL, s.Result, s.Problem}
	}
	read := func(t *testing.T, body []byte) (f form) {
		t.Helper()
		require.NoError(t, json.Unmarshal(body, &f), string(body))
		return f
	}
	bubble(t, "in each answer with a status", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		statusURL := func(_ *http.Request, id string) string { return "/api/tasks/" + id }
		start := tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (report, error) { return report{7}, pass(ctx, time.Hour) },
			tetherhttp.AsyncConfig{Represent: represent, StatusURL: statusURL})
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Represent: represent, StatusURL: statusURL, AllowCancel: true})

		w := ask(t, start, request("POST", "/", ""))
		at := w.Header().Get("Location")
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Equal(t, "application/vnd.form+json", w.Header().Get("Content-Type"))
		assert.Equal(t, "POST", w.Header().Get("X-Method"))
		assert.Equal(t, form{State: "running", URL: at}, read(t, w.Body.Bytes()))

		w = ask(t, h, request("GET", at, ""))
		assert.Equal(t, form{State: "running", URL: at}, read(t, w.Body.Bytes()))
		assert.Equal(t, "application/vnd.form+json", w.Header().Get("Content-Type"))
		tag := w.Header().Get("ETag")
		w = ask(t, h, request("GET", at, "", "If-None-Match", tag))
		assert.Equal(t, http.StatusNotModified, w.Code, "the tag is that of the representation")
		assert.Equal(t, "GET", w.Header().Get("X-Method"))
		w = ask(t, h, request("GET", at, "", "If-None-Match", tag, "Prefer", "wait=7200"))
		assert.Equal(t, http.StatusNotModified, w.Code)

		events := httptest.NewRecorder()
		h.ServeHTTP(events, request("GET", at, "", "Accept", "text/event-stream")) // until the end
		text := events.Body.String()
		assert.Contains(t, text, `data: {"State":"running"`)
		assert.Contains(t, text, `data: {"State":"succeeded"`)
		assert.Equal(t, "text/event-stream", events.Header().Get("Content-Type"))
		assert.NotContains(t, events.Header(), "X-Method")

		w = ask(t, h, request("GET", at, ""))
		assert.Equal(t, form{State: "succeeded", URL: at, Result: map[string]any{"pages": 7.0}}, read(t, w.Body.Bytes()))
		assert.Equal(t, "<"+at+`/result>; rel="result"`, w.Header().Get("Link"))
		assert.NotEqual(t, tag, w.Header().Get("ETag"))
		assert.JSONEq(t, `{"pages":7}`, ask(t, h, request("GET", at+"/result", "")).Body.String(), "the result is what it is")

		w = ask(t, start, request("POST", "/", "", "Prefer", "respond-async"))
		at = w.Header().Get("Location")
		synctest.Wait() // or it may not have started
		w = ask(t, h, request("DELETE", at, ""))
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		assert.Equal(t, form{State: "running", URL: at}, read(t, w.Body.Bytes()), "it is being canceled")
		synctest.Wait()
		w = ask(t, h, request("GET", at, ""))
		f := read(t, w.Body.Bytes())
		assert.Equal(t, "canceled", f.State)
		require.NotNil(t, f.Problem)
		assert.Equal(t, tetherhttp.ProblemCanceled, f.Problem.Type)
	})
	bubble(t, "an error that clients may not see is not in the Problem", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, func(context.Context) error { return errTest })
		synctest.Wait()
		w := ask(t, tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Represent: represent}), request("GET", at(task), ""))
		assert.NotContains(t, w.Body.String(), errTest.Error())
		assert.Equal(t, task.ID(), read(t, w.Body.Bytes()).URL, "relative without StatusURL")
	})
	bubble(t, "a value that cannot be encoded", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task, err := tether.Submit(t.Context(), reg, "task", func(context.Context) (any, error) { return func() {}, nil })
		require.NoError(t, err)
		require.True(t, task.Keep())
		synctest.Wait()
		var logged strings.Builder
		get := func(represent func(http.Header, *http.Request, tetherhttp.Status) any) []byte {
			r := servedBy(&http.Server{ErrorLog: log.New(&logged, "", 0)}, request("GET", at(task.Task), ""))
			w := ask(t, tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Represent: represent}), r)
			assert.Equal(t, http.StatusOK, w.Code)
			return w.Body.Bytes()
		}
		f := read(t, get(represent))
		require.NotNil(t, f.Problem, "in place of the result")
		assert.Equal(t, tetherhttp.ProblemFailed, f.Problem.Type)
		assert.Nil(t, f.Result)

		s := readStatus(t, get(func(http.Header, *http.Request, tetherhttp.Status) any { return make(chan int) }))
		require.NotNil(t, s.Problem, "the default form, if the program's has none")
		assert.Equal(t, tetherhttp.ProblemFailed, s.Problem.Type)
		assert.Contains(t, logged.String(), "cannot be encoded")
	})
}
