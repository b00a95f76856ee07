package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
)

// Config configures an [Engine]. The zero value is ready to use.
type Config struct {
	// Queue is the name of asynq's queue. It must not be blank, nor contain braces. The
	// default is "tether".
	Queue string
	// Poll is the mean interval at which an idle worker asks Redis for a job. Zero means 100 ms.
	Poll time.Duration
	// Timeout bounds Open, and each other call without a deadline in its context. Zero means 10 s.
	Timeout time.Duration
	// Replicas is the number of replicas that must confirm a job before Enqueue returns: see
	// the package's documentation. Zero means none. It cannot be used with a cluster.
	Replicas int
	// Logger receives the warnings of Open, and a record for each dead job that was removed
	// because a new job needed its Unique key. If nil, slog.Default is used.
	Logger *slog.Logger

	now func() time.Time // the clock that Open compares with that of Redis; if nil, time.Now
}

const (
	defaultQueue   = "tether"
	defaultPoll    = 100 * time.Millisecond
	defaultTimeout = 10 * time.Second

	// never is longer than any attempt and any wait. Added to the present it is still a date
	// that time.Duration and asynq's whole seconds can represent.
	never = 100 * 365 * 24 * time.Hour
)

// Engine is a queue of asynq. [Open] makes it. Its methods are safe for concurrent use.
type Engine struct {
	cfg       Config
	opt       asynq.RedisConnOpt
	redis     goredis.UniversalClient
	client    *asynq.Client
	inspector *asynq.Inspector
	lines     *lines // nil with a cluster

	closing context.Context // ended by Close
	end     context.CancelFunc

	failure atomic.Pointer[error] // why the last command of an Enqueue failed; nil if it did not

	mu     sync.Mutex
	closed bool           // guarded by mu
	calls  sync.WaitGroup // of call; Add under mu, and only while not closed
}

var (
	_ durable.Engine      = (*Engine)(nil)
	_ durable.DeadRetrier = (*Engine)(nil)
)

// Open returns the engine of the zero [Config]: see [Config.Open].
func Open(opt asynq.RedisConnOpt) (*Engine, error) { return Config{}.Open(opt) }

// Open connects to Redis, for example with the result of [asynq.ParseRedisURI], and checks
// that jobs are safe there: see the package's documentation. The engine and its consumers
// make clients by opt.MakeRedisClient, and close them.
//
// The error wraps ErrInvalid if the Config is invalid. Otherwise it says why Redis cannot
// be reached within Timeout, or cannot be used.
func (c Config) Open(opt asynq.RedisConnOpt) (*Engine, error) {
	if c.Queue == "" {
		c.Queue = defaultQueue
	}
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.now == nil {
		c.now = time.Now
	}
	// asynq replaces a blank name by that of its default queue, and braces would end the part
	// of a key that keeps a queue in one slot of a cluster.
	if strings.TrimSpace(c.Queue) == "" || strings.ContainsAny(c.Queue, "{}") {
		return nil, fmt.Errorf("%w: redis: queue %q must not be blank, nor contain braces", durable.ErrInvalid, c.Queue)
	}
	if c.Poll < 0 || c.Timeout < 0 || c.Replicas < 0 || opt == nil {
		return nil, fmt.Errorf("%w: redis: Poll, Timeout and Replicas must not be negative, and a connection option is required", durable.ErrInvalid)
	}
	client, err := connect(opt)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: c, opt: opt, redis: client}
	if err := e.insist(); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	if _, single := client.(*goredis.Client); single {
		another, err := connect(opt)
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		if another, single := another.(*goredis.Client); single {
			most := linesInUse
			if c.Replicas > 0 {
				most = another.Options().PoolSize // each waits for its replicas
			}
			e.lines = newLines(another, most)
		}
	}
	e.client, e.inspector = asynq.NewClientFromRedisClient(client), asynq.NewInspectorFromRedisClient(client)
	e.closing, e.end = context.WithCancel(context.Background())
	if _, err := call(context.Background(), e, e.examine); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func connect(opt asynq.RedisConnOpt) (goredis.UniversalClient, error) {
	client, ok := opt.MakeRedisClient().(goredis.UniversalClient)
	if !ok {
		return nil, fmt.Errorf("%w: redis: %T makes no client of go-redis v9", durable.ErrInvalid, opt)
	}
	return client, nil
}

// closeClient closes a client. Sockets may be closed already: of an interrupted call, or
// those of a primary that was replaced.
func closeClient(client goredis.UniversalClient) error {
	if err := client.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Support reports what the engine can do: Unique keys and RunAt, but no transactions.
func (e *Engine) Support() durable.Support {
	return durable.Support{
		Engine: "redis", Unique: true, RunAt: true, Pardons: true, Resolution: time.Second,
		Rescue: "after 1 to 2 minutes, which asynq fixes",
	}
}

// Close closes the connections. Calls in progress end with ErrClosed, and Close waits for
// them. A consumer has connections of its own; it should be stopped before. Further calls
// do nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	if again {
		return nil
	}
	e.end()
	err := closeClient(e.redis)
	if e.lines != nil {
		err = errors.Join(err, closeClient(e.lines.client))
	}
	e.calls.Wait()
	return err
}

