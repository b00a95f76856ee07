package tetherprom_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

// times is a histogram: the count, the sum, and the cumulative counts by upper bound.
type times struct {
	count uint64
	sum   float64
	upTo  map[float64]uint64
}

func timesOf(m *dto.Metric) times {
	h := m.GetHistogram()
	t := times{h.GetSampleCount(), h.GetSampleSum(), make(map[float64]uint64)}
	for _, b := range h.GetBucket() {
		t.upTo[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	return t
}

var states = []string{"succeeded", "failed", "panicked", "canceled", "dropped"}

func TestTimes(t *testing.T) {
	bubble := func(name string, test func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tetherprom.New(tetherprom.Config{})
				r := newRegistry(t, m, tether.Config{StuckAfter: time.Hour})
				test(t, m, r, r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowDropOldest}))
			})
		})
	}
	bubble("a task of a pool waits, then runs", func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
		start(t, p, "first", taking(3*time.Second))
		run(t, p, "second", taking(40*time.Second))
		page := scrape(t, m)

		wait := timesOf(page.metric("tether_tasks_wait_seconds", "pool", "pool"))
		assert.Equal(t, uint64(2), wait.count)
		assert.Equal(t, 3.0, wait.sum, "of the second one alone")
		assert.Equal(t, uint64(1), wait.upTo[.001])
		assert.Equal(t, uint64(1), wait.upTo[2.5])
		assert.Equal(t, uint64(2), wait.upTo[5])

		ran := timesOf(page.metric("tether_task_run_seconds", "task", "second", "pool", "pool"))
		assert.Equal(t, uint64(1), ran.count)
		assert.Equal(t, 40.0, ran.sum)
		assert.Equal(t, uint64(0), ran.upTo[30])
		assert.Equal(t, uint64(1), ran.upTo[120])
		assert.Equal(t, 1.0, page.value("tether_task_outcomes_total", "task", "second", "pool", "pool", "state", "succeeded"))
		assert.Equal(t, 0.0, page.value("tether_task_retries_total", "task", "second", "pool", "pool"))
	})
	bubble("held and delayed tasks wait", func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
		held := start(t, r, "held", succeed, tether.Hold())
		run(t, r, "delayed", succeed, tether.Delay(time.Second))
		held.Release()
		<-held.Done()
		wait := timesOf(scrape(t, m).metric("tether_tasks_wait_seconds", "pool", ""))
		assert.Equal(t, times{2, 2, wait.upTo}, wait)
	})
	for _, c := range []struct {
		state string
		body  tether.Func
	}{{"succeeded", succeed}, {"failed", fail}, {"panicked", panicking}, {"canceled", untilCanceled}} {
		bubble("a task that "+c.state, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
			run(t, p, "task", func(ctx context.Context) error {
				time.Sleep(time.Second)
				return c.body(ctx)
			}, tether.Timeout(time.Minute))
			page := scrape(t, m)
			want := 1.0
			if c.state == "canceled" {
				want = 60
			}
			ran := timesOf(page.metric("tether_task_run_seconds", "task", "task", "pool", "pool"))
			assert.Equal(t, times{1, want, ran.upTo}, ran)
			for _, state := range states {
				is := 0.0
				if state == c.state {
					is = 1
				}
				assert.Equal(t, is, page.value("tether_task_outcomes_total", "task", "task", "pool", "pool", "state", state), state)
			}
			assert.Equal(t, map[string]float64{c.state: 1}, page.states("pool"))
			assert.Empty(t, page.states(""))
		})
	}
	bubble("retries", func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
		every := tether.RetryPolicy{Attempts: 4, Backoff: func(int, error) time.Duration { return time.Minute }}
		retries := func(pool string) float64 {
			return scrape(t, m).value("tether_task_retries_total", "task", "task", "pool", pool)
		}
		for range 2 {
			run(t, p, "task", fail, tether.Retry(every))
		}
		run(t, r, "task", succeed, tether.Retry(every))
		assert.Equal(t, 6.0, retries("pool"))
		assert.Equal(t, 0.0, retries(""))
		page := scrape(t, m)
		ran := timesOf(page.metric("tether_task_run_seconds", "task", "task", "pool", "pool"))
		assert.Equal(t, times{2, 360, ran.upTo}, ran, "once a task, waits between attempts included")
		assert.Equal(t, map[string]float64{"failed": 2}, page.states("pool"))

		start(t, p, "task", fail, tether.Retry(every))
		time.Sleep(30 * time.Second)
		assert.Equal(t, 7.0, retries("pool"), "while it waits for its second attempt")
		time.Sleep(time.Minute)
		assert.Equal(t, 8.0, retries("pool"), "for its third")
		time.Sleep(time.Hour)
		assert.Equal(t, 9.0, retries("pool"))
	})
	bubble("tasks that never start", func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
		start(t, r, "held", succeed, tether.Hold()).Cancel(nil)
		running := start(t, p, "running", untilCanceled)
		synctest.Wait()
		for range 11 {
			start(t, p, "queued", succeed)
		}
		page := scrape(t, m)
		for _, name := range []string{"tether_task_run_seconds", "tether_tasks_wait_seconds"} {
			for _, m := range page[name].GetMetric() {
				assert.Zero(t, m.Histogram.GetSampleCount(), name)
			}
		}
		assert.Equal(t, 1.0, page.value("tether_task_outcomes_total", "task", "held", "pool", "", "state", "dropped"))
		assert.Equal(t, 1.0, page.value("tether_task_outcomes_total", "task", "queued", "pool", "pool", "state", "dropped"))
		assert.Equal(t, map[string]float64{"dropped": 1}, page.states(""))
		assert.Equal(t, map[string]float64{"dropped": 1, "queued": 10, "running": 1}, page.states("pool"))
		running.Cancel(nil)
	})
	bubble("a stuck task", func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry, p *tether.Pool) {
		run(t, p, "task", taking(time.Minute))
		assert.Equal(t, 0.0, scrape(t, m).value("tether_task_stuck_total", "task", "task", "pool", "pool"))
		for _, on := range []tether.Submitter{r, p} {
			start(t, on, "task", taking(3*time.Hour))
			start(t, on, "new", taking(3*time.Hour))
		}
		time.Sleep(2 * time.Hour)
		page := scrape(t, m)
		assert.Equal(t, 1.0, page.value("tether_task_stuck_total", "task", "task", "pool", "pool"))
		assert.Equal(t, 1.0, page.value("tether_task_stuck_total", "task", "task", "pool", ""))
		assert.Equal(t, 1.0, page.value("tether_task_stuck_total", "task", "new", "pool", ""))
		assert.Zero(t, timesOf(page.metric("tether_tasks_wait_seconds", "pool", "")).count, "none has ended")
		time.Sleep(24 * time.Hour)
		assert.Equal(t, 1.0, scrape(t, m).value("tether_task_stuck_total", "task", "new", "pool", "pool"))
	})
}

