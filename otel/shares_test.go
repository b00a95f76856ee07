package tetherotel_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

// flood submits n tasks of a share that take an hour.
func flood(t testing.TB, p *tether.Pool, share string, n int) {
	t.Helper()
	var opts []tether.Option
	if share != "" {
		opts = append(opts, tether.Share(share))
	}
	for range n {
		start(t, context.Background(), p, "task", func(context.Context) error { time.Sleep(time.Hour); return nil }, opts...)
	}
}

// shares returns the number of tasks of each share of a pool that are queued and that run.
func (s *telemetry) shares(pool string) map[string][2]int64 {
	all := make(map[string][2]int64)
	for _, p := range collect[metricdata.Sum[int64]](s, "tether.pool.share.tasks").DataPoints {
		in, _ := p.Attributes.Value("tether.pool.name")
		share, ok := p.Attributes.Value("tether.share.name")
		require.True(s.t, ok)
		state, _ := p.Attributes.Value("tether.task.state")
		if in.AsString() == pool {
			tasks := all[share.AsString()]
			tasks[map[string]int{"queued": 0, "running": 1}[state.AsString()]] += p.Value
			all[share.AsString()] = tasks
		}
	}
	return all
}

func TestShares(t *testing.T) {
	bubble := func(name string, cfg tetherotel.Config, test func(t *testing.T, s *telemetry, o *tetherotel.Observer)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTelemetry(t)
				cfg.TracerProvider = tracenoop.NewTracerProvider()
				test(t, s, s.observer(cfg))
				time.Sleep(1000 * time.Hour) // until all tasks have ended
			})
		})
	}
	watched := func(t *testing.T, o *tetherotel.Observer) *tether.Registry {
		r := newRegistry(t, tether.Config{})
		_, err := o.Watch(r)
		require.NoError(t, err)
		return r
	}
	one := tether.PoolConfig{Workers: 1, Queue: tether.Unbounded}

	bubble("the largest", tetherotel.Config{Shares: 2}, func(t *testing.T, s *telemetry, o *tetherotel.Observer) {
		assert.Empty(t, s.counts("tether.pool.share.count"), "nothing is watched yet")
		p := watched(t, o).NewPool("pool", one)
		flood(t, p, "", 3)
		synctest.Wait()
		assert.Empty(t, s.shares("pool"), "no task has a share")
		assert.Equal(t, map[string]int64{"tether.pool.name=pool": 0}, s.counts("tether.pool.share.count"))

		for share, n := range map[string]int{"big": 5, "medium": 4, "small": 2, "smaller": 1} {
			flood(t, p, share, n)
		}
		assert.Equal(t, map[string][2]int64{"": {2, 1}, "big": {5, 0}, "medium": {4, 0}, "other": {3, 0}}, s.shares("pool"))
		assert.Equal(t, map[string]int64{"tether.pool.name=pool": 4}, s.counts("tether.pool.share.count"))
		assert.False(t, collect[metricdata.Sum[int64]](s, "tether.pool.share.tasks").IsMonotonic)

		// They are others a moment later, and gone in the end.
		flood(t, p, "small", 9)
		assert.Equal(t, map[string][2]int64{"": {2, 1}, "small": {11, 0}, "big": {5, 0}, "other": {5, 0}}, s.shares("pool"))
		time.Sleep(600 * time.Hour)
		assert.Empty(t, s.shares("pool"))
		assert.Equal(t, map[string]int64{"tether.pool.name=pool": 0}, s.counts("tether.pool.share.count"))
	})
	bubble("one that is called other", tetherotel.Config{Shares: 1}, func(t *testing.T, s *telemetry, o *tetherotel.Observer) {
		p := watched(t, o).NewPool("pool", one)
		p.Pause()
		flood(t, p, "other", 9)
		flood(t, p, "a", 3)
		assert.Equal(t, map[string][2]int64{"a": {3, 0}, "other": {9, 0}}, s.shares("pool"))
		flood(t, p, "b", 2)
		assert.Equal(t, map[string][2]int64{"a": {3, 0}, "other": {11, 0}}, s.shares("pool"))
		p.Resume()
	})
	bubble("of pools with the same name, added up", tetherotel.Config{Shares: 1}, func(t *testing.T, s *telemetry, o *tetherotel.Observer) {
		r, beside := watched(t, o), newRegistry(t, tether.Config{})
		registration, err := o.Watch(beside)
		require.NoError(t, err)
		for _, p := range []*tether.Pool{r.NewPool("pool", one), r.NewPool("pool", one), beside.NewPool("pool", one)} {
			flood(t, p, fmt.Sprintf("%p", p), 5)
			synctest.Wait()
			flood(t, p, "in all", 3)
		}
		assert.Equal(t, map[string][2]int64{"in all": {9, 0}, "other": {12, 3}}, s.shares("pool"), "none of the pools has it as its largest")
		assert.Equal(t, map[string]int64{"tether.pool.name=pool": 4}, s.counts("tether.pool.share.count"))

		require.NoError(t, registration.Unregister())
		assert.Equal(t, map[string][2]int64{"in all": {6, 0}, "other": {8, 2}}, s.shares("pool"))
		require.NoError(t, registration.Unregister(), "again")
		_, err = o.Watch(beside)
		require.NoError(t, err)
		assert.Equal(t, map[string][2]int64{"in all": {9, 0}, "other": {12, 3}}, s.shares("pool"))
	})
	for _, n := range []int{0, -1} {
		bubble(fmt.Sprint("not if Shares is ", n), tetherotel.Config{Shares: n}, func(t *testing.T, s *telemetry, o *tetherotel.Observer) {
			flood(t, watched(t, o).NewPool("pool", one), "secret", 3)
			assert.Empty(t, s.shares("pool"))
			assert.Empty(t, s.counts("tether.pool.share.count"))
			assert.NotEmpty(t, s.counts("tether.task.live"))
		})
	}
	bubble("with any key", tetherotel.Config{Shares: 9}, func(t *testing.T, s *telemetry, o *tetherotel.Observer) {
		p := watched(t, o).NewPool("pool", one)
		p.Pause()
		want := make(map[string][2]int64)
		for _, key := range []string{`"quoted" \ {braced}`, "naïve 任务", "\uFFFD", strings.Repeat("x", 128)} {
			flood(t, p, key, 1)
			want[key] = [2]int64{1, 0}
		}
		for _, key := range []string{"\xff", strings.Repeat("x", 129), "a\nb", "\x00", ""} {
			_, err := p.Go(context.Background(), "task", succeed, tether.Share(key))
			require.ErrorIs(t, err, tether.ErrInvalid, "exporters may reject the whole collection")
		}
		assert.Equal(t, want, s.shares("pool"))
		p.Resume()
	})
}

// Registries come and go while shares are collected. Neither waits for the other.
func TestShares_Busy(t *testing.T) {
	const most = 3
	s := newTelemetry(t)
	o := s.observer(tetherotel.Config{TracerProvider: tracenoop.NewTracerProvider(), Shares: most})
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 50, Overflow: tether.OverflowBlock})
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				registration, err := o.Watch(r)
				assert.NoError(t, err)
				for range 20 {
					_, err := p.Go(context.Background(), "task", succeed, tether.Share(fmt.Sprint(i%40)))
					assert.NoError(t, err)
				}
				assert.NoError(t, registration.Unregister())
			}
		})
	}
	for range 100 {
		points := s.counts("tether.pool.share.tasks")
		require.LessOrEqual(t, len(points), 2*(most+2))
		for key, n := range points {
			require.GreaterOrEqual(t, n, int64(0), key)
		}
	}
	close(stop)
	busy.Wait()
}
