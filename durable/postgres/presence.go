package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// presence is a consumer's row in tether_worker, and connections of its own, which handlers
// cannot keep busy.
type presence struct {
	own           *pgxpool.Pool
	queue, id     string
	jobs, workers string // the tables
	state         string // the type of a job's state
}

// connectTime limits an attempt to connect, so that a network that drops packets makes a worker
// silent only while it does.
const connectTime = 5 * time.Second

// forgetAfter is how long the row of a worker that was killed is kept.
const forgetAfter = "1 day"

func enter(ctx context.Context, pool *pgxpool.Pool, schema, queue, id string) (river.Presence, error) {
	cfg := beside(pool) // one of them may hang
	if c := cfg.ConnConfig; c.ConnectTimeout <= 0 || c.ConnectTimeout > connectTime {
		c.ConnectTimeout = connectTime
	}
	own, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p := &presence{own: own, queue: queue, id: id}
	if err := p.enter(ctx, schema); err != nil {
		p.End()
		return nil, err
	}
	return p, nil
}

func (p *presence) enter(ctx context.Context, schema string) error {
	schema, err := home(ctx, p.own, schema)
	if err != nil {
		return err
	}
	p.jobs, p.workers, p.state = name(schema, "river_job"), name(schema, "tether_worker"), name(schema, "river_job_state")
	_, err = p.own.Exec(ctx, `DELETE FROM `+p.workers+` WHERE seen < now() - interval '`+forgetAfter+`'`)
	return err
}

// home returns the schema of River's tables, or "" if there are none. The workers' table must be
// in the same schema, wherever the search_path leads: workers that share jobs share it.
func home(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, schema string) (found string, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce((
		SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)), '')`,
		name(schema, "river_job")).Scan(&found)
	return found, err
}

func name(schema, object string) string {
	if schema == "" {
		return pgx.Identifier{object}.Sanitize()
	}
	return pgx.Identifier{schema, object}.Sanitize()
}

func (p *presence) Beat(ctx context.Context) (now time.Time, err error) {
	err = p.own.QueryRow(ctx, `
		INSERT INTO `+p.workers+` AS w (id, since, seen) VALUES ($1, now(), now())
		ON CONFLICT (id) DO UPDATE SET
			seen = now(),
			since = CASE WHEN w.seen BETWEEN now() - make_interval(secs => $2) AND now() THEN w.since ELSE now() END
		RETURNING clock_timestamp()`,
		p.id, (river.Silence / 2).Seconds()).Scan(&now)
	return now, err
}

func (p *presence) Count(ctx context.Context, id int64, attempt int) (mine bool, err error) {
	tag, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+` SET metadata = metadata || jsonb_build_object('tether_counted', attempt)
		WHERE id = $1 AND attempt = $2 AND state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $3`, id, attempt, p.id)
	return tag.RowsAffected() > 0, err
}

func (p *presence) Rewind(ctx context.Context) (jobs int64, err error) {
	tag, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+` SET scheduled_at = now()
		WHERE id IN (
			SELECT id FROM `+p.jobs+`
			WHERE state = 'available' AND queue = $1 AND priority = 1 AND scheduled_at > now() + interval '10 s'
				AND NOT metadata ? 'tether_timed'
			ORDER BY id FOR UPDATE SKIP LOCKED)`, p.queue)
	return tag.RowsAffected(), err
}

// owned returns river.Config's Owned for the tables of a schema.
func owned(schema string) func(context.Context, riverdriver.ExecutorTx, string, []int64, []int) ([]int64, error) {
	return func(ctx context.Context, tx riverdriver.ExecutorTx, client string, ids []int64, attempts []int) (mine []int64, err error) {
		err = tx.QueryRow(ctx, `
			SELECT coalesce(array_agg(id), '{}') FROM (
				SELECT j.id FROM `+name(schema, "river_job")+` AS j JOIN unnest($1::bigint[], $2::bigint[]) AS w (id, attempt) ON j.id = w.id
				WHERE j.state = 'running' AND j.attempted_by[array_upper(j.attempted_by, 1)] = $3 AND w.attempt IN (0, j.attempt)
				ORDER BY j.id FOR UPDATE OF j) AS owned`, ids, attempts, client).Scan(&mine)
		return mine, err
	}
}

// findDead is river.Config's FindDead.
func findDead(ctx context.Context, pool *pgxpool.Pool, schema, queue, id string) (row int64, err error) {
	err = pool.QueryRow(ctx, `
		SELECT coalesce(max(id), 0) FROM `+name(schema, "river_job")+`
		WHERE state = 'discarded' AND queue = $1 AND args->>'id' = $2`, queue, id).Scan(&row)
	return row, err
}

// unreached reports whether nothing was sent to the database.
func unreached(err error) bool {
	var refused *pgconn.ConnectError
	return errors.As(err, &refused) || pgconn.SafeToRetry(err)
}

// Rescue skips rows that are locked: another worker is rescuing them, for example, or a
// transaction enqueues their Unique key. Waiting for them could last forever.
func (p *presence) Rescue(ctx context.Context, mine []int64) (jobs int64, err error) {
	tag, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+`
		SET state = CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'available' END::`+p.state+`,
			finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END,
			errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'error', 'the process ended while it ran', 'trace', '')),
			metadata = metadata || jsonb_build_object('tether_crashed', attempt, 'tether_pardoned',
				CASE WHEN jsonb_typeof(metadata->'tether_pardoned') = 'number' THEN (metadata->'tether_pardoned')::int ELSE 0 END
				+ CASE WHEN metadata->'tether_counted' = to_jsonb(attempt) THEN 0 ELSE 1 END)
		WHERE id IN (
			SELECT id FROM `+p.jobs+` AS j
			WHERE state = 'running' AND (kind = $1 OR attempted_by[array_upper(attempted_by, 1)] LIKE $5 || '%')
				AND coalesce(attempted_at, created_at) <= now() - make_interval(secs => $4)
				AND CASE WHEN attempted_by[array_upper(attempted_by, 1)] = $2
					THEN id <> ALL($3::bigint[])
					ELSE NOT EXISTS (SELECT FROM `+p.workers+` AS w
						WHERE w.id = j.attempted_by[array_upper(j.attempted_by, 1)] AND w.seen > now() - make_interval(secs => $4))
					END
				AND EXISTS (SELECT FROM `+p.workers+` AS w
					WHERE w.id = $2 AND w.since <= now() - make_interval(secs => $4) AND w.seen > now() - make_interval(secs => $4 / 2))
			ORDER BY id FOR UPDATE OF j SKIP LOCKED)`,
		river.Kind, p.id, mine, river.Silence.Seconds(), river.IDPrefix)
	return tag.RowsAffected(), err
}

// endTime limits how long End takes. If the row stays, the consumer is silent, which has the
// same effect later.
const endTime = 2 * time.Second

func (p *presence) End() {
	over := make(chan struct{})
	go func() {
		defer close(over)
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		defer cancel()
		if p.workers != "" {
			_, _ = p.own.Exec(ctx, `DELETE FROM `+p.workers+` WHERE id = $1`, p.id)
		}
		p.own.Close() // which waits for a connection that hangs
	}()
	select {
	case <-over:
	case <-time.After(endTime):
	}
}
