package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// JobConfig configures a job, in every process that runs it.
type JobConfig struct {
	// Timeout limits one attempt: the handler's context is then canceled with
	// [tether.ErrTimeout]. It is required, because nothing else would notice a job that hangs.
	// See [Support] for the longest.
	Timeout time.Duration
	// MaxAttempts is the maximum number of attempts that count, the first included. Zero means 25.
	//
	// With 1 a job that has failed is not run again, and a crash of the process in which it
	// runs loses it; each attempt then costs the engine one more write. Otherwise a crash counts only if no other job of the worker ran beside
	// it: after two crashes that did not count, the job runs alone. So a job that ends the
	// process is dead after its attempts, and its neighbors are not. An engine that cannot
	// tell counts every crash, see [Support].Pardons. An attempt that a drain cancels does not
	// count if the engine can avoid it, so 1 is not quite at most once.
	MaxAttempts int
	// Backoff returns the wait after an attempt, 1 for the first, that ended with err: an
	// error may carry the time that a server has asked for (Retry-After). A negative wait
	// counts as zero. If Backoff is nil, tether.ExponentialBackoff(time.Second, time.Hour) is used: 25 attempts
	// then take about seven hours, thirteen at most. Engines round the wait up, see [Support].
	// Backoff must be safe for concurrent use. If it panics, or has not returned after five
	// seconds, the default is used and an error is logged.
	Backoff func(attempt int, err error) time.Duration
	// Headers, if non-nil, returns what is stored with a job beside its arguments, such as the
	// trace of ctx, which [WorkerConfig].Context gives to the handler. It is called with the
	// context of each Enqueue and Go, and must be safe for concurrent use. If it panics, or has
	// not returned after five seconds, the job is stored without headers and an error is logged.
	Headers func(ctx context.Context) map[string]string
}

const defaultAttempts = 25

func defaultBackoff(attempt int, err error) time.Duration {
	return tether.ExponentialBackoff(time.Second, time.Hour)(attempt, err)
}

// Job is a kind of work that outlives the process: a name, a handler and a configuration. It
// is created by [Define] and its configuration does not change.
type Job[A any] struct {
	name    string
	handler func(ctx context.Context, args A) (any, error)
	config  JobConfig
	plain   bool // see plainType

	timeout, wraps tether.Option // of its tasks; wraps names the handler in Info.Func

	ids idSource
}

// Define names a handler, usually in a package variable, in the process that enqueues as well
// as in the worker's. The engine stores the name, so it must not change. Arguments are encoded
// by encoding/json.
//
// Handlers must be idempotent. Every engine runs a job at least once, never exactly once:
// after a crash, a lost connection or a drain that ran out of time a job is run again, even if
// it has done its work. [Meta].ID is the same each time.
//
// Define panics if the name is not valid for [tether.CheckName], if there is no handler or no
// Timeout, or if MaxAttempts is negative, which is a programming error.
func Define[A any](name string, handler func(ctx context.Context, args A) error, cfg JobConfig) *Job[A] {
	if handler == nil {
		return define[A]("Define", name, nil, tether.Option{}, cfg)
	}
	return define("Define", name, func(ctx context.Context, args A) (any, error) { return nil, handler(ctx, args) }, tether.Wraps(handler), cfg)
}

// DefineResult is [Define] for a handler that returns a result: a part of the job's status, if
// the job is [Tracked], as encoding/json encodes it. It is lost otherwise.
func DefineResult[A, R any](name string, handler func(ctx context.Context, args A) (R, error), cfg JobConfig) *Job[A] {
	if handler == nil {
		return define[A]("DefineResult", name, nil, tether.Option{}, cfg)
	}
	return define("DefineResult", name, func(ctx context.Context, args A) (any, error) { return handler(ctx, args) }, tether.Wraps(handler), cfg)
}

