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

// Config sets [Metrics] up. The zero Config is a good one.
type Config struct {
	// MaxNames is the most names of tasks that become a label's value beside [Other], as
	// which tasks of any further name count. 0 or less: 100.
	MaxNames int
	// Buckets are the upper bounds of the histograms, in seconds, which must increase.
	// nil: 18 from 1 ms to 10 min. Empty but not nil: none, if there are native ones.
	Buckets []float64
	// NativeHistogramBucketFactor makes native histograms too if it is more than 1: each
	// bucket is at most this much wider than the one before, 1.1 say. The two native
	// histograms of a task have at most 160 buckets each.
	NativeHistogramBucketFactor float64
}

// Other is the task label of the tasks whose name came after [Config].MaxNames others,
// and of those that are really called so.
const Other = "other"

// Metrics are the metrics of one registry or more: the [tether.Observer] that their
// Config names, and the [prometheus.Collector] that a Prometheus registry is given. It
// is made by [New]; all methods may be called by many goroutines at once.
type Metrics struct {
	tether.NopObserver

	maxNames int
	wait     *prometheus.HistogramVec
	run      *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	stuck    *prometheus.CounterVec

	index atomic.Pointer[index] // replaced under mu

	mu      sync.Mutex
	watched []*tether.Registry // guarded by mu
}

var (
	_ prometheus.Collector = (*Metrics)(nil)
	_ tether.StuckObserver = (*Metrics)(nil)
)

// index finds what a task is counted in. It is never written.
type index struct {
	names  map[string]bool // without Other
	series map[key]*series
}

type key struct{ task, pool string }

// series are what the tasks of one name and pool are counted in. All are there from the
// first start of such a task on: a counter that is born at 1, with the first panic,
// has not increased for Prometheus.
type series struct {
	wait           prometheus.Observer
	run            [tether.Canceled + 1]prometheus.Observer // by final state
	retries, stuck prometheus.Counter
}

// New returns metrics that watch no registry yet. It panics if the buckets do not
// increase: no run of the program could mend that.
func New(cfg Config) *Metrics {
	if cfg.MaxNames <= 0 {
		cfg.MaxNames = 100
	}
	if cfg.Buckets == nil || len(cfg.Buckets) == 0 && !(cfg.NativeHistogramBucketFactor > 1) {
		cfg.Buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		opts := prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: slices.Clone(cfg.Buckets),
			NativeHistogramBucketFactor:     cfg.NativeHistogramBucketFactor,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}
		prometheus.NewHistogram(opts) // panics now on what would panic when the first task ends
		return prometheus.NewHistogramVec(opts, labels)
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"task", "pool"})
	}
	m := &Metrics{
		maxNames: cfg.MaxNames,
		wait: histogram("tether_task_wait_seconds",
			"Time from the submission of a task to its first start, its Hold and Delay included. Counted when it ends.",
			"task", "pool"),
		run: histogram("tether_task_run_seconds",
			"Time from the first start of a task to its end, the waits between attempts included.",
			"task", "pool", "state"),
		retries: counter("tether_task_retries_total",
			"Attempts after the first, of tasks that have ended."),
		stuck: counter("tether_tasks_stuck_total",
			"Tasks reported for running longer than Config.StuckAfter."),
	}
	m.index.Store(&index{make(map[string]bool), make(map[key]*series)})
	return m
}

// TaskStarted has the series of the task's name show 0 before they show more.
func (m *Metrics) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	m.find(key{t.Name(), t.Pool()})
	return ctx
}

// TaskEnded counts the times and the retries of a task that has started.
func (m *Metrics) TaskEnded(_ context.Context, t *tether.Task) {
	submitted, started, finished := t.Times()
	if started.IsZero() {
		return
	}
	s := m.find(key{t.Name(), t.Pool()})
	s.wait.Observe(started.Sub(submitted).Seconds())
	s.run[t.State()].Observe(finished.Sub(started).Seconds())
	if n := t.Attempt(); n > 1 {
		s.retries.Add(float64(n - 1))
	}
}

// TaskStuck counts a task that is stuck.
func (m *Metrics) TaskStuck(_ context.Context, t *tether.Task, _ []byte) {
	m.find(key{t.Name(), t.Pool()}).stuck.Inc()
}

// find returns the series of a key, those of Other if there are enough names.
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
		return s // somebody else has added it
	}
	s := &series{
		wait:    m.wait.WithLabelValues(k.task, k.pool),
		retries: m.retries.WithLabelValues(k.task, k.pool),
		stuck:   m.stuck.WithLabelValues(k.task, k.pool),
	}
	for state := tether.Succeeded; state <= tether.Canceled; state++ {
		s.run[state] = m.run.WithLabelValues(k.task, k.pool, state.String())
	}
	next := &index{names, maps.Clone(at.series)}
	next.series[k] = s
	m.index.Store(next)
	return s
}
