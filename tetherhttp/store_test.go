package tetherhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
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
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

// link is a replica's way to the store, which can break.
type link struct {
	store.Backend

	mu   sync.Mutex
	cut  bool              // no call arrives; guarded by mu
	lost func(string) bool // the answers of these calls are lost; guarded by mu
	hang chan struct{}     // calls wait for it, whatever their context says; nil: none does; guarded by mu
	slow time.Duration     // how long each call takes; guarded by mu
	lies bool              // Renew succeeds, and does nothing; guarded by mu
}

func (l *link) set(f func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

var errCut = errors.New("connection refused")

func (l *link) call(method string, f func() error) error {
	l.mu.Lock()
	cut, lost, hang, slow := l.cut, l.lost, l.hang, l.slow
	if l.lies && method == "Renew" {
		f = func() error { return nil }
	}
	l.mu.Unlock()
	time.Sleep(slow)
	if hang != nil {
		<-hang
	}
	if cut {
		return errCut
	}
	err := f()
	if lost != nil && lost(method) {
		return errCut
	}
	return err
}

func (l *link) Get(ctx context.Context, keys ...string) (found []store.Record, err error) {
	err = l.call("Get", func() (err error) { found, err = l.Backend.Get(ctx, keys...); return err })
	return found, err
}

func (l *link) Swap(ctx context.Context, was string, r store.Record) error {
	return l.call("Swap", func() error { return l.Backend.Swap(ctx, was, r) })
}

func (l *link) Delete(ctx context.Context, key, was string) error {
	return l.call("Delete", func() error { return l.Backend.Delete(ctx, key, was) })
}

func (l *link) Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error) {
	err = l.call("Renew", func() (err error) { asked, err = l.Backend.Renew(ctx, owner, lease); return err })
	return asked, err
}

// replica is one process of a service.
type replica struct {
	*http.ServeMux
	reg  *tether.Registry
	link *link
	st   *tetherhttp.Store
}

// service is a service of several replicas with one store.
type service struct {
	*testing.T
	memory   *storetest.Memory
	replicas []*replica
	leaves   bool // what is stored does not matter at the end
}

// serve makes a service of three replicas. route adds what is served.
func serve(t *testing.T, cfg tetherhttp.StoreConfig, route func(r *replica)) *service {
	t.Helper()
	s := &service{T: t, memory: storetest.NewMemory()}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for range 3 {
		r := &replica{ServeMux: http.NewServeMux(), link: &link{Backend: s.memory}}
		t.Cleanup(func() { // when the registry has been drained
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := r.st.Close(ctx); !s.leaves {
				assert.NoError(t, err)
			}
		})
		r.reg = newRegistry(t, tether.Config{})
		r.st = tetherhttp.NewStore("shop", r.link, cfg)
		r.Handle("/tasks/", tetherhttp.Tasks(r.reg, tetherhttp.TasksConfig{Store: r.st, AllowCancel: true}))
		route(r)
		s.replicas = append(s.replicas, r)
	}
	return s
}

// reports is a route with a body.
func reports[T any](fn func(context.Context, *http.Request) (T, error), opts ...tether.Option) func(r *replica) {
	return func(r *replica) {
		r.Handle("POST /reports", tetherhttp.Async(r.reg, "report", fn, tetherhttp.AsyncConfig{
			Store: r.st, TaskOptions: opts, Idempotency: &tetherhttp.IdempotencyConfig{},
		}))
	}
}

// post asks a replica, which must answer 202, and returns the Location.
func (s *service) post(replica int, header ...string) string {
	s.Helper()
	w := ask(s.T, s.replicas[replica], request("POST", "/reports", "{}", header...))
	require.Equal(s, http.StatusAccepted, w.Code, w.Body.String())
	at := w.Header().Get("Location")
	require.NotEmpty(s, at)
	assert.Equal(s, at, "/tasks/"+readStatus(s.T, w.Body.Bytes()).ID)
	return at
}

// get asks a replica, and checks the status of the answer.
func (s *service) get(replica, code int, at string, header ...string) *asked {
	s.Helper()
	w := ask(s.T, s.replicas[replica], request("GET", at, "", header...))
	require.Equal(s, code, w.Code, "%d: %s", replica, w.Body.String())
	return w
}

// status returns what all replicas say, which must be the same.
func (s *service) status(at string) statusJSON {
	s.Helper()
	first := s.get(0, 200, at)
	for i := range s.replicas[1:] {
		w := s.get(i+1, 200, at)
		assert.Equal(s, first.Body.String(), w.Body.String())
		assert.Equal(s, first.Header(), w.Header())
	}
	return readStatus(s.T, first.Body.Bytes())
}

// problems checks the code and the type of the problem that all replicas answer with.
func (s *service) problems(code int, kind, method, at string) {
	s.Helper()
	for _, r := range s.replicas {
		w := ask(s.T, r, request(method, at, ""))
		assert.Equal(s, code, w.Code, w.Body.String())
		assert.Equal(s, kind, w.problem(s.T).Type)
	}
}

