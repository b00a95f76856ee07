package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// recordTables creates the tables of a [Store]. Times are seconds since 1970.
const recordTables = `
	CREATE TABLE IF NOT EXISTS tether_record (key TEXT PRIMARY KEY NOT NULL, tag TEXT NOT NULL, owner TEXT NOT NULL, asked INTEGER NOT NULL,
		version INTEGER NOT NULL, data BLOB NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
	CREATE INDEX IF NOT EXISTS tether_record_until ON tether_record (until);
	CREATE INDEX IF NOT EXISTS tether_record_asked ON tether_record (owner) WHERE asked;
	CREATE TABLE IF NOT EXISTS tether_lease (owner TEXT PRIMARY KEY NOT NULL, until REAL NOT NULL)`

const now = `unixepoch('now', 'subsec')`

// Store is a store for the status of tasks and for Idempotency-Keys, in the engine's file: see
// tetherhttp.NewStore. The replicas are processes on one host. Its tables are tether_record and
// tether_lease. It has connections of its own: one that writes, and some that read.
//
// SQLite has one writer at a time. A transaction of the program that is open for longer than
// a few seconds makes the store unavailable to all replicas, and then their tasks are lost.
type Store struct {
	read, write *sql.DB
	path        string // of the file

	mu    sync.Mutex
	swept time.Time // when expired records were removed last; guarded by mu
	poll  *sql.Stmt // selects one record; nil before the first call of Get; guarded by mu
}

var _ store.Backend = (*Store)(nil)

// Store returns the store of the engine's file. [Engine.Close] closes it.
func (e *Engine) Store() *Store { return e.store }

// storeReaders is how many calls of Get read the file at once.
const storeReaders = 4

// openStore opens connections, when they are needed.
func openStore(path string) (*Store, error) {
	// SQLite's own wait cannot be interrupted: waiting is done by retry.
	name := strings.Replace(dsn(path), "busy_timeout%2810000%29", "busy_timeout%28100%29", 1)
	write, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read.SetMaxOpenConns(storeReaders)
	read.SetMaxIdleConns(storeReaders)
	return &Store{read: read, write: write, path: path}, nil
}

func (s *Store) close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// retry calls f until the file is not busy, or ctx is done.
func retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(busyWait):
		}
	}
}

const busyWait = 10 * time.Millisecond

