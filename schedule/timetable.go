package schedule

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A Timetable says when the runs of a schedule are due.
//
// Next returns the first time after t at which a run is due, or the zero time if there is
// none. t is in the local time zone. Next is called again with the time that it has
// returned, or with the present if that is later. It is called on a goroutine of its own,
// so it delays no other schedule. If it panics, or returns a time that is not after t, the
// schedule has no next run: [Info].Err says why, and Next is called again a minute later.
//
// If a Timetable has a method String, [Info] shows what that returns.
type Timetable interface {
	Next(t time.Time) time.Time
}

// NextFunc makes a Timetable of a function.
type NextFunc func(t time.Time) time.Time

// Next calls f.
func (f NextFunc) Next(t time.Time) time.Time { return f(t) }

// Every is a Timetable of runs that are d apart, whatever the wall clock does. The first
// is due d after the schedule was added. d must be more than 0.
func Every(d time.Duration) Timetable { return every(d) }

type every time.Duration

func (d every) Next(t time.Time) time.Time { return t.Add(time.Duration(d)) }
func (d every) String() string             { return "every " + time.Duration(d).String() }

// Daily is a Timetable of one run a day, at this time of day in a location: see
// [WallClock].
func Daily(hour, minute int, loc *time.Location) Timetable {
	return WallClock(loc, timeOfDay{hour, minute})
}

// timeOfDay is a time of day in UTC.
type timeOfDay struct{ hour, minute int }

func (d timeOfDay) Next(t time.Time) time.Time {
	year, month, day := t.UTC().Date()
	next := time.Date(year, month, day, d.hour, d.minute, 0, 0, time.UTC)
	if !next.After(t) {
		next = next.AddDate(0, 0, 1)
	}
	return next
}

func (d timeOfDay) String() string { return fmt.Sprintf("daily at %02d:%02d", d.hour, d.minute) }

// invalidTimetable returns why a timetable cannot be used, as far as this package knows it.
func invalidTimetable(t Timetable) error {
	switch t := t.(type) {
	case nil:
		return fmt.Errorf("%w: nil Timetable", tether.ErrInvalid)
	case every:
		if t <= 0 {
			return fmt.Errorf("%w: Every(%v): must be more than 0", tether.ErrInvalid, time.Duration(t))
		}
	case timeOfDay:
		if t.hour < 0 || t.hour > 23 || t.minute < 0 || t.minute > 59 {
			return fmt.Errorf("%w: Daily(%d, %d): no time of day", tether.ErrInvalid, t.hour, t.minute)
		}
	case wallClock:
		if t.loc == nil {
			return fmt.Errorf("%w: nil Location", tether.ErrInvalid)
		}
		return invalidTimetable(t.of)
	}
	return nil
}

// isOwn reports whether t is of this package alone, so that Next does return.
func isOwn(t Timetable) bool {
	switch t := t.(type) {
	case every, timeOfDay:
		return true
	case wallClock:
		return isOwn(t.of)
	}
	return false
}

// next returns the first time after t at which a run is due, zero if there is none, or
// what is wrong with the timetable.
func next(table Timetable, t time.Time) (due time.Time, err error) {
	defer contain(&err)
	t = t.Local()
	due = table.Next(t).Round(0) // without a monotonic reading: wall clocks are compared
	if !due.IsZero() && !due.After(t) {
		return time.Time{}, fmt.Errorf("schedule: the timetable is wrong: Next returned %v, which is not after %v", due, t)
	}
	return due, nil
}

// describe returns the text for a timetable.
func describe(table Timetable) (text string) {
	text = fmt.Sprintf("%T", table) // unless String returns
	if s, ok := table.(fmt.Stringer); ok {
		var err error
		defer contain(&err)
		text = s.String()
	}
	return text
}

// contain makes an error of a panic in a method of a timetable. It must be deferred.
func contain(err *error) {
	if v := recover(); v != nil {
		*err = &tether.PanicError{Value: v, Stack: debug.Stack(), In: "timetable"}
	}
}
