package durabletest

import (
	"context"
	"errors"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

var stopClauses = []clause{
	{"jobs that a worker's stop cancels run in the next one", testStopCancels},
	{"jobs that end in time are done once", testStopWaits},
	{"a handler that ignores the stop is named and its job runs again", testStopStubborn},
	{"jobs that the drain cancels run in the next worker", testDrainCancels},
	{"a worker starts and stops once", testStartStop},
}

// untilCancelled is a handler that heeds its context.
func untilCancelled(ctx context.Context, _ work) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// testStopCancels stops a worker of 4 places and 12 jobs, with a context that has ended.
func testStopCancels(l *lab) {
	l.testCancels(l.interrupt)
}

// testDrainCancels does the same by the registry.
func testDrainCancels(l *lab) {
	l.testCancels(func(w *crew) {
		var left *tether.DrainError // some may not have returned yet
		if err := w.reg.Shutdown(ended()); !errors.As(err, &left) {
			require.NoError(l, err, "Shutdown")
		}
		require.NoError(l, w.reg.Shutdown(l.context()), "Shutdown")
		require.NoError(l, w.Stop(l.context()), "Stop")
	})
}

func (l *lab) testCancels(stop func(*crew)) {
	const places, jobs = 4, 12
	heeds := l.define("heeds", durable.JobConfig{}, untilCancelled)
	ids := l.enqueueAll(heeds, jobs, nil)
	first := l.hire(places, heeds)
	l.awaitBegun("heeds", places)
	stop(first)
	l.until("Done", func() bool { return closed(first.Done()) })
	assert.NoError(l, first.Err())
	before := l.journal.all()
	ran := make(map[string]bool)
	for _, x := range before {
		ran[x.ID] = true
		if x.What == "ended" {
			assert.Equal(l, tether.ErrShutdown.Error(), x.Note, "cause of the cancellation")
		}
	}
	require.Empty(l, inFlight(before, 0), "handlers that have not returned")
	require.Len(l, ran, places)

	second := l.hire(places, l.define("heeds", durable.JobConfig{}, succeed))
	lines := l.awaitDone(ids)
	used := 0
	for _, x := range lines[len(before):] {
		switch {
		case x.What != "ended":
		case ran[x.ID]:
			assert.Contains(l, []int{1, 2}, x.Attempt, "attempt after an interruption")
			used += x.Attempt - 1
		default:
			assert.Equal(l, 1, x.Attempt, "attempt of a job that was not started")
		}
	}
	l.dismiss(second)
	assert.Len(l, l.journal.all(), len(before)+2*jobs, "each once more")
	l.Logf("%d jobs were interrupted, %d of which have used an attempt by that", places, used)
}

// testStopWaits stops a worker while its handlers are about to end.
func testStopWaits(l *lab) {
	const places, jobs = 4, 50
	mayEnd := make(chan struct{})
	waits := l.define("waits", durable.JobConfig{}, func(ctx context.Context, _ work) error {
		select {
		case <-mayEnd:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	ids := l.enqueueAll(waits, jobs, nil)
	first := l.hire(places, waits)
	l.awaitBegun("waits", places)
	stopped := make(chan error, 1)
	go func() { stopped <- first.Stop(l.context()) }()
	l.until("Stop to have begun", func() bool { return errors.Is(first.Start(l.context()), durable.ErrClosed) })
	for open := true; open; { // what has begun by now has to end
		select {
		case mayEnd <- struct{}{}:
		case err := <-stopped:
			require.NoError(l, err)
			open = false
		}
	}
	before := l.journal.all()
	require.Empty(l, inFlight(before, 0), "handlers when Stop has returned")
	done := len(doneTimes(before))
	require.GreaterOrEqual(l, done, places)
	require.Less(l, done, jobs, "jobs that were taken after Stop")

	second := l.hire(places, l.define("waits", durable.JobConfig{}, succeed))
	l.awaitDone(ids)
	l.dismiss(second)
	lines := l.journal.all()
	assert.Len(l, lines, 2*jobs, "each once")
	for _, x := range lines {
		assert.Equal(l, 1, x.Attempt, "attempt of job %d", x.N)
	}
	l.Logf("%d of %d jobs were done when Stop returned", done, jobs)
}

// testStopStubborn has a handler that does not return, and with it two that do.
func testStopStubborn(l *lab) {
	l.patience += l.fixture.Rescue
	free := make(chan struct{})
	ignores := l.define("ignores", durable.JobConfig{}, func(ctx context.Context, w work) error {
		if w.N > 1 {
			return untilCancelled(ctx, w)
		}
		<-free
		return nil
	})
	ids := l.enqueueAll(ignores, 3, nil)
	first := l.hire(3, ignores)
	l.Cleanup(func() { close(free) }) // before the worker's, which waits for it
	lines := l.awaitBegun("ignores", 3)
	var id string
	for _, x := range lines {
		if x.N == 1 {
			id = x.ID
		}
	}
	began := time.Now()
	first.hurried = true
	err := first.Stop(ended())
	require.ErrorContains(l, err, id)
	require.ErrorContains(l, err, `"ignores"`)
	require.ErrorIs(l, err, context.Canceled)
	l.Logf("Stop has given up after %v", time.Since(began).Round(time.Millisecond))
	require.Contains(l, inFlight(l.journal.all(), 0), id)

	began = time.Now()
	second := l.hire(3, l.define("ignores", durable.JobConfig{}, succeed))
	lines = l.awaitDone(ids)
	x := of(lines, "ended", id)[0]
	l.Logf("the job ran again %v after the start of the next worker, as attempt %d", x.At.Sub(began).Round(time.Millisecond), x.Attempt)
	l.dismiss(second)
}

func testStartStop(l *lab) {
	job := l.define("plain", durable.JobConfig{}, succeed)
	never := l.crew(l.engine, tether.Config{}, 1, job)
	assert.NoError(l, never.Stop(ended()), "Stop before Start")
	assert.ErrorIs(l, never.Start(l.context()), durable.ErrClosed)

	worker := l.hire(1, job)
	assert.ErrorIs(l, worker.Start(l.context()), durable.ErrInvalid, "second Start")
	first := l.enqueue(job, work{})
	l.awaitAttempts(first, 1)
	l.dismiss(worker)
	assert.NoError(l, worker.Stop(ended()), "second Stop")
	assert.ErrorIs(l, worker.Start(l.context()), durable.ErrClosed, "Start after Stop")

	// The engine serves the next one.
	second := l.enqueue(job, work{})
	next := l.hire(1, job)
	l.awaitAttempts(second, 1)
	l.dismiss(next)
	assert.Len(l, l.journal.all(), 4)
}
