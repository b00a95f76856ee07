package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// auditLines reads the audit log that the shop in a folder has written.
func auditLines(t *testing.T, dir string) []auditLine {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	require.NoError(t, err)
	var lines []auditLine
	for text := range bytes.Lines(text) {
		var line auditLine
		require.NoError(t, json.Unmarshal(text, &line), string(text))
		lines = append(lines, line)
	}
	return lines
}

// audited waits until the log has caught up, and returns it.
func (ts *testShop) audited() []auditLine {
	ts.t.Helper()
	require.Eventually(ts.t, func() bool {
		stats := ts.audit.pool.Stats()
		return stats.Held+stats.Queued+stats.Running == 0
	}, time.Minute, time.Millisecond)
	return auditLines(ts.t, ts.cfg.data)
}

func TestAudit(t *testing.T) {
	ts := openShop(t)
	var picture bytes.Buffer
	require.NoError(t, png.Encode(&picture, samplePicture(20, 10)))

	order := ts.post("/orders", orderBy("ann"), "Idempotency-Key", "a-1")
	ts.post("/orders", orderBy("ann"), "Idempotency-Key", "a-1")
	imported := ts.post("/imports", csvHeader+"a,A,1,1\n")
	resized := ts.post("/images?width=10", picture.String())

	// None of these is accepted.
	ts.do("POST", "/orders", orderBy("bob"), "Idempotency-Key", "a-1").problem(t, http.StatusUnprocessableEntity)
	ts.do("POST", "/orders", `{}`).problem(t, http.StatusUnprocessableEntity)
	ts.do("POST", "/orders", `{"customer":"ann@example.com","lines":[{"sku":"flying carpet","quantity":1}]}`).problem(t, http.StatusUnprocessableEntity)
	ts.do("POST", "/imports", "nonsense").problem(t, http.StatusUnprocessableEntity)
	ts.do("POST", "/images", "nonsense").problem(t, http.StatusUnsupportedMediaType)

	lines := ts.audited()
	for i := range lines {
		require.WithinDuration(t, time.Now(), lines[i].At, time.Hour)
		lines[i].At = time.Time{}
	}
	require.Equal(t, []auditLine{
		{Who: "ann@example.com", What: "POST /orders", URL: order, Answer: "sent"},
		{Who: "ann@example.com", What: "POST /orders", URL: order, Answer: "sent", Replayed: true},
		{Who: "127.0.0.1", What: "POST /imports", URL: imported, Answer: "sent"},
		{Who: "127.0.0.1", What: "POST /images", URL: resized, Answer: "sent"},
	}, lines)

	var shown struct{ Lines []auditLine }
	require.NoError(t, json.Unmarshal(ts.do("GET", "/audit", "").body, &shown))
	require.Len(t, shown.Lines, 4)
	require.Equal(t, resized, shown.Lines[3].URL)
}

// Nobody waits for the log, and what it cannot write yet is written in the drain.
func TestAuditIsWrittenInTheDrain(t *testing.T) {
	ts := openShop(t)
	ts.audit.pool.Pause()
	var urls, written []string
	for i := range 5 {
		urls = append(urls, ts.post("/orders", orderBy(fmt.Sprint("ann", i))))
	}
	require.Empty(t, auditLines(t, ts.cfg.data))

	var drained sync.WaitGroup
	drained.Go(func() { _ = ts.reg.Shutdown(context.Background()) }) // end looks at the error
	require.Eventually(t, func() bool { return !ts.reg.Ready() }, time.Minute, time.Millisecond)
	ts.audit.pool.Resume()
	drained.Wait()
	for _, line := range auditLines(t, ts.cfg.data) {
		written = append(written, line.URL)
	}
	require.ElementsMatch(t, urls, written)
}

// What could not be noted is not accepted, and leaves nothing.
func TestAuditFull(t *testing.T) {
	ts := openShop(t)
	taken, giveBack := ts.fill(ts.audit.pool)
	var picture bytes.Buffer
	require.NoError(t, png.Encode(&picture, samplePicture(20, 10)))
	for path, body := range map[string]string{
		"/orders": orderBy("ann"), "/imports": csvHeader + "a,A,1,1\n", "/images": picture.String(),
	} {
		a := ts.do("POST", path, body)
		a.problem(t, http.StatusServiceUnavailable)
		require.Regexp(t, `^[1-9]\d*$`, a.Header.Get("Retry-After"))
	}
	require.Equal(t, tally{}, ts.tally())
	left, err := os.ReadDir(ts.spool.dir)
	require.NoError(t, err)
	require.Empty(t, left)
	stats := ts.reg.Stats()
	require.Equal(t, taken, stats.Held+stats.Queued+stats.Running, "no task is left of what was refused")

	giveBack()
	ts.post("/orders", orderBy("ann"))
}

