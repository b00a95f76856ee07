package tetherhttp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// publication is a task of this process that is kept in the store.
type publication struct {
	s       *Store
	task    *tether.Task
	value   valuer
	id, key string
	keep    time.Duration // after the end

	stored chan struct{} // closed when it has been stored once, or will not be
	ended  chan struct{} // closed when nothing more is written

	left     context.Context // done when the process leaves, or the publication was given up
	leave    context.CancelFunc
	canceled sync.Once

	asked bool               // the task was asked to be canceled; guarded by Store.mu
	again context.CancelFunc // makes run write the task, though it has not changed; guarded by Store.mu
	last  *store.Record      // as it was stored last, nil if never; guarded by Store.mu

	givenUp context.Context // done when the request that asked for it does not want it any more
	giveUp  context.CancelFunc

	owns bool // the store's lease is renewed for it; of the goroutine of run
	out  writer

	job *attempt // nil if it is no attempt at a durable job
}

// writer writes a record of this process. It is used by one goroutine.
type writer struct {
	s     *Store
	tag   string   // what the record has in the store, or had
	none  bool     // there is no record with it
	tried []string // tags of writes since then, of which it is not known whether they were made
	asked func()   // called if the owner is asked to cancel

	// judge, if non-nil, returns why r must not replace what is there, in place of the rule that
	// only the owner may replace it.
	judge func(there *store.Record, r store.Record) error
}

// errDeclaredLost is the error of a record that another replica has declared lost.
var errDeclaredLost = errors.New("tetherhttp: the record was given up by another replica")

