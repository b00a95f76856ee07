package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/bench/internal/load"
	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of W15, in microseconds.
const (
	ResponseP50 = "response-p50-µs"
	ResponseP99 = "response-p99-µs"
)

const responseSize = 1000 // bytes

func service() Family {
	f := Family{
		ID: "W15", Title: "An HTTP service with a task after each response",
		About: "The handler of a `net/http` server writes a response of 1 kB and submits a task, the one of W14's `life`. " +
			"A client in a process of its own sends requests at a constant rate, whatever the server does. " +
			"The CPU time is that of the server's process divided by the number of requests; it includes net/http and the bodies of the tasks. " +
			"The client measures the response times, from the instant at which a request was due, in microseconds.",
	}
	for _, rate := range []int{1000, 4000} { // requests per second
		for _, place := range []struct {
			name string
			sys  system
		}{
			{"no-limit", unlimited},
			{"limit=16", limited(16)},
		} {
			f.Workloads = append(f.Workloads, Workload{
				Name: "rate=" + strconv.Itoa(rate) + "/" + place.name,
				N:    rate, Quick: 10, Reps: 10,
				Metric: CPUPerOp, Also: []string{ResponseP50, ResponseP99}, Baseline: goStatement,
				Run: requests(place.sys, time.Second/time.Duration(rate), lifeTask),
			})
		}
	}
	return f
}

// requests has n requests answered, each with a task after it.
func requests(sys system, gap time.Duration, work func() error) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		s, err := sys(c)
		if err != nil {
			return err
		}
		var ended, failed atomic.Int64
		server, url, err := serveTasks(taskIn(s, func() {
			if work() != nil {
				failed.Add(1)
			}
			ended.Add(1)
		}))
		if err != nil {
			return errors.Join(err, s.Close())
		}
		err = underLoad(m, load.Config{URL: url + "/", Warmup: url + "/warm-up", Gap: gap, N: n, Size: responseSize}, &ended)
		if k := failed.Load(); k > 0 {
			err = errors.Join(err, fmt.Errorf("workload: %d tasks have not done their work", k))
		}
		return errors.Join(err, server.Shutdown(context.Background()), s.Close())
	}
}

func taskIn(s *peers.System, body func()) func(context.Context) error {
	if s.TaskIn != nil {
		return s.TaskIn(body)
	}
	submit := s.Task(body)
	return func(context.Context) error { return submit() }
}

// underLoad measures from the first request to the end of the last task.
func underLoad(m Meter, cfg load.Config, ended *atomic.Int64) error {
	client, err := load.Start(cfg)
	if err != nil {
		return err
	}
	m.StartTimer()
	cpu := cputime.Used()
	res, err := client.Run()
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("workload: %d of %d requests have failed: %s", res.Failed, cfg.N, res.Failure)
	}
	if err == nil {
		await(ended, cfg.N)
	}
	cpu = cputime.Used() - cpu
	m.StopTimer()
	if cpu > 0 {
		m.ReportMetric(float64(cpu)/float64(cfg.N), CPUPerOp)
	}
	m.ReportMetric(float64(res.P50)/float64(time.Microsecond), ResponseP50)
	m.ReportMetric(float64(res.P99)/float64(time.Microsecond), ResponseP99)
	return errors.Join(err, client.Close())
}

// serveTasks starts the service.
func serveTasks(submit func(context.Context) error) (server *http.Server, url string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	response := bytes.Repeat([]byte("0123456789"), responseSize/10)
	var mux http.ServeMux
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write(response) // net/http sends it when the handler returns
		if err := submit(r.Context()); err != nil {
			panic(http.ErrAbortHandler) // the client sees a failure
		}
	})
	mux.Handle("POST /warm-up", together(load.Connections))
	server = &http.Server{Handler: &mux}
	go server.Serve(listener)
	return server, "http://" + listener.Addr().String(), nil
}

// together answers requests when n of them are there, so that each has a connection of
// its own.
func together(n int) http.Handler {
	var all sync.WaitGroup
	all.Add(n)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		all.Done()
		all.Wait()
		w.WriteHeader(http.StatusOK)
	})
}
