package tetherhttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// statusWriter records the status of a response, for [ReleaserConfig].OnlyIf.
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

// WriteString saves a copy, and splits the body into writes as the bare writer does: net/http
// buffers a string differently from bytes.
func (w *statusWriter) WriteString(s string) (int, error) { return io.WriteString(w.ResponseWriter, s) }

// CloseNotify is a method that gin's Stream requires.
func (w *statusWriter) CloseNotify() <-chan bool {
	if n, ok := unwrapped(w).(interface{ CloseNotify() <-chan bool }); ok {
		return n.CloseNotify()
	}
	return nil // blocks forever
}

func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }
