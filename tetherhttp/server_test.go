package tetherhttp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// noSignals keeps Run from listening for signals.
var noSignals = []os.Signal{}

// running is a call of Run in a bubble, with servers in memory.
type running struct {
	stop context.CancelFunc
	done chan error
}

// run starts Run. Each server serves on the network of the same index.
func run(t *testing.T, reg *tether.Registry, cfg tether.RunConfig) running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	cfg.Signals = noSignals
	r := running{stop, make(chan error, 1)}
	go func() { r.done <- reg.Run(ctx, cfg) }()
	synctest.Wait()
	return r
}

// on returns a Server for Run that serves on a network in memory.
func (n *memNet) on(name string, srv *http.Server) tether.Server {
	s := tetherhttp.Server(name, srv)
	s.Serve = func() error { return srv.Serve(n) }
	return s
}

func TestServerPending(t *testing.T) {
	bubble(t, "open connections by state, beside the hooks of others", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		n := newMemNet(0)
		release := make(chan struct{})
		srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "after", succeed)
			assert.NoError(t, err)
			if r.URL.Path == "/slow" {
				<-release
			}
		}))
		seen := make(lineCount)
		var mu sync.Mutex
		srv.ConnState = func(_ net.Conn, s http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			seen[s.String()]++
		}
		server := tetherhttp.Server("public", srv)
		tetherhttp.Attach(srv, reg)
		n.serve(t, srv, false)
		assert.Empty(t, server.Pending())

		slow, idle := n.rawClient(t, false), n.rawClient(t, false)
		slow.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
		synctest.Wait()
		assert.Equal(t, "2 open connections (1 active, 1 new)", server.Pending())
		idle.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		idle.response("GET", nil)
		synctest.Wait()
		n.rawClient(t, false)
		synctest.Wait()
		assert.Equal(t, "3 open connections (1 active, 1 new, 1 idle)", server.Pending())
		close(release)
		idle.close()
		synctest.Wait()
		assert.Equal(t, "2 open connections (1 new, 1 idle)", server.Pending())
		slow.close()
		synctest.Wait()
		assert.Equal(t, "1 open connection (1 new)", server.Pending())
		assert.Equal(t, lineCount{"new": 3, "active": 2, "idle": 2, "closed": 2}, seen)
		assert.EqualValues(t, 2, reg.Stats().Succeeded)
	})
	bubble(t, "not those that a handler has taken over", func(t *testing.T) {
		n := newMemNet(0)
		srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if assert.NoError(t, err) {
				_ = conn.Close()
			}
		}))
		server := tetherhttp.Server("public", srv)
		n.serve(t, srv, false)
		n.rawClient(t, false).send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		synctest.Wait()
		assert.Empty(t, server.Pending())
	})
	bubble(t, "of a listener with connections that cannot be compared", func(t *testing.T) {
		srv := &http.Server{Handler: http.NotFoundHandler()}
		server := tetherhttp.Server("public", srv)
		do := servePipes(t, srv, false, func(c net.Conn) net.Conn { return anyConn{Conn: c} })
		res, err := do(request("GET", "/", ""))
		require.NoError(t, err)
		readAll(t, res)
		assert.Empty(t, server.Pending())
	})
}

// A request that does not end holds its server until its time is up, and no longer.
func TestServerStopsAtItsDeadline(t *testing.T) {
	for version := 1; version <= 2; version++ {
		bubble(t, fmt.Sprintf("HTTP/%d", version), func(t *testing.T) {
			var book logbook
			reg := newRegistry(t, tether.Config{Logger: book.logger()})
			n := newMemNet(0)
			delivery := make(chan tetherhttp.Delivery, 1)
			srv := n.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
					delivery <- tetherhttp.DeliveryOf(ctx)
					return nil
				})
				assert.NoError(t, err)
				<-r.Context().Done() // the connection is closed
			}))
			srv.Protocols = protocols("h1", "h2c")
			tetherhttp.Attach(srv, reg)
			r := run(t, reg, tether.RunConfig{Servers: []tether.Server{n.on("public", srv)}})
			failed := make(chan error, 1)
			go func() {
				p := protocols("h1")
				if version == 2 {
					p = protocols("h2c")
				}
				_, err := n.client(t, p).Get(n.url(false)) // there is no body to close
				failed <- err
			}()
			synctest.Wait()
			began := time.Now()
			r.stop()
			err := <-r.done
			assert.EqualError(t, err, `tether: stopping server "public": context deadline exceeded: closed 1 open connection (1 active)`)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Error(t, <-failed)
			assert.Equal(t, tetherhttp.DeliveryClosed, <-delivery)
			assert.Less(t, time.Since(began), 18*time.Second, "of 25 s, which leaves the tasks their time")
			assert.NotEmpty(t, book.about("1 open connection (1 active)"), "the log says what the stop waits for")
		})
	}
}

