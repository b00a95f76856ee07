package tether

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/internal/goroutinehint"
	"github.com/seed-2e639f12/tether/internal/table"
)

// request is one submission.
type request struct {
	ctx   context.Context
	reg   *Registry
	pool  *Pool // nil for the registry
	kind  *kind
	fn    Func  // nil if typed is the body
	typed typed // of a Submit; nil if fn is the body

	from *Task // the task whose body submits; nil if none does

	duplicate bool  // the Unique key has found a live task
	found     typed // of that task; may be nil
}

// submit admits a task and sends it on its way, or returns why not.
func (r *Registry) submit(ctx context.Context, p *Pool, name string, fn Func, body typed, options []Option) (*Task, error) {
	var req request // a composite literal would be made elsewhere and copied, which costs 5 % of a submission
	req.ctx, req.reg, req.pool, req.fn, req.typed = ctx, r, p, fn, body
	return req.submit(name, options)
}

func (req *request) submit(name string, list []Option) (*Task, error) {
	err := req.check(name)
	if err == nil {
		var t *Task
		if len(list) == 0 {
			t, err = req.admit(nil)
		} else {
			t, err = req.admitWithOptions(list)
		}
		if err == nil {
			return t, nil
		}
	}
	return nil, req.reg.refused(req.ctx, req.pool, name, err)
}

// check returns what is invalid about the arguments.
func (req *request) check(name string) (err error) {
	kinds := &req.reg.kinds
	if req.pool != nil {
		kinds = &req.pool.kinds
	}
	if req.kind, err = kinds.Get(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case req.ctx == nil:
		return fmt.Errorf("%w: nil context", ErrInvalid)
	case req.fn == nil && (req.typed == nil || req.typed.pc() == 0):
		return fmt.Errorf("%w: nil body", ErrInvalid)
	}
	return nil
}

// refusalsPerYield is the number of refusals of a pool after which a submitter yields its
// processor. A loop that submits again at once would otherwise take the processors from the
// workers for which it waits.
const refusalsPerYield = 64

// refused counts a refusal and notifies the observer; it returns err.
func (r *Registry) refused(ctx context.Context, p *Pool, name string, err error) error {
	if p != nil {
		if p.refused.Add(1)%refusalsPerYield == 0 {
			runtime.Gosched()
		}
	} else {
		r.refusals.Add(1)
	}
	if r.observers != nil {
		r.observers.TaskRefused(ctx, name, err)
	}
	return err
}

// logRefusal logs a refusal that the submitter cannot be told of.
func (r *Registry) logRefusal(ctx context.Context, p *Pool, name string, err error) {
	kinds, pool := &r.kinds, ""
	if p != nil {
		kinds, pool = &p.kinds, p.name
	}
	attrs := []slog.Attr{slog.String("task", name), slog.String("pool", pool), slog.Any("error", err)}
	if kind, invalid := kinds.Get(name); invalid == nil {
		omitted, ok := kind.refusalLog.allow(r.now())
		if !ok {
			return
		}
		attrs = append(attrs, slog.Int64("omitted", omitted))
	}
	if ctx == nil {
		ctx = context.Background()
	}
	r.log(ctx, slog.LevelWarn, "task refused", attrs...)
}

// admitWithOptions is admit for a request with options.
func (req *request) admitWithOptions(list []Option) (t *Task, err error) {
	var opts submitOptions
	for i := range list {
		opts.add(&list[i])
	}
	if opts.err != nil {
		return nil, opts.err
	}
	if opts.start.unique == "" {
		return req.admit(&opts)
	}
	t, err = req.admitUnique(&opts)
	if req.duplicate {
		for _, fn := range opts.onDuplicate {
			_ = t.callback("OnDuplicate", func() error { fn(t); return nil })
		}
	}
	return t, err
}

