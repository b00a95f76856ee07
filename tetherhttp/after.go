package tetherhttp

import (
	"context"
	"errors"
	"fmt"

	"github.com/seed-2e639f12/tether"
)

// Errors of [After], [AfterOn], [AfterInOrder] and [Go], and causes of the tasks that are
// dropped. Compare with errors.Is.
var (
	// ErrNoScope is returned if the context does not belong to a request that has passed
	// [Releaser.Handler], which [Attach] installs. Tests that call a handler without a server
	// can use the package tetherhttptest.
	ErrNoScope = errors.New("tetherhttp: no request to run a task after: its context has not passed Releaser.Handler (in a test without a server, use tetherhttptest.Handler)")
	// ErrFinished is returned if the request's handler has returned, or its response has
	// been sent.
	ErrFinished = errors.New("tetherhttp: the request has ended: too late for a task after it")
	// ErrDiscarded is the cause of a task that is dropped because its handler panicked,
	// its response has a status that [ReleaserConfig].OnlyIf refuses, or [Discard] was
	// called without a cause.
	ErrDiscarded = errors.New("tetherhttp: the handler has discarded the tasks after its response")
)

// After submits a task that starts when the response to the request has been sent.
// ctx must be the request's context, or one derived from it. [Releaser] defines "sent";
// [DeliveryOf] tells the task how the response ended.
//
// The task is admitted at once, by the registry given to [Attach], and holds its place
// until it has run. If there is no room, or the process is stopping, After returns
// [tether.ErrFull] or [tether.ErrClosed], and the handler can still answer 503. Other
// errors are [ErrNoScope], [ErrFinished] and those of [tether.Registry.Go].
//
// The task runs whatever status the handler writes, even if the client has gone. It is
// dropped if the handler calls [Discard], or if a panic of the handler reaches
// [Releaser.Handler]. A recoverer between the two hides the panic, and then the task
// runs: chi, gin and echo services usually have one. Mount Releaser.Handler a second
// time, inside the recoverer, to have the task dropped:
//
//	releaser := tetherhttp.Attach(srv, reg)
//	router.Use(middleware.Recoverer, releaser.Handler)
//
// The server closes the request's Body, and removes the files of a multipart form, when
// the handler returns, which is before the task starts. The handler must read what the
// task needs. A panic of fn is the task's outcome; a panic in a goroutine that fn starts
// with a go statement ends the process, as it does anywhere. Submit a task with fn's
// context instead: its panic is contained too, and the drain waits for it.
//
// The tasks of a request are independent and start at the same time; see [AfterInOrder]
// for tasks that depend on each other. A task that [tether.Unique] shares with an earlier
// request starts, or is dropped, with that request.
//
// In a handler that runs for long, such as that of a websocket, the tasks wait until it
// returns: use [tether.Registry.Go] there. The body of an [Async] handler is not a
// handler: After returns ErrNoScope there.
func After(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	s := scopeOf(ctx)
	if s == nil {
		return nil, ErrNoScope
	}
	return s.submit(ctx, s.releaser.reg, name, fn, opts)
}

// Go submits a task that starts at once, to the registry of the request that ctx belongs
// to, as [tether.Registry.Go] does: the handler need not know its registry. The registry
// is the one given to [Attach]; in the body of a task, it is that of the task. Without
// either, Go returns [ErrNoScope]. The response does not wait for the task, and the task
// does not wait for the response; see [After] for one that does.
func Go(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	if t, ok := tether.FromContext(ctx); ok {
		return t.Registry().Go(ctx, name, fn, opts...)
	}
	s := scopeOf(ctx)
	if s == nil {
		return nil, ErrNoScope
	}
	return s.releaser.reg.Go(ctx, name, fn, opts...)
}

// AfterOn is [After] for a task that runs on a pool, or on another registry. If the pool is
// full, its Overflow decides when AfterOn is called. A pool of [tether.OverflowCallerRuns] refuses,
// because the caller cannot run the task yet. A pool of [tether.OverflowBlock] may make a request
// wait for a place that the request itself holds: choose [tether.OverflowReject].
func AfterOn(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	s := scopeOf(ctx)
	if s == nil {
		return nil, ErrNoScope
	}
	return s.submit(ctx, r, name, fn, opts)
}

// AfterInOrder is [After] for functions that run one after the other, as a single task. The
// first error ends the task, and the remaining functions do not run.
func AfterInOrder(ctx context.Context, name string, fns ...tether.Func) (*tether.Task, error) {
	if len(fns) == 0 {
		return nil, fmt.Errorf("%w: no functions", tether.ErrInvalid)
	}
	for _, fn := range fns {
		if fn == nil {
			return nil, fmt.Errorf("%w: nil function", tether.ErrInvalid)
		}
	}
	return After(ctx, name, func(ctx context.Context) error {
		for i, fn := range fns {
			if i > 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := fn(ctx); err != nil {
				return err
			}
		}
		return nil
	}, tether.Wraps(fns[0]))
}

// Discard drops the tasks that the request has added so far, for the path on which the
// handler answers with an error instead. They end with cause, or [ErrDiscarded] if cause is
// nil. Discard does nothing if ctx does not belong to a request, or after the handler has
// returned.
func Discard(ctx context.Context, cause error) {
	if s := scopeOf(ctx); s != nil {
		s.discard(cause)
	}
}

// Delivery describes how a response ended, as far as the server tells.
type Delivery uint8

const (
	// DeliveryUnknown means that the handler has returned, and that the server has no
	// hook that tells more. It is also the Delivery of a task that has not started.
	DeliveryUnknown Delivery = iota
	// DeliverySent means that the last byte was handed to the kernel, and that the
	// connection is waiting for the next request (HTTP/1).
	DeliverySent
	// DeliveryClosed means that the connection was closed (HTTP/1): after the response, if
	// the client or the server asked for that, or before its end, if the client has gone
	// or was too slow. On HTTP/2 and HTTP/3 it means that the client has reset the stream.
	DeliveryClosed
	// DeliveryFrame means that the response's last frame was handed to the connection's
	// writer 1 ms ago (HTTP/2), or to the stream (HTTP/3).
	DeliveryFrame
	// DeliveryHijacked means that the handler took over the connection and has returned.
	DeliveryHijacked
	// DeliveryTimeout means that none of these happened within [ReleaserConfig].MaxWait of
	// the handler's return.
	DeliveryTimeout
)

func (d Delivery) String() string {
	switch d {
	case DeliveryUnknown:
		return "unknown"
	case DeliverySent:
		return "sent"
	case DeliveryClosed:
		return "closed"
	case DeliveryFrame:
		return "frame"
	case DeliveryHijacked:
		return "hijacked"
	case DeliveryTimeout:
		return "timeout"
	}
	return fmt.Sprintf("Delivery(%d)", uint8(d))
}

// DeliveryOf returns how the response of the request ended that added the task. ctx must be
// the context of a body that [After] started, or one derived from it.
func DeliveryOf(ctx context.Context) Delivery {
	s := scopeIn(ctx)
	if s == nil {
		return DeliveryUnknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivery
}
