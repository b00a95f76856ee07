package tetherprom_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

// BenchmarkTask runs empty tasks without an observer, with one that does nothing, and with
// the metrics, in turns, and reports their cost and the ratio to the first.
func BenchmarkTask(b *testing.B) {
	candidates := []tether.Observer{nil, tether.NopObserver{}, tetherprom.New(tetherprom.Config{})}
	var (
		pools   []*tether.Pool
		took    [3]time.Duration
		mallocs [3]uint64
	)
	for _, o := range candidates {
		reg := tether.New(tether.Config{Observer: o, Logger: slog.New(slog.DiscardHandler)})
		defer reg.Shutdown(context.Background())
		pools = append(pools, reg.NewPool("pool", tether.PoolConfig{Queue: 1000, Overflow: tether.OverflowBlock}))
	}
	const batch = 1000
	n := 0
	for b.Loop() {
		n++
		for i, p := range pools {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			var last *tether.Task
			for range batch {
				last, _ = p.Go(context.Background(), "task", succeed)
			}
			last.Wait(context.Background())
			took[i] += time.Since(start)
			runtime.ReadMemStats(&after)
			mallocs[i] += after.Mallocs - before.Mallocs
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, name := range []string{"none", "nop", "prom"} {
		b.ReportMetric(float64(took[i].Nanoseconds())/float64(n)/batch, name+"-ns/task")
		b.ReportMetric(float64(mallocs[i])/float64(n)/batch, name+"-allocs/task")
		b.ReportMetric(float64(took[i])/float64(took[0]), name+"-ratio")
	}
}

// BenchmarkEnded measures what the metrics do at the end of a task, beside Task.Info.
func BenchmarkEnded(b *testing.B) {
	task := start(b, tether.New(tether.Config{}), "task", succeed)
	<-task.Done()
	classic := tetherprom.New(tetherprom.Config{})
	native := tetherprom.New(tetherprom.Config{NativeHistogramBucketFactor: 1.1})
	for _, c := range []struct {
		name string
		call func()
	}{
		{"info", func() { task.Info() }},
		{"classic", func() { classic.TaskEnded(context.Background(), task) }},
		{"native", func() { native.TaskEnded(context.Background(), task) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.call()
			}
		})
	}
}

// BenchmarkScrape gathers the metrics of 100 names, with and without live tasks.
func BenchmarkScrape(b *testing.B) {
	for _, live := range []int{0, 100_000} {
		b.Run(fmt.Sprint("live=", live), func(b *testing.B) {
			m := tetherprom.New(tetherprom.Config{})
			reg := tether.New(tether.Config{Observer: m, Logger: slog.New(slog.DiscardHandler)})
			defer func() {
				for task := range reg.Tasks() {
					task.Cancel(nil)
				}
				require.NoError(b, reg.Shutdown(context.Background()))
			}()
			m.Watch(reg)
			gatherer := prometheus.NewPedanticRegistry()
			gatherer.MustRegister(m)
			p := reg.NewPool("pool", tether.PoolConfig{Queue: tether.Unbounded})
			for i := range 100 {
				task, err := p.Go(context.Background(), fmt.Sprint("task ", i), succeed)
				require.NoError(b, err)
				require.NoError(b, task.Wait(context.Background()))
			}
			for i := range live {
				_, err := p.Go(context.Background(), fmt.Sprint("task ", i%100), succeed, tether.Hold())
				require.NoError(b, err)
			}
			for b.Loop() {
				_, err := gatherer.Gather()
				require.NoError(b, err)
			}
		})
	}
}
