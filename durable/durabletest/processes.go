package durabletest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// A drain that cancels does so after the first of these, and has the other for what is left:
// a guard, for slow machines.
const untilCancel, inHaste = 5 * time.Second, 30 * time.Second

var crashClauses = []clause{
	{"jobs of a killed process run again in one that goes on", testCrashBeside},
	{"jobs of a killed process run again", testCrash},
	{"jobs survive a neighbor that ends the process", testPoison},
	{"workers that are killed at random lose no job", testKills},
	{"a worker that stood still disturbs no other", testFreeze},
	{"what a killed producer has enqueued is done", testKilledProducer},
}

var processClauses = []clause{
	{"a process that is told to stop loses nothing", testTerminate},
	{"a process that is told to stop and hangs loses nothing", testTerminateStubborn},
	{"two processes share a queue", testTwoProcesses},
	{"what a process has accepted under overload is done after it was told to stop", testProducer},
}

// testCrash kills a worker in the middle of 1,000 jobs: all run at least once, and those
// that it was at run again as their next attempt.
func testCrash(l *lab) {
	const jobs = 1000
	l.patience += l.fixture.Rescue
	unique := []durable.EnqueueOption{durable.Unique("only one")}
	if !l.support.Unique {
		unique = nil
	}
	plain, once, _ := childJobs(role{}, nil)
	final := l.enqueue(once, work{Kind: "parked"}, unique...)
	ids := l.enqueueAll(plain, jobs, func(w *work) {
		if w.N%100 == 50 { // so that some are in flight for sure
			w.Kind = "parked"
		}
	})

	first := l.spawn(role{Play: "worker", Concurrency: 20, Takes: 5 * time.Millisecond, Trap: true})
	l.await("the worker to be midway", func(lines []line) bool {
		return len(doneTimes(lines)) >= jobs/5 && len(of(lines, "began", final)) > 0 && len(inFlight(lines, first.number)) > 1
	})
	first.kill()
	before := l.journal.all()
	open := inFlight(before, first.number)
	require.True(l, open[final], "the job of one attempt is in flight at the kill")
	delete(open, final)
	require.NotEmpty(l, open, "jobs in flight at the kill")
	require.Less(l, len(doneTimes(before)), jobs, "jobs done before the kill")
	last := lastAttempts(before)

	second := l.spawn(role{Play: "worker", Concurrency: 20, Takes: 5 * time.Millisecond})
	after := l.awaitDone(ids)[len(before):]
	if l.support.Unique { // which is free once the engine has given the job up
		l.until("a job of one attempt, which the crash has used, to fail for good", func() bool {
			receipt, err := once.Enqueue(l.context(), l.engine, work{}, unique...)
			require.NoError(l, err)
			return !receipt.Duplicate
		})
	}
	require.Zero(l, second.terminate(), "exit status")
	all := l.journal.all()
	assert.Len(l, of(all, "began", final), 1, "a job of one attempt")

	var again []time.Duration
	for _, x := range all[len(before):] {
		switch {
		case x.What != "began":
		case last[x.ID] > 0:
			assert.Equal(l, last[x.ID]+1, x.Attempt, "attempt after the crash")
			last[x.ID] = x.Attempt
		case x.Name == plain.Name():
			assert.LessOrEqual(l, x.Attempt, 2, "the crash is one attempt at most")
		}
		if x.What == "began" && open[x.ID] {
			again = append(again, x.At.Sub(second.began))
		}
	}
	assert.GreaterOrEqual(l, len(again), len(open))
	twice := 0
	for id, n := range doneTimes(all) {
		if ids[id] && n > 1 {
			twice++
		}
	}
	l.Logf("%d jobs were in flight at the kill: the first ran again %v after the start of the next process, the last %v (Rescue %v: %q); %d of %d were done twice; %d lines in all",
		len(open), again[0].Round(time.Millisecond), again[len(again)-1].Round(time.Millisecond), l.fixture.Rescue, l.support.Rescue, twice, jobs, len(after))
}

