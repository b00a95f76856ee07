package main

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/bench/internal/load"
	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// TestMain lets the test binary be the client of W15.
func TestMain(m *testing.M) {
	load.Main()
	// The ants package starts a pool when it is imported and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func made() result {
	values := func(v ...float64) (samples []sample.Sample) {
		for _, x := range v {
			samples = append(samples, sample.Sample{workload.NsPerOp: x, sample.BytesPerOp: 16})
		}
		return samples
	}
	return result{
		family:   workload.Family{ID: "W0", Title: "A test"},
		workload: workload.Workload{Name: "x", Metric: workload.NsPerOp, Baseline: "go"},
		candidates: []peers.Candidate{
			{Name: "go", Kind: peers.Baseline}, {Name: "tether", Kind: peers.Ours},
			{Name: "slow"}, {Name: "fast"}, {Name: "absent"},
		},
		samples: map[string][]sample.Sample{
			"go": values(100, 1000, 300), "tether": values(50, 500, 150),
			"slow": values(200, 2000, 600), "fast": values(90, 900, 270),
		},
		n: 10, reps: 3,
	}
}

func TestResult(t *testing.T) {
	r := made()
	assert.Equal(t, figures.Spread{Q1: .5, Median: .5, Q3: .5}, r.against("tether", "go"))
	assert.Equal(t, "fast", r.bestPeer(), "neither the baseline nor Tether is a peer")
	assert.Equal(t, figures.Spread{Q1: 200, Median: 300, Q3: 650}, r.metric("go", workload.NsPerOp))
	assert.True(t, math.IsNaN(r.against("absent", "go").Median))
	assert.Equal(t, []string{"absent"}, r.absent())
	r.workload.Compare = workload.Difference
	assert.Equal(t, figures.Spread{Q1: -325, Median: -150, Q3: -100}, r.against("tether", "go"))
}

func TestTables(t *testing.T) {
	r := made()
	assert.Equal(t, figures.Table{
		{"", "ns/op", "× go", "× fast", "B/op", "allocs/op"},
		{"go", "300 [200, 650]", "1.00 [1.00, 1.00]", "1.11 [1.11, 1.11]", "16.0", figures.Dash},
		{"**tether**", "150 [100, 325]", "0.50 [0.50, 0.50]", "0.56 [0.56, 0.56]", "16.0", figures.Dash},
		{"slow", "600 [400, 1300]", "2.00 [2.00, 2.00]", "2.22 [2.22, 2.22]", "16.0", figures.Dash},
		{"fast", "270 [180, 585]", "0.90 [0.90, 0.90]", "1.00 [1.00, 1.00]", "16.0", figures.Dash},
	}, r.detail())
	other := made()
	other.workload.Name = "y"
	delete(other.samples, "slow")
	assert.Equal(t, figures.Table{
		{"× go", "x", "y"},
		{"go", "1.00", "1.00"},
		{"**tether**", "0.50", "0.50"},
		{"slow", "2.00", figures.Dash},
		{"fast", "0.90", "0.90"},
	}, overview([]result{r, other}, ""), "a candidate that lacks both is not there")
	other.workload.Metric = sample.BytesPerOp
	assert.Equal(t, []string{"**tether**", "0.50", "1.00"}, overview([]result{r, other}, "")[2], "each has its own metric")
	r.workload.Also = []string{sample.BytesPerOp}
	assert.Equal(t, []string{"", "ns/op", "× go", "× fast", "B/op", "× go", "B/op", "allocs/op"}, r.detail()[0])
	assert.Equal(t, []string{"slow", "16.0 [16.0, 16.0]", "1.00 [1.00, 1.00]"}, []string{r.detail()[3][0], r.detail()[3][4], r.detail()[3][5]})
	text := overviews([]result{r, r})
	assert.Contains(t, text, "**ns/op**\n\n| × go       | x    | x    |")
	assert.Contains(t, text, "**B/op**\n\n| × go       | x    | x    |")
	assert.Equal(t, `|        | × go |
|--------|-----:|
| tether | 0.50 |
| a      | –    |
`, figures.Table{{"", "× go"}, {"tether", "0.50"}, {"a", figures.Dash}}.String())
}

