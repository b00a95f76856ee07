package tetherhttp_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestForwardedPrefix(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "/": "", "/api": "/api", "/api/": "/api", "/a/b-c._~1": "/a/b-c._~1",
		"api": "", "//evil.example": "", "/\\evil.example": "", "https://evil.example": "", "/a//b": "", "/a/../b": "", "/..": "", "/.": "",
		"/a b": "", "/a?b": "", "/a#b": "", "/a%2F": "", "/a,/b": "", "/é": "", "/a\t": "",
	} {
		assert.Equal(t, want, tetherhttp.ForwardedPrefix(request("GET", "/", "", "X-Forwarded-Prefix", value)), "%q", value)
	}
	assert.Empty(t, tetherhttp.ForwardedPrefix(request("GET", "/", "")))
	assert.Empty(t, tetherhttp.ForwardedPrefix(request("GET", "/", "", "X-Forwarded-Prefix", "/a", "X-Forwarded-Prefix", "/b")), "it is not known which proxy is right")
}

// Behind a proxy that strips a prefix, a client is sent to where the proxy has the tasks, with
// all the URLs that it is given.
func TestLocationBehindAPrefix(t *testing.T) {
	bubble(t, "by StatusURL", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := http.NewServeMux()
		h.Handle("POST /reports", tetherhttp.AfterSubmit(tetherhttp.Async(reg, "report", seven, tetherhttp.AsyncConfig{
			Always202: true,
			StatusURL: func(r *http.Request, id string) string { return tetherhttp.ForwardedPrefix(r) + "/tasks/" + id },
		}), func(*tether.Task) { synctest.Wait() }))
		h.Handle("/tasks/", tetherhttp.Tasks(reg))
		for _, prefix := range []string{"", "/api", "/api/v1"} {
			proxy := http.StripPrefix(prefix, h)
			w := ask(t, proxy, request("POST", prefix+"/reports", "", "X-Forwarded-Prefix", prefix))
			require.Equal(t, http.StatusAccepted, w.Code)
			s := readStatus(t, w.Body.Bytes())
			assert.Equal(t, prefix+"/tasks/"+s.ID, w.Header().Get("Location"))
			assert.Equal(t, prefix+"/tasks/"+s.ID+"/result", s.ResultURL)
			assert.Equal(t, "<"+s.ResultURL+`>; rel="result"`, w.Header().Get("Link"))
			assert.Equal(t, "7\n", ask(t, proxy, request("GET", s.ResultURL, "")).Body.String())

			// At the Location the URL of the result is relative, and right with any prefix.
			at, err := url.Parse("http://example.com" + w.Header().Get("Location"))
			require.NoError(t, err)
			w = ask(t, proxy, request("GET", at.Path, "", "X-Forwarded-Prefix", prefix))
			result, err := at.Parse(readStatus(t, w.Body.Bytes()).ResultURL)
			require.NoError(t, err)
			assert.Equal(t, prefix+"/tasks/"+s.ID+"/result", result.Path)
		}
	})
	bubble(t, "a slash at the end is taken away", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, succeed)
		synctest.Wait()
		h := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true})
		for path, want := range map[string]string{at(task) + "/?a=b": at(task) + "?a=b", at(task) + "/result/": at(task) + "/result", "/api" + at(task) + "/": "/api" + at(task)} {
			for _, method := range []string{"GET", "HEAD", "DELETE"} {
				w := ask(t, h, request(method, path, ""))
				assert.Equal(t, http.StatusPermanentRedirect, w.Code)
				base, err := url.Parse("http://example.com" + path)
				require.NoError(t, err)
				to, err := base.Parse(w.Header().Get("Location"))
				require.NoError(t, err)
				assert.Equal(t, want, to.RequestURI())
			}
		}
		_, err := reg.Find(task.ID())
		assert.NoError(t, err)
	})
}

// A client polls a long task less often than a short one.
func TestPollAfter(t *testing.T) {
	bubble(t, "a tenth of the task's age", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		task := start(t, reg, untilCanceled)
		h := tetherhttp.Tasks(reg)
		began := time.Now()
		synctest.Wait()
		polls := 0
		for time.Since(began) < 10*time.Minute {
			w := ask(t, h, request("GET", at(task), ""))
			pause, err := time.ParseDuration(w.Header().Get("Retry-After") + "s")
			require.NoError(t, err)
			assert.Equal(t, w.Header().Get("Retry-After"), ask(t, h, request("GET", at(task)+"/result", "")).Header().Get("Retry-After"))
			age := time.Since(began)
			assert.GreaterOrEqual(t, pause, time.Second)
			assert.LessOrEqual(t, pause, max(time.Second, age/10))
			time.Sleep(pause)
			polls++
		}
		assert.Less(t, polls, 60, "for a task of ten minutes")
		time.Sleep(24 * time.Hour)
		assert.Equal(t, "60", ask(t, h, request("GET", at(task), "")).Header().Get("Retry-After"))
		task.Cancel(nil)
	})
	bubble(t, "or the program's choice", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		after := func(info tether.Info) time.Duration {
			assert.Equal(t, "report", info.Name)
			return 90 * time.Second
		}
		h := tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (int, error) { return 7, pass(ctx, time.Hour) }, tetherhttp.AsyncConfig{PollAfter: after})
		w := ask(t, h, request("POST", "/", ""))
		assert.Equal(t, "90", w.Header().Get("Retry-After"))
		tasks := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{PollAfter: after})
		assert.Equal(t, "90", ask(t, tasks, request("GET", w.Header().Get("Location"), "")).Header().Get("Retry-After"))
	})
}
