package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// problemf makes the problem of a status code: an answer that tells the client what
// it did wrong, or when to come back. It is an error, so that a handler returns it
// like any other.
func problemf(status int, format string, args ...any) *tetherhttp.Problem {
	return &tetherhttp.Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// problemOf finds the problem in an error. The text of an error that was not meant
// for the client stays in the log: it may name files, queries and addresses.
func problemOf(err error) *tetherhttp.Problem {
	switch {
	case errors.Is(err, errNoRow):
		return problemf(http.StatusNotFound, "nothing has this id")
	case errors.Is(err, errStoreClosed):
		err = tether.ErrClosed // to the client it is the same
	}
	return tetherhttp.ProblemOf(err)
}

// handler is an http.Handler that may fail: what it returns becomes a problem.
// It must not have written anything when it returns an error. Nothing is done after
// the answer then: what the handler had put off is discarded.
type handler func(w http.ResponseWriter, r *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h(w, r)
	if err == nil {
		return
	}
	tetherhttp.Discard(r.Context(), err)
	p := problemOf(err)
	// A cancelled context may mean that the client is gone, or only that its
	// connection is not read any more (see unhurried): it is answered in either case.
	if p.Status == http.StatusInternalServerError && r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	p.ServeHTTP(w, r)
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
		problemf(verdict.status, "%s %s is not served here", r.Method, r.URL.Path).ServeHTTP(w, r)
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
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		slog.Error("an answer could not be encoded", "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client is gone: nobody is left to tell
}
