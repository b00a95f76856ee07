package tetherhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// Promises at the edges: each of these tests is about a case that is easy to get wrong
// and was wrong once.

// answerOf has a handler answer a request in memory.
func answerOf(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// seven is the body of most tasks here.
func seven(context.Context, *http.Request) (int, error) { return 7, nil }

// sevenWhen returns a body that runs until c is closed or its context ends.
func sevenWhen(c <-chan struct{}) func(context.Context, *http.Request) (int, error) {
	return func(ctx context.Context, _ *http.Request) (int, error) {
		select {
		case <-c:
			return 7, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// clearLog is a log that can be read while it is written.
type clearLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *clearLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *clearLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// servedBy has a request believe that it came from a server.
func servedBy(srv *http.Server, r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, srv))
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	as     func(net.Conn) net.Conn // what the server gets; may be nil
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		if p.as != nil {
			c = p.as(c)
		}
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// servePipes has a server serve until the test ends, and returns a client of it. as is
// what the server's connections are made, if it is not nil.
func servePipes(t *testing.T, srv *http.Server, http2 bool, as func(net.Conn) net.Conn) func(*http.Request) (*http.Response, error) {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{}), as: as}
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	srv.Protocols = &protocols
	if srv.ErrorLog == nil {
		srv.ErrorLog = log.New(io.Discard, "", 0)
	}
	crash := make(chan any, 1)
	go func() {
		defer func() { // a panic of the accept loop would end the process
			_ = p.Close()
			crash <- recover()
		}()
		_ = srv.Serve(p)
	}()
	tr := &http.Transport{DialContext: p.dial, Protocols: &protocols, DisableCompression: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		synctest.Wait()
		_ = srv.Close()
		_ = p.Close()
		assert.Nil(t, <-crash)
		synctest.Wait()
	})
	synctest.Wait()
	return func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", "test"
		return tr.RoundTrip(r)
	}
}

// overHTTP runs a subtest for each version of HTTP.
func overHTTP(t *testing.T, name string, f func(t *testing.T, http2 bool)) {
	t.Helper()
	bubble(t, name+", over HTTP 1", func(t *testing.T) { f(t, false) })
	bubble(t, name+", over HTTP 2", func(t *testing.T) { f(t, true) })
}

// A client that was told where to find its task finds it there, whatever others do.
func TestToldTask(t *testing.T) {
	bubble(t, "a 202 outlives any number of inline answers", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 16})
		told := tetherhttp.Async(reg, "told", seven, tetherhttp.AsyncConfig{Always202: true})
		inline := tetherhttp.Async(reg, "inline", seven, tetherhttp.AsyncConfig{Inline: time.Minute})
		location := answerOf(told, request("POST", "/", "")).Header().Get("Location")
		synctest.Wait()
		for range 100 {
			require.Equal(t, http.StatusOK, answerOf(inline, request("POST", "/", "")).Code)
		}
		assert.Equal(t, http.StatusOK, answerOf(tetherhttp.Tasks(reg), request("GET", location, "")).Code)
		assert.Len(t, slices.Collect(reg.Finished()), 1, "what was sent inline is forgotten")
	})
	bubble(t, "a 202 outlives other tasks, more of them than are retained", func(t *testing.T) {
		const retain = 8
		reg := newRegistry(t, tether.Config{Retain: retain})
		release := make(chan struct{})
		running := tetherhttp.Async(reg, "running", sevenWhen(release), tetherhttp.AsyncConfig{Inline: -1})
		ended := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "ended", seven, tetherhttp.AsyncConfig{Always202: true}), func(*tether.Task) { synctest.Wait() })
		failed := tetherhttp.Async(reg, "failed", func(context.Context, *http.Request) (int, error) { return 0, errTest }, tetherhttp.AsyncConfig{Always202: true})
		status := tetherhttp.Tasks(reg)
		var locations []string
		for _, h := range []http.Handler{running, ended, failed} {
			w := answerOf(h, request("POST", "/", ""))
			require.Equal(t, http.StatusAccepted, w.Code)
			locations = append(locations, w.Header().Get("Location"))
		}
		close(release)
		synctest.Wait()
		for range 3 * retain {
			task, err := reg.Go(t.Context(), "other", func(context.Context) error { return nil })
			require.NoError(t, err)
			require.NoError(t, task.Wait(t.Context()))
		}
		for _, location := range locations {
			assert.Equal(t, http.StatusOK, answerOf(status, request("GET", location, "")).Code)
		}
		for range retain { // as many 202s as are retained push out those before them
			require.Equal(t, http.StatusAccepted, answerOf(ended, request("POST", "/", "")).Code)
		}
		for _, location := range locations {
			assert.Equal(t, http.StatusGone, answerOf(status, request("GET", location, "")).Code)
		}
	})
	bubble(t, "a 202 of a task that is done has a result_url that leads to the result", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for at, want := range map[string]string{
			"/tasks/":                      "/tasks/",
			"/v1/jobs":                     "/v1/jobs/",
			"https://api.example.com/jobs": "https://api.example.com/jobs/",
		} {
			h := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "report", seven, tetherhttp.AsyncConfig{Always202: true, StatusAt: at}), func(*tether.Task) { synctest.Wait() })
			w := answerOf(h, request("POST", "/reports/monthly", ""))
			require.Equal(t, http.StatusAccepted, w.Code)
			var s struct {
				ID        string
				Done      bool
				ResultURL string `json:"result_url"`
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
			assert.True(t, s.Done)
			assert.Equal(t, want+s.ID, w.Header().Get("Location"))
			assert.Equal(t, want+s.ID+"/result", s.ResultURL)
			// As a client does it: relative to the URL that it has asked, once here, once there.
			post, err := url.Parse("https://api.example.com/reports/monthly")
			require.NoError(t, err)
			there, err := post.Parse(w.Header().Get("Location"))
			require.NoError(t, err)
			result, err := post.Parse(s.ResultURL)
			require.NoError(t, err)
			assert.Equal(t, "7\n", answerOf(tetherhttp.Tasks(reg), request("GET", result.Path, "")).Body.String())
			require.NoError(t, json.Unmarshal(answerOf(tetherhttp.Tasks(reg), request("GET", there.Path, "")).Body.Bytes(), &s))
			again, err := there.Parse(s.ResultURL)
			require.NoError(t, err)
			assert.Equal(t, result.String(), again.String())
		}
	})
	bubble(t, "a repetition is answered with the outcome when the status is forgotten", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 1})
		h := tetherhttp.Async(reg, "order", seven, tetherhttp.AsyncConfig{Always202: true, Idempotency: &tetherhttp.IdempotencyConfig{}})
		post := func(key string) *httptest.ResponseRecorder {
			w := answerOf(h, request("POST", "/", "", "Idempotency-Key", key))
			synctest.Wait()
			return w
		}
		first := post("a").Header().Get("Location")
		assert.Equal(t, http.StatusAccepted, post("a").Code, "its status is there")
		post("b")
		require.Equal(t, http.StatusGone, answerOf(tetherhttp.Tasks(reg), request("GET", first, "")).Code)
		w := post("a")
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "7\n", w.Body.String())
		assert.Empty(t, w.Header().Get("Location"))
		assert.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
		assert.EqualValues(t, 2, reg.Stats().Submitted)
	})
}

