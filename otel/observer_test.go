package tetherotel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

func TestRelation(t *testing.T) {
	type relation string
	const (
		root    relation = "root"
		child   relation = "child"
		link    relation = "link"
		dropped relation = "not sampled"
	)
	remote := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true}
	local, unsampled := remote, remote
	local.Remote, unsampled.TraceFlags = false, 0
	nothing := func() {}
	request := func(name string, end bool) func(trace.Tracer) (context.Context, func()) {
		return func(tracer trace.Tracer) (context.Context, func()) {
			ctx, span := tracer.Start(context.Background(), name)
			if end {
				return ctx, func() { span.End() }
			}
			return ctx, nothing
		}
	}
	inContext := func(sc trace.SpanContextConfig) func(trace.Tracer) (context.Context, func()) {
		return func(trace.Tracer) (context.Context, func()) {
			return trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(sc)), nothing
		}
	}
	cases := map[string]struct {
		submitter                         func(trace.Tracer) (ctx context.Context, end func())
		untilEnd, alwaysLink, alwaysChild relation
	}{
		"none":                        {func(trace.Tracer) (context.Context, func()) { return context.Background(), nothing }, root, root, root},
		"recording":                   {request("request", false), child, link, child},
		"ended":                       {request("request", true), link, link, child},
		"unsampled":                   {request("unsampled", false), dropped, dropped, dropped},
		"unsampled and ended":         {request("unsampled", true), dropped, dropped, dropped},
		"recorded only":               {request("recorded only", false), dropped, dropped, dropped},
		"recorded only and ended":     {request("recorded only", true), dropped, dropped, dropped},
		"remote":                      {inContext(remote), child, link, child},
		"remote and unsampled":        {inContext(unsampled), dropped, dropped, dropped},
		"a local context, not a span": {inContext(local), link, link, child},
	}
	for name, c := range cases {
		for cfg, want := range map[tetherotel.Relation]relation{
			tetherotel.ChildUntilEnd: c.untilEnd, tetherotel.AlwaysLink: c.alwaysLink, tetherotel.AlwaysChild: c.alwaysChild,
		} {
			for how, cancel := range map[string]bool{"runs": false, "is dropped": true} {
				t.Run(fmt.Sprintf("%s, %d, %s", name, cfg, how), func(t *testing.T) {
					s := newTelemetry(t)
					r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{Relation: cfg})})
					ctx, end := c.submitter(s.tracers.Tracer(""))
					submitter := trace.SpanContextFromContext(ctx)
					var inBody trace.SpanContext
					task := start(t, ctx, r, "task", func(ctx context.Context) error {
						inBody = trace.SpanContextFromContext(ctx)
						return nil
					}, tether.Hold())
					end()
					if cancel {
						task.Cancel(nil)
					} else {
						task.Release()
					}
					_ = task.Wait(context.Background())

					if want == dropped {
						for _, span := range s.spans.Ended() {
							assert.NotEqual(t, "task", span.Name())
						}
						if !cancel {
							assert.Equal(t, submitter.TraceID(), inBody.TraceID())
							assert.False(t, inBody.IsSampled(), "what the body makes is not sampled either")
						}
						return
					}
					span := s.ended("task")
					if !cancel {
						assert.Equal(t, span.SpanContext(), inBody)
					}
					assert.True(t, span.SpanContext().IsSampled())
					assert.Equal(t, trace.SpanKindInternal, span.SpanKind())
					switch want {
					case child:
						assert.Equal(t, submitter.TraceID(), span.SpanContext().TraceID())
						assert.Equal(t, submitter.SpanID(), span.Parent().SpanID())
					default:
						assert.False(t, span.Parent().IsValid())
						assert.NotEqual(t, submitter.TraceID(), span.SpanContext().TraceID())
					}
					if want != link {
						assert.Empty(t, span.Links())
						return
					}
					require.Len(t, span.Links(), 1)
					assert.Equal(t, submitter, span.Links()[0].SpanContext)
				})
			}
		}
	}
}

