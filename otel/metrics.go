package tetherotel

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/seed-2e639f12/tether"
)

const (
	taskName    = attribute.Key("tether.task.name")
	taskOutcome = attribute.Key("tether.task.outcome")
	taskState   = attribute.Key("tether.task.state")
	taskAttempt = attribute.Key("tether.task.attempt")
	poolName    = attribute.Key("tether.pool.name")
	shareName   = attribute.Key("tether.share.name")
)

// Names after the first MaxNames are recorded as otherName, and error types after the first
// maxErrorTypes as otherType. A name or type that is equal to these takes up no place.
const (
	maxErrorTypes = 100
	otherName     = "other"
	otherType     = "_OTHER" // as the semantic conventions have it
)

// metrics are the instruments of an Observer.
type metrics struct {
	meter    metric.Meter
	maxNames int
	shares   int // Config.Shares

	queueDuration, runDuration metric.Float64Histogram

	submitted, refused, ended, overdue         metric.Int64ObservableCounter
	live                                       metric.Int64ObservableUpDownCounter
	workerLimit, queueLimit, weight, weightMax metric.Int64ObservableUpDownCounter
	shareCount, shareTasks                     metric.Int64ObservableUpDownCounter // nil unless shares is set

	series          atomic.Pointer[map[kind]series] // replaced under mu
	mu              sync.Mutex
	names, errTypes map[string]bool // that are told apart; guarded by mu

	watching sync.Mutex                         // held while a callback is registered or unregistered
	watched  map[*tether.Registry]*registration // guarded by watching
	// registries are the keys of watched, replaced under watching. observeShares cannot
	// lock watching: the SDK's lock is held when it is called, and locked in Watch.
	registries atomic.Pointer[[]*tether.Registry]
}

// kind is what the histograms tell apart; series has its attributes.
type (
	kind struct {
		name, pool string
		outcome    tether.State
		errType    string
	}
	series []metric.RecordOption
)

func (m *metrics) init(cfg Config) error {
	m.meter = cfg.MeterProvider.Meter(scope, metric.WithSchemaURL(schemaURL))
	m.maxNames, m.shares = cfg.MaxNames, cfg.Shares
	m.series.Store(new(map[kind]series))
	m.names, m.errTypes = make(map[string]bool), make(map[string]bool)
	m.watched = make(map[*tether.Registry]*registration)
	m.publish()

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
	m.queueDuration = histogram("tether.task.queue.duration", "Time until a task's first start, or its drop.")
	m.runDuration = histogram("tether.task.run.duration", "Time from a task's first start to its end, including all attempts and the waits between them.")
	m.submitted = counter("tether.task.submitted", "Tasks admitted.")
	m.refused = counter("tether.task.refused", "Submissions refused.")
	m.ended = counter("tether.task.ended", "Tasks that have ended.")
	m.overdue = counter("tether.pool.overdue", "Tasks dropped or canceled because they waited for a worker for the pool's MaxWait.")
	m.live = upDown("tether.task.live", "{task}", "Tasks that have not ended.")
	m.workerLimit = upDown("tether.pool.worker.limit", "{worker}", "Maximum number of tasks of the pool that may run at once; 0 while it is paused.")
	m.queueLimit = upDown("tether.pool.queue.limit", "{task}", "PoolConfig.Queue of the pool. More tasks may wait while workers are free.")
	m.weight = upDown("tether.pool.weight.usage", "1", "Weight of the running tasks of the pool.")
	m.weightMax = upDown("tether.pool.weight.limit", "1", "Maximum weight that may run in the pool at once.")
	if m.shares > 0 {
		m.shareCount = upDown("tether.pool.share.count", "{share}", "Shares of the pool that have live tasks.")
		m.shareTasks = upDown("tether.pool.share.tasks", "{task}", "Tasks of the pool's largest shares that wait for a worker or that workers run.")
	}
	if err := errors.Join(errs...); err != nil || m.shares <= 0 {
		return err
	}
	_, err := m.meter.RegisterCallback(m.observeShares, m.shareCount, m.shareTasks)
	return err
}

// measures reports whether the durations of tasks are collected.
func (m *metrics) measures(ctx context.Context) bool {
	return enabled(ctx, m.queueDuration) || enabled(ctx, m.runDuration)
}

// enabled reports whether the measurements of a histogram are collected. Those of old
// versions of OpenTelemetry have no method Enabled: all but the no-op count as enabled.
func enabled(ctx context.Context, h metric.Float64Histogram) bool {
	if e, ok := h.(interface{ Enabled(context.Context) bool }); ok {
		return e.Enabled(ctx)
	}
	_, nop := h.(noop.Float64Histogram)
	return !nop
}

// measure records the durations of a task that has ended.
func (m *metrics) measure(ctx context.Context, t *tether.Task, errType string) {
	s := m.of(kind{t.Name(), t.Pool(), t.State(), errType})
	submitted, started, finished := t.Times()
	m.queueDuration.Record(ctx, queued(submitted, started, finished).Seconds(), s...)
	if !started.IsZero() {
		m.runDuration.Record(ctx, finished.Sub(started).Seconds(), s...)
	}
}

