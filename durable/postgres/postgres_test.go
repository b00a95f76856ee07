package postgres_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/internal/river"
	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

var fixture = durabletest.Fixture{
	Server: durabletest.Postgres, Open: open, Rescue: 2 * time.Minute, Hasten: hasten,
	Store: func(e durable.Engine) store.Backend { return e.(withPool).Store() },
}

// hasten rescues the jobs of a queue, all of whose workers are dead, by a worker that claims
// to have been there for long.
func hasten(address, queue string) error {
	pool, err := connect(address, queue)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
	defer cancel()
	if _, err := pool.Exec(ctx, `DELETE FROM tether_worker`); err != nil {
		return err
	}
	p, err := postgres.Enter(ctx, pool, "", queue, "tether-hasten")
	if err != nil {
		return err
	}
	defer p.End()
	if _, err := p.Beat(ctx); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `UPDATE tether_worker SET since = now() - interval '1 hour'`); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `UPDATE river_job SET attempted_at = now() - interval '1 hour' WHERE state = 'running'`); err != nil {
		return err
	}
	_, err = p.Rescue(ctx, []int64{})
	return err
}

func TestMain(m *testing.M)        { durabletest.Main(m, fixture) }
func TestContract(t *testing.T)    { durabletest.Contract(t, fixture) }
func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }

// withPool is an engine whose pool is its own, as a test needs it.
type withPool struct {
	*postgres.Engine
	pool *pgxpool.Pool
}

func (w withPool) Close() error {
	defer w.pool.Close()
	return w.Engine.Close()
}

// open opens the queue in a database of its name.
func open(address, queue string) (durable.Engine, error) {
	pool, err := connect(address, queue)
	if err != nil {
		return nil, err
	}
	engine, err := postgres.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)}.Open(pool)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return withPool{engine, pool}, nil
}

// connect returns a pool of a database, which it creates unless another process has.
func connect(address, database string) (*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if err := create(ctx, address, database); err != nil {
		return nil, fmt.Errorf("database %s: %w", database, err)
	}
	u.Path = "/" + database
	return pgxpool.New(ctx, u.String())
}

func create(ctx context.Context, address, database string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(1)`); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize())
	return err
}

// newPool returns the pool of a new database.
func newPool(t *testing.T, adjust ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool, err := connect(durabletest.Postgres(t).Address(), "db"+strings.ToLower(rand.Text()))
	require.NoError(t, err)
	if len(adjust) > 0 {
		cfg := pool.Config()
		pool.Close()
		for _, a := range adjust {
			a(cfg)
		}
		pool, err = pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func newEngine(t *testing.T, cfg postgres.Config, pool *pgxpool.Pool) *postgres.Engine {
	t.Helper()
	e, err := cfg.Open(pool)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}

// work starts a worker that has the job, and stops it when the test ends.
func work(t *testing.T, e durable.Engine, job durable.Definition) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	reg := tether.New(tether.Config{Logger: log})
	w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: reg, Concurrency: 2, Logger: log}, job)
	require.NoError(t, err)
	require.NoError(t, w.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, w.Stop(ctx))
		assert.NoError(t, reg.Shutdown(ctx))
	})
}

// define returns a job that sends its arguments, and the channel.
func define(name string) (*durable.Job[string], <-chan string) {
	ran := make(chan string, 100)
	return durable.Define(name, func(_ context.Context, arg string) error {
		ran <- arg
		return nil
	}, durable.JobConfig{Timeout: time.Minute}), ran
}

func receive(t *testing.T, ran <-chan string) string {
	t.Helper()
	select {
	case arg := <-ran:
		return arg
	case <-time.After(time.Minute):
		require.Fail(t, "no job has run")
		return ""
	}
}

// stored counts the jobs that others see.
func stored(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM river_job`).Scan(&n))
	return n
}