func TestStoreStatus(t *testing.T) {
	bubble(t, "any replica answers, and all say the same", func(t *testing.T) {
		steps := make(chan tether.Progress)
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (map[string]int, error) {
			for p := range steps {
				tether.ReportProgress(ctx, p)
			}
			return map[string]int{"rows<": 7}, nil
		}, tether.Label("for", "me")))
		at := s.post(1)
		now := s.status(at)
		assert.Equal(t, "running", now.State)
		assert.False(t, now.Done)
		s.problems(409, tetherhttp.ProblemTaskUnfinished, "GET", at+"/result")
		steps <- tether.Progress{Done: 3, Total: 10, Message: "rows"}
		synctest.Wait()
		now = s.status(at)
		assert.Equal(t, map[string]any{"done": 3.0, "total": 10.0, "message": "rows"}, now.Progress)

		tag := s.get(0, 200, at).Header().Get("ETag")
		for i := range s.replicas {
			assert.Empty(t, s.get(i, 304, at, "If-None-Match", tag).Body.String())
		}
		close(steps)
		time.Sleep(time.Second)
		now = s.status(at)
		assert.Equal(t, "succeeded", now.State)
		assert.JSONEq(t, `{"rows<":7}`, string(now.Result))
		for i := range s.replicas {
			w := s.get(i, 200, at+"/result")
			assert.Equal(t, "{\"rows\\u003c\":7}\n", w.Body.String())
			assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		}
	})
	bubble(t, "inline answers do not touch the store", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(context.Context, *http.Request) (string, error) { return "now", nil }))
		assert.Equal(t, 200, ask(t, s.replicas[0], request("POST", "/reports", "{}")).Code)
		for _, method := range []string{"Get", "Swap", "Delete", "Renew"} {
			assert.Zero(t, s.memory.Calls(method), method)
		}
	})
	bubble(t, "a wait at another replica ends with the task", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 10*time.Second)
		}))
		at := s.post(0)
		began := time.Now()
		w := s.get(2, 200, at, "Prefer", "wait=20")
		assert.Equal(t, "wait=20", w.Header().Get("Preference-Applied"))
		assert.Equal(t, "succeeded", readStatus(t, w.Body.Bytes()).State)
		assert.Less(t, time.Since(began), 10*time.Second)
		assert.GreaterOrEqual(t, time.Since(began), 9*time.Second)
	})
	bubble(t, "a wait at another replica ends with any change", func(t *testing.T) {
		steps := make(chan tether.Progress)
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			tether.ReportProgress(ctx, <-steps)
			return "done", pass(ctx, time.Hour)
		}))
		at := s.post(0)
		tag := s.get(1, 200, at).Header().Get("ETag")
		s.get(1, 304, at, "If-None-Match", tag, "Prefer", "wait=3")
		go func() {
			time.Sleep(2 * time.Second)
			steps <- tether.Progress{Done: 1}
		}()
		began := time.Now()
		w := s.get(1, 200, at, "If-None-Match", tag, "Prefer", "wait=30")
		assert.Equal(t, 1.0, readStatus(t, w.Body.Bytes()).Progress["done"])
		assert.Less(t, time.Since(began), 3*time.Second)
		ask(t, s.replicas[1], request("DELETE", at, ""))
	})
	bubble(t, "an answer of the store that comes late does not take a task back", func(t *testing.T) {
		steps := make(chan tether.Progress)
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			for p := range steps {
				tether.ReportProgress(ctx, p)
			}
			return "done", nil
		}))
		at := s.post(0)
		steps <- tether.Progress{Done: 1}
		time.Sleep(time.Second)
		var all sync.WaitGroup
		all.Go(func() { s.get(1, 200, at, "Prefer", "wait=30") }) // has the store read
		time.Sleep(time.Millisecond)
		late := make(chan struct{})
		var held atomic.Bool
		s.replicas[1].link.set(func(l *link) {
			l.lost = func(string) bool {
				if held.CompareAndSwap(false, true) {
					<-late
				}
				return false
			}
		})
		time.Sleep(300 * time.Millisecond) // a look is held up on its way back
		require.True(t, held.Load())
		steps <- tether.Progress{Done: 2}
		time.Sleep(400 * time.Millisecond)
		w := s.get(1, 200, at)
		require.Equal(t, 2.0, readStatus(t, w.Body.Bytes()).Progress["done"])
		all.Go(func() { s.get(1, 304, at, "Prefer", "wait=2", "If-None-Match", w.Header().Get("ETag")) })
		time.Sleep(time.Millisecond)
		close(late)
		time.Sleep(2 * time.Second)
		close(steps)
		all.Wait()
	})
	bubble(t, "many waits cost the store no more than one", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 10*time.Second)
		}))
		at := s.post(0)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { s.get(1, 200, at, "Prefer", "wait=30") })
		}
		all.Wait()
		assert.Less(t, s.memory.Calls("Get"), 100+50)
	})
	bubble(t, "events at another replica", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			for i := range int64(5) {
				tether.ReportProgress(ctx, tether.Progress{Done: i + 1, Total: 5})
				_ = pass(ctx, 2*time.Second)
			}
			return "done", nil
		}))
		at := s.post(0)
		var all sync.WaitGroup
		defer all.Wait()
		for i := range s.replicas {
			all.Go(func() {
				log := newEventLog()
				s.replicas[i].ServeHTTP(log, request("GET", at, "", "Accept", "text/event-stream"))
				events := log.events(t)
				if assert.NotEmpty(t, events) {
					last := events[len(events)-1]
					assert.Equal(t, "done", last.name)
					assert.Equal(t, "succeeded", last.status.State)
					assert.Len(t, events, 6, "replica %d", i)
					w := httptest.NewRecorder()
					s.replicas[i].ServeHTTP(w, request("GET", at, "", "Accept", "text/event-stream", "Last-Event-ID", last.id))
					assert.Equal(t, http.StatusNoContent, w.Code)
				}
			})
		}
	})
	bubble(t, "progress is written four times a second at most, and the last is", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			for i := range int64(10_000) {
				tether.ReportProgress(ctx, tether.Progress{Done: i + 1})
				_ = pass(ctx, time.Millisecond)
			}
			return "done", pass(ctx, time.Hour)
		}))
		at := s.post(0)
		time.Sleep(12 * time.Second)
		assert.Equal(t, 10000.0, s.status(at).Progress["done"])
		assert.InDelta(t, 40, s.memory.Calls("Swap"), 4)
		ask(t, s.replicas[1], request("DELETE", at, ""))
	})
	bubble(t, "a task that goes on after DELETE does not expire", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{RetainFor: time.Minute}, reports(func(context.Context, *http.Request) (string, error) {
			time.Sleep(20 * time.Minute)
			return "done", nil
		}))
		at := s.post(0, "Prefer", "respond-async", "Idempotency-Key", "k") // the key is kept for an hour
		assert.Equal(t, http.StatusAccepted, ask(t, s.replicas[1], request("DELETE", at, "")).Code)
		swaps := s.memory.Calls("Swap")
		time.Sleep(15 * time.Minute)
		assert.Equal(t, "running", s.status(at).State)
		assert.Less(t, s.memory.Calls("Swap"), swaps+5, "it is not written at each renewal")
		time.Sleep(10 * time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a slow store is told soon that a task with progress has ended", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{Timeout: 10 * time.Second}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			if err := pass(ctx, 29*time.Second); err != nil {
				return "", err
			}
			tether.ReportProgress(ctx, tether.Progress{Done: 1})
			return "done", pass(ctx, time.Second)
		}))
		s.replicas[0].link.set(func(l *link) { l.slow = 1500 * time.Millisecond })
		at := s.post(0, "Prefer", "respond-async")
		time.Sleep(32 * time.Second)
		assert.Equal(t, "succeeded", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
		time.Sleep(3 * time.Second) // the last renewal has its answer
	})
	bubble(t, "a message of any length", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{MaxResult: 1000}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			tether.ReportProgress(ctx, tether.Progress{Done: 1, Message: strings.Repeat("m", 1<<20)})
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		time.Sleep(time.Second)
		found, err := s.memory.Get(t.Context(), "shop"+strings.Replace(at, "/tasks/", "/task/", 1))
		require.NoError(t, err)
		assert.Less(t, len(found[0].Data), 70_000)
		assert.Equal(t, 1.0, s.status(at).Progress["done"])
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "DELETE at another replica cancels within a second, then forgets", func(t *testing.T) {
		var cause error
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return "", cause
		}))
		at := s.post(0)
		w := ask(t, s.replicas[2], request("DELETE", at, ""))
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.False(t, readStatus(t, w.Body.Bytes()).Done)
		assert.Equal(t, http.StatusAccepted, ask(t, s.replicas[1], request("DELETE", at, "")).Code) // again
		time.Sleep(time.Second)
		synctest.Wait()
		assert.ErrorIs(t, cause, tetherhttp.ErrCanceled)
		now := s.status(at)
		assert.Equal(t, "canceled", now.State)
		assert.Equal(t, tetherhttp.ProblemCanceled, now.Problem.Type)
		for i := range s.replicas {
			s.get(i, 410, at+"/result")
		}
		assert.Equal(t, http.StatusNoContent, ask(t, s.replicas[1], request("DELETE", at, "")).Code)
		s.problems(410, tetherhttp.ProblemTaskForgotten, "GET", at)
		s.problems(410, tetherhttp.ProblemTaskForgotten, "DELETE", at)
	})
	bubble(t, "404 is another answer than 410", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{RetainFor: time.Minute}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		at := s.post(0)
		time.Sleep(50 * time.Second)
		s.status(at)
		time.Sleep(time.Hour)
		s.problems(410, tetherhttp.ProblemTaskForgotten, "GET", at)
		other := at[:len(at)-1] + "A"
		if strings.HasSuffix(at, "A") {
			other = at[:len(at)-1] + "B"
		}
		for _, id := range []string{other, "/tasks/" + strings.Repeat("x", 22) + "." + strings.Repeat("x", 8), "/tasks/a.b", "/tasks/..x"} {
			s.problems(404, tetherhttp.ProblemTaskUnknown, "GET", id)
		}
		// A service beside this one, in the same store.
		reg := newRegistry(t, tether.Config{})
		beside := tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: tetherhttp.NewStore("other", s.memory)})
		at = s.post(1)
		assert.Equal(t, 404, ask(t, beside, request("GET", at, "")).Code)
		time.Sleep(time.Second)
	})
	bubble(t, "a task of the registry that was not stored is served by its replica", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, func(*replica) {})
		task := start(t, s.replicas[0].reg, succeed)
		synctest.Wait()
		s.get(0, 200, "/tasks/"+task.ID())
		s.get(1, 404, "/tasks/"+task.ID())
	})
	bubble(t, "a request whose context has ended because the process stops is answered", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		at := s.post(0)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		assert.Equal(t, 200, ask(t, s.replicas[1], request("GET", at, "").WithContext(ctx)).Code)
	})
	bubble(t, "Authorize and Represent see a task of another replica", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (int, error) {
			return 5, pass(ctx, time.Second)
		}, tether.Label("owner", "me")))
		at := s.post(0)
		h := tetherhttp.Tasks(s.replicas[1].reg, tetherhttp.TasksConfig{
			Store: s.replicas[1].st,
			Authorize: func(r *http.Request, t tether.Info) bool {
				return t.Labels["owner"] == r.Header.Get("X-User") && t.Name == "report"
			},
			Represent: func(_ http.Header, _ *http.Request, s tetherhttp.Status) any {
				return []any{s.Info.State.String(), s.Result}
			},
		})
		assert.Equal(t, 404, ask(t, h, request("GET", at, "", "X-User", "you")).Code)
		assert.Equal(t, "[\"running\",null]\n", ask(t, h, request("GET", at, "", "X-User", "me")).Body.String())
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "[\"succeeded\",5]\n", ask(t, h, request("GET", at, "", "X-User", "me")).Body.String())
	})
	bubble(t, "a task that outlives the time for which records are kept", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{RetainFor: time.Minute}, func(r *replica) {
			r.Handle("POST /reports", tetherhttp.Async(r.reg, "report", func(ctx context.Context, _ *http.Request) (string, error) {
				return "done", pass(ctx, time.Hour)
			}, tetherhttp.AsyncConfig{Store: r.st}))
		})
		at := s.post(0)
		time.Sleep(59 * time.Minute)
		assert.Equal(t, "running", s.status(at).State)
		time.Sleep(90 * time.Second)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "tasks with a Unique key that requests share", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 2*time.Second)
		}, tether.Unique("one")))
		a, b := make(chan string), make(chan string)
		go func() { a <- s.post(0) }()
		go func() { b <- s.post(0) }()
		assert.Equal(t, <-a, <-b)
		time.Sleep(2 * time.Second)
	})
}

// errAnswer is an error that writes its answer itself.
type errAnswer struct{}

func (errAnswer) Error() string { return "its own" }

func (errAnswer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Own", "1")
	w.WriteHeader(http.StatusTeapot)
	_, _ = w.Write([]byte("short and stout"))
}

type svg string

func (s svg) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/svg+xml")
	_, _ = w.Write([]byte(s))
}

type unencodable struct{ hang bool }

func (u unencodable) MarshalJSON() ([]byte, error) {
	if u.hang {
		time.Sleep(time.Hour)
	}
	panic("cannot be encoded")
}

func TestStoreResults(t *testing.T) {
	type answer = struct {
		code   int
		body   string
		header http.Header
	}
	late := func(v any, err error) func(context.Context, *http.Request) (any, error) {
		return func(ctx context.Context, _ *http.Request) (any, error) {
			_ = pass(ctx, time.Second)
			return v, err
		}
	}
	record := func(do func(w http.ResponseWriter, r *http.Request)) func(r *replica) {
		return func(r *replica) {
			r.Handle("POST /reports", tetherhttp.AsyncHandler(r.reg, "report", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				do(w, r)
			}), tetherhttp.AsyncConfig{Store: r.st}))
		}
	}
	for name, test := range map[string]struct {
		route  func(r *replica)
		state  string
		result string // in the status
		kind   string // of the problem in the status
		want   answer
	}{
		"no value": {reports(late(nil, nil)), "succeeded", "", "", answer{200, "null\n", http.Header{"Content-Type": {"application/json"}}}},
		"a string": {reports(late("<a>", nil)), "succeeded", `"\u003ca\u003e"`, "", answer{200, "\"\\u003ca\\u003e\"\n", nil}},
		"a handler": {reports(late(svg("<svg/>"), nil)), "succeeded", "", "", answer{200, "<svg/>", http.Header{
			"Content-Type": {"image/svg+xml"}, "Content-Length": {"6"}, "Cache-Control": {"no-store"},
		}}},
		"an error": {reports(late(nil, errTest)), "failed", "", tetherhttp.ProblemFailed, answer{500, "", http.Header{"Content-Type": {"application/problem+json"}}}},
		"a problem": {reports(late(nil, &tetherhttp.Problem{Status: 422, Type: "urn:x", Detail: "no", RetryAfter: 7 * time.Second})), "failed", "", "urn:x",
			answer{422, `{"type":"urn:x","title":"Unprocessable Entity","status":422,"detail":"no"}` + "\n", http.Header{"Retry-After": {"7"}}}},
		"an error that answers": {reports(late(nil, errAnswer{})), "failed", "", tetherhttp.ProblemFailed, answer{418, "short and stout", http.Header{"X-Own": {"1"}}}},
		"a panic": {reports(func(ctx context.Context, _ *http.Request) (any, error) {
			_ = pass(ctx, time.Second)
			panic(errTest)
		}), "panicked", "", tetherhttp.ProblemFailed, answer{500, "", nil}},
		"what cannot be encoded":       {reports(late(unencodable{}, nil)), "succeeded", "", tetherhttp.ProblemFailed, answer{500, "", nil}},
		"what is too large":            {reports(late(strings.Repeat("x", 1000), nil)), "succeeded", "", tetherhttp.ProblemResultTooLarge, answer{500, "", nil}},
		"what is too large, a handler": {reports(late(svg(strings.Repeat("x", 1001)), nil)), "succeeded", "", tetherhttp.ProblemResultTooLarge, answer{500, "", nil}},
		"a handler that panics": {reports(late(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(errTest) }), nil)),
			"succeeded", "", tetherhttp.ProblemFailed, answer{500, "", nil}},
		"a recorded answer": {record(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Add("Set-Cookie", "a=b")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte("\x00\xff"))
			w.Header().Set("X-Sum", "2")
		}), "succeeded", "", "", answer{201, "\x00\xff", http.Header{"Set-Cookie": {"a=b"}, "X-Sum": {"2"}, "Trailer": {"X-Sum"}}}},
		"a recorded failure": {record(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}), "failed", "", tetherhttp.ProblemFailed, answer{502, "bad gateway\n", nil}},
		"a recorded answer that is too large": {record(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 1001))
		}), "succeeded", "", tetherhttp.ProblemResultTooLarge, answer{500, "", nil}},
	} {
		bubble(t, name, func(t *testing.T) {
			s := serve(t, tetherhttp.StoreConfig{MaxResult: 1000}, test.route)
			at := s.post(0)
			time.Sleep(2 * time.Second)
			now := s.status(at)
			assert.Equal(t, test.state, now.State)
			assert.True(t, now.Done)
			assert.Equal(t, test.result, string(now.Result))
			if test.kind == "" {
				assert.Nil(t, now.Problem)
			} else if assert.NotNil(t, now.Problem) {
				assert.Equal(t, test.kind, now.Problem.Type)
			}
			for i := range s.replicas {
				w := s.get(i, test.want.code, at+"/result")
				if test.want.body != "" {
					assert.Equal(t, test.want.body, w.Body.String())
				}
				for name, want := range test.want.header {
					assert.Equal(t, want, w.Header()[name], name)
				}
			}
		})
	}
	bubble(t, "a part of a recorded answer", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, record(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("0123456789")) }))
		at := s.post(0)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "234", s.get(1, 206, at+"/result", "Range", "bytes=2-4").Body.String())
	})
	bubble(t, "an aborted answer", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, record(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		at := s.post(0)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
			s.replicas[1].ServeHTTP(httptest.NewRecorder(), request("GET", at+"/result", ""))
		})
	})
	bubble(t, "an encoding that hangs does not hold the status up for longer than it must", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(late(unencodable{hang: true}, nil)))
		at := s.post(0)
		time.Sleep(time.Minute)
		assert.Equal(t, tetherhttp.ProblemFailed, s.status(at).Problem.Type)
		time.Sleep(time.Hour) // the hanging goroutine ends
	})
}

