package main

import (
	"math"
	"slices"
)

// spread is a median and the quartiles around it.
type spread struct{ q1, median, q3 float64 }

// spreadOf leaves out what is not a number: repetitions that have no value.
func spreadOf(values []float64) spread {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(sorted)
	return spread{quantile(sorted, .25), quantile(sorted, .5), quantile(sorted, .75)}
}

// quantile interpolates between the two values next to it.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// paired sets each repetition's value against the other's of the same repetition:
// what slows the machine down for a while slows both.
func paired(values, others []float64, compare func(a, b float64) float64) []float64 {
	out := make([]float64, min(len(values), len(others)))
	for i := range out {
		out[i] = compare(values[i], others[i])
	}
	return out
}

func quotient(a, b float64) float64   { return a / b }
func difference(a, b float64) float64 { return a - b }
