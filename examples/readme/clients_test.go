package readme

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tethertest"
)

// reports is the server of docs/clients.md. A client that prefers not to wait is answered
// 202, and its report is ready when it has asked for the status.
func reports(t *testing.T) (server *httptest.Server, refuse *atomic.Int32) {
	t.Helper()
	reg := tethertest.New(t)
	type key struct{}
	var asked atomic.Pointer[chan struct{}] // of the last request for a report
	makeReport := func(ctx context.Context, r *http.Request) (map[string]int, error) {
		if r.Header.Get("Prefer") != "" || r.URL.Path == "/later" {
			select {
			case <-*ctx.Value(key{}).(*chan struct{}):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return map[string]int{"pages": 7}, nil
	}
	mux := http.NewServeMux()
	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", makeReport))
	mux.Handle("POST /later", tetherhttp.Async(reg, "report", makeReport, tetherhttp.AsyncConfig{Always202: true}))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true}))
	refuse = new(atomic.Int32) // so many requests for a status are answered 503
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tasks/") {
			if refuse.Add(-1) >= 0 {
				http.Error(w, "restarting", http.StatusServiceUnavailable)
				return
			}
			if last := asked.Swap(nil); last != nil {
				close(*last)
			}
		} else {
			ready := make(chan struct{})
			asked.Store(&ready)
			r = r.WithContext(context.WithValue(r.Context(), key{}, &ready))
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server, refuse
}

func onlyBlock(t *testing.T, file, info string) string {
	t.Helper()
	var found []string
	for _, b := range blocksOf(t, file) {
		if b.info == info {
			found = append(found, b.code)
		}
	}
	require.Len(t, found, 1, "%s in %s", info, file)
	return found[0]
}

// The lines for curl do what their comments say.
func TestCurl(t *testing.T) {
	server, _ := reports(t)
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", onlyBlock(t, "docs/clients.md", "sh"))
	cmd.Env = append(cmd.Environ(), "BASE="+server.URL)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	text := string(out)
	for _, want := range []string{
		"HTTP/1.1 200 OK",      // the quick one
		`"state":"succeeded"`,  // after the wait
		`"result":{"pages":7}`, // in the status
		"event: done",          // the stream
		"HTTP/1.1 204",         // the task is forgotten
	} {
		var found bool
		_, text, found = strings.Cut(text, want)
		assert.True(t, found, "%q, in this order, in\n%s", want, out)
	}
}

// The client in Python gets its result now, later, and from a service that restarts.
func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	server, refuse := reports(t)
	for path, refused := range map[string]int32{"/reports": 0, "/later": 0, "/later?again": 3} {
		refuse.Store(refused)
		code := onlyBlock(t, "docs/clients.md", "python") + "\ntime.sleep = lambda seconds: None\nprint(json.dumps(run(\"" + server.URL + path + "\")))\n"
		out, err := exec.CommandContext(t.Context(), python, "-c", code).CombinedOutput()
		require.NoError(t, err, "%s", out)
		var got map[string]int
		require.NoError(t, json.Unmarshal(out, &got), "%s", out)
		assert.Equal(t, 7, got["pages"])
		assert.LessOrEqual(t, refuse.Load(), int32(0), "the client has asked again")
	}
}

// What the guide shows in Python is Python.
func TestPythonSyntax(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	code := map[string]string{}
	for _, page := range pages(t) {
		for _, b := range blocksOf(t, page) {
			if b.info == "python" {
				code[b.String()] = b.code
			}
		}
	}
	encoded, err := json.Marshal(code)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), python, "-c", "import ast, json, sys\nfor name, code in json.load(sys.stdin).items(): ast.parse(code, name)")
	cmd.Stdin = bytes.NewReader(encoded)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
