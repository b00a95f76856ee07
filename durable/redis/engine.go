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
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
)

// Config sets an [Engine] up. The zero Config is the one of [Open].
type Config struct {
	// Queue is the name of asynq's queue: any but one with braces. "": "tether".
	Queue string
	// Poll is how often an idle worker asks Redis for a job, on average. 0: 100 ms.
	Poll time.Duration
	// Logger gets what Open warns of, and the jobs that were removed from the archive since
	// their key was needed. nil: slog.Default().
	Logger *slog.Logger
}

const (
	defaultQueue = "tether"
	defaultPoll  = 100 * time.Millisecond

	openTime = 15 * time.Second // bounds Open

	// never is a time that no attempt and no wait takes. Added to now it is still a date
	// that time.Duration and asynq's whole seconds can have.
	never = 100 * 365 * 24 * time.Hour
)

// Engine is a queue of asynq. It is made by [Open], and its methods may be called by many
// goroutines at once.
type Engine struct {
	cfg       Config
	opt       asynq.RedisConnOpt
	redis     goredis.UniversalClient
	client    *asynq.Client
	inspector *asynq.Inspector

	closing context.Context // ended by Close
	end     context.CancelFunc

	mu     sync.Mutex
	closed bool           // guarded by mu
	calls  sync.WaitGroup // of call; Add under mu, and not once closed
}

var _ durable.Engine = (*Engine)(nil)

// Open returns the engine with all defaults: see [Config.Open].
func Open(opt asynq.RedisConnOpt) (*Engine, error) { return Config{}.Open(opt) }

// Open connects to Redis, for example with what [asynq.ParseRedisURI] returns, and looks
// whether jobs are safe there: see the package's documentation. The engine, and each
// worker, makes a client by opt.MakeRedisClient, and closes it.
//
// The error is ErrInvalid for a Config that cannot be, and else says why Redis cannot be
// reached within 15 seconds, or not be used.
func (c Config) Open(opt asynq.RedisConnOpt) (*Engine, error) {
	if c.Queue == "" {
		c.Queue = defaultQueue
	}
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	// Of a blank name asynq makes its default queue, and braces would end the part of a key
	// that keeps a queue in one slot of a cluster.
	if strings.TrimSpace(c.Queue) == "" || strings.ContainsAny(c.Queue, "{}") {
		return nil, fmt.Errorf("%w: redis: queue %q: must not be blank, nor have braces", durable.ErrInvalid, c.Queue)
	}
	if c.Poll < 0 || opt == nil {
		return nil, fmt.Errorf("%w: redis: negative Poll, or no connection option", durable.ErrInvalid)
	}
	client, err := connect(opt)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: c, opt: opt, redis: client,
		client: asynq.NewClientFromRedisClient(client), inspector: asynq.NewInspectorFromRedisClient(client),
	}
	e.closing, e.end = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	if _, err := call(ctx, e, e.examine); err != nil {
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

// Support says what the engine can do: Unique keys and RunAt, but no transactions.
func (e *Engine) Support() durable.Support {
	return durable.Support{
		Engine: "redis", Unique: true, RunAt: true, Resolution: time.Second,
		Rescue: "after 1 to 2 minutes, which asynq fixes",
	}
}

// Close closes the connections. It waits for the calls under way, which end with ErrClosed;
// a worker has connections of its own, and is to be stopped before. A further Close does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	if again {
		return nil
	}
	e.end()
	err := e.redis.Close()
	e.calls.Wait()
	return err
}

// call runs f until ctx ends or the engine is closed. What f does then is left to itself,
// for a few seconds: neither go-redis nor asynq's Inspector can be interrupted while Redis
// does not answer.
func call[T any](ctx context.Context, e *Engine, f func(context.Context) (T, error)) (T, error) {
	var none T
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return none, durable.ErrClosed
	}
	e.calls.Add(1)
	e.mu.Unlock()

	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.closing, cancel)()
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
	switch {
	case r.err == nil:
		return r.value, nil
	case e.closing.Err() != nil:
		return none, durable.ErrClosed
	case ctx.Err() != nil: // asynq's errors have the text of it alone
		return none, context.Cause(ctx)
	}
	return none, r.err
}

// Enqueue stores the job in Redis, which has it in its memory and its append-only file, if
// there is one, when Enqueue returns.
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
	r, err := call(ctx, e, func(ctx context.Context) (durable.Receipt, error) { return e.enqueue(ctx, m, id, task) })
	if err != nil {
		return durable.Receipt{}, fmt.Errorf("redis: enqueue job %q: %w", m.Name, err)
	}
	return r, nil
}

// enqueueTries bounds how often the state of a key may change between two commands.
const enqueueTries = 20

func (e *Engine) enqueue(ctx context.Context, m durable.Message, id string, task *asynq.Task) (durable.Receipt, error) {
	client := e.client
	for range enqueueTries {
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
			// Redis has lost the queue since, and asynq's client remembers that it has
			// announced it. A new one does so again.
			client = asynq.NewClientFromRedisClient(e.redis)
			continue
		case err != nil:
			return durable.Receipt{}, err
		}
		first, _ := durable.Decode(there.Payload) // if it is none, the zero Message has no ID
		switch {
		case first.ID == m.ID:
			// go-redis has sent the command again since the connection broke before the
			// answer came, and it had been carried out.
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
// DeleteTask, which would remove it in other states as well: a job that somebody else has
// enqueued, and been told so, between our look and the removal. The keys are those of
// asynq v0.26 (internal/base), as it stores them.
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
		e.cfg.Logger.Warn("durable: a job that failed for good was removed, its key is needed",
			"job", t.Type, "id", old.ID, "failed", t.LastFailedAt, "error", t.LastErr)
	}
	return err
}

// taskID is what asynq allows once in a queue. The hash has a fixed length, so that no two
// pairs of name and key have one ID, and a key may hold what logs and tools should not show.
func taskID(m durable.Message) string {
	if m.Unique == "" {
		return m.ID
	}
	hash := sha256.Sum256([]byte(m.Unique))
	return "unique:" + m.Name + ":" + hex.EncodeToString(hash[:])
}

// ceil rounds up to a whole second, where asynq would cut off: jobs must not run early. Its
// forwarder compares with whole seconds as well, cut off, which is late if anything.
func ceil(t time.Time) time.Time {
	return t.Add(time.Second - time.Nanosecond).Truncate(time.Second)
}
