package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/internal/river"
	"github.com/seed-2e639f12/tether/durable/sqlite"
)

// guard is against hanging alone.
const guard = 2 * time.Minute

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, path string) *sqlite.Engine {
	e, err := sqlite.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "jobs.db") }

func message(id string) durable.Message {
	return durable.Message{ID: id, Name: "job", Args: json.RawMessage("null")}
}

func put(t testing.TB, e *sqlite.Engine, m durable.Message) {
	r, err := e.Enqueue(bounded(t), m)
	require.NoError(t, err)
	require.Equal(t, durable.Receipt{ID: m.ID}, r)
}

type handle = func(ctx context.Context, m durable.Delivery) durable.Outcome

func consume(t testing.TB, e *sqlite.Engine, h handle) durable.Consumer {
	c, err := e.Consume(bounded(t), durable.Consumption{Concurrency: 4, Handle: h, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Stop(bounded(t))) })
	return c
}

// parked returns a handler that says what it was given, and waits.
func parked(t testing.TB) (handle, <-chan string, func()) {
	said, free := make(chan string, 100), make(chan struct{})
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	return func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		said <- fmt.Sprintf("%s %d", m.ID, attempt)
		<-free
		return durable.Outcome{}
	}, said, release
}

func receive(t testing.TB, said <-chan string) string {
	select {
	case s := <-said:
		return s
	case <-time.After(guard):
		require.FailNow(t, "nothing comes")
		return ""
	}
}

type row struct {
	state, errors string
	attempt       int
}

// rows returns what River has, by the job's ID.
func rows(t testing.TB, e *sqlite.Engine) map[string]row {
	found, err := e.DB().Query(`SELECT json_extract(args, '$.id'), state, attempt, coalesce(errors, '') FROM river_job`)
	require.NoError(t, err)
	defer found.Close()
	all := make(map[string]row)
	for found.Next() {
		var id string
		var r row
		require.NoError(t, found.Scan(&id, &r.state, &r.attempt, &r.errors))
		all[id] = r
	}
	require.NoError(t, found.Err())
	return all
}

const childEnv = "TETHER_SQLITE_CHILD"

// child is a process that plays a role on a file, until its stdin ends. What it says is
// on its stdout.
type child struct {
	cmd  *exec.Cmd
	said chan string
}

func spawn(t testing.TB, role, path string, env ...string) *child {
	executable, err := os.Executable()
	require.NoError(t, err)
	c := &child{exec.Command(executable, path), make(chan string, 100)}
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+role), env...)
	c.cmd.Stderr = t.Output()
	stdin, err := c.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	go func() {
		defer close(c.said)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			c.said <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		if t.Failed() {
			_ = c.cmd.Process.Kill() // it may stand still
		}
		c.end()
	})
	return c
}

// end waits for the process and returns how it has ended. It may be called again.
func (c *child) end() error {
	for range c.said {
	}
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Wait()
	}
	if !c.cmd.ProcessState.Success() {
		return errors.New(c.cmd.ProcessState.String())
	}
	return nil
}

func (c *child) kill(t testing.TB) {
	require.NoError(t, c.cmd.Process.Kill())
	_ = c.end()
}

func play(role, path string) error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	e, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	consume := func(h handle) (durable.Consumer, error) { // one: another's job is not to be taken
		return e.Consume(ctx, durable.Consumption{Concurrency: 1, Handle: h, Logger: slog.New(slog.NewTextHandler(os.Stdout, nil))})
	}
	switch role {
	case "enqueue":
		if _, err := e.Enqueue(ctx, message(fmt.Sprint(os.Getpid()))); err != nil {
			return err
		}
		return e.Close()
	case "hang":
		_, err := consume(func(_ context.Context, m durable.Delivery) durable.Outcome {
			attempt := m.Attempt
			fmt.Println(m.ID, attempt)
			select {}
		})
		if err != nil {
			return err
		}
		select {}
	case "fail on signal":
		return failOnSignal(ctx, consume)
	case "outcomes":
		outcomes := make(chan durable.Outcome, 10)
		for _, o := range []durable.Outcome{
			{Verdict: durable.Return}, {Verdict: durable.Return, After: time.Millisecond}, {Verdict: durable.Retry},
			{Verdict: durable.Retry, After: time.Millisecond}, {Verdict: durable.Done},
		} {
			outcomes <- o
		}
		done := make(chan struct{})
		c, err := consume(func(context.Context, durable.Delivery) durable.Outcome {
			o := <-outcomes
			if o.Verdict == durable.Done {
				close(done)
			}
			return o
		})
		if err != nil {
			return err
		}
		m := message("outcomes")
		m.RunAt = time.Now().Add(50 * time.Millisecond)
		if _, err := e.Enqueue(ctx, m); err != nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return errors.New("the job does not come again")
		}
		return errors.Join(c.Stop(ctx), e.Close())
	}
	return fmt.Errorf("no role %q", role)
}

