package tetherprom

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-2e639f12/tether"
)

// What is read from the registries at each scrape.
var (
	ready     = prometheus.NewDesc("tether_ready", "1 if every watched registry wants new work, 0 if one is stopping.", nil, nil)
	submitted = byPool("tether_tasks_submitted_total", "Tasks admitted.")
	refused   = byPool("tether_tasks_refused_total", "Submissions that returned an error.")
	ended     = byPool("tether_tasks_ended_total", "Tasks that have ended, by final state.", "state")
	live      = byPool("tether_tasks_live", "Tasks that have not ended, by state.", "state")

	inline      = byPool("tether_pool_inline_tasks", "Running tasks that are run by their submitters, not by workers.")
	workers     = byPool("tether_pool_workers_limit", "Most tasks that workers run at once.")
	queue       = byPool("tether_pool_queue_limit", "Most tasks that wait, held ones included; +Inf without a bound.")
	weight      = byPool("tether_pool_weight", "Weight of the tasks that run, if the pool bounds it.")
	weightLimit = byPool("tether_pool_weight_limit", "Most weight that runs at once, if the pool bounds it.")
	paused      = byPool("tether_pool_paused", "1 if the pool is paused, 0 if not.")
)

func byPool(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"pool"}, more...), nil)
}

// Watch adds a registry whose counts are read at each scrape, with those of the pools
// that it has then. A registry is watched once, however often Watch is called, and for
// as long as the metrics live.
func (m *Metrics) Watch(reg *tether.Registry) {
	if reg == nil {
		panic("tetherprom: Watch: nil registry")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.watched, func(s *source) bool { return s.reg == reg }) {
		m.watched = append(m.watched, &source{reg: reg})
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ready, submitted, refused, ended, live, inline, workers, queue, weight, weightLimit, paused} {
		ch <- d
	}
	for _, c := range []prometheus.Collector{m.wait, m.run, m.retries, m.stuck} {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector]. Its cost grows with the pools and the
// names, not with the tasks.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.wait, m.run, m.retries, m.stuck} {
		c.Collect(ch)
	}
	isReady, pools := m.read()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
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
		if p.weightLimit > 0 {
			gauge(weight, p.weight, name)
			gauge(weightLimit, p.weightLimit, name)
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// figures are those of all pools of one name, or of the registries' own tasks.
type figures struct {
	counts
	inline, workers, queue, weight, weightLimit, paused float64
}

// read returns the figures by the name of the pool.
func (m *Metrics) read() (isReady bool, byName map[string]*figures) {
	isReady, byName = true, make(map[string]*figures)
	at := func(name string) *figures {
		if byName[name] == nil {
			byName[name] = new(figures)
		}
		return byName[name]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.watched {
		isReady = s.reg.Ready() && isReady
		own, pools := s.read()
		at("").add(own, 1)
		for _, p := range pools {
			f := at(p.Name)
			f.add(countsOf(p.Stats), 1)
			f.inline += float64(p.Inline)
			f.workers += float64(p.Workers)
			f.weight += float64(p.Weight)
			f.weightLimit += float64(p.Capacity)
			f.paused = max(f.paused, flag(p.Paused))
			if f.queue += float64(p.Queue); p.Queue == tether.Unbounded {
				f.queue = math.Inf(1)
			}
		}
	}
	return isReady, byName
}

// source is a registry that is watched.
type source struct {
	reg *tether.Registry
	own counts // of its own tasks, as they were read last
}

// read returns the counts of the registry's own tasks, and of its pools.
//
// The registry's Stats include its pools', and they cannot be had at one instant.
// The registry's are read first: what its pools have counted by then they have counted
// still when they are read, so that what is left is never more than the truth. It is
// less by what the pools do in between, and exact when they do nothing, which a few
// attempts find unless they are very busy. What is missing then comes with a later
// scrape.
func (s *source) read() (counts, []tether.PoolStats) {
	pools := s.pools()
	for range 8 {
		before := pools
		own := countsOf(s.reg.Stats())
		pools = s.pools()
		for _, p := range pools {
			own.add(countsOf(p.Stats), -1)
		}
		s.own.advance(own)
		if slices.Equal(before, pools) {
			break
		}
	}
	return s.own, pools
}

func (s *source) pools() (all []tether.PoolStats) {
	for p := range s.reg.Pools() {
		all = append(all, p.Stats())
	}
	return all
}

// counts are a tether.Stats.
type counts struct {
	submitted, refused int64
	in                 [tether.Dropped + 1]int64 // by state
}

func countsOf(s tether.Stats) counts {
	return counts{int64(s.Submitted), int64(s.Refused), [...]int64{
		tether.Held: int64(s.Held), tether.Queued: int64(s.Queued), tether.Running: int64(s.Running),
		tether.Succeeded: int64(s.Succeeded), tether.Failed: int64(s.Failed), tether.Panicked: int64(s.Panicked),
		tether.Canceled: int64(s.Canceled), tether.Dropped: int64(s.Dropped),
	}}
}

// add adds o to c, times often.
func (c *counts) add(o counts, times int64) {
	c.submitted += times * o.submitted
	c.refused += times * o.refused
	for s := range o.in {
		c.in[s] += times * o.in[s]
	}
}

// advance makes c what it has become, of which at is no overestimate: no counter goes
// back, no gauge is negative, and they add up.
func (c *counts) advance(at counts) {
	c.refused = max(c.refused, at.refused)
	var over int64
	for s := tether.Succeeded; s <= tether.Dropped; s++ {
		c.in[s] = max(c.in[s], at.in[s])
		over += c.in[s]
	}
	c.submitted = max(c.submitted, at.submitted, over)
	rest := c.submitted - over
	for _, s := range []tether.State{tether.Held, tether.Queued, tether.Running} {
		c.in[s] = min(max(at.in[s], 0), rest)
		rest -= c.in[s]
	}
	c.in[tether.Running] += rest
}
