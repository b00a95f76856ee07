package tetherhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-2e639f12/tether"
)

// AsyncHandler is [Async] for an existing handler. What h writes is kept in memory and sent
// when h has returned, inline or as the result of the status resource. The task fails if the
// status is 500 or more.
//
// The ResponseWriter that h receives cannot flush, hijack or set deadlines, and ignores
// informational (1xx) responses. A response of more than 16 MiB, or [AsyncConfig].MaxBody if
// that is more, makes the task fail. [http.ErrAbortHandler] aborts the response, as it does
// without AsyncHandler. A value from Async costs less memory than a recorded response.
//
// The response is recorded once and may be read many times, inline and at the result's URL. So
// h receives a GET or HEAD request as a GET without Range, If-Range and the conditional headers
// (RFC 9110, 13.1), and these are applied to the recorded response each time it is read, if its
// status is 200. Other methods keep their preconditions, such as If-Match, because h must
// evaluate them before it acts. At the result's URL the response is sent with Cache-Control:
// no-store.
//
// AsyncHandler panics if r or h is nil, or name is not valid, which are programming errors.
func AsyncHandler(r tether.Submitter, name string, h http.Handler, cfg ...AsyncConfig) http.Handler {
	if r == nil || h == nil {
		panic("tetherhttp: AsyncHandler needs a Submitter and a handler")
	}
	var a *async
	a = Async(r, name, func(_ context.Context, in *http.Request) (_ *recording, err error) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler: // not a fault: the upstream of a ReverseProxy has gone, for example
				err = abort{}
			default:
				panic(v)
			}
		}()
		rec := &recording{header: make(http.Header), most: max(16<<20, a.maxBody)}
		h.ServeHTTP(rec, unconditional(in))
		rec.WriteHeader(http.StatusOK) // no effect if h has called it
		switch {
		case rec.tooMuch:
			return nil, errTooMuch
		case rec.status >= 500:
			return nil, rec
		}
		return rec, nil
	}, cfg...).(*async)
	if fn, ok := h.(http.HandlerFunc); ok {
		a.wraps = tether.Wraps(fn)
	}
	return a
}

// unconditional returns a request for the whole of what in asks for a part of, or for nothing
// of if the client has it. in must be a copy that belongs to the caller.
func unconditional(in *http.Request) *http.Request {
	safe := in.Method == http.MethodGet || in.Method == http.MethodHead
	if safe {
		in.Method = http.MethodGet
	}
	in.Header = in.Header.Clone()
	for _, name := range []string{"Range", "If-Range", "If-Modified-Since"} { // only GET has these
		in.Header.Del(name)
	}
	if safe {
		for _, name := range []string{"If-Match", "If-None-Match", "If-Unmodified-Since"} {
			in.Header.Del(name)
		}
	}
	return in
}

// abort is the error of a handler that has panicked with http.ErrAbortHandler. Its answer is
// the same panic.
type abort struct{}

func (abort) Error() string                                { return http.ErrAbortHandler.Error() }
func (abort) Unwrap() error                                { return http.ErrAbortHandler }
func (abort) ServeHTTP(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// recording is a ResponseWriter that keeps a response, and a Handler that writes it any number
// of times. If the response is a failure, the recording is the task's error.
type recording struct {
	header  http.Header // the handler's
	sent    http.Header // a copy from when the status was written
	status  int
	body    bytes.Buffer
	most    int64
	tooMuch bool

	promised int64 // Content-Length; -1 if it was not given
}

func (rec *recording) Error() string { return "the handler answered " + strconv.Itoa(rec.status) }

func (rec *recording) Header() http.Header { return rec.header }

func (rec *recording) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status)) // as net/http does
	}
	if rec.status == 0 && status >= 200 {
		rec.status, rec.sent, rec.promised = status, rec.header.Clone(), -1
		if n, err := strconv.ParseInt(rec.sent.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
			rec.promised = n
		}
	}
}

var errTooMuch = errors.New("tetherhttp: the response is too large to be kept")

func (rec *recording) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	size := int64(rec.body.Len()) + int64(len(p))
	switch {
	case rec.status == http.StatusNoContent || rec.status == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case rec.promised >= 0 && size > rec.promised:
		return 0, http.ErrContentLength
	case size > rec.most:
		rec.tooMuch = true
		return 0, errTooMuch
	}
	return rec.body.Write(p)
}

// unstored returns the same response with Cache-Control: no-store.
func (rec *recording) unstored() *recording {
	same := *rec
	same.sent = rec.sent.Clone()
	same.sent.Set("Cache-Control", "no-store")
	return &same
}

// ServeHTTP writes the response.
func (rec *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range rec.sent {
		switch name {
		case "Vary", "Set-Cookie": // a middleware may have added values
			h[name] = append(h[name], values...)
		default:
			h[name] = slices.Clone(values)
		}
	}
	if rec.selects(r) {
		h.Del("Accept-Ranges") // ServeContent sets these where they apply
		h.Del("Content-Length")
		modified, _ := http.ParseTime(h.Get("Last-Modified")) // zero, which means unknown, if it is not a time
		http.ServeContent(w, r, "", modified, bytes.NewReader(rec.body.Bytes()))
		return
	}
	if rec.body.Len() > 0 && h.Get("Content-Length") == "" && !rec.trailers() {
		h.Set("Content-Length", strconv.Itoa(rec.body.Len()))
	}
	w.WriteHeader(rec.status)
	if rec.body.Len() > 0 {
		_, _ = w.Write(rec.body.Bytes()) // an error means that the client has gone
	}
	for name, values := range rec.header { // trailers are set after the body
		if _, early := rec.sent[name]; !early {
			h[name] = values
		}
	}
}

// selects reports whether a request asks for a part of the response, or for nothing of it if
// the client has it, and the response has such parts.
func (rec *recording) selects(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || rec.status != http.StatusOK || rec.trailers() {
		return false
	}
	for _, name := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

// trailers reports whether the response has trailers.
func (rec *recording) trailers() bool {
	for name := range rec.header {
		if name == "Trailer" || strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}
