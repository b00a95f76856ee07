package main

import (
	"context"
	"time"

	"github.com/panjf2000/ants/v2"
)

// ants with its defaults: a submitter waits for a free worker, panics are logged. Release
// does not wait, so the drain is ReleaseContext, which is documented to wait "all workers
// to exit". ReleaseTimeout is the same with a deadline. Tasks have no handle.
func antsPool() candidate {
	first := setting{
		ContainsPanics: true, HandlesPanics: true,
		DrainName: "ReleaseContext",
		New: func(workers int, onPanic func(any)) *system {
			p, err := ants.NewPool(workers, antsOptions(onPanic)...)
			if err != nil {
				panic(err)
			}
			return antsSystem(p)
		},
	}
	return candidate{
		Name: "ants", Module: "github.com/panjf2000/ants/v2",
		Settings: []setting{first, withHandler(first, "WithPanicHandler")},
	}
}

// MultiPool with two pools, or one if there is one worker, and the strategy of its README.
func antsMultiPool() candidate {
	first := setting{
		ContainsPanics: true, HandlesPanics: true,
		DrainName: "ReleaseContext",
		New: func(workers int, onPanic func(any)) *system {
			pools := min(2, workers)
			p, err := ants.NewMultiPool(pools, workers/pools, ants.RoundRobin, antsOptions(onPanic)...)
			if err != nil {
				panic(err)
			}
			return antsSystem(p)
		},
	}
	return candidate{
		Name: "ants MultiPool", Module: "github.com/panjf2000/ants/v2",
		Settings: []setting{first, withHandler(first, "WithPanicHandler")},
	}
}

func antsOptions(onPanic func(any)) []ants.Option {
	if onPanic == nil {
		return nil
	}
	return []ants.Option{ants.WithPanicHandler(onPanic)}
}

func antsSystem(p interface {
	Submit(func()) error
	ReleaseContext(context.Context) error
	ReleaseTimeout(time.Duration) error
}) *system {
	return &system{
		Go:          func(_ string, fn body) error { return p.Submit(func() { fn(context.Background()) }) },
		Drain:       func(context.Context) error { return p.ReleaseContext(context.Background()) },
		Closes:      true,
		DrainWithin: p.ReleaseTimeout,
	}
}
