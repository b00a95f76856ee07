package tetherhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func ExampleDebug() {
	reg := tether.New(tether.Config{})
	mux := http.NewServeMux()
	mux.Handle("/debug/tether/", tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})) // for authenticated eyes only

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/debug/tether/?format=json&state=failed", nil))
	var page struct {
		State  string
		Counts struct{ Running, Failed int }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%s, %d running, %d failed\n", page.State, page.Counts.Running, page.Counts.Failed)
	// Output: serving, 0 running, 0 failed
}

const debugAt = "/debug/tether/"

// debugJSON is a page as a machine reads it.
type debugJSON struct {
	Time    time.Time
	State   string
	Counts  map[string]int
	Pools   []map[string]any
	History struct {
		Interval  float64 `json:"interval_seconds"`
		Since     time.Time
		Intervals []debugBar
	}
	Stuck, Loops               []debugTask
	Panics, Failures, Refusals []debugGroup
	Omitted                    int `json:"failure_groups_omitted"`
	Live, Finished             struct {
		Total, Matched, Page, Pages int
		Capped                      bool
		Sort                        string
		Tasks                       []debugTask
	}
	Drain *struct {
		Began, Ended        time.Time
		Took                float64 `json:"took_seconds"`
		Finished, Omitted   int
		Canceled, Abandoned []debugTask
		HandedOver          []debugTask `json:"handed_over"`
		NeverStarted        []debugTask `json:"never_started"`
		Stacks              map[string]string
	}
	Task *debugTask
}

// debugGroup is a group of failures.
type debugGroup struct {
	Name, State, Error string
	Count              int
	First, Last        time.Time
	Task               debugTask
}

type debugBar struct {
	Time                                   time.Time
	Submitted, Succeeded, Failed, Canceled int
}

type debugTask struct {
	ID, Name, Pool, Parent, State, Func, Unique, Error string
	ParentName                                         string `json:"parent_name"`
	Submitted, Started, Finished                       time.Time
	Age                                                float64 `json:"age_seconds"`
	Running                                            float64 `json:"running_seconds"`
	Attempt                                            int
	Progress                                           map[string]any
	Labels                                             map[string]string
	PanicStack                                         string `json:"panic_stack"`
	StuckStack                                         string `json:"stuck_stack"`
}

func names(tasks []debugTask) (names []string) {
	for _, task := range tasks {
		names = append(names, task.Name)
	}
	return names
}

// debugged returns the page of a query for machines, a second after the last look.
func debugged(t testing.TB, h http.Handler, query string) (p debugJSON) {
	t.Helper()
	time.Sleep(time.Second)
	w := ask(t, h, request("GET", debugAt+"?format=json&"+query, ""))
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p), w.Body.String())
	return p
}

// shownPage returns the page of a query for people, a second after the last look.
func shownPage(t testing.TB, h http.Handler, query string) string {
	t.Helper()
	time.Sleep(time.Second)
	w := ask(t, h, request("GET", debugAt+"?"+query, ""))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
	return w.Body.String()
}

// named submits a task that must be admitted.
func named(t testing.TB, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Go(context.Background(), name, fn, opts...)
	require.NoError(t, err)
	return task
}

// cancelAll cancels the live tasks at the end of a test.
func cancelAll(t *testing.T, reg *tether.Registry) {
	t.Cleanup(func() {
		for task := range reg.Tasks() {
			task.Cancel(nil)
		}
	})
}

// panicky is a body that panics, with a name that stacks show.
func panicky(context.Context) error { panic("out of cheese") }

func failing(text string) tether.Func {
	return func(context.Context) error { return errors.New(text) }
}

func takesSeconds(n int) tether.Func {
	return func(context.Context) error { time.Sleep(time.Duration(n) * time.Second); return nil }
}

