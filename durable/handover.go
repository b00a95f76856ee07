package durable

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
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
//     run twice. If a handler ignores its Timeout, its next attempt is enqueued when the stop
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
// what was decoded from that: it shares no memory with the caller. Args for which that makes no
// difference, such as structs of numbers and strings, are copied instead; such a job takes 3 to 5
// times as long as an empty task of a pool, one or two microseconds. Other errors are those of
// [Job.Enqueue] and of r; if r is full or closed and the engine fails, the error wraps both.
func (j *Job[A]) Go(ctx context.Context, r tether.Submitter, e Enqueuer, args A) (Receipt, error) {
	local := &attempt[A]{job: j, engine: e, args: args}
	if !j.plain || !isPlain(reflect.ValueOf(&local.args).Elem()) {
		encoded, err := j.encode(args)
		if err != nil {
			return Receipt{}, err
		}
		local.encoded = encoded
	}
	if ctx == nil || r == nil || e == nil {
		return Receipt{}, fmt.Errorf("%w: job %q: nil context, runner or engine", ErrInvalid, j.name)
	}
	if err := e.Support().allows(j.name, j.config.Timeout); err != nil {
		return Receipt{}, err
	}
	id := j.ids.next()
	local.ctx.meta = Meta{ID: id, Attempt: 1, MaxAttempts: j.config.MaxAttempts}
	local.headers = j.headers(ctx, id)
	options := [...]tether.Option{
		tether.HandOver(local.handOver), tether.OnStop(local.watch), tether.Label(labelJob, id), j.timeout, j.wraps,
	}
	var task *tether.Task
	var err error
	switch r := r.(type) { // calls through the interface would have options allocated
	case *tether.Pool:
		task, err = r.Go(ctx, j.name, local.body, options[:]...)
	case *tether.Registry:
		task, err = r.Go(ctx, j.name, local.body, options[:]...)
	default:
		task, err = r.Go(ctx, j.name, local.body, slices.Clone(options[:])...)
	}
	switch {
	case err == nil:
		return Receipt{ID: id, Task: task}, nil
	case !errors.Is(err, tether.ErrFull) && !errors.Is(err, tether.ErrClosed):
		return Receipt{}, err
	}
	receipt, failed := local.put(ctx, 0, time.Time{})
	if failed != nil {
		return Receipt{}, fmt.Errorf("durable: job %q: not here (%w) and not on the engine: %w", j.name, err, failed)
	}
	return receipt, nil
}

var errNotReturned = errors.New("durable: the handler panicked or ended its goroutine")

// attempt is the attempt at a job in the process that submitted it.
type attempt[A any] struct {
	ctx     jobContext // the handler's; a part of the attempt, to be no allocation of its own
	job     *Job[A]
	engine  Enqueuer
	headers map[string]string
	args    A
	encoded json.RawMessage // args, if they are not plain

	mu      sync.Mutex
	unwatch func()    // nil until the attempt is watched; guarded by mu
	once    sync.Once // continueOnEngine
	ended   bool      // the handler has ended; guarded by mu; here it takes no space
	lost    error     // why the job is not on the engine; written within once
}

// put puts the job onto the engine, after used attempts.
func (a *attempt[A]) put(ctx context.Context, used int, runAt time.Time) (Receipt, error) {
	m := Message{ID: a.ctx.meta.ID, Name: a.job.name, Args: a.encoded, Used: used, Headers: a.headers, RunAt: runAt}
	if m.Args == nil {
		encoded, err := a.job.encode(a.args)
		if err != nil {
			return Receipt{}, err
		}
		m.Args = encoded
	}
	return enqueue(ctx, a.engine, m, a.job.config.Timeout)
}

// handOver is the task's [tether.HandOver]. Its context may already be done: a Shutdown without
// a deadline leaves no time, and the context of a submission that drops this task may end with
// its client. Neither must lose the job, so the engine has stopGrace after that.
func (a *attempt[A]) handOver(ctx context.Context, _ tether.Info) error {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(stopGrace, func() { cancel(context.Cause(ctx)) })
	})()
	return a.enqueue(late, 0, time.Time{})
}

func (a *attempt[A]) body(ctx context.Context) (err error) {
	a.ctx.Context = ctx
	returned := false
	defer func() {
		// This also runs during a panic or a Goexit, which are failures like others.
		a.end()
		if returned && err == nil {
			return
		}
		if !returned {
			err = errNotReturned // a panic passes, or a Goexit, and Go shows neither here
		}
		a.continueOnEngine(&a.ctx, err)
		if a.lost != nil {
			err = errors.Join(err, a.lost)
		}
	}()
	if a.encoded == nil {
		_, err = a.job.handler(&a.ctx, a.args)
	} else {
		_, err = a.job.run(&a.ctx, a.encoded)
	}
	returned = true
	return err
}

// watch is the task's [tether.OnStop]. It puts the job onto the engine when the drain cancels
// the handler, and when its time is up, or was up before, since the handler may never return.
// That needs the cancellation of the context, which costs more than a short handler does.
func (a *attempt[A]) watch(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	watched := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(watched)
		a.continueOnEngine(ctx, nil)
	})
	a.unwatch = func() {
		if !stop() {
			<-watched
		}
	}
}

// end ends the watch: when it returns, none will begin, and what one does has been done.
func (a *attempt[A]) end() {
	a.mu.Lock()
	a.ended = true
	unwatch := a.unwatch
	a.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
}

// continueOnEngine puts the job onto the engine, once, if the attempt's error, and the cause
// with which its context has ended, say that another attempt follows.
func (a *attempt[A]) continueOnEngine(ctx context.Context, err error) {
	a.once.Do(func() {
		cfg, used, runAt := a.job.config, 0, time.Time{}
		switch classify(err, context.Cause(ctx), cfg.MaxAttempts <= 1) {
		case Dead:
			return
		case Retry:
			used = 1
			if err == nil {
				err = context.Cause(ctx) // the handler has not returned
			}
			wait, failed := backoff(cfg, used, safeError(err))
			if failed != nil {
				slog.Error("durable: Backoff", "job", a.job.name, "id", a.ctx.meta.ID, "error", failed)
			}
			if a.engine.Support().RunAt {
				runAt = time.Now().Add(wait)
			}
		}
		if failed := a.enqueue(context.WithoutCancel(ctx), used, runAt); failed != nil {
			a.lost = fmt.Errorf("durable: job %q has no further attempt: not on the engine: %w", a.job.name, failed)
			slog.Error("durable: a job is lost unless its handler ends well", "job", a.job.name, "id", a.ctx.meta.ID, "error", a.lost)
		}
	})
}

// enqueue is put, which cannot end or block the calling goroutine.
func (a *attempt[A]) enqueue(ctx context.Context, used int, runAt time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	failed, err := isolated("the engine", handOverTime+stopGrace, func() error {
		_, err := a.put(ctx, used, runAt)
		return err
	})
	return cmp.Or(err, failed)
}