func TestAfterACrash(t *testing.T) {
	t.Parallel()
	path := file(t)
	e := open(t, path)
	put(t, e, message("job"))
	crashed := spawn(t, "hang", path)
	require.Equal(t, "job 1", receive(t, crashed.said))

	t.Run("a job that runs is left alone while its process lives", func(t *testing.T) {
		h, said, release := parked(t)
		sibling := consume(t, e, h)
		// What is handed back is handed back by now.
		assert.Equal(t, row{"running", "", 1}, rows(t, e)["job"])
		put(t, e, message("other"))
		require.Equal(t, "other 1", receive(t, said))
		again := consume(t, e, h) // of the same process
		assert.Equal(t, row{"running", "", 1}, rows(t, e)["job"])
		assert.Equal(t, row{"running", "", 1}, rows(t, e)["other"])

		crashed.kill(t)
		third := consume(t, open(t, path), h)
		assert.Equal(t, row{"running", "", 1}, rows(t, e)["other"], "of a process that lives")
		assert.Equal(t, row{"running", "", 1}, rows(t, e)["job"], "of a process that is gone, but others are at work")
		release()
		for _, c := range []durable.Consumer{sibling, again, third} {
			require.NoError(t, c.Stop(bounded(t)))
		}
		assert.Empty(t, said)
	})
	t.Run("it runs at once when no worker is at work, as the next attempt", func(t *testing.T) {
		_, err := e.DB().Exec(`INSERT OR REPLACE INTO river_leader (elected_at, expires_at, leader_id, name) VALUES (datetime('now'), datetime('now', '+1 hour'), 'tether-crashed', 'default')`)
		require.NoError(t, err)
		h, said, release := parked(t)
		c := consume(t, e, h)
		require.Equal(t, "job 2", receive(t, said))
		assert.Contains(t, rows(t, e)["job"].errors, `"attempt":1,"error":"the process ended while it ran"`)
		require.Eventually(t, func() bool {
			var leader string
			err := e.DB().QueryRow(`SELECT leader_id FROM river_leader`).Scan(&leader)
			return err == nil && leader != "tether-crashed"
		}, guard, 10*time.Millisecond, "a leader that lives, though the term of the crashed one is not over")
		release()
		require.NoError(t, c.Stop(bounded(t)))
		assert.Equal(t, "completed", rows(t, e)["job"].state)
	})
}

// What a live worker runs goes on, however old, though another worker looks for the jobs of
// dead ones, and finds one.
func TestALiveWorkerKeepsItsJobs(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	h, said, release := parked(t)
	defer release()
	consume(t, e, h)
	consume(t, e, h)
	put(t, e, message("alive"))
	require.Equal(t, "alive 1", receive(t, said))
	exec := func(query string) {
		_, err := e.DB().Exec(query)
		require.NoError(t, err)
	}
	exec(`UPDATE tether_worker SET seen = seen - 1`)
	require.Eventually(t, func() (all bool) {
		require.NoError(t, e.DB().QueryRow(`SELECT min(seen) > julianday('now') - 0.5 FROM tether_worker`).Scan(&all))
		return all
	}, guard, 10*time.Millisecond, "both are seen again")
	dead := message("dead")
	dead.RunAt = time.Now().Add(time.Hour)
	put(t, e, dead)
	exec(`UPDATE river_job SET state = 'running', attempt = 1, attempted_by = '["tether-dead"]' WHERE state = 'scheduled'`)
	exec(`UPDATE river_job SET attempted_at = datetime('now', 'subsec', '-1 hour'), scheduled_at = datetime('now', 'subsec')`)
	exec(`UPDATE tether_worker SET since = since - 1`) // so that the test need not wait
	assert.Equal(t, "dead 2", receive(t, said))
	assert.Equal(t, row{"running", "", 1}, rows(t, e)["alive"])
	assert.Contains(t, rows(t, e)["dead"].errors, "the process ended while it ran")
}

