package tetherprom_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTest = errors.New("test error")

func succeed(context.Context) error   { return nil }
func fail(context.Context) error      { return errTest }
func panicking(context.Context) error { panic("test") }

func untilCanceled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// taking returns a body that takes d.
func taking(d time.Duration) tether.Func {
	return func(context.Context) error {
		time.Sleep(d)
		return nil
	}
}

// newRegistry returns a registry that m observes and watches. It is shut down at the end
// of the test.
func newRegistry(t testing.TB, m *tetherprom.Metrics, cfg tether.Config) *tether.Registry {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.Observer == nil {
		cfg.Observer = m
	}
	reg := tether.New(cfg)
	m.Watch(reg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.NoError(t, reg.Shutdown(ctx))
	})
	return reg
}

func start(t testing.TB, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Go(context.Background(), name, fn, opts...)
	require.NoError(t, err)
	return task
}

// run submits a task and waits for its end.
func run(t testing.TB, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) {
	t.Helper()
	<-start(t, r, name, fn, opts...).Done()
}

// page is the result of a scrape.
type page map[string]*dto.MetricFamily

// scrape reads what Prometheus's own handler answers.
func scrape(t testing.TB, cs ...prometheus.Collector) page {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range cs {
		require.NoError(t, reg.Register(c))
	}
	return scrapeAll(t, reg)
}

func scrapeAll(t testing.TB, g prometheus.Gatherer) page {
	t.Helper()
	w := httptest.NewRecorder()
	req := httptest.NewRequest("GET", "/metrics", nil)
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, req)
	require.Equal(t, 200, w.Code, w.Body)
	families := make(page)
	// Not the text format: its parser is created differently in each version.
	for decoder := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Result().Header)); ; {
		f := new(dto.MetricFamily)
		err := decoder.Decode(f)
		if err == io.EOF {
			return families
		}
		require.NoError(t, err)
		families[f.GetName()] = f
	}
}

// gather is scrape without the handler.
func gather(t testing.TB, m *tetherprom.Metrics) page {
	t.Helper()
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(m))
	families, err := reg.Gather()
	require.NoError(t, err)
	p := make(page)
	for _, f := range families {
		p[f.GetName()] = f
	}
	return p
}

// labels are pairs of a label and its value.
func labels(pairs ...string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func labelsOf(m *dto.Metric) map[string]string {
	all := make(map[string]string)
	for _, l := range m.Label {
		all[l.GetName()] = l.GetValue()
	}
	return all
}

// metric returns the one with exactly these labels, nil if there is none.
func (p page) metric(name string, pairs ...string) *dto.Metric {
	for _, m := range p[name].GetMetric() {
		if maps.Equal(labelsOf(m), labels(pairs...)) {
			return m
		}
	}
	return nil
}

// value returns that of a counter or a gauge; -1 if there is no such metric.
func (p page) value(name string, pairs ...string) float64 {
	m := p.metric(name, pairs...)
	switch {
	case m == nil:
		return -1
	case m.Counter != nil:
		return m.Counter.GetValue()
	}
	return m.Gauge.GetValue()
}

// states returns the number of tasks of a pool in each state, without zeros.
func (p page) states(pool string) map[string]float64 {
	all := make(map[string]float64)
	for _, name := range []string{"tether_tasks_live", "tether_tasks_ended_total"} {
		for _, m := range p[name].GetMetric() {
			if l := labelsOf(m); l["pool"] == pool && p.value(name, "pool", pool, "state", l["state"]) > 0 {
				all[l["state"]] = p.value(name, "pool", pool, "state", l["state"])
			}
		}
	}
	return all
}
