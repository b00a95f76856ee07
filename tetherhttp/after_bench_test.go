package tetherhttp_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// BenchmarkHandler measures the middleware without a network: what it adds to the
// bare handler, with and without the hooks of a connection.
func BenchmarkHandler(b *testing.B) {
	counts := []struct {
		name  string
		tasks int
	}{{"no task", 0}, {"one task", 1}, {"three tasks", 3}}
	b.Run("bare", func(b *testing.B) {
		serve := withoutNetwork(b, 0, false, false)
		b.ReportAllocs()
		for b.Loop() {
			serve()
		}
	})
	for _, hooks := range []bool{false, true} {
		name := "without hooks"
		if hooks {
			name = "with hooks"
		}
		for _, c := range counts {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				serve := withoutNetwork(b, c.tasks, true, hooks)
				b.ReportAllocs()
				for b.Loop() {
					serve()
				}
			})
		}
	}
}

// A request that adds no task costs two allocations: the scope, and the copy of the
// Request that carries it.
func TestHandlerAllocations(t *testing.T) {
	for name, hooks := range map[string]bool{"without hooks": false, "with hooks": true} {
		t.Run(name, func(t *testing.T) {
			least := func(serve func()) float64 { // other goroutines of the process may allocate too
				n := testing.AllocsPerRun(100, serve)
				for range 9 {
					n = min(n, testing.AllocsPerRun(100, serve))
				}
				return n
			}
			bare := least(withoutNetwork(t, 0, false, false))
			with := least(withoutNetwork(t, 0, true, hooks))
			assert.LessOrEqual(t, with-bare, 2.0)
		})
	}
}

// withoutNetwork returns a function that serves one request as the server would, with
// as many tasks after it. With hooks, the server tells of a connection as it does
// for HTTP/1.
func withoutNetwork(tb testing.TB, tasks int, middleware, hooks bool) (serve func()) {
	nothing := func(context.Context) error { return nil }
	reg := newRegistry(tb, tether.Config{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range tasks {
			if _, err := tetherhttp.After(r.Context(), "task", nothing); err != nil {
				panic(err)
			}
		}
	})}
	ctx := context.Context(context.Background())
	state := func(http.ConnState) {}
	if middleware {
		bg := tetherhttp.NewReleaser(reg)
		srv.Handler = bg.Handler(srv.Handler)
		if hooks {
			conn, other := net.Pipe()
			require.NoError(tb, other.Close())
			bg.Hooks(srv)
			srv.ConnState(conn, http.StateNew)
			tb.Cleanup(func() { srv.ConnState(conn, http.StateClosed) })
			ctx = srv.ConnContext(ctx, conn)
			state = func(s http.ConnState) { srv.ConnState(conn, s) }
		}
	}
	w := struct{ http.ResponseWriter }{httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	return func() {
		state(http.StateActive)
		srv.Handler.ServeHTTP(w, r)
		state(http.StateIdle)
	}
}

// The benchmark's stand-in for a connection has to be taken for one.
func TestWithoutNetwork(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	bg := tetherhttp.NewReleaser(reg, tetherhttp.ReleaserConfig{MaxWait: time.Hour})
	srv := &http.Server{}
	bg.Hooks(srv)
	conn, other := net.Pipe()
	require.NoError(t, other.Close())
	srv.ConnState(conn, http.StateNew)
	srv.ConnState(conn, http.StateActive)
	var task *tether.Task
	bg.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		task, err = tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
			assert.Equal(t, tetherhttp.DeliverySent, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		assert.NoError(t, err)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(srv.ConnContext(context.Background(), conn)))
	assert.Equal(t, tether.Held, task.State(), "the connection is not idle yet")
	srv.ConnState(conn, http.StateIdle)
	require.NoError(t, task.Wait(context.Background()))
	srv.ConnState(conn, http.StateClosed)
}
