package redis_test

import (
	"context"
	"log"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/redis"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// A worker on Redis: redis.Open has the defaults of what is set here.
func Example() {
	engine, err := redis.Config{
		Queue:    "shop",
		Timeout:  10 * time.Second, // of an Enqueue without a deadline, while Redis is away
		Poll:     time.Second,
		Replicas: 1, // that must have a job before Enqueue returns
		Logger:   slog.Default(),
	}.Open(asynq.RedisClientOpt{Addr: "localhost:6379"})
	if err != nil {
		log.Fatal(err)
	}
	invoice := durable.Define("invoice", func(context.Context, int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	reg := tether.New(tether.Config{})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 20}, invoice)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Start(ctx); err != nil {
		log.Fatal(err)
	}
	err = reg.Run(ctx, tether.RunConfig{Closers: []tether.Closer{
		{Name: "worker", Close: worker.Stop},
		{Name: "engine", Close: func(context.Context) error { return engine.Close() }},
	}})
	if err != nil {
		log.Fatal(err)
	}
}

// The zero Config.
func ExampleOpen() {
	engine, err := redis.Open(asynq.RedisClientOpt{Addr: "localhost:6379"})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	shared := tetherhttp.NewStore("shop", engine.Store()) // the status of tasks, for all replicas
	_ = shared
}
