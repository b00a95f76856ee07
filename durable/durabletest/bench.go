package durabletest

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// Benchmarks measures an engine: jobs per second that are enqueued, by one caller and by
// 16, and that are run, 20 at once; how long a job waits for an idle worker; and what
// [durable.Job.Go] costs beside a plain task. Each has a queue of its own. It needs [Main].
func Benchmarks(b *testing.B, f Fixture) {
	server := f.Server(b)
	for _, bench := range []struct {
		name string
		run  func(*bench)
	}{
		{"enqueue", func(b *bench) { b.enqueue(1) }},
		{"enqueue by 16", func(b *bench) { b.enqueue(16) }},
		{"process 20 at once", benchProcess},
		{"idle latency", benchLatency},
		{"Job.Go beside Pool.Go", benchGo},
	} {
		b.Run(bench.name, func(b *testing.B) { bench.run(newBench(b, f, server)) })
	}
}

// bench is one benchmark: an engine on a queue of its own, and a registry.
type bench struct {
	*testing.B
	engine durable.Engine
	reg    *tether.Registry
}

func newBench(b *testing.B, f Fixture, server Server) *bench {
	engine, err := f.Open(server.Address(), newQueue())
	require.NoError(b, err)
	x := &bench{b, engine, tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})}
	b.Cleanup(func() {
		require.NoError(b, x.reg.Shutdown(context.Background()))
		require.NoError(b, engine.Close())
	})
	return x
}

// job makes one whose handler only calls ran.
func (b *bench) job(ran func()) *durable.Job[work] {
	return durable.Define("job", func(context.Context, work) error {
		ran()
		return nil
	}, durable.JobConfig{Timeout: time.Minute})
}

// hire starts a worker, which the returned function stops.
func (b *bench) hire(concurrency int, job durable.Definition) (stop func()) {
	b.Helper()
	worker, err := durable.NewWorker(b.engine, durable.WorkerConfig{
		Registry: b.reg, Concurrency: concurrency, Logger: slog.New(slog.DiscardHandler),
	}, job)
	require.NoError(b, err)
	require.NoError(b, worker.Start(context.Background()))
	return func() { require.NoError(b, worker.Stop(context.Background())) }
}

// fill enqueues b.N jobs by so many goroutines.
func (b *bench) fill(job *durable.Job[work], callers int) {
	var group sync.WaitGroup
	var next atomic.Int64
	for range callers {
		group.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if _, err := job.Enqueue(context.Background(), b.engine, work{N: int(n)}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// rate reports jobs per second since the timer was reset.
func (b *bench) rate() {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func (b *bench) enqueue(callers int) {
	job := b.job(func() {})
	b.ResetTimer()
	b.fill(job, callers)
	b.StopTimer()
	b.rate()
}

// benchProcess is from the worker's start to the end of the last handler.
func benchProcess(b *bench) {
	var ran atomic.Int64
	all := make(chan struct{})
	job := b.job(func() {
		if ran.Add(1) == int64(b.N) {
			close(all)
		}
	})
	b.fill(job, 16)
	b.ResetTimer()
	stop := b.hire(20, job)
	<-all
	b.StopTimer()
	b.rate()
	stop()
}

// benchLatency is from before Enqueue to the handler's start, with a worker that has had
// nothing to do for a while: some engines look for jobs from time to time, and at once
// after one.
func benchLatency(b *bench) {
	asks := min(b.N, 50)
	began := make(chan time.Time, 1)
	job := b.job(func() { began <- time.Now() })
	stop := b.hire(1, job)
	defer stop()
	latencies := make([]time.Duration, asks)
	for n := range asks {
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond))
		now := time.Now()
		_, err := job.Enqueue(context.Background(), b.engine, work{N: n})
		require.NoError(b, err)
		latencies[n] = (<-began).Sub(now)
	}
	slices.Sort(latencies)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(latencies[asks/2].Seconds()*1000, "median-ms")
	b.ReportMetric(latencies[asks-1].Seconds()*1000, "most-ms")
}

// benchGo is what it costs that a job could go onto the engine, when it need not: beside a
// task of the same body on the same pool, in turns.
func benchGo(b *bench) {
	const turn = 1000
	pool := b.reg.NewPool("pool", tether.PoolConfig{Workers: runtime.GOMAXPROCS(0), Queue: turn, Overflow: tether.OverflowBlock})
	ctx := context.Background()
	var ran sync.WaitGroup
	body := func(context.Context) error { ran.Done(); return nil }
	job := b.job(ran.Done)
	var asTask, asJob time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= turn {
		n := min(turn, left)
		ran.Add(n)
		began := time.Now()
		for range n {
			if _, err := pool.Go(ctx, "job", body); err != nil {
				b.Fatal(err)
			}
		}
		ran.Wait()
		asTask += time.Since(began)

		ran.Add(n)
		began = time.Now()
		for n := range n {
			if _, err := job.Go(ctx, pool, b.engine, work{N: n}); err != nil {
				b.Fatal(err)
			}
		}
		ran.Wait()
		asJob += time.Since(began)
	}
	b.StopTimer()
	b.ReportMetric(float64(asTask.Nanoseconds())/float64(b.N), "ns/Pool.Go")
	b.ReportMetric(float64(asJob.Nanoseconds())/float64(b.N), "ns/Job.Go")
	b.ReportMetric(asJob.Seconds()/asTask.Seconds(), "ratio")
}