// Prometheus shows the increase of a counter that it has scraped before: from the first start
// of a task name on, all of its counters exist, with the value 0.
func TestBornAtZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		// counts returns all that is counted of the task.
		counts := func(pool string) map[string]float64 {
			page := scrape(t, m)
			all := map[string]float64{
				"stuck":   page.value("tether_task_stuck_total", "task", "task", "pool", pool),
				"retries": page.value("tether_task_retries_total", "task", "task", "pool", pool),
			}
			for _, metric := range page["tether_task_outcomes_total"].GetMetric() {
				if l := labelsOf(metric); l["pool"] == pool {
					all[l["state"]] = metric.Counter.GetValue()
				}
			}
			all["times"] = float64(timesOf(page.metric("tether_task_run_seconds", "task", "task", "pool", pool)).count)
			return all
		}
		want := map[string]float64{"succeeded": 0, "failed": 0, "panicked": 0, "canceled": 0, "dropped": 0, "retries": 0, "stuck": 0}
		for pool, on := range map[string]tether.Submitter{"": r, "pool": p} {
			task := start(t, on, "task", func(context.Context) error {
				time.Sleep(time.Hour)
				panic("test")
			})
			synctest.Wait()
			want["panicked"], want["times"] = 0, 0
			assert.Equal(t, want, counts(pool), "while the first one runs")
			<-task.Done()
			want["panicked"], want["times"] = 1, 1
			assert.Equal(t, want, counts(pool))
		}
	})
}

func TestJoinedObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{StuckAfter: time.Minute, Observer: tether.JoinObservers(tether.NopObserver{}, m)})
		run(t, r, "task", taking(time.Hour))
		page := scrape(t, m)
		assert.Equal(t, 1.0, page.value("tether_task_stuck_total", "task", "task", "pool", ""))
		assert.Equal(t, 3600.0, timesOf(page.metric("tether_task_run_seconds", "task", "task", "pool", "")).sum)
	})
}

func TestConfig(t *testing.T) {
	// bounds returns the buckets of a task's histogram, and whether it is a native one too.
	bounds := func(t *testing.T, cfg tetherprom.Config) (classic []float64, native bool) {
		m := tetherprom.New(cfg)
		run(t, newRegistry(t, m, tether.Config{}), "task", succeed)
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(m)
		families, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "tether_task_run_seconds" {
				h := f.Metric[0].Histogram
				for _, b := range h.Bucket {
					classic = append(classic, b.GetUpperBound())
				}
				return classic, h.Schema != nil
			}
		}
		t.Fatal("no histogram")
		return nil, false
	}
	t.Run("the zero one", func(t *testing.T) {
		classic, native := bounds(t, tetherprom.Config{})
		require.Len(t, classic, 13)
		assert.Equal(t, []float64{.001, 600}, []float64{classic[0], classic[12]})
		assert.False(t, native)
	})
	t.Run("buckets", func(t *testing.T) {
		mine := []float64{1, 2, 3}
		classic, native := bounds(t, tetherprom.Config{Buckets: mine})
		assert.Equal(t, mine, classic)
		assert.False(t, native)
	})
	t.Run("classic and native buckets", func(t *testing.T) {
		classic, native := bounds(t, tetherprom.Config{NativeHistogramBucketFactor: 1.1})
		assert.Len(t, classic, 13)
		assert.True(t, native)
	})
	t.Run("native buckets alone", func(t *testing.T) {
		classic, native := bounds(t, tetherprom.Config{Buckets: []float64{}, NativeHistogramBucketFactor: 1.1})
		assert.Empty(t, classic)
		assert.True(t, native)
	})
	t.Run("neither", func(t *testing.T) {
		classic, native := bounds(t, tetherprom.Config{Buckets: []float64{}, NativeHistogramBucketFactor: -1, MaxNames: -1})
		assert.Len(t, classic, 13)
		assert.False(t, native)
	})
	t.Run("buckets that do not increase", func(t *testing.T) {
		assert.Panics(t, func() { tetherprom.New(tetherprom.Config{Buckets: []float64{2, 1}}) })
	})
	t.Run("the caller's buckets change later", func(t *testing.T) {
		mine := []float64{1, 2, 3}
		m := tetherprom.New(tetherprom.Config{Buckets: mine})
		mine[0] = 5
		run(t, newRegistry(t, m, tether.Config{}), "task", succeed)
		assert.Equal(t, uint64(1), timesOf(scrape(t, m).metric("tether_task_run_seconds", "task", "task", "pool", "")).upTo[1])
	})
	t.Run("nil registry", func(t *testing.T) {
		assert.Panics(t, func() { tetherprom.New(tetherprom.Config{}).Watch(nil) })
	})
}

