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

// problemf returns the problem of a status code: a response with the mistake of the client.
// It is an error, so a handler can return it like any other.
func problemf(status int, format string, args ...any) *tetherhttp.Problem {
	return &tetherhttp.Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// problemOf returns the problem for an error. The texts of other errors are not sent to the
// client: they may contain files, queries and addresses.
func problemOf(err error) *tetherhttp.Problem {
	switch {
	case errors.Is(err, errNoRow):
		return problemf(http.StatusNotFound, "no such id")
	case errors.Is(err, errStoreClosed):
		err = tether.ErrClosed // the same for the client
	}
	return tetherhttp.ProblemOf(err)
}

// handler is an http.Handler that returns an error, which is sent as a problem. It must not
// have written anything when it returns an error. The tasks that it has submitted for
// after the response are discarded then.
type handler func(w http.ResponseWriter, r *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h(w, r)
	if err == nil {
		return
	}
	tetherhttp.Discard(r.Context(), err)
	p := problemOf(err)
	// A canceled context may mean that the client has gone, or only that its connection is
	// not read any more (see uploading). The response is sent in both cases.
	if p.Status == http.StatusInternalServerError && r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	p.ServeHTTP(w, r)
}

// problems sends a problem where mux would send plain text: for an unknown path, or a method
// that the path does not have.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		response := muxResponse{header: w.Header(), status: http.StatusOK}
		h.ServeHTTP(&response, r)
		if response.status < 400 { // a redirect to the clean path
			w.WriteHeader(response.status)
			return
		}
		w.Header().Del("Content-Length")
		problemf(response.status, "%s %s is not served here", r.Method, r.URL.Path).ServeHTTP(w, r)
	})
}

// muxResponse keeps the status and the headers (Allow, Location) of the mux's own
// response, and drops its text.
type muxResponse struct {
	header http.Header
	status int
}

func (v *muxResponse) Header() http.Header         { return v.header }
func (v *muxResponse) WriteHeader(status int)      { v.status = status }
func (v *muxResponse) Write(p []byte) (int, error) { return len(p), nil }

// writeJSON sends v. It encodes v first, so that a value that cannot be encoded does not
// become half a response with status 200.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		slog.Error("response not encoded", "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error means that the client has gone
}
