package tetherhttp

import (
	"context"
	"net/http"
)

// A request's context ends for two reasons that this package must tell apart: its client
// has gone, or the context that the server's BaseContext returned has ended, as one of
// signal.NotifyContext does when the stop begins. In the second case the client is still
// waiting, and the request must be finished.

// baseKey finds the context from which the server derives those of its connections.
type baseKey struct{}

// baseOf returns the context that the server's BaseContext returned, nil if the server has
// no hooks of a [Releaser].
func baseOf(ctx context.Context) context.Context {
	base, _ := ctx.Value(baseKey{}).(context.Context)
	return base
}

// baseEnded reports whether the server's base context is known to have ended.
func baseEnded(ctx context.Context) bool {
	base := baseOf(ctx)
	return base != nil && base.Err() != nil
}

// client is a context with the values of a request's, which is done when the client has
// gone or a time limit of the request has passed, but not when the server's base context
// ends.
type client struct {
	context.Context
	request, base context.Context // base is nil if it is not known
	raw           http.ResponseWriter
	stop          func()
}

// clientOf returns the client of a request. w must be the ResponseWriter of the request.
// The caller must call stop before its handler returns.
func clientOf(w http.ResponseWriter, r *http.Request) *client {
	c := &client{request: r.Context(), base: baseOf(r.Context()), raw: unwrapped(w)}
	ctx, end := context.WithCancel(context.WithoutCancel(c.request))
	c.Context, c.stop = ctx, end
	if limit, ok := c.request.Deadline(); ok && !isDeadlineOf(c.base, c.request) {
		c.Context, c.stop = context.WithDeadline(ctx, limit)
	}
	if c.request.Err() != nil && c.mustBeGone() {
		end()
		return c
	}
	watched := make(chan struct{})
	unwatch := context.AfterFunc(c.request, func() {
		defer close(watched)
		c.watch(end)
	})
	endLimit := c.stop
	c.stop = func() {
		end()
		endLimit()
		if !unwatch() {
			<-watched // it uses the writer
		}
	}
	return c
}

// mustBeGone reports whether the end of the request's context means that the client has
// gone. Otherwise its reason may be the end of the base context.
func (c *client) mustBeGone() bool {
	if c.base != nil {
		return c.base.Err() == nil // it was the connection, the stream, or a middleware
	}
	return closeNotify(c.raw) == nil // it is not known, and nothing will tell
}

// watch calls end when the client has gone. The request's context has ended.
func (c *client) watch(end func()) {
	if c.mustBeGone() {
		end()
		return
	}
	select {
	case <-closeNotify(c.raw):
		end()
	case <-c.Done():
	}
}

// gone reports whether the client has gone. Unlike Err it is never late.
func (c *client) gone() bool {
	return c.request.Err() != nil && c.base != nil && c.base.Err() == nil || c.Err() != nil
}

// isDeadlineOf reports whether the deadline of a request's context is that of its base.
func isDeadlineOf(base, request context.Context) bool {
	if base == nil {
		return false
	}
	have, _ := request.Deadline()
	limit, ok := base.Deadline()
	return ok && !have.Before(limit)
}
