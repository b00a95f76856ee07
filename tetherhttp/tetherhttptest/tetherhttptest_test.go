package tetherhttptest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/tetherhttptest"
	"github.com/seed-2e639f12/tether/tethertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	reg := tether.New(tether.Config{})
	signUp := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "welcome mail", func(context.Context) error {
			fmt.Println("mail sent")
			return nil
		})
		if err != nil {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})

	recorder := httptest.NewRecorder()
	tetherhttptest.Handler(reg, signUp).ServeHTTP(recorder, httptest.NewRequest("POST", "/users", nil))
	fmt.Println(recorder.Code)
	// Output:
	// mail sent
	// 202
}

// serve calls a handler once and returns its response.
func serve(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w
}

// after returns a handler that adds a task and answers with a status.
func after(t *testing.T, status int, task tether.Func, opts ...tether.Option) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "task", task, opts...)
		assert.NoError(t, err)
		w.WriteHeader(status)
	})
}

func newRegistry(t *testing.T) *tether.Registry {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { assert.NoError(t, reg.Shutdown(context.Background())) })
	return reg
}

func TestHandler(t *testing.T) {
	// Each body takes an hour of virtual time, and reports to the slice.
	body := func(events *[]string) tether.Func {
		return func(ctx context.Context) error {
			*events = append(*events, "started")
			time.Sleep(time.Hour)
			*events = append(*events, "ended "+tetherhttp.DeliveryOf(ctx).String())
			return nil
		}
	}
	bubble := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	bubble("tasks start after the handler and end before ServeHTTP returns", func(t *testing.T) {
		var events []string
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			after(t, 202, body(&events)).ServeHTTP(w, r)
			synctest.Wait()
			events = append(events, "handled")
		})
		assert.Equal(t, 202, serve(tetherhttptest.Handler(tethertest.New(t), h)).Code)
		assert.Equal(t, []string{"handled", "started", "ended unknown"}, events)
	})
	bubble("delayed tasks and those of a pool too", func(t *testing.T) {
		reg := tethertest.New(t)
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5})
		var events []string
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 2 {
				_, err := tetherhttp.AfterOn(r.Context(), pool, "task", body(&events))
				assert.NoError(t, err)
			}
			after(t, 200, body(new([]string)), tether.Delay(time.Hour)).ServeHTTP(w, r)
		})
		began := time.Now()
		serve(tetherhttptest.Handler(reg, h))
		assert.Equal(t, 2*time.Hour, time.Since(began))
		assert.Equal(t, []string{"started", "ended unknown", "started", "ended unknown"}, events)
	})
	bubble("other held tasks are not waited for", func(t *testing.T) {
		reg := tethertest.New(t)
		other, err := reg.Go(context.Background(), "other", func(context.Context) error { return nil }, tether.Hold())
		require.NoError(t, err)
		var events []string
		serve(tetherhttptest.Handler(reg, after(t, 200, body(&events))))
		assert.Len(t, events, 2)
		assert.Equal(t, tether.Held, other.State())
		other.Release()
	})
	bubble("the request's context bounds the wait", func(t *testing.T) {
		reg := newRegistry(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		h := tetherhttptest.Handler(reg, after(t, 200, func(context.Context) error { time.Sleep(time.Hour); return nil }))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		assert.Equal(t, time.Minute, time.Since(began))
		assert.Equal(t, 1, reg.Stats().Running)
	})
	bubble("a panic drops the tasks", func(t *testing.T) {
		reg := newRegistry(t)
		var events []string
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			after(t, 200, body(&events)).ServeHTTP(w, r)
			panic("in the handler")
		})
		assert.PanicsWithValue(t, "in the handler", func() { serve(tetherhttptest.Handler(reg, h)) })
		synctest.Wait()
		assert.Empty(t, events)
		assert.Equal(t, uint64(1), reg.Stats().Dropped)
	})
	bubble("a status that OnlyIf refuses drops the tasks", func(t *testing.T) {
		reg := newRegistry(t)
		var events []string
		h := tetherhttptest.Handler(reg, after(t, 500, body(&events)),
			tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool { return status < 300 }})
		assert.Equal(t, 500, serve(h).Code)
		assert.Empty(t, events)
		assert.Equal(t, uint64(1), reg.Stats().Dropped)
	})
	bubble("a failure is not awaited", func(t *testing.T) {
		reg := newRegistry(t)
		serve(tetherhttptest.Handler(reg, after(t, 200, func(context.Context) error { return errors.New("boom") })))
		for task := range reg.Finished() {
			assert.Equal(t, tether.Failed, task.State())
			assert.False(t, task.Info().Awaited)
		}
		assert.Equal(t, uint64(1), reg.Stats().Failed)
	})
	t.Run("nil registry", func(t *testing.T) {
		assert.Panics(t, func() { tetherhttptest.Handler(nil, http.NotFoundHandler()) })
	})
}
