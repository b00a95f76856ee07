package tetherhttp

import (
	"context"
	"io"
	"net/http"
	"time"
)

const (
	heartbeat    = 15 * time.Second       // between comments in a silent stream, which proxies would close
	pace         = 100 * time.Millisecond // between events, in the long run
	writeTimeout = 30 * time.Second       // for a client that does not read
)

// serveEvents sends a task's states as a stream of events (server-sent events, HTML Living
// Standard 9.2). The id of an event is the tag of its status.
func (h *tasks) serveEvents(w http.ResponseWriter, r *http.Request, t source) {
	w.Header().Add("Vary", "Accept, Prefer")
	last := r.Header.Get("Last-Event-ID")
	if now := t.now(); now.done() && h.represent(r, now).tag == last {
		w.WriteHeader(http.StatusNoContent) // the client has the last event: EventSource stops
		return
	}
	ctx, cancel := h.whileServing(r)
	defer cancel()
	control := http.NewResponseController(w)
	send := func(text string) bool {
		// A wrapper around w may not support deadlines. The stream works without.
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := io.WriteString(w, text)
		return err == nil && control.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	first := "retry: 1000\n\n"
	for open := true; open; open = open && ctx.Err() == nil && !t.gone() && send(":\n\n") {
		until, cancel := context.WithTimeout(ctx, heartbeat)
		for view := range t.watch(until) {
			now := h.represent(r, view)
			if now.tag == last && first == "" {
				continue
			}
			last = now.tag
			// If the writer cannot flush, this event is sent when the handler returns.
			if open = send(first+now.event()) && !now.done; !open {
				break
			}
			first = ""
		}
		cancel()
	}
}

// whileServing returns the request's context, canceled when the stop begins or the request's
// server shuts down, either of which would wait for the request.
func (h *tasks) whileServing(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	unhook := func() bool { return true }
	if srv := serverOf(r); srv != nil {
		unhook = context.AfterFunc(h.shutdownOf(srv), cancel)
	}
	go func() {
		select {
		case <-h.reg.Stopping():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { unhook(); cancel() }
}

// shutdownOf returns a context that is done when a server shuts down.
func (h *tasks) shutdownOf(srv *http.Server) context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := h.servers[srv]
	if down == nil {
		var shutDown context.CancelFunc
		down, shutDown = context.WithCancel(context.Background())
		srv.RegisterOnShutdown(shutDown)
		h.servers[srv] = down
	}
	return down
}
