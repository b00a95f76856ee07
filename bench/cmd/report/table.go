package main

import (
	"cmp"
	"slices"

	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// detail is the table of one workload, without the candidates that lack what it needs.
func (r result) detail() figures.Table {
	best := r.bestPeer()
	if r.workload.Compare == workload.Difference {
		best = ""
	}
	head := []string{"", r.workload.Metric, r.sign() + r.workload.Baseline}
	if best != "" {
		head = append(head, r.sign()+best)
	}
	for _, m := range r.workload.Also {
		head = append(head, m, r.sign()+r.workload.Baseline)
	}
	metrics := r.shown()
	t := figures.Table{append(head, metrics...)}
	for _, c := range candidatesOf([]result{r}) {
		row := []string{label(c), r.metric(c.Name, r.workload.Metric).String(), r.against(c.Name, r.workload.Baseline).String()}
		if best != "" {
			row = append(row, r.against(c.Name, best).String())
		}
		for _, m := range r.workload.Also {
			row = append(row, r.metric(c.Name, m).String(), r.compared(m, c.Name, r.workload.Baseline).String())
		}
		for _, m := range metrics {
			row = append(row, figures.Format(r.metric(c.Name, m).Median))
		}
		t = append(t, row)
	}
	return t
}

// sign precedes the name of the baseline: a multiple of it, or a difference to it.
func (r result) sign() string {
	if r.workload.Compare == workload.Difference {
		return "over "
	}
	return "× "
}

// shown returns the metrics that are not compared.
func (r result) shown() []string {
	metrics := slices.Clone(r.workload.Extra)
	if r.workload.Metric == workload.NsPerOp {
		metrics = append(metrics, sample.BytesPerOp, sample.AllocsPerOp)
	}
	if r.workload.Isolated {
		metrics = append(metrics, sample.PeakRSS)
	}
	return metrics
}

// overviews has a table for each compared metric of a family.
func overviews(results []result) string {
	also := results[0].workload.Also
	if len(also) == 0 {
		return overview(results, "").String()
	}
	text := "**" + results[0].workload.Metric + "**\n\n" + overview(results, "").String() + "\n"
	for _, m := range also {
		text += "**" + m + "**\n\n" + overview(results, m).String() + "\n"
	}
	return text
}

// overview has a column for each workload of a family, with the medians of a metric against
// the baseline; "" is the workload's own metric.
func overview(results []result, metric string) figures.Table {
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
	t := figures.Table{head}
	for _, c := range candidatesOf(results) {
		row := []string{label(c)}
		for _, r := range results {
			row = append(row, figures.Format(r.compared(cmp.Or(metric, r.workload.Metric), c.Name, r.workload.Baseline).Median))
		}
		t = append(t, row)
	}
	return t
}

// candidatesOf returns the candidates that have a figure in one of the results, in the
// order of the workloads.
func candidatesOf(results []result) (all []peers.Candidate) {
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
