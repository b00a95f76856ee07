package river

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/seed-2e639f12/tether/durable"
)

// Kind is the kind that all jobs have inside the program. In the database a job's kind is its
// name, so that River's tools show it: hooks and keeper.JobGetAvailable translate. River has
// one worker, of this kind; otherwise it would fail the jobs that other workers have.
//
// Kind is also the kind of the rows that earlier versions of this package stored, and that
// of unique keys, so that the keys of those rows hold. It stays fetched.
const Kind = "tether"

// kindOf returns the kind that the jobs of this name have in the database. A kind has at
// most 127 characters there, and a name at most 128 bytes.
func kindOf(name string) string {
	if len(name) <= 127 {
		return name
	}
	return fmt.Sprintf("%s~%x", strings.ToValidUTF8(name[:100], ""), sha256.Sum256([]byte(name)))[:127]
}

// attempts is the max_attempts of all rows: the most that Postgres' column holds, since the
// worker counts attempts itself.
const attempts = 1<<15 - 1

// envelope is a job's arguments for River: the JSON of its Message. The fields are not
// encoded; their tags tell River of which values of that JSON a unique key consists.
type envelope struct {
	Name   string `json:"name" river:"unique"`
	Unique string `json:"unique" river:"unique"`

	encoded json.RawMessage
	kind    string    // in the database
	again   time.Time // for NextRetry: when the next attempt begins
}

func (envelope) Kind() string                    { return Kind }
func (e envelope) MarshalJSON() ([]byte, error)  { return e.encoded, nil }
func (e *envelope) UnmarshalJSON(b []byte) error { return nil } // JobRow has them

// unfinished are the states in which a job keeps its unique key.
var unfinished = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
	rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// soon is how far ahead a job's time may be if it is stored as available. Other jobs wait in the
// state scheduled until the leader makes them available; there may be no leader for a while.
const soon = 30 * time.Second

func (e *Engine[TTx]) hooks() []rivertype.Hook {
	return []rivertype.Hook{river.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
		if e, ok := p.Args.(envelope); ok {
			p.Kind = e.kind
		}
		if e.cfg.DatabaseTime {
			// River's statement reads the zero time as now().
			p.CreatedAt = new(time.Time)
			if p.ScheduledAt == nil {
				p.ScheduledAt = new(time.Time)
			}
		}
		if p.State == rivertype.JobStateScheduled && p.ScheduledAt != nil && time.Until(*p.ScheduledAt) < soon {
			p.State = rivertype.JobStateAvailable
		}
		return nil
	})}
}

// insertion is a job that a caller of Enqueue waits for.
type insertion struct {
	id     string
	ctx    context.Context
	params river.InsertManyParams
	size   int

	done    chan struct{} // closed when the fields below are written
	receipt durable.Receipt
	err     error
	alone   bool // not stored, because its batch failed
}

func (e *Engine[TTx]) insertion(ctx context.Context, m durable.Message) (*insertion, error) {
	encoded, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("%w: message: %w", durable.ErrInvalid, err)
	}
	opts := &river.InsertOpts{MaxAttempts: attempts, Queue: e.cfg.Queue}
	if m.RunAt.After(time.Now()) {
		opts.ScheduledAt = roundUp(m.RunAt)
		opts.Metadata = []byte(`{"` + noteTimed + `":true}`)
	}
	if m.Unique != "" {
		opts.UniqueOpts = river.UniqueOpts{ByArgs: true, ByQueue: true, ByState: unfinished}
	}
	return &insertion{
		id: m.ID, ctx: ctx, size: len(encoded), done: make(chan struct{}),
		params: river.InsertManyParams{Args: envelope{encoded: encoded, kind: kindOf(m.Name)}, InsertOpts: opts},
	}, nil
}

