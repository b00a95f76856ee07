package tetherhttp

import (
	"context"
	"io"
	"net/http"

	"github.com/seed-2e639f12/tether"
)

// ListenAndServe serves until a signal comes, ctx ends or the server fails, and then
// stops in order: Readiness turns 503, cfg.PreStop passes, the server finishes the
// requests it has, the tasks are drained, the Closers run. It is [Attach] and
// [tether.Registry.Run], and returns what Run does: nil after a signal and a clean
// stop.
//
// cfg.Serve is srv.ListenAndServe if it is nil, or srv.ListenAndServeTLS if
// srv.TLSConfig has a certificate; cfg.Stop is srv.Shutdown. A server that has been
// attached to reg already is not attached again.
func ListenAndServe(ctx context.Context, srv *http.Server, reg *tether.Registry, cfg tether.RunConfig) error {
	if h, ok := srv.Handler.(*handler); !ok || h.bg.reg != reg {
		Attach(srv, reg)
	}
	if cfg.Serve == nil {
		cfg.Serve = srv.ListenAndServe
		if c := srv.TLSConfig; c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil) {
			cfg.Serve = func() error { return srv.ListenAndServeTLS("", "") }
		}
	}
	if cfg.Stop == nil {
		cfg.Stop = srv.Shutdown
	}
	return reg.Run(ctx, cfg)
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