func TestDebug(t *testing.T) {
	bubble(t, "an empty registry", func(t *testing.T) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}))
		p := debugged(t, h, "")
		assert.Equal(t, "serving", p.State)
		assert.Equal(t, time.Now().UTC(), p.Time)
		for key, n := range p.Counts {
			assert.Zero(t, n, key)
		}
		assert.Len(t, p.Counts, 12)
		assert.Empty(t, p.Pools)
		assert.Nil(t, p.Drain)
		assert.Equal(t, []int{0, 0, 1, 1}, []int{p.Live.Total, p.Live.Matched, p.Live.Page, p.Live.Pages})
		page := shownPage(t, h, "")
		for _, text := range []string{"There are no live tasks.", "No task has ended yet.", "Nothing has failed, and nothing is stuck.", `>serving</p>`} {
			assert.Contains(t, page, text)
		}
		assert.NotContains(t, page, "Last drain")
		assert.Contains(t, page, "No task was submitted or ended.")
		for _, section := range []string{"stop", "names", "loops", "schedules", "confirm"} {
			assert.NotContains(t, page, `<section id="`+section+`"`)
		}
	})
	bubble(t, "what is said of a task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		pool := reg.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		var child *tether.Task
		began := time.Now().UTC()
		parent := named(t, pool, "parent", func(ctx context.Context) error {
			var err error
			child, err = reg.Go(ctx, "child", untilCanceled, tether.Hold())
			if err != nil {
				return err
			}
			tether.ReportProgress(ctx, tether.Progress{Done: 3, Total: 12, Message: "page 3"})
			return untilCanceled(ctx)
		}, tether.Label("user", "u1"), tether.Unique("key"), tether.Delay(2*time.Second))
		time.Sleep(4 * time.Second)
		h := tetherhttp.Debug(reg)
		p := debugged(t, h, "")
		require.Equal(t, []string{"parent", "child"}, names(p.Live.Tasks), "the oldest first")
		got := p.Live.Tasks[0]
		assert.Contains(t, got.Func, "tetherhttp_test.TestDebug")
		got.Func = ""
		assert.Equal(t, debugTask{
			ID: parent.ID(), Name: "parent", Pool: "mail", State: "running", Unique: "key", Attempt: 1,
			Submitted: began, Started: began.Add(2 * time.Second), Age: 5, Running: 3,
			Progress: map[string]any{"done": 3.0, "total": 12.0, "message": "page 3"}, Labels: map[string]string{"user": "u1"},
		}, got)
		got = p.Live.Tasks[1]
		assert.Equal(t, debugTask{
			ID: child.ID(), Name: "child", State: "held", Parent: parent.ID(), ParentName: "parent", Func: got.Func,
			Submitted: began.Add(2 * time.Second), Age: 3,
		}, got)

		detail := debugged(t, h, "task="+parent.ID())
		require.NotNil(t, detail.Task)
		assert.NotContains(t, detail.Counts, "stuck")
		assert.Equal(t, 6.0, detail.Task.Age)
		assert.Empty(t, detail.Live.Tasks)
		assert.Empty(t, detail.Pools)
		page := shownPage(t, h, "task="+parent.ID())
		for _, text := range []string{parent.ID(), "<h2 id=\"task-title\">parent</h2>", "user=u1", "key", "25 %", "page 3", "(3 of 12)", "tetherhttp_test.TestDebug", ">mail</a>", "00:00:02"} {
			assert.Contains(t, page, text)
		}
		assert.Contains(t, shownPage(t, h, "task="+child.ID()), `<dt>Parent</dt><dd><a href="./?task=`+parent.ID()+`">parent</a>`)
		page = shownPage(t, h, "")
		assert.Contains(t, page, `<progress max="100" value="25"`)
		assert.Contains(t, page, `<td class="n" data-th="Age">9.0 s</td>`, "the age")
	})
	bubble(t, "failures, and what is none", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("small", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
		named(t, reg, "fails", failing("first line\nsecond line"))
		synctest.Wait()
		time.Sleep(time.Second)
		panicked := named(t, reg, "panics", panicky)
		synctest.Wait()
		time.Sleep(time.Second)
		named(t, reg, "too slow", untilCanceled, tether.Timeout(time.Second))
		time.Sleep(2 * time.Second)
		named(t, pool, "busy", takesSeconds(1))
		synctest.Wait()
		named(t, pool, "pushed out", succeed)
		named(t, pool, "pushes", succeed)
		time.Sleep(2 * time.Second)
		stopped := named(t, reg, "stopped on request", untilCanceled)
		synctest.Wait()
		stopped.Cancel(errTest)
		h := tetherhttp.Debug(reg)
		p := debugged(t, h, "")
		var failed []string
		for _, g := range p.Failures {
			failed = append(failed, g.Name+" "+g.State+" "+g.Error)
		}
		require.Equal(t, []string{"pushed out dropped " + tether.ErrFull.Error(), "too slow canceled " + tether.ErrTimeout.Error(), "fails failed first line"}, failed, "the newest first")
		require.Len(t, p.Panics, 1)
		assert.Equal(t, "panic: out of cheese", p.Panics[0].Error)
		assert.Contains(t, p.Panics[0].Task.PanicStack, "tetherhttp_test.panicky")
		assert.Equal(t, "first line\nsecond line", p.Failures[2].Task.Error)
		assert.Len(t, p.Finished.Tasks, 7)
		assert.Equal(t, []float64{0, 1, 1}, []float64{p.Failures[0].Task.Age, p.Failures[1].Task.Running, p.Failures[1].Task.Age}, "they do not grow older")
		assert.Equal(t, 1, p.Counts["panicked"])
		page := shownPage(t, h, "")
		assert.Contains(t, page, `<span class="error">first line</span>`)
		assert.Contains(t, page, "first line\nsecond line</pre>")
		assert.Contains(t, page, "tetherhttp_test.panicky")
		assert.Contains(t, shownPage(t, h, "task="+panicked.ID()), "Where it panicked")
	})
	bubble(t, "failures retained no more", func(t *testing.T) {
		const alarms = `(?s)<section id="alarms".*?</section>`
		none := func(h http.Handler) string {
			page := shownPage(t, h, "")
			none := regexp.MustCompile(`<p class="none">([^<]*)</p>`).FindAllStringSubmatch(regexp.MustCompile(alarms).FindString(page), -1)
			if len(none) == 0 {
				return ""
			}
			return none[0][1]
		}
		reg := newRegistry(t, tether.Config{Retain: -1})
		h := tetherhttp.Debug(reg)
		assert.Equal(t, "Nothing has failed, and nothing is stuck.", none(h))
		assert.Contains(t, shownPage(t, h, ""), "No task has ended yet.")
		named(t, reg, "fails", failing("x"))
		assert.Equal(t, "The one failure is no longer retained.", none(h))
		assert.Contains(t, shownPage(t, h, ""), "The one finished task is no longer retained.")
		named(t, reg, "panics", panicky)
		assert.Equal(t, "None of the 2 failures is still retained.", none(h))
		assert.Contains(t, shownPage(t, h, ""), "None of the 2 finished tasks is still retained.")
	})
	bubble(t, "no more failures than the page has room for", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for i := range 30 {
			named(t, reg, fmt.Sprint("fails ", i), failing("x"))
			time.Sleep(time.Second)
		}
		p := debugged(t, tetherhttp.Debug(reg), "")
		require.Len(t, p.Failures, 20)
		assert.Equal(t, "fails 29", p.Failures[0].Name)
		assert.Equal(t, 10, p.Omitted)
		assert.Equal(t, 30, p.Counts["failed"])
	})
	bubble(t, "stuck tasks", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{StuckAfter: time.Minute})
		cancelAll(t, reg)
		pool := reg.NewPool("slow", tether.PoolConfig{Workers: 20, Overflow: tether.OverflowBlock})
		for i := range 7 {
			named(t, pool, fmt.Sprint("hangs ", i), untilCanceled)
			time.Sleep(time.Second)
		}
		h := tetherhttp.Debug(reg)
		assert.Empty(t, debugged(t, h, "").Stuck)
		assert.NotContains(t, shownPage(t, h, ""), "! stuck")
		time.Sleep(2 * time.Minute)
		named(t, reg, "young", untilCanceled)
		p := debugged(t, h, "state=stuck")
		assert.Equal(t, []string{"hangs 0", "hangs 1", "hangs 2", "hangs 3", "hangs 4"}, names(p.Stuck))
		assert.Contains(t, p.Stuck[0].StuckStack, "untilCanceled")
		assert.Equal(t, 7, p.Counts["stuck"])
		assert.Equal(t, 7.0, p.Pools[0]["counts"].(map[string]any)["stuck"])
		assert.Equal(t, 7, p.Live.Matched)
		assert.Equal(t, 8, p.Live.Total)
		page := shownPage(t, h, "")
		assert.Contains(t, page, `<span class="state running">running</span> <span class="state stuck">stuck</span>`)
		assert.Contains(t, page, "untilCanceled")
		assert.Contains(t, shownPage(t, h, "task="+p.Stuck[0].ID), "Where it was when found stuck")
	})
	bubble(t, "pools", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		mail := reg.NewPool("mail", tether.PoolConfig{Workers: 2, Queue: 4, Overflow: tether.OverflowReject})
		weigh := reg.NewPool("weigh", tether.PoolConfig{Workers: 3, Queue: tether.Unbounded, Capacity: 1000})
		weigh.Pause()
		for range 5 {
			named(t, mail, "mail", untilCanceled)
			synctest.Wait()
		}
		named(t, mail, "held", succeed, tether.Hold())
		_, err := mail.Go(t.Context(), "refused", succeed)
		require.ErrorIs(t, err, tether.ErrFull)
		named(t, weigh, "waits", succeed)
		h := tetherhttp.Debug(reg)
		p := debugged(t, h, "")
		counts := func(values ...float64) map[string]any {
			m := make(map[string]any)
			for i, key := range []string{"submitted", "refused", "succeeded", "failed", "panicked", "canceled", "dropped", "held", "queued", "running", "stuck"} {
				m["loops"] = 0.0
				m[key] = values[i]
			}
			return m
		}
		assert.Equal(t, []map[string]any{
			{"name": "mail", "workers": 2.0, "queue": 4.0, "inline": 0.0, "weight": 0.0, "capacity": 0.0, "paused": false, "oldest_queued_seconds": 1.0, "counts": counts(6, 1, 0, 0, 0, 0, 0, 1, 3, 2, 0)},
			{"name": "weigh", "workers": 3.0, "inline": 0.0, "weight": 0.0, "capacity": 1000.0, "paused": true, "oldest_queued_seconds": 1.0, "counts": counts(1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0)},
		}, withoutZeroWeight(p.Pools))
		page := shownPage(t, h, "")
		for _, text := range []string{`<span class="n">2 / 2</span>`, `<progress max="4" value="3" aria-hidden="true"></progress> <span class="n">3</span> <small class="n">bound 4</small>`, `<span class="state paused">paused</span>`, "no bound", "/ 1,000</span>"} {
			assert.Contains(t, page, text)
		}
		weigh.Resume()
	})
	bubble(t, "a task as it is now, whatever was looked at last", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		h := tetherhttp.Debug(reg)
		debugged(t, h, "")
		task := start(t, reg, untilCanceled)
		time.Sleep(500 * time.Millisecond)
		var p debugJSON
		w := ask(t, h, request("GET", debugAt+"?format=json&task="+task.ID(), ""))
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		assert.Equal(t, time.Now().UTC(), p.Time)
		assert.Equal(t, 0.5, p.Task.Age)
		assert.Equal(t, 1, p.Counts["running"])
	})
	bubble(t, "pools that hold more than workers and queue have names for", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		paused := reg.NewPool("paused", tether.PoolConfig{Workers: 4, Queue: 2, Overflow: tether.OverflowBlock})
		shrunk := reg.NewPool("shrunk", tether.PoolConfig{Workers: 3, Overflow: tether.OverflowBlock})
		var waits []*tether.Task
		for range 6 {
			waits = append(waits, named(t, paused, "waits", succeed, tether.Hold()))
		}
		paused.Pause()
		for _, task := range waits {
			task.Release()
		}
		for range 3 {
			named(t, shrunk, "works", untilCanceled)
		}
		synctest.Wait()
		shrunk.Resize(1)
		page := shownPage(t, tetherhttp.Debug(reg), "")
		assert.Contains(t, page, `<progress max="2" value="2" aria-hidden="true"></progress> <span class="n">6</span> <small class="n">bound 2</small>`)
		assert.Contains(t, page, `<progress max="1" value="1" aria-hidden="true"></progress> <span class="n">3 / 1</span>`)
		assert.NotContains(t, page, "places")
	})
	bubble(t, "an unknown task, and one that is forgotten", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		task := start(t, reg, succeed)
		synctest.Wait()
		h := tetherhttp.Debug(reg)
		for id, status := range map[string]int{"nonsense": http.StatusNotFound, task.ID(): http.StatusGone} {
			w := ask(t, h, request("GET", debugAt+"?task="+id, ""))
			assert.Equal(t, status, w.Code)
			assert.Contains(t, w.Body.String(), `href="./?"`, "the way back")
			assert.Equal(t, status, ask(t, h, request("GET", debugAt+"?format=json&task="+id, "")).problem(t).Status)
		}
	})
	bubble(t, "an error that panics, and a huge one", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		named(t, reg, "panics", func(context.Context) error { return panickingError{} })
		named(t, reg, "huge", failing(strings.Repeat("x", 1_000_000)))
		p := debugged(t, tetherhttp.Debug(reg), "fsort=name")
		assert.Less(t, len(p.Finished.Tasks[0].Error), 17_000)
		assert.Contains(t, p.Finished.Tasks[0].Error, "1,000,000 bytes")
		assert.Equal(t, "(the error's own method panicked: in Error)", p.Finished.Tasks[1].Error)
	})
	bubble(t, "errors with methods that panic", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for i, err := range []error{(*fs.PathError)(nil), (*tether.PanicError)(nil), brokenError{}, worseError{}, fmt.Errorf("wraps %w", brokenError{})} {
			named(t, reg, fmt.Sprint("fails ", i), func(context.Context) error { return err })
		}
		named(t, reg, "gives up", func(ctx context.Context) error { <-ctx.Done(); return brokenError{} }, tether.Timeout(time.Second))
		stopped := named(t, reg, "is stopped", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
		synctest.Wait()
		stopped.Cancel(brokenError{})
		named(t, reg, "panics", func(context.Context) error { panic(brokenError{}) })
		time.Sleep(2 * time.Second)
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		p := debugged(t, h, "fsort=name")
		require.Len(t, p.Finished.Tasks, 8)
		for _, i := range []int{0, 1, 2, 3} {
			assert.Contains(t, p.Finished.Tasks[i].Error, "(the error's own method panicked", i)
		}
		shownPage(t, h, "")
		for _, task := range p.Finished.Tasks {
			assert.NotNil(t, debugged(t, h, "task="+task.ID).Task)
			shownPage(t, h, "task="+task.ID)
		}
	})
	t.Run("nil is a panic", func(t *testing.T) {
		assert.Panics(t, func() { tetherhttp.Debug(nil) })
		assert.Panics(t, func() {
			tetherhttp.Debug(newRegistry(t, tether.Config{}), tetherhttp.DebugConfig{}, tetherhttp.DebugConfig{})
		})
	})
}

