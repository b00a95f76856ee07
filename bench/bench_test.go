package bench

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/seed-2e639f12/tether"
)

// candidate submits the empty task, whose end it counts down in done.
type candidate struct {
	name  string
	setUp func() (submit func(done *sync.WaitGroup), close func())
}

func raw() (func(*sync.WaitGroup), func()) {
	return func(done *sync.WaitGroup) { go done.Done() }, func() {}
}

func registry() (func(*sync.WaitGroup), func()) {
	reg := tether.New(tether.Config{})
	return submitTo(reg), drain(reg)
}

func pool(workers, queue int) func() (func(*sync.WaitGroup), func()) {
	return func() (func(*sync.WaitGroup), func()) {
		reg := tether.New(tether.Config{})
		p := reg.NewPool("pool", tether.PoolConfig{Workers: workers, Queue: queue})
		return submitTo(p), drain(reg)
	}
}

func submitTo(r tether.Runner) func(*sync.WaitGroup) {
	ctx := context.Background()
	return func(done *sync.WaitGroup) {
		_, err := r.Go(ctx, "empty", func(context.Context) error { done.Done(); return nil })
		if err != nil {
			panic(err)
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
	submit, stop := c.setUp()
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; {
		batch := min(left, max(10_000, 100*producers))
		left -= batch
		var done, submitted sync.WaitGroup
		done.Add(batch)
		for i := range producers {
			share := batch / producers
			if i < batch%producers {
				share++
			}
			if producers == 1 {
				for range share {
					submit(&done)
				}
				break
			}
			submitted.Go(func() {
				for range share {
					submit(&done)
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