// Requests share a task by [tether.Unique]; the one that has made it does not decide
// what becomes of it, since it cannot know which other requests were told of it.
func TestToldTaskIsShared(t *testing.T) {
	unique := func(inline time.Duration) tetherhttp.AsyncConfig {
		return tetherhttp.AsyncConfig{Inline: inline, TaskOptions: []tether.Option{tether.Unique("one")}}
	}
	// visit sends a request, and returns when nothing moves any more.
	visit := func(t *testing.T, h http.Handler) (leave context.CancelFunc, answered <-chan *httptest.ResponseRecorder) {
		ctx, cancel := context.WithCancel(t.Context())
		c := make(chan *httptest.ResponseRecorder, 1)
		go func() { c <- answerOf(h, request("POST", "/", "").WithContext(ctx)) }()
		synctest.Wait()
		return cancel, c
	}
	bubble(t, "a 202 keeps its task when the client of another request of it goes", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		a := tetherhttp.Async(reg, "t", sevenWhen(release), unique(time.Hour))
		b := tetherhttp.Async(reg, "t", sevenWhen(release), unique(-1)) // another route
		leave, gone := visit(t, a)
		told := answerOf(b, request("POST", "/", ""))
		require.Equal(t, http.StatusAccepted, told.Code)
		leave()
		<-gone
		synctest.Wait()
		assert.Equal(t, 1, reg.Stats().Running)
		close(release)
		synctest.Wait()
		assert.Equal(t, "7\n", answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location")+"/result", "")).Body.String())
	})
	bubble(t, "a 202 keeps its task when another request of it is answered inline", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		a := tetherhttp.Async(reg, "t", sevenWhen(release), unique(time.Hour))
		b := tetherhttp.Async(reg, "t", sevenWhen(release), unique(-1))
		_, inline := visit(t, a)
		told := answerOf(b, request("POST", "/", ""))
		require.Equal(t, http.StatusAccepted, told.Code)
		close(release)
		assert.Equal(t, http.StatusOK, (<-inline).Code)
		assert.Equal(t, http.StatusOK, answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location"), "")).Code)
	})
	bubble(t, "a 202 keeps its task when the request that makes it is slower to take note", func(t *testing.T) {
		// The one that makes the task is held up between that and its wait; the other one
		// comes and goes meanwhile.
		reg := newRegistry(t, tether.Config{})
		release, goOn, first := make(chan struct{}), make(chan struct{}), true
		h := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "t", sevenWhen(release), unique(time.Hour)), func(*tether.Task) {
			if first {
				first = false
				<-goOn
			}
		})
		leave, gone := visit(t, h)
		told := answerOf(h, request("POST", "/", "", "Prefer", "respond-async"))
		require.Equal(t, http.StatusAccepted, told.Code)
		close(goOn)
		synctest.Wait()
		leave()
		<-gone
		synctest.Wait()
		assert.Equal(t, 1, reg.Stats().Running)
		close(release)
		synctest.Wait()
		assert.Equal(t, http.StatusOK, answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location"), "")).Code)
	})
	bubble(t, "a 202 keeps its task when the request that makes it runs it", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		filled, release := make(chan struct{}), make(chan struct{})
		_, err := p.Go(t.Context(), "fills it", func(context.Context) error { <-filled; return nil })
		require.NoError(t, err)
		h := tetherhttp.Async(p, "t", sevenWhen(release), unique(0))
		_, inline := visit(t, h)
		told := answerOf(h, request("POST", "/", "", "Prefer", "respond-async"))
		require.Equal(t, http.StatusAccepted, told.Code)
		close(release)
		assert.Equal(t, http.StatusOK, (<-inline).Code)
		assert.Equal(t, http.StatusOK, answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location"), "")).Code)
		close(filled)
	})
	bubble(t, "no 202 for a task that another request has had forgotten meanwhile", func(t *testing.T) {
		// It ends, and is sent inline to the other one, just when this one's wait is over.
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		a := tetherhttp.Async(reg, "t", sevenWhen(release), unique(time.Hour))
		_, inline := visit(t, a)
		ctx := &askedContext{Context: context.Background()}
		ctx.then = func() {
			close(release)
			assert.Equal(t, http.StatusOK, (<-inline).Code)
		}
		b := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "t", sevenWhen(release), unique(-1)), func(*tether.Task) { ctx.armed.Store(true) })
		w := answerOf(b, request("POST", "/", "").WithContext(ctx))
		require.False(t, ctx.armed.Load(), "the handler has not asked whether the client is there")
		if w.Code == http.StatusAccepted {
			assert.Equal(t, http.StatusOK, answerOf(tetherhttp.Tasks(reg), request("GET", w.Header().Get("Location"), "")).Code)
		} else {
			assert.Equal(t, "7\n", w.Body.String())
		}
	})
}

// A 202 is a promise that there is something at the Location, whatever the registry retains.
func TestNothingIsRetained(t *testing.T) {
	bubble(t, "a task that ends after its 202 is found", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		for _, body := range []func(context.Context, *http.Request) (int, error){
			seven, func(context.Context, *http.Request) (int, error) { return 0, errTest },
		} {
			release := make(chan struct{})
			h := tetherhttp.Async(reg, "t", func(ctx context.Context, r *http.Request) (int, error) { <-release; return body(ctx, r) }, tetherhttp.AsyncConfig{Inline: -1})
			location := answerOf(h, request("POST", "/", "")).Header().Get("Location")
			require.NotEmpty(t, location)
			close(release)
			synctest.Wait()
			w := answerOf(tetherhttp.Tasks(reg), request("GET", location, ""))
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Contains(t, w.Body.String(), `"done":true`)
		}
		assert.Len(t, slices.Collect(reg.Finished()), 2)
		time.Sleep(2 * time.Hour)
		assert.Empty(t, slices.Collect(reg.Finished()), "each for RetainFor")
	})
	bubble(t, "one that ends between the wait and the 202 is answered with its result", func(t *testing.T) {
		for _, cfg := range []tetherhttp.AsyncConfig{{Inline: -1}, {Always202: true}} {
			reg := newRegistry(t, tether.Config{Retain: -1})
			release := make(chan struct{})
			ctx := &askedContext{Context: context.Background()}
			ctx.then = func() {
				close(release)
				synctest.Wait()
			}
			h := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "t", sevenWhen(release), cfg), func(*tether.Task) { ctx.armed.Store(true) })
			w := answerOf(h, request("POST", "/", "").WithContext(ctx))
			require.False(t, ctx.armed.Load(), "the client was not asked for")
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Equal(t, "7\n", w.Body.String())
			assert.Empty(t, w.Header().Get("Location"))
		}
	})
}

