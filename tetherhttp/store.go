package tetherhttp

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// Errors of a [Store]. Compare with errors.Is.
var (
	// ErrStoreUnavailable wraps the error of a store that did not answer in time, or answered
	// with an error. It is the cause of the cancellation of a task whose 202 could not be
	// stored.
	ErrStoreUnavailable = errors.New("tetherhttp: the store is unavailable")
	// ErrLost is the cause of the cancellation of a task that the other replicas have given up,
	// because its own could not reach the store for too long.
	ErrLost = errors.New("tetherhttp: the task was given up by the other replicas")
)

const (
	// lease is how long a replica that does not reach the store keeps its tasks.
	lease = 5 * time.Second
	// renewEvery is how often a replica with tasks renews its lease, and learns what to cancel.
	renewEvery = 500 * time.Millisecond
	// renewLimit is how long a renewal may take.
	renewLimit = 2 * time.Second
	// confirmFor is how long a lease must be seen to have ended before its tasks are lost: after
	// an outage of the store each replica has this time to renew its own. A renewal that hangs
	// when the store comes back must end in this time, and the next one must succeed.
	confirmFor = renewLimit + time.Second
	// lookEvery is how often the tasks of other replicas are read that are waited for here.
	lookEvery = 250 * time.Millisecond
	// writePace is the time between two writes of a task's progress.
	writePace = 250 * time.Millisecond
	// slowestPace is the most that this time is for a store that is slow. A task that ends is
	// written that much later.
	slowestPace = 2 * time.Second
	// storeCalls bounds the calls that a store has not answered.
	storeCalls = 256
)

// StoreConfig configures a [Store]. The zero value is ready to use.
type StoreConfig struct {
	// RetainFor is how long a task is kept in the store after its end. Zero means 1 hour.
	RetainFor time.Duration
	// MaxResult is the most bytes that the result of a task may have, encoded. In place of a
	// larger one, the status and the result's URL have a problem of the type
	// [ProblemResultTooLarge]. Zero means 1 MiB. A record in the store has at most twice as many
	// bytes and 64 KiB; the message of a progress that exceeds that is left out.
	MaxResult int
	// Timeout bounds each call of the store that a request waits for. Zero means 2 s.
	Timeout time.Duration
	// Logger receives records of an outage of the store and its end, and of tasks that were lost
	// or whose result could not be stored. If nil, slog.Default is used.
	Logger *slog.Logger
}

// Store makes any replica of a service answer for the tasks of any other. Set it as the Store of
// [AsyncConfig] and [TasksConfig], the same one in each. A program has one for each service.
//
//	shared := tetherhttp.NewStore("shop", engine.Store())
//	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", makeReport, tetherhttp.AsyncConfig{Store: shared}))
//	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared}))
//	err := reg.Run(ctx, tether.RunConfig{…, Closers: []tether.Closer{{Name: "status store", Close: shared.Close}, …}})
//
// A task is stored when it is answered 202, at each change, of its progress up to four times a
// second, and at its end, with its result. All that [Tasks] answers is what is stored, whichever
// replica is asked, so that a client that polls never sees a task go back. An answer without a
// 202 costs nothing, unless the request has an Idempotency-Key. A poll that is answered from the
// store takes about twice the CPU time of another: bench/engines/RESULTS.md has the figures. The status has an ID that is
// longer than [tether.Task.ID]: that is the part before the dot.
//
// While it has tasks, a replica renews a lease twice a second, and learns then which of them are
// to be canceled. If it ends without [Store.Close], or cannot reach the store, its tasks are lost
// after nine seconds at the latest: their state is "lost", with a problem of the type
// [ProblemTaskLost]. A lost task never changes again; if its replica is still there, it cancels
// it with [ErrLost].
//
// While the store is away, requests that need it are answered 503 with Retry-After within
// StoreConfig.Timeout, those with an Idempotency-Key before anything runs. A 202 that cannot be
// stored is answered 503 too: the task is canceled with [ErrStoreUnavailable], unless it has a
// key, KeepOnDisconnect or [tether.Unique]. What ends meanwhile is stored when the store is back.
// A record that a newer version of this package has written is answered 503 by the replicas that
// cannot read it.
//
// A replica's clock matters only for the times in a status and its Retry-After. The store's own
// clock measures everything else.
type Store struct {
	service string
	backend store.Backend
	owner   string
	cfg     StoreConfig
	slots   chan struct{} // one for each call that the backend has not answered

	closing context.Context // done when what is not stored by then is given up
	giveUp  context.CancelFunc
	writers sync.WaitGroup // what must be stored; Add under mu, and only while not closed

	mu        sync.Mutex
	closed    bool                       // guarded by mu, as all below
	leaving   chan struct{}              // closed with closed
	local     map[string]*publication    // by key: what this process has not stored to the end
	owned     int                        // what the lease is renewed for
	stopRenew chan struct{}              // closed when owned is zero again
	renewed   time.Time                  // when the lease was renewed last
	failing   bool                       // the last renewal has failed
	doubts    map[string]doubt           // by owner: leases that have ended
	watched   map[string]map[*watch]bool // by key
	stopLook  chan struct{}              // closed when nothing is watched; nil while nothing is
}

// doubt is how long a lease has been seen to have ended.
type doubt struct{ first, last time.Time }

// NewStore returns the Store of a service on a backend, such as the Store of an engine of
// package durable. The name distinguishes services that share a backend; replicas of one
// service have the same. Nothing is called or started until a task needs it.
//
// NewStore panics if the name is not valid for [tether.CheckName], if there is no backend or if
// a setting is negative, which are programming errors.
func NewStore(service string, backend store.Backend, cfg ...StoreConfig) *Store {
	if err := tether.CheckName(service); err != nil {
		panic("tetherhttp: NewStore: " + err.Error())
	}
	c := optional("NewStore", cfg)
	if backend == nil || c.RetainFor < 0 || c.MaxResult < 0 || c.Timeout < 0 {
		panic("tetherhttp: NewStore needs a backend, and no setting may be negative")
	}
	c.RetainFor = cmp.Or(c.RetainFor, time.Hour)
	c.MaxResult = cmp.Or(c.MaxResult, 1<<20)
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	s := &Store{
		service: service, backend: backend, owner: rand.Text(), cfg: c, slots: make(chan struct{}, storeCalls),
		local: make(map[string]*publication), doubts: make(map[string]doubt), watched: make(map[string]map[*watch]bool),
		leaving: make(chan struct{}),
	}
	s.closing, s.giveUp = context.WithCancel(context.Background())
	return s
}

// Close stores what is not stored yet: the outcomes of tasks that have ended, and of the others
// that they are lost. It waits for that until ctx is done; the error then says how many are not
// stored, which the other replicas see as lost. Call it when the registry has been drained, as a
// Closer of [tether.RunConfig], and before the backend is closed. Later tasks are not stored, and
// requests for the status are answered 503. A second call waits too.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.leaving)
	}
	for _, p := range s.local {
		p.leave()
	}
	s.mu.Unlock()
	stored := make(chan struct{})
	go func() {
		s.writers.Wait()
		close(stored)
	}()
	select {
	case <-stored:
		s.giveUp()
		return nil
	case <-ctx.Done():
	}
	s.giveUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("tetherhttp: %d tasks could not be stored: %w", len(s.local), context.Cause(ctx))
}

// errStoreClosed is the error of a call after Close.
var errStoreClosed = fmt.Errorf("%w: it was closed", ErrStoreUnavailable)

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// lenCheck is the length of what taskID adds, after the dot.
const lenCheck = 8

// taskID returns the ID of a stored task: its own, and a check by which a replica knows that
// an ID was made for this service, though nothing is stored under it any more.
func (s *Store) taskID(id string) string {
	sum := hashOf("task", s.service, id)
	return id + "." + base64.RawURLEncoding.EncodeToString(sum[:6])
}

// made reports whether taskID has returned an ID.
func (s *Store) made(id string) bool {
	own, _, _ := strings.Cut(id, ".")
	return isTaskID(own) && id == s.taskID(own)
}

