package tetherotel_test

import (
	"context"
	"testing"
	"time"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }

// BenchmarkTask measures an empty task, one of many that one worker of a pool runs. The
// cases take turns, and the fastest turn of each counts. x/none is the ratio to a task
// without an observer.
func BenchmarkTask(b *testing.B) {
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithBatcher(discard{}))
	always := sdktrace.NewTracerProvider(sdktrace.WithBatcher(discard{}))
	defer always.Shutdown(context.Background())
	defer never.Shutdown(context.Background())
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	observer := func(cfg tetherotel.Config) tether.Observer {
		o, err := tetherotel.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		return o
	}
	cases := []struct {
		name     string
		observer tether.Observer
	}{
		{"none", nil},
		{"no-op", observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})},
		{"never-sampled", observer(tetherotel.Config{TracerProvider: never, MeterProvider: metricnoop.NewMeterProvider()})},
		{"metrics", observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: meters})},
		{"never-sampled+metrics", observer(tetherotel.Config{TracerProvider: never, MeterProvider: meters})},
		{"always-sampled", observer(tetherotel.Config{TracerProvider: always, MeterProvider: metricnoop.NewMeterProvider()})},
		{"always-sampled+metrics", observer(tetherotel.Config{TracerProvider: always, MeterProvider: meters})},
	}
	pools := make([]*tether.Pool, len(cases))
	for i, c := range cases {
		r := newRegistry(b, tether.Config{Observer: c.observer})
		pools[i] = r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
	}
	best := make([]time.Duration, len(cases))
	const turn = 1000
	for b.Loop() {
		for i, p := range pools {
			since := time.Now()
			var last *tether.Task
			for range turn {
				task, err := p.Go(context.Background(), "task", succeed)
				if err != nil {
					b.Fatal(err)
				}
				last = task
			}
			if err := last.Wait(context.Background()); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(since); best[i] == 0 || took < best[i] {
				best[i] = took
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, c := range cases {
		b.ReportMetric(float64(best[i].Nanoseconds())/turn, c.name+"-ns/task")
		b.ReportMetric(float64(best[i])/float64(best[0]), c.name+"-x/none")
	}
}
