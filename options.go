package tether

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/namecache"
)

// An Option configures one submission. The zero Option does nothing. Options are
// reusable and safe for concurrent use.
type Option struct {
	kind  optionKind
	n     int64
	key   string
	text  string // of a Label; why an optionInvalid is invalid
	value any    // must be a pointer or a func, which are not allocated again
}

// never is a duration that overrides another one by none.
const never time.Duration = -1

type optionKind uint8

const (
	optionNone optionKind = iota
	optionInvalid
	optionTimeout
	optionDelay
	optionHold
	optionUnique
	optionOnDuplicate
	optionSerial
	optionShare
	optionUrgent
	optionWeight
	optionRetry
	optionLabel
	optionHandOver
	optionOnStop
	optionStuckAfter
	optionWraps
	optionLoop
)

// Err returns the [ErrInvalid] with which a submission with the option would be refused, nil
// if the option is valid. It is for options that are kept for later.
func (o Option) Err() error {
	if o.kind != optionInvalid {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, o.text)
}

func invalid(format string, args ...any) Option {
	return Option{kind: optionInvalid, text: fmt.Sprintf(format, args...)}
}

// Timeout bounds the time from the task's first start, all attempts and the waits
// between them included. When it is up, the body's context is canceled with
// [ErrTimeout]; the task ends when its body returns. Timeout overrides [Config].Timeout.
func Timeout(d time.Duration) Option {
	if d <= 0 {
		return invalid("timeout %v: must be more than 0", d)
	}
	return Option{kind: optionTimeout, n: int64(d)}
}

// StuckAfter is how long an attempt of the task may run before the task is reported as
// stuck, in the place of [Config].StuckAfter. Zero means that it is not reported.
func StuckAfter(d time.Duration) Option {
	if d < 0 {
		return invalid("StuckAfter %v: must not be negative", d)
	}
	if d == 0 {
		d = never
	}
	return Option{kind: optionStuckAfter, n: int64(d)}
}

// Wraps makes [Info].Func describe fn in the place of the body. It is for a function that
// submits what its own caller has passed to it, inside a body that calls it.
func Wraps(fn any) Option {
	v := reflect.ValueOf(fn)
	if v.Kind() != reflect.Func || v.IsNil() {
		return invalid("Wraps needs a function, and not %T", fn)
	}
	return Option{kind: optionWraps, n: int64(v.Pointer())}
}

// Delay makes the task start no earlier than d after its submission. If that is later than
// the drain cancels contexts, the task is dropped, or handed over, when the drain begins.
func Delay(d time.Duration) Option {
	if d < 0 {
		return invalid("delay %v: must not be negative", d)
	}
	return Option{kind: optionDelay, n: int64(d)}
}

// Hold makes the task wait for [Task.Release]: until a response has been sent, or a
// transaction committed. A held task counts against the pool's queue.
func Hold() Option { return Option{kind: optionHold} }

// Unique allows one live task of this key in the registry, all pools together. While
// there is one, a submission with the key returns that task and no error, and its own
// body never runs: see [OnDuplicate]. The key is free again when the task's Done is
// closed.
func Unique(key string) Option {
	if key == "" {
		return invalid("empty Unique key")
	}
	return Option{kind: optionUnique, key: key}
}

// OnDuplicate calls fn before Go returns, on the same goroutine, if the submission found
// a live task of its [Unique] key. The task that fn is given is the one that Go returns.
// A panic of fn is contained and logged.
func OnDuplicate(fn func(existing *Task)) Option {
	if fn == nil {
		return invalid("nil OnDuplicate")
	}
	return Option{kind: optionOnDuplicate, value: fn}
}

// Serial runs the tasks of this key in the order of their submission and one at a time. The
// registry and each pool have keys of their own. A task keeps its turn between its attempts.
func Serial(key string) Option {
	if key == "" {
		return invalid("empty Serial key")
	}
	return Option{kind: optionSerial, key: key}
}

// Share makes the task one of the share with this key: of a tenant, or of the endpoint that
// it calls. The shares of a pool that have tasks waiting take turns, so that the flood of
// one does not delay the others: a worker that becomes free goes to the share with the
// fewest tasks running, and of several to the one whose last turn is the longest ago. It
// counts tasks, not their weight, which bounds what runs at once already. If no other share
// has a task waiting, one share may use all workers; [PoolConfig].ShareWorkers bounds that.
//
// The tasks without a Share form one. Within a share tasks start first in, first out. Each
// pool has shares of its own, which exist as long as they have live tasks. For tasks on no
// pool, which never wait for a worker, Share has no effect. A key has the form of a task's
// name.
func Share(key string) Option {
	if err := namecache.Check(key); err != nil {
		return invalid("Share: %v", err)
	}
	return Option{kind: optionShare, key: key}
}

// Urgent makes the task start before those of its pool that are not urgent, whatever their
// shares are. If both wait, one of eight tasks that start is not urgent, so that those
// progress too. Urgent tasks take turns by [Share] among themselves. A [Serial] key keeps
// its order: an urgent task waits for the earlier ones of its key. Running tasks are not
// interrupted. For tasks on no pool, which never wait for a worker, Urgent has no effect.
func Urgent() Option { return Option{kind: optionUrgent} }

// Weight is the task's part of [PoolConfig].Capacity. The default is 1. A task that
// weighs more than the capacity is refused. Without a Capacity, weights have no effect.
func Weight(n int64) Option {
	if n < 0 {
		return invalid("weight %d: must not be negative", n)
	}
	return Option{kind: optionWeight, n: n}
}

// RetryPolicy configures [Retry]. Its functions must be safe for concurrent use.
type RetryPolicy struct {
	// Attempts is the maximum number of attempts, the first included. It must be at
	// least 1.
	Attempts int

	// Backoff returns the wait after the given attempt, 1 for the first, which ended with
	// err: an error may carry the time that a server has asked for (Retry-After). If nil,
	// ExponentialBackoff(time.Second, time.Minute) is used.
	Backoff func(attempt int, err error) time.Duration

	// ShouldRetry reports whether an attempt that ended with err is to be followed by
	// another. If nil, all errors except panics are retried.
	ShouldRetry func(err error) bool
}

// Retry runs the body again when it fails: one task with many attempts, of which the last
// decides the outcome. An attempt that fails after a cancellation, by the program, a
// timeout or the drain, is the last. The wait between attempts holds no worker, but the
// task keeps its place in the pool. If the next attempt would be due after the drain
// cancels contexts, the task is canceled when the drain begins.
//
// While attempts fail, [Info] has the last error and the time of the next attempt, a
// [RetryObserver] is notified of each, and the Logger gets a record.
func Retry(p RetryPolicy) Option {
	if p.Attempts < 1 {
		return invalid("retry with %d attempts: must be at least 1", p.Attempts)
	}
	if p.Backoff == nil {
		p.Backoff = ExponentialBackoff(time.Second, time.Minute)
	}
	return Option{kind: optionRetry, value: &p}
}

// ExponentialBackoff returns a Backoff with full jitter: a random wait of more than 0 and
// at most first after the first attempt, twice that after the second, and so on, but
// never more than max. It ignores the error.
func ExponentialBackoff(first, max time.Duration) func(attempt int, err error) time.Duration {
	return func(attempt int, _ error) time.Duration {
		ceiling := min(first, max)
		for i := 1; i < attempt && 0 < ceiling && ceiling < max; i++ {
			ceiling += min(ceiling, max-ceiling)
		}
		if ceiling <= 0 {
			return 0
		}
		return ceiling - rand.N(ceiling)
	}
}

// Label gives the task a label, which log records, reports and [Info] show.
func Label(key, value string) Option {
	return Option{kind: optionLabel, key: key, text: value}
}

// HandOver registers fn to take over the task if it is dropped before it starts, by
// [Registry.Shutdown], by OverflowDropOldest, or because of its pool's MaxWait. If fn returns nil, the task's work is
// safe elsewhere. fn is not called for a task that has started, nor for one that was
// canceled by [Task.Cancel].
//
// The ctx of fn has the task's values, and is done when the context of the Shutdown is,
// or that of the submission that drops the task, or, after MaxWait, when the drain cancels
// contexts: fn should return then. If Shutdown has
// no deadline and its context is canceled, fn has no time.
func HandOver(fn func(ctx context.Context, info Info) error) Option {
	if fn == nil {
		return invalid("nil HandOver")
	}
	return Option{kind: optionHandOver, value: fn}
}

// OnStop calls fn when the stop begins, which is when [Registry.Stopping] is closed, if the
// body is running then; and if the body starts later, it calls fn when that starts. It is for
// a body that cannot wait for [StoppingFrom], since it waits in a call that fn can end: a read
// from a connection that fn closes.
//
// fn is called at most once for a task, on a goroutine of its own and with the body's context.
// The body may end before fn does, and the drain does not wait for fn. A panic of fn is
// contained and logged.
func OnStop(fn func(ctx context.Context)) Option {
	if fn == nil {
		return invalid("nil OnStop")
	}
	return Option{kind: optionOnStop, value: fn}
}

// submitOptions are the Options of one submission.
type submitOptions struct {
	options               // the task has a copy if lasting is set
	start   startOptions  // the task has a copy if ordered is set
	lasting bool          // one of options or start is set
	ordered bool          // one of start is set
	timeout time.Duration // the task has it in taskExtra

	err         error   // the first invalid Option
	pc          uintptr // of the function that the body wraps; 0 if there is none
	hold        bool
	onDuplicate []func(existing *Task)
}

