package tetherhttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

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
		if !attached(srv, reg) {
			Attach(srv, reg)
		}
		servers = append(servers, Server(srv.Addr, srv))
	}
	cfg.Servers = servers
	return reg.Run(ctx, cfg)
}

// attached reports whether srv.Handler is what Attach has made of it, for reg.
func attached(srv *http.Server, reg *tether.Registry) bool {
	next := srv.Handler
	for {
		switch h := next.(type) {
		case *counter:
			next = h.next
		case *handler:
			return h.releaser.reg == reg
		default:
			return false
		}
	}
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
// open connections.
//
// Quiet ends the PreStop of [tether.RunConfig] early. It returns true when no connection and
// no request has come for 800 ms, and for twice as long as the longest pause of the half
// minute before the stop and since: a server that has a request every five seconds is not
// quiet before ten seconds, and one that has served for less than half a minute is never
// quiet. A request for [Readiness] or [Liveness] does not count, nor does
// the connection that it came on, unless it came by HTTP/2.
//
// While PreStop passes, responses of HTTP/1 have Connection: close, so that the persistent
// connections of clients and proxies end between two requests. Stop would close them at once
// if they are idle, even if a request is on its way.
//
// For these, Server sets srv.ConnState and srv.ConnContext to hooks that call the functions
// that were there, and wraps srv.Handler. It must be called after srv.Handler is set and
// before srv serves. If another handler is set later, requests of HTTP/2 are not seen.
//
// Server does not call [Attach].
func Server(name string, srv *http.Server) tether.Server {
	serve := srv.ListenAndServe
	if c := srv.TLSConfig; c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil) {
		serve = func() error { return srv.ListenAndServeTLS("", "") }
	}
	conns := &openConns{arrivals: arrivals{epoch: time.Now()}}
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
	return tether.Server{Name: name, Serve: serve, Stop: stop, Pending: conns.String, Quiet: conns.quiet}
}

// Readiness returns a handler that answers 200 until the stop begins and 503 from then on, as
// [tether.Registry.Ready] reports. It is for Kubernetes' readinessProbe, which takes the
// process out of the load balancer.
func Readiness(reg *tether.Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forgetProbe(r)
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forgetProbe(r)
		probe(w, http.StatusOK, "alive\n")
	})
}

func probe(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a probe that has gone will ask again
}
