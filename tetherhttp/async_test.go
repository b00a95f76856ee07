package tetherhttp_test

import (
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
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// bubble runs a subtest in virtual time.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// request makes a request with headers, given as names and values.
func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// asked is an answer in memory, which counts how often it is begun.
type asked struct {
	*httptest.ResponseRecorder
	begun int
}

func (a *asked) WriteHeader(status int) {
	a.begun++
	a.ResponseRecorder.WriteHeader(status)
}

// ask has a handler answer, and checks that it does so once.
func ask(t testing.TB, h http.Handler, r *http.Request) *asked {
	t.Helper()
	w := &asked{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, r)
	assert.Equal(t, 1, w.begun, "answers")
	return w
}

// problem returns the problem that an answer is, which must be one.
func (a *asked) problem(t testing.TB) tetherhttp.Problem {
	t.Helper()
	var p tetherhttp.Problem
	assert.Equal(t, "application/problem+json", a.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(a.Body.Bytes(), &p), a.Body.String())
	assert.Equal(t, a.Code, p.Status)
	return p
}

// statusJSON is a status as a client reads it.
type statusJSON struct {
	ID        string
	Name      string
	State     string
	Done      bool
	Submitted time.Time
	Started   time.Time
	Finished  time.Time
	Attempt   int
	Progress  map[string]any
	Result    json.RawMessage
	Problem   *tetherhttp.Problem
	ResultURL string `json:"result_url"`
}

func readStatus(t testing.TB, body []byte) (s statusJSON) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&s), string(body))
	return s
}

// accepted checks that an answer is a 202, and returns the task.
func accepted(t testing.TB, reg *tether.Registry, w *asked) *tether.Task {
	t.Helper()
	require.Equal(t, http.StatusAccepted, w.Code, w.Body.String())
	s := readStatus(t, w.Body.Bytes())
	require.Equal(t, "/tasks/"+s.ID, w.Header().Get("Location"))
	task, err := reg.Find(s.ID)
	require.NoError(t, err)
	return task
}

// report is what the bodies of these tests return.
type report struct {
	Pages int `json:"pages"`
}

// pass lets time pass, unless ctx ends before.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takes returns a body that takes its time.
func takes(d time.Duration) func(context.Context, *http.Request) (report, error) {
	return func(ctx context.Context, _ *http.Request) (report, error) {
		return report{7}, pass(ctx, d)
	}
}

// until returns a body that runs until c is closed or its context ends.
func until(c <-chan struct{}) func(context.Context, *http.Request) (report, error) {
	return func(ctx context.Context, _ *http.Request) (report, error) {
		select {
		case <-c:
			return report{7}, nil
		case <-ctx.Done():
			return report{}, context.Cause(ctx)
		}
	}
}

// block takes a place of r until the test ends.
func block(t testing.TB, r tether.Submitter) {
	t.Helper()
	_, err := r.Go(t.Context(), "blocker", func(ctx context.Context) error { <-ctx.Done(); return nil })
	require.NoError(t, err)
}

const sevenPages = "{\"pages\":7}\n"

// logbook is a log in memory.
type logbook struct {
	mu  sync.Mutex
	log bytes.Buffer
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// about returns the lines with this text in them.
func (b *logbook) about(text string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.log.String()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (b *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// of has a request believe that it came from a server, which logs to the book.
func (b *logbook) of(r *http.Request) *http.Request {
	srv := &http.Server{ErrorLog: log.New(b, "", 0)}
	return r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, srv))
}

// live returns the only live task of a registry.
func live(t testing.TB, reg *tether.Registry) *tether.Task {
	t.Helper()
	tasks := slices.Collect(reg.Tasks())
	require.Len(t, tasks, 1)
	return tasks[0]
}

// clientOf returns a client of the network that speaks HTTP/1, or HTTP/2 over TLS.
func clientOf(t *testing.T, n *memNet, version int) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(version == 1)
	p.SetHTTP2(version == 2)
	c := n.client(t, &p)
	c.Transport = versioned{c.Transport.(*http.Transport), version}
	return c
}

// versioned is a transport for requests to "/…", which checks the protocol.
type versioned struct {
	*http.Transport
	version int
}

func (v versioned) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", "test"
	if v.version == 2 {
		r.URL.Scheme = "https"
	}
	res, err := v.Transport.RoundTrip(r)
	if err == nil && res.ProtoMajor != v.version {
		return nil, fmt.Errorf("HTTP/%d instead of HTTP/%d", res.ProtoMajor, v.version)
	}
	return res, err
}

// overTheNetwork runs a subtest for each version of HTTP, with a server in memory.
func overTheNetwork(t *testing.T, name string, f func(t *testing.T, n *memNet, version int)) {
	t.Helper()
	for version := 1; version <= 2; version++ {
		bubble(t, fmt.Sprintf("%s, HTTP/%d", name, version), func(t *testing.T) {
			f(t, newMemNet(0), version)
		})
	}
}

// outbound makes a request for a client of the network.
func outbound(ctx context.Context, method, target string, body io.Reader, header ...string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// readAll reads a response to its end.
func readAll(t testing.TB, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return string(body)
}

func TestAsync(t *testing.T) {
	bubble(t, "work that is done in time is answered with its result", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", takes(499*time.Millisecond))
		began := time.Now()
		w := ask(t, h, request("POST", "/reports", "{}"))
		assert.Equal(t, 499*time.Millisecond, time.Since(began))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, http.Header{
			"Content-Length":         {"12"},
			"Content-Type":           {"application/json"},
			"Vary":                   {"Prefer"},
			"X-Content-Type-Options": {"nosniff"},
		}, w.Header())
		assert.Equal(t, sevenPages, w.Body.String())
		assert.Empty(t, slices.Collect(reg.Finished()), "no client knows its ID")
	})
	bubble(t, "work that is not done in time is answered with a promise, and goes on", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", takes(time.Minute))
		began := time.Now()
		w := ask(t, h, request("POST", "/reports", "{}"))
		assert.Equal(t, 500*time.Millisecond, time.Since(began))
		task := accepted(t, reg, w)
		assert.Equal(t, http.Header{
			"Cache-Control":          {"no-store"},
			"Content-Length":         {fmt.Sprint(w.Body.Len())},
			"Content-Type":           {"application/json"},
			"Location":               {"/tasks/" + task.ID()},
			"Retry-After":            {"1"},
			"Vary":                   {"Prefer"},
			"X-Content-Type-Options": {"nosniff"},
		}, w.Header())
		var s map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
		assert.Equal(t, map[string]any{
			"id": task.ID(), "name": "report", "state": "running", "done": false, "attempt": 1.0,
			"submitted": began.UTC().Format(time.RFC3339Nano), "started": began.UTC().Format(time.RFC3339Nano),
		}, s)
		require.NoError(t, task.Wait(t.Context()))
		assert.Equal(t, time.Minute, time.Since(began))
		assert.Equal(t, report{7}, task.Value())
		assert.Equal(t, []*tether.Task{task}, slices.Collect(reg.Finished()), "a client was told of it")
	})
	bubble(t, "work that says nothing of its progress is answered when it is done", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		began := time.Now()
		ask(t, tetherhttp.Async(reg, "report", takes(time.Microsecond)), request("POST", "/", ""))
		assert.Equal(t, time.Microsecond, time.Since(began))
	})
	bubble(t, "StatusAt says where to look", func(t *testing.T) {
		for prefix, want := range map[string]string{
			"/tasks/":             "/tasks/",
			"/v1/jobs":            "/v1/jobs/",
			"https://a.example/t": "https://a.example/t/",
		} {
			reg := newRegistry(t, tether.Config{})
			w := ask(t, tetherhttp.Async(reg, "report", takes(time.Second), tetherhttp.AsyncConfig{StatusAt: prefix}), request("POST", "/", ""))
			assert.Equal(t, want+live(t, reg).ID(), w.Header().Get("Location"))
		}
	})
	bubble(t, "a negative Inline does not wait", func(t *testing.T) {
		for _, d := range []time.Duration{-1, -time.Hour} {
			reg := newRegistry(t, tether.Config{})
			began := time.Now()
			accepted(t, reg, ask(t, tetherhttp.Async(reg, "report", takes(1), tetherhttp.AsyncConfig{Inline: d}), request("POST", "/", "")))
			assert.Zero(t, time.Since(began))
		}
	})
	bubble(t, "the status says when the task was submitted, or nothing", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Queue: 1000, Overflow: tether.OverflowBlock})
		for i := range 200 {
			r := tether.Submitter(reg)
			if i%2 == 0 {
				r = p
			}
			w := ask(t, tetherhttp.Async(r, "report", takes(1), tetherhttp.AsyncConfig{Inline: -1}), request("POST", "/", ""))
			accepted(t, reg, w)
			if s := readStatus(t, w.Body.Bytes()); r == p || s.State != "queued" {
				require.True(t, s.Submitted.Equal(time.Now()), w.Body.String())
			} else {
				require.NotContains(t, w.Body.String(), "submitted") // it starts at once
			}
		}
	})
	bubble(t, "Always202 counts also when the work is done already", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		block(t, p)
		h := tetherhttp.Async(p, "report", takes(0), tetherhttp.AsyncConfig{Always202: true, Inline: time.Hour})
		w := ask(t, h, request("POST", "/", "", "Prefer", "wait=5"))
		task := accepted(t, reg, w)
		s := readStatus(t, w.Body.Bytes())
		assert.True(t, s.Done)
		assert.JSONEq(t, sevenPages, string(s.Result))
		assert.Equal(t, at(task)+"/result", s.ResultURL, "relative to the URL of this answer")
		assert.Empty(t, w.Header().Values("Preference-Applied"))
		assert.Equal(t, []*tether.Task{task}, slices.Collect(reg.Finished()))
	})
	bubble(t, "unless it is forgotten already: then here is the answer", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		block(t, p)
		w := ask(t, tetherhttp.Async(p, "report", takes(0), tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, sevenPages, w.Body.String())
		assert.Empty(t, w.Header().Get("Location"))
		accepted(t, reg, ask(t, tetherhttp.Async(reg, "report", takes(1), tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", "")))
	})
	bubble(t, "what a 202 has promised stays, whatever else comes and goes", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 10})
		promised := accepted(t, reg, ask(t, tetherhttp.Async(reg, "report", takes(1), tetherhttp.AsyncConfig{Inline: -1}), request("POST", "/", "")))
		require.NoError(t, promised.Wait(t.Context()))
		for range 100 {
			start(t, reg, succeed)
		}
		synctest.Wait()
		_, err := reg.Find(promised.ID())
		assert.NoError(t, err)
	})
	bubble(t, "Always202 does not wait", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		began := time.Now()
		h := tetherhttp.Async(reg, "report", takes(time.Second), tetherhttp.AsyncConfig{Always202: true})
		w := ask(t, h, request("POST", "/", "", "Prefer", "respond-async, wait=5"))
		accepted(t, reg, w)
		assert.Zero(t, time.Since(began))
		assert.Equal(t, []string{"respond-async"}, w.Header().Values("Preference-Applied"))
	})
	bubble(t, "Always202 of what cannot be encoded is a 202 as well", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		block(t, p)
		var book logbook
		h := tetherhttp.Async(p, "report", func(context.Context, *http.Request) (chan int, error) { return nil, nil }, tetherhttp.AsyncConfig{Always202: true})
		accepted(t, reg, ask(t, h, book.of(request("POST", "/", ""))))
	})
	t.Run("what no request could mend is a panic", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		assert.Panics(t, func() { tetherhttp.Async(nil, "t", takes(0)) })
		assert.Panics(t, func() { tetherhttp.Async[int](reg, "t", nil) })
		assert.Panics(t, func() { tetherhttp.Async(reg, "", takes(0)) }, "a name that is not valid")
		assert.Panics(t, func() { tetherhttp.AsyncHandler(reg, "\n", http.NotFoundHandler()) })
		assert.Panics(t, func() { tetherhttp.AsyncHandler(nil, "t", http.NotFoundHandler()) })
		assert.Panics(t, func() { tetherhttp.Async(reg, "t", takes(0), tetherhttp.AsyncConfig{}, tetherhttp.AsyncConfig{}) }, "two configurations")
		for _, cfg := range []tetherhttp.IdempotencyConfig{{RetainFor: -1}, {MaxKeys: -1}} {
			assert.Panics(t, func() { tetherhttp.Async(reg, "t", takes(0), tetherhttp.AsyncConfig{Idempotency: &cfg}) })
		}
	})
	bubble(t, "an option that is not valid is logged, and answered 500", func(t *testing.T) {
		var book logbook
		reg := newRegistry(t, tether.Config{})
		w := ask(t, tetherhttp.Async(reg, "t", takes(0), tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Timeout(-1)}}), book.of(request("POST", "/reports", "")))
		assert.Equal(t, http.StatusInternalServerError, w.problem(t).Status)
		assert.Len(t, book.about(`POST "/reports"`), 1)
	})
	bubble(t, "the status is whole when the observer is slow with the end", func(t *testing.T) {
		ended := make(chan struct{})
		reg := newRegistry(t, tether.Config{Observer: slowEnd{until: ended}})
		t.Cleanup(func() { close(ended) })
		h := tetherhttp.Async(reg, "report", takes(0), tetherhttp.AsyncConfig{Inline: -1, TaskOptions: []tether.Option{tether.Unique("one")}})
		accepted(t, reg, ask(t, h, request("POST", "/", "")))
		synctest.Wait() // the task's state is final; its outcome cannot be seen yet
		accepted(t, reg, ask(t, h, request("POST", "/", "")))
	})
}

// slowEnd holds TaskEnded up until its channel is closed.
type slowEnd struct {
	tether.NopObserver
	until chan struct{}
}

func (o slowEnd) TaskEnded(context.Context, *tether.Task) { <-o.until }

