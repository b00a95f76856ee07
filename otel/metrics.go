package tetherotel

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/seed-2e639f12/tether"
)

const (
	taskName    = attribute.Key("tether.task.name")
	taskOutcome = attribute.Key("tether.task.outcome")
	taskState   = attribute.Key("tether.task.state")
	poolName    = attribute.Key("tether.pool.name")
)

// Beyond these, names and types of errors are not told apart.
const (
	maxErrorTypes = 100
	otherName     = "other"
)

// metrics are the instruments of an Observer.
type metrics struct {
	meter    metric.Meter
	maxNames int

	queueDuration, runDuration metric.Float64Histogram

	submitted, refused, ended                  metric.Int64ObservableCounter
	live                                       metric.Int64ObservableUpDownCounter
	workerLimit, queueLimit, weight, weightMax metric.Int64ObservableUpDownCounter

	series          atomic.Pointer[map[kind]series] // replaced under mu
	mu              sync.Mutex
	names, errTypes map[string]bool // that are told apart; guarded by mu
}

// kind is what the histograms tell apart, and series how it is said.
type (
	kind struct {
		name, pool string
		outcome    tether.State
		errType    string
	}
	series []metric.RecordOption
)

func (m *metrics) init(cfg Config) error {
	m.meter = cfg.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	m.maxNames = cfg.MaxNames
	m.series.Store(new(map[kind]series))
	m.names, m.errTypes = make(map[string]bool), make(map[string]bool)

	var errs []error
	histogram := func(name, description string) metric.Float64Histogram {
		h, err := m.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
			metric.WithExplicitBucketBoundaries(.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600))
		errs = append(errs, err)
		return h
	}
	counter := func(name, description string) metric.Int64ObservableCounter {
		c, err := m.meter.Int64ObservableCounter(name, metric.WithUnit("{task}"), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	upDown := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		c, err := m.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.queueDuration = histogram("tether.task.queue.duration", "How long tasks waited to start, or to be dropped.")
	m.runDuration = histogram("tether.task.run.duration", "How long tasks ran, all attempts and the waits between them included.")
	m.submitted = counter("tether.task.submitted", "Tasks that were admitted.")
	m.refused = counter("tether.task.refused", "Tasks that were refused.")
	m.ended = counter("tether.task.ended", "Tasks that have ended.")
	m.live = upDown("tether.task.live", "{task}", "Tasks that have not ended.")
	m.workerLimit = upDown("tether.pool.worker.limit", "{worker}", "How many tasks of the pool may run at once; 0 while it is paused.")
	m.queueLimit = upDown("tether.pool.queue.limit", "{task}", "How many tasks of the pool may wait.")
	m.weight = upDown("tether.pool.weight.usage", "1", "The weight of the pool's tasks that run.")
	m.weightMax = upDown("tether.pool.weight.limit", "1", "The most weight that may run in the pool at once.")
	return errors.Join(errs...)
}

// measure records the durations of a task that has ended.
func (m *metrics) measure(ctx context.Context, t *tether.Task, errType string) {
	if !m.queueDuration.Enabled(ctx) && !m.runDuration.Enabled(ctx) {
		return
	}
	s := m.of(kind{t.Name(), t.Pool(), t.State(), errType})
	submitted, started, finished := t.Times()
	m.queueDuration.Record(ctx, queued(submitted, started, finished).Seconds(), s...)
	if !started.IsZero() {
		m.runDuration.Record(ctx, finished.Sub(started).Seconds(), s...)
	}
}

// of returns the series of a kind of tasks. Those that are known cost one look-up.
func (m *metrics) of(k kind) series {
	if s, ok := (*m.series.Load())[k]; ok {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !among(m.names, k.name, m.maxNames) {
		k.name = otherName
	}
	if k.errType != "" && !among(m.errTypes, k.errType, maxErrorTypes) {
		k.errType = semconv.ErrorTypeOther.Value.AsString()
	}
	known := *m.series.Load()
	s, ok := known[k]
	if !ok {
		attrs := []attribute.KeyValue{taskName.String(k.name), poolName.String(k.pool), taskOutcome.String(k.outcome.String())}
		if k.errType != "" {
			attrs = append(attrs, semconv.ErrorTypeKey.String(k.errType))
		}
		s = series{metric.WithAttributeSet(attribute.NewSet(attrs...))}
		known = maps.Clone(known)
		if known == nil {
			known = make(map[kind]series)
		}
		known[k] = s
		m.series.Store(&known)
	}
	return s
}

// among tells whether s is one of the first most strings it was asked about.
func among(first map[string]bool, s string, most int) bool {
	if len(first) < most {
		first[s] = true
	}
	return first[s]
}

// Watch has the counts of a registry and of its pools, those made later too, observed
// whenever the MeterProvider collects, until the returned Registration is
// unregistered or the MeterProvider is shut down. That holds on to the registry.
//
// The counts of several registries that one Observer watches are added up, as are
// those of pools of one name.
func (o *Observer) Watch(reg *tether.Registry) (metric.Registration, error) {
	w := &watch{metrics: &o.metrics, reg: reg}
	return o.meter.RegisterCallback(w.observe,
		o.submitted, o.refused, o.ended, o.live, o.workerLimit, o.queueLimit, o.weight, o.weightMax)
}

// watch observes one registry.
type watch struct {
	*metrics
	reg *tether.Registry

	mu  sync.Mutex // collections may overlap
	own counts     // those of pool "" when they were last read; guarded by mu
}

// counts are the figures of a tether.Stats: first the monotonic ones, by column.
type counts [columns]int64

const (
	colSubmitted = iota
	colRefused
	colEnded                                                       // one for each outcome
	colLive  = colEnded + int(tether.Dropped-tether.Succeeded) + 1 // one for each live state
	columns  = colLive + int(tether.Running-tether.Held) + 1
)

func countsOf(s tether.Stats) counts {
	return counts{int64(s.Submitted), int64(s.Refused),
		int64(s.Succeeded), int64(s.Failed), int64(s.Panicked), int64(s.Canceled), int64(s.Dropped),
		int64(s.Held), int64(s.Queued), int64(s.Running)}
}

func (w *watch) observe(_ context.Context, to metric.Observer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The registry's counts first: what its pools count meanwhile makes the difference
	// too low, which the last one mends. Too high it would stay.
	own := countsOf(w.reg.Stats())
	for p := range w.reg.Pools() {
		s := p.Stats()
		pool := countsOf(s.Stats)
		for i := range own {
			own[i] -= pool[i]
		}
		w.tell(to, s.Name, pool)
		w.tellLimits(to, s)
	}
	for i := range own {
		own[i] = max(own[i], w.own[i])
		if i < colLive {
			w.own[i] = own[i] // the others may go down to 0
		}
	}
	w.tell(to, "", own)
	return nil
}

func (w *watch) tell(to metric.Observer, pool string, c counts) {
	in := poolName.String(pool)
	to.ObserveInt64(w.submitted, c[colSubmitted], metric.WithAttributes(in))
	to.ObserveInt64(w.refused, c[colRefused], metric.WithAttributes(in))
	for s := tether.Succeeded; s <= tether.Dropped; s++ {
		to.ObserveInt64(w.ended, c[colEnded+int(s-tether.Succeeded)], metric.WithAttributes(in, taskOutcome.String(s.String())))
	}
	for s := tether.Held; s <= tether.Running; s++ {
		to.ObserveInt64(w.live, c[colLive+int(s)], metric.WithAttributes(in, taskState.String(s.String())))
	}
}

func (w *watch) tellLimits(to metric.Observer, s tether.PoolStats) {
	in := metric.WithAttributes(poolName.String(s.Name))
	workers := s.Workers
	if s.Paused {
		workers = 0
	}
	to.ObserveInt64(w.workerLimit, int64(workers), in)
	if s.Queue < tether.Unbounded {
		to.ObserveInt64(w.queueLimit, int64(s.Queue), in)
	}
	if s.Capacity > 0 {
		to.ObserveInt64(w.weight, s.Weight, in)
		to.ObserveInt64(w.weightMax, s.Capacity, in)
	}
}
