package main

import (
	"context"

	"github.com/gammazero/workerpool"
)

// gammazero/workerpool: Do, which returns an error if the pool is stopped (Submit panics
// then), DoWait for tasks that are waited for, and StopWait, which runs the queued tasks.
// According to its documentation a panic ends the process.
func gammazero() candidate {
	with := func(stop func(*workerpool.WorkerPool)) func(int, func(any)) *system {
		return func(workers int, _ func(any)) *system {
			p := workerpool.New(workers)
			return &system{
				Go: func(_ string, fn body) error { return p.Do(func() { fn(context.Background()) }) },
				GoWait: func(_ string, fn body) (func() error, error) {
					done := make(chan error, 1)
					go func() { done <- p.DoWait(func() { fn(context.Background()) }) }()
					return func() error { return <-done }, nil
				},
				Drain:  func(context.Context) error { stop(p); return nil },
				Closes: true,
			}
		}
	}
	first := setting{New: with((*workerpool.WorkerPool).StopWait), WaitName: "DoWait", DrainName: "StopWait"}
	abandon := first
	abandon.Name, abandon.Probes = "Stop, as documented", []string{"lost"}
	abandon.New = with((*workerpool.WorkerPool).Stop)
	return candidate{
		Name: "gammazero/workerpool", Module: "github.com/gammazero/workerpool",
		Settings: []setting{first, abandon},
	}
}