// A root that the sampler drops stays unsampled, in the body and at its end.
func TestUnsampledRoot(t *testing.T) {
	for name, sampler := range map[string]func(sdktrace.Sampler) sdktrace.Sampler{
		"by a parent-based sampler": func(s sdktrace.Sampler) sdktrace.Sampler { return sdktrace.ParentBased(s) },
		"by another one":            func(s sdktrace.Sampler) sdktrace.Sampler { return s },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTelemetry(t)
			asked := 0
			sample := sampler(everySecondOne{&asked})
			s.tracers = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans), sdktrace.WithSampler(sample))
			r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
			run(t, r, "task", func(ctx context.Context) error {
				if name != "by a parent-based sampler" {
					return nil
				}
				_, span := s.tracers.Tracer("").Start(ctx, "query")
				span.End()
				return start(t, ctx, r, "child", succeed).Wait(ctx)
			})
			assert.Equal(t, 1, asked)
			assert.Empty(t, s.spans.Started())
		})
	}
}

type everySecondOne struct{ asked *int }

func (everySecondOne) Description() string { return "every second one" }
func (e everySecondOne) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if *e.asked++; *e.asked%2 == 0 {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

// The spans of a request and its tasks, as a real server makes them.
func TestAfterTheResponse(t *testing.T) {
	s := newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	tracer := s.tracers.Tracer("server")
	member, err := baggage.NewMember("order", "5")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	tasks := make(chan *tether.Task, 1)
	body := func(ctx context.Context) error {
		assert.Equal(t, bag, baggage.FromContext(ctx))
		_, query := tracer.Start(ctx, "query of "+trace.SpanFromContext(ctx).(sdktrace.ReadOnlySpan).Name())
		query.End()
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, span := tracer.Start(baggage.ContextWithBaggage(req.Context(), bag), "POST /orders", trace.WithSpanKind(trace.SpanKindServer))
		assert.NoError(t, start(t, ctx, r, "early", body).Wait(ctx))
		late := start(t, ctx, r, "late", body, tether.Hold())
		w.WriteHeader(http.StatusAccepted)
		span.End()
		tasks <- late
	}))
	defer server.Close()
	resp, err := server.Client().Post(server.URL, "", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	late := <-tasks
	late.Release()
	require.NoError(t, late.Wait(context.Background()))

	request := s.ended("POST /orders").SpanContext()
	assert.Equal(t, request, s.ended("early").Parent())
	assert.Equal(t, s.ended("early").SpanContext(), s.ended("query of early").Parent())
	assert.False(t, s.ended("late").Parent().IsValid())
	assert.NotEqual(t, request.TraceID(), s.ended("late").SpanContext().TraceID())
	require.Len(t, s.ended("late").Links(), 1)
	assert.Equal(t, request, s.ended("late").Links()[0].SpanContext)
	assert.Equal(t, s.ended("late").SpanContext(), s.ended("query of late").Parent())
}

func TestTasksOfTasks(t *testing.T) {
	s := newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	var next, never *tether.Task
	run(t, r, "parent", func(ctx context.Context) error {
		child := start(t, ctx, r, "child", func(ctx context.Context) error {
			return start(t, ctx, r, "grandchild", succeed).Wait(ctx)
		})
		next = start(t, ctx, r, "next", succeed, tether.Hold())
		never = start(t, ctx, r, "never", succeed, tether.Hold())
		start(t, ctx, r, "dropped meanwhile", succeed, tether.Hold()).Cancel(nil)
		return child.Wait(ctx)
	})
	next.Release()
	require.NoError(t, next.Wait(context.Background()))
	never.Cancel(nil)

	parent := s.ended("parent").SpanContext()
	assert.Equal(t, parent, s.ended("child").Parent())
	assert.Equal(t, s.ended("child").SpanContext(), s.ended("grandchild").Parent())
	assert.Equal(t, parent, s.ended("dropped meanwhile").Parent())
	for _, name := range []string{"next", "never"} {
		assert.False(t, s.ended(name).Parent().IsValid(), name)
		require.Len(t, s.ended(name).Links(), 1, name)
		assert.Equal(t, parent, s.ended(name).Links()[0].SpanContext, name)
	}
	assert.Len(t, s.spans.Ended(), 6)
}

