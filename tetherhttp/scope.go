package tetherhttp

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A scope holds the tasks of one request until its response has been sent. It is the context
// of the request's handler.
type scope struct {
	context.Context
	releaser *Releaser
	conn     *connection   // nil if no hook will report the end of this response
	request  *http.Request // for ReleaserConfig.Share; nil without one
	next     *scope        // another scope of the same request; written under conn.mu before it is shared
	http     uint8         // the protocol's major version
	head     bool          // a HEAD request, whose stream and context may end before its handler
	h2c      bool          // the client has asked to upgrade HTTP/1 to HTTP/2

	mu       sync.Mutex
	closed   bool           // no task can be added; guarded by mu
	started  bool           // guarded by mu
	delivery Delivery       // guarded by mu
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

// detached is a request's context for work that is not part of its handler. It hides the
// scope and the connection, which may be serving the next request already.
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
		// The connection was upgraded to HTTP/2. Its context is that of the request that
		// asked for the upgrade, and the contexts of all its streams are derived from it.
		return nil
	}
	return s
}

// scopeIn returns the innermost scope in ctx, nil if there is none.
func scopeIn(ctx context.Context) *scope {
	if ctx == nil {
		return nil
	}
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// submit submits a task that is held until the response has been sent.
func (s *scope) submit(ctx context.Context, r tether.Submitter, name string, fn tether.Func, opts []tether.Option) (*tether.Task, error) {
	if s.isClosed() {
		return nil, ErrFinished
	}
	if r == nil {
		return nil, fmt.Errorf("%w: nil Submitter", tether.ErrInvalid)
	}
	all, duplicate := append(opts[:len(opts):len(opts)], tether.Hold()), false
	if s.request != nil {
		// In front, so that an option of the submission's own has effect instead.
		all = append(withShare(nil, s.releaser.share, s.request), all...)
	}
	if len(opts) > 0 { // without options it cannot be Unique
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

// withShare returns a copy of opts with the share that a request has, if it has one.
func withShare(opts []tether.Option, share func(*http.Request) string, r *http.Request) []tether.Option {
	opts = opts[:len(opts):len(opts)]
	if share == nil {
		return opts
	}
	if key := share(r); key != "" {
		opts = append(opts, tether.Share(key))
	}
	return opts
}

func (s *scope) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// add adds a held task. It reports false if the scope is closed.
func (s *scope) add(t *tether.Task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.tasks = append(s.tasks, t)
	return true
}

// discard drops the tasks that were added so far.
func (s *scope) discard(cause error) {
	if cause == nil {
		cause = ErrDiscarded
	}
	s.mu.Lock()
	var tasks []*tether.Task
	if !s.closed { // after the handler's return they are about to start
		tasks, s.tasks = s.tasks, nil
	}
	s.mu.Unlock()
	for _, t := range tasks {
		t.Done() // marks the outcome as awaited: the handler's own decision is not logged
		t.Cancel(cause)
	}
}

// startTasks starts the tasks. Only the first call has an effect.
func (s *scope) startTasks(d Delivery) {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return
	}
	tasks := s.tasks
	s.closed, s.started, s.delivery, s.tasks = true, true, d, nil
	if s.watchdog != nil {
		s.watchdog.Stop()
	}
	s.mu.Unlock()
	for _, t := range tasks {
		t.Release()
	}
}

// guard calls next, and drops the tasks if it does not return.
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

// handlerReturned starts the tasks, or arranges for them to start when the response has been
// sent.
func (s *scope) handlerReturned(w http.ResponseWriter) {
	s.mu.Lock()
	s.closed = true
	waiting := len(s.tasks) > 0
	s.mu.Unlock()
	switch {
	case !waiting:
	case s.conn != nil:
		if s.conn.isHijacked() {
			s.startTasks(DeliveryHijacked)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.started { // a handler behind a time limit may return after its response was sent
			s.watchdog = time.AfterFunc(s.releaser.maxWait, func() { s.startTasks(DeliveryTimeout) })
		}
	case s.http == 2:
		s.startAfterStream(w)
	case s.http == 3:
		s.startAfterContext()
	default:
		s.startTasks(DeliveryUnknown)
	}
}

// settle is the time between an HTTP/2 response's last frame and the start of its tasks, in
// which the connection's writer flushes the frame.
const settle = time.Millisecond

// startAfterStream starts the tasks when the stream of an HTTP/2 response is closed.
func (s *scope) startAfterStream(w http.ResponseWriter) {
	// http.CloseNotifier is deprecated, but nothing else reports the end of a stream: a
	// request's context ends before the response is written. A wrapper's CloseNotify is not
	// used, because it may not be the server's.
	closed, delivery := closeNotify(unwrapped(w)), DeliveryFrame
	switch {
	case closed == nil:
		s.startTasks(DeliveryUnknown)
		return
	case s.Err() != nil && !s.head && !baseEnded(s): // if the base has ended, a reset cannot be told
		delivery = DeliveryClosed
	}
	go func() {
		limit := time.NewTimer(s.releaser.maxWait)
		defer limit.Stop()
		select {
		case <-closed:
			time.Sleep(settle)
		case <-limit.C:
			delivery = DeliveryTimeout
		}
		s.startTasks(delivery)
	}()
}

// startAfterContext starts the tasks of an HTTP/3 response when the request's context ends.
// quic-go derives it from that of the stream, which ends when the server has closed the stream,
// behind the last frame, or the client has reset it.
func (s *scope) startAfterContext() {
	delivery := DeliveryFrame
	if s.Err() != nil {
		delivery = DeliveryClosed
	}
	go func() {
		limit := time.NewTimer(s.releaser.maxWait)
		defer limit.Stop()
		select {
		case <-s.Done():
			time.Sleep(settle)
		case <-limit.C:
			delivery = DeliveryTimeout
		}
		s.startTasks(delivery)
	}()
}

// closeNotify returns the channel of w's CloseNotify method. It returns nil if w has none, or
// if the server refuses because the request's handler has returned, as it does to a handler
// that has outlived a time limit.
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

// unwrapped returns the innermost ResponseWriter, which is the server's own unless a wrapper
// hides it.
func unwrapped(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}
