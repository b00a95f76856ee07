// Package spread tells goroutines apart, cheaply and roughly.
package spread

import "unsafe"

// Hint returns a number that is likely to be the same for one goroutine's next call
// and different for another goroutine's. It is good for choosing one of several
// equal places, so that those who come at once do not meet, and for nothing else.
//
// It is a hash of where the goroutine's stack is: two goroutines' stacks are at
// least 2 KB apart. The address is not kept and nothing is read through it.
func Hint() uint32 {
	var here byte
	return uint32(uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9E3779B97F4A7C15 >> 32)
}
