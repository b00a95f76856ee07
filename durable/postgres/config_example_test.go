package postgres_test

import (
	"context"
	"log"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// An engine behind PgBouncer in transaction mode, with tables that a migration has made.
func ExampleConfig() {
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	engine, err := postgres.Config{
		Queue:     "mails",
		Schema:    "jobs",
		NoMigrate: true,
		Pooler:    true,
		Logger:    slog.Default(),
	}.Open(pool)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	shared := tetherhttp.NewStore("shop", engine.Store()) // the status of tasks, for all replicas
	_ = shared
}
