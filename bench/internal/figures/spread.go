// Package figures has the statistics and the tables of the reports.
package figures

import (
	"fmt"
	"math"
	"slices"
)

// Spread is a median and the quartiles around it.
type Spread struct{ Q1, Median, Q3 float64 }

// SpreadOf ignores values that are NaN: repetitions without a value.
func SpreadOf(values []float64) Spread {
	sorted := sortedNumbers(values)
	return Spread{quantile(sorted, .25), quantile(sorted, .5), quantile(sorted, .75)}
}

func (s Spread) String() string {
	if math.IsNaN(s.Median) {
		return Dash
	}
	return fmt.Sprintf("%s [%s, %s]", Format(s.Median), Format(s.Q1), Format(s.Q3))
}

func sortedNumbers(values []float64) []float64 {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(sorted)
	return sorted
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

// Interval returns bounds that hold the median of the distribution that the values
// come from with a probability of at least 95 %. They are two of the values, which
// presumes nothing of the distribution. With fewer than six numbers there are no such
// bounds: they are NaN.
func Interval(values []float64) (low, high float64) {
	sorted := sortedNumbers(values)
	n := len(sorted)
	// The k-th smallest value is above the median, or the k-th largest below it, if
	// fewer than k of n fair coins show heads, or fewer than k tails.
	k, outside := 0, 0.0
	for p := math.Pow(.5, float64(n)); k < n/2; k++ { // p: exactly k heads
		if outside += 2 * p; outside > .05 {
			break
		}
		p *= float64(n-k) / float64(k+1)
	}
	if k == 0 {
		return math.NaN(), math.NaN()
	}
	return sorted[k-1], sorted[n-k]
}

// Paired compares the values of the same repetition: what slows the machine down for a
// while slows both.
func Paired(values, others []float64, compare func(a, b float64) float64) []float64 {
	out := make([]float64, min(len(values), len(others)))
	for i := range out {
		out[i] = compare(values[i], others[i])
	}
	return out
}

// Quotient returns a / b, for [Paired].
func Quotient(a, b float64) float64 { return a / b }

// Difference returns a - b, for [Paired].
func Difference(a, b float64) float64 { return a - b }