func TestDecades(t *testing.T) {
	var labels []string
	for _, tick := range decades(.15, 25) {
		labels = append(labels, tick.Label)
	}
	assert.Equal(t, []string{"0.2", "0.5", "1", "2", "5", "10", "20"}, labels)
}

func TestPlanWants(t *testing.T) {
	w := workload.Workload{Name: "limit=2/producers=1"}
	long := workload.Workload{Name: "limit=2/long", Long: true}
	for _, tt := range []struct {
		p           plan
		want, alsoL bool
	}{
		{plan{}, true, false},
		{plan{long: true}, true, true},
		{plan{workloads: []string{"W2"}}, true, false},
		{plan{workloads: []string{"W"}}, false, false},
		{plan{workloads: []string{"W1", "W2/limit=2"}}, true, false},
		{plan{workloads: []string{"W2/limit=2/long"}}, false, true},
		{plan{workloads: []string{"W2/limit=20"}}, false, false},
	} {
		assert.Equal(t, tt.want, tt.p.wants("W2", w), tt.p.workloads)
		assert.Equal(t, tt.alsoL, tt.p.wants("W2", long), tt.p.workloads)
	}
}

// A candidate that fails once has a dash, whatever it measured before.
func TestFailedCandidateIsOut(t *testing.T) {
	runs := map[string]int{}
	w := workload.Workload{
		Name: "x", N: 10, Metric: workload.NsPerOp, Baseline: "go",
		Candidates: func() []peers.Candidate {
			return []peers.Candidate{{Name: "go"}, {Name: "fails"}, {Name: "lacks"}}
		},
		Run: func(m workload.Meter, c peers.Candidate, n int) error {
			runs[c.Name]++
			if c.Name == "lacks" {
				return workload.ErrLacks
			}
			if c.Name == "fails" && runs[c.Name] > 2 {
				return errors.New("lost a task")
			}
			m.StartTimer()
			m.StopTimer()
			return nil
		},
	}
	var log bytes.Buffer
	r := plan{reps: 5, log: &log}.run(workload.Family{ID: "W0"}, w)
	assert.Len(t, r.samples["go"], 5)
	assert.NotContains(t, r.samples, "fails")
	assert.NotContains(t, r.samples, "lacks")
	assert.Equal(t, 1, runs["lacks"])
	assert.Contains(t, log.String(), "W0/x: fails is out: lost a task")
}

func TestReport(t *testing.T) {
	out := t.TempDir()
	var stdout bytes.Buffer
	args := []string{"-quick", "-out", out, "-workloads", "W1,W6,W7/reject,W12", "-candidates", "tether,pond"}
	require.NoError(t, run(args, &stdout, io.Discard))
	assert.Contains(t, stdout.String(), "**W1/producers=1000** (1 repetitions of 2000)")
	text, err := os.ReadFile(filepath.Join(out, "RESULTS.md"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "![An empty task, no limit](plots/W1.svg)")
	assert.Contains(t, string(text), "| pond ")
	assert.NotContains(t, string(text), "| ants ")
	for _, family := range []string{"W1", "W6", "W7", "W12"} {
		svg, err := os.ReadFile(filepath.Join(out, "plots", family+".svg"))
		require.NoError(t, err)
		assert.Contains(t, string(svg), "<svg")
	}
}

func TestReportRefuses(t *testing.T) {
	assert.ErrorContains(t, run([]string{"-workloads", "W99"}, io.Discard, io.Discard), "no such workload")
	assert.ErrorContains(t, run([]string{"-workloads", "W1", "-out", "nowhere"}, io.Discard, io.Discard), "nowhere")
}