func TestEnqueueTx(t *testing.T) {
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	job, ran := define("job")
	work(t, e, job)
	ctx := t.Context()

	t.Run("rolled back", func(t *testing.T) {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		receipt, err := postgres.EnqueueTx(ctx, e, tx, job, "rolled back", durable.Unique("key"))
		require.NoError(t, err)
		assert.NotEmpty(t, receipt.ID)
		require.NoError(t, tx.Rollback(ctx))
		assert.Zero(t, stored(t, pool))
	})
	t.Run("committed", func(t *testing.T) {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `CREATE TABLE orders (id int)`)
		require.NoError(t, err)
		_, err = postgres.EnqueueTx(ctx, e, tx, job, "committed", durable.Unique("key"))
		require.NoError(t, err)
		assert.Zero(t, stored(t, pool), "before the commit")
		require.NoError(t, tx.Commit(ctx))
		assert.Equal(t, "committed", receive(t, ran), "and not the one that was rolled back")
		assert.Equal(t, 1, stored(t, pool))
	})
	t.Run("duplicate", func(t *testing.T) {
		later := durable.RunAt(time.Now().Add(time.Hour))
		first, err := job.Enqueue(ctx, e, "first", durable.Unique("another"), later)
		require.NoError(t, err)
		require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			second, err := postgres.EnqueueTx(ctx, e, tx, job, "second", durable.Unique("another"))
			assert.Equal(t, durable.Receipt{ID: first.ID, Duplicate: true}, second)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `INSERT INTO orders VALUES (1)`)
			return err // the transaction is a good one still
		}))
	})
	t.Run("invalid", func(t *testing.T) {
		_, err := postgres.EnqueueTx(ctx, e, nil, job, "")
		assert.ErrorIs(t, err, durable.ErrInvalid)
		_, err = postgres.EnqueueTx(ctx, nil, nil, job, "")
		assert.ErrorIs(t, err, durable.ErrInvalid)
		require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := postgres.EnqueueTx(ctx, e, tx, job, "", durable.Unique(""))
			assert.ErrorIs(t, err, durable.ErrInvalid)
			return nil
		}))
	})
}

// statements records what is sent to the database.
type statements struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d.SQL)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns the statements since the last call.
func (s *statements) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.all = nil }()
	return s.all
}

func TestEnqueue(t *testing.T) {
	sent := new(statements)
	pool := newPool(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = sent })
	e := newEngine(t, postgres.Config{}, pool)
	job, _ := define("job")
	ctx := t.Context()
	_, err := job.Enqueue(ctx, e, "first") // River also asks what the database is capable of
	require.NoError(t, err)

	t.Run("is one statement, and a notification", func(t *testing.T) {
		for _, opts := range [][]durable.EnqueueOption{nil, {durable.Unique("key")}} {
			sent.take()
			_, err := job.Enqueue(ctx, e, "job", opts...)
			require.NoError(t, err)
			all := sent.take()
			require.NotEmpty(t, all)
			assert.Contains(t, all[0], "INSERT INTO")
			for _, notification := range all[1:] { // it is left out a millisecond after another
				assert.Contains(t, notification, "pg_notify")
			}
		}
	})
	t.Run("of a job that cannot be stored harms no other", func(t *testing.T) {
		_, err := pool.Exec(ctx, `
			CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no poison'; END $$;
			CREATE TRIGGER poison BEFORE INSERT ON river_job FOR EACH ROW WHEN (NEW.kind = 'poison') EXECUTE FUNCTION poison()`)
		require.NoError(t, err)
		poison, _ := define("poison")
		before := stored(t, pool)
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `LOCK TABLE river_job`) // so that those after the first are one batch
		require.NoError(t, err)
		var begun, group sync.WaitGroup
		const jobs = 20
		for n := range jobs {
			begun.Add(1)
			group.Go(func() {
				begun.Done()
				if n == jobs/2 {
					_, err := poison.Enqueue(ctx, e, "poison")
					assert.ErrorContains(t, err, "no poison")
					return
				}
				_, err := job.Enqueue(ctx, e, "job")
				assert.NoError(t, err)
			})
		}
		begun.Wait()
		require.NoError(t, tx.Commit(ctx))
		group.Wait()
		assert.Equal(t, jobs-1, stored(t, pool)-before, "each is stored once")
	})
}

