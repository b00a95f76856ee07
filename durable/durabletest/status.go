package durabletest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

var statusClauses = []clause{
	{"another process is told when a job's worker was killed", testStatusKilled},
	{"another process is told how far a job is, and its result", testStatus},
	{"another process is told that a job is dead, and runs again", testStatusDead},
	{"another process cancels a job that waits, and one that runs", testStatusCancel},
	{"cancel, begin and retry at once: the status says what has happened", testStatusRaces},
	{"a duplicate has the status of the first job", testStatusDuplicate},
}

// service is the name of the contract's Stores.
const service = "contract"

// statusStore opens the Store of a process. An engine without one has another beside it, which
// the processes of the test share.
func (l *lab) statusStore(beside *storetest.Memory) *tetherhttp.Store {
	l.Helper()
	var b store.Backend = beside
	if l.fixture.Store != nil {
		b = l.fixture.Store(l.open())
	}
	s := tetherhttp.NewStore(service, b, tetherhttp.StoreConfig{Logger: slog.New(slog.DiscardHandler)})
	l.Cleanup(func() { assert.NoError(l, s.Close(l.context())) })
	return s
}

// hireTracked starts a worker that keeps the status of its jobs in a Store of its own.
func (l *lab) hireTracked(beside *storetest.Memory, concurrency int, jobs ...durable.Definition) *crew {
	l.Helper()
	shared := l.statusStore(beside)
	c := &crew{reg: tether.New(tether.Config{Logger: l.log})}
	var err error
	c.Worker, err = durable.NewWorker(l.engine, durable.WorkerConfig{Registry: c.reg, Concurrency: concurrency, Logger: l.log, Tracker: shared.Tracker()}, jobs...)
	require.NoError(l, err)
	l.Cleanup(func() {
		assert.NoError(l, c.Stop(l.context()), "Stop at the end of the test")
		assert.NoError(l, c.reg.Shutdown(l.context()), "drain at the end of the test")
	})
	require.NoError(l, c.Start(l.context()))
	return c
}

// awaitStatus waits until the status of a job is as it should become.
func (l *lab) awaitStatus(s *tetherhttp.Store, id, what string, ok func(tetherhttp.Status) bool) (now tetherhttp.Status) {
	l.Helper()
	l.until("the status to be "+what, func() bool {
		var err error
		now, err = s.Find(l.context(), id)
		require.NoError(l, err)
		return ok(now)
	})
	return now
}

func state(want tether.State) func(tetherhttp.Status) bool {
	return func(s tetherhttp.Status) bool { return s.Info.State == want }
}

