// Package weaktimer has timers that keep nothing alive.
package weaktimer

import (
	"time"
	"weak"
)

// AfterFunc is time.AfterFunc for a method of v, which the timer does not keep alive:
// the runtime may know of a timer for a while after it was stopped.
func AfterFunc[T any](d time.Duration, v *T, f func(*T)) *time.Timer {
	self := weak.Make(v)
	return time.AfterFunc(d, func() {
		if v := self.Value(); v != nil {
			f(v)
		}
	})
}
