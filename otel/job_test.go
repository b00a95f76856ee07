package tetherotel_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

// The span of each attempt is a root with a link to the span that enqueued the job, whatever
// the Relation, and a task that the attempt submits is its child.
func TestJobSpans(t *testing.T) {
	for _, relation := range []tetherotel.Relation{tetherotel.ChildUntilEnd, tetherotel.AlwaysLink, tetherotel.AlwaysChild} {
		s := newTelemetry(t)
		reg := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{Relation: relation})})
		member, err := baggage.NewMember("tenant", "5")
		require.NoError(t, err)
		bag, err := baggage.New(member)
		require.NoError(t, err)
		ctx, request := s.tracers.Tracer("shop").Start(baggage.ContextWithBaggage(context.Background(), bag), "POST /orders")
		headers := tetherotel.JobHeaders(ctx)
		request.End()

		for _, name := range []string{"attempt 1", "attempt 2"} {
			ctx := tetherotel.JobContext(context.Background(), headers)
			task := start(t, ctx, reg, name, func(ctx context.Context) error {
				assert.Equal(t, "5", baggage.FromContext(ctx).Member("tenant").Value())
				return start(t, ctx, reg, "child of "+name, succeed).Wait(ctx)
			})
			require.NoError(t, task.Wait(context.Background()))
			span, child := s.ended(name), s.ended("child of "+name)
			assert.Equal(t, trace.SpanKindConsumer, span.SpanKind())
			assert.False(t, span.Parent().IsValid())
			assert.NotEqual(t, request.SpanContext().TraceID(), span.SpanContext().TraceID())
			require.Len(t, span.Links(), 1)
			assert.Equal(t, request.SpanContext().SpanID(), span.Links()[0].SpanContext.SpanID())
			assert.Equal(t, trace.SpanKindInternal, child.SpanKind())
			if relation != tetherotel.AlwaysLink {
				assert.Equal(t, span.SpanContext().SpanID(), child.Parent().SpanID())
			}
		}
	}
}

func TestJobOfAnUnsampledRequest(t *testing.T) {
	s := newTelemetry(t)
	reg := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	ctx, _ := s.tracers.Tracer("shop").Start(context.Background(), "unsampled")
	ctx = tetherotel.JobContext(context.Background(), tetherotel.JobHeaders(ctx))
	require.NoError(t, start(t, ctx, reg, "job", succeed).Wait(context.Background()))
	assert.Empty(t, s.spans.Ended())
}

func TestJobWithoutATrace(t *testing.T) {
	assert.Nil(t, tetherotel.JobHeaders(context.Background()))
	ctx := context.Background()
	assert.Equal(t, ctx, tetherotel.JobContext(ctx, nil))
	assert.False(t, trace.SpanContextFromContext(tetherotel.JobContext(ctx, map[string]string{"traceparent": "nonsense"})).IsValid())
}
