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

// A Problem is an error that is shown to a client, as problem details (RFC 9457). If the body
// of an [Async] handler returns a *Problem, or an error that wraps one, the Problem is the
// answer. If its error is or wraps an [http.Handler], that writes the answer. For any other
// error the answer is what [ProblemOf] returns, because the text of an error may contain
// anything. The registry logs all errors.
type Problem struct {
	Type     string `json:"type,omitempty"`  // a URI for the kind of problem, such as ProblemBusy
	Title    string `json:"title,omitempty"` // empty means the text of Status
	Status   int    `json:"status"`          // 400 to 599; any other value means 500
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`

	// RetryAfter is sent as Retry-After, in seconds, rounded up. Zero means that it is not
	// sent.
	RetryAfter time.Duration `json:"-"`
}

// Error returns the status, the title and the detail.
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

// ServeHTTP writes the problem as the response.
func (p *Problem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", seconds(p.RetryAfter))
	}
	h.Set("Cache-Control", "no-store")
	shown := p.shown()
	writeJSON(w, r, "application/problem+json", shown.Status, shown)
}

// shown returns a copy with its defaults filled in.
func (p *Problem) shown() *Problem {
	q := *p
	if q.Status < 400 || q.Status > 599 {
		q.Status = http.StatusInternalServerError
	}
	q.Title = q.title()
	return &q
}

// seconds formats a duration for Retry-After: whole seconds, at least one.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(max(d, time.Second).Seconds())), 10)
}

// answerTo returns the answer to a client for an error: the error itself if it is or wraps an
// [http.Handler].
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

// ProblemOf returns what a client may be shown of an error, for handlers that submit tasks
// themselves: the [*Problem] that err is or wraps; 503 with RetryAfter for [tether.ErrFull], also as a [*tether.MaxWaitError],
// [tether.ErrClosed] and [tether.ErrShutdown]; 504 for [tether.ErrTimeout]; 410 for
// [ErrCanceled]; 503 for [ErrClientGone]; 503 with RetryAfter for [ErrStoreUnavailable]; 500 for [ErrLost]; 413 for an [*http.MaxBytesError]; and 500 without a
// detail for any other error.
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
		if waited, ok := errorAs[*tether.MaxWaitError](err); ok {
			return newProblem(ProblemOverdue, "the work was not begun in time; try again").after(max(wait, waited.MaxWait))
		}
		return newProblem(ProblemBusy, "the service is busy; try again").after(wait)
	case errorIs(err, tether.ErrClosed), errorIs(err, tether.ErrShutdown):
		return newProblem(ProblemStopping, "the service is being restarted; try again").after(5 * time.Second)
	case errorIs(err, tether.ErrTimeout):
		return newProblem(ProblemTimeout, "the work took too long")
	case errorIs(err, ErrCanceled):
		return newProblem(ProblemCanceled, "the work was canceled on request")
	case errorIs(err, ErrStoreUnavailable):
		return newProblem(ProblemStoreUnavailable, "the service cannot look this up, or keep it, at present; try again").after(time.Second)
	case errorIs(err, ErrLost):
		return lostProblem()
	case errorIs(err, ErrClientGone):
		return newProblem(ProblemRequestEnded, "the request ended before the work was done").after(time.Second)
	}
	if tooMuch, ok := errorAs[*http.MaxBytesError](err); ok {
		return newProblem(ProblemBodyTooLarge, "the body is larger than "+strconv.FormatInt(tooMuch.Limit, 10)+" bytes")
	}
	return newProblem(ProblemFailed, "")
}

// writeJSON writes v as the response. It encodes v first, so that a value that cannot be encoded
// is answered 500 instead of being cut off.
func writeJSON(w http.ResponseWriter, r *http.Request, contentType string, status int, v any) {
	body, err := encode(v)
	if err != nil {
		logf(r, "tetherhttp: the answer to %s %q cannot be encoded: %v", r.Method, r.URL.Path, err)
		newProblem(ProblemFailed, "").ServeHTTP(w, r)
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
	_, _ = w.Write(body) // an error means that the client has gone
}

// encode returns v as JSON. A panic of a MarshalJSON method is returned as an error.
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

// logf logs to the server's ErrorLog, or to the standard logger.
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
