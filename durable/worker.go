package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

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
	// Context, if non-nil, returns the context that a job's task is submitted with: ctx with
	// values added, from the headers that [JobConfig].Headers returned when the job was enqueued;
	// headers is nil if there were none. It must be safe for concurrent use. If it panics, or has
	// not returned after five seconds, ctx is used and an error is logged.
	Context func(ctx context.Context, headers map[string]string) context.Context
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
	places *semaphore.Weighted // Concurrency of them; a job that runs alone takes all

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

// stopGrace is how long Stop waits, when its context was canceled, for handlers to return. It
// waits twice as long for the engine to take the jobs back.
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
		engine: e, cfg: cfg, jobs: make(map[string]Definition, len(jobs)), places: semaphore.NewWeighted(int64(cfg.Concurrency)),
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
	w.stop() // no delivery is begun from now on
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

// Stop takes no more jobs and waits for those that run. Six seconds before the deadline of ctx,
// or after half of the time if that is later, their contexts are canceled with the cause
// [tether.ErrShutdown], and their jobs go back to the engine. A handler that does not return in
// half of what is left then is abandoned: its job goes back all the same, and the error names
// it, and wraps context.Cause(ctx). The rest is for the engine. Stop has returned at the deadline.
//
// If ctx ends in another way, contexts are canceled at that moment; handlers then have two
// seconds, and the engine four more.
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
	soon := make(<-chan time.Time)
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		timer := time.NewTimer(left - min(3*stopGrace, left/2))
		defer timer.Stop()
		soon = timer.C
	}
	select {
	case <-w.stopped:
		return w.result()
	case <-ctx.Done():
	case <-soon:
	}
	w.cancel()
	forHandlers, forEngine := stopGrace, 2*stopGrace
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil {
		forHandlers = time.Until(deadline) / 2
		forEngine = forHandlers
	}
	if w.stoppedWithin(forHandlers) {
		return w.result()
	}
	var errs []error
	for _, t := range w.running() {
		errs = append(errs, fmt.Errorf("durable: job %q (%s) ignores its cancellation", t.Name(), t.Info().Labels["job"]))
	}
	w.abandon()
	stopped := w.stoppedWithin(forEngine)
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.DeadlineExceeded // it was about to be
	}
	if !stopped {
		return errors.Join(append(errs, cause, errors.New("durable: the engine has not stopped"))...)
	}
	return errors.Join(append(errs, cause, w.result())...)
}

// result returns what there is to say of a worker that has stopped.
func (w *Worker) result() error { return errors.Join(w.err, w.stopErr) }

// stoppedWithin waits for the consumer's end, and reports whether it came within limit.
func (w *Worker) stoppedWithin(limit time.Duration) bool {
	late := time.NewTimer(limit)
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