// body is a body with a function name.
func body(context.Context) error {
	time.Sleep(3 * time.Second)
	return nil
}

func TestOutcomes(t *testing.T) {
	drop := func(cause error) func(*tether.Registry, *tether.Pool) {
		return func(r *tether.Registry, p *tether.Pool) {
			task := start(t, context.Background(), r, "task", succeed, tether.Hold())
			time.Sleep(time.Second)
			task.Cancel(cause)
		}
	}
	wrapped := fmt.Errorf("no mail: %w", &url.Error{Op: "Get", URL: "/", Err: errTest})
	cases := map[string]struct {
		do                      func(*tether.Registry, *tether.Pool)
		outcome, errType, cause string
		exception               string // its message
		pool                    string
		attempts                int
		handedOver              bool
		queued, took            time.Duration
	}{
		"success": {do: func(r *tether.Registry, p *tether.Pool) { run(t, r, "task", body) },
			outcome: "succeeded", attempts: 1, took: 3 * time.Second},
		"success on a pool, after a wait": {do: func(r *tether.Registry, p *tether.Pool) {
			p.Pause()
			time.AfterFunc(2*time.Second, p.Resume)
			run(t, p, "task", body)
		}, outcome: "succeeded", attempts: 1, pool: "pool", queued: 2 * time.Second, took: 3 * time.Second},
		"success in the end": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", failing(2), tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: everySecond}))
		}, outcome: "succeeded", attempts: 3, took: 2 * time.Second},
		"failure": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", func(context.Context) error { return wrapped })
		}, outcome: "failed", errType: "*url.Error", exception: wrapped.Error(), attempts: 1},
		"failure in the end": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: everySecond}))
		}, outcome: "failed", errType: "*errors.errorString", exception: "test error", attempts: 2, took: time.Second},
		"failure of a task of its own, which panicked": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", func(ctx context.Context) error {
				return start(t, ctx, r, "other", func(context.Context) error { panic("boom") }).Wait(ctx)
			})
		}, outcome: "failed", errType: "*tether.PanicError", exception: `tether: task "other" panicked: boom`, attempts: 1},
		"goexit": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", func(context.Context) error { runtime.Goexit(); return nil })
		}, outcome: "failed", errType: "goexit", exception: tether.ErrGoexit.Error(), attempts: 1},
		"panic": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", func(context.Context) error { panic("boom") })
		}, outcome: "panicked", errType: "panic", exception: `tether: task "task" panicked: boom`, attempts: 1},
		"timeout": {do: func(r *tether.Registry, p *tether.Pool) {
			run(t, r, "task", untilCanceled, tether.Timeout(time.Minute))
		}, outcome: "canceled", errType: "timeout", cause: tether.ErrTimeout.Error(),
			exception: tether.ErrTimeout.Error() + ": context deadline exceeded", attempts: 1, took: time.Minute},
		"shutdown": {do: func(r *tether.Registry, p *tether.Pool) {
			start(t, context.Background(), r, "task", untilCanceled)
			time.Sleep(time.Second)
			drain(t, r)
		}, outcome: "canceled", errType: "shutdown", cause: tether.ErrShutdown.Error(),
			exception: tether.ErrShutdown.Error() + ": context canceled", attempts: 1, took: 56 * time.Second},
		"canceled by the program": {do: func(r *tether.Registry, p *tether.Pool) {
			task := start(t, context.Background(), r, "task", untilCanceled)
			time.Sleep(time.Second)
			task.Cancel(errTest)
		}, outcome: "canceled", cause: "test error", attempts: 1, took: time.Second},
		"canceled by the program, while a task of its own timed out": {do: func(r *tether.Registry, p *tether.Pool) {
			task := start(t, context.Background(), r, "task", func(ctx context.Context) error {
				<-ctx.Done()
				return fmt.Errorf("%w after %w", ctx.Err(), tether.ErrTimeout)
			})
			synctest.Wait()
			task.Cancel(errTest)
		}, outcome: "canceled", cause: "test error", attempts: 1},
		"canceled between two attempts": {do: func(r *tether.Registry, p *tether.Pool) {
			task := start(t, context.Background(), r, "task", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: everySecond}))
			synctest.Wait()
			task.Cancel(nil)
		}, outcome: "canceled", cause: "context canceled", attempts: 2}, // the second was to come
		"dropped by the program": {do: drop(errTest), outcome: "dropped", cause: "test error", queued: time.Second, took: time.Second},
		"dropped for a timeout of the program's own": {do: drop(fmt.Errorf("too late: %w", tether.ErrTimeout)),
			outcome: "dropped", errType: "timeout", cause: "too late: " + tether.ErrTimeout.Error(), exception: "too late: " + tether.ErrTimeout.Error(),
			queued: time.Second, took: time.Second},
		"dropped by the shutdown": {do: func(r *tether.Registry, p *tether.Pool) {
			start(t, context.Background(), r, "task", succeed, tether.Hold())
			time.Sleep(time.Second)
			drain(t, r)
		}, outcome: "dropped", errType: "shutdown", cause: tether.ErrShutdown.Error(), exception: tether.ErrShutdown.Error(),
			queued: 56 * time.Second, took: 56 * time.Second},
		"handed over by the shutdown": {do: func(r *tether.Registry, p *tether.Pool) {
			start(t, context.Background(), r, "task", succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error { return nil }))
			time.Sleep(time.Second)
			drain(t, r)
		}, outcome: "dropped", cause: tether.ErrShutdown.Error(), handedOver: true, queued: 56 * time.Second, took: 56 * time.Second},
		"dropped by a full pool": {do: func(r *tether.Registry, p *tether.Pool) {
			p.Pause()
			start(t, context.Background(), p, "task", succeed)
			time.Sleep(time.Second)
			start(t, context.Background(), p, "newer", succeed)
			p.Resume()
		}, outcome: "dropped", errType: "full", cause: tether.ErrFull.Error(), exception: tether.ErrFull.Error(), pool: "pool",
			queued: time.Second, took: time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTelemetry(t)
				r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
				c.do(r, r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest}))
				synctest.Wait()

				span := s.ended("task")
				attrs := attributes(span.Attributes())
				function, _ := attrs["code.function.name"].(string)
				assert.True(t, strings.HasPrefix(function, "github.com/seed-2e639f12/tether/otel_test."), function)
				delete(attrs, "code.function.name")
				want := map[string]any{
					"tether.task.name": "task", "tether.pool.name": c.pool, "tether.task.outcome": c.outcome,
					"tether.task.attempt": int64(c.attempts), "tether.task.queue.duration": c.queued.Seconds(),
				}
				if c.cause != "" {
					want["tether.task.cause"] = c.cause
				}
				if c.handedOver {
					want["tether.task.handed_over"] = true
				}
				if c.errType != "" {
					want["error.type"] = c.errType
				}
				assert.Equal(t, want, attrs)
				assert.Equal(t, c.took, span.EndTime().Sub(span.StartTime()))
				assert.WithinDuration(t, time.Now(), span.EndTime(), time.Minute)

				events := slices.DeleteFunc(slices.Clone(span.Events()), func(e sdktrace.Event) bool { return e.Name == "tether.task.retry" })
				if c.errType == "" {
					assert.Equal(t, sdktrace.Status{}, span.Status())
					assert.Empty(t, events)
					return
				}
				assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: c.exception}, span.Status())
				require.Len(t, events, 1)
				event := events[0]
				assert.Equal(t, "exception", event.Name)
				exception := attributes(event.Attributes)
				assert.Equal(t, c.exception, exception["exception.message"])
				assert.NotEmpty(t, exception["exception.type"])
				stack, has := exception["exception.stacktrace"].(string)
				assert.Equal(t, c.outcome == "panicked", has)
				if has {
					assert.Contains(t, stack, "TestOutcomes", "the stack of the panic")
				}
			})
		})
	}
}

