package tetherprom

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-2e639f12/tether"
)

// Config configures [Metrics]. The zero value is ready to use.
type Config struct {
	// MaxNames is the maximum number of task names that become a value of the task label.
	// Tasks with any further name are counted as [Other]. Zero or less means 100.
	MaxNames int
	// Buckets are the upper bounds of the histograms, in seconds, in increasing order. If
	// nil, there are 13 from 1 ms to 10 min. If empty but not nil, the histograms have
	// native buckets only, provided that NativeHistogramBucketFactor enables them.
	Buckets []float64
	// NativeHistogramBucketFactor, if more than 1, enables native histograms: each bucket
	// is at most this much wider than the one before, such as 1.1. A native histogram has
	// at most 160 buckets. Zero means no native histograms.
	NativeHistogramBucketFactor float64
	// Shares is how many shares ([tether.Share]) of each pool have series of their own: at
	// each scrape, those with the most tasks waiting. The others are counted as [Other].
	// Zero or less means that shares are not exported: there may be many, and their keys,
	// such as the names of tenants, may be private.
	Shares int
}

// Other is the value of the task label for tasks with a name that came after [Config].MaxNames
// others, and of the share label for shares that are not among the [Config].Shares largest.
// Tasks and shares with the very name are counted with them.
const Other = "other"

// Metrics are the metrics of one registry or more. Metrics is the [tether.Observer] of those
// registries, and the [prometheus.Collector] to register with Prometheus. Create it
// with [New]. Its methods are safe for concurrent use.
type Metrics struct {
	tether.NopObserver

	maxNames int
	shares   int // Config.Shares
	wait     *prometheus.HistogramVec
	run      *prometheus.HistogramVec
	outcomes *prometheus.CounterVec
	retries  *prometheus.CounterVec
	stuck    *prometheus.CounterVec

	index atomic.Pointer[index] // replaced under mu

	mu      sync.Mutex
	watched []*tether.Registry // only appended to, under mu
}

var (
	_ prometheus.Collector = (*Metrics)(nil)
	_ tether.StuckObserver = (*Metrics)(nil)
	_ tether.RetryObserver = (*Metrics)(nil)
)

// index finds the series of a task. An index is never written.
type index struct {
	names  map[string]bool // without Other
	series map[key]*series
}

type key struct{ task, pool string }

// series are the metrics of the tasks of one name on one pool. All are created at the first
// start of such a task: for Prometheus, a counter that is created by the first panic, with
// the value 1, has not increased.
type series struct {
	wait, run      prometheus.Observer // wait is shared by the names of the pool
	outcomes       [tether.Dropped + 1]prometheus.Counter
	retries, stuck prometheus.Counter
}

// New returns Metrics that watch no registry yet. It panics if the buckets do not increase.
func New(cfg Config) *Metrics {
	if cfg.MaxNames <= 0 {
		cfg.MaxNames = 100
	}
	if cfg.Buckets == nil || len(cfg.Buckets) == 0 && !(cfg.NativeHistogramBucketFactor > 1) {
		cfg.Buckets = []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 120, 600}
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		opts := prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: slices.Clone(cfg.Buckets),
			NativeHistogramBucketFactor:     cfg.NativeHistogramBucketFactor,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}
		prometheus.NewHistogram(opts) // panics here if the first task would
		return prometheus.NewHistogramVec(opts, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"task", "pool"}, labels...))
	}
	m := &Metrics{
		maxNames: cfg.MaxNames,
		shares:   cfg.Shares,
		wait: histogram("tether_tasks_wait_seconds",
			"Time from the submission of a task to its first start, including Hold and Delay. Recorded when it ends.",
			"pool"),
		run: histogram("tether_task_run_seconds",
			"Time from the first start of a task to its end, including the waits between attempts.",
			"task", "pool"),
		outcomes: counter("tether_task_outcomes_total",
			"Tasks that have ended, by final state.", "state"),
		retries: counter("tether_task_retries_total",
			"Failed attempts that another attempt follows."),
		stuck: counter("tether_task_stuck_total",
			"Tasks reported for running longer than Config.StuckAfter."),
	}
	m.index.Store(&index{make(map[string]bool), make(map[key]*series)})
	return m
}

// TaskStarted creates the series of the task's name, so that they are 0 before they are
// more.
func (m *Metrics) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	m.seriesOf(t)
	return ctx
}

// TaskRetrying counts a failed attempt that another one follows.
func (m *Metrics) TaskRetrying(_ context.Context, t *tether.Task, _ error, _ time.Duration) {
	m.seriesOf(t).retries.Inc()
}

// TaskEnded counts the outcome of a task and, if the task has started, its times.
func (m *Metrics) TaskEnded(_ context.Context, t *tether.Task) {
	s := m.seriesOf(t)
	s.outcomes[t.State()].Inc()
	submitted, started, finished := t.Times()
	if !started.IsZero() {
		s.wait.Observe(started.Sub(submitted).Seconds())
		s.run.Observe(finished.Sub(started).Seconds())
	}
}

// TaskStuck counts a task that is stuck.
func (m *Metrics) TaskStuck(_ context.Context, t *tether.Task, _ []byte) {
	m.seriesOf(t).stuck.Inc()
}

func (m *Metrics) seriesOf(t *tether.Task) *series { return m.find(key{t.Name(), t.Pool()}) }

// find returns the series of a key, or those of Other if there are MaxNames names already.
func (m *Metrics) find(k key) *series {
	at := m.index.Load()
	if s := at.series[k]; s != nil {
		return s
	}
	if len(at.names) >= m.maxNames && !at.names[k.task] {
		k.task = Other
		if s := at.series[k]; s != nil {
			return s
		}
	}
	return m.add(k)
}

// add creates the series of a key and publishes an index that has them.
func (m *Metrics) add(k key) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.index.Load()
	names := at.names
	switch {
	case k.task == Other || names[k.task]:
	case len(names) < m.maxNames:
		names = maps.Clone(names)
		names[k.task] = true
	default:
		k.task = Other
	}
	if s := at.series[k]; s != nil {
		return s // added by another goroutine in the meantime
	}
	s := &series{
		wait:    m.wait.WithLabelValues(k.pool),
		run:     m.run.WithLabelValues(k.task, k.pool),
		retries: m.retries.WithLabelValues(k.task, k.pool),
		stuck:   m.stuck.WithLabelValues(k.task, k.pool),
	}
	for state := tether.Succeeded; state <= tether.Dropped; state++ {
		s.outcomes[state] = m.outcomes.WithLabelValues(k.task, k.pool, state.String())
	}
	next := &index{names, maps.Clone(at.series)}
	next.series[k] = s
	m.index.Store(next)
	return s
}
