package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// WorkerConfig sets a [Worker] up.
type WorkerConfig struct {
	// Registry is where the jobs are tasks: required.
	Registry *tether.Registry
	// Concurrency is the most jobs that run at once. 0: GOMAXPROCS, for work that keeps a
	// processor busy.
	Concurrency int
	// Pool is the name of the pool of the Registry that the worker makes. "": "durable".
	Pool string
	// Logger gets one record for each attempt that failed (Warn), for each job that has
	// failed for good (Error), and for each that is put back: since it was interrupted
	// (Info), or could not be run here (Warn). nil: slog.Default().
	Logger *slog.Logger
}

// Worker takes jobs from an engine and runs each as a task of a registry: it has the job's
// name there, labels "job" (the [Meta].ID) and "attempt", and whatever tasks have: panics
// that become outcomes, the live page, metrics, a place in the drain's report.
//
// When the registry's Shutdown begins the worker takes no more jobs. Those that run are
// the drain's to wait for; those that it cancels go back to the engine, unless they end
// well all the same, or with a [Permanent] error that has nothing to do with it. So a
// program ends with
//
//	reg.Run(ctx, tether.RunConfig{…, Closers: []func(context.Context) error{worker.Stop, …}})
//
// Jobs run as soon as the worker is started. Before Run a signal ends the process as it ends
// any: so ctx is best that of signal.NotifyContext, from the first line of main.
//
// An attempt fails by an error of the handler, a panic, a Goexit, or an error after its
// Timeout; then there is another one, up to MaxAttempts. A Permanent error, and
// [tether.Task.Cancel] by anybody else, make it the last.
type Worker struct {
	engine Engine
	cfg    WorkerConfig
	pool   *tether.Pool
	jobs   map[string]Definition

	mu       sync.Mutex
	started  bool                  // Consume was called, and has not failed; guarded by mu
	stopping bool                  // no Start any more; guarded by mu
	tasks    map[*tether.Task]bool // whose Handle has not returned; guarded by mu
	unknown  map[string]time.Time  // jobs that are not ours, and when that was last logged; guarded by mu

	// How far Stop is, each ended by its func.
	stop, cancel, abandon context.CancelFunc
	stopAsked             context.Context // no more jobs
	canceled              context.Context // tasks are cancelled
	abandoned             context.Context // Handle waits for no task any more
	stopped               chan struct{}   // closed when the consumer has ended
	err, stopErr          error           // for Err, and beside it for Stop; written before stopped is closed
}

// Jobs that no worker here knows are put back for as long, and logged as often.
const (
	unknownAfter = 5 * time.Second
	unknownLog   = time.Minute
	unknownKept  = 1000 // names
)

// limitAfter is for how long a job is put back that the registry's Limit refuses.
const limitAfter = time.Second

// stopGrace is how long Stop waits, when its context has ended, for handlers to heed their
// cancellation, and then for the engine to take the jobs back.
const stopGrace = 2 * time.Second

// NewWorker returns a worker for these jobs; it does nothing until Start. A job that it is
// not given but meets in the queue is put back every few seconds, unused, for a worker that knows it.
//
// It makes a pool in the registry. The error is ErrInvalid for a setting that cannot be,
// and ErrUnsupported if the engine cannot run one of the jobs.
func NewWorker(e Engine, cfg WorkerConfig, jobs ...Definition) (*Worker, error) {
	if cfg.Pool == "" {
		cfg.Pool = "durable"
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = runtime.GOMAXPROCS(0)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := tether.CheckName(cfg.Pool); err != nil {
		return nil, fmt.Errorf("%w: WorkerConfig.Pool: %w", ErrInvalid, err)
	}
	if e == nil || cfg.Registry == nil || cfg.Concurrency < 0 || len(jobs) == 0 {
		return nil, fmt.Errorf("%w: a worker needs an engine, a Registry, at least one job, and a Concurrency that is not negative", ErrInvalid)
	}
	w := &Worker{
		engine: e, cfg: cfg, jobs: make(map[string]Definition, len(jobs)),
		tasks: make(map[*tether.Task]bool), unknown: make(map[string]time.Time), stopped: make(chan struct{}),
	}
	w.stopAsked, w.stop = context.WithCancel(context.Background())
	w.canceled, w.cancel = context.WithCancel(context.Background())
	w.abandoned, w.abandon = context.WithCancel(context.Background())
	for _, j := range jobs {
		if j == nil {
			return nil, fmt.Errorf("%w: nil job", ErrInvalid)
		}
		if w.jobs[j.Name()] != nil {
			return nil, fmt.Errorf("%w: two jobs are called %q", ErrInvalid, j.Name())
		}
		if err := e.Support().allows(j.Name(), j.Config().Timeout); err != nil {
			return nil, err
		}
		w.jobs[j.Name()] = j
	}
	w.pool = cfg.Registry.NewPool(cfg.Pool, tether.PoolConfig{Workers: cfg.Concurrency, Overflow: tether.OverflowBlock})
	return w, nil
}

// Start begins to take jobs. It fails if the engine cannot be reached, and may be called
// again then. ctx bounds this call alone, never the jobs. Once Stop was called, or the
// registry's Shutdown, the error is ErrClosed.
func (w *Worker) Start(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	if err := w.begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.stopAsked, func() { cancel(ErrClosed) })()
	consumer, err := w.engine.Consume(ctx, Consumption{
		Concurrency: w.cfg.Concurrency, Handle: w.handle, Names: slices.Sorted(maps.Keys(w.jobs)), Logger: w.cfg.Logger,
	})
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.started = false
		if w.stopping {
			close(w.stopped) // Stop has left it to us
		}
		if w.stopAsked.Err() != nil && !errors.Is(err, ErrClosed) { // an engine may say in its own words that ctx has ended
			err = fmt.Errorf("%w: the worker was stopped: %w", ErrClosed, err)
		}
		return fmt.Errorf("durable: start: %w", err)
	}
	go w.watch(consumer)
	if w.stopAsked.Err() != nil {
		return fmt.Errorf("%w: the worker was stopped", ErrClosed)
	}
	return nil
}

