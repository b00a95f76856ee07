package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	_ "modernc.org/sqlite" // the "sqlite" driver
)

// store is the shop's database: one SQLite file. It has everything that was accepted, and
// the tasks in memory only work on it. Whatever happens to the process, the next start
// finds every accepted order, import and image here.
//
// SQLite has one writer at a time. All writes go through one goroutine, which commits the
// waiting writes together in one transaction (a group commit). A hundred clients that
// order at once share one fsync instead of queueing for a hundred.
type store struct {
	read   *sql.DB
	write  *sql.DB // one connection, used by the writer goroutine alone
	writes chan write

	closing chan struct{} // closed by close: no more writes
	done    chan struct{} // closed when the writer goroutine has returned
}

// write is one caller's part of a group commit. fn must not keep its Tx, and must not change
// anything else: it is called again if its group fails.
type write struct {
	fn      func(*sql.Tx) error
	outcome chan error // buffered: the writer never waits for a caller
}

var (
	errStoreClosed = errors.New("the store is closed")
	errNoRow       = errors.New("no such row")
)

// groupSize is the most writes in a transaction. It bounds the time for which the first
// waits for the last.
const groupSize = 128

// openStore opens the database in the folder dir, and creates it if needed.
//
// It uses synchronous=FULL. With NORMAL a WAL database survives a kill -9, but may lose the
// last commits in a power cut, and a 202 is a promise. The group commit makes up for the
// cost: all waiting writes share one fsync.
func openStore(dir string) (*store, error) {
	abs, err := filepath.Abs(filepath.Join(dir, "shop.db"))
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	// A URL, so that a '?' or a '#' in the folder's name stays part of the name.
	dsn := (&url.URL{Scheme: "file", Path: filepath.ToSlash(abs)}).String() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=journal_size_limit(67108864)&_txlock=immediate"
	s := &store{
		writes:  make(chan write, groupSize),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	if s.write, err = sql.Open("sqlite", dsn); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if _, err = s.write.Exec(schema); err != nil {
		_ = s.write.Close()
		return nil, fmt.Errorf("open store %s: %w", abs, err)
	}
	if err = addColumns(s.write); err != nil {
		_ = s.write.Close()
		return nil, fmt.Errorf("open store %s: %w", abs, err)
	}
	if s.read, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)"); err != nil {
		_ = s.write.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	go s.writer()
	return s, nil
}

// readers is the number of queries that run at once. Each connection has a page cache.
const readers = 4

// update runs fn in a transaction, together with other callers' changes. It returns nil
// when the changes are on the disk, and an error when none of them is. ctx bounds only the
// wait until the write begins: a caller that gave up between the commit and the result
// would not know whether its changes are stored.
func (s *store) update(ctx context.Context, fn func(*sql.Tx) error) error {
	w := write{fn: fn, outcome: make(chan error, 1)}
	select {
	case s.writes <- w:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closing:
		return errStoreClosed
	}
	select {
	case err := <-w.outcome:
		return err
	case <-s.done:
		// The writer has handled what it found before it ended; this write may be later.
		select {
		case err := <-w.outcome:
			return err
		default:
			return errStoreClosed
		}
	}
}

// writer is the only goroutine that writes. It ends with close.
func (s *store) writer() {
	defer close(s.done)
	group := make([]write, 0, groupSize)
	for {
		select {
		case w := <-s.writes:
			group = s.collect(append(group[:0], w))
			s.commit(group)
		case <-s.closing:
			if group = s.collect(group[:0]); len(group) == 0 {
				return
			}
			s.commit(group)
		}
	}
}

// collect adds the writes that are waiting, without waiting for more.
func (s *store) collect(group []write) []write {
	for len(group) < groupSize {
		select {
		case w := <-s.writes:
			group = append(group, w)
		default:
			return group
		}
	}
	return group
}

// commit writes a group in one transaction. If any of the writes fails, each gets a
// transaction of its own, so that the others do not fail with it.
func (s *store) commit(group []write) {
	err := s.transact(group...)
	if err == nil || len(group) == 1 {
		for _, w := range group {
			w.outcome <- err
		}
		return
	}
	for _, w := range group {
		w.outcome <- s.transact(w)
	}
}

