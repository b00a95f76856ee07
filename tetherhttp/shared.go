package tetherhttp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// sharedTask is a task in the store, as it was read.
type sharedTask struct {
	s       *Store
	record  *store.Record
	job     *storedTask // nil if it is not a durable job
	shown   *taskView
	removed bool // it was found to be there no more
}

// find returns the task with an ID. The error is a [*Problem] if there is none.
func (s *Store) find(ctx context.Context, id string) (*sharedTask, error) {
	if !isID(id) || !s.made(id) {
		return nil, newProblem(ProblemTaskUnknown, "there is no such task")
	}
	r, err := s.read(ctx, s.taskKey(id))
	if err != nil {
		return nil, err
	}
	t := &sharedTask{s: s}
	if err := t.note(r); err != nil {
		return nil, err
	}
	return t, nil
}

// note records what was read.
func (t *sharedTask) note(r *store.Record) error {
	if r == nil {
		return newProblem(ProblemTaskForgotten, "this task has ended and is no longer retained")
	}
	c, err := decodeRecord(r)
	if err != nil {
		return err
	}
	switch {
	case c.Task != nil:
		t.record, t.job, t.shown = r, nil, c.Task.view()
	case c.Job == nil:
		return fmt.Errorf("%w: the record is not of a task", ErrStoreUnavailable)
	case c.Job.Hidden:
		return newProblem(ProblemTaskForgotten, "this task has ended and is no longer retained")
	default:
		t.record, t.job, t.shown = r, c.Job, c.Job.view()
		t.shown.job = true
	}
	return nil
}

func (t *sharedTask) now() *taskView { return t.shown }

func (t *sharedTask) gone() bool { return t.removed }

func (t *sharedTask) watch(ctx context.Context) iter.Seq[*taskView] {
	return func(yield func(*taskView) bool) {
		if !yield(t.shown) || t.shown.done() {
			return
		}
		for r := range t.s.changes(ctx, t.record) {
			if t.note(r) != nil || !yield(t.shown) || t.shown.done() {
				return
			}
		}
		t.removed = ctx.Err() == nil
	}
}

func (t *sharedTask) remove(ctx context.Context) (live *taskView, err error) {
	var ended bool
	there, err := t.change(ctx, func() error {
		switch ended = t.shown.done(); {
		case ended && t.job != nil && t.job.Unseen:
			return t.hide(ctx)
		case ended:
			return t.s.delete(ctx, t.record.Key, t.record.Tag)
		}
		return t.cancel(ctx)
	})
	if err != nil || ended || !there {
		return nil, err
	}
	return t.shown, nil
}

// change calls f until it meets the record as it is. It reports false if the record is gone,
// which another request has forgotten.
func (t *sharedTask) change(ctx context.Context, f func() error) (there bool, err error) {
	for range writeTries {
		if err := f(); !errors.Is(err, store.ErrConflict) {
			return true, err
		}
		r, err := t.s.read(ctx, t.record.Key)
		if err != nil || r == nil {
			return false, err
		}
		if err := t.note(r); err != nil {
			return true, err
		}
	}
	return true, fmt.Errorf("%w: the task changes all the time", ErrStoreUnavailable)
}

// cancel cancels a job that waits, or asks the task's replica to cancel it.
func (t *sharedTask) cancel(ctx context.Context) error {
	if t.job != nil {
		return t.cancelJob(ctx)
	}
	t.s.mu.Lock()
	p := t.s.local[t.record.Key]
	t.s.mu.Unlock()
	if p != nil {
		p.cancelTask(ErrCanceled)
		return nil
	}
	if t.record.Asked {
		return nil
	}
	r := *t.record
	r.Tag, r.Asked, r.Orphaned, r.Keep = nextTag(r.Tag), true, false, t.s.cfg.RetainFor // its replica renews it
	return t.s.swap(ctx, t.record.Tag, r)
}

// storedKey is an Idempotency-Key as the replicas know it.
type storedKey struct {
	Print string `json:"print"`          // of the request
	Task  string `json:"task,omitempty"` // the ID of its task; empty while the first request is being served
	Lost  bool   `json:"lost,omitempty"` // the replica of the first request is gone
}