// options are the Options that a task needs. They do not change once the task is
// published, except for onStop. With taskExtra they have 256 bytes, a size that is allocated
// without waste.
type options struct {
	labels     []slog.Attr
	handOver   func(ctx context.Context, info Info) error // dropped at the end
	onStop     func(ctx context.Context)                  // taken when it is called, and dropped at the end; guarded by taskExtra.mu
	retry      *retrying
	stuckAfter time.Duration // 0 means the registry's, never that it is not reported
	start      *startOptions // nil if there are none
}

// startOptions are the Options that decide whether, when and in which order a task starts. They
// do not change once the task is published, except for timer, in and active.
type startOptions struct {
	delay          time.Duration
	unique, serial string
	share          string
	holder         *uniqueHolder // of the Unique key; dropped at the end
	weight         int64

	timer     *time.Timer // of the delay; guarded by the queue's lock
	in        *share      // the share that the task is in, once that was asked for; guarded by the queue's lock
	loop      bool
	essential bool // of a loop
	weighted  bool // weight was set
	urgent    bool
	active    bool // the task has the turn of its Serial key; guarded by the queue's lock
}

// add applies one Option.
func (o *submitOptions) add(option *Option) {
	if o.start.loop && o.err == nil {
		o.err = option.kind.checkLoop()
	}
	switch option.kind {
	case optionNone:
		return
	case optionInvalid:
		if o.err == nil {
			o.err = option.Err()
		}
		return
	case optionWraps:
		o.pc = uintptr(option.n)
		return
	case optionTimeout:
		o.timeout = time.Duration(option.n)
		return
	case optionHold:
		o.hold = true
		return
	case optionOnDuplicate:
		o.onDuplicate = append(o.onDuplicate, option.value.(func(*Task)))
		return
	case optionDelay:
		o.start.delay, o.ordered = time.Duration(option.n), true
	case optionUnique:
		o.start.unique, o.ordered = option.key, true
	case optionSerial:
		o.start.serial, o.ordered = option.key, true
	case optionShare:
		o.start.share, o.ordered = option.key, true
	case optionUrgent:
		o.start.urgent, o.ordered = true, true
	case optionWeight:
		o.start.weight, o.start.weighted, o.ordered = option.n, true, true
	case optionRetry:
		policy := option.value.(*RetryPolicy)
		o.retry = &retrying{policy: policy, attempts: policy.Attempts}
	case optionLabel:
		o.labels = append(o.labels, slog.String(option.key, option.text))
	case optionStuckAfter:
		o.stuckAfter = time.Duration(option.n)
	case optionLoop:
		o.setLoop(option.value.(*LoopConfig))
	case optionHandOver:
		o.handOver = option.value.(func(context.Context, Info) error)
	case optionOnStop:
		o.onStop = option.value.(func(context.Context))
	}
	o.lasting = true
}

// startOptions returns those that the task needs, nil if there are none. o may be nil.
func (o *submitOptions) startOptions() *startOptions {
	if o == nil || !o.ordered {
		return nil
	}
	return &o.start
}

func (o *options) labelMap() map[string]string {
	if len(o.labels) == 0 {
		return nil
	}
	labels := make(map[string]string)
	for _, l := range o.labels {
		labels[l.Key] = l.Value.String()
	}
	return labels
}

// drop drops what a finished task does not need.
func (o *options) drop() {
	o.handOver, o.onStop = nil, nil
	if o.start != nil {
		o.start.holder = nil
	}
	if o.retry != nil {
		o.retry.policy, o.retry.last = nil, nil
	}
}

// retrying is the state of a task with Retry.
type retrying struct {
	policy   *RetryPolicy // dropped at the end
	attempts int          // policy.Attempts
	failed   atomic.Int64 // attempts that were followed by another
	began    atomic.Int64 // when the attempt that runs began, if it is not the first
	timer    *time.Timer  // of the backoff; guarded by the queue's lock

	// Of a loop: an attempt that has run for resetAfter makes forgotten equal to failed.
	// Used by the goroutine that has run the last attempt.
	resetAfter time.Duration
	forgotten  int64

	// Written by the goroutine that ran the last attempt, under taskExtra.mu, and read by
	// others under it.
	last error         // of the last attempt
	wait time.Duration // from its end to the next one
	due  int64         // the time of the next one
}

// failures returns how many attempts have failed in a row when one that ran for so long
// has failed.
func (r *retrying) failures(ran time.Duration) int {
	if r.resetAfter > 0 && ran >= r.resetAfter {
		r.forgotten = r.failed.Load()
	}
	return r.attempt() - int(r.forgotten)
}

// attempt returns the number of the attempt that runs or is next.
func (r *retrying) attempt() int { return int(r.failed.Load()) + 1 }