func define[A any](constructor, name string, handler func(context.Context, A) (any, error), wraps tether.Option, cfg JobConfig) *Job[A] {
	if err := tether.CheckName(name); err != nil {
		panic(fmt.Sprintf("durable: %s: %v", constructor, err))
	}
	if handler == nil || cfg.Timeout <= 0 || cfg.MaxAttempts < 0 {
		panic(fmt.Sprintf("durable: %s(%q): a handler and a Timeout are required, MaxAttempts must not be negative", constructor, name))
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = defaultAttempts
	}
	if cfg.Backoff == nil {
		cfg.Backoff = defaultBackoff
	}
	return &Job[A]{
		name: name, handler: handler, config: cfg, plain: plainType(reflect.TypeFor[A]()),
		timeout: tether.Timeout(cfg.Timeout), wraps: wraps,
	}
}

// Definition is a *[Job] of any type, as a [Worker] takes it.
type Definition interface {
	Name() string
	Config() JobConfig // as Define has completed them

	run(ctx context.Context, args []byte) (value any, err error)
	written() tether.Option // names the handler in Info.Func
}

// Name returns the name that the job was defined with.
func (j *Job[A]) Name() string { return j.name }

// Config returns the job's configuration, with the defaults in place of what was not given.
func (j *Job[A]) Config() JobConfig { return j.config }

func (j *Job[A]) written() tether.Option { return j.wraps }

func (j *Job[A]) run(ctx context.Context, args []byte) (any, error) {
	var a A
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, &ArgsError{Job: j.name, Err: err} // in a rolling deploy a newer worker may decode them
	}
	return j.handler(ctx, a)
}

// An EnqueueOption configures one Enqueue.
type EnqueueOption struct {
	runAt   time.Time
	unique  string
	tracker store.Tracker
	label   [2]string // key and value
	reason  string    // why it cannot be granted
}

// RunAt makes the job start no earlier than t. How much later depends on the engine. The zero
// time means now, as does a time that has passed. A time after the year 9999 is [ErrInvalid]:
// not all engines can store it.
func RunAt(t time.Time) EnqueueOption {
	if t.UTC().Year() > maxYear {
		return EnqueueOption{reason: fmt.Sprintf("RunAt in the year %d: must be %d or before", t.UTC().Year(), maxYear)}
	}
	return EnqueueOption{runAt: t}
}

const maxYear = 9999

// Unique allows one unfinished job of this name and key. While one waits, runs, or waits for
// its next attempt, Enqueue stores no other, and reports so in [Receipt].Duplicate. A job that
// has succeeded or is dead frees its key. A key must be 1 to 512 bytes of UTF-8.
func Unique(key string) EnqueueOption {
	if key == "" || len(key) > 512 || !utf8.ValidString(key) {
		return EnqueueOption{reason: fmt.Sprintf("Unique key of %d bytes: must be 1 to 512 of UTF-8", len(key))}
	}
	return EnqueueOption{unique: key}
}

// Receipt describes a job that Enqueue or Go has accepted.
type Receipt struct {
	// ID is the job's [Meta].ID: opaque, and the same wherever the job runs. If the job is a
	// Duplicate, it is the ID of the first one, or "" if the engine does not know it.
	ID string
	// Duplicate reports that the engine had an unfinished job with this Unique key, and has
	// stored no other.
	Duplicate bool
	// Task is the job's task in this process, or nil if it has none: see [Job.Go].
	Task *tether.Task
}

