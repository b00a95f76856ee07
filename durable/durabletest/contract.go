package durabletest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// patience is the guard against hanging, wherever something is waited for.
const patience = 5 * time.Minute

// Contract tests that an engine keeps its promises. It needs [Main].
func Contract(t *testing.T, f Fixture) {
	server := f.Server(t)
	run := func(t *testing.T, name string, test func(*lab), parallel bool) {
		t.Run(name, func(t *testing.T) {
			if parallel {
				t.Parallel()
			}
			test(newLab(t, f, server))
		})
	}
	t.Run("together", func(t *testing.T) {
		for _, c := range together {
			run(t, c.name, c.test, true)
		}
	})
	for _, c := range alone {
		run(t, c.name, c.test, false)
	}
}

type clause struct {
	name string
	test func(*lab)
}

// together run at the same time, on one server: the slow ones first.
var together = slices.Concat(crashClauses, processClauses, stopClauses, statusClauses, uniqueClauses, attemptClauses, goClauses, engineClauses)

// alone run when nothing else uses the server.
var alone = restartClauses

// lab is one test of the contract: an engine on a queue of its own, and what has run there.
type lab struct {
	*testing.T
	fixture   Fixture
	server    Server
	address   string
	queue     string
	engine    durable.Engine
	support   durable.Support
	journal   *journal
	logged    *tail
	log       *slog.Logger
	patience  time.Duration
	processes int
}

func newLab(t *testing.T, f Fixture, server Server) *lab {
	l := &lab{
		T: t, fixture: f, server: server, address: server.Address(), patience: patience,
		queue: newQueue(), journal: new(journal), logged: new(tail),
	}
	l.log = slog.New(slog.NewTextHandler(l.logged, nil))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of queue %s:\n%s", l.queue, l.logged)
		}
	})
	l.engine = l.open()
	l.support = l.engine.Support()
	return l
}

// newQueue returns a name that no other queue has.
func newQueue() string { return "q" + strings.ToLower(rand.Text()[:12]) }

// open opens the lab's queue, once more.
func (l *lab) open() durable.Engine {
	l.Helper()
	engine, err := l.fixture.Open(l.address, l.queue)
	require.NoError(l, err)
	l.Cleanup(func() {
		if err := engine.Close(); !errors.Is(err, durable.ErrClosed) {
			assert.NoError(l, err, "Close")
		}
	})
	return engine
}

// context returns one that is a guard against hanging.
func (l *lab) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	l.Cleanup(cancel)
	return ctx
}

// closed reports whether a channel is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// define makes a job whose attempts are noted in the journal. Without a Timeout it has a
// minute, without a Backoff 10 ms.
func (l *lab) define(name string, opts durable.JobConfig, handler func(context.Context, work) error) *durable.Job[work] {
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute
	}
	if opts.Backoff == nil {
		opts.Backoff = always(10 * time.Millisecond)
	}
	return durable.Define(name, noting(name, l.journal.note, handler), opts)
}

func succeed(context.Context, work) error { return nil }

// enqueue has the job be on the engine, and returns its ID.
func (l *lab) enqueue(job *durable.Job[work], w work, opts ...durable.EnqueueOption) string {
	l.Helper()
	receipt, err := job.Enqueue(l.context(), l.engine, w, opts...)
	require.NoError(l, err)
	require.False(l, receipt.Duplicate, "Duplicate")
	require.NotEmpty(l, receipt.ID)
	require.Nil(l, receipt.Task)
	return receipt.ID
}

