package tethertest_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tethertest"
)

// t is that of a test.
var t *testing.T

// A registry that fails the test if a task leaks, or fails and is not asked for its
// outcome.
func ExampleNew() {
	reg := tethertest.New(t, func(cfg *tether.Config) { cfg.StuckAfter = time.Minute })
	task, err := reg.Go(t.Context(), "invitation", func(context.Context) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// A pool for code under test that would be easier to test without concurrency.
func ExampleInline() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)}) // in a test: tethertest.New(t)
	pool := tethertest.Inline(reg)
	sent := 0
	_, err := pool.Go(context.Background(), "mail", func(context.Context) error { sent++; return nil })
	fmt.Println(sent, err)
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// 1 <nil>
	// <nil>
}