// testPoison has one job that ends its process, and nine that never fail, under a supervisor
// that starts the worker again each time. The one is dead after its three attempts, with
// the reason in the log; the nine are done, though they were there at more crashes than they
// have attempts.
func testPoison(l *lab) {
	if !l.support.Pardons {
		l.Skip("the engine holds every crash against all jobs that ran")
	}
	if l.fixture.Hasten == nil && testing.Short() {
		l.Skip("takes as long as five of the engine's rescues")
	}
	const neighbors, most = 9, 20
	l.patience += 8 * l.fixture.Rescue
	_, _, thrice := childJobs(role{}, nil)
	ids := l.enqueueAll(thrice, neighbors, nil)
	poison := l.enqueue(thrice, work{Kind: "poison"})
	isDead := func(p *process) bool {
		for record := range strings.Lines(p.stderr.String()) {
			if strings.Contains(record, "failed for good") && strings.Contains(record, poison) && strings.Contains(record, "the process ended while it ran") {
				return true
			}
		}
		return false
	}
	crashes := 0
	for began := time.Now(); ; crashes++ {
		require.Less(l, crashes, most, "crashes")
		if crashes > 0 && l.fixture.Hasten != nil {
			require.NoError(l, l.fixture.Hasten(l.address, l.queue))
		}
		p := l.spawn(role{Play: "worker", Concurrency: neighbors + 1, Takes: 100 * time.Millisecond})
		l.until("the process to end, or the job that ends it to be dead", func() bool { return closed(p.ended) || isDead(p) })
		if !isDead(p) {
			continue
		}
		l.awaitDone(ids)
		require.Zero(l, p.terminate(), "exit status")
		l.Logf("%d crashes in %v, and the job that caused them is dead", crashes, time.Since(began).Round(time.Millisecond))
		break
	}
	lines := l.journal.all()
	assert.GreaterOrEqual(l, len(of(lines, "began", poison)), 3, "attempts of the job that ends the process")
	began, there := make(map[string]int), 0
	for _, x := range lines {
		if x.What == "began" && ids[x.ID] {
			began[x.ID]++
			there = max(there, began[x.ID]-1)
		}
	}
	assert.Positive(l, there, "crashes that an innocent job was there at")
	for id, n := range doneTimes(lines) {
		assert.True(l, ids[id])
		assert.GreaterOrEqual(l, n, 1)
	}
}

// testKilledProducer kills processes while they enqueue.
func testKilledProducer(l *lab) {
	const kills = 3
	for range kills {
		p := l.spawn(role{Play: "enqueuer", Concurrency: 8})
		enough := len(acceptedIn(l.journal.all())) + 200
		l.await("jobs to be accepted", func(lines []line) bool { return len(acceptedIn(lines)) >= enough })
		p.kill()
	}
	accepted := acceptedIn(l.journal.all())
	worker := l.spawn(role{Play: "worker", Concurrency: 20})
	lines := l.awaitDone(accepted)
	require.Zero(l, worker.terminate(), "exit status")
	l.Logf("%d kills: %d jobs accepted, %d done", kills, len(accepted), len(doneTimes(lines)))
}

// testFreeze stops a process, by SIGSTOP, until another has done its jobs, and lets it go on.
// What it then says of them, that its drain has canceled them, is of no consequence.
func testFreeze(l *lab) {
	if testing.Short() {
		l.Skip("takes as long as the engine's rescue")
	}
	l.patience += l.fixture.Rescue
	plain, _, _ := childJobs(role{}, nil)
	ids := l.enqueueAll(plain, 4, func(w *work) { w.Kind = "parked" })
	first := l.spawn(role{Play: "worker", Concurrency: 4, Trap: true, Budget: untilCancel + inHaste, Grace: inHaste})
	l.await("jobs to be in flight", func(lines []line) bool { return len(inFlight(lines, first.number)) == 4 })
	second := l.spawn(role{Play: "worker", Concurrency: 4})
	second.ready()
	first.freeze()
	frozen := time.Now()
	l.awaitDone(ids)
	took := time.Since(frozen)
	first.thaw()
	first.terminate() // it may say that it has lost its engine
	l.awaitDone(l.enqueueAll(plain, 20, nil))
	require.Zero(l, second.terminate(), "exit status")
	lines := l.journal.all()
	for id := range ids {
		assert.Equal(l, 1, doneTimes(lines)[id], "times that a job was done")
		assert.Len(l, of(lines, "began", id), 2, "attempts at a job that was taken over")
	}
	l.Logf("the jobs of a worker that stood still were done by another after %v", took.Round(time.Millisecond))
}

