package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// patience is the time limit of one sample. A candidate that loses a task never ends, and
// only the end of the process stops it.
const patience = 3 * time.Minute

// plan is what to run.
type plan struct {
	workloads  []string // names or their beginnings; if empty, all that are not long
	candidates []string // names; if empty, all. The baselines always run
	reps       int
	quick      bool
	long       bool
	log        io.Writer
	stuck      func(what string)
}

// result is the series of one workload.
type result struct {
	family     workload.Family
	workload   workload.Workload
	candidates []peers.Candidate
	samples    map[string][]sample.Sample // by candidate, one for each repetition; missing if it lacks something or has failed
	n, reps    int
}

func (r result) id() string { return r.family.ID + "/" + r.workload.Name }

// chosen returns the workloads of the plan, by family.
func (p plan) chosen() []workload.Family {
	var families []workload.Family
	for _, f := range workload.All() {
		f.Workloads = slices.DeleteFunc(f.Workloads, func(w workload.Workload) bool { return !p.wants(f.ID, w) })
		if len(f.Workloads) > 0 {
			families = append(families, f)
		}
	}
	return families
}

func (p plan) wants(family string, w workload.Workload) bool {
	return workload.Chosen(family+"/"+w.Name, w.Long && !p.long, p.workloads)
}

func (p plan) field(w workload.Workload) []peers.Candidate {
	return slices.DeleteFunc(w.AllCandidates(), func(c peers.Candidate) bool {
		return len(p.candidates) > 0 && c.Name != w.Baseline && !slices.Contains(p.candidates, c.Name)
	})
}

// run runs one workload: in each repetition every candidate once, in random order.
func (p plan) run(f workload.Family, w workload.Workload) result {
	r := result{family: f, workload: w, candidates: p.field(w), samples: map[string][]sample.Sample{}, n: w.N, reps: p.reps}
	if w.Reps > 0 {
		r.reps = min(r.reps, w.Reps)
	}
	if p.quick {
		r.n, r.reps = w.Quick, 1
	}
	able := slices.Clone(r.candidates)
	if !p.quick && !w.Isolated {
		able, _ = p.repetition(r.id(), w, able, max(r.n/10, 1)) // the first one warms up and does not count
	}
	for range r.reps {
		var samples map[string]sample.Sample
		able, samples = p.repetition(r.id(), w, able, r.n)
		for _, c := range able {
			r.samples[c.Name] = append(r.samples[c.Name], samples[c.Name])
		}
	}
	for _, c := range r.candidates {
		if !slices.ContainsFunc(able, func(a peers.Candidate) bool { return a.Name == c.Name }) {
			delete(r.samples, c.Name) // it has failed in one repetition, so it has no figures
		}
	}
	return r
}

// repetition returns the candidates that succeeded, and their samples.
func (p plan) repetition(id string, w workload.Workload, candidates []peers.Candidate, n int) ([]peers.Candidate, map[string]sample.Sample) {
	samples := map[string]sample.Sample{}
	for _, i := range rand.Perm(len(candidates)) {
		c := candidates[i]
		s, err := p.once(id, w, c, n)
		switch {
		case errors.Is(err, workload.ErrLacks):
		case err != nil:
			fmt.Fprintf(p.log, "%s: %s is out: %v\n", id, c.Name, err)
		default:
			samples[c.Name] = s
		}
	}
	able := slices.DeleteFunc(slices.Clone(candidates), func(c peers.Candidate) bool { return samples[c.Name] == nil })
	return able, samples
}

func (p plan) once(id string, w workload.Workload, c peers.Candidate, n int) (sample.Sample, error) {
	if w.Isolated {
		return measureApart(id, c, n)
	}
	watch := time.AfterFunc(patience, func() { p.stuck(id + " of " + c.Name) })
	defer watch.Stop()
	return sample.Measure(w, c, n)
}

// measureApart measures in a process of its own, whose peak of memory is that of this
// sample.
func measureApart(id string, c peers.Candidate, n int) (sample.Sample, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return sample.Ask(ctx, self, sample.Request{Workload: id, Candidate: c.Name, N: n})
}

// values returns a metric of each repetition, or NaN in its place.
func (r result) values(candidate, metric string) []float64 {
	var values []float64
	for _, s := range r.samples[candidate] {
		v, ok := s[metric]
		if !ok {
			v = math.NaN()
		}
		values = append(values, v)
	}
	return values
}

func (r result) metric(candidate, metric string) figures.Spread {
	return figures.SpreadOf(r.values(candidate, metric))
}

// against compares the workload's metric of a candidate with another's.
func (r result) against(candidate, other string) figures.Spread {
	return r.compared(r.workload.Metric, candidate, other)
}

func (r result) compared(metric, candidate, other string) figures.Spread {
	compare := figures.Quotient
	if r.workload.Compare == workload.Difference {
		compare = figures.Difference
	}
	return figures.SpreadOf(figures.Paired(r.values(candidate, metric), r.values(other, metric), compare))
}

// bestPeer returns the library with the lowest median against the baseline, or "" if
// there is none.
func (r result) bestPeer() (name string) {
	best := math.Inf(1)
	for _, c := range r.candidates {
		if m := r.against(c.Name, r.workload.Baseline).Median; c.Kind == peers.Peer && m < best {
			name, best = c.Name, m
		}
	}
	return name
}
