package tetherhttp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"net/http"
	stacks "runtime/debug"
	"strconv"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Problem is an error that a client is told: problem details, RFC 9457. A body of
// [Async] that returns one, or an error that wraps one, decides what the answer says.
// So does one whose error is an [http.Handler]: it writes the answer itself. Of other
// errors a client learns what [ProblemOf] says and no more, since their text may be
// about anything. The registry logs all of them.
type Problem struct {
	Type     string `json:"type,omitempty"` // a URI that names the kind; "": nothing but the status
	Title    string `json:"title,omitempty"`
	Status   int    `json:"status"` // 400 to 599; others stand for 500
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`

	// RetryAfter is sent as Retry-After, in whole seconds, rounded up. 0: not sent.
	RetryAfter time.Duration `json:"-"`
}

func (p *Problem) Error() string {
	text := strconv.Itoa(p.Status) + " " + p.title()
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	return text
}

func (p *Problem) title() string {
	if p.Title != "" {
		return p.Title
	}
	return http.StatusText(p.Status)
}

// ServeHTTP answers with the problem.
func (p *Problem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", seconds(p.RetryAfter))
	}
	h.Set("Cache-Control", "no-store")
	shown := p.shown()
	writeJSON(w, r, "application/problem+json", shown.Status, shown)
}

// shown returns the problem as a client sees it.
func (p *Problem) shown() *Problem {
	q := *p
	if q.Status < 400 || q.Status > 599 {
		q.Status = http.StatusInternalServerError
	}
	q.Title = q.title()
	return &q
}

// seconds is a time as Retry-After has it: whole ones, at least one.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(max(d, time.Second).Seconds())), 10)
}

// answerTo returns what a client is told of an error. An error that can write the
// answer itself does so.
func answerTo(err error) http.Handler {
	type answer interface {
		error
		http.Handler
	}
	if own, ok := errorAs[answer](err); ok {
		return own
	}
	return ProblemOf(err)
}

// ProblemOf returns what a client may be told of an error, for handlers that submit
// tasks themselves: the [*Problem] that err is or wraps; 503 with RetryAfter for
// [tether.ErrFull], [tether.ErrClosed] and [tether.ErrShutdown]; 504 for
// [tether.ErrTimeout]; 410 for [ErrCanceled]; 413 for an [*http.MaxBytesError]; and
// 500, of which nothing is told, for any other.
func ProblemOf(err error) *Problem {
	if known, ok := errorAs[*Problem](err); ok {
		return known
	}
	switch {
	case errorIs(err, tether.ErrFull):
		wait := time.Second
		if full, ok := errorAs[*tether.FullError](err); ok {
			wait = max(wait, full.RetryAfter)
		}
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "too much work is under way; try again", RetryAfter: wait}
	case errorIs(err, tether.ErrClosed), errorIs(err, tether.ErrShutdown):
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "the service is being restarted; try again", RetryAfter: 5 * time.Second}
	case errorIs(err, tether.ErrTimeout):
		return &Problem{Status: http.StatusGatewayTimeout, Detail: "the work took longer than it may"}
	case errorIs(err, ErrCanceled):
		return &Problem{Status: http.StatusGone, Detail: "the work was canceled on request"}
	case errorIs(err, ErrClientGone):
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "the request was given up before the work was done", RetryAfter: time.Second}
	}
	if tooMuch, ok := errorAs[*http.MaxBytesError](err); ok {
		return &Problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body is larger than " + strconv.FormatInt(tooMuch.Limit, 10) + " bytes"}
	}
	return &Problem{Status: http.StatusInternalServerError}
}

// writeJSON answers with v. It is encoded first: what cannot be encoded does not
// become half an answer.
func writeJSON(w http.ResponseWriter, r *http.Request, contentType string, status int, v any) {
	body, err := encode(v)
	if err != nil {
		logf(r, "tetherhttp: the answer to %s %q cannot be encoded: %v", r.Method, r.URL.Path, err)
		(&Problem{Status: http.StatusInternalServerError}).ServeHTTP(w, r)
		return
	}
	writeBody(w, contentType, status, body)
}

func writeBody(w http.ResponseWriter, contentType string, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone: nobody is left to be told
}

// encode returns v as JSON. A MarshalJSON of the program's that panics is an error.
func encode(v any) (body []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			body, err = nil, fmt.Errorf("%T: its encoding panicked: %v\n%s", v, r, stacks.Stack())
		}
	}()
	var b bytes.Buffer
	err = json.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// logf logs where the server logs.
func logf(r *http.Request, format string, args ...any) {
	if srv := serverOf(r); srv != nil && srv.ErrorLog != nil {
		srv.ErrorLog.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

func serverOf(r *http.Request) *http.Server {
	srv, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	return srv
}
