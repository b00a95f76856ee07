package tetherhttp

import (
	"net/http"

	"github.com/seed-2e639f12/tether"
)

// taskView is what can be shown of a task at one time.
type taskView struct {
	info    tether.Info  // ID is the one in the task's URL
	lost    bool         // its replica is gone; info.State is Failed
	job     bool         // it is a durable job
	last    *Problem     // of a job, of its last attempt, while another follows or runs
	result  any          // part of the status of a task that has succeeded; nil if there is none
	problem *Problem     // part of the status of a task that has not, or has no result to show
	answer  http.Handler // the final answer, nil until the task has ended
}

// valuer is a task of which the value is asked for: a *tether.Task or a *handle.
type valuer interface{ Value() any }

// viewOf returns the view of a task of this process.
func viewOf(t valuer, info tether.Info) *taskView {
	s := &taskView{info: info}
	switch {
	case !info.State.Final():
	case info.State != tether.Succeeded:
		s.answer = answerTo(info.Err)
		var known bool
		if s.problem, known = s.answer.(*Problem); !known { // the error writes the answer itself, at result_url
			s.problem = newProblem(ProblemFailed, "")
		}
	default:
		v := t.Value()
		h, own := v.(http.Handler)
		if !own {
			s.result = v
		}
		if own && !isNil(h) {
			s.answer = h
		} else {
			s.answer = jsonAnswer{v}
		}
	}
	return s
}

// done reports whether the task has ended.
func (s *taskView) done() bool { return s.info.State.Final() }

// state returns the state that is shown.
func (s *taskView) state() string {
	if s.lost {
		return stateLost
	}
	return s.info.State.String()
}

// jsonAnswer is an answer with a value as JSON.
type jsonAnswer struct{ value any }

func (j jsonAnswer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, "application/json", http.StatusOK, j.value)
}