func TestStoreLost(t *testing.T) {
	untilCanceled := func(cause *atomic.Value) func(context.Context, *http.Request) (string, error) {
		return func(ctx context.Context, _ *http.Request) (string, error) {
			<-ctx.Done()
			cause.Store(context.Cause(ctx))
			return "late", nil // it succeeds all the same
		}
	}
	bubble(t, "a replica that is gone has lost its tasks within ten seconds, for good", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		at := s.post(0)
		time.Sleep(3 * time.Second)
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		died := time.Now()
		for readStatus(t, s.get(1, 200, at).Body.Bytes()).State != "lost" {
			require.Less(t, time.Since(died), 10*time.Second)
			time.Sleep(100 * time.Millisecond)
		}
		assert.Greater(t, time.Since(died), 4*time.Second)
		s.get(0, 503, at)
		s.replicas[0].link.set(func(l *link) { l.cut = false })
		now := s.status(at)
		assert.True(t, now.Done)
		assert.Equal(t, tetherhttp.ProblemTaskLost, now.Problem.Type)
		assert.Equal(t, tetherhttp.ProblemTaskLost, s.get(0, 500, at+"/result").problem(t).Type)
		// The replica learns it, cancels the task, and does not change the answer.
		time.Sleep(3 * time.Second)
		synctest.Wait()
		assert.ErrorIs(t, cause.Load().(error), tetherhttp.ErrLost)
		assert.Equal(t, "lost", s.status(at).State)
		assert.Equal(t, http.StatusNoContent, ask(t, s.replicas[2], request("DELETE", at, "")).Code)
	})
	bubble(t, "a request that waits is told", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		at := s.post(0)
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		began := time.Now()
		assert.Equal(t, "lost", readStatus(t, s.get(1, 200, at, "Prefer", "wait=30").Body.Bytes()).State)
		assert.Less(t, time.Since(began), 10*time.Second)
		s.replicas[0].link.set(func(l *link) { l.cut = false })
		time.Sleep(3 * time.Second)
	})
	bubble(t, "the first who asks is told, however late", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		at := s.post(0)
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		time.Sleep(10 * time.Minute)
		assert.Equal(t, "lost", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
		s.replicas[0].link.set(func(l *link) { l.cut = false })
		time.Sleep(3 * time.Second)
	})
	bubble(t, "a store that was away for a minute has lost nothing", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 2*time.Minute)
		}))
		at := s.post(0)
		time.Sleep(10 * time.Second)
		s.memory.Fail(func(string) error { return errCut })
		for range 60 {
			w := s.get(1, 503, at)
			assert.Equal(t, tetherhttp.ProblemStoreUnavailable, w.problem(t).Type)
			assert.Equal(t, "1", w.Header().Get("Retry-After"))
			time.Sleep(time.Second)
		}
		s.memory.Fail(nil)
		for range 50 {
			assert.Equal(t, "running", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "an outage just after a replica was seen to be late is not its fault", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		time.Sleep(5500 * time.Millisecond)              // the lease has ended
		go ask(t, s.replicas[1], request("GET", at, "")) // which is in doubt, until the outage
		time.Sleep(time.Millisecond)
		s.memory.Fail(func(string) error { return errCut })
		time.Sleep(3200 * time.Millisecond)
		s.replicas[0].link.set(func(l *link) { l.cut = false })
		s.memory.Fail(nil)
		assert.Equal(t, "running", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a store that takes longer than a second is not away", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{Timeout: 5 * time.Second}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		for _, r := range s.replicas {
			r.link.set(func(l *link) { l.slow = 1500 * time.Millisecond })
		}
		at := s.post(0)
		for range 20 {
			time.Sleep(time.Second)
			require.Equal(t, "running", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
		time.Sleep(5 * time.Second) // the last renewal has its answer
	})
	bubble(t, "calls that hang when the store is back do not keep a replica from its lease", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 10*time.Minute)
		}))
		at := s.post(0)
		for i := range 10 { // whatever the instant at which the store is back
			hang := make(chan struct{})
			s.replicas[0].link.set(func(l *link) { l.hang = hang })
			time.Sleep(8*time.Second + time.Duration(i)*220*time.Millisecond)
			s.replicas[0].link.set(func(l *link) { l.hang = nil }) // those that hang go on doing so
			require.Equal(t, "running", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
			close(hang)
		}
		time.Sleep(10 * time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a replica that stood still learns at once that its tasks are lost", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		at := s.post(0)
		s.replicas[0].link.set(func(l *link) { l.lies = true }) // it does not know of the time that passes
		time.Sleep(10 * time.Second)
		assert.Equal(t, "lost", readStatus(t, s.get(1, 200, at).Body.Bytes()).State)
		assert.Nil(t, cause.Load())
		s.replicas[0].st.StandStill(10 * time.Second)
		s.replicas[0].link.set(func(l *link) { l.lies = false })
		time.Sleep(time.Second)
		synctest.Wait()
		assert.ErrorIs(t, cause.Load().(error), tetherhttp.ErrLost)
	})
	bubble(t, "a clock that is slow does not let a task end before it began", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) { return "", pass(ctx, time.Hour) }))
		s.leaves = true
		at := s.post(0)
		found, err := s.memory.Get(t.Context(), "shop"+strings.Replace(at, "/tasks/", "/task/", 1))
		require.NoError(t, err)
		r := found[0]
		r.Data, r.Keep = []byte(strings.ReplaceAll(string(r.Data), `"started":"2000-`, `"started":"2099-`)), time.Hour
		require.NoError(t, s.memory.Swap(t.Context(), r.Tag, r)) // as if its replica's clock were fast
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		time.Sleep(10 * time.Second)
		now := readStatus(t, s.get(1, 200, at).Body.Bytes())
		assert.Equal(t, "lost", now.State)
		assert.Equal(t, 2099, now.Started.Year())
		assert.False(t, now.Finished.Before(now.Started))
	})
	bubble(t, "a log handler that hangs or panics does not keep it from its lease", func(t *testing.T) {
		release := make(chan struct{})
		s := serve(t, tetherhttp.StoreConfig{Logger: slog.New(hostileHandler{release})}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		s.memory.Fail(func(string) error { return errCut })
		time.Sleep(2 * time.Second)
		s.memory.Fail(nil)
		time.Sleep(30 * time.Second)
		assert.Equal(t, "running", s.status(at).State)
		close(release)
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "what ends while the store is away is stored when it is back", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, 5*time.Second)
		}))
		at := s.post(0)
		s.memory.Fail(func(string) error { return errCut })
		time.Sleep(time.Minute)
		s.memory.Fail(nil)
		time.Sleep(3 * time.Second)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a store that has lost its data is given it again", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		s.memory.Fail(func(string) error { return errCut })
		time.Sleep(2 * time.Second)
		s.memory.Clear()
		s.memory.Fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "running", s.status(at).State)
		s.memory.Clear()
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "answers that get lost", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			for i := range int64(20) {
				tether.ReportProgress(ctx, tether.Progress{Done: i + 1})
				_ = pass(ctx, time.Second)
			}
			return "done", nil
		}))
		var n atomic.Int64
		at := s.post(0)
		s.replicas[0].link.set(func(l *link) { l.lost = func(string) bool { return n.Add(1)%3 == 0 } })
		last := 0.0
		for range 60 {
			now := readStatus(t, s.get(1, 200, at).Body.Bytes())
			if !now.Done {
				done, _ := now.Progress["done"].(float64)
				assert.GreaterOrEqual(t, done, last)
				last = done
			}
			time.Sleep(500 * time.Millisecond)
		}
		assert.Positive(t, last)
		s.replicas[0].link.set(func(l *link) { l.lost = nil })
		time.Sleep(3 * time.Second)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a 202 that cannot be stored is a 503, and the task is canceled", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		s.memory.Fail(func(string) error { return errCut })
		w := ask(t, s.replicas[0], request("POST", "/reports", "{}"))
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, tetherhttp.ProblemStoreUnavailable, w.problem(t).Type)
		synctest.Wait()
		assert.ErrorIs(t, cause.Load().(error), tetherhttp.ErrStoreUnavailable)
		s.memory.Fail(nil)
	})
	bubble(t, "a store that hangs delays a request for as long as it may", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{Timeout: 3 * time.Second}, reports(untilCanceled(&cause)))
		at := s.post(0)
		hang := make(chan struct{})
		for _, r := range s.replicas {
			r.link.set(func(l *link) { l.hang = hang })
		}
		for _, r := range []*http.Request{request("GET", at, ""), request("DELETE", at, ""), request("POST", "/reports", "{}"), request("POST", "/reports", "{}", "Idempotency-Key", "k")} {
			began := time.Now()
			assert.Equal(t, 503, ask(t, s.replicas[1], r).Code)
			assert.Less(t, time.Since(began), 4*time.Second, r.Method)
		}
		for _, r := range s.replicas {
			r.link.set(func(l *link) { l.hang = nil })
		}
		close(hang)
		time.Sleep(5 * time.Second)
		ask(t, s.replicas[0], request("DELETE", at, ""))
	})
	bubble(t, "calls that are never answered are bounded", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		at := s.post(0)
		time.Sleep(time.Second)
		hang := make(chan struct{})
		var calls atomic.Int64
		s.memory.Fail(func(string) error { calls.Add(1); <-hang; return errCut })
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { s.get(1, 503, at) })
		}
		all.Wait()
		assert.LessOrEqual(t, calls.Load(), int64(256))
		close(hang)
		s.memory.Fail(nil)
		synctest.Wait()
		s.get(1, 200, at)
	})
	bubble(t, "a backend that panics or ends its goroutine", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		s.memory.Fail(func(string) error { panic(errTest) })
		s.get(1, 503, at)
		time.Sleep(2 * time.Second)
		s.memory.Fail(func(string) error { runtime.Goexit(); return nil })
		s.get(1, 503, at)
		time.Sleep(2 * time.Second)
		s.memory.Fail(nil)
		time.Sleep(time.Minute)
		assert.Equal(t, "succeeded", s.status(at).State)
	})
	bubble(t, "a record of a newer version", func(t *testing.T) {
		var cause atomic.Value
		s := serve(t, tetherhttp.StoreConfig{}, reports(untilCanceled(&cause)))
		at := s.post(0)
		id := strings.TrimPrefix(at, "/tasks/")
		found, err := s.memory.Get(t.Context(), "shop/task/"+id)
		require.NoError(t, err)
		require.Len(t, found, 1)
		newer := found[0]
		newer.Tag, newer.Version, newer.Keep, newer.Owner = "9999-x", 2, time.Hour, "another" // it looks like one of this version
		require.NoError(t, s.memory.Swap(t.Context(), found[0].Tag, newer))
		for range 2 { // also when its owner is gone
			for _, method := range []string{"GET", "DELETE"} {
				s.problems(503, tetherhttp.ProblemStoreUnavailable, method, at)
			}
			time.Sleep(10 * time.Second)
		}
		again, err := s.memory.Get(t.Context(), "shop/task/"+id)
		require.NoError(t, err)
		assert.Equal(t, newer.Tag, again[0].Tag, "it was not changed")
		for task := range s.replicas[0].reg.Tasks() {
			task.Cancel(nil)
		}
	})
	bubble(t, "a record that is not one", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		at := s.post(0)
		time.Sleep(2 * time.Second)
		key := "shop/task/" + strings.TrimPrefix(at, "/tasks/")
		for _, data := range []string{"", "{", "{}", `{"key":{}}`, "null"} {
			found, err := s.memory.Get(t.Context(), key)
			require.NoError(t, err)
			bad := found[0]
			bad.Tag, bad.Data, bad.Keep = fmt.Sprintf("%d-x", 100+len(data)), []byte(data), time.Hour
			require.NoError(t, s.memory.Swap(t.Context(), found[0].Tag, bad))
			s.problems(503, tetherhttp.ProblemStoreUnavailable, "GET", at)
		}
	})
}

