package engines

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(replicaEnv); config != "" {
		if err := beReplica(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	durabletest.Main(m, durabletest.Fixture{})
}

// engine is what stores jobs, used directly and by Tether.
type engine struct {
	name   string
	server func(testing.TB) durabletest.Server
	// Both open a queue that no other one uses.
	direct, tether func(address, queue string) (*system, error)
	jobs           int // of a sample with many callers; one caller enqueues a quarter
}

// system is an open queue.
type system struct {
	enqueue func(ctx context.Context, n int) error
	// work processes jobs, atOnce at a time, until stop is called. It calls ran for each.
	work  func(atOnce int, ran func(n int)) (stop func() error, err error)
	close func() error
}

var engines = []engine{redisEngine, sqliteEngine, postgresEngine, rabbitEngine}

// payload is the argument of the jobs.
type payload struct{ N int }

// Benchmark has a benchmark for each engine and what is done with it.
func Benchmark(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			address := e.server(b).Address()
			for _, a := range actions(e.jobs) {
				b.Run(a.name, func(b *testing.B) { beside(b, e, address, a) })
			}
		})
	}
}

// action is what is measured.
type action struct {
	name string
	jobs int
	// prepare runs before the time starts, do while it is measured, and finish afterwards.
	prepare func(s *system, jobs int) error
	do      func(s *system, jobs int) (finish func() error, err error)
}

func actions(jobs int) []action {
	nothing := func(*system, int) error { return nil }
	enqueue := func(callers int) func(*system, int) (func() error, error) {
		return func(s *system, jobs int) (func() error, error) {
			return func() error { return nil }, enqueueAll(s, jobs, callers)
		}
	}
	return []action{
		{"enqueue", max(jobs/4, 1), nothing, enqueue(1)},
		{"enqueue by 16", jobs, nothing, enqueue(16)},
		{
			"process 20 at once", jobs,
			func(s *system, jobs int) error { return enqueueAll(s, jobs, 16) },
			func(s *system, jobs int) (func() error, error) { return processAll(s, jobs, 20) },
		},
	}
}

