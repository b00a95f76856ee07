package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/seed-2e639f12/tether"
)

// problem is an answer that tells the client what it did wrong, or when to come
// back: the body of RFC 9457, sent as application/problem+json. It is an error, so
// that a handler returns it like any other.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	retryAfter time.Duration // sent as Retry-After when positive
}

// problemf makes the problem of a status code. "about:blank" is what RFC 9457
// section 4.2.1 wants where the title is the status code's own text.
func problemf(status int, format string, args ...any) *problem {
	return &problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: fmt.Sprintf(format, args...),
	}
}

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

func (p *problem) write(w http.ResponseWriter) {
	if p.retryAfter > 0 {
		// Rounded up: "0" would send the burst straight back.
		seconds := int(math.Ceil(p.retryAfter.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(max(1, seconds)))
	}
	writeJSON(w, "application/problem+json", p.Status, p)
}

// busyRetry is the Retry-After of a refusal that carries no estimate of its own.
const busyRetry = 5 * time.Second

// problemOf finds the problem in an error. The text of an error that was not meant
// for the client stays in the log: it may name files, queries and addresses.
func problemOf(err error) *problem {
	var (
		p       *problem
		full    *tether.FullError
		tooMuch *http.MaxBytesError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &full):
		p = problemf(http.StatusServiceUnavailable, "too much work is waiting; nothing was accepted, try again later")
		p.retryAfter = max(full.RetryAfter, time.Second)
		return p
	case errors.Is(err, tether.ErrFull), errors.Is(err, tether.ErrClosed), errors.Is(err, tether.ErrShutdown), errors.Is(err, errStoreClosed):
		p = problemf(http.StatusServiceUnavailable, "the shop is restarting; nothing was accepted, try again soon")
		p.retryAfter = busyRetry
		return p
	case errors.As(err, &tooMuch):
		return problemf(http.StatusRequestEntityTooLarge, "the body is larger than the %d bytes allowed here", tooMuch.Limit)
	case errors.Is(err, errNoRow):
		return problemf(http.StatusNotFound, "nothing has this id")
	}
	return problemf(http.StatusInternalServerError, "this is our fault and has been logged")
}

// handler is an http.Handler that may fail: what it returns becomes a problem.
// It must not have written anything when it returns an error.
type handler func(w http.ResponseWriter, r *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h(w, r)
	if err == nil {
		return
	}
	p := problemOf(err)
	// A cancelled context may mean that the client is gone, or only that its
	// connection is not read any more (see unhurried): it is answered in either case.
	if p.Status == http.StatusInternalServerError && r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	p.write(w)
}

// problems answers with a problem where the mux itself would answer in plain text:
// no such path, or no such method on it.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		verdict := muxVerdict{header: w.Header(), status: http.StatusOK}
		h.ServeHTTP(&verdict, r)
		if verdict.status < 400 { // a redirect to the clean path
			w.WriteHeader(verdict.status)
			return
		}
		w.Header().Del("Content-Length")
		problemf(verdict.status, "%s %s is not served here", r.Method, r.URL.Path).write(w)
	})
}

// muxVerdict keeps the status and the headers (Allow, Location) of the mux's own
// answer, and drops its text.
type muxVerdict struct {
	header http.Header
	status int
}

func (v *muxVerdict) Header() http.Header         { return v.header }
func (v *muxVerdict) WriteHeader(status int)      { v.status = status }
func (v *muxVerdict) Write(p []byte) (int, error) { return len(p), nil }

// writeJSON sends v. It is encoded first, so that a value that cannot be encoded
// does not become half an answer with status 200.
func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		slog.Error("an answer could not be encoded", "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client is gone: nobody is left to tell
}