func TestNames(t *testing.T) {
	// names counts the values of the task label, and the tasks.
	names := func(p page) (set map[string]uint64, total uint64) {
		set = make(map[string]uint64)
		for _, m := range p["tether_task_run_seconds"].GetMetric() {
			set[labelsOf(m)["task"]] += m.Histogram.GetSampleCount()
			total += m.Histogram.GetSampleCount()
		}
		return set, total
	}
	t.Run("10,000 of them, at once", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{MaxNames: 50})
		r := newRegistry(t, m, tether.Config{})
		pool := r.NewPool("pool", tether.PoolConfig{Workers: 4, Queue: 100, Overflow: tether.OverflowBlock})
		var wg sync.WaitGroup
		for from := range 4 {
			wg.Go(func() {
				for i := range 5000 { // each name twice
					on := []tether.Submitter{r, pool}[i%2]
					task, err := on.Go(context.Background(), fmt.Sprint("task ", (i+from*2500)%10_000), succeed)
					if assert.NoError(t, err) {
						<-task.Done()
					}
				}
			})
		}
		wg.Wait()
		page := scrape(t, m)
		set, total := names(page)
		assert.Len(t, set, 51)
		assert.Equal(t, uint64(20_000), total)
		assert.Equal(t, uint64(20_000), set[tetherprom.Other]+50*2)
		for _, name := range []string{"tether_task_run_seconds", "tether_task_retries_total", "tether_task_stuck_total"} {
			assert.LessOrEqual(t, len(page[name].GetMetric()), 102, name)
		}
		assert.LessOrEqual(t, len(page["tether_task_outcomes_total"].GetMetric()), 102*5)
		assert.Len(t, page["tether_tasks_wait_seconds"].GetMetric(), 2)
	})
	t.Run("the first 100 unless Config says otherwise", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{})
		for i := range 105 {
			run(t, r, fmt.Sprint(i), succeed)
		}
		for _, name := range []string{"99", "100"} { // known, unknown
			run(t, r, name, fail)
		}
		set, _ := names(scrape(t, m))
		assert.Len(t, set, 101)
		assert.Equal(t, uint64(2), set["99"], "a known name goes on being counted, in other states too")
		assert.Equal(t, uint64(6), set[tetherprom.Other])
	})
	t.Run("a task whose name is Other", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{MaxNames: 1})
		r := newRegistry(t, m, tether.Config{})
		for _, name := range []string{"other", "a", "b"} {
			run(t, r, name, succeed)
		}
		set, _ := names(scrape(t, m))
		assert.Equal(t, map[string]uint64{"other": 2, "a": 1}, set)
	})
	t.Run("stuck tasks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := tetherprom.New(tetherprom.Config{MaxNames: 1})
			r := newRegistry(t, m, tether.Config{StuckAfter: time.Minute})
			for i := range 3 {
				start(t, r, fmt.Sprint(i), taking(time.Hour))
			}
			time.Sleep(2 * time.Hour)
			assert.Len(t, scrape(t, m)["tether_task_stuck_total"].GetMetric(), 2)
		})
	})
	t.Run("of all kinds of characters", func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{})
		r := newRegistry(t, m, tether.Config{})
		for _, name := range []string{`"quoted" \ {braced}`, "naïve 任务", strings.Repeat("x", 128)} {
			run(t, r, name, succeed)
			assert.NotNil(t, scrape(t, m).metric("tether_task_run_seconds", "task", name, "pool", ""))
		}
	})
}