func TestClose(t *testing.T) {
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	job, _ := define("job")
	require.NoError(t, e.Close())
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := postgres.EnqueueTx(t.Context(), e, tx, job, "")
		assert.ErrorIs(t, err, durable.ErrClosed)
		return nil
	}), "the pool is the user's")
}

// A database of River v0.31 and of an earlier version of this package, with a job that a
// killed worker ran, one that waits, one with a unique key, and one that is due later.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	ctx := t.Context()
	script, err := os.ReadFile("testdata/river-v0.31.sql")
	require.NoError(t, err)
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig) // the script changes the session
	require.NoError(t, err)
	_, err = conn.Exec(ctx, string(script))
	require.NoError(t, errors.Join(err, conn.Close(ctx)))

	e := newEngine(t, postgres.Config{}, pool)
	again := durable.Message{ID: "another", Name: "job", Args: json.RawMessage("null"), Unique: "key"}
	r, err := e.Enqueue(ctx, again)
	require.NoError(t, err)
	assert.Equal(t, durable.Receipt{ID: "unique", Duplicate: true}, r)
	ran := make(chan string, 10)
	c, err := e.Consume(ctx, durable.Consumption{Concurrency: 1, Names: []string{"job"}, Handle: func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		ran <- fmt.Sprint(m.ID, " ", attempt)
		return durable.Outcome{}
	}})
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `UPDATE tether_worker SET since = now() - interval '1 hour'`) // so that the test need not wait
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"running 2", "waiting 1", "unique 1"}, []string{receive(t, ran), receive(t, ran), receive(t, ran)})
	require.NoError(t, c.Stop(ctx))
	var state string
	require.NoError(t, pool.QueryRow(ctx, `SELECT state FROM river_job WHERE args->>'id' = 'later'`).Scan(&state))
	assert.Equal(t, "scheduled", state)
	r, err = e.Enqueue(ctx, again)
	require.NoError(t, err)
	assert.Equal(t, durable.Receipt{ID: "another"}, r)
}

// Many processes that start at once on a new database all come up.
func TestMigrateAtOnce(t *testing.T) {
	for _, schema := range []string{"", "jobs"} {
		t.Run("schema "+schema, func(t *testing.T) {
			first := newPool(t)
			var pools []*pgxpool.Pool
			for range 6 {
				pool, err := pgxpool.NewWithConfig(t.Context(), first.Config())
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				require.NoError(t, pool.Ping(t.Context()))
				pools = append(pools, pool)
			}
			var group sync.WaitGroup
			begin := make(chan struct{})
			for _, pool := range pools {
				group.Go(func() {
					<-begin
					e, err := postgres.Config{Schema: schema}.Open(pool)
					if assert.NoError(t, err) {
						assert.NoError(t, e.Close())
					}
				})
			}
			close(begin)
			group.Wait()
		})
	}
}

