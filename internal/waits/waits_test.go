package waits

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestBuckets(t *testing.T) {
	for i := range buckets - 1 {
		last := end(i) - 1
		assert.Equal(t, i, bucket(last))
		assert.Equal(t, i+1, bucket(last+1))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		wait := random.Int64N(1 << (12 + random.IntN(34)))
		assert.GreaterOrEqual(t, end(bucket(wait)), wait)
		assert.LessOrEqual(t, end(bucket(wait)), wait+wait/4+1<<unit)
	}
	assert.Equal(t, 0, bucket(-5))
	assert.Equal(t, buckets-1, bucket(1<<62))
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	now := -int64(time.Hour) // as in a bubble
	assert.Equal(t, []time.Duration{0}, h.Quantiles(now, .5))
	for i := range 100 {
		h.Record(now, int64(i+1)*int64(time.Millisecond))
	}
	check := func(qs []time.Duration) {
		t.Helper()
		for i, want := range []time.Duration{50 * time.Millisecond, 99 * time.Millisecond, 100 * time.Millisecond} {
			assert.GreaterOrEqual(t, qs[i], want)
			assert.LessOrEqual(t, qs[i], want*5/4)
		}
	}
	check(h.Quantiles(now, .5, .99, 1))
	check(h.Quantiles(now+int64(period), .5, .99, 1)) // the period before
	assert.Equal(t, []time.Duration{0}, h.Quantiles(now+3*int64(period), .5), "old waits are forgotten")
	h.Record(now+4*int64(period), 0)
	assert.Equal(t, []time.Duration{1 << unit}, h.Quantiles(now+4*int64(period), .5))
}
