package tetherhttp

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// openConns knows a server's open connections, and when they and their requests have come.
type openConns struct {
	conns    sync.Map // net.Conn to *openConn
	arrivals arrivals
	stopping atomic.Bool // PreStop passes, or has passed
}

// openConn is an open connection.
type openConn struct {
	state atomic.Int32 // an http.ConnState

	mu      sync.Mutex
	opened  arrival // guarded by mu
	request arrival // the last one; guarded by mu
}

// openConnKey is the key, in a connection's context, of a function that calls forgetProbe.
type openConnKey struct{}

func (o *openConns) hook(srv *http.Server) {
	state, ctxOf := srv.ConnState, srv.ConnContext
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		o.note(c, s)
		if state != nil {
			state(c, s)
		}
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if ctxOf != nil {
			ctx = ctxOf(ctx, c)
		}
		if ctx == nil || !hashable(c) {
			return ctx // the server says what is wrong
		}
		return context.WithValue(ctx, openConnKey{}, func() { o.forgetProbe(c) })
	}
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = &counter{o, next}
}

// counter is a handler that notes the arrival of requests for which ConnState is not called,
// and has persistent connections end once the server is about to stop.
type counter struct {
	conns *openConns
	next  http.Handler
}

func (h *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor != 1:
		h.conns.arrivals.note()
	case h.conns.stopping.Load() && len(r.Header["Upgrade"]) == 0:
		// Shutdown closes idle connections at once: a request that is on its way meets a
		// closed connection, and a client must not repeat a POST then (RFC 9110, 9.2.2).
		w.Header().Set("Connection", "close")
	}
	h.next.ServeHTTP(w, r)
}

// quiet is the Quiet of the server. Run calls it during PreStop.
func (o *openConns) quiet(began time.Time) bool {
	o.stopping.Store(true)
	return o.arrivals.quiet(began)
}

func (o *openConns) note(c net.Conn, state http.ConnState) {
	if !hashable(c) {
		return
	}
	switch state {
	case http.StateClosed, http.StateHijacked: // Shutdown does not wait for these
		o.conns.Delete(c)
		return
	case http.StateNew:
		o.conns.Store(c, &openConn{opened: o.arrivals.note()}) // http.StateNew is zero
		return
	}
	v, ok := o.conns.Load(c)
	if !ok {
		return
	}
	conn := v.(*openConn)
	conn.state.Store(int32(state))
	if state == http.StateActive {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		conn.request = o.arrivals.note()
	}
}

// forgetProbe undoes the arrival of the connection's request, and that of the connection.
func (o *openConns) forgetProbe(c net.Conn) {
	v, ok := o.conns.Load(c)
	if !ok {
		return
	}
	conn := v.(*openConn)
	conn.mu.Lock()
	defer conn.mu.Unlock()
	o.arrivals.forget(conn.request)
	o.arrivals.forget(conn.opened)
}

// forgetProbe is called by the handlers of probes, whose requests say nothing of whether a
// load balancer still sends others.
func forgetProbe(r *http.Request) {
	if forget, ok := r.Context().Value(openConnKey{}).(func()); ok && r.ProtoMajor == 1 {
		forget()
	}
}

// String describes the open connections, such as "3 open connections (2 active, 1 idle)". It
// is empty if there are none.
func (o *openConns) String() string {
	var total int
	var by [http.StateIdle + 1]int
	for _, v := range o.conns.Range {
		total++
		by[v.(*openConn).state.Load()]++
	}
	var parts []string
	for _, state := range []http.ConnState{http.StateActive, http.StateNew, http.StateIdle} {
		if n := by[state]; n > 0 {
			parts = append(parts, fmt.Sprint(n, " ", state))
		}
	}
	switch total {
	case 0:
		return ""
	case 1:
		return "1 open connection (" + parts[0] + ")"
	}
	return fmt.Sprintf("%d open connections (%s)", total, strings.Join(parts, ", "))
}

// arrivals knows when requests and connections have come, as far as quiet needs it.
type arrivals struct {
	epoch time.Time
	last  atomic.Int64 // when the last one came, as time since epoch

	mu     sync.Mutex
	pauses []pause // the longer ones that ended within the last memory, by end; guarded by mu
}

// arrival is that of a request or a connection.
type arrival struct{ at, before int64 } // before is when the one before came

// pause is a time without arrivals.
type pause struct{ end, length int64 }

const (
	leastQuiet = 800 * time.Millisecond // with quietPoll of Run, PreStop ends within a second of the last arrival
	memory     = 30 * time.Second
)

func (a *arrivals) now() int64 { return int64(time.Since(a.epoch)) }

// note notes an arrival. It is called for each request, and takes the lock only after a pause.
func (a *arrivals) note() arrival {
	var now, before int64
	for stored := false; !stored; { // each arrival has a time of its own, so that forget knows it
		before = a.last.Load()
		now = max(a.now(), before+1)
		stored = a.last.CompareAndSwap(before, now)
	}
	if length := now - before; length > int64(leastQuiet/2) { // a shorter one makes no difference
		a.mu.Lock()
		defer a.mu.Unlock()
		a.dropOldLocked(now)
		a.pauses = append(a.pauses, pause{now, length})
	}
	return arrival{now, before}
}

// dropOldLocked drops the pauses that have ended too long ago. mu must be held.
func (a *arrivals) dropOldLocked(now int64) {
	old := 0
	for old < len(a.pauses) && a.pauses[old].end < now-int64(memory) {
		old++
	}
	a.pauses = slices.Delete(a.pauses, 0, old)
}

// forget undoes an arrival, unless another one has come since: that one has ended the pause
// then.
func (a *arrivals) forget(x arrival) {
	if !a.last.CompareAndSwap(x.at, x.before) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pauses = slices.DeleteFunc(a.pauses, func(p pause) bool { return p.end == x.at })
}

// quiet reports whether arrivals have ceased. A pause of no more than twice the longest one of
// late is what the server is used to. It is not known what a young server is used to.
func (a *arrivals) quiet(began time.Time) bool {
	now, last := a.now(), a.last.Load()
	age := int64(began.Sub(a.epoch))
	if age < int64(memory) {
		return false
	}
	longest := age - last // the pause in which the stop began, if it still goes on
	a.mu.Lock()
	a.dropOldLocked(now)
	for _, p := range a.pauses {
		longest = max(longest, p.length)
	}
	a.mu.Unlock()
	return now-last >= max(int64(leastQuiet), 2*longest)
}