func beat(t *testing.T, p river.Presence) {
	t.Helper()
	_, err := p.Beat(t.Context())
	require.NoError(t, err)
}

func TestPresence(t *testing.T) {
	t.Parallel()
	path := file(t)
	e := open(t, path)
	exec := func(query string) {
		_, err := e.DB().Exec(query)
		require.NoError(t, err)
	}
	enter := func(id string) river.Presence {
		p, err := e.Enter(t.Context(), path+".other", id)
		require.NoError(t, err)
		t.Cleanup(p.End)
		beat(t, p)
		return p
	}
	in := func(state string) (ids []int) {
		for id, r := range rows(t, e) {
			if r.state == state {
				n, err := strconv.Atoi(id)
				require.NoError(t, err)
				ids = append(ids, n)
			}
		}
		slices.Sort(ids)
		return ids
	}
	seen := func() (at float64) {
		require.NoError(t, e.DB().QueryRow(`SELECT seen FROM tether_worker WHERE id = 'tether-me'`).Scan(&at))
		return at
	}
	me, other := enter("tether-me"), enter("tether-other")
	enter("tether-dead")
	rescued := func(mine ...int64) int64 {
		n, err := me.Rescue(t.Context(), mine)
		require.NoError(t, err)
		return n
	}
	const second = "1.0 / 86400"
	exec(`UPDATE tether_worker SET seen = seen - 31 * ` + second + ` WHERE id = 'tether-dead'`)
	const now, old = `datetime('now', 'subsec')`, `datetime('now', 'subsec', '-31 seconds')`
	for id, row := range []string{
		1:  `'["tether-me"]', 'tether', ` + old + `, '{}'`,
		2:  `'["tether-me"]', 'tether', ` + old + `, '{}'`, // of which it does not know
		3:  `'["tether-me"]', 'tether', ` + now + `, '{}'`,
		4:  `'["tether-dead", "tether-other"]', 'tether', ` + old + `, '{}'`,
		5:  `'["tether-other", "tether-dead"]', 'of its own', ` + old + `, '{}'`,
		6:  `'["tether-dead"]', 'tether', ` + now + `, '{}'`,
		7:  `'["foreign"]', 'foreign', ` + old + `, '{}'`,
		8:  `'["tether-forgotten"]', 'tether', ` + old + `, '{}'`,
		9:  `NULL, 'tether', NULL, '{}'`,
		10: `'["tether-dead"]', 'tether', ` + old + `, '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'`,
	} {
		if row != "" {
			exec(fmt.Sprintf(`INSERT INTO river_job (id, args, attempt, created_at, max_attempts, state, attempted_by, kind, attempted_at, metadata)
				VALUES (%d, json_object('id', '%[1]d'), 1, datetime('now', '-1 hour'), 9, 'running', %s)`, id, row))
		}
	}

	assert.Zero(t, rescued(1), "it has only just come")
	exec(`UPDATE tether_worker SET since = since - 31 * ` + second + `, seen = seen - 16 * ` + second + ` WHERE id = 'tether-me'`)
	assert.Zero(t, rescued(1), "it was not seen just now")
	beat(t, me)
	assert.Zero(t, rescued(1), "it has only just come back")
	exec(`UPDATE tether_worker SET since = since - 1, seen = seen + 1 WHERE id = 'tether-me'`)
	beat(t, me)
	assert.Zero(t, rescued(1), "the clock was set back")
	exec(`UPDATE tether_worker SET since = since - 31 * ` + second + `, seen = seen - ` + second + ` WHERE id = 'tether-me'`)
	before := seen()
	beat(t, me)
	require.Greater(t, seen(), before)

	assert.EqualValues(t, 5, rescued(1))
	assert.Equal(t, []int{2, 5, 8, 9}, in("available"), "those that it has lost, of a dead worker, of a forgotten one, and of none")
	assert.Equal(t, []int{10}, in("cancelled"), "as River was asked")
	other.End()
	assert.EqualValues(t, 1, rescued(1), "a worker that has ended has no jobs")
	assert.Equal(t, []int{2, 4, 5, 8, 9}, in("available"))
}

