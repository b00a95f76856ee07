package tether

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Errors to compare with errors.Is.
var (
	// ErrClosed is returned for a submission once Shutdown has begun.
	ErrClosed = errors.New("tether: shutting down: no new tasks, except those that a running task submits with its own context")
	// ErrFull is returned for a submission to a full pool or registry, or one that there is
	// no memory for: see [FullError] and [MemoryError]. It is also the error of a task that
	// OverflowDropOldest has dropped, and of one that has waited too long: see [MaxWaitError].
	ErrFull = errors.New("tether: full")
	// ErrInvalid is returned if an argument is invalid. The text says which.
	ErrInvalid = errors.New("tether: invalid")
	// ErrShutdown is the cause with which the drain cancels or drops a task.
	ErrShutdown = errors.New("tether: canceled by the shutdown")
	// ErrGoexit is the error of a function that ended its goroutine by runtime.Goexit.
	ErrGoexit = errors.New("tether: the function ended its goroutine (runtime.Goexit)")
	// ErrNotFound is returned by Find for an ID that the registry has not made.
	ErrNotFound = errors.New("tether: no such task")
	// ErrExpired is returned by Find for a finished task that is no longer retained.
	ErrExpired = errors.New("tether: the task has ended and is no longer retained")
	// ErrTimeout is the cause with which a task's Timeout cancels it. It is a
	// context.DeadlineExceeded too.
	ErrTimeout error = timeoutError{}
)

type timeoutError struct{}

func (timeoutError) Error() string { return "tether: the task's time is up" }
func (timeoutError) Timeout() bool { return true }
func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// FullError describes what was full when a task was refused. It is an [ErrFull].
// Refusals may share one value, which must not be changed.
type FullError struct {
	Pool            string        // empty if it was the registry's Limit
	Share           string        // the share that is at the pool's ShareLimit; empty if the pool itself is full
	Running, Queued int           // live tasks at that time; for the Limit, Running is all of them
	Limit           int           // how many there may be
	RetryAfter      time.Duration // an estimate of when there will be room
}

func (e *FullError) Error() string {
	where := "the registry"
	if e.Pool != "" {
		where = fmt.Sprintf("pool %q", e.Pool)
	}
	if e.Share != "" {
		where = fmt.Sprintf("share %q of %s", e.Share, where)
	}
	return fmt.Sprintf("tether: %s is full: %d running, %d queued, limit %d", where, e.Running, e.Queued, e.Limit)
}

func (e *FullError) Is(target error) bool { return target == ErrFull }

// PanicError is the error of a task if its body, or a callback of its options, panicked,
// and of a server or closer of [Registry.Run] that did.
type PanicError struct {
	Value    any    // the value of the panic
	Stack    []byte // of the goroutine, as debug.Stack returns it
	In       string // what panicked: "body", "hand-over", `closing "database"`
	Task, ID string // empty if it belongs to no task
}

func (e *PanicError) Error() string {
	if e.Task == "" {
		return fmt.Sprintf("tether: panic in %s: %v", e.In, e.Value)
	}
	return fmt.Sprintf("tether: task %q panicked: %v", e.Task, e.Value)
}

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func (e *PanicError) attrs() []slog.Attr {
	return []slog.Attr{slog.String("in", e.In), slog.Any("panic", e.Value), slog.String("stack", string(e.Stack))}
}

// safeIs is errors.Is, except that it returns false if a method of err panics: err may be
// a nil pointer of a type with methods.
func safeIs(err, target error) (is bool) {
	defer func() {
		if recover() != nil {
			is = false
		}
	}()
	return errors.Is(err, target)
}
