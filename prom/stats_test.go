package tetherprom_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowReject})
		var live []*tether.Task
		for _, on := range []tether.Submitter{r, p} {
			for _, body := range []tether.Func{succeed, fail, panicking, fail} {
				run(t, on, "task", body)
			}
			live = append(live, start(t, on, "task", untilCanceled), start(t, on, "task", succeed, tether.Hold()))
			synctest.Wait()
			_, err := on.Go(context.Background(), "task", nil)
			require.ErrorIs(t, err, tether.ErrInvalid)
		}
		start(t, p, "task", succeed)
		_, err := p.Go(context.Background(), "task", succeed)
		require.ErrorIs(t, err, tether.ErrFull)

		page := scrape(t, m)
		want := map[string]float64{"succeeded": 1, "failed": 2, "panicked": 1, "running": 1, "held": 1}
		assert.Equal(t, want, page.states(""))
		want["queued"] = 1
		assert.Equal(t, want, page.states("pool"))
		assert.Equal(t, 6.0, page.value("tether_tasks_submitted_total", "pool", ""))
		assert.Equal(t, 7.0, page.value("tether_tasks_submitted_total", "pool", "pool"))
		assert.Equal(t, 1.0, page.value("tether_tasks_refused_total", "pool", ""))
		assert.Equal(t, 2.0, page.value("tether_tasks_refused_total", "pool", "pool"))

		for _, task := range live {
			task.Cancel(nil)
			<-task.Done()
		}
		page = scrape(t, m)
		want = map[string]float64{"succeeded": 1, "failed": 2, "panicked": 1, "canceled": 1, "dropped": 1}
		assert.Equal(t, want, page.states(""))
		require.NoError(t, r.Shutdown(context.Background()))
		want["succeeded"] = 2
		assert.Equal(t, want, scrape(t, m).states("pool"))
	})
}

func TestSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{})
		small := r.NewPool("small", tether.PoolConfig{Workers: 3, Queue: 7, Capacity: 100, Overflow: tether.OverflowBlock})
		bare := r.NewPool("bare", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		r.NewPool("endless", tether.PoolConfig{Queue: tether.Unbounded})
		start(t, small, "task", taking(time.Hour), tether.Weight(60))
		start(t, small, "task", taking(time.Hour), tether.Weight(60))
		start(t, bare, "task", taking(time.Hour))
		go bare.Go(context.Background(), "task", taking(time.Hour))
		synctest.Wait()

		page := scrape(t, m)
		for name, want := range map[string][3]float64{ // of small, bare, and the registry's own: -1 is none
			"tether_pool_workers_limit": {3, 1, -1},
			"tether_pool_queue_limit":   {7, 0, -1},
			"tether_pool_weight":        {60, -1, -1},
			"tether_pool_weight_limit":  {100, -1, -1},
			"tether_pool_inline_tasks":  {0, 1, -1},
			"tether_pool_paused":        {0, 0, -1},
		} {
			assert.Equal(t, want, [3]float64{page.value(name, "pool", "small"), page.value(name, "pool", "bare"), page.value(name, "pool", "")}, name)
		}
		assert.Equal(t, math.Inf(1), page.value("tether_pool_queue_limit", "pool", "endless"))
		assert.Equal(t, map[string]float64{"running": 2}, page.states("bare"))
		assert.Equal(t, 1.0, page.value("tether_ready"))

		small.Pause()
		small.Resize(9)
		page = scrape(t, m)
		assert.Equal(t, 1.0, page.value("tether_pool_paused", "pool", "small"))
		assert.Equal(t, 9.0, page.value("tether_pool_workers_limit", "pool", "small"))

		small.Resume()
		require.NoError(t, r.Shutdown(context.Background()))
		assert.Equal(t, 0.0, scrape(t, m).value("tether_ready"))
	})
}

