// Package cron is a recipe: schedules from the expressions of github.com/robfig/cron/v3.
package cron

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// A parsed expression is a Timetable as it is.
func Example() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	everyQuarter, err := cron.ParseStandard("*/15 * * * *")
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := schedule.New(reg).Add(ctx, "quarter of an hour", everyQuarter, func(context.Context) error { return nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Info().Next.Minute()%15, reg.Shutdown(ctx))
	// Output: 0 <nil>
}

// With WallClock, a run at a certain hour is neither left out nor repeated when the clocks are
// changed. Without it, robfig/cron does both.
func Example_wallClock() {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		fmt.Println(err)
		return
	}
	nightly, err := cron.ParseStandard("30 2 * * *")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, day := range []time.Time{time.Date(2026, 3, 28, 12, 0, 0, 0, berlin), time.Date(2026, 10, 24, 12, 0, 0, 0, berlin)} {
		for _, table := range []schedule.Timetable{nightly, schedule.WallClock(berlin, nightly)} {
			first := table.Next(day)
			fmt.Println(first.Format("02 Jan 15:04 MST"), "and then", table.Next(first).Format("02 Jan 15:04 MST"))
		}
	}
	// Output:
	// 30 Mar 02:30 CEST and then 31 Mar 02:30 CEST
	// 29 Mar 03:00 CEST and then 30 Mar 02:30 CEST
	// 25 Oct 02:30 CEST and then 25 Oct 02:30 CET
	// 25 Oct 02:30 CEST and then 26 Oct 02:30 CET
}

func TestRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := tether.New(tether.Config{})
		weekdays, err := cron.ParseStandard("0 9 * * MON-FRI")
		require.NoError(t, err)
		runs := make(map[time.Weekday]int)
		_, err = schedule.New(reg).Add(context.Background(), "standup", schedule.WallClock(time.UTC, weekdays), func(ctx context.Context) error {
			due, _ := schedule.Due(ctx)
			runs[due.Weekday()]++
			return nil
		})
		require.NoError(t, err)
		time.Sleep(4 * 7 * 24 * time.Hour)
		synctest.Wait()
		assert.Equal(t, map[time.Weekday]int{time.Monday: 4, time.Tuesday: 4, time.Wednesday: 4, time.Thursday: 4, time.Friday: 4}, runs)
		require.NoError(t, reg.Shutdown(context.Background()))
	})
}