// admit admits the request, or returns why not. Every refusal comes before the task is
// made, and gives back each place that was reserved for it. opts may be nil.
func (req *request) admit(opts *submitOptions) (*Task, error) {
	r := req.reg
	req.from, _ = FromContext(req.ctx)
	if r.drain.phase.Load() != open && !r.drain.admits(req.from, r) {
		return nil, ErrClosed
	}
	if r.memory != nil {
		if short := r.memory.Short(r.now()); short != nil {
			return nil, (*MemoryError)(short)
		}
	}
	// 1. Reserve a place.
	start := opts.startOptions()
	var q *queue
	inline := false
	if req.pool != nil {
		q = &req.pool.queue
		var err error
		if inline, err = req.pool.reserve(req.ctx, opts); err != nil {
			return nil, err
		}
	} else {
		q = r.shard(start)
		q.tryReserve(start) // there is always room
	}
	// 2. Take a number, and a share of the Limit.
	slot, err := r.number(req.from, q)
	if err != nil {
		if !inline {
			q.unreserve(start)
		}
		return nil, err
	}
	// 3. Make the task and send it on its way.
	t := req.newTask(opts, q, slot, inline)
	if req.from != nil {
		t.inherit(req.from, req.ctx)
	}
	req.publish(t, opts, inline)
	return t, nil
}

// shard returns the queue of a task that is on no pool. Tasks of one Serial key are all
// on the same.
func (r *Registry) shard(opts *startOptions) *queue {
	n := uint32(len(r.shards))
	if opts != nil && opts.loop {
		return r.loops
	}
	if opts != nil && opts.serial != "" {
		return r.shards[uint32(maphash.String(r.seed, opts.serial))&(n-1)]
	}
	return r.shards[goroutinehint.Hint()&(n-1)]
}

// number takes the next number of q, and a share of the Limit, for a task that from
// submits.
func (r *Registry) number(from *Task, q *queue) (table.Slot[Task], error) {
	if limit := int64(r.cfg.Limit); limit > 0 {
		for n := r.live.Load(); ; n = r.live.Load() {
			if n >= limit {
				return table.Slot[Task]{}, &FullError{Running: int(n), Limit: r.cfg.Limit, RetryAfter: time.Second}
			}
			if r.live.CompareAndSwap(n, n+1) {
				break
			}
		}
	}
	slot, ok := q.table.Next()
	if !ok {
		slot, ok = r.drain.numberLate(from, r, q)
	}
	if !ok {
		if r.cfg.Limit > 0 {
			r.live.Add(-1)
		}
		return table.Slot[Task]{}, ErrClosed
	}
	return slot, nil
}

// newTask makes the task, with as few allocations as its options allow.
func (req *request) newTask(opts *submitOptions, q *queue, slot table.Slot[Task], inline bool) *Task {
	var pc uintptr
	if req.typed != nil {
		pc = req.typed.pc()
	} else {
		pc = reflect.ValueOf(req.fn).Pointer()
	}
	var t *Task
	switch {
	case opts == nil && req.typed == nil && req.from == nil && !inline:
		t = new(Task)
	case opts != nil && opts.ordered:
		all := new(struct {
			taskExtra
			options
			startOptions
		})
		all.options, all.startOptions = opts.options, opts.start
		all.options.start = &all.startOptions
		all.taskExtra.options = &all.options
		t = new(Task)
		t.extra.Store(&all.taskExtra)
	case opts != nil && opts.lasting:
		both := new(struct {
			taskExtra
			options
		})
		both.options = opts.options
		both.taskExtra.options = &both.options
		t = new(Task)
		t.extra.Store(&both.taskExtra)
	case req.typed != nil:
		both := new(struct {
			Task
			taskExtra
		})
		t = &both.Task
		t.extra.Store(&both.taskExtra)
	default:
		t = new(Task)
		t.extra.Store(new(taskExtra))
	}
	// First a store that is no pointer's: before a pointer's, the compiler reads the task to
	// check t for nil, and the read waits for memory that is not in the cache. It is
	// more than a tenth of an empty task's time.
	t.pc = pc
	t.queue, t.kind, t.slot, t.fn, t.values = q, req.kind, slot, req.fn, req.ctx
	if x := t.extra.Load(); x != nil {
		x.inline, x.typed = inline, req.typed
		if opts != nil {
			x.timeout = opts.timeout
			if opts.pc != 0 {
				t.pc = opts.pc
			}
		}
	}
	return t
}