// A result that comes at the very instant at which the wait ends: one answer, and a
// valid one.
func TestAsyncExactlyOneAnswer(t *testing.T) {
	bubble(t, "the timer and the result at the same instant", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 10_000})
		h := tetherhttp.Async(reg, "report", takes(500*time.Millisecond))
		status := tetherhttp.Tasks(reg)
		for range 3000 {
			w := ask(t, h, request("POST", "/", ""))
			if w.Code == http.StatusOK {
				require.Equal(t, sevenPages, w.Body.String())
				require.Empty(t, w.Header().Get("Location"))
				require.Empty(t, w.Header().Get("Retry-After"))
				continue
			}
			task := accepted(t, reg, w)
			require.NoError(t, task.Wait(t.Context()))
			require.Equal(t, sevenPages, ask(t, status, request("GET", w.Header().Get("Location")+"/result", "")).Body.String())
		}
		n := 0
		for range reg.Finished() {
			n++
		}
		t.Logf("%d of 3000 were answered 202", n)
	})
	t.Run("the result, the end of the client and the end of the wait at once", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 10_000})
		for i := range 1500 {
			ctx, cancel := context.WithCancel(context.Background())
			release := make(chan struct{})
			h := tetherhttp.Async(reg, "report", until(release), tetherhttp.AsyncConfig{Inline: time.Hour})
			if i%3 == 0 {
				h = tetherhttp.Async(reg, "report", until(release), tetherhttp.AsyncConfig{Inline: -1})
			}
			var wg sync.WaitGroup
			start := make(chan struct{})
			wg.Go(func() { <-start; close(release) })
			wg.Go(func() { <-start; cancel() })
			wg.Go(func() {
				<-start
				w := ask(t, h, request("POST", "/", "").WithContext(ctx))
				switch w.Code {
				case http.StatusOK:
					assert.Equal(t, sevenPages, w.Body.String())
				case http.StatusAccepted:
					accepted(t, reg, w)
				case http.StatusServiceUnavailable:
					w.problem(t)
				default:
					t.Error("status", w.Code)
				}
			})
			close(start)
			wg.Wait()
		}
	})
	overTheNetwork(t, "the timer and the result at the same instant", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{Retain: 10_000})
		n.serve(t, n.server(tetherhttp.Async(reg, "report", takes(500*time.Millisecond))), version == 2)
		c := clientOf(t, n, version)
		for range 300 {
			res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
			require.NoError(t, err)
			body := readAll(t, res)
			if res.StatusCode == http.StatusOK {
				require.Equal(t, sevenPages, body)
				continue
			}
			require.Equal(t, http.StatusAccepted, res.StatusCode)
			require.NotEmpty(t, readStatus(t, []byte(body)).ID)
		}
	})
}

func TestAsyncPrefer(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		prefer      []string
		work, after time.Duration
		status      int
		applied     []string
	}{
		"nothing":                                 {nil, 100 * time.Millisecond, 100 * time.Millisecond, 200, nil},
		"respond-async":                           {[]string{"respond-async"}, s, 0, 202, []string{"respond-async"}},
		"a wait that is long enough":              {[]string{"wait=5"}, 3 * s, 3 * s, 200, []string{"wait=5"}},
		"a wait that is too short":                {[]string{"wait=5"}, 8 * s, 5 * s, 202, []string{"wait=5"}},
		"a wait of no time":                       {[]string{"wait=0"}, s, 0, 202, []string{"wait=0"}},
		"the longest wait":                        {[]string{"wait=20"}, 60 * s, 20 * s, 202, []string{"wait=20"}},
		"a wait above the cap was not granted":    {[]string{"wait=21"}, 60 * s, 20 * s, 202, nil},
		"both, and it is done":                    {[]string{"respond-async, wait=5"}, 3 * s, 3 * s, 200, []string{"wait=5"}},
		"both, and it is not done":                {[]string{"wait=5", "Respond-Async"}, 8 * s, 5 * s, 202, []string{"respond-async", "wait=5"}},
		"both, above the cap":                     {[]string{"respond-async, wait=60"}, 50 * s, 20 * s, 202, []string{"respond-async"}},
		"a wait that is none":                     {[]string{"wait=1.5"}, s / 5, s / 5, 200, nil},
		"a wait that is negative":                 {[]string{"wait=-1"}, s / 5, s / 5, 200, nil},
		"something else":                          {[]string{"handling=lenient"}, s / 5, s / 5, 200, nil},
		"respond-async with a value is not known": {[]string{"respond-async=no"}, s / 5, s / 5, 200, nil},
	} {
		bubble(t, name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			h := tetherhttp.Async(reg, "report", takes(test.work), tetherhttp.AsyncConfig{MaxWait: 20 * s})
			r := request("POST", "/", "")
			r.Header["Prefer"] = test.prefer
			began := time.Now()
			w := ask(t, h, r)
			assert.Equal(t, test.after, time.Since(began))
			assert.Equal(t, test.status, w.Code)
			assert.Equal(t, test.applied, w.Header().Values("Preference-Applied"))
			assert.Equal(t, []string{"Prefer"}, w.Header().Values("Vary"))
		})
	}
	bubble(t, "the cap is 30 s by default", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		began := time.Now()
		ask(t, tetherhttp.Async(reg, "report", takes(time.Minute)), request("POST", "/", "", "Prefer", "wait=40"))
		assert.Equal(t, 30*time.Second, time.Since(began))
	})
	bubble(t, "but Inline is always granted", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", takes(time.Minute), tetherhttp.AsyncConfig{MaxWait: -1, Inline: 5 * time.Second})
		for prefer, want := range map[string]string{"wait=40": "", "wait=6": "", "wait=5": "wait=5", "wait=3": "wait=3"} {
			began := time.Now()
			w := ask(t, h, request("POST", "/", "", "Prefer", prefer))
			assert.Equal(t, want, w.Header().Get("Preference-Applied"))
			if prefer == "wait=3" {
				began = began.Add(-2 * time.Second)
			}
			assert.Equal(t, 5*time.Second, time.Since(began))
		}
	})
}

