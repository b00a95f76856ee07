package tetherhttp

import (
	"context"
	"io"
	"net/http"
	"slices"

	"github.com/seed-2e639f12/tether"
)

// ListenAndServe serves until a signal comes, ctx is done or a server fails, and then
// stops as [tether.Registry.Run] describes: Readiness answers 503, cfg.PreStop passes,
// the servers finish the requests they have, the tasks are drained, the Closers run.
//
// It is [Attach] for each server and [tether.Registry.Run] with the servers added to
// cfg.Servers. A server that has been attached to reg already is not attached again.
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

// Server returns srv as a [tether.Server]. It serves with srv.ListenAndServe, or with
// srv.ListenAndServeTLS if srv.TLSConfig has a certificate.
func Server(name string, srv *http.Server) tether.Server {
	serve := srv.ListenAndServe
	if c := srv.TLSConfig; c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil) {
		serve = func() error { return srv.ListenAndServeTLS("", "") }
	}
	return tether.Server{Name: name, Serve: serve, Stop: srv.Shutdown}
}

// Readiness answers 200 while reg takes new work and 503 from the first signal on:
// for Kubernetes' readinessProbe, which takes the process out of the load balancer.
// See [tether.Registry.Ready].
func Readiness(reg *tether.Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !reg.Ready() {
			probe(w, http.StatusServiceUnavailable, "stopping\n")
			return
		}
		probe(w, http.StatusOK, "ready\n")
	})
}

// Liveness answers 200 whenever it is asked, in the drain too: for Kubernetes'
// livenessProbe, which would otherwise kill a process that is finishing its work.
func Liveness() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		probe(w, http.StatusOK, "alive\n")
	})
}

func probe(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a probe that has gone away asks again
}
