package main

import (
	"context"
	"fmt"
	"io"
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
	return tether.Observers(i.metrics, spans), nil
}

// traced has each request be a span, which those of its tasks have to do with.
func (i *instruments) traced(next http.Handler) http.Handler {
	if i.spans == nil {
		return next
	}
	return otelhttp.NewHandler(next, "request",
		otelhttp.WithTracerProvider(i.spans), otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }))
}

// admin serves what is not for the customers: nobody else should reach its address.
func (i *instruments) admin(reg *tether.Registry) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/debug/tether/", tetherhttp.Debug(reg, tetherhttp.AllowCancel()))
	mux.Handle("GET /metrics", promhttp.HandlerFor(i.scraped, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index) // goroutines and CPU time have the labels tether.task and tether.pool
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.Handle("GET /{$}", http.RedirectHandler("/debug/tether/", http.StatusFound))
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

// close has the last spans printed.
func (i *instruments) close(ctx context.Context) error {
	if i.spans == nil {
		return nil
	}
	return i.spans.Shutdown(ctx)
}
