package tetherhttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// The record of a job has a worker's process as its owner while an attempt is made, and no owner
// while the job waits. So a waiting job is canceled by a swap of its record, and a worker learns
// of it by its own swap, before it begins: one of the two comes first. If the owner is gone,
// the job waits again: the queue decides when it is delivered, and to which worker.

// keepJob is how long the record of a job that has not ended is kept without a change.
const keepJob = 30 * 24 * time.Hour

// lenJobID is the length of the ID that package durable gives to a job.
const lenJobID = 26

// endTime bounds the wait of a worker for the status of a job that has ended.
const endTime = 10 * time.Second

// tracker is the Tracker of a Store.
type tracker struct{ s *Store }

// Tracker returns what keeps the status of durable jobs in the store, for the option Tracked and
// the WorkerConfig of package durable. See [AsyncJob].
func (s *Store) Tracker() store.Tracker { return tracker{s} }

func (t tracker) Service() string { return t.s.service }

func (t tracker) Backend() store.Backend { return t.s.backend }

// Record implements [store.Tracker].
func (t tracker) Record(j store.Job) (store.Record, error) {
	if !isTaskID(j.ID) {
		return store.Record{}, fmt.Errorf("tetherhttp: a job with the ID %q cannot be tracked", j.ID)
	}
	id := t.s.taskID(j.ID)
	c := content{Job: storeJob(id, j)}
	c.Job.State, c.Job.NextAttempt = tether.Queued.String(), j.RunAt.UTC()
	return store.Record{Key: t.s.taskKey(id), Tag: firstTag(j), Version: recordVersion, Data: c.encode(), Keep: keepUntil(j.RunAt)}, nil
}

// firstTag returns the tag of the record of a job that was not delivered yet. A worker knows it
// without reading the record.
func firstTag(j store.Job) string { return "1-" + j.ID }

// keepUntil returns how long to keep the record of a job that waits until then.
func keepUntil(t time.Time) time.Duration { return keepJob + max(0, time.Until(t)) }

// storeJob returns what is stored of a job whatever its state.
func storeJob(id string, j store.Job) *storedTask {
	return &storedTask{
		ID: id, Name: j.Name, Submitted: j.Enqueued.UTC(), Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Labels: maps.Clone(j.Labels),
	}
}

// Add implements [store.Tracker].
func (t tracker) Add(ctx context.Context, j store.Job) error {
	r, err := t.Record(j)
	if err != nil {
		return err
	}
	if t.s.isClosed() {
		return errStoreClosed
	}
	switch err = t.s.swap(ctx, "", r); {
	case errors.Is(err, store.ErrConflict):
		return nil // the backend has tried twice: no other job has this ID
	case err != nil:
		go t.s.undo(r.Key, r.Tag) // it may have been stored
	}
	return err
}

// Remove implements [store.Tracker].
func (t tracker) Remove(ctx context.Context, j store.Job) {
	if r, err := t.Record(j); err == nil {
		if err := t.s.delete(context.WithoutCancel(ctx), r.Key, r.Tag); err != nil && !errors.Is(err, store.ErrConflict) {
			go t.s.undo(r.Key, r.Tag)
		}
	}
}

// Begin implements [store.Tracker].
func (t tracker) Begin(ctx context.Context, j store.Job, task *tether.Task) (store.Attempt, error) {
	a, err := t.start(j, task, nil)
	if err != nil {
		return nil, err
	}
	late := time.NewTimer(t.s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-a.p.stored:
	case <-late.C:
	case <-ctx.Done():
	}
	if err := a.refusal(); err != nil {
		return nil, err
	}
	return a, nil
}