// of returns the series of a kind. A known kind costs one lookup.
func (m *metrics) of(k kind) series {
	if s, ok := (*m.series.Load())[k]; ok {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.name != otherName && !among(m.names, k.name, m.maxNames) {
		k.name = otherName
	}
	if k.errType != "" && k.errType != otherType && !among(m.errTypes, k.errType, maxErrorTypes) {
		k.errType = otherType
	}
	known := *m.series.Load()
	s, ok := known[k]
	if !ok {
		attrs := []attribute.KeyValue{taskName.String(k.name), poolName.String(k.pool), taskOutcome.String(k.outcome.String())}
		if k.errType != "" {
			attrs = append(attrs, errorTypeKey.String(k.errType))
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

// among reports whether s is one of the first most strings that it was called with.
func among(first map[string]bool, s string, most int) bool {
	if len(first) < most {
		first[s] = true
	}
	return first[s]
}

// Watch observes the counts of a registry and its pools, including pools made later, each
// time the MeterProvider collects. It stops when the returned Registration is unregistered
// or the MeterProvider is shut down. The Observer refers to the registry until the
// Registration is unregistered.
//
// If the registry is watched already, the returned Registration does nothing. The counts
// of several registries that the same Observer watches are added up, and so are those of
// pools with the same name. Watch panics if reg is nil. It returns the error of the
// MeterProvider, if any.
func (o *Observer) Watch(reg *tether.Registry) (metric.Registration, error) {
	if reg == nil {
		panic("tetherotel: Watch: nil registry")
	}
	o.watching.Lock()
	defer o.watching.Unlock()
	if o.watched[reg] != nil {
		return noop.Registration{}, nil
	}
	w := watch{&o.metrics, reg}
	registered, err := o.meter.RegisterCallback(w.observe,
		o.submitted, o.refused, o.ended, o.overdue, o.live, o.workerLimit, o.queueLimit, o.weight, o.weightMax)
	if err != nil {
		return nil, err
	}
	r := &registration{registered, &o.metrics, reg}
	o.watched[reg] = r
	o.publish()
	return r, nil
}

// publish sets registries. The caller holds watching.
func (m *metrics) publish() {
	all := slices.Collect(maps.Keys(m.watched))
	m.registries.Store(&all)
}

// registration is the Registration of a watched registry.
type registration struct {
	metric.Registration
	of  *metrics
	reg *tether.Registry
}

// Unregister implements [metric.Registration].
func (r *registration) Unregister() error {
	r.of.watching.Lock()
	defer r.of.watching.Unlock()
	if r.of.watched[r.reg] == r { // else the registry is watched again, by a later one
		delete(r.of.watched, r.reg)
		r.of.publish()
	}
	return r.Registration.Unregister()
}

// watch observes one registry.
type watch struct {
	*metrics
	reg *tether.Registry
}

func (w watch) observe(_ context.Context, to metric.Observer) error {
	w.observeCounts(to, "", w.reg.OwnStats())
	for p := range w.reg.Pools() {
		s := p.Stats()
		w.observeCounts(to, s.Name, s.Stats)
		w.observeLimits(to, s)
	}
	return nil
}

func (w watch) observeCounts(to metric.Observer, pool string, s tether.Stats) {
	in := poolName.String(pool)
	to.ObserveInt64(w.submitted, int64(s.Submitted), metric.WithAttributes(in))
	to.ObserveInt64(w.refused, int64(s.Refused), metric.WithAttributes(in))
	for outcome, n := range map[tether.State]uint64{
		tether.Succeeded: s.Succeeded, tether.Failed: s.Failed, tether.Panicked: s.Panicked,
		tether.Canceled: s.Canceled, tether.Dropped: s.Dropped,
	} {
		to.ObserveInt64(w.ended, int64(n), metric.WithAttributes(in, taskOutcome.String(outcome.String())))
	}
	for state, n := range map[tether.State]int{tether.Held: s.Held, tether.Queued: s.Queued, tether.Running: s.Running} {
		to.ObserveInt64(w.live, int64(n), metric.WithAttributes(in, taskState.String(state.String())))
	}
}

func (w watch) observeLimits(to metric.Observer, s tether.PoolStats) {
	in := metric.WithAttributes(poolName.String(s.Name))
	workers := s.Workers
	if s.Paused {
		workers = 0
	}
	to.ObserveInt64(w.workerLimit, int64(workers), in)
	if s.MaxWait > 0 {
		to.ObserveInt64(w.overdue, int64(s.Overdue), in)
	}
	if s.Queue < tether.Unbounded {
		to.ObserveInt64(w.queueLimit, int64(s.Queue), in)
	}
	if s.Capacity > 0 {
		to.ObserveInt64(w.weight, s.Weight, in)
		to.ObserveInt64(w.weightMax, s.Capacity, in)
	}
}