func everySecond(int, error) time.Duration { return time.Second }

// failing returns a body that fails so many times.
func failing(times int) tether.Func {
	return func(context.Context) error {
		if times--; times >= 0 {
			return errTest
		}
		return nil
	}
}

func TestFunctionName(t *testing.T) {
	s := newTelemetry(t)
	run(t, newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})}), "task", succeed)
	assert.Equal(t, "github.com/seed-2e639f12/tether/otel_test.succeed", attributes(s.ended("task").Attributes())["code.function.name"])
}

// A failed attempt that another one follows is an event of the task's span, not an error.
func TestRetrying(t *testing.T) {
	var nowhere *fs.PathError
	synctest.Test(t, func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: tether.JoinObservers(tether.NopObserver{}, s.observer(tetherotel.Config{}))})
		attempt := 0
		run(t, r, "task", func(context.Context) error {
			attempt++
			switch attempt {
			case 1:
				return fmt.Errorf("first: %w", errTest)
			case 2:
				panic("second")
			case 3:
				return nowhere
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{
			Attempts:    5,
			Backoff:     func(n int, _ error) time.Duration { return time.Duration(n) * time.Minute },
			ShouldRetry: func(error) bool { return true },
		}))
		span := s.ended("task")
		assert.Equal(t, codes.Unset, span.Status().Code)
		assert.Equal(t, int64(4), attributes(span.Attributes())["tether.task.attempt"])
		require.Len(t, span.Events(), 3)
		want := []map[string]any{
			{"tether.task.attempt": int64(1), "tether.task.retry.delay": 60.0, "error.type": "*errors.errorString", "exception.message": "first: test error"},
			{"tether.task.attempt": int64(2), "tether.task.retry.delay": 120.0, "error.type": "panic"},
			{"tether.task.attempt": int64(3), "tether.task.retry.delay": 180.0, "error.type": "_OTHER", "exception.message": "the Error method of a *fs.PathError panicked"},
		}
		for i, event := range span.Events() {
			assert.Equal(t, "tether.task.retry", event.Name)
			got := attributes(event.Attributes)
			if i == 1 {
				assert.Contains(t, got["exception.message"], "second")
				delete(got, "exception.message")
			}
			assert.Equal(t, want[i], got)
		}
	})
	t.Run("of an unsampled task", func(t *testing.T) {
		s := newTelemetry(t)
		o := s.observer(tetherotel.Config{})
		ctx, span := s.tracers.Tracer("").Start(context.Background(), "request")
		o.TaskRetrying(ctx, start(t, ctx, newRegistry(t, tether.Config{Observer: o}), "task", succeed), errTest, 0)
		span.End()
		assert.Empty(t, s.ended("request").Events(), "it is the submitter's span")
	})
}

