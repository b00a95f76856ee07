package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/alitto/pond/v2"
)

// pond with its defaults (an unbounded queue, recovered panics) and a context, as its README
// shows for a pool that can be canceled. Tasks that are waited for use Submit, the others
// use Go. The library has no drain with a deadline, but Stop returns a Task, and a select
// can wait for its Done or a timer.
func pondPool() candidate {
	first := setting{
		New:            func(workers int, _ func(any)) *system { return pondSystem(workers) },
		ContainsPanics: true,
		WaitName:       "Task.Wait", DrainName: "StopAndWait",
	}

	noRecovery := first
	noRecovery.Name, noRecovery.Probes = "WithoutPanicRecovery", []string{"panic"}
	noRecovery.New = func(workers int, _ func(any)) *system { return pondSystem(workers, pond.WithoutPanicRecovery()) }
	noRecovery.ContainsPanics = false

	group := first
	group.Name, group.Probes = "a task group (NewGroupContext)", []string{"goexit", "early"}
	group.WaitName = "TaskGroup.Wait"
	group.New = func(workers int, _ func(any)) *system {
		s, p, ctx := pondParts(workers)
		s.GoWait = func(_ string, fn body) (func() error, error) {
			g := p.NewGroupContext(ctx)
			g.Submit(func() { fn(ctx) })
			return g.Wait, nil
		}
		return s
	}

	// A sub-pool has no goroutines: its first worker is a task that it submits to its
	// parent. If the parent refuses that task, the sub-pool ignores it and returns nil to its
	// caller. A minimal program:
	//
	//	parent := pond.NewPool(1, pond.WithQueueSize(1), pond.WithNonBlocking(true))
	//	sub := parent.NewSubpool(1)
	//	parent.Go(block)      // runs
	//	parent.Go(block)      // queued: the parent is full
	//	err := sub.Go(task)   // nil, and task never runs
	//	sub.StopAndWait()     // never returns
	//
	// Here half of the submissions go to the parent itself, which fills it.
	sub := first
	sub.Name, sub.Probes = "a sub-pool (NewSubpool) of a non-blocking pool with a bounded queue", []string{"lost"}
	sub.New = func(workers int, _ func(any)) *system {
		parent := pond.NewPool(workers, pond.WithQueueSize(1), pond.WithNonBlocking(true))
		pool := parent.NewSubpool(workers)
		var n atomic.Int64
		return &system{
			Go: func(_ string, fn body) error {
				if n.Add(1)%2 == 0 {
					return parent.Go(func() { fn(context.Background()) })
				}
				return pool.Go(func() { fn(context.Background()) })
			},
			Drain: func(context.Context) error {
				pool.StopAndWait()
				parent.StopAndWait()
				return nil
			},
		}
	}
	return candidate{
		Name: "pond", Module: "github.com/alitto/pond/v2",
		Settings: []setting{first, noRecovery, group, sub},
	}
}

func pondSystem(workers int, opts ...pond.Option) *system {
	s, _, _ := pondParts(workers, opts...)
	return s
}

func pondParts(workers int, opts ...pond.Option) (*system, pond.Pool, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	p := pond.NewPool(workers, append(opts, pond.WithContext(ctx))...)
	return &system{
		Go: func(_ string, fn body) error { return p.Go(func() { fn(ctx) }) },
		GoWait: func(_ string, fn body) (func() error, error) {
			return p.Submit(func() { fn(ctx) }).Wait, nil
		},
		Cancel: cancel,
		Drain:  func(context.Context) error { p.StopAndWait(); return nil },
		Closes: true,
		DrainWithin: func(d time.Duration) error {
			stopped := p.Stop()
			select {
			case <-stopped.Done():
				return stopped.Wait()
			case <-time.After(d):
				return errDeadline
			}
		},
		ByHand: true,
	}, p, ctx
}

var errDeadline = errors.New("the deadline has passed")
