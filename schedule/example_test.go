package schedule_test

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

func Example() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	sched := schedule.New(reg)

	pruned := make(chan struct{})
	prune := func(context.Context) error {
		fmt.Println("pruning")
		close(pruned)
		return nil
	}
	if _, err := sched.Add(ctx, "prune sessions", schedule.Every(time.Hour), prune, schedule.Config{RunAtOnce: true}); err != nil {
		fmt.Println(err)
	}

	<-pruned
	// Registry.Run does this on SIGTERM: no further run begins, and nothing waits for one.
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// pruning
	// <nil>
}

// A night in spring: at 02:00 the clocks go forward to 03:00, and 02:30 is skipped.
func ExampleDaily() {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		fmt.Println(err)
		return
	}
	nightly := schedule.Daily(2, 30, berlin)
	t := time.Date(2026, 3, 27, 12, 0, 0, 0, berlin)
	for range 3 {
		t = nightly.Next(t)
		fmt.Println(t)
	}
	// Output:
	// 2026-03-28 02:30:00 +0100 CET
	// 2026-03-29 03:00:00 +0200 CEST
	// 2026-03-30 02:30:00 +0200 CEST
}

// A pattern with the rule for daylight saving: what of returns is the wall clock's time, in
// UTC.
func ExampleWallClock() {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		fmt.Println(err)
		return
	}
	sundays := schedule.NextFunc(func(t time.Time) time.Time {
		next := time.Date(t.Year(), t.Month(), t.Day(), 2, 30, 0, 0, time.UTC)
		for next.Weekday() != time.Sunday || !next.After(t) {
			next = next.AddDate(0, 0, 1)
		}
		return next
	})
	weekly := schedule.WallClock(berlin, sundays)
	// In autumn the hour from 02:00 to 03:00 is repeated: 02:30 is due the first time.
	t := weekly.Next(time.Date(2026, 10, 24, 12, 0, 0, 0, berlin))
	fmt.Println(t)
	fmt.Println(weekly.Next(t))
	// Output:
	// 2026-10-25 02:30:00 +0200 CEST
	// 2026-11-01 02:30:00 +0100 CET
}

// On the first day of each month, at noon UTC.
func ExampleNextFunc() {
	monthly := schedule.NextFunc(func(t time.Time) time.Time {
		t = t.UTC()
		next := time.Date(t.Year(), t.Month(), 1, 12, 0, 0, 0, time.UTC)
		if !next.After(t) {
			next = next.AddDate(0, 1, 0)
		}
		return next
	})
	fmt.Println(monthly.Next(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)))
	// Output: 2026-02-01 12:00:00 +0000 UTC
}

// A job in a pool of its own, with a time limit for each run. A run that is due while the
// one before goes on is started after it.
func ExampleConfig() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	reports := reg.NewPool("reports", tether.PoolConfig{Workers: 1, Queue: 10})
	sched := schedule.New(reg)

	s, err := sched.Add(ctx, "sales report", schedule.Daily(2, 30, time.UTC),
		func(ctx context.Context) error {
			_, limited := ctx.Deadline()
			fmt.Println("limited:", limited)
			return nil
		},
		schedule.Config{
			Pool:    reports,
			Options: []tether.Option{tether.Timeout(time.Hour), tether.Label("of", "sales")},
			Overlap: schedule.OverlapQueue,
			Missed:  schedule.MissedSkip,
			Jitter:  time.Minute,
		})
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := s.Run(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(task.Wait(ctx), task.Pool())
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// limited: true
	// <nil> reports
	// <nil>
}

// A run in between, for a button or a test.
func ExampleSchedule_Run() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	s, err := schedule.New(reg).Add(ctx, "prune", schedule.Every(time.Hour), func(context.Context) error { return nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := s.Run(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(task.Wait(ctx), task)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// <nil> prune (succeeded)
	// <nil>
}

// The schedules of a process, for a page or a log.
func ExampleScheduler_All() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	sched := schedule.New(reg)
	body := func(context.Context) error { return nil }
	if _, err := sched.Add(ctx, "prune", schedule.Every(time.Hour), body); err != nil {
		fmt.Println(err)
	}
	report, err := sched.Add(ctx, "report", schedule.Daily(2, 30, time.UTC), body)
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := report.Run(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := task.Wait(ctx); err != nil {
		fmt.Println(err)
	}
	for s := range sched.All() {
		info := s.Info()
		last := "no run yet"
		if info.Last != nil {
			last = info.Last.State().String()
		}
		fmt.Printf("%s: %s, %d runs, %s\n", info.Name, info.Timetable, info.Runs, last)
	}
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// prune: every 1h0m0s, 0 runs, no run yet
	// report: daily at 02:30, UTC, 1 runs, succeeded
	// <nil>
}

// A schedule is paused, changed and removed while the process runs.
func ExampleSchedule_Change() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	sched := schedule.New(reg)
	s, err := sched.Add(ctx, "poll", schedule.Every(time.Hour), func(context.Context) error { return nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	s.Pause()
	fmt.Println("paused:", s.Info().Paused, "next:", s.Info().Next.IsZero())
	s.Resume()
	fmt.Println(s.Change(schedule.Every(time.Minute)), s.Info().Timetable)
	fmt.Println(s.Remove(), sched.Find(s.ID()) == nil)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// paused: true next: true
	// <nil> every 1m0s
	// true true
	// <nil>
}

// A report is about the day for which it was due, whenever it runs.
func ExampleDue() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	s, err := schedule.New(reg).Add(ctx, "report", schedule.Daily(2, 30, time.UTC), func(ctx context.Context) error {
		due, ok := schedule.Due(ctx)
		fmt.Println(ok, time.Since(due) < time.Minute)
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := s.Run(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// true true
	// <nil>
}
