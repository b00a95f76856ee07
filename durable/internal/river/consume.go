package river

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"github.com/seed-2e639f12/tether/durable"
)

// fetchCooldown bounds throughput: River fetches no sooner again.
const fetchCooldown = 5 * time.Millisecond

// never is when River may presume that the worker of a job is gone: see pulse.
const never = 100 * 365 * 24 * time.Hour

// Finished jobs are kept this long.
const (
	keepDone = time.Hour
	keepDead = 90 * 24 * time.Hour
)

// Consume begins to deliver jobs.
func (e *Engine[TTx]) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	end, err := e.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if c.Handle == nil || c.Concurrency < 1 {
		return nil, fmt.Errorf("%w: a consumption needs a Handle and a Concurrency", durable.ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = e.cfg.Logger
	}
	if err := e.cfg.Ping(ctx); err != nil {
		return nil, err
	}
	id := newID()
	presence, err := e.cfg.Enter(ctx, id)
	if err != nil {
		return nil, err
	}
	con := &consumer[TTx]{engine: e, Consumption: c, pulse: newPulse(presence, c.Logger), done: make(chan struct{})}
	if err := con.pulse.beat(ctx); err != nil {
		presence.End()
		return nil, err
	}
	con.beat()
	if err := con.start(ctx, id); err != nil {
		con.silent()
		return nil, err
	}
	if err := e.started(con); err != nil {
		_ = con.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return con, nil
}

// consumer is a River client at work.
type consumer[TTx any] struct {
	durable.Consumption

	engine *Engine[TTx]
	client *river.Client[TTx]
	pulse  *pulse
	silent func()

	once     sync.Once
	stopping atomic.Bool
	done     chan struct{} // closed last
	err      error         // written before done is closed
}

// kinds returns the kinds of the jobs of these names in the database; nil for nil.
func kinds(names []string) (all []string) {
	for _, n := range names {
		all = append(all, kindOf(n))
	}
	if all != nil {
		all = append(all, Kind)
	}
	return all
}

func (c *consumer[TTx]) start(ctx context.Context, id string) error {
	cfg := c.engine.base(c.Logger)
	cfg.ID = id
	cfg.Queues = map[string]river.QueueConfig{c.engine.cfg.Queue: {MaxWorkers: c.Concurrency}}
	cfg.Workers = river.NewWorkers()
	cfg.FetchCooldown = fetchCooldown
	cfg.FetchPollInterval = c.engine.cfg.Poll
	cfg.JobTimeout = -1 // the worker of durable has one
	cfg.RescueStuckJobsAfter = never
	cfg.CancelledJobRetentionPeriod = keepDead
	cfg.CompletedJobRetentionPeriod = keepDone
	cfg.DiscardedJobRetentionPeriod = keepDead
	if err := river.AddWorkerSafely(cfg.Workers, river.Worker[envelope](&worker{
		handle: c.Handle, stopping: &c.stopping, pulse: c.pulse,
	})); err != nil {
		return err
	}
	var err error
	driver := &keeping[TTx]{c.engine.cfg.Driver, keeper{life: c.engine.life, pulse: c.pulse, kinds: kinds(c.Names), client: id, owned: c.engine.cfg.Owned}}
	if c.client, err = river.NewClient[TTx](driver, cfg); err != nil {
		return err
	}
	// The context given to Start is the parent of all jobs' contexts. It must not be the
	// caller's, which bounds only the start.
	starting, cancel := context.WithCancelCause(context.Background())
	inTime := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	if err = c.client.Start(starting); err != nil {
		inTime()
		return err
	}
	if !inTime() {
		_ = c.client.Stop(context.Background())
		return context.Cause(starting)
	}
	return nil
}

// beat starts the consumer's pulse, which runs until silent is called. Its context is not the
// engine's, because handlers may run on when the engine is closed.
func (c *consumer[TTx]) beat() {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.pulse.run(ctx)
	}()
	c.silent = func() {
		cancel()
		<-over
		c.pulse.End()
	}
}

// begin stops the client. err is why, nil for Stop.
func (c *consumer[TTx]) begin(err error) {
	c.once.Do(func() {
		c.err = err
		c.stopping.Store(true)
		go func() {
			// It waits for the jobs that run, and stores their outcomes.
			_ = c.client.Stop(context.Background())
			c.silent()
			c.engine.ended(c)
			close(c.done)
		}()
	})
}

func (c *consumer[TTx]) Stop(ctx context.Context) error {
	c.begin(nil)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-c.done: // both
		return nil
	default:
		return context.Cause(ctx)
	}
}

func (c *consumer[TTx]) Done() <-chan struct{} { return c.done }

func (c *consumer[TTx]) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// worker is the River worker of all jobs.
type worker struct {
	river.WorkerDefaults[envelope]

	handle   func(context.Context, durable.Delivery) durable.Outcome
	stopping *atomic.Bool
	pulse    *pulse
}

// NextRetry is called after Work has failed.
func (w *worker) NextRetry(job *river.Job[envelope]) time.Time {
	return roundUp(later(time.Now(), job.Args.again))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Work runs an attempt. What it changes of the row is seen by the executor alone, which
// decides by it, in this goroutine: nothing of it is stored.
func (w *worker) Work(ctx context.Context, job *river.Job[envelope]) error {
	h, end := w.pulse.begin(job.ID)
	defer end()
	job.MaxAttempts = attempts // the row may have been inserted by another program
	note(ctx, noteAttempt, job.Attempt)
	m, err := decode(job.EncodedArgs)
	if err != nil {
		return discard(ctx, job, err)
	}
	if w.stopping.Load() {
		return river.JobSnooze(0) // fetched when Stop was called: not begun, and not an attempt
	}
	n := notesOf(job.Metadata)
	out := w.handle(ctx, durable.Delivery{
		Message: m, Attempt: job.Attempt, Pardoned: n.Pardoned,
		Crashed: n.Crashed > 0 && n.Crashed == job.Attempt-1,
		Revived: n.Dead > 0 && n.Dead == job.Attempt-1,
		Count: func(ctx context.Context) error {
			mine, err := w.pulse.Count(ctx, job.ID, job.Attempt)
			if err == nil && !mine {
				err = errNotMine
			}
			return err
		},
	})
	if w.pulse.superseded(h) {
		// River stores the success of two attempts at the same job at once, and keeps one. This
		// one's is not stored, see keeper, and an error goes by itself.
		return errNotMine
	}
	switch out.Verdict {
	case durable.Done:
		return nil
	case durable.Return:
		if n.Crashed > 0 {
			note(ctx, noteCrashed, 0)
		}
		after := max(0, out.After)
		if after > 0 {
			after += time.Millisecond // River does not round it up
		}
		return river.JobSnooze(after)
	case durable.Retry:
		job.Args.again = time.Now().Add(out.After)
		return failure(out.Err)
	default:
		return discard(ctx, job, out.Err)
	}
}

// discard makes River put the job into the state discarded: it has had its last attempt. The
// row keeps its max_attempts, so that River's tools can make it run again.
func discard(ctx context.Context, job *river.Job[envelope], err error) error {
	note(ctx, noteDead, job.Attempt)
	job.MaxAttempts = job.Attempt
	return failure(err)
}

// failure returns err as River should store it: without a type that River interprets, and
// without text that a database refuses, which would fail all jobs that are stored together.
func failure(err error) error {
	if err == nil {
		return errUnknown
	}
	text := err.Error()
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "…"
	}
	return errors.New(strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD"))
}

const maxError = 16 << 10

// quiet passes on River's warnings, except about attempts, which the worker logs itself. Of the
// records that River cannot fetch jobs, ten a second in an outage, it passes one in fetchLog.
type quiet struct {
	slog.Handler
	fetch *atomic.Int64 // when that was last passed on, in Unix nanoseconds
}

func newQuiet(h slog.Handler) *quiet { return &quiet{h, new(atomic.Int64)} }

const fetchLog = 10 * time.Second

func (q *quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, ": Job errored") {
		return nil
	}
	if strings.Contains(r.Message, ": Error fetching jobs") {
		last, now := q.fetch.Load(), r.Time.UnixNano()
		if now-last < int64(fetchLog) || !q.fetch.CompareAndSwap(last, now) {
			return nil
		}
	}
	return q.Handler.Handle(ctx, r)
}

func (q *quiet) WithAttrs(a []slog.Attr) slog.Handler { return &quiet{q.Handler.WithAttrs(a), q.fetch} }
func (q *quiet) WithGroup(g string) slog.Handler      { return &quiet{q.Handler.WithGroup(g), q.fetch} }