// claim is this process's record of a key that a request has used first.
type claim struct {
	s    *Store
	key  string
	says storedKey
	keep time.Duration

	task    chan *publication // receives the task, or nil if there will be none; of one element
	settled chan struct{}     // closed when the record says which task it is, or never will

	out writer // of the goroutine of run
}

// claim makes the record of a key, or returns the one that there is.
func (s *Store) claim(ctx context.Context, u *use) (*claim, *store.Record, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, nil, errStoreClosed
	}
	s.writers.Add(1)
	s.mu.Unlock()
	c := &claim{
		s: s, key: s.service + "/key/" + hex.EncodeToString(u.id[:]), says: storedKey{Print: hex.EncodeToString(u.print[:])},
		keep: u.of.cfg.RetainFor, task: make(chan *publication, 1), settled: make(chan struct{}), out: writer{s: s},
	}
	there, err := c.make(ctx)
	if err != nil || there != nil {
		s.writers.Done()
		return nil, there, err
	}
	go c.run()
	return c, nil, nil
}

// make stores the record, unless there is one, which it returns. If it returns neither a record
// nor an error, the store's lease is renewed until disown is called.
func (c *claim) make(ctx context.Context) (*store.Record, error) {
	for range writeTries {
		if err := c.s.own(ctx); err != nil {
			return nil, err
		}
		r := c.record(c.s.owner)
		r.Tag = nextTag("")
		err := c.s.swap(context.WithoutCancel(ctx), "", r)
		if err == nil {
			c.out.note(&r)
			return nil, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			go c.s.undo(r.Key, r.Tag) // it may have been stored
			c.s.disown()
			return nil, err
		}
		there, err := c.s.read(ctx, c.key)
		if err == nil && there != nil && there.Tag == r.Tag { // the backend has tried twice
			c.out.note(there)
			return nil, nil
		}
		c.s.disown()
		if there != nil || err != nil {
			return there, err
		}
	}
	return nil, fmt.Errorf("%w: it reports a conflict each time", ErrStoreUnavailable)
}

func (c *claim) record(owner string) store.Record {
	return store.Record{Key: c.key, Owner: owner, Version: recordVersion, Data: (&content{Key: &c.says}).encode(), Keep: c.keep}
}

// undo deletes a record, if it was stored. Until that succeeds, the key cannot be used.
func (s *Store) undo(key, tag string) {
	for wait := firstWait; wait < undoTime; wait *= 2 {
		if err := s.delete(s.closing, key, tag); err == nil || errors.Is(err, store.ErrConflict) {
			return
		}
		select {
		case <-time.After(wait):
		case <-s.closing.Done():
			return
		}
	}
}

const undoTime = time.Minute

// settle tells the claim its task, and waits until both are stored, or for as long as a request
// may wait for the store.
func (c *claim) settle(p *publication) {
	c.task <- p
	late := time.NewTimer(c.s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-c.settled:
	case <-late.C:
	}
}

// release says that the request was refused: the key is not used.
func (c *claim) release() { c.task <- nil }

// run keeps the record while the request is served, and then while the task runs.
func (c *claim) run() {
	defer c.s.writers.Done()
	p := c.serve()
	close(c.settled)
	c.s.disown()
	if p == nil {
		return
	}
	for again := time.NewTicker(c.keep/2 + 1); ; {
		select {
		case <-again.C:
			_, _ = c.out.put(c.s.closing, c.record("")) // the next one tries again
		case <-p.ended:
			again.Stop()
			return
		case <-c.s.leaving:
			again.Stop()
			return
		}
	}
}

// serve keeps the record until it says which task it is for, and returns that. It returns nil if
// there is nothing more to write.
func (c *claim) serve() *publication {
	p, ok := c.served()
	switch {
	case !ok:
		return nil
	case p == nil:
		c.s.undo(c.key, c.out.tag)
		return nil
	}
	<-p.stored
	if p.job == nil && p.view() == nil { // it could not be stored before the process left
		return nil
	}
	c.says.Task = p.id
	if !c.persist() {
		return nil
	}
	return p
}

