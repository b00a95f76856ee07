package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/internal/river"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// Config configures an [Engine]. The zero value is ready to use.
type Config struct {
	// Queue is the name of the queue in the file: 1 to 64 bytes of a-z and 0-9, in words joined by
	// - or _. A worker takes only jobs of its engine's queue. If empty, it is "tether".
	Queue string
	// Logger gets records of what happens outside of a worker. If nil, slog.Default() is used.
	Logger *slog.Logger
}

// Engine is a [durable.Engine] on a file.
type Engine struct {
	core *river.Engine[*sql.Tx]
	// River has one connection of its own, as it advises: two of one process would only wait
	// for each other's lock. The program's transactions are on users; on the same connection,
	// Enqueue would wait until they end.
	own, users *sql.DB
	store      *Store
}

// Open opens the engine on a file, which is created if it does not exist; its folder is not.
// Several processes may open it at once. Beside path there are path+"-wal" and path+"-shm",
// which belong to the data, and path+".lock", which must not be removed while a worker runs:
// the next worker would run its jobs again. If path is a symbolic link, they are beside the
// file that it leads to.
//
// While a process has the engine open, it must not open the file in another way than by SQLite,
// not even to copy it: when it closes the file, the system releases SQLite's locks.
func Open(path string) (*Engine, error) { return Config{}.Open(path) }

// openTime limits how long Open waits for other processes.
const openTime = 30 * time.Second

// Open opens the engine with this configuration: see the function [Open].
func (c Config) Open(path string) (*Engine, error) {
	e, err := c.open(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %q: %w", path, err)
	}
	return e, nil
}

func (c Config) open(path string) (_ *Engine, err error) {
	if path == "" || path == ":memory:" {
		return nil, fmt.Errorf("%w: a file is needed: what is in memory does not survive", durable.ErrInvalid)
	}
	// The lock is found by its name, and the program may change its directory.
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	e := &Engine{}
	defer func() {
		for _, db := range []*sql.DB{e.users, e.own} {
			if err != nil && db != nil {
				err = errors.Join(err, db.Close())
			}
		}
		if err != nil && e.store != nil {
			err = errors.Join(err, e.store.close())
		}
	}()
	if e.own, err = sql.Open("sqlite", dsn(path)); err != nil {
		return nil, err
	}
	e.own.SetMaxOpenConns(1)
	if e.users, err = sql.Open("sqlite", dsn(path)); err != nil {
		return nil, err
	}
	if e.store, err = openStore(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	if err := migrate(ctx, e.own); err != nil {
		return nil, unusable(path, err)
	}
	// The lock is beside the file itself, as SQLite's own files are, under whatever name a
	// process opens it.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	e.core, err = river.New(river.Config[*sql.Tx]{
		Driver: riversqlite.New(e.own),
		Support: durable.Support{
			Engine: "sqlite", Unique: true, RunAt: true, Transactions: true, Pardons: true, Resolution: time.Millisecond,
			Rescue: "at once when a worker starts and no other is at work on the file; else after half a minute",
		},
		Queue: c.Queue, Logger: c.Logger, Poll: 100 * time.Millisecond,
		Ping: e.own.PingContext,
		Enter: func(ctx context.Context, id string) (river.Presence, error) {
			return enter(ctx, path+".lock", e.own, cmp.Or(c.Queue, river.DefaultQueue), id)
		},
		Owned: owned,
		FindDead: func(ctx context.Context, queue, id string) (int64, error) {
			return findDead(ctx, e.users, queue, id)
		},
		Record: func(ctx context.Context, tx *sql.Tx, b store.Backend, r store.Record) error {
			return e.store.insert(ctx, tx, b, r)
		},
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// unusable returns the system's error for what SQLite calls "unable to open database file". It
// is called only if SQLite could not open the file: opening and closing a file that this process
// has open in SQLite releases SQLite's locks.
func unusable(path string, err error) error {
	var e *driver.Error
	if !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_CANTOPEN && e.Code()&0xff != sqlite3.SQLITE_READONLY {
		return err
	}
	f, why := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if why != nil {
		return why
	}
	return errors.Join(err, f.Close())
}

// dsn has what each connection to the file must have. Transactions take the write lock
// when they begin: one that reads first and then writes would fail at once, instead of
// waiting, if another has written meanwhile. River hands over some times as they are, and
// compares them as text: so they must all be in one zone and one form.
func dsn(path string) string {
	q := url.Values{
		"_txlock":      {"immediate"},
		"_time_format": {"sqlite"},
		"_timezone":    {"UTC"},
		"_pragma":      {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"},
	}
	return "file:" + url.PathEscape(path) + "?" + q.Encode()
}

// migrate brings the file to the schema that this version of River expects, in one transaction:
// another process waits for it, and then finds nothing to do.
func migrate(ctx context.Context, db *sql.DB) error {
	m, err := rivermigrate.New(riversqlite.New(db), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	for {
		err := migrateOnce(ctx, db, m)
		// SQLite does not wait its busy_timeout where two connections make a new file WAL.
		if !busy(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func migrateOnce(ctx context.Context, db *sql.DB, m *rivermigrate.Migrator[*sql.Tx]) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	//lint:ignore SA1019 what cannot share a transaction is Postgres' enums; here one must keep others out
	if _, err := m.MigrateTx(ctx, tx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	for _, tables := range []string{workers, recordTables} {
		if _, err := tx.ExecContext(ctx, tables); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func busy(err error) bool {
	var e *driver.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// Support returns the engine's capabilities.
func (e *Engine) Support() durable.Support { return e.core.Support() }

// Enqueue stores a job, on disk when it returns. Inside a transaction of [Engine.DB] it
// would wait for that to end: use [EnqueueTx] there.
func (e *Engine) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	return e.core.Enqueue(ctx, m)
}

// Consume begins to deliver jobs: see [durable.Worker]. If no other consumer is at work on the
// file, in any process, jobs that a crash has interrupted start again at once.
func (e *Engine) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	return e.core.Consume(ctx, c)
}

// RetryDead makes a job run again that has failed for good: see [durable.RetryDead].
func (e *Engine) RetryDead(ctx context.Context, id string) error { return e.core.RetryDead(ctx, id) }

// Close closes the file. Calls after it fail with [durable.ErrClosed].
func (e *Engine) Close() error {
	return errors.Join(e.core.Close(), e.store.close(), e.users.Close(), e.own.Close())
}

// DB returns the database, for transactions of the program: see [EnqueueTx]. The program may
// have tables of its own in it. A transaction has the write lock from its beginning, and no
// worker can write until it ends; after ten seconds workers fail. The engine closes DB.
func (e *Engine) DB() *sql.DB { return e.users }

// EnqueueTx is [durable.Job.Enqueue] within a transaction of [Engine.DB]: the job exists if
// the transaction is committed, and from then on. If it returns an error the transaction
// should be rolled back.
func EnqueueTx[A any](ctx context.Context, e *Engine, tx *sql.Tx, job *durable.Job[A], args A, opts ...durable.EnqueueOption) (durable.Receipt, error) {
	if e == nil || tx == nil || job == nil {
		return durable.Receipt{}, fmt.Errorf("%w: nil engine, transaction or job", durable.ErrInvalid)
	}
	return job.Enqueue(ctx, e.core.Tx(tx), args, opts...)
}
