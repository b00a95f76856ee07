package durabletest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

var attemptClauses = []clause{
	{"the engine gives no job up by count", testManyAttempts},
	{"no job starts before its time", testRunAt},
	{"a job that fails is tried again after its backoff", testBackoff},
	{"a job that has failed for good is not tried again", testGivenUp},
	{"failures of each kind leave the worker's places free", testFailures},
	{"a worker leaves what it does not have to others", testUnknown},
}

// testRunAt: the times are an odd number of milliseconds apart, so that what an engine
// rounds shows.
func testRunAt(l *lab) {
	job := l.define("later", durable.JobConfig{}, succeed)
	if !l.support.RunAt {
		_, err := job.Enqueue(l.context(), l.engine, work{}, durable.RunAt(time.Now()))
		assert.ErrorIs(l, err, durable.ErrUnsupported)
		return
	}
	worker := l.hire(4, job)
	l.enqueue(job, work{N: 100}, durable.RunAt(time.Now().Add(24*time.Hour)))
	past := l.enqueue(job, work{}, durable.RunAt(time.Now().Add(-time.Hour)))
	times, ids := make(map[string]time.Time), map[string]bool{past: true}
	times[past] = time.Now().Add(-time.Hour)
	for i := range 20 {
		at := time.Now().Add(time.Duration(i) * 137 * time.Millisecond)
		id := l.enqueue(job, work{N: i}, durable.RunAt(at))
		times[id], ids[id] = at, true
	}
	l.awaitDone(ids)
	l.dismiss(worker)
	var latest, sum time.Duration
	for _, x := range l.journal.all() {
		require.NotEqual(l, 100, x.N, "the job of tomorrow")
		if x.What == "began" && x.ID != past {
			late := x.At.Sub(times[x.ID])
			assert.GreaterOrEqual(l, late, time.Duration(0), "job %d", x.N)
			latest, sum = max(latest, late), sum+late
		}
	}
	assert.Len(l, l.journal.all(), 2*len(ids), "each once")
	l.Logf("late by %v at most, %v on average (Resolution %v)", latest.Round(time.Millisecond), (sum / 20).Round(time.Millisecond), l.support.Resolution)
}

// testBackoff: the attempts are numbered, each waits as long as Backoff says, and Meta
// stays the job's.
func testBackoff(l *lab) {
	var mu sync.Mutex
	var asked []int
	backoff := func(attempt int, _ error) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, attempt)
		return time.Duration(attempt) * 450 * time.Millisecond
	}
	if !l.support.RunAt {
		backoff = always(0)
		asked = []int{1, 2}
	}
	job := l.define("fails", durable.JobConfig{MaxAttempts: 7, Backoff: backoff}, func(ctx context.Context, _ work) error {
		if meta, _ := durable.MetaFrom(ctx); meta.Attempt < 3 {
			return errTest
		}
		return nil
	})
	worker := l.hire(2, job)
	id := l.enqueue(job, work{})
	l.awaitDone(map[string]bool{id: true})
	l.dismiss(worker)
	lines := l.journal.all()
	require.Len(l, lines, 6)
	began, ended := of(lines, "began", id), of(lines, "ended", id)
	assert.Equal(l, []int{1, 2, 3}, attemptsOf(began), "attempts of the ID in the Receipt")
	for i, x := range began {
		assert.Equal(l, 7, x.Most, "MaxAttempts")
		if i > 0 && l.support.RunAt {
			wait := x.At.Sub(ended[i-1].At)
			assert.GreaterOrEqual(l, wait, time.Duration(i)*450*time.Millisecond, "wait after attempt %d", i)
			l.Logf("a backoff of %v took %v", time.Duration(i)*450*time.Millisecond, wait.Round(time.Millisecond))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(l, []int{1, 2}, asked, "attempts that Backoff was asked for")
}

// testManyAttempts: the limit is the job's alone.
func testManyAttempts(l *lab) {
	const attempts = 40
	job := l.define("fails", durable.JobConfig{MaxAttempts: attempts, Backoff: always(0)}, func(ctx context.Context, _ work) error {
		if meta, _ := durable.MetaFrom(ctx); meta.Attempt < attempts {
			return errTest
		}
		return nil
	})
	worker := l.hire(1, job)
	id := l.enqueue(job, work{})
	l.awaitDone(map[string]bool{id: true})
	l.dismiss(worker)
	var wants []int
	for i := range attempts {
		wants = append(wants, i+1)
	}
	assert.Equal(l, wants, attemptsOf(of(l.journal.all(), "began", id)))
}

// testGivenUp: a job that is dead stays dead, in the next worker as well.
func testGivenUp(l *lab) {
	fails := func(context.Context, work) error { return errTest }
	thrice := l.define("thrice", durable.JobConfig{MaxAttempts: 3}, fails)
	never := l.define("never", durable.JobConfig{}, func(context.Context, work) error { return durable.Permanent(errTest) })
	last := l.define("last", durable.JobConfig{}, succeed)
	worker := l.hire(2, thrice, never, last)
	gaveUp, hopeless := l.enqueue(thrice, work{}), l.enqueue(never, work{})
	l.awaitFailed(gaveUp)
	l.awaitFailed(hopeless)
	l.settle(last)
	l.dismiss(worker)
	next := l.hire(2, thrice, never, last)
	l.settle(last)
	l.dismiss(next)
	lines := l.journal.all()
	assert.Equal(l, []int{1, 2, 3}, attemptsOf(of(lines, "began", gaveUp)))
	assert.Equal(l, []int{1}, attemptsOf(of(lines, "began", hopeless)))
}

// awaitFailed waits until a worker has logged that a job has failed for good.
func (l *lab) awaitFailed(id string) {
	l.Helper()
	l.until("a job to fail for good", func() bool { return l.hasLogged("level=ERROR", id) })
}

// hasLogged reports whether a record has all these words.
func (l *lab) hasLogged(words ...string) bool {
	for record := range strings.Lines(l.logged.String()) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(record, w)
		}
		if found {
			return true
		}
	}
	return false
}

