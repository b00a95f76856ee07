package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

var sideNames = [2]string{"old", "new"}

const (
	patience = 3 * time.Minute // for one sample; a program that loses a task never ends
	mostSize = 100             // times a workload's own number of operations
)

// comparison is one run of the command.
type comparison struct {
	pairs   []pair
	reps    int
	atLeast time.Duration
	quick   bool
	log     io.Writer
	// ask has a side, 0 for the old one, measure a sample.
	ask func(ctx context.Context, side int, req sample.Request) (sample.Sample, error)
}

// pair is one candidate of a workload, measured on both sides.
type pair struct {
	id        string
	workload  workload.Workload
	candidate string
	n         int
	samples   [2][]sample.Sample // by side, one for each repetition
	left      bool               // it is not measured
	why       error              // why not; nil if neither side can do it
}

func (p *pair) name() string { return p.id + " " + p.candidate }

// chosenCandidate reports whether to measure c: Tether's settings if none is named.
func chosenCandidate(c peers.Candidate, names []string) bool {
	if len(names) == 0 {
		return c.Kind == peers.Ours
	}
	return slices.Contains(names, c.Name)
}

func (c *comparison) run(ctx context.Context) error {
	for i := range c.pairs {
		if err := c.size(ctx, &c.pairs[i]); err != nil {
			return err
		}
	}
	for rep := range c.reps {
		if c.quick && rep > 0 {
			break
		}
		began := time.Now()
		for _, i := range rand.Perm(len(c.pairs)) {
			if err := c.measure(ctx, &c.pairs[i]); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.log, "repetition %d of %d: %v\n", rep+1, c.reps, time.Since(began).Round(time.Second))
	}
	return nil
}

// size finds out whether both sides have the pair, and chooses the number of operations
// so that a sample takes long enough. The size of a workload that is isolated is part of
// what it is about, so it is left as it is.
func (c *comparison) size(ctx context.Context, p *pair) error {
	var lacks [2]bool
	for side := range sideNames {
		s, err := c.sample(ctx, side, p, p.workload.Quick)
		switch {
		case errors.Is(err, workload.ErrLacks):
			lacks[side] = true
		case err != nil || s == nil:
			return err
		}
	}
	switch lacks {
	case [2]bool{true, true}:
		p.left = true
		return nil
	case [2]bool{true, false}, [2]bool{false, true}:
		c.skip(p, fmt.Errorf("only the %s one can do this", sideNames[slices.Index(lacks[:], false)]))
		return nil
	}
	p.n = p.workload.Quick
	if c.quick {
		return nil
	}
	p.n = p.workload.N
	s, err := c.sample(ctx, 0, p, p.n)
	if err != nil || s == nil || p.workload.Isolated {
		return err
	}
	took := time.Duration(s[workload.NsPerOp] * float64(p.n))
	p.n *= int(min(max(math.Ceil(float64(c.atLeast)/float64(max(took, 1))), 1), mostSize))
	return nil
}

// measure takes one sample of each side, one right after the other.
func (c *comparison) measure(ctx context.Context, p *pair) error {
	if p.left {
		return nil
	}
	var both [2]sample.Sample
	for _, side := range rand.Perm(len(both)) {
		s, err := c.sample(ctx, side, p, p.n)
		if err != nil || s == nil {
			return err
		}
		both[side] = s
	}
	for side, s := range both {
		p.samples[side] = append(p.samples[side], s)
	}
	return nil
}

// sample returns nil if the measurement failed, so that the pair is skipped from now on.
// It returns an error if ctx has ended, or workload.ErrLacks.
func (c *comparison) sample(ctx context.Context, side int, p *pair, n int) (sample.Sample, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := c.ask(limited, side, sample.Request{Workload: p.id, Candidate: p.candidate, N: n})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil || errors.Is(err, workload.ErrLacks):
		return s, err
	}
	c.skip(p, fmt.Errorf("%s: %w", sideNames[side], err))
	return nil, nil
}

// skip leaves the pair out. A pair that fails once has no figures, whatever it measured
// before.
func (c *comparison) skip(p *pair, why error) {
	p.left, p.why, p.samples = true, why, [2][]sample.Sample{}
	fmt.Fprintf(c.log, "%s is skipped: %v\n", p.name(), why)
}

// ratios returns new/old of each repetition.
func (p *pair) ratios(metric string) []float64 {
	return figures.Paired(p.values(1, metric), p.values(0, metric), figures.Quotient)
}

func (p *pair) values(side int, metric string) (values []float64) {
	for _, s := range p.samples[side] {
		v, ok := s[metric]
		if !ok {
			v = math.NaN()
		}
		values = append(values, v)
	}
	return values
}

// metrics returns what the table shows of the pair: the compared metric comes first.
func (p *pair) metrics() []string {
	all := slices.Concat([]string{p.workload.Metric}, p.workload.Also, p.workload.Extra)
	for _, m := range []string{workload.CPUPerOp, sample.BytesPerOp} {
		measured := !math.IsNaN(figures.SpreadOf(p.values(0, m)).Median)
		if measured && p.workload.Metric == workload.NsPerOp && !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

func (c *comparison) table() string {
	t := figures.Table{{"", "", "old", "new", "new/old", "95 % bounds"}}
	skipped := ""
	for i := range c.pairs {
		p := &c.pairs[i]
		if p.why != nil {
			skipped += fmt.Sprintf("- %s: %v\n", p.name(), p.why)
		}
		if len(p.samples[0]) == 0 {
			continue
		}
		name := p.name()
		for _, m := range p.metrics() {
			ratios := p.ratios(m)
			t = append(t, []string{
				name, m,
				figures.Format(figures.SpreadOf(p.values(0, m)).Median), figures.Format(figures.SpreadOf(p.values(1, m)).Median),
				precise(ratios), bounds(ratios),
			})
			name = ""
		}
	}
	text := t.String()
	if skipped != "" {
		text += "\nSkipped:\n" + skipped
	}
	return text
}

// slower returns the pairs whose compared metric has bounds above most.
func (c *comparison) slower(most float64) (names []string) {
	for i := range c.pairs {
		p := &c.pairs[i]
		if low, _ := figures.Interval(p.ratios(p.workload.Metric)); low > most {
			names = append(names, p.name())
		}
	}
	return names
}

// precise has a digit more than other figures: what is asked for is a few percent.
func precise(ratios []float64) string {
	s := figures.SpreadOf(ratios)
	if math.IsNaN(s.Median) {
		return figures.Dash
	}
	return fmt.Sprintf("%.3f [%.3f, %.3f]", s.Median, s.Q1, s.Q3)
}

func bounds(ratios []float64) string {
	low, high := figures.Interval(ratios)
	if math.IsNaN(low) {
		return figures.Dash
	}
	return fmt.Sprintf("%.3f to %.3f", low, high)
}
