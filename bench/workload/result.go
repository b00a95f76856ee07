package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func results() Family {
	return Family{
		ID: "W6", Title: "A result, a context",
		About: "Tasks that return a value, submitted and waited for one by one or 100 at once; " +
			"and bodies that read `Done` of a context of their own, which has the submitter's values but not its cancellation. " +
			"`go`, and libraries without results, use a channel for each result.",
		Workloads: []Workload{
			{
				Name: "results=1", N: 20_000, Quick: 1000,
				Metric: NsPerOp, Baseline: goStatement, Run: sums(1),
			},
			{
				Name: "results=100", N: 50_000, Quick: 2000,
				Metric: NsPerOp, Baseline: goStatement, Run: sums(100),
			},
			{
				Name: "ctx.Done", N: 50_000, Quick: 5000,
				Metric: NsPerOp, Baseline: goStatement, Run: usesDone,
			},
		},
	}
}

func sums(atOnce int) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		if c.Results == nil {
			return ErrLacks
		}
		s, err := c.Results()
		if err != nil {
			return err
		}
		m.StartTimer()
		err = sumAll(s, n, atOnce)
		m.StopTimer()
		return errors.Join(err, s.Close())
	}
}

func sumAll(s *peers.Results, n, atOnce int) error {
	for n > 0 {
		some := min(n, atOnce)
		n -= some
		got, err := s.Sum(some)
		if err != nil {
			return err
		}
		if want := some * peers.Answer; got != want {
			return fmt.Errorf("workload: %d results add up to %d, not %d", some, got, want)
		}
	}
	return nil
}

func usesDone(m Meter, c peers.Candidate, n int) error {
	if c.OwnContexts == nil {
		return ErrLacks
	}
	s, err := c.OwnContexts()
	if err != nil {
		return err
	}
	m.StartTimer()
	for left := n; left > 0 && err == nil; left -= batch {
		err = lookAtDone(s, min(left, batch))
	}
	m.StopTimer()
	return errors.Join(err, s.Close())
}

func lookAtDone(s *peers.Contexts, n int) error {
	var left sync.WaitGroup
	left.Add(n)
	submit := s.Task(func(ctx context.Context) {
		select {
		case <-ctx.Done(): // never: nothing cancels it
		default:
			left.Done()
		}
	})
	err := submitTimes(n, &left, submit)
	left.Wait()
	return err
}
