package engines

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/durable/sqlite"
)

var sqliteEngine = engine{
	name: "sqlite", jobs: 600,
	server: func(t testing.TB) durabletest.Server { return durabletest.Serverless(t.TempDir()) },
	direct: func(folder, queue string) (*system, error) {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(folder, queue+".db")+
			"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1) // as River's documentation recommends
		return directRiver(riversqlite.New(db), queue, db.Close)
	},
	tether: func(folder, queue string) (*system, error) {
		e, err := sqlite.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)}.Open(filepath.Join(folder, queue+".db"))
		if err != nil {
			return nil, err
		}
		return tetherOn(e, e.Close), nil
	},
}

var postgresEngine = engine{
	name: "postgres", server: durabletest.Postgres, jobs: 2000,
	direct: func(address, queue string) (*system, error) {
		pool, err := pgxpool.New(context.Background(), address)
		if err != nil {
			return nil, err
		}
		return directRiver(riverpgxv5.New(pool), queue, func() error { pool.Close(); return nil })
	},
	tether: func(address, queue string) (*system, error) {
		pool, err := pgxpool.New(context.Background(), address)
		if err != nil {
			return nil, err
		}
		e, err := postgres.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)}.Open(pool)
		if err != nil {
			pool.Close()
			return nil, err
		}
		return tetherOn(e, func() error { defer pool.Close(); return e.Close() }), nil
	},
}

func (payload) Kind() string { return "job" }

type riverWorker struct {
	river.WorkerDefaults[payload]
	ran func(int)
}

func (w *riverWorker) Work(_ context.Context, job *river.Job[payload]) error {
	w.ran(job.Args.N)
	return nil
}

// These are the settings of package durable. With its default cooldown River would process
// at most 200 jobs per second.
const (
	fetchCooldown = 5 * time.Millisecond
	fetchPoll     = 100 * time.Millisecond
)

func directRiver[TTx any](driver riverdriver.Driver[TTx], queue string, closeDB func() error) (*system, error) {
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	client, err := river.NewClient(driver, &river.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	return &system{
		enqueue: func(ctx context.Context, n int) error {
			_, err := client.Insert(ctx, payload{n}, &river.InsertOpts{Queue: queue})
			return err
		},
		work: func(atOnce int, ran func(int)) (func() error, error) {
			workers := river.NewWorkers()
			river.AddWorker(workers, &riverWorker{ran: ran})
			client, err := river.NewClient(driver, &river.Config{
				Logger: log, Workers: workers, Queues: map[string]river.QueueConfig{queue: {MaxWorkers: atOnce}},
				FetchCooldown: fetchCooldown, FetchPollInterval: fetchPoll,
			})
			if err != nil {
				return nil, err
			}
			if err := client.Start(ctx); err != nil {
				return nil, err
			}
			return func() error { return client.Stop(ctx) }, nil
		},
		close: closeDB,
	}, nil
}
