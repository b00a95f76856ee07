package tetherhttp

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A Releaser starts the tasks of [After] when the responses of a server have been sent. It
// is made by [Attach] or [NewReleaser].
//
// A task starts
//
//   - HTTP/1: when the server has handed the last byte to the kernel, and the connection is
//     idle or closed. [http.Server.ConnState] reports that on the connection's goroutine.
//     This is exact in the net/http of today, which documents less; this package's tests
//     hold it to that.
//   - HTTP/2: when the response's last frame was handed to the connection's writer and 1 ms
//     has passed. No public hook reports that the frame was written. The writer writes it
//     next, and the task cannot delay that. The signal is [http.CloseNotifier]; a handler
//     that uses it takes the signal away.
//   - HTTP/3, with quic-go: when the response's last frame was handed to the stream, which the
//     end of the request's context reports, and 1 ms has passed. The task cannot delay it.
//   - when the handler returns, if the connection was hijacked or the server lacks the hooks.
//   - at the latest [ReleaserConfig].MaxWait after the handler has returned, so that a client
//     that still sends its body, or reads slowly, does not delay tasks forever.
//
// The response is the same, byte for byte, as that of the bare handler, and so is the reuse
// of the connection: the [http.ResponseWriter] is not wrapped, unless
// [ReleaserConfig].OnlyIf is set, and nothing is flushed.
//
// [http.Server.Shutdown] does not wait for tasks; [tether.Registry.Shutdown] does.
// [ListenAndServe] calls the two in this order.
//
// A Releaser's methods are safe for concurrent use, but Hooks must be called before the
// server serves.
type Releaser struct {
	reg     *tether.Registry
	maxWait time.Duration
	onlyIf  func(status int) bool
	share   func(*http.Request) string
	conns   sync.Map // net.Conn to *connection: those that are open
}

// ReleaserConfig configures [Attach] and [NewReleaser]. The zero value is ready to use.
type ReleaserConfig struct {
	// MaxWait is how long after its handler's return a task starts at the latest. Zero
	// means 2 s. If it is negative, tasks start when the handler returns unless the response
	// has been sent by then.
	MaxWait time.Duration
	// OnlyIf, if non-nil, restricts tasks to responses with a status for which it returns
	// true. After other responses they are dropped with ErrDiscarded. To learn the status,
	// the Releaser wraps the ResponseWriter: Flush, Hijack, ReadFrom and
	// [http.ResponseController] keep working, other type assertions fail.
	OnlyIf func(status int) bool
	// Share, if non-nil, returns the [tether.Share] of the tasks after a request that are
	// submitted without that option: the request's tenant, for example. If it is empty, they
	// have none. It must be valid as a name. It is called with the request that has come to
	// [Releaser.Handler].
	Share func(*http.Request) string
}

// Attach prepares a server for [After] and returns the Releaser that starts the tasks, which
// run on reg. It sets srv.ConnState and srv.ConnContext to hooks that call the functions that
// were there, and wraps srv.Handler. It must be called after srv.Handler is set and before
// srv serves.
//
// If a recoverer is mounted inside srv.Handler, a panic does not reach the Releaser, and the
// tasks of a handler that panicked run. Mount [Releaser.Handler] inside the recoverer too:
// there it drops them.
//
// Attach panics if srv or reg is nil, which is a programming error.
func Attach(srv *http.Server, reg *tether.Registry, cfg ...ReleaserConfig) *Releaser {
	rel := NewReleaser(reg, cfg...)
	rel.Hooks(srv)
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = rel.Handler(next)
	return rel
}

// NewReleaser returns a Releaser for frameworks that own the server's Handler. Pass the
// server to [Releaser.Hooks], and mount [Releaser.Handler] as the outermost middleware.
// NewReleaser panics if reg is nil, which is a programming error.
func NewReleaser(reg *tether.Registry, cfg ...ReleaserConfig) *Releaser {
	if reg == nil {
		panic("tetherhttp: a Releaser needs a registry")
	}
	c := optional("NewReleaser", cfg)
	return &Releaser{reg: reg, maxWait: orDefault(c.MaxWait, 2*time.Second), onlyIf: c.OnlyIf, share: c.Share}
}

// Hooks sets srv.ConnState and srv.ConnContext to hooks that call the functions that were
// there. It must be called before srv serves. If the hooks are replaced later, tasks start
// when their handlers return.
func (rel *Releaser) Hooks(srv *http.Server) {
	state, ctxOf := srv.ConnState, srv.ConnContext
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		rel.connState(c, s)
		if state != nil {
			state(c, s)
		}
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		base := ctx
		if ctxOf != nil {
			ctx = ctxOf(ctx, c)
		}
		return &connContext{Context: ctx, base: base, releaser: rel, conn: c}
	}
}

// Handler returns a handler that calls next and lets it add tasks with [After]. It must be
// the outermost handler. If it is mounted a second time, further in, it drops the request's
// tasks when a panic passes it: that is for recoverers, which hide the panic from the outer
// one.
func (rel *Releaser) Handler(next http.Handler) http.Handler { return &handler{rel, next} }

type handler struct {
	releaser *Releaser
	next     http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	outer := scopeOf(r.Context())
	switch {
	case r.Method == "PRI": // the preface of HTTP/2: the handler will take over the connection
		h.next.ServeHTTP(w, r)
	case outer != nil && outer.releaser == h.releaser && int(outer.http) == r.ProtoMajor:
		outer.guard(h.next, w, r)
	default:
		h.releaser.serve(h.next, w, r)
	}
}

