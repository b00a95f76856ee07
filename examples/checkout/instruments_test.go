package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// span is what the exporter prints of one.
type span struct {
	Name        string
	SpanContext struct{ TraceID, SpanID string }
	Parent      struct{ SpanID string }
	Links       []struct {
		SpanContext struct{ TraceID, SpanID string }
	}
}

// printed is written to by many goroutines.
type printed struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *printed) spans(t *testing.T) map[string]span {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make(map[string]span)
	for lines := bufio.NewScanner(bytes.NewReader(p.text.Bytes())); lines.Scan(); {
		var s span
		require.NoError(t, json.Unmarshal(lines.Bytes(), &s))
		found[s.Name] = s
	}
	return found
}

// A task's span belongs to the request's trace while that lasts, and is linked to it
// after that.
func TestTraces(t *testing.T) {
	var out printed
	ts := openShop(t, func(cfg *config) { cfg.traces = &out })
	ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":1}]}`)
	ts.end()

	spans := out.spans(t)
	request, accept, audit := spans["POST /orders"], spans["accept-order"], spans["audit"]
	require.NotEmpty(t, request.SpanContext.SpanID)
	assert.Equal(t, request.SpanContext.TraceID, accept.SpanContext.TraceID, "the handler waits for it")
	assert.Equal(t, request.SpanContext.SpanID, accept.Parent.SpanID)
	require.Len(t, audit.Links, 1, "it starts after the response")
	assert.Equal(t, request.SpanContext.SpanID, audit.Links[0].SpanContext.SpanID)
	assert.NotEqual(t, request.SpanContext.TraceID, audit.SpanContext.TraceID)
	assert.NotEmpty(t, spans["fulfil-order"].SpanContext.SpanID)
}

// A request's span is named after its route, and says nowhere what was asked for.
func TestTraces_HaveNoIDs(t *testing.T) {
	var out printed
	ts := openShop(t, func(cfg *config) { cfg.traces = &out })
	order := ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":1}]}`)
	report := ts.post("/reports", "", "Prefer", "respond-async")
	for _, path := range []string{order, order + "/invoice.pdf", report, report + "/result", report + "/nonsense", "/nonsense" + report} {
		ts.do("GET", path+"?id="+path, "")
	}
	ts.do("NONSENSE", report, "")
	ts.end()

	spans := out.spans(t)
	for _, name := range []string{"POST /orders", "GET /orders/{id}", "GET /orders/{id}/invoice.pdf", "POST /reports", "GET /tasks/", "GET", "HTTP /tasks/"} {
		assert.Contains(t, spans, name)
	}
	text := out.text.String()
	for _, location := range []string{order, report} {
		assert.NotContains(t, text, location[strings.LastIndexByte(location, '/')+1:], location)
	}
}

func TestAdmin(t *testing.T) {
	ts := openShop(t)
	ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":1}]}`)
	ts.end()
	admin := httptest.NewServer(ts.seen.admin(ts.reg, "").Handler)
	defer admin.Close()
	get := func(path string) string {
		res, err := http.Get(admin.URL + path)
		require.NoError(t, err)
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		return string(body)
	}
	for path, text := range map[string]string{
		"/":              "fulfil-order", // it is the live page
		"/debug/tether/": "fulfil-order",
		"/metrics":       `tether_tasks_ended_total{pool="orders",state="succeeded"} 1`,
		"/debug/pprof/":  "goroutine",

		"/debug/pprof/cmdline":            os.Args[0],
		"/debug/pprof/symbol":             "num_symbols",
		"/debug/pprof/trace?seconds=.001": "go 1.",
	} {
		assert.Contains(t, get(path), text, path)
	}
	assert.Contains(t, get("/metrics"), `tether_task_outcomes_total{pool="orders",state="succeeded",task="fulfil-order"} 1`)
	assert.Contains(t, get("/metrics"), "\ntether_ready 0\n", "the shop has been shut down")
	for _, path := range []string{"/debug/tether/", "/metrics", "/debug/pprof/"} {
		assert.Equal(t, http.StatusNotFound, serve(ts.handler(addresses{}), path), "not for customers")
	}
}

