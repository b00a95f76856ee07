package tether

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// LoopConfig says what [Registry.Loop] does if a loop ends on its own. The zero value
// leaves it ended.
type LoopConfig struct {
	// Restarts is how many times in a row the body is started again after it has failed:
	// returned an error, panicked, or ended its goroutine. Zero means that it is not
	// restarted, Unbounded that it always is.
	Restarts int

	// Backoff returns the wait before a restart. failures is how many attempts in a row
	// have failed, 1 after the first, and err is the error of the last. If nil,
	// ExponentialBackoff(time.Second, time.Minute) is used. Kubernetes' KEP-4603 has the
	// same times for containers.
	Backoff func(failures int, err error) time.Duration

	// ResetAfter is how long an attempt must have run before it failed for the failures
	// before it to be forgotten. Zero means 10 minutes, as in Kubernetes.
	ResetAfter time.Duration

	// Essential makes the process stop if the loop ends for good: [Registry.Run] begins
	// the stop, as for a server that returns on its own, and returns the loop's error. A
	// loop that ends after the stop has begun, or that the program has canceled, does not
	// count.
	Essential bool
}

// defaultResetAfter is the recovery threshold of Kubernetes' KEP-4603.
const defaultResetAfter = 10 * time.Minute

// Loop submits a task that runs for the life of the process: a consumer, a poller, the
// loop of an event bus. It differs from a task of [Registry.Go] in this:
//
//   - Its context is canceled with the cause [ErrShutdown] when the stop begins, which is
//     when [Registry.Stopping] is closed, and not only late in the drain. Shutdown waits
//     for the loop to return. If it returns nil then, or an error that is
//     context.Canceled or ErrShutdown, it succeeds. If it returns another error, it is
//     Canceled, and the error is logged (Info).
//   - It is never reported as stuck, and [Config].Timeout does not apply.
//   - If it fails, it is restarted as cfg says. Each restart is an attempt, as those of
//     [Retry] are: in [Info], for a [RetryObserver], and in the log (Warn, at most one a
//     second for each name). A panic is logged each time.
//   - If it returns nil before the stop has begun, it has succeeded and is not restarted.
//     That is logged (Info).
//   - [Stats] counts it as one of Loops, too, and [WaitIdle] does not wait for it.
//
// What a loop submits with its own context during the stop is admitted like what any
// running task submits. A loop that waits for its start or its restart is dropped or
// canceled when the stop begins.
//
// The options Timeout, Serial, Retry, StuckAfter and HandOver are invalid. Loop returns the
// errors of Go. From the beginning of the stop on it returns [ErrClosed], to a running
// task, too.
//
// Something that requests or tasks need until they have ended, such as the loop behind a
// write buffer, is no loop but a server: see [RunConfig].LastServers.
func (r *Registry) Loop(ctx context.Context, name string, fn Func, cfg LoopConfig, opts ...Option) (*Task, error) {
	return r.submit(ctx, nil, name, fn, nil, append([]Option{cfg.option()}, opts...))
}

// option returns the Option that makes a task a loop.
func (cfg LoopConfig) option() Option {
	switch {
	case cfg.Restarts < 0:
		return invalid("loop with %d restarts: must not be negative", cfg.Restarts)
	case cfg.ResetAfter < 0:
		return invalid("loop with ResetAfter %v: must not be negative", cfg.ResetAfter)
	}
	if cfg.Backoff == nil {
		cfg.Backoff = ExponentialBackoff(time.Second, time.Minute)
	}
	if cfg.ResetAfter == 0 {
		cfg.ResetAfter = defaultResetAfter
	}
	return Option{kind: optionLoop, value: &cfg}
}

// setLoop makes the task a loop.
func (o *submitOptions) setLoop(cfg *LoopConfig) {
	o.start.loop, o.start.essential, o.ordered = true, cfg.Essential, true
	o.timeout, o.stuckAfter = never, never
	o.retry = &retrying{
		policy:     &RetryPolicy{Backoff: cfg.Backoff, ShouldRetry: func(error) bool { return true }},
		attempts:   min(cfg.Restarts, Unbounded-1) + 1,
		resetAfter: cfg.ResetAfter,
	}
}

// checkLoop returns why a loop cannot have an Option, nil if it can.
func (k optionKind) checkLoop() error {
	name := ""
	switch k {
	case optionTimeout:
		name = "Timeout"
	case optionSerial:
		name = "Serial"
	case optionRetry:
		name = "Retry"
	case optionHandOver:
		name = "HandOver"
	case optionStuckAfter:
		name = "StuckAfter"
	default:
		return nil
	}
	return fmt.Errorf("%w: a loop cannot have option %s", ErrInvalid, name)
}

// IsLoop reports whether the task was submitted by [Registry.Loop].
func (t *Task) IsLoop() bool { return t.queue == t.queue.reg.loops }

// stopLoops ends the loops: none starts from here on, those that wait are dropped, and
// the contexts of those that run are canceled.
func (r *Registry) stopLoops() {
	q := r.loops
	q.workers.Lock()
	q.phase = canceling
	q.table.Close()
	q.workers.RetireIdle()
	q.workers.Unlock()
	q.interruptRunning()
	r.drain.dropTasks([]*queue{q})
}

// loopEnded is the end of a loop. If it has ended on its own before the stop, Run stops
// if it is essential.
func (t *Task) loopEnded(essential bool) {
	r := t.queue.reg
	if !r.Ready() || t.cause() != nil {
		return
	}
	if t.end == Succeeded {
		t.log(slog.LevelInfo, "loop ended")
	}
	if essential {
		select {
		case r.lost <- t:
		default: // Run knows of another one
		}
	}
}

// reportLost notes an essential loop that ended on its own when the stop was about to
// begin for another reason.
func (s *serving) reportLost() {
	select {
	case t := <-s.reg.lost:
		s.loopFailed(t)
	default:
	}
}

// loopFailed notes the error of an essential loop that has ended on its own.
func (s *serving) loopFailed(t *Task) {
	s.failSafely("loop "+strconv.Quote(t.Name()), t.Err())
}