func TestOpen(t *testing.T) {
	job, ran := define("job")
	t.Run("on a pool of one connection", func(t *testing.T) {
		pool := newPool(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
		e := newEngine(t, postgres.Config{}, pool)
		_, err := job.Enqueue(t.Context(), e, "")
		require.NoError(t, err)
		w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: tether.New(tether.Config{})}, job)
		require.NoError(t, err)
		assert.ErrorIs(t, w.Start(t.Context()), durable.ErrInvalid)
	})
	t.Run("without a migration", func(t *testing.T) {
		pool := newPool(t)
		e := newEngine(t, postgres.Config{NoMigrate: true}, pool)
		_, err := job.Enqueue(t.Context(), e, "")
		require.Error(t, err, "there are no tables")
		newEngine(t, postgres.Config{}, pool)
		_, err = job.Enqueue(t.Context(), e, "")
		require.NoError(t, err)
	})
	t.Run("on a schema of a newer program", func(t *testing.T) {
		pool := newPool(t)
		newEngine(t, postgres.Config{}, pool)
		_, err := pool.Exec(t.Context(), `INSERT INTO river_migration (line, version) VALUES ('main', 9999)`)
		require.NoError(t, err)
		newEngine(t, postgres.Config{}, pool)
	})
	t.Run("as a user who may not create anything", func(t *testing.T) {
		pool := newPool(t)
		newEngine(t, postgres.Config{Schema: "jobs"}, pool)
		_, err := pool.Exec(t.Context(), `
			CREATE ROLE clerk LOGIN;
			GRANT USAGE ON SCHEMA jobs TO clerk;
			GRANT ALL ON ALL TABLES IN SCHEMA jobs TO clerk;
			GRANT ALL ON ALL SEQUENCES IN SCHEMA jobs TO clerk`)
		require.NoError(t, err)
		cfg := pool.Config()
		cfg.ConnConfig.User = "clerk"
		clerks, err := pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(clerks.Close)
		e := newEngine(t, postgres.Config{Schema: "jobs"}, clerks)
		_, err = job.Enqueue(t.Context(), e, "")
		require.NoError(t, err)
	})
	t.Run("in schemas of their own", func(t *testing.T) {
		pool := newPool(t)
		a := newEngine(t, postgres.Config{Schema: "a"}, pool)
		b := newEngine(t, postgres.Config{Schema: "b"}, pool)
		_, err := job.Enqueue(t.Context(), a, "to a", durable.Unique("key"))
		require.NoError(t, err)
		receipt, err := job.Enqueue(t.Context(), b, "to b", durable.Unique("key"))
		require.NoError(t, err)
		assert.False(t, receipt.Duplicate)
		work(t, b, job)
		assert.Equal(t, "to b", receive(t, ran))
		work(t, a, job)
		assert.Equal(t, "to a", receive(t, ran))
	})
	t.Run("invalid", func(t *testing.T) {
		_, err := postgres.Open(nil)
		assert.ErrorIs(t, err, durable.ErrInvalid)
		pool := newPool(t)
		for _, cfg := range []postgres.Config{{Schema: "Jobs"}, {Schema: "a;b"}, {Queue: "a b"}} {
			_, err = cfg.Open(pool)
			assert.ErrorIs(t, err, durable.ErrInvalid, "%+v", cfg)
		}
	})
	t.Run("out of reach", func(t *testing.T) {
		pool := newPool(t, func(c *pgxpool.Config) { c.ConnConfig.Host, c.ConnConfig.Port = "127.0.0.1", 1 })
		_, err := postgres.Open(pool)
		require.Error(t, err)
		assert.False(t, errors.Is(err, durable.ErrInvalid))
	})
}

// A worker whose handlers keep the whole pool busy is not presumed dead: its job goes on,
// however old, though another worker looks for those of dead ones, and finds one.
func TestABusyWorkerIsAlive(t *testing.T) {
	t.Parallel()
	pool := newPool(t, func(c *pgxpool.Config) { c.MaxConns = 2 })
	e := newEngine(t, postgres.Config{}, pool)
	busy, free := make(chan struct{}), make(chan struct{})
	hog := durable.Define("busy", func(ctx context.Context, _ string) error {
		for range 2 {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
		}
		close(busy) // which a second attempt could not
		<-free
		return nil
	}, durable.JobConfig{Timeout: time.Hour})
	_, err := hog.Enqueue(t.Context(), e, "")
	require.NoError(t, err)
	work(t, e, hog)
	defer close(free)
	<-busy

	cfg := pool.Config()
	cfg.MaxConns = 4
	others, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(others.Close)
	other := newEngine(t, postgres.Config{}, others)
	job, ran := define("job")
	work(t, other, job)
	exec := func(query string) {
		_, err := others.Exec(t.Context(), query)
		require.NoError(t, err)
	}
	exec(`UPDATE tether_worker SET seen = now() - interval '1 hour'`)
	require.Eventually(t, func() (all bool) {
		require.NoError(t, others.QueryRow(t.Context(), `SELECT bool_and(seen > now() - interval '1 minute') FROM tether_worker`).Scan(&all))
		return all
	}, time.Minute, 10*time.Millisecond, "both are seen again")
	_, err = job.Enqueue(t.Context(), other, "of a dead one", durable.RunAt(time.Now().Add(time.Hour)))
	require.NoError(t, err)
	exec(`UPDATE river_job SET state = 'running', attempt = 1, attempted_by = '{tether-dead}' WHERE state = 'scheduled'`)
	exec(`UPDATE river_job SET attempted_at = now() - interval '1 hour', scheduled_at = now()`)
	exec(`UPDATE tether_worker SET since = now() - interval '1 hour'`) // so that the test need not wait
	assert.Equal(t, "of a dead one", receive(t, ran))
	var now string
	require.NoError(t, others.QueryRow(t.Context(), `SELECT state || ' ' || attempt FROM river_job WHERE kind = 'busy'`).Scan(&now))
	assert.Equal(t, "running 1", now)
}

