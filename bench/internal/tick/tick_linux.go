//go:build linux && (amd64 || arm64)

package tick

import (
	"encoding/binary"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Ticker is a timer of the kernel that is read like a connection: the network poller
// wakes the goroutine that waits, within some ten microseconds. On an idle processor
// time.Sleep sleeps for a millisecond at least (go.dev/issue/44343).
type Ticker struct{ file *os.File }

// New returns a ticker whose first tick is in one gap from now.
func New(gap time.Duration) (*Ticker, error) {
	const monotonic = 1 // CLOCK_MONOTONIC
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("timerfd_create", errno)
	}
	t := &Ticker{os.NewFile(fd, "ticker")}
	interval := syscall.NsecToTimespec(int64(gap))
	timer := [2]syscall.Timespec{interval, interval} // the interval, and the first expiration
	_, _, errno = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&timer)), 0, 0, 0)
	if errno != 0 {
		t.Close()
		return nil, os.NewSyscallError("timerfd_settime", errno)
	}
	return t, nil
}

// Wait waits for the next tick and returns how many there were since the last call: more
// than one if the caller is late.
func (t *Ticker) Wait() (ticks int, err error) {
	var expirations [8]byte
	if _, err := t.file.Read(expirations[:]); err != nil {
		return 0, err
	}
	return int(binary.NativeEndian.Uint64(expirations[:])), nil
}

// Close releases the ticker.
func (t *Ticker) Close() error { return t.file.Close() }
