package tetherotel_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTest = errors.New("test error")

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errTest }

// untilCanceled is a body that runs until its context is canceled.
func untilCanceled(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// telemetry is an SDK that keeps its spans and metrics for the test.
type telemetry struct {
	t       testing.TB
	spans   *tracetest.SpanRecorder
	tracers *sdktrace.TracerProvider
	reader  *sdkmetric.ManualReader
	meters  *sdkmetric.MeterProvider
}

// newTelemetry samples all roots but those named "unsampled".
func newTelemetry(t testing.TB) *telemetry {
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	return &telemetry{
		t: t, spans: spans, reader: reader,
		tracers: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(byName{}))),
		meters:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	}
}

type byName struct{}

func (byName) Description() string { return "by name" }
func (byName) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	switch p.Name {
	case "unsampled":
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	case "recorded only":
		return sdktrace.SamplingResult{Decision: sdktrace.RecordOnly}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func (s *telemetry) observer(cfg tetherotel.Config) *tetherotel.Observer {
	s.t.Helper()
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = s.tracers
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = s.meters
	}
	o, err := tetherotel.New(cfg)
	require.NoError(s.t, err)
	return o
}

// ended returns the ended span with this name; there must be exactly one.
func (s *telemetry) ended(name string) sdktrace.ReadOnlySpan {
	s.t.Helper()
	var found []sdktrace.ReadOnlySpan
	for _, span := range s.spans.Ended() {
		if span.Name() == name {
			found = append(found, span)
		}
	}
	require.Len(s.t, found, 1, "ended spans %q", name)
	return found[0]
}

// collect returns the data of a metric.
func collect[T metricdata.Aggregation](s *telemetry, name string) (data T) {
	s.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(s.t, s.reader.Collect(context.Background(), &all))
	for _, in := range all.ScopeMetrics {
		for _, m := range in.Metrics {
			if m.Name == name {
				require.IsType(s.t, data, m.Data)
				return m.Data.(T)
			}
		}
	}
	return data
}

// counts returns the values of an observable counter, by its attributes.
func (s *telemetry) counts(name string) map[string]int64 {
	s.t.Helper()
	values := make(map[string]int64)
	for _, p := range collect[metricdata.Sum[int64]](s, name).DataPoints {
		values[encode(p.Attributes)] = p.Value
	}
	return values
}

func encode(set attribute.Set) string { return set.Encoded(attribute.DefaultEncoder()) }

// newRegistry returns a registry that is shut down at the end of the test. It logs nothing
// unless cfg has a Logger.
func newRegistry(t testing.TB, cfg tether.Config) *tether.Registry {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := tether.New(cfg)
	t.Cleanup(func() { drain(t, r) })
	return r
}

func drain(t testing.TB, r *tether.Registry) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
	defer cancel()
	assert.NoError(t, r.Shutdown(ctx))
}

func start(t testing.TB, ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Go(ctx, name, fn, opts...)
	require.NoError(t, err)
	return task
}

// run submits a task and waits for it.
func run(t testing.TB, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task := start(t, context.Background(), r, name, fn, opts...)
	_ = task.Wait(context.Background())
	return task
}

// attributes returns the values of attributes, by key.
func attributes(all []attribute.KeyValue) map[string]any {
	values := make(map[string]any)
	for _, a := range all {
		values[string(a.Key)] = a.Value.AsInterface()
	}
	return values
}
