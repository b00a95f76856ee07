package schedule_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// Zones that change their clocks, with changes at midnight, at 01:00, 02:00, 03:00 and 24:00,
// by half an hour and by two hours, in both hemispheres.
var zones = []string{
	"Europe/Berlin", "Europe/London", "Europe/Dublin", "Europe/Athens", "Europe/Chisinau", "Atlantic/Azores",
	"America/New_York", "America/Los_Angeles", "America/St_Johns", "America/Havana", "America/Santiago", "America/Nuuk",
	"America/Anchorage", "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Chatham",
	"Africa/Cairo", "Asia/Beirut", "Antarctica/Troll",
}

// forEachChange calls f for each time at which one of the zones changes its clocks in 2026:
// 40 times.
func forEachChange(t *testing.T, f func(t *testing.T, change time.Time)) {
	for _, name := range zones {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err)
		n := 0
		for at := time.Date(2026, 1, 1, 12, 0, 0, 0, loc); ; n++ {
			_, change := at.ZoneBounds()
			if change.In(loc).Year() > 2026 {
				break
			}
			t.Run(fmt.Sprintf("%s, %v", name, change.In(loc)), func(t *testing.T) { f(t, change.In(loc)) })
			at = change.Add(1)
		}
		require.Equal(t, 2, n, name)
	}
}

// window is how long before and after a change the tests look: all minutes of a day, also
// if an hour of them is skipped.
const window = 13 * time.Hour

// wallMinute returns what a clock shows, in minutes since 1970.
func wallMinute(t time.Time) int {
	_, offset := t.Zone()
	return int(t.Unix()+int64(offset)) / 60
}

// wallMinutes returns when each minute of the wall clock is due around a change. It goes
// through all minutes that pass: a minute of the wall clock is due when a clock shows it
// first, or when the clock skips it.
func wallMinutes(change time.Time) map[int]time.Time {
	due := make(map[int]time.Time)
	latest := wallMinute(change.Add(-window))
	for t := change.Add(-window + time.Minute); !t.After(change.Add(window)); t = t.Add(time.Minute) {
		for ; latest < wallMinute(t); latest++ {
			due[latest+1] = t
		}
	}
	return due
}

// Twenty time zones, both changes of the clocks, every minute of the day: each wall-clock
// time has its run exactly once.
func TestS3_DaylightSaving(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	forEachChange(t, func(t *testing.T, change time.Time) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Retain: -1})
			sched := schedule.New(reg)
			time.Sleep(time.Until(change.Add(-window)))
			const day = 24 * 60
			var ran [day][]time.Time // each written by one schedule, whose runs do not overlap
			for m := 0; m < day; m += step {
				_, err := sched.Add(context.Background(), "daily", schedule.Daily(m/60, m%60, change.Location()), func(context.Context) error {
					ran[m] = append(ran[m], time.Now())
					return nil
				})
				require.NoError(t, err)
			}
			time.Sleep(2 * window)
			synctest.Wait()
			var want [day][]time.Time
			for m, at := range wallMinutes(change) {
				if m %= day; m%step == 0 {
					want[m] = append(want[m], at)
				}
			}
			for m := 0; m < day; m += step {
				assert.ElementsMatch(t, unixes(want[m]), unixes(ran[m]), "%02d:%02d", m/60, m%60)
			}
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
}

func unixes(times []time.Time) (all []int64) {
	for _, t := range times {
		all = append(all, t.Unix())
	}
	return all
}

// The same for patterns that match many times a day: a minute of each hour, and every
// minute. Times that are due at once are one run.
func TestS3_WallClock(t *testing.T) {
	forEachChange(t, func(t *testing.T, change time.Time) {
		minutes := wallMinutes(change)
		check := func(what string, pattern schedule.NextFunc, matches func(minute int) bool) {
			want := make(map[int64]bool)
			for m, at := range minutes {
				if matches(m) {
					want[at.Unix()] = true
				}
			}
			table := schedule.WallClock(change.Location(), pattern)
			for at := table.Next(change.Add(-window)); !at.After(change.Add(window)); at = table.Next(at) {
				if !want[at.Unix()] {
					t.Errorf("%s: a run at %v, a second one or none that matches", what, at)
					return
				}
				delete(want, at.Unix())
			}
			assert.Empty(t, want, what)
		}
		step := 1
		if testing.Short() {
			step = 7
		}
		for m := 0; m < 60; m += step {
			check(fmt.Sprintf("minute %d of each hour", m), func(t time.Time) time.Time {
				next := t.Truncate(time.Hour).Add(time.Duration(m) * time.Minute)
				if !next.After(t) {
					next = next.Add(time.Hour)
				}
				return next
			}, func(minute int) bool { return minute%60 == m })
		}
		check("every minute", func(t time.Time) time.Time { return t.Truncate(time.Minute).Add(time.Minute) }, func(int) bool { return true })
	})
	t.Run("asked at any minute", func(t *testing.T) {
		forEachChange(t, func(t *testing.T, change time.Time) {
			var hourly []time.Time // due at the minute 30
			for m, at := range wallMinutes(change) {
				if m%60 == 30 {
					hourly = append(hourly, at)
				}
			}
			slices.SortFunc(hourly, time.Time.Compare)
			table := schedule.WallClock(change.Location(), schedule.NextFunc(func(t time.Time) time.Time {
				return t.Add(30 * time.Minute).Truncate(time.Hour).Add(30 * time.Minute)
			}))
			for at := change.Add(-window); len(hourly) > 0; at = at.Add(time.Minute) {
				if !hourly[0].After(at) {
					hourly = slices.DeleteFunc(hourly, func(t time.Time) bool { return !t.After(at) })
					continue
				}
				if next := table.Next(at); !next.Equal(hourly[0]) {
					t.Errorf("asked at %v: %v instead of %v", at, next, hourly[0])
					return
				}
			}
		})
	})
	t.Run("a whole day is skipped", func(t *testing.T) {
		apia, err := time.LoadLocation("Pacific/Apia")
		require.NoError(t, err)
		noon := schedule.Daily(12, 0, apia)
		at := time.Date(2011, 12, 29, 6, 0, 0, 0, apia)
		var due []string
		for range 4 {
			at = noon.Next(at)
			due = append(due, at.Format(time.RFC3339))
		}
		assert.Equal(t, []string{"2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00", "2012-01-01T12:00:00+14:00"}, due)
	})
	t.Run("no further run", func(t *testing.T) {
		assert.Zero(t, schedule.WallClock(time.UTC, returns(time.Time{})).Next(time.Now()))
	})
}

// An interval is elapsed time.
func TestS3_EveryKnowsNoClocks(t *testing.T) {
	forEachChange(t, func(t *testing.T, change time.Time) {
		at := change.Add(-window)
		for range 26 {
			next := schedule.Every(time.Hour).Next(at)
			require.Equal(t, time.Hour, next.Sub(at))
			at = next
		}
	})
}