func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{}), StuckAfter: time.Minute})
		run(t, r, "quick", succeed)
		run(t, r, "stuck", func(context.Context) error { time.Sleep(time.Hour); return nil })
		assert.Empty(t, s.ended("quick").Events())
		require.Len(t, s.ended("stuck").Events(), 1)
		event := s.ended("stuck").Events()[0]
		assert.Equal(t, "tether.task.stuck", event.Name)
		assert.Contains(t, attributes(event.Attributes)["code.stacktrace"], "TestStuck")
		assert.InDelta(t, time.Minute, event.Time.Sub(s.ended("stuck").StartTime()), float64(5*time.Second))
		assert.Equal(t, codes.Unset, s.ended("stuck").Status().Code)
	})
}

func TestStuck_OfAnUnsampledTask(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{})
	ctx, span := s.tracers.Tracer("").Start(context.Background(), "request")
	r := newRegistry(t, tether.Config{Observer: o})
	o.TaskStuck(ctx, start(t, ctx, r, "task", succeed), []byte("stack"))
	span.End()
	assert.Empty(t, s.ended("request").Events(), "it is the submitter's span")
}

// The span of a loop would last as long as the process, and be the parent of all that the
// loop submits.
func TestLoops(t *testing.T) {
	s := newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	submitted := make(chan *tether.Task, 1)
	_, err := r.Loop(context.Background(), "consumer", func(ctx context.Context) error {
		assert.False(t, trace.SpanContextFromContext(ctx).IsValid())
		task, err := r.Go(ctx, "message", succeed)
		assert.NoError(t, err)
		submitted <- task
		<-ctx.Done()
		return ctx.Err()
	}, tether.LoopConfig{})
	require.NoError(t, err)
	require.NoError(t, (<-submitted).Wait(context.Background()))
	assert.False(t, s.ended("message").Parent().IsValid())
	_, err = r.Loop(context.Background(), "never starts", succeed, tether.LoopConfig{}, tether.Hold())
	require.NoError(t, err)
	require.NoError(t, r.Shutdown(context.Background()))
	assert.Len(t, s.spans.Ended(), 1)
}

