package bench

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/seed-2e639f12/tether"
)

// candidate runs the empty task. For each batch it is given what the task has to
// call, once, and returns how one is submitted: no candidate pays for closures.
type candidate struct {
	name  string
	setUp func() (batch func(done func()) (submit func()), stop func())
}

func raw() (func(func()) func(), func()) {
	return func(done func()) func() { return func() { go done() } }, func() {}
}

func registry() (func(func()) func(), func()) {
	reg := newRegistry()
	return submitTo(reg), drain(reg)
}

func pool(workers, queue int) func() (func(func()) func(), func()) {
	return func() (func(func()) func(), func()) {
		reg := newRegistry()
		p := reg.NewPool("pool", tether.PoolConfig{Workers: workers, Queue: queue})
		return submitTo(p), drain(reg)
	}
}

func newRegistry() *tether.Registry {
	return tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)}) // the drain's lines are not the benchmark's
}

func submitTo(r tether.Runner) func(func()) func() {
	ctx := context.Background()
	return func(done func()) func() {
		body := func(context.Context) error { done(); return nil }
		return func() {
			if _, err := r.Go(ctx, "empty", body); err != nil {
				panic(err)
			}
		}
	}
}

func drain(reg *tether.Registry) func() {
	return func() {
		if err := reg.Shutdown(context.Background()); err != nil {
			panic(err)
		}
	}
}

// submitAll has producers submit b.N empty tasks in batches, and waits for each batch.
func submitAll(b *testing.B, c candidate, producers int) {
	forBatch, stop := c.setUp()
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; {
		batch := min(left, max(10_000, 100*producers))
		left -= batch
		var done, submitted sync.WaitGroup
		done.Add(batch)
		submit := forBatch(done.Done)
		for i := range producers {
			share := batch / producers
			if i < batch%producers {
				share++
			}
			if producers == 1 {
				for range share {
					submit()
				}
				break
			}
			submitted.Go(func() {
				for range share {
					submit()
				}
			})
		}
		submitted.Wait()
		done.Wait()
	}
	b.StopTimer()
	stop()
}

// BenchmarkEmpty is an empty task, by how many submit at once.
func BenchmarkEmpty(b *testing.B) {
	for _, producers := range []int{1, runtime.GOMAXPROCS(0), 1000} {
		b.Run("producers="+strconv.Itoa(producers), func(b *testing.B) {
			for _, c := range []candidate{
				{"go", raw},
				{"registry", registry},
				{"pool=2", pool(2, tether.Unbounded)},
				{"pool=1000", pool(1000, tether.Unbounded)},
				{"pool=1000,queue=1024", pool(1000, 1024)},
			} {
				b.Run(c.name, func(b *testing.B) { submitAll(b, c, producers) })
			}
		})
	}
}