// start begins to store an attempt, or what has become of the job without one.
func (t tracker) start(j store.Job, task *tether.Task, end *store.End) (*attempt, error) {
	if !isTaskID(j.ID) {
		return nil, fmt.Errorf("tetherhttp: a job with the ID %q cannot be tracked", j.ID)
	}
	s, id := t.s, t.s.taskID(j.ID)
	a := &attempt{job: j, over: make(chan struct{})}
	if end != nil {
		a.end = *end
		close(a.over)
	}
	p := &publication{
		s: s, task: task, id: id, key: s.taskKey(id), keep: keepJob, job: a,
		stored: make(chan struct{}), ended: make(chan struct{}),
	}
	a.p = p
	p.out = writer{s: s, asked: func() { p.cancelTask(ErrCanceled) }, judge: a.judge}
	if j.Attempt <= 1 {
		p.out.tag = firstTag(j)
	} else {
		a.look = true
	}
	p.givenUp, p.giveUp = context.WithCancel(context.Background())
	p.left, p.leave = context.WithCancel(p.givenUp)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		p.giveUp()
		return nil, errStoreClosed
	}
	s.local[p.key] = p // in place of that of an attempt that has lost the job, if there is one
	s.writers.Add(1)
	s.mu.Unlock()
	go p.run()
	return a, nil
}

// Settle implements [store.Tracker].
func (t tracker) Settle(ctx context.Context, j store.Job, end store.End) error {
	a, err := t.start(j, nil, &end)
	if err != nil {
		return err
	}
	return a.stored(ctx)
}

// attempt is an attempt at a durable job that this process makes.
type attempt struct {
	p    *publication
	job  store.Job
	look bool // what is stored has not been read, and its tag is not known; of the goroutine of p.run

	over chan struct{} // closed by End
	end  store.End     // written before over is closed

	mu      sync.Mutex
	begun   bool  // the attempt has been stored; guarded by mu
	refused error // why the attempt must not be made; guarded by mu
}

// errAsked is the error of a write that would lose the request to cancel the job.
var errAsked = errors.New("tetherhttp: the job is to be canceled")

// errNotOurs is the error of a job that another worker has been given.
var errNotOurs = errors.New("tetherhttp: the job was given to another worker")

// judge returns why r must not replace the record that is there.
func (a *attempt) judge(there *store.Record, r store.Record) error {
	c, err := decodeRecord(there)
	if err != nil {
		return err
	}
	t := c.Job
	if t == nil {
		return fmt.Errorf("%w: the record is not of a job", ErrStoreUnavailable)
	}
	a.mu.Lock()
	begun := a.begun
	a.mu.Unlock()
	final := there.Owner == "" && t.State != tether.Queued.String()
	revived := a.job.Revived && !begun
	a.p.s.mu.Lock()
	replaced := a.p.s.local[a.p.key] != a.p
	a.p.s.mu.Unlock()
	switch {
	case t.State == tether.Canceled.String() && !revived:
		return store.ErrCanceled
	case t.State == tether.Succeeded.String() && !revived:
		return store.ErrDone
	case final && !begun && !replaced: // it was dead, and the queue delivers it all the same
	case replaced, t.Attempt > a.job.Attempt, begun && final,
		begun && there.Owner != "" && there.Owner != a.p.s.owner:
		return errNotOurs
	case there.Asked && r.Owner == "":
		return errAsked
	}
	return nil
}

// refusal returns why the attempt must not be made.
func (a *attempt) refusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

func (a *attempt) hasEnded() bool {
	select {
	case <-a.over:
		return true
	default:
		return false
	}
}

// await waits until the attempt has ended, or ctx is done.
func (a *attempt) await(ctx context.Context) {
	select {
	case <-a.over:
	case <-ctx.Done():
	}
}

// End implements [store.Attempt].
func (a *attempt) End(ctx context.Context, end store.End) error {
	a.end = end
	close(a.over)
	a.p.s.mu.Lock()
	a.p.rewrite()
	a.p.s.mu.Unlock()
	return a.stored(ctx)
}

// stored waits until the end of the attempt is stored.
func (a *attempt) stored(ctx context.Context) error {
	late := time.NewTimer(endTime)
	defer late.Stop()
	select {
	case <-a.p.ended:
		return nil
	case <-ctx.Done():
		return nil
	case <-late.C:
		return fmt.Errorf("%w: the status of a job is not stored yet", ErrStoreUnavailable)
	}
}

