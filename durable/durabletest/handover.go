package durabletest

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// Job.Go, from one process to another; see also testProducer.
var goClauses = []clause{
	{"a job that finds the pool full goes onto the engine", testGoFull},
	{"a job that the drain cuts short goes onto the engine", testGoDrained},
	{"a job that fails here is tried again by a worker", testGoFails},
}

// workshop is a registry with a small pool, as a server has one.
func (l *lab) workshop(workers, queue int) (*tether.Registry, *tether.Pool) {
	reg := tether.New(tether.Config{Logger: l.log, CancelBefore: 10 * time.Second})
	l.Cleanup(func() { assert.NoError(l, reg.Shutdown(l.context())) })
	return reg, reg.NewPool("few", tether.PoolConfig{Workers: workers, Queue: queue, Overflow: tether.OverflowReject})
}

// give has the job be run here if that can be done.
func (l *lab) give(pool *tether.Pool, job *durable.Job[work], w work) durable.Receipt {
	l.Helper()
	receipt, err := job.Go(l.context(), pool, l.engine, w)
	require.NoError(l, err)
	require.False(l, receipt.Duplicate)
	require.NotEmpty(l, receipt.ID)
	return receipt
}

func testGoFull(l *lab) {
	const jobs = 10
	_, pool := l.workshop(1, 0)
	mayEnd := make(chan struct{})
	free := sync.OnceFunc(func() { close(mayEnd) })
	l.Cleanup(free)
	here := l.define("job", durable.JobConfig{}, func(ctx context.Context, _ work) error {
		<-mayEnd
		return nil
	})
	first := l.give(pool, here, work{})
	require.NotNil(l, first.Task, "the task of the one that runs here")
	l.awaitBegun("job", 1)
	ids := make(map[string]bool)
	for range jobs {
		receipt := l.give(pool, here, work{})
		assert.Nil(l, receipt.Task, "the task of one that does not run here")
		ids[receipt.ID] = true
	}
	worker := l.hire(2, l.define("job", durable.JobConfig{}, succeed))
	l.awaitDone(ids)
	free()
	require.NoError(l, first.Task.Wait(l.context()))
	l.dismiss(worker)
	lines := l.journal.all()
	assert.Len(l, lines, 2*(jobs+1), "each once")
	for _, x := range lines {
		assert.Equal(l, 1, x.Attempt)
	}
}

// testGoDrained: the drain finds one that heeds its cancellation, one that ignores it, and
// some that wait.
func testGoDrained(l *lab) {
	const waiting = 8
	reg, pool := l.workshop(2, waiting)
	free := make(chan struct{})
	here := l.define("job", durable.JobConfig{}, func(ctx context.Context, w work) error {
		if w.Kind == "stubborn" {
			<-free
			return nil
		}
		return untilCancelled(ctx, w)
	})
	l.Cleanup(func() { close(free) })
	heeds, ignores := l.give(pool, here, work{}), l.give(pool, here, work{Kind: "stubborn"})
	l.awaitBegun("job", 2)
	ids := map[string]bool{heeds.ID: true, ignores.ID: true}
	var queued []durable.Receipt
	for range waiting {
		queued = append(queued, l.give(pool, here, work{}))
		ids[queued[len(queued)-1].ID] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 13*time.Second) // the drain cancels after 3 s
	defer cancel()
	err := reg.Shutdown(ctx)
	var left *tether.DrainError
	require.ErrorAs(l, err, &left, "the drain, of which one task has not ended")
	assert.Len(l, left.Report.Abandoned, 1)
	assert.Len(l, left.Report.Canceled, 1)
	assert.Len(l, left.Report.HandedOver, waiting)
	assert.Empty(l, left.Report.NeverStarted)
	for _, receipt := range queued {
		assert.ErrorIs(l, receipt.Task.Err(), tether.ErrShutdown)
	}
	late := l.give(pool, here, work{})
	assert.Nil(l, late.Task, "the task of one that was given after the drain")
	ids[late.ID] = true

	before := len(l.journal.all())
	worker := l.hire(4, l.define("job", durable.JobConfig{}, succeed))
	lines := l.awaitDone(ids)
	l.dismiss(worker)
	again := lines[before:]
	for _, x := range again {
		assert.Equal(l, 1, x.Attempt, "attempt of job %d", x.N)
	}
	assert.Len(l, again, 2*len(ids), "each once")
	assert.Len(l, inFlight(lines, 0), 0)
}

// testGoFails: the first attempt is made here, the others by a worker, as attempts of the
// same job.
func testGoFails(l *lab) {
	_, pool := l.workshop(4, 4)
	const wait = 600 * time.Millisecond
	define := func(name string, opts durable.JobConfig, handler func(context.Context, work) error) *durable.Job[work] {
		opts.Backoff = always(wait)
		return l.define(name, opts, func(ctx context.Context, w work) error {
			if meta, _ := durable.MetaFrom(ctx); meta.Attempt == 1 {
				return handler(ctx, w)
			}
			return nil
		})
	}
	fails := func(context.Context, work) error { return errTest }
	again := []*durable.Job[work]{
		define("error", durable.JobConfig{MaxAttempts: 9}, fails),
		define("panic", durable.JobConfig{MaxAttempts: 9}, func(context.Context, work) error { panic(errTest) }),
		define("timeout", durable.JobConfig{MaxAttempts: 9, Timeout: 50 * time.Millisecond}, untilCancelled),
	}
	if !l.support.RunAt {
		receipt := l.give(pool, again[0], work{})
		assert.ErrorIs(l, receipt.Task.Wait(l.context()), durable.ErrUnsupported)
		return
	}
	final := []*durable.Job[work]{
		define("only", durable.JobConfig{MaxAttempts: 1}, fails),
		define("permanent", durable.JobConfig{}, func(context.Context, work) error { return durable.Permanent(errTest) }),
	}
	worker := l.hire(2, again[0], again[1], again[2], final[0], final[1])
	ids := make(map[string]bool)
	for _, job := range again {
		receipt := l.give(pool, job, work{})
		assert.Error(l, receipt.Task.Wait(l.context()), "outcome of the attempt that was made here")
		ids[receipt.ID] = true
	}
	var ends []string
	for _, job := range final {
		receipt := l.give(pool, job, work{})
		assert.ErrorIs(l, receipt.Task.Wait(l.context()), errTest)
		ends = append(ends, receipt.ID)
	}
	lines := l.awaitDone(ids)
	l.dismiss(worker)
	for id := range ids {
		began := of(lines, "began", id)
		require.Equal(l, []int{1, 2}, attemptsOf(began), "attempts of the ID in the Receipt")
		assert.Equal(l, 9, began[1].Most, "MaxAttempts")
		assert.GreaterOrEqual(l, began[1].At.Sub(of(lines, "ended", id)[0].At), wait, "Backoff")
	}
	for _, id := range ends {
		assert.Len(l, of(l.journal.all(), "began", id), 1, "attempts of a job that has failed for good")
	}
}
