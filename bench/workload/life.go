package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"slices"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/bench/internal/tick"
	"github.com/seed-2e639f12/tether/bench/peers"
)

// TaskCPU is CPUPerOp without the CPU time of the ticks.
const TaskCPU = "task-cpu-ns/op"

func lifelike() Family {
	f := Family{
		ID: "W14", Title: "Tasks as services have them, one at a time",
		About: "`life`: a task decodes an order from JSON, renders it with html/template, encodes both as JSON and computes the SHA-256 of that. " +
			"`empty`: a task does nothing. A task is submitted every 500 µs or every 2 ms, by a goroutine that waits for the network poller in between, as a server's goroutine does. " +
			"The CPU time is that of the whole process divided by the number of tasks; it includes the bodies. `" + TaskCPU + "` is what is left of it without that of the ticks, which is measured just before, without tasks: " +
			"on a virtual machine it can be the greater part. The percentiles are of the time from the submission to the start, in microseconds.",
	}
	for _, v := range []struct {
		name string
		work func() error
		gap  time.Duration
		n    int
	}{
		{"life", lifeTask, 500 * time.Microsecond, 1_000},
		{"life", lifeTask, 2 * time.Millisecond, 300},
		{"empty", func() error { return nil }, 500 * time.Microsecond, 1_000},
	} {
		for _, place := range []struct {
			name string
			sys  system
		}{
			{"no-limit", unlimited},
			{"limit=16", limited(16)},
		} {
			f.Workloads = append(f.Workloads, Workload{
				Name: v.name + "/every-" + v.gap.String() + "/" + place.name,
				N:    v.n, Quick: 10, Reps: 10,
				Metric: CPUPerOp, Also: []string{TaskCPU, P50, P99}, Baseline: goStatement,
				Run: oneByOne(place.sys, v.gap, v.work),
			})
		}
	}
	return f
}

// oneByOne submits a task at each tick. A submitter that was held up does not make up
// for the ticks that it has missed. All tasks are made before the first is submitted.
func oneByOne(sys system, gap time.Duration, work func() error) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := sys(c)
		if err != nil {
			return err
		}
		ticks, err := tick.New(gap)
		if err != nil {
			return errors.Join(err, s.Close())
		}
		defer ticks.Close()
		submitted, waited := make([]time.Time, n), make([]time.Duration, n)
		submits, failed := make([]func() error, n), make([]error, n)
		var left sync.WaitGroup
		left.Add(n)
		for i := range n {
			submits[i] = s.Task(func() {
				waited[i] = time.Since(submitted[i])
				failed[i] = work()
				left.Done()
			})
		}
		ticksAlone := cputime.Used()
		for range n {
			if _, err := ticks.Wait(); err != nil {
				return errors.Join(err, s.Close())
			}
		}
		ticksAlone = cputime.Used() - ticksAlone
		m.StartTimer()
		cpu := cputime.Used()
		for i, submit := range submits {
			if _, err = ticks.Wait(); err == nil {
				submitted[i] = time.Now()
				err = submit()
			}
			if err != nil {
				left.Add(i - n)
				break
			}
		}
		left.Wait()
		cpu = cputime.Used() - cpu
		m.StopTimer()
		if cpu > 0 {
			m.ReportMetric(float64(cpu)/float64(n), CPUPerOp)
			m.ReportMetric(float64(cpu-ticksAlone)/float64(n), TaskCPU)
		}
		reportPercentiles(m, waited, map[string]float64{P50: .5, P99: .99})
		return errors.Join(err, errors.Join(failed...), s.Close())
	}
}

// reportPercentiles sorts the times.
func reportPercentiles(m Meter, times []time.Duration, percentiles map[string]float64) {
	slices.Sort(times)
	for unit, q := range percentiles {
		m.ReportMetric(float64(times[int(q*float64(len(times)-1))])/float64(time.Microsecond), unit)
	}
}

// lifeTask does what the tasks of a service do: it decodes, renders, encodes and hashes.
func lifeTask() error { return bill(orderJSON()) }

// bill returns an error if the invoice is not the one of orderJSON.
func bill(orderJSON []byte) error {
	text, err := invoiceOf(orderJSON)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(text); sum != invoiceSum() {
		return fmt.Errorf("workload: the invoice has the SHA-256 %x", sum)
	}
	return nil
}

type (
	order struct {
		ID       string      `json:"id"`
		Customer string      `json:"customer"`
		Address  []string    `json:"address"`
		Lines    []orderLine `json:"lines"`
	}
	orderLine struct {
		Item     string `json:"item"`
		Quantity int    `json:"quantity"`
		Cents    int    `json:"cents"`
	}
	invoice struct {
		Order order  `json:"order"`
		Total int    `json:"total"`
		HTML  string `json:"html"`
	}
)

// Price returns the price of the line in cents.
func (l orderLine) Price() int { return l.Quantity * l.Cents }

var invoiceTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("invoice").Parse(`<!DOCTYPE html>
<title>Invoice {{.Order.ID}}</title>
<p>{{.Order.Customer}}{{range .Order.Address}}<br>{{.}}{{end}}</p>
<table>
{{range .Order.Lines}}<tr><td><a href="/items?name={{.Item}}">{{.Item}}</a><td>{{.Quantity}}<td>{{.Price}}</tr>
{{end}}</table>
<p>Total: {{.Total}}</p>
`))
})

// invoiceOf returns the invoice in JSON.
func invoiceOf(orderJSON []byte) ([]byte, error) {
	var in invoice
	if err := json.Unmarshal(orderJSON, &in.Order); err != nil {
		return nil, err
	}
	for _, line := range in.Order.Lines {
		in.Total += line.Price()
	}
	var html bytes.Buffer
	if err := invoiceTemplate().Execute(&html, in); err != nil {
		return nil, err
	}
	in.HTML = html.String()
	return json.Marshal(in)
}

var orderJSON = sync.OnceValue(func() []byte {
	o := order{
		ID: "2026-000042", Customer: "Müller & Daughters", Address: []string{"12 <Old> Bridge Street", "1010 Vienna"},
	}
	for i := range 3 {
		o.Lines = append(o.Lines, orderLine{Item: fmt.Sprintf("Item no. %d, \"large\"", i), Quantity: i + 1, Cents: 995 + 100*i})
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // a struct of strings and numbers can be encoded
	}
	return text
})

var invoiceSum = sync.OnceValue(func() [sha256.Size]byte {
	text, err := invoiceOf(orderJSON())
	if err != nil {
		panic(err) // the order is the same in every run
	}
	return sha256.Sum256(text)
})