// askedContext is a context that does something, once it is armed, when it is asked
// whether it has ended.
type askedContext struct {
	context.Context
	armed atomic.Bool
	then  func()
}

func (c *askedContext) Err() error {
	if c.armed.CompareAndSwap(true, false) {
		c.then()
	}
	return c.Context.Err()
}

// busyObserver holds TaskEnded up until out is closed, and says when that begins.
type busyObserver struct {
	tether.NopObserver
	in, out chan struct{}
}

func (o busyObserver) TaskEnded(context.Context, *tether.Task) { o.in <- struct{}{}; <-o.out }

// While the observer is told of a task's end, its outcome cannot be seen. What can be
// said of the task is what it was before, not nothing.
func TestObserverIsBusy(t *testing.T) {
	type status struct {
		ID, State string
		Done      bool
	}
	for name, c := range map[string]struct {
		cfg    tetherhttp.AsyncConfig
		prefer string
	}{
		"always 202":            {tetherhttp.AsyncConfig{Always202: true}, ""},
		"no inline wait":        {tetherhttp.AsyncConfig{Inline: -1}, ""},
		"respond-async":         {tetherhttp.AsyncConfig{}, "respond-async"},
		"when the wait is over": {tetherhttp.AsyncConfig{Inline: time.Second}, ""},
		"when wait=1 is over":   {tetherhttp.AsyncConfig{Inline: -1}, "wait=1"},
	} {
		bubble(t, "a 202 has the task's status: "+name, func(t *testing.T) {
			o := busyObserver{in: make(chan struct{}), out: make(chan struct{})}
			reg := newRegistry(t, tether.Config{Observer: o})
			letGo := sync.OnceFunc(func() { close(o.out) })
			defer letGo()
			h := tetherhttp.AfterSubmit(tetherhttp.Async(reg, "t", seven, c.cfg), func(*tether.Task) { <-o.in })
			w := answerOf(h, request("POST", "/", "", "Prefer", c.prefer))
			require.Equal(t, http.StatusAccepted, w.Code)
			var s status
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
			assert.NotEmpty(t, s.ID)
			assert.Equal(t, status{s.ID, "running", false}, s)
			assert.Equal(t, "/tasks/"+s.ID, w.Header().Get("Location"))
			_, err := reg.Find(s.ID)
			assert.NoError(t, err)
			letGo()
			synctest.Wait()
			assert.Equal(t, "7\n", answerOf(tetherhttp.Tasks(reg), request("GET", w.Header().Get("Location")+"/result", "")).Body.String())
		})
	}
	bubble(t, "a status has a body", func(t *testing.T) {
		o := busyObserver{in: make(chan struct{}), out: make(chan struct{})}
		reg := newRegistry(t, tether.Config{Observer: o})
		task, err := reg.Go(t.Context(), "t", func(context.Context) error { return nil })
		require.NoError(t, err)
		<-o.in
		defer close(o.out)
		for _, prefer := range []string{"", "wait=1", "wait=0"} {
			w := answerOf(tetherhttp.Tasks(reg), request("GET", "/tasks/"+task.ID(), "", "Prefer", prefer))
			assert.Equal(t, http.StatusOK, w.Code)
			var s status
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s), prefer)
			assert.Equal(t, status{task.ID(), "running", false}, s)
			assert.Equal(t, "1", w.Header().Get("Retry-After"))
		}
		assert.Equal(t, http.StatusConflict, answerOf(tetherhttp.Tasks(reg), request("GET", "/tasks/"+task.ID()+"/result", "")).Code)
	})
}

// upstream is where a proxy goes, which breaks off in the middle of the body.
type upstream struct{}

func (upstream) RoundTrip(*http.Request) (*http.Response, error) {
	body := io.MultiReader(strings.NewReader("half"), brokenReader{})
	return &http.Response{StatusCode: 200, ContentLength: 8, Header: http.Header{}, Body: io.NopCloser(body)}, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errTest }

// http.ErrAbortHandler is how a handler breaks off, not a mistake in the program.
func TestBrokenOffHandler(t *testing.T) {
	abort := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	bubble(t, "a handler that aborts does so inline, as a failure and not a panic", func(t *testing.T) {
		var logged clearLog
		reg := newRegistry(t, tether.Config{OnPanic: tether.PanicCrash, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		h := tetherhttp.AsyncHandler(reg, "t", abort)
		assert.PanicsWithValue(t, http.ErrAbortHandler, func() { answerOf(h, request("GET", "/", "")) })
		stats := reg.Stats()
		assert.EqualValues(t, 1, stats.Failed)
		assert.Zero(t, stats.Panicked)
		assert.Equal(t, 1, strings.Count(logged.String(), "\n"), logged.String())
		assert.Contains(t, logged.String(), "level=WARN")
		assert.NotContains(t, logged.String(), "stack")
	})
	bubble(t, "its status says that it failed, its result breaks off each time", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{OnPanic: tether.PanicCrash})
		w := answerOf(tetherhttp.AsyncHandler(reg, "t", abort, tetherhttp.AsyncConfig{Always202: true}), request("GET", "/", ""))
		require.Equal(t, http.StatusAccepted, w.Code)
		synctest.Wait()
		s := answerOf(tetherhttp.Tasks(reg), request("GET", w.Header().Get("Location"), ""))
		assert.Equal(t, http.StatusOK, s.Code)
		assert.Contains(t, s.Body.String(), `"state":"failed"`)
		assert.Contains(t, s.Body.String(), `"status":500`)
		for range 2 {
			assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
				answerOf(tetherhttp.Tasks(reg), request("GET", w.Header().Get("Location")+"/result", ""))
			})
		}
	})
	overHTTP(t, "a proxy aborts the response if its upstream does", func(t *testing.T, http2 bool) {
		// ReverseProxy panics where it finds that a server would recover that.
		var logged clearLog
		reg := newRegistry(t, tether.Config{OnPanic: tether.PanicCrash})
		proxy := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: upstream{}, ErrorLog: log.New(io.Discard, "", 0)}
		srv := &http.Server{Handler: tetherhttp.AsyncHandler(reg, "t", proxy), ErrorLog: log.New(&logged, "", 0)}
		do := servePipes(t, srv, http2, nil)
		res, err := do(request("GET", "/", ""))
		if err == nil {
			_ = res.Body.Close()
		}
		assert.Error(t, err)
		assert.Empty(t, logged.String())
		assert.EqualValues(t, 1, reg.Stats().Failed)
	})
	bubble(t, "any other panic is one", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "t", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(errTest) }))
		assert.Equal(t, http.StatusInternalServerError, answerOf(h, request("GET", "/", "")).Code)
		assert.EqualValues(t, 1, reg.Stats().Panicked)
	})
}