// begin tells whether the worker may start now.
func (w *Worker) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.cfg.Registry.Stopping():
		return fmt.Errorf("%w: the worker's registry is shutting down", ErrClosed)
	default:
	}
	switch {
	case w.stopping:
		return fmt.Errorf("%w: the worker was stopped", ErrClosed)
	case w.started:
		return fmt.Errorf("%w: the worker was started already", ErrInvalid)
	}
	w.started = true
	return nil
}

// watch stops the consumer when the drain begins or Stop says so, and notes its end.
func (w *Worker) watch(c Consumer) {
	defer close(w.stopped)
	var lost error
	select {
	case <-c.Done():
		lost = c.Err()
	case <-w.cfg.Registry.Stopping():
	case <-w.stopAsked.Done():
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Handles return soon after they are abandoned; an engine that then cannot be told of it
	// is left to itself.
	defer context.AfterFunc(w.abandoned, func() { time.AfterFunc(stopGrace, cancel) })()
	if err := c.Stop(ctx); err != nil {
		w.stopErr = fmt.Errorf("durable: stop: %w", err)
		w.cfg.Logger.Warn("durable: stop", "engine", w.engine.Support().Engine, "error", err)
	}
	if lost == nil {
		lost = c.Err() // it may have been lost as it was stopped
	}
	if lost != nil {
		w.err = fmt.Errorf("%w: %w", ErrLost, lost)
		w.cfg.Logger.Error("durable: the worker has lost its engine", "engine", w.engine.Support().Engine, "error", lost)
	}
}

// Stop takes no more jobs and waits for those that run. If ctx ends first their contexts
// are cancelled, with the cause [tether.ErrShutdown], and their jobs go back to the engine;
// a handler that has not returned two seconds later is left alone, its job goes back all
// the same, and the error names it, and is context.Cause(ctx) too. An engine that does not
// take the jobs back is waited for up to four seconds more.
//
// It returns nil if everything has ended, even after ctx; else also what the engine says
// went wrong, and Err. Stop may be called again, at once and by many. A worker that was
// stopped cannot be started again.
func (w *Worker) Stop(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	w.mu.Lock()
	if !w.stopping && !w.started {
		close(w.stopped) // there is no consumer that could
	}
	w.stopping = true
	w.mu.Unlock()
	w.stop()
	select {
	case <-w.stopped:
		return w.result()
	case <-ctx.Done():
	}
	w.cancel()
	if w.stops(stopGrace) {
		return w.result()
	}
	var errs []error
	for _, t := range w.running() {
		errs = append(errs, fmt.Errorf("durable: job %q (%s) ignores its cancellation", t.Name(), t.Info().Labels["job"]))
	}
	w.abandon()
	if !w.stops(2 * stopGrace) {
		return errors.Join(append(errs, context.Cause(ctx), errors.New("durable: the engine has not stopped"))...)
	}
	return errors.Join(append(errs, context.Cause(ctx), w.result())...)
}

// result returns what there is to say of a worker that has stopped.
func (w *Worker) result() error { return errors.Join(w.err, w.stopErr) }

// stops waits for the consumer's end, but not for ever.
func (w *Worker) stops(within time.Duration) bool {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-w.stopped:
		return true
	case <-late.C:
		return false
	}
}