// settle gives what should not run the time to run: jobs that are enqueued later, of
// which one starts later, are done.
func (l *lab) settle(last *durable.Job[work]) {
	l.Helper()
	ids := l.enqueueAll(last, 10, nil)
	if l.support.RunAt {
		ids[l.enqueue(last, work{}, durable.RunAt(time.Now().Add(time.Second)))] = true
	}
	l.awaitDone(ids)
}

// testFailures has a worker of one place meet every way to fail, some times.
func testFailures(l *lab) {
	const each = 4
	var worker []durable.Definition
	jobs := make(map[string]*durable.Job[work]) // as they are enqueued
	add := func(name string, opts durable.JobConfig, handler func(context.Context, work) error) {
		jobs[name] = l.define(name, opts, func(ctx context.Context, w work) error {
			if meta, _ := durable.MetaFrom(ctx); meta.Attempt > 1 {
				return nil
			}
			return handler(ctx, w)
		})
		worker = append(worker, jobs[name])
	}
	add("permanent", durable.JobConfig{}, func(context.Context, work) error { return fmt.Errorf("wrapped: %w", durable.Permanent(errTest)) })
	add("panic", durable.JobConfig{}, func(context.Context, work) error { panic(errTest) })
	add("nil pointer", durable.JobConfig{}, func(_ context.Context, w work) error {
		var missing *work
		return fmt.Errorf("%d", missing.N)
	})
	add("goexit", durable.JobConfig{}, func(context.Context, work) error { runtime.Goexit(); return nil })
	add("timeout", durable.JobConfig{Timeout: 50 * time.Millisecond}, untilCancelled)
	add("error", durable.JobConfig{}, func(context.Context, work) error { return errTest })
	undecodable := durable.Define("undecodable", noting("undecodable", l.journal.note, succeed), durable.JobConfig{Timeout: time.Minute, MaxAttempts: 2, Backoff: always(0)})
	sent := durable.Define("undecodable", func(context.Context, string) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	after := l.define("after", durable.JobConfig{}, succeed)
	l.hire(1, append(worker, undecodable, after)...)

	names := make(map[string]string)
	for range each {
		receipt, err := sent.Enqueue(l.context(), l.engine, "no work")
		require.NoError(l, err)
		names[receipt.ID] = "undecodable"
		for name, job := range jobs {
			names[l.enqueue(job, work{})] = name
		}
	}
	again := make(map[string]bool)
	for id, name := range names {
		if name == "permanent" || name == "undecodable" {
			l.awaitFailed(id)
		} else {
			again[id] = true
		}
	}
	l.awaitDone(again)
	l.settle(after)
	lines := l.journal.all()
	for id, name := range names {
		ran := of(lines, "ended", id)
		switch name {
		case "undecodable":
			assert.Empty(l, ran, name)
			continue
		case "permanent":
			assert.Equal(l, []int{1}, attemptsOf(ran), name)
			continue
		}
		assert.Equal(l, []int{1, 2}, attemptsOf(ran), name)
		wants := map[string]string{"timeout": tether.ErrTimeout.Error(), "error": errTest.Error()}[name]
		if wants == "" {
			wants = "panic or Goexit"
		}
		assert.Equal(l, wants, ran[0].Note, name)
	}
}

// testUnknown has a worker on a queue with a job that it does not have, and one that has it
// come later: no attempt is used, and the first one's own jobs are done meanwhile. The two
// are not there at the same time: an engine that delivers the job to the first worker would
// deliver it to either, by chance, every few seconds.
func testUnknown(l *lab) {
	mine := l.define("mine", durable.JobConfig{}, succeed)
	others := l.define("others", durable.JobConfig{MaxAttempts: 1}, succeed)
	first := l.hire(1, mine)
	id := l.enqueue(others, work{})
	l.awaitDone(l.enqueueAll(mine, 10, nil))
	assert.Empty(l, of(l.journal.all(), "began", id))
	l.dismiss(first)
	l.dismiss(l.hireFor(id, others))
	assert.Equal(l, []int{1}, attemptsOf(of(l.journal.all(), "began", id)))
}
