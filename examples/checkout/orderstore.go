package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Orders in the store. Each change of state names the state that it expects, so
// that work done twice (a crash between two steps, a resumed task) changes nothing
// the second time.

const selectOrder = `SELECT seq, id, click, fingerprint, customer, lines, created, state, reason,
	stocked, webhook, attempts, webhook_reason FROM orders `

type scanner interface{ Scan(dest ...any) error }

func scanOrder(row scanner) (*order, error) {
	var (
		o       order
		click   sql.NullString
		lines   []byte
		created int64
	)
	err := row.Scan(&o.Seq, &o.ID, &click, &o.fingerprint, &o.Customer, &lines, &created, &o.State, &o.Reason,
		&o.stocked, &o.Webhook.State, &o.Webhook.Attempts, &o.Webhook.Reason)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoRow
	}
	if err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	if err := json.Unmarshal(lines, &o.Lines); err != nil {
		return nil, fmt.Errorf("read order %s: lines: %w", o.ID, err)
	}
	o.click, o.Created = click.String, time.UnixMilli(created)
	return &o, nil
}

// order finds an order by its id; errNoRow if there is none.
func (s *store) order(ctx context.Context, id string) (*order, error) {
	return scanOrder(s.read.QueryRowContext(ctx, selectOrder+`WHERE id = ?`, id))
}

// orderByClick finds the latest order of a click; errNoRow if there is none.
func (s *store) orderByClick(ctx context.Context, click string) (*order, error) {
	return scanOrder(s.read.QueryRowContext(ctx, selectOrder+`WHERE click = ?`, click))
}

// pendingOrders lists up to limit ids of pending orders with after < seq <= last,
// oldest first, and the seq of the last of them.
func (s *store) pendingOrders(ctx context.Context, after, last int64, limit int) (ids []string, seq int64, err error) {
	rows, err := s.read.QueryContext(ctx,
		`SELECT seq, id FROM orders WHERE state = 'pending' AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?`, after, last, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("list pending orders: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err has reported any error
	for rows.Next() {
		var id string
		if err := rows.Scan(&seq, &id); err != nil {
			return nil, 0, fmt.Errorf("list pending orders: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, seq, rows.Err()
}

// lastOrder is the seq of the newest order, 0 before the first.
func (s *store) lastOrder(ctx context.Context) (seq int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM orders`).Scan(&seq)
	return seq, err
}

// tally counts the orders of each state, and the webhooks that are not delivered yet.
type tally struct{ Pending, Invoiced, Failed, Undelivered int }

func (s *store) tally(ctx context.Context) (t tally, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT
		count(*) FILTER (WHERE state = 'pending'),
		count(*) FILTER (WHERE state = 'invoiced'),
		count(*) FILTER (WHERE state = 'failed'),
		count(*) FILTER (WHERE webhook IN ('pending', 'sending')) FROM orders`).
		Scan(&t.Pending, &t.Invoiced, &t.Failed, &t.Undelivered)
	if err != nil {
		return t, fmt.Errorf("count orders: %w", err)
	}
	return t, nil
}

// price sets the name and price of each line from the catalog.
func (s *store) price(ctx context.Context, o *order) error {
	for i := range o.Lines {
		l := &o.Lines[i]
		err := s.read.QueryRowContext(ctx, `SELECT name, price_cents FROM products WHERE sku = ?`, l.SKU).
			Scan(&l.Name, &l.PriceCents)
		if errors.Is(err, sql.ErrNoRows) {
			return problemf(http.StatusUnprocessableEntity, "lines[%d].sku: no product is called %q", i, l.SKU)
		}
		if err != nil {
			return fmt.Errorf("price %q: %w", l.SKU, err)
		}
	}
	return nil
}

// errClickTaken is the error of insertOrder if another replica was faster.
var errClickTaken = errors.New("there is an order with this click")

// insertOrder stores a new order. older, if not nil, is an order with the same click, which
// loses it. If any other order has the click, insertOrder returns errClickTaken.
func (s *store) insertOrder(ctx context.Context, o, older *order) error {
	lines, err := json.Marshal(o.Lines)
	if err != nil {
		return fmt.Errorf("store order: %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		if older != nil {
			if _, err := tx.Exec(`UPDATE orders SET click = NULL WHERE id = ?`, older.ID); err != nil {
				return fmt.Errorf("store order: %w", err)
			}
		}
		res, err := tx.Exec(`INSERT INTO orders (id, click, fingerprint, customer, lines, created) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (click) DO NOTHING`, o.ID, o.click, o.fingerprint, o.Customer, lines, o.Created.UnixMilli())
		if err != nil {
			return fmt.Errorf("store order: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return fmt.Errorf("store order: %w", err)
		} else if n == 0 {
			return errClickTaken
		}
		return nil
	})
}

// confirmOrder keeps a pending order from being withdrawn. It returns errNoRow if it was.
func (s *store) confirmOrder(ctx context.Context, id string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE orders SET confirmed = 1 WHERE id = ?`, id)
		if err != nil {
			return fmt.Errorf("confirm order: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return fmt.Errorf("confirm order: %w", err)
		} else if n == 0 {
			return errNoRow
		}
		return nil
	})
}

// withdrawOrder removes an order, unless the work on it has begun or it is confirmed.
func (s *store) withdrawOrder(ctx context.Context, id string) (withdrawn bool, err error) {
	err = s.update(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`DELETE FROM orders WHERE id = ? AND state = 'pending' AND stocked = 0 AND confirmed = 0`, id)
		if err != nil {
			return fmt.Errorf("withdraw order: %w", err)
		}
		n, err := res.RowsAffected()
		withdrawn = n > 0
		return err
	})
	return withdrawn, err
}

// takeStock takes the goods of a pending order out of the stock. Repeated calls take them
// once. If any are missing, it takes none, marks the order as failed and returns the
// reason.
func (s *store) takeStock(ctx context.Context, o *order) (reason string, err error) {
	need := make(map[string]int64, len(o.Lines)) // a product may be on several lines
	for _, l := range o.Lines {
		need[l.SKU] += l.Quantity
	}
	err = s.update(ctx, func(tx *sql.Tx) error {
		reason = ""
		var todo bool
		err := tx.QueryRow(`SELECT state = 'pending' AND stocked = 0 FROM orders WHERE id = ?`, o.ID).Scan(&todo)
		if err != nil {
			return fmt.Errorf("take stock: %w", err)
		}
		if !todo {
			return nil
		}
		for sku, n := range need {
			var left int64
			err := tx.QueryRow(`SELECT quantity FROM products WHERE sku = ?`, sku).Scan(&left)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("take stock: %w", err)
			}
			if left < n {
				reason = fmt.Sprintf("out of stock: %d of %s ordered, %d left", n, sku, left)
				return failOrderTx(tx, o.ID, reason)
			}
		}
		for sku, n := range need {
			if _, err := tx.Exec(`UPDATE products SET quantity = quantity - ? WHERE sku = ?`, n, sku); err != nil {
				return fmt.Errorf("take stock: %w", err)
			}
		}
		if _, err := tx.Exec(`UPDATE orders SET stocked = 1 WHERE id = ?`, o.ID); err != nil {
			return fmt.Errorf("take stock: %w", err)
		}
		return nil
	})
	return reason, err
}

// invoiceOrder marks a pending order as invoiced and puts its webhook into the outbox, in
// one commit, so that every invoice has a webhook.
func (s *store) invoiceOrder(ctx context.Context, id string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE orders SET state = 'invoiced', webhook = 'pending' WHERE id = ? AND state = 'pending'`, id)
		if err != nil {
			return fmt.Errorf("invoice order: %w", err)
		}
		return nil
	})
}

// failOrder marks a pending order as failed and puts its goods back.
func (s *store) failOrder(ctx context.Context, o *order, reason string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		var stocked bool
		err := tx.QueryRow(`SELECT stocked FROM orders WHERE id = ? AND state = 'pending'`, o.ID).Scan(&stocked)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fail order: %w", err)
		}
		if stocked {
			for _, l := range o.Lines {
				if _, err := tx.Exec(`UPDATE products SET quantity = quantity + ? WHERE sku = ?`, l.Quantity, l.SKU); err != nil {
					return fmt.Errorf("fail order: %w", err)
				}
			}
		}
		return failOrderTx(tx, o.ID, reason)
	})
}

