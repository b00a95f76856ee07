package tetherhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// balancer is a load balancer with one server. It sends a request after each pause, and a
// probe every half second, until its server is removed.
type balancer struct {
	client  *http.Client
	pauses  func() time.Duration
	probes  bool
	removed chan struct{}

	sent, refused int
	last          time.Time // when the last request was sent
}

func (b *balancer) get(path string) error {
	res, err := b.client.Do(outbound(context.Background(), "GET", path, nil))
	if err == nil {
		err = res.Body.Close()
	}
	return err
}

// run sends requests until the server is removed, and probes, until end is closed.
func (b *balancer) run(end <-chan struct{}) {
	if b.probes {
		go func() {
			for b.get("/ready") == nil { // until it is refused
				select {
				case <-end:
					return
				case <-time.After(500 * time.Millisecond):
				}
			}
		}()
	}
	for {
		b.sent++
		b.last = time.Now()
		if b.get("/") != nil {
			b.refused++
		}
		select {
		case <-b.removed:
			return
		case <-end:
			return
		case <-time.After(b.pauses()):
		}
	}
}

// PreStop passes until the load balancer has noticed, and not much longer.
func TestServerQuiet(t *testing.T) {
	const preStop = 20 * time.Second
	steady := func() func() time.Duration {
		n := 0
		return func() time.Duration {
			n++
			return time.Duration(n*137%350) * time.Millisecond
		}
	}
	every := func(d time.Duration) func() func() time.Duration {
		return func() func() time.Duration { return func() time.Duration { return d } }
	}
	bursts := func() func() time.Duration {
		n := 0
		return func() time.Duration {
			if n++; n%10 == 0 {
				return 15 * time.Second
			}
			return 20 * time.Millisecond
		}
	}
	for name, test := range map[string]struct {
		pauses func() func() time.Duration
		before time.Duration // the stop
		remove time.Duration // after the stop
		probes bool
		full   bool // PreStop passes in full
		least  time.Duration
	}{
		"removed at once":                {pauses: steady, before: 31 * time.Second, least: 800 * time.Millisecond},
		"removed after 3 s":              {pauses: steady, before: 31 * time.Second, remove: 3 * time.Second, least: 800 * time.Millisecond},
		"removed after 12 s":             {pauses: steady, before: 31 * time.Second, remove: 12 * time.Second, least: 800 * time.Millisecond},
		"probed on":                      {pauses: steady, before: 31 * time.Second, remove: 3 * time.Second, probes: true, least: 800 * time.Millisecond},
		"never removed":                  {pauses: steady, before: 31 * time.Second, remove: time.Hour, full: true},
		"removed when a request is rare": {pauses: every(3 * time.Second), before: 40 * time.Second, remove: 4 * time.Second, least: 6 * time.Second},
		"a rare request still comes":     {pauses: every(12 * time.Second), before: 40 * time.Second, remove: time.Hour, full: true},
		"a rare request between probes":  {pauses: every(12 * time.Second), before: 40 * time.Second, remove: time.Hour, probes: true, full: true},
		"bursts":                         {pauses: bursts, before: 46 * time.Second, remove: time.Hour, full: true},
		"idle for long":                  {pauses: every(time.Hour), before: 10 * time.Minute, remove: time.Hour, full: true},
	} {
		overTheNetwork(t, name, func(t *testing.T, n *memNet, version int) {
			if test.probes && version == 2 {
				t.Skip("probes of HTTP/2 count as requests")
			}
			reg := newRegistry(t, tether.Config{})
			mux := http.NewServeMux()
			mux.Handle("/ready", tetherhttp.Readiness(reg))
			mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
			srv := n.server(mux)
			tetherhttp.Attach(srv, reg)
			public := tetherhttp.Server("public", srv)
			public.Serve = func() error {
				if version == 2 {
					return srv.ServeTLS(n, "", "")
				}
				return srv.Serve(n)
			}
			stopped, down := make(chan time.Time, 1), make(chan struct{})
			srv.RegisterOnShutdown(func() { stopped <- time.Now(); close(down) })
			mux.HandleFunc("/long", func(http.ResponseWriter, *http.Request) { <-down })
			r := run(t, reg, tether.RunConfig{Servers: []tether.Server{public}, PreStop: preStop, StopTimeout: time.Minute})

			b := &balancer{client: clientOf(t, n, version), pauses: test.pauses(), probes: test.probes, removed: make(chan struct{})}
			end, ended := make(chan struct{}), make(chan struct{})
			go func() { defer close(ended); b.run(end) }()
			go func() { _ = b.get("/long") }() // HTTP/2: the connection is active all the time
			time.Sleep(test.before)
			synctest.Wait()
			began := time.Now()
			r.stop()
			time.AfterFunc(test.remove, func() { close(b.removed) })
			took := (<-stopped).Sub(began)
			close(end)
			if test.full {
				assert.Equal(t, preStop, took)
			} else {
				select {
				case <-ended:
				case <-time.After(time.Minute):
					require.FailNow(t, "the server stopped while requests came")
				}
				after := took - b.last.Sub(began)
				assert.GreaterOrEqual(t, after, test.least)
				assert.LessOrEqual(t, after, test.least+200*time.Millisecond)
				assert.Zero(t, b.refused, "of %d", b.sent)
			}
			time.Sleep(2 * time.Hour)
			require.NoError(t, <-r.done)
		})
	}
}

// A request that is on its way to an idle connection when that is closed is lost.
func TestServerPreStopEndsConnections(t *testing.T) {
	bubble(t, "after the response", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		n := newMemNet(0)
		srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
		}))
		r := run(t, reg, tether.RunConfig{Servers: []tether.Server{n.on("public", srv)}, PreStop: 10 * time.Second})
		c := clientOf(t, n, 1)
		get := func(header ...string) (closes bool) {
			res, err := c.Do(outbound(t.Context(), "GET", "/", nil, header...))
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			return res.Close
		}
		assert.False(t, get())
		r.stop()
		time.Sleep(time.Second)
		assert.True(t, get())
		assert.False(t, get("Connection", "Upgrade", "Upgrade", "test"), "the handler writes these headers")
		assert.True(t, get())
		c.CloseIdleConnections()
		require.NoError(t, <-r.done)
	})
	overTheNetwork(t, "HTTP/2 has GOAWAY", func(t *testing.T, n *memNet, version int) {
		if version == 1 {
			t.Skip("the test above")
		}
		reg := newRegistry(t, tether.Config{})
		srv := n.server(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		public := tetherhttp.Server("public", srv)
		public.Serve = func() error { return srv.ServeTLS(n, "", "") }
		r := run(t, reg, tether.RunConfig{Servers: []tether.Server{public}, PreStop: 10 * time.Second})
		r.stop()
		time.Sleep(time.Second)
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "GET", "/", nil))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Empty(t, res.Header.Get("Connection"))
		require.NoError(t, <-r.done)
	})
}

func TestServerQuiet_WithoutARequest(t *testing.T) {
	bubble(t, "it is not known what the server is used to", func(t *testing.T) {
		for _, age := range []time.Duration{0, time.Second, 29 * time.Second, time.Minute, time.Hour} {
			server := tetherhttp.Server("public", &http.Server{})
			time.Sleep(age)
			began := time.Now()
			time.Sleep(20 * time.Second)
			assert.False(t, server.Quiet(began), fmt.Sprint(age))
		}
	})
}
