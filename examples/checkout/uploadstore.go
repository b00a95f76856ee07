package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Uploads in the store.

// upload finds an upload of a kind; errNoRow if there is none.
func (s *store) upload(ctx context.Context, kind uploadKind, id string) (*upload, error) {
	var (
		u       = upload{ID: id, Kind: kind}
		created int64
	)
	err := s.read.QueryRowContext(ctx, `SELECT task, format, width, weight, size, created, state, reason, at, line, rows, bad_rows
		FROM uploads WHERE id = ? AND kind = ?`, id, kind).
		Scan(&u.Task, &u.Format, &u.Width, &u.Weight, &u.Size, &created, &u.State, &u.Reason, &u.At, &u.Line, &u.Rows, &u.BadRows)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoRow
	}
	if err != nil {
		return nil, fmt.Errorf("read upload: %w", err)
	}
	u.Created = time.UnixMilli(created)
	return &u, nil
}

// insertUpload stores an upload that a member works on.
func (s *store) insertUpload(ctx context.Context, u *upload, holder string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO uploads (id, kind, task, format, width, weight, size, created, holder) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			u.ID, u.Kind, u.Task, u.Format, u.Width, u.Weight, u.Size, u.Created.UnixMilli(), holder)
		if err != nil {
			return fmt.Errorf("store upload: %w", err)
		}
		return nil
	})
}

// holdUploads gives a member the pending uploads that none of the members in atWork holds.
func (s *store) holdUploads(ctx context.Context, holder string, atWork []string) error {
	names, err := json.Marshal(append([]string{}, atWork...))
	if err != nil {
		return fmt.Errorf("hold uploads: %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE uploads SET holder = ? WHERE state = 'pending'
			AND holder NOT IN (SELECT value FROM json_each(?))`, holder, string(names)); err != nil {
			return fmt.Errorf("hold uploads: %w", err)
		}
		return nil
	})
}

// pendingUploads lists the uploads of a member that are accepted and not done, oldest first,
// or of all members if holder is empty. There are no more of them than the pools can hold.
func (s *store) pendingUploads(ctx context.Context, holder string) ([]*upload, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, kind, weight FROM uploads
		WHERE state = 'pending' AND (? = '' OR holder = ?) ORDER BY created`, holder, holder)
	if err != nil {
		return nil, fmt.Errorf("list uploads: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err has reported any error
	var pending []*upload
	for rows.Next() {
		var u upload
		if err := rows.Scan(&u.ID, &u.Kind, &u.Weight); err != nil {
			return nil, fmt.Errorf("list uploads: %w", err)
		}
		pending = append(pending, &u)
	}
	return pending, rows.Err()
}

// handUpload records the task that works on an upload now.
func (s *store) handUpload(ctx context.Context, id, task string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE uploads SET task = ? WHERE id = ?`, task, id); err != nil {
			return fmt.Errorf("hand upload on: %w", err)
		}
		return nil
	})
}

func (s *store) endUpload(ctx context.Context, id string, state uploadState, reason string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE uploads SET state = ?, reason = ? WHERE id = ? AND state = 'pending'`, state, reason, id)
		if err != nil {
			return fmt.Errorf("end upload: %w", err)
		}
		return nil
	})
}

// saveRows stores a batch of an import and its position, in one commit: a restart neither
// loses a row nor imports one twice.
func (s *store) saveRows(ctx context.Context, u *upload, products []product, bad []badRow) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		insert, err := tx.Prepare(`INSERT INTO products (sku, name, quantity, price_cents) VALUES (?, ?, ?, ?)
			ON CONFLICT (sku) DO UPDATE SET name = excluded.name, quantity = excluded.quantity, price_cents = excluded.price_cents`)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		defer func() { _ = insert.Close() }() // the Tx ends it anyway
		for _, p := range products {
			if _, err := insert.Exec(p.sku, p.name, p.quantity, p.priceCents); err != nil {
				return fmt.Errorf("import: %w", err)
			}
		}
		for _, b := range bad {
			if _, err := tx.Exec(`INSERT INTO bad_rows (upload, line, reason) VALUES (?, ?, ?)`, u.ID, b.line, b.reason); err != nil {
				return fmt.Errorf("import: %w", err)
			}
		}
		_, err = tx.Exec(`UPDATE uploads SET at = ?, line = ?, rows = ?, bad_rows = ? WHERE id = ?`, u.At, u.Line, u.Rows, u.BadRows, u.ID)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		return nil
	})
}

// badRows lists the reported bad rows of an import, in the file's order.
func (s *store) badRows(ctx context.Context, id string) ([]badRow, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT line, reason FROM bad_rows WHERE upload = ? ORDER BY line`, id)
	if err != nil {
		return nil, fmt.Errorf("list bad rows: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err has reported any error
	bad := []badRow{}
	for rows.Next() {
		var b badRow
		if err := rows.Scan(&b.line, &b.reason); err != nil {
			return nil, fmt.Errorf("list bad rows: %w", err)
		}
		bad = append(bad, b)
	}
	return bad, rows.Err()
}