// Get implements [store.Backend].
func (s *Store) Get(ctx context.Context, keys ...string) (found []store.Record, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	args := make([]any, len(keys))
	for i, key := range keys {
		args[i] = key
	}
	err = retry(ctx, func() error {
		found = nil
		rows, err := s.selectRecords(ctx, args)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // Err has reported any error
		for rows.Next() {
			var r store.Record
			if err := rows.Scan(&r.Key, &r.Tag, &r.Owner, &r.Asked, &r.Version, &r.Data, &r.Orphaned); err != nil {
				return err
			}
			found = append(found, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// selectRecords selects the records with these keys.
func (s *Store) selectRecords(ctx context.Context, keys []any) (*sql.Rows, error) {
	query := `
		SELECT key, tag, owner, asked, version, data,
			owner <> '' AND NOT EXISTS (SELECT 1 FROM tether_lease AS l WHERE l.owner = r.owner AND l.until > ` + now + `)
		FROM tether_record AS r WHERE key IN (?` + strings.Repeat(", ?", len(keys)-1) + `) AND until > ` + now
	if len(keys) > 1 {
		return s.read.QueryContext(ctx, query, keys...)
	}
	s.mu.Lock()
	poll := s.poll
	s.mu.Unlock()
	if poll == nil {
		prepared, err := s.read.PrepareContext(ctx, query) // half of the cost of a poll
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if poll = s.poll; poll == nil {
			poll, s.poll = prepared, prepared
		}
		s.mu.Unlock()
		if poll != prepared {
			_ = prepared.Close() // another call was faster
		}
	}
	return poll.QueryContext(ctx, keys...)
}

// Swap implements [store.Backend].
func (s *Store) Swap(ctx context.Context, was string, r store.Record) error {
	if r.Data == nil {
		r.Data = []byte{} // nil is NULL
	}
	if was == "" {
		return s.change(ctx, `
			INSERT INTO tether_record AS r (key, tag, owner, asked, version, data, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, `+now+` + ?7)
			ON CONFLICT (key) DO UPDATE SET tag = excluded.tag, owner = excluded.owner, asked = excluded.asked, version = excluded.version,
				data = excluded.data, until = excluded.until
			WHERE r.until <= `+now, r.Key, r.Tag, r.Owner, r.Asked, r.Version, r.Data, r.Keep.Seconds())
	}
	return s.change(ctx, `
		UPDATE tether_record SET tag = ?2, owner = ?3, asked = ?4, version = ?5, data = ?6, until = `+now+` + ?7
		WHERE key = ?1 AND tag = ?8 AND until > `+now, r.Key, r.Tag, r.Owner, r.Asked, r.Version, r.Data, r.Keep.Seconds(), was)
}

// insert stores a record that is new, in a transaction of the file, if b is a store of it.
func (s *Store) insert(ctx context.Context, tx *sql.Tx, b store.Backend, r store.Record) error {
	if other, ok := b.(*Store); !ok || other.path != s.path {
		return fmt.Errorf("%w: the store is not that of the transaction's file", durable.ErrUnsupported)
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO tether_record (key, tag, owner, asked, version, data, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, `+now+` + ?7)`,
		r.Key, r.Tag, r.Owner, r.Asked, r.Version, r.Data, r.Keep.Seconds())
	return err
}

// Delete implements [store.Backend].
func (s *Store) Delete(ctx context.Context, key, was string) error {
	return s.change(ctx, `DELETE FROM tether_record WHERE key = ? AND tag = ? AND until > `+now, key, was)
}

// change executes a command that changes one record, or none.
func (s *Store) change(ctx context.Context, command string, args ...any) error {
	return retry(ctx, func() error {
		result, err := s.write.ExecContext(ctx, command, args...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); n != 0 || err != nil {
			return err
		}
		return store.ErrConflict
	})
}

// Renew implements [store.Backend]. It also removes what has expired.
func (s *Store) Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error) {
	err = s.change(ctx, `INSERT INTO tether_lease (owner, until) VALUES (?1, `+now+` + ?2)
		ON CONFLICT (owner) DO UPDATE SET until = excluded.until`, owner, lease.Seconds())
	if err != nil {
		return nil, err
	}
	err = retry(ctx, func() error {
		asked = nil
		rows, err := s.read.QueryContext(ctx, `SELECT key FROM tether_record WHERE owner = ? AND asked AND until > `+now, owner)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // Err has reported any error
		for rows.Next() {
			var key string
			if err := rows.Scan(&key); err != nil {
				return err
			}
			asked = append(asked, key)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	s.sweep(ctx)
	return asked, nil
}

// Expired records are removed so many at once, and so often by each process.
const (
	sweepAtOnce = 1000
	sweepEvery  = time.Minute
)

// sweep removes expired records. If it fails, a later one does it.
func (s *Store) sweep(ctx context.Context) {
	s.mu.Lock()
	due := time.Since(s.swept) >= sweepEvery
	if due {
		s.swept = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return
	}
	result, err := s.write.ExecContext(ctx, `DELETE FROM tether_record WHERE key IN (
		SELECT key FROM tether_record WHERE until <= `+now+` ORDER BY until LIMIT ?)`, sweepAtOnce)
	if err != nil {
		return
	}
	if n, err := result.RowsAffected(); err == nil && n == sweepAtOnce { // there may be more
		s.mu.Lock()
		s.swept = time.Time{}
		s.mu.Unlock()
	}
	_, _ = s.write.ExecContext(ctx, `DELETE FROM tether_lease WHERE until < `+now+` - 86400`)
}
