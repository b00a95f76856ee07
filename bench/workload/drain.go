package workload

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func draining() Family {
	return Family{
		ID: "W9", Title: "Cancel everything and wait",
		About: "100 000 tasks wait for their context or for an hour. The time is from the cancellation until all have ended. " +
			"`go` and tether have a context for each task, the others one for all tasks.",
		Workloads: []Workload{{
			Name: "100k", N: 100_000, Quick: 1000, Reps: 10,
			Metric: NsPerOp, Baseline: goStatement, Isolated: true,
			Candidates: func() []peers.Candidate { return append(peers.All(), peers.GoSharedContext()) },
			Run:        cancelAll,
		}},
	}
}

func cancelAll(m Meter, c peers.Candidate, n int) error {
	if c.Contexts == nil {
		return ErrLacks
	}
	s, err := c.Contexts()
	if err != nil {
		return err
	}
	var started, ended atomic.Int64
	submit := s.Task(func(ctx context.Context) {
		started.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(time.Hour):
		}
		ended.Add(1)
	})
	for range n {
		if err := submit(); err != nil {
			s.Cancel()
			return errors.Join(err, s.Close())
		}
	}
	await(&started, n)
	time.Sleep(20 * time.Millisecond) // so that the last ones reach their select
	m.StartTimer()
	s.Cancel()
	err = s.Close()
	m.StopTimer()
	if ended.Load() != int64(n) {
		return errors.Join(err, errors.New("workload: Close returned before the tasks had ended"))
	}
	return err
}

// await waits until the count is n. It sleeps between its looks at it, since the tasks need
// the processors.
func await(count *atomic.Int64, n int) {
	for count.Load() < int64(n) {
		time.Sleep(100 * time.Microsecond)
	}
}