// writeJob stores the job as info says, or as it has become if the attempt has ended. If neither
// is the case, the process leaves.
func (p *publication) writeJob(info *tether.Info) (done bool, err error) {
	a := p.job
	if a.look {
		there, err := p.s.get(p.s.closing, p.key)
		if err != nil {
			return false, err
		}
		if p.out.none = there == nil; there != nil {
			p.out.tag = there.Tag
			if err := a.judge(there, store.Record{Owner: p.s.owner}); err != nil {
				return p.refuse(there, err)
			}
		}
		a.look = false
	}
	r := store.Record{Key: p.key, Version: recordVersion}
	if done = info == nil; !done && !p.owns {
		if err := p.s.own(p.s.closing); err != nil {
			return false, err
		}
		p.owns = true
	}
	if done {
		r.Data, r.Keep = a.encodeEnd(false)
	} else {
		r.Owner, r.Keep = p.s.owner, keepJob
		r.Data = p.s.fit(&content{Job: a.running(info)})
	}
	stored, err := p.out.put(p.s.closing, r)
	if errors.Is(err, errAsked) {
		r.Data, r.Keep = a.encodeEnd(true)
		p.out.judge = nil // the owner is still this process
		stored, err = p.out.put(p.s.closing, r)
		p.out.judge = a.judge
	}
	if err != nil {
		return p.refuse(nil, err)
	}
	p.s.mu.Lock()
	p.last = stored
	p.s.mu.Unlock()
	a.mu.Lock()
	a.begun = true
	a.mu.Unlock()
	p.markStored()
	return done, nil
}

// refuse decides on a write that has failed with err. there is the record if it was read.
func (p *publication) refuse(there *store.Record, err error) (done bool, _ error) {
	a := p.job
	canceled, isDone := errors.Is(err, store.ErrCanceled), errors.Is(err, store.ErrDone)
	switch {
	case canceled, isDone, errors.Is(err, errNotOurs), errors.Is(err, errDeclaredLost):
	default:
		return false, err
	}
	a.mu.Lock()
	begun := a.begun
	if canceled || isDone {
		a.refused = err
	}
	a.mu.Unlock()
	switch {
	case canceled:
		p.cancelTask(ErrCanceled) // it may have begun while the store was away
		p.s.seen(p.s.closing, p.key, there)
	case !isDone || begun:
		p.s.log(slog.LevelWarn, "tetherhttp: the status of a job is no longer kept by this worker", "service", p.s.service, "job", a.job.Name, "id", a.job.ID, "error", err)
	}
	return true, nil
}

// seen notes in the record of a canceled job that a worker has seen the cancellation. It fails if the store
// does; the record is then kept longer.
func (s *Store) seen(ctx context.Context, key string, there *store.Record) {
	if there == nil {
		var err error
		if there, err = s.get(ctx, key); there == nil || err != nil {
			return
		}
	}
	c, err := decodeRecord(there)
	if err != nil || c.Job == nil || !c.Job.Unseen {
		return
	}
	c.Job.Unseen = false
	r := *there
	r.Tag, r.Data, r.Keep = nextTag(there.Tag), c.encode(), s.cfg.RetainFor
	if s.swap(ctx, there.Tag, r) == nil {
		s.deliver(&r)
	}
}

// running returns what is stored of the attempt while it is made.
func (a *attempt) running(info *tether.Info) *storedTask {
	t := storeJob(a.p.id, a.job)
	if info == nil {
		return t
	}
	t.State, t.Pool, t.Started = tether.Running.String(), info.Pool, info.Started.UTC()
	if p := info.Progress; p != (tether.Progress{}) {
		t.Progress = &progress{p.Done, p.Total, p.Message}
	}
	return t
}