// What AsyncHandler keeps is what the bare handler would have sent.
func TestKeptAnswer(t *testing.T) {
	overHTTP(t, "a status that allows no body has none", func(t *testing.T, http2 bool) {
		reg := newRegistry(t, tether.Config{})
		for _, status := range []int{http.StatusNoContent, http.StatusNotModified} {
			var wrote error
			bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, wrote = io.WriteString(w, "null\n")
			})
			for _, h := range []http.Handler{bare, tetherhttp.AsyncHandler(reg, "t", bare)} {
				res, err := servePipes(t, &http.Server{Handler: h}, http2, nil)(request("GET", "/", ""))
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				assert.NoError(t, err, "the protocol is broken")
				_ = res.Body.Close()
				assert.Equal(t, status, res.StatusCode)
				assert.Empty(t, body)
				assert.Empty(t, res.Header.Values("Content-Length"))
				assert.ErrorIs(t, wrote, http.ErrBodyNotAllowed)
			}
		}
	})
	for _, status := range []int{-1, 0, 99, 1000} {
		bubble(t, fmt.Sprintf("status %d is a panic of the handler, and 500 whenever it is asked for", status), func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			assert.Equal(t, http.StatusInternalServerError, answerOf(tetherhttp.AsyncHandler(reg, "t", h), request("GET", "/", "")).Code)
			assert.EqualValues(t, 1, reg.Stats().Panicked)
			w := answerOf(tetherhttp.AsyncHandler(reg, "t", h, tetherhttp.AsyncConfig{Always202: true}), request("GET", "/", ""))
			require.Equal(t, http.StatusAccepted, w.Code)
			synctest.Wait()
			for range 2 {
				r := request("GET", w.Header().Get("Location")+"/result", "")
				assert.Equal(t, http.StatusInternalServerError, answerOf(tetherhttp.Tasks(reg), r).Code)
			}
		})
	}
	bubble(t, "informational answers are left out, 101 too", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "t", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusSwitchingProtocols)
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		}))
		assert.Equal(t, http.StatusTeapot, answerOf(h, request("GET", "/", "")).Code)
	})
	bubble(t, "cookies of a middleware stay beside the handler's", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.AsyncHandler(reg, "t", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "inner", Value: "1"})
			w.Header().Set("Vary", "Accept")
			w.Header().Set("X-Frame-Options", "DENY")
		}))
		w := httptest.NewRecorder()
		http.SetCookie(w, &http.Cookie{Name: "login", Value: "1"})
		w.Header().Set("X-Frame-Options", "SAMEORIGIN")
		w.Header().Set("Vary", "Origin")
		h.ServeHTTP(w, request("GET", "/", ""))
		assert.Equal(t, []string{"login=1", "inner=1"}, w.Header().Values("Set-Cookie"))
		assert.Equal(t, []string{"Origin", "Prefer", "Accept"}, w.Header().Values("Vary"))
		assert.Equal(t, []string{"DENY"}, w.Header().Values("X-Frame-Options"), "others it replaces, as without AsyncHandler")
	})
	bubble(t, "the result's URL is not cacheable, though the handler's response is", func(t *testing.T) {
		// A shared cache would answer those whom Authorize refuses.
		reg := newRegistry(t, tether.Config{})
		bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=3600")
			w.Header().Set("X-Own", "1")
			_, _ = io.WriteString(w, "yours alone")
		})
		inline := answerOf(tetherhttp.AsyncHandler(reg, "t", bare), request("GET", "/", ""))
		assert.Equal(t, []string{"public, max-age=3600"}, inline.Header().Values("Cache-Control"), "where it answers itself, it decides")
		told := answerOf(tetherhttp.AsyncHandler(reg, "t", bare, tetherhttp.AsyncConfig{Always202: true}), request("GET", "/", ""))
		require.Equal(t, http.StatusAccepted, told.Code)
		synctest.Wait()
		for range 2 {
			w := answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location")+"/result", ""))
			assert.Equal(t, "yours alone", w.Body.String())
			assert.Equal(t, []string{"no-store"}, w.Header().Values("Cache-Control"))
			assert.Equal(t, "1", w.Header().Get("X-Own"))
		}
	})
}

// page is a result that writes itself, but not if it is nil.
type page struct{ text string }

func (p *page) ServeHTTP(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, p.text) }

// pageError is an error that writes itself, but not if it is nil.
type pageError struct{ page }

func (*pageError) Error() string { return "page" }

