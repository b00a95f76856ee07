package browser

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// The JavaScript of docs/clients.md: the result comes now, later by events, and by polling
// after an EventSource that has given up.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/clients.md")
	require.NoError(t, err)
	script := regexp.MustCompile("(?s)```js\n(.*?)```").FindSubmatch(guide)
	require.NotNil(t, script)

	v := newViewer(t, tether.Config{})
	type key struct{}
	var asked atomic.Pointer[chan struct{}] // of the last request for a report
	makeReport := func(ctx context.Context, r *http.Request) (map[string]int, error) {
		if r.URL.Path == "/later" {
			select {
			case <-*ctx.Value(key{}).(*chan struct{}):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return map[string]int{"pages": 7}, nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("POST /now", tetherhttp.Async(v.reg, "report", makeReport))
	mux.Handle("POST /later", tetherhttp.Async(v.reg, "report", makeReport, tetherhttp.AsyncConfig{Always202: true}))
	mux.Handle("/tasks/", tetherhttp.Tasks(v.reg))
	var refuse, streams, polls atomic.Int32
	v.mu.Lock()
	v.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tasks/") {
			if refuse.Add(-1) >= 0 {
				http.Error(w, "restarting", http.StatusServiceUnavailable)
				return
			}
			if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
				streams.Add(1)
			} else {
				polls.Add(1)
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
	})
	v.allowed = append(v.allowed, "503")
	v.mu.Unlock()
	v.open("")

	// The waits take no time, and polling begins with an answer of 503.
	const head = "const real = setTimeout; window.setTimeout = (f) => real(f, 0);\n"
	call := func(path string) int {
		return eval[int](v, "(async () => {\n"+head+string(script[1])+"\nreturn (await run('"+path+"', () => {})).pages })()")
	}
	assert.Equal(t, 7, call("/now"))
	assert.Zero(t, streams.Load()+polls.Load())

	assert.Equal(t, 7, call("/later"))
	assert.Positive(t, streams.Load())
	assert.Zero(t, polls.Load())

	streams.Store(0)
	refuse.Store(2)
	assert.Equal(t, 7, call("/later"))
	assert.Zero(t, streams.Load())
	assert.Positive(t, polls.Load())
}