// fill takes all places of a pool. giveBack is called at the end of the test at the latest.
func (ts *testShop) fill(pool *tether.Pool) (taken int, giveBack func()) {
	ts.t.Helper()
	var places []*tether.Task
	giveBack = func() {
		for _, place := range places {
			place.Cancel(nil)
		}
	}
	ts.t.Cleanup(giveBack)
	for {
		place, err := pool.Go(context.Background(), "place", func(context.Context) error { return nil }, tether.Hold())
		if errors.Is(err, tether.ErrFull) {
			return len(places), giveBack
		}
		require.NoError(ts.t, err)
		places = append(places, place)
	}
}

// An order that fails for a reason of ours has no line, and holds no place.
func TestAuditOfAnOrderThatCannotBeStored(t *testing.T) {
	ts := openShop(t)
	require.NoError(t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TRIGGER full BEFORE INSERT ON orders BEGIN SELECT raise(ABORT, 'the disk is full'); END`)
		return err
	}))
	ts.do("POST", "/orders", orderBy("ann")).problem(t, http.StatusInternalServerError)
	require.Empty(t, ts.audited())
	require.Equal(t, uint64(1), ts.audit.pool.Stats().Dropped)
}

// A client that disconnects before the response may have ordered all the same.
func TestAuditOfAClientThatHasGone(t *testing.T) {
	ts := openShop(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	free := sync.OnceFunc(func() { close(goOn) })
	defer free()
	wg.Go(func() { // the store is busy until the client has gone
		_ = ts.store.update(context.Background(), func(*sql.Tx) error {
			close(inside)
			<-goOn
			return nil
		})
	})
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "POST", ts.web.URL+"/orders", strings.NewReader(orderBy("ann")))
	require.NoError(t, err)
	answered := make(chan error, 1)
	wg.Go(func() {
		res, err := ts.web.Client().Do(req)
		if err == nil {
			_ = res.Body.Close()
		}
		answered <- err
	})
	require.Eventually(t, func() bool { return len(ts.store.writes) == 1 }, time.Minute, time.Millisecond, "the order waits for the store")
	cancel()
	require.ErrorIs(t, <-answered, context.Canceled)
	require.Eventually(t, func() bool { return ts.gone.Load() == 1 }, time.Minute, time.Millisecond)
	free()
	require.Eventually(t, func() bool { return ts.tally().Invoiced == 1 }, time.Minute, time.Millisecond)
	require.Len(t, ts.audited(), 1)
}

// The file stays one of whole lines, whatever has happened to it.
func TestAuditLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	urls := func(a *auditLog) (urls []string) {
		t.Helper()
		texts, err := a.last(3)
		require.NoError(t, err)
		for _, text := range texts {
			var line auditLine
			require.NoError(t, json.Unmarshal(text, &line))
			urls = append(urls, line.URL)
		}
		return urls
	}
	open := func() *auditLog {
		a, err := openAuditLog(path)
		require.NoError(t, err)
		return &a
	}

	a := open()
	require.Empty(t, urls(a))
	require.NoError(t, a.write(&auditLine{URL: "/1"}))
	require.NoError(t, a.close())

	t.Run("is continued", func(t *testing.T) {
		a := open()
		require.NoError(t, a.write(&auditLine{URL: "/2"}))
		require.Equal(t, []string{"/1", "/2"}, urls(a))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, 2, bytes.Count(text, []byte("\n")), "and no line is empty")
		require.NoError(t, a.close())
	})
	t.Run("after half a line", func(t *testing.T) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, append(text, `{"url":"/ha`...), 0o600))
		a := open()
		require.NoError(t, a.write(&auditLine{URL: "/3"}))
		require.Equal(t, []string{"/1", "/2", "/3"}, urls(a))
		require.NoError(t, a.close())
	})
	t.Run("after a write that failed", func(t *testing.T) {
		a := open()
		file := a.file
		a.file, _ = os.Open(path) // cannot be written to
		require.Error(t, a.write(&auditLine{URL: "/4"}))
		require.NoError(t, a.file.Close())
		a.file = file
		_, err := file.WriteString(`{"url":"/h`) // as far as that one came
		require.NoError(t, err)
		require.NoError(t, a.write(&auditLine{URL: "/4"}))
		require.Equal(t, []string{"/2", "/3", "/4"}, urls(a), "the last three")
		require.NoError(t, a.close())
	})
	t.Run("of which the start is not read", func(t *testing.T) {
		a := open()
		for i := range 10 {
			require.NoError(t, a.write(&auditLine{URL: fmt.Sprint("/", i), Who: strings.Repeat("<", 250)}))
		}
		require.Equal(t, []string{"/7", "/8", "/9"}, urls(a))
		require.NoError(t, a.close())
	})
}