// What the package's doc says of streams: none of them delays the stop.
func TestStreamsDoNotDelayTheStop(t *testing.T) {
	type stream struct {
		handler func(reg *tether.Registry) http.Handler
		header  []string
		want    string // the end of what the client reads
	}
	streams := map[string]stream{
		"a handler that selects on Stopping": {func(reg *tether.Registry) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: hello\n\n")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-reg.Stopping():
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, "data: bye\n\n")
			})
		}, nil, "data: bye\n\n"},
		"the events of Tasks": {func(reg *tether.Registry) http.Handler { return tetherhttp.Tasks(reg) }, []string{"Accept", "text/event-stream"}, "\"running\",\"done\":false"},
		"a long poll":         {func(reg *tether.Registry) http.Handler { return tetherhttp.Tasks(reg) }, []string{"Prefer", "wait=30"}, "\"running\",\"done\":false"},
	}
	for name, s := range streams {
		for _, last := range []bool{false, true} {
			what := ", on a server"
			if last {
				what = ", on a last server"
			}
			overTheNetwork(t, name+what, func(t *testing.T, n *memNet, version int) {
				reg := newRegistry(t, tether.Config{})
				task := start(t, reg, func(ctx context.Context) error { <-tether.StoppingFrom(ctx); return pass(ctx, time.Second) })
				synctest.Wait()
				srv := n.server(s.handler(reg))
				srv.Protocols = protocols("h1", "h2c")
				server, cfg := n.on("streams", srv), tether.RunConfig{}
				if cfg.Servers = []tether.Server{server}; last {
					cfg.Servers, cfg.LastServers = nil, cfg.Servers
				}
				r := run(t, reg, cfg)
				p := protocols("h1")
				if version == 2 {
					p = protocols("h2c")
				}
				text := make(chan string, 1)
				go func() {
					req, err := http.NewRequestWithContext(t.Context(), "GET", n.url(false)+strings.TrimPrefix(at(task), "/"), nil)
					if !assert.NoError(t, err) {
						return
					}
					for i := 0; i < len(s.header); i += 2 {
						req.Header.Set(s.header[i], s.header[i+1])
					}
					res, err := n.client(t, p).Do(req)
					if assert.NoError(t, err) {
						text <- readAll(t, res)
					}
				}()
				synctest.Wait()
				require.Empty(t, text)
				began := time.Now()
				r.stop()
				assert.Contains(t, <-text, s.want)
				assert.Zero(t, time.Since(began), "the stream ends with the signal")
				assert.NoError(t, <-r.done)
				assert.Less(t, time.Since(began), 3*time.Second, "the task takes 1 s, and net/http looks twice a second")
				assert.Equal(t, tether.Succeeded, task.State())
			})
		}
	}
}

// Several real servers, one of which stops last: it shows the drain, and a stream on it ends
// with the signal.
func TestSeveralServers(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	listening := make(chan net.Addr, 3)
	server := func(h http.Handler) *http.Server {
		return &http.Server{
			Addr: "127.0.0.1:0", Handler: h, ErrorLog: log.New(io.Discard, "", 0),
			BaseContext: func(l net.Listener) context.Context { listening <- l.Addr(); return context.Background() },
		}
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "after", succeed)
		_, _ = fmt.Fprint(w, "hello ", err)
	})
	admin := http.NewServeMux()
	admin.Handle("/debug/", tetherhttp.Debug(reg))
	admin.Handle("/tasks/", tetherhttp.Tasks(reg))
	drained := make(chan struct{})
	task := start(t, reg, func(context.Context) error { <-drained; return nil })

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a guard against hanging
	defer cancel()
	running, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- tetherhttp.ListenAndServe(running, reg, tether.RunConfig{
			Signals:     noSignals,
			StopTimeout: time.Hour, // nothing may wait for it
			LastServers: []tether.Server{tetherhttp.Server("admin", server(admin))},
		}, server(hello), server(hello))
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(addr net.Addr, path string, header ...string) *http.Response {
		t.Helper()
		res, err := client.Do(outbound(ctx, "GET", "http://"+addr.String()+path, nil, header...))
		require.NoError(t, err)
		return res
	}
	var adminAddr net.Addr
	greeted := 0
	for range 3 {
		addr := <-listening
		if res := get(addr, "/"); res.StatusCode == http.StatusOK {
			assert.Equal(t, "hello <nil>", readAll(t, res))
			greeted++
		} else {
			readAll(t, res)
			adminAddr = addr
		}
	}
	require.Equal(t, 2, greeted)
	events := bufio.NewReader(get(adminAddr, at(task), "Accept", "text/event-stream").Body)
	for line := ""; !strings.HasPrefix(line, "data:"); {
		var err error
		line, err = events.ReadString('\n')
		require.NoError(t, err)
	}
	stop()
	rest, err := io.ReadAll(events)
	require.NoError(t, err)
	assert.NotContains(t, string(rest), "event: done", "the stream ends, though the task goes on")
	<-reg.Stopping()
	res, err := client.Do(outbound(ctx, "GET", "http://"+adminAddr.String()+"/debug/?format=json", nil))
	require.NoError(t, err)
	assert.Contains(t, readAll(t, res), `"state":"draining"`, "the admin server serves still")
	close(drained)
	assert.NoError(t, <-done)
	assert.EqualValues(t, 3, reg.Stats().Succeeded)
}
