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
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// WorkerConfig configures a [Worker].
type WorkerConfig struct {
	// Registry is the registry in which jobs are tasks. It is required.
	Registry *tether.Registry
	// Concurrency is the maximum number of jobs that run at once. Zero means GOMAXPROCS, for
	// work that keeps a processor busy.
	Concurrency int
	// Pool is the name of the pool that the worker creates in the Registry. If empty, it is
	// "durable".
	Pool string
	// ShareField is the name of a field of the jobs' arguments, which are a JSON object then:
	// "tenant". Its value, a string or a number, is the [tether.Share] of a job's task, so that
	// the pool's statistics and [tether.PauseShare] are by tenant. A job without the field, or
	// whose value is not valid as a name, has no share. A job that waits for its share is one
	// of Concurrency all the same: the engine decides which jobs come.
	ShareField string
	// ShareWorkers is the maximum number of jobs of one share that this worker runs at once; those
	// without a share are one. A job beyond it is put back for a second, and does not count as an
	// attempt: the places are for others meanwhile. It needs a ShareField. Zero means no bound
	// beside Concurrency.
	ShareWorkers int
	// Logger gets one record for each attempt that failed (Warn), each crash of a process while
	// a job ran (Warn), each job that has failed for good (Error), and each that is put back
	// because it was interrupted (Info) or could not be run here (Warn). If nil, slog.Default() is
	// used.
	Logger *slog.Logger
	// Context, if non-nil, returns the context that a job's task is submitted with: ctx with
	// values added, from the headers that [JobConfig].Headers returned when the job was enqueued;
	// headers is nil if there were none. It must be safe for concurrent use. If it panics, or has
	// not returned after five seconds, ctx is used and an error is logged.
	Context func(ctx context.Context, headers map[string]string) context.Context
	// Tracker, if non-nil, keeps the status of the jobs that were enqueued with [Tracked]. It is the
	// Tracker of a tetherhttp.Store of the same service. The Store is closed after the worker.
	// If it is missing, such a job is run all the same, its status stays "queued", and each
	// attempt is logged (Warn).
	Tracker store.Tracker
}

// Worker takes jobs from an engine and runs each as a task of a registry. The task has the
// job's name, the labels "job" (the [Meta].ID) and "attempt", and what every task has: panics
// become outcomes, it is on the live page and in the metrics, and the drain reports it.
//
// When the registry's Stopping channel is closed, the worker takes no more jobs. The drain
// waits for the jobs that run. A job that it cancels goes back to the engine, unless it
// succeeds anyway or fails with a [Permanent] error unrelated to the cancellation. So a
// program ends with
//
//	reg.Run(ctx, tether.RunConfig{…, Closers: []tether.Closer{{Name: "worker", Close: worker.Stop}, …}})
//
// Jobs run as soon as the worker is started. Until Run installs its handlers a signal kills
// the process; create ctx with signal.NotifyContext first thing in main.
//
// An attempt fails if the handler returns an error, before or after its Timeout, panics, or
// calls runtime.Goexit. Another attempt follows, up to MaxAttempts, except after a Permanent error or a
// [tether.Task.Cancel] by the program.
type Worker struct {
	engine Engine
	cfg    WorkerConfig
	pool   *tether.Pool
	jobs   map[string]Definition
	places *semaphore.Weighted // Concurrency of them; a job that runs alone takes all

	mu       sync.Mutex
	started  bool                  // Consume was called and has not failed; guarded by mu
	stopping bool                  // Stop was called; guarded by mu
	tasks    map[*tether.Task]bool // the tasks that a handle waits for; guarded by mu
	unknown  map[string]time.Time  // jobs that the worker does not have, and when each was last logged; guarded by mu

	// The phases of Stop. Each context is ended by the function before it.
	stop, cancel, abandon context.CancelFunc
	stopAsked             context.Context // no job begins
	canceled              context.Context // tasks are canceled
	abandoned             context.Context // handle waits for no task
	stopped               chan struct{}   // closed when the consumer has ended
	err, stopErr          error           // for Err, and for Stop only; written before stopped is closed
}

// Jobs that the worker does not have, if the engine delivers them.
const (
	unknownAfter = 5 * time.Second // until they are delivered again
	unknownLog   = time.Minute     // between two records of a name
	unknownKept  = 1000            // names that are remembered for that
)

// limitAfter is how long a job is put back if the registry's Limit refuses it, or ShareWorkers.
const limitAfter = time.Second

// stopGrace is how long Stop waits, when its context was canceled, for handlers to return. It
// waits twice as long for the engine to take the jobs back.
const stopGrace = 2 * time.Second

// NewWorker returns a worker for these jobs, and creates its pool in the registry. The worker
// does nothing until Start. Jobs in the queue that it was not given are left to other workers.
//
// The error is ErrInvalid if an argument is invalid, and ErrUnsupported if the engine cannot
// run one of the jobs.
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
	if cfg.ShareWorkers < 0 || cfg.ShareWorkers > 0 && cfg.ShareField == "" {
		return nil, fmt.Errorf("%w: WorkerConfig.ShareWorkers: %d, with the ShareField %q", ErrInvalid, cfg.ShareWorkers, cfg.ShareField)
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
	w.pool = cfg.Registry.NewPool(cfg.Pool, tether.PoolConfig{
		Workers: cfg.Concurrency, Overflow: tether.OverflowBlock, ShareLimit: cfg.ShareWorkers, // a refusal at once: the pool has no queue
	})
	return w, nil
}

// Start begins to take jobs. It fails if the engine cannot be reached, and may then be called
// again. ctx bounds only this call, not the jobs. The error is ErrClosed once Stop was called
// or the registry stops.
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
			close(w.stopped) // Stop has left that to Start
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

// begin marks the worker as started, or returns why it must not start.
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

// watch stops the consumer when the registry stops or Stop is called, and records its end.
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
	// Each handle returns soon after abandoned ends. An engine that does not store its outcome
	// in stopGrace is abandoned too.
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
// it, and wraps context.Cause(ctx). The rest is for the engine. Stop returns by the deadline.
//
// If ctx ends in another way, contexts are canceled at that moment; handlers then have two
// seconds, and the engine four more.
//
// Stop returns nil if everything has ended, even after ctx; otherwise the error also wraps the
// engine's and Err. Stop may be called again and concurrently. A stopped worker cannot be
// started again.
func (w *Worker) Stop(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	w.mu.Lock()
	if !w.stopping && !w.started {
		close(w.stopped) // there is no consumer, and no watch
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

// result returns the errors of a worker that has stopped.
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

// Done is closed when the worker has stopped: by Stop, because the registry stops, or because
// it has lost its engine for good. Err reports the last case.
func (w *Worker) Done() <-chan struct{} { return w.stopped }

// Err returns an [ErrLost] if the worker has lost its engine. It returns nil before Done is
// closed, and after an ordinary stop.
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
