package tetherhttp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// recordVersion is the format of the records that this version of the package writes, and the
// newest one that it reads. A change that an older replica would misread needs another number.
const recordVersion = 1

// content is what the record of a task, of a durable job or of an Idempotency-Key says.
type content struct {
	Task *storedTask `json:"task,omitempty"`
	Job  *storedTask `json:"job,omitempty"`
	Key  *storedKey  `json:"key,omitempty"`
}

// storedTask is a task as the replicas know it.
type storedTask struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Pool        string            `json:"pool,omitempty"`
	State       string            `json:"state"` // of tether.State, or stateLost
	Submitted   time.Time         `json:"submitted,omitzero"`
	Started     time.Time         `json:"started,omitzero"`
	Finished    time.Time         `json:"finished,omitzero"`
	Attempt     int               `json:"attempt,omitempty"`
	MaxAttempts int               `json:"max_attempts,omitempty"`
	NextAttempt time.Time         `json:"next_attempt,omitzero"`
	Progress    *progress         `json:"progress,omitempty"`
	Unique      string            `json:"unique,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Problem     *storedProblem    `json:"problem,omitempty"`
	Result      json.RawMessage   `json:"result,omitempty"`
	Answer      *storedAnswer     `json:"answer,omitempty"` // if it is neither the problem nor the result

	// Of a job.
	LastProblem *storedProblem `json:"last_problem,omitempty"` // of the last attempt, while another follows or runs
	Unseen      bool           `json:"unseen,omitempty"`       // it was canceled while it waited, and no worker has seen that
	Hidden      bool           `json:"hidden,omitempty"`       // a client has forgotten it, while it is Unseen
}

// storedProblem is a Problem with what its own JSON does not have.
type storedProblem struct {
	Problem
	RetryAfter time.Duration `json:"retry_after,omitempty"`
}

// storedAnswer is a recorded answer.
type storedAnswer struct {
	Abort   bool        `json:"abort,omitempty"` // it is the panic of http.ErrAbortHandler
	Status  int         `json:"status,omitempty"`
	Header  http.Header `json:"header,omitempty"`
	Trailer http.Header `json:"trailer,omitempty"`
	Body    []byte      `json:"body,omitempty"`
}

// stateLost is the state of a task whose replica is gone.
const stateLost = "lost"

// errNewer is the error of a record that this version of the package cannot read.
var errNewer = fmt.Errorf("%w: a newer version of the program has written this", ErrStoreUnavailable)

// decodeRecord returns what a record says.
func decodeRecord(r *store.Record) (*content, error) {
	if r.Version > recordVersion {
		return nil, errNewer
	}
	var c content
	if err := json.Unmarshal(r.Data, &c); err != nil {
		return nil, fmt.Errorf("%w: the record cannot be read: %w", ErrStoreUnavailable, err)
	}
	if c.Task == nil && c.Job == nil && c.Key == nil {
		return nil, fmt.Errorf("%w: the record is neither of a task, nor of a job, nor of a key", ErrStoreUnavailable)
	}
	return &c, nil
}

// encode returns the Data of a record. What it has is JSON already.
func (c *content) encode() []byte {
	data, err := json.Marshal(c)
	if err != nil {
		panic("tetherhttp: " + err.Error()) // cannot happen
	}
	return data
}

// lose makes it say that the replica is gone.
func (c *content) lose() {
	if t := c.Task; t != nil {
		t.State, t.Finished, t.NextAttempt = stateLost, time.Now().UTC(), time.Time{}
		for _, earlier := range []time.Time{t.Submitted, t.Started} { // by another clock
			if t.Finished.Before(earlier) {
				t.Finished = earlier
			}
		}
		t.Result, t.Answer, t.Problem = nil, nil, &storedProblem{Problem: *lostProblem()}
	}
	if t := c.Job; t != nil { // its queue delivers it again
		t.State, t.NextAttempt, t.Progress = tether.Queued.String(), time.Time{}, nil
		t.LastProblem = &storedProblem{Problem: *lostProblem()}
	}
	if c.Key != nil {
		c.Key.Lost = true
	}
}

func lostProblem() *Problem {
	return newProblem(ProblemTaskLost, "the process that did the work has ended; a part of it may have been done")
}

// storeInfo returns what is stored of a task that has not ended.
func storeInfo(id string, info *tether.Info) *storedTask {
	t := &storedTask{
		ID: id, Name: info.Name, Pool: info.Pool, State: info.State.String(),
		Submitted: info.Submitted.UTC(), Started: info.Started.UTC(), Finished: info.Finished.UTC(),
		Attempt: info.Attempt, MaxAttempts: info.MaxAttempts, NextAttempt: info.NextAttempt.UTC(),
		Unique: info.Unique, Labels: info.Labels,
	}
	if p := info.Progress; p != (tether.Progress{}) {
		t.Progress = &progress{p.Done, p.Total, p.Message}
	}
	return t
}

// encodeTask returns the Data of a task's record.
func (s *Store) encodeTask(id string, v valuer, info *tether.Info) []byte {
	content := func() (*content, *storedTask) {
		t := storeInfo(id, info)
		return &content{Task: t}, t
	}
	if !info.State.Final() {
		c, _ := content()
		return s.fit(c)
	}
	return s.encodeEnd(content, v, info)
}

// encodeEnd returns the Data of the record of a task or a job that has ended. content returns
// what there is without its outcome, another one with each call.
func (s *Store) encodeEnd(content func() (*content, *storedTask), v valuer, info *tether.Info) []byte {
	problem := func(kind, detail string) []byte {
		c, t := content() // the other one may still be written to
		t.Problem = &storedProblem{Problem: *newProblem(kind, detail)}
		return s.fit(c)
	}
	c, t := content()
	// What encodes the result is the program's code.
	err := bounded(func() error { return s.encodeOutcome(t, v, info) })
	var data []byte
	if err == nil {
		data = s.fit(c)
		if len(data) > s.maxRecord() {
			err = errTooMuch
		}
	}
	switch {
	case err == nil:
		return data
	case errors.Is(err, errTooMuch):
		s.log(slog.LevelError, "tetherhttp: the result of a task is too large for the store", "service", s.service, "task", info.Name, "id", info.ID, "most", s.cfg.MaxResult)
		return problem(ProblemResultTooLarge, "the work was done, but its result is too large to be kept")
	}
	s.log(slog.LevelError, "tetherhttp: the result of a task cannot be stored", "service", s.service, "task", info.Name, "id", info.ID, "error", err)
	return problem(ProblemFailed, "")
}

// maxRecord is the most bytes of a record: a body in base64, and the header of a usual answer.
func (s *Store) maxRecord() int { return 2*s.cfg.MaxResult + 64<<10 }

// fit encodes what is stored of a task or a job, without the message of its progress if that is too long.
func (s *Store) fit(c *content) []byte {
	data, t := c.encode(), cmp.Or(c.Task, c.Job)
	if p := t.Progress; p != nil && len(data) > s.maxRecord() {
		t.Progress = &progress{p.Done, p.Total, ""}
		data = c.encode()
	}
	return data
}

// encodeOutcome sets what is stored of the end of a task.
func (s *Store) encodeOutcome(t *storedTask, v valuer, info *tether.Info) error {
	now := viewOf(v, *info)
	if now.problem != nil {
		t.Problem = &storedProblem{*now.problem.shown(), now.problem.RetryAfter}
	}
	switch answer := now.answer.(type) {
	case *Problem:
		return nil
	case abort:
		t.Answer = &storedAnswer{Abort: true}
		return nil
	case jsonAnswer:
		body, err := encode(answer.value)
		switch {
		case err != nil:
			return err
		case len(body) > s.cfg.MaxResult:
			return errTooMuch
		}
		t.Result = body
		return nil
	case *recording:
		if answer.body.Len() > s.cfg.MaxResult {
			return errTooMuch
		}
		t.Answer = answer.store()
		return nil
	default:
		rec, err := render(now.answer, int64(s.cfg.MaxResult))
		if err != nil {
			return err
		}
		t.Answer = rec.store()
		return nil
	}
}

// outcomeTime limits how long the program's code may take to encode a result.
const outcomeTime = 30 * time.Second

// bounded calls f, and returns an error if it panics, ends the goroutine, or does not return.
// What f writes must then not be read.
func bounded(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("it has ended the goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
			done <- err
		}()
		err = f()
	}()
	late := time.NewTimer(outcomeTime)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("it has not returned after %v", outcomeTime)
	}
}

// render returns what h answers to a GET without headers.
func render(h http.Handler, most int64) (*recording, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	if err != nil {
		return nil, err
	}
	rec := &recording{header: make(http.Header), most: most}
	h.ServeHTTP(rec, r)
	rec.WriteHeader(http.StatusOK) // no effect if h has called it
	if rec.tooMuch {
		return nil, errTooMuch
	}
	return rec, nil
}

// store returns the recorded answer as it is stored.
func (rec *recording) store() *storedAnswer {
	a := &storedAnswer{Status: rec.status, Header: rec.sent, Body: rec.body.Bytes()}
	for name, values := range rec.header {
		if _, early := rec.sent[name]; !early {
			if a.Trailer == nil {
				a.Trailer = make(http.Header)
			}
			a.Trailer[name] = values
		}
	}
	return a
}

// recording returns the answer as AsyncHandler records it.
func (a *storedAnswer) recording() *recording {
	rec := &recording{header: make(http.Header), sent: make(http.Header), status: a.Status}
	maps.Copy(rec.sent, a.Header)
	maps.Copy(rec.header, a.Header)
	for name, values := range a.Trailer {
		rec.header[name] = values
	}
	rec.body.Write(a.Body)
	return rec
}

// view returns what can be shown of the task.
func (t *storedTask) view() *taskView {
	s := &taskView{lost: t.State == stateLost, info: tether.Info{
		ID: t.ID, Name: t.Name, Pool: t.Pool, Submitted: t.Submitted, Started: t.Started, Finished: t.Finished,
		Attempt: t.Attempt, MaxAttempts: t.MaxAttempts, NextAttempt: t.NextAttempt, Unique: t.Unique, Labels: t.Labels,
	}}
	if p := t.Progress; p != nil {
		s.info.Progress = tether.Progress{Done: p.Done, Total: p.Total, Message: p.Message}
	}
	if p := t.LastProblem; p != nil {
		s.last = &p.Problem
		s.info.LastErr = s.last
	}
	s.info.State = tether.Failed // of a lost task
	for state := tether.Held; state <= tether.Dropped; state++ {
		if state.String() == t.State {
			s.info.State = state
		}
	}
	if !s.done() {
		return s
	}
	s.info.NextAttempt = time.Time{}
	if p := t.Problem; p != nil {
		s.problem = &p.Problem
		s.problem.RetryAfter = p.RetryAfter
		s.answer = s.problem
		if s.info.State != tether.Succeeded {
			s.info.Err = s.problem
		}
	}
	switch {
	case t.Answer != nil && t.Answer.Abort:
		s.answer = abort{}
	case t.Answer != nil:
		s.answer = t.Answer.recording()
	case t.Problem == nil:
		if string(t.Result) != "null" && t.Result != nil {
			s.result = t.Result
		}
		s.answer = jsonAnswer{t.Result}
	}
	return s
}
