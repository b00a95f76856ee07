package tether

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"time"
)

// Option is a wish about one submission; the zero Option is none. It may be used again,
// by many goroutines at once.
type Option struct {
	wish   wish
	n      int64
	key    string
	value  any
	reason string // why it cannot be granted
}

type wish uint8

const (
	wishNothing wish = iota
	wishTimeout
	wishDelay
	wishHold
	wishUnique
	wishOnDuplicate
	wishSerial
	wishWeight
	wishRetry
	wishLabel
	wishHandOver
)

func invalid(format string, args ...any) Option {
	return Option{wish: wishNothing, reason: fmt.Sprintf(format, args...)}
}

// wishes is what the options of one submission come to. It lives as long as the
// submission; what the task needs longer is in its options.
type wishes struct {
	options
	lasting     bool // some of options is set
	timeout     time.Duration
	hold        bool
	onDuplicate []func(existing *Task)
	typed       typed // of a Submit: the body, and the task is made in its room; nil if fn is the body
	err         error // the first wish that cannot be granted
}

func (w *wishes) add(o Option) {
	if o.reason != "" && w.err == nil {
		w.err = fmt.Errorf("%w: %s", ErrInvalid, o.reason)
	}
	switch o.wish {
	case wishNothing:
	case wishTimeout:
		w.timeout = time.Duration(o.n)
	case wishHold:
		w.hold = true
	case wishOnDuplicate:
		w.onDuplicate = append(w.onDuplicate, o.value.(func(*Task)))
	default:
		w.lasting = true
		w.options.add(o)
	}
}

// kept returns what the task is to keep of its wishes, nil if that is nothing.
func (w *wishes) kept() *options {
	if w == nil || !w.lasting {
		return nil
	}
	return &w.options
}

func (w *wishes) held() bool { return w != nil && w.hold }

// furnish makes a task with these wishes, and what it keeps of them.
func (w *wishes) furnish(fn Func) *Task {
	if w == nil {
		w = new(wishes)
	}
	var t *Task
	var m *more
	switch {
	case w.typed != nil:
		t, m = w.typed.room()
		m.typed, t.pc = w.typed, w.typed.pc()
	case w.lasting:
		both := new(struct {
			more
			options
		})
		t, m = new(Task), &both.more
		m.opts, t.pc = &both.options, reflect.ValueOf(fn).Pointer()
	default:
		t, m = new(Task), new(more)
		t.pc = reflect.ValueOf(fn).Pointer()
	}
	m.timeout = w.timeout
	if w.lasting {
		if m.opts == nil {
			m.opts = new(options)
		}
		*m.opts = w.options
	}
	t.more.Store(m)
	return t
}

// options is what a task keeps of what was wished. It does not change once the task
// is published, but for active, handed and timer.
type options struct {
	delay          time.Duration
	unique, serial string
	holder         *uniqueTask // of the Unique key
	weight         int64
	labels         []label
	handOver       func(ctx context.Context, info Info) error
	retry          *retrying
	timer          *time.Timer // of the delay or the wait between attempts; guarded by the lane's lock
	weighted       bool
	active         bool // it is one of its Serial key's active tasks; guarded by the lane's lock
	handed         bool // HandOver has taken it; written before it is settled
}

func (o *options) add(opt Option) {
	switch opt.wish {
	case wishDelay:
		o.delay = time.Duration(opt.n)
	case wishUnique:
		o.unique = opt.key
	case wishSerial:
		o.serial = opt.key
	case wishWeight:
		o.weight, o.weighted = opt.n, true
	case wishRetry:
		o.retry = &retrying{policy: opt.value.(*RetryPolicy), attempts: opt.value.(*RetryPolicy).Attempts}
	case wishLabel:
		o.labels = append(o.labels, label{opt.key, opt.value.(string)})
	case wishHandOver:
		o.handOver = opt.value.(func(context.Context, Info) error)
	}
}

// retrying is where a task with a Retry stands.
type retrying struct {
	policy   *RetryPolicy
	failed   atomic.Int32  // attempts that were followed by another
	began    atomic.Int64  // when the attempt that runs began, if it is not the first
	attempts int           // policy.Attempts, which is let go at the end
	wait     time.Duration // before the next attempt; written by the goroutine that ran the last one
	due      int64         // when the next attempt is due; guarded by more.mu
	last     error         // of the last attempt; guarded by more.mu
}

func (r *retrying) attempt() int { return int(r.failed.Load()) + 1 }

type label struct{ key, value string }

func (o *options) copyLabels() map[string]string {
	if len(o.labels) == 0 {
		return nil
	}
	labels := make(map[string]string)
	for _, l := range o.labels {
		labels[l.key] = l.value
	}
	return labels
}

// letGo drops what a finished task has no use for.
func (o *options) letGo() {
	o.handOver, o.holder = nil, nil
	if o.retry != nil {
		o.retry.policy, o.retry.last = nil, nil
	}
}

// Timeout bounds the time from the task's first start, all its attempts and the
// waits between them included. Then the body's context is cancelled with
// [ErrTimeout]; the body decides when it returns. It overrides [Config].Timeout.
func Timeout(d time.Duration) Option {
	if d <= 0 {
		return invalid("timeout %v: must be more than 0", d)
	}
	return Option{wish: wishTimeout, n: int64(d)}
}

// Delay has the task start no earlier than d from its submission.
func Delay(d time.Duration) Option {
	if d < 0 {
		return invalid("delay %v: must not be negative", d)
	}
	return Option{wish: wishDelay, n: int64(d)}
}

// Hold has the task wait for [Task.Release]: until the response is sent, or the
// transaction committed. Its place is taken meanwhile.
func Hold() Option {
	return Option{wish: wishHold}
}

// Unique allows one live task of this key in the registry, all pools together: as
// long as there is one, a further submission returns that task and no error, and
// its own body never runs. The key is free again when the task's Done is closed.
func Unique(key string) Option {
	if key == "" {
		return invalid("empty Unique key")
	}
	return Option{wish: wishUnique, key: key}
}

// OnDuplicate calls fn before Go returns, on the same goroutine, if the submission
// found a live task of its [Unique] key instead of starting one. The task that fn is
// given is the one that Go returns. A panic in fn is contained and logged.
func OnDuplicate(fn func(existing *Task)) Option {
	if fn == nil {
		return invalid("nil OnDuplicate")
	}
	return Option{wish: wishOnDuplicate, value: fn}
}

// Serial runs tasks of this key in the order of their submission and one at a
// time, or [PoolConfig].PerKey at a time. Each pool has keys of its own, as has the
// registry. A task keeps its turn between its attempts.
func Serial(key string) Option {
	if key == "" {
		return invalid("empty Serial key")
	}
	return Option{wish: wishSerial, key: key}
}

// Weight is the task's share of [PoolConfig].Capacity; 1 without it. A task that
// weighs more than the capacity is refused. Without a Capacity weights mean nothing.
func Weight(n int64) Option {
	if n < 0 {
		return invalid("weight %d: must not be negative", n)
	}
	return Option{wish: wishWeight, n: n}
}

// RetryPolicy says whether a failed attempt is followed by another. Its functions
// may be called by many goroutines at once.
type RetryPolicy struct {
	// Attempts is the most there are, the first included.
	Attempts int
	// Backoff returns the wait after the given attempt, 1 for the first, which ended with
	// err, so that it can honor a Retry-After. If nil, it is
	// ExponentialBackoff(time.Second, time.Minute).
	Backoff func(attempt int, err error) time.Duration
	// ShouldRetry tells whether this error is worth another attempt; nil: any but a panic.
	ShouldRetry func(error) bool
}

// Retry runs the body again when it fails: one task, many attempts, of which the
// last decides. Failures after a cancellation, a timeout or the drain's are final.
// The wait between attempts holds no worker, but the task keeps its place in the
// pool.
func Retry(p RetryPolicy) Option {
	if p.Attempts < 1 {
		return invalid("retry with %d attempts: at least 1", p.Attempts)
	}
	if p.Backoff == nil {
		p.Backoff = ExponentialBackoff(time.Second, time.Minute)
	}
	return Option{wish: wishRetry, value: &p}
}

// ExponentialBackoff returns a Backoff that waits a random time (full jitter) of more than
// 0 and at most first after the first attempt, twice that after the second, and so
// on, but never more than most.
func ExponentialBackoff(first, most time.Duration) func(attempt int, err error) time.Duration {
	return func(attempt int, _ error) time.Duration {
		ceiling := min(first, most)
		for i := 1; i < attempt && 0 < ceiling && ceiling < most; i++ {
			ceiling += min(ceiling, most-ceiling)
		}
		if ceiling <= 0 {
			return 0
		}
		return ceiling - rand.N(ceiling)
	}
}

// Label gives the task a label, which [Info] shows.
func Label(key, value string) Option {
	return Option{wish: wishLabel, key: key, value: value}
}

// HandOver names who takes the task over if it never gets to run: when
// [Registry.Shutdown] drops it, or the DropOldest of a full pool. If fn returns
// nil, the task's work is safe elsewhere. It is not called for a task that has
// started, nor for one cancelled by [Task.Cancel].
//
// The ctx of fn has the task's values, and ends when that of the Shutdown does, or
// of the submission that drops it: fn should return then. A Shutdown without a
// deadline leaves it no time.
func HandOver(fn func(ctx context.Context, info Info) error) Option {
	if fn == nil {
		return invalid("nil HandOver")
	}
	return Option{wish: wishHandOver, value: fn}
}
