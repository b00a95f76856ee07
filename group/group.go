package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/seed-2e639f12/tether"
)

// Errors to compare with errors.Is.
var (
	// ErrDecided is the cause with which children are canceled after the first success of a
	// group with UntilSuccess.
	ErrDecided = errors.New("group: another child has succeeded")
	// ErrEnded is the error of a child that was started after Wait had returned, and the
	// cause with which a task is canceled that Wait finds queued in a pool, without a child.
	ErrEnded = errors.New("group: Wait has returned")
)

// Until says what ends a group before all of its children have ended by themselves.
type Until uint8

const (
	// UntilFailure cancels the others when a child fails. Wait returns its error.
	UntilFailure Until = iota
	// UntilSuccess cancels the others when a child succeeds. Wait returns nil then. If none
	// does, it returns the errors of all, joined in the order of their starts.
	UntilSuccess
	// UntilEnd cancels none. Wait returns the errors of all, joined in the order of their
	// starts.
	UntilEnd
)

// Config configures a [Group]. The zero value is ready to use.
type Config struct {
	// Until is what cancels the children that have not ended. The zero value is the first
	// failure.
	Until Until
}

// A Group is a set of children that are waited for together. It must be made by [New]. Its
// methods are safe for concurrent use, including from the bodies of its children, except
// that a child must not call Wait, which would wait for its caller.
type Group struct {
	ctx   context.Context // of New
	name  string
	reg   *tether.Registry
	pool  *tether.Pool // nil if the tasks are the registry's
	until Until
	helps bool        // Wait runs children: it is called by a task, or there is no bound to keep
	unarm func() bool // ends the watch of ctx
	body  tether.Func // of the group's tasks

	// mu guards what follows. No code of the user's is called while it is held.
	//
	// As long as a child is waiting, a task is about to start that will run it, unless there
	// is no room for one. That task sees to the next one before it runs its child. So no
	// child waits for a body to end, except for want of room; and then a task of the group
	// that runs already will run it, or the caller of Wait, or it ends with the refusal.
	mu       sync.Mutex
	changed  chan struct{} // closed by notifyLocked; nil if no Wait waits
	children []*Child      // in the order of Go
	slab     []Child       // not used yet: a child is not an allocation of its own
	next     int           // children before this one are not waiting
	waiting  int
	pending  int            // children that have not ended
	starting uint64         // number of the task that was, or is being, submitted and has not started; 0 if none
	start    *tether.Task   // that one; nil if its submission has not returned
	lastTask uint64         // number of the last one
	running  []*tether.Task // the tasks that have started and not ended

	derived context.Context // see Context
	cancel  context.CancelCauseFunc
	cause   error  // why the group was canceled; nil if it was not
	first   *Child // that has decided; nil if none has
	ended   bool   // a Wait has returned
}

// New returns a group without children. Its tasks will be of the given name, in a registry or
// a pool. ctx is that of the body of a task, or any other one: the children have its values,
// and are canceled when it is done. At most one Config may be given. New starts no goroutine.
// It panics if an argument is invalid, which is a programming error.
func New(ctx context.Context, to tether.Submitter, name string, cfg ...Config) *Group {
	g := new(Group)
	g.init(ctx, to, name, cfg)
	return g
}

func (g *Group) init(ctx context.Context, to tether.Submitter, name string, cfg []Config) {
	switch to := to.(type) {
	case *tether.Registry:
		g.reg = to
	case *tether.Pool:
		if to != nil {
			g.reg, g.pool = to.Registry(), to
		}
	}
	if ctx == nil || g.reg == nil || len(cfg) > 1 || len(cfg) == 1 && cfg[0].Until > UntilEnd {
		panic("group: New needs a context, a registry or a pool, and at most one valid Config")
	}
	if err := tether.CheckName(name); err != nil {
		panic(fmt.Sprintf("group: New: %v", err))
	}
	if len(cfg) == 1 {
		g.until = cfg[0].Until
	}
	g.ctx, g.name, g.body = ctx, name, g.runChildren
	if _, ok := tether.FromContext(ctx); ok || g.pool == nil {
		g.helps = true
	}
	g.unarm = func() bool { return false }
	if ctx.Done() != nil {
		g.unarm = context.AfterFunc(ctx, func() { g.Cancel(context.Cause(ctx)) })
	}
}

// Context returns the group's context, which is derived from the one that it was made with.
// It is canceled when the children are, with the same cause, and when Wait returns.
func (g *Group) Context() context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.derived == nil {
		g.derived, g.cancel = context.WithCancelCause(g.ctx)
		if g.cause != nil || g.ended {
			g.cancel(g.cause)
		}
	}
	return g.derived
}

// Cancel cancels the children that have not ended, with the given cause; nil means
// context.Canceled. Those that have not started never do, nor do later ones: the cause is
// their error. The first cause counts. Cancel does not wait.
func (g *Group) Cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	g.cancelAll(cause, nil)
}

