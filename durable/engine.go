package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Enqueuer is what takes jobs: an [Engine], or an engine's view of a transaction.
type Enqueuer interface {
	// Support says what the engine can do.
	Support() Support
	// Enqueue stores a job. It is called by [Job.Enqueue] and [Job.Go], which have checked
	// that the engine supports what m asks for. It may be called by many goroutines at once.
	Enqueue(ctx context.Context, m Message) (Receipt, error)
}

// Engine is a durable queue. The packages sqlite, postgres, redis and rabbitmq beside this
// one have one each; an own one should pass the contract of package durabletest.
//
// The rules by which jobs are run, retried and given up are this package's. An engine
// stores, delivers, counts attempts, and delivers again after a crash.
type Engine interface {
	Enqueuer
	// Consume begins to deliver jobs. It fails if the engine cannot be reached; ctx bounds
	// this call alone.
	Consume(ctx context.Context, c Consumption) (Consumer, error)
	// Close gives up what the engine has opened. Consumers are to be stopped first.
	Close() error
}

// Consumption is what a [Worker] asks of its engine.
type Consumption struct {
	// Concurrency is the most calls of Handle at once.
	Concurrency int
	// Handle runs one attempt and returns what becomes of the job. It does not panic. When ctx
	// is done, the attempt is canceled.
	Handle func(ctx context.Context, d Delivery) Outcome
	// Names are those of the jobs that Handle knows; nil means any. An engine that can leaves
	// other jobs where they are. One that cannot delivers them, and Handle gives them back.
	Names []string
	// Logger gets records of what the Worker cannot see.
	Logger *slog.Logger
}

// Delivery is a job on its way to a [Worker], for one attempt.
//
// A delivery is answered if its Outcome has been stored. One is never answered if its
// process ends, or is presumed dead: a crash. It is not known then which of the jobs that
// ran in the process ended it. So a crash is held against a job only if no other job ran
// beside it, which the worker says by Count.
type Delivery struct {
	Message
	// Attempt is 1 in the first delivery. It counts the deliveries that were answered by
	// Retry and those that were never answered.
	Attempt int
	// Pardoned is the number of deliveries before this one that were never answered and for
	// which Count had not returned nil. Zero if the engine has no Count.
	Pardoned int
	// Crashed reports whether the delivery before this one was never answered.
	Crashed bool
	// Revived reports whether the job was Dead, and was made to run again: see [RetryDead].
	Revived bool
	// Count stores that this attempt counts even if it is never answered. It fails if the job
	// is no longer this worker's. An engine that cannot do it leaves Count nil; then all
	// attempts count.
	Count func(ctx context.Context) error
}

// Consumer is an engine at work.
type Consumer interface {
	// Stop takes no more jobs, gives back those that were taken and not handled yet, and
	// waits until each Handle has returned and its Outcome is stored. If ctx ends before,
	// Stop returns its error. Its contexts are not cancelled: that is the Worker's to do. It
	// may be called more than once.
	Stop(ctx context.Context) error
	// Done is closed when the consumer has stopped, by Stop or because it has lost its
	// engine for good; a connection that comes back is not lost. Err then says why, nil
	// after Stop.
	Done() <-chan struct{}
	Err() error
}

// Verdict says what is to become of a job that was handled.
type Verdict uint8

const (
	// Done removes the job: it has succeeded.
	Done Verdict = iota
	// Retry delivers the job again, as its next attempt.
	Retry
	// Return delivers the job again, as the same attempt if the engine can: it was
	// interrupted, or could not be run here.
	Return
	// Dead puts the job where the engine keeps what has failed for good.
	Dead
)

// Outcome is what came of an attempt.
type Outcome struct {
	Verdict Verdict
	After   time.Duration // of Retry and Return: the wait before the next delivery
	Err     error         // why; nil for Done
}

