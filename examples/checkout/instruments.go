package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
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

// instruments are the metrics, the traces and the admin server.
type instruments struct {
	metrics *tetherprom.Metrics
	scraped *prometheus.Registry
	spans   *sdktrace.TracerProvider // nil without -trace
}

// newInstruments returns instruments that print spans to traces, unless it is nil.
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

// observer returns the observer of all tasks.
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

// traced makes a span for each request, to which the spans of its tasks are linked. The
// span is named after the route. It does not contain the path: the ID of a task or an
// order gives access to it, and traces are read more widely.
func (i *instruments) traced(next http.Handler) http.Handler {
	if i.spans == nil {
		return next
	}
	return otelhttp.NewHandler(next, "request",
		otelhttp.WithTracerProvider(i.spans), otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithSpanOptions(trace.WithAttributes(semconv.URLPath("REDACTED")))) // replaces otelhttp's own
}

// admin returns the server for operators. Customers must not be able to reach it. address
// is the value of -admin.
func (i *instruments) admin(reg *tether.Registry, address string) *http.Server {
	host, _, _ := net.SplitHostPort(address)
	mux := http.NewServeMux()
	mux.Handle("/debug/tether/", tetherhttp.Debug(reg, tetherhttp.DebugConfig{
		Title: "checkout", AllowCancel: true, AllowControl: true, Hosts: []string{host},
	}))
	mux.Handle("GET /ready", tetherhttp.Readiness(reg)) // a worker has no other server
	mux.Handle("GET /healthz", tetherhttp.Liveness())
	mux.Handle("GET /metrics", promhttp.HandlerFor(i.scraped, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index) // goroutines and CPU time have the labels tether.task and tether.pool
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /{$}", http.RedirectHandler("/debug/tether/", http.StatusFound))
	return &http.Server{Handler: tetherhttp.AllowHosts(withBodyDeadline(mux), host), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

// withBodyDeadline bounds the time in which the body of a request must arrive.
// Server.ReadTimeout cannot be used for that: it also ends the context of a request that
// runs, and would cut a profile of 30 seconds short.
func withBodyDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Not supported by a recorder in a test.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second))
		}
		next.ServeHTTP(w, r)
	})
}

// close prints the last spans.
func (i *instruments) close(ctx context.Context) error {
	if i.spans == nil {
		return nil
	}
	return i.spans.Shutdown(ctx)
}
