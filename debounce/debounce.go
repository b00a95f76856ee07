// Package debounce runs a task once for many calls: after the last call for a key.
//
// Each change of a document asks for its index to be rebuilt, and one rebuild after the
// last change is enough:
//
//	reindex := debounce.New(pool, "reindex", debounce.Config{Wait: 2 * time.Second, MaxWait: time.Minute})
//
//	_, err := reindex.Go(ctx, doc.ID, func(ctx context.Context) error { return index(ctx, doc) })
//
// The first call submits a task, which is held ([tether.Hold]): it has its place in the
// pool, and is in the lists and in the counts, from then on. So what a call was told is
// admitted is not lost. When the stop begins, what waits is run at once.
package debounce

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Config configures a [Debouncer].
type Config struct {
	// Wait is how long after the last call for a key its task starts. It must be more
	// than 0.
	Wait time.Duration

	// MaxWait is how long after the first call the task starts at the latest, however
	// many calls follow. It must not be less than Wait. Zero means that there is no such
	// bound: a key that is called for more often than every Wait is put off until the stop.
	MaxWait time.Duration

	// Options are those of each task. Unique is invalid here: a key has one waiting task as
	// it is, and may have another one that runs.
	Options []tether.Option
}

// Debouncer submits one task for many calls. It is made by [New] and needs no closing. Its
// methods are safe for concurrent use.
type Debouncer struct {
	to   tether.Submitter
	reg  *tether.Registry // of to
	name string
	cfg  Config

	mu      sync.Mutex
	waiting map[string]*burst // by key; guarded by mu
	idle    chan struct{}     // closed when waiting becomes empty; nil if no goroutine waits for it; guarded by mu
}

// burst is the calls for a key that one task stands for.
type burst struct {
	key   string
	ready chan struct{} // closed when the task was submitted or refused

	// Guarded by Debouncer.mu.
	task     *tether.Task // nil before it was submitted
	timer    *time.Timer  // releases the task
	deadline time.Time    // the timer must not be put off beyond it; zero if there is no bound
	fn       tether.Func  // of the last call
}

// New returns a Debouncer whose tasks have the name, and are submitted to a registry or a
// pool. It panics if an argument is invalid, which is a programming error.
func New(to tether.Submitter, name string, cfg Config) *Debouncer {
	err := tether.CheckName(name)
	switch {
	case to == nil:
		panic("debounce: New: nil Submitter")
	case err != nil:
		panic(fmt.Sprintf("debounce: New: %v", err))
	case cfg.Wait <= 0 || cfg.MaxWait < 0 || cfg.MaxWait > 0 && cfg.MaxWait < cfg.Wait:
		panic(fmt.Sprintf("debounce: New(%q): Wait must be more than 0, and MaxWait 0 or at least Wait: %+v", name, cfg))
	}
	var reg *tether.Registry
	switch to := to.(type) {
	case *tether.Registry:
		reg = to
	case *tether.Pool:
		reg = to.Registry()
	}
	return &Debouncer{to: to, reg: reg, name: name, cfg: cfg, waiting: make(map[string]*burst)}
}

// Go runs fn when Wait has passed without another call for the key. If a task of an
// earlier call for the key has not started yet, Go puts it off, and makes it run fn in the
// place of that call's function: it returns that task. Otherwise it submits a task, and
// returns what [tether.Registry.Go] or [tether.Pool.Go] does: an error means that fn will
// not run.
//
// Tasks of one key run one at a time and in order ([tether.Serial]). A task that has to
// wait for its turn or for a worker still takes the functions of later calls, but is not
// put off by them.
//
// The values of the body's context are those of the first call that the task stands for.
// A task of [tether.Retry] runs the same fn in each attempt.
func (d *Debouncer) Go(ctx context.Context, key string, fn tether.Func) (*tether.Task, error) {
	if key == "" || fn == nil {
		return nil, fmt.Errorf("%w: debounce: empty key or nil function", tether.ErrInvalid)
	}
	if ctx == nil {
		return nil, fmt.Errorf("%w: debounce: nil context", tether.ErrInvalid)
	}
	for {
		task, submitting, b := d.join(key, fn)
		switch {
		case task != nil:
			return task, nil
		case b != nil:
			return d.submit(ctx, b)
		}
		select {
		case <-submitting: // submitted, or refused: look again
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", tether.ErrFull, context.Cause(ctx))
		}
	}
}

