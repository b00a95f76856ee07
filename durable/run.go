package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// suspectAfter is the number of crashes beside other jobs after which a job runs alone.
const suspectAfter = 2

// countTime bounds a call of Delivery.Count.
const countTime = 10 * time.Second

// turnTime bounds the wait of a delivery for its turn, before or after one that runs alone. It
// then goes back, for another worker. Together with the longest Timeout it must be shorter
// than the time for which an engine leaves a job with its worker.
const turnTime = 4 * time.Minute

var errTurn = errors.New("durable: a job that runs alone kept it waiting")

// errProcessEnded is what an attempt ended with that was never answered.
var errProcessEnded = errors.New("the process ended while it ran")

// delivered is a delivery of a job that the worker has.
type delivered struct {
	Delivery
	job     Definition
	cfg     JobConfig
	number  int  // of the attempt, as the handler sees it
	counted int  // attempts before this one that count
	last    bool // no attempt follows
	alone   bool // no other job of the worker may run beside it
	logger  *slog.Logger
	status  *status // nil if it is not kept
}

// maxAttempts returns the number that the last attempt will have, unless more crashes do not count.
func (x *delivered) maxAttempts() int {
	return max(x.number, x.number-x.counted-1+x.cfg.MaxAttempts)
}

func (x *delivered) log() *slog.Logger {
	return x.logger.With("job", x.Name, "id", x.ID, "attempt", x.number)
}

func (w *Worker) newDelivered(d Delivery, job Definition) *delivered {
	x := &delivered{Delivery: d, job: job, cfg: job.Config(), logger: w.cfg.Logger}
	earlier := min(d.Used, math.MaxInt32) // a message made by hand may hold any number
	x.number = d.Attempt + earlier
	x.counted = max(0, d.Attempt-1-d.Pardoned) + earlier
	x.last = x.counted+1 >= x.cfg.MaxAttempts
	x.alone = d.Count != nil && d.Pardoned >= suspectAfter
	x.status = w.statusOf(x)
	return x
}

// handle runs a delivery as a task and returns what becomes of the job.
func (w *Worker) handle(ctx context.Context, d Delivery) Outcome {
	job := w.jobs[d.Name]
	switch {
	case w.closing():
		return Outcome{Return, 0, fmt.Errorf("%w: the worker was stopped", ErrClosed)}
	case job == nil:
		w.logUnknown(d.Message)
		return Outcome{Return, unknownAfter, fmt.Errorf("durable: no job is called %q here", d.Name)}
	}
	x := w.newDelivered(d, job)
	if out, over := x.afterCrash(); over {
		if out.Verdict == Dead {
			x.status.settle(w.abandoned, out.Err)
		}
		return out
	}
	entry := &admission{Context: ctx, stopAsked: w.stopAsked}
	defer entry.end()
	places := int64(1)
	if x.alone {
		places = int64(w.cfg.Concurrency)
	}
	if !w.takePlaces(entry, places) {
		if entry.Err() == nil {
			return Outcome{Return, limitAfter, errTurn}
		}
		return Outcome{Return, 0, context.Cause(entry)}
	}
	defer w.places.Release(places)
	if err := x.count(entry); err != nil {
		x.log().Warn("durable: job put back", "after", limitAfter, "error", err)
		return Outcome{Return, limitAfter, err}
	}
	if w.closing() {
		return Outcome{Return, 0, fmt.Errorf("%w: the worker was stopped", ErrClosed)}
	}
	return w.run(ctx, entry, x)
}

// admission is the context of a delivery until its task is admitted. A delivery that waits,
// for its turn or for a place in a pool that was paused or shrunk, goes back when the
// worker is stopped. Few wait, so the context that ends with the stop is made only for those.
type admission struct {
	context.Context // the engine's
	stopAsked       context.Context

	mu     sync.Mutex
	either context.Context // ends with the first of the two; nil until Done is called; guarded by mu
	cancel func()          // of either; guarded by mu
}

func (a *admission) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.either == nil {
		either, cancel := context.WithCancel(a.Context)
		unhook := context.AfterFunc(a.stopAsked, cancel)
		a.either, a.cancel = either, func() { unhook(); cancel() }
	}
	return a.either.Done()
}

func (a *admission) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.either != nil:
		return a.either.Err()
	case a.Context.Err() != nil:
		return a.Context.Err()
	}
	return a.stopAsked.Err()
}

// end releases what Done has made.
func (a *admission) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cancel != nil {
		a.cancel()
	}
}

// takePlaces waits for its turn until ctx ends, for turnTime at most, and reports whether it has
// the places.
func (w *Worker) takePlaces(ctx context.Context, places int64) bool {
	if w.places.TryAcquire(places) { // as always, without a timer
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, turnTime)
	defer cancel()
	return w.places.Acquire(ctx, places) == nil
}

// closing reports whether the worker begins no more jobs.
func (w *Worker) closing() bool {
	select {
	case <-w.stopAsked.Done():
		return true
	case <-w.cfg.Registry.Stopping():
		return true
	default:
		return false
	}
}

// afterCrash returns the outcome of a delivery that is not to be run now, since the one
// before it was never answered.
func (x *delivered) afterCrash() (out Outcome, over bool) {
	if x.Crashed {
		x.log().Warn("durable: the process ended while the job ran", "counts", x.counted, "pardoned", x.Pardoned, "alone", x.alone)
	}
	switch {
	case x.counted >= x.cfg.MaxAttempts && !x.Revived:
		err := fmt.Errorf("durable: job %q: %w, in the last of %d attempts", x.Name, errProcessEnded, x.cfg.MaxAttempts)
		x.log().Error("durable: job failed for good", "error", err)
		return Outcome{Dead, 0, err}, true
	case x.Crashed && x.alone:
		// Once only: when it is delivered again, it has not crashed.
		wait, failed := backoff(x.cfg, max(1, x.counted), errProcessEnded)
		if failed != nil {
			x.log().Error("durable: Backoff", "error", failed)
		}
		return Outcome{Return, wait, errProcessEnded}, true
	}
	return Outcome{}, false
}

// count makes the attempt count even if the process ends in it: if nothing runs beside it,
// and if there is one attempt only, which is to be the only one in a crash, too.
func (x *delivered) count(ctx context.Context) error {
	if x.Count == nil || !x.alone && x.cfg.MaxAttempts > 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	failed, err := isolated("Delivery.Count", countTime+stopGrace, func() error { return x.Count(ctx) })
	return errors.Join(err, failed)
}

// valuesOf is a context with the values of another.
type valuesOf struct {
	context.Context
	values context.Context
}

func (c valuesOf) Value(key any) any { return c.values.Value(key) }

// run runs the attempt as a task, which ctx ends. Its admission ends with entry.
func (w *Worker) run(ctx, entry context.Context, x *delivered) Outcome {
	meta := Meta{ID: x.ID, Attempt: x.number, MaxAttempts: x.maxAttempts()}
	if w.cfg.Context != nil {
		derived, err := isolated("WorkerConfig.Context", callbackTime, func() context.Context { return w.cfg.Context(entry, x.Headers) })
		switch {
		case err != nil:
			x.log().Error("durable: a job runs without the context of its headers", "error", err)
		case derived != nil:
			entry = valuesOf{entry, derived}
		}
	}
	entry = &jobContext{entry, meta}
	var failure, cause error // the handler's, and why its context has ended by then; nil while it runs
	var value any
	body := func(ctx context.Context) error {
		defer func() { cause = context.Cause(ctx) }() // also of a panic
		var skip bool
		if skip, failure = x.status.begin(ctx); !skip {
			value, failure = x.job.run(ctx, x.Args)
		}
		return failure
	}
	options := []tether.Option{
		shareOf(x.Args, w.cfg.ShareField), tether.Timeout(x.cfg.Timeout), tether.Label(labelJob, x.ID), tether.Label(labelAttempt, strconv.Itoa(x.number)), x.job.written(),
	}
	for key, v := range x.Labels {
		if o := Label(key, v); o.reason == "" { // a message made by hand may hold others
			options = append(options, tether.Label(key, v))
		}
	}
	task, err := w.pool.Go(entry, x.Name, body, options...)
	switch {
	case errors.Is(err, tether.ErrClosed), err != nil && entry.Err() != nil:
		return Outcome{Return, 0, err}
	case err != nil: // the registry's Limit, say
		level := slog.LevelWarn
		if full := new(tether.FullError); w.cfg.ShareWorkers > 0 && errors.As(err, &full) {
			level = slog.LevelInfo // as configured
		}
		x.log().Log(entry, level, "durable: job put back", "after", limitAfter, "error", err)
		return Outcome{Return, limitAfter, err}
	}
	w.mu.Lock()
	w.tasks[task] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.tasks, task)
		w.mu.Unlock()
	}()
	w.await(ctx, task)
	if !task.State().Final() { // abandoned
		out := Outcome{Return, 0, tether.ErrShutdown}
		x.status.end(w.abandoned, endOf(task.State(), out, nil))
		return out
	}
	<-task.Done()
	if cause == nil && (task.State() == tether.Canceled || task.State() == tether.Dropped) {
		cause = task.Err() // it was canceled before its handler was called, or as it returned
	}
	out, trouble := outcomeOf(task, failure, cause, x.cfg, x.counted+1, x.last)
	if trouble != nil {
		x.log().Error("durable: Backoff", "error", trouble)
	}
	switch out.Verdict {
	case Retry:
		x.log().Warn("durable: attempt failed", "after", out.After, "error", out.Err)
	case Return:
		x.log().Info("durable: job put back", "after", out.After, "error", out.Err)
	case Dead:
		level := slog.LevelError
		if is(out.Err, errTracked) {
			level = slog.LevelInfo // on request
		}
		x.log().Log(context.Background(), level, "durable: job failed for good", "error", out.Err)
	}
	x.status.end(w.abandoned, endOf(task.State(), out, value))
	return out
}

// await waits until the task has ended, or is abandoned, and cancels it if ctx ends or Stop
// says so: on other goroutines, since a task that has not started ends in Cancel, with all
// that is to be called then.
func (w *Worker) await(ctx context.Context, task *tether.Task) {
	ended, abandoned := task.Done(), w.abandoned.Done()
	canceled, interrupted := w.canceled.Done(), ctx.Done()
	for {
		select {
		case <-ended:
			return
		case <-abandoned:
			return
		case <-canceled:
			canceled = nil
			go task.Cancel(tether.ErrShutdown)
		case <-interrupted:
			interrupted = nil
			go task.Cancel(&interruption{context.Cause(ctx)})
		}
	}
}

// interruption is the cause of a cancellation that comes from the engine.
type interruption struct{ error }

func (i *interruption) Unwrap() error { return i.error }

// outcomeOf returns the outcome of an attempt that has ended. counted is the number of attempts
// that count, including this one. trouble is the error of JobConfig.Backoff.
func outcomeOf(task *tether.Task, failure, cause error, cfg JobConfig, counted int, last bool) (out Outcome, trouble error) {
	if task.State() == tether.Succeeded {
		return Outcome{}, nil
	}
	out = Outcome{Verdict: classify(failure, cause, last), Err: safeError(task.Err())}
	if out.Verdict == Retry {
		out.After, trouble = backoff(cfg, counted, out.Err)
	}
	return out, trouble
}

// classify returns the verdict on an attempt that has failed. The cause with which its context
// had ended when the handler returned, if it had, counts for more than the error: a handler
// that was canceled may return any error, "database is closed" for example.
func classify(failure, cause error, last bool) Verdict {
	permanent := isPermanent(failure)
	switch {
	case is(cause, tether.ErrShutdown) || as(cause, new(*interruption)):
		if permanent && !is(failure, context.Canceled) && !is(failure, cause) {
			return Dead // it has nothing to do with the interruption
		}
		return Return
	case cause != nil && !is(cause, tether.ErrTimeout):
		return Dead // the program has canceled it
	case permanent || last:
		return Dead
	}
	return Retry
}

// safeError returns err, or an error with the same text if the Error method of err panics, as
// that of a nil pointer does.
func safeError(err error) (safe error) {
	defer func() {
		if recover() != nil {
			safe = errors.New(fmt.Sprint(err)) // fmt contains the panic
		}
	}()
	if err != nil {
		_ = err.Error()
	}
	return err
}

func (w *Worker) logUnknown(m Message) {
	w.mu.Lock()
	now := time.Now()
	if len(w.unknown) >= unknownKept {
		clear(w.unknown)
	}
	again := now.Sub(w.unknown[m.Name]) < unknownLog
	if !again {
		w.unknown[m.Name] = now
	}
	w.mu.Unlock()
	if !again {
		w.cfg.Logger.Warn("durable: a job that this worker does not have, put back", "job", m.Name, "id", m.ID, "after", unknownAfter)
	}
}

// shareOf returns the option of a job's share: the value of a field of its arguments.
func shareOf(args json.RawMessage, field string) tether.Option {
	if field == "" {
		return tether.Option{}
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(args, &fields) != nil {
		return tether.Option{} // not an object
	}
	key := string(fields[field])
	switch {
	case strings.HasPrefix(key, `"`):
		if json.Unmarshal(fields[field], &key) != nil {
			return tether.Option{}
		}
	case key == "" || strings.ContainsAny(key[:1], "{[tfn"):
		return tether.Option{} // it is missing, or neither a string nor a number
	}
	if tether.CheckName(key) != nil {
		return tether.Option{}
	}
	return tether.Share(key)
}
