package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// recordTables creates the tables of a [Store].
func recordTables(schema string) string {
	records, leases := name(schema, "tether_record"), name(schema, "tether_lease")
	return `
		CREATE TABLE IF NOT EXISTS ` + records + ` (key text PRIMARY KEY, tag text NOT NULL, owner text NOT NULL, asked boolean NOT NULL,
			version integer NOT NULL, data bytea NOT NULL, until timestamptz NOT NULL);
		CREATE INDEX IF NOT EXISTS tether_record_until ON ` + records + ` (until);
		CREATE INDEX IF NOT EXISTS tether_record_asked ON ` + records + ` (owner) WHERE asked;
		CREATE TABLE IF NOT EXISTS ` + leases + ` (owner text PRIMARY KEY, until timestamptz NOT NULL)`
}

// Store is a store for the status of tasks and for Idempotency-Keys, in the engine's database:
// see tetherhttp.NewStore. Its tables are tether_record and tether_lease. It has up to four
// connections of its own, like those of the engine's pool, which handlers cannot keep busy.
type Store struct {
	engine *Engine

	mu      sync.Mutex
	own     *pgxpool.Pool // nil before the first call; guarded by mu
	closed  bool          // guarded by mu
	records string        // the table, with its schema; "" until it is known; guarded by mu
	leases  string        // as records
	swept   time.Time     // when expired records were removed last; guarded by mu
}

var _ store.Backend = (*Store)(nil)

// Store returns the store of the engine's database. [Engine.Close] closes it.
func (e *Engine) Store() *Store { return e.store }

// storeConnections is how many connections a store has.
const storeConnections = 4

// ready returns the store's connections and tables.
func (s *Store) ready(ctx context.Context) (db *pgxpool.Pool, records, leases string, err error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, "", "", fmt.Errorf("postgres: the engine was closed")
	}
	if s.own == nil {
		cfg := beside(s.engine.pool)
		cfg.MaxConns = storeConnections
		if c := cfg.ConnConfig; c.ConnectTimeout <= 0 || c.ConnectTimeout > connectTime {
			c.ConnectTimeout = connectTime
		}
		if s.own, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg); err != nil { // it does not connect
			s.mu.Unlock()
			return nil, "", "", err
		}
	}
	db, records, leases = s.own, s.records, s.leases
	s.mu.Unlock()
	if records != "" {
		return db, records, leases, nil
	}
	at, err := home(ctx, db, s.engine.schema)
	if err != nil {
		return nil, "", "", err
	}
	records, leases = name(at, "tether_record"), name(at, "tether_lease")
	s.mu.Lock()
	s.records, s.leases = records, leases
	s.mu.Unlock()
	return db, records, leases, nil
}

func (s *Store) close() {
	s.mu.Lock()
	own := s.own
	s.own, s.closed = nil, true
	s.mu.Unlock()
	if own == nil {
		return
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		own.Close() // which waits for a connection that hangs
	}()
	select {
	case <-over:
	case <-time.After(endTime):
	}
}

// Get implements [store.Backend].
func (s *Store) Get(ctx context.Context, keys ...string) ([]store.Record, error) {
	db, records, leases, err := s.ready(ctx)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	rows, err := db.Query(ctx, `
		SELECT key, tag, owner, asked, version, data,
			owner <> '' AND NOT EXISTS (SELECT FROM `+leases+` AS l WHERE l.owner = r.owner AND l.until > now())
		FROM `+records+` AS r WHERE key = ANY($1) AND until > now()`, keys)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r store.Record, err error) {
		return r, row.Scan(&r.Key, &r.Tag, &r.Owner, &r.Asked, &r.Version, &r.Data, &r.Orphaned)
	})
}

// Swap implements [store.Backend].
func (s *Store) Swap(ctx context.Context, was string, r store.Record) error {
	db, records, _, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if r.Data == nil {
		r.Data = []byte{} // nil is NULL
	}
	args := []any{r.Key, r.Tag, r.Owner, r.Asked, r.Version, r.Data, r.Keep.Seconds()}
	command := `
		INSERT INTO ` + records + ` AS r (key, tag, owner, asked, version, data, until)
		VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
		ON CONFLICT (key) DO UPDATE SET tag = excluded.tag, owner = excluded.owner, asked = excluded.asked, version = excluded.version,
			data = excluded.data, until = excluded.until
		WHERE r.until <= now()`
	if was != "" {
		command = `
			UPDATE ` + records + ` SET tag = $2, owner = $3, asked = $4, version = $5, data = $6, until = now() + make_interval(secs => $7)
			WHERE key = $1 AND tag = $8 AND until > now()`
		args = append(args, was)
	}
	tag, err := db.Exec(ctx, command, args...)
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrConflict
	}
	return err
}

// insert stores a record that is new, in a transaction of the database, if b is a store of it.
func (s *Store) insert(ctx context.Context, tx pgx.Tx, b store.Backend, r store.Record) error {
	if other, ok := b.(*Store); !ok || other != s && (other.engine.pool != s.engine.pool || other.engine.schema != s.engine.schema) {
		return fmt.Errorf("%w: the store is not that of the transaction's engine", durable.ErrUnsupported)
	}
	_, records, _, err := s.ready(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO `+records+` (key, tag, owner, asked, version, data, until)
		VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))`, r.Key, r.Tag, r.Owner, r.Asked, r.Version, r.Data, r.Keep.Seconds())
	return err
}

// Delete implements [store.Backend].
func (s *Store) Delete(ctx context.Context, key, was string) error {
	db, records, _, err := s.ready(ctx)
	if err != nil {
		return err
	}
	tag, err := db.Exec(ctx, `DELETE FROM `+records+` WHERE key = $1 AND tag = $2 AND until > now()`, key, was)
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrConflict
	}
	return err
}

// Renew implements [store.Backend]. It also removes what has expired.
func (s *Store) Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error) {
	db, records, leases, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := db.Query(ctx, `
		WITH renewed AS (
			INSERT INTO `+leases+` (owner, until) VALUES ($1, now() + make_interval(secs => $2))
			ON CONFLICT (owner) DO UPDATE SET until = excluded.until)
		SELECT key FROM `+records+` WHERE owner = $1 AND asked AND until > now()`, owner, lease.Seconds())
	if err != nil {
		return nil, err
	}
	if asked, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
		s.sweep(ctx, db, records, leases)
	}
	return asked, err
}

// Expired records are removed so many at once, and so often by each process.
const (
	sweepAtOnce = 1000
	sweepEvery  = time.Minute
)

// sweep removes expired records. If it fails, a later one does it.
func (s *Store) sweep(ctx context.Context, db *pgxpool.Pool, records, leases string) {
	s.mu.Lock()
	due := time.Since(s.swept) >= sweepEvery
	if due {
		s.swept = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return
	}
	tag, err := db.Exec(ctx, `
		DELETE FROM `+records+` WHERE key IN (
			SELECT key FROM `+records+` WHERE until <= now() ORDER BY until LIMIT $1 FOR UPDATE SKIP LOCKED)`, sweepAtOnce)
	if err != nil {
		return
	}
	if tag.RowsAffected() == sweepAtOnce { // there may be more
		s.mu.Lock()
		s.swept = time.Time{}
		s.mu.Unlock()
	}
	_, _ = db.Exec(ctx, `DELETE FROM `+leases+` WHERE until < now() - interval '`+forgetAfter+`'`)
}
