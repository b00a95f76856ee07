// Package schedule runs periodic tasks.
//
// A [Scheduler] belongs to a registry, and each run of its schedules is a task there, or in
// one of its pools, with an outcome, metrics and a place on the live page:
//
//	sched := schedule.New(reg)
//	sched.Add(ctx, "prune sessions", schedule.Every(time.Hour), prune)
//	sched.Add(ctx, "daily report", schedule.Daily(2, 30, berlin), report, schedule.Config{
//		Overlap: schedule.OverlapQueue,
//		Options: []tether.Option{tether.Timeout(time.Hour)},
//	})
//
// # When
//
// A [Timetable] says when runs are due. [Every] is an interval, [Daily] a time of day, and
// any type with a method Next(time.Time) time.Time fits as it is: the Schedule of
// github.com/robfig/cron/v3, a PeriodicSchedule of River.
//
// # Daylight saving
//
// Every is elapsed time, and knows nothing of clocks that are changed. Daily runs exactly
// once a day: a time that is skipped when clocks go forward is due at the change, and a time
// that is repeated when they go back is due the first time. That is what cron does in most
// Linux distributions (man 8 cron). [WallClock] gives any other timetable the same rule, of
// which those of cron libraries have none: robfig/cron leaves out a run that is skipped, and
// repeats one that is repeated. Each wall-clock time is then due once, so an expression that
// matches many times an hour has no runs in the repeated hour; use it without WallClock.
//
// # What does not happen
//
// Two runs of a schedule never overlap: see [Overlap]. Runs are never made up for in a burst:
// see [Missed]. A schedule costs the drain nothing: no run begins once the stop has begun
// ([tether.Registry.Stopping]), and nothing waits for the next one.
//
// A schedule exists in this process alone. With several processes each of them runs it; if
// only one should, the body takes a lock, or enqueues a job with a unique key (package
// durable).
//
// # Cost
//
// All schedules of a Scheduler share one timer. While they wait there is no goroutine, and
// a schedule takes about 0.4 kB. The timer fires at least once a minute, to notice that the
// machine was suspended or its clock set.
package schedule
