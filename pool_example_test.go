package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
)

// What each Overflow does with one task too many: the worker is busy, and the queue has
// room for one.
func ExampleOverflow() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	ctx := context.Background()
	nothing := func(context.Context) error { return nil }
	started, done := make(chan struct{}), make(chan struct{})
	full := func(name string, overflow tether.Overflow) (pool *tether.Pool, queued *tether.Task) {
		pool = reg.NewPool(name, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: overflow})
		if _, err := pool.Go(ctx, "busy", func(context.Context) error { started <- struct{}{}; <-done; return nil }); err != nil {
			panic(err)
		}
		<-started
		queued, err := pool.Go(ctx, "queued", nothing)
		if err != nil {
			panic(err)
		}
		return pool, queued
	}

	pool, _ := full("reject", tether.OverflowReject)
	_, err := pool.Go(ctx, "one more", nothing)
	fmt.Println("reject:", errors.Is(err, tether.ErrFull))

	pool, _ = full("block", tether.OverflowBlock)
	impatient, cancel := context.WithCancel(ctx)
	cancel()
	_, err = pool.Go(impatient, "one more", nothing) // waits for room, until its context ends
	fmt.Println("block:", errors.Is(err, context.Canceled))

	pool, queued := full("drop oldest", tether.OverflowDropOldest)
	_, err = pool.Go(ctx, "one more", nothing)
	fmt.Println("drop oldest:", err, queued.State())

	pool, _ = full("caller runs", tether.OverflowCallerRuns)
	task, err := pool.Go(ctx, "one more", nothing) // runs the body before it returns
	fmt.Println("caller runs:", err, task.State())

	close(done)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// reject: true
	// block: true
	// drop oldest: <nil> dropped
	// caller runs: <nil> succeeded
	// <nil>
}

// A pool that is changed while it works: paused for a migration, and then given more
// workers.
func ExamplePool_Resize() {
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("images", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
	pool.Pause()
	started, done := make(chan string), make(chan struct{})
	for _, name := range []string{"a.png", "b.png", "c.png"} {
		_, err := pool.Go(context.Background(), "thumbnail", func(context.Context) error {
			started <- name
			<-done
			return nil
		})
		if err != nil {
			panic(err)
		}
	}
	fmt.Println("queued:", pool.Stats().Queued, "paused:", pool.Stats().Paused)

	pool.Resume()
	fmt.Println(<-started)
	fmt.Println("queued:", pool.Stats().Queued, "workers:", pool.Stats().Workers)

	if err := pool.Resize(3); err != nil {
		panic(err)
	}
	<-started
	<-started
	fmt.Println("queued:", pool.Stats().Queued, "workers:", pool.Stats().Workers)
	close(done)
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// queued: 3 paused: true
	// a.png
	// queued: 2 workers: 1
	// queued: 0 workers: 3
	// <nil>
}

// Videos and pictures share the memory of one machine: 8 GB, of which a video takes 6.
func ExampleWeight() {
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("media", tether.PoolConfig{Workers: 10, Queue: 100, Capacity: 8})
	started, done := make(chan struct{}), make(chan struct{})
	work := func(context.Context) error { started <- struct{}{}; <-done; return nil }

	video, err := pool.Go(context.Background(), "video", work, tether.Weight(6))
	if err != nil {
		panic(err)
	}
	<-started
	second, err := pool.Go(context.Background(), "video", work, tether.Weight(6))
	if err != nil {
		panic(err)
	}
	fmt.Println(video.State(), second.State(), pool.Stats().Weight, "of", pool.Stats().Capacity)
	close(done)
	<-started // it fits now
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// running queued 6 of 8
	// <nil>
}

// A cache is warmed by tasks that are worth nothing to a process that stops, mails are not.
func ExampleAtStop() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	warm := reg.NewPool("warm", tether.PoolConfig{Workers: 1, Queue: 100, AtStop: tether.AtStopDrop})
	mails := reg.NewPool("mails", tether.PoolConfig{Workers: 1, Queue: 100, AtStop: tether.AtStopFinish}) // the default
	started, done := make(chan struct{}), make(chan struct{})
	for _, pool := range []*tether.Pool{warm, mails} {
		first := func(context.Context) error { started <- struct{}{}; <-done; return nil }
		if _, err := pool.Go(context.Background(), "first", first); err != nil {
			panic(err)
		}
		<-started
		if _, err := pool.Go(context.Background(), "second", func(context.Context) error { return nil }); err != nil {
			panic(err)
		}
	}
	go func() {
		<-reg.Stopping()
		close(done)
	}()
	fmt.Println(reg.Shutdown(context.Background()))
	for _, task := range reg.Report().NeverStarted {
		fmt.Println("never started:", task.Pool, task.Name, errors.Is(task.Err, tether.ErrShutdown))
	}
	_, err := mails.Go(context.Background(), "late", func(context.Context) error { return nil })
	fmt.Println("late:", errors.Is(err, tether.ErrClosed))
	// Output:
	// <nil>
	// never started: warm second true
	// late: true
}

// Which tenants wait, and with how many tasks. No tenant has more than one worker.
func ExamplePool_Shares() {
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("exports", tether.PoolConfig{Workers: 4, Queue: 1000, ShareWorkers: 1})
	started, done := make(chan struct{}), make(chan struct{})
	export := func(context.Context) error { started <- struct{}{}; <-done; return nil }
	for _, tenant := range []string{"acme", "acme", "acme", "globex"} {
		if _, err := pool.Go(context.Background(), "export", export, tether.Share(tenant)); err != nil {
			panic(err)
		}
	}
	<-started
	<-started
	for _, s := range pool.Shares(1) {
		fmt.Println(s.Share, "queued:", s.Queued, "running:", s.Running)
	}
	close(done)
	<-started
	<-started
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// acme queued: 2 running: 1
	// <nil>
}

// An API that takes ten calls a minute, and two at once after a pause.
func ExampleRate() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	calls := reg.NewPool("calls", tether.PoolConfig{Workers: 4, Queue: 1000, AtStop: tether.AtStopDrop, Rate: tether.Rate{Tasks: 10, Per: time.Minute, Burst: 2}})
	called := make(chan struct{}, 3)
	for range 3 {
		if _, err := calls.Go(context.Background(), "call", func(context.Context) error { called <- struct{}{}; return nil }); err != nil {
			panic(err)
		}
	}
	<-called
	<-called
	fmt.Println("queued:", calls.Stats().Queued) // for six seconds, without a worker
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// queued: 1
	// <nil>
}
