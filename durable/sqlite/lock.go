package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gofrs/flock"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// The invariant of the lock file: consumers are at work under its shared lock alone. So who
// has the exclusive one knows that nothing runs, whatever the file says. Each consumer has it
// opened by itself, so that two of one process exclude each other as two processes do, and
// the system drops the lock with the process.

// lockEvery is how often a lock that another has is tried again.
const lockEvery = 10 * time.Millisecond

// workers is the table of those that are at work; see river.Presence. Times are julian days.
const workers = `CREATE TABLE IF NOT EXISTS tether_worker (id TEXT PRIMARY KEY NOT NULL, since REAL NOT NULL, seen REAL NOT NULL)`

// presence is a consumer, by its shared lock and its row.
type presence struct {
	lock *flock.Flock
	db   *sql.DB
	id   string
}

// enter takes the shared lock for a consumer. If nobody is at work, it first hands back what
// a crash has left.
func enter(ctx context.Context, name string, db *sql.DB, id string) (river.Presence, error) {
	lock := flock.New(name)
	alone, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("sqlite: lock %q: %w", name, err)
	}
	if alone {
		err := handBackAll(ctx, db)
		// Not converted: that would release it as well. Who comes in between finds nothing that
		// runs, as nothing does.
		if err := errors.Join(err, lock.Unlock()); err != nil {
			return nil, fmt.Errorf("sqlite: hand back what a crash has left: %w", err)
		}
	}
	// Others may have it exclusively, for a moment.
	if _, err := lock.TryRLockContext(ctx, lockEvery); err != nil {
		return nil, fmt.Errorf("sqlite: lock %q: %w", name, errors.Join(err, lock.Close()))
	}
	// Of workers that were killed while others were at work.
	if _, err := db.ExecContext(ctx, `DELETE FROM tether_worker WHERE seen < julianday('now') - 1`); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &presence{lock, db, id}, nil
}

// handBack makes running jobs available, as their next attempt, unless somebody has asked
// River to cancel them. Of rows that no worker of this package has run, none is touched.
const handBack = `
	UPDATE river_job
	SET state = iif(json_extract(metadata, '$.cancel_attempted_at') IS NULL, 'available', 'cancelled'),
		finalized_at = iif(json_extract(metadata, '$.cancel_attempted_at') IS NULL, NULL, datetime('now', 'subsec')),
		errors = json_insert(coalesce(errors, json('[]')), '$[#]', json_object(
			'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'attempt', attempt, 'error', 'the worker has crashed', 'trace', ''))
	WHERE state = 'running' AND (kind = ?1 OR json_extract(attempted_by, '$[#-1]') LIKE ?2 || '%')`

// handBackAll hands all back, and removes the leader, without whom nobody would look after
// delayed jobs until its term is over.
func handBackAll(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, handBack, river.Kind, river.IDPrefix); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM tether_worker`); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM river_leader WHERE leader_id LIKE ?`, river.IDPrefix+"%"); err != nil {
		return err
	}
	return tx.Commit()
}

// silence is river.Silence in days.
const silence = float64(river.Silence) / float64(24*time.Hour)

func (p *presence) Beat(ctx context.Context) error {
	_, err := p.db.ExecContext(ctx, `
		INSERT INTO tether_worker (id, since, seen) VALUES (?1, julianday('now', 'subsec'), julianday('now', 'subsec'))
		ON CONFLICT (id) DO UPDATE SET
			seen = excluded.seen,
			since = iif(seen BETWEEN excluded.seen - ?2 AND excluded.seen, since, excluded.since)`,
		p.id, silence/2)
	return err
}

func (p *presence) Rescue(ctx context.Context, mine []int64) (jobs int64, err error) {
	ids, err := json.Marshal(mine)
	if err != nil {
		return 0, err
	}
	res, err := p.db.ExecContext(ctx, handBack+`
		AND julianday(coalesce(attempted_at, created_at)) <= julianday('now', 'subsec') - ?4
		AND iif(json_extract(attempted_by, '$[#-1]') IS ?3,
			id NOT IN (SELECT value FROM json_each(?5)),
			NOT EXISTS (SELECT 1 FROM tether_worker WHERE id = json_extract(attempted_by, '$[#-1]') AND seen > julianday('now', 'subsec') - ?4))
		AND EXISTS (SELECT 1 FROM tether_worker WHERE id = ?3 AND since <= julianday('now', 'subsec') - ?4 AND seen > julianday('now', 'subsec') - ?4 / 2)`,
		river.Kind, river.IDPrefix, p.id, silence, string(ids))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// endTime bounds what is a courtesy: who is silent is gone, too.
const endTime = 2 * time.Second

func (p *presence) End() {
	_ = p.lock.Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		// It waits for the transaction of another, whatever a context says.
		_, _ = p.db.Exec(`DELETE FROM tether_worker WHERE id = ?`, p.id)
	}()
	select {
	case <-over:
	case <-time.After(endTime):
	}
}
