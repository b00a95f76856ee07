// Package waits is a histogram of the waiting times of the last minute or two.
package waits

import (
	"math"
	"math/bits"
	"time"
)

// period is how long a half of the histogram is filled.
const period = uint64(time.Minute)

// A bucket is a quarter of a power of two, in units of 1.024 µs. The last one has all that
// is longer.
const (
	unit    = 10 // as a power of two
	steps   = 2  // buckets of a power of two, as a power of two
	buckets = 168
)

// Histogram has the waits of the current period and of the one before. The zero Histogram
// is empty and ready to use. It is not safe for concurrent use.
type Histogram struct {
	began       int64 // when the current period did; next to the buckets that are used most
	now, before [buckets]uint32
}

// Record adds a wait at the time now, in nanoseconds.
func (h *Histogram) Record(now, wait int64) {
	if uint64(now-h.began) >= period {
		h.rotate(now)
	}
	h.now[bucket(wait)]++
}

// rotate begins a new period if the current one has ended.
func (h *Histogram) rotate(now int64) {
	age := uint64(now - h.began)
	if age < period {
		return
	}
	h.before = h.now
	if age >= 2*period {
		h.before = [buckets]uint32{}
	}
	h.now = [buckets]uint32{}
	h.began = now
}

// Quantiles returns for each q the wait that a share q of the waits did not exceed, of the
// last one or two minutes: at most a quarter too much. It is zero if there are none.
func (h *Histogram) Quantiles(now int64, qs ...float64) []time.Duration {
	h.rotate(now)
	var total uint64
	for i := range h.now {
		total += uint64(h.now[i]) + uint64(h.before[i])
	}
	waits := make([]time.Duration, len(qs))
	for n, q := range qs {
		rank := uint64(math.Ceil(q * float64(total)))
		for i := 0; rank > 0 && i < buckets; i++ {
			rank -= min(rank, uint64(h.now[i])+uint64(h.before[i]))
			if rank == 0 {
				waits[n] = time.Duration(end(i))
			}
		}
	}
	return waits
}

// bucket returns the bucket of a wait.
func bucket(wait int64) int {
	u := uint64(max(0, wait)) >> unit
	if u < 1<<steps {
		return int(u)
	}
	e := bits.Len64(u) - 1
	return min(1<<steps+(e-steps)<<steps+int(u>>(e-steps))&(1<<steps-1), buckets-1)
}

// end returns the end of a bucket.
func end(i int) int64 {
	if i < 1<<steps {
		return int64(i+1) << unit
	}
	e := (i-1<<steps)>>steps + steps
	return int64(1<<steps+i&(1<<steps-1)+1) << (e - steps + unit)
}
