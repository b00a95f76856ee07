package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// presence is a consumer, by a connection of its own.
type presence struct {
	own  *pgxpool.Pool
	jobs string // the table
}

func enter(ctx context.Context, pool *pgxpool.Pool, schema string) (river.Presence, error) {
	own, err := beside(ctx, pool, 1)
	if err != nil {
		return nil, err
	}
	table := pgx.Identifier{"river_job"}
	if schema != "" {
		table = pgx.Identifier{schema, "river_job"}
	}
	return &presence{own, table.Sanitize()}, nil
}

// Rows that somebody else has locked are left out, in both: their job is just being ended,
// or rescued. Who waited for them could do so for ever.

func (p *presence) Alive(ctx context.Context, jobs []int64) error {
	_, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+` SET attempted_at = now()
		WHERE id IN (
			SELECT id FROM `+p.jobs+` WHERE state = 'running' AND id = ANY($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED)`, jobs)
	return err
}

func (p *presence) Rescue(ctx context.Context, silence time.Duration) (int64, error) {
	tag, err := p.own.Exec(ctx, `
		UPDATE `+p.jobs+`
		SET state = 'available',
			errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'error', 'the worker has crashed', 'trace', ''))
		WHERE id IN (
			SELECT id FROM `+p.jobs+`
			WHERE state = 'running' AND kind = $1 AND attempted_at <= now() - make_interval(secs => $2)
			ORDER BY id FOR UPDATE SKIP LOCKED)`, river.Kind, silence.Seconds())
	return tag.RowsAffected(), err
}

func (p *presence) End() { p.own.Close() }