func (s *store) transact(group ...write) error {
	tx, err := s.write.Begin()
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	for _, w := range group {
		if err := w.fn(tx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// close writes what is waiting and closes the file. It must be called once, when no task
// uses the store any more.
func (s *store) close(context.Context) error {
	close(s.closing)
	<-s.done
	return errors.Join(s.read.Close(), s.write.Close())
}

// addColumns adds the columns that older databases do not have. Members join one after the
// other, so that no other process does the same.
func addColumns(db *sql.DB) error {
	for _, c := range []struct{ table, name, definition string }{
		{"orders", "claimant", "TEXT NOT NULL DEFAULT ''"},    // of the webhook: the name of a member
		{"orders", "confirmed", "INTEGER NOT NULL DEFAULT 0"}, // 1: a replica has repeated the 202 of another
		{"uploads", "holder", "TEXT NOT NULL DEFAULT ''"},     // the name of the member that works on it
	} {
		var has bool
		err := db.QueryRow(`SELECT count(*) > 0 FROM pragma_table_info(?) WHERE name = ?`, c.table, c.name).Scan(&has)
		if err == nil && !has {
			_, err = db.Exec(`ALTER TABLE ` + c.table + ` ADD COLUMN ` + c.name + ` ` + c.definition)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// schema is run at every start. Amounts are in cents, times in milliseconds since 1970.
const schema = `
CREATE TABLE IF NOT EXISTS products (
	sku         TEXT PRIMARY KEY,
	name        TEXT NOT NULL,
	quantity    INTEGER NOT NULL CHECK (quantity >= 0),
	price_cents INTEGER NOT NULL CHECK (price_cents >= 0)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS orders (
	seq         INTEGER PRIMARY KEY AUTOINCREMENT, -- the invoice's number
	id          TEXT NOT NULL UNIQUE,
	click       TEXT UNIQUE, -- identifies the order among requests; NULL once the same may be ordered again
	fingerprint TEXT NOT NULL,
	customer    TEXT NOT NULL,
	lines       TEXT NOT NULL,
	created     INTEGER NOT NULL,
	state       TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'invoiced', 'failed')),
	reason      TEXT NOT NULL DEFAULT '',
	stocked     INTEGER NOT NULL DEFAULT 0, -- 1: its goods have been taken from the stock
	webhook     TEXT NOT NULL DEFAULT 'none' CHECK (webhook IN ('none', 'pending', 'sending', 'delivered', 'failed')),
	attempts    INTEGER NOT NULL DEFAULT 0,
	webhook_reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS orders_pending ON orders (seq) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS orders_outbox ON orders (seq) WHERE webhook = 'pending';
CREATE INDEX IF NOT EXISTS orders_in_time ON orders (state, created, seq);

CREATE TABLE IF NOT EXISTS uploads (
	id       TEXT PRIMARY KEY,
	kind     TEXT NOT NULL CHECK (kind IN ('import', 'image')),
	task     TEXT NOT NULL, -- the id of the task that works on it, for its progress
	format   TEXT NOT NULL, -- csv, jpeg or png
	width    INTEGER NOT NULL DEFAULT 0,
	weight   INTEGER NOT NULL DEFAULT 0,
	size     INTEGER NOT NULL,
	created  INTEGER NOT NULL,
	state    TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'failed')),
	reason   TEXT NOT NULL DEFAULT '',
	at       INTEGER NOT NULL DEFAULT 0, -- bytes imported: where a restart continues
	line     INTEGER NOT NULL DEFAULT 0, -- the number of the line that ends there
	rows     INTEGER NOT NULL DEFAULT 0,
	bad_rows INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uploads_pending ON uploads (created) WHERE state = 'pending';

CREATE TABLE IF NOT EXISTS bad_rows (
	upload TEXT NOT NULL,
	line   INTEGER NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (upload, line)
) WITHOUT ROWID;

INSERT INTO products (sku, name, quantity, price_cents) VALUES
	('tea', 'Green tea, 100 g', 1000000000, 690),
	('coffee', 'Coffee beans, 250 g', 1000000000, 890),
	('mug', 'Mug, stoneware', 1000000000, 1250),
	('kettle', 'Kettle, 1 l', 1000000000, 3900),
	('honey', 'Honey, 500 g', 1000000000, 780),
	('unicorn', 'Unicorn (sold out)', 0, 99900)
ON CONFLICT (sku) DO NOTHING;
`