// put stores r in place of what there is, with a new tag, and returns it as it is stored.
func (w *writer) put(ctx context.Context, r store.Record) (*store.Record, error) {
	r.Tag = nextTag(w.tag)
	for range writeTries {
		was := w.tag
		if w.none {
			was = ""
		}
		w.tried = append(w.tried, r.Tag)
		err := w.s.swap(ctx, was, r)
		if err == nil {
			return w.note(&r), nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
		now, err := w.s.get(ctx, r.Key)
		switch {
		case err != nil:
			return nil, err
		case now == nil: // the store has lost it
			w.none = true
		case now.Tag == r.Tag || now.Owner == "" && slices.Contains(w.tried, now.Tag):
			return w.note(now), nil // an earlier try was made, though its answer was an error
		case w.judge == nil && now.Owner != w.s.owner:
			w.s.deliver(now)
			return nil, errDeclaredLost
		default: // it is asked to be canceled, or an earlier try was made
			if w.judge != nil {
				if err := w.judge(now, r); err != nil {
					if errors.Is(err, errAsked) {
						w.tag, w.none = now.Tag, false // r may be replaced by another one
					}
					return nil, err
				}
			}
			w.tag, w.none, r.Tag, r.Asked = now.Tag, false, nextTag(now.Tag), now.Asked && r.Owner != ""
			if now.Asked && w.asked != nil {
				w.asked()
			}
		}
	}
	return nil, fmt.Errorf("%w: it reports a conflict each time", ErrStoreUnavailable)
}

const writeTries = 10

// note records what is stored now.
func (w *writer) note(r *store.Record) *store.Record {
	w.tag, w.none, w.tried = r.Tag, false, nil
	w.s.deliver(r)
	return r
}

// tags are ordered, for readers: the second of two records with one key is the newer one.

// nextTag returns a tag for the record that replaces one with the tag was.
func nextTag(was string) string {
	return strconv.FormatInt(tagOrder(was)+1, 10) + "-" + rand.Text()
}

func tagOrder(tag string) int64 {
	number, _, _ := strings.Cut(tag, "-")
	n, _ := strconv.ParseInt(number, 10, 64) // zero if it is empty
	return n
}

// publish stores a task, and keeps it up to date in the store from then on. It returns when the
// task has been stored, or could not be stored in time. The publication then goes on if must is
// set, or ends. keep is how long the task is at least kept after its end.
func (s *Store) publish(t *handle, keep time.Duration, must bool) (*publication, error) {
	id := s.taskID(t.ID())
	key := s.taskKey(id)
	s.mu.Lock()
	p := s.local[key]
	switch {
	case p != nil: // requests share a task with a Unique key
	case s.closed:
		s.mu.Unlock()
		return nil, errStoreClosed
	default:
		p = &publication{
			s: s, task: t.Task, value: t, id: id, key: key, keep: max(keep, s.cfg.RetainFor),
			stored: make(chan struct{}), ended: make(chan struct{}),
		}
		p.out = writer{s: s, none: true, asked: func() { p.cancelTask(ErrCanceled) }}
		p.givenUp, p.giveUp = context.WithCancel(context.Background())
		p.left, p.leave = context.WithCancel(p.givenUp)
		s.local[key] = p
		s.writers.Add(1)
		go p.run()
	}
	s.mu.Unlock()
	late := time.NewTimer(s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-p.stored:
	case <-late.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.last != nil {
		return p, nil
	}
	if !must {
		p.giveUp()
	}
	return p, fmt.Errorf("%w: a task could not be stored", ErrStoreUnavailable)
}

// view returns what was stored last, nil if nothing was.
func (p *publication) view() *taskView {
	p.s.mu.Lock()
	last := p.last
	p.s.mu.Unlock()
	if last == nil {
		return nil
	}
	c, err := decodeRecord(last)
	if err != nil || c.Task == nil {
		return nil // cannot happen: this process has written it
	}
	return c.Task.view()
}

// rewrite makes run write the task again. The caller has the lock.
func (p *publication) rewrite() {
	if p.again != nil {
		p.again()
	}
}

// keepAsked makes run write the record that asks the task to be canceled: the request that has
// stored it does not know for how long it is to be kept. The caller has the lock.
func (p *publication) keepAsked() {
	if !p.asked && p.job == nil { // the record of a job is kept for long anyway
		p.asked = true
		p.rewrite()
	}
}

// cancelTask cancels the task. It does not wait for what an observer does then.
func (p *publication) cancelTask(cause error) {
	if p.task == nil {
		return // there is no attempt
	}
	p.canceled.Do(func() { go p.task.Cancel(cause) })
}

// run writes the task at each change until it has ended.
func (p *publication) run() {
	defer func() {
		if p.owns {
			p.s.disown()
		}
		p.s.mu.Lock()
		if p.s.local[p.key] == p {
			delete(p.s.local, p.key)
		}
		p.s.mu.Unlock()
		p.giveUp() // releases the contexts
		p.markStored()
		close(p.ended)
		p.s.writers.Done()
	}()
	wait := firstWait
	for {
		done, err := p.follow()
		if done {
			return
		}
		if err == nil {
			wait = firstWait
			continue
		}
		select {
		case <-time.After(wait):
		case <-p.givenUp.Done():
			return
		case <-p.s.closing.Done():
			return
		}
		wait = min(2*wait, longestWait)
	}
}

// The wait between two tries to reach the store.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = 2 * time.Second
)

// follow writes the task as it is, and at each change. It reports whether there is nothing more
// to write. Otherwise it returns the error of the store, or nil when the task should be written
// again to keep the record from expiring.
func (p *publication) follow() (done bool, err error) {
	ctx, cancel := context.WithTimeout(p.left, p.keep/2)
	defer cancel()
	p.s.mu.Lock()
	p.again = cancel
	p.s.mu.Unlock()
	if p.job != nil && p.job.hasEnded() {
		return p.write(nil)
	}
	for info := range p.task.Watch(ctx) {
		if p.isGivenUp() {
			return true, nil
		}
		if p.job != nil && info.State.Final() {
			p.job.await(ctx) // it decides what becomes of the job
			break
		}
		began := time.Now()
		if done, err := p.write(&info); done || err != nil {
			return done, err
		}
		if info.Progress != (tether.Progress{}) {
			// A store that is slow is given less to do.
			select {
			case <-time.After(min(max(writePace, 4*time.Since(began)), slowestPace)):
			case <-ctx.Done():
			}
		}
	}
	switch {
	case p.isGivenUp():
		return true, nil
	case p.left.Err() != nil:
		return p.write(nil)
	}
	return false, nil
}

func (p *publication) isGivenUp() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.givenUp.Err() != nil && p.last == nil
}

