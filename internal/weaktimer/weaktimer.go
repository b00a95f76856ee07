// Package weaktimer makes timers that keep nothing alive.
package weaktimer

import (
	"time"
	"weak"
)

// AfterFunc is time.AfterFunc for a method f of v. The timer does not keep v alive, and
// does nothing if v is gone. A timer that refers to v would keep v alive until it fires,
// and for a while after it was stopped, because the runtime removes stopped timers late.
func AfterFunc[T any](d time.Duration, v *T, f func(*T)) *time.Timer {
	self := weak.Make(v)
	return time.AfterFunc(d, func() {
		if v := self.Value(); v != nil {
			f(v)
		}
	})
}
