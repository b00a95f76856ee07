package postgres_test

import (
	"context"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/postgres"
)

// throughPgBouncer returns a pool of the same database behind PgBouncer.
func throughPgBouncer(t *testing.T, direct *pgxpool.Pool, mode pgx.QueryExecMode) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(durabletest.PgBouncer(t).Address())
	require.NoError(t, err)
	u.Path = "/" + direct.Config().ConnConfig.Database
	cfg, err := pgxpool.ParseConfig(u.String())
	require.NoError(t, err)
	cfg.ConnConfig.DefaultQueryExecMode = mode
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Everything works behind a pooler in transaction mode: the migration, jobs that fail and
// are retried, unique keys, transactions, many at once. A worker with a direct connection is
// told at once of what is enqueued through the pooler.
func TestPooler(t *testing.T) {
	direct := newPool(t)
	pool := throughPgBouncer(t, direct, pgx.QueryExecModeCacheDescribe)
	e := newEngine(t, postgres.Config{Pooler: true}, pool)
	ctx := t.Context()
	ran := make(chan string, 1000)
	job := durable.Define("job", func(ctx context.Context, arg string) error {
		if m, _ := durable.MetaFrom(ctx); m.Attempt == 1 && arg == "fails" {
			return assert.AnError
		}
		ran <- arg
		return nil
	}, durable.JobConfig{Timeout: time.Minute, Backoff: func(int, error) time.Duration { return 10 * time.Millisecond }})
	work(t, e, job)
	first, err := job.Enqueue(ctx, e, "fails", durable.Unique("key"))
	require.NoError(t, err)
	assert.Equal(t, "fails", receive(t, ran))
	again, err := job.Enqueue(ctx, e, "again", durable.Unique("later"), durable.RunAt(time.Now().Add(time.Hour)))
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		r, err := postgres.EnqueueTx(ctx, e, tx, job, "duplicate", durable.Unique("later"))
		assert.Equal(t, durable.Receipt{ID: again.ID, Duplicate: true}, r)
		return err
	}))
	assert.NotEqual(t, first.ID, again.ID)
	const jobs = 200
	for range jobs {
		go func() {
			_, err := job.Enqueue(ctx, e, "many")
			assert.NoError(t, err)
		}()
	}
	for range jobs {
		assert.Equal(t, "many", receive(t, ran))
	}

	told := newEngine(t, postgres.Config{Queue: "direct"}, direct)
	work(t, told, job)
	producer := newEngine(t, postgres.Config{Queue: "direct", Pooler: true}, pool)
	_, err = job.Enqueue(ctx, producer, "through the pooler")
	require.NoError(t, err)
	assert.Equal(t, "through the pooler", receive(t, ran))
}

// Without the setting, or with another mode, the error says what to do.
func TestPoolerExplains(t *testing.T) {
	direct := newPool(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		pool := throughPgBouncer(t, direct, mode)
		_, err := postgres.Config{Pooler: true}.Open(pool)
		require.ErrorIs(t, err, durable.ErrInvalid)
		assert.ErrorContains(t, err, "cache_describe")
	}
	newEngine(t, postgres.Config{}, direct)
	logged := make(logs, 1000)
	pool := throughPgBouncer(t, direct, pgx.QueryExecModeCacheDescribe)
	e := newEngine(t, postgres.Config{}, pool)
	c, err := e.Consume(t.Context(), durable.Consumption{Concurrency: 1, Logger: slog.New(logged), Handle: func(context.Context, durable.Delivery) durable.Outcome { return durable.Outcome{} }})
	if err != nil {
		assert.ErrorContains(t, err, "set Config.Pooler")
		return
	}
	require.NoError(t, c.Stop(t.Context()))
	assert.Contains(t, <-logged, "set Config.Pooler")
}