// write stores the task as info says, or as lost if info is nil.
func (p *publication) write(info *tether.Info) (done bool, err error) {
	if p.job != nil {
		return p.writeJob(info)
	}
	done = info == nil || info.State.Final()
	if !done && !p.owns {
		if err := p.s.own(p.s.closing); err != nil {
			return false, err
		}
		p.owns = true
	}
	r := store.Record{Key: p.key, Version: recordVersion, Keep: p.keep}
	if !done {
		r.Owner = p.s.owner
	}
	if info == nil {
		last := p.task.Info()
		c := &content{Task: storeInfo(p.id, &last)}
		c.lose()
		r.Data = p.s.fit(c)
	} else {
		r.Data = p.s.encodeTask(p.id, p.value, info)
	}
	stored, err := p.out.put(p.s.closing, r)
	switch {
	case errors.Is(err, errDeclaredLost):
		p.lost()
		return true, nil
	case err != nil:
		return false, err
	}
	p.s.mu.Lock()
	p.last = stored
	p.s.mu.Unlock()
	p.markStored()
	return done, nil
}

// lost is called when another replica has declared the task lost.
func (p *publication) lost() {
	p.s.log(slog.LevelError, "tetherhttp: a task was given up by the other replicas, and is canceled", "service", p.s.service, "task", p.task.Name(), "id", p.task.ID())
	p.cancelTask(ErrLost)
}

func (p *publication) markStored() {
	select {
	case <-p.stored:
	default:
		close(p.stored)
	}
}

// watch is a request that waits for a record to change.
type watch struct {
	changed chan struct{} // of one element

	last *store.Record // the newest one, nil if it is gone; guarded by Store.mu
}

// changes yields a record again whenever it has been replaced, beginning with the one after
// the given one. It ends when ctx is done, or the record is gone.
func (s *Store) changes(ctx context.Context, r *store.Record) func(yield func(*store.Record) bool) {
	return func(yield func(*store.Record) bool) {
		w := &watch{changed: make(chan struct{}, 1), last: r}
		s.mu.Lock()
		if s.watched[r.Key] == nil {
			s.watched[r.Key] = make(map[*watch]bool)
		}
		s.watched[r.Key][w] = true
		if s.stopLook == nil {
			s.stopLook = make(chan struct{})
			go s.look(s.stopLook)
		}
		if p := s.local[r.Key]; p != nil && p.last != nil {
			w.note(p.last)
		}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if delete(s.watched[r.Key], w); len(s.watched[r.Key]) == 0 {
				delete(s.watched, r.Key)
			}
			if len(s.watched) == 0 {
				close(s.stopLook)
				s.stopLook = nil
			}
		}()
		for {
			select {
			case <-w.changed:
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			last := w.last
			s.mu.Unlock()
			if last == nil || !yield(last) {
				return
			}
		}
	}
}

// note records what a watched record is now. The caller has the lock.
func (w *watch) note(r *store.Record) {
	if w.last == nil || r != nil && tagOrder(r.Tag) <= tagOrder(w.last.Tag) {
		return
	}
	w.last = r
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// deliver tells the requests that wait for a record what it is now.
func (s *Store) deliver(r *store.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watched[r.Key] {
		w.note(r)
	}
}

// lookAtOnce is how many records are read by one call.
const lookAtOnce = 100

// look reads what is watched, for all requests together.
func (s *Store) look(stop <-chan struct{}) {
	atEach(lookEvery, stop, func(ctx context.Context) {
		keys := s.lookedAt()
		for len(keys) > 0 && ctx.Err() == nil {
			n := min(len(keys), lookAtOnce)
			s.lookAt(ctx, keys[:n])
			keys = keys[n:]
		}
	})
}

// lookedAt returns the keys that are watched, without those that this process writes.
func (s *Store) lookedAt() (keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.watched {
		if s.local[key] == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

func (s *Store) lookAt(ctx context.Context, keys []string) {
	found, err := s.getAll(ctx, keys...)
	if err != nil {
		return // the next look may find more
	}
	there := make(map[string]bool, len(found))
	for i := range found {
		r := &found[i]
		there[r.Key] = true
		switch d := s.doubt(r); {
		case d < 0:
			s.deliver(r)
		case d == 0:
			_, _ = s.declareLost(ctx, *r) // the next look tries again
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if !there[key] && s.local[key] == nil {
			for w := range s.watched[key] {
				w.note(nil)
			}
		}
	}
}
