package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/seed-2e639f12/tether"
)

// The ways in which a task ends, and the states before that.
func ExampleState() {
	reg := tether.New(tether.Config{
		Logger:  slog.New(slog.DiscardHandler),
		OnPanic: tether.PanicRecover, // the default; PanicCrash lets a panic end the process
	})
	ctx := context.Background()
	untilCanceled := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	for name, body := range map[string]tether.Func{
		"nil":     func(context.Context) error { return nil },
		"error":   func(context.Context) error { return errors.New("no such user") },
		"panic":   func(context.Context) error { panic("a bug") },
		"goexit":  func(context.Context) error { runtime.Goexit(); return nil },
		"cancel":  untilCanceled,
		"dropped": nil, // see below
	} {
		if body == nil {
			body = untilCanceled
		}
		var opts []tether.Option
		if name == "dropped" {
			opts = append(opts, tether.Hold())
		}
		task, err := reg.Go(ctx, name, body, opts...)
		if err != nil {
			panic(err)
		}
		if name == "dropped" && task.State() != tether.Held {
			fmt.Println("not held")
		}
		if name == "cancel" || name == "dropped" {
			task.Cancel(errors.New("not wanted any more"))
		}
		err = task.Wait(ctx)
		if name == "cancel" {
			continue // dropped if it was canceled before it started
		}
		var p *tether.PanicError
		info := task.Info()
		switch task.State() {
		case tether.Held, tether.Queued, tether.Running:
			fmt.Println("not final")
		case tether.Succeeded:
			fmt.Println(name, "succeeded:", err, info.Failing())
		case tether.Failed:
			fmt.Println(name, "failed:", err, errors.Is(err, tether.ErrGoexit), info.Failing())
		case tether.Panicked:
			fmt.Println(name, "panicked:", errors.As(err, &p) && p.Value == "a bug", info.Failing())
		case tether.Canceled, tether.Dropped:
			fmt.Println(name, task.State(), err, info.Failing())
		}
		if !task.State().Final() {
			fmt.Println("not final")
		}
	}
	fmt.Println(reg.Shutdown(ctx))
	// Unordered output:
	// nil succeeded: <nil> false
	// error failed: no such user false true
	// panic panicked: true true
	// goexit failed: tether: the function ended its goroutine (runtime.Goexit) true true
	// dropped dropped not wanted any more false
	// <nil>
}

// A service that prefers to crash: a supervisor restarts it, and nothing goes on with what
// a panic has left behind.
func ExamplePanicPolicy() {
	reg := tether.New(tether.Config{OnPanic: tether.PanicCrash})
	task, err := reg.Go(context.Background(), "fine", func(context.Context) error { return nil })
	if err != nil {
		panic(err)
	}
	fmt.Println(task.Wait(context.Background()))
	// Output: <nil>
}

// Names are checked when a task is submitted. A service that takes them from its users can
// check them before.
func ExampleCheckName() {
	err := tether.CheckName("two\nlines")
	fmt.Println(errors.Is(err, tether.ErrInvalid), tether.CheckName("import"))
	// Output: true <nil>
}
