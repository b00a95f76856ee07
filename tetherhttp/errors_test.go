package tetherhttp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// storeError is an error as many programs have it: its methods do not expect a nil
// receiver.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// wildError is an error with methods that all panic.
type wildError struct{ value any }

func (e wildError) Error() string   { panic(e.value) }
func (e wildError) Unwrap() error   { panic(e.value) }
func (e wildError) Is(error) bool   { panic(e.value) }
func (e wildError) As(any) bool     { panic(e.value) }
func (e wildError) String() string  { panic(e.value) }
func (e wildError) Timeout() bool   { panic(e.value) }
func (e wildError) Temporary() bool { panic(e.value) }

// writerFunc is an error that can write the answer itself, unless it is nil.
type writerFunc func(http.ResponseWriter)

func (writerFunc) Error() string                                      { return "writer" }
func (f writerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) { f(w) }

// hostileErrors are errors with methods that panic, or that cannot be called.
func hostileErrors() map[string]error {
	return map[string]error{
		"a typed nil":                        (*storeError)(nil),
		"a typed nil, wrapped":               fmt.Errorf("store: %w", (*storeError)(nil)),
		"a typed nil, joined":                errors.Join(errTest, (*storeError)(nil)),
		"a nil function that could answer":   writerFunc(nil),
		"methods that panic":                 wildError{"boom"},
		"methods that panic, wrapped":        fmt.Errorf("wild: %w", wildError{"boom"}),
		"methods that panic with an error":   wildError{wildError{"boom"}},
		"methods that panic, below a nil":    &storeError{wildError{"boom"}},
		"a problem that is nil, and a panic": errors.Join((*tetherhttp.Problem)(nil), wildError{"boom"}),
	}
}

// A task's error belongs to the program. Whatever its methods do, the task has failed,
// and its client is told 500: inline, at the Location, and in a stream.
func TestHostileErrors(t *testing.T) {
	for name, err := range hostileErrors() {
		bubble(t, name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			body := func(context.Context, *http.Request) (int, error) { return 0, err }
			status := tetherhttp.Tasks(reg)

			w := ask(t, tetherhttp.Async(reg, "t", body), request("POST", "/", ""))
			assert.Equal(t, http.StatusInternalServerError, w.Code)
			w = ask(t, tetherhttp.Async(reg, "t", seven, tetherhttp.AsyncConfig{Check: func(*http.Request) error { return err }}), request("POST", "/", ""))
			assert.Equal(t, http.StatusInternalServerError, w.Code)
			assert.Equal(t, http.StatusInternalServerError, tetherhttp.ProblemOf(err).Status)

			told := ask(t, tetherhttp.Async(reg, "t", body, tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
			require.Equal(t, http.StatusAccepted, told.Code)
			synctest.Wait()
			location := told.Header().Get("Location")
			w = ask(t, status, request("GET", location, ""))
			assert.Equal(t, http.StatusOK, w.Code)
			s := readStatus(t, w.Body.Bytes())
			assert.Equal(t, "failed", s.State)
			require.NotNil(t, s.Problem)
			assert.Equal(t, http.StatusInternalServerError, s.Problem.Status)
			w = ask(t, status, request("GET", location+"/result", ""))
			assert.Equal(t, http.StatusInternalServerError, w.Code)
			w = ask(t, status, request("GET", location, "", "Accept", "text/event-stream"))
			assert.Contains(t, w.Body.String(), `"status":500`)

			// The live page lists it, and shows it alone.
			page := tetherhttp.Debug(reg)
			for _, url := range []string{"/", "/?format=json", "/?task=" + s.ID, "/?format=json&task=" + s.ID} {
				w = ask(t, page, request("GET", url, ""))
				assert.Equal(t, http.StatusOK, w.Code)
				assert.Contains(t, w.Body.String(), "failed")
			}
		})
	}
}

// wildResult is a result with an encoding that panics.
type wildResult struct{}

func (wildResult) MarshalJSON() ([]byte, error) { panic("boom") }

// A result that cannot be encoded is 500, and the server's log says why.
func TestResultWhoseEncodingPanics(t *testing.T) {
	bubble(t, "inline, in the status and as the result", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var text strings.Builder
		srv := &http.Server{ErrorLog: log.New(&text, "", 0)}
		body := func(context.Context, *http.Request) (wildResult, error) { return wildResult{}, nil }
		w := ask(t, tetherhttp.Async(reg, "t", body), servedBy(srv, request("POST", "/", "")))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		assert.Contains(t, text.String(), "wildResult: its encoding panicked: boom")
		assert.Contains(t, text.String(), "MarshalJSON")

		told := ask(t, tetherhttp.Async(reg, "t", body, tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
		synctest.Wait()
		w = ask(t, tetherhttp.Tasks(reg), servedBy(srv, request("GET", told.Header().Get("Location"), "")))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, http.StatusInternalServerError, readStatus(t, w.Body.Bytes()).Problem.Status)
		w = ask(t, tetherhttp.Tasks(reg), servedBy(srv, request("GET", told.Header().Get("Location")+"/result", "")))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
	})
}

// Problems with the same status are told apart by their types.
func TestProblemsWithTheSameStatus(t *testing.T) {
	bubble(t, "409: no result yet, the key is in use, and the task's own", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		cfg := tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}}
		h := tetherhttp.Async(reg, "t", sevenWhen(release), cfg)
		first := make(chan *asked, 1)
		go func() { first <- ask(t, h, keyed("k")) }()
		synctest.Wait()
		assert.Equal(t, tetherhttp.ProblemKeyInUse, ask(t, h, keyed("k")).problem(t).Type)
		location := (<-first).Header().Get("Location")
		assert.Equal(t, tetherhttp.ProblemTaskUnfinished, ask(t, tetherhttp.Tasks(reg), request("GET", location+"/result", "")).problem(t).Type)
		own := &tetherhttp.Problem{Type: "https://example.com/sold-out", Status: 409}
		sold := tetherhttp.Async(reg, "t", func(context.Context, *http.Request) (int, error) { return 0, own })
		assert.Equal(t, own.Type, ask(t, sold, request("POST", "/", "")).problem(t).Type)
		close(release)
	})
	bubble(t, "410: canceled, and forgotten", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		task := start(t, reg, untilCanceled)
		assert.Equal(t, http.StatusAccepted, ask(t, h, request("DELETE", at(task), "")).Code)
		synctest.Wait()
		assert.Equal(t, tetherhttp.ProblemCanceled, ask(t, h, request("GET", at(task)+"/result", "")).problem(t).Type)
		ask(t, h, request("DELETE", at(task), ""))
		assert.Equal(t, tetherhttp.ProblemTaskForgotten, ask(t, h, request("GET", at(task)+"/result", "")).problem(t).Type)
	})
	bubble(t, "503: busy, stopping, and the client gone", func(t *testing.T) {
		assert.Equal(t, tetherhttp.ProblemBusy, ask(t, tetherhttp.Async(full(t), "t", seven), request("POST", "/", "")).problem(t).Type)
		reg := newRegistry(t, tether.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		h := tetherhttp.Async(reg, "t", func(ctx context.Context, _ *http.Request) (int, error) {
			cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		})
		assert.Equal(t, tetherhttp.ProblemRequestEnded, ask(t, h, request("POST", "/", "").WithContext(ctx)).problem(t).Type)
		assert.NoError(t, reg.Shutdown(t.Context()))
		assert.Equal(t, tetherhttp.ProblemStopping, ask(t, h, request("POST", "/", "")).problem(t).Type)
	})
}