// encodeEnd returns what is stored of the attempt's end, and how long. If it is to be canceled, it
// is, unless no attempt would follow anyway.
func (a *attempt) encodeEnd(cancel bool) ([]byte, time.Duration) {
	end, s := store.End{State: tether.Queued, Err: ErrLost}, a.p.s // the process leaves
	if a.hasEnded() {
		end = a.end
	}
	t := a.running(nil)
	if !end.State.Final() {
		t.State, t.NextAttempt = tether.Queued.String(), end.NextAttempt.UTC()
		if end.Err != nil {
			err := bounded(func() error { // its methods are the program's code
				t.LastProblem = &storedProblem{Problem: *ProblemOf(end.Err).shown()}
				return nil
			})
			if err != nil {
				t = a.running(nil)
				t.State, t.NextAttempt = tether.Queued.String(), end.NextAttempt.UTC()
				t.LastProblem = &storedProblem{Problem: *newProblem(ProblemFailed, "")}
			}
		}
		if cancel {
			t.cancel()
		}
		return (&content{Job: t}).encode(), keepUntil(end.NextAttempt)
	}
	info := tether.Info{ID: a.job.ID, Name: a.job.Name, Finished: time.Now()}
	if a.p.task != nil {
		info = a.p.task.Info()
		info.ID, info.Finished = a.job.ID, cmp.Or(info.Finished, time.Now())
	}
	info.State, info.Err = end.State, end.Err
	if info.State == tether.Succeeded {
		info.Err = nil
	}
	return s.encodeEnd(func() (*content, *storedTask) {
		t := a.running(&info)
		t.State, t.Finished = info.State.String(), info.Finished.UTC()
		return &content{Job: t}, t
	}, jobValue{end.Value}, &info), s.cfg.RetainFor
}

type jobValue struct{ value any }

func (v jobValue) Value() any { return v.value }

// cancel makes a job that waits one that was canceled.
func (t *storedTask) cancel() {
	// NextAttempt says until when the record is needed.
	t.State, t.Finished, t.LastProblem, t.Unseen = tether.Canceled.String(), time.Now().UTC(), nil, true
	t.Problem = &storedProblem{Problem: *ProblemOf(ErrCanceled)}
}

// orphaned returns the Data of the record of a job that waits again because its owner is gone. If
// the owner was asked to cancel it, it is canceled.
func (t *storedTask) orphaned(asked bool) []byte {
	if asked {
		t.cancel()
	}
	return (&content{Job: t}).encode()
}

// cancelJob cancels a job that waits, or asks the process that is at work on it to cancel it.
func (t *sharedTask) cancelJob(ctx context.Context) error {
	r := *t.record
	r.Tag, r.Orphaned = nextTag(r.Tag), false
	if r.Owner == "" {
		job := *t.job
		job.cancel()
		r.Data, r.Keep = (&content{Job: &job}).encode(), keepUntil(t.job.NextAttempt)
	} else {
		r.Asked, r.Keep = true, keepJob // its worker renews it
	}
	if r.Owner == "" || !t.record.Asked {
		err := t.s.swap(ctx, t.record.Tag, r)
		if errors.Is(err, store.ErrConflict) {
			if there, _ := t.s.get(ctx, r.Key); there != nil && there.Tag == r.Tag {
				err = nil // the backend has tried twice
			}
		}
		if err != nil {
			return err
		}
		t.s.deliver(&r)
	}
	t.s.mu.Lock()
	p := t.s.local[r.Key]
	t.s.mu.Unlock()
	if p != nil && r.Owner != "" {
		p.cancelTask(ErrCanceled)
	}
	return t.note(&r)
}

// hide makes a job that was canceled one that is not known any more. Its record is still there,
// for the worker that will be given the job.
func (t *sharedTask) hide(ctx context.Context) error {
	r, job := *t.record, *t.job
	job.Hidden = true
	r.Tag, r.Data, r.Keep = nextTag(r.Tag), (&content{Job: &job}).encode(), keepUntil(job.NextAttempt)
	return t.s.swap(ctx, t.record.Tag, r)
}