// publish makes an admitted task known and sends it on its way.
func (req *request) publish(t *Task, submitted *submitOptions, inline bool) {
	r, q, opts := req.reg, t.queue, submitted.startOptions()
	held := submitted != nil && submitted.hold
	// A direct task goes into the inbox of the workers at once. Any other one is parked
	// first: it is held, delayed or run here, or the observer has to see it before it
	// starts.
	direct := !held && !inline && (opts == nil || opts.delay == 0) && r.observers == nil
	if !direct || q.pool != nil || opts != nil && opts.serial != "" { // otherwise it starts now
		t.submitted = r.now()
	}
	state, flags := Queued, uint32(0)
	if held {
		state = Held
		q.workers.Lock()
		q.held++
		q.workers.Unlock()
	}
	if !direct {
		flags = parked | notifying // no other goroutine can start or abort it before schedule
	}
	t.admit(state, flags)
	t.slot.Fill(t) // from here on the task may be found, and may end at any time
	if opts != nil && opts.holder != nil {
		opts.holder.found(t)
	}
	if direct {
		q.workers.Push((*node)(t))
		if r.drain.phase.Load() != open || q == r.loops && !r.Ready() {
			q.dropStopped(t) // the drain may have looked for tasks before this one was there
		}
		return
	}
	req.announce(t, inline)
}

// announce notifies the observer of a parked task, and sends the task on.
func (req *request) announce(t *Task, inline bool) {
	defer func() { // also if the observer ends this goroutine
		if inline {
			t.queue.runInline(req.ctx, t)
		} else {
			t.queue.schedule(t)
		}
	}()
	if observers := req.reg.observers; observers != nil {
		observers.TaskSubmitted(req.ctx, t)
	}
}

// uniqueKeys are the Unique keys of the live tasks.
type uniqueKeys struct {
	mu      sync.Mutex
	holders map[string]*uniqueHolder // guarded by mu
}

// uniqueHolder holds a Unique key for a submission. task and err are written before
// ready is closed, which happens when the submission is admitted or refused.
type uniqueHolder struct {
	ready chan struct{}
	task  *Task
	err   error
}

func (h *uniqueHolder) found(t *Task) {
	h.task = t
	close(h.ready)
}

// take gives the key to mine, or returns the one that holds it.
func (u *uniqueKeys) take(key string, mine *uniqueHolder) (other *uniqueHolder) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if other := u.holders[key]; other != nil {
		return other
	}
	u.holders[key] = mine
	return nil
}

// free takes the key away from a holder, if that has it still.
func (u *uniqueKeys) free(key string, holder *uniqueHolder) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.holders[key] == holder {
		delete(u.holders, key)
	}
}

// admitUnique admits the request unless a task of its key is live, which it returns then.
func (req *request) admitUnique(opts *submitOptions) (t *Task, err error) {
	u, key := &req.reg.unique, opts.start.unique
	mine := &uniqueHolder{ready: make(chan struct{})}
	opts.start.holder = mine
	for other := u.take(key, mine); other != nil; other = u.take(key, mine) {
		select {
		case <-other.ready:
		case <-req.ctx.Done():
			select {
			case <-other.ready:
			default: // the other submission waits for room itself, until its own ctx is done
				return nil, fmt.Errorf("%w: %w", ErrFull, context.Cause(req.ctx))
			}
		}
		if other.err == nil && req.join(other.task) {
			return other.task, nil
		}
		u.free(key, other)
	}
	err = ErrGoexit // unless admit returns
	defer func() {
		if mine.task == nil {
			mine.err = err
			close(mine.ready)
			u.free(key, mine)
		}
	}()
	t, err = req.admit(opts)
	return t, err
}

// join makes t the result of the request, and reports whether t is live.
func (req *request) join(t *Task) bool {
	x := t.extra.Load() // it has options
	x.mu.Lock()
	defer x.mu.Unlock()
	req.duplicate, req.found = !t.has(done), x.typed
	return req.duplicate
}
