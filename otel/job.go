package tetherotel

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// JobHeaders returns the trace and the baggage of ctx as headers, for the field Headers of a
// durable.JobConfig; nil if ctx has neither. The headers are those of the global propagator,
// or, if none is set, of W3C Trace Context and Baggage.
func JobHeaders(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() && baggage.FromContext(ctx).Len() == 0 {
		return nil
	}
	headers := make(propagation.MapCarrier)
	propagator().Inject(ctx, headers)
	return headers
}

// JobContext returns ctx with the trace and the baggage that [JobHeaders] returned when a
// job was enqueued, for the field Context of a durable.WorkerConfig. The span of each
// attempt is then a root of kind Consumer, with a link to the span that enqueued the job.
func JobContext(ctx context.Context, headers map[string]string) context.Context {
	if len(headers) == 0 {
		return ctx
	}
	ctx = propagator().Extract(ctx, propagation.MapCarrier(headers))
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return context.WithValue(ctx, enqueuedKey{}, sc)
	}
	return ctx
}

// enqueuedKey is the key of the span context that a job was enqueued in.
type enqueuedKey struct{}

var w3c = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

func propagator() propagation.TextMapPropagator {
	if set := otel.GetTextMapPropagator(); len(set.Fields()) > 0 {
		return set
	}
	return w3c
}

// isJob reports whether ctx is that of an attempt at a job, and not of a task that the
// attempt submitted.
func isJob(ctx context.Context, submitter trace.SpanContext) bool {
	enqueued, ok := ctx.Value(enqueuedKey{}).(trace.SpanContext)
	return ok && enqueued.Equal(submitter)
}