// withoutZeroWeight takes the weight away that pools without a capacity may count or not, and
// waits, which depend on what was measured.
func withoutZeroWeight(pools []map[string]any) []map[string]any {
	for _, p := range pools {
		delete(p, "wait_seconds")
		if p["capacity"] == 0.0 {
			p["weight"] = 0.0
		}
	}
	return pools
}

type panickingError struct{}

func (panickingError) Error() string { panic("in Error") }

// brokenError is an error with methods that all panic.
type brokenError struct{}

func (brokenError) Error() string { panic("broken") }
func (brokenError) Is(error) bool { panic("broken") }
func (brokenError) As(any) bool   { panic("broken") }
func (brokenError) Unwrap() error { panic("broken") }

// worseError panics with something that cannot be printed: fmt does not survive it.
type worseError struct{}

func (worseError) Error() string { panic(worseError{}) }

func TestDebugQuery(t *testing.T) {
	bubble(t, "filters", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		a := reg.NewPool("a", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		for _, name := range []string{"Send Mail", "count", "mailbox"} {
			named(t, a, name, untilCanceled)
			time.Sleep(time.Second)
		}
		named(t, reg, "own mail", untilCanceled)
		named(t, reg, "mail that fails", failing("x"))
		named(t, reg, "done", succeed)
		h := tetherhttp.Debug(reg)
		for _, test := range []struct {
			query          string
			live, finished []string
		}{
			{"", []string{"Send Mail", "count", "mailbox", "own mail"}, []string{"done", "mail that fails"}},
			{"q=MAIL", []string{"Send Mail", "mailbox", "own mail"}, []string{"mail that fails"}},
			{"pool=a", []string{"Send Mail", "count", "mailbox"}, nil},
			{"pool=%09", []string{"own mail"}, []string{"done", "mail that fails"}},
			{"pool=b", nil, nil},
			{"state=queued", []string{"count", "mailbox"}, nil},
			{"state=failed", nil, []string{"mail that fails"}},
			{"state=stuck", nil, nil},
			{"state=queued&q=mail&pool=a", []string{"mailbox"}, nil},
			{"q=%3Cb%3E", nil, nil},
		} {
			p := debugged(t, h, test.query+"&fsort=name")
			assert.Equal(t, test.live, names(p.Live.Tasks), test.query)
			assert.Equal(t, test.finished, names(p.Finished.Tasks), test.query)
			assert.Equal(t, len(test.live), p.Live.Matched)
			assert.Equal(t, 4, p.Live.Total)
			page := shownPage(t, h, test.query+"&fsort=name")
			for _, task := range slices.Concat(debugged(t, h, "").Live.Tasks, debugged(t, h, "").Finished.Tasks) {
				row := strings.Contains(page, `<tr id="t-`+task.ID) || strings.Contains(page, `<tr id="e-`+task.ID)
				assert.Equal(t, row, slices.Contains(slices.Concat(test.live, test.finished), task.Name), "%s of %q", task.Name, test.query)
			}
		}
		page := shownPage(t, h, "q=a%26b%22&pool=a&state=running&sort=name&fsort=-took&page=3")
		for _, text := range []string{`value="a&amp;b&#34;"`, `<option value="a" selected>a</option>`, `<option value="running" selected>running</option>`,
			`<input type="hidden" name="sort" value="name">`, `<input type="hidden" name="fsort" value="-took">`, "No live task matches the filter."} {
			assert.Contains(t, page, text)
		}
		assert.NotContains(t, page, `name="page"`, "a filter begins at the first page")
	})
	bubble(t, "sorting", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		a, b := reg.NewPool("a", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock}), reg.NewPool("b", tether.PoolConfig{Workers: 1, Queue: 10, Overflow: tether.OverflowBlock})
		progress := func(done int64) tether.Func {
			return func(ctx context.Context) error {
				tether.ReportProgress(ctx, tether.Progress{Done: done, Total: 10})
				return untilCanceled(ctx)
			}
		}
		named(t, b, "x", progress(9), tether.Delay(3*time.Second)) // oldest, started last
		time.Sleep(time.Second)
		named(t, a, "z", progress(5))
		time.Sleep(time.Second)
		named(t, a, "y", succeed, tether.Hold()) // youngest, not started
		time.Sleep(time.Minute)
		h := tetherhttp.Debug(reg)
		for sort, want := range map[string]string{
			"": "xzy", "age": "yzx", "-age": "xzy", "name": "xyz", "-name": "zyx", "pool": "zyx", "-pool": "xzy",
			"state": "yxz", "-state": "xzy", "running": "yxz", "-running": "zxy", "progress": "yzx", "-progress": "xzy",
			"took": "xzy", "--age": "xzy", "-": "xzy",
		} {
			assert.Equal(t, want, strings.Join(names(debugged(t, h, "sort="+sort).Live.Tasks), ""), "sort=%s", sort)
		}
		page := shownPage(t, h, "sort=-name")
		assert.Contains(t, page, `class="c-name" aria-sort="descending"><a href="./?sort=name"`)
		assert.Contains(t, page, `class="c-age"><a href="./?"`, "the first order of a number is the largest first, which is the default here")
		assert.Equal(t, 2, strings.Count(page, "aria-sort"), "one in each table")
	})
	bubble(t, "sorting what has ended", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		named(t, reg, "z", takesSeconds(5))
		named(t, reg, "y", takesSeconds(2))
		named(t, reg, "x", succeed, tether.Hold()).Cancel(nil)
		named(t, reg, "w", func(ctx context.Context) error {
			if me, _ := tether.FromContext(ctx); me.Info().Attempt == 1 {
				return errTest
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
		time.Sleep(time.Minute)
		h := tetherhttp.Debug(reg)
		for sort, want := range map[string]string{
			"": "zywx", "ended": "xwyz", "-ended": "zywx", "took": "xwyz", "-took": "zywx", "attempt": "xzyw", "-attempt": "wzyx",
			"name": "wxyz", "state": "zywx", "-state": "xzyw", "age": "zywx",
		} {
			assert.Equal(t, want, strings.Join(names(debugged(t, h, "fsort="+sort).Finished.Tasks), ""), "fsort=%s", sort)
		}
	})
	bubble(t, "pages", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		for i := range 250 {
			named(t, reg, fmt.Sprintf("live %03d", i), untilCanceled)
		}
		for i := range 60 {
			named(t, reg, fmt.Sprintf("done %03d", i), succeed)
		}
		h := tetherhttp.Debug(reg)
		for query, want := range map[string]string{
			"sort=name": "live 000 100 1/3", "sort=name&page=2": "live 100 100 2/3", "sort=name&page=3": "live 200 50 3/3",
			"sort=name&page=4": "live 200 50 3/3", "sort=name&page=99999999999999999999999999": "live 200 50 3/3",
			"sort=name&page=0": "live 000 100 1/3", "sort=name&page=-1": "live 000 100 1/3", "sort=-name&page=3": "live 049 50 3/3",
			"sort=name&q=live%201&page=2": "live 100 100 1/1",
		} {
			p := debugged(t, h, query).Live
			assert.Equal(t, want, fmt.Sprintf("%s %d %d/%d", p.Tasks[0].Name, len(p.Tasks), p.Page, p.Pages), query)
		}
		f := debugged(t, h, "fsort=name&fpage=3").Finished
		assert.Equal(t, "done 050 10 3/3", fmt.Sprintf("%s %d %d/%d", f.Tasks[0].Name, len(f.Tasks), f.Page, f.Pages))
		ids := func(p debugJSON) (ids []string) {
			for _, task := range p.Live.Tasks {
				ids = append(ids, task.ID)
			}
			return ids
		}
		assert.IsIncreasing(t, ids(debugged(t, h, "")), "those of one age, lest they change places")
		assert.Contains(t, shownPage(t, h, "page=99"), `href="./?page=2"`, "before the last that there is")
		assert.NotContains(t, shownPage(t, h, "page=99"), "page=99")
		page := shownPage(t, h, "sort=name&page=2&fpage=3")
		for _, text := range []string{"page 2 of 3", `class="c-pool"><a href="./?fpage=3&amp;sort=pool"`, `href="./?fpage=3&amp;sort=name"`, `href="./?fpage=3&amp;page=3&amp;sort=name"`, "page 3 of 3"} {
			assert.Contains(t, page, text)
		}
		assert.Equal(t, 1, strings.Count(page, `aria-disabled="true"`), "there is no page after the last")
		assert.Equal(t, 100, strings.Count(page, `<tr id="t-`))
	})
	bubble(t, "what is longer than anything can be does not make the page longer", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		for range 100 {
			start(t, reg, untilCanceled)
		}
		h := tetherhttp.Debug(reg)
		size, long := len(shownPage(t, h, "")), strings.Repeat("x", 100_000)
		for _, query := range []string{"pool=" + long, "asked=" + long, "state=" + long, "sort=" + long, "page=" + long, "x=" + long} {
			assert.InDelta(t, size, len(shownPage(t, h, query)), 1000, query[:5]) // ages are of some letters
			assert.Equal(t, 100, debugged(t, h, query).Live.Matched, query[:5])
		}
		w := ask(t, h, request("GET", debugAt+"?task="+long, ""))
		assert.Equal(t, http.StatusNotFound, w.Code)
		assert.Less(t, w.Body.Len(), size)
		assert.Less(t, len(shownPage(t, h, "q="+long)), 3*size)
	})
	bubble(t, "a pool of any name", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		option := func(name string) string { return `<option value="` + name + `" selected>` }
		named(t, reg, "own", succeed)
		for _, name := range []string{"-", "a  b", " ", "none"} {
			named(t, reg.NewPool(name, tether.PoolConfig{Overflow: tether.OverflowBlock}), "in "+name, succeed)
			query := "pool=" + url.QueryEscape(name)
			assert.Equal(t, []string{"in " + name}, names(debugged(t, h, query).Finished.Tasks))
			assert.Contains(t, shownPage(t, h, query), option(name))
		}
		assert.Equal(t, []string{"own"}, names(debugged(t, h, "pool=%09").Finished.Tasks))
		assert.Contains(t, shownPage(t, h, "pool=%09"), option("\t"))
		assert.Panics(t, func() { reg.NewPool("\t", tether.PoolConfig{Overflow: tether.OverflowBlock}) })
	})
	bubble(t, "what makes no sense is left out", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		named(t, reg, "done", succeed)
		h := tetherhttp.Debug(reg)
		want := debugged(t, h, "")
		for _, query := range []string{
			"page=-1", "page=x", "page=1e9", "fpage=-9223372036854775809", "sort=nonsense", "sort=", "sort=took", "fsort=running",
			"state=Failed", "state=nonsense", "q=", "pool=", "format=xml", "%zz=1", "a;b=c", "sort=name;page=2", "task=", "asked=nonsense",
		} {
			got := debugged(t, h, "x&"+query)
			assert.Equal(t, want.Live, got.Live, query)
			assert.Equal(t, names(want.Finished.Tasks), names(got.Finished.Tasks), query)
			w := ask(t, h, request("GET", debugAt+"?"+query, ""))
			assert.Equal(t, http.StatusOK, w.Code, query)
		}
	})
}

