package durabletest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
)

var uniqueClauses = []clause{
	{"a unique key is taken until its job is done", testUniqueDone},
	{"a unique key is free when its job has failed for good", testUniqueDead},
	{"a unique key is taken while its job goes back", testUniqueReturned},
	{"many enqueues of one key at once make one job", testUniqueAtOnce},
}

// uniqueSupport reports whether the engine has unique keys; if not, it must refuse them.
func (l *lab) uniqueSupport() bool {
	l.Helper()
	if !l.support.Unique {
		job := l.define("unique", durable.JobConfig{}, succeed)
		receipt, err := job.Enqueue(l.context(), l.engine, work{}, durable.Unique("key"))
		assert.ErrorIs(l, err, durable.ErrUnsupported)
		assert.Zero(l, receipt)
	}
	return l.support.Unique
}

// isTaken asks for a key that the job id has.
func (l *lab) isTaken(job *durable.Job[work], key, id, when string) {
	l.Helper()
	receipt, err := job.Enqueue(l.context(), l.engine, work{N: -1}, durable.Unique(key))
	require.NoError(l, err)
	require.True(l, receipt.Duplicate, "Duplicate while the first one %s", when)
	if receipt.ID != "" {
		require.Equal(l, id, receipt.ID, "ID of the first one, which %s", when)
	}
}

// awaitFree waits until a key is free, and returns the ID of the job that has it then.
func (l *lab) awaitFree(job *durable.Job[work], key string) (id string) {
	l.Helper()
	l.until("the key to be free", func() bool {
		receipt, err := job.Enqueue(l.context(), l.engine, work{}, durable.Unique(key))
		require.NoError(l, err)
		id = receipt.ID
		return !receipt.Duplicate
	})
	return id
}

// testUniqueDone: the key's job waits, runs, waits for its next attempt, and is done.
func testUniqueDone(l *lab) {
	if !l.uniqueSupport() {
		return
	}
	mayEnd := make(chan struct{})
	backoff := always(2 * time.Second)
	if !l.support.RunAt {
		backoff = always(0)
	}
	job := l.define("unique", durable.JobConfig{Backoff: backoff}, func(ctx context.Context, _ work) error {
		select {
		case <-mayEnd:
		case <-ctx.Done():
		}
		if meta, _ := durable.MetaFrom(ctx); meta.Attempt == 1 {
			return errTest
		}
		return nil
	})
	other := l.define("other", durable.JobConfig{}, succeed)
	const key = "the key: ä"
	id := l.enqueue(job, work{N: 1}, durable.Unique(key))
	l.isTaken(job, key, id, "waits")
	ids := map[string]bool{
		l.enqueue(job, work{}, durable.Unique(key+" ")): true,
		l.enqueue(job, work{}):                          true,
		l.enqueue(other, work{}, durable.Unique(key)):   true,
	}
	require.Len(l, ids, 3, "jobs of another key, of none, and of another name")
	if l.support.RunAt {
		tomorrow := l.enqueue(job, work{N: -1}, durable.Unique("tomorrow"), durable.RunAt(time.Now().Add(24*time.Hour)))
		l.isTaken(job, "tomorrow", tomorrow, "waits for its time")
	}

	worker := l.hire(4, job, other)
	l.await("the first attempt", func(lines []line) bool { return len(of(lines, "began", id)) == 1 })
	l.isTaken(job, key, id, "runs")
	mayEnd <- struct{}{} // there are three jobs that wait for it
	mayEnd <- struct{}{}
	mayEnd <- struct{}{}
	l.awaitAttempts(id, 1)
	asked := 0
	l.await("the second attempt", func(lines []line) bool {
		l.isTaken(job, key, id, "waits for its next attempt")
		asked++
		return len(of(lines, "began", id)) == 2
	})
	l.isTaken(job, key, id, "runs again")
	close(mayEnd)
	next := l.awaitFree(job, key)
	require.NotEqual(l, id, next)
	ids[id], ids[next] = true, true
	l.awaitDone(ids)
	l.awaitFree(job, key)
	l.dismiss(worker)
	for _, x := range l.journal.all() {
		require.NotEqual(l, -1, x.N, "number of a job that ran, though it was a Duplicate")
	}
	l.Logf("asked %d times while it waited for its next attempt", asked)
}

// testUniqueDead: by a permanent error, by the last attempt, by arguments that cannot be read.
func testUniqueDead(l *lab) {
	if !l.uniqueSupport() {
		return
	}
	permanent := l.define("permanent", durable.JobConfig{}, func(_ context.Context, w work) error { return durable.Permanent(errTest) })
	limited := l.define("limited", durable.JobConfig{MaxAttempts: 2}, func(context.Context, work) error { return errTest })
	sent := durable.Define("unreadable", func(context.Context, string) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	unreadable := l.define("unreadable", durable.JobConfig{}, succeed)
	l.hire(2, permanent, limited, unreadable)

	first := l.enqueue(permanent, work{}, durable.Unique("key"))
	require.NotEqual(l, first, l.awaitFree(permanent, "key"))
	first = l.enqueue(limited, work{}, durable.Unique("key"))
	require.NotEqual(l, first, l.awaitFree(limited, "key"))
	assert.Len(l, of(l.journal.all(), "ended", first), 2, "attempts before the key was free")
	_, err := sent.Enqueue(l.context(), l.engine, "no work", durable.Unique("key"))
	require.NoError(l, err)
	l.awaitDone(map[string]bool{l.awaitFree(unreadable, "key"): true})
}

// testUniqueReturned: an interruption does not free the key.
func testUniqueReturned(l *lab) {
	if !l.uniqueSupport() {
		return
	}
	job := l.define("unique", durable.JobConfig{}, untilCancelled)
	id := l.enqueue(job, work{}, durable.Unique("key"))
	worker := l.hire(1, job)
	l.awaitBegun("unique", 1)
	l.interrupt(worker)
	l.isTaken(job, "key", id, "has gone back")
	ends := l.define("unique", durable.JobConfig{}, succeed)
	l.hire(1, ends)
	l.awaitDone(map[string]bool{id: true})
	l.awaitFree(ends, "key")
}

func testUniqueAtOnce(l *lab) {
	if !l.uniqueSupport() {
		return
	}
	const callers, rounds = 50, 4
	job := l.define("unique", durable.JobConfig{}, succeed)
	first := make(map[string]string) // by key
	for round := range rounds {
		key := fmt.Sprint("key ", round)
		var accepted atomic.Int64
		var ids sync.Map
		var group sync.WaitGroup
		begin := make(chan struct{})
		for range callers {
			group.Go(func() {
				<-begin
				receipt, err := job.Enqueue(l.context(), l.engine, work{}, durable.Unique(key))
				assert.NoError(l, err)
				if !receipt.Duplicate {
					accepted.Add(1)
					ids.Store("first", receipt.ID)
				}
			})
		}
		close(begin)
		group.Wait()
		require.EqualValues(l, 1, accepted.Load(), "jobs of one key")
		id, _ := ids.Load("first")
		first[key] = id.(string)
		l.isTaken(job, key, first[key], "waits")
	}
	l.hire(4, job)
	ids := make(map[string]bool)
	for key, id := range first {
		ids[id], ids[l.awaitFree(job, key)] = true, true
	}
	l.awaitDone(ids)
	assert.Len(l, ids, 2*rounds)
	assert.Len(l, l.journal.all(), 2*2*rounds, "each once")
}
