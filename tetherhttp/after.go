package tetherhttp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Errors of [After] and its kin, to compare with errors.Is.
var (
	// ErrNoScope: the context is not that of a request that has passed
	// [Background.Handler].
	ErrNoScope = errors.New("tetherhttp: no request to run a task after: its context has not passed Background.Handler")
	// ErrFinished: the request's handler has returned, or its response is sent.
	ErrFinished = errors.New("tetherhttp: the request is over: too late for a task after it")
	// ErrDiscarded is why a task is dropped that [Discard] was given no cause for, or
	// whose handler has panicked.
	ErrDiscarded = errors.New("tetherhttp: the handler has given up the tasks after its response")
)

// After submits a task that starts when the response to the request has been sent.
// ctx must be the request's context, or one derived from it. [Background] defines "sent";
// [DeliveryOf] tells the task how the response ended.
//
// The task is admitted at once, by the registry given to [Attach], and holds its place
// until it has run. If there is no room, or the process is stopping, After returns
// [tether.ErrFull] or [tether.ErrClosed], and the handler can still answer 503. Other
// errors are [ErrNoScope], [ErrFinished] and those of [tether.Registry.Go].
//
// The task runs whatever status the handler writes, even if the client has gone. It is
// dropped if the handler calls [Discard], or if a panic of the handler reaches
// [Background.Handler]. A recoverer between the two hides the panic, and then the task
// runs: chi, gin and echo services usually have one. Mount Background.Handler a second
// time, inside the recoverer, to have the task dropped:
//
//	bg := tetherhttp.Attach(srv, reg)
//	router.Use(middleware.Recoverer, bg.Handler)
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
	return s.submit(ctx, s.bg.reg, name, fn, opts)
}

// AfterOn is [After] for a task that runs on a pool, or on another registry. A full
// pool does what its Overflow says when AfterOn is called; one of
// [tether.OverflowCallerRuns] refuses, since the task cannot be run just then, and one of
// [tether.OverflowBlock] may have a request wait for a place that it holds itself: choose
// [tether.OverflowReject].
func AfterOn(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	s := scopeOf(ctx)
	if s == nil {
		return nil, ErrNoScope
	}
	return s.submit(ctx, r, name, fn, opts)
}

// AfterInOrder is [After] for functions that run one after the other, as one task. The
// first error ends it: the functions behind it do not run.
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
	})
}

// Discard drops the tasks that the request has added so far: for the path on which
// the handler answers an error instead. cause is what they end with, [ErrDiscarded]
// if it is nil. Without a request, or after it, Discard does nothing.
func Discard(ctx context.Context, cause error) {
	if s := scopeOf(ctx); s != nil {
		s.discard(cause)
	}
}

// Delivery is what is known of a response when the tasks after it start.
type Delivery uint8

const (
	// Unknown: the handler has returned, and there is no hook in the server that
	// tells more. Also what a task is told that has not started.
	Unknown Delivery = iota
	// Sent: the last byte was handed to the kernel, and the connection waits for the
	// next request (HTTP/1).
	Sent
	// Closed: the connection is closed (HTTP/1): after the response, if one side has
	// asked for that, or before, since the client has gone or has been too slow. Or the
	// client has reset the stream (HTTP/2).
	Closed
	// Frame: the response's last frame was handed to the writer of the connection, and
	// a moment has passed (HTTP/2).
	Frame
	// Hijacked: the handler has taken the connection over, and returned.
	Hijacked
	// Timeout: none of this has come within [MaxWait] of the handler's return.
	Timeout
)

func (d Delivery) String() string {
	switch d {
	case Unknown:
		return "unknown"
	case Sent:
		return "sent"
	case Closed:
		return "closed"
	case Frame:
		return "frame"
	case Hijacked:
		return "hijacked"
	case Timeout:
		return "timeout"
	}
	return fmt.Sprintf("Delivery(%d)", uint8(d))
}

