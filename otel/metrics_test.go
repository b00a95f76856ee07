package tetherotel_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

// durations returns the sum and the count of a histogram's series, by its attributes.
func (s *telemetry) durations(name string) map[string]string {
	s.t.Helper()
	values := make(map[string]string)
	for _, p := range collect[metricdata.Histogram[float64]](s, name).DataPoints {
		values[encode(p.Attributes)] = fmt.Sprintf("%vs, %d", p.Sum, p.Count)
	}
	return values
}

func TestDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider()})})
		p := r.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 9, Overflow: tether.OverflowBlock})
		ctx := context.Background()
		for range 3 {
			start(t, ctx, p, "send", body) // 3 s each, one after the other
		}
		start(t, ctx, r, "flaky", failing(2), tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: everySecond}), tether.Delay(30*time.Second))
		start(t, ctx, r, "fail", fail)
		start(t, ctx, r, "slow", untilCanceled, tether.Timeout(time.Second))
		dropped := start(t, ctx, r, "hold", succeed, tether.Hold())
		time.Sleep(5 * time.Second)
		dropped.Cancel(nil)
		time.Sleep(time.Minute) // for the delayed one, which a drain would drop
		drain(t, r)

		assert.Equal(t, map[string]string{
			"tether.pool.name=mail,tether.task.name=send,tether.task.outcome=succeeded":                         "9s, 3",
			"tether.pool.name=,tether.task.name=flaky,tether.task.outcome=succeeded":                            "30s, 1",
			"error.type=*errors.errorString,tether.pool.name=,tether.task.name=fail,tether.task.outcome=failed": "0s, 1",
			"error.type=timeout,tether.pool.name=,tether.task.name=slow,tether.task.outcome=canceled":           "0s, 1",
			"tether.pool.name=,tether.task.name=hold,tether.task.outcome=dropped":                               "5s, 1",
		}, s.durations("tether.task.queue.duration"))
		assert.Equal(t, map[string]string{
			"tether.pool.name=mail,tether.task.name=send,tether.task.outcome=succeeded":                         "9s, 3",
			"tether.pool.name=,tether.task.name=flaky,tether.task.outcome=succeeded":                            "2s, 1",
			"error.type=*errors.errorString,tether.pool.name=,tether.task.name=fail,tether.task.outcome=failed": "0s, 1",
			"error.type=timeout,tether.pool.name=,tether.task.name=slow,tether.task.outcome=canceled":           "1s, 1",
		}, s.durations("tether.task.run.duration"))
		for _, p := range collect[metricdata.Histogram[float64]](s, "tether.task.run.duration").DataPoints {
			assert.Equal(t, []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}, p.Bounds)
		}
	})
}

// A sample of each histogram leads to a trace. Versions of the SDK that record exemplars
// only as an experiment record none here.
func TestExemplars(t *testing.T) {
	if strings.HasPrefix(sdk.Version(), "1.2") || sdk.Version() == "1.30.0" {
		t.Skip("version ", sdk.Version(), " of the SDK records no exemplars")
	}
	s := newTelemetry(t)
	r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
	run(t, r, "task", succeed)
	start(t, context.Background(), r, "dropped", succeed, tether.Hold()).Cancel(nil)
	points := collect[metricdata.Histogram[float64]](s, "tether.task.queue.duration").DataPoints
	require.Len(t, points, 2)
	for _, p := range points {
		name, _ := p.Attributes.Value("tether.task.name")
		require.Len(t, p.Exemplars, 1, name)
		id := s.ended(name.AsString()).SpanContext().SpanID()
		assert.Equal(t, id[:], p.Exemplars[0].SpanID, name)
	}
}

type typedError string

func (e typedError) Error() string     { return "typed" }
func (e typedError) ErrorType() string { return string(e) }

