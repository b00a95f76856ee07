package durabletest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// The engine by itself, without a worker.
var engineClauses = []clause{
	{"a consumer does what the handler's outcome says", testOutcomes},
	{"a consumer's stop waits for what is handled", testConsumerStop},
	{"no more is handled at once than was asked for", testConcurrency},
	{"a closed engine says so", testClosed},
	{"a context that has ended enqueues nothing", testEndedContext},
	{"queues do not see each other", testQueues},
	{"what the engine cannot do it refuses", testUnsupported},
}

// consume has the engine deliver to handle.
func (l *lab) consume(concurrency int, handle func(context.Context, durable.Delivery) durable.Outcome) durable.Consumer {
	l.Helper()
	consumer, err := l.engine.Consume(l.context(), durable.Consumption{Concurrency: concurrency, Handle: handle, Logger: l.log})
	require.NoError(l, err)
	l.Cleanup(func() { assert.NoError(l, consumer.Stop(l.context()), "Stop at the end of the test") })
	return consumer
}

// put has the message be on the engine.
func (l *lab) put(m durable.Message) {
	l.Helper()
	receipt, err := l.engine.Enqueue(l.context(), m)
	require.NoError(l, err)
	require.Equal(l, durable.Receipt{ID: m.ID}, receipt)
}

// testOutcomes: what a message has arrives, and each verdict does what it says, no
// earlier than it says.
func testOutcomes(l *lab) {
	wants := durable.Message{
		ID:   "0 the ID",
		Name: "the-name",
		Args: json.RawMessage(`{"text":"ä\"\u0000","number":12345678901234567890,"long":"` + strings.Repeat("0123456789", 10_000) + `"}`),
		Used: 2,
	}
	wait := 700 * time.Millisecond
	if l.support.Unique {
		wants.Unique = "the key: ä"
	}
	if !l.support.RunAt {
		wait = 0
	}
	outcomes := []durable.Outcome{
		{Verdict: durable.Retry, Err: errTest},
		{Verdict: durable.Return, Err: errTest},
		{Verdict: durable.Retry, After: wait, Err: errTest},
		{Verdict: durable.Return, After: wait, Err: errTest},
		{Verdict: durable.Dead, Err: errTest},
	}
	type delivery struct {
		m         durable.Message
		attempt   int
		at, ended time.Time
	}
	var mu sync.Mutex
	var got []delivery
	var lastDone atomic.Bool
	l.consume(2, func(_ context.Context, m durable.Delivery) durable.Outcome {
		if m.ID != wants.ID {
			lastDone.Store(true)
			return durable.Outcome{}
		}
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		got = append(got, delivery{m.Message, m.Attempt, now, now})
		return outcomes[min(len(got), len(outcomes))-1]
	})
	l.put(wants)
	l.until("all deliveries", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= len(outcomes)
	})
	l.put(durable.Message{ID: "last", Name: "last", Args: json.RawMessage("null")})
	l.until("the last job", lastDone.Load)

	mu.Lock()
	defer mu.Unlock()
	require.Len(l, got, len(outcomes), "a job that is dead is not delivered again")
	attempt := 1
	for i, d := range got {
		assert.Equal(l, wants.ID, d.m.ID)
		assert.Equal(l, wants.Name, d.m.Name)
		assert.JSONEq(l, string(wants.Args), string(d.m.Args))
		assert.Equal(l, wants.Unique, d.m.Unique)
		assert.Equal(l, wants.Used, d.m.Used)
		if i == 0 {
			assert.Equal(l, 1, d.attempt)
			continue
		}
		last := outcomes[i-1]
		assert.GreaterOrEqual(l, d.at.Sub(got[i-1].ended), last.After, "wait after %+v", last)
		switch {
		case last.Verdict == durable.Retry:
			attempt = got[i-1].attempt + 1
			assert.Equal(l, attempt, d.attempt, "attempt after %+v", last)
		case d.attempt != attempt: // not all engines can do without
			l.Logf("Return with a wait of %v uses an attempt", last.After)
			assert.Equal(l, attempt+1, d.attempt, "attempt after %+v", last)
			attempt = d.attempt
		}
	}
}

// testConsumerStop: Stop returns when its context ends, cancels nothing, and waits when
// it is called again. What has not been handled stays, unused.
func testConsumerStop(l *lab) {
	const places, jobs = 2, 10
	mayEnd := make(chan struct{})
	var handled, running, canceled atomic.Int64
	handle := func(ctx context.Context, d durable.Delivery) durable.Outcome {
		attempt := d.Attempt
		running.Add(1)
		<-mayEnd
		if ctx.Err() != nil {
			canceled.Add(1)
		}
		assert.Equal(l, 1, attempt)
		handled.Add(1)
		return durable.Outcome{}
	}
	consumer := l.consume(places, handle)
	free := sync.OnceFunc(func() { close(mayEnd) })
	l.Cleanup(free)
	for i := range jobs {
		l.put(durable.Message{ID: string(rune('a' + i)), Name: "job", Args: json.RawMessage("null")})
	}
	l.until("as many jobs as there are places", func() bool { return running.Load() == places })
	require.ErrorIs(l, consumer.Stop(ended()), context.Canceled)
	assert.False(l, closed(consumer.Done()), "Done is closed before the handlers have returned")
	free()
	require.NoError(l, consumer.Stop(l.context()))
	assert.True(l, closed(consumer.Done()), "Done is closed after Stop")
	assert.NoError(l, consumer.Err())
	assert.NoError(l, consumer.Stop(ended()), "Stop of a consumer that has stopped")
	assert.EqualValues(l, places, handled.Load(), "handled: no more than was at work when Stop began")
	assert.Zero(l, canceled.Load(), "contexts that Stop has canceled")
	l.consume(places, handle)
	l.until("the rest", func() bool { return handled.Load() == jobs })
}

// gauged counts what an engine has handled at once.
type gauged struct {
	durable.Engine
	now, most atomic.Int64
}

func (g *gauged) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	handle := c.Handle
	c.Handle = func(ctx context.Context, m durable.Delivery) durable.Outcome {
		now := g.now.Add(1)
		defer g.now.Add(-1)
		for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
		}
		return handle(ctx, m)
	}
	return g.Engine.Consume(ctx, c)
}

// testConcurrency: never more than Concurrency at once, not even while some fail, are put
// back, or ignore that their time is up; and as many when there is enough to do.
func testConcurrency(l *lab) {
	const places, jobs = 3, 60
	g := &gauged{Engine: l.engine}
	var group sync.WaitGroup // of the first jobs, which wait for each other
	group.Add(places)
	full := make(chan struct{})
	go func() { group.Wait(); close(full) }()
	othersDone := make(chan struct{})
	var first atomic.Int64
	job := l.define("busy", durable.JobConfig{}, func(ctx context.Context, w work) error {
		if first.Add(1) <= places {
			group.Done()
			<-full
		}
		meta, _ := durable.MetaFrom(ctx)
		time.Sleep(2 * time.Millisecond)
		if w.N%3 == 0 && meta.Attempt < 3 {
			return errTest
		}
		return nil
	})
	overdue := l.define("overdue", durable.JobConfig{Timeout: 50 * time.Millisecond}, func(ctx context.Context, w work) error {
		if meta, _ := durable.MetaFrom(ctx); meta.Attempt == 1 {
			<-ctx.Done()
			<-othersDone // so that the engine has every chance to take the place for free
		}
		return nil
	})
	unknown := l.define("unknown", durable.JobConfig{}, succeed)
	ids := l.enqueueAll(job, jobs, nil)
	l.enqueue(unknown, work{})
	worker := l.crew(g, tether.Config{}, places, job, overdue)
	require.NoError(l, worker.Start(l.context()))
	late := l.enqueue(overdue, work{})
	release := sync.OnceFunc(func() { close(othersDone) })
	l.Cleanup(release)
	l.awaitDone(ids)
	release()
	l.awaitDone(map[string]bool{late: true})
	l.dismiss(worker)
	assert.EqualValues(l, places, g.most.Load(), "most handled at once")
}

