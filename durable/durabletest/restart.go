package durabletest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

var restartClauses = []clause{
	{"the server restarts while a worker is at work and another is idle", testRestart},
	{"the server is killed while jobs are enqueued and run", testServerKilled},
}

// testServerKilled kills the server three times while a process enqueues and another works:
// what was accepted is done.
func testServerKilled(l *lab) {
	if !l.server.Restarts() {
		l.Skip("the engine has no server")
	}
	if l.fixture.NoKill != "" {
		l.Skip(l.fixture.NoKill)
	}
	if testing.Short() {
		l.Skip("repeats what the restart has")
	}
	l.patience += l.fixture.Rescue
	worker := l.spawn(role{Play: "worker", Concurrency: 8})
	worker.ready()
	enqueuer := l.spawn(role{Play: "enqueuer", Concurrency: 4, Trap: true})
	const kills = 3
	for range kills {
		enough := len(doneTimes(l.journal.all())) + 200
		l.await("jobs to be done", func(lines []line) bool { return len(doneTimes(lines)) >= enough })
		l.server.Kill(l)
		l.server.Start(l)
	}
	enough := len(doneTimes(l.journal.all())) + 200
	l.await("jobs to be done after the last kill", func(lines []line) bool { return len(doneTimes(lines)) >= enough })
	enqueuer.kill()
	accepted := acceptedIn(l.journal.all())
	lost := func() (n int) {
		done := doneTimes(l.journal.all())
		for id := range accepted {
			if done[id] == 0 {
				n++
			}
		}
		return n
	}
	l.until("what was accepted to be done", func() bool { return lost() <= l.fixture.MayLose })
	plain, _, _ := childJobs(role{}, nil)
	l.awaitDone(l.enqueueAll(plain, 10, nil))
	require.Zero(l, worker.terminate(), "exit status")
	twice := 0
	for _, n := range doneTimes(l.journal.all()) {
		if n > 1 {
			twice++
		}
	}
	l.Logf("%d kills of the server: %d jobs accepted, %d of them lost, %d done twice or more", kills, len(accepted), lost(), twice)
}

// acceptedIn returns the jobs that the engine has accepted.
func acceptedIn(lines []line) map[string]bool {
	ids := make(map[string]bool)
	for _, x := range lines {
		if x.What == "accepted" {
			ids[x.ID] = true
		}
	}
	return ids
}

// testRestart takes the server away from a worker that has jobs in flight, whose outcomes
// it cannot store for a while, and from one that has nothing to do.
func testRestart(l *lab) {
	if !l.server.Restarts() {
		l.Skip("the engine has no server")
	}
	const places, jobs = 4, 60
	l.patience += l.fixture.Rescue
	idle := newLab(l.T, l.fixture, l.server)
	idle.patience = l.patience

	mayEnd := make(chan struct{})
	free := sync.OnceFunc(func() { close(mayEnd) })
	l.Cleanup(free)
	var begun atomic.Int64
	job := l.define("job", durable.JobConfig{Timeout: handlerTimeout}, func(ctx context.Context, _ work) error {
		n := begun.Add(1)
		if n <= jobs/3 {
			return nil
		}
		select { // in flight when the server goes
		case <-mayEnd:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if n%2 == 0 && n <= jobs/3+places { // this must not be forgotten
			return errTest
		}
		return nil
	})
	ids := l.enqueueAll(job, jobs, nil)
	worker := l.hire(places, job)
	idleJob := idle.define("idle", durable.JobConfig{}, succeed)
	idler := idle.hire(places, idleJob)
	idle.awaitDone(idle.enqueueAll(idleJob, 1, nil))
	late := l.crew(l.open(), tether.Config{}, places, job)
	l.await("jobs to be in flight", func(lines []line) bool { return len(inFlight(lines, 0)) == places })

	l.server.Stop(l)
	stopped := time.Now()
	start := sync.OnceFunc(func() { l.server.Start(l) })
	l.Cleanup(start) // others may come after this test
	while := func(what string, call func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- call(ctx) }()
		select {
		case err := <-result:
			require.Error(l, err, "%s while the server is down", what)
			l.Logf("%s while the server is down: %v", what, err)
		case <-time.After(l.patience):
			require.FailNow(l, what+" does not end with its context")
		}
	}
	while("Enqueue", func(ctx context.Context) error {
		_, err := job.Enqueue(ctx, l.engine, work{N: jobs + 1})
		return err
	})
	while("Enqueue on the idle queue", func(ctx context.Context) error {
		_, err := idleJob.Enqueue(ctx, idle.engine, work{N: 2})
		return err
	})
	while("Worker.Start", late.Start)
	waiting := make(chan error, 1)
	var waited string
	go func() {
		receipt, err := job.Enqueue(l.context(), l.engine, work{N: jobs + 3})
		waited = receipt.ID
		waiting <- err
	}()
	free() // their outcomes have nowhere to go
	l.await("the handlers to have returned", func(lines []line) bool { return len(inFlight(lines, 0)) == 0 })
	start()
	l.Logf("the server was away for %v", time.Since(stopped).Round(time.Millisecond))
	up := time.Now()

	enqueue := func(l *lab, job *durable.Job[work], ids map[string]bool) {
		for range 10 {
			l.until("Enqueue to work again", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				receipt, err := job.Enqueue(ctx, l.engine, work{N: jobs + 2})
				if err != nil {
					return false
				}
				ids[receipt.ID] = true
				return true
			})
		}
	}
	select {
	case err := <-waiting:
		require.NoError(l, err, "an Enqueue that began while the server was down, and had time until it was back")
		ids[waited] = true
		l.Logf("an Enqueue that waited has ended %v after the server was back", time.Since(up).Round(time.Millisecond))
	case <-time.After(l.patience):
		require.FailNow(l, "Enqueue waits though the server is back")
	}
	idleIDs := make(map[string]bool)
	enqueue(l, job, ids)
	enqueue(idle, idleJob, idleIDs)
	idle.awaitDone(idleIDs)
	l.Logf("the idle worker was at work again %v after the server", time.Since(up).Round(time.Millisecond))
	l.awaitDone(ids)
	l.Logf("all was done %v after the server was back", time.Since(up).Round(time.Millisecond))
	for _, w := range []*crew{worker, idler} {
		assert.False(l, closed(w.Done()), "a worker has given up: %v", w.Err())
	}
	twice := 0
	for _, n := range doneTimes(l.journal.all()) {
		if n > 1 {
			twice++
		}
	}
	l.Logf("%d of %d jobs were done twice", twice, len(ids))
	require.NoError(l, late.Start(l.context()), "Start, after it has failed")
	l.dismiss(worker)
	l.dismiss(idler)
	l.awaitDone(map[string]bool{l.enqueue(job, work{}): true})
	l.dismiss(late)
}
