package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// A run that is due while an earlier one goes on: a mirror of a site begins anew, since
// the state that the earlier run copies is old.
func ExampleOverlap() {
	ctx := context.Background()
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	started := make(chan struct{})
	mirror, err := schedule.New(reg).Add(ctx, "mirror", schedule.Every(time.Hour), func(ctx context.Context) error {
		started <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}, schedule.Config{
		Overlap: schedule.OverlapCancel, // OverlapSkip, the default, skips the new run; OverlapQueue starts it later
		Missed:  schedule.MissedRunOnce, // the default; MissedSkip skips what was due while the machine slept
	})
	if err != nil {
		panic(err)
	}
	first, err := mirror.Run(ctx)
	if err != nil {
		panic(err)
	}
	<-started
	second := make(chan *tether.Task, 1)
	go func() {
		task, err := mirror.Run(ctx) // returns when the run has started
		if err != nil {
			panic(err)
		}
		second <- task
	}()
	<-started
	fmt.Println("first:", errors.Is(first.Wait(ctx), schedule.ErrReplaced))

	fmt.Println("the default:", schedule.Overlap(0) == schedule.OverlapSkip)
	fmt.Println("removed:", mirror.Remove())
	_, err = mirror.Run(ctx)
	fmt.Println("run:", errors.Is(err, schedule.ErrRemoved))
	(<-second).Cancel(nil)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// first: true
	// the default: true
	// removed: true
	// run: true
	// <nil>
}
