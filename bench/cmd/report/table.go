package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

const dash = "–"

// table is a Markdown table, of which the first row is the head.
type table [][]string

func (t table) String() string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range t {
		for k, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[k]-utf8.RuneCountInString(cell)) + " ")
		}
		b.WriteString("|\n")
		if i == 0 {
			b.WriteString(rule(widths))
		}
	}
	return b.String()
}

// rule aligns the first column to the left and the figures to the right.
func rule(widths []int) string {
	var b strings.Builder
	for i, w := range widths {
		if i == 0 {
			b.WriteString("|" + strings.Repeat("-", w+2))
		} else {
			b.WriteString("|" + strings.Repeat("-", w+1) + ":")
		}
	}
	return b.String() + "|\n"
}

// detail is all that is known of one workload, of those that have what it takes.
func (r result) detail() table {
	best := r.bestPeer()
	if r.workload.Compare == workload.Difference {
		best = ""
	}
	head := []string{"", r.workload.Metric, r.sign() + r.workload.Baseline}
	if best != "" {
		head = append(head, r.sign()+best)
	}
	metrics := r.shown()
	t := table{append(head, metrics...)}
	for _, c := range everybody([]result{r}) {
		row := []string{label(c), r.metric(c.Name, r.workload.Metric).String(), r.against(c.Name, r.workload.Baseline).String()}
		if best != "" {
			row = append(row, r.against(c.Name, best).String())
		}
		for _, m := range metrics {
			row = append(row, figure(r.metric(c.Name, m).median))
		}
		t = append(t, row)
	}
	return t
}

// sign says what the comparison is: a multiple, or what comes on top.
func (r result) sign() string {
	if r.workload.Compare == workload.Difference {
		return "over "
	}
	return "× "
}

// shown are the metrics beside the compared one.
func (r result) shown() []string {
	metrics := slices.Clone(r.workload.Extra)
	if r.workload.Metric == workload.NsPerOp {
		metrics = append(metrics, bytesPerOp, allocsPerOp)
	}
	if r.workload.Isolated {
		metrics = append(metrics, peakRSS)
	}
	return metrics
}

// overview has one column for each workload of a family: the medians against the
// baseline.
func overview(results []result) table {
	against := func(r result) string { return r.sign() + r.workload.Baseline }
	all := against(results[0])
	if slices.ContainsFunc(results, func(r result) bool { return against(r) != all }) {
		all = ""
	}
	head := []string{all}
	for _, r := range results {
		name := r.workload.Name
		if all == "" {
			name += " " + against(r)
		}
		head = append(head, name)
	}
	t := table{head}
	for _, c := range everybody(results) {
		row := []string{label(c)}
		for _, r := range results {
			row = append(row, figure(r.against(c.Name, r.workload.Baseline).median))
		}
		t = append(t, row)
	}
	return t
}

// everybody are the candidates that have a figure in one of the results, in the
// order in which the workloads name them.
func everybody(results []result) (all []peers.Candidate) {
	measured := map[string]bool{}
	for _, r := range results {
		for _, c := range r.candidates {
			if !slices.ContainsFunc(all, func(a peers.Candidate) bool { return a.Name == c.Name }) {
				all = append(all, c)
			}
			measured[c.Name] = measured[c.Name] || len(r.samples[c.Name]) > 0
		}
	}
	return slices.DeleteFunc(all, func(c peers.Candidate) bool { return !measured[c.Name] })
}

func label(c peers.Candidate) string {
	if c.Kind == peers.Ours {
		return "**" + c.Name + "**"
	}
	return c.Name
}

func (s spread) String() string {
	if math.IsNaN(s.median) {
		return dash
	}
	return fmt.Sprintf("%s [%s, %s]", figure(s.median), figure(s.q1), figure(s.q3))
}

// figure has the digits that are worth reading.
func figure(v float64) string {
	digits := 2
	switch size := math.Abs(v); {
	case math.IsNaN(v):
		return dash
	case size >= 100:
		digits = 0
	case size >= 10:
		digits = 1
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(text, "-0.") == "" {
		return "0"
	}
	return text
}
