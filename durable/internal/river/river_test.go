package river

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/durable"
)

// What needs a database is tested in the packages sqlite and postgres, by the contract.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func job(t *testing.T, m durable.Message) *river.Job[envelope] {
	e := &Engine[any]{cfg: Config[any]{Queue: DefaultQueue}}
	i, err := e.insertion(t.Context(), m)
	require.NoError(t, err)
	args, err := json.Marshal(i.params.Args)
	require.NoError(t, err)
	return &river.Job[envelope]{JobRow: &rivertype.JobRow{
		EncodedArgs: args, Attempt: 3, MaxAttempts: 3,
	}}
}

var plain = durable.Message{ID: "id", Name: "name", Args: json.RawMessage(`{"a":1}`), Unique: "key", Used: 2}

func TestWork(t *testing.T) {
	var out durable.Outcome
	w := &worker{stopping: new(atomic.Bool), pulse: newPulse(nil, nil), handle: func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		assert.Equal(t, plain, m.Message)
		assert.Equal(t, 3, attempt)
		return out
	}}
	snoozed := func(err error) time.Duration {
		var snooze *rivertype.JobSnoozeError
		require.ErrorAs(t, err, &snooze)
		return snooze.Duration
	}

	j := job(t, plain)
	require.NoError(t, w.Work(t.Context(), j))

	out = durable.Outcome{Verdict: durable.Return, Err: errors.New("why")}
	assert.Zero(t, snoozed(w.Work(t.Context(), j)))
	out.After = time.Minute
	assert.Greater(t, snoozed(w.Work(t.Context(), j)), time.Minute)

	// What River reads into an error is for it alone.
	out = durable.Outcome{Verdict: durable.Retry, After: time.Minute, Err: river.JobCancel(errors.New("why"))}
	before := time.Now()
	err := w.Work(t.Context(), j)
	require.EqualError(t, err, out.Err.Error())
	var cancel *rivertype.JobCancelError
	assert.False(t, errors.As(err, &cancel))
	assert.Greater(t, j.MaxAttempts, j.Attempt, "River would give it up")
	assert.False(t, w.NextRetry(j).Before(before.Add(time.Minute)))
	assert.Equal(t, time.UTC, w.NextRetry(j).Location())

	out = durable.Outcome{Verdict: durable.Dead}
	require.Error(t, w.Work(t.Context(), j))
	assert.Equal(t, j.Attempt, j.MaxAttempts, "River would retry it")

	w.stopping.Store(true)
	w.handle = nil
	assert.Zero(t, snoozed(w.Work(t.Context(), j)), "fetched when Stop was called")

	j = job(t, plain)
	j.EncodedArgs = []byte(`{"id":"","name":"name"}`)
	require.ErrorContains(t, w.Work(t.Context(), j), durable.ErrInvalid.Error())
	assert.Equal(t, j.Attempt, j.MaxAttempts, "what is no job of ours")
}

func TestEncode(t *testing.T) {
	for _, m := range []durable.Message{plain, {ID: "id", Name: "name", Args: json.RawMessage(`"\u0000"`), Unique: "a\x00b"}} {
		encoded, err := encode(m)
		require.NoError(t, err)
		assert.NotContains(t, string(encoded), `\u0000`)
		decoded, err := decode(encoded)
		require.NoError(t, err)
		assert.Equal(t, m, decoded)
	}
	nul, _ := encode(durable.Message{ID: "1", Name: "name", Unique: "a\x00b"})
	other, _ := encode(durable.Message{ID: "1", Name: "name", Unique: "a\x00c"})
	var a, b wrapped
	require.NoError(t, json.Unmarshal(nul, &a))
	require.NoError(t, json.Unmarshal(other, &b))
	assert.NotEqual(t, a.Unique, b.Unique)
	_, err := decode([]byte(`{"name":"no id"}`))
	require.ErrorIs(t, err, durable.ErrInvalid)
}

func TestFailureIsWhatADatabaseTakes(t *testing.T) {
	assert.EqualError(t, failure(errors.New("a\x00b\xff")), "a\uFFFDb\uFFFD")
	assert.Less(t, len(failure(errors.New(strings.Repeat("ä", maxError))).Error()), maxError+10)
	assert.Error(t, failure(nil))
}

func TestRoundUp(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	assert.Equal(t, at, roundUp(at))
	assert.Equal(t, at, roundUp(at.Add(-time.Nanosecond)))
	assert.Equal(t, at, roundUp(at.In(time.FixedZone("east", 3600))))
}

// River stores what is due soon as if it were due now, and looks at the time.
func TestSoon(t *testing.T) {
	begin := new(Engine[any]).hooks()[0].(rivertype.HookInsertBegin)
	for after, wants := range map[time.Duration]rivertype.JobState{
		time.Second: rivertype.JobStateAvailable,
		time.Hour:   rivertype.JobStateScheduled,
	} {
		at := time.Now().Add(after)
		p := &rivertype.JobInsertParams{State: rivertype.JobStateScheduled, ScheduledAt: &at}
		require.NoError(t, begin.InsertBegin(t.Context(), p))
		assert.Equal(t, wants, p.State)
		assert.Equal(t, at, *p.ScheduledAt)
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newQuiet(slog.NewTextHandler(&out, nil))).With("a", 1).WithGroup("g")
	log.Info("JobExecutor: Job finished")
	log.Warn("jobexecutor.JobExecutor: Job errored; retrying")
	assert.Empty(t, out.String())
	log.Warn("something else")
	assert.Contains(t, out.String(), "something else")

	synctest.Test(t, func(t *testing.T) {
		out.Reset()
		for range 200 { // as while the disk is full
			log.Error("producer: Error fetching jobs")
			time.Sleep(100 * time.Millisecond)
		}
		assert.Equal(t, 2, strings.Count(out.String(), "Error fetching jobs"))
	})
}

