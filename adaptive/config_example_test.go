package adaptive_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/adaptive"
)

// A controller that measures for a second at a time, and tells what it changes.
func ExampleConfig() {
	workers := adaptive.New(adaptive.Config{
		Interval: time.Second,
		Logger:   slog.New(slog.DiscardHandler),
		OnChange: func(c adaptive.Change) { fmt.Println(c.Pool, "has", c.To, "workers:", c.Reason) },
	})
	reg := tether.New(tether.Config{Observer: workers})
	calls := reg.NewPool("calls", tether.PoolConfig{Workers: 8, Queue: 1000})
	fmt.Println(workers.Adapt(calls, 2, 64), reg.Shutdown(context.Background()))
	// Output: <nil> <nil>
}
