package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sell puts invoiced orders of so many tea and a mug into the store, all of the same instant.
func (ts *testShop) sell(orders int, created time.Time, quantity int) {
	ts.t.Helper()
	require.NoError(ts.t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
		lines := fmt.Sprintf(`[{"sku":"tea","quantity":%d,"price_cents":690},{"sku":"mug","quantity":1,"price_cents":1250}]`, quantity)
		_, err := tx.Exec(`INSERT INTO orders (id, fingerprint, customer, lines, created, state)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			SELECT hex(randomblob(16)), '', 'ann', ?, ?, 'invoiced' FROM n`, orders, lines, created.UnixMilli())
		return err
	}))
}

// report asks for a report and waits for it.
func (ts *testShop) report(query string) answer {
	ts.t.Helper()
	a := ts.do("POST", "/reports"+query, "", "Prefer", "wait=30")
	require.Equal(ts.t, http.StatusOK, a.StatusCode, a)
	return a
}

// task is the status of a report.
type task struct {
	State    string
	Done     bool
	Progress progress
	Result   *salesReport
	Problem  *struct{ Status int }
}

func (ts *testShop) task(location string, header ...string) (got task) {
	ts.t.Helper()
	a := ts.do("GET", location, "", header...)
	require.Equal(ts.t, http.StatusOK, a.StatusCode, a)
	require.NoError(ts.t, json.Unmarshal(a.body, &got))
	return got
}

func TestReport(t *testing.T) {
	ts := openShop(t)
	require.JSONEq(t, `{"orders":0,"revenue_cents":0,"rows":[]}`, string(ts.report("").body))

	first, second := time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC), time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	ts.sell(2, first, 3)
	ts.sell(1, second, 1)
	ts.until(ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"unicorn","quantity":1}]}`), decided) // not sold
	const (
		january  = `{"day":"2026-01-31","sku":"mug","quantity":2,"revenue_cents":2500},{"day":"2026-01-31","sku":"tea","quantity":6,"revenue_cents":4140}`
		february = `{"day":"2026-02-01","sku":"mug","quantity":1,"revenue_cents":1250},{"day":"2026-02-01","sku":"tea","quantity":1,"revenue_cents":690}`
	)
	for query, want := range map[string]string{
		"":                                `{"orders":3,"revenue_cents":8580,"rows":[` + january + `,` + february + `]}`,
		"?to=2026-01-31":                  `{"orders":2,"revenue_cents":6640,"rows":[` + january + `]}`,
		"?from=2026-02-01":                `{"orders":1,"revenue_cents":1940,"rows":[` + february + `]}`,
		"?from=2026-02-01&to=2026-02-01":  `{"orders":1,"revenue_cents":1940,"rows":[` + february + `]}`,
		"?from=2026-02-02":                `{"orders":0,"revenue_cents":0,"rows":[]}`,
		"?from=2026-02-01&to=2026-01-31":  `{"orders":0,"revenue_cents":0,"rows":[]}`,
		"?format=json&rate=1000000000000": `{"orders":3,"revenue_cents":8580,"rows":[` + january + `,` + february + `]}`,
	} {
		require.JSONEq(t, want, string(ts.report(query).body), query)
	}
	a := ts.report("?format=csv")
	require.Equal(t, "text/csv; charset=utf-8", a.Header.Get("Content-Type"))
	require.Equal(t, "day,sku,quantity,revenue_cents\n2026-01-31,mug,2,2500\n2026-01-31,tea,6,4140\n2026-02-01,mug,1,1250\n2026-02-01,tea,1,690\n", string(a.body))

	t.Run("an order just made is in it", func(t *testing.T) {
		ts.until(ts.post("/orders", orderBy("ann")), decided)
		require.Contains(t, string(ts.report("").body), `"orders":4,`)
	})
	t.Run("page by page", func(t *testing.T) {
		ts.sell(reportPage, first, 1) // the page ends in the middle of an instant
		var got salesReport
		require.NoError(t, json.Unmarshal(ts.report("?to=2026-01-31").body, &got))
		require.Equal(t, int64(2+reportPage), got.Orders)
		require.Equal(t, salesRow{"2026-01-31", "tea", 6 + reportPage, 690 * (6 + reportPage)}, got.Rows[1])
	})
}

func TestBadReports(t *testing.T) {
	ts := openShop(t)
	ts.fill(ts.reports) // nonsense is refused all the same
	for _, query := range []string{"from=yesterday", "to=2026-02-30", "format=xml", "rate=0", "rate=-1", "rate=fast"} {
		a := ts.do("POST", "/reports?"+query, "", "Prefer", "respond-async")
		a.problem(t, http.StatusBadRequest)
	}
	ts.do("POST", "/reports", `{"from":"2026-01-01"}`).problem(t, http.StatusRequestEntityTooLarge)
	ts.do("GET", "/reports", "").problem(t, http.StatusMethodNotAllowed)
	ts.do("POST", "/reports", "", "Idempotency-Key", "a b").problem(t, http.StatusBadRequest)

	a := ts.do("POST", "/reports", "", "Prefer", "respond-async")
	a.problem(t, http.StatusServiceUnavailable)
	require.Regexp(t, `^[1-9]\d*$`, a.Header.Get("Retry-After"))
}

func TestReportThatIsTooLarge(t *testing.T) {
	ts := openShop(t)
	require.NoError(t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO orders (id, fingerprint, customer, lines, created, state)
			WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			SELECT i, '', 'ann', json_group_array(json_object('sku', 'sku' || i)), 0, 'invoiced' FROM n GROUP BY i / 100`, reportRows)
		return err
	}))
	ts.do("POST", "/reports", "", "Prefer", "wait=30").problem(t, http.StatusUnprocessableEntity)
}

