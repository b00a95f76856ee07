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

// AsyncHandler is [Async] for a handler as it is. What it writes is kept in memory
// and sent when it has returned, inline or as the result of the status resource. A
// status of 500 or more makes the task a failed one.
//
// Its ResponseWriter cannot flush, hijack or set deadlines, informational (1xx)
// answers are left out, and more than 16 MiB, or [MaxBody] if that is more, is a
// failure. [http.ErrAbortHandler] breaks the connection off, as it does without
// AsyncHandler. At the result's URL the answer is Cache-Control: no-store. A value from
// Async costs less.
func AsyncHandler(r tether.Submitter, name string, h http.Handler, opts ...AsyncOption) http.Handler {
	if h == nil {
		panic("tetherhttp: AsyncHandler needs a handler")
	}
	var a *async
	a = Async(r, name, func(_ context.Context, in *http.Request) (_ *recording, err error) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler: // no panic to report: a ReverseProxy's upstream has gone, say
				err = abort{}
			default:
				panic(v)
			}
		}()
		rec := &recording{header: make(http.Header), most: max(16<<20, a.maxBody)}
		h.ServeHTTP(rec, in)
		rec.WriteHeader(http.StatusOK) // if it has not done so
		switch {
		case rec.tooMuch:
			return nil, errTooMuch
		case rec.status >= 500:
			return nil, rec
		}
		return rec, nil
	}, opts...).(*async)
	return a
}

// abort is the outcome of a handler that has panicked with http.ErrAbortHandler, and
// answers as it does.
type abort struct{}

func (abort) Error() string                                { return http.ErrAbortHandler.Error() }
func (abort) Unwrap() error                                { return http.ErrAbortHandler }
func (abort) ServeHTTP(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// recording is a ResponseWriter that keeps what it is given, and writes it later as
// often as it is asked to. One of a failure is an error.
type recording struct {
	header  http.Header // the handler's
	sent    http.Header // as it was when the status was written
	status  int
	body    bytes.Buffer
	most    int64
	tooMuch bool

	promised int64 // Content-Length; -1 if it was not given
}

func (rec *recording) Error() string { return "the handler has answered " + strconv.Itoa(rec.status) }

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

var errTooMuch = errors.New("tetherhttp: the answer is too large to be kept")

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

// unstored returns the same answer, for nobody to cache.
func (rec *recording) unstored() *recording {
	same := *rec
	same.sent = rec.sent.Clone()
	same.sent.Set("Cache-Control", "no-store")
	return &same
}

// ServeHTTP writes what was kept.
func (rec *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range rec.sent {
		switch name {
		case "Vary", "Set-Cookie": // others may have added theirs
			h[name] = append(h[name], values...)
		default:
			h[name] = slices.Clone(values)
		}
	}
	if rec.body.Len() > 0 && h.Get("Content-Length") == "" && !rec.trailers() {
		h.Set("Content-Length", strconv.Itoa(rec.body.Len()))
	}
	w.WriteHeader(rec.status)
	if rec.body.Len() > 0 {
		_, _ = w.Write(rec.body.Bytes()) // the client has gone: nobody is left to be told
	}
	for name, values := range rec.header { // trailers are set after the body
		if _, early := rec.sent[name]; !early {
			h[name] = values
		}
	}
}

func (rec *recording) trailers() bool {
	for name := range rec.header {
		if name == "Trailer" || strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}