// testCrashBeside kills one of two workers: the other is not in the way of the rescue, and
// what it has done itself is not done again.
func testCrashBeside(l *lab) {
	if testing.Short() {
		l.Skip("takes as long as the engine's rescue")
	}
	const jobs = 30
	l.patience += l.fixture.Rescue
	plain, _, _ := childJobs(role{}, nil)
	ids := l.enqueueAll(plain, 4, func(w *work) { w.Kind = "parked" })
	first := l.spawn(role{Play: "worker", Concurrency: 4, Trap: true})
	l.await("jobs to be in flight", func(lines []line) bool { return len(inFlight(lines, first.number)) == 4 })
	second := l.spawn(role{Play: "worker", Concurrency: 4})
	second.ready()
	others := l.enqueueAll(plain, jobs, nil)
	l.awaitDone(others)
	killed := time.Now()
	first.kill()
	before := l.journal.all()
	open, last := inFlight(before, first.number), lastAttempts(before)
	require.NotEmpty(l, open, "jobs in flight at the kill")
	l.awaitDone(ids)
	require.Zero(l, second.terminate(), "exit status")
	var latest time.Duration
	for _, x := range l.journal.all()[len(before):] {
		if x.What == "began" {
			assert.True(l, open[x.ID], "an attempt of a job that was in flight")
			assert.Equal(l, last[x.ID]+1, x.Attempt, "attempt after the crash")
			latest = x.At.Sub(killed)
		}
	}
	for id := range others {
		assert.Equal(l, []int{1}, attemptsOf(of(before, "ended", id)), "attempts of a job that was not interrupted")
	}
	l.Logf("%d jobs were in flight at the kill, the last began again %v later", len(open), latest.Round(time.Millisecond))
}

// testTerminate ends a worker by SIGTERM: what it was at ends or goes back, and what has
// ended is not done again.
func testTerminate(l *lab) {
	const jobs = 300
	plain, _, _ := childJobs(role{}, nil)
	ids := l.enqueueAll(plain, jobs, func(w *work) {
		if w.N%60 == 30 {
			w.Kind = "parked"
		}
	})
	first := l.spawn(role{Play: "worker", Concurrency: 10, Takes: 5 * time.Millisecond, Trap: true, Budget: untilCancel + inHaste, Grace: inHaste})
	l.await("the worker to be midway", func(lines []line) bool { return len(doneTimes(lines)) >= jobs/6 })
	began := time.Now()
	require.Zero(l, first.terminate(), "exit status")
	took := time.Since(began)
	lines := l.journal.all()
	require.Empty(l, inFlight(lines, first.number), "handlers that have not returned")
	remain, interrupted := jobs-len(doneTimes(lines)), 0
	for _, x := range lines {
		if x.What == "ended" && x.Note != "" {
			assert.Equal(l, tether.ErrShutdown.Error(), x.Note, "cause of a cancellation")
			interrupted++
		}
	}
	assert.NotZero(l, interrupted, "handlers that were canceled")

	second := l.spawn(role{Play: "worker", Concurrency: 10})
	l.awaitDone(ids)
	require.Zero(l, second.terminate(), "exit status")
	used := 0
	for _, x := range l.journal.all() {
		if x.What == "ended" && x.Note == "" && x.Attempt > 1 {
			used++
		}
	}
	for id, n := range doneTimes(l.journal.all()) {
		assert.Equal(l, 1, n, "times that job %s was done", id)
	}
	l.Logf("the process ended after %v and left %d of %d jobs, %d of which it had interrupted; that has used an attempt of %d", took.Round(time.Millisecond), remain, jobs, interrupted, used)
	assert.LessOrEqual(l, used, interrupted, "attempts of jobs that never ran")
}