// DeliveryOf tells a task of [After] how the response of its request went. ctx is
// the body's, or one derived from it.
func DeliveryOf(ctx context.Context) Delivery {
	s := scopeIn(ctx)
	if s == nil {
		return Unknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivery
}

// Background runs tasks after the responses of a server. It is made by [Attach].
//
// A task starts
//
//   - HTTP/1: when the server has handed the last byte to the kernel, and the connection
//     is idle or closed: [http.Server.ConnState] says so, on the connection's own
//     goroutine. This is exact, by what net/http does; it documents less, and tests hold it
//     to that.
//   - HTTP/2: when the response's last frame was handed to the connection's writer, and
//     1 ms has passed. No public hook says that the frame was written; the writer does
//     that next, and nothing the task does can hold it back. (The signal is
//     [http.CloseNotifier]; a handler that uses it itself takes it away.)
//   - when the handler has returned, if the connection was hijacked or the server lacks
//     the hooks;
//   - at the latest [MaxWait] after the handler has returned: a client that sends an
//     unread body, or reads slowly, does not hold tasks up for ever.
//
// The response is the bare handler's, byte for byte, and so is the connection's reuse:
// nothing wraps the [http.ResponseWriter] (unless [OnlyIf] is used), and nothing is
// flushed. [http.Server.Shutdown] does not wait for tasks; [tether.Registry.Shutdown]
// does, and [ListenAndServe] calls the two in their order.
//
// All methods may be called at any time before the server serves, Handler later too.
type Background struct {
	reg     *tether.Registry
	maxWait time.Duration
	onlyIf  func(status int) bool
	conns   sync.Map // net.Conn to *connection; those that the server has told of and not closed
}

// settle is what passes between an HTTP/2 response's last frame and its tasks: time
// for the writer's flush.
const settle = time.Millisecond

// Option is a setting of [Attach] and [NewBackground].
type Option interface{ applyBackground(*Background) }

// OnlyIf has tasks run only after responses whose status ok accepts; the others are
// dropped with [ErrDiscarded]. To know the status the ResponseWriter is wrapped:
// Flush, Hijack, ReadFrom and [http.ResponseController] work on, other type
// assertions do not. Without OnlyIf nothing is wrapped.
func OnlyIf(ok func(status int) bool) Option { return onlyIf(ok) }

type onlyIf func(status int) bool

func (f onlyIf) applyBackground(b *Background) { b.onlyIf = f }

// MaxWait bounds a wait. For [Attach], how long after a handler's return its tasks
// start at the latest: 2 s without it. For [Async] and [Tasks], the longest wait that
// a client can ask for (Prefer: wait=N): 30 s without it.
func MaxWait(d time.Duration) MaxWaitOption { return MaxWaitOption(max(d, 0)) }

// MaxWaitOption is made by [MaxWait].
type MaxWaitOption time.Duration

func (d MaxWaitOption) applyBackground(b *Background) { b.maxWait = time.Duration(d) }

// Attach prepares a server for [After] and returns the Background that runs the tasks on
// reg. It sets srv.ConnState and srv.ConnContext to hooks that call the functions that were
// there, and wraps srv.Handler. It must be called after srv.Handler is set and before srv
// serves.
//
// If a recoverer is mounted inside srv.Handler, a panic does not reach the Background, and
// the tasks of a handler that panicked run. Mount [Background.Handler] inside the
// recoverer too: there it drops them.
func Attach(srv *http.Server, reg *tether.Registry, opts ...Option) *Background {
	b := NewBackground(reg, opts...)
	b.Hooks(srv)
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = b.Handler(next)
	return b
}

// NewBackground returns a Background for frameworks that own the server's Handler: give
// it the server with [Background.Hooks], and mount [Background.Handler] as the
// outermost middleware. It panics if reg is nil: no request could mend that.
func NewBackground(reg *tether.Registry, opts ...Option) *Background {
	if reg == nil {
		panic("tetherhttp: a Background needs a registry")
	}
	b := &Background{reg: reg, maxWait: 2 * time.Second}
	for _, opt := range opts {
		if opt != nil {
			opt.applyBackground(b)
		}
	}
	return b
}

// Hooks sets the server's ConnState and ConnContext; those that are there are still
// called. Call it before the server serves. If they are replaced later, tasks start
// when their handlers return.
func (b *Background) Hooks(srv *http.Server) {
	state, ctxOf := srv.ConnState, srv.ConnContext
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		b.turn(c, s)
		if state != nil {
			state(c, s)
		}
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		base := ctx
		if ctxOf != nil {
			ctx = ctxOf(ctx, c)
		}
		return &connContext{Context: ctx, base: base, bg: b, conn: c}
	}
}

