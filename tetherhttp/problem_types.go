package tetherhttp

import (
	"net/http"
	"time"
)

// problemBase is the address of the table of problem types.
const problemBase = "https://github.com/seed-2e639f12/tether/blob/main/tetherhttp/PROBLEMS.md#"

// The Type of each [Problem] that this package answers with, so that a program can tell apart
// problems with the same status. PROBLEMS.md describes them and what a client should do.
// They are identifiers: a client should compare them, and not fetch them.
const (
	ProblemBusy             = problemBase + "busy"               // 503: the registry or the pool is full
	ProblemOverdue          = problemBase + "overdue"            // 503: the task waited for a worker longer than its pool's MaxWait
	ProblemStopping         = problemBase + "stopping"           // 503: the process is stopping
	ProblemRequestEnded     = problemBase + "request-ended"      // 503: the task was canceled with its request, see [ErrClientGone]
	ProblemTimeout          = problemBase + "timeout"            // 504: the task took too long
	ProblemCanceled         = problemBase + "canceled"           // 410: the task was canceled on request, see [ErrCanceled]
	ProblemFailed           = problemBase + "failed"             // 500: the task, or the server, has failed
	ProblemTaskUnknown      = problemBase + "task-unknown"       // 404: there is no task with this ID
	ProblemTaskForgotten    = problemBase + "task-forgotten"     // 410: the task has ended and is no longer retained
	ProblemTaskUnfinished   = problemBase + "task-unfinished"    // 409: the task has no result yet
	ProblemTaskLost         = problemBase + "task-lost"          // 500: the process that ran the task is gone, see [Store]
	ProblemResultTooLarge   = problemBase + "result-too-large"   // 500: the task was done, but the store does not take its result
	ProblemStoreUnavailable = problemBase + "store-unavailable"  // 503: the store of the replicas does not answer
	ProblemKeyMissing       = problemBase + "key-missing"        // 400: an Idempotency-Key is required
	ProblemKeyMalformed     = problemBase + "key-malformed"      // 400: the Idempotency-Key is malformed
	ProblemKeyInUse         = problemBase + "key-in-use"         // 409: the first request with this Idempotency-Key is being served
	ProblemKeyReused        = problemBase + "key-reused"         // 422: the Idempotency-Key was used for another request
	ProblemBodyTooLarge     = problemBase + "body-too-large"     // 413: the body is larger than allowed
	ProblemBodyTimeout      = problemBase + "body-timeout"       // 408: the body did not arrive in time
	ProblemBodyIncomplete   = problemBase + "body-incomplete"    // 400: the body did not arrive completely
	ProblemMethod           = problemBase + "method-not-allowed" // 405: see the Allow header
	ProblemCrossSite        = problemBase + "cross-site"         // 403: a browser sent the request for another site
	ProblemHost             = problemBase + "host-not-allowed"   // 421: see [AllowHosts]
	ProblemPageUnavailable  = problemBase + "page-unavailable"   // 503: the live page could not be made while the client waited
	ProblemActionRefused    = problemBase + "action-refused"     // 403: the Audit of the live page has refused an action
	ProblemActionInvalid    = problemBase + "action-invalid"     // 400: an action of the live page lacks something
	ProblemTargetUnknown    = problemBase + "target-unknown"     // 404: an action of the live page is about something that does not exist
)

// problemType returns the status and the title of a type, which are the same for all its
// problems.
func problemType(kind string) (status int, title string) {
	switch kind {
	case ProblemBusy:
		return http.StatusServiceUnavailable, "Busy"
	case ProblemOverdue:
		return http.StatusServiceUnavailable, "Not begun in time"
	case ProblemStopping:
		return http.StatusServiceUnavailable, "Stopping"
	case ProblemRequestEnded:
		return http.StatusServiceUnavailable, "Request ended"
	case ProblemTimeout:
		return http.StatusGatewayTimeout, "Timeout"
	case ProblemCanceled:
		return http.StatusGone, "Canceled"
	case ProblemTaskUnknown:
		return http.StatusNotFound, "No such task"
	case ProblemTaskForgotten:
		return http.StatusGone, "Task no longer retained"
	case ProblemTaskUnfinished:
		return http.StatusConflict, "Task not finished"
	case ProblemTaskLost:
		return http.StatusInternalServerError, "Task lost"
	case ProblemResultTooLarge:
		return http.StatusInternalServerError, "Result too large"
	case ProblemStoreUnavailable:
		return http.StatusServiceUnavailable, "Store unavailable"
	case ProblemKeyMissing:
		return http.StatusBadRequest, "Idempotency-Key missing"
	case ProblemKeyMalformed:
		return http.StatusBadRequest, "Idempotency-Key malformed"
	case ProblemKeyInUse:
		return http.StatusConflict, "Idempotency-Key in use"
	case ProblemKeyReused:
		return http.StatusUnprocessableEntity, "Idempotency-Key reused"
	case ProblemBodyTooLarge:
		return http.StatusRequestEntityTooLarge, "Body too large"
	case ProblemBodyTimeout:
		return http.StatusRequestTimeout, "Body too slow"
	case ProblemBodyIncomplete:
		return http.StatusBadRequest, "Body incomplete"
	case ProblemMethod:
		return http.StatusMethodNotAllowed, "Method not allowed"
	case ProblemCrossSite:
		return http.StatusForbidden, "Cross-site request"
	case ProblemHost:
		return http.StatusMisdirectedRequest, "Host not allowed"
	case ProblemPageUnavailable:
		return http.StatusServiceUnavailable, "Page unavailable"
	case ProblemActionRefused:
		return http.StatusForbidden, "Action refused"
	case ProblemActionInvalid:
		return http.StatusBadRequest, "Action invalid"
	case ProblemTargetUnknown:
		return http.StatusNotFound, "No such target"
	}
	return http.StatusInternalServerError, "Failed"
}

// newProblem returns a problem of a type.
func newProblem(kind, detail string) *Problem {
	status, title := problemType(kind)
	return &Problem{Type: kind, Title: title, Status: status, Detail: detail}
}

// after sets RetryAfter.
func (p *Problem) after(d time.Duration) *Problem {
	p.RetryAfter = d
	return p
}
