package tetherhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
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
// failure. A value from Async costs less.
func AsyncHandler(r tether.Runner, name string, h http.Handler, opts ...AsyncOption) http.Handler {
	if h == nil {
		panic("tetherhttp: AsyncHandler needs a handler")
	}
	var a *async
	a = Async(r, name, func(_ context.Context, in *http.Request) (*recording, error) {
		rec := &recording{header: make(http.Header), most: max(16<<20, a.maxBody)}
		h.ServeHTTP(rec, in)
		rec.WriteHeader(http.StatusOK) // if it has not done so
		if rec.tooMuch {
			return nil, fmt.Errorf("tetherhttp: the answer is larger than %d bytes", rec.most)
		}
		if rec.status >= 500 {
			return nil, rec
		}
		return rec, nil
	}, opts...).(*async)
	return a
}

// recording is a ResponseWriter that keeps what it is given, and writes it later as
// often as it is asked to. One of a failure is an error.
type recording struct {
	header  http.Header // the handler's
	sent    http.Header // as it was when the status was written
	status  int
	body    bytes.Buffer
	most    int64
	tooMuch bool
}

func (rec *recording) Error() string { return "the handler has answered " + strconv.Itoa(rec.status) }

func (rec *recording) Header() http.Header { return rec.header }

func (rec *recording) WriteHeader(status int) {
	if rec.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	rec.status, rec.sent = status, rec.header.Clone()
}

var errTooMuch = errors.New("tetherhttp: the answer is too large to be kept")

func (rec *recording) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	if int64(rec.body.Len())+int64(len(p)) > rec.most {
		rec.tooMuch = true
		return 0, errTooMuch
	}
	return rec.body.Write(p)
}

// ServeHTTP writes what was kept.
func (rec *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	vary := h["Vary"]
	maps.Copy(h, rec.sent.Clone())
	if len(vary) > 0 && len(rec.sent["Vary"]) > 0 {
		h["Vary"] = append(vary, rec.sent["Vary"]...)
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
