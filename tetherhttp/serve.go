package tetherhttp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/seed-2e639f12/tether"
)

// ListenAndServe serves until a signal comes, ctx is done or a server fails, and then stops as
// [tether.Registry.Run] describes: Readiness answers 503, cfg.PreStop passes, the servers
// finish the requests that they have, the tasks are drained, and the Closers run.
//
// It calls [Attach] for each of srvs that is not attached to reg already, and
// [tether.Registry.Run] with the servers added to cfg.Servers. To name a server, to serve on a
// listener, or to have a server stop last, use [Server] and Run instead.
func ListenAndServe(ctx context.Context, reg *tether.Registry, cfg tether.RunConfig, srvs ...*http.Server) error {
	servers := slices.Clone(cfg.Servers)
	for _, srv := range srvs {
		if h, ok := srv.Handler.(*handler); !ok || h.releaser.reg != reg {
			Attach(srv, reg)
		}
		servers = append(servers, Server(srv.Addr, srv))
	}
	cfg.Servers = servers
	return reg.Run(ctx, cfg)
}

// Server returns srv as a [tether.Server] for [tether.RunConfig]. Its functions may be
// replaced, for example to serve on a listener:
//
//	public := tetherhttp.Server("public", srv)
//	public.Serve = func() error { return srv.Serve(listener) }
//
// Serve is srv.ListenAndServe, or srv.ListenAndServeTLS if srv.TLSConfig has a certificate.
// Stop is srv.Shutdown; if its context ends first, Stop closes the connections that are left,
// so that no request outlives the server, and its error says how many. Pending describes the
// open connections. For that Server sets srv.ConnState to a hook that calls the function that
// was there; it must be called before srv serves.
//
// Server does not call [Attach].
func Server(name string, srv *http.Server) tether.Server {
	serve := srv.ListenAndServe
	if c := srv.TLSConfig; c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil) {
		serve = func() error { return srv.ListenAndServeTLS("", "") }
	}
	var conns openConns
	conns.hook(srv)
	stop := func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err == nil {
			return nil
		}
		left := conns.String()
		_ = srv.Close() // Shutdown's error is the one that matters
		if left == "" {
			return err
		}
		return fmt.Errorf("%w: closed %s", err, left)
	}
	return tether.Server{Name: name, Serve: serve, Stop: stop, Pending: conns.String}
}

// openConns knows the states of a server's open connections.
type openConns struct{ states sync.Map } // net.Conn to *atomic.Int32, an http.ConnState

func (o *openConns) hook(srv *http.Server) {
	next := srv.ConnState
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		o.note(c, state)
		if next != nil {
			next(c, state)
		}
	}
}

func (o *openConns) note(c net.Conn, state http.ConnState) {
	if !hashable(c) {
		return
	}
	switch state {
	case http.StateClosed, http.StateHijacked: // Shutdown does not wait for these
		o.states.Delete(c)
		return
	case http.StateNew:
		o.states.Store(c, new(atomic.Int32)) // http.StateNew is zero
		return
	}
	if v, ok := o.states.Load(c); ok {
		v.(*atomic.Int32).Store(int32(state))
	}
}

// String describes the open connections, such as "3 open connections (2 active, 1 idle)". It
// is empty if there are none.
func (o *openConns) String() string {
	var total int
	var by [http.StateIdle + 1]int
	for _, v := range o.states.Range {
		total++
		by[v.(*atomic.Int32).Load()]++
	}
	var parts []string
	for _, state := range []http.ConnState{http.StateActive, http.StateNew, http.StateIdle} {
		if n := by[state]; n > 0 {
			parts = append(parts, fmt.Sprint(n, " ", state))
		}
	}
	switch total {
	case 0:
		return ""
	case 1:
		return "1 open connection (" + parts[0] + ")"
	}
	return fmt.Sprintf("%d open connections (%s)", total, strings.Join(parts, ", "))
}

// Readiness returns a handler that answers 200 until the stop begins and 503 from then on, as
// [tether.Registry.Ready] reports. It is for Kubernetes' readinessProbe, which takes the
// process out of the load balancer.
func Readiness(reg *tether.Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !reg.Ready() {
			probe(w, http.StatusServiceUnavailable, "stopping\n")
			return
		}
		probe(w, http.StatusOK, "ready\n")
	})
}

// Liveness returns a handler that always answers 200, during the drain too. It is for
// Kubernetes' livenessProbe, which would otherwise kill a process that is finishing its work.
func Liveness() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		probe(w, http.StatusOK, "alive\n")
	})
}

func probe(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a probe that has gone will ask again
}
