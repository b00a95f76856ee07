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
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-2e639f12/tether"
)

const scope = "github.com/seed-2e639f12/tether/otel"

// The names of the semantic conventions, and their version. They are constants here, since
// each version of OpenTelemetry has a package of its own for them.
const (
	schemaURL = "https://opentelemetry.io/schemas/1.43.0"

	codeFunctionName    = attribute.Key("code.function.name")
	codeStacktrace      = attribute.Key("code.stacktrace")
	errorTypeKey        = attribute.Key("error.type")
	exceptionType       = attribute.Key("exception.type")
	exceptionMessage    = attribute.Key("exception.message")
	exceptionStacktrace = attribute.Key("exception.stacktrace")
)

// Config configures an [Observer]. The zero value is ready to use.
type Config struct {
	// TracerProvider and MeterProvider create the spans and the metrics. If nil, the
	// global providers are used, which may be set later.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Relation is how the spans of tasks relate to those of their submitters.
	Relation Relation
	// MaxNames is the maximum number of task names that the histograms tell apart. Tasks
	// with any further name are recorded as "other". Zero or less means 100.
	MaxNames int
	// Shares is how many shares ([tether.Share]) of each pool are told apart: at each
	// collection, those with the most tasks waiting. The others are recorded as "other".
	// Zero or less means that shares are not recorded: there may be many, and their keys,
	// such as the names of tenants, may be private.
	Shares int
	// Attributes, if non-nil, returns attributes to add to the span of a task that has
	// ended: its labels, for example, or info.ID as "tether.task.id" if readers of the
	// traces may access the task's status. If it panics, only its attributes are missing.
	Attributes func(info tether.Info) []attribute.KeyValue
}

// Relation is how the span of a task relates to its submitter's. The package's documentation
// says what applies to spans that are remote or not sampled.
type Relation uint8

const (
	ChildUntilEnd Relation = iota // a child of the submitter's span; once that has ended, a root with a link to it
	AlwaysLink                    // a root with a link to the submitter's span
	AlwaysChild                   // a child of the submitter's span, even if that has ended
)

// Observer is a [tether.Observer] that records spans and metrics, as described in the
// package's documentation. It may observe several registries.
type Observer struct {
	tether.NopObserver
	cfg    Config
	tracer trace.Tracer
	metrics
}

var (
	_ tether.StuckObserver = (*Observer)(nil)
	_ tether.RetryObserver = (*Observer)(nil)
)

// New returns an Observer. It returns the error of the MeterProvider, if any.
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
		tracer: cfg.TracerProvider.Tracer(scope, trace.WithSchemaURL(schemaURL)),
	}
	if err := o.init(cfg); err != nil {
		return nil, err
	}
	return o, nil
}

// TaskStarted implements [tether.Observer]. It starts the task's span. A loop has none.
func (o *Observer) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	if t.IsLoop() {
		return ctx // its span would not end before the process does, and be the parent of all that the loop submits
	}
	with, span := o.start(ctx, t.Name())
	switch {
	case span.IsRecording():
		return &started{with, t, span}
	case span.SpanContext().Equal(trace.SpanContextFromContext(ctx)):
		return ctx // the span is a no-op, which would only hide the submitter's
	}
	return with // the span is not recording: there is nothing to end
}

// TaskEnded implements [tether.Observer]. It ends the task's span and records its durations.
func (o *Observer) TaskEnded(ctx context.Context, t *tether.Task) {
	span := spanOf(ctx, t)
	if span == nil && t.State() == tether.Dropped && !t.IsLoop() {
		// The registry's clock may differ from the wall clock that other spans use.
		submitted, _, finished := t.Times()
		since := time.Now().Add(submitted.Sub(finished))
		ctx, span = o.start(ctx, t.Name(), trace.WithTimestamp(since))
	}
	recording, measured := span != nil && span.IsRecording(), o.measures(ctx)
	if recording {
		defer span.End() // even if what follows panics: it calls user code
	}
	switch {
	case !recording && !measured:
		return
	case !recording && t.State() == tether.Succeeded:
		o.measure(ctx, t, "")
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

// TaskRetrying implements [tether.RetryObserver]. It adds an event to the task's span.
func (o *Observer) TaskRetrying(ctx context.Context, t *tether.Task, err error, wait time.Duration) {
	span := spanOf(ctx, t)
	if span == nil {
		return
	}
	errType := failureType(err)
	if p, ok := err.(*tether.PanicError); ok && p.ID == t.ID() { // not another task's, which the body returned
		errType = "panic"
	}
	span.AddEvent("tether.task.retry", trace.WithAttributes(
		taskAttempt.Int(t.Attempt()),
		attribute.Float64("tether.task.retry.delay", wait.Seconds()),
		errorTypeKey.String(errType),
		exceptionMessage.String(textOf(err)),
	))
}

// TaskStuck implements [tether.StuckObserver]. It adds an event to the task's span.
func (o *Observer) TaskStuck(ctx context.Context, t *tether.Task, stack []byte) {
	if span := spanOf(ctx, t); span != nil {
		span.AddEvent("tether.task.stuck", trace.WithAttributes(codeStacktrace.String(cut(string(stack)))))
	}
}

// start starts a task's span. ctx has the submitter's span.
func (o *Observer) start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	submitter := trace.SpanFromContext(ctx)
	job := submitter.SpanContext().IsRemote() && isJob(ctx, submitter.SpanContext())
	if job {
		opts = append(opts, trace.WithSpanKind(trace.SpanKindConsumer))
	}
	if o.links(submitter) || job && submitter.SpanContext().IsSampled() {
		opts = append(opts, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: submitter.SpanContext()}))
	}
	return o.tracer.Start(ctx, name, opts...)
}

