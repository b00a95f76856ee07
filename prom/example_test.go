package tetherprom_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

func Example() {
	metrics := tetherprom.New(tetherprom.Config{})
	reg := tether.New(tether.Config{Observer: metrics})
	metrics.Watch(reg)
	registerer := prometheus.NewRegistry() // or prometheus.MustRegister and promhttp.Handler
	registerer.MustRegister(metrics)
	server := httptest.NewServer(promhttp.HandlerFor(registerer, promhttp.HandlerOpts{}))
	defer server.Close()

	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 8, Queue: 1000, Overflow: tether.OverflowBlock})
	for range 3 {
		task, err := mail.Go(context.Background(), "welcome mail", func(context.Context) error { return nil })
		if err != nil {
			fmt.Println(err)
			return
		}
		<-task.Done()
	}

	resp, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if line := lines.Text(); strings.Contains(line, `state="succeeded"`) {
			fmt.Println(line)
		}
	}
	// Output:
	// tether_task_outcomes_total{pool="mail",state="succeeded",task="welcome mail"} 3
	// tether_tasks_ended_total{pool="",state="succeeded"} 0
	// tether_tasks_ended_total{pool="mail",state="succeeded"} 3
}

// To tell two registries apart, each has Metrics of its own, registered with a label.
func ExampleNew_registries() {
	registerer := prometheus.NewRegistry()
	for _, name := range []string{"api", "imports"} {
		metrics := tetherprom.New(tetherprom.Config{})
		prometheus.WrapRegistererWith(prometheus.Labels{"registry": name}, registerer).MustRegister(metrics)
		metrics.Watch(tether.New(tether.Config{Observer: metrics}))
	}
	families, err := registerer.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		if f.GetName() == "tether_ready" {
			for _, m := range f.Metric {
				fmt.Println(f.GetName(), m.Label[0].GetValue(), m.Gauge.GetValue())
			}
		}
	}
	// Output:
	// tether_ready api 1
	// tether_ready imports 1
}
