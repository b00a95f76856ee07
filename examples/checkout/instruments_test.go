package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

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

func TestAdmin(t *testing.T) {
	ts := openShop(t)
	ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":1}]}`)
	ts.end()
	admin := httptest.NewServer(ts.seen.admin(ts.reg).Handler)
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
	} {
		assert.Contains(t, get(path), text, path)
	}
	assert.Contains(t, get("/metrics"), `tether_task_run_seconds_count{pool="orders",state="succeeded",task="fulfil-order"} 1`)
	assert.Contains(t, get("/metrics"), "\ntether_ready 0\n", "the shop has been shut down")
	for _, path := range []string{"/debug/tether/", "/metrics", "/debug/pprof/"} {
		assert.Equal(t, http.StatusNotFound, serve(ts.handler(), path), "not for customers")
	}
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
