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

// handOverTime bounds what an engine may take for a job that was accepted in the process.
const handOverTime = 10 * time.Second

// Go runs the job in this process, as a task of r, now. Only if it cannot be done here
// the job goes onto the engine:
//
//   - the registry or the pool is full, or the drain has begun: Enqueue at once, and the
//     Receipt has no Task;
//   - the drain drops the task before it has started, or the pool does (DropOldest):
//     [tether.HandOver];
//   - the drain cancels the handler: at that moment, so that a handler that ignores it is
//     no loss. One that ends well after it has been cancelled may run twice. A handler that
//     ignores its Timeout is not waited for that long: its next attempt is on the engine
//     when the drain begins;
//   - the attempt fails, and MaxAttempts allows another: with the Backoff, if the engine
//     has waits. The Task has failed then, and the job is on the engine.
//
// So what Go has accepted is done at least once across overload and SIGTERM. A crash of the
// process (kill -9, out of memory) loses what has not gone onto the engine: for that there
// is [Job.Enqueue].
//
// The engine has 10 s to take a job over, and 2 s at most once the context of the Shutdown
// has ended, or of the submission that drops the task. If it fails to, the job is lost, and the error is in the drain's report
// under NeverStarted, or joined to the Task's Err; of a task that had started it is
// logged by slog.Default as well, since a panic has no room for it and a handler that does
// not return has no Err.
//
// A pool with Block waits for room, as it always does, and then runs the job: to have it
// go onto the engine instead, use Reject. Cancelling the Task is final: nothing goes onto the engine.
//
// Args are encoded before anything else, so that a job that cannot travel fails now, and
// the handler is given what was decoded from that: it shares no memory with the caller.
// Other errors are those of [Job.Enqueue] and of r; if r is full or closed and the engine
// fails, both.
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
	task, err := r.Go(ctx, j.name, local.body, tether.Timeout(j.config.Timeout), tether.HandOver(local.handOver), tether.Label("job", m.ID))
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

// attempt is the one that a job is given in the process where it was submitted.
type attempt struct {
	job     Definition
	engine  Enqueuer
	message Message

	once sync.Once // goes on
	lost error     // what has become of that; written within once
}

// handOver is the task's [tether.HandOver]. Its context may have ended already, since a
// Shutdown without a deadline leaves it no time, and since nobody's job should be lost
// because the client of another one, which takes its place, has gone away.
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
				return // it says itself how
			case <-tether.StoppingFrom(ctx): // there may be no other moment
			}
		}
		a.continueOnEngine(ctx, nil)
	})
	returned := false
	defer func() {
		// It runs while a panic or a Goexit passes, too: these are failures like others.
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

// continueOnEngine puts the job onto the engine, once, if it is to go on there after what has become
// of the attempt: the cause with which its context has ended, and its error.
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

// enqueue is for goroutines that the engine must not end, and contexts that it must not
// have for long.
func (a *attempt) enqueue(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	failed, err := isolated("the engine", handOverTime+stopGrace, func() error {
		_, err := enqueue(ctx, a.engine, m, a.job.Config().Timeout)
		return err
	})
	return cmp.Or(err, failed)
}
