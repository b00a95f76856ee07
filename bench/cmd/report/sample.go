package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

const (
	bytesPerOp  = "B/op"
	allocsPerOp = "allocs/op"
	peakRSS     = "peak-RSS-MiB"
)

// sample is what was measured in one run of one candidate, by metric.
type sample map[string]float64

// stopwatch is the workload.Meter of the report.
type stopwatch struct {
	sample         sample
	n              int
	began          time.Time
	cpu            time.Duration
	mallocs, bytes uint64
}

// measure runs a workload once, in a heap without the garbage of the one before.
func measure(w workload.Workload, c peers.Candidate, n int) (sample, error) {
	s := &stopwatch{sample: sample{}, n: n}
	runtime.GC()
	if err := w.Run(s, c, n); err != nil {
		return nil, err
	}
	return s.sample, nil
}

func (s *stopwatch) StartTimer() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.mallocs, s.bytes = m.Mallocs, m.TotalAlloc
	s.cpu = cpuTime()
	s.began = time.Now()
}

func (s *stopwatch) StopTimer() {
	elapsed, cpu := time.Since(s.began), cpuTime()-s.cpu
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.add(workload.NsPerOp, float64(elapsed))
	s.add(bytesPerOp, float64(m.TotalAlloc-s.bytes))
	s.add(allocsPerOp, float64(m.Mallocs-s.mallocs))
	if cpu > 0 {
		s.add(workload.CPUPerOp, float64(cpu))
	}
}

func (s *stopwatch) add(metric string, total float64) {
	s.sample[metric] += total / float64(s.n)
}

func (s *stopwatch) ReportMetric(value float64, unit string) { s.sample[unit] = value }

// What a child process is told, and what it answers.
type (
	childTask struct {
		Workload, Candidate string
		N                   int
	}
	childAnswer struct {
		Sample sample
		Lacks  bool
		Err    string
	}
)

// measureApart measures in a process of its own, whose peak of memory is that of
// the one sample.
func measureApart(id string, c peers.Candidate, n int) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	task, err := json.Marshal(childTask{id, c.Name, n})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-child", string(task))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s of %s in a process of its own: %w", id, c.Name, err)
	}
	var answer childAnswer
	switch err := json.Unmarshal(out, &answer); {
	case err != nil:
		return nil, err
	case answer.Lacks:
		return nil, workload.ErrLacks
	case answer.Err != "":
		return nil, errors.New(answer.Err)
	}
	return answer.Sample, nil
}

// serveChild is the child's side.
func serveChild(task string, out io.Writer) error {
	var t childTask
	if err := json.Unmarshal([]byte(task), &t); err != nil {
		return err
	}
	w, c, err := find(t.Workload, t.Candidate)
	if err != nil {
		return err
	}
	var answer childAnswer
	answer.Sample, err = measure(w, c, t.N)
	switch {
	case errors.Is(err, workload.ErrLacks):
		answer.Lacks = true
	case err != nil:
		answer.Err = err.Error()
	default:
		if peak, ok := highWater(); ok {
			answer.Sample[peakRSS] = peak
		}
	}
	return json.NewEncoder(out).Encode(answer)
}

func find(id, candidate string) (workload.Workload, peers.Candidate, error) {
	for _, f := range workload.All() {
		for _, w := range f.Workloads {
			if f.ID+"/"+w.Name != id {
				continue
			}
			for _, c := range w.Who() {
				if c.Name == candidate {
					return w, c, nil
				}
			}
		}
	}
	return workload.Workload{}, peers.Candidate{}, fmt.Errorf("no candidate %q of a workload %q", candidate, id)
}

// highWater is the most memory that this process has had, in MiB. It is read from
// /proc and not with getrusage, whose figure starts with what the parent had when it
// started the child.
func highWater() (float64, bool) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, err == nil
		}
	}
	return 0, false
}
