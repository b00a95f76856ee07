//go:build unix

package workers_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether/internal/workers"
)

// cpuTime returns the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPush pushes as fast as it can, with workers whose goroutines exit when they
// find nothing, and with workers whose goroutines idle.
func BenchmarkPush(b *testing.B) {
	for _, limit := range []int{2, 1000, workers.Unlimited} {
		for _, producers := range []string{"1", "P", "1000"} {
			n := map[string]int{"1": 1, "P": runtime.GOMAXPROCS(0), "1000": 1000}[producers]
			name := strings.Replace(fmt.Sprintf("limit=%d/producers=%s", limit, producers), fmt.Sprint(workers.Unlimited), "none", 1)
			bench := func(b *testing.B, push func(*node), ended *sync.WaitGroup) {
				b.ReportAllocs()
				defer func(before time.Duration) {
					b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
				}(cpuTime())
				ended.Add(b.N)
				var wg sync.WaitGroup
				for p := range n {
					share := b.N / n
					if p < b.N%n {
						share++
					}
					wg.Go(func() {
						for range share {
							push(new(node))
						}
					})
				}
				wg.Wait()
				ended.Wait()
			}
			b.Run("exits/"+name, func(b *testing.B) {
				h := newBareHost(limit, false, func() {})
				bench(b, h.workers.Push, &h.ended)
			})
			b.Run("idles/"+name, func(b *testing.B) {
				h := newBareHost(limit, true, func() {})
				bench(b, h.workers.Push, &h.ended)
			})
		}
	}
}

// deep grows the stack to 32 KB.
//
//go:noinline
func deep(frames int) byte {
	var frame [960]byte
	frame[frames] = byte(frames)
	if frames == 0 {
		return frame[0]
	}
	return deep(frames-1) + frame[frames]
}

// BenchmarkPaced pushes an item from time to time, when the one before has long ended.
// What it measures is the cost of a goroutine and of its stack, beside that of the
// pause; start-ns is the median time from push to start. "go" is a goroutine for each item.
func BenchmarkPaced(b *testing.B) {
	for _, pace := range []time.Duration{500 * time.Microsecond, 2 * time.Millisecond} {
		for _, body := range []struct {
			name string
			run  func()
		}{{"empty", func() {}}, {"32KB", func() { deep(32) }}} {
			bench := func(kind string, prepare func(run func()) (push func())) {
				b.Run(fmt.Sprintf("%s/%v/%s", kind, pace, body.name), func(b *testing.B) {
					b.ReportAllocs()
					var pushed time.Time
					late := make([]time.Duration, 0, b.N)
					done := make(chan struct{}, 1)
					push := prepare(func() {
						late = append(late, time.Since(pushed))
						body.run()
						done <- struct{}{}
					})
					before := cpuTime()
					for b.Loop() {
						time.Sleep(pace)
						pushed = time.Now()
						push()
						<-done
					}
					b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
					slices.Sort(late)
					b.ReportMetric(float64(late[len(late)/2]), "start-ns")
				})
			}
			bench("go", func(run func()) func() { return func() { go run() } })
			bench("exits", func(run func()) func() {
				h := newBareHost(1000, false, run)
				return func() { h.ended.Add(1); h.workers.Push(new(node)) }
			})
			bench("idles", func(run func()) func() {
				h := newBareHost(1000, true, run)
				return func() { h.ended.Add(1); h.workers.Push(new(node)) }
			})
		}
	}
}

// BenchmarkOneAtATime pushes an item when the one before has run.
func BenchmarkOneAtATime(b *testing.B) {
	bench := func(kind string, prepare func(run func()) (push func())) {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			ran := make(chan struct{}, 1)
			push := prepare(func() { ran <- struct{}{} })
			before := cpuTime()
			for b.Loop() {
				push()
				<-ran
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
	bench("go", func(run func()) func() { return func() { go run() } })
	for _, idle := range []bool{false, true} {
		bench(map[bool]string{false: "exits", true: "idles"}[idle], func(run func()) func() {
			h := newBareHost(workers.Unlimited, idle, run)
			return func() { h.ended.Add(1); h.workers.Push(new(node)) }
		})
	}
}