func TestManyOpenANewFileAtOnce(t *testing.T) {
	t.Parallel()
	const processes, here = 6, 6
	path := file(t)
	var children []*child
	for range processes {
		children = append(children, spawn(t, "enqueue", path))
	}
	var group sync.WaitGroup
	for i := range here {
		group.Go(func() {
			e, err := sqlite.Open(path)
			if assert.NoError(t, err) {
				_, err := e.Enqueue(bounded(t), message(fmt.Sprint("here ", i)))
				assert.NoError(t, err)
				assert.NoError(t, e.Close())
			}
		})
	}
	group.Wait()
	for _, c := range children {
		assert.NoError(t, c.end())
	}
	assert.Len(t, rows(t, open(t, path)), processes+here)
}

// River hands over some times in the zone of the process, and SQLite compares text.
func TestZones(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"UTC", "Asia/Tokyo", "America/Los_Angeles"} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			assert.NoError(t, spawn(t, "outcomes", file(t), "TZ="+zone).end())
		})
	}
}

func TestEnqueueTx(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	e := open(t, file(t))
	_, err := e.DB().Exec(`CREATE TABLE orders (id integer PRIMARY KEY)`)
	require.NoError(t, err)
	job := durable.Define("invoice", func(context.Context, int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	place := func(order int, finish func(*sql.Tx) error) durable.Receipt {
		tx, err := e.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = tx.Exec(`INSERT INTO orders VALUES (?)`, order)
		require.NoError(t, err)
		receipt, err := sqlite.EnqueueTx(ctx, e, tx, job, order, durable.Unique(fmt.Sprint("order-", order)))
		require.NoError(t, err)
		assert.NotContains(t, rows(t, e), receipt.ID, "before the transaction has ended")
		require.NoError(t, finish(tx))
		return receipt
	}
	dropped := place(1, (*sql.Tx).Rollback)
	assert.Empty(t, rows(t, e))
	kept := place(1, (*sql.Tx).Commit)
	assert.Contains(t, rows(t, e), kept.ID)
	again := place(2, func(tx *sql.Tx) error {
		receipt, err := sqlite.EnqueueTx(ctx, e, tx, job, 1, durable.Unique("order-1"))
		assert.Equal(t, durable.Receipt{ID: kept.ID, Duplicate: true}, receipt)
		return errors.Join(err, tx.Commit())
	})
	assert.Len(t, rows(t, e), 2)
	assert.NotContains(t, rows(t, e), dropped.ID)

	said := make(chan string, 2)
	consume(t, e, func(_ context.Context, m durable.Delivery) durable.Outcome {
		said <- m.ID
		return durable.Outcome{}
	})
	assert.ElementsMatch(t, []string{kept.ID, again.ID}, []string{receive(t, said), receive(t, said)})
}

func TestNoFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	text := filepath.Join(folder, "text.db")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("This is no database.\n", 100)), 0o600))
	for path, wants := range map[string]string{
		"":                                  "a file is needed",
		":memory:":                          "a file is needed",
		folder:                              "is a directory",
		filepath.Join(folder, "no", "jobs"): "no such file or directory",
		text:                                "file is not a database",
		"/proc/jobs.db":                     "/proc/jobs.db",
	} {
		_, err := sqlite.Open(path)
		require.ErrorContains(t, err, wants)
		require.ErrorContains(t, err, fmt.Sprintf("open %q", path))
	}
	_, err := sqlite.Config{Queue: "Not A Queue"}.Open(filepath.Join(folder, "jobs.db"))
	require.ErrorIs(t, err, durable.ErrInvalid)
	odd := filepath.Join(folder, "a?b#c%20 d&e=ü.db")
	put(t, open(t, odd), message("job"))
	require.FileExists(t, odd)
}

