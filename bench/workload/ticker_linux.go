//go:build linux && (amd64 || arm64)

package workload

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// ticker is a timer of the kernel that is read like a connection: the goroutine that
// waits is woken by the network poller and within some ten microseconds. time.Sleep would
// sleep for a millisecond at least (go.dev/issue/44343).
type ticker struct{ file *os.File }

func newTicker(gap time.Duration) (ticker, error) {
	const monotonic = 1 // CLOCK_MONOTONIC
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return ticker{}, os.NewSyscallError("timerfd_create", errno)
	}
	file := os.NewFile(fd, "ticker")
	interval := syscall.NsecToTimespec(int64(gap))
	timer := [2]syscall.Timespec{interval, interval} // the interval, and the first expiration
	_, _, errno = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&timer)), 0, 0, 0)
	if errno != 0 {
		file.Close()
		return ticker{}, os.NewSyscallError("timerfd_settime", errno)
	}
	return ticker{file}, nil
}

// Wait returns at the next tick, or at once if one was missed.
func (t ticker) Wait() error {
	var expirations [8]byte
	_, err := t.file.Read(expirations[:])
	return err
}

func (t ticker) Close() error { return t.file.Close() }
