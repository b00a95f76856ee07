package tetherprom_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

// Names beyond the first two are counted together, and times have buckets of the
// program's choice.
func ExampleConfig() {
	metrics := tetherprom.New(tetherprom.Config{
		MaxNames:                    2,
		Buckets:                     []float64{0.1, 1, 10},
		NativeHistogramBucketFactor: 1.1,
	})
	reg := tether.New(tether.Config{Observer: metrics})
	metrics.Watch(reg)
	registerer := prometheus.NewRegistry()
	registerer.MustRegister(metrics)
	for _, name := range []string{"welcome mail", "invoice", "thumbnail", "import"} {
		task, err := reg.Go(context.Background(), name, func(context.Context) error { return nil })
		if err != nil {
			panic(err)
		}
		<-task.Done()
	}

	families, err := registerer.Gather()
	if err != nil {
		panic(err)
	}
	for _, family := range families {
		if family.GetName() != "tether_task_run_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetValue() == tetherprom.Other {
					fmt.Println(tetherprom.Other, m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	// Output: other 2
}

// The largest share of a pool has a series of its own, and the others are counted together.
func ExampleConfig_shares() {
	metrics := tetherprom.New(tetherprom.Config{Shares: 1})
	reg := tether.New(tether.Config{Observer: metrics})
	metrics.Watch(reg)
	registerer := prometheus.NewRegistry()
	registerer.MustRegister(metrics)
	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 1000})
	mail.Pause()
	for tenant, n := range map[string]int{"acme": 7, "initech": 2, "umbrella": 1} {
		for range n {
			_, err := mail.Go(context.Background(), "welcome mail", func(context.Context) error { return nil }, tether.Share(tenant))
			if err != nil {
				panic(err)
			}
		}
	}

	families, err := registerer.Gather()
	if err != nil {
		panic(err)
	}
	for _, family := range families {
		if family.GetName() != "tether_pool_share_tasks" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["state"] == "queued" {
				fmt.Println(labels["share"], m.GetGauge().GetValue())
			}
		}
	}
	// Output:
	// acme 7
	// other 3
}