// testTerminateStubborn ends a worker of which some handlers ignore that.
func testTerminateStubborn(l *lab) {
	l.patience += l.fixture.Rescue
	plain, _, _ := childJobs(role{}, nil)
	ids := l.enqueueAll(plain, 20, func(w *work) {
		if w.N%7 == 0 {
			w.Kind = "stubborn"
		}
	})
	first := l.spawn(role{Play: "worker", Concurrency: 4, Trap: true, Budget: 4 * time.Second, Grace: time.Second, Close: 2 * time.Second})
	l.await("the worker to hang", func(lines []line) bool { return len(inFlight(lines, 1)) == 2 && len(doneTimes(lines)) == 18 })
	assert.Equal(l, 1, first.terminate(), "exit status")
	for id := range inFlight(l.journal.all(), 1) {
		assert.Contains(l, first.stderr.String(), id, "the job that ignores its cancellation")
	}
	second := l.spawn(role{Play: "worker", Concurrency: 4})
	lines := l.awaitDone(ids)
	for id := range inFlight(lines, 1) {
		x := of(lines, "ended", id)[0]
		l.Logf("ran again %v after the start of the next process, as attempt %d", x.At.Sub(second.began).Round(time.Millisecond), x.Attempt)
	}
	require.Zero(l, second.terminate(), "exit status")
}

// testTwoProcesses has each job be run by one of them, once.
func testTwoProcesses(l *lab) {
	const jobs = 400
	workers := []*process{
		l.spawn(role{Play: "worker", Concurrency: 4, Takes: 5 * time.Millisecond}),
		l.spawn(role{Play: "worker", Concurrency: 4, Takes: 5 * time.Millisecond}),
	}
	for _, w := range workers {
		w.ready()
	}
	plain, _, _ := childJobs(role{}, nil)
	ids := l.enqueueAll(plain, jobs, nil)
	l.awaitDone(ids)
	for _, w := range workers {
		require.Zero(l, w.terminate(), "exit status")
	}
	share := make(map[int]int)
	for _, x := range l.journal.all() {
		if x.What == "began" {
			share[x.Process]++
			assert.Equal(l, 1, x.Attempt)
			assert.True(l, ids[x.ID], "a job of this queue")
		}
	}
	assert.Equal(l, jobs, share[1]+share[2], "each once")
	assert.NotZero(l, share[1], "share of the first process")
	assert.NotZero(l, share[2], "share of the second process")
	l.Logf("shares: %d and %d", share[1], share[2])
}

// testProducer is the promise of Job.Go: across overload and SIGTERM nothing is lost that
// it has accepted.
func testProducer(l *lab) {
	l.patience += l.fixture.Rescue
	producer := l.spawn(role{Play: "producer", Concurrency: 4, Takes: 2 * time.Millisecond, Trap: true, Budget: untilCancel + inHaste, Grace: inHaste})
	l.await("400 jobs to be accepted", func(lines []line) bool {
		n := 0
		for _, x := range lines {
			if x.What == "accepted" {
				n++
			}
		}
		return n >= 400
	})
	require.Zero(l, producer.terminate(), "exit status")
	accepted, late := make(map[string]bool), 0
	for _, x := range l.journal.all() {
		switch {
		case x.What == "refused":
			assert.Fail(l, "Job.Go has failed", "%s", x.Note)
		case x.What == "accepted":
			accepted[x.ID] = true
			if x.Note != "" {
				late++
			}
		}
	}
	here := len(doneTimes(l.journal.all()))
	require.Less(l, here, len(accepted), "jobs done by the producer")

	worker := l.spawn(role{Play: "worker", Concurrency: 8})
	l.awaitDone(accepted)
	require.Zero(l, worker.terminate(), "exit status")
	done := doneTimes(l.journal.all())
	for id := range done {
		assert.True(l, accepted[id], "job %s, which was done, was accepted", id)
	}
	l.Logf("%d jobs accepted (%d were put onto the engine at once), %d done by the producer, all %d in the end", len(accepted), late, here, len(done))
}
