package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
)

// InvoiceArgs travel as JSON: where the order is, not what it is.
type InvoiceArgs struct{ Order int }

var invoiced = make(chan int)

// Invoice has this name in the processes that enqueue it and in those that run it.
var Invoice = durable.Define("invoice", func(ctx context.Context, args InvoiceArgs) error {
	invoiced <- args.Order
	return nil
}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 5})

// A job is enqueued, and run by a worker of the same process: it could be another one, on
// the same file.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()

	engine, err := sqlite.Open(filepath.Join(dir, "jobs.db"))
	if err != nil {
		log.Fatal(err)
	}
	for range 2 { // a double click
		receipt, err := Invoice.Enqueue(ctx, engine, InvoiceArgs{Order: 5}, durable.Unique("order-5"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("duplicate:", receipt.Duplicate)
	}

	reg := tether.New(tether.Config{})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, Invoice)
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Start(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("invoiced order", <-invoiced)

	// In a service reg.Run does it on SIGTERM, with worker.Stop and engine.Close among its Closers.
	fmt.Println("drained:", reg.Shutdown(ctx), worker.Stop(ctx), engine.Close())
	// Output:
	// duplicate: false
	// duplicate: true
	// invoiced order 5
	// drained: <nil> <nil> <nil>
}

// The order and the job that is to be done for it are stored together, or neither is.
func ExampleEnqueueTx() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	engine, err := sqlite.Open(filepath.Join(dir, "shop.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = engine.Close() }()
	ctx := context.Background()
	if _, err := engine.DB().ExecContext(ctx, `CREATE TABLE orders (id INTEGER PRIMARY KEY)`); err != nil {
		log.Fatal(err)
	}

	place := func(tx *sql.Tx, order int) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES (?)`, order); err != nil {
			return err
		}
		_, err := sqlite.EnqueueTx(ctx, engine, tx, Invoice, InvoiceArgs{Order: order})
		return err
	}
	tx, err := engine.DB().BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := place(tx, 5); err != nil {
		_ = tx.Rollback()
		log.Fatal(err)
	}
	fmt.Println("committed:", tx.Commit())
	// Output: committed: <nil>
}
