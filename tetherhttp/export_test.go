package tetherhttp

import (
	"net/http"
	"time"

	"github.com/seed-2e639f12/tether"
)

// AfterSubmit makes a handler of [Async] call do whenever it has submitted a task, before
// it goes on. It returns the handler.
func AfterSubmit(h http.Handler, do func(*tether.Task)) http.Handler {
	a := h.(*async)
	submit := a.submit
	a.submit = func(in *http.Request, body []byte, opts []tether.Option) (*handle, error) {
		t, err := submit(in, body, opts)
		do(t.Task)
		return t, err
	}
	return h
}

// StandStill makes the store see what it sees in a process that has stood still for so long.
func (s *Store) StandStill(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = s.renewed.Add(-d)
}

// Attachments returns how often Attach was called for a server with this handler.
func Attachments(h http.Handler) int {
	switch h := h.(type) {
	case *counter:
		return Attachments(h.next)
	case *handler:
		return 1 + Attachments(h.next)
	}
	return 0
}

// SampleAlways makes a handler of [Debug] sample the registry in a bubble as it does outside,
// where it does not stop. It returns the handler.
func SampleAlways(h http.Handler) http.Handler {
	d := h.(*debug)
	d.looking <- struct{}{}
	defer func() { <-d.looking }()
	d.inBubble = false
	return h
}
