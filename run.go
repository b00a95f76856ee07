package tether

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"time"
)

// runAttempt runs the body once on this goroutine and decides what follows. It does its
// work if the body ends the goroutine, too.
func (t *Task) runAttempt() {
	end, err := Failed, ErrGoexit // unless the body returns
	defer func() {
		t.ended = t.queue.reg.now()
		t.endAttempt(end, err)
	}()
	t.notifyWatchers() // it is Running
	pprof.SetGoroutineLabels(t.kind.labels)
	end, err = t.runBody()
}

func (t *Task) runBody() (end State, err error) {
	defer func() {
		if v := recover(); v != nil {
			end, err = Panicked, t.panicked("body", v)
		}
	}()
	ctx := context.Context((*taskContext)(t))
	if t.queue.reg.observers != nil {
		ctx = t.observeStart()
	}
	if t.extra.Load() != nil && !t.queue.reg.Ready() {
		t.callOnStop()
	}
	if t.fn != nil {
		err = t.fn(ctx)
	} else {
		err = t.extra.Load().typed.run(ctx)
	}
	return t.outcomeOf(err)
}

// outcomeOf returns the state and the error of a task whose body has returned err. After a
// cancellation any error means that the body gave up for it: drivers have errors of their
// own for a canceled context.
func (t *Task) outcomeOf(err error) (State, error) {
	if err == nil {
		return Succeeded, nil
	}
	cause := t.cancellation()
	if cause == nil {
		return Failed, err
	}
	if t.IsLoop() && cause == ErrShutdown && (safeIs(err, context.Canceled) || safeIs(err, ErrShutdown)) {
		return Succeeded, nil // it was to return then
	}
	if !safeIs(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return Canceled, err
}

// endAttempt decides whether another attempt follows the one that has ended so, and sets
// the outcome if none does.
func (t *Task) endAttempt(end State, err error) {
	if err == nil {
		t.setOutcome(end, nil)
		return
	}
	x := t.getExtra()
	decided := false
	defer func() {
		if !decided { // the retry policy has ended this goroutine
			t.setOutcome(end, err)
		}
	}()
	again, wait, failure := t.shouldRetry(end, err)
	decided = true
	switch {
	case again:
		t.end, x.err = Queued, nil
		t.setNextAttempt(err, wait)
	case failure != nil:
		t.setOutcome(Panicked, fmt.Errorf("%w (after %w)", failure, err))
	default:
		t.setOutcome(end, err)
	}
}

// shouldRetry reports whether an attempt that ended so is followed by another, and after
// what wait. failure is a panic of the policy.
func (t *Task) shouldRetry(end State, err error) (again bool, wait time.Duration, failure error) {
	retry := t.opts().retry
	if retry == nil || end == Succeeded || end == Canceled {
		return false, 0, nil
	}
	failures := retry.failures(time.Duration(t.ended - t.attemptBegan()))
	if failures >= retry.attempts {
		return false, 0, nil
	}
	if err == ErrGoexit && t.isInline() {
		return false, 0, nil // the goroutine that would make the next attempt is ending
	}
	if t.cancellation() != nil {
		return false, 0, nil
	}
	failure = t.callback("retry policy", func() error {
		again = end != Panicked
		if retry.policy.ShouldRetry != nil {
			again = retry.policy.ShouldRetry(err)
		}
		if again {
			wait = max(0, retry.policy.Backoff(failures, err))
		}
		return nil
	})
	if deadline, ok := t.deadline(); ok && again {
		again = t.queue.reg.time(t.ended).Add(wait).Before(deadline) // otherwise it would start too late
	}
	return again && failure == nil, wait, failure
}

// setNextAttempt records that an attempt ended with err and the next one is due after
// wait, and notifies the observer and the log.
func (t *Task) setNextAttempt(err error, wait time.Duration) {
	r, x := t.queue.reg, t.extra.Load()
	retry := x.options.retry
	x.mu.Lock()
	retry.last, retry.wait, retry.due = err, wait, later(t.ended, wait)
	x.mu.Unlock()
	if r.observers != nil {
		r.observers.TaskRetrying(t.observedContext(), t, err, wait)
	}
	omitted, ok := t.kind.retryLog.allow(r.now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.Any("error", err), slog.Int("attempt", retry.attempt()), slog.Int("max_attempts", retry.attempts),
		slog.Duration("wait", wait), slog.Int64("omitted", omitted),
	}
	if !t.IsLoop() {
		t.log(slog.LevelInfo, "task retrying", attrs...)
		return
	}
	t.log(slog.LevelWarn, "loop restarting", slices.Delete(attrs, 2, 3)...) // what counts is the failures in a row
}

// setOutcome sets what the task ends with, and notifies the observer and the log. The task
// is not done yet.
func (t *Task) setOutcome(end State, err error) {
	t.end = end
	if err != nil {
		t.getExtra().err = err
	}
	if observers := t.queue.reg.observers; observers != nil {
		defer t.logOutcome(end, err) // also if the observer ends this goroutine
		ctx := t.observedContext()
		t.reveal(end)
		observers.TaskEnded(ctx, t)
		return
	}
	t.logOutcome(end, err)
}

// logOutcome logs an outcome that needs attention and is not awaited.
func (t *Task) logOutcome(end State, err error) {
	level := slog.LevelWarn
	switch {
	case err == nil || t.isAwaited() || end == Panicked: // a panic was logged when it happened
		return
	case needsAttention(end, err):
	case t.IsLoop() && end == Canceled && t.cause() == ErrShutdown:
		level = slog.LevelInfo // it is news, if the drain has not begun yet
	default:
		return
	}
	msg, attrs := "task "+end.String(), []slog.Attr{slog.Any("error", err)}
	if _, overdue := t.cause().(*MaxWaitError); overdue {
		omitted, ok := t.kind.overdueLog.allow(t.queue.reg.now()) // under overload that is many tasks
		if !ok {
			return
		}
		msg, attrs = "task waited too long", append(attrs, slog.Int64("omitted", omitted))
	}
	t.log(level, msg, attrs...)
}

// needsAttention reports whether an outcome is a failure. Cancellations by the program,
// and what the report of the drain lists, are not.
func needsAttention(end State, err error) bool {
	switch end {
	case Failed, Panicked:
		return true
	case Canceled, Dropped:
		return safeIs(err, ErrTimeout) || safeIs(err, ErrFull)
	}
	return false
}

// finish is the last step of a task that has ended: it is retained, its outcome may be
// seen, its Unique key is free, and what a finished task does not need is dropped.
func (t *Task) finish() {
	r := t.queue.reg
	start := t.startOptions()
	holder := start.holder // before it is dropped
	if r.cfg.Limit > 0 {
		r.live.Add(-1)
	}
	in := r.history.add(t)
	if held := t.finishState(); held != nil {
		held.unhold()
	}
	r.history.settle(t, in)
	if holder != nil {
		r.unique.free(start.unique, holder)
	}
	if start.loop {
		t.loopEnded(start.essential)
	}
}

// finishState makes the task done and drops what it does not need any more. It returns
// the task whose values this one held.
func (t *Task) finishState() (held *Task) {
	x := t.extra.Load()
	if x == nil {
		t.stateWord.finish(t.end)
		// A goroutine that makes extra from here on finds done, and leaves values alone.
		if x = t.extra.Load(); x == nil {
			t.fn, t.values = nil, nil
			return nil
		}
		x.mu.Lock()
	} else {
		x.mu.Lock()
		if c := x.cancel.Load(); c != nil {
			c.cancel(nil) // before the end can be seen
		}
		t.stateWord.finish(t.end)
	}
	defer x.mu.Unlock()
	t.fn = nil
	held = t.endValuesLocked(x)
	x.observed = nil
	if c := x.cancel.Load(); c != nil {
		c.cancel(nil)
	}
	if x.options != nil {
		x.options.drop()
	}
	if x.typed != nil {
		x.typed.drop()
		if !t.has(pinned) {
			x.typed = nil // the value is the Result's alone
		}
	}
	if x.doneChan != nil {
		close(x.doneChan)
	}
	return held
}

// drop ends a task that was taken away. It offers the task to its HandOver if limit is not
// nil and the task has never started; the context of the hand-over ends with limit.
func (q *queue) drop(limit context.Context, t *Task, cause error) {
	t.interrupt(cause) // so that the task has one cause
	opts := t.opts()
	end, err := Dropped, cause
	defer func() { // also if a callback ends this goroutine
		t.ended = q.reg.now()
		defer func() {
			if q.reg.drain.phase.Load() != open {
				q.reg.drain.tally.record(t)
			}
			t.finish()
			q.reg.drain.helpers.Add(-1)
			q.reg.drain.notify()
		}()
		t.setOutcome(end, err)
	}()
	if t.has(begun) {
		end, err = Canceled, fmt.Errorf("%w (last attempt: %w)", cause, opts.retry.last)
		return
	}
	if limit == nil || opts.handOver == nil {
		return
	}
	err = fmt.Errorf("%w: hand-over: %w", cause, ErrGoexit) // unless the hand-over returns
	failed := t.callback("hand-over", func() error {
		ctx, cancel := context.WithCancelCause(context.WithoutCancel((*taskContext)(t)))
		defer cancel(nil)
		defer context.AfterFunc(limit, func() { cancel(context.Cause(limit)) })()
		return opts.handOver(ctx, t.Info())
	})
	if failed != nil {
		err = fmt.Errorf("%w: hand-over: %w", cause, failed)
		return
	}
	err, t.getExtra().handedOver = cause, true
}

// callOnStop calls the function of OnStop, unless that was done before. It does not wait for it.
func (t *Task) callOnStop() {
	x := t.extra.Load()
	if x == nil || x.options == nil {
		return
	}
	x.mu.Lock()
	fn := x.options.onStop
	x.options.onStop = nil
	x.mu.Unlock()
	if fn != nil {
		go t.callback("OnStop", func() error { fn(t.observedContext()); return nil })
	}
}

// callback calls a function of the task's options. A panic of it is logged, and returned
// as a *PanicError.
func (t *Task) callback(what string, fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.panicked(what, v)
		}
	}()
	return fn()
}

// panicked logs a panic of the body or of a callback and returns it as an error. It must
// be called while the stack of the panic is still there. Under PanicCrash it does not
// return.
func (t *Task) panicked(what string, v any) *PanicError {
	e := &PanicError{Value: v, Stack: debug.Stack(), In: what, Task: t.kind.name, ID: t.ID()}
	t.log(slog.LevelError, "panic", e.attrs()...)
	t.queue.reg.crash(e)
	return e
}

// crash ends the process with the stack of a panic if the registry is configured so.
func (r *Registry) crash(e *PanicError) {
	if r.cfg.OnPanic != PanicCrash {
		return
	}
	// On a goroutine of its own nothing can recover it, not even a server that runs the
	// submitter. This one stays where it is: what would follow the panic, above all the end
	// of the task, never happens.
	go func() {
		panic(fmt.Sprintf("%v\n\nin the %s of task %q:\n%s", e.Value, e.In, e.Task, e.Stack))
	}()
	select {}
}

// isInline reports whether the task's submitter runs it.
func (t *Task) isInline() bool {
	x := t.extra.Load()
	return x != nil && x.inline
}