// served waits for the request's task. It reports false if the process leaves first.
func (c *claim) served() (*publication, bool) {
	again := time.NewTicker(c.keep/2 + 1)
	defer again.Stop()
	for {
		select {
		case p := <-c.task:
			return p, true
		case <-c.s.leaving:
			return nil, false
		case <-again.C:
			_, _ = c.out.put(c.s.closing, c.record(c.s.owner)) // the next one tries again
		}
	}
}

// persist stores which task the key is for. It reports whether that was done.
func (c *claim) persist() bool {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		_, err := c.out.put(c.s.closing, c.record(""))
		if err == nil {
			return true
		}
		if !errors.Is(err, ErrStoreUnavailable) {
			return false
		}
		select {
		case <-time.After(wait):
		case <-c.s.closing.Done():
			return false
		}
	}
}

// answerOnce answers a request with a key that all replicas share. first answers the first one.
func (a *async) answerOnce(client *client, w http.ResponseWriter, r *http.Request, use *use, first func(*claim)) {
	for {
		c, there, err := a.store.claim(client, use)
		switch {
		case client.gone() && err != nil:
			err = ErrClientGone
		case err == nil && c != nil:
			first(c)
			return
		case err == nil:
			var again bool
			if again, err = a.repeat(client, w, r, use, there); again && err == nil {
				continue
			}
			if err == nil {
				return
			}
		}
		if errors.Is(err, ErrStoreUnavailable) {
			logf(r, "tetherhttp: %s %q was not run: %v", r.Method, r.URL.Path, err)
		}
		answerTo(err).ServeHTTP(w, r)
		return
	}
}

// once returns a finder that releases the claim if the request is refused.
func (c *claim) once(find finder) finder {
	return func() (t *handle, isNew bool, err error) {
		defer func() { // deferred, because an observer may end the goroutine
			if t == nil {
				c.release()
			}
		}()
		return find()
	}
}

// repeat answers a request whose key was used before. It reports whether the key must be looked
// at again instead.
func (a *async) repeat(client *client, w http.ResponseWriter, r *http.Request, use *use, there *store.Record) (again bool, err error) {
	says, err := decodeRecord(there)
	if err != nil {
		return false, err
	}
	key := says.Key
	switch {
	case key == nil:
		return false, fmt.Errorf("%w: the record is not of a key", ErrStoreUnavailable)
	case key.Print != hex.EncodeToString(use.print[:]):
		return false, newProblem(ProblemKeyReused, "this Idempotency-Key was used for another request; use a new key for a new request")
	case key.Lost:
		w.Header().Set("Idempotency-Replayed", "true")
		lostProblem().ServeHTTP(w, r)
		return false, nil
	case key.Task == "" && !a.keys.cfg.Join:
		return false, newProblem(ProblemKeyInUse, "the first request with this Idempotency-Key is being served").after(time.Second)
	case key.Task == "":
		defer suspendWriteTimeout(w, r)()
		for range a.store.changes(client, there) {
			return true, nil
		}
		if client.Err() != nil {
			return false, ErrClientGone
		}
		return true, nil
	}
	first, err := a.store.find(client, key.Task)
	if err != nil {
		return false, err
	}
	if first.shown.info.State == tether.Dropped { // it has never run: the key was not consumed
		err := a.store.delete(client, there.Key, there.Tag)
		if errors.Is(err, store.ErrConflict) {
			err = nil // another repetition was faster
		}
		return true, err
	}
	a.replay(client, w, r, first)
	return false, nil
}

// replay answers with what the task of another request is, or has become.
func (a *async) replay(client context.Context, w http.ResponseWriter, r *http.Request, t *sharedTask) {
	w.Header().Set("Idempotency-Replayed", "true")
	resume := suspendWriteTimeout(w, r)
	prefer := parsePrefer(r.Header)
	d, granted := a.waitFor(prefer)
	ctx, cancel := context.WithTimeout(client, d)
	defer cancel()
	now := t.now()
	for now = range t.watch(ctx) {
	}
	resume()
	if !now.done() || a.always202 {
		a.accept(w, r, now, granted, prefer.async)
		return
	}
	applied(w, granted, false)
	now.answer.ServeHTTP(w, r)
}