func TestClosed(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	job := durable.Define("job", func(context.Context, int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	h, said, release := parked(t)
	c := consume(t, e, h)
	put(t, e, message("job"))
	require.Equal(t, "job 1", receive(t, said))
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	_, err := sqlite.EnqueueTx(bounded(t), e, new(sql.Tx), job, 1)
	require.ErrorIs(t, err, durable.ErrClosed)
	_, err = sqlite.EnqueueTx(bounded(t), e, nil, job, 1)
	require.ErrorIs(t, err, durable.ErrInvalid)
	_, err = sqlite.EnqueueTx(bounded(t), nil, new(sql.Tx), job, 1)
	require.ErrorIs(t, err, durable.ErrInvalid)
	_, err = job.Enqueue(bounded(t), e, 1)
	require.ErrorIs(t, err, durable.ErrClosed)
	// The consumer was not stopped before, as it should have been.
	release()
	select {
	case <-c.Done():
	case <-time.After(guard):
		require.FailNow(t, "the consumer does not end")
	}
	require.ErrorIs(t, c.Err(), durable.ErrClosed)
}

// A lock file beside the link would let two workers run the same jobs.
func TestOneLockForAllNames(t *testing.T) {
	t.Parallel()
	path := file(t)
	link := filepath.Join(t.TempDir(), "link.db")
	h, said, release := parked(t)
	e := open(t, path)
	consume(t, e, h)
	put(t, e, message("job"))
	require.Equal(t, "job 1", receive(t, said))
	require.NoError(t, os.Symlink(path, link))
	other := open(t, link)
	consume(t, other, h)
	t.Cleanup(release)
	assert.Equal(t, row{"running", "", 1}, rows(t, other)["job"])
	assert.NoFileExists(t, link+".lock")
}

// SQLite, while it waits for a lock, ignores the end of a context.
func TestEnqueueHeedsItsContext(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	tx, err := e.DB().Begin()
	require.NoError(t, err)
	for _, key := range []string{"key", ""} {
		m := message("job")
		m.Unique = key
		ctx, cancel := context.WithTimeout(bounded(t), time.Millisecond)
		_, err = e.Enqueue(ctx, m)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.NoError(t, tx.Rollback())
	assert.Empty(t, rows(t, e), "no caller waits for it")
}

// What has become of a job is in River's table, for River's tools.
func TestStates(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	said := make(chan string, 10)
	c := consume(t, e, func(_ context.Context, m durable.Delivery) durable.Outcome {
		said <- m.ID
		if m.ID == "done" {
			return durable.Outcome{}
		}
		return durable.Outcome{Verdict: durable.Dead, Err: errors.New("the \x00 cause")}
	})
	put(t, e, message("done"))
	put(t, e, message("dead"))
	receive(t, said)
	receive(t, said)
	_, err := e.DB().Exec(`INSERT INTO river_job (args, kind, max_attempts, queue) VALUES ('{"no":"message"}', 'tether', 25, 'tether')`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var n int
		err := e.DB().QueryRow(`SELECT count(*) FROM river_job WHERE finalized_at IS NOT NULL`).Scan(&n)
		return err == nil && n == 3
	}, guard, 10*time.Millisecond)
	require.NoError(t, c.Stop(bounded(t)))
	var state, failures string
	require.NoError(t, e.DB().QueryRow(`SELECT state, errors FROM river_job WHERE args LIKE '%no%message%'`).Scan(&state, &failures))
	assert.Equal(t, "discarded", state)
	assert.Contains(t, failures, "message without id or name")
	_, err = e.DB().Exec(`DELETE FROM river_job WHERE args LIKE '%no%message%'`)
	require.NoError(t, err)
	all := rows(t, e)
	assert.Equal(t, "completed", all["done"].state)
	assert.Equal(t, "discarded", all["dead"].state)
	assert.Contains(t, all["dead"].errors, "the \uFFFD cause")
	assert.Empty(t, said)
}

// A file of River v0.31 and of an earlier version of this package, with a job that a killed
// worker ran, one that waits, one with a unique key, and one that is due later.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	path := file(t)
	script, err := os.ReadFile("testdata/river-v0.31.sql")
	require.NoError(t, err)
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(string(script))
	require.NoError(t, errors.Join(err, db.Close()))

	e := open(t, path)
	again := message("another")
	again.Unique = "key"
	r, err := e.Enqueue(bounded(t), again)
	require.NoError(t, err)
	assert.Equal(t, durable.Receipt{ID: "unique", Duplicate: true}, r)
	put(t, e, message("new"))
	h, said, release := parked(t)
	release()
	c, err := e.Consume(bounded(t), durable.Consumption{Concurrency: 1, Handle: h, Names: []string{"job"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"running 2", "waiting 1", "unique 1", "new 1"}, []string{receive(t, said), receive(t, said), receive(t, said), receive(t, said)})
	require.NoError(t, c.Stop(bounded(t)))
	assert.Equal(t, row{"scheduled", "", 0}, rows(t, e)["later"])
	r, err = e.Enqueue(bounded(t), again)
	require.NoError(t, err)
	assert.Equal(t, durable.Receipt{ID: "another"}, r)
}

// River's tools tell jobs apart by their kind.
func TestKindIsTheName(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	long := strings.Repeat("ä", 64)
	names := []string{"invoice", "send mail", strings.Repeat("n", 128), strings.Repeat("n", 127), long}
	for _, n := range names {
		m := message(n)
		m.Name = n
		put(t, e, m)
	}
	kinds := func() (all []string) {
		found, err := e.DB().Query(`SELECT kind FROM river_job ORDER BY id`)
		require.NoError(t, err)
		defer found.Close()
		for found.Next() {
			var kind string
			require.NoError(t, found.Scan(&kind))
			all = append(all, kind)
		}
		return all
	}()
	assert.Equal(t, []string{"invoice", "send mail"}, kinds[:2])
	assert.Equal(t, names[3], kinds[3])
	assert.NotEqual(t, kinds[2], kinds[3])
	h, said, release := parked(t)
	release()
	c, err := e.Consume(bounded(t), durable.Consumption{Concurrency: 1, Handle: h, Names: names})
	require.NoError(t, err)
	for _, n := range names {
		assert.Equal(t, n+" 1", receive(t, said))
	}
	require.NoError(t, c.Stop(bounded(t)))
}

// What a worker does not have it leaves in the queue, at no cost.
func TestOnlyKnownNames(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	put(t, e, message("other"))
	mine := message("mine")
	mine.Name = "mine"
	put(t, e, mine)
	h, said, release := parked(t)
	release()
	c, err := e.Consume(bounded(t), durable.Consumption{Concurrency: 1, Handle: h, Names: []string{"mine"}})
	require.NoError(t, err)
	assert.Equal(t, "mine 1", receive(t, said))
	require.NoError(t, c.Stop(bounded(t)))
	assert.Empty(t, said)
	assert.Equal(t, row{"available", "", 0}, rows(t, e)["other"])
}

// A dead job runs again when Tether, or a tool of River's, says so.
func TestRetryDead(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	ctx := bounded(t)
	ran := make(chan durable.Meta, 10)
	job := durable.Define("job", func(ctx context.Context, _ int) error {
		m, _ := durable.MetaFrom(ctx)
		ran <- m
		if m.Attempt == 4 {
			return nil
		}
		return errors.New("no")
	}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 2, Backoff: func(int, error) time.Duration { return 0 }})
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: reg, Logger: slog.New(slog.DiscardHandler)}, job)
	require.NoError(t, err)
	require.NoError(t, w.Start(ctx))
	t.Cleanup(func() { assert.NoError(t, w.Stop(bounded(t))) })
	receipt, err := job.Enqueue(ctx, e, 1)
	require.NoError(t, err)
	is := func(state string) {
		require.Eventually(t, func() bool { return rows(t, e)[receipt.ID].state == state }, guard, 10*time.Millisecond)
	}
	is("discarded")
	require.ErrorIs(t, durable.RetryDead(ctx, e, "another"), durable.ErrNotDead)
	require.NoError(t, durable.RetryDead(ctx, e, receipt.ID))
	require.Eventually(t, func() bool { return rows(t, e)[receipt.ID].attempt == 3 }, guard, 10*time.Millisecond)
	is("discarded")

	client, err := riverqueue.NewClient(riversqlite.New(e.DB()), &riverqueue.Config{})
	require.NoError(t, err)
	_, err = client.JobRetry(ctx, 1)
	require.NoError(t, err)
	is("completed")
	for attempt := 1; attempt <= 4; attempt++ {
		m := <-ran
		assert.Equal(t, attempt, m.Attempt)
		assert.Equal(t, max(2, attempt), m.MaxAttempts)
	}
	require.ErrorIs(t, durable.RetryDead(ctx, e, receipt.ID), durable.ErrNotDead, "it is done")
}

