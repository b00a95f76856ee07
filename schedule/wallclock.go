package schedule

import (
	"fmt"
	"time"
)

// WallClock is a Timetable that has each wall-clock time of another one exactly once. The
// times that of is given and returns are in UTC, and are taken for what a clock in loc
// shows, so of needs no rule for daylight saving. A time that loc skips when clocks go
// forward is due at the change. A time that it repeats when clocks go back is due the first
// time. Two times that are due at once are one run.
//
// An expression of robfig/cron must not name a time zone itself:
//
//	nightly, err := cron.ParseStandard("30 2 * * *")
//	sched.Add(ctx, "report", schedule.WallClock(berlin, nightly), report)
func WallClock(loc *time.Location, of Timetable) Timetable { return wallClock{loc, of} }

type wallClock struct {
	loc *time.Location
	of  Timetable
}

func (w wallClock) Next(t time.Time) time.Time {
	next := w.of.Next(latestWall(t.In(w.loc)))
	if next.IsZero() {
		return next
	}
	return firstInstant(next, w.loc)
}

func (w wallClock) String() string { return fmt.Sprintf("%s, %v", describe(w.of), w.loc) }

// A wall is what a clock shows, as a time in UTC.

func wallOf(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// latestWall returns the latest wall that a clock has shown up to t, in t's location. While
// an hour is repeated that is its end: everything in it has been there.
func latestWall(t time.Time) time.Time {
	wall := wallOf(t)
	if start, _ := t.ZoneBounds(); !start.IsZero() {
		// The last one before the change; the change itself shows another wall.
		if before := wallOf(start.Add(-1)); before.After(wall) {
			return before
		}
	}
	return wall
}

// firstInstant returns when a clock in loc first shows a wall, or the change by which it is
// skipped.
func firstInstant(wall time.Time, loc *time.Location) time.Time {
	year, month, day := wall.Date()
	// Around a change, Date returns a time that is right in one of the two zones.
	t := time.Date(year, month, day, wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), loc)
	start, end := t.ZoneBounds()
	shown := wallOf(t)
	switch {
	case shown.After(wall): // skipped, and t is after the change
		return start
	case shown.Before(wall): // skipped, and t is before it
		return end
	case start.IsZero():
		return t
	}
	// Shown at t. The zone before may have shown it, too.
	_, offset := start.Add(-1).Zone()
	if earlier := wall.Add(-time.Duration(offset) * time.Second); earlier.Before(start) {
		return earlier.In(loc)
	}
	return t
}