func TestAttributes(t *testing.T) {
	t.Run("what may be private is left out", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
		task := run(t, r, "task", func(context.Context) error { panic("boom") }, tether.Unique("the key"), tether.Label("tenant", "the label"))
		span := s.ended("task")
		all := fmt.Sprint(span.Attributes(), span.Events(), span.Status())
		for _, private := range []string{task.ID(), "the key", "the label"} {
			assert.NotContains(t, all, private)
		}
	})
	t.Run("added ones", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{Attributes: func(i tether.Info) []attribute.KeyValue {
			return []attribute.KeyValue{attribute.String("tether.task.id", i.ID), attribute.String("tenant", i.Labels["tenant"])}
		}})})
		task := run(t, r, "task", succeed, tether.Label("tenant", "5"))
		attrs := attributes(s.ended("task").Attributes())
		assert.Equal(t, task.ID(), attrs["tether.task.id"])
		assert.Equal(t, "5", attrs["tenant"])
		assert.Equal(t, "task", attrs["tether.task.name"])
	})
	t.Run("a panic of theirs", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{Attributes: func(tether.Info) []attribute.KeyValue {
			panic("boom")
		}})})
		assert.Equal(t, tether.Succeeded, run(t, r, "task", succeed).State())
		assert.Equal(t, "succeeded", attributes(s.ended("task").Attributes())["tether.task.outcome"])
	})
}

// An error with methods that panic is recorded like any other, in the span and in the
// histograms.
func TestErrorsThatPanic(t *testing.T) {
	var nowhere *fs.PathError
	const text = "the Error method of a %s panicked"
	for name, c := range map[string]struct {
		err                error
		errType, exception string
	}{
		"a nil pointer":   {nowhere, "_OTHER", fmt.Sprintf(text, "*fs.PathError")},
		"a wrapped one":   {fmt.Errorf("no mail: %w", nowhere), "_OTHER", "no mail: <nil>"},
		"its text":        {badText{}, "github.com/seed-2e639f12/tether/otel_test.badText", fmt.Sprintf(text, "tetherotel_test.badText")},
		"its type":        {badType{errTest}, "_OTHER", "test error"},
		"that it is what": {badIs{errTest}, "github.com/seed-2e639f12/tether/otel_test.badIs", "test error"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTelemetry(t)
			r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
			run(t, r, "task", func(context.Context) error { return c.err })

			span := s.ended("task")
			require.Equal(t, codes.Error, span.Status().Code)
			attrs := attributes(span.Attributes())
			assert.Equal(t, "failed", attrs["tether.task.outcome"])
			assert.Equal(t, c.errType, attrs["error.type"])
			assert.Equal(t, c.exception, span.Status().Description)
			require.Len(t, span.Events(), 1)
			assert.Equal(t, c.exception, attributes(span.Events()[0].Attributes)["exception.message"])
			for _, h := range []string{"tether.task.queue.duration", "tether.task.run.duration"} {
				require.Len(t, s.durations(h), 1)
				assert.Contains(t, s.durations(h), "error.type="+c.errType+",tether.pool.name=,tether.task.name=task,tether.task.outcome=failed")
			}
		})
	}
	for name, err := range map[string]error{"a nil pointer": nowhere, "its text": badText{}, "that it is what": badIs{errTest}} {
		t.Run("as the cause of a cancellation: "+name, func(t *testing.T) {
			s := newTelemetry(t)
			task := start(t, context.Background(), newRegistry(t, tether.Config{}), "task", succeed, tether.Hold())
			task.Cancel(nil)
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(err)
			s.observer(tetherotel.Config{}).TaskEnded(ctx, task)
			assert.Equal(t, codes.Unset, s.ended("task").Status().Code, "it was canceled on purpose")
			assert.NotEmpty(t, attributes(s.ended("task").Attributes())["tether.task.cause"])
			assert.Len(t, s.durations("tether.task.queue.duration"), 1)
		})
	}
}

