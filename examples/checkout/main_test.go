package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// TestMain is the program itself when a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("CHECKOUT_AS_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	durabletest.Main(m, durabletest.Fixture{}) // ends the servers that the tests start, and looks for goroutines that leak
}

// testShop is a shop behind a real server, over a real file.
type testShop struct {
	*shop
	t   *testing.T
	web *httptest.Server
	end func()

	arrived, gone atomic.Int64 // requests, and those of them that have ended
}

// openShop opens a shop in a folder of its own; it is drained and closed when the
// test ends, or by end.
func openShop(t *testing.T, change ...func(*config)) *testShop {
	t.Helper()
	cfg := config{
		data: t.TempDir(), workers: 2, queue: 1000, stopTimeout: 25 * time.Second, maxImport: 1 << 30,
		webhookSecret: newSecret(), webhookAttempts: 4,
		webhookBackoff: func(int, error) time.Duration { return time.Millisecond },
		durableBackoff: func(int, error) time.Duration { return time.Millisecond },
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := newShop(cfg)
	require.NoError(t, err)
	ts := &testShop{shop: s, t: t}
	var routes http.Handler
	ts.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ts.arrived.Add(1)
		context.AfterFunc(r.Context(), func() { ts.gone.Add(1) })
		routes.ServeHTTP(w, r)
	}))
	routes = s.handler(addresses{urlOf(ts.web.Listener), "http://admin.example"})
	tetherhttp.Attach(ts.web.Config, s.reg)
	ts.web.Start()
	ended := false
	ts.end = func() {
		if ended {
			return
		}
		ended = true
		ts.web.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, s.reg.Shutdown(ctx))
		require.NoError(t, s.close(ctx))
	}
	t.Cleanup(ts.end)
	return ts
}

// kill ends the shop as a process ends that has no time left: running tasks are canceled
// at once, waiting ones dropped.
func (ts *testShop) kill() {
	ts.web.CloseClientConnections()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = ts.reg.Shutdown(ctx) // the stragglers are waited for by end
	ts.end()
}

// answer is a response that has been read.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) String() string { return fmt.Sprintf("%s %s", a.Status, a.body) }

func (a answer) problem(t *testing.T, status int) tetherhttp.Problem {
	t.Helper()
	require.Equal(t, status, a.StatusCode, a)
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), a)
	var p tetherhttp.Problem
	require.NoError(t, json.Unmarshal(a.body, &p))
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.Title)
	require.Equal(t, status == http.StatusInternalServerError, p.Detail == "", "an error of the shop is not shown to the client")
	return p
}

func (ts *testShop) try(method, path string, body io.Reader, header ...string) (answer, error) {
	req, err := http.NewRequest(method, ts.web.URL+path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := ts.web.Client().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	return answer{res, content}, err
}

func (ts *testShop) do(method, path, body string, header ...string) answer {
	ts.t.Helper()
	a, err := ts.try(method, path, strings.NewReader(body), header...)
	require.NoError(ts.t, err)
	return a
}

// post sends what must be accepted and returns where its state is shown.
func (ts *testShop) post(path, body string, header ...string) (location string) {
	ts.t.Helper()
	a := ts.do("POST", path, body, header...)
	require.Equal(ts.t, http.StatusAccepted, a.StatusCode, a)
	location = a.Header.Get("Location")
	require.NotEmpty(ts.t, location)
	return location
}

func (ts *testShop) status(location string) status {
	ts.t.Helper()
	a := ts.do("GET", location, "")
	require.Equal(ts.t, http.StatusOK, a.StatusCode, a)
	var s status
	require.NoError(ts.t, json.Unmarshal(a.body, &s))
	return s
}

// until polls a resource until it is as wanted.
func (ts *testShop) until(location string, wanted func(status) bool) status {
	ts.t.Helper()
	var s status
	require.Eventually(ts.t, func() bool {
		s = ts.status(location)
		return wanted(s)
	}, time.Minute, 2*time.Millisecond, location)
	return s
}

func decided(s status) bool { return s.State == "invoiced" || s.State == "failed" }
func done(s status) bool    { return s.Done }

// orderBy is an order that differs from every other customer's.
func orderBy(customer string) string {
	return fmt.Sprintf(`{"customer":"%s@example.com","lines":[{"sku":"tea","quantity":2}]}`, customer)
}

func (ts *testShop) tally() tally {
	ts.t.Helper()
	t, err := ts.store.tally(context.Background())
	require.NoError(ts.t, err)
	return t
}

func (ts *testShop) inStock(sku string) (n int64) {
	ts.t.Helper()
	require.NoError(ts.t, ts.store.read.QueryRow(`SELECT quantity FROM products WHERE sku = ?`, sku).Scan(&n))
	return n
}

func TestFlags(t *testing.T) {
	for _, bad := range [][]string{{"-queue", "0"}, {"-workers", "-1"}, {"-max-import", "0"}, {"-stop-timeout", "0s"}, {"-stuck-after", "-1s"}, {"serve"}, {"-nonsense"},
		{"-role", "boss"}, {"-role", "web"}, {"-role", "worker", "-durable", "jobs.db"}, {"-role", "web", "-data", "."},
		{"-role", "web", "-durable", "jobs.db", "-data", ".", "-demo"}, {"-replicas", "-1"}, {"-replicas", "1000"}, {"-replicas", "2", "-demo"},
		{"-replicas", "2", "-admin", "127.0.0.1:0"}, {"-replicas", "2", "-role", "web", "-durable", "jobs.db", "-data", "."}, {"-replicas", "2", "-durable", "amqp://127.0.0.1"},
		{"-addr", "127.0.0.1:0", "-durable", "kafka://127.0.0.1"}} {
		require.Error(t, run(context.Background(), bad, &bytes.Buffer{}), bad)
	}
}
