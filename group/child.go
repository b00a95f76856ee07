package group

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/seed-2e639f12/tether"
)

// A Child is the handle of one body of a [Group]. Its methods are safe for concurrent use.
type Child struct {
	g      *Group
	fn     tether.Func // dropped at the end; written with Group.mu held
	result any         // a *T of Results, which the body writes; nil without one

	state atomic.Uint32 // written with Group.mu held
	err   error         // written before state is ended
	done  chan struct{} // made by Wait, closed at the end; nil if there was no Wait; guarded by Group.mu
}

// The states of a child. The goroutine that changes waiting to started runs the body, or
// ends the child without it.
const (
	waiting = iota
	started
	ended
)

// claimLocked makes a waiting child started. The group must be locked.
func (c *Child) claimLocked() {
	c.state.Store(started)
	c.g.waiting--
}

// endLocked ends a child that was claimed. If that decides the group, it returns the cause
// with which the caller must cancel it, once it has unlocked it.
func (c *Child) endLocked(err error) (cause error) {
	g := c.g
	c.err, c.fn = err, nil // fn may hold much
	c.state.Store(ended)
	if c.done != nil {
		close(c.done)
	}
	if g.first == nil {
		switch {
		case g.until == UntilFailure && err != nil:
			g.first, cause = c, err
		case g.until == UntilSuccess && err == nil:
			g.first, cause = c, ErrDecided
		}
	}
	if g.pending--; g.pending == 0 {
		g.notifyLocked()
	}
	return cause
}

// end ends a child that was claimed, and that the task t has run; nil if none has.
func (c *Child) end(err error, t *tether.Task) {
	c.g.mu.Lock()
	cause := c.endLocked(err)
	c.g.mu.Unlock()
	if cause != nil {
		c.g.cancelAll(cause, t)
	}
}

// Err returns nil until the child has ended, and its error after that: what the body
// returned, a [*tether.PanicError], [tether.ErrGoexit], or why it never ran.
func (c *Child) Err() error {
	if c.state.Load() != ended {
		return nil
	}
	return c.err
}

// Wait waits until the child has ended, and returns its Err. If it has not started, Wait
// runs it where [Group.Wait] would, and returns when it has ended. Otherwise, if ctx is done
// first, Wait returns context.Cause(ctx), and the child goes on.
func (c *Child) Wait(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", tether.ErrInvalid)
	}
	g := c.g
	g.mu.Lock()
	if c.state.Load() == waiting && g.helps {
		c.claimLocked()
		g.mu.Unlock()
		c.runHere()
		return c.err
	}
	defer g.mu.Unlock()
	for c.state.Load() != ended {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.done == nil {
			c.done = make(chan struct{})
		}
		g.waitLocked(c.done, ctx.Done())
	}
	return c.err
}

// run runs the claimed child in the task t.
func (c *Child) run(ctx context.Context, t *tether.Task) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		// A panic, or Goexit. What that means is up to the registry, which may end the
		// process: the child ends with its task, or not at all.
		go func() {
			<-t.Done()
			c.end(t.Err(), t)
		}()
	}()
	err = c.fn(ctx)
	returned = true
	if err != nil {
		t.Done() // the error is the group's: the registry need not log it
	}
	c.end(err, t)
	return err
}

// runHere runs the claimed child on this goroutine, which waits for it.
func (c *Child) runHere() {
	ctx := c.g.Context()
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			c.end(c.g.panicked(v), nil)
		} else {
			c.end(tether.ErrGoexit, nil) // the goroutine of the caller of Wait is ending
		}
	}()
	err := c.fn(ctx)
	returned = true
	c.end(err, nil)
}

// panicked makes a panic of a child that has no task what it is with one: it is logged once,
// or ends the process, as the registry is configured. A task panics again for that.
func (g *Group) panicked(v any) error {
	e := &tether.PanicError{Value: v, Stack: debug.Stack(), In: "body", Task: g.name}
	t, err := g.reg.Go(g.ctx, g.name, func(context.Context) error { panic(relayed{e}) })
	if err == nil {
		<-t.Done()
		e.ID = t.ID()
		return e
	}
	g.reg.Logger().LogAttrs(g.ctx, slog.LevelError, "panic", slog.String("task", g.name), slog.Any("panic", v), slog.String("stack", string(e.Stack)))
	return e
}

// relayed is the value of a panic with the stack of where it happened.
type relayed struct{ e *tether.PanicError }

func (r relayed) String() string { return fmt.Sprintf("%v\n\n%s", r.e.Value, r.e.Stack) }