func TestCardinality(t *testing.T) {
	t.Run("names", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{MaxNames: 2})})
		for i := range 20 {
			run(t, r, fmt.Sprint("task ", i%10), succeed)
		}
		counts := make(map[string]uint64)
		for _, p := range collect[metricdata.Histogram[float64]](s, "tether.task.run.duration").DataPoints {
			name, _ := p.Attributes.Value("tether.task.name")
			counts[name.AsString()] += p.Count
		}
		assert.Equal(t, map[string]uint64{"task 0": 2, "task 1": 2, "other": 16}, counts)
		assert.Equal(t, "task 9", attributes(s.spans.Ended()[9].Attributes())["tether.task.name"], "a span has the name")
	})
	t.Run("what is really called other", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{MaxNames: 1})})
		for _, name := range []string{"other", "a", "b"} {
			run(t, r, name, succeed)
		}
		assert.Len(t, s.durations("tether.task.run.duration"), 2)
		assert.Contains(t, s.durations("tether.task.run.duration"), "tether.pool.name=,tether.task.name=a,tether.task.outcome=succeeded")
	})
	t.Run("names, by default", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
		for i := range 150 {
			run(t, r, fmt.Sprint("task ", i), succeed)
		}
		assert.Len(t, s.durations("tether.task.run.duration"), 101)
	})
	t.Run("types of errors", func(t *testing.T) {
		s := newTelemetry(t)
		r := newRegistry(t, tether.Config{Observer: s.observer(tetherotel.Config{})})
		run(t, r, "task", func(context.Context) error { return typedError("_OTHER") }) // takes up no place
		for i := range 150 {
			run(t, r, "task", func(context.Context) error { return typedError(fmt.Sprint(i)) })
		}
		got := s.durations("tether.task.run.duration")
		assert.Len(t, got, 101)
		assert.Contains(t, got["error.type=_OTHER,tether.pool.name=,tether.task.name=task,tether.task.outcome=failed"], "s, 51")
	})
}

func TestWatch(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{})
	r := newRegistry(t, tether.Config{Observer: o})
	registration, err := o.Watch(r)
	require.NoError(t, err)
	mail := r.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject, Capacity: 10})
	r.NewPool("more", tether.PoolConfig{Workers: 3, Queue: tether.Unbounded})
	ctx := context.Background()

	run(t, r, "task", succeed)
	run(t, r, "task", fail)
	run(t, mail, "task", succeed)
	run(t, mail, "task", func(context.Context) error { panic("boom") })
	start(t, ctx, mail, "task", succeed, tether.Hold()).Cancel(nil)
	canceled := start(t, ctx, r, "task", untilCanceled)
	require.Eventually(t, func() bool { return canceled.State() == tether.Running }, time.Minute, time.Millisecond)
	canceled.Cancel(nil)
	_ = canceled.Wait(ctx)
	_, err = r.Go(ctx, "", succeed)
	require.ErrorIs(t, err, tether.ErrInvalid)

	gate := make(chan struct{})
	running := start(t, ctx, mail, "task", func(context.Context) error { <-gate; return nil }, tether.Weight(7))
	require.Eventually(t, func() bool { return running.State() == tether.Running }, time.Minute, time.Millisecond)
	queued := start(t, ctx, mail, "task", succeed)
	for range 2 {
		_, err = mail.Go(ctx, "task", succeed)
		require.ErrorIs(t, err, tether.ErrFull)
	}
	held := start(t, ctx, r, "task", succeed, tether.Hold())

	assert.Equal(t, map[string]int64{
		"tether.pool.name=": 4, "tether.pool.name=mail": 5, "tether.pool.name=more": 0,
	}, s.counts("tether.task.submitted"))
	assert.Equal(t, map[string]int64{
		"tether.pool.name=": 1, "tether.pool.name=mail": 2, "tether.pool.name=more": 0,
	}, s.counts("tether.task.refused"))
	assert.Equal(t, rows(map[string]map[string]int64{
		"":     {"succeeded": 1, "failed": 1, "panicked": 0, "canceled": 1, "dropped": 0},
		"mail": {"succeeded": 1, "failed": 0, "panicked": 1, "canceled": 0, "dropped": 1},
		"more": {"succeeded": 0, "failed": 0, "panicked": 0, "canceled": 0, "dropped": 0},
	}, "outcome"), s.counts("tether.task.ended"))
	assert.Equal(t, rows(map[string]map[string]int64{
		"":     {"held": 1, "queued": 0, "running": 0},
		"mail": {"held": 0, "queued": 1, "running": 1},
		"more": {"held": 0, "queued": 0, "running": 0},
	}, "state"), s.counts("tether.task.live"))
	assert.Equal(t, map[string]int64{"tether.pool.name=mail": 1, "tether.pool.name=more": 3}, s.counts("tether.pool.worker.limit"))
	assert.Equal(t, map[string]int64{"tether.pool.name=mail": 1}, s.counts("tether.pool.queue.limit"))
	assert.Equal(t, map[string]int64{"tether.pool.name=mail": 7}, s.counts("tether.pool.weight.usage"))
	assert.Equal(t, map[string]int64{"tether.pool.name=mail": 10}, s.counts("tether.pool.weight.limit"))

	assert.Empty(t, s.counts("tether.pool.overdue"), "no pool has a MaxWait")
	late := r.NewPool("late", tether.PoolConfig{Workers: 1, Queue: 1, MaxWait: time.Millisecond})
	late.Pause()
	require.ErrorIs(t, start(t, ctx, late, "task", succeed).Wait(ctx), tether.ErrFull)
	assert.Equal(t, map[string]int64{"tether.pool.name=late": 1}, s.counts("tether.pool.overdue"))

	mail.Pause()
	r.NewPool("more", tether.PoolConfig{Workers: 4, Queue: 5, Overflow: tether.OverflowBlock})
	assert.Equal(t, map[string]int64{"tether.pool.name=late": 0, "tether.pool.name=mail": 0, "tether.pool.name=more": 7}, s.counts("tether.pool.worker.limit"),
		"0 while it is paused; pools of one name are added up")
	mail.Resume()

	close(gate)
	held.Release()
	for _, task := range []*tether.Task{running, queued, held} {
		require.NoError(t, task.Wait(ctx))
	}
	for key, n := range s.counts("tether.task.live") {
		assert.Zero(t, n, key)
	}
	for _, name := range []string{"submitted", "refused", "ended"} {
		assert.True(t, collect[metricdata.Sum[int64]](s, "tether.task."+name).IsMonotonic, name)
	}
	assert.False(t, collect[metricdata.Sum[int64]](s, "tether.task.live").IsMonotonic)

	require.NoError(t, registration.Unregister())
	assert.Empty(t, s.counts("tether.task.submitted"))
}

