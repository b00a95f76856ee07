package durabletest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

const (
	awayGuard = time.Minute // against hanging
	awayPoll  = 10 * time.Millisecond
)

// StoreAway tests an engine's store whose server cannot be reached when the service starts, and
// later goes away once more: what needs the store is answered 503 and does not run, all else is
// answered, and no task is lost that was answered 202. open is called while the server does not
// run.
func StoreAway(t *testing.T, server Server, open func(t *testing.T) store.Backend) {
	server.Stop(t)
	running := false
	start := func() {
		server.Start(t)
		running = true
	}
	t.Cleanup(func() {
		if !running {
			server.Start(t)
		}
	})
	reg := tether.New(tether.Config{})
	shared := tetherhttp.NewStore("away", open(t), tetherhttp.StoreConfig{Timeout: 200 * time.Millisecond})
	var (
		runs   atomic.Int64
		finish = make(chan struct{})
		causes = make(chan error, 1)
		mux    = http.NewServeMux()
	)
	mux.Handle("POST /work", tetherhttp.Async(reg, "work", func(ctx context.Context, r *http.Request) (string, error) {
		runs.Add(1)
		if r.URL.RawQuery == "" {
			return "done", nil
		}
		select {
		case <-finish:
			return "done", nil
		case <-ctx.Done():
			select {
			case causes <- context.Cause(ctx):
			default: // only the first is looked at
			}
			return "", ctx.Err()
		}
	}, tetherhttp.AsyncConfig{Store: shared, Inline: time.Hour, Idempotency: &tetherhttp.IdempotencyConfig{}}))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared}))
	ask := func(method, path string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	refused := func(w *httptest.ResponseRecorder) {
		t.Helper()
		require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body)
		require.Contains(t, w.Body.String(), tetherhttp.ProblemStoreUnavailable)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
	}
	async := []string{"Prefer", "respond-async"}

	require.Equal(t, http.StatusOK, ask("POST", "/work").Code, "it needs no store")
	require.EqualValues(t, 1, runs.Load())
	refused(ask("POST", "/work", "Idempotency-Key", `"k"`))
	require.EqualValues(t, 1, runs.Load(), "it must not run")
	refused(ask("POST", "/work?wait", async...))
	require.ErrorIs(t, <-causes, tetherhttp.ErrStoreUnavailable)

	start()
	ask = patient(ask)
	require.Equal(t, http.StatusOK, ask("POST", "/work", "Idempotency-Key", `"k"`).Code)
	accepted := ask("POST", "/work?wait", async...)
	require.Equal(t, http.StatusAccepted, accepted.Code, accepted.Body)
	location := accepted.Header().Get("Location")

	server.Stop(t)
	running = false
	once := httptest.NewRecorder()
	mux.ServeHTTP(once, httptest.NewRequest("GET", location, nil))
	refused(once)
	close(finish) // the task ends while its store is away
	start()
	require.Eventually(t, func() bool {
		return strings.Contains(ask("GET", location).Body.String(), `"state":"succeeded"`)
	}, awayGuard, awayPoll)

	ctx, cancel := context.WithTimeout(context.Background(), awayGuard)
	defer cancel()
	assert.NoError(t, reg.Shutdown(ctx))
	assert.NoError(t, shared.Close(ctx))
}

// patient repeats a request that is answered 503, as its client does.
func patient(ask func(method, path string, header ...string) *httptest.ResponseRecorder) func(method, path string, header ...string) *httptest.ResponseRecorder {
	return func(method, path string, header ...string) *httptest.ResponseRecorder {
		for late := time.Now().Add(awayGuard); ; time.Sleep(awayPoll) {
			w := ask(method, path, header...)
			if w.Code != http.StatusServiceUnavailable || time.Now().After(late) {
				return w
			}
		}
	}
}
