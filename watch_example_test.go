package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Each change of a task, for a stream to a client.
func ExampleTask_Watch() {
	reg := tether.New(tether.Config{})
	seen := make(chan struct{})
	task, err := reg.Go(context.Background(), "import", func(ctx context.Context) error {
		tether.ReportProgress(ctx, tether.Progress{Done: 500, Total: 1000})
		<-seen
		return nil
	}, tether.Hold())
	if err != nil {
		panic(err)
	}
	halfway := false
	for info := range task.Watch(context.Background()) {
		switch {
		case info.State == tether.Held:
			fmt.Println(info.State)
			task.Release()
		case info.Progress.Done == 500 && !halfway:
			halfway = true
			fmt.Println(info.Progress.Done, "of", info.Progress.Total)
			close(seen)
		case info.State.Final():
			fmt.Println(info.State)
		}
	}
	// Output:
	// held
	// 500 of 1000
	// succeeded
}

// A result that a client will ask for later is kept, however many others end meanwhile.
func ExampleTask_Keep() {
	reg := tether.New(tether.Config{Retain: 2, RetainFor: time.Hour})
	ctx := context.Background()
	report, err := tether.Submit(ctx, reg, "report", func(context.Context) (string, error) { return "7 pages", nil })
	if err != nil {
		panic(err)
	}
	report.Keep() // also the value; Task.Keep keeps it if the task has not ended
	if _, err := report.Value(ctx); err != nil {
		panic(err)
	}
	for range 10 {
		task, err := reg.Go(ctx, "other", func(context.Context) error { return nil })
		if err != nil {
			panic(err)
		}
		<-task.Done()
	}

	task, err := reg.Find(report.ID())
	if err != nil {
		panic(err)
	}
	submitted, started, finished := task.Times()
	fmt.Println(task.Value(), !started.Before(submitted), !finished.Before(started))

	fmt.Println(task.Forget()) // the client has it
	_, err = reg.Find(report.ID())
	fmt.Println(errors.Is(err, tether.ErrExpired))
	// Output:
	// 7 pages true true
	// true
	// true
}

// What a page about the process shows.
func ExampleRegistry_Tasks() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	pool := reg.NewPool("mails", tether.PoolConfig{Workers: 2, Queue: 10})
	ctx := context.Background()
	done, err := pool.Go(ctx, "welcome mail", func(context.Context) error { return nil })
	if err != nil {
		panic(err)
	}
	<-done.Done()
	live, err := reg.Go(ctx, "import", func(ctx context.Context) error { <-ctx.Done(); return nil })
	if err != nil {
		panic(err)
	}

	for task := range reg.Tasks() {
		fmt.Println("live:", task.Name())
	}
	for task := range reg.Finished() {
		fmt.Println("finished:", task.Name(), "on", task.Pool())
	}
	for pool := range reg.Pools() {
		fmt.Println(pool.Name(), pool.Stats().Submitted)
	}
	fmt.Println("all that ended since", time.Since(reg.FinishedSince()) >= 0)
	fmt.Println("no pool", reg.OwnStats().Submitted, "all", reg.Stats().Submitted)
	live.Cancel(nil)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// live: import
	// finished: welcome mail on mails
	// mails 1
	// all that ended since true
	// no pool 1 all 2
	// <nil>
}

// A body deep in a program finds its task, and the registry that it belongs to.
func ExampleFromContext() {
	reg := tether.New(tether.Config{})
	parent, err := reg.Go(context.Background(), "refresh feeds", func(ctx context.Context) error {
		task, ok := tether.FromContext(ctx)
		fmt.Println(task.Name(), ok)
		_, err := task.Registry().Go(ctx, "webhook", func(context.Context) error { return nil }) // also during the drain
		return err
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(parent.Wait(context.Background()), reg.Shutdown(context.Background()))
	// Output:
	// refresh feeds true
	// <nil> <nil>
}

// A button that is pressed twice starts one export, and the second client learns of it.
func ExampleOnDuplicate() {
	reg := tether.New(tether.Config{})
	done := make(chan struct{})
	export := func(context.Context) error { <-done; return nil }
	for range 2 {
		duplicate := false
		_, err := reg.Go(context.Background(), "export", export, tether.Unique("user 5"),
			tether.OnDuplicate(func(*tether.Task) { duplicate = true }))
		fmt.Println(err, duplicate)
	}
	close(done)
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// <nil> false
	// <nil> true
	// <nil>
}

// Where a task is, and why the process does not end.
func ExampleTask_Stack() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	started, done := make(chan struct{}), make(chan struct{})
	task, err := reg.Go(context.Background(), "import", func(context.Context) error { close(started); <-done; return nil },
		tether.StuckAfter(0)) // it may take long: it is not reported as stuck
	if err != nil {
		panic(err)
	}
	<-started
	fmt.Println("the stack is known:", len(task.Stack()) > 0)

	stopped := make(chan error)
	go func() { stopped <- reg.Shutdown(context.Background()) }()
	<-reg.Stopping()
	if status, stopping := reg.StopStatus(); stopping {
		fmt.Println("stopping since", status.Began.Before(time.Now()), "canceled:", status.Canceled)
	}
	close(done)
	fmt.Println(<-stopped)
	// Output:
	// the stack is known: true
	// stopping since true canceled: false
	// <nil>
}

// background is a helper of a program. With Wraps, the page shows what its callers pass,
// and not the helper, as the function of each task.
func background(reg *tether.Registry, name string, fn func() error) (*tether.Task, error) {
	return reg.Go(context.Background(), name, func(context.Context) error { return fn() }, tether.Wraps(fn))
}

func warmUp() error { return nil }

func ExampleWraps() {
	reg := tether.New(tether.Config{})
	task, err := background(reg, "warm up", warmUp)
	if err != nil {
		panic(err)
	}
	fmt.Println(strings.Contains(task.Info().Func, "warmUp"))
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// true
	// <nil>
}