// A host name that is not ours is refused, although it resolves to this address.
func TestAdmin_Hosts(t *testing.T) {
	ts := openShop(t)
	for address, hosts := range map[string]map[string]int{
		"": {
			"127.0.0.1:8081": 200, "127.0.0.1": 200, "[::1]:8081": 200, "[::1]": 200, "10.1.2.3:8081": 200,
			"localhost:8081": 200, "LocalHost": 200,
			"evil.example:8081": 421, "evil.example": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:8081": 421, "": 421, ":8081": 421,
		},
		":8081":           {"127.0.0.1:8081": 200, "evil.example:8081": 421, "": 421},
		"shop.local:8081": {"127.0.0.1:8081": 200, "localhost:8081": 200, "shop.local:8081": 200, "Shop.Local:80": 200, "evil.example:8081": 421},
	} {
		h := ts.seen.admin(ts.reg, address).Handler
		for host, want := range hosts {
			r, w := httptest.NewRequest("GET", "/metrics", nil), httptest.NewRecorder()
			r.Host = host
			h.ServeHTTP(w, r)
			assert.Equal(t, want, w.Code, "-admin %q, host %q", address, host)
		}
	}
}

// A body must arrive soon; a profile, which has none, may take its time.
func TestAdmin_Deadlines(t *testing.T) {
	ts := openShop(t)
	admin := ts.seen.admin(ts.reg, "")
	assert.Zero(t, admin.ReadTimeout, "it would end the context of a profile")
	assert.Zero(t, admin.WriteTimeout)
	for body, bounded := range map[string]bool{"": false, "id=5": true} {
		r, w := httptest.NewRequest("POST", "http://localhost/debug/pprof/symbol", strings.NewReader(body)), &deadlines{ResponseRecorder: httptest.NewRecorder()}
		admin.Handler.ServeHTTP(w, r)
		assert.Equal(t, bounded, !w.read.IsZero(), body)
	}
}

// deadlines records the deadline for reading.
type deadlines struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.read = at
	return nil
}

func serve(h http.Handler, path string) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code
}

func TestNextPort(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8081", ":80": "127.0.0.1:81", "[::1]:9": "127.0.0.1:10",
		"127.0.0.1:0": "127.0.0.1:0", "localhost:http": "127.0.0.1:0", ":65535": "127.0.0.1:0", "": "127.0.0.1:0",
	} {
		assert.Equal(t, want, nextPort(addr), addr)
	}
}

// The live page goes elsewhere if the next port is taken, unless its address was given.
func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	before := taken.Addr().(*net.TCPAddr).AddrPort()
	before = netip.AddrPortFrom(before.Addr(), before.Port()-1)
	require.Equal(t, taken.Addr().String(), nextPort(before.String()))
	if free, err := net.Listen("tcp", before.String()); err != nil {
		t.Skip("the port before is taken too: ", err)
	} else {
		require.NoError(t, free.Close())
	}
	listener, admin, err := listen(config{addr: before.String()})
	require.NoError(t, err)
	assert.Equal(t, before.String(), listener.Addr().String())
	assert.NotEqual(t, taken.Addr().String(), admin.Addr().String())
	require.NoError(t, errors.Join(listener.Close(), admin.Close()))
}

// What cannot start leaves nothing behind.
func TestNoStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	for name, c := range map[string]struct {
		args         []string
		secret, says string
	}{
		"the address is taken":        {[]string{"-addr", taken.Addr().String()}, "", "-addr: "},
		"the second address is taken": {[]string{"-addr", "127.0.0.1:0", "-admin", taken.Addr().String()}, "", "-admin: "},
		"the secret is none":          {[]string{"-addr", "127.0.0.1:0"}, "nonsense", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			t.Setenv("CHECKOUT_WEBHOOK_SECRET", c.secret)
			require.ErrorContains(t, run(t.Context(), c.args, io.Discard), c.says)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}
