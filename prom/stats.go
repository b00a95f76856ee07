package tetherprom

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-2e639f12/tether"
)

// The metrics that are read from the registries at each scrape.
var (
	ready     = prometheus.NewDesc("tether_ready", "1 if every watched registry is ready, 0 if one is stopping.", nil, nil)
	submitted = byPool("tether_tasks_submitted_total", "Tasks admitted.")
	refused   = byPool("tether_tasks_refused_total", "Submissions that returned an error.")
	ended     = byPool("tether_tasks_ended_total", "Tasks that have ended, by final state.", "state")
	live      = byPool("tether_tasks_live", "Tasks that have not ended, by state.", "state")

	inline      = byPool("tether_pool_inline_tasks", "Running tasks that their submitters run, not workers.")
	workers     = byPool("tether_pool_workers_limit", "Maximum number of tasks that workers run at once.")
	queue       = byPool("tether_pool_queue_limit", "PoolConfig.Queue, or +Inf if it is Unbounded. More tasks may be held or queued while workers are free.")
	weight      = byPool("tether_pool_weight", "Weight of the running tasks, if the pool bounds it.")
	weightLimit = byPool("tether_pool_weight_limit", "Maximum weight that runs at once, if the pool bounds it.")
	overdue     = byPool("tether_pool_overdue_total", "Tasks dropped or canceled because they waited for a worker for the pool's MaxWait.")
	paused      = byPool("tether_pool_paused", "1 if the pool is paused, 0 if not.")

	shareCount = byPool("tether_pool_shares", "Shares that have live tasks.")
	shareTasks = byPool("tether_pool_share_tasks", "Tasks of the largest shares that wait for a worker or that workers run, by state.", "share", "state")
)

func byPool(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"pool"}, more...), nil)
}

// Watch adds a registry. Its counts, and those of the pools that it has by then, are read
// at each scrape. Calls for a registry that is watched already have no effect. A
// registry is watched as long as the Metrics are reachable. Watch panics if reg is nil.
func (m *Metrics) Watch(reg *tether.Registry) {
	if reg == nil {
		panic("tetherprom: Watch: nil registry")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.watched, reg) {
		m.watched = append(m.watched, reg)
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ready, submitted, refused, ended, live, inline, workers, queue, overdue, weight, weightLimit, paused} {
		ch <- d
	}
	if m.shares > 0 {
		ch <- shareCount
		ch <- shareTasks
	}
	for _, c := range []prometheus.Collector{m.wait, m.run, m.outcomes, m.retries, m.stuck} {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector]. Its cost grows with the number of pools and
// names, and with that of live shares if [Config].Shares is set, not with the number of
// tasks.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.wait, m.run, m.outcomes, m.retries, m.stuck} {
		c.Collect(ch)
	}
	isReady, pools := m.read()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	if len(pools) > 0 {
		gauge(ready, flag(isReady))
	}
	for name, p := range pools {
		counter(submitted, p.submitted, name)
		counter(refused, p.refused, name)
		for s, n := range p.in {
			if state := tether.State(s); state.Final() {
				counter(ended, n, name, state.String())
			} else {
				gauge(live, float64(n), name, state.String())
			}
		}
		if name == "" {
			continue
		}
		gauge(inline, p.inline, name)
		gauge(workers, p.workers, name)
		gauge(queue, p.queue, name)
		gauge(paused, p.paused, name)
		counter(overdue, p.overdue, name)
		if p.weightLimit > 0 {
			gauge(weight, p.weight, name)
			gauge(weightLimit, p.weightLimit, name)
		}
		if m.shares > 0 {
			gauge(shareCount, float64(p.shares.count()), name)
			for _, s := range p.shares.largest(m.shares) {
				gauge(shareTasks, float64(s.Queued), name, s.Share, tether.Queued.String())
				gauge(shareTasks, float64(s.Running), name, s.Share, tether.Running.String())
			}
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// figures are the counts and settings of all pools of one name, or of the registries' own
// tasks.
type figures struct {
	counts
	inline, workers, queue, weight, weightLimit, paused float64
	overdue                                             uint64
	shares                                              shares // none unless Config.Shares is set
}

// read returns the figures by pool name.
func (m *Metrics) read() (isReady bool, byName map[string]*figures) {
	isReady, byName = true, make(map[string]*figures)
	at := func(name string) *figures {
		if byName[name] == nil {
			byName[name] = new(figures)
		}
		return byName[name]
	}
	m.mu.Lock()
	watched := m.watched
	m.mu.Unlock()
	for _, reg := range watched {
		isReady = reg.Ready() && isReady
		at("").add(reg.OwnStats())
		for pool := range reg.Pools() {
			p := pool.Stats()
			f := at(p.Name)
			f.add(p.Stats)
			f.inline += float64(p.Inline)
			f.workers += float64(p.Workers)
			f.overdue += p.Overdue
			f.weight += float64(p.Weight)
			f.weightLimit += float64(p.Capacity)
			f.paused = max(f.paused, flag(p.Paused))
			if m.shares > 0 {
				f.shares.add(pool.Shares(math.MaxInt)) // all: the others are added up
			}
			if f.queue += float64(p.Queue); p.Queue == tether.Unbounded {
				f.queue = math.Inf(1)
			}
		}
	}
	return isReady, byName
}

// counts are the sum of several tether.Stats.
type counts struct {
	submitted, refused uint64
	in                 [tether.Dropped + 1]uint64 // by state
}

func (c *counts) add(s tether.Stats) {
	c.submitted += s.Submitted
	c.refused += s.Refused
	for state, n := range [...]uint64{
		tether.Held: uint64(s.Held), tether.Queued: uint64(s.Queued), tether.Running: uint64(s.Running),
		tether.Succeeded: s.Succeeded, tether.Failed: s.Failed, tether.Panicked: s.Panicked,
		tether.Canceled: s.Canceled, tether.Dropped: s.Dropped,
	} {
		c.in[state] += n
	}
}