func testClosed(l *lab) {
	job := l.define("plain", durable.JobConfig{}, succeed)
	other := l.open() // whose queue is the same
	worker := l.hire(1, job)
	l.dismiss(worker)
	require.NoError(l, l.engine.Close())
	_, err := job.Enqueue(l.context(), l.engine, work{})
	assert.ErrorIs(l, err, durable.ErrClosed, "Enqueue")
	if l.support.RunAt {
		_, err = job.Enqueue(l.context(), l.engine, work{}, durable.RunAt(time.Now().Add(time.Hour)))
		assert.ErrorIs(l, err, durable.ErrClosed, "Enqueue")
	}
	_, err = l.engine.Consume(l.context(), durable.Consumption{
		Concurrency: 1, Logger: l.log,
		Handle: func(context.Context, durable.Delivery) durable.Outcome { return durable.Outcome{} },
	})
	assert.ErrorIs(l, err, durable.ErrClosed, "Consume")
	assert.ErrorIs(l, l.crew(l.engine, tether.Config{}, 1, job).Start(l.context()), durable.ErrClosed, "Worker.Start")
	if err := l.engine.Close(); err != nil {
		assert.ErrorIs(l, err, durable.ErrClosed, "second Close")
	}
	assert.Equal(l, l.support, l.engine.Support(), "Support")

	l.engine = other // which is open still
	id := l.enqueue(job, work{})
	l.dismiss(l.hireFor(id, job))
}

// hireFor hires a worker and waits until it has done a job.
func (l *lab) hireFor(id string, job durable.Definition) *crew {
	l.Helper()
	worker := l.hire(1, job)
	l.awaitDone(map[string]bool{id: true})
	return worker
}

func testEndedContext(l *lab) {
	job := l.define("plain", durable.JobConfig{}, succeed)
	for range 10 {
		receipt, err := job.Enqueue(ended(), l.engine, work{N: 1})
		assert.ErrorIs(l, err, context.Canceled)
		assert.Zero(l, receipt)
	}
	_, err := l.engine.Consume(ended(), durable.Consumption{
		Concurrency: 1, Logger: l.log,
		Handle: func(context.Context, durable.Delivery) durable.Outcome { return durable.Outcome{} },
	})
	assert.Error(l, err, "Consume")
	id := l.enqueue(job, work{N: 2})
	l.dismiss(l.hireFor(id, job))
	for _, x := range l.journal.all() {
		assert.Equal(l, 2, x.N, "number of a job that ran")
	}
}

// testQueues has two queues with jobs of the same name and key.
func testQueues(l *lab) {
	other := newLab(l.T, l.fixture, l.server)
	var opts []durable.EnqueueOption
	if l.support.Unique {
		opts = append(opts, durable.Unique("key"))
	}
	labs := []*lab{l, other}
	for _, l := range labs {
		l.enqueue(l.define("job", durable.JobConfig{}, succeed), work{}, opts...)
	}
	for _, l := range labs {
		job := l.define("job", durable.JobConfig{}, succeed)
		l.hire(2, job)
		l.awaitDone(l.enqueueAll(job, 10, nil))
	}
	for _, l := range labs {
		l.await("the first job", func(lines []line) bool { return len(doneTimes(lines)) == 11 })
	}
}

// testUnsupported: what Support says, durable refuses in the engine's name.
func testUnsupported(l *lab) {
	assert.NotEmpty(l, l.support.Engine, "Support().Engine")
	assert.NotEmpty(l, l.support.Rescue, "Support().Rescue")
	if most := l.support.MaxTimeout; most > 0 {
		long := l.define("long", durable.JobConfig{Timeout: most}, succeed)
		tooLong := l.define("too-long", durable.JobConfig{Timeout: most + time.Second}, succeed)
		_, err := tooLong.Enqueue(l.context(), l.engine, work{})
		assert.ErrorIs(l, err, durable.ErrUnsupported)
		reg := tether.New(tether.Config{})
		_, err = durable.NewWorker(l.engine, durable.WorkerConfig{Registry: reg}, long, tooLong)
		assert.ErrorIs(l, err, durable.ErrUnsupported)
		l.dismiss(l.hireFor(l.enqueue(long, work{}), long))
	}
	job := l.define("job", durable.JobConfig{Timeout: 30 * time.Second}, succeed)
	for what, c := range map[string]struct {
		supported bool
		option    durable.EnqueueOption
	}{
		"RunAt":  {l.support.RunAt, durable.RunAt(time.Now())},
		"Unique": {l.support.Unique, durable.Unique("key")},
	} {
		_, err := job.Enqueue(l.context(), l.engine, work{}, c.option)
		if c.supported {
			assert.NoError(l, err, what)
		} else {
			assert.ErrorIs(l, err, durable.ErrUnsupported, what)
		}
	}
}