// Done is closed when the worker has stopped: by Stop, by the registry's drain, or because
// it has lost its engine for good, which Err says then.
func (w *Worker) Done() <-chan struct{} { return w.stopped }

// Err returns nil until Done is closed and after a stop that was asked for; else an
// [ErrLost].
func (w *Worker) Err() error {
	select {
	case <-w.stopped:
		return w.err
	default:
		return nil
	}
}

func (w *Worker) running() []*tether.Task {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.tasks))
}

// handle runs a delivery as a task and decides what becomes of it.
func (w *Worker) handle(ctx context.Context, m Message, attempt int) Outcome {
	job := w.jobs[m.Name]
	switch {
	case w.stopAsked.Err() != nil:
		return Outcome{Return, 0, fmt.Errorf("%w: the worker was stopped", ErrClosed)}
	case job == nil:
		w.logUnknown(m)
		return Outcome{Return, unknownAfter, fmt.Errorf("durable: no job is called %q here", m.Name)}
	}
	cfg := job.Config()
	last := attempt > cfg.MaxAttempts-m.Used // not the sum, which whoever made the message could have overflow
	attempt += m.Used
	log := func() *slog.Logger { return w.cfg.Logger.With("job", m.Name, "id", m.ID, "attempt", attempt) }
	if last {
		err := fmt.Errorf("durable: job %q was interrupted in its last attempt (MaxAttempts %d)", m.Name, cfg.MaxAttempts)
		log().Error("durable: job failed for good", "error", err)
		return Outcome{Dead, 0, err}
	}
	ctx = context.WithValue(ctx, metaKey{}, Meta{ID: m.ID, Attempt: attempt, MaxAttempts: cfg.MaxAttempts})
	var failure, cause error // the handler's, and why its context has ended by then; nil while it runs
	body := func(ctx context.Context) error {
		defer func() { cause = context.Cause(ctx) }() // also of a panic
		failure = job.run(ctx, m.Args)
		return failure
	}
	// Whoever waits for a place in the pool, since somebody has paused or shrunk it, does so
	// until Stop.
	entry, leave := context.WithCancel(ctx)
	defer leave()
	defer context.AfterFunc(w.stopAsked, leave)()
	task, err := w.pool.Go(entry, m.Name, body, tether.Timeout(cfg.Timeout), tether.Label("job", m.ID), tether.Label("attempt", strconv.Itoa(attempt)))
	switch {
	case errors.Is(err, tether.ErrClosed), err != nil && entry.Err() != nil:
		return Outcome{Return, 0, err}
	case err != nil: // the registry's Limit, say
		log().Warn("durable: job put back", "after", limitAfter, "error", err)
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
	defer context.AfterFunc(w.canceled, func() { task.Cancel(tether.ErrShutdown) })()
	defer context.AfterFunc(ctx, func() { task.Cancel(&interruption{context.Cause(ctx)}) })()
	select {
	case <-task.Done():
	case <-w.abandoned.Done():
		if !task.State().Final() {
			return Outcome{Return, 0, tether.ErrShutdown}
		}
		<-task.Done()
	}
	if cause == nil && (task.State() == tether.Canceled || task.State() == tether.Dropped) {
		cause = task.Err() // it was cancelled before its handler was called, or as it returned
	}
	out, trouble := outcomeOf(task, failure, cause, cfg, attempt)
	if trouble != nil {
		log().Error("durable: Backoff", "error", trouble)
	}
	switch out.Verdict {
	case Retry:
		log().Warn("durable: attempt failed", "after", out.After, "error", out.Err)
	case Return:
		log().Info("durable: job put back", "after", out.After, "error", out.Err)
	case Dead:
		log().Error("durable: job failed for good", "error", out.Err)
	}
	return out
}

// interruption is the cause of a cancellation that comes from the engine.
type interruption struct{ error }

func (i *interruption) Unwrap() error { return i.error }

// outcomeOf returns what becomes of a job whose attempt has ended. trouble is the error of
// JobConfig.Backoff.
func outcomeOf(task *tether.Task, failure, cause error, cfg JobConfig, attempt int) (out Outcome, trouble error) {
	if task.State() == tether.Succeeded {
		return Outcome{}, nil
	}
	out = Outcome{Verdict: classify(failure, cause, attempt >= cfg.MaxAttempts), Err: safeError(task.Err())}
	if out.Verdict == Retry {
		out.After, trouble = backoff(cfg, attempt, out.Err)
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
		return Dead // somebody has cancelled it
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