func TestAsyncClientGone(t *testing.T) {
	overTheNetwork(t, "a client that goes while it waits takes its task with it", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		cause := make(chan error, 1)
		n.serve(t, n.server(tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (report, error) {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return report{}, ctx.Err()
		}, tetherhttp.AsyncConfig{Inline: time.Hour})), version == 2)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := clientOf(t, n, version).Do(outbound(ctx, "POST", "/", strings.NewReader("{}"))) // there is no body to close
			done <- err
		}()
		synctest.Wait()
		task := live(t, reg)
		require.Equal(t, tether.Running, task.State())
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		synctest.Wait()
		require.Equal(t, tether.Canceled, task.State())
		require.ErrorIs(t, <-cause, tetherhttp.ErrClientGone)
	})
	overTheNetwork(t, "but not with KeepOnDisconnect", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		n.serve(t, n.server(tetherhttp.Async(reg, "report", until(release), tetherhttp.AsyncConfig{Inline: time.Hour, KeepOnDisconnect: true})), version == 2)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, err := clientOf(t, n, version).Do(outbound(ctx, "POST", "/", strings.NewReader("{}"))) // there is no body to close
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		task := live(t, reg)
		require.Equal(t, tether.Running, task.State())
		close(release)
		require.NoError(t, task.Wait(t.Context()))
		assert.Len(t, slices.Collect(reg.Finished()), 1)
	})
	overTheNetwork(t, "nor when it has been told where to look", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		n.serve(t, n.server(tetherhttp.Async(reg, "report", until(release))), version == 2)
		c := clientOf(t, n, version)
		res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, res.StatusCode)
		readAll(t, res)
		c.CloseIdleConnections()
		synctest.Wait()
		task := live(t, reg)
		require.Equal(t, tether.Running, task.State())
		close(release)
		require.NoError(t, task.Wait(t.Context()))
	})
	bubble(t, "a client that is there all the same is told so", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		h := tetherhttp.Async(reg, "report", until(nil), tetherhttp.AsyncConfig{Inline: time.Hour})
		w := ask(t, h, request("POST", "/", "").WithContext(ctx))
		assert.Equal(t, http.StatusServiceUnavailable, w.problem(t).Status)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		assert.Empty(t, w.Header().Get("Location"))
		synctest.Wait()
		finished := slices.Collect(reg.Finished())
		require.Len(t, finished, 1)
		assert.ErrorIs(t, finished[0].Err(), tetherhttp.ErrClientGone)
	})
	bubble(t, "a result that was there in time is answered", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		h := tetherhttp.Async(reg, "report", func(context.Context, *http.Request) (report, error) {
			cancel()
			return report{7}, nil
		})
		for range 200 {
			w := ask(t, h, request("POST", "/", "").WithContext(ctx))
			if w.Code != http.StatusOK {
				w.problem(t)
			}
		}
	})
}

// A server's limits are those of its answers, not of the wait.
func TestAsyncServerTimeouts(t *testing.T) {
	overTheNetwork(t, "limits shorter than the wait", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		var conns atomic.Int32
		n.onConn = func(net.Conn) { conns.Add(1) }
		srv := n.server(tetherhttp.Async(reg, "report", takes(20*time.Second), tetherhttp.AsyncConfig{Inline: 30 * time.Second}))
		srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = time.Second, time.Second, time.Hour
		n.serve(t, srv, version == 2)
		c := clientOf(t, n, version)
		for range 3 {
			res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, sevenPages, readAll(t, res))
		}
		assert.EqualValues(t, 1, conns.Load(), "connections")
	})
	overTheNetwork(t, "the limit for the answer holds from when it is known", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		wrote := make(chan error, 1)
		inner := tetherhttp.Async(reg, "report", func(context.Context, *http.Request) (http.Handler, error) {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for { // a client that does not read
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						wrote <- err
						return
					}
				}
			}), nil
		}, tetherhttp.AsyncConfig{Inline: time.Minute})
		srv := n.server(inner)
		srv.WriteTimeout = time.Second
		n.serve(t, srv, version == 2)
		began := time.Now() // the answer is known at once
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
		require.NoError(t, err)
		require.Error(t, <-wrote)
		assert.Equal(t, time.Second, time.Since(began))
		_ = res.Body.Close()
	})
}

// cutOff sends a request without a body, reads nothing of the answer, and returns
// when the server closes the connection.
func (n *memNet) cutOff(t *testing.T, srv *http.Server, request string) time.Duration {
	t.Helper()
	began := time.Now()
	closed := make(chan time.Duration, 1)
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- time.Since(began)
		}
	}
	n.serve(t, srv, false)
	conn, err := n.dial(t.Context(), "", "")
	require.NoError(t, err)
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	time.Sleep(time.Hour)
	require.Len(t, closed, 1)
	require.NoError(t, conn.Close())
	return <-closed
}

// A client that reads nothing of its answer is cut off by the WriteTimeout, whatever
// the answer is.
func TestAsyncReaderThatDoesNotRead(t *testing.T) {
	for name, handler := range map[string]func(*testing.T, *tether.Registry) http.Handler{
		"of a result": func(_ *testing.T, reg *tether.Registry) http.Handler {
			return tetherhttp.Async(reg, "report", takes(0))
		},
		"of a promise": func(_ *testing.T, reg *tether.Registry) http.Handler {
			return tetherhttp.Async(reg, "report", takes(1), tetherhttp.AsyncConfig{Inline: -1})
		},
		"of a refusal": func(t *testing.T, _ *tether.Registry) http.Handler {
			return tetherhttp.Async(full(t), "report", takes(0))
		},
	} {
		bubble(t, name, func(t *testing.T) {
			n := newMemNet(0)
			srv := n.server(handler(t, newRegistry(t, tether.Config{})))
			srv.WriteTimeout = time.Second
			assert.Equal(t, time.Second, n.cutOff(t, srv, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"))
		})
	}
}

func TestAsyncBody(t *testing.T) {
	// echo returns the length of the body that it gets.
	echo := func(ran *atomic.Int32) func(context.Context, *http.Request) (int, error) {
		return func(_ context.Context, r *http.Request) (int, error) {
			ran.Add(1)
			body, err := io.ReadAll(r.Body)
			if int64(len(body)) != r.ContentLength || len(r.TransferEncoding) > 0 {
				return 0, fmt.Errorf("content length %d of %d bytes, encoding %v", r.ContentLength, len(body), r.TransferEncoding)
			}
			return len(body), errors.Join(err, r.Body.Close())
		}
	}
	chunked := func(r *http.Request) *http.Request {
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
		return r
	}
	bubble(t, "as large as it may be", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		h := tetherhttp.Async(reg, "echo", echo(&ran), tetherhttp.AsyncConfig{MaxBody: 1000})
		assert.Equal(t, "1000\n", ask(t, h, request("POST", "/", text(1000))).Body.String())
		assert.Equal(t, "1000\n", ask(t, h, chunked(request("POST", "/", text(1000)))).Body.String())
	})
	bubble(t, "larger", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		for i, h := range []http.Handler{
			tetherhttp.Async(reg, "echo", echo(&ran), tetherhttp.AsyncConfig{MaxBody: 1000}),
			tetherhttp.Async(reg, "echo", echo(&ran)), // 1 MiB
			tetherhttp.Async(reg, "echo", echo(&ran), tetherhttp.AsyncConfig{MaxBody: -1}),
		} {
			most := []int{1000, 1 << 20, 0}[i]
			for _, r := range []*http.Request{request("POST", "/", text(most+1)), chunked(request("POST", "/", text(most+1)))} {
				w := ask(t, h, r)
				p := w.problem(t)
				assert.Equal(t, http.StatusRequestEntityTooLarge, p.Status)
				assert.Equal(t, fmt.Sprintf("the body is larger than %d bytes", most), p.Detail)
			}
		}
		assert.Zero(t, ran.Load())
		assert.Zero(t, reg.Stats().Submitted)
	})
	bubble(t, "larger, by its own word: nothing of it is read", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		for version, connection := range map[int]string{1: "close", 2: ""} {
			r := httptest.NewRequest("POST", "/", io.MultiReader(iotestErr{errors.New("was read")}))
			r.ContentLength, r.ProtoMajor = 1001, version
			w := ask(t, tetherhttp.Async(reg, "echo", echo(&ran), tetherhttp.AsyncConfig{MaxBody: 1000}), r)
			assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
			assert.Equal(t, connection, w.Header().Get("Connection"))
		}
	})
	bubble(t, "none", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		h := tetherhttp.Async(reg, "echo", echo(&ran), tetherhttp.AsyncConfig{MaxBody: -1})
		r := request("POST", "/", "")
		r.Body = nil
		assert.Equal(t, "0\n", ask(t, h, r).Body.String())
		assert.Equal(t, "0\n", ask(t, h, request("POST", "/", "")).Body.String())
	})
	bubble(t, "one that breaks off", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("abc"), iotestErr{io.ErrUnexpectedEOF}))
		p := ask(t, tetherhttp.Async(reg, "echo", echo(&ran)), r).problem(t)
		assert.Equal(t, http.StatusBadRequest, p.Status)
		assert.Zero(t, ran.Load())
	})
	overTheNetwork(t, "one that does not come in time", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		var ran atomic.Int32
		srv := n.server(tetherhttp.Async(reg, "echo", echo(&ran)))
		srv.ReadTimeout = time.Second
		n.serve(t, srv, version == 2)
		slow, end := io.Pipe()
		go func() { _, _ = io.WriteString(end, "abc") }()
		began := time.Now()
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "POST", "/", slow))
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
		readAll(t, res)
		_ = end.Close()
		assert.Zero(t, ran.Load())
	})
	bubble(t, "whole in each attempt", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var got []string
		h := tetherhttp.Async(reg, "report", func(ctx context.Context, r *http.Request) (report, error) {
			body, err := io.ReadAll(r.Body)
			got = append(got, string(body))
			if len(got) < 3 {
				return report{}, errors.Join(errTest, err)
			}
			return report{len(got)}, err
		}, tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Millisecond }})}})
		assert.Equal(t, "{\"pages\":3}\n", ask(t, h, request("POST", "/", "abc")).Body.String())
		assert.Equal(t, []string{"abc", "abc", "abc"}, got)
	})
}

