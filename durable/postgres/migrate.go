package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Open has no context, so its waits have limits here.
const (
	reachTime   = 15 * time.Second // to see what is there
	migrateTime = 10 * time.Minute // another process's migration included
)

// migrate brings River's tables up to date. If several processes do so at once, one migrates
// and the others wait for it.
func migrate(pool *pgxpool.Pool, schema string) error {
	if done, err := migrated(pool, schema); done || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), migrateTime)
	defer cancel()
	// One connection holds the lock while the other migrates.
	own, err := pgxpool.NewWithConfig(ctx, beside(pool))
	if err != nil {
		return err
	}
	defer own.Close()
	return pgx.BeginFunc(ctx, own, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return err
		}
		// The lock is the transaction's, since a session may be another one behind a pooler.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('tether durable ' || $1, 0))`, schema); err != nil {
			return err
		}
		if schema != "" {
			if err := createSchema(ctx, own, schema); err != nil {
				return err
			}
		}
		m, err := rivermigrate.New(riverpgxv5.New(own), config(schema))
		if err != nil {
			return err
		}
		if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		at, err := home(ctx, tx, schema)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+name(at, "tether_worker")+` (id text PRIMARY KEY, since timestamptz NOT NULL, seen timestamptz NOT NULL)`); err != nil {
			return fmt.Errorf("table tether_worker: %w", err)
		}
		if _, err = tx.Exec(ctx, recordTables(at), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("tables tether_record and tether_lease: %w", err)
		}
		return nil
	})
}

// beside returns the configuration of a pool of two connections like the caller's, whose own
// pool may have none to spare.
func beside(pool *pgxpool.Pool) *pgxpool.Config {
	cfg := pool.Config()
	cfg.MinConns, cfg.MinIdleConns, cfg.MaxConns = 0, 0, 2
	return cfg
}

// migrated reports whether there is nothing to do, as at nearly every start.
func migrated(pool *pgxpool.Pool, schema string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	m, err := rivermigrate.New(riverpgxv5.New(pool), config(schema))
	if err != nil {
		return false, err
	}
	if err := pool.Ping(ctx); err != nil {
		return false, err
	}
	at, err := home(ctx, pool, schema)
	if err != nil || at == "" {
		return false, err
	}
	var ours bool
	if err := pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL`,
		name(at, "tether_worker"), name(at, "tether_lease")).Scan(&ours); err != nil || !ours {
		return false, err
	}
	existing, err := m.ExistingVersions(ctx)
	// The error may be that a newer program has migrated further, which does not matter.
	return err == nil && len(existing) == len(m.AllVersions()), nil
}

// config makes River log nothing: what matters is in the error.
func config(schema string) *rivermigrate.Config {
	return &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)}
}

// createSchema looks first, because IF NOT EXISTS needs the right to create in any case.
func createSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	var exists bool
	if err := pool.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, schema).Scan(&exists); err != nil || exists {
		return err
	}
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return fmt.Errorf("schema %q: %w", schema, err)
	}
	return nil
}