func enqueueAll(s *system, jobs, callers int) error {
	var group sync.WaitGroup
	var next atomic.Int64
	errs := make(chan error, callers)
	for range callers {
		group.Go(func() {
			for n := next.Add(1); n <= int64(jobs); n = next.Add(1) {
				if err := s.enqueue(context.Background(), int(n)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs // nil if there is none
}

// processAll returns when each job has run.
func processAll(s *system, jobs, atOnce int) (stop func() error, err error) {
	ran := make([]atomic.Bool, jobs)
	var count atomic.Int64
	all := make(chan struct{})
	stop, err = s.work(atOnce, func(n int) {
		if ran[n-1].Swap(true) {
			return // delivered twice
		}
		if count.Add(1) == int64(jobs) {
			close(all)
		}
	})
	if err == nil {
		<-all
	}
	return stop, err
}

// figure is a sample for each job.
type figure struct{ ns, cpu float64 }

// beside measures b.N times.
func beside(b *testing.B, e engine, address string, a action) {
	if b.N == 1 && !testing.Short() { // the first queue of an engine makes its tables and connections
		sample(b, e.tether, address, a)
		sample(b, e.direct, address, a)
	}
	var direct, tether []figure
	for range b.N {
		if mathrand.IntN(2) == 0 {
			direct = append(direct, sample(b, e.direct, address, a))
			tether = append(tether, sample(b, e.tether, address, a))
		} else {
			tether = append(tether, sample(b, e.tether, address, a))
			direct = append(direct, sample(b, e.direct, address, a))
		}
	}
	report(b, direct, tether)
}

func report(b *testing.B, direct, tether []figure) {
	of := func(all []figure, value func(figure) float64) (values []float64) {
		for _, f := range all {
			values = append(values, value(f))
		}
		return values
	}
	ns := func(f figure) float64 { return f.ns }
	cpu := func(f figure) float64 { return f.cpu }
	ratio := func(value func(figure) float64) figures.Spread {
		return figures.SpreadOf(figures.Paired(of(tether, value), of(direct, value), figures.Quotient))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(figures.SpreadOf(of(direct, ns)).Median, "direct-ns/job")
	b.ReportMetric(figures.SpreadOf(of(tether, ns)).Median, "tether-ns/job")
	r := ratio(ns)
	b.ReportMetric(r.Median, "ratio")
	b.ReportMetric(r.Q1, "ratio-q1")
	b.ReportMetric(r.Q3, "ratio-q3")
	b.ReportMetric(figures.SpreadOf(of(tether, cpu)).Median, "tether-cpu-ns/job")
	b.ReportMetric(ratio(cpu).Median, "cpu-ratio")
}

// sample opens a queue of its own, and does a with it once.
func sample(b testing.TB, open func(address, queue string) (*system, error), address string, a action) figure {
	b.Helper()
	s, err := open(address, "q"+strings.ToLower(rand.Text()[:12]))
	require.NoError(b, err)
	require.NoError(b, a.prepare(s, a.jobs))
	cpu, began := cputime.Used(), time.Now()
	finish, err := a.do(s, a.jobs)
	elapsed := time.Since(began)
	cpu = cputime.Used() - cpu
	require.NoError(b, err)
	require.NoError(b, finish())
	require.NoError(b, s.close())
	return figure{float64(elapsed) / float64(a.jobs), float64(cpu) / float64(a.jobs)}
}

// tetherOn uses an engine by package durable, with one job.
func tetherOn(e durable.Engine, closeEngine func() error) *system {
	var ran func(int)
	job := durable.Define("job", func(_ context.Context, p payload) error { ran(p.N); return nil }, durable.JobConfig{Timeout: time.Minute})
	return &system{
		enqueue: func(ctx context.Context, n int) error {
			_, err := job.Enqueue(ctx, e, payload{n})
			return err
		},
		work: func(atOnce int, f func(int)) (func() error, error) {
			ran = f
			log := slog.New(slog.DiscardHandler)
			reg := tether.New(tether.Config{Logger: log})
			w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: reg, Concurrency: atOnce, Logger: log}, job)
			if err != nil {
				return nil, err
			}
			if err := w.Start(context.Background()); err != nil {
				return nil, err
			}
			return func() error {
				if err := w.Stop(context.Background()); err != nil {
					return err
				}
				return reg.Shutdown(context.Background())
			}, nil
		},
		close: closeEngine,
	}
}

// Each engine runs every job, directly and by Tether.
func TestSystems(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			address := e.server(t).Address()
			for name, open := range map[string]func(string, string) (*system, error){"tether": e.tether, "direct": e.direct} {
				s, err := open(address, "q"+strings.ToLower(rand.Text()[:12]))
				require.NoError(t, err, name)
				const jobs = 40
				require.NoError(t, enqueueAll(s, jobs, 3))
				var mu sync.Mutex
				var ran []int
				all := make(chan struct{})
				stop, err := s.work(4, func(n int) {
					mu.Lock()
					defer mu.Unlock()
					if ran = append(ran, n); len(ran) == jobs {
						close(all)
					}
				})
				require.NoError(t, err, name)
				select {
				case <-all:
				case <-time.After(time.Minute):
					t.Fatal(name, ": not all jobs have run")
				}
				require.NoError(t, stop(), name)
				require.NoError(t, s.close(), name)
				want := make([]int, jobs)
				for i := range want {
					want[i] = i + 1
				}
				assert.ElementsMatch(t, want, ran, name)
			}
		})
	}
}

// A failed enqueue makes the sample invalid.
func TestEnqueueFails(t *testing.T) {
	s := &system{enqueue: func(_ context.Context, n int) error {
		if n == 5 {
			return assert.AnError
		}
		return nil
	}}
	assert.ErrorIs(t, enqueueAll(s, 10, 3), assert.AnError)
	assert.NoError(t, enqueueAll(s, 4, 3))
}
