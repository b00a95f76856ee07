package peers

import (
	"math"

	"github.com/bytedance/gopkg/util/gopool"
)

// Gopool is bytedance's gopool with the configuration of NewConfig. Unlimited has the
// capacity of the package's default pool. The queue is unbounded. A pool cannot be closed:
// its workers end when there is nothing to do.
func Gopool() Candidate {
	system := func(capacity int32) *System {
		p := gopool.NewPool("bench", capacity, gopool.NewConfig())
		return &System{
			Task:  func(body func()) func() error { return func() error { p.Go(body); return nil } },
			Close: nothing,
		}
	}
	return Candidate{
		Name: "gopool", Module: "github.com/bytedance/gopkg", Setting: "`NewPool(name, limit, NewConfig()).Go`; results by a channel each", Queues: true,
		Unlimited: func() (*System, error) { return system(math.MaxInt32), nil },
		Limited:   func(limit int) (*System, error) { return system(int32(min(limit, math.MaxInt32))), nil },
		Results: func() (*Results, error) {
			p := gopool.NewPool("bench", math.MaxInt32, gopool.NewConfig())
			return resultsByChannel(func(f func()) error { p.Go(f); return nil }, nothing), nil
		},
	}
}
