package durable_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// BenchmarkGo measures what a job that runs in the process costs beyond a task of a pool: an
// empty task, one with a Timeout, whose body uses its context, as most do, and one with all that
// a job's task has. Args that are plain are not encoded.
func BenchmarkGo(b *testing.B) {
	const workers = 4
	job := durable.Define("invoice", succeed, durable.JobConfig{Timeout: time.Minute})
	waiting := durable.Define("invoice", func(ctx context.Context, _ order) error {
		ctx.Done()
		return nil
	}, durable.JobConfig{Timeout: time.Minute})
	encoded := durable.Define("invoice", func(context.Context, []int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	engine := newMemory()
	for _, c := range []struct {
		name   string
		submit func(*tether.Pool) error
	}{
		{"task", func(p *tether.Pool) error {
			_, err := p.Go(background, "invoice", func(context.Context) error { return nil })
			return err
		}},
		{"task that uses its context", func(p *tether.Pool) error {
			_, err := p.Go(background, "invoice", func(ctx context.Context) error {
				ctx.Done()
				return nil
			}, tether.Timeout(time.Minute))
			return err
		}},
		{"task with the options of a job", func(p *tether.Pool) error {
			_, err := p.Go(background, "invoice", func(context.Context) error { return nil }, tether.Timeout(time.Minute),
				tether.HandOver(func(context.Context, tether.Info) error { return nil }), tether.Label("job", rand.Text()))
			return err
		}},
		{"job", func(p *tether.Pool) error {
			_, err := job.Go(background, p, engine, order{5})
			return err
		}},
		{"job that must be encoded", func(p *tether.Pool) error {
			_, err := encoded.Go(background, p, engine, []int{5})
			return err
		}},
		{"job that uses its context", func(p *tether.Pool) error {
			_, err := waiting.Go(background, p, engine, order{5})
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			reg := tether.New(tether.Config{})
			pool := reg.NewPool("jobs", tether.PoolConfig{Workers: workers, Queue: 1000, Overflow: tether.OverflowBlock})
			b.ReportAllocs()
			for b.Loop() {
				if err := c.submit(pool); err != nil {
					b.Fatal(err)
				}
			}
			if err := reg.Shutdown(background); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkWorker measures what a worker adds to a delivery, and what a handler whose
// context is used adds to that.
func BenchmarkWorker(b *testing.B) {
	for _, c := range []struct {
		name    string
		handler handler
	}{
		{"empty", succeed},
		{"uses its context", func(ctx context.Context, _ order) error {
			ctx.Done()
			return nil
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			engine := newMemory()
			reg := tether.New(tether.Config{})
			w, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 4},
				durable.Define("invoice", c.handler, durable.JobConfig{Timeout: time.Minute}))
			if err != nil {
				b.Fatal(err)
			}
			if err := w.Start(background); err != nil {
				b.Fatal(err)
			}
			consumer := engine.consumer()
			m := durable.Message{ID: "id", Name: "invoice", Args: []byte(`{"order":5}`)}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if out := consumer.asked.Handle(consumer.ctx, durable.Delivery{Message: m, Attempt: 1}); out.Verdict != durable.Done {
						b.Error(out)
					}
				}
			})
			if err := w.Stop(background); err != nil {
				b.Fatal(err)
			}
			if err := reg.Shutdown(background); err != nil {
				b.Fatal(err)
			}
		})
	}
}