// connContext is the context of a connection: all that its requests have in common.
type connContext struct {
	context.Context
	base context.Context // the server's, of which Context is derived
	bg   *Background
	conn net.Conn
	rec  atomic.Pointer[connection]
}

// connKey finds the context of the connection that a Background has hooks in.
type connKey struct{ bg *Background }

func (c *connContext) Value(key any) any {
	switch k := key.(type) {
	case connKey:
		if k.bg == c.bg {
			return c
		}
	case baseKey:
		return c.base
	}
	return c.Context.Value(key)
}

// connection is what the server tells of a connection, by ConnState.
type connection struct {
	mu       sync.Mutex
	active   bool   // it has a request; guarded by mu
	hijacked bool   // guarded by mu
	scopes   *scope // of that request; guarded by mu
}

// turn is the ConnState hook. It runs on the connection's goroutine, which must not
// be kept: a task's start is a push into a queue.
func (b *Background) turn(nc net.Conn, state http.ConnState) {
	if !hashable(nc) {
		return
	}
	switch state {
	case http.StateNew:
		b.conns.Store(nc, new(connection))
		return
	case http.StateClosed, http.StateHijacked:
		defer b.conns.Delete(nc)
	}
	v, ok := b.conns.Load(nc)
	if !ok {
		return // Hooks came after the connection
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
	delivery := Sent
	if state == http.StateClosed {
		delivery = Closed
	}
	for ; scopes != nil; scopes = scopes.next {
		scopes.release(delivery)
	}
}

// hashable reports whether a connection can be the key of a map. One of a user's
// listener may not.
func hashable(nc net.Conn) bool {
	return reflect.TypeOf(nc).Kind() == reflect.Pointer || reflect.ValueOf(nc).Comparable()
}

// connection returns what is known of the connection of a request, nil if nothing is.
func (b *Background) connection(ctx context.Context) *connection {
	cc, ok := ctx.Value(connKey{b}).(*connContext)
	if !ok {
		return nil
	}
	if c := cc.rec.Load(); c != nil {
		return c
	}
	if !hashable(cc.conn) {
		return nil
	}
	v, ok := b.conns.Load(cc.conn)
	if !ok {
		return nil // somebody has replaced ConnState
	}
	c := v.(*connection)
	cc.rec.Store(c)
	return c
}

// scope is one request: the tasks that wait for its response. It is the context of
// the request's handler.
type scope struct {
	context.Context
	bg   *Background
	conn *connection // nil if no hook will tell of this response
	next *scope      // another one of the same request; written under conn.mu before it is shared
	http uint8       // the protocol's major version
	head bool        // of a HEAD, whose stream may end, and with it its context, before its handler
	h2c  bool        // the client has asked for HTTP/2 in the place of HTTP/1

	closed   bool     // no more tasks; guarded by mu
	released bool     // guarded by mu
	delivery Delivery // guarded by mu
	mu       sync.Mutex
	tasks    []*tether.Task // held; guarded by mu
	watchdog *time.Timer    // guarded by mu
}

type scopeKey struct{}

func (s *scope) Value(key any) any {
	if key == (scopeKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// detached is a request's context for work that is not its handler's: it has neither
// the scope nor the connection, which may be at its next request already.
type detached struct{ context.Context }

func (d detached) Value(key any) any {
	switch key.(type) {
	case scopeKey, connKey, baseKey:
		return nil
	}
	return d.Context.Value(key)
}

// scopeOf returns the scope of the request that ctx belongs to, nil if there is none.
func scopeOf(ctx context.Context) *scope {
	s := scopeIn(ctx)
	if s != nil && s.h2c && s.conn != nil && s.conn.isHijacked() {
		// The connection has gone over to HTTP/2, and its context is that of the request
		// that asked for it. Those of all its streams are derived from it.
		return nil
	}
	return s
}

func scopeIn(ctx context.Context) *scope {
	if ctx == nil {
		return nil
	}
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// submit admits a task that waits for the response.
func (s *scope) submit(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts []tether.Option) (*tether.Task, error) {
	if s.isClosed() {
		return nil, ErrFinished
	}
	if r == nil {
		return nil, fmt.Errorf("%w: nil Submitter", tether.ErrInvalid)
	}
	all, duplicate := append(opts[:len(opts):len(opts)], tether.Hold()), false
	if len(opts) > 0 { // else it cannot be Unique
		all = append(all, tether.OnDuplicate(func(*tether.Task) { duplicate = true }))
	}
	t, err := r.Go(ctx, name, fn, all...)
	if err != nil || duplicate {
		return t, err
	}
	if !s.add(t) {
		t.Cancel(ErrFinished)
		return nil, ErrFinished
	}
	return t, nil
}

func (s *scope) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *scope) add(t *tether.Task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.tasks = append(s.tasks, t)
	return true
}

func (s *scope) discard(cause error) {
	if cause == nil {
		cause = ErrDiscarded
	}
	s.mu.Lock()
	var tasks []*tether.Task
	if !s.closed { // else the handler has returned, and they are on their way
		tasks, s.tasks = s.tasks, nil
	}
	s.mu.Unlock()
	for _, t := range tasks {
		t.Done() // it is asked for: the handler's own decision is no news for the log
		t.Cancel(cause)
	}
}

// release starts the tasks, the first time it is called.
func (s *scope) release(d Delivery) {
	s.mu.Lock()
	if s.released {
		s.mu.Unlock()
		return
	}
	tasks := s.tasks
	s.closed, s.released, s.delivery, s.tasks = true, true, d, nil
	if s.watchdog != nil {
		s.watchdog.Stop()
	}
	s.mu.Unlock()
	for _, t := range tasks {
		t.Release()
	}
}

// handlerReturned sees to it that the tasks start: now, or when the response is sent.
func (s *scope) handlerReturned(w http.ResponseWriter) {
	s.mu.Lock()
	s.closed = true
	waiting := len(s.tasks) > 0
	s.mu.Unlock()
	switch {
	case !waiting:
	case s.conn != nil:
		if s.conn.isHijacked() {
			s.release(Hijacked)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.released { // the connection may have been quicker than a handler behind a time limit
			s.watchdog = time.AfterFunc(s.bg.maxWait, func() { s.release(Timeout) })
		}
	case s.http == 2:
		s.afterStream(w)
	default:
		s.release(Unknown)
	}
}

// afterStream starts the tasks when the stream of an HTTP/2 response is closed.
func (s *scope) afterStream(w http.ResponseWriter) {
	// An http.CloseNotifier: deprecated, but nothing else tells of the end of a stream;
	// a request's context ends before the response is written. Not that of a wrapper,
	// which may fake it.
	closed, end := closeNotify(unwrapped(w)), Frame
	switch {
	case closed == nil:
		s.release(Unknown)
		return
	case s.Err() != nil && !s.head && !baseEnded(s): // if it has ended, nothing tells that the client has reset the stream
		end = Closed
	}
	go func() {
		limit := time.NewTimer(s.bg.maxWait)
		defer limit.Stop()
		select {
		case <-closed:
			time.Sleep(settle)
		case <-limit.C:
			end = Timeout
		}
		s.release(end)
	}()
}

// closeNotify returns nil if w does not tell, or not any more: the server has taken it
// back from a handler that has outlived a time limit further out.
func closeNotify(w http.ResponseWriter) (closed <-chan bool) {
	defer func() {
		if recover() != nil {
			closed = nil
		}
	}()
	if n, ok := w.(interface{ CloseNotify() <-chan bool }); ok {
		closed = n.CloseNotify()
	}
	return closed
}

func unwrapped(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

func (c *connection) isHijacked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hijacked
}

// adopt registers a scope for the end of the connection's request. It reports false if
// that request may be another than the scope's: a handler that has outlived its time
// limit may call it when the connection is at the next.
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

// Handler returns next with a scope for [After] around it. It belongs outermost. Where
// it is mounted a second time, further in, it is a guard: it drops the request's tasks
// when a panic passes it, for recoverers that would hide the panic from the outer one.
func (b *Background) Handler(next http.Handler) http.Handler { return &handler{b, next} }

type handler struct {
	bg   *Background
	next http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	outer := scopeOf(r.Context())
	switch {
	case r.Method == "PRI": // the preface of HTTP/2, for a handler that takes the connection over
		h.next.ServeHTTP(w, r)
	case outer != nil && outer.bg == h.bg && int(outer.http) == r.ProtoMajor:
		outer.guard(h.next, w, r)
	default:
		h.bg.serve(h.next, w, r)
	}
}

// guard drops the tasks when next does not return.
func (s *scope) guard(next http.Handler, w http.ResponseWriter, r *http.Request) {
	returned := false
	defer func() {
		if !returned {
			s.discard(nil)
		}
	}()
	next.ServeHTTP(w, r)
	returned = true
}

func (b *Background) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	s := &scope{Context: r.Context(), bg: b, http: uint8(r.ProtoMajor), head: r.Method == http.MethodHead}
	if up := r.Header["Upgrade"]; len(up) > 0 {
		s.h2c = s.http == 1 && strings.EqualFold(up[0], "h2c")
	}
	if s.http == 1 {
		if c := b.connection(s.Context); c != nil && c.adopt(s, w) {
			s.conn = c
		}
	}
	in := r.WithContext(s)
	defer func() {
		// The server removes the files of a multipart form only if it finds the form in
		// the Request that it has made. Middlewares further out look for the pattern.
		r.MultipartForm, r.Pattern = in.MultipartForm, in.Pattern
		s.handlerReturned(w)
	}()
	if b.onlyIf == nil {
		s.guard(next, w, in)
		return
	}
	status := &statusWriter{ResponseWriter: w}
	s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		next.ServeHTTP(status, in)
		if !b.onlyIf(status.final()) {
			s.discard(nil)
		}
	}), w, in)
}

// statusWriter notes the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status   int
	hijacked bool
}

func (w *statusWriter) final() int {
	switch {
	case w.status != 0:
		return w.status
	case w.hijacked:
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) Flush() { _ = w.FlushError() } // Flusher has no error to return

func (w *statusWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}

// WriteString spares a copy, and cuts the body as the bare writer does: net/http buffers
// a string otherwise than bytes.
func (w *statusWriter) WriteString(s string) (int, error) { return io.WriteString(w.ResponseWriter, s) }

// CloseNotify is what gin's Stream takes for granted.
func (w *statusWriter) CloseNotify() <-chan bool {
	if n, ok := unwrapped(w).(interface{ CloseNotify() <-chan bool }); ok {
		return n.CloseNotify()
	}
	return nil // there is nothing to be told
}

func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }
