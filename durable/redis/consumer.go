package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
)

const (
	// forward is the interval at which asynq looks for jobs that have become due.
	forward = 200 * time.Millisecond
	// turn bounds the wait of a job for a Handle that asynq believes has returned.
	turn = time.Second
	// maxError is the number of bytes of an error that are stored.
	maxError = 4096
)

// consumer is an asynq.Server.
type consumer struct {
	queue  string
	handle func(context.Context, durable.Delivery) durable.Outcome
	log    *slog.Logger
	redis  goredis.UniversalClient
	server *asynq.Server

	// running holds a token for each Handle. asynq bounds them as well, but does not count a
	// Handle that goes on after its lease was lost, or after a tool has canceled it.
	running chan struct{}

	once     sync.Once
	stopping chan struct{} // closed by Stop
	done     chan struct{} // closed when the server and all calls of Handle have ended
}

// Consume starts an asynq.Server with connections of its own, and without signal handling.
// It goes on when Redis was away. Its Done is only closed by Stop.
func (e *Engine) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	if c.Concurrency < 1 || c.Handle == nil {
		return nil, fmt.Errorf("%w: redis: a Consumption must have a Handle and a Concurrency of at least 1", durable.ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = e.cfg.Logger
	}
	// Start returns nil if Redis cannot be reached.
	_, err := call(ctx, e, func(ctx context.Context) (string, error) { return e.redis.Ping(ctx).Result() })
	if err != nil {
		return nil, fmt.Errorf("redis: consume: %w", err)
	}
	client, err := connect(e.opt)
	if err != nil {
		return nil, err
	}
	w := &consumer{
		queue: e.cfg.Queue, handle: c.Handle, log: c.Logger, redis: client,
		running: make(chan struct{}, c.Concurrency), stopping: make(chan struct{}), done: make(chan struct{}),
	}
	client.AddHook(persist{})
	client.AddHook(expiry{w})
	w.server = asynq.NewServerFromRedisClient(client, asynq.Config{
		Concurrency:              c.Concurrency,
		Queues:                   map[string]int{e.cfg.Queue: 1},
		TaskCheckInterval:        e.cfg.Poll,
		DelayedTaskCheckInterval: forward,
		RetryDelayFunc:           retryDelay,
		IsFailure:                isFailure,
		// The Worker bounds the stop. asynq would put the jobs back while they run.
		ShutdownTimeout: never,
		Logger:          newLogger(c.Logger),
		LogLevel:        asynq.WarnLevel,
	})
	if err := w.server.Start(w); err != nil {
		return nil, errors.Join(fmt.Errorf("redis: consume: %w", err), client.Close())
	}
	return w, nil
}

// ProcessTask runs one attempt, for asynq.
func (c *consumer) ProcessTask(ctx context.Context, t *asynq.Task) error {
	if out := c.enter(ctx); out != nil {
		return out
	}
	defer func() { <-c.running }()
	select {
	case <-c.stopping: // closed after the job was fetched
		return &answer{durable.Outcome{Verdict: durable.Return, Err: errStopping}}
	default:
	}
	m, err := durable.Decode(t.Payload())
	if err != nil {
		id, _ := asynq.GetTaskID(ctx)
		c.log.Error("durable: a task that is not a job was archived", "queue", c.queue, "type", t.Type(), "task", id, "error", err)
		return &answer{durable.Outcome{Verdict: durable.Dead, Err: err}}
	}
	d := durable.Delivery{Message: m, Attempt: 1}
	id, _ := asynq.GetTaskID(ctx)
	var before history
	if retried, _ := asynq.GetRetryCount(ctx); retried > 0 {
		if before, err = c.remember(ctx, id); err != nil {
			return &answer{durable.Outcome{Verdict: durable.Return, After: time.Second, Err: fmt.Errorf("redis: the history of the job: %w", err)}}
		}
		d.Attempt += retried
		d.Pardoned, d.Crashed, d.Revived = min(before.pardoned, retried), before.crashed, before.dead
	}
	var counted atomic.Bool
	d.Count = func(ctx context.Context) error {
		counted.Store(true)
		return c.count(ctx, id, before)
	}
	out := c.handle(ctx, d)
	if out.Verdict == durable.Done {
		return nil
	}
	if d.Attempt > 1 && (out.Verdict == durable.Dead || before != history{pardoned: before.pardoned}) || counted.Load() {
		c.answered(id, out.Verdict)
	}
	return &answer{out}
}