// cancelAll is Cancel, except for one task: that of the child which has decided, and is about
// to end with its own error.
func (g *Group) cancelAll(cause error, except *tether.Task) {
	g.mu.Lock()
	if g.cause != nil || g.ended {
		g.mu.Unlock()
		return
	}
	g.cause = cause
	if g.cancel != nil {
		g.cancel(cause)
	}
	g.endWaitingLocked(cause)
	running := slices.Clone(g.running)
	g.mu.Unlock()
	for _, t := range running {
		if t != except {
			t.Cancel(cause)
		}
	}
}

// endWaitingLocked ends the children that have not started. It returns the cause as
// Child.endLocked does.
func (g *Group) endWaitingLocked(err error) (cause error) {
	for c := g.claimLocked(); c != nil; c = g.claimLocked() {
		if decided := c.endLocked(err); decided != nil {
			cause = decided
		}
	}
	return cause
}

// The slabs of children grow from one to the other.
const (
	minSlab = 4
	maxSlab = 64
)

// Go starts a child. It may be called by a child. A refusal of its task is the error of the
// child, and so of the group, except for want of room if the caller of Wait will run it: see
// the package's documentation.
func (g *Group) Go(fn tether.Func) *Child { return g.add(fn, nil) }

func (g *Group) add(fn tether.Func, result any) *Child {
	g.mu.Lock()
	if len(g.slab) == 0 {
		g.slab = make([]Child, min(max(minSlab, len(g.children)), maxSlab))
	}
	c := &g.slab[0]
	g.slab = g.slab[1:]
	c.g, c.fn, c.result = g, fn, result
	if g.ended {
		c.err = ErrEnded
		c.state.Store(ended)
		g.mu.Unlock()
		return c
	}
	g.children = append(g.children, c)
	g.pending++
	g.waiting++
	switch {
	case fn == nil:
		c.claimLocked()
		cause := c.endLocked(fmt.Errorf("%w: nil body", tether.ErrInvalid))
		g.mu.Unlock()
		if cause != nil {
			g.Cancel(cause)
		}
		return c
	case g.cause != nil:
		c.claimLocked()
		c.endLocked(g.cause)
	default:
		g.notifyLocked()
	}
	need := g.needsTaskLocked()
	g.mu.Unlock()
	g.submit(need, true)
	return c
}

// claimLocked takes the first child that has not started, nil if there is none. The caller
// must run it or end it.
func (g *Group) claimLocked() *Child {
	for g.waiting > 0 {
		c := g.children[g.next]
		g.next++
		if c.state.Load() == waiting {
			c.claimLocked()
			return c
		}
	}
	return nil
}

// needsTaskLocked returns the number of a task that the caller must submit, because a child
// waits and no task is about to start; 0 if there is no need.
func (g *Group) needsTaskLocked() (number uint64) {
	if g.start != nil && g.start.State().Final() {
		g.starting, g.start = 0, nil // it was canceled, or dropped
	}
	if g.waiting == 0 || g.starting != 0 {
		return 0
	}
	g.lastTask++
	g.starting, g.start = g.lastTask, nil
	return g.lastTask
}

// submit submits a task that runs children, unless number is 0. If mayBlock is false, it does
// not wait for room: a task of the group would wait for the room that it takes up itself.
func (g *Group) submit(number uint64, mayBlock bool) {
	if number == 0 {
		return
	}
	t, err := (*tether.Task)(nil), tether.ErrGoexit // unless Go returns
	later := false
	defer func() {
		if !later {
			g.submitted(number, t, err)
		}
	}()
	switch {
	case g.pool == nil:
		t, err = g.reg.Go(g.ctx, g.name, g.body)
	case g.helps || !mayBlock:
		t, err = g.pool.Go(atOnce{g.ctx}, g.name, g.body)
	case !g.runs():
		t, err = g.pool.Go(g.ctx, g.name, g.body)
	default:
		// The caller may be a child, which would wait for the place that it takes up. If the
		// pool has OverflowBlock, another goroutine waits.
		t, err = g.pool.Go(atOnce{g.ctx}, g.name, g.body)
		if later = errors.Is(err, tether.ErrFull) && errors.Is(err, context.Canceled); later {
			go g.submitLater(number)
		}
	}
}

// runs reports whether a task of the group runs, which may be the caller's.
func (g *Group) runs() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.running) > 0
}

// submitLater is submit when there is room, or the group has ended.
func (g *Group) submitLater(number uint64) {
	t, err := (*tether.Task)(nil), tether.ErrGoexit // unless Go returns
	defer func() { g.submitted(number, t, err) }()
	t, err = g.pool.Go(g.Context(), g.name, g.body)
}

// submitted notes what became of a submission.
func (g *Group) submitted(number uint64, t *tether.Task, err error) {
	g.mu.Lock()
	var cause error
	if g.starting == number { // otherwise it has started already
		g.start = t
		if err != nil {
			g.starting = 0
			cause = g.refusedLocked(err)
		}
	}
	g.notifyLocked()
	g.mu.Unlock()
	if cause != nil {
		g.Cancel(cause)
	}
}