// iotestErr is a reader that fails.
type iotestErr struct{ error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.error }

// upload returns the body of a form with a file in it, and its content type.
func upload(t testing.TB, size int) (body, contentType string) {
	t.Helper()
	var b strings.Builder
	form := multipart.NewWriter(&b)
	file, err := form.CreateFormFile("file", "name")
	require.NoError(t, err)
	_, err = io.WriteString(file, text(size))
	require.NoError(t, err)
	require.NoError(t, form.WriteField("field", "value"))
	require.NoError(t, form.Close())
	return b.String(), form.FormDataContentType()
}

func TestAsyncUpload(t *testing.T) {
	for name, end := range map[string]func() error{
		"a form is parsed in the body, in each attempt, and its files are removed": func() error { return errTest },
		"also if the body panics":              func() error { panic("test panic") },
		"also if the body ends its goroutine":  func() error { runtime.Goexit(); return nil },
		"also if the answer has been given up": nil,
	} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			files := func() int {
				entries, err := os.ReadDir(temp)
				require.NoError(t, err)
				return len(entries)
			}
			body, contentType := upload(t, 1<<16)
			synctest.Test(t, func(t *testing.T) {
				reg := newRegistry(t, tether.Config{})
				attempts := 0
				h := tetherhttp.Async(reg, "upload", func(_ context.Context, r *http.Request) (string, error) {
					attempts++
					time.Sleep(time.Second) // the handler has returned
					if err := r.ParseMultipartForm(100); err != nil {
						return "", err
					}
					assert.Equal(t, 1, files(), "else this test shows nothing")
					f, err := r.MultipartForm.File["file"][0].Open()
					if err != nil {
						return "", err
					}
					content, err := io.ReadAll(f)
					assert.NoError(t, errors.Join(err, f.Close()))
					assert.Equal(t, text(1<<16), string(content))
					if attempts == 1 && end != nil {
						return "", end()
					}
					return r.FormValue("field"), nil
				}, tetherhttp.AsyncConfig{TaskOptions: []tether.Option{tether.Retry(tether.RetryPolicy{
					Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }, ShouldRetry: func(error) bool { return true },
				})}})
				task := accepted(t, reg, ask(t, h, request("POST", "/", body, "Content-Type", contentType)))
				time.Sleep(time.Second)
				synctest.Wait() // between the attempts
				assert.Zero(t, files())
				require.NoError(t, task.Wait(t.Context()))
				assert.Equal(t, "value", task.Value())
				assert.Zero(t, files())
			})
		})
	}
}

func TestAsyncRequest(t *testing.T) {
	bubble(t, "a form that a middleware has parsed is a mistake of the program", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		body, contentType := upload(t, 10)
		r := request("POST", "/reports", body, "Content-Type", contentType)
		require.NoError(t, r.ParseMultipartForm(1<<20))
		var book logbook
		w := ask(t, tetherhttp.Async(reg, "report", takes(0)), book.of(r))
		assert.Equal(t, http.StatusInternalServerError, w.problem(t).Status)
		assert.Len(t, book.about(`POST "/reports"`), 1)
		assert.Zero(t, reg.Stats().Submitted)
	})
	bubble(t, "the body is no handler: there is no response to run a task after", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		n := newMemNet(0)
		srv := n.server(tetherhttp.Async(reg, "report", func(ctx context.Context, r *http.Request) (string, error) {
			_, err := tetherhttp.After(ctx, "after", succeed)
			assert.ErrorIs(t, err, tetherhttp.ErrNoScope)
			_, err = tetherhttp.After(r.Context(), "after", succeed)
			assert.ErrorIs(t, err, tetherhttp.ErrNoScope)
			assert.NotNil(t, ctx.Value(http.ServerContextKey), "other values are there")
			return "", nil
		}))
		tetherhttp.Attach(srv, reg)
		n.serve(t, srv, false)
		got := look(t, clientOf(t, n, 1), outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
		assert.Equal(t, http.StatusOK, got.status)
	})
	type key struct{}
	bubble(t, "the body has the route's parameters, the context's values, and the task's end", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		mux := http.NewServeMux()
		mux.Handle("POST /reports/{kind}", tetherhttp.Async(reg, "report", func(ctx context.Context, r *http.Request) (string, error) {
			time.Sleep(time.Minute) // the handler has returned
			assert.NoError(t, ctx.Err())
			assert.Equal(t, ctx, r.Context())
			assert.Equal(t, "value", ctx.Value(key{}))
			assert.Equal(t, "POST /reports/{kind}", r.Pattern)
			task, ok := tether.FromContext(r.Context())
			assert.True(t, ok)
			assert.Equal(t, "report", task.Name())
			return r.PathValue("kind"), nil
		}))
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		task := accepted(t, reg, ask(t, mux, request("POST", "/reports/yearly", "").WithContext(ctx)))
		cancel() // as the server does
		require.NoError(t, task.Wait(t.Context()))
		assert.Equal(t, "yearly", task.Value())
	})
	t.Run("the request is the body's own, whatever a middleware does to it afterwards", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		returned := make(chan struct{})
		h := tetherhttp.Async(reg, "report", func(_ context.Context, r *http.Request) (string, error) {
			for { // all the time: the race detector is looking
				if got := r.Header.Get("X-User") + r.URL.Path + r.FormValue("a"); got != "me/path1" {
					return got, nil
				}
				select {
				case <-returned:
					return r.Header.Get("X-User") + r.URL.Path, nil
				default:
				}
			}
		}, tetherhttp.AsyncConfig{Inline: -1})
		r := request("POST", "/path?a=1", "", "X-User", "me")
		require.NoError(t, r.ParseForm())
		task := accepted(t, reg, ask(t, h, r))
		r.Header.Set("X-User", "you")
		r.URL.Path = "/other"
		r.Form.Set("a", "2")
		close(returned)
		require.NoError(t, task.Wait(t.Context()))
		assert.Equal(t, "me/path", task.Value())
	})
}