func (s *Store) taskKey(id string) string { return s.service + "/task/" + id }

// call calls the backend. It returns when the call does, at the latest when the time is over,
// whatever the backend does.
func call[T any](ctx context.Context, s *Store, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	inner, cancel := context.WithTimeout(ctx, limit)
	done := make(chan result, 1)
	select {
	case s.slots <- struct{}{}:
		go func() {
			var r result
			defer func() { // also if the goroutine ends in f
				if p := recover(); p != nil {
					r.err = fmt.Errorf("it panicked: %v", p)
				}
				<-s.slots
				done <- r // before cancel, after which there is little time
				cancel()
			}()
			r.err = errors.New("it has ended the goroutine")
			r.value, r.err = f(inner)
		}()
	case <-inner.Done():
		defer cancel()
		var none T
		return none, unavailable(ctx, fmt.Errorf("%d calls are not answered", storeCalls))
	}
	var r result
	select {
	case r = <-done:
	case <-inner.Done():
		select {
		case r = <-done: // inner was canceled because the call has returned
		case <-time.After(callGrace):
			r.err = inner.Err()
		}
	}
	if r.err != nil && !errors.Is(r.err, store.ErrConflict) {
		r.err = unavailable(ctx, r.err)
	}
	return r.value, r.err
}

// callGrace is how long a backend may take to notice that its context is done.
const callGrace = 50 * time.Millisecond

// unavailable returns the error of a call that has failed with err.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // it is the caller that has gone
	}
	return fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
}

func (s *Store) swap(ctx context.Context, was string, r store.Record) error {
	_, err := call(ctx, s, s.cfg.Timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.backend.Swap(ctx, was, r)
	})
	return err
}

func (s *Store) delete(ctx context.Context, key, was string) error {
	_, err := call(ctx, s, s.cfg.Timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.backend.Delete(ctx, key, was)
	})
	return err
}

