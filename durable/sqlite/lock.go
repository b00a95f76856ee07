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

// The invariant of the lock file: jobs are run under its shared lock alone, and what a crash
// has left is handed back under its exclusive one alone. So a job that is handed back is
// not running. Each consumer has the file opened by itself, so that two of one process
// exclude each other as two processes do, and the system drops the lock with the process.

// lockEvery is how often a lock that another has is tried again.
const lockEvery = 10 * time.Millisecond

// presence is a consumer, by its shared lock.
type presence struct {
	lock *flock.Flock
	db   *sql.DB
}

// enter takes the shared lock for a consumer. If nobody is at work, it first hands back what
// a crash has left.
func enter(ctx context.Context, name string, db *sql.DB) (river.Presence, error) {
	lock := flock.New(name)
	alone, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("sqlite: lock %q: %w", name, err)
	}
	if alone {
		err := recoverAll(ctx, db)
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
	return &presence{lock, db}, nil
}

// recoverAll makes each job that seems to run available, as its next attempt, and removes the
// leader, without whom nobody would look after delayed jobs until its term is over.
func recoverAll(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := handBack(ctx, tx, 0); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM river_leader WHERE leader_id LIKE ?`, river.IDPrefix+"%"); err != nil {
		return err
	}
	return tx.Commit()
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// handBack makes the jobs available that seem to run and were not said to be alive for that
// long; with 0 all of them. The + keeps SQLite from the index of the kind, which is that of
// all jobs.
func handBack(ctx context.Context, db execer, silence time.Duration) (jobs int64, err error) {
	res, err := db.ExecContext(ctx, `
		UPDATE river_job
		SET state = 'available',
			errors = json_insert(coalesce(errors, json('[]')), '$[#]', json_object(
				'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'attempt', attempt, 'error', 'the worker has crashed', 'trace', ''))
		WHERE state = 'running' AND +kind = ?1 AND (?2 = 0 OR julianday(attempted_at) <= julianday('now', 'subsec', -?2 || ' seconds'))`,
		river.Kind, silence.Seconds())
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (p *presence) Alive(ctx context.Context, jobs []int64) error {
	ids, err := json.Marshal(jobs)
	if err != nil {
		return err
	}
	_, err = p.db.ExecContext(ctx, `
		UPDATE river_job SET attempted_at = datetime('now', 'subsec')
		WHERE state = 'running' AND id IN (SELECT value FROM json_each(?))`, string(ids))
	return err
}

func (p *presence) Rescue(ctx context.Context, silence time.Duration) (int64, error) {
	return handBack(ctx, p.db, silence)
}

func (p *presence) End() { _ = p.lock.Close() }
