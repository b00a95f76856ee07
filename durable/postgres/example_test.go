package postgres_test

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/postgres"
)

type invoiceArgs struct {
	Order int `json:"order"`
}

var invoice = durable.Define("invoice", func(ctx context.Context, args invoiceArgs) error {
	return nil // make it
}, durable.JobConfig{Timeout: time.Minute})

// A program that makes an invoice for each order, and for none that was not placed.
func ExampleEnqueueTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	engine, err := postgres.Open(pool)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	reg := tether.New(tether.Config{})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, invoice)
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Start(ctx); err != nil {
		log.Fatal(err)
	}

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var order int
		err := tx.QueryRow(ctx, `INSERT INTO orders (item) VALUES ('tea') RETURNING id`).Scan(&order)
		if err != nil {
			return err
		}
		_, err = postgres.EnqueueTx(ctx, engine, tx, invoice, invoiceArgs{Order: order})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}
