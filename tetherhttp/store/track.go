package store

import (
	"context"
	"errors"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Tracker keeps the status of durable jobs in a [Backend], in the form that the replicas of a
// service read. The Tracker of a tetherhttp.Store is one; package durable calls it. Its methods
// are safe for concurrent use, and return in time whatever the Backend does.
type Tracker interface {
	// Service is the name of the service. A job is tracked by workers of the same service.
	Service() string
	// Backend returns where the status of jobs is stored.
	Backend() Backend
	// Record returns what is stored of a job that waits for its first attempt. It is for a
	// program that stores it in a transaction; Add stores it otherwise, before the job is
	// enqueued. The error is that of a job that is not valid.
	Record(j Job) (Record, error)
	Add(ctx context.Context, j Job) error
	// Remove removes what Add has stored, of a job that was not enqueued.
	Remove(ctx context.Context, j Job)
	// Begin is called in the task of an attempt, before it does anything. From then on the status
	// is that of the task. The error is ErrCanceled or ErrDone if the attempt must not be made.
	// Any other error says why the attempt is not tracked. While the store is away the attempt is
	// made, and is stored when the store is back.
	Begin(ctx context.Context, j Job, task *tether.Task) (Attempt, error)
	// Settle stores what has become of a job without another attempt.
	Settle(ctx context.Context, j Job, end End) error
}

// Attempt is an attempt at a job that is tracked.
type Attempt interface {
	// End stores what the attempt has come to. It returns when that is stored, when ctx is done,
	// or, with an error, after some seconds; it is then stored later. It is called once, before
	// the queue is told.
	End(ctx context.Context, end End) error
}

// Job describes a job to a [Tracker].
type Job struct {
	ID, Name string
	Labels   map[string]string
	Enqueued time.Time
	RunAt    time.Time // when its first attempt is due; zero means at once

	Attempt, MaxAttempts int  // Attempt is never smaller than in an earlier call
	Revived              bool // it had ended, and was made to run again
}

// End is what an attempt at a job has come to.
type End struct {
	// State is Succeeded, with the Value; Failed, Panicked or Canceled, with the Err, if no attempt
	// follows; or Queued, with the Err if there was one.
	State       tether.State
	Value       any
	Err         error
	NextAttempt time.Time // of Queued; zero means at once
}

// Errors of a [Tracker].Begin.
var (
	// ErrCanceled says that a job was canceled before the attempt.
	ErrCanceled = errors.New("store: the job was canceled")
	// ErrDone says that the job was done in an earlier attempt, whose result is stored. Its
	// process ended before the queue was told.
	ErrDone = errors.New("store: the job is done")
)