func TestNilAnswer(t *testing.T) {
	bubble(t, "a nil pointer that could write an answer is null", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		body := func(context.Context, *http.Request) (*page, error) { return nil, nil }
		w := answerOf(tetherhttp.Async(reg, "t", body), request("POST", "/", ""))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "null\n", w.Body.String())
		told := answerOf(tetherhttp.Async(reg, "t", body, tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
		synctest.Wait()
		w = answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location")+"/result", ""))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "null\n", w.Body.String())
	})
	bubble(t, "a nil pointer that is an error is 500, whatever it could write", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for _, nothing := range []error{(*tetherhttp.Problem)(nil), (*pageError)(nil), fmt.Errorf("wrapped %w", (*pageError)(nil))} {
			body := func(context.Context, *http.Request) (int, error) { return 0, nothing }
			w := answerOf(tetherhttp.Async(reg, "t", body), request("POST", "/", ""))
			assert.Equal(t, http.StatusInternalServerError, w.Code)
			told := answerOf(tetherhttp.Async(reg, "t", body, tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
			synctest.Wait()
			for _, what := range []string{"", "/result"} {
				w := answerOf(tetherhttp.Tasks(reg), request("GET", told.Header().Get("Location")+what, ""))
				assert.Contains(t, w.Body.String(), `"status":500`)
			}
		}
	})
}

// anyConn is a connection of a user's listener that is not a pointer, and cannot be
// compared.
type anyConn struct {
	net.Conn
	_ []byte
}

func TestAfterAtTheEdges(t *testing.T) {
	t.Run("T5 in order: canceled in the last function, which returns nil, is a success", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		// run submits functions of which the last is started, and cancels the task then.
		run := func(before, behind int) (task *tether.Task, ran int) {
			started := make(chan struct{})
			var fns []tether.Func
			for range before {
				fns = append(fns, func(context.Context) error { ran++; return nil })
			}
			fns = append(fns, func(ctx context.Context) error { ran++; close(started); <-ctx.Done(); return nil })
			for range behind {
				fns = append(fns, func(context.Context) error { ran++; return nil })
			}
			answerOf(tetherhttp.NewReleaser(reg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				var err error
				task, err = tetherhttp.AfterInOrder(r.Context(), "t", fns...)
				assert.NoError(t, err)
			})), request("GET", "/", ""))
			<-started
			task.Cancel(errTest)
			<-task.Done()
			return task, ran
		}
		task, ran := run(1, 0)
		assert.NoError(t, task.Err())
		assert.Equal(t, tether.Succeeded, task.State())
		assert.Equal(t, 2, ran)
		task, ran = run(0, 1)
		assert.ErrorIs(t, task.Err(), errTest, "there is something left to do")
		assert.Equal(t, tether.Canceled, task.State())
		assert.Equal(t, 1, ran)
	})
	bubble(t, "a listener with connections that cannot be compared is served", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		ran := make(chan tetherhttp.Delivery, 1)
		srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "t", func(ctx context.Context) error { ran <- tetherhttp.DeliveryOf(ctx); return nil })
			assert.NoError(t, err)
		})}
		tetherhttp.Attach(srv, reg)
		do := servePipes(t, srv, false, func(c net.Conn) net.Conn { return anyConn{Conn: c} })
		res, err := do(request("GET", "/", ""))
		require.NoError(t, err)
		_ = res.Body.Close()
		assert.Equal(t, tetherhttp.DeliveryUnknown, <-ran)
	})
	bubble(t, "no scope in a body of Async, however soon it asks", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for _, d := range []time.Duration{0, time.Second} { // while the handler waits, and after
			got := make(chan error, 2)
			h := tetherhttp.Async(reg, "t", func(ctx context.Context, r *http.Request) (int, error) {
				time.Sleep(d)
				for _, ctx := range []context.Context{ctx, r.Context()} {
					_, err := tetherhttp.After(ctx, "after", func(context.Context) error { return nil })
					got <- err
				}
				return 0, nil
			}, tetherhttp.AsyncConfig{Inline: time.Millisecond})
			answerOf(tetherhttp.NewReleaser(reg).Handler(h), request("POST", "/", ""))
			assert.ErrorIs(t, <-got, tetherhttp.ErrNoScope)
			assert.ErrorIs(t, <-got, tetherhttp.ErrNoScope)
		}
	})
	bubble(t, "mounted inside AsyncHandler, it takes no other request's response for its own", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
		p.Pause()
		bg := tetherhttp.NewReleaser(reg)
		ran := make(chan tetherhttp.Delivery, 1)
		inner := bg.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "t", func(ctx context.Context) error { ran <- tetherhttp.DeliveryOf(ctx); return nil })
			assert.NoError(t, err)
		}))
		mux := http.NewServeMux()
		mux.Handle("/async", tetherhttp.AsyncHandler(p, "t", inner, tetherhttp.AsyncConfig{Inline: -1}))
		mux.HandleFunc("/next", func(http.ResponseWriter, *http.Request) {
			// The connection is at its next request when the first one's handler runs.
			p.Resume()
			assert.Equal(t, tetherhttp.DeliveryUnknown, <-ran)
		})
		srv := &http.Server{Handler: mux}
		bg.Hooks(srv)
		do := servePipes(t, srv, false, nil)
		for path, want := range map[string]int{"/async": 202} {
			res, err := do(request("GET", path, ""))
			require.NoError(t, err)
			assert.Equal(t, want, res.StatusCode)
			_, _ = io.Copy(io.Discard, res.Body) // the connection is used again
			_ = res.Body.Close()
		}
		began := time.Now()
		res, err := do(request("GET", "/next", ""))
		require.NoError(t, err)
		_ = res.Body.Close()
		assert.Zero(t, time.Since(began), "it has waited for something")
	})
	t.Run("no Background without a registry", func(t *testing.T) {
		assert.Panics(t, func() { tetherhttp.NewReleaser(nil) })
		assert.Panics(t, func() { tetherhttp.Attach(new(http.Server), nil) })
	})
}

