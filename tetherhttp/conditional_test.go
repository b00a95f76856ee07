package tetherhttp_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// What AsyncHandler records is the whole response, whatever part of it the first request asks
// for; each reader is sent the part that it asks for.
func TestAsyncHandlerRecordsTheWhole(t *testing.T) {
	const content = "0123456789"
	modified := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	file := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"tag"`)
		http.ServeContent(w, r, "file.txt", modified, strings.NewReader(content))
	})
	before, at := modified.Add(-time.Hour).Format(http.TimeFormat), modified.Format(http.TimeFormat)
	for name, c := range map[string]struct {
		method string
		header []string
		status int
		body   string
	}{
		"nothing special":                {"GET", nil, 200, content},
		"HEAD":                           {"HEAD", nil, 200, ""},
		"HEAD of what the client has":    {"HEAD", []string{"If-None-Match", `"tag"`}, 304, ""},
		"a range":                        {"GET", []string{"Range", "bytes=2-4"}, 206, "234"},
		"the end":                        {"GET", []string{"Range", "bytes=-2"}, 206, "89"},
		"a range that is not there":      {"GET", []string{"Range", "bytes=20-"}, 416, "invalid range: failed to overlap\n"},
		"a range of what the client has": {"GET", []string{"Range", "bytes=2-4", "If-Range", `"tag"`}, 206, "234"},
		"a range of something else":      {"GET", []string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, content},
		"what the client has":            {"GET", []string{"If-None-Match", `"other", W/"tag"`}, 304, ""},
		"anything":                       {"GET", []string{"If-None-Match", "*"}, 304, ""},
		"what the client has not":        {"GET", []string{"If-None-Match", `"other"`}, 200, content},
		"not modified":                   {"GET", []string{"If-Modified-Since", at}, 304, ""},
		"modified":                       {"GET", []string{"If-Modified-Since", before}, 200, content},
		"a precondition that holds":      {"GET", []string{"If-Match", `"tag"`}, 200, content},
		"one that does not hold":         {"GET", []string{"If-Match", `"other"`}, 412, ""},
		"not modified since then":        {"GET", []string{"If-Unmodified-Since", at}, 200, content},
		"modified since then":            {"GET", []string{"If-Unmodified-Since", before}, 412, ""},
	} {
		overTheNetwork(t, name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			mux := http.NewServeMux()
			mux.Handle("/bare", file)
			mux.Handle("/inline", tetherhttp.AsyncHandler(reg, "file", file))
			mux.Handle("/later", tetherhttp.AsyncHandler(reg, "file", file, tetherhttp.AsyncConfig{Always202: true}))
			mux.Handle("/tasks/", tetherhttp.Tasks(reg))
			n.serve(t, n.server(mux), version == 2)
			client := clientOf(t, n, version)
			send := func(method, path string, header ...string) seen {
				return look(t, client, outbound(t.Context(), method, path, nil, header...))
			}
			bare := send(c.method, "/bare", c.header...)
			require.Equal(t, c.status, bare.status, "this test's own idea of it")
			require.Equal(t, c.body, bare.body)
			// same compares what matters to a client.
			same := func(want, got seen, what string) {
				t.Helper()
				assert.Equal(t, want.status, got.status, what)
				assert.Equal(t, want.body, got.body, what)
				assert.Equal(t, want.contentLength, got.contentLength, what)
				for _, name := range []string{"Etag", "Last-Modified", "Content-Type", "Content-Range", "Accept-Ranges"} {
					if name == "Content-Type" && want.status == http.StatusPreconditionFailed {
						continue // of nothing
					}
					assert.Equal(t, want.header[name], got.header[name], "%s: %s", what, name)
				}
			}
			same(bare, send(c.method, "/inline", c.header...), "inline")
			promise := send(c.method, "/later", c.header...)
			require.Equal(t, 202, promise.status)
			result := promise.header.Get("Location") + "/result"
			synctest.Wait()
			same(send("GET", "/bare"), send("GET", result), "the whole result")
			same(bare, send(c.method, result, c.header...), "the result for the same request")
			same(send("HEAD", "/bare"), send("HEAD", result), "the head of the result")
		})
	}
	bubble(t, "a request that acts keeps its preconditions, and nothing else", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var got http.Header
		put := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header
			w.Header().Set("ETag", `"new"`)
			_, _ = io.WriteString(w, content)
		})
		r := request("PUT", "/", "body", "If-Match", `"old"`, "If-None-Match", `"new"`, "If-Unmodified-Since", at, "Range", "bytes=1-2", "If-Range", `"new"`, "If-Modified-Since", at)
		w := ask(t, tetherhttp.AsyncHandler(reg, "put", put), r)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, content, w.Body.String())
		assert.Equal(t, http.Header{"If-Match": {`"old"`}, "If-None-Match": {`"new"`}, "If-Unmodified-Since": {at}}, got)
		assert.Len(t, r.Header, 6, "the request of others is unchanged")
	})
	bubble(t, "other statuses are sent whole", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		created := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, content)
		})
		w := ask(t, tetherhttp.AsyncHandler(reg, "created", created), request("GET", "/", "", "Range", "bytes=1-2", "If-None-Match", "*"))
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Equal(t, content, w.Body.String())
	})
}