// hostile is what must not get into a page as it is.
const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>`

var (
	values = regexp.MustCompile(`"[^"]*"`)
	inline = regexp.MustCompile(`(?i)<style|<[^>]*\s(?:style|on\w+)\s*=|<[^>]*=[^">]|<script(?: [^>]*)?>[^<]|<base|<iframe|<img`)
)

// assertNothingInline checks that there is no script and no style in a page, and that its
// links stay on it.
func assertNothingInline(t testing.TB, page string) {
	t.Helper()
	assert.Empty(t, inline.FindAllString(values.ReplaceAllString(page, `""`), -1))
	assert.Equal(t, 1, strings.Count(page, "<script"), "the page's own")
	for _, link := range regexp.MustCompile(`(?:href|src|action)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		assert.Regexp(t, `^(\./|#(live|main)$|(debug|icon)\.\w+\?v=)`, link[1])
	}
}

func TestDebugSafety(t *testing.T) {
	bubble(t, "everything is escaped", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{StuckAfter: time.Second})
		cancelAll(t, reg)
		pool := reg.NewPool(hostile, tether.PoolConfig{Workers: 10, Overflow: tether.OverflowBlock})
		live := named(t, pool, hostile, func(ctx context.Context) error {
			if _, err := reg.Go(ctx, "child", untilCanceled); err != nil {
				return err
			}
			tether.ReportProgress(ctx, tether.Progress{Message: hostile})
			return untilCanceled(ctx)
		}, tether.Label(hostile, hostile), tether.Unique(hostile))
		failed := named(t, reg, hostile, failing(hostile))
		panicked := named(t, reg, hostile, func(context.Context) error { panic(hostile) })
		time.Sleep(time.Minute)
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		evil := url.QueryEscape(hostile)
		queries := []string{"", "q=" + evil, "pool=" + evil, "sort=" + evil, "task=" + evil, "asked=" + live.ID(),
			"task=" + live.ID(), "task=" + failed.ID(), "task=" + panicked.ID(), evil + "=" + evil}
		check := func(query string) {
			w := ask(t, h, request("GET", debugAt+"?"+query, ""))
			page := w.Body.String()
			assertNothingInline(t, page)
			asJSON := ask(t, h, request("GET", debugAt+"?format=json&"+query, "")).Body.String()
			assert.NotContains(t, asJSON, "<script")
		}
		for _, query := range queries {
			check(query)
		}
		assert.Contains(t, shownPage(t, h, ""), html.EscapeString("<script>alert(1)</script>"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		hang := named(t, reg, hostile, func(context.Context) error { time.Sleep(time.Minute); return nil })
		synctest.Wait()
		require.Error(t, reg.Shutdown(ctx))
		time.Sleep(time.Second)
		check("")
		assert.Contains(t, shownPage(t, h, ""), "Last drain")
		<-hang.Done()
	})
	bubble(t, "headers", func(t *testing.T) {
		const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
		reg := newRegistry(t, tether.Config{})
		plain, cancel := tetherhttp.Debug(reg), tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		for _, target := range []string{"", "?format=json", "?task=x", "?task=x&format=json", "debug.css", "debug.js", "icon.svg", "nothing", "cancel"} {
			for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
				w := ask(t, plain, request(method, debugAt+target, ""))
				assert.Equal(t, policy, w.Header().Get("Content-Security-Policy"), "%s %s", method, target)
				assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
				assert.Equal(t, "no-referrer", w.Header().Get("Referrer-Policy"))
				if !strings.Contains(target, ".") || method == "POST" || method == "DELETE" {
					assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				}
				w = ask(t, cancel, request(method, debugAt+target, ""))
				assert.Equal(t, "same-origin", w.Header().Get("Referrer-Policy"), "browsers would send Origin: null")
				assert.Equal(t, policy, w.Header().Get("Content-Security-Policy"))
			}
		}
	})
	bubble(t, "methods", func(t *testing.T) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}))
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "get", "FOO"} {
			for _, target := range []string{"", "debug.css", "cancel", "nothing"} {
				w := ask(t, h, request(method, debugAt+target, ""))
				assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status)
				assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
			}
		}
	})
	overTheNetwork(t, "HEAD", func(t *testing.T, n *memNet, version int) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}))
		n.serve(t, n.server(h), version == 2)
		c := clientOf(t, n, version)
		for _, target := range []string{"", "?format=json", "?task=x", "debug.css", "x"} {
			full := look(t, c, outbound(t.Context(), "GET", debugAt+target, nil))
			head := look(t, c, outbound(t.Context(), "HEAD", debugAt+target, nil))
			full.body = ""
			assert.Equal(t, full, head)
		}
	})
	bubble(t, "assets", func(t *testing.T) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}))
		page := shownPage(t, h, "")
		links := regexp.MustCompile(`(?:src|href)="((?:debug\.|icon\.)[^"]+)"`).FindAllStringSubmatch(page, -1)
		require.Len(t, links, 3)
		types := map[string]string{"icon": "image/svg+xml", "debug.css": "text/css; charset=utf-8", "debug.js": "text/javascript; charset=utf-8"}
		for _, link := range links {
			target := debugAt + link[1]
			w := ask(t, h, request("GET", target, ""))
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Contains(t, w.Header().Get("Cache-Control"), "immutable")
			name, _, _ := strings.Cut(link[1], "?")
			assert.Contains(t, types, strings.TrimSuffix(name, ".svg"))
			assert.Equal(t, types[strings.TrimSuffix(name, ".svg")], w.Header().Get("Content-Type"))
			same := ask(t, h, request("GET", target, "", "If-None-Match", w.Header().Get("ETag")))
			assert.Equal(t, http.StatusNotModified, same.Code)
			other := ask(t, h, request("GET", debugAt+name+"?v=other", ""))
			assert.Equal(t, "no-cache", other.Header().Get("Cache-Control"), "it is not the version that was asked for")
		}
	})
}

