package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A consumer of a queue, and a page that shows the drain: everything stops in its order.
func ExampleRunConfig() {
	reg := tether.New(tether.Config{
		Logger:       slog.New(slog.DiscardHandler),
		CancelBefore: 5 * time.Second, // bodies have so long to return when the time is up
	})
	ctx, stop := context.WithCancel(context.Background()) // a signal does the same
	stopped := make(chan struct{})
	consumer := tether.Server{
		Name: "consumer",
		Serve: func() error {
			if _, err := reg.Go(ctx, "message", func(context.Context) error { return nil }); err != nil {
				return err
			}
			stop()
			<-reg.Stopping() // take no more
			fmt.Println("consumer: done, ready:", reg.Ready())
			close(stopped)
			return nil
		},
		Stop: func(context.Context) error { <-stopped; return nil },
	}
	closed := make(chan struct{})
	page := tether.Server{
		Name:  "live page",
		Serve: func() error { <-closed; return nil },
		Stop:  func(context.Context) error { fmt.Println("live page: stopped"); close(closed); return nil },
	}
	err := reg.Run(ctx, tether.RunConfig{
		Servers:      []tether.Server{consumer},
		LastServers:  []tether.Server{page},
		Closers:      []tether.Closer{{Name: "database", Close: func(context.Context) error { fmt.Println("database: closed"); return nil }}},
		PreStop:      time.Millisecond, // 0 to 15 s, as the load balancer takes
		StopTimeout:  25 * time.Second,
		CloseTimeout: 3 * time.Second,
		Signals:      []os.Signal{}, // none, for this example; nil means SIGTERM and SIGINT
	})
	fmt.Println(err)
	// Output:
	// consumer: done, ready: false
	// database: closed
	// live page: stopped
	// <nil>
}

// A loop without which the process is useless: if it fails three times in a row, the
// process stops, and a supervisor starts it anew.
func ExampleLoopConfig() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	lost := errors.New("the broker is gone")
	loop, err := reg.Loop(context.Background(), "consumer", func(context.Context) error { return lost }, tether.LoopConfig{
		Restarts:   2,
		Backoff:    func(int, error) time.Duration { return time.Millisecond },
		ResetAfter: 10 * time.Minute, // the default
		Essential:  true,
	})
	if err != nil {
		panic(err)
	}
	err = reg.Run(context.Background(), tether.RunConfig{Signals: []os.Signal{}})
	fmt.Println(errors.Is(err, lost), loop.IsLoop(), loop.Attempt())
	// Output: true true 3
}
