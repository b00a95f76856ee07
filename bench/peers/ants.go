package peers

import (
	"runtime"
	"time"

	"github.com/panjf2000/ants/v2"
)

const antsPatience = time.Minute // for all workers of a released pool to end

// Ants is panjf2000/ants v2 as its README uses it: NewPool, Submit. Idle workers wait for
// a second, which is the default. It has no queue: Submit blocks at the limit. It has
// neither results nor contexts.
func Ants() Candidate {
	return ants1("ants", "`NewPool(limit).Submit`, -1 for no limit; results by a channel each; `WithNonblocking` to reject",
		func(limit int, opts ...ants.Option) (antsPool, error) { return ants.NewPool(limit, opts...) })
}

// AntsMulti is the MultiPool of ants, which has a lock for each of several pools. There is
// one pool per processor, chosen in turn (RoundRobin; LeastTasks asks all pools at each
// Submit).
func AntsMulti() Candidate {
	return ants1("ants MultiPool", "`NewMultiPool(GOMAXPROCS, limit/GOMAXPROCS, RoundRobin).Submit`",
		func(limit int, opts ...ants.Option) (antsPool, error) {
			pools := runtime.GOMAXPROCS(0)
			if limit > 0 {
				pools = min(pools, limit)
				limit /= pools
			}
			return ants.NewMultiPool(pools, limit, ants.RoundRobin, opts...)
		})
}

type antsPool interface {
	Submit(func()) error
	ReleaseTimeout(time.Duration) error
}

func ants1(name, setting string, open func(limit int, opts ...ants.Option) (antsPool, error)) Candidate {
	limited := func(limit int) (*System, error) {
		p, err := open(limit)
		if err != nil {
			return nil, err
		}
		return &System{
			Task:  func(body func()) func() error { return func() error { return p.Submit(body) } },
			Close: release(p),
		}, nil
	}
	return Candidate{
		Name: name, Module: "github.com/panjf2000/ants/v2", Setting: setting,
		Unlimited: func() (*System, error) { return limited(-1) },
		Limited:   limited,
		Rejecting: func(limit, _ int) (*Rejecting, error) {
			p, err := open(limit, ants.WithNonblocking(true))
			if err != nil {
				return nil, err
			}
			return &Rejecting{
				Task:  func(body func()) func() bool { return func() bool { return p.Submit(body) == nil } },
				Close: release(p),
			}, nil
		},
		Results: func() (*Results, error) {
			p, err := open(-1)
			if err != nil {
				return nil, err
			}
			return resultsByChannel(p.Submit, release(p)), nil
		},
	}
}

func release(p antsPool) func() error {
	return func() error { return p.ReleaseTimeout(antsPatience) }
}