// Jobs that were stored before the clock was set back do not wait for it; those with a
// RunAt do.
func TestTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	put(t, e, message("job"))
	timed := message("timed")
	timed.RunAt = time.Now().Add(20 * time.Second)
	put(t, e, timed)
	_, err := e.DB().Exec(`UPDATE river_job SET created_at = datetime('now', 'subsec', '+300 seconds'), scheduled_at = datetime('now', 'subsec', '+300 seconds')`)
	require.NoError(t, err)
	h, said, release := parked(t)
	release()
	c := consume(t, e, h)
	assert.Equal(t, "job 1", receive(t, said))
	require.NoError(t, c.Stop(bounded(t)))
	assert.Equal(t, "available", rows(t, e)["timed"].state)
}

// SQLite compares times as text.
func TestTheFarFuture(t *testing.T) {
	t.Parallel()
	e := open(t, file(t))
	job := durable.Define("job", func(context.Context, int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	for _, at := range []time.Time{time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC), time.Now().Add(100 * 365 * 24 * time.Hour)} {
		r, err := job.Enqueue(bounded(t), e, 1, durable.RunAt(at))
		require.NoError(t, err)
		assert.Equal(t, "scheduled", rows(t, e)[r.ID].state)
	}
	var due int
	require.NoError(t, e.DB().QueryRow(`SELECT count(*) FROM river_job WHERE scheduled_at <= datetime('now', '+50 years')`).Scan(&due))
	assert.Zero(t, due)
}

// commits counts the transactions in the write-ahead log, whose format SQLite documents
// (fileformat2.html, 4): a header of 32 bytes, and frames of 24 bytes and a page. The
// last frame of a transaction says how large the file is then. The log must not have been
// started anew, which SQLite does after a thousand pages.
func commits(t testing.TB, path string) (n int) {
	log, err := os.ReadFile(path + "-wal")
	require.NoError(t, err)
	require.Greater(t, len(log), 32)
	page := int(binary.BigEndian.Uint32(log[8:]))
	for frame := log[32:]; len(frame) >= 24+page; frame = frame[24+page:] {
		if binary.BigEndian.Uint32(frame[4:]) > 0 {
			n++
		}
	}
	return n
}

// Whoever enqueues while another does shares the next commit, but not the next failure.
func TestEnqueueTogether(t *testing.T) {
	t.Parallel()
	const jobs = 60
	path := file(t)
	e := open(t, path)
	ctx := bounded(t)
	// together enqueues at once, while a transaction makes all wait.
	together := func(ids []string, check func(id string, r durable.Receipt, err error), meanwhile func()) {
		tx, err := e.DB().Begin()
		require.NoError(t, err)
		var begun, group sync.WaitGroup
		for _, id := range ids {
			begun.Add(1)
			group.Go(func() {
				begun.Done()
				r, err := e.Enqueue(ctx, message(id))
				check(id, r, err)
			})
		}
		begun.Wait()
		meanwhile()
		require.NoError(t, tx.Commit())
		group.Wait()
	}
	named := func(prefix string) (ids []string) {
		for i := range jobs {
			ids = append(ids, fmt.Sprint(prefix, i))
		}
		return ids
	}
	stored := func(id string, r durable.Receipt, err error) {
		assert.NoError(t, err)
		assert.Equal(t, durable.Receipt{ID: id}, r)
	}

	t.Run("they share a commit, and each waits as long as it likes", func(t *testing.T) {
		before := commits(t, path)
		together(named("good "), stored, func() {
			leaves, leave := context.WithCancel(ctx)
			left := make(chan error)
			go func() {
				_, err := e.Enqueue(leaves, message("left"))
				left <- err
			}()
			leave()
			require.ErrorIs(t, <-left, context.Canceled)
		})
		commits := commits(t, path) - before
		require.Positive(t, commits)
		assert.Less(t, commits, jobs/2)
		t.Logf("%d jobs in %d commits", jobs, commits)
	})
	t.Run("one that cannot be stored harms no other", func(t *testing.T) {
		_, err := e.DB().Exec(`CREATE TRIGGER poison BEFORE INSERT ON river_job WHEN json_extract(NEW.args, '$.id') LIKE 'poison%' BEGIN SELECT raise(ABORT, 'no poison'); END`)
		require.NoError(t, err)
		before := len(rows(t, e))
		together(append(named("more "), "poison 1", "poison 2"), func(id string, r durable.Receipt, err error) {
			if !strings.HasPrefix(id, "poison") {
				stored(id, r, err)
				return
			}
			assert.ErrorContains(t, err, "no poison")
			assert.Zero(t, r)
		}, func() {})
		assert.Len(t, rows(t, e), before+jobs)
	})
}

func BenchmarkEnqueue(b *testing.B) {
	for _, goroutines := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			e := open(b, file(b))
			var group sync.WaitGroup
			work := make(chan int)
			for range goroutines {
				group.Go(func() {
					for i := range work {
						if _, err := e.Enqueue(context.Background(), message(fmt.Sprint(i))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				work <- i
			}
			close(work)
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}