// refusedLocked ends the children that have no task because of err, unless there is no more
// to it than a lack of room and they will run all the same. It returns the cause as
// Child.endLocked does.
func (g *Group) refusedLocked(err error) (cause error) {
	if errors.Is(err, tether.ErrFull) && (g.helps || len(g.running) > 0) {
		return nil
	}
	return g.endWaitingLocked(err)
}

// notifyLocked wakes the calls of Wait.
func (g *Group) notifyLocked() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// atOnce is a context that is done, so that a pool with OverflowBlock does not wait for
// room: its workers may all be waiting for this child. The body has its values alone.
type atOnce struct{ context.Context }

func (atOnce) Err() error { return context.Canceled }

func (atOnce) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// runChildren is the body of the group's tasks.
func (g *Group) runChildren(ctx context.Context) (err error) {
	t, _ := tether.FromContext(ctx)
	g.mu.Lock()
	g.starting, g.start = 0, nil
	c := g.claimLocked()
	if c == nil { // others were faster
		g.mu.Unlock()
		return nil
	}
	g.running = append(g.running, t)
	need := g.needsTaskLocked()
	g.mu.Unlock()
	defer func() { // also if a child panics, or ends the goroutine
		g.mu.Lock()
		i := slices.Index(g.running, t)
		g.running = slices.Delete(g.running, i, i+1)
		need := g.needsTaskLocked()
		g.mu.Unlock()
		if need != 0 && g.pool != nil && !g.helps {
			go g.submit(need, true) // there may be no room until this task has ended
		} else {
			g.submit(need, false)
		}
	}()
	for c != nil {
		g.submit(need, false)
		if failure := c.run(ctx, t); err == nil {
			err = failure
		}
		if ctx.Err() != nil {
			break
		}
		if c, need = g.nextChild(err != nil); c == nil {
			break
		}
	}
	return err
}

// nextChild takes the next child for a task that runs already, and the number of the task
// that the caller must submit. A task of which a child has failed takes another one only
// if no other task will.
func (g *Group) nextChild(failed bool) (c *Child, need uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if failed {
		need := g.needsTaskLocked()
		g.mu.Unlock()
		g.submit(need, false)
		g.mu.Lock()
		if g.starting != 0 {
			return nil, 0
		}
		return g.claimLocked(), 0
	}
	c = g.claimLocked()
	return c, g.needsTaskLocked()
}

// Wait waits until all children have ended, and runs those that have not started: see the
// package's documentation. It returns what Until says. Children may be started as long as
// Wait has not returned. It may be called more than once.
//
// Wait has no context: a child ends soon after it was canceled, and until then it belongs to
// the group. A child that ignores its context holds up Wait, as it holds up the drain.
func (g *Group) Wait() error {
	g.mu.Lock()
	for g.pending > 0 {
		if g.helps {
			if c := g.claimLocked(); c != nil {
				need := g.needsTaskLocked()
				g.mu.Unlock()
				g.submit(need, false)
				c.runHere()
				g.mu.Lock()
				continue
			}
		}
		g.waitLocked(nil, nil)
	}
	g.ended = true
	if g.cancel != nil {
		g.cancel(nil)
	}
	var needless *tether.Task
	if g.pool != nil {
		needless = g.start
	}
	err := g.errLocked()
	g.mu.Unlock()
	g.unarm()
	if needless != nil {
		needless.Cancel(ErrEnded) // it would occupy a place in the queue
	}
	return err
}

// waitLocked waits until something has changed, or one of two channels is closed, with the
// group unlocked meanwhile.
func (g *Group) waitLocked(done, canceled <-chan struct{}) {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	changed, start := g.changed, g.start
	var dropped <-chan struct{}
	if g.waiting > 0 && start != nil && !g.helps {
		dropped = start.Done()
	}
	g.mu.Unlock()
	select {
	case <-changed:
	case <-dropped:
	case <-done:
	case <-canceled:
	}
	g.mu.Lock()
	var cause error
	if dropped != nil && g.start == start && start.State().Final() {
		// It was canceled, or dropped for a newer task, before it could start.
		g.starting, g.start = 0, nil
		if len(g.running) == 0 {
			cause = g.endWaitingLocked(start.Err())
		}
	}
	if cause != nil {
		g.mu.Unlock()
		g.Cancel(cause)
		g.mu.Lock()
	}
}

func (g *Group) errLocked() error {
	switch {
	case g.until == UntilFailure && g.first != nil:
		return g.first.err
	case g.until == UntilFailure || g.until == UntilSuccess && g.first != nil:
		return nil
	}
	var all []error
	for _, c := range g.children {
		if c.err != nil {
			all = append(all, c.err)
		}
	}
	return errors.Join(all...)
}
