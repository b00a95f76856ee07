package figures

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   Spread
	}{
		{[]float64{7}, Spread{7, 7, 7}},
		{[]float64{3, 1}, Spread{1.5, 2, 2.5}},
		{[]float64{5, 1, 4, 2, 3}, Spread{2, 3, 4}},
		{[]float64{4, 1, 3, 2}, Spread{1.75, 2.5, 3.25}},
		{[]float64{math.NaN(), 3, 1}, Spread{1.5, 2, 2.5}},
	} {
		assert.Equal(t, tt.want, SpreadOf(tt.values))
	}
	assert.True(t, math.IsNaN(SpreadOf(nil).Median))
	values := []float64{2, 1}
	SpreadOf(values)
	assert.Equal(t, []float64{2, 1}, values, "the repetitions stay in their order")
}

// A machine that slows down for a while must not show in a paired ratio.
func TestPaired(t *testing.T) {
	ours, base := []float64{1, 10, 3}, []float64{2, 20, 6}
	assert.Equal(t, []float64{.5, .5, .5}, Paired(ours, base, Quotient))
	assert.Equal(t, []float64{-1, -10, -3}, Paired(ours, base, Difference))
	assert.Empty(t, Paired(nil, base, Quotient))
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{
		1234.5: "1234", 99.96: "100.0", 12.34: "12.3", 1.234: "1.23", .004: "0", -.004: "0", -12.34: "-12.3", 0: "0",
	} {
		assert.Equal(t, want, Format(v))
	}
	assert.Equal(t, Dash, Format(math.NaN()))
}

func TestInterval(t *testing.T) {
	upTo := func(n int) (values []float64) {
		for i := range n {
			values = append(values, float64(n-i))
		}
		return values
	}
	for _, tt := range []struct {
		values    []float64
		low, high float64
	}{ // the ranks are those of tables of the sign test
		{upTo(6), 1, 6},
		{upTo(8), 1, 8},
		{upTo(9), 2, 8},
		{upTo(12), 3, 10},
		{upTo(20), 6, 15},
		{upTo(40), 14, 27},
		{append(upTo(6), math.NaN()), 1, 6},
	} {
		low, high := Interval(tt.values)
		assert.Equal(t, [2]float64{tt.low, tt.high}, [2]float64{low, high}, len(tt.values))
	}
	low, high := Interval(upTo(5))
	assert.True(t, math.IsNaN(low) && math.IsNaN(high), "five values say too little")
}