// begin begins a call, unless the engine is closed. Its context ends with ctx, after
// Config.Timeout if ctx has no deadline, and when the engine is closed. The caller must call
// end, and calls.Done.
func (e *Engine) begin(ctx context.Context) (inner context.Context, end func(), err error) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, nil, durable.ErrClosed
	}
	e.calls.Add(1)
	e.mu.Unlock()
	var cancel context.CancelFunc
	if _, bounded := ctx.Deadline(); bounded {
		inner, cancel = context.WithCancel(ctx)
	} else {
		inner, cancel = context.WithTimeout(ctx, e.cfg.Timeout)
	}
	stop := context.AfterFunc(e.closing, cancel)
	return inner, func() { stop(); cancel() }, nil
}

// failed returns the error of a call that has failed with err.
func (e *Engine) failed(inner context.Context, err error) error {
	switch {
	case e.closing.Err() != nil:
		return durable.ErrClosed
	case inner.Err() != nil: // asynq's errors only have its text
		if reason := e.failure.Load(); reason != nil {
			return fmt.Errorf("%w: %w", context.Cause(inner), *reason)
		}
		return context.Cause(inner)
	}
	return err
}

// call runs f, and leaves it when its context ends. f then ends by itself within seconds:
// neither go-redis nor asynq's Inspector can be interrupted while Redis does not answer.
func call[T any](ctx context.Context, e *Engine, f func(context.Context) (T, error)) (T, error) {
	var none T
	inner, end, err := e.begin(ctx)
	if err != nil {
		return none, err
	}
	defer end()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer e.calls.Done()
		if err := inner.Err(); err != nil {
			done <- result{none, err}
			return
		}
		value, err := f(inner)
		done <- result{value, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-inner.Done():
		r.err = inner.Err()
	}
	if r.err != nil {
		return none, e.failed(inner, r.err)
	}
	return r.value, nil
}

// store enqueues a task on one of the engine's lines, without a goroutine.
func (e *Engine) store(ctx context.Context, task *asynq.Task) error {
	inner, end, err := e.begin(ctx)
	if err != nil {
		return err
	}
	defer e.calls.Done()
	defer end()
	if _, err = e.client.EnqueueContext(context.WithValue(inner, linesKey{}, e.lines), task); err != nil {
		return e.failed(inner, err)
	}
	return nil
}

// Enqueue stores a job. When it returns, Redis has the job in its memory, and in its
// append-only file if it has one, and Config.Replicas replicas have confirmed it.
//
// While Redis cannot be reached, or cannot store yet, Enqueue waits for it until ctx ends, or
// for Config.Timeout if ctx has no deadline. The error then wraps the context's cause, and says why; the job
// may have been stored all the same. What Redis refuses is an error at once.
func (e *Engine) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return durable.Receipt{}, fmt.Errorf("%w: redis: job %q: %w", durable.ErrInvalid, m.Name, err)
	}
	// asynq keeps retries and timeout with the task. Attempts are counted and bounded in
	// time by the worker alone; without a Timeout asynq would take 30 minutes.
	id := taskID(m)
	opts := []asynq.Option{
		asynq.Queue(e.cfg.Queue), asynq.TaskID(id), asynq.MaxRetry(math.MaxInt32), asynq.Timeout(never), asynq.Retention(0),
	}
	if m.RunAt.After(time.Now()) {
		opts = append(opts, asynq.ProcessAt(ceil(m.RunAt)))
	}
	task := asynq.NewTask(m.Name, payload, opts...)
	if e.lines != nil {
		if err = e.store(ctx, task); err == nil {
			return durable.Receipt{ID: m.ID}, nil
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return durable.Receipt{}, fmt.Errorf("redis: enqueue job %q: %w", m.Name, err)
		}
	}
	r, err := call(ctx, e, func(ctx context.Context) (durable.Receipt, error) { return e.enqueue(ctx, m, id, task) })
	if err != nil {
		return durable.Receipt{}, fmt.Errorf("redis: enqueue job %q: %w", m.Name, err)
	}
	return r, nil
}

// enqueueTries bounds how often the state of a key may change between two commands.
const enqueueTries = 20