func beat(t *testing.T, p river.Presence) {
	t.Helper()
	_, err := p.Beat(t.Context())
	require.NoError(t, err)
}

func TestPresence(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"", "jobs"} {
		pool := newPool(t)
		newEngine(t, postgres.Config{Schema: schema}, pool)
		in := cmp.Or(schema, "public") + "."
		exec := func(query string) {
			_, err := pool.Exec(t.Context(), strings.ReplaceAll(query, "~", in))
			require.NoError(t, err)
		}
		enter := func(id string) river.Presence {
			p, err := postgres.Enter(t.Context(), pool, schema, river.DefaultQueue, id)
			require.NoError(t, err)
			beat(t, p)
			return p
		}
		available := func() (ids []int64) {
			rows, err := pool.Query(t.Context(), `SELECT id FROM `+in+`river_job WHERE state = 'available' ORDER BY id`)
			require.NoError(t, err)
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			require.NoError(t, err)
			return ids
		}
		rescued := func(p river.Presence, mine ...int64) int64 {
			n, err := p.Rescue(t.Context(), mine)
			require.NoError(t, err)
			return n
		}
		seen := func() (at time.Time) {
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT seen FROM `+in+`tether_worker WHERE id = 'tether-me'`).Scan(&at))
			return at
		}
		exec(`INSERT INTO ~tether_worker VALUES ('forgotten', now(), now() - interval '2 days')`)
		me, other, dead := enter("tether-me"), enter("tether-other"), enter("tether-dead")
		defer dead.End()
		exec(`UPDATE ~tether_worker SET seen = now() - interval '31 s' WHERE id = 'tether-dead'`)
		for id, row := range []string{
			1:  `'{tether-me}', 'tether', now() - interval '1 hour', '{}'`,
			2:  `'{tether-me}', 'tether', now() - interval '1 hour', '{}'`, // of which it does not know
			3:  `'{tether-me}', 'tether', now(), '{}'`,
			4:  `'{tether-dead,tether-other}', 'tether', now() - interval '1 hour', '{}'`,
			5:  `'{tether-other,tether-dead}', 'of its own', now() - interval '31 s', '{}'`,
			6:  `'{tether-dead}', 'tether', now(), '{}'`,
			7:  `'{foreign}', 'foreign', now() - interval '1 hour', '{}'`,
			8:  `'{tether-forgotten}', 'tether', now() - interval '1 hour', '{}'`,
			9:  `NULL, 'tether', NULL, '{}'`,
			10: `'{tether-dead}', 'tether', now() - interval '1 hour', '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`,
		} {
			if row != "" {
				exec(fmt.Sprintf(`INSERT INTO ~river_job (id, args, attempt, created_at, max_attempts, state, attempted_by, kind, attempted_at, metadata)
					VALUES (%d, '{}', 1, now() - interval '1 hour', 9, 'running', %s)`, id, row))
			}
		}

		assert.Zero(t, rescued(me, 1), "it has only just come")
		exec(`UPDATE ~tether_worker SET since = now() - interval '31 s', seen = now() - interval '16 s' WHERE id = 'tether-me'`)
		assert.Zero(t, rescued(me, 1), "it was not seen just now")
		beat(t, me)
		assert.Zero(t, rescued(me, 1), "it has only just come back")
		exec(`UPDATE ~tether_worker SET since = now() - interval '1 hour', seen = now() + interval '1 hour' WHERE id = 'tether-me'`)
		beat(t, me)
		assert.Zero(t, rescued(me, 1), "the clock was set back")
		exec(`UPDATE ~tether_worker SET since = now() - interval '31 s', seen = now() - interval '1 s' WHERE id = 'tether-me'`)
		before := seen()
		beat(t, me)
		require.True(t, seen().After(before))

		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT FROM `+in+`river_job WHERE id = 8 FOR UPDATE`)
		require.NoError(t, err)
		assert.EqualValues(t, 4, rescued(me, 1))
		assert.Equal(t, []int64{2, 5, 9}, available(), "those that it has lost, of a dead worker, and of none")
		require.NoError(t, tx.Rollback(t.Context()))
		assert.EqualValues(t, 1, rescued(me, 1))
		assert.Equal(t, []int64{2, 5, 8, 9}, available(), "and, once it is not locked, of a forgotten one")
		var reason, state string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT errors[1]->>'error' FROM `+in+`river_job WHERE id = 5`).Scan(&reason))
		assert.Equal(t, "the process ended while it ran", reason)
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT state FROM `+in+`river_job WHERE id = 10 AND finalized_at IS NOT NULL`).Scan(&state))
		assert.Equal(t, "cancelled", state, "as River was asked")

		other.End()
		assert.EqualValues(t, 1, rescued(me, 1), "a worker that has ended has no jobs")
		me.End()
	}
}

// Workers that share jobs share their table, wherever their search_path leads first.
func TestWorkersTableIsBesideTheJobs(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	newEngine(t, postgres.Config{}, pool)
	_, err := pool.Exec(t.Context(), `CREATE SCHEMA a; CREATE SCHEMA b; DROP TABLE tether_worker`) // as before there was one
	require.NoError(t, err)
	for _, path := range []string{"a, public", "b, public"} {
		cfg := pool.Config()
		cfg.ConnConfig.RuntimeParams["search_path"] = path
		other, err := pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(other.Close)
		e := newEngine(t, postgres.Config{}, other)
		job, ran := define("job")
		work(t, e, job)
		_, err = job.Enqueue(t.Context(), e, path)
		require.NoError(t, err)
		if path[0] == 'a' {
			assert.Equal(t, path, receive(t, ran))
		}
	}
	var tables string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT string_agg(schemaname || '.' || tablename, ' ') FROM pg_tables WHERE tablename = 'tether_worker'`).Scan(&tables))
	assert.Equal(t, "public.tether_worker", tables)
	var workers int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM tether_worker`).Scan(&workers))
	assert.Equal(t, 2, workers)
}

// A worker that cannot say that it is alive does not start.
func TestNoWorkersTable(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	_, err := pool.Exec(t.Context(), `DROP TABLE tether_worker`)
	require.NoError(t, err)
	job, _ := define("job")
	w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: tether.New(tether.Config{})}, job)
	require.NoError(t, err)
	assert.ErrorContains(t, w.Start(t.Context()), "tether_worker")
}

// An attempt that was taken over, while its worker stood still, stores nothing.
func TestATakenOverAttemptStoresNothing(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	ctx := t.Context()
	late, began := make(chan durable.Outcome), make(chan int, 10)
	logged := make(logs, 100)
	consume := func(h func(context.Context, durable.Delivery) durable.Outcome) durable.Consumer {
		c, err := e.Consume(ctx, durable.Consumption{Concurrency: 1, Handle: h, Logger: slog.New(logged)})
		require.NoError(t, err)
		return c
	}
	first := consume(func(_ context.Context, d durable.Delivery) durable.Outcome {
		began <- d.Attempt
		return <-late
	})
	_, err := e.Enqueue(ctx, durable.Message{ID: "job", Name: "job", Args: json.RawMessage("null")})
	require.NoError(t, err)
	require.Equal(t, 1, <-began)
	done := make(chan struct{})
	second := consume(func(_ context.Context, d durable.Delivery) durable.Outcome {
		began <- d.Attempt
		<-done
		return durable.Outcome{}
	})
	_, err = pool.Exec(ctx, `UPDATE river_job SET state = 'available'`) // as Rescue does
	require.NoError(t, err)
	require.Equal(t, 2, <-began)
	late <- durable.Outcome{Verdict: durable.Retry, Err: errors.New("too late")}
	for !strings.Contains(<-logged, "outcomes are not stored") {
	}
	row := func() (row string) {
		require.NoError(t, pool.QueryRow(ctx, `SELECT state || ' ' || attempt || ' ' || coalesce(errors::text, '') FROM river_job`).Scan(&row))
		return row
	}
	assert.Equal(t, "running 2 ", row())
	close(done)
	require.Eventually(t, func() bool { return row() == "completed 2 " }, time.Minute, 10*time.Millisecond)
	require.NoError(t, first.Stop(ctx))
	require.NoError(t, second.Stop(ctx))
}

// logs are the messages that are logged.
type logs chan string

func (logs) Enabled(context.Context, slog.Level) bool { return true }
func (l logs) Handle(_ context.Context, r slog.Record) error {
	l <- r.Message
	return nil
}
func (l logs) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l logs) WithGroup(string) slog.Handler      { return l }

// A job is due by the database's clock, whatever the clocks of programs say, and does not
// wait for a database whose clock was set back, unless it has a RunAt.
func TestClocks(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	ctx := t.Context()
	job, ran := define("job")
	var now time.Time
	require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		require.NoError(t, tx.QueryRow(ctx, `SELECT now()`).Scan(&now)) // which stands still in a transaction
		_, err := postgres.EnqueueTx(ctx, e, tx, job, "job")
		return err
	}))
	var due, created time.Time
	require.NoError(t, pool.QueryRow(ctx, `SELECT scheduled_at, created_at FROM river_job`).Scan(&due, &created))
	assert.Equal(t, now, due)
	assert.Equal(t, now, created)

	_, err := job.Enqueue(ctx, e, "timed", durable.RunAt(time.Now().Add(20*time.Second)))
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `UPDATE river_job SET created_at = now() + interval '300 s', scheduled_at = now() + interval '300 s'`)
	require.NoError(t, err)
	work(t, e, job)
	assert.Equal(t, "job", receive(t, ran))
	assert.Empty(t, ran)
}

func TestRetryDead(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	e := newEngine(t, postgres.Config{}, pool)
	ctx := t.Context()
	ran := make(chan int, 10)
	job := durable.Define("job", func(ctx context.Context, _ string) error {
		m, _ := durable.MetaFrom(ctx)
		ran <- m.Attempt
		if m.Attempt < 3 {
			return errors.New("no")
		}
		return nil
	}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1})
	work(t, e, job)
	receipt, err := job.Enqueue(ctx, e, "")
	require.NoError(t, err)
	is := func(wants string) {
		require.Eventually(t, func() bool {
			var state string
			require.NoError(t, pool.QueryRow(ctx, `SELECT state || ' ' || attempt FROM river_job`).Scan(&state))
			return state == wants
		}, time.Minute, 10*time.Millisecond)
	}
	is("discarded 1")
	require.ErrorIs(t, durable.RetryDead(ctx, e, "another"), durable.ErrNotDead)
	require.NoError(t, durable.RetryDead(ctx, e, receipt.ID))
	is("discarded 2")
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), &riverqueue.Config{})
	require.NoError(t, err)
	_, err = client.JobRetry(ctx, 1)
	require.NoError(t, err)
	is("completed 3")
	assert.Len(t, ran, 3)
}
