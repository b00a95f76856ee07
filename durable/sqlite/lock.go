package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gofrs/flock"
	"github.com/riverqueue/river/riverdriver"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// The invariant of the lock file: a consumer works only while it has the shared lock. So a
// consumer that has the exclusive lock knows that nothing runs, whatever the rows say. Each
// consumer opens the lock file itself, so that two in one process exclude each other as two
// processes do. The system releases the lock when the process ends.

// lockEvery is how often a lock that is taken is tried again.
const lockEvery = 10 * time.Millisecond

// workers creates the table of the consumers at work; see river.Presence. Times are Julian days.
const workers = `CREATE TABLE IF NOT EXISTS tether_worker (id TEXT PRIMARY KEY NOT NULL, since REAL NOT NULL, seen REAL NOT NULL)`

// presence is a consumer's shared lock and its row.
type presence struct {
	lock      *flock.Flock
	db        *sql.DB
	queue, id string
}

// enter takes the shared lock for a consumer. If no other consumer is at work, it first makes
// the jobs available that a crash has left running.
func enter(ctx context.Context, name string, db *sql.DB, queue, id string) (river.Presence, error) {
	lock := flock.New(name)
	alone, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("sqlite: lock %q: %w", name, err)
	}
	if alone {
		err := handBackAll(ctx, db)
		// The lock is released and taken again, since converting it would do the same. A consumer
		// that comes in between finds no job that runs.
		if err := errors.Join(err, lock.Unlock()); err != nil {
			return nil, fmt.Errorf("sqlite: hand back what a crash has left: %w", err)
		}
	}
	// Another consumer may have the exclusive lock for a moment.
	if _, err := lock.TryRLockContext(ctx, lockEvery); err != nil {
		return nil, fmt.Errorf("sqlite: lock %q: %w", name, errors.Join(err, lock.Close()))
	}
	// The rows of workers that were killed while others were at work.
	if _, err := db.ExecContext(ctx, `DELETE FROM tether_worker WHERE seen < julianday('now') - 1`); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &presence{lock, db, queue, id}, nil
}

// handBack makes running jobs available, as their next attempt, except those that River was
// asked to cancel. Of rows that no worker of this package has run, none is touched. The crash
// is written down as river.Presence says.
const handBack = `
	UPDATE river_job
	SET state = iif(json_extract(metadata, '$.cancel_attempted_at') IS NULL, 'available', 'cancelled'),
		finalized_at = iif(json_extract(metadata, '$.cancel_attempted_at') IS NULL, NULL, datetime('now', 'subsec')),
		errors = json_insert(coalesce(errors, json('[]')), '$[#]', json_object(
			'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'attempt', attempt, 'error', 'the process ended while it ran', 'trace', '')),
		metadata = jsonb_set(metadata, '$.tether_crashed', attempt, '$.tether_pardoned',
			coalesce(json_extract(metadata, '$.tether_pardoned'), 0) + iif(json_extract(metadata, '$.tether_counted') IS attempt, 0, 1))
	WHERE state = 'running' AND (kind = ?1 OR json_extract(attempted_by, '$[#-1]') LIKE ?2 || '%')`

// handBackAll makes all running jobs available, and removes the dead leader: until its term
// ends, no other would look after delayed jobs.
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

// Beat returns the program's time: the file is on the same machine.
func (p *presence) Beat(ctx context.Context) (now time.Time, err error) {
	_, err = p.db.ExecContext(ctx, `
		INSERT INTO tether_worker (id, since, seen) VALUES (?1, julianday('now', 'subsec'), julianday('now', 'subsec'))
		ON CONFLICT (id) DO UPDATE SET
			seen = excluded.seen,
			since = iif(seen BETWEEN excluded.seen - ?2 AND excluded.seen, since, excluded.since)`,
		p.id, silence/2)
	return time.Now(), err
}

func (p *presence) Count(ctx context.Context, id int64, attempt int) (mine bool, err error) {
	res, err := p.db.ExecContext(ctx, `
		UPDATE river_job SET metadata = jsonb_set(metadata, '$.tether_counted', attempt)
		WHERE id = ?1 AND attempt = ?2 AND state = 'running' AND json_extract(attempted_by, '$[#-1]') IS ?3`, id, attempt, p.id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

func (p *presence) Rewind(ctx context.Context) (jobs int64, err error) {
	res, err := p.db.ExecContext(ctx, `
		UPDATE river_job SET scheduled_at = datetime('now', 'subsec')
		WHERE state = 'available' AND queue = ?1 AND priority = 1 AND scheduled_at > datetime('now', 'subsec', '+10 seconds')
			AND json_extract(metadata, '$.tether_timed') IS NULL`, p.queue)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// owned is river.Config's Owned.
func owned(ctx context.Context, tx riverdriver.ExecutorTx, client string, ids []int64, attempts []int) (mine []int64, err error) {
	wanted := make([][2]int64, len(ids))
	for i, id := range ids {
		wanted[i] = [2]int64{id, int64(attempts[i])}
	}
	encoded, err := json.Marshal(wanted)
	if err != nil {
		return nil, err
	}
	var found string
	err = tx.QueryRow(ctx, `
		SELECT json_group_array(j.id)
		FROM json_each(?1) AS w CROSS JOIN river_job AS j ON j.id = json_extract(w.value, '$[0]')
		WHERE j.state = 'running' AND json_extract(j.attempted_by, '$[#-1]') IS ?2
			AND json_extract(w.value, '$[1]') IN (0, j.attempt)`, string(encoded), client).Scan(&found)
	if err != nil {
		return nil, err
	}
	return mine, json.Unmarshal([]byte(found), &mine)
}

// findDead is river.Config's FindDead.
func findDead(ctx context.Context, db *sql.DB, queue, id string) (row int64, err error) {
	err = db.QueryRowContext(ctx, `
		SELECT coalesce(max(id), 0) FROM river_job
		WHERE state = 'discarded' AND queue = ?1 AND json_extract(args, '$.id') = ?2`, queue, id).Scan(&row)
	return row, err
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

// endTime limits how long End takes. If the row stays, the consumer is silent, which has the
// same effect later.
const endTime = 2 * time.Second

func (p *presence) End() {
	_ = p.lock.Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		// A context would not end its wait for another transaction.
		_, _ = p.db.Exec(`DELETE FROM tether_worker WHERE id = ?`, p.id)
	}()
	select {
	case <-over:
	case <-time.After(endTime):
	}
}
