package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// presence is a consumer, by its row in tether_worker and a connection of its own, which no
// handler can be in the way of.
type presence struct {
	own           *pgxpool.Pool
	id            string
	jobs, workers string // the tables
	state         string // the type of a job's state
}

// connectTime bounds an attempt to connect: a network that swallows everything must not
// make a worker silent for longer than it is away.
const connectTime = 5 * time.Second

// forgetAfter is how long the row of a worker that was killed is kept.
const forgetAfter = "1 day"

func enter(ctx context.Context, pool *pgxpool.Pool, schema, id string) (river.Presence, error) {
	cfg := beside(pool) // one of them may hang
	if c := cfg.ConnConfig; c.ConnectTimeout <= 0 || c.ConnectTimeout > connectTime {
		c.ConnectTimeout = connectTime
	}
	own, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p := &presence{own: own, id: id}
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

// home returns the schema where River's tables are; "" if there are none. Workers must have
// their table there, wherever else the search_path leads: those who share jobs share it.
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

func (p *presence) Beat(ctx context.Context) error {
	_, err := p.own.Exec(ctx, `
		INSERT INTO `+p.workers+` AS w (id, since, seen) VALUES ($1, now(), now())
		ON CONFLICT (id) DO UPDATE SET
			seen = now(),
			since = CASE WHEN w.seen BETWEEN now() - make_interval(secs => $2) AND now() THEN w.since ELSE now() END`,
		p.id, (river.Silence / 2).Seconds())
	return err
}

// Rescue leaves jobs to somebody who has locked them: they are just being rescued, say, or
// a transaction enqueues their Unique key. Who waited could do so for ever.
func (p *presence) Rescue(ctx context.Context, mine []int64) (jobs int64, err error) {
	tag, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+`
		SET state = CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'available' END::`+p.state+`,
			finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END,
			errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'error', 'the worker has crashed', 'trace', ''))
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

// endTime bounds what is a courtesy: who is silent is gone, too.
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