// enter takes a token for a Handle, and returns an error for asynq if there is none in time.
func (c *consumer) enter(ctx context.Context) error {
	select {
	case c.running <- struct{}{}: // as always, without a timer
		return nil
	default:
	}
	late := time.NewTimer(turn)
	defer late.Stop()
	select {
	case c.running <- struct{}{}:
		return nil
	case <-c.stopping:
		return &answer{durable.Outcome{Verdict: durable.Return, Err: errStopping}}
	case <-late.C:
		return &answer{durable.Outcome{Verdict: durable.Return, After: time.Second, Err: errBusy}}
	case <-ctx.Done():
		return ctx.Err()
	}
}

var (
	errStopping = errors.New("durable: the worker stops")
	errBusy     = errors.New("durable: the worker is busy with jobs that ignore their cancellation")
)

// Stop is described at [durable.Consumer]. When ctx has ended, the stop goes on in the
// background: outcomes are stored when their Handle returns.
func (c *consumer) Stop(ctx context.Context) error {
	c.once.Do(func() {
		close(c.stopping)
		go c.shutdown()
	})
	select {
	case <-c.done:
		return nil
	default:
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("redis: stop: %w", context.Cause(ctx))
	}
}

func (c *consumer) shutdown() {
	defer close(c.done)
	c.server.Stop()
	c.server.Shutdown()
	for range cap(c.running) { // also for those that asynq has given up
		c.running <- struct{}{}
	}
	if err := closeClient(c.redis); err != nil {
		c.log.Warn("durable: redis: close", "error", err)
	}
}

func (c *consumer) Done() <-chan struct{} { return c.done }

func (c *consumer) Err() error { return nil }

// answer is an Outcome other than Done, as an error for asynq, which stores its text.
type answer struct{ durable.Outcome }

func (a *answer) Error() string {
	if a.Err == nil {
		return "durable: no error given"
	}
	text := a.Err.Error()
	if len(text) > maxError {
		text = text[:maxError]
	}
	// asynq cannot encode other text than UTF-8: the job would stay active.
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Unwrap returns asynq's error for a task to be archived, if the job is dead.
func (a *answer) Unwrap() error {
	if a.Verdict == durable.Dead {
		return asynq.SkipRetry
	}
	return nil
}

// isFailure reports whether an error ends an attempt: each does except a Return. asynq also
// asks for the error of a job of a killed worker (ErrLeaseExpired).
func isFailure(err error) bool {
	var a *answer
	return !errors.As(err, &a) || a.Verdict != durable.Return
}

// retryDelay returns the wait before the next delivery, which is zero after a crash.
func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	var a *answer
	if !errors.As(err, &a) || a.After <= 0 {
		return 0
	}
	// asynq adds it to the present, and rounds down to whole seconds.
	return min(a.After, never) + time.Second - time.Nanosecond
}

// logger passes on what asynq logs, each text at most once a minute: while Redis is away
// asynq logs the same several times a second.
type logger struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time // when each text was logged; guarded by mu
}

const (
	logAgain = time.Minute
	logKept  = 1000 // the most texts in last
)

func newLogger(l *slog.Logger) *logger { return &logger{log: l, last: make(map[string]time.Time)} }

func (l *logger) Debug(args ...any) { l.pass(slog.LevelDebug, args) }
func (l *logger) Info(args ...any)  { l.pass(slog.LevelInfo, args) }
func (l *logger) Warn(args ...any)  { l.pass(slog.LevelWarn, args) }
func (l *logger) Error(args ...any) { l.pass(slog.LevelError, args) }

// Fatal only logs. That of asynq's own logger would end the process.
func (l *logger) Fatal(args ...any) { l.pass(slog.LevelError, args) }

func (l *logger) pass(level slog.Level, args []any) {
	text := fmt.Sprint(args...)
	if l.fresh(text) {
		l.log.Log(context.Background(), level, "durable: asynq", "message", text)
	}
}

// fresh reports whether text was not logged within the last minute, and notes that it is now.
func (l *logger) fresh(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[text]; ok && now.Sub(last) < logAgain {
		return false
	}
	if len(l.last) >= logKept {
		clear(l.last)
	}
	l.last[text] = now
	return true
}
