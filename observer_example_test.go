package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
)

// attempts is a RetryObserver: it is notified of failed attempts, too.
type attempts struct{ tether.NopObserver }

func (attempts) TaskRetrying(_ context.Context, t *tether.Task, err error, _ time.Duration) {
	fmt.Println("attempt", t.Attempt(), "of", t.Name()+":", err)
}

// hanging is a StuckObserver: it is notified of tasks that take too long.
type hanging struct {
	tether.NopObserver
	found chan string
}

func (h hanging) TaskStuck(_ context.Context, t *tether.Task, stack []byte) {
	h.found <- fmt.Sprint(t.Name(), " hangs; the stack is known: ", len(stack) > 0)
}

var (
	_ tether.RetryObserver = attempts{}
	_ tether.StuckObserver = hanging{}
)

// Two observers, joined. Each embeds NopObserver and has the methods that it needs.
func ExampleJoinObservers() {
	stuck := hanging{found: make(chan string, 1)}
	both := tether.JoinObservers(attempts{}, stuck)
	reg := tether.New(tether.Config{Observer: both, Logger: slog.New(slog.DiscardHandler)})
	strict := tether.New(tether.Config{Observer: both, StuckAfter: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	ctx := context.Background()

	busy, tries := errors.New("try again"), 0
	task, err := reg.Go(ctx, "push", func(context.Context) error {
		if tries++; tries == 1 {
			return busy
		}
		return nil
	}, tether.Retry(tether.RetryPolicy{
		Attempts:    3,
		Backoff:     func(int, error) time.Duration { return 0 },
		ShouldRetry: func(err error) bool { return errors.Is(err, busy) },
	}))
	if err != nil {
		panic(err)
	}
	fmt.Println(task.Wait(ctx))

	task, err = strict.Go(ctx, "import", func(ctx context.Context) error { <-ctx.Done(); return nil })
	if err != nil {
		panic(err)
	}
	fmt.Println(<-stuck.found)
	task.Cancel(nil)
	fmt.Println(reg.Shutdown(ctx), strict.Shutdown(ctx))
	// Output:
	// attempt 1 of push: try again
	// <nil>
	// import hangs; the stack is known: true
	// <nil> <nil>
}