func TestAsyncCheck(t *testing.T) {
	bubble(t, "a request that is refused is no task, has used no key, and is told why", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var refuse error
		h := tetherhttp.Async(reg, "report", takes(0), tetherhttp.AsyncConfig{Always202: true, Idempotency: &tetherhttp.IdempotencyConfig{}, Check: func(*http.Request) error { return refuse }})
		for status, err := range map[int]error{
			http.StatusForbidden:           fmt.Errorf("%s: %w", secret, &tetherhttp.Problem{Status: 403, Detail: "not yours"}),
			http.StatusInternalServerError: errors.New(secret),
			http.StatusTeapot:              ownError{teapot{"short"}},
		} {
			refuse = err
			w := ask(t, h, request("POST", "/", "", "Idempotency-Key", "k"))
			assert.Equal(t, status, w.Code)
			assert.NotContains(t, w.Body.String(), secret)
		}
		assert.Zero(t, reg.Stats().Submitted)
		refuse = nil
		w := ask(t, h, request("POST", "/", "", "Idempotency-Key", "k"))
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Empty(t, w.Header().Get("Idempotency-Replayed"))
	})
	t.Run("it can read the body, which is there again for the work", func(t *testing.T) {
		temp := t.TempDir()
		t.Setenv("TMPDIR", temp)
		synctest.Test(t, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			files := func() int {
				entries, err := os.ReadDir(temp)
				require.NoError(t, err)
				return len(entries)
			}
			parse := func(r *http.Request) error {
				assert.Zero(t, files(), "it is the next one's own")
				assert.Nil(t, r.MultipartForm)
				err := r.ParseMultipartForm(100)
				assert.Equal(t, "value", r.FormValue("field"))
				assert.Equal(t, 1, files())
				return err
			}
			body, contentType := upload(t, 1<<16)
			h := tetherhttp.Async(reg, "report", func(_ context.Context, r *http.Request) (string, error) {
				return r.PathValue("id"), parse(r)
			}, tetherhttp.AsyncConfig{Check: func(r *http.Request) error {
				assert.EqualValues(t, len(body), r.ContentLength)
				return errors.Join(parse(r), r.Context().Err())
			}})
			mux := http.NewServeMux()
			mux.Handle("POST /reports/{id}", h)
			w := ask(t, mux, request("POST", "/reports/7", body, "Content-Type", contentType))
			assert.Equal(t, "\"7\"\n", w.Body.String())
			assert.Zero(t, files())
		})
	})
	bubble(t, "a body that is too large is not looked at", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", takes(0), tetherhttp.AsyncConfig{MaxBody: 1, Check: func(*http.Request) error {
			t.Error("it was")
			return nil
		}})
		assert.Equal(t, http.StatusRequestEntityTooLarge, ask(t, h, request("POST", "/", "ab")).Code)
	})
}

// Requests that share a task: one request cannot know which others have it.
func TestAsyncUnique(t *testing.T) {
	type visitor struct {
		cancel context.CancelFunc
		answer chan *asked
	}
	// visit sends a request.
	visit := func(t *testing.T, h http.Handler, header ...string) visitor {
		ctx, cancel := context.WithCancel(t.Context())
		v := visitor{cancel, make(chan *asked, 1)}
		go func() { v.answer <- ask(t, h, request("POST", "/", "", header...).WithContext(ctx)) }()
		synctest.Wait()
		return v
	}
	shared := func(reg *tether.Registry, release chan struct{}) http.Handler {
		return tetherhttp.Async(reg, "report", until(release), tetherhttp.AsyncConfig{Inline: time.Hour, TaskOptions: []tether.Option{tether.Unique("one")}})
	}
	bubble(t, "all get the answer", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		h := shared(reg, release)
		a, b, c := visit(t, h), visit(t, h), visit(t, h)
		close(release)
		for _, v := range []visitor{a, b, c} {
			w := <-v.answer
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Equal(t, sevenPages, w.Body.String())
		}
		assert.EqualValues(t, 1, reg.Stats().Submitted)
		assert.Len(t, slices.Collect(reg.Finished()), 1, "a client may still look for it")
	})
	bubble(t, "it continues if one of the clients goes", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		h := shared(reg, release)
		a, b := visit(t, h), visit(t, h)
		task := live(t, reg)
		b.cancel()
		assert.Same(t, task, accepted(t, reg, <-b.answer), "the client may still be there")
		a.cancel()
		assert.Same(t, task, accepted(t, reg, <-a.answer))
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
		c := visit(t, h)
		close(release)
		assert.Equal(t, http.StatusOK, (<-c.answer).Code)
	})
	bubble(t, "one that is told of it meanwhile can find the result that the others had", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		h := shared(reg, release)
		a := visit(t, h)
		task := accepted(t, reg, <-visit(t, h, "Prefer", "respond-async").answer)
		close(release)
		assert.Equal(t, http.StatusOK, (<-a.answer).Code)
		assert.Equal(t, []*tether.Task{task}, slices.Collect(reg.Finished()))
	})
	bubble(t, "a task that the program has made is not a client's to cancel", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		task, err := reg.Go(t.Context(), "elsewhere", func(context.Context) error { <-release; return nil }, tether.Unique("one"))
		require.NoError(t, err)
		a := visit(t, shared(reg, nil))
		a.cancel()
		<-a.answer
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
		close(release)
		require.NoError(t, task.Wait(t.Context()))
		assert.Len(t, slices.Collect(reg.Finished()), 1)
	})
}