func TestQueueNames(t *testing.T) {
	for _, name := range []string{"Upper", "a b", "-a", "a--b", "ä", strings.Repeat("a", 65)} {
		_, err := New(Config[any]{Queue: name})
		assert.ErrorIs(t, err, durable.ErrInvalid, name)
	}
}

// outcome is a successful one, as River stores it.
func outcome(id int64, metadata string) *riverdriver.JobSetStateIfRunningManyParams {
	return &riverdriver.JobSetStateIfRunningManyParams{
		ID: []int64{id}, Attempt: []*int{nil}, ErrData: [][]byte{nil}, FinalizedAt: []*time.Time{new(time.Time)},
		MetadataDoMerge: []bool{true}, MetadataUpdates: [][]byte{[]byte(metadata)}, ScheduledAt: []*time.Time{nil},
		State: []rivertype.JobState{rivertype.JobStateCompleted},
	}
}

// everything is a Config.Owned of which all is owned.
func everything(_ context.Context, _ riverdriver.ExecutorTx, _ string, ids []int64, _ []int) ([]int64, error) {
	return ids, nil
}

// away is a database that is not there until then.
type away struct {
	riverdriver.ExecutorTx
	until time.Time
}

func (a away) Begin(context.Context) (riverdriver.ExecutorTx, error) { return a, nil }
func (away) Commit(context.Context) error                            { return nil }
func (away) Rollback(context.Context) error                          { return nil }

var errAway = errors.New("connection refused")

func (a away) JobSetStateIfRunningMany(ctx context.Context, _ *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if time.Now().Before(a.until) {
		return nil, errAway
	}
	return []*rivertype.JobRow{{ID: 1}}, nil
}

// deaf is a database that has stored a job and is gone before it notifies a worker.
type deaf struct{ riverdriver.Executor }

var errBegun = errors.New("begun")

func (deaf) Begin(context.Context) (riverdriver.ExecutorTx, error) { return nil, errBegun }

func (deaf) NotifyMany(context.Context, *riverdriver.NotifyManyParams) error { return errAway }

func TestEnqueueHasNoTransaction(t *testing.T) {
	i := insertingExecutor{deaf{}, slog.New(slog.DiscardHandler)}
	ctx := context.WithValue(t.Context(), enqueuing{}, true)
	tx, err := i.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, tx.NotifyMany(ctx, nil), "the job is stored, and would be stored again")
	require.NoError(t, tx.Commit(ctx))

	_, err = i.Begin(t.Context())
	require.ErrorIs(t, err, errBegun, "what else River does in a transaction")
	require.ErrorIs(t, i.NotifyMany(t.Context(), nil), errAway)
}

// River itself would have forgotten them after seven seconds.
func TestOutcomesWaitForTheDatabase(t *testing.T) {
	store := func(ctx, life context.Context, back time.Duration) ([]*rivertype.JobRow, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // as River does
		defer cancel()
		p := newPulse(nil, slog.New(slog.DiscardHandler))
		_, end := p.begin(1)
		end()
		k := &keeper{Executor: away{until: time.Now().Add(back)}, life: life, pulse: p, owned: everything}
		rows, err := k.JobSetStateIfRunningMany(ctx, outcome(1, `{"tether_attempt":1}`))
		assert.Equal(t, err != nil, p.jobs[1] != nil, "said to be alive until its outcome is stored")
		return rows, err
	}
	synctest.Test(t, func(t *testing.T) {
		rows, err := store(t.Context(), t.Context(), 45*time.Second)
		require.NoError(t, err)
		assert.Len(t, rows, 1)

		_, err = store(t.Context(), t.Context(), time.Hour)
		require.ErrorIs(t, err, errAway, "an outcome that can never be stored does not block others forever")

		life, end := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Second, end)
		began := time.Now()
		_, err = store(t.Context(), life, time.Hour)
		require.ErrorIs(t, err, context.Canceled, "River does not try it again")
		assert.Equal(t, 20*time.Second, time.Since(began))
	})
}

// What is read of a job's metadata is the same whether there is anything else in it.
func TestNotes(t *testing.T) {
	for metadata, want := range map[string]struct {
		attempt int
		rest    string
	}{
		`{"tether_attempt":7}`:                    {7, ""},
		`{"tether_attempt":7,"tether_dead":7}`:    {7, `{"tether_dead":7}`},
		`{"output":{"a":1},"tether_attempt":12}`:  {12, `{"output":{"a":1}}`},
		`{ "tether_attempt": 3 }`:                 {3, ""},
		`{"tether_attempt":"7"}`:                  {0, `{"tether_attempt":"7"}`},
		`{"tether_attempt":1.5}`:                  {0, `{"tether_attempt":1.5}`},
		`{"tether_attempt":1}}`:                   {0, `{"tether_attempt":1}}`},
		`{"other":1}`:                             {0, `{"other":1}`},
		``:                                        {0, ``},
		`{"tether_attempt":99999999999999999999}`: {0, `{"tether_attempt":99999999999999999999}`},
	} {
		attempt, rest := attemptOf([]byte(metadata))
		assert.Equal(t, want.attempt, attempt, metadata)
		assert.Equal(t, want.rest, string(rest), metadata)
	}
	for metadata, want := range map[string]notes{
		`{}`: {}, ``: {}, `{"tether_crashed":"x"}`: {}, `{"river:log":[]}`: {},
		`{"river:log":[],"tether_pardoned":2, "tether_crashed":3,"tether_dead":4}`: {Pardoned: 2, Crashed: 3, Dead: 4},
	} {
		assert.Equal(t, want, notesOf([]byte(metadata)), metadata)
	}
}