func failOrderTx(tx *sql.Tx, id, reason string) error {
	_, err := tx.Exec(`UPDATE orders SET state = 'failed', reason = ?, stocked = 0 WHERE id = ? AND state = 'pending'`, reason, id)
	if err != nil {
		return fmt.Errorf("fail order: %w", err)
	}
	return nil
}

// claimWebhook claims the oldest webhook in the outbox for a process (see membership). It
// returns errNoRow if the outbox is empty.
func (s *store) claimWebhook(ctx context.Context, by string) (*order, error) {
	var id string
	err := s.update(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`UPDATE orders SET webhook = 'sending', claimant = ? WHERE seq =
			(SELECT seq FROM orders WHERE webhook = 'pending' ORDER BY seq LIMIT 1) RETURNING id`, by).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			id = ""
			return nil
		}
		if err != nil {
			return fmt.Errorf("claim webhook: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, errNoRow
	}
	return s.order(ctx, id)
}

// webhooksWaiting counts the outbox, up to most.
func (s *store) webhooksWaiting(ctx context.Context, most int) (n int, err error) {
	err = s.read.QueryRowContext(ctx,
		`SELECT count(*) FROM (SELECT 1 FROM orders WHERE webhook = 'pending' LIMIT ?)`, most).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count webhooks: %w", err)
	}
	return n, nil
}

// noteWebhook records the outcome of one attempt.
func (s *store) noteWebhook(ctx context.Context, id string, status webhookStatus) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE orders SET webhook = ?, attempts = ?, webhook_reason = ? WHERE id = ?`,
			status.State, status.Attempts, status.Reason, id)
		if err != nil {
			return fmt.Errorf("note webhook: %w", err)
		}
		return nil
	})
}

// unclaimWebhooks puts the webhooks back into the outbox that a process has claimed and not
// finished, except those of the processes in atWork.
func (s *store) unclaimWebhooks(ctx context.Context, atWork []string) error {
	names, err := json.Marshal(append([]string{}, atWork...))
	if err != nil {
		return fmt.Errorf("unclaim webhooks: %w", err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE orders SET webhook = 'pending' WHERE webhook = 'sending'
			AND claimant NOT IN (SELECT value FROM json_each(?))`, string(names)); err != nil {
			return fmt.Errorf("unclaim webhooks: %w", err)
		}
		return nil
	})
}
