//go:build unix

package ring_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether/internal/ring"
)

// BenchmarkExpiry adds things at a steady rate, each of which is held for 300 ms. The
// processor time is that of Add and of the rounds; the size of the ring must not matter.
func BenchmarkExpiry(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			r := new(ring.Ring[time.Time])
			r.Init(size, 300*time.Millisecond, func(v *time.Time) time.Duration { return time.Since(*v) }, func(*time.Time) {})
			before := cpuTime()
			for b.Loop() {
				now := time.Now()
				r.Add(&now)
				time.Sleep(time.Second / 850)
			}
			b.ReportMetric(100*float64(cpuTime()-before)/float64(b.Elapsed()), "%cpu")
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, size := range []int{1 << 10, 1000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			r := new(ring.Ring[int])
			r.Init(size, time.Hour, func(*int) time.Duration { return 0 }, func(*int) {})
			v := new(int)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r.Add(v)
				}
			})
		})
	}
}

// cpuTime returns the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
