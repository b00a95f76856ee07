// Package postgres is the engine of package durable for many machines that share a
// PostgreSQL database: River (github.com/riverqueue/river). A job can be enqueued in the
// transaction that gives the reason for it: see [EnqueueTx].
package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// Config configures an [Engine]. The zero value is ready to use.
type Config struct {
	// Queue is the name of the queue: 1 to 64 bytes of a-z and 0-9, in words joined by - or _. A
	// worker takes only jobs of its engine's queue. If empty, it is "tether".
	Queue string
	// Schema is the schema of River's tables, of a-z, 0-9 and _. It is created if it does not
	// exist. If empty, the connections' search_path decides. A program that uses River directly
	// must have its tables in another schema: one of all workers looks after stuck jobs, and
	// River discards stuck jobs that its worker does not know.
	Schema string
	// NoMigrate leaves River's tables as they are, for a database user that must not change
	// them. The tables are then created by "river migrate-up" or package rivermigrate, and
	// workers need, in the same schema, with all rights on its rows,
	//
	//	CREATE TABLE tether_worker (id text PRIMARY KEY, since timestamptz NOT NULL, seen timestamptz NOT NULL)
	//
	// and a [Store]
	//
	//	CREATE TABLE tether_record (key text PRIMARY KEY, tag text NOT NULL, owner text NOT NULL, asked boolean NOT NULL,
	//		version integer NOT NULL, data bytea NOT NULL, until timestamptz NOT NULL);
	//	CREATE INDEX tether_record_until ON tether_record (until);
	//	CREATE INDEX tether_record_asked ON tether_record (owner) WHERE asked;
	//	CREATE TABLE tether_lease (owner text PRIMARY KEY, until timestamptz NOT NULL)
	NoMigrate bool
	// Pooler says that the connections lead to a pooler that gives each transaction a connection
	// of its own, as PgBouncer does in transaction mode. Then no worker listens for new jobs,
	// but looks for them every 100 ms, and the pool must have
	//
	//	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	//
	// since a prepared statement is on another connection than the one that needs it. With a
	// pooler in session mode, leave it false. Workers that have a direct connection are told at
	// once of what is enqueued through a pooler.
	Pooler bool
	// Logger gets records of what happens outside of a worker. If nil, slog.Default() is used.
	Logger *slog.Logger
}

// Engine is a durable queue in a database. It implements [durable.Engine].
//
// Jobs are rows of River's table river_job, whose kind is the job's name; River's own tools
// show them. Those that have failed for good are in the
// state discarded, with the errors of their attempts, for 90 days.
type Engine struct {
	river  *river.Engine[pgx.Tx]
	pool   *pgxpool.Pool
	schema string // Config.Schema
	pooler bool
	store  *Store
}

// Open opens the queue "tether" in the pool's database; see [Config.Open].
func Open(pool *pgxpool.Pool) (*Engine, error) { return Config{}.Open(pool) }

// schemaName matches the names that Postgres does not fold where they are not quoted.
var schemaName = regexp.MustCompile(`^([a-z_][a-z0-9_]*)?$`)

// Open opens a queue. It creates River's tables, or brings them up to date; many processes may
// do so at once. It fails if the database cannot be reached.
//
// The caller must keep the pool open as long as the engine, and close it afterwards. A worker
// needs a pool of two connections or more. Each worker also opens its own: one to listen for new
// jobs, and one or two to record that it is alive, so that a worker is not presumed dead when its
// handlers keep the whole pool busy.
func (c Config) Open(pool *pgxpool.Pool) (*Engine, error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: nil pool", durable.ErrInvalid)
	}
	if !schemaName.MatchString(c.Schema) {
		return nil, fmt.Errorf("%w: schema %q: must be of a-z, 0-9 and _", durable.ErrInvalid, c.Schema)
	}
	if mode := pool.Config().ConnConfig.DefaultQueryExecMode; c.Pooler && mode != pgx.QueryExecModeCacheDescribe {
		return nil, fmt.Errorf("%w: Config.Pooler needs a pool with the DefaultQueryExecMode cache_describe, not %v", durable.ErrInvalid, mode)
	}
	var poll time.Duration
	if c.Pooler {
		poll = poolerPoll
	}
	e := &Engine{pool: pool, schema: c.Schema, pooler: c.Pooler}
	e.store = &Store{engine: e}
	engine, err := river.New(river.Config[pgx.Tx]{
		Driver: riverpgxv5.New(pool),
		Support: durable.Support{
			Engine: "postgres", Unique: true, RunAt: true, Transactions: true, Pardons: true, Resolution: time.Millisecond,
			Rescue: "after half a minute, if another is at work or as soon as one has been for as long",
		},
		Queue: c.Queue, Schema: c.Schema, Logger: c.Logger, Ping: pool.Ping, Poll: poll, Notifies: c.Pooler,
		Enter: func(ctx context.Context, id string) (river.Presence, error) {
			return enter(ctx, pool, c.Schema, cmp.Or(c.Queue, river.DefaultQueue), id)
		},
		Owned: owned(c.Schema),
		FindDead: func(ctx context.Context, queue, id string) (int64, error) {
			return findDead(ctx, pool, c.Schema, queue, id)
		},
		Record: e.store.insert, DatabaseTime: true, Unreached: unreached,
	})
	if err != nil {
		return nil, err
	}
	if !c.NoMigrate {
		if err := migrate(pool, c.Schema); err != nil {
			_ = engine.Close()
			return nil, c.explain(pool, fmt.Errorf("durable: migrate: %w", err))
		}
	}
	e.river = engine
	return e, nil
}

