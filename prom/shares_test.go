package tetherprom_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

// flood submits n tasks of a share that take an hour.
func flood(t testing.TB, p *tether.Pool, share string, n int, opts ...tether.Option) {
	t.Helper()
	if share != "" {
		opts = append(opts, tether.Share(share))
	}
	for range n {
		start(t, p, "task", taking(time.Hour), opts...)
	}
}

// shares returns the number of tasks of each share of a pool that are queued and that run.
func (p page) shares(pool string) map[string][2]float64 {
	all := make(map[string][2]float64)
	for _, m := range p["tether_pool_share_tasks"].GetMetric() {
		if l := labelsOf(m); l["pool"] == pool {
			tasks := all[l["share"]]
			tasks[map[string]int{"queued": 0, "running": 1}[l["state"]]] += m.Gauge.GetValue()
			all[l["share"]] = tasks
		}
	}
	return all
}

func TestShares(t *testing.T) {
	bubble := func(name string, cfg tetherprom.Config, test func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tetherprom.New(cfg)
				test(t, m, newRegistry(t, m, tether.Config{}))
				time.Sleep(1000 * time.Hour) // until all tasks have ended
			})
		})
	}
	one := tether.PoolConfig{Workers: 1, Queue: tether.Unbounded}

	bubble("the largest", tetherprom.Config{Shares: 2}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
		p := r.NewPool("pool", one)
		flood(t, p, "", 3)
		synctest.Wait()
		page := scrape(t, m)
		assert.Empty(t, page["tether_pool_share_tasks"], "no task has a share")
		assert.Equal(t, 0.0, page.value("tether_pool_shares", "pool", "pool"))

		for share, n := range map[string]int{"big": 5, "medium": 4, "small": 2, "smaller": 1} {
			flood(t, p, share, n)
		}
		flood(t, p, "held", 1, tether.Delay(500*time.Hour))
		page = scrape(t, m)
		assert.Equal(t, map[string][2]float64{"": {2, 1}, "big": {5, 0}, "medium": {4, 0}, "other": {3, 0}}, page.shares("pool"))
		assert.Equal(t, 5.0, page.value("tether_pool_shares", "pool", "pool"))
		assert.Equal(t, -1.0, page.value("tether_pool_shares", "pool", ""), "the registry's own tasks have none")

		// They are others a moment later, and gone in the end.
		flood(t, p, "small", 9)
		assert.Equal(t, map[string][2]float64{"": {2, 1}, "small": {11, 0}, "big": {5, 0}, "other": {5, 0}}, scrape(t, m).shares("pool"))
		time.Sleep(600 * time.Hour)
		page = scrape(t, m)
		assert.Empty(t, page.shares("pool"))
		assert.Equal(t, 0.0, page.value("tether_pool_shares", "pool", "pool"))
	})
	bubble("one that is called other", tetherprom.Config{Shares: 1}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
		p := r.NewPool("pool", one)
		p.Pause()
		flood(t, p, "other", 9)
		flood(t, p, "a", 3)
		assert.Equal(t, map[string][2]float64{"a": {3, 0}, "other": {9, 0}}, scrape(t, m).shares("pool"))
		flood(t, p, "b", 2)
		page := scrape(t, m)
		assert.Equal(t, map[string][2]float64{"a": {3, 0}, "other": {11, 0}}, page.shares("pool"))
		assert.Equal(t, 3.0, page.value("tether_pool_shares", "pool", "pool"))
		p.Resume()
	})
	bubble("of pools with the same name, added up", tetherprom.Config{Shares: 1}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
		for _, p := range []*tether.Pool{r.NewPool("pool", one), r.NewPool("pool", one), newRegistry(t, m, tether.Config{}).NewPool("pool", one)} {
			flood(t, p, fmt.Sprintf("%p", p), 5)
			synctest.Wait()
			flood(t, p, "in all", 3)
		}
		flood(t, r.NewPool("elsewhere", one), "in all", 7)
		synctest.Wait()
		page := scrape(t, m)
		assert.Equal(t, map[string][2]float64{"in all": {9, 0}, "other": {12, 3}}, page.shares("pool"), "none of the pools has it as its largest")
		assert.Equal(t, 4.0, page.value("tether_pool_shares", "pool", "pool"))
		assert.Equal(t, map[string][2]float64{"in all": {6, 1}}, page.shares("elsewhere"))
	})
	bubble("neither inline nor between attempts", tetherprom.Config{Shares: 9}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		flood(t, p, "by a worker", 1)
		synctest.Wait()
		go flood(t, p, "inline", 1)
		flood(t, r.NewPool("later", one), "delayed", 1, tether.Delay(time.Hour))
		start(t, r.NewPool("again", one), "task", fail, tether.Share("failing"), tether.Retry(tether.RetryPolicy{
			Attempts: 2, Backoff: func(int, error) time.Duration { return time.Hour },
		}))
		synctest.Wait()
		page := scrape(t, m)
		assert.Equal(t, [2]float64{0, 1}, page.shares("pool")["by a worker"])
		assert.Zero(t, page.shares("pool")["inline"])
		assert.Zero(t, page.shares("later")["delayed"])
		assert.Zero(t, page.shares("again")["failing"])
	})
	for _, n := range []int{0, -1} {
		bubble(fmt.Sprint("not if Shares is ", n), tetherprom.Config{Shares: n}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
			flood(t, r.NewPool("pool", one), "secret", 3)
			page := scrape(t, m) // of a pedantic registry: Describe does not announce them
			assert.NotContains(t, page, "tether_pool_shares")
			assert.NotContains(t, page, "tether_pool_share_tasks")
		})
	}
	bubble("with any key", tetherprom.Config{Shares: 9}, func(t *testing.T, m *tetherprom.Metrics, r *tether.Registry) {
		p := r.NewPool("pool", one)
		p.Pause()
		want := make(map[string][2]float64)
		for _, key := range []string{`"quoted" \ {braced}`, "naïve 任务", "\uFFFD", strings.Repeat("x", 128)} {
			flood(t, p, key, 1)
			want[key] = [2]float64{1, 0}
		}
		for _, key := range []string{"\xff", strings.Repeat("x", 129), "a\nb", "\x00", ""} {
			_, err := p.Go(context.Background(), "task", succeed, tether.Share(key))
			require.ErrorIs(t, err, tether.ErrInvalid, "Prometheus would reject the whole scrape")
		}
		assert.Equal(t, want, scrape(t, m).shares("pool"))
		p.Resume()
	})
}

// The series of shares that a registry has are bounded, whatever comes and goes on its pools.
func TestShares_Busy(t *testing.T) {
	const most = 3
	m := tetherprom.New(tetherprom.Config{Shares: most})
	r := newRegistry(t, m, tether.Config{Retain: -1})
	p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 50, Overflow: tether.OverflowBlock})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				start(t, p, "task", succeed, tether.Share(fmt.Sprint(i%40)))
			}
		}
	}()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(m))
	for range 100 {
		families, err := reg.Gather()
		require.NoError(t, err)
		series := 0
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "tether_pool_share") {
				series += len(f.GetMetric())
			}
		}
		require.LessOrEqual(t, series, 2*(most+2)+1)
	}
	close(stop)
	<-stopped
}