func TestRegistries(t *testing.T) {
	t.Run("metrics of their own, with a label", func(t *testing.T) {
		all := prometheus.NewPedanticRegistry()
		for i, name := range []string{"a", "b"} {
			m := tetherprom.New(tetherprom.Config{})
			require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"registry": name}, all).Register(m))
			r := newRegistry(t, m, tether.Config{})
			for range i + 1 {
				run(t, r.NewPool("pool", tether.PoolConfig{Queue: 1, Overflow: tether.OverflowBlock}), "task", succeed)
				run(t, r, "task", succeed)
			}
		}
		page := scrapeAll(t, all)
		for registry, want := range map[string]float64{"a": 1, "b": 2} {
			for _, pool := range []string{"", "pool"} {
				assert.Equal(t, want, page.value("tether_tasks_ended_total", "registry", registry, "pool", pool, "state", "succeeded"))
				ran := page.metric("tether_task_run_seconds", "registry", registry, "pool", pool, "task", "task")
				assert.Equal(t, want, float64(ran.GetHistogram().GetSampleCount()))
			}
			assert.Equal(t, 1.0, page.value("tether_ready", "registry", registry))
		}
	})
	t.Run("in the same metrics, added up", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		var all []*tether.Registry
		for range 2 {
			r := newRegistry(t, m, tether.Config{})
			m.Watch(r) // again
			all = append(all, r)
			run(t, r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 1, Overflow: tether.OverflowBlock}), "task", succeed)
			run(t, r, "task", succeed)
		}
		page := scrape(t, m)
		assert.Equal(t, map[string]float64{"succeeded": 2}, page.states(""))
		assert.Equal(t, map[string]float64{"succeeded": 2}, page.states("pool"))
		assert.Equal(t, 4.0, page.value("tether_pool_workers_limit", "pool", "pool"))
		assert.Equal(t, 1.0, page.value("tether_ready"))

		for _, r := range all {
			r.NewPool("pool", tether.PoolConfig{Queue: tether.Unbounded}).Pause()
		}
		require.NoError(t, all[0].Shutdown(context.Background()))
		page = scrape(t, m)
		assert.Equal(t, math.Inf(1), page.value("tether_pool_queue_limit", "pool", "pool"))
		assert.Equal(t, 1.0, page.value("tether_pool_paused", "pool", "pool"))
		assert.Equal(t, 0.0, page.value("tether_ready"), "one of them is stopping")
	})
	t.Run("a pool made later", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		reg := prometheus.NewPedanticRegistry()
		require.NoError(t, reg.Register(m))
		r := newRegistry(t, m, tether.Config{})
		run(t, r, "task", succeed)
		assert.Equal(t, -1.0, scrapeAll(t, reg).value("tether_tasks_submitted_total", "pool", "later"))
		run(t, r.NewPool("later", tether.PoolConfig{Queue: 1, Overflow: tether.OverflowBlock}), "task", succeed)
		page := scrapeAll(t, reg)
		assert.Equal(t, 1.0, page.value("tether_tasks_submitted_total", "pool", "later"))
		assert.Equal(t, 1.0, page.value("tether_tasks_submitted_total", "pool", ""))
	})
	t.Run("one that is not watched", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := tether.New(tether.Config{Observer: m})
		run(t, r, "task", succeed)
		page := scrape(t, m)
		assert.NotNil(t, page.metric("tether_task_run_seconds", "task", "task", "pool", ""))
		assert.NotContains(t, page, "tether_ready")
	})
}

// account checks what must hold of the counts at each scrape, and since the one before.
type account map[string]float64

func (a account) check(t *testing.T, m *tetherprom.Metrics) page {
	now := gather(t, m)
	seen := make(map[string]float64)
	sum := make(map[string]float64)
	for name, f := range now {
		for _, metric := range f.Metric {
			l := labelsOf(metric)
			v := metric.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_COUNTER {
				v = metric.GetCounter().GetValue()
				seen[fmt.Sprint(name, l)] = v
			}
			assert.GreaterOrEqual(t, v, 0.0, "%s%v", name, l)
			switch name {
			case "tether_tasks_live", "tether_tasks_ended_total":
				sum[l["pool"]] -= v
			case "tether_tasks_submitted_total":
				sum[l["pool"]] += v
			}
		}
	}
	for pool, diff := range sum {
		assert.Zero(t, diff, "submitted, less those that live or have ended, on pool %q", pool)
	}
	for counter, was := range a {
		assert.GreaterOrEqual(t, seen[counter], was, counter)
	}
	clear(a)
	for counter, v := range seen {
		a[counter] = v
	}
	return now
}