// wrapped is how a message that contains U+0000 is stored, because Postgres' jsonb refuses it.
// ID, Name and Unique are where they always are, the last one as a hash.
type wrapped struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Unique  string `json:"unique,omitempty"`
	Wrapped []byte `json:"wrapped"` // the Message's JSON, in base64
}

func encode(m durable.Message) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil || !bytes.Contains(plain, []byte(`\u0000`)) {
		return plain, err
	}
	w := wrapped{ID: m.ID, Name: m.Name, Wrapped: plain}
	if m.Unique != "" {
		w.Unique = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(m.Unique)))
	}
	return json.Marshal(w)
}

func decode(encoded []byte) (durable.Message, error) {
	if bytes.Contains(encoded, []byte(`"wrapped"`)) { // it may be in the arguments
		var w wrapped
		if err := json.Unmarshal(encoded, &w); err == nil && w.Wrapped != nil {
			encoded = w.Wrapped
		}
	}
	return durable.Decode(encoded)
}

// roundUp rounds t up to milliseconds, which every database can store, and converts it to
// UTC, in which River stores it (as text in SQLite).
func roundUp(t time.Time) time.Time {
	return t.Add(time.Millisecond - time.Nanosecond).Truncate(time.Millisecond).UTC()
}

// enqueuing is the key of a context in which River inserts jobs, and does nothing else.
type enqueuing struct{}

func (e *Engine[TTx]) insertMany(ctx context.Context, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
	return e.inserter().InsertMany(context.WithValue(ctx, enqueuing{}, true), jobs)
}

// inserting is a driver that inserts jobs without a transaction: see oneStatement.
type inserting[TTx any] struct {
	riverdriver.Driver[TTx]
	log *slog.Logger
}

func (d inserting[TTx]) GetExecutor() riverdriver.Executor {
	return insertingExecutor{d.Driver.GetExecutor(), d.log}
}

type insertingExecutor struct {
	riverdriver.Executor
	log *slog.Logger
}

func (i insertingExecutor) Begin(ctx context.Context) (riverdriver.ExecutorTx, error) {
	if ctx.Value(enqueuing{}) == nil {
		return i.Executor.Begin(ctx)
	}
	return oneStatement(i), nil
}

// oneStatement is a transaction that is none, since River would make one of four round trips to
// the database: to begin it, to insert the jobs, to notify workers and to commit. The statement
// that inserts is a transaction of its own. It must be the only one that changes anything.
type oneStatement insertingExecutor

func (oneStatement) Commit(context.Context) error   { return nil }
func (oneStatement) Rollback(context.Context) error { return nil }

// NotifyMany notifies workers of jobs that are stored. So it does not fail: the caller would
// store them again. A worker that is not notified looks for jobs every second.
func (o oneStatement) NotifyMany(ctx context.Context, p *riverdriver.NotifyManyParams) error {
	if err := o.Executor.NotifyMany(ctx, p); err != nil {
		o.log.Warn("durable: workers are not notified of a job, and will find it within a second", "error", err)
	}
	return nil
}

func receipt(r *rivertype.JobInsertResult, i *insertion) durable.Receipt {
	if !r.UniqueSkippedAsDuplicate {
		return durable.Receipt{ID: i.id}
	}
	first, _ := decode(r.Job.EncodedArgs) // one that is no job of ours has no ID
	return durable.Receipt{ID: first.ID, Duplicate: true}
}

// The limits of a flush.
const (
	flushJobs  = 500
	flushBytes = 4 << 20
)