// What is not admitted is not started, and never answered 202.
func TestAsyncRefused(t *testing.T) {
	refused := func(t *testing.T, w *asked) tetherhttp.Problem {
		t.Helper()
		p := w.problem(t)
		assert.Equal(t, http.StatusServiceUnavailable, p.Status)
		assert.Contains(t, []string{tetherhttp.ProblemBusy, tetherhttp.ProblemStopping}, p.Type)
		assert.Empty(t, w.Header().Get("Location"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		return p
	}
	// crowd fills a pool of one worker, until the test ends.
	crowd := func(t *testing.T, cfg tether.PoolConfig) (*tether.Registry, *tether.Pool) {
		reg := newRegistry(t, tether.Config{})
		cfg.Workers = 1
		p := reg.NewPool("p", cfg)
		block(t, p)
		synctest.Wait()
		return reg, p
	}
	never := func(t *testing.T) func(context.Context, *http.Request) (report, error) {
		return func(context.Context, *http.Request) (report, error) {
			t.Error("it has run")
			return report{}, nil
		}
	}
	bubble(t, "by a full pool that rejects", func(t *testing.T) {
		reg, p := crowd(t, tether.PoolConfig{Overflow: tether.OverflowReject})
		w := ask(t, tetherhttp.Async(p, "report", never(t), tetherhttp.AsyncConfig{Always202: true}), request("POST", "/", ""))
		refused(t, w)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		assert.EqualValues(t, 1, reg.Stats().Refused)
	})
	bubble(t, "by a full registry", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Limit: 1})
		block(t, reg)
		refused(t, ask(t, tetherhttp.Async(reg, "report", never(t)), request("POST", "/", "")))
	})
	bubble(t, "by a full pool that blocks, when the client has gone", func(t *testing.T) {
		_, p := crowd(t, tether.PoolConfig{Overflow: tether.OverflowBlock})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		refused(t, ask(t, tetherhttp.Async(p, "report", never(t)), request("POST", "/", "").WithContext(ctx)))
		assert.Equal(t, time.Minute, time.Since(began))
	})
	bubble(t, "by a pool that drops the oldest, when a later request comes", func(t *testing.T) {
		reg, p := crowd(t, tether.PoolConfig{Queue: 1, Overflow: tether.OverflowDropOldest})
		h := tetherhttp.Async(p, "report", never(t), tetherhttp.AsyncConfig{Inline: time.Hour})
		answer := make(chan *asked)
		go func() { answer <- ask(t, h, request("POST", "/", "")) }()
		synctest.Wait()
		newer, err := p.Go(t.Context(), "newer", func(context.Context) error { return nil })
		require.NoError(t, err)
		w := <-answer
		refused(t, w)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		assert.EqualValues(t, 1, reg.Stats().Dropped)
		newer.Cancel(nil)
	})
	bubble(t, "not by a pool whose callers run", func(t *testing.T) {
		_, p := crowd(t, tether.PoolConfig{Overflow: tether.OverflowCallerRuns})
		w := ask(t, tetherhttp.Async(p, "report", takes(time.Second)), request("POST", "/", ""))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, sevenPages, w.Body.String())
	})
	bubble(t, "by a registry that stops", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		require.NoError(t, reg.Shutdown(t.Context()))
		w := ask(t, tetherhttp.Async(reg, "report", never(t)), request("POST", "/", ""))
		refused(t, w)
		assert.Equal(t, "5", w.Header().Get("Retry-After"))
	})
	bubble(t, "by a shutdown that cancels what runs", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		answer := make(chan *asked)
		h := tetherhttp.Async(reg, "report", until(nil), tetherhttp.AsyncConfig{Inline: time.Hour})
		go func() { answer <- ask(t, h, request("POST", "/", "")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, reg.Shutdown(ctx))
		w := <-answer
		refused(t, w)
		assert.Equal(t, "5", w.Header().Get("Retry-After"))
	})
}

// full returns a registry that refuses every task.
func full(t testing.TB) *tether.Registry {
	reg := newRegistry(t, tether.Config{Limit: 1})
	block(t, reg)
	return reg
}

// outcomes are those that a client is told of, and what a client must not read in
// them.
const secret = "s3cr3t"

// teapot is a result that writes itself.
type teapot struct{ Text string }

func (p teapot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusTeapot)
	_, _ = io.WriteString(w, p.Text)
}

// ownError is an error that writes itself.
type ownError struct{ teapot }

func (ownError) Error() string { return secret }