// Enqueue puts a job on the engine. When it returns no error, the engine has stored the job,
// and a worker will run it at least once, whatever happens to this process. When it returns an
// error, the job may be stored all the same if the error came from the network: a caller that
// enqueues again needs Unique, or an idempotent handler.
//
// While the engine cannot be reached, Enqueue tries again until ctx is done, or for ten
// seconds if ctx has no deadline. Give ctx a deadline that the caller can wait for.
//
// The error is an [*ArgsError] if args cannot be encoded, [ErrUnsupported] if the engine does
// not support an option, [ErrInvalid] if an option is invalid, and otherwise the engine's.
func (j *Job[A]) Enqueue(ctx context.Context, e Enqueuer, args A, opts ...EnqueueOption) (Receipt, error) {
	m, err := j.message(ctx, args)
	if err != nil {
		return Receipt{}, err
	}
	var tracker store.Tracker
	for _, o := range opts {
		if o.reason != "" {
			return Receipt{}, fmt.Errorf("%w: job %q: %s", ErrInvalid, j.name, o.reason)
		}
		if !o.runAt.IsZero() {
			m.RunAt = o.runAt
		}
		if o.unique != "" {
			m.Unique = o.unique
		}
		if o.tracker != nil {
			tracker = o.tracker
		}
		if o.label[0] != "" {
			if m.Labels == nil {
				m.Labels = make(map[string]string)
			}
			m.Labels[o.label[0]] = o.label[1]
		}
	}
	if tracker != nil {
		return enqueueTracked(ctx, e, m, j.config.Timeout, tracker)
	}
	return enqueue(ctx, e, m, j.config.Timeout)
}

// message encodes a job that has not been tried yet.
func (j *Job[A]) message(ctx context.Context, args A) (Message, error) {
	encoded, err := j.encode(args)
	if err != nil {
		return Message{}, err
	}
	id := j.ids.next()
	return Message{ID: id, Name: j.name, Args: encoded, Headers: j.headers(ctx, id)}, nil
}

func (j *Job[A]) encode(args A) (json.RawMessage, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, &ArgsError{Job: j.name, Err: err}
	}
	return encoded, nil
}

// headers returns those of the job of this ID, which is enqueued with ctx.
func (j *Job[A]) headers(ctx context.Context, id string) map[string]string {
	if j.config.Headers == nil || ctx == nil {
		return nil
	}
	headers, err := isolated("JobConfig.Headers", callbackTime, func() map[string]string { return j.config.Headers(ctx) })
	if err != nil {
		slog.Error("durable: a job has no headers", "job", j.name, "id", id, "error", err)
	}
	return maps.Clone(headers)
}

// enqueue checks what the engine supports, and stores the job.
func enqueue(ctx context.Context, e Enqueuer, m Message, timeout time.Duration) (Receipt, error) {
	if ctx == nil || e == nil {
		return Receipt{}, fmt.Errorf("%w: job %q: nil context or engine", ErrInvalid, m.Name)
	}
	s := e.Support()
	if err := s.allows(m.Name, timeout); err != nil {
		return Receipt{}, err
	}
	switch {
	case m.Unique != "" && !s.Unique:
		return Receipt{}, fmt.Errorf("%w: %s has no unique keys (job %q)", ErrUnsupported, s.Engine, m.Name)
	case !m.RunAt.IsZero() && !s.RunAt:
		return Receipt{}, fmt.Errorf("%w: %s cannot delay a job (%q)", ErrUnsupported, s.Engine, m.Name)
	}
	return reach(ctx, func(ctx context.Context) (Receipt, error) { return e.Enqueue(ctx, m) })
}

// The engine that cannot be reached is tried again after reachFirst, and twice as much each
// time up to reachMost, until the context ends; reachTime is the limit of a context that has no
// deadline.
const (
	reachFirst = 50 * time.Millisecond
	reachMost  = time.Second
	reachTime  = 10 * time.Second
)

// reach calls try until the engine is reached or ctx ends.
func reach(ctx context.Context, try func(context.Context) (Receipt, error)) (Receipt, error) {
	receipt, err := try(ctx)
	if !is(err, ErrUnavailable) {
		return receipt, err
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, reachTime)
		defer cancel()
	}
	wait := time.NewTimer(reachFirst)
	defer wait.Stop()
	for next := 2 * reachFirst; ; next = min(2*next, reachMost) {
		select {
		case <-ctx.Done():
			return Receipt{}, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-wait.C:
		}
		var again error
		if receipt, again = try(ctx); !is(again, ErrUnavailable) && ctx.Err() == nil {
			return receipt, again
		}
		if again == nil {
			return receipt, nil
		}
		if ctx.Err() == nil {
			err = again
		}
		wait.Reset(next)
	}
}