// join makes the task that waits for the key run fn, and puts it off. If another call is
// submitting a task for the key, join returns a channel that is closed when it has done so. If
// neither, it returns a new burst, whose task the caller must submit.
func (d *Debouncer) join(key string, fn tether.Func) (task *tether.Task, submitting <-chan struct{}, mine *burst) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.waiting[key]
	if b != nil && b.task != nil && b.task.State().Final() { // canceled, or dropped by the drain or the pool
		d.removeLocked(b)
		b = nil
	}
	switch {
	case b == nil:
		b = &burst{key: key, fn: fn, ready: make(chan struct{})}
		d.waiting[key] = b
		return nil, nil, b
	case b.task == nil:
		return nil, b.ready, nil
	}
	b.fn = fn
	if b.task.State() == tether.Held {
		b.timer.Reset(d.waitLocked(b))
	}
	return b.task, nil, nil
}

// submit submits the task of a new burst. It does not hold the lock: a pool may make the
// submission wait.
func (d *Debouncer) submit(ctx context.Context, b *burst) (task *tether.Task, err error) {
	defer func() { // also if an observer ends this goroutine
		d.mu.Lock()
		if task == nil {
			d.removeLocked(b)
		} else {
			d.waitForCallsLocked(b, task)
		}
		close(b.ready)
		d.mu.Unlock()
		if !d.reg.Ready() {
			d.release(b) // watch may have looked before
		}
	}()
	var chosen tether.Func // of the first attempt
	foreign := false
	opts := slices.Concat(d.cfg.Options, []tether.Option{
		tether.Hold(), tether.Serial(d.name + "\x00" + b.key), tether.Wraps(b.fn),
		tether.OnDuplicate(func(*tether.Task) { foreign = true }),
	})
	task, err = d.to.Go(ctx, d.name, func(ctx context.Context) error {
		if chosen == nil {
			chosen = d.take(b)
		}
		return chosen(ctx)
	}, opts...)
	if foreign {
		return nil, fmt.Errorf("%w: debounce: the options of %q have a Unique key", tether.ErrInvalid, d.name)
	}
	return task, err
}

// waitLocked returns how long a task is put off by a call now.
func (d *Debouncer) waitLocked(b *burst) time.Duration {
	if b.deadline.IsZero() {
		return d.cfg.Wait
	}
	return max(0, min(d.cfg.Wait, time.Until(b.deadline)))
}

// waitForCallsLocked makes the task of a burst wait for further calls.
func (d *Debouncer) waitForCallsLocked(b *burst, task *tether.Task) {
	b.task = task
	if d.waiting[b.key] != b {
		return // an observer has started it
	}
	if d.cfg.MaxWait > 0 {
		b.deadline = time.Now().Add(d.cfg.MaxWait)
	}
	b.timer = time.AfterFunc(d.cfg.Wait, func() { d.release(b) })
	if d.idle == nil {
		d.idle = make(chan struct{})
		go d.watch(d.idle)
	}
}

// recheck is the least time between two looks at a task that waits for a worker.
const recheck = time.Second

// release starts the task of a burst. If the task has ended without running, the burst is
// forgotten.
func (d *Debouncer) release(b *burst) {
	d.mu.Lock()
	task := b.task
	d.mu.Unlock()
	if task == nil {
		return
	}
	task.Release()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case task.State().Final():
		d.removeLocked(b)
	case d.waiting[b.key] == b:
		b.timer.Reset(max(d.cfg.Wait, recheck)) // it may be dropped while it waits for a worker
	}
}

// take ends a burst whose task starts, and returns the function of its last call.
func (d *Debouncer) take(b *burst) tether.Func {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(b)
	return b.fn
}

func (d *Debouncer) removeLocked(b *burst) {
	if d.waiting[b.key] != b {
		return
	}
	delete(d.waiting, b.key)
	if b.timer != nil {
		b.timer.Stop()
	}
	if len(d.waiting) == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
}

// watch starts all that waits when the stop begins. It returns when nothing waits.
func (d *Debouncer) watch(idle <-chan struct{}) {
	select {
	case <-idle:
		return
	case <-d.reg.Stopping():
	}
	d.mu.Lock()
	all := slices.Collect(maps.Values(d.waiting))
	d.mu.Unlock()
	for _, b := range all {
		d.release(b)
	}
}
