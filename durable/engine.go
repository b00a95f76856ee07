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

// Enqueuer takes jobs: an [Engine], or an engine within a transaction.
type Enqueuer interface {
	// Support returns the engine's capabilities.
	Support() Support
	// Enqueue stores a job. It is called by [Job.Enqueue] and [Job.Go], which have checked
	// that the engine supports what m asks for. It must be safe for concurrent use.
	Enqueue(ctx context.Context, m Message) (Receipt, error)
}

// Engine is a durable queue. The packages sqlite, postgres, redis and rabbitmq beside this
// one provide one each. Another implementation should pass the contract of package durabletest.
//
// This package decides when a job is run, retried and given up. An engine stores jobs,
// delivers them, counts attempts, and delivers again after a crash.
type Engine interface {
	Enqueuer
	// Consume begins to deliver jobs. It fails if the engine cannot be reached. ctx bounds only
	// this call.
	Consume(ctx context.Context, c Consumption) (Consumer, error)
	// Close releases what the engine has opened. Consumers must be stopped first.
	Close() error
}

// Consumption is what a [Worker] asks of its engine.
type Consumption struct {
	// Concurrency is the most calls of Handle at once.
	Concurrency int
	// Handle runs one attempt and returns what becomes of the job. It does not panic. When ctx
	// is done, the attempt is canceled.
	Handle func(ctx context.Context, d Delivery) Outcome
	// Names are the names of the jobs that Handle knows; nil means all. An engine should leave
	// other jobs in the queue. If it delivers them, Handle gives them back.
	Names []string
	// Logger gets records of what the Worker cannot see.
	Logger *slog.Logger
}

// Delivery is a job on its way to a [Worker], for one attempt.
//
// A delivery is answered when its Outcome has been stored. It is never answered if its process
// ends, or is presumed dead: a crash. Which of the jobs that ran in the process ended it is
// not known. So a crash counts against a job only if no other job ran beside it, which the
// worker states by calling Count.
type Delivery struct {
	Message
	// Attempt is 1 in the first delivery. Deliveries that were answered by Retry, or never
	// answered, increase it.
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
	// Stop takes no more jobs, gives back the jobs that were taken and not handled yet, and
	// waits until each Handle has returned and its Outcome is stored. If ctx is done first, Stop
	// returns its error. Stop does not cancel the contexts of Handle; the Worker does. It may be
	// called more than once.
	Stop(ctx context.Context) error
	// Done is closed when the consumer has stopped, by Stop or because it has lost its
	// engine for good; a connection that comes back is not lost. Err then says why, nil
	// after Stop.
	Done() <-chan struct{}
	Err() error
}

// Verdict is what becomes of a job that was handled.
type Verdict uint8

const (
	// Done removes the job: it has succeeded.
	Done Verdict = iota
	// Retry delivers the job again, as its next attempt.
	Retry
	// Return delivers the job again, as the same attempt if the engine can: it was
	// interrupted, or could not be run here.
	Return
	// Dead puts the job where the engine keeps jobs that have failed for good.
	Dead
)

// Outcome is the result of an attempt.
type Outcome struct {
	Verdict Verdict
	After   time.Duration // of Retry and Return: the wait before the next delivery
	Err     error         // the reason; nil for Done
}

// Support lists the capabilities of an engine. Other requests return [ErrUnsupported].
type Support struct {
	Engine       string        // its name
	Unique       bool          // keys, see [Unique]
	RunAt        bool          // and with it waits between attempts
	Transactions bool          // its package has EnqueueTx
	Pardons      bool          // a crash beside other jobs is not held against a job, see [JobConfig].MaxAttempts
	Resolution   time.Duration // RunAt and Backoff are rounded up to a multiple; they may be late by more
	MaxTimeout   time.Duration // the longest [JobConfig].Timeout; zero means no limit
	Rescue       string        // when the jobs of a killed worker start again, in words
}

// allows returns an error if a job of this timeout cannot be run.
func (s Support) allows(job string, timeout time.Duration) error {
	if s.MaxTimeout > 0 && timeout > s.MaxTimeout {
		return fmt.Errorf("%w: %s allows a Timeout of %v at most, job %q has %v", ErrUnsupported, s.Engine, s.MaxTimeout, job, timeout)
	}
	return nil
}

// Message is a job as engines store it: as JSON. A program can enqueue without this package by
// storing such a document: {"id":"…","name":"invoice","args":{"order":5}}.
type Message struct {
	ID     string          `json:"id"` // the job's own, see [Meta]
	Name   string          `json:"name"`
	Args   json.RawMessage `json:"args"`
	Unique string          `json:"unique,omitempty"` // the key, among jobs of the same Name; "" means none
	Used   int             `json:"used,omitempty"`   // attempts made before the engine had the job

	// Headers is what [JobConfig].Headers returned: the trace of the job, for example.
	Headers map[string]string `json:"headers,omitempty"`
	// Labels are those that [Label] has set.
	Labels map[string]string `json:"labels,omitempty"`
	// Tracked says that the job's status is kept, see [Tracked]; nil if it is not.
	Tracked *Tracking `json:"tracked,omitempty"`

	RunAt time.Time `json:"-"` // zero means now
}

// Decode parses a Message. The error is an ErrInvalid if encoded is not a valid job, which no
// worker could run; the engine should keep it with the dead jobs.
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

// ErrUnavailable wraps the error of an [Enqueuer] that did not reach its engine and has stored
// nothing. [Job.Enqueue] and [Job.Go] then try again.
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

// ErrLost wraps the error of a [Worker] that has lost its engine.
var ErrLost = errors.New("durable: the worker has lost its engine")
