package tetherhttp_test

import (
	"fmt"
	"io"
	"maps"
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

// seen is what a client sees of a response.
type seen struct {
	status        int
	header        http.Header
	trailer       http.Header
	contentLength string
	body          string
}

func look(t testing.TB, c *http.Client, r *http.Request) seen {
	t.Helper()
	res, err := c.Do(r)
	require.NoError(t, err)
	s := seen{status: res.StatusCode, header: res.Header, contentLength: res.Header.Get("Content-Length"), body: readAll(t, res)}
	s.trailer = maps.Clone(res.Trailer)
	for _, ours := range []string{"Date", "Content-Length"} {
		s.header.Del(ours)
	}
	return s
}

// A handler's answer is the same whether it is written at once or kept: inline, and
// as the result of the status resource.
func TestAsyncHandler(t *testing.T) {
	for name, test := range map[string]struct {
		method  string
		handler http.HandlerFunc
	}{
		"nothing":             {"GET", func(http.ResponseWriter, *http.Request) {}},
		"text, to be sniffed": {"GET", writes(100)},
		"HTML, to be sniffed": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			for range 50 {
				_, _ = io.WriteString(w, "<html><body>")
			}
		}},
		"a content type": {"POST", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/pdf")
			_, _ = io.WriteString(w, "%PDF")
		}},
		"no content type": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "text")
		}},
		"1 MB": {"GET", writes(large)},
		"a content length": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			writePieces(w, 100)
		}},
		"created": {"POST", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/reports/7")
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
			w.Header().Set("Late", "is not sent")
			w.WriteHeader(http.StatusTeapot)
		}},
		"redirected": {"GET", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusSeeOther) }},
		"many values": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.Header().Add("Vary", "Origin")
			w.Header().Add("Vary", "Cookie")
		}},
		"HEAD":                       {"HEAD", writes(100)},
		"HEAD with a content length": {"HEAD", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "12345") }},
		"HEAD with a content length and a beginning": {"HEAD", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "begin")
		}},
		"204": {"DELETE", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		"204 with a body": {"DELETE", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			_, _ = io.WriteString(w, "body")
		}},
		"304": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			w.WriteHeader(http.StatusNotModified)
		}},
		"304 with a body": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotModified)
			_, _ = io.WriteString(w, "body")
		}},
		"not found": {"GET", http.NotFound},
		"a failure": {"GET", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "upstream", http.StatusBadGateway) }},
		"declared trailers": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Sum, Second")
			w.Header().Add("Trailer", "Never")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Sum", "123")
			w.Header().Add("Second", "a")
			w.Header().Add("Second", "b")
		}},
		"trailers that are not declared": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "body")
			w.Header().Set(http.TrailerPrefix+"Sum", "123")
		}},
		"trailers that are not declared, after 1 MB": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, large)
			w.Header().Set(http.TrailerPrefix+"Sum", "123")
		}},
		"an informational answer first": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "body")
		}},
		"a header that it reuses": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			values := []string{"sent"}
			w.Header()["Value"] = values
			_, _ = io.WriteString(w, "body")
			values[0] = "changed"
		}},
		"a cache policy": {"GET", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=60") }},
		"what it reads": {"POST", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
			_, _ = io.WriteString(w, r.Header.Get("X-User"))
		}},
	} {
		overTheNetwork(t, name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			async := tetherhttp.AsyncHandler(reg, "handler", test.handler)
			later := tetherhttp.AsyncHandler(reg, "handler", test.handler, tetherhttp.AsyncConfig{Always202: true})
			mux := http.NewServeMux()
			mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
				switch r.Header.Get("X-How") {
				case "bare":
					test.handler(w, r)
				case "later":
					later.ServeHTTP(w, r)
				default:
					async.ServeHTTP(w, r)
				}
			})
			mux.Handle("/tasks/", tetherhttp.Tasks(reg))
			n.serve(t, n.server(mux), version == 2)
			c := clientOf(t, n, version)
			c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			send := func(method, path string, header ...string) seen {
				return look(t, c, outbound(t.Context(), method, path, strings.NewReader("body"), append(header, "X-User", "me")...))
			}
			equal := func(got seen, what string) {
				t.Helper()
				want := send(test.method, "/work", "X-How", "bare")
				if what == "result" {
					want.header["Cache-Control"] = []string{"no-store"}
				}
				// Ours come before those of the handler.
				if vary := got.header.Values("Vary"); len(vary) > 0 && vary[0] == "Prefer" {
					got.header["Vary"] = vary[1:]
				}
				if len(got.header["Vary"]) == 0 {
					got.header.Del("Vary")
				}
				if want.contentLength == "" && test.method != "HEAD" {
					want.contentLength = got.contentLength // a larger one is not chunked
				}
				assert.Equal(t, want, got, what)
			}
			inline := send(test.method, "/work")
			assert.Equal(t, "Prefer", inline.header.Get("Vary"))
			equal(inline, "inline")

			location := send(test.method, "/work", "X-How", "later").header.Get("Location")
			require.NotEmpty(t, location)
			synctest.Wait()
			for range 2 {
				result := send(method(test.method), location+"/result")
				equal(result, "result")
			}
		})
	}
	bubble(t, "500 and more is a failure of the task, and an answer", func(t *testing.T) {
		var book logbook
		reg := newRegistry(t, tether.Config{Logger: book.logger()})
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "own text", http.StatusInternalServerError)
		}))
		w := ask(t, h, request("GET", "/", ""))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		assert.Equal(t, "own text\n", w.Body.String())
		assert.Len(t, book.about("the handler answered 500"), 1)
		assert.EqualValues(t, 1, reg.Stats().Failed)
		w = ask(t, tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(499) })), request("GET", "/", ""))
		assert.Equal(t, 499, w.Code)
		assert.EqualValues(t, 1, reg.Stats().Succeeded)
	})
	bubble(t, "a failure's status is a problem", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }), tetherhttp.AsyncConfig{Always202: true})
		at := ask(t, h, request("GET", "/", "")).Header().Get("Location")
		synctest.Wait()
		s := readStatus(t, ask(t, tetherhttp.Tasks(reg), request("GET", at, "")).Body.Bytes())
		assert.Equal(t, "failed", s.State)
		require.NotNil(t, s.Problem)
		assert.Equal(t, 500, s.Problem.Status)
		assert.Equal(t, 503, ask(t, tetherhttp.Tasks(reg), request("GET", at+"/result", "")).Code)
	})
	bubble(t, "a panic", func(t *testing.T) {
		var book logbook
		reg := newRegistry(t, tether.Config{Logger: book.logger()})
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, secret)
			panic(secret)
		}))
		w := ask(t, h, request("GET", "/", ""))
		assert.Equal(t, 500, w.problem(t).Status)
		assert.NotContains(t, w.Body.String(), secret)
		assert.Len(t, book.about("task=handler"), 1)
	})
	bubble(t, "too large to be kept", func(t *testing.T) {
		for most, opts := range map[int][]tetherhttp.AsyncConfig{
			16 << 20: {tetherhttp.AsyncConfig{MaxBody: 100}},
			17 << 20: {tetherhttp.AsyncConfig{MaxBody: 17 << 20}},
		} {
			var book logbook
			reg := newRegistry(t, tether.Config{Logger: book.logger()})
			fits := func(n int) bool {
				var err error
				h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = w.Write(make([]byte, n-1))
					_, err = w.Write(make([]byte, 1))
				}), opts...)
				w := ask(t, h, request("GET", "/", ""))
				if w.Code == http.StatusOK {
					assert.NoError(t, err)
					return assert.Equal(t, n, w.Body.Len())
				}
				assert.Error(t, err)
				assert.Equal(t, 500, w.problem(t).Status)
				return false
			}
			assert.True(t, fits(most))
			if most == 16<<20 {
				assert.False(t, fits(most+1))
				assert.Len(t, book.about("too large to be kept"), 1)
			}
		}
	})
	bubble(t, "its writer cannot flush, hijack or set deadlines", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		ask(t, tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, flusher := w.(http.Flusher)
			_, hijacker := w.(http.Hijacker)
			assert.False(t, flusher || hijacker)
			control := http.NewResponseController(w)
			assert.ErrorIs(t, control.Flush(), http.ErrNotSupported)
			assert.ErrorIs(t, control.SetWriteDeadline(time.Now()), http.ErrNotSupported)
			_, _, err := control.Hijack()
			assert.ErrorIs(t, err, http.ErrNotSupported)
		})), request("GET", "/", ""))
	})
	bubble(t, "it has the task's context", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		ask(t, tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			task, ok := tether.FromContext(r.Context())
			assert.True(t, ok)
			assert.Equal(t, "handler", task.Name())
		})), request("GET", "/", ""))
	})
	bubble(t, "many may read the same answer at once", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Vary", "Origin")
			_, _ = io.WriteString(w, "body")
			w.Header().Set(http.TrailerPrefix+"Sum", "123")
		}), tetherhttp.AsyncConfig{Inline: time.Minute, TaskOptions: []tether.Option{tether.Unique("one")}})
		answers := make(chan *asked)
		for range 50 {
			go func() { answers <- ask(t, h, request("GET", "/", "")) }()
		}
		for range 50 {
			w := <-answers
			assert.Equal(t, "body", w.Body.String())
			assert.Equal(t, []string{"Prefer", "Origin"}, w.Header().Values("Vary"))
		}
		assert.EqualValues(t, 1, reg.Stats().Submitted)
	})
	bubble(t, "what net/http refuses is refused", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		serve := func(h http.HandlerFunc) *asked {
			return ask(t, tetherhttp.AsyncHandler(reg, "handler", h), request("GET", "/", ""))
		}
		for _, status := range []int{http.StatusNoContent, http.StatusNotModified} {
			w := serve(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				n, err := io.WriteString(w, "body")
				assert.Zero(t, n)
				assert.ErrorIs(t, err, http.ErrBodyNotAllowed)
			})
			assert.Equal(t, status, w.Code)
			assert.Zero(t, w.Body.Len())
		}
		w := serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			n, err := io.WriteString(w, "hel")
			assert.Equal(t, 3, n)
			assert.NoError(t, err)
			n, err = io.WriteString(w, "loo")
			assert.Zero(t, n)
			assert.ErrorIs(t, err, http.ErrContentLength)
			_, err = io.WriteString(w, "lo")
			assert.NoError(t, err)
		})
		assert.Equal(t, "hello", w.Body.String())
		for _, length := range []string{"", "-5", "x"} {
			w = serve(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", length)
				_, err := io.WriteString(w, "hello")
				assert.NoError(t, err)
			})
			assert.Equal(t, "hello", w.Body.String())
		}
	})
	bubble(t, "what one reader's middleware does to the answer is not seen by others", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		async := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Value", "original")
			w.Header().Set("Cache-Control", "max-age=60")
			writePieces(w, large)
		}), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		accept := request("GET", "/", "", "Idempotency-Key", "k", "Prefer", "respond-async")
		require.Equal(t, http.StatusAccepted, ask(t, async, accept).Code) // so that the registry retains the answer
		synctest.Wait()
		for range 3 {
			w := ask(t, async, request("GET", "/", "", "Idempotency-Key", "k"))
			assert.True(t, replayed(t, w))
			assert.Equal(t, "original", w.Header().Get("Value"))
			assert.Equal(t, "max-age=60", w.Header().Get("Cache-Control"))
			assert.Equal(t, fmt.Sprint(large), w.Header().Get("Content-Length"))
			w.Header()["Value"][0] = "changed"
			for task := range reg.Finished() {
				w := ask(t, tetherhttp.Tasks(reg), request("GET", at(task)+"/result", ""))
				assert.Equal(t, "original", w.Header().Get("Value"))
				assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				w.Header()["Value"][0] = "changed"
			}
		}
	})
	bubble(t, "http.ErrAbortHandler breaks off, each time", func(t *testing.T) {
		var book logbook
		reg := newRegistry(t, tether.Config{Logger: book.logger()})
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half an ans")
			panic(http.ErrAbortHandler)
		})
		breaksOff := func(h http.Handler, r *http.Request) {
			t.Helper()
			w := httptest.NewRecorder()
			assert.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(w, r) })
			assert.Zero(t, w.Body.Len())
		}
		breaksOff(tetherhttp.AsyncHandler(reg, "handler", handler), request("GET", "/", ""))
		at := ask(t, tetherhttp.AsyncHandler(reg, "handler", handler, tetherhttp.AsyncConfig{Always202: true}), request("GET", "/", "")).Header().Get("Location")
		synctest.Wait()
		breaksOff(tetherhttp.Tasks(reg), request("GET", at+"/result", ""))
		s := readStatus(t, ask(t, tetherhttp.Tasks(reg), request("GET", at, "")).Body.Bytes())
		assert.Equal(t, "failed", s.State)
		assert.Empty(t, book.about("panic"))
	})
	bubble(t, "it does not take away what a middleware has set", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Set-Cookie", "b=2")
			w.Header().Set("Vary", "Cookie")
			w.Header().Set("Server", "inner")
		}))
		w := httptest.NewRecorder()
		w.Header().Set("Set-Cookie", "a=1")
		w.Header().Set("Vary", "Origin")
		w.Header().Set("Server", "outer")
		w.Header().Set("X-Request-ID", "1")
		h.ServeHTTP(w, request("GET", "/", ""))
		assert.Equal(t, http.Header{
			"Set-Cookie": {"a=1", "b=2"}, "Vary": {"Origin", "Prefer", "Cookie"}, "Server": {"inner"}, "X-Request-Id": {"1"},
		}, w.Header())
	})
	t.Run("nil is a panic", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		assert.Panics(t, func() { tetherhttp.AsyncHandler(reg, "t", nil) })
		assert.Panics(t, func() { tetherhttp.AsyncHandler(nil, "t", http.NotFoundHandler()) })
	})
	bubble(t, "a status that is none is the handler's mistake, not every reader's", func(t *testing.T) {
		for _, status := range []int{0, 99, 1000} {
			reg := newRegistry(t, tether.Config{})
			h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			assert.NotPanics(t, func() { assert.Equal(t, 500, ask(t, h, request("GET", "/", "")).Code) })
		}
	})
	bubble(t, "each attempt writes an answer of its own", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		attempt := 0
		h := tetherhttp.AsyncHandler(reg, "handler", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if attempt++; attempt == 1 {
				w.Header().Set("First", "1")
				w.WriteHeader(503)
			}
			_, _ = fmt.Fprint(w, "attempt ", attempt)
		}), tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 1 }})}})
		w := ask(t, h, request("GET", "/", ""))
		assert.Equal(t, 200, w.Code)
		assert.Equal(t, "attempt 2", w.Body.String())
		assert.Empty(t, w.Header().Get("First"))
	})
}

// method returns the method to ask for a result with that was made by this one.
func method(m string) string {
	if m == http.MethodHead {
		return m
	}
	return http.MethodGet
}