// enqueue stores the task, unless its ID is taken by an unfinished one.
func (e *Engine) enqueue(ctx context.Context, m durable.Message, id string, task *asynq.Task) (durable.Receipt, error) {
	client := e.client
	for tries := 0; tries < enqueueTries; tries++ {
		_, err := client.EnqueueContext(ctx, task)
		if err == nil {
			return durable.Receipt{ID: m.ID}, nil
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return durable.Receipt{}, err
		}
		there, err := e.inspector.GetTaskInfo(e.cfg.Queue, id)
		switch {
		case errors.Is(err, asynq.ErrTaskNotFound): // it has just ended
			continue
		case errors.Is(err, asynq.ErrQueueNotFound):
			// Redis has lost its data, and asynq's client remembers that it has announced the
			// queue. A new client announces it again.
			client = asynq.NewClientFromRedisClient(e.redis)
			continue
		case isAway(err) && pause(ctx):
			tries-- // the Inspector does not take the context, so insist has not repeated this
			continue
		case err != nil:
			return durable.Receipt{}, err
		}
		first, _ := durable.Decode(there.Payload) // if it is none, the zero Message has no ID
		switch {
		case first.ID == m.ID:
			// The command was sent again because the connection broke before its answer came.
			// The first one had been carried out.
			return durable.Receipt{ID: m.ID}, nil
		case m.Unique == "":
			return durable.Receipt{}, fmt.Errorf("%w: another task has the ID %q", durable.ErrInvalid, id)
		case there.State != asynq.TaskStateArchived && there.State != asynq.TaskStateCompleted:
			return durable.Receipt{ID: first.ID, Duplicate: true}, nil
		}
		if err := e.makeRoom(ctx, there); err != nil {
			return durable.Receipt{}, err
		}
	}
	return durable.Receipt{}, fmt.Errorf("the state of its key changed %d times meanwhile", enqueueTries)
}

// makeRoomScript removes a task that is archived or completed. asynq's Inspector has
// DeleteTask, which would also remove a task that another caller has enqueued since. The
// keys are those of asynq v0.26 (internal/base).
var makeRoomScript = goredis.NewScript(`
if redis.call("HGET", KEYS[1], "state") ~= ARGV[2] then return 0 end
redis.call("ZREM", KEYS[2], ARGV[1])
return redis.call("DEL", KEYS[1])`)

func (e *Engine) makeRoom(ctx context.Context, t *asynq.TaskInfo) error {
	prefix := "asynq:{" + e.cfg.Queue + "}:"
	state := t.State.String()
	removed, err := makeRoomScript.Run(ctx, e.redis, []string{prefix + "t:" + t.ID, prefix + state}, t.ID, state).Int()
	if removed > 0 {
		old, _ := durable.Decode(t.Payload)
		e.cfg.Logger.Warn("durable: a dead job was removed because a new job has its Unique key",
			"job", t.Type, "id", old.ID, "failed", t.LastFailedAt, "error", t.LastErr)
	}
	return err
}

// taskID returns the ID that a queue of asynq holds once. Hashing gives a key a fixed length,
// so that no two pairs of name and key have the same ID, and hides keys from logs and tools.
func taskID(m durable.Message) string {
	if m.Unique == "" {
		return m.ID
	}
	hash := sha256.Sum256([]byte(m.Unique))
	return "unique:" + m.Name + ":" + hex.EncodeToString(hash[:])
}

// ceil rounds up to a whole second, where asynq rounds down: a job must not run early.
// asynq's forwarder compares with the present rounded down, which can only make a job late.
func ceil(t time.Time) time.Time {
	return t.Add(time.Second - time.Nanosecond).Truncate(time.Second)
}

// RetryDead makes an archived job run again, by its Meta.ID. It reads the archive, unless the
// job had no Unique key.
func (e *Engine) RetryDead(ctx context.Context, id string) error {
	_, err := call(ctx, e, func(ctx context.Context) (struct{}, error) { return struct{}{}, e.retryDead(ctx, id) })
	if err != nil {
		return fmt.Errorf("redis: retry job %s: %w", id, err)
	}
	return nil
}

// archivePage is the number of archived tasks that are read at once.
const archivePage = 1000

func (e *Engine) retryDead(ctx context.Context, id string) error {
	task, err := e.inspector.GetTaskInfo(e.cfg.Queue, id)
	if err != nil && !errors.Is(err, asynq.ErrTaskNotFound) && !errors.Is(err, asynq.ErrQueueNotFound) {
		return err
	}
	if err == nil && task.State == asynq.TaskStateArchived {
		return e.run(task.ID)
	}
	for page := 1; ctx.Err() == nil; page++ {
		tasks, err := e.inspector.ListArchivedTasks(e.cfg.Queue, asynq.PageSize(archivePage), asynq.Page(page))
		if err != nil && !errors.Is(err, asynq.ErrQueueNotFound) {
			return err
		}
		for _, task := range tasks {
			if m, err := durable.Decode(task.Payload); err == nil && m.ID == id {
				return e.run(task.ID)
			}
		}
		if len(tasks) < archivePage {
			return durable.ErrNotDead
		}
	}
	return ctx.Err()
}

// run makes an archived task pending.
func (e *Engine) run(task string) error {
	err := e.inspector.RunTask(e.cfg.Queue, task)
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return durable.ErrNotDead // another caller was faster
	}
	return err
}
