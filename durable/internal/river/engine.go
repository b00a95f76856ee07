package river

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// DefaultQueue is the queue of an engine that is not given one.
const DefaultQueue = "tether"

// Config configures an [Engine].
type Config[TTx any] struct {
	Driver  riverdriver.Driver[TTx]
	Support durable.Support
	Queue   string       // if empty, DefaultQueue
	Schema  string       // where River's tables are; if empty, where the connection finds them
	Logger  *slog.Logger // for what no worker logs; if nil, slog.Default()
	// Poll makes consumers look for jobs at this interval, and not rely on notifications from
	// the database. Jobs that the engine itself enqueues are seen at once. Zero means that
	// the driver has notifications.
	Poll time.Duration
	// Notifies makes the engine send notifications in spite of Poll, to consumers that have none.
	Notifies bool
	// Ping fails if the database cannot be reached.
	Ping func(ctx context.Context) error
	// Enter is called before the consumer of this ID takes its first job.
	Enter func(ctx context.Context, id string) (Presence, error)
	// Owned returns those of these jobs that the client of this ID runs, each in its attempt
	// (0: in any), and keeps others from taking them until tx ends.
	Owned func(ctx context.Context, tx riverdriver.ExecutorTx, client string, ids []int64, attempts []int) ([]int64, error)
	// FindDead returns the row of a discarded job by the ID of its message; 0 if there is none.
	FindDead func(ctx context.Context, queue, id string) (row int64, err error)
	// Record is that of a [durable.Recorder] within tx.
	Record func(ctx context.Context, tx TTx, b store.Backend, r store.Record) error
	// DatabaseTime makes jobs without a time of their own due at the database's time. The
	// driver of Postgres would take the program's.
	DatabaseTime bool
	// Unreached reports whether err says that nothing was sent to the database.
	Unreached func(err error) bool
}

// Engine is the part of an engine that needs River alone. It does not migrate, and does
// not close the database.
type Engine[TTx any] struct {
	cfg    Config[TTx]
	client *river.Client[TTx] // inserts, and never works
	life   context.Context    // canceled when Close stops waiting
	kill   context.CancelFunc
	calls  sync.WaitGroup // calls of Enqueue, and the goroutines that they have started; see begin

	mu        sync.Mutex
	closed    bool                    // guarded by mu
	consumers map[*consumer[TTx]]bool // that have not ended; guarded by mu
	waiting   []*insertion            // for the next flush; guarded by mu
	flushing  bool                    // guarded by mu
}

// patience is how long Close waits for calls of Enqueue.
const patience = 5 * time.Second

// queueName matches the names that River accepts. It would refuse others only when a job is
// inserted.
var queueName = regexp.MustCompile(`^[a-z0-9]+([_-]?[a-z0-9]+)*$`)

// New returns an engine on a database that has River's tables.
func New[TTx any](cfg Config[TTx]) (*Engine[TTx], error) {
	if cfg.Queue == "" {
		cfg.Queue = DefaultQueue
	}
	if len(cfg.Queue) > 64 || !queueName.MatchString(cfg.Queue) {
		return nil, fmt.Errorf("%w: queue %q: must be 1 to 64 of a-z and 0-9, in words joined by - or _", durable.ErrInvalid, cfg.Queue)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Driver = inserting[TTx]{cfg.Driver, cfg.Logger}
	if cfg.Poll > 0 {
		cfg.Driver = silent[TTx]{cfg.Driver, cfg.Notifies}
	}
	e := &Engine[TTx]{cfg: cfg, consumers: make(map[*consumer[TTx]]bool)}
	var err error
	if e.client, err = river.NewClient(cfg.Driver, e.base(cfg.Logger)); err != nil {
		return nil, err
	}
	e.life, e.kill = context.WithCancel(context.Background())
	return e, nil
}

// IDPrefix begins the ID of each client, which is also that of a leader.
const IDPrefix = "tether-"

func newID() string { return IDPrefix + rand.Text() }

// base is the configuration of a client that inserts.
func (e *Engine[TTx]) base(log *slog.Logger) *river.Config {
	return &river.Config{
		ID:     newID(),
		Schema: e.cfg.Schema,
		Logger: slog.New(newQuiet(log.Handler())),
		// The cooldown also limits notifications, and a job whose notification is left out waits
		// until the consumer looks again.
		FetchCooldown: river.FetchCooldownMin,
		Hooks:         e.hooks(),
	}
}

// Support returns the engine's capabilities.
func (e *Engine[TTx]) Support() durable.Support { return e.cfg.Support }

// Tx returns the engine within a transaction: a job that is enqueued there exists once the
// transaction is committed.
func (e *Engine[TTx]) Tx(tx TTx) durable.Enqueuer { return &inTx[TTx]{e, tx} }

type inTx[TTx any] struct {
	engine *Engine[TTx]
	tx     TTx
}

func (t *inTx[TTx]) Support() durable.Support { return t.engine.Support() }

func (t *inTx[TTx]) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	end, err := t.engine.begin()
	if err != nil {
		return durable.Receipt{}, err
	}
	defer end()
	i, err := t.engine.insertion(ctx, m)
	if err != nil {
		return durable.Receipt{}, err
	}
	res, err := t.engine.client.InsertManyTx(ctx, t.tx, []river.InsertManyParams{i.params})
	if err != nil {
		return durable.Receipt{}, err
	}
	return receipt(res[0], i), nil
}

// Record stores the status of a job in the transaction.
func (t *inTx[TTx]) Record(ctx context.Context, b store.Backend, r store.Record) error {
	end, err := t.engine.begin()
	if err != nil {
		return err
	}
	defer end()
	return t.engine.cfg.Record(ctx, t.tx, b, r)
}

// begin admits a call, for which Close waits until end is called.
func (e *Engine[TTx]) begin() (end func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, durable.ErrClosed
	}
	e.calls.Add(1)
	return e.calls.Done, nil
}

// Close refuses further calls, and waits up to patience for calls that are enqueuing. It stops
// consumers that were not stopped; their Err is then an ErrClosed.
func (e *Engine[TTx]) Close() error {
	e.mu.Lock()
	e.closed = true
	left := e.consumers
	e.consumers = nil
	e.mu.Unlock()
	for c := range left {
		c.begin(durable.ErrClosed)
	}
	defer time.AfterFunc(patience, e.kill).Stop()
	e.calls.Wait()
	e.kill()
	return nil
}

// started records a consumer, unless the engine was closed while it started.
func (e *Engine[TTx]) started(c *consumer[TTx]) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return durable.ErrClosed
	}
	e.consumers[c] = true
	return nil
}

func (e *Engine[TTx]) ended(c *consumer[TTx]) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.consumers, c)
}

// inserter returns the client to insert with. Without notifications it is the client of a
// consumer, if there is one, which then looks for jobs at once.
func (e *Engine[TTx]) inserter() *river.Client[TTx] {
	if e.cfg.Poll > 0 {
		e.mu.Lock()
		defer e.mu.Unlock()
		for c := range e.consumers {
			return c.client
		}
	}
	return e.client
}

// RetryDead makes a discarded job available, as River's own tools do.
func (e *Engine[TTx]) RetryDead(ctx context.Context, id string) error {
	end, err := e.begin()
	if err != nil {
		return err
	}
	defer end()
	row, err := e.cfg.FindDead(ctx, e.cfg.Queue, id)
	if err != nil {
		return err
	}
	if row == 0 {
		return durable.ErrNotDead
	}
	_, err = e.inserter().JobRetry(ctx, row)
	return err
}

var errUnknown = errors.New("durable: failed without an error")
