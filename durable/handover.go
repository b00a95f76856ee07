package durable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// handOverTime limits how long an engine may take for a job that was accepted in the process.
const handOverTime = 10 * time.Second

// Go runs the job in this process, now, as a task of r. The job goes onto the engine only if it
// cannot be done here:
//
//   - The registry or the pool is full, or the drain has begun: it is enqueued at once, and the
//     Receipt has no Task.
//   - The drain drops the task before it has started, or the pool does (OverflowDropOldest): see
//     [tether.HandOver].
//   - The drain cancels the handler: the job is enqueued at that moment, so that it is not lost
//     if the handler ignores the cancellation. A handler that succeeds after it was canceled may
//     run twice. If a handler ignores its Timeout, its next attempt is enqueued when the drain
//     begins.
//   - The attempt fails, and MaxAttempts allows another: it is enqueued with the Backoff, if the
//     engine supports waits. The Task has then failed, and the job is on the engine.
//
// So what Go has accepted is done at least once across overload and SIGTERM. A crash of the
// process (kill -9, out of memory) loses jobs that are not on the engine yet: use
// [Job.Enqueue] if that must not happen.
//
// The engine has 10 s to take a job over, and at most 2 s once the context of the Shutdown, or
// of the submission that drops the task, is done. If the engine fails, the job is lost, and the
// error is in the drain's report under NeverStarted, or joined to the Task's Err. For a task that
// had started slog.Default logs it as well, because a panic cannot carry it and a handler that
// does not return has no Err.
//
// A pool with OverflowBlock waits for room and then runs the job; use OverflowReject to put it
// on the engine instead. Canceling the Task is final: the job does not go onto the engine.
//
// Args are encoded first, so a job that cannot be encoded fails now, and the handler is given
// what was decoded from that: it shares no memory with the caller. Other errors are those of
// [Job.Enqueue] and of r; if r is full or closed and the engine fails, the error wraps both.
func (j *Job[A]) Go(ctx context.Context, r tether.Submitter, e Enqueuer, args A) (Receipt, error) {
	m, err := j.message(ctx, args)
	if err != nil {
		return Receipt{}, err
	}
	if ctx == nil || r == nil || e == nil {
		return Receipt{}, fmt.Errorf("%w: job %q: nil context, runner or engine", ErrInvalid, j.name)
	}
	if err := e.Support().allows(j.name, j.config.Timeout); err != nil {
		return Receipt{}, err
	}
	local := &attempt{job: j, engine: e, message: m}
	task, err := r.Go(ctx, j.name, local.body, tether.Timeout(j.config.Timeout), tether.HandOver(local.handOver), tether.Label("job", m.ID), j.written())
	switch {
	case err == nil:
		return Receipt{ID: m.ID, Task: task}, nil
	case !errors.Is(err, tether.ErrFull) && !errors.Is(err, tether.ErrClosed):
		return Receipt{}, err
	}
	receipt, failed := enqueue(ctx, e, m, j.config.Timeout)
	if failed != nil {
		return Receipt{}, fmt.Errorf("durable: job %q: not here (%w) and not on the engine: %w", j.name, err, failed)
	}
	return receipt, nil
}

var errNotReturned = errors.New("durable: the handler panicked or ended its goroutine")

// attempt is the attempt at a job in the process that submitted it.
type attempt struct {
	job     Definition
	engine  Enqueuer
	message Message

	once sync.Once // continueOnEngine
	lost error     // why the job is not on the engine; written within once
}

// handOver is the task's [tether.HandOver]. Its context may already be done: a Shutdown without
// a deadline leaves no time, and the context of a submission that drops this task may end with
// its client. Neither must lose the job, so the engine has stopGrace after that.
func (a *attempt) handOver(ctx context.Context, _ tether.Info) error {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(stopGrace, func() { cancel(context.Cause(ctx)) })
	})()
	return a.enqueue(late, a.message)
}

func (a *attempt) body(ctx context.Context) (err error) {
	ctx = context.WithValue(ctx, metaKey{}, Meta{ID: a.message.ID, Attempt: a.message.Used + 1, MaxAttempts: a.job.Config().MaxAttempts})
	ended, watched := make(chan struct{}), make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(watched)
		if is(context.Cause(ctx), tether.ErrTimeout) {
			select {
			case <-ended:
				return // continueOnEngine is called below, with the error
			case <-tether.StoppingFrom(ctx): // the handler may never return
			}
		}
		a.continueOnEngine(ctx, nil)
	})
	returned := false
	defer func() {
		// This also runs during a panic or a Goexit, which are failures like others.
		close(ended)
		if !unwatch() {
			<-watched
		}
		if returned && err == nil {
			return
		}
		if !returned {
			err = errNotReturned // a panic passes, or a Goexit, and Go shows neither here
		}
		a.continueOnEngine(ctx, err)
		if a.lost != nil {
			err = errors.Join(err, a.lost)
		}
	}()
	err = a.job.run(ctx, a.message.Args)
	returned = true
	return err
}

// continueOnEngine puts the job onto the engine, once, if the attempt's error, and the cause
// with which its context has ended, say that another attempt follows.
func (a *attempt) continueOnEngine(ctx context.Context, err error) {
	a.once.Do(func() {
		m, cfg := a.message, a.job.Config()
		switch classify(err, context.Cause(ctx), m.Used+1 >= cfg.MaxAttempts) {
		case Dead:
			return
		case Retry:
			m.Used++
			if err == nil {
				err = context.Cause(ctx) // the handler has not returned
			}
			wait, failed := backoff(cfg, m.Used, safeError(err))
			if failed != nil {
				slog.Error("durable: Backoff", "job", m.Name, "id", m.ID, "error", failed)
			}
			if a.engine.Support().RunAt {
				m.RunAt = time.Now().Add(wait)
			}
		}
		if failed := a.enqueue(context.WithoutCancel(ctx), m); failed != nil {
			a.lost = fmt.Errorf("durable: job %q has no further attempt: not on the engine: %w", m.Name, failed)
			slog.Error("durable: a job is lost unless its handler ends well", "job", m.Name, "id", m.ID, "error", a.lost)
		}
	})
}

// enqueue puts a message on the engine, which cannot end or block the calling goroutine.
func (a *attempt) enqueue(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	failed, err := isolated("the engine", handOverTime+stopGrace, func() error {
		_, err := enqueue(ctx, a.engine, m, a.job.Config().Timeout)
		return err
	})
	return cmp.Or(err, failed)
}
