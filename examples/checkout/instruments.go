package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
	tetherprom "github.com/seed-2e639f12/tether/prom"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// instruments show the shop to those who run it.
type instruments struct {
	metrics *tetherprom.Metrics
	scraped *prometheus.Registry
	spans   *sdktrace.TracerProvider // nil without -trace
}

// newInstruments makes them; spans are printed to traces, unless that is nil.
func newInstruments(traces io.Writer) (*instruments, error) {
	i := &instruments{metrics: tetherprom.New(tetherprom.Config{}), scraped: prometheus.NewRegistry()}
	i.scraped.MustRegister(i.metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if traces != nil {
		exporter, err := stdouttrace.New(stdouttrace.WithWriter(traces))
		if err != nil {
			return nil, fmt.Errorf("traces: %w", err)
		}
		i.spans = sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	}
	return i, nil
}

// observer is told of every task.
func (i *instruments) observer() (tether.Observer, error) {
	if i.spans == nil {
		return i.metrics, nil
	}
	spans, err := tetherotel.New(tetherotel.Config{TracerProvider: i.spans})
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return tether.JoinObservers(i.metrics, spans), nil
}

// traced has each request be a span, which those of its tasks have to do with. It is
// named after the request's route. The path is left out: an id of a task or an order is
// the key to it, and traces are for more people than may have that.
func (i *instruments) traced(next http.Handler) http.Handler {
	if i.spans == nil {
		return next
	}
	return otelhttp.NewHandler(next, "request",
		otelhttp.WithTracerProvider(i.spans), otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithSpanOptions(trace.WithAttributes(semconv.URLPath("REDACTED")))) // takes the place of otelhttp's own
}

// admin serves what is not for the customers: nobody else should reach its address,
// which is the one of -admin, or "".
func (i *instruments) admin(reg *tether.Registry, address string) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/debug/tether/", tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true}))
	mux.Handle("GET /ready", tetherhttp.Readiness(reg)) // a worker has no other address
	mux.Handle("GET /healthz", tetherhttp.Liveness())
	mux.Handle("GET /metrics", promhttp.HandlerFor(i.scraped, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index) // goroutines and CPU time have the labels tether.task and tether.pool
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /{$}", http.RedirectHandler("/debug/tether/", http.StatusFound))
	host, _, _ := net.SplitHostPort(address)
	return &http.Server{Handler: byName(host, prompt(mux)), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

// byName refuses requests to any host but this one, localhost and IP addresses. The
// page of a stranger whose host's name is made to mean this address (DNS rebinding)
// could otherwise have the operator's browser read all of this.
func byName(host string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.Host
		if name, _, err := net.SplitHostPort(to); err == nil {
			to = name
		}
		_, err := netip.ParseAddr(strings.Trim(to, "[]"))
		if err != nil && !strings.EqualFold(to, "localhost") && (host == "" || !strings.EqualFold(to, host)) {
			http.Error(w, "ask for an IP address, localhost, or the host that -admin names", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// prompt bounds how long the body of a request may take to arrive. Server.ReadTimeout
// would not do: when it is over, so is the context of a request that still runs, and a
// profile of 30 seconds is cut short.
func prompt(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Not supported by a recorder in a test.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second))
		}
		next.ServeHTTP(w, r)
	})
}

// close has the last spans printed.
func (i *instruments) close(ctx context.Context) error {
	if i.spans == nil {
		return nil
	}
	return i.spans.Shutdown(ctx)
}