// Enqueue stores a job. Jobs that arrive while others are being stored are stored together
// afterwards, in one transaction: SQLite commits some hundred times a second but stores
// thousands of rows, and a drain hands many jobs over at once. If a batch fails, its jobs are
// stored one by one, so one that cannot be stored does not affect others.
//
// A job with a unique key is stored by itself: it may have to wait for a transaction that has
// the same key, and others would wait with it.
func (e *Engine[TTx]) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	end, err := e.begin()
	if err != nil {
		return durable.Receipt{}, err
	}
	defer end()
	if err := context.Cause(ctx); err != nil {
		return durable.Receipt{}, err
	}
	i, err := e.insertion(ctx, m)
	if err != nil {
		return durable.Receipt{}, err
	}
	if m.Unique != "" {
		return e.insertAlone(i)
	}
	e.mu.Lock()
	e.waiting = append(e.waiting, i)
	first := !e.flushing
	if first {
		e.flushing = true
		e.calls.Add(1)
	}
	e.mu.Unlock()
	if first {
		// Not here: ctx may end long before those of others.
		go e.flush()
	}
	select {
	case <-i.done:
	case <-ctx.Done():
		return durable.Receipt{}, context.Cause(ctx)
	}
	if i.alone {
		return e.insertAlone(i)
	}
	return i.receipt, i.err
}

// flush stores the waiting insertions until there are none.
func (e *Engine[TTx]) flush() {
	defer e.calls.Done()
	for {
		e.mu.Lock()
		n, size := 0, 0
		for n < len(e.waiting) && n < flushJobs && (n == 0 || size+e.waiting[n].size <= flushBytes) {
			size += e.waiting[n].size
			n++
		}
		batch := e.waiting[:n:n]
		e.waiting = e.waiting[n:]
		if n == 0 {
			e.waiting, e.flushing = nil, false
		}
		e.mu.Unlock()
		if n == 0 {
			return
		}
		e.insert(batch)
	}
}

// insert stores a batch. It gives up when no caller waits for it.
func (e *Engine[TTx]) insert(batch []*insertion) {
	var wanted []*insertion
	for _, i := range batch {
		if i.ctx.Err() == nil {
			wanted = append(wanted, i)
		}
	}
	if len(wanted) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(e.life)
	defer cancel()
	all := make(chan struct{})
	defer close(all)
	if wanted[0].ctx.Done() != nil {
		// Waiting for one after the other is enough: the last one cancels.
		go func() {
			for _, i := range wanted {
				select {
				case <-i.ctx.Done():
				case <-all:
					return
				}
			}
			cancel()
		}()
	}
	params := make([]river.InsertManyParams, len(wanted))
	for n, i := range wanted {
		params[n] = i.params
	}
	res, err := e.insertMany(ctx, params)
	for n, i := range wanted {
		switch {
		case err == nil:
			i.receipt = receipt(res[n], i)
		case len(wanted) > 1:
			i.alone = true
		default:
			i.err = e.lost(err)
		}
		close(i.done)
	}
}

// insertAlone stores one job, on a goroutine of its own, because SQLite does not return when a
// context ends while it waits for another transaction.
func (e *Engine[TTx]) insertAlone(i *insertion) (durable.Receipt, error) {
	var (
		stored durable.Receipt
		failed error
		done   = make(chan struct{})
	)
	e.calls.Add(1) // the caller's call has not ended yet
	go func() {
		defer e.calls.Done()
		defer close(done)
		ctx, cancel := context.WithCancel(i.ctx)
		defer cancel()
		defer context.AfterFunc(e.life, cancel)()
		res, err := e.insertMany(ctx, []river.InsertManyParams{i.params})
		if err != nil {
			failed = e.lost(err)
			return
		}
		stored = receipt(res[0], i)
	}()
	select {
	case <-done:
		return stored, failed
	case <-i.ctx.Done():
		return durable.Receipt{}, context.Cause(i.ctx)
	}
}

// lost tells errors that come from Close, and those of a database that was not reached,
// from others.
func (e *Engine[TTx]) lost(err error) error {
	switch {
	case e.life.Err() != nil:
		return fmt.Errorf("%w: %w", durable.ErrClosed, err)
	case e.cfg.Unreached != nil && e.cfg.Unreached(err):
		return fmt.Errorf("%w: %w", durable.ErrUnavailable, err)
	}
	return err
}