// serve calls next with a scope for the request's tasks.
func (rel *Releaser) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	s := &scope{Context: r.Context(), releaser: rel, http: uint8(r.ProtoMajor), head: r.Method == http.MethodHead}
	if rel.share != nil {
		s.request = r
	}
	if up := r.Header["Upgrade"]; len(up) > 0 {
		s.h2c = s.http == 1 && strings.EqualFold(up[0], "h2c")
	}
	if s.http == 1 {
		if c := rel.connection(s.Context); c != nil && c.adopt(s, w) {
			s.conn = c
		}
	}
	in := r.WithContext(s)
	defer func() {
		// The server removes the files of a multipart form only if it finds the form in
		// the Request that it made. Middlewares further out look for the pattern.
		r.MultipartForm, r.Pattern = in.MultipartForm, in.Pattern
		s.handlerReturned(w)
	}()
	if rel.onlyIf == nil {
		s.guard(next, w, in)
		return
	}
	status := &statusWriter{ResponseWriter: w}
	s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		next.ServeHTTP(status, in)
		if !rel.onlyIf(status.final()) {
			s.discard(nil)
		}
	}), w, in)
}

// connContext is the context of a connection, which the contexts of its requests are
// derived from.
type connContext struct {
	context.Context
	base     context.Context // the server's, which Context is derived from
	releaser *Releaser
	conn     net.Conn
	cached   atomic.Pointer[connection]
}

// connKey is the key of the connContext that a Releaser made.
type connKey struct{ releaser *Releaser }

func (c *connContext) Value(key any) any {
	switch k := key.(type) {
	case connKey:
		if k.releaser == c.releaser {
			return c
		}
	case baseKey:
		return c.base
	}
	return c.Context.Value(key)
}

// connection is what the server has reported of a connection by ConnState.
type connection struct {
	mu       sync.Mutex
	active   bool   // a request is being served; guarded by mu
	hijacked bool   // guarded by mu
	scopes   *scope // of that request; guarded by mu
}

// connState is the ConnState hook. It runs on the connection's goroutine and must not block
// it: starting a task is a push into a queue.
func (rel *Releaser) connState(nc net.Conn, state http.ConnState) {
	if !hashable(nc) {
		return
	}
	switch state {
	case http.StateNew:
		rel.conns.Store(nc, new(connection))
		return
	case http.StateClosed, http.StateHijacked:
		defer rel.conns.Delete(nc)
	}
	v, ok := rel.conns.Load(nc)
	if !ok {
		return // the connection is older than the hooks
	}
	c := v.(*connection)
	c.mu.Lock()
	var scopes *scope
	switch state {
	case http.StateActive:
		c.active = true
	case http.StateHijacked:
		c.hijacked = true
	case http.StateIdle, http.StateClosed:
		scopes = c.scopes
		c.active, c.scopes = false, nil
	}
	c.mu.Unlock()
	delivery := DeliverySent
	if state == http.StateClosed {
		delivery = DeliveryClosed
	}
	for ; scopes != nil; scopes = scopes.next {
		scopes.startTasks(delivery)
	}
}

// hashable reports whether a connection can be the key of a map. The type of a listener's
// connections may not be comparable.
func hashable(nc net.Conn) bool {
	return reflect.TypeOf(nc).Kind() == reflect.Pointer || reflect.ValueOf(nc).Comparable()
}

// connection returns the connection of a request, nil if the hooks do not know it.
func (rel *Releaser) connection(ctx context.Context) *connection {
	cc, ok := ctx.Value(connKey{rel}).(*connContext)
	if !ok {
		return nil
	}
	if c := cc.cached.Load(); c != nil {
		return c
	}
	if !hashable(cc.conn) {
		return nil
	}
	v, ok := rel.conns.Load(cc.conn)
	if !ok {
		return nil // ConnState was replaced
	}
	c := v.(*connection)
	cc.cached.Store(c)
	return c
}

func (c *connection) isHijacked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hijacked
}

// adopt registers a scope for the end of the connection's request. It reports false if
// that request may not be the scope's: a handler that has outlived its time limit may call
// adopt when the connection is serving the next request.
func (c *connection) adopt(s *scope, w http.ResponseWriter) bool {
	base := baseOf(s)
	c.mu.Lock()
	if !c.active || c.hijacked {
		c.mu.Unlock()
		return false
	}
	// The server cancels a request's context before the connection turns idle, which
	// takes the lock: while the context lives, the request that is active is this one.
	ended := s.Err() != nil
	if ended && (base == nil || base.Err() == nil) {
		c.mu.Unlock()
		return false
	}
	s.next, c.scopes = c.scopes, s
	c.mu.Unlock()
	// If the base context has ended, all requests' contexts have. Then the writer says the
	// same: the server refuses CloseNotify from when the request's handler has returned.
	if ended && closeNotify(unwrapped(w)) == nil {
		c.abandon(s)
		return false
	}
	return true
}

// abandon undoes adopt.
func (c *connection) abandon(s *scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := &c.scopes; *at != nil; at = &(*at).next {
		if *at == s {
			*at = s.next
			return
		}
	}
}