// Support says what an engine can do. What it cannot do is [ErrUnsupported].
type Support struct {
	Engine       string        // its name
	Unique       bool          // keys, see [Unique]
	RunAt        bool          // and with it waits between attempts
	Transactions bool          // its package has EnqueueTx
	Pardons      bool          // a crash beside other jobs is not held against a job, see [JobConfig].MaxAttempts
	Resolution   time.Duration // RunAt and Backoff are rounded up to a multiple; they may be late by more
	MaxTimeout   time.Duration // the longest [JobConfig].Timeout; 0: any
	Rescue       string        // when a job starts again whose worker was killed, in words
}

// allows returns an error if a job of this timeout cannot be run.
func (s Support) allows(job string, timeout time.Duration) error {
	if s.MaxTimeout > 0 && timeout > s.MaxTimeout {
		return fmt.Errorf("%w: %s allows a Timeout of %v at most, job %q has %v", ErrUnsupported, s.Engine, s.MaxTimeout, job, timeout)
	}
	return nil
}

// Message is a job on its way. Engines store it as its JSON, which has what a program
// needs that enqueues without this package: {"id":"…","name":"invoice","args":{"order":5}}.
type Message struct {
	ID     string          `json:"id"` // the job's own, see [Meta]
	Name   string          `json:"name"`
	Args   json.RawMessage `json:"args"`
	Unique string          `json:"unique,omitempty"` // among those of the same Name; "": none
	Used   int             `json:"used,omitempty"`   // attempts that were made before the engine had it

	// Headers are those of [JobConfig].Headers: the trace that the job belongs to, for example.
	Headers map[string]string `json:"headers,omitempty"`

	RunAt time.Time `json:"-"` // zero: now
}

// Decode reads a Message. What it refuses is no job, and no worker could run it: the error
// is ErrInvalid, and the engine should keep it with what has failed for good.
func Decode(encoded []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(encoded, &m); err != nil {
		return Message{}, fmt.Errorf("%w: message: %w", ErrInvalid, err)
	}
	switch {
	case m.ID == "" || m.Name == "":
		return Message{}, fmt.Errorf("%w: message without id or name", ErrInvalid)
	case m.Used < 0:
		return Message{}, fmt.Errorf("%w: message with %d used attempts", ErrInvalid, m.Used)
	}
	if err := tether.CheckName(m.Name); err != nil {
		return Message{}, fmt.Errorf("%w: message: %w", ErrInvalid, err) // nothing can be defined so
	}
	if m.Args == nil {
		m.Args = json.RawMessage("null")
	}
	return m, nil
}

// ErrUnavailable wraps the error with which an [Enqueuer] says that its engine was not
// reached, and that it has stored nothing. [Job.Enqueue] and [Job.Go] then try again.
var ErrUnavailable = errors.New("durable: the engine is unavailable")

// DeadRetrier is an [Engine] that can make a dead job run again: see [RetryDead].
type DeadRetrier interface {
	// RetryDead makes the job of this [Meta].ID available, as its next attempt. The error is
	// [ErrNotDead] if there is no dead job of this ID.
	RetryDead(ctx context.Context, id string) error
}

// ErrNotDead is the error of [RetryDead] if no job of this ID has failed for good, or if it is
// no longer kept.
var ErrNotDead = errors.New("durable: no dead job has this ID")

// RetryDead makes a job run again that has failed for good, by its [Meta].ID: once at least,
// and until MaxAttempts if it has used fewer. A tool of the engine's own has the same
// effect, that of River UI for example. The error is [ErrNotDead] if there is no such job,
// [ErrUnsupported] if the engine cannot do it, and otherwise the engine's.
func RetryDead(ctx context.Context, e Engine, id string) error {
	if ctx == nil || e == nil {
		return fmt.Errorf("%w: nil context or engine", ErrInvalid)
	}
	r, ok := e.(DeadRetrier)
	if !ok {
		return fmt.Errorf("%w: %s cannot retry a dead job by its ID", ErrUnsupported, e.Support().Engine)
	}
	return r.RetryDead(ctx, id)
}

// ErrLost wraps the error with which a [Worker] says that its engine is gone.
var ErrLost = errors.New("durable: the worker has lost its engine")
