package rabbitmq_test

import (
	"context"
	"log"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

// A worker on RabbitMQ: rabbitmq.Dial has the defaults of what is set here.
func Example() {
	engine, err := rabbitmq.Config{
		Queue:   "shop",
		Timeout: 10 * time.Second, // of Dial, and of an Enqueue without a deadline, while the broker is away
		Logger:  slog.Default(),
	}.Dial("amqp://guest:guest@localhost:5672/")
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
func ExampleDial() {
	engine, err := rabbitmq.Dial("amqp://guest:guest@localhost:5672/")
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
}