type (
	badText struct{}
	badType struct{ error }
	badIs   struct{ error }
)

func (badText) Error() string     { panic("boom") }
func (badType) ErrorType() string { panic("boom") }
func (badIs) Is(error) bool       { panic("boom") }

// Every text of a span is bounded.
func TestLongTexts(t *testing.T) {
	s := newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	const most = 16 << 10
	long := errors.New(strings.Repeat("x", most-1) + strings.Repeat("ä", 5<<20)) // the limit is in the middle of a rune
	run(t, r, "failed", func(context.Context) error { return long })
	start(t, context.Background(), r, "canceled", succeed, tether.Hold()).Cancel(long)
	run(t, r, "fits", func(context.Context) error { return errors.New(strings.Repeat("x", most)) })

	want := strings.Repeat("x", most-1) + "… (cut: 10485760 bytes more)"
	assert.True(t, want == s.ended("failed").Status().Description)
	assert.True(t, want == attributes(s.ended("failed").Events()[0].Attributes)["exception.message"])
	assert.True(t, want == attributes(s.ended("canceled").Attributes())["tether.task.cause"])
	assert.Len(t, s.ended("fits").Status().Description, most)
	assert.True(t, utf8.ValidString(s.ended("failed").Status().Description))
}

// Every stack of a span is bounded.
func TestLongStacks(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{})
	r := newRegistry(t, tether.Config{Observer: o})
	run(t, r, "stuck", func(ctx context.Context) error {
		task, _ := tether.FromContext(ctx)
		o.TaskStuck(ctx, task, bytes.Repeat([]byte("x"), 1<<20))
		return nil
	})
	run(t, r, "panicked", func(context.Context) error { return deep(1000) })
	assert.True(t, strings.Repeat("x", 16<<10)+"… (cut: 1032192 bytes more)" == attributes(s.ended("stuck").Events()[0].Attributes)["code.stacktrace"])
	stack, _ := attributes(s.ended("panicked").Events()[0].Attributes)["exception.stacktrace"].(string)
	assert.Contains(t, stack, "deep")
	assert.Less(t, len(stack), 17<<10)
}

// deep panics at the end of a deep stack.
func deep(n int) error {
	if n == 0 {
		panic("boom")
	}
	return fmt.Errorf("%d: %w", n, deep(n-1))
}

// Each of several observers has its own span, whatever the others put into the context.
func TestJoined(t *testing.T) {
	a, b, request := newTelemetry(t), newTelemetry(t), newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: tether.JoinObservers(a.observer(tetherotel.Config{}), b.observer(tetherotel.Config{}), request.covering())})
	ctx, span := request.tracers.Tracer("").Start(context.Background(), "request")
	task := start(t, ctx, r, "parent", func(ctx context.Context) error {
		return start(t, ctx, r, "child", succeed).Wait(ctx)
	})
	require.NoError(t, task.Wait(context.Background()))
	start(t, ctx, r, "dropped", succeed, tether.Hold()).Cancel(nil)
	assert.True(t, span.IsRecording())
	span.End()
	for _, s := range []*telemetry{a, b} {
		for _, name := range []string{"parent", "child", "dropped"} {
			assert.Equal(t, name, attributes(s.ended(name).Attributes())["tether.task.name"])
		}
		assert.Len(t, s.spans.Started(), 3)
		assert.Len(t, s.spans.Ended(), 3)
	}
	assert.Equal(t, request.ended("request").SpanContext(), a.ended("parent").Parent())
	assert.Empty(t, request.ended("request").Attributes())
}

// An observer that is part of another one finds its span, even if the other passes on a
// context of its own.
func TestEmbedded(t *testing.T) {
	s, other := newTelemetry(t), newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: embedding{s.observer(tetherotel.Config{}), other.covering()}})
	run(t, r, "task", succeed)
	assert.Equal(t, "task", attributes(s.ended("task").Attributes())["tether.task.name"])
	assert.Empty(t, other.spans.Ended())
}

type embedding struct {
	*tetherotel.Observer
	over tether.Observer
}

func (e embedding) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	return e.over.TaskStarted(e.Observer.TaskStarted(ctx, t), t)
}

// covering returns an observer that starts spans of its own and never ends them.
func (s *telemetry) covering() tether.Observer { return covering{tracer: s.tracers.Tracer("")} }

type covering struct {
	tether.NopObserver
	tracer trace.Tracer
}

func (c covering) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	ctx, _ = c.tracer.Start(ctx, "over "+t.Name())
	return ctx
}

func TestNoop(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})
	r := newRegistry(t, tether.Config{Observer: o})
	reg, err := o.Watch(r)
	require.NoError(t, err)
	require.NoError(t, reg.Unregister())
	ctx, span := s.tracers.Tracer("").Start(context.Background(), "request")
	for _, ctx := range []context.Context{context.Background(), ctx} {
		submitters := trace.SpanFromContext(ctx)
		require.NoError(t, start(t, ctx, r, "task", func(ctx context.Context) error {
			assert.Equal(t, submitters, trace.SpanFromContext(ctx), "the body has its submitter's span")
			return nil
		}).Wait(context.Background()))
		start(t, ctx, r, "dropped", succeed, tether.Hold()).Cancel(nil)
	}
	assert.True(t, span.IsRecording())
	span.End()
	assert.Empty(t, s.ended("request").Attributes())
	assert.Empty(t, s.ended("request").Events())
}

// Nothing is read of a task that is neither traced nor measured, however it ends.
func TestNoop_ReadsNothing(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})
	r := newRegistry(t, tether.Config{})
	task := run(t, r, "task", fail)
	assert.NotZero(t, testing.AllocsPerRun(100, func() { task.Info() }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { o.TaskEnded(context.Background(), task) }))
}

// The global providers may be set after New. That can be tried once in a process.
func TestGlobalProviders(t *testing.T) {
	if _, set := otel.GetTracerProvider().(*sdktrace.TracerProvider); set {
		t.Skip("that was in this process")
	}
	o, err := tetherotel.New(tetherotel.Config{})
	require.NoError(t, err)
	r := newRegistry(t, tether.Config{Observer: o})
	_, err = o.Watch(r)
	require.NoError(t, err)
	run(t, r, "before", succeed)
	s := newTelemetry(t)
	otel.SetTracerProvider(s.tracers)
	otel.SetMeterProvider(s.meters)
	run(t, r, "after", succeed)
	s.ended("after")
	assert.Equal(t, map[string]int64{"tether.pool.name=": 2}, s.counts("tether.task.submitted"))
}

func TestManyTasks(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{})
	r := newRegistry(t, tether.Config{Observer: o})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 4, Queue: tether.Unbounded})
	const submitters, each = 8, 200
	var all sync.WaitGroup
	for i := range submitters {
		all.Go(func() {
			for j := range each {
				task, err := p.Go(context.Background(), fmt.Sprint("task ", j%3), func(ctx context.Context) error {
					child, err := r.Go(ctx, "child", succeed)
					if err != nil {
						return err
					}
					return errors.Join(child.Wait(ctx), context.Cause(ctx))
				})
				if assert.NoError(t, err) && i == 0 {
					task.Cancel(nil)
				}
			}
		})
	}
	all.Wait()
	drain(t, r)
	stats := r.Stats()
	assert.Len(t, s.spans.Started(), int(stats.Submitted))
	assert.Len(t, s.spans.Ended(), int(stats.Submitted))
	spans := make(map[trace.SpanID]sdktrace.ReadOnlySpan)
	for _, span := range s.spans.Ended() {
		spans[span.SpanContext().SpanID()] = span
	}
	for _, span := range spans {
		if span.Name() == "child" {
			require.True(t, span.Parent().IsValid())
			assert.Contains(t, spans[span.Parent().SpanID()].Name(), "task")
		}
	}
}