// enqueueAll enqueues jobs of the numbers 1 to n, some at a time, and returns their IDs.
func (l *lab) enqueueAll(job *durable.Job[work], n int, adjust func(*work)) map[string]bool {
	l.Helper()
	ctx := l.context()
	ids := make(map[string]bool)
	var mu sync.Mutex
	var group sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		group.Go(func() {
			for {
				w := work{N: int(next.Add(1))}
				if w.N > n {
					return
				}
				if adjust != nil {
					adjust(&w)
				}
				receipt, err := job.Enqueue(ctx, l.engine, w)
				if !assert.NoError(l, err) {
					return
				}
				mu.Lock()
				ids[receipt.ID] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	require.Len(l, ids, n, "an ID for each job")
	return ids
}

// crew is a worker, and the registry it runs its jobs in.
type crew struct {
	*durable.Worker
	reg     *tether.Registry
	hurried bool // Stop was given no time
}

// hire starts a worker on the lab's engine.
func (l *lab) hire(concurrency int, jobs ...durable.Definition) *crew {
	l.Helper()
	c := l.crew(l.engine, tether.Config{}, concurrency, jobs...)
	require.NoError(l, c.Start(l.context()))
	return c
}

// crew makes a worker. It is stopped when the test ends.
func (l *lab) crew(e durable.Engine, cfg tether.Config, concurrency int, jobs ...durable.Definition) *crew {
	l.Helper()
	cfg.Logger = l.log
	c := &crew{reg: tether.New(cfg)}
	var err error
	c.Worker, err = durable.NewWorker(e, durable.WorkerConfig{Registry: c.reg, Concurrency: concurrency, Logger: l.log}, jobs...)
	require.NoError(l, err)
	l.Cleanup(func() {
		if err := c.Stop(l.context()); !c.hurried {
			assert.NoError(l, err, "Stop at the end of the test")
		}
		assert.NoError(l, c.reg.Shutdown(l.context()), "drain at the end of the test")
	})
	return c
}

// interrupt stops a worker whose handlers heed their contexts, at once. Stop bounds what
// the engine may take then to a few seconds, which is not the engine's fault.
func (l *lab) interrupt(c *crew) {
	l.Helper()
	c.hurried = true
	l.patience += l.fixture.Rescue // if it comes to that
	if err := c.Stop(ended()); err != nil {
		require.ErrorIs(l, err, context.Canceled)
		require.NotContains(l, err.Error(), "ignores")
		l.Logf("the engine was too slow for Stop: %v", err)
	}
}

// dismiss stops a worker when no job runs.
func (l *lab) dismiss(c *crew) {
	l.Helper()
	require.NoError(l, c.Stop(l.context()))
	assert.True(l, closed(c.Done()), "Done is closed after Stop")
	assert.NoError(l, c.Err())
}

// journal is what has happened in a test, in all its processes, in the order in which
// the test has learned of it.
type journal struct {
	mu    sync.Mutex
	lines []line // guarded by mu; only appended to
}

func (j *journal) note(l line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, l)
}

func (j *journal) all() []line {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines[:len(j.lines):len(j.lines)]
}

// await waits until the journal is as it should become, and returns it.
func (l *lab) await(what string, ok func([]line) bool) []line {
	l.Helper()
	l.until(what, func() bool { return ok(l.journal.all()) })
	return l.journal.all()
}

// until waits for a condition that nothing signals.
func (l *lab) until(what string, ok func() bool) {
	l.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for guard := time.Now().Add(l.patience); !ok(); <-tick.C {
		if time.Now().After(guard) {
			require.FailNow(l, "waited without effect for "+what, "%s", summary(l.journal.all()))
		}
	}
}

// awaitDone waits until each of these jobs has ended well at least once.
func (l *lab) awaitDone(ids map[string]bool) []line {
	l.Helper()
	return l.await("all jobs to be done", func(lines []line) bool {
		done := doneTimes(lines)
		for id := range ids {
			if done[id] == 0 {
				return false
			}
		}
		return true
	})
}

// awaitAttempts waits until so many attempts at the job have ended, and returns them.
func (l *lab) awaitAttempts(id string, n int) (attempts []line) {
	l.Helper()
	lines := l.await("an attempt to end", func(lines []line) bool { return len(of(lines, "ended", id)) >= n })
	return of(lines, "ended", id)
}

// awaitBegun waits until so many attempts at jobs of this name have begun.
func (l *lab) awaitBegun(name string, n int) []line {
	l.Helper()
	return l.await("jobs "+name+" to begin", func(lines []line) bool {
		count := 0
		for _, x := range lines {
			if x.What == "began" && x.Name == name {
				count++
			}
		}
		return count >= n
	})
}

// of returns the lines of one job.
func of(lines []line, what, id string) (found []line) {
	for _, l := range lines {
		if l.What == what && l.ID == id {
			found = append(found, l)
		}
	}
	return found
}

// doneTimes counts how often each job has ended well.
func doneTimes(lines []line) map[string]int {
	times := make(map[string]int)
	for _, l := range lines {
		if l.What == "ended" && l.Note == "" {
			times[l.ID]++
		}
	}
	return times
}

// attemptsOf returns the numbers of the attempts in these lines.
func attemptsOf(lines []line) (numbers []int) {
	for _, l := range lines {
		numbers = append(numbers, l.Attempt)
	}
	return numbers
}

// lastAttempts returns the number of each job's last attempt.
func lastAttempts(lines []line) map[string]int {
	last := make(map[string]int)
	for _, l := range lines {
		last[l.ID] = max(last[l.ID], l.Attempt)
	}
	return last
}

// inFlight returns the jobs that began in a process and have not ended there.
func inFlight(lines []line, process int) map[string]bool {
	ids := make(map[string]bool)
	for _, l := range lines {
		switch {
		case l.Process != process:
		case l.What == "began":
			ids[l.ID] = true
		case l.What == "ended":
			delete(ids, l.ID)
		}
	}
	return ids
}

// summary describes a journal, for the failure of a test that waited without effect.
func summary(lines []line) string {
	var b strings.Builder
	began, endings := make(map[string]int), make(map[string]int)
	for _, l := range lines {
		switch l.What {
		case "began":
			began[l.Name]++
		case "ended":
			endings[l.Name]++
		}
	}
	for name := range began {
		fmt.Fprintf(&b, "job %s: %d attempts have begun, %d have ended\n", name, began[name], endings[name])
	}
	for _, l := range lines[max(0, len(lines)-20):] {
		fmt.Fprintf(&b, "%s process %d: %s %s %s (%d) attempt %d %s\n", l.At.Format(time.StampMilli), l.Process, l.What, l.Name, l.ID, l.N, l.Attempt, l.Note)
	}
	return b.String()
}