// statusAt is status of some replicas.
func (s *service) statusAt(at string, replicas ...int) statusJSON {
	s.Helper()
	var last statusJSON
	for _, i := range replicas {
		last = readStatus(s.T, s.get(i, 200, at).Body.Bytes())
	}
	return last
}

// hostileHandler is a log handler that hangs, and then panics.
type hostileHandler struct{ release chan struct{} }

func (hostileHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h hostileHandler) Handle(context.Context, slog.Record) error {
	<-h.release
	panic(errTest)
}
func (h hostileHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hostileHandler) WithGroup(string) slog.Handler      { return h }

func TestStoreClose(t *testing.T) {
	bubble(t, "what has ended is stored, also if the store answers late", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		at := s.post(0)
		s.memory.Fail(func(method string) error {
			if method == "Swap" {
				time.Sleep(time.Second)
			}
			return nil
		})
		time.Sleep(time.Second)
		require.NoError(t, s.replicas[0].st.Close(t.Context()))
		assert.Equal(t, "succeeded", s.statusAt(at, 1, 2).State)
		s.get(0, 503, at)
		assert.NoError(t, s.replicas[0].st.Close(t.Context()), "again")
		assert.Equal(t, 503, ask(t, s.replicas[0], request("POST", "/reports", "{}", "Idempotency-Key", "k")).Code)
		assert.Equal(t, 503, ask(t, s.replicas[0], request("POST", "/reports", "{}")).Code)
	})
	bubble(t, "what has not ended is lost at once", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Minute)
		}))
		at := s.post(0)
		require.NoError(t, s.replicas[0].st.Close(t.Context()))
		assert.Equal(t, "lost", s.statusAt(at, 1, 2).State)
		time.Sleep(time.Minute)
		assert.Equal(t, "lost", s.statusAt(at, 1, 2).State)
	})
	bubble(t, "a store that is away holds it up until its time is over", func(t *testing.T) {
		s := serve(t, tetherhttp.StoreConfig{}, reports(func(ctx context.Context, _ *http.Request) (string, error) {
			return "done", pass(ctx, time.Second)
		}))
		s.post(0)
		s.memory.Fail(func(string) error { return errCut })
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		assert.ErrorIs(t, s.replicas[0].st.Close(ctx), context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(began))
		s.leaves = true
	})
	bubble(t, "with nothing to do", func(t *testing.T) {
		assert.NoError(t, tetherhttp.NewStore("shop", storetest.NewMemory()).Close(t.Context()))
	})
}

