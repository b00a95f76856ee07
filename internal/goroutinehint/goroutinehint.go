// Package goroutinehint tells goroutines apart, roughly and at little cost.
package goroutinehint

import "unsafe"

// Hint returns a number that is likely to be the same at the next call by the same
// goroutine, and likely to be another for another goroutine. It must be used for
// nothing but to choose one of several equal places, so that goroutines which act at
// the same time do not contend for one.
//
// It is a hash of the address of the goroutine's stack. The stacks of two goroutines
// are at least 2 KB apart. The address is not kept, and nothing is read through it.
func Hint() uint32 {
	var here byte
	// Fibonacci hashing: the upper bits of the product depend on all bits of the address.
	return uint32(uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9E3779B97F4A7C15 >> 32)
}