// A registry is watched once at a time. A nil registry is refused.
func TestWatch_Again(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{})
	r := newRegistry(t, tether.Config{Observer: o})
	run(t, r, "task", succeed)
	watch := func() metric.Registration {
		registration, err := o.Watch(r)
		require.NoError(t, err)
		return registration
	}
	counted := map[string]int64{"tether.pool.name=": 1}
	first, second := watch(), watch()
	assert.Equal(t, counted, s.counts("tether.task.submitted"))
	require.NoError(t, second.Unregister())
	assert.Equal(t, counted, s.counts("tether.task.submitted"), "it was not the second that had it counted")
	require.NoError(t, first.Unregister())
	assert.Empty(t, s.counts("tether.task.submitted"))
	watch()
	require.NoError(t, first.Unregister(), "again")
	watch()
	assert.Equal(t, counted, s.counts("tether.task.submitted"))
	assert.Panics(t, func() { _, _ = o.Watch(nil) })
}

// rows are counts by pool and by a second attribute.
func rows(by map[string]map[string]int64, attribute string) map[string]int64 {
	all := make(map[string]int64)
	for pool, row := range by {
		for value, n := range row {
			all["tether.pool.name="+pool+",tether.task."+attribute+"="+value] = n
		}
	}
	return all
}

// No counter decreases and no count is negative, however busy the pools are.
func TestWatch_Busy(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider()})
	r := newRegistry(t, tether.Config{})
	_, err := o.Watch(r)
	require.NoError(t, err)
	var pools [2]*tether.Pool
	for i := range pools {
		pools[i] = r.NewPool(fmt.Sprint("pool ", i), tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowReject})
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for _, p := range pools {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = p.Go(context.Background(), "task", succeed)
				if i%100 == 0 {
					_, _ = r.Go(context.Background(), "task", succeed)
				}
			}
		})
	}
	last := make(map[string]int64)
	for range 100 {
		for _, name := range []string{"tether.task.submitted", "tether.task.refused", "tether.task.ended"} {
			for key, n := range s.counts(name) {
				require.GreaterOrEqual(t, n, last[name+key], "%s %s", name, key)
				last[name+key] = n
			}
		}
		for key, n := range s.counts("tether.task.live") {
			require.GreaterOrEqual(t, n, int64(0), key)
		}
	}
	close(stop)
	busy.Wait()
	drain(t, r)
	stats := r.Stats()
	sum := func(name string) (all uint64) {
		for _, n := range s.counts("tether.task." + name) {
			all += uint64(n)
		}
		return all
	}
	assert.Equal(t, stats.Submitted, sum("submitted"))
	assert.Equal(t, stats.Submitted, sum("ended"))
	assert.Equal(t, stats.Refused, sum("refused"))
}

func TestDurations_AreNotMeasuredForNobody(t *testing.T) {
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{MeterProvider: metricnoop.NewMeterProvider()})
	r := newRegistry(t, tether.Config{Observer: o})
	run(t, r, "task", succeed)
	start(t, context.Background(), r, "dropped", succeed, tether.Hold()).Cancel(nil)
	s.ended("task")
	s.ended("dropped")
	assert.Empty(t, s.durations("tether.task.run.duration"))
}