func TestReportThatTakesLonger(t *testing.T) {
	ts := openShop(t)
	ts.sell(3, time.Now(), 1)
	ts.reports.Pause()
	asJSON := ts.post("/reports", "", "Prefer", "respond-async")
	asCSV := ts.post("/reports?format=csv", "", "Prefer", "respond-async")
	require.True(t, strings.HasPrefix(asJSON, "/tasks/"))
	require.Equal(t, "queued", ts.task(asJSON).State)
	ts.do("GET", asJSON+"/result", "").problem(t, http.StatusConflict)
	ts.reports.Resume()

	got := ts.task(asJSON, "Prefer", "wait=30")
	require.Equal(t, "succeeded", got.State)
	require.Equal(t, int64(3), got.Result.Orders)
	require.Equal(t, int64(3), got.Progress.Done)
	require.Contains(t, string(ts.do("GET", asJSON+"/result", "").body), `"orders":3,`)

	got = ts.task(asCSV, "Prefer", "wait=30")
	require.Equal(t, "succeeded", got.State)
	require.Nil(t, got.Result, "it is not JSON")
	require.Contains(t, string(ts.do("GET", asCSV+"/result", "").body), ",tea,3,2070\n")

	t.Run("is found when more tasks have ended since than are retained", func(t *testing.T) {
		for range 2 * reportsKept {
			_, err := ts.reg.Go(context.Background(), "order", func(context.Context) error { return nil })
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { return ts.reg.Stats().Running == 0 }, time.Minute, time.Millisecond)
		require.Equal(t, http.StatusOK, ts.do("GET", asJSON+"/result", "").StatusCode)
	})
}

func TestReportIsIdempotent(t *testing.T) {
	ts := openShop(t)
	ts.reports.Pause()
	header := []string{"Prefer", "respond-async", "Idempotency-Key", "r-1"}
	defer ts.reports.Resume()
	location := ts.post("/reports", "", header...)
	again := ts.do("POST", "/reports", "", header...)
	require.Equal(t, location, again.Header.Get("Location"), again)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.Equal(t, 1, ts.reports.Stats().Queued)
	ts.do("POST", "/reports?format=csv", "", header...).problem(t, http.StatusUnprocessableEntity)
}

// endless orders, at a rate of one a second, are a report that does not end by
// itself: tests would time out if it were not ended or hurried up.
const endless = 1000

func TestReportIsWatchedAndCancelled(t *testing.T) {
	ts := openShop(t)
	ts.sell(endless, time.Now(), 1)
	location := ts.post("/reports?rate=1", "", "Prefer", "respond-async")

	req, err := http.NewRequest("GET", ts.web.URL+location, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	res, err := ts.web.Client().Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	var (
		seen  task
		asked bool // for the end
	)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); { // until the stream ends
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(data), &seen))
		if seen.Progress.Done > 0 && !asked {
			asked = true
			require.Equal(t, int64(endless), seen.Progress.Total)
			a := ts.do("DELETE", location, "")
			require.Equal(t, http.StatusAccepted, a.StatusCode, a)
		}
	}
	require.Equal(t, "canceled", seen.State)
	require.Equal(t, http.StatusGone, seen.Problem.Status)
	ts.do("GET", location+"/result", "").problem(t, http.StatusGone)
	require.Equal(t, http.StatusNoContent, ts.do("DELETE", location, "").StatusCode)
	ts.do("GET", location, "").problem(t, http.StatusGone)
}

// The drain has no time for a rate.
func TestReportHurriesInTheDrain(t *testing.T) {
	ts := openShop(t)
	ts.sell(endless, time.Now(), 1)
	location := ts.post("/reports?rate=1", "", "Prefer", "respond-async")
	var drained sync.WaitGroup
	drained.Go(func() { _ = ts.reg.Shutdown(context.Background()) }) // end looks at the error
	drained.Wait()
	require.Equal(t, "succeeded", ts.task(location).State)
}

// An order's task is not shown, even to a client that has its ID.
func TestTasksAreReportsAlone(t *testing.T) {
	ts := openShop(t)
	ts.orders.Pause()
	order := ts.post("/orders", orderBy("ann"))
	found := false
	for task := range ts.reg.Tasks() {
		if task.Name() != "fulfil-order" {
			continue
		}
		found = true
		ts.do("GET", "/tasks/"+task.ID(), "").problem(t, http.StatusNotFound)
		ts.do("DELETE", "/tasks/"+task.ID(), "").problem(t, http.StatusNotFound)
	}
	require.True(t, found)
	ts.orders.Resume()
	require.Equal(t, "invoiced", ts.until(order, decided).State)
}

func TestProbes(t *testing.T) {
	ts := openShop(t)
	require.Equal(t, http.StatusOK, ts.do("GET", "/ready", "").StatusCode)
	require.Equal(t, http.StatusOK, ts.do("GET", "/healthz", "").StatusCode)
	require.NoError(t, ts.reg.Shutdown(context.Background()))
	require.Equal(t, http.StatusServiceUnavailable, ts.do("GET", "/ready", "").StatusCode)
	require.Equal(t, http.StatusOK, ts.do("GET", "/healthz", "").StatusCode)
}