// Every outcome is answered the same inline, and by the status resource.
func TestAsyncOutcomes(t *testing.T) {
	type test struct {
		body   func(context.Context, *http.Request) (any, error)
		opts   []tether.Option
		status int
		answer string // the body, of those that are no problems
		detail string
		logged int // by the registry
		server int // by the server, for each answer
	}
	returns := func(v any, err error) func(context.Context, *http.Request) (any, error) {
		return func(context.Context, *http.Request) (any, error) { return v, err }
	}
	conflict := &tetherhttp.Problem{Type: "https://example.com/stock", Title: "Out of stock", Status: 409, Detail: "none left", Instance: "/orders/1"}
	for name, test := range map[string]test{
		"a value":                         {body: returns(report{7}, nil), status: 200, answer: sevenPages},
		"nothing":                         {body: returns(nil, nil), status: 200, answer: "null\n"},
		"a pointer to nothing":            {body: returns((*report)(nil), nil), status: 200, answer: "null\n"},
		"nothing that would write itself": {body: returns((*tetherhttp.Problem)(nil), nil), status: 200, answer: "null\n"},
		"zero":                            {body: returns(0, nil), status: 200, answer: "0\n"},
		"a value that writes itself":      {body: returns(teapot{"short"}, nil), status: 418, answer: "short"},
		"a value that cannot be encoded":  {body: returns(make(chan int), nil), status: 500, server: 1},
		"a value with a bad MarshalJSON":  {body: returns(unmarshalable{}, nil), status: 500, server: 1},
		"an unknown error":                {body: returns(nil, errors.New(secret)), status: 500, logged: 1},
		"an error and a value":            {body: returns(secret, errors.New(secret)), status: 500, logged: 1},
		"a problem":                       {body: returns(nil, conflict), status: 409, detail: "none left", logged: 1},
		"a problem in an unknown error":   {body: returns(nil, fmt.Errorf("%s: %w", secret, conflict)), status: 409, detail: "none left", logged: 1},
		"a problem of ours":               {body: returns(nil, &tetherhttp.Problem{Status: 502, Detail: "upstream"}), status: 502, detail: "upstream", logged: 1},
		"a problem with a bad status":     {body: returns(nil, &tetherhttp.Problem{Status: 200, Detail: "odd"}), status: 500, detail: "odd", logged: 1},
		"a problem that is nil":           {body: returns(nil, (*tetherhttp.Problem)(nil)), status: 500, logged: 1},
		"an error that writes itself":     {body: returns(nil, ownError{teapot{"short"}}), status: 418, answer: "short", logged: 1},
		"a panic":                         {body: func(context.Context, *http.Request) (any, error) { panic(secret) }, status: 500, logged: 1},
		"a panic with an error":           {body: func(context.Context, *http.Request) (any, error) { panic(errors.New(secret)) }, status: 500, logged: 1},
		"runtime.Goexit":                  {body: func(context.Context, *http.Request) (any, error) { runtime.Goexit(); return nil, nil }, status: 500, logged: 1},
		"a timeout": {body: func(ctx context.Context, _ *http.Request) (any, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("%s: %w", secret, ctx.Err())
		}, opts: []tether.Option{tether.Timeout(time.Second)}, status: 504, detail: "the work took too long", logged: 1},
		"a body that finds no room for a task of its own": {body: returns(nil, fmt.Errorf("%s: %w", secret, &tether.FullError{Pool: secret})), status: 503, detail: "the service is busy; try again", logged: 1},
		"a body that was stopped":                         {body: returns(nil, fmt.Errorf("%s: %w", secret, tether.ErrShutdown)), status: 503, detail: "the service is being restarted; try again", logged: 1},
		"a body that has read too much":                   {body: returns(nil, fmt.Errorf("%s: %w", secret, &http.MaxBytesError{Limit: 5})), status: 413, detail: "the body is larger than 5 bytes", logged: 1},
	} {
		check := func(t *testing.T, w *asked) {
			t.Helper()
			assert.Equal(t, test.status, w.Code)
			assert.NotContains(t, w.Body.String(), secret)
			if test.answer != "" {
				assert.Equal(t, test.answer, w.Body.String())
				return
			}
			p := w.problem(t)
			assert.Equal(t, test.detail, p.Detail)
			assert.NotEmpty(t, p.Title)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			if test.status == http.StatusConflict {
				assert.Equal(t, *conflict, p)
			}
		}
		bubble(t, name+", inline", func(t *testing.T) {
			var book, server logbook
			reg := newRegistry(t, tether.Config{Logger: book.logger()})
			h := tetherhttp.Async(reg, "report", test.body, tetherhttp.AsyncConfig{Inline: time.Hour, TaskOptions: test.opts})
			check(t, ask(t, h, server.of(request("POST", "/reports", ""))))
			assert.Len(t, book.about("task=report"), test.logged, "T8: a failure that was answered is logged once all the same")
			assert.Len(t, server.about(`POST "/reports"`), test.server)
			kept := test.logged // failures are retained
			assert.Len(t, slices.Collect(reg.Finished()), kept)
		})
		bubble(t, name+", at the status resource", func(t *testing.T) {
			var book, server logbook
			reg := newRegistry(t, tether.Config{Logger: book.logger()})
			status := tetherhttp.Tasks(reg)
			h := tetherhttp.Async(reg, "report", test.body, tetherhttp.AsyncConfig{Always202: true, TaskOptions: test.opts})
			w := ask(t, h, server.of(request("POST", "/", "")))
			accepted(t, reg, w)
			time.Sleep(time.Hour / 2)
			at := w.Header().Get("Location")
			check(t, ask(t, status, server.of(request("GET", at+"/result", ""))))
			assert.Len(t, book.about("task=report"), test.logged)
			assert.Len(t, server.about(fmt.Sprintf("GET %q", at+"/result")), test.server)

			shown := ask(t, status, server.of(request("GET", at, "")))
			require.Equal(t, http.StatusOK, shown.Code)
			assert.NotContains(t, shown.Body.String(), secret)
			s := readStatus(t, shown.Body.Bytes())
			assert.True(t, s.Done)
			if test.status == http.StatusOK {
				assert.Nil(t, s.Problem)
			} else if test.answer == "" {
				require.NotNil(t, s.Problem)
				assert.Equal(t, test.status, s.Problem.Status)
				assert.Equal(t, test.detail, s.Problem.Detail)
				assert.NotEmpty(t, s.Problem.Title)
			} else {
				assert.Nil(t, s.Result, "it has a form of its own")
			}

			events := ask(t, status, server.of(request("GET", at, "", "Accept", "text/event-stream")))
			require.Equal(t, http.StatusOK, events.Code)
			assert.Contains(t, events.Body.String(), strings.TrimSpace(shown.Body.String()))
			assert.NotContains(t, events.Body.String(), secret)
		})
	}
	bubble(t, "a server without a log of its own, and no server at all", func(t *testing.T) {
		var book logbook
		log.SetOutput(&book)
		t.Cleanup(func() { log.SetOutput(os.Stderr) })
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", returns(make(chan int), nil))
		for i, ctx := range []context.Context{t.Context(), context.WithValue(t.Context(), http.ServerContextKey, new(http.Server))} {
			assert.Equal(t, http.StatusInternalServerError, ask(t, h, request("POST", "/reports", "").WithContext(ctx)).Code)
			assert.Len(t, book.about(`POST "/reports"`), i+1)
		}
	})
	bubble(t, "what the status says of an error that writes itself", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "report", returns(nil, ownError{teapot{"short"}}), tetherhttp.AsyncConfig{Always202: true})
		w := ask(t, h, request("POST", "/", ""))
		synctest.Wait()
		s := readStatus(t, ask(t, tetherhttp.Tasks(reg), request("GET", w.Header().Get("Location"), "")).Body.Bytes())
		assert.Equal(t, "failed", s.State)
		assert.Equal(t, &tetherhttp.Problem{Type: tetherhttp.ProblemFailed, Status: 500, Title: "Failed"}, s.Problem)
	})
}

// unmarshalable is a value that cannot be encoded.
type unmarshalable struct{}

func (unmarshalable) MarshalJSON() ([]byte, error) { return nil, errors.New(secret) }

// One tenant's requests are answered 503, with what is known about its share, and the
// others' are not.
func TestAsync_Share(t *testing.T) {
	bubble(t, "the share of a request", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("reports", tether.PoolConfig{Workers: 4, Queue: 100, ShareLimit: 2})
		release := make(chan struct{})
		defer close(release)
		h := tetherhttp.Async(pool, "report", func(ctx context.Context, r *http.Request) (int, error) {
			if r.URL.RawQuery == "pause" {
				return 0, tether.PauseShare(ctx, time.Now().Add(90*time.Second))
			}
			<-release
			return 0, nil
		}, tetherhttp.AsyncConfig{Always202: true, Share: func(r *http.Request) string { return r.Header.Get("Tenant") }})
		post := func(query, tenant string) *asked {
			return ask(t, h, request("POST", "/reports"+query, "", "Tenant", tenant))
		}
		for range 2 {
			assert.Equal(t, http.StatusAccepted, post("", "acme").Code)
		}
		w := post("", "acme")
		assert.Equal(t, tetherhttp.ProblemBusy, w.problem(t).Type)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		for _, other := range []string{"globex", ""} {
			assert.Equal(t, http.StatusAccepted, post("?pause", other).Code)
			synctest.Wait()
			assert.Equal(t, http.StatusAccepted, post("", other).Code)
			assert.Equal(t, http.StatusAccepted, post("", other).Code)
			assert.Equal(t, "90", post("", other).Header().Get("Retry-After"), "when the share may go on")
		}
		assert.Equal(t, http.StatusInternalServerError, post("", strings.Repeat("x", 200)).Code)
		time.Sleep(2 * time.Minute)
	})
}

func TestProblemOf_MaxWait(t *testing.T) {
	p := tetherhttp.ProblemOf(&tether.MaxWaitError{Pool: "p", Waited: 31 * time.Second, MaxWait: 30 * time.Second})
	assert.Equal(t, tetherhttp.ProblemOverdue, p.Type)
	assert.Equal(t, 30*time.Second, p.RetryAfter)
}