// poolerPoll is how often a worker looks for jobs that is not told of them.
const poolerPoll = 100 * time.Millisecond

// explain adds to an error that the connections lead to a pooler, and the setting for it.
func (c Config) explain(pool *pgxpool.Pool, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	if c.Pooler || !pooled(ctx, pool) {
		return err
	}
	return fmt.Errorf("%w (the connection leads to a pooler: if it is in transaction mode, set Config.Pooler)", err)
}

// pooled reports whether there is a pooler between the program and the database: the process
// that it names when it is connected to is not the one that runs its statements.
func pooled(ctx context.Context, pool *pgxpool.Pool) bool {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false
	}
	defer conn.Release()
	var pid uint32
	err = conn.QueryRow(ctx, `SELECT pg_backend_pid()`, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return err == nil && pid != conn.Conn().PgConn().PID()
}

// EnqueueTx is [durable.Job.Enqueue] within a transaction: the job exists, and workers are
// notified, once tx is committed. If tx is rolled back there is no job, and the Receipt is void.
//
// If another open transaction has enqueued the same [durable.Unique] key, this call waits until
// it ends, as for any unique index. After an error of the database tx must be rolled back.
func EnqueueTx[A any](ctx context.Context, e *Engine, tx pgx.Tx, job *durable.Job[A], args A, opts ...durable.EnqueueOption) (durable.Receipt, error) {
	if e == nil || tx == nil || job == nil {
		return durable.Receipt{}, fmt.Errorf("%w: nil engine, transaction or job", durable.ErrInvalid)
	}
	return job.Enqueue(ctx, e.river.Tx(tx), args, opts...)
}

// Support returns the engine's capabilities.
func (e *Engine) Support() durable.Support { return e.river.Support() }

// Enqueue stores a job: see [durable.Enqueuer]. When it returns, it is committed.
func (e *Engine) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	return e.river.Enqueue(ctx, m)
}

// Consume delivers jobs, for a [durable.Worker].
func (e *Engine) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	if e.pool.Config().MaxConns < 2 { // everything would wait for the listening connection
		return nil, fmt.Errorf("%w: a worker needs a pool of two connections or more", durable.ErrInvalid)
	}
	if !e.pooler && pooled(ctx, e.pool) {
		// In session mode it works, and nothing tells the two modes apart.
		log := c.Logger
		if log == nil {
			log = slog.Default()
		}
		log.Warn("durable: the database is behind a pooler; if it is in transaction mode, set Config.Pooler, or the worker misses notifications")
	}
	consumer, err := e.river.Consume(ctx, c)
	if err != nil && !e.pooler && pooled(ctx, e.pool) {
		err = fmt.Errorf("%w (the connection leads to a pooler: if it is in transaction mode, set Config.Pooler)", err)
	}
	return consumer, err
}

// RetryDead makes a job run again that has failed for good: see [durable.RetryDead].
func (e *Engine) RetryDead(ctx context.Context, id string) error { return e.river.RetryDead(ctx, id) }

// Close closes the engine, and not the pool. Workers must be stopped first.
func (e *Engine) Close() error {
	e.store.close()
	return e.river.Close()
}