func TestReusedKey(t *testing.T) {
	bubble(t, "another form with the same key is refused though the form was parsed before", func(t *testing.T) {
		// A middleware against request forgery does that; the body is empty then.
		reg := newRegistry(t, tether.Config{})
		inner := tetherhttp.Async(reg, "pay", func(_ context.Context, r *http.Request) (string, error) {
			return r.FormValue("amount"), nil
		}, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		pay := func(amount string) *httptest.ResponseRecorder {
			return answerOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.FormValue("csrf_token")
				inner.ServeHTTP(w, r)
			}), request("POST", "/", "amount="+amount, "Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", "k"))
		}
		assert.Equal(t, "\"5\"\n", pay("5").Body.String())
		assert.Equal(t, http.StatusUnprocessableEntity, pay("5000").Code)
		w := pay("5")
		assert.Equal(t, "\"5\"\n", w.Body.String())
		assert.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	})
	bubble(t, "a multipart form that was parsed before is the program's mistake, and refused", func(t *testing.T) {
		// Its files are gone when the handler returns, and the body is read.
		var logged clearLog
		reg := newRegistry(t, tether.Config{})
		inner := tetherhttp.Async(reg, "upload", seven)
		var form bytes.Buffer
		m := multipart.NewWriter(&form)
		require.NoError(t, m.WriteField("amount", "5"))
		require.NoError(t, m.Close())
		r := request("POST", "/", form.String(), "Content-Type", m.FormDataContentType())
		w := answerOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "5", r.FormValue("amount"))
			inner.ServeHTTP(w, r)
		}), servedBy(&http.Server{ErrorLog: log.New(&logged, "", 0)}, r))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		assert.Contains(t, logged.String(), "multipart")
		assert.Zero(t, reg.Stats().Submitted)
	})
	for name, hangs := range map[string]bool{
		"results go with their keys, also without another request":                false,
		"results go with their keys, though a task of an older key has not ended": true,
	} {
		bubble(t, name, func(t *testing.T) {
			const n = 100
			reg := newRegistry(t, tether.Config{Retain: -1})
			var results []weak.Pointer[[]byte]
			release := make(chan struct{})
			h := tetherhttp.Async(reg, "t", func(_ context.Context, r *http.Request) (*[]byte, error) {
				if r.Header.Get("Idempotency-Key") == "hangs" {
					<-release
					return nil, nil
				}
				big := make([]byte, 1<<10)
				results = append(results, weak.Make(&big)) // one body at a time
				return &big, nil
			}, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: time.Minute}})
			post := func(key string) int { return answerOf(h, request("POST", "/", "", "Idempotency-Key", key)).Code }
			// there counts the results that are in memory; a stray word on some stack may look
			// like a pointer to one.
			there := func() (n int) {
				runtime.GC()
				for _, p := range results {
					if p.Value() != nil {
						n++
					}
				}
				return n
			}
			if hangs {
				require.Equal(t, http.StatusAccepted, post("hangs"))
			}
			for i := range n {
				require.Equal(t, http.StatusOK, post(fmt.Sprint(i)))
			}
			time.Sleep(time.Minute - time.Second)
			assert.Equal(t, n, there())
			time.Sleep(2 * time.Minute)
			if hangs { // they may be tidied up by those that come
				require.Equal(t, http.StatusOK, post("later"))
			}
			assert.Less(t, there(), n/10)
			close(release)
			synctest.Wait()
			runtime.KeepAlive(h)
		})
	}
	t.Run("a key in quotes is a string of RFC 8941 and nothing else", func(t *testing.T) {
		for header, want := range map[string]string{
			`"abc"`:        "abc",
			`"abc";v=1`:    "abc",
			`"abc"; v="x"`: "abc",
			`"a\"b\\c"`:    `a"b\c`,
			`"a b"`:        "a b",
			`"a\bc"`:       "", // what needs no escape has none
			`"abc" x`:      "",
			`"abc"x`:       "",
			`"abc", "def"`: "",
			`"abc\`:        "",
		} {
			key, err := tetherhttp.IdempotencyKey(http.Header{"Idempotency-Key": {header}})
			if want == "" {
				assert.Equal(t, http.StatusBadRequest, tetherhttp.ProblemOf(err).Status, header)
			} else {
				assert.NoError(t, err, header)
			}
			assert.Equal(t, want, key, header)
		}
	})
}

func TestWaitAtTheEdges(t *testing.T) {
	bubble(t, "a client that asks for a longer wait does not get a shorter one than others", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for prefer, want := range map[string]time.Duration{
			"":        time.Second,
			"wait=10": time.Second,
			"wait=1":  time.Second,
			"wait=0":  0,
		} {
			release := make(chan struct{})
			h := tetherhttp.Async(reg, "t", sevenWhen(release), tetherhttp.AsyncConfig{MaxWait: -1, Inline: time.Second})
			began := time.Now()
			assert.Equal(t, http.StatusAccepted, answerOf(h, request("POST", "/", "", "Prefer", prefer)).Code)
			assert.Equal(t, want, time.Since(began), prefer)
			close(release)
		}
	})
	// hanging returns a server and a request for the status of a task that hangs.
	hanging := func(t *testing.T, reg *tether.Registry, prefer string) (srv *http.Server, r *http.Request, release func()) {
		c := make(chan struct{})
		task, err := reg.Go(t.Context(), "t", func(context.Context) error { <-c; return nil })
		require.NoError(t, err)
		srv = new(http.Server)
		return srv, servedBy(srv, request("GET", "/tasks/"+task.ID(), "", "Prefer", prefer)), sync.OnceFunc(func() { close(c) })
	}
	bubble(t, "a wait that a drain cuts short was not granted", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		_, r, release := hanging(t, reg, "wait=5")
		drained := make(chan error)
		go func() { drained <- reg.Shutdown(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		w := answerOf(tetherhttp.Tasks(reg), r)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Zero(t, time.Since(began))
		assert.Empty(t, w.Header().Values("Preference-Applied"))
		release()
		assert.NoError(t, <-drained)
	})
	bubble(t, "a wait that the server's shutdown cuts short was not granted", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		srv, r, release := hanging(t, reg, "wait=5")
		answered := make(chan *httptest.ResponseRecorder)
		began := time.Now()
		go func() { answered <- answerOf(tetherhttp.Tasks(reg), r) }()
		time.Sleep(time.Second)
		require.NoError(t, srv.Shutdown(t.Context()))
		w := <-answered
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Empty(t, w.Header().Values("Preference-Applied"))
		release()
	})
	bubble(t, "a wait was granted if it lasted, or until the end of the task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		_, r, release := hanging(t, reg, "wait=5")
		assert.Equal(t, []string{"wait=5"}, answerOf(tetherhttp.Tasks(reg), r).Header().Values("Preference-Applied"))
		time.AfterFunc(time.Second, release)
		assert.Equal(t, []string{"wait=5"}, answerOf(tetherhttp.Tasks(reg), r).Header().Values("Preference-Applied"))
	})
	overHTTP(t, "a 202 arrives after a wait for room that is longer than the WriteTimeout", func(t *testing.T, http2 bool) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		h := tetherhttp.Async(p, "t", seven, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		do := servePipes(t, &http.Server{Handler: h, WriteTimeout: time.Second}, http2, nil)
		for i, prefer := range []string{"", "respond-async", "wait=0"} {
			_, err := p.Go(t.Context(), "fills it", func(context.Context) error { time.Sleep(5 * time.Second); return nil })
			require.NoError(t, err)
			var both sync.WaitGroup
			for range 2 { // one that waits for room, one that waits for the first one's task
				both.Go(func() {
					began := time.Now()
					res, err := do(request("POST", "/", "", "Prefer", prefer, "Idempotency-Key", fmt.Sprint(i)))
					if !assert.NoError(t, err, prefer) {
						return
					}
					defer func() { _ = res.Body.Close() }()
					_, err = io.Copy(io.Discard, res.Body)
					assert.NoError(t, err)
					assert.Contains(t, []int{200, 202}, res.StatusCode)
					assert.Equal(t, 5*time.Second, time.Since(began).Truncate(time.Second))
				})
			}
			both.Wait()
		}
	})
	bubble(t, "a body that says much of its progress costs requests that wait for its end next to nothing", func(t *testing.T) {
		// Memory stands for work: what is shown of a task is allocated. One allocation for
		// each report and all waiters together is far more than is needed.
		const reports, waiting = 20_000, 10
		reg := newRegistry(t, tether.Config{})
		cost := func(wait func(location string)) uint64 {
			h := tetherhttp.Async(reg, "chatty", func(ctx context.Context, _ *http.Request) (int, error) {
				for i := range int64(reports) {
					time.Sleep(100 * time.Microsecond)
					tether.ReportProgress(ctx, tether.Progress{Done: i + 1})
				}
				return 7, nil
			}, tetherhttp.AsyncConfig{Inline: -1, TaskOptions: []tether.Option{tether.Unique("chatty")}})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			location := answerOf(h, request("POST", "/", "")).Header().Get("Location")
			var all sync.WaitGroup
			for range waiting {
				all.Go(func() {
					if wait != nil {
						wait(location)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Minute)
			runtime.ReadMemStats(&after)
			assert.Contains(t, answerOf(tetherhttp.Tasks(reg), request("GET", location, "")).Body.String(), `"done":true`)
			return after.Mallocs - before.Mallocs
		}
		alone := cost(nil)
		longPolls := cost(func(location string) {
			w := answerOf(tetherhttp.Tasks(reg), request("GET", location, "", "Prefer", "wait=30"))
			assert.Contains(t, w.Body.String(), `"done":true`)
		})
		assert.Less(t, longPolls, alone+reports, "long-polls")
		inline := cost(func(string) {
			again := tetherhttp.Async(reg, "chatty", seven, tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Unique("chatty")}})
			assert.Equal(t, "7\n", answerOf(again, request("POST", "/", "", "Prefer", "wait=30")).Body.String())
		})
		assert.Less(t, inline, alone+reports, "inline waits")
	})
}

// noFlush is what a middleware often makes of a ResponseWriter: all that it does not
// know is gone.
type noFlush struct{ http.ResponseWriter }

func TestStreamAtTheEdges(t *testing.T) {
	stream := func(reg *tether.Registry, task *tether.Task, last string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		tetherhttp.Tasks(reg).ServeHTTP(noFlush{w}, request("GET", "/tasks/"+task.ID(), "", "Accept", "text/event-stream", "Last-Event-ID", last))
		return w
	}
	// eventOf returns the name and the id of the only event in a stream.
	eventOf := func(t *testing.T, w *httptest.ResponseRecorder) (name, id string) {
		events := 0
		for s := bufio.NewScanner(w.Body); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "event: "); ok {
				name = v
				events++
			}
			if v, ok := strings.CutPrefix(s.Text(), "id: "); ok {
				id = v
			}
		}
		assert.Equal(t, 1, events)
		return name, id
	}
	bubble(t, "through a writer that cannot flush it is one event for each request, to the end", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		task, err := reg.Go(t.Context(), "t", func(context.Context) error { <-release; return nil })
		require.NoError(t, err)
		synctest.Wait()
		began := time.Now()
		w := stream(reg, task, "")
		assert.Contains(t, w.Body.String(), "retry: 1000\n")
		name, id := eventOf(t, w)
		assert.Equal(t, "status", name)
		name, id = eventOf(t, stream(reg, task, id))
		assert.Equal(t, "status", name, "also if nothing is new")
		assert.Zero(t, time.Since(began), "a request that waits for the next one would wait without effect")
		close(release)
		synctest.Wait()
		name, id = eventOf(t, stream(reg, task, id))
		assert.Equal(t, "done", name)
		assert.Equal(t, http.StatusNoContent, stream(reg, task, id).Code)
	})
	bubble(t, "the last event stays the last, though a goroutine that a body left behind says more", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var left context.Context
		task, err := reg.Go(t.Context(), "t", func(ctx context.Context) error {
			left = ctx
			tether.ReportProgress(ctx, tether.Progress{Done: 1, Total: 2})
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
		tag := func() string {
			return answerOf(tetherhttp.Tasks(reg), request("GET", "/tasks/"+task.ID(), "")).Header().Get("ETag")
		}
		name, id := eventOf(t, stream(reg, task, ""))
		assert.Equal(t, "done", name)
		before := tag()
		tether.ReportProgress(left, tether.Progress{Done: 2, Total: 2})
		assert.Equal(t, http.StatusNoContent, stream(reg, task, id).Code)
		assert.Equal(t, before, tag())
	})
}

func TestHeadersAtTheEdges(t *testing.T) {
	t.Run("a backslash in an entity tag is one, and no escape", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task, err := reg.Go(t.Context(), "t", func(context.Context) error { return nil })
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
		h := tetherhttp.Tasks(reg)
		tag := answerOf(h, request("GET", "/tasks/"+task.ID(), "")).Header().Get("ETag")
		for list, want := range map[string]int{
			tag:                       304,
			"W/" + tag:                304,
			`"a\", ` + tag:            304,
			`"a\",` + tag + `, "\"`:   304,
			"*":                       304,
			`"a", "b"`:                200,
			`"*"`:                     200,
			strings.Trim(tag, `"`):    200,
			`"a` + tag[1:]:            200,
			tag[:len(tag)-1] + `\a"'`: 200,
		} {
			assert.Equal(t, want, answerOf(h, request("GET", "/tasks/"+task.ID(), "", "If-None-Match", list)).Code, list)
		}
	})
	t.Run("what Tasks varies by is added to what others do", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task, err := reg.Go(t.Context(), "t", func(context.Context) error { return nil })
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
		for _, accept := range []string{"application/json", "text/event-stream"} {
			w := httptest.NewRecorder()
			w.Header().Set("Vary", "Origin")
			tetherhttp.Tasks(reg).ServeHTTP(w, request("GET", "/tasks/"+task.ID(), "", "Accept", accept))
			assert.Equal(t, []string{"Origin", "Accept, Prefer"}, w.Header().Values("Vary"), accept)
		}
	})
	bubble(t, "a path cannot forge a line in the log", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := map[string]http.Handler{
			"cannot be encoded": tetherhttp.Async(reg, "t", func(context.Context, *http.Request) (any, error) { return func() {}, nil }),
			"invalid":           tetherhttp.Async(reg, "t", seven, tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Timeout(-1)}}),
			"multipart": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.MultipartForm = new(multipart.Form)
				tetherhttp.Async(reg, "t", seven).ServeHTTP(w, r)
			}),
		}
		for about, h := range h {
			var logged clearLog
			r := request("POST", "/x%0A2026/01/01%20forged%1b[2K", "")
			w := answerOf(h, servedBy(&http.Server{ErrorLog: log.New(&logged, "", 0)}, r))
			assert.Equal(t, http.StatusInternalServerError, w.Code)
			assert.Contains(t, logged.String(), about)
			assert.Equal(t, 1, strings.Count(logged.String(), "\n"), "lines: %q", logged.String())
			assert.NotContains(t, logged.String(), "\x1b")
		}
	})
}