// Meta describes a job to its handler.
type Meta struct {
	// ID identifies the job: it is the same in each attempt, in each process, and in the
	// Receipt. It serves as an idempotency key, and cannot be guessed.
	ID string
	// Attempt is 1 in the first attempt. Every attempt increases it, also one that ended in a
	// crash.
	Attempt int
	// MaxAttempts is the number that the last attempt will have: [JobConfig].MaxAttempts, and
	// one more for each crash that does not count.
	MaxAttempts int
}

type metaKey struct{}

// jobContext is a context with the Meta of a job.
type jobContext struct {
	context.Context
	meta Meta
}

func (c *jobContext) Value(key any) any {
	if key == (metaKey{}) {
		return &c.meta
	}
	return c.Context.Value(key)
}

// MetaFrom returns the Meta of the job whose handler was given ctx, or a context that ctx is
// derived from. It reports false for any other context.
func MetaFrom(ctx context.Context) (Meta, bool) {
	if ctx == nil {
		return Meta{}, false
	}
	if m, ok := ctx.Value(metaKey{}).(*Meta); ok {
		return *m, true
	}
	return Meta{}, false
}

// Permanent marks an error that no further attempt can fix: the job has failed for good.
// Permanent(nil) is nil. errors.Is and errors.As find the marked error.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// isPermanent reports whether no other attempt should follow.
func isPermanent(err error) bool { return as(err, new(*permanentError)) }

// as is errors.As, except that it returns false if a method of err panics (err may be a typed
// nil).
func as(err error, target any) (found bool) {
	defer func() {
		if recover() != nil {
			found = false
		}
	}()
	return errors.As(err, target)
}

// is is errors.Is likewise.
func is(err, target error) (found bool) {
	defer func() {
		if recover() != nil {
			found = false
		}
	}()
	return errors.Is(err, target)
}

// Errors to compare with errors.Is.
var (
	// ErrUnsupported is returned if the engine does not support a request, see [Support].
	ErrUnsupported = errors.New("durable: the engine does not support this")
	// ErrInvalid is returned if an argument is invalid for every engine.
	ErrInvalid = errors.New("durable: invalid")
	// ErrClosed is returned by an engine or a worker that is closed.
	ErrClosed = errors.New("durable: closed")
)

// ArgsError reports that the arguments of a job cannot be encoded, or cannot be decoded into
// what its handler takes. The second fails the attempt, and is retried like other errors: a
// worker of another version of the program may decode them.
type ArgsError struct {
	Job string
	Err error // of encoding/json
}

func (e *ArgsError) Error() string {
	return fmt.Sprintf("durable: arguments of job %q: %v", e.Job, e.Err)
}

func (e *ArgsError) Unwrap() error { return e.Err }

// callbackTime bounds a call of JobConfig.Backoff, which a worker waits for.
const callbackTime = 5 * time.Second

// backoff returns the wait after an attempt that ended with err. If JobConfig.Backoff returns
// none, wait is the default's and failed says why.
func backoff(cfg JobConfig, attempt int, err error) (wait time.Duration, failed error) {
	wait, failed = isolated("Backoff", callbackTime, func() time.Duration { return cfg.Backoff(attempt, err) })
	if failed != nil {
		wait = defaultBackoff(attempt, err)
	}
	return max(0, wait), failed
}

// isolated calls fn, which is not ours, on a goroutine of its own: fn cannot end or block the
// caller's. The error says whether fn panicked, ended its goroutine or has not returned
// within limit.
func isolated[T any](what string, limit time.Duration, fn func() T) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: fmt.Errorf("durable: %s: %w", what, tether.ErrGoexit)}
		defer func() { done <- r }()
		defer func() {
			if v := recover(); v != nil {
				r.err = fmt.Errorf("durable: %s panicked: %v\n%s", what, v, debug.Stack())
			}
		}()
		r = result{value: fn()}
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
		var zero T
		return zero, fmt.Errorf("durable: %s did not return within %v", what, limit)
	}
}