// links reports whether a task's span is a root with a link to its submitter's.
func (o *Observer) links(submitter trace.Span) bool {
	sc := submitter.SpanContext()
	if !sc.IsSampled() { // or there is none; a new root might be sampled
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

// started is the context of a body whose task's span is recording. spanOf finds the span
// by it: the span that the trace package finds may be one that the body started.
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

// spanOf returns the task's span, or nil if it has none that is recording. ctx may have
// the span of the task that submitted it.
func spanOf(ctx context.Context, t *tether.Task) trace.Span {
	if s, ok := ctx.Value(startedKey{}).(*started); ok && s.task == t {
		return s.span
	}
	return nil
}

// describe sets the attributes and the status of a task that has ended.
func (o *Observer) describe(ctx context.Context, span trace.Span, info tether.Info, errType string) {
	function, _, _ := strings.Cut(info.Func, " ")
	attrs := []attribute.KeyValue{
		taskName.String(info.Name),
		poolName.String(info.Pool),
		taskOutcome.String(info.State.String()),
		taskAttempt.Int(info.Attempt),
		attribute.Float64("tether.task.queue.duration", queued(info.Submitted, info.Started, info.Finished).Seconds()),
		codeFunctionName.String(function),
	}
	if info.HandedOver {
		attrs = append(attrs, attribute.Bool("tether.task.handed_over", true))
	}
	if cause := context.Cause(ctx); cause != nil && (info.State == tether.Canceled || info.State == tether.Dropped) {
		attrs = append(attrs, attribute.String("tether.task.cause", textOf(cause)))
	}
	if errType != "" {
		attrs = append(attrs, errorTypeKey.String(errType))
	}
	span.SetAttributes(attrs...)
	if errType != "" {
		text := textOf(info.Err)
		span.SetStatus(codes.Error, text)
		// Not RecordError, which would call the error's methods without a guard.
		exception := []attribute.KeyValue{exceptionType.String(typeOf(info.Err)), exceptionMessage.String(text)}
		if p, ok := info.Err.(*tether.PanicError); ok && info.State == tether.Panicked {
			exception = append(exception, exceptionStacktrace.String(cut(string(p.Stack))))
		}
		span.AddEvent("exception", trace.WithAttributes(exception...))
	}
	if o.cfg.Attributes != nil {
		span.SetAttributes(o.cfg.Attributes(info)...) // last: it may panic
	}
}

// errorType returns the error.type of an outcome, or "" if it is no error. ctx is the
// task's context: its cause is exact, while the error may wrap those of other tasks.
func errorType(ctx context.Context, info tether.Info) string {
	switch info.State {
	case tether.Panicked:
		return "panic"
	case tether.Failed:
		return failureType(info.Err)
	case tether.Canceled, tether.Dropped:
		if !info.HandedOver {
			return causeType(context.Cause(ctx))
		}
	}
	return ""
}

// failureType returns the error.type of an attempt that failed with err.
func failureType(err error) string {
	if err == tether.ErrGoexit {
		return "goexit"
	}
	return conventionalType(err)
}

// causeType returns the error.type of a cancellation, or "" if its cause is no error.
func causeType(cause error) string {
	defer func() {
		_ = recover() // a method of a user's error panicked: it is none of those below
	}()
	switch {
	case errors.Is(cause, tether.ErrTimeout):
		return "timeout"
	case errors.Is(cause, tether.ErrShutdown):
		return "shutdown"
	case errors.Is(cause, tether.ErrFull):
		return "full"
	}
	return ""
}

// queued returns how long a task that has ended waited for its first start, or its drop.
func queued(submitted, started, finished time.Time) time.Duration {
	if started.IsZero() {
		return finished.Sub(submitted)
	}
	return started.Sub(submitted)
}