// TestUnderLoad scrapes while tasks of all kinds come and go on pools and beside them.
func TestUnderLoad(t *testing.T) {
	const submitters, each = 6, 4000
	m := tetherprom.New(tetherprom.Config{})
	r := newRegistry(t, m, tether.Config{Retain: -1})
	runners := []tether.Submitter{
		r,
		r.NewPool("reject", tether.PoolConfig{Workers: 2, Queue: 4, Overflow: tether.OverflowReject}),
		r.NewPool("drop", tether.PoolConfig{Workers: 2, Queue: 4, Overflow: tether.OverflowDropOldest}),
		r.NewPool("inline", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns}),
	}
	submit := func(i int) {
		var opts []tether.Option
		if i%7 == 0 {
			opts = append(opts, tether.Hold())
		}
		if i%5 == 0 {
			opts = append(opts, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 0 }}))
		}
		task, err := runners[i%len(runners)].Go(context.Background(), fmt.Sprint("task ", i%3), []tether.Func{succeed, fail, panicking}[i%3], opts...)
		if err != nil {
			assert.ErrorIs(t, err, tether.ErrFull)
			return
		}
		if i%14 == 0 {
			task.Cancel(nil)
		}
		task.Release()
	}
	var wg sync.WaitGroup
	for s := range submitters {
		wg.Go(func() {
			for i := range each {
				submit(s + i)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		wg.Wait()
		close(over)
	}()
	a := make(account)
	scrapes := 0
	for done := false; !done; scrapes++ {
		select {
		case <-over:
			require.NoError(t, r.Shutdown(context.Background()))
			done = true
		default:
		}
		if scrapes == 3 {
			run(t, r.NewPool("later", tether.PoolConfig{Queue: 1, Overflow: tether.OverflowBlock}), "task", succeed)
		}
		page := a.check(t, m)
		truth := r.Stats() // later than the page
		var ended float64
		for _, metric := range page["tether_tasks_ended_total"].GetMetric() {
			ended += metric.GetCounter().GetValue()
		}
		assert.LessOrEqual(t, ended, float64(truth.Succeeded+truth.Failed+truth.Panicked+truth.Canceled+truth.Dropped))
	}
	t.Log(scrapes, "scrapes")

	// Nothing is lost in the end.
	page := a.check(t, m)
	stats := r.Stats()
	var refused float64
	all := map[string]float64{"canceled": 0} // states leaves zeros out
	for _, pool := range []string{"", "reject", "drop", "inline", "later"} {
		for state, n := range page.states(pool) {
			all[state] += n
		}
		all["submitted"] += page.value("tether_tasks_submitted_total", "pool", pool)
		refused += page.value("tether_tasks_refused_total", "pool", pool)
	}
	assert.Equal(t, map[string]float64{
		"submitted": float64(stats.Submitted), "succeeded": float64(stats.Succeeded),
		"failed": float64(stats.Failed), "panicked": float64(stats.Panicked), "canceled": float64(stats.Canceled),
		"dropped": float64(stats.Dropped),
	}, all)
	assert.Equal(t, float64(stats.Refused), refused)
	var ran, started float64
	for _, metric := range page["tether_task_run_seconds"].GetMetric() {
		ran += float64(metric.GetHistogram().GetSampleCount())
	}
	for _, metric := range page["tether_tasks_wait_seconds"].GetMetric() {
		started += float64(metric.GetHistogram().GetSampleCount())
	}
	outcomes := make(map[string]float64)
	for _, metric := range page["tether_task_outcomes_total"].GetMetric() {
		outcomes[labelsOf(metric)["state"]] += metric.GetCounter().GetValue()
	}
	delete(all, "submitted")
	assert.Equal(t, all, outcomes, "by name as by pool")
	assert.Equal(t, float64(stats.Submitted-stats.Dropped), ran)
	assert.Equal(t, ran, started)
}

// TestOwnTasksUnderLoad keeps the pools busy while the registry itself runs few tasks: the
// counts of these must not include tasks of the pools.
func TestOwnTasksUnderLoad(t *testing.T) {
	m := tetherprom.New(tetherprom.Config{})
	r := newRegistry(t, m, tether.Config{Retain: -1})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 3 {
		p := r.NewPool(fmt.Sprint("pool ", i), tether.PoolConfig{Workers: 2, Queue: 10, Overflow: tether.OverflowBlock})
		wg.Go(func() {
			for ctx.Err() == nil {
				p.Go(context.Background(), "busy", succeed)
			}
		})
	}
	a := make(account)
	exact := 0
	const scrapes = 100
	for i := 1; i <= scrapes; i++ {
		run(t, r, "own", succeed)
		page := a.check(t, m)
		submitted := page.value("tether_tasks_submitted_total", "pool", "")
		require.LessOrEqual(t, submitted, float64(i), "tasks that never were")
		require.LessOrEqual(t, page.value("tether_tasks_ended_total", "pool", "", "state", "succeeded"), float64(i))
		if submitted == float64(i) {
			exact++
		}
	}
	cancel()
	wg.Wait()
	require.NoError(t, r.Shutdown(context.Background()))
	assert.Equal(t, map[string]float64{"succeeded": scrapes}, a.check(t, m).states(""))
	t.Logf("exact: %d of %d", exact, scrapes)
}