// get returns a record as it is stored, nil if there is none.
func (s *Store) get(ctx context.Context, key string) (*store.Record, error) {
	found, err := s.getAll(ctx, key)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (s *Store) getAll(ctx context.Context, keys ...string) ([]store.Record, error) {
	found, err := call(ctx, s, s.cfg.Timeout, func(ctx context.Context) ([]store.Record, error) { return s.backend.Get(ctx, keys...) })
	if errors.Is(err, ErrStoreUnavailable) {
		s.mu.Lock()
		clear(s.doubts) // the leases may have ended because of the outage
		s.mu.Unlock()
	}
	return found, err
}

// read returns a record, nil if there is none. If its owner is gone, it is declared lost first.
func (s *Store) read(ctx context.Context, key string) (*store.Record, error) {
	if s.isClosed() {
		return nil, errStoreClosed
	}
	for {
		r, err := s.get(ctx, key)
		if err != nil || r == nil {
			return nil, err
		}
		doubtful := s.doubt(r)
		if doubtful < 0 {
			return r, nil
		}
		if doubtful == 0 {
			if r, err = s.declareLost(ctx, *r); r != nil || err != nil {
				return r, err
			}
			continue // it has changed
		}
		select {
		case <-time.After(doubtful):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// doubt returns how much longer the owner of a record must be seen without a lease until the
// record is lost. It is negative if the record is as it should be.
func (s *Store) doubt(r *store.Record) time.Duration {
	if r.Owner == "" || r.Version > recordVersion {
		return -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.Orphaned {
		delete(s.doubts, r.Owner)
		return -1
	}
	now := time.Now()
	d, known := s.doubts[r.Owner]
	if !known || now.Sub(d.last) > 2*confirmFor { // nothing is known of the time between
		if len(s.doubts) >= doubtsKept {
			clear(s.doubts)
		}
		d.first = now
	}
	d.last = now
	s.doubts[r.Owner] = d
	return max(confirmFor-now.Sub(d.first), 0)
}

const doubtsKept = 1000

// declareLost stores that the owner of a record is gone. It returns nil if the record has changed
// meanwhile.
func (s *Store) declareLost(ctx context.Context, r store.Record) (*store.Record, error) {
	content, err := decodeRecord(&r)
	if err != nil {
		return &r, nil // the caller sees it
	}
	was, by := r.Tag, r.Owner
	asked := r.Asked
	content.lose()
	r.Tag, r.Owner, r.Asked, r.Orphaned, r.Data, r.Keep = nextTag(was), "", false, false, content.encode(), s.cfg.RetainFor
	if content.Job != nil {
		r.Data, r.Keep = content.Job.orphaned(asked), keepJob
	}
	err = s.swap(ctx, was, r)
	switch {
	case errors.Is(err, store.ErrConflict):
		return nil, nil
	case err != nil:
		return nil, err
	}
	s.log(slog.LevelWarn, "tetherhttp: a record was given up, since its replica is gone", "service", s.service, "key", r.Key, "owner", by)
	s.deliver(&r)
	return &r, nil
}

// own makes sure that this process has a lease, which is renewed until disown is called as often.
func (s *Store) own(ctx context.Context) error {
	s.mu.Lock()
	if s.owned++; s.owned == 1 {
		s.stopRenew = make(chan struct{})
		go s.keepRenewing(s.stopRenew)
	}
	fresh := !s.renewed.IsZero() && time.Since(s.renewed) < lease/2
	s.mu.Unlock()
	if fresh {
		return nil
	}
	if err := s.renew(ctx, s.cfg.Timeout); err != nil {
		s.disown()
		return err
	}
	return nil
}

func (s *Store) disown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owned--; s.owned == 0 {
		close(s.stopRenew)
	}
}

func (s *Store) keepRenewing(stop <-chan struct{}) {
	atEach(renewEvery, stop, func(ctx context.Context) { s.noteRenewal(s.renew(ctx, renewLimit)) })
}

// atEach calls fn at each tick of a ticker, with a context that is canceled when stop is closed,
// and then returns.
func atEach(d time.Duration, stop <-chan struct{}, fn func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		fn(ctx)
	}
}

// renew renews the lease, and cancels what is to be canceled.
func (s *Store) renew(ctx context.Context, limit time.Duration) error {
	asked, err := call(ctx, s, limit, func(ctx context.Context) ([]string, error) { return s.backend.Renew(ctx, s.owner, lease) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lapsed() {
		s.rewriteAll()
	}
	s.renewed = time.Now()
	for _, key := range asked {
		if p := s.local[key]; p != nil {
			p.cancelTask(ErrCanceled)
			p.keepAsked()
		}
	}
	return nil
}

// lapsed reports whether the lease may have ended since it was renewed: the process has stood
// still, or the machine, whose monotonic clock may not say so. The caller has the lock.
func (s *Store) lapsed() bool {
	if s.renewed.IsZero() {
		return false
	}
	now := time.Now()
	return now.Sub(s.renewed) >= lease || now.Round(0).Sub(s.renewed.Round(0)) >= lease
}

// rewriteAll makes all that this process keeps in the store be written again, which finds out
// whether it is lost. The caller has the lock.
func (s *Store) rewriteAll() {
	for _, p := range s.local {
		p.rewrite()
	}
}

// noteRenewal logs when the store goes away and when it is back. It may have lost what was
// stored, so all of it is then written again.
func (s *Store) noteRenewal(err error) {
	if err != nil && !errors.Is(err, ErrStoreUnavailable) {
		return // the renewals were stopped
	}
	s.mu.Lock()
	was := s.failing
	s.failing = err != nil
	if was && err == nil {
		s.rewriteAll()
	}
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log(slog.LevelError, "tetherhttp: the store cannot be reached; the replica's tasks are lost if that lasts", "service", s.service, "error", err)
	case err == nil && was:
		s.log(slog.LevelInfo, "tetherhttp: the store is back", "service", s.service)
	}
}

// log does not wait for the log handler: the lease must be renewed whatever that does.
func (s *Store) log(level slog.Level, text string, args ...any) {
	go func() {
		defer func() { _ = recover() }()
		s.cfg.Logger.Log(context.Background(), level, text, args...)
	}()
}