// TestNumberOfSeries checks the numbers in the package's documentation.
func TestNumberOfSeries(t *testing.T) {
	m := tetherprom.New(tetherprom.Config{})
	r := newRegistry(t, m, tether.Config{})
	count := func() int {
		reg := prometheus.NewRegistry()
		require.NoError(t, reg.Register(m))
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return len(sample.FindAllString(w.Body.String(), -1))
	}
	// added returns how many series f adds.
	added := func(f func()) int {
		before := count()
		f()
		return count() - before
	}
	const byName, ofPool, ofWeight = 23, 31, 2

	assert.Equal(t, 16+byName, added(func() { run(t, r, "task", succeed) }), "with the wait histogram of the registry itself")
	assert.Equal(t, 0, added(func() { run(t, r, "task", panicking) }))
	assert.Equal(t, byName, added(func() { run(t, r, "other task", fail) }))

	var pool *tether.Pool
	assert.Equal(t, ofPool+byName, added(func() {
		pool = r.NewPool("pool", tether.PoolConfig{})
		run(t, pool, "task", succeed)
	}))
	assert.Equal(t, byName, added(func() { run(t, pool, "other task", succeed) }))
	assert.Equal(t, ofPool+ofWeight+byName, added(func() {
		run(t, r.NewPool("heavy", tether.PoolConfig{Capacity: 5}), "task", succeed)
	}))

	m = tetherprom.New(tetherprom.Config{Shares: 3})
	r = newRegistry(t, m, tether.Config{})
	pool = r.NewPool("pool", tether.PoolConfig{Queue: 100, Overflow: tether.OverflowBlock})
	run(t, pool, "task", succeed)
	pool.Pause()
	assert.Equal(t, 2*(3+2), added(func() {
		start(t, pool, "task", succeed)
		for i := range 20 {
			start(t, pool, "task", succeed, tether.Share(fmt.Sprint("share ", i)))
		}
	}), "beside the number of shares, which is there already")
	pool.Resume()

	m = tetherprom.New(tetherprom.Config{Buckets: []float64{1, 2}})
	r = newRegistry(t, m, tether.Config{})
	run(t, r, "task", succeed)
	assert.Equal(t, byName-13+2, added(func() { run(t, r, "other task", succeed) }))
}

func TestLint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{Shares: 1})
		everything(t, m)
		problems, err := testutil.CollectAndLint(m)
		require.NoError(t, err)
		assert.Empty(t, problems)
	})
}

// everything makes m export each of its metrics. It must be called in a bubble.
func everything(t *testing.T, m *tetherprom.Metrics) *tether.Registry {
	r := newRegistry(t, m, tether.Config{StuckAfter: time.Minute})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 5, Capacity: 10, Overflow: tether.OverflowBlock})
	for _, body := range []tether.Func{succeed, fail, panicking, taking(time.Hour)} {
		run(t, p, "task", body)
	}
	start(t, p, "task", succeed, tether.Share("share"), tether.Hold())
	return r
}

// TestDocumentation compares the metrics, and their labels, with the package's documentation.
func TestDocumentation(t *testing.T) {
	documented := make(map[string]string) // labels by name
	text, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, line := range regexp.MustCompile(`(?m)^//\t(tether_\w+)(?:\{([\w,]+)\})?  `).FindAllStringSubmatch(string(text), -1) {
		documented[line[1]] = line[2]
	}
	exported := make(map[string]string)
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{Shares: 1})
		everything(t, m)
		for name, family := range scrape(t, m) {
			var names []string
			for _, l := range []string{"task", "pool", "share", "state"} { // in the order of the documentation
				if _, has := labelsOf(family.Metric[0])[l]; has {
					names = append(names, l)
				}
			}
			exported[name] = strings.Join(names, ",")
		}
	})
	assert.Equal(t, exported, documented)
}

// TestRegister compares the metrics with what Describe announces.
func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{Shares: 1})
		assert.Zero(t, testutil.CollectAndCount(m), "nothing is watched yet")
		everything(t, m)
		described := make(chan *prometheus.Desc, 100)
		m.Describe(described)
		assert.Len(t, scrape(t, m), len(described))

		reg := prometheus.NewPedanticRegistry()
		require.NoError(t, reg.Register(m))
		var again prometheus.AlreadyRegisteredError
		assert.ErrorAs(t, reg.Register(tetherprom.New(tetherprom.Config{Shares: 1})), &again)
		assert.True(t, reg.Unregister(m))
	})
}
