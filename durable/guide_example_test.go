package durable_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// errGone is an error that another attempt cannot fix.
var errGone = errors.New("410 Gone")

// A job that is defined once, enqueued here for later, and run by a worker in this process
// or in another.
func Example() {
	ctx := context.Background()
	push := durable.Define("push", func(ctx context.Context, url string) error {
		return durable.Permanent(fmt.Errorf("%s: %w", url, errGone)) // no further attempt
	}, durable.JobConfig{
		Timeout:     time.Minute,
		MaxAttempts: 5,
		Backoff:     func(attempt int, err error) time.Duration { return time.Duration(attempt) * time.Minute },
		Headers:     func(context.Context) map[string]string { return nil }, // tetherotel.JobHeaders
	})
	fmt.Println(push.Name(), push.Config().MaxAttempts)

	receipt, err := push.Enqueue(ctx, engine, "https://example.com/hook", durable.Unique("hook 5"), durable.RunAt(time.Now().Add(time.Hour)))
	switch {
	case errors.Is(err, durable.ErrUnavailable): // nothing is stored: answer 503
	case errors.Is(err, durable.ErrUnsupported), errors.Is(err, durable.ErrInvalid): // fix the program; see Support
	case err != nil: // it may be stored
	}
	fmt.Println(err, receipt.ID != "", receipt.Duplicate, engine.Support().RunAt)

	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{
		Registry:     reg,
		Concurrency:  20,
		Pool:         "jobs",
		ShareField:   "tenant", // a field of the arguments
		ShareWorkers: 2,        // of one tenant at once
		Logger:       slog.New(slog.DiscardHandler),
		Context:      func(ctx context.Context, _ map[string]string) context.Context { return ctx }, // tetherotel.JobContext
	}, push)
	if err != nil {
		panic(err)
	}
	if err := worker.Start(ctx); err != nil {
		panic(err)
	}
	// In a service: reg.Run, with worker.Stop among its Closers.
	fmt.Println(worker.Stop(ctx))
	<-worker.Done()
	fmt.Println(errors.Is(worker.Err(), durable.ErrLost), errors.Is(worker.Start(ctx), durable.ErrClosed))
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// push 5
	// <nil> true false true
	// <nil>
	// false true
	// <nil>
}

// A dead job is made to run again once its reason is gone.
func ExampleRetryDead() {
	err := durable.RetryDead(context.Background(), engine, "the ID of a receipt")
	switch {
	case errors.Is(err, durable.ErrNotDead):
		fmt.Println("no dead job has this ID")
	case errors.Is(err, durable.ErrUnsupported):
		fmt.Println("the engine cannot do it; its own tools may")
	}
	// Output: the engine cannot do it; its own tools may
}

// Arguments that JSON cannot have are an error of the call, not of the job.
func ExampleArgsError() {
	draw := durable.Define("draw", func(context.Context, func()) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	_, err := draw.Enqueue(context.Background(), engine, func() {})
	var wrong *durable.ArgsError
	fmt.Println(errors.As(err, &wrong), wrong.Job)
	// Output: true draw
}