func TestNewStore(t *testing.T) {
	for _, bad := range []func(){
		func() { tetherhttp.NewStore("", storetest.NewMemory()) },
		func() { tetherhttp.NewStore("shop", nil) },
		func() { tetherhttp.NewStore("shop", storetest.NewMemory(), tetherhttp.StoreConfig{MaxResult: -1}) },
	} {
		assert.Panics(t, bad)
	}
}

func TestStoreKeys(t *testing.T) {
	post := func(s *service, replica int, key, body string, header ...string) *asked {
		return ask(s.T, s.replicas[replica], request("POST", "/reports", body, append(header, "Idempotency-Key", key)...))
	}
	bubble(t, "one key at all replicas at once is one run", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 300*time.Millisecond)))
		for round := range 50 {
			runs.Store(0)
			answers := make(chan *asked)
			for i := range 9 {
				go func() { answers <- post(s, i%3, fmt.Sprint("k", round), "{}") }()
			}
			fresh := 0
			for range 9 {
				switch w := <-answers; w.Code {
				case 200:
					fresh++
				case 409:
					assert.Equal(t, tetherhttp.ProblemKeyInUse, w.problem(t).Type)
				default:
					t.Errorf("%d: %s", w.Code, w.Body.String())
				}
			}
			assert.Equal(t, 1, fresh)
			assert.EqualValues(t, 1, runs.Load())
			for i := range s.replicas {
				w := post(s, i, fmt.Sprint("k", round), "{}")
				assert.Equal(t, 200, w.Code)
				assert.True(t, replayed(t, w))
				assert.Equal(t, "\"run 1\"\n", w.Body.String())
			}
			assert.EqualValues(t, 1, runs.Load())
			time.Sleep(time.Second)
		}
	})
	bubble(t, "a repetition has the same Location, and then the result", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 10*time.Second)))
		at := s.post(0, "Idempotency-Key", "k")
		for i := range s.replicas {
			w := post(s, i, "k", "{}")
			assert.Equal(t, 202, w.Code)
			assert.Equal(t, at, w.Header().Get("Location"))
			assert.True(t, replayed(t, w))
		}
		for i := range s.replicas {
			w := post(s, i, "k", "{}", "Prefer", "wait=20")
			assert.Equal(t, 200, w.Code)
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
			assert.Equal(t, "wait=20", w.Header().Get("Preference-Applied"))
		}
		assert.EqualValues(t, 1, runs.Load())
		w := post(s, 1, "k", "other")
		assert.Equal(t, 422, w.Code)
		assert.Equal(t, tetherhttp.ProblemKeyReused, w.problem(t).Type)
		time.Sleep(time.Second)
	})
	bubble(t, "the first request's client goes away", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 10*time.Second)))
		ctx, cancel := context.WithCancel(t.Context())
		go s.replicas[0].ServeHTTP(httptest.NewRecorder(), request("POST", "/reports", "{}", "Idempotency-Key", "k").WithContext(ctx))
		time.Sleep(100 * time.Millisecond)
		cancel()
		time.Sleep(100 * time.Millisecond)
		assert.Equal(t, 202, post(s, 1, "k", "{}").Code)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "\"run 1\"\n", post(s, 2, "k", "{}").Body.String())
	})
	bubble(t, "Join waits at another replica", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, func(r *replica) {
			r.Handle("POST /reports", tetherhttp.Async(r.reg, "report", counting(&runs, 400*time.Millisecond), tetherhttp.AsyncConfig{
				Store: r.st, Idempotency: &tetherhttp.IdempotencyConfig{Join: true},
			}))
		})
		answers := make(chan *asked)
		for i := range 9 {
			go func() { answers <- post(s, i%3, "k", "{}") }()
		}
		for range 9 {
			w := <-answers
			assert.Equal(t, 200, w.Code)
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
		}
	})
	bubble(t, "a key expires, but not while its task runs", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{RetainFor: time.Second}, func(r *replica) {
			r.Handle("POST /reports", tetherhttp.Async(r.reg, "report", counting(&runs, 10*time.Minute), tetherhttp.AsyncConfig{
				Store: r.st, Inline: 5 * time.Minute, Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: time.Minute},
			}))
		})
		first := make(chan *asked)
		go func() { first <- post(s, 0, "k", "{}") }()
		time.Sleep(4 * time.Minute)
		assert.Equal(t, 409, post(s, 1, "k", "{}").Code)
		assert.Equal(t, 202, (<-first).Code)
		time.Sleep(4 * time.Minute)
		assert.Equal(t, 202, post(s, 1, "k", "{}", "Prefer", "respond-async").Code)
		time.Sleep(61 * time.Second)
		assert.Equal(t, "\"run 1\"\n", post(s, 1, "k", "{}").Body.String())
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 202, post(s, 1, "k", "{}").Code)
		assert.EqualValues(t, 2, runs.Load())
		time.Sleep(10 * time.Minute)
	})
	bubble(t, "a request that is refused does not use its key", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, func(r *replica) {
			pool := r.reg.NewPool("one", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
			r.Handle("POST /reports", tetherhttp.Async(pool, "report", counting(&runs, 10*time.Second), tetherhttp.AsyncConfig{
				Store: r.st, Idempotency: &tetherhttp.IdempotencyConfig{},
			}))
		})
		s.post(0, "Idempotency-Key", "a")
		assert.Equal(t, 503, post(s, 0, "b", "{}").Code)
		synctest.Wait()
		assert.Equal(t, 202, post(s, 1, "b", "{}").Code)
		assert.EqualValues(t, 2, runs.Load())
		time.Sleep(10 * time.Second)
	})
	bubble(t, "a task that was dropped does not use its key", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, func(r *replica) {
			pool := r.reg.NewPool("one", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
			r.Handle("POST /reports", tetherhttp.Async(pool, "report", counting(&runs, 10*time.Second), tetherhttp.AsyncConfig{
				Store: r.st, Idempotency: &tetherhttp.IdempotencyConfig{}, Inline: 2 * time.Second,
			}))
		})
		s.post(0, "Idempotency-Key", "a")
		dropped := make(chan *asked)
		go func() { dropped <- post(s, 0, "b", "{}") }()
		time.Sleep(time.Second)
		s.post(0, "Idempotency-Key", "c")
		assert.Equal(t, 503, (<-dropped).Code)
		w := post(s, 1, "b", "{}")
		assert.Equal(t, 202, w.Code)
		assert.False(t, replayed(t, w))
		time.Sleep(20 * time.Second)
		assert.EqualValues(t, 3, runs.Load())
	})
	bubble(t, "a key whose replica is gone is used up, and says so", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, func(r *replica) {
			r.Handle("POST /reports", tetherhttp.Async(r.reg, "report", counting(&runs, 20*time.Second), tetherhttp.AsyncConfig{
				Store: r.st, Idempotency: &tetherhttp.IdempotencyConfig{}, Inline: time.Minute,
			}))
		})
		first := make(chan *asked)
		go func() { first <- post(s, 0, "k", "{}") }()
		time.Sleep(time.Second)
		s.replicas[0].link.set(func(l *link) { l.cut = true })
		died, n := time.Now(), 0
		for post(s, 1, "k", "{}").Code == 409 {
			require.Less(t, time.Since(died), 10*time.Second)
			time.Sleep(100 * time.Millisecond)
			n++
		}
		assert.Positive(t, n)
		w := post(s, 2, "k", "{}")
		assert.Equal(t, 500, w.Code)
		assert.Equal(t, tetherhttp.ProblemTaskLost, w.problem(t).Type)
		assert.True(t, replayed(t, w))
		assert.Equal(t, 200, (<-first).Code) // its own client is there all the same
		assert.EqualValues(t, 1, runs.Load())
		s.replicas[0].link.set(func(l *link) { l.cut = false })
		time.Sleep(5 * time.Second)
		assert.Equal(t, 500, post(s, 0, "k", "{}").Code)
	})
	bubble(t, "while the store is away nothing runs", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 0)))
		s.memory.Fail(func(string) error { return errCut })
		w := post(s, 0, "k", "{}")
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, tetherhttp.ProblemStoreUnavailable, w.problem(t).Type)
		assert.Zero(t, runs.Load())
		s.memory.Fail(nil)
		assert.Equal(t, 200, post(s, 0, "k", "{}").Code)
	})
	bubble(t, "a claim whose answer is lost is taken back", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 0)))
		s.replicas[0].link.set(func(l *link) { l.lost = func(method string) bool { return method == "Swap" } })
		assert.Equal(t, 503, post(s, 0, "k", "{}").Code)
		assert.Zero(t, runs.Load())
		s.replicas[0].link.set(func(l *link) { l.lost = nil })
		synctest.Wait()
		assert.Equal(t, 200, post(s, 1, "k", "{}").Code)
	})
	bubble(t, "the store goes away while the task runs", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 300*time.Millisecond)))
		first := make(chan *asked)
		go func() { first <- post(s, 0, "k", "{}") }()
		time.Sleep(100 * time.Millisecond)
		s.memory.Fail(func(string) error { return errCut })
		assert.Equal(t, 200, (<-first).Code) // the work is done
		s.memory.Fail(nil)
		time.Sleep(3 * time.Second)
		w := post(s, 1, "k", "{}")
		assert.True(t, replayed(t, w))
		assert.Equal(t, "\"run 1\"\n", w.Body.String())
	})
	bubble(t, "the store goes away before the 202", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 10*time.Second)))
		first := make(chan *asked)
		go func() { first <- post(s, 0, "k", "{}") }()
		time.Sleep(100 * time.Millisecond)
		s.memory.Fail(func(string) error { return errCut })
		assert.Equal(t, 503, (<-first).Code) // but it goes on
		s.memory.Fail(nil)
		time.Sleep(2 * time.Second)
		assert.Equal(t, 202, post(s, 1, "k", "{}").Code)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "\"run 1\"\n", post(s, 2, "k", "{}").Body.String())
		assert.EqualValues(t, 1, runs.Load())
	})
	bubble(t, "a key of a newer version is refused before anything runs", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, 0)))
		s.replicas[0].link.Backend = newerKeys{s.memory}
		assert.Equal(t, 200, post(s, 0, "k", "{}").Code)
		runs.Store(0)
		w := post(s, 1, "k", "{}")
		assert.Equal(t, 503, w.Code, w.Body.String())
		assert.Zero(t, runs.Load())
	})
	bubble(t, "a task that was forgotten", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, tetherhttp.StoreConfig{}, reports(counting(&runs, time.Second)))
		at := s.post(0, "Idempotency-Key", "k")
		time.Sleep(2 * time.Second)
		assert.Equal(t, 204, ask(t, s.replicas[1], request("DELETE", at, "")).Code)
		w := post(s, 1, "k", "{}")
		assert.Equal(t, 410, w.Code)
		assert.Equal(t, tetherhttp.ProblemTaskForgotten, w.problem(t).Type)
		assert.EqualValues(t, 1, runs.Load())
	})
}

// newerKeys writes keys as a newer version does.
type newerKeys struct{ store.Backend }

func (n newerKeys) Swap(ctx context.Context, was string, r store.Record) error {
	if strings.Contains(r.Key, "/key/") {
		r.Version, r.Data = 2, json.RawMessage(`{"key":{"print":"made in another way"}}`)
	}
	return n.Backend.Swap(ctx, was, r)
}