func TestDebugCancel(t *testing.T) {
	send := func(h http.Handler, target, id string, header ...string) *http.Request {
		header = append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)
		return request("POST", target, url.Values{"task": {id}}.Encode(), header...)
	}
	bubble(t, "is not allowed by itself", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		task := start(t, reg, untilCanceled)
		h := tetherhttp.Debug(reg)
		w := ask(t, h, send(h, debugAt+"cancel", task.ID()))
		assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status)
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
		assert.NotContains(t, shownPage(t, h, ""), "ancel</button>")
		assert.NotContains(t, shownPage(t, h, "task="+task.ID()), "ancel</button>")
	})
	bubble(t, "cancels, and goes back to where it was", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		task := named(t, reg, "stubborn", func(ctx context.Context) error {
			<-ctx.Done()
			<-release
			return context.Cause(ctx)
		})
		synctest.Wait()
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		page := shownPage(t, h, "q=stub&sort=name")
		action := regexp.MustCompile(`<form class="act" method="post" action="([^"]*)"><input type="hidden" name="task" value="` + task.ID() + `">`).FindStringSubmatch(page)
		require.Len(t, action, 2)
		assert.Equal(t, "./cancel?q=stub&amp;sort=name", action[1])
		w := ask(t, h, send(h, debugAt+html.UnescapeString(action[1]), task.ID()))
		assert.Equal(t, http.StatusSeeOther, w.Code)
		assert.Equal(t, "./?asked="+task.ID()+"&q=stub&sort=name", w.Header().Get("Location"))
		back := strings.TrimPrefix(w.Header().Get("Location"), "./?")
		assert.Contains(t, shownPage(t, h, back), "“stubborn” is being canceled; it ends when its body returns.")
		close(release)
		require.ErrorIs(t, task.Wait(t.Context()), tetherhttp.ErrCanceled)
		page = shownPage(t, h, back)
		assert.Contains(t, page, "“stubborn” has ended: canceled.")
		assert.NotContains(t, page, "&amp;asked=", "links leave that behind")
		assert.NotContains(t, shownPage(t, h, "task="+task.ID()), "Cancel</button>", "it has ended")
		assert.Equal(t, http.StatusSeeOther, ask(t, h, send(h, debugAt+"cancel", task.ID())).Code, "once more does no harm")
	})
	bubble(t, "of one that is not there", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		gone := start(t, reg, succeed)
		synctest.Wait()
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		assert.Equal(t, http.StatusSeeOther, ask(t, h, send(h, debugAt+"cancel", gone.ID())).Code, "it has ended, as was wished")
		assert.Equal(t, http.StatusNotFound, ask(t, h, send(h, debugAt+"cancel", "nonsense")).problem(t).Status)
		assert.Equal(t, http.StatusNotFound, ask(t, h, send(h, debugAt+"cancel", strings.Repeat("x", 10_000))).problem(t).Status)
	})
	bubble(t, "not by a link, and not elsewhere", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		task := start(t, reg, untilCanceled)
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			w := ask(t, h, request(method, debugAt+"cancel?task="+task.ID(), ""))
			assert.Equal(t, http.StatusMethodNotAllowed, w.problem(t).Status, method)
			assert.Equal(t, "POST", w.Header().Get("Allow"))
		}
		assert.Equal(t, http.StatusMethodNotAllowed, ask(t, h, send(h, debugAt, task.ID())).Code)
		w := ask(t, h, request("POST", debugAt+"cancel?task="+task.ID(), ""))
		assert.Equal(t, http.StatusNotFound, w.problem(t).Status, "the id is in the form")
		synctest.Wait()
		assert.Equal(t, tether.Running, task.State())
	})
	for name, test := range map[string]struct {
		header  []string
		allowed bool
	}{
		"a program":                    {nil, true},
		"the page itself":              {[]string{"Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"}, true},
		"the address bar":              {[]string{"Sec-Fetch-Site", "none"}, true},
		"the page, in an old browser":  {[]string{"Origin", "http://example.com"}, true},
		"another site":                 {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"}, false},
		"a site of the same domain":    {[]string{"Sec-Fetch-Site", "same-site", "Origin", "http://other.example.com"}, false},
		"a site that hides its origin": {[]string{"Origin", "null"}, false},
		"another site, in an old browser": {
			[]string{"Origin", "http://evil.example"}, false},
	} {
		bubble(t, "asked for by "+name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			cancelAll(t, reg)
			task := start(t, reg, untilCanceled)
			synctest.Wait()
			h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowCancel: true})
			w := ask(t, h, send(h, debugAt+"cancel", task.ID(), test.header...))
			synctest.Wait()
			if test.allowed {
				assert.Equal(t, http.StatusSeeOther, w.Code)
				assert.Equal(t, tether.Canceled, task.State())
			} else {
				assert.Equal(t, http.StatusForbidden, w.problem(t).Status)
				assert.Equal(t, tether.Running, task.State())
			}
		})
	}
}
