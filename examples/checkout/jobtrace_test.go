package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

// A request enqueues a job: the span of each attempt leads back to the request's, through the
// file, and through the hand-over of a job that was to run in the process.
func TestTheTraceGoesWithTheJob(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	engine, err := sqlite.Config{Logger: quiet}.Open(filepath.Join(t.TempDir(), "jobs.db"))
	require.NoError(t, err)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	observer, err := tetherotel.New(tetherotel.Config{TracerProvider: provider})
	require.NoError(t, err)
	done := make(chan int, 10)
	job := durable.Define("mail", func(ctx context.Context, n int) error {
		m, _ := durable.MetaFrom(ctx)
		if m.Attempt == 1 {
			return errors.New("not yet")
		}
		done <- n
		return nil
	}, durable.JobConfig{Timeout: time.Minute, Backoff: func(int, error) time.Duration { return 0 }, Headers: tetherotel.JobHeaders})

	ctx, request := provider.Tracer("shop").Start(context.Background(), "POST /orders")
	_, err = job.Enqueue(ctx, engine, 1)
	require.NoError(t, err)
	closed := tether.New(tether.Config{Logger: quiet})
	require.NoError(t, closed.Shutdown(context.Background()))
	_, err = job.Go(ctx, closed, engine, 2)
	require.NoError(t, err)
	request.End()

	reg := tether.New(tether.Config{Logger: quiet, Observer: observer})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Logger: quiet, Context: tetherotel.JobContext}, job)
	require.NoError(t, err)
	require.NoError(t, worker.Start(context.Background()))
	assert.ElementsMatch(t, []int{1, 2}, []int{<-done, <-done})
	require.NoError(t, worker.Stop(context.Background()))
	require.NoError(t, reg.Shutdown(context.Background()))
	require.NoError(t, engine.Close())

	require.Len(t, spans.Ended(), 1+4, "the request, and two attempts each")
	for _, span := range spans.Ended()[1:] {
		assert.False(t, span.Parent().IsValid())
		if assert.Len(t, span.Links(), 1) {
			assert.Equal(t, request.SpanContext().TraceID(), span.Links()[0].SpanContext.TraceID())
		}
	}
}