func testStatus(l *lab) {
	beside := storetest.NewMemory()
	web := l.statusStore(beside)
	goOn := make(chan struct{})
	job := durable.DefineResult("status", func(ctx context.Context, w work) (map[string]int, error) {
		if m, _ := durable.MetaFrom(ctx); m.Attempt == 1 {
			return nil, errTest
		}
		tether.ReportProgress(ctx, tether.Progress{Done: 3, Total: 4})
		<-goOn
		return map[string]int{"n": w.N}, nil
	}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 3, Backoff: always(10 * time.Millisecond)})
	receipt, err := job.Enqueue(l.context(), l.engine, work{N: 7}, durable.Tracked(web.Tracker()), durable.Label("tenant", "acme"))
	require.NoError(l, err)
	now, err := web.Find(l.context(), receipt.ID)
	require.NoError(l, err)
	assert.Equal(l, tether.Queued, now.Info.State)
	assert.Zero(l, now.Info.Attempt)
	assert.Equal(l, map[string]string{"tenant": "acme"}, now.Info.Labels)
	l.hireTracked(beside, 2, job)
	now = l.awaitStatus(web, receipt.ID, "running, with its progress", func(s tetherhttp.Status) bool { return s.Info.Progress.Done == 3 })
	assert.Equal(l, tether.Running, now.Info.State)
	assert.Equal(l, 2, now.Info.Attempt)
	close(goOn)
	now = l.awaitStatus(web, receipt.ID, "succeeded", state(tether.Succeeded))
	assert.JSONEq(l, `{"n":7}`, string(now.Result.(json.RawMessage)))
	_, err = web.Find(l.context(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	assert.ErrorIs(l, err, tether.ErrNotFound)
}

func testStatusDead(l *lab) {
	beside := storetest.NewMemory()
	web := l.statusStore(beside)
	var runs atomic.Int64
	job := durable.DefineResult("status", func(context.Context, work) (int64, error) {
		if n := runs.Add(1); n > 1 {
			return n, nil
		}
		return 0, durable.Permanent(errTest)
	}, durable.JobConfig{Timeout: time.Minute})
	l.hireTracked(beside, 2, job)
	receipt, err := job.Enqueue(l.context(), l.engine, work{}, durable.Tracked(web.Tracker()))
	require.NoError(l, err)
	now := l.awaitStatus(web, receipt.ID, "failed", state(tether.Failed))
	assert.Equal(l, tetherhttp.ProblemFailed, now.Problem.Type)
	if _, ok := l.engine.(durable.DeadRetrier); !ok {
		return
	}
	l.until("the job to be dead", func() bool { // the status is stored first
		err := durable.RetryDead(l.context(), l.engine, receipt.ID)
		if errors.Is(err, durable.ErrNotDead) {
			return false
		}
		require.NoError(l, err)
		return true
	})
	now = l.awaitStatus(web, receipt.ID, "succeeded", state(tether.Succeeded))
	assert.JSONEq(l, `2`, string(now.Result.(json.RawMessage)))
	assert.Nil(l, now.Problem)
}

func testStatusCancel(l *lab) {
	beside := storetest.NewMemory()
	web := l.statusStore(beside)
	cause := make(chan error, 1)
	job := durable.Define("status", func(ctx context.Context, w work) error {
		if w.N == 1 {
			panic("it was canceled")
		}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}, durable.JobConfig{Timeout: handlerTimeout})
	var ids []string
	for n := range 2 {
		receipt, err := job.Enqueue(l.context(), l.engine, work{N: n + 1}, durable.Tracked(web.Tracker()))
		require.NoError(l, err)
		ids = append(ids, receipt.ID)
	}
	now, err := web.Cancel(l.context(), ids[0])
	require.NoError(l, err)
	assert.Equal(l, tether.Canceled, now.Info.State)
	l.hireTracked(beside, 2, job)
	l.awaitStatus(web, ids[1], "running", state(tether.Running))
	_, err = web.Cancel(l.context(), ids[1])
	require.NoError(l, err)
	assert.ErrorIs(l, <-cause, tetherhttp.ErrCanceled)
	for _, id := range ids {
		now := l.awaitStatus(web, id, "canceled", state(tether.Canceled))
		assert.Equal(l, tetherhttp.ProblemCanceled, now.Problem.Type)
		_, err = web.Cancel(l.context(), id)
		assert.NoError(l, err, "of one that has ended")
	}
}

// testStatusRaces cancels jobs that begin, fail and end at that moment. At the end each status is
// final, and a job that was canceled has not begun another attempt since.
func testStatusRaces(l *lab) {
	beside := storetest.NewMemory()
	web := l.statusStore(beside)
	jobs := 30
	if testing.Short() {
		jobs = 10
	}
	job := durable.DefineResult("status", func(ctx context.Context, w work) (string, error) {
		m, _ := durable.MetaFrom(ctx)
		if m.Attempt <= w.N%3 {
			return "", errTest
		}
		return strconv.Itoa(w.N), nil
	}, durable.JobConfig{Timeout: time.Minute, Backoff: always(time.Millisecond)})
	l.hireTracked(beside, 4, job)
	l.hireTracked(beside, 4, job)
	ids := make([]string, jobs)
	for n := range ids {
		receipt, err := job.Enqueue(l.context(), l.engine, work{N: n}, durable.Tracked(web.Tracker()))
		require.NoError(l, err)
		ids[n] = receipt.ID
		if n >= 5 && n%2 == 0 {
			_, err = web.Cancel(l.context(), ids[n-n%5])
			require.NoError(l, err)
		}
	}
	done, canceled := 0, 0
	for n, id := range ids {
		now := l.awaitStatus(web, id, "final", func(s tetherhttp.Status) bool { return s.Info.State.Final() })
		switch now.Info.State {
		case tether.Succeeded:
			done++
			assert.JSONEq(l, strconv.Quote(strconv.Itoa(n)), string(now.Result.(json.RawMessage)))
		case tether.Canceled:
			canceled++
		default:
			assert.Fail(l, "state", "%v: %v", now.Info.State, now.Problem)
		}
	}
	l.Logf("%d jobs were done, %d canceled", done, canceled)
}

func testStatusDuplicate(l *lab) {
	if !l.support.Unique {
		l.Skip("the engine has no unique keys")
	}
	web := l.statusStore(nil)
	job := durable.Define("status", func(context.Context, work) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	first, err := job.Enqueue(l.context(), l.engine, work{}, durable.Unique("k"), durable.Tracked(web.Tracker()))
	require.NoError(l, err)
	second, err := job.Enqueue(l.context(), l.engine, work{}, durable.Unique("k"), durable.Tracked(web.Tracker()))
	require.NoError(l, err)
	require.Equal(l, durable.Receipt{ID: first.ID, Duplicate: true}, second)
	now, err := web.Find(l.context(), second.ID)
	require.NoError(l, err)
	assert.Equal(l, tether.Queued, now.Info.State)
}

func testStatusKilled(l *lab) {
	if l.fixture.Store == nil || testing.Short() {
		l.Skip("needs another process, and the lease of its Store to end")
	}
	web := l.statusStore(nil)
	plain, _, _ := childJobs(role{}, nil)
	worker := l.spawn(role{Play: "worker", Concurrency: 2, Trap: true})
	worker.ready()
	receipt, err := plain.Enqueue(l.context(), l.engine, work{Kind: "parked"}, durable.Tracked(web.Tracker()))
	require.NoError(l, err)
	l.awaitStatus(web, receipt.ID, "running", state(tether.Running))
	worker.kill()
	killed := time.Now()
	now := l.awaitStatus(web, receipt.ID, "queued", state(tether.Queued))
	l.Logf("the status said so %v after the kill", time.Since(killed).Round(100*time.Millisecond))
	problem := new(tetherhttp.Problem)
	require.ErrorAs(l, now.Info.LastErr, &problem)
	assert.Equal(l, tetherhttp.ProblemTaskLost, problem.Type)
	_, err = web.Cancel(l.context(), receipt.ID) // no worker runs the job from here on
	require.NoError(l, err)
}
