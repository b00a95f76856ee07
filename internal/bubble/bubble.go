// Package bubble recognizes the bubbles of testing/synctest.
//
// A bubble has a clock of its own, which starts at midnight UTC on 2000-01-01 and
// stands still while a goroutine of the bubble runs. A goroutine of the bubble that
// waits for a goroutine outside, or for the next use of what started it, makes the
// test hang or fail. So a library that keeps idle goroutines needs to know where it
// is. Two observations tell, and neither costs more than the clock that is read anyway:
//
//   - A thing that was made inside is recognized by the time of its making: [Inside].
//   - A thing that was made outside measures a negative time since its making when
//     it is used inside, because the bubble's clock is decades behind. time.Since
//     compares wall clocks there, and monotonic clocks outside, so outside the time is
//     never negative.
//
// The second one fails in a bubble that has slept until after the making, for a
// quarter of a century.
package bubble

import "time"

// horizon is between the start of every bubble's clock and the first release of Go that
// has bubbles. A program whose real clock is before it is taken for a bubble.
var horizon = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// Inside reports whether now, which must be a result of time.Now, was read inside a
// bubble. It may have been changed by Add, but not by a method that strips the
// monotonic clock reading, such as UTC, Local or Round: a time that has none counts
// as read inside.
func Inside(now time.Time) bool {
	monotonic := now != now.Round(0) // Round(0) does nothing but strip the reading
	return !monotonic || now.Before(horizon)
}