func TestCheck(t *testing.T) {
	const max = 4
	tooLong := &tetherhttp.Problem{Status: http.StatusUnprocessableEntity, Detail: "too long"}
	check := func(r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err == nil && len(body) > max {
			err = fmt.Errorf("of %d bytes: %w", len(body), tooLong)
		}
		return err
	}
	echo := func(_ context.Context, r *http.Request) (string, error) {
		body, err := io.ReadAll(r.Body)
		return string(body), err
	}
	bubble(t, "what it refuses is no task, and not answered 202", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for _, cfg := range []tetherhttp.AsyncConfig{{Check: check}, {Check: check, Inline: -1}, {Check: check, Always202: true}} {
			for _, prefer := range []string{"", "respond-async", "wait=10"} {
				w := answerOf(tetherhttp.Async(reg, "t", echo, cfg), request("POST", "/", "12345", "Prefer", prefer))
				assert.Equal(t, http.StatusUnprocessableEntity, w.Code)
				assert.Contains(t, w.Body.String(), "too long")
				assert.Empty(t, w.Header().Get("Location"))
				assert.Empty(t, w.Header().Values("Preference-Applied"))
			}
		}
		assert.Zero(t, reg.Stats().Submitted)
	})
	bubble(t, "it needs no room", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		_, err := p.Go(t.Context(), "fills it", func(context.Context) error { <-release; return nil })
		require.NoError(t, err)
		h := tetherhttp.Async(p, "t", echo, tetherhttp.AsyncConfig{Check: check})
		assert.Equal(t, http.StatusUnprocessableEntity, answerOf(h, request("POST", "/", "12345")).Code)
		assert.Equal(t, http.StatusServiceUnavailable, answerOf(h, request("POST", "/", "1234")).Code)
		close(release)
	})
	bubble(t, "the body is there for it, and again for the task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "t", echo, tetherhttp.AsyncConfig{Check: func(r *http.Request) error {
			body, err := io.ReadAll(r.Body)
			assert.Equal(t, "1234", string(body))
			assert.EqualValues(t, 4, r.ContentLength)
			return err
		}})
		w := answerOf(h, request("POST", "/", "1234"))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "\"1234\"\n", w.Body.String())
	})
	bubble(t, "so are the forms that it parses", func(t *testing.T) {
		var form bytes.Buffer
		m := multipart.NewWriter(&form)
		file, err := m.CreateFormFile("file", "name")
		require.NoError(t, err)
		_, _ = file.Write(bytes.Repeat([]byte("x"), 1<<10))
		require.NoError(t, m.WriteField("amount", "5"))
		require.NoError(t, m.Close())
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "t", func(_ context.Context, r *http.Request) (string, error) {
			if r.Form != nil || r.MultipartForm != nil {
				return "", errors.New("parsed by the other one")
			}
			return r.FormValue("amount"), nil
		}, tetherhttp.AsyncConfig{Check: func(r *http.Request) error {
			if r.FormValue("amount") != "5" {
				return tooLong
			}
			return nil
		}})
		for _, r := range []*http.Request{
			request("POST", "/", "amount=5", "Content-Type", "application/x-www-form-urlencoded"),
			request("POST", "/", form.String(), "Content-Type", m.FormDataContentType()),
		} {
			assert.Equal(t, "\"5\"\n", answerOf(h, r).Body.String())
		}
	})
	bubble(t, "what it refuses has not used its key", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "t", echo, tetherhttp.AsyncConfig{Check: check, Idempotency: &tetherhttp.IdempotencyConfig{}})
		post := func(body string) *httptest.ResponseRecorder {
			return answerOf(h, request("POST", "/", body, "Idempotency-Key", "k"))
		}
		assert.Contains(t, post("12345").Body.String(), "too long")
		assert.Contains(t, post("123456").Body.String(), "too long")
		w := post("1234") // neither 409 nor 422, nor a repetition
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Empty(t, w.Header().Get("Idempotency-Replayed"))
		assert.Contains(t, post("12345").Body.String(), "too long")
		assert.Equal(t, "true", post("1234").Header().Get("Idempotency-Replayed"), "the key is good still")
		assert.EqualValues(t, 1, reg.Stats().Submitted)
	})
	bubble(t, "it looks at repetitions too", func(t *testing.T) {
		// The client may not be allowed any more.
		reg := newRegistry(t, tether.Config{})
		var refuse error
		h := tetherhttp.Async(reg, "t", echo, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}, Check: func(*http.Request) error { return refuse }})
		post := func() int { return answerOf(h, request("POST", "/", "", "Idempotency-Key", "k")).Code }
		assert.Equal(t, http.StatusOK, post())
		refuse = &tetherhttp.Problem{Status: http.StatusForbidden}
		assert.Equal(t, http.StatusForbidden, post())
	})
	bubble(t, "its errors are told as those of tasks", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for status, err := range map[int]error{
			http.StatusInternalServerError:   errTest,
			http.StatusServiceUnavailable:    tether.ErrFull,
			http.StatusRequestEntityTooLarge: &http.MaxBytesError{Limit: max},
			http.StatusOK:                    &pageError{page{"it writes itself"}},
		} {
			h := tetherhttp.Async(reg, "t", echo, tetherhttp.AsyncConfig{Check: func(*http.Request) error { return err }})
			w := answerOf(h, request("POST", "/", ""))
			assert.Equal(t, status, w.Code)
			assert.NotContains(t, w.Body.String(), errTest.Error())
			assert.Equal(t, status == http.StatusOK, w.Body.String() == "it writes itself")
		}
		assert.Zero(t, reg.Stats().Submitted)
	})
	bubble(t, "it gets no body that is too large, and a client that is gone", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		called := false
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		h := tetherhttp.Async(reg, "t", echo, tetherhttp.AsyncConfig{MaxBody: max, Check: func(r *http.Request) error {
			called = true
			return r.Context().Err()
		}})
		assert.Equal(t, http.StatusRequestEntityTooLarge, answerOf(h, request("POST", "/", "12345")).Code)
		assert.False(t, called)
		assert.Equal(t, http.StatusInternalServerError, answerOf(h, request("POST", "/", "").WithContext(ctx)).Code)
		assert.True(t, called)
		assert.Zero(t, reg.Stats().Submitted)
	})
}

