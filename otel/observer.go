package tetherotel

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-2e639f12/tether"
)

const scope = "github.com/seed-2e639f12/tether/otel"

// Config sets an [Observer] up.
type Config struct {
	// TracerProvider and MeterProvider make the spans and the metrics. nil: the
	// global ones, which may be set later.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Relation is how tasks' spans stand to their submitters'.
	Relation Relation
	// MaxNames is how many names of tasks the histograms tell apart, "other" beside
	// them. 0: 100.
	MaxNames int
	// Attributes adds attributes to the span of a task that has ended: its labels,
	// say, or info.ID as "tether.task.id", if whoever reads the traces may ask for
	// the task's status. nil: none. If it panics, they alone are missing.
	Attributes func(info tether.Info) []attribute.KeyValue
}

// Relation is how a task's span stands to that of its submitter; see the package's
// documentation for spans that are remote or not sampled.
type Relation uint8

const (
	ChildUntilEnd Relation = iota // its child; once that has ended, a root with a link to it
	AlwaysLink                    // a root with a link to it
	AlwaysChild                   // its child, though that may have ended
)

// Observer is a [tether.Observer] that makes spans and metrics, as the package's
// documentation says. It may be that of many registries.
type Observer struct {
	tether.NopObserver
	cfg    Config
	tracer trace.Tracer
	metrics
}

var _ tether.StuckObserver = (*Observer)(nil)

// New returns an Observer. An error is the MeterProvider's.
func New(cfg Config) (*Observer, error) {
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	if cfg.MaxNames <= 0 {
		cfg.MaxNames = 100
	}
	o := &Observer{
		cfg:    cfg,
		tracer: cfg.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
	}
	if err := o.init(cfg); err != nil {
		return nil, err
	}
	return o, nil
}

// TaskStarted implements [tether.Observer].
func (o *Observer) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	with, span := o.start(ctx, t.Name())
	switch {
	case span.IsRecording():
		return &started{with, t, span}
	case span.SpanContext().Equal(trace.SpanContextFromContext(ctx)):
		return ctx // a no-op's: it would only hide the submitter's
	}
	return with // nothing will be said of it: there is nothing to end
}

// TaskEnded implements [tether.Observer].
func (o *Observer) TaskEnded(ctx context.Context, t *tether.Task) {
	span := spanOf(ctx, t)
	if span == nil && t.State() == tether.Dropped {
		// The registry's clock may have strayed from the one that other spans go by.
		submitted, _, finished := t.Times()
		since := time.Now().Add(submitted.Sub(finished))
		ctx, span = o.start(ctx, t.Name(), trace.WithTimestamp(since))
	}
	recording, measured := span != nil && span.IsRecording(), o.measures(ctx)
	if recording {
		defer span.End() // also if what follows, which calls code of the user's, panics
	}
	switch {
	case !recording && !measured:
		return
	case !recording && t.State() == tether.Succeeded:
		o.measure(ctx, t, "") // all there is to say
		return
	}
	info := t.Info()
	errType := errorType(ctx, info)
	if measured {
		o.measure(ctx, t, errType)
	}
	if recording {
		o.describe(ctx, span, info, errType)
	}
}

// TaskStuck implements [tether.StuckObserver].
func (o *Observer) TaskStuck(ctx context.Context, t *tether.Task, stack []byte) {
	if span := spanOf(ctx, t); span != nil {
		span.AddEvent("tether.task.stuck", trace.WithAttributes(semconv.CodeStacktrace(cut(string(stack)))))
	}
}

// start starts a task's span. ctx has the submitter's.
func (o *Observer) start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if submitter := trace.SpanFromContext(ctx); o.links(submitter) {
		opts = append(opts, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: submitter.SpanContext()}))
	}
	return o.tracer.Start(ctx, name, opts...)
}

// links tells whether a task's span is a root with a link to its submitter's.
func (o *Observer) links(submitter trace.Span) bool {
	sc := submitter.SpanContext()
	if !sc.IsSampled() { // there is none, or a new root could be sampled
		return false
	}
	switch o.cfg.Relation {
	case AlwaysLink:
		return true
	case AlwaysChild:
		return false
	}
	return !submitter.IsRecording() && !sc.IsRemote()
}

// started is the context of a body whose task's span records. It is a context of its
// own to find that span by: the one that the trace package finds may be another's.
type started struct {
	context.Context
	task *tether.Task
	span trace.Span
}

type startedKey struct{}

func (s *started) Value(key any) any {
	if key == (startedKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// spanOf returns the task's span, nil if it has none that records. ctx may be that
// of the task that has submitted it.
func spanOf(ctx context.Context, t *tether.Task) trace.Span {
	if s, ok := ctx.Value(startedKey{}).(*started); ok && s.task == t {
		return s.span
	}
	return nil
}

// describe says everything about a task that has ended.
func (o *Observer) describe(ctx context.Context, span trace.Span, info tether.Info, errType string) {
	function, _, _ := strings.Cut(info.Func, " ")
	attrs := []attribute.KeyValue{
		taskName.String(info.Name),
		poolName.String(info.Pool),
		taskOutcome.String(info.State.String()),
		attribute.Int("tether.task.attempt", info.Attempt),
		attribute.Float64("tether.task.queue.duration", queued(info.Submitted, info.Started, info.Finished).Seconds()),
		semconv.CodeFunctionName(function),
	}
	if info.HandedOver {
		attrs = append(attrs, attribute.Bool("tether.task.handed_over", true))
	}
	if cause := context.Cause(ctx); cause != nil && (info.State == tether.Canceled || info.State == tether.Dropped) {
		attrs = append(attrs, attribute.String("tether.task.cause", textOf(cause)))
	}
	if errType != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(errType))
	}
	span.SetAttributes(attrs...)
	if errType != "" {
		text := textOf(info.Err)
		span.SetStatus(codes.Error, text)
		// Not RecordError, which would ask the error for its text once more.
		exception := []attribute.KeyValue{semconv.ExceptionType(typeOf(info.Err)), semconv.ExceptionMessage(text)}
		if p, ok := info.Err.(*tether.PanicError); ok && info.State == tether.Panicked {
			exception = append(exception, semconv.ExceptionStacktrace(cut(string(p.Stack))))
		}
		span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(exception...))
	}
	if o.cfg.Attributes != nil {
		span.SetAttributes(o.cfg.Attributes(info)...) // last: it may panic
	}
}

// errorType returns the error.type of an outcome, "" if nothing went wrong. ctx is
// the task's: its cause is exact, while the error may wrap other tasks' errors.
func errorType(ctx context.Context, info tether.Info) (name string) {
	switch info.State {
	case tether.Panicked:
		return "panic"
	case tether.Failed:
		if info.Err == tether.ErrGoexit {
			return "goexit"
		}
		defer func() {
			if recover() != nil { // a method of the error's: the error may be a nil pointer
				name = otherType
			}
		}()
		return semconv.ErrorType(info.Err).Value.AsString()
	case tether.Canceled, tether.Dropped:
		if info.HandedOver {
			return "" // somebody else does it
		}
		defer func() {
			_ = recover() // somebody's error, as above: not one of those below
		}()
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, tether.ErrTimeout):
			return "timeout"
		case errors.Is(cause, tether.ErrShutdown):
			return "shutdown"
		case errors.Is(cause, tether.ErrFull):
			return "full"
		}
	}
	return ""
}

// queued returns how long a task that has ended waited for its first start.
func queued(submitted, started, finished time.Time) time.Duration {
	if started.IsZero() {
		return finished.Sub(submitted)
	}
	return started.Sub(submitted)
}
