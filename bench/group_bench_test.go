package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/sourcegraph/conc/pool"
	"golang.org/x/sync/errgroup"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/group"
)

// BenchmarkGroup starts 100 children and waits for them: bodies that are empty, and that
// work for a microsecond or ten. cpu-us/op is the processor time of the process.
func BenchmarkGroup(b *testing.B) {
	const children = 100
	reg := tether.New(tether.Config{})
	limited := reg.NewPool("limited", tether.PoolConfig{Workers: 10, Queue: tether.Unbounded})
	ctx := context.Background()
	for _, work := range []int{0, 1, 10} {
		body := func(context.Context) error {
			spin(work)
			return nil
		}
		groupOf := func(ctx context.Context, to tether.Submitter) {
			g := group.New(ctx, to, "child")
			for range children {
				g.Go(body)
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}
		errgroupOf := func(limit int) {
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(limit)
			for range children {
				g.Go(func() error { return body(ctx) })
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}
		concOf := func(p *pool.Pool) {
			g := p.WithContext(ctx).WithCancelOnError()
			for range children {
				g.Go(body)
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}
		run := func(kind string, loop func(b *testing.B)) {
			b.Run(fmt.Sprintf("work=%dus/%s", work, kind), func(b *testing.B) {
				b.ReportAllocs()
				before := cputime.Used()
				loop(b)
				b.ReportMetric(float64((cputime.Used()-before).Microseconds())/float64(b.N), "cpu-us/op")
			})
		}
		each := func(f func()) func(b *testing.B) {
			return func(b *testing.B) {
				for b.Loop() {
					f()
				}
			}
		}
		run("errgroup", each(func() { errgroupOf(-1) }))
		run("conc", each(func() { concOf(pool.New()) }))
		run("tether", each(func() { groupOf(ctx, reg) }))
		run("tether-in-a-task", func(b *testing.B) {
			t, err := reg.Go(ctx, "parent", func(ctx context.Context) error {
				for b.Loop() {
					groupOf(ctx, reg)
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := t.Wait(ctx); err != nil {
				b.Fatal(err)
			}
		})
		run("errgroup-limit-10", each(func() { errgroupOf(10) }))
		run("conc-limit-10", each(func() { concOf(pool.New().WithMaxGoroutines(10)) }))
		run("tether-pool-of-10", each(func() { groupOf(ctx, limited) }))
	}
}

// spin keeps a processor busy for about so many microseconds.
func spin(us int) {
	x := uint64(1)
	for range us * 500 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	if x == 0 {
		panic("it never is")
	}
}