// ProblemOf, for the errors as they really come.
func TestProblemOfWhatHappens(t *testing.T) {
	ended := func(t *testing.T, reg *tether.Registry, fn tether.Func, opts ...tether.Option) error {
		task, err := reg.Go(t.Context(), "t", fn, opts...)
		require.NoError(t, err)
		return task.Wait(t.Context())
	}
	for name, c := range map[string]struct {
		err        func(t *testing.T, reg *tether.Registry) error
		status     int
		retryAfter string
		told       bool
	}{
		"a pool is full": {func(t *testing.T, reg *tether.Registry) error {
			p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
			release := make(chan struct{})
			_, err := p.Go(t.Context(), "fills it", func(context.Context) error { <-release; return nil })
			require.NoError(t, err)
			_, err = p.Go(t.Context(), "t", func(context.Context) error { return nil })
			close(release)
			return err
		}, 503, "1", true},
		"the intake is closed": {func(t *testing.T, reg *tether.Registry) error {
			require.NoError(t, reg.Shutdown(t.Context()))
			_, err := reg.Go(t.Context(), "t", func(context.Context) error { return nil })
			return err
		}, 503, "5", true},
		"the drain has given up": {func(t *testing.T, reg *tether.Registry) error {
			task, err := reg.Go(t.Context(), "t", func(context.Context) error { return nil }, tether.Hold())
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_ = reg.Shutdown(ctx)
			return task.Wait(t.Context())
		}, 503, "5", true},
		"it takes too long": {func(t *testing.T, reg *tether.Registry) error {
			return ended(t, reg, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }, tether.Timeout(time.Second))
		}, 504, "", true},
		"a client has canceled it": {func(t *testing.T, reg *tether.Registry) error {
			task, err := reg.Go(t.Context(), "t", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			require.NoError(t, err)
			answerOf(tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true}), request("DELETE", "/tasks/"+task.ID(), ""))
			return task.Wait(t.Context())
		}, 410, "", true},
		"it has read too much": {func(t *testing.T, reg *tether.Registry) error {
			return ended(t, reg, func(context.Context) error {
				_, err := io.ReadAll(http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("12345")), 4))
				return err
			})
		}, 413, "", true},
		"it has a problem": {func(t *testing.T, reg *tether.Registry) error {
			return ended(t, reg, func(context.Context) error {
				return fmt.Errorf("secret: %w", &tetherhttp.Problem{Status: 409, Detail: "sold out", RetryAfter: time.Minute})
			})
		}, 409, "60", true},
		"it fails": {func(t *testing.T, reg *tether.Registry) error {
			return ended(t, reg, func(context.Context) error { return errors.New("secret") })
		}, 500, "", false},
		"it panics": {func(t *testing.T, reg *tether.Registry) error {
			return ended(t, reg, func(context.Context) error { panic("secret") })
		}, 500, "", false},
	} {
		bubble(t, name, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			err := c.err(t, reg)
			require.Error(t, err)
			w := answerOf(tetherhttp.ProblemOf(err), request("POST", "/", ""))
			assert.Equal(t, c.status, w.Code)
			assert.Equal(t, c.retryAfter, w.Header().Get("Retry-After"))
			assert.Equal(t, c.told, strings.Contains(w.Body.String(), `"detail"`))
			assert.NotContains(t, w.Body.String(), "secret")
			_ = reg.Shutdown(t.Context())
		})
	}
}
