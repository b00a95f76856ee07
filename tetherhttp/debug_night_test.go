package tetherhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// section returns a section of a page, without its tags.
func section(page, id string) string {
	text := regexp.MustCompile(`(?s)<section id="` + id + `".*?</section>`).FindString(page)
	text = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(text, " ")
	return html.UnescapeString(strings.Join(strings.Fields(text), " "))
}

// decoded decodes a page for machines, a second after the last look.
func decoded[T any](t *testing.T, h http.Handler, query string) (p T) {
	t.Helper()
	time.Sleep(time.Second)
	w := ask(t, h, request("GET", debugAt+"?format=json&"+query, ""))
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p), w.Body.String())
	return p
}

func TestDebugProcess(t *testing.T) {
	bubble(t, "which one it is", func(t *testing.T) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}), tetherhttp.DebugConfig{Title: "shop <b>", Version: "v1.2.3"})
		p := decoded[struct {
			Process struct {
				Title, Program, Version, Go, Host string
				PID                               int
				Started                           time.Time
			}
		}](t, h, "").Process
		assert.Equal(t, "shop <b>", p.Title)
		assert.Equal(t, "v1.2.3", p.Version)
		assert.Equal(t, os.Getpid(), p.PID)
		host, err := os.Hostname()
		require.NoError(t, err)
		assert.Equal(t, host, p.Host)
		assert.False(t, p.Started.After(time.Now()))
		page := shownPage(t, h, "")
		assert.Contains(t, page, "<title>shop &lt;b&gt;: serving · "+html.EscapeString(host)+"</title>")
		assert.Contains(t, page, "<h1>shop &lt;b&gt;</h1>")
		assert.Contains(t, page, "version <b>v1.2.3</b>")
		assert.Contains(t, page, fmt.Sprintf(`pid <b class="n">%d</b>`, os.Getpid()))
	})
	bubble(t, "by default it has the name of the program", func(t *testing.T) {
		assert.Contains(t, shownPage(t, tetherhttp.Debug(newRegistry(t, tether.Config{})), ""), "<h1>tetherhttp.test</h1>")
	})
}

func TestDebugNames(t *testing.T) {
	type table struct {
		Names struct {
			Since   time.Time
			Omitted int
			Rows    []struct {
				Name                                 string
				Held, Queued, Running, Ended, Failed int
				Oldest                               float64            `json:"oldest_queued_seconds"`
				PerMinute                            float64            `json:"ended_per_minute"`
				Wait                                 map[string]float64 `json:"wait_seconds"`
				Run                                  map[string]float64 `json:"run_seconds"`
			}
		}
	}
	bubble(t, "what is live, and what has ended", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 10})
		h := tetherhttp.Debug(reg)
		named(t, pool, "works", takesSeconds(4))
		named(t, pool, "works", takesSeconds(2))
		synctest.Wait()
		named(t, reg, "works", failing("x"))
		named(t, reg, "works", func(context.Context) error { return fmt.Errorf("of its own: %w", tether.ErrFull) })
		named(t, reg, "later", succeed, tether.Delay(time.Hour))
		named(t, reg, "held", succeed, tether.Hold())
		time.Sleep(7 * time.Second) // both have ended
		named(t, pool, "hangs", untilCanceled)
		synctest.Wait()
		named(t, pool, "waits", succeed)
		time.Sleep(2 * time.Second)
		names := decoded[table](t, h, "").Names // at 10 s
		rows := make(map[string]string)
		for _, r := range names.Rows {
			rows[r.Name] = fmt.Sprint(r.Held, r.Queued, r.Running, " ", r.Oldest, " ", r.Ended, r.Failed, " ", math.Round(r.PerMinute), " ", r.Wait, r.Run)
		}
		assert.Equal(t, map[string]string{
			"works": "0 0 0 0 4 1 24 map[p50:0 p95:4] map[p50:0 p95:4]",
			"hangs": "0 0 1 0 0 0 0 map[] map[]",
			"waits": "0 1 0 3 0 0 0 map[] map[]",
			"later": "0 1 0 0 0 0 0 map[] map[]", // it waits for its time, and not for a worker
			"held":  "1 0 0 0 0 0 0 map[] map[]",
		}, rows)
		text := section(shownPage(t, h, ""), "names")
		assert.Contains(t, text, "By name figures of the last 11 s")
		assert.Contains(t, text, "waits 1 4.0 s 0")
		assert.Contains(t, text, "works 0 22 25 % 0 ms 4.0 s 0 ms 4.0 s")
	})
	bubble(t, "figures begin where the retained tasks do", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 2})
		named(t, reg, "fails", failing("x")) // retained for longer than the successes
		for range 5 {
			time.Sleep(time.Second)
			named(t, reg, "task", succeed)
		}
		names := decoded[table](t, tetherhttp.Debug(reg), "").Names
		require.Len(t, names.Rows, 1)
		assert.Equal(t, 2, names.Rows[0].Ended)
		assert.Equal(t, 60.0, names.Rows[0].PerMinute)
	})
	bubble(t, "no more names than there is room for", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for i := range 150 {
			named(t, reg, fmt.Sprintf("name %03d", i), succeed)
		}
		named(t, reg, "name 149", succeed)
		names := decoded[table](t, tetherhttp.Debug(reg), "").Names
		require.Len(t, names.Rows, 100)
		assert.Equal(t, 50, names.Omitted)
		assert.Equal(t, "name 149", names.Rows[99].Name, "one of those with the most tasks")
	})
}

func TestDebugFailureGroups(t *testing.T) {
	bubble(t, "a flood of failures does not push out the one panic", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 100})
		named(t, reg, "charge-card", panicky)
		for i := range 300 {
			named(t, reg, "webhook", failing(fmt.Sprintf("503\nattempt %d", i)))
			time.Sleep(time.Second)
		}
		named(t, reg, "webhook", failing("500"))
		named(t, reg, "accept-order", func(context.Context) error { return &tetherhttp.Problem{Status: 422, Detail: "no such article"} })
		named(t, reg, "accept-order", func(context.Context) error { return &tetherhttp.Problem{Status: 500, Detail: "broken"} })
		h := tetherhttp.Debug(reg)
		p := debugged(t, h, "")
		require.Len(t, p.Panics, 1)
		assert.Equal(t, "charge-card", p.Panics[0].Name)
		require.Len(t, p.Failures, 3)
		g := p.Failures[2]
		assert.Equal(t, []any{"webhook", "503", 97, "503\nattempt 299"}, []any{g.Name, g.Error, g.Count, g.Task.Error})
		assert.Equal(t, 96*time.Second, g.Last.Sub(g.First))
		require.Len(t, p.Refusals, 1)
		assert.Equal(t, "accept-order", p.Refusals[0].Name)
		text := section(shownPage(t, h, ""), "alarms")
		assert.Regexp(t, `panicked charge-card .* webhook × 97 \d\d:\d\d:\d\d 503 97 of those that are retained: the first at \d\d:\d\d:\d\d, the last at`, text)
		assert.Regexp(t, `Refused not failures.* refused accept-order`, text)
		assert.Contains(t, shownPage(t, h, "q=accept"), `<span class="state refused">refused</span>`)
	})
	bubble(t, "all that is said to have failed was refused", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		named(t, reg, "task", func(context.Context) error { return tether.ErrClosed })
		assert.Contains(t, shownPage(t, tetherhttp.Debug(reg), ""), "Nothing is stuck, and what failed was refused.")
	})
}

func TestDebugSearch(t *testing.T) {
	bubble(t, "by ID, key, and label", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 1})
		cancelAll(t, reg)
		forgotten := named(t, reg, "forgotten", succeed)
		synctest.Wait()
		ended := named(t, reg, "ended", succeed, tether.Label("order", "A-17"))
		live := named(t, reg, "live", untilCanceled, tether.Unique("Order:5"), tether.Label("customer", "ann"))
		h := tetherhttp.Debug(reg)
		found := func(q string) []string {
			p := debugged(t, h, "q="+url.QueryEscape(q))
			return append(names(p.Live.Tasks), names(p.Finished.Tasks)...)
		}
		assert.Equal(t, []string{"live"}, found("order:5"))
		assert.Equal(t, []string{"ended"}, found("a-17"))
		assert.Equal(t, []string{"ended"}, found("order=a"))
		assert.Equal(t, []string{"live"}, found("=ANN"))
		assert.Equal(t, []string{"live", "ended"}, found("order"))
		assert.Empty(t, found("ann=order"))
		for _, task := range []*tether.Task{live, ended, forgotten} {
			w := ask(t, h, request("GET", debugAt+"?sort=name&q=+"+task.ID(), ""))
			assert.Equal(t, http.StatusSeeOther, w.Code)
			assert.Equal(t, "./?sort=name&task="+task.ID(), w.Header().Get("Location"))
		}
		w := ask(t, h, request("GET", debugAt+"?format=json&q="+live.ID(), ""))
		assert.Equal(t, "./?task="+live.ID()+"&format=json", w.Header().Get("Location"))
		assert.Empty(t, found(strings.Repeat("x", 22)), "it is no ID")
	})
}

func TestDebugTask(t *testing.T) {
	bubble(t, "one that is retried", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		task := named(t, reg, "flaky", failing("no route\nto host"), tether.Retry(tether.RetryPolicy{
			Attempts: 5, Backoff: func(int, error) time.Duration { return 10 * time.Second },
		}))
		time.Sleep(11 * time.Second) // two attempts have failed
		h := tetherhttp.Debug(reg)
		p := decoded[struct {
			Live struct {
				Tasks []struct {
					State       string
					Attempt     int
					MaxAttempts int       `json:"max_attempts"`
					NextAttempt time.Time `json:"next_attempt"`
					LastError   string    `json:"last_error"`
				}
			}
		}](t, h, "").Live.Tasks[0]
		assert.Equal(t, []any{"queued", 3, 5, "no route\nto host"}, []any{p.State, p.Attempt, p.MaxAttempts, p.LastError})
		assert.Equal(t, time.Now().Add(8*time.Second).UTC(), p.NextAttempt)
		page := shownPage(t, h, "")
		assert.Regexp(t, `flaky queued attempt 3 of 5 in 7.0 s 13 s no route`, section(page, "live"), "and not for how long it runs")
		assert.Regexp(t, `Attempt 3 of 5 Starts in 6.0 s, at 00:00:20.* Error of the last attempt no route to host`, section(shownPage(t, h, "task="+task.ID()), "task"))
	})
	bubble(t, "links of labels", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		task := named(t, reg, "task", untilCanceled, tether.Label("trace_id", `a b/"&+ü`), tether.Label("other", "x"))
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{LabelLinks: map[string]string{"trace_id": "https://traces.example/t/{value}?v={value}"}})
		assert.Contains(t, shownPage(t, h, "task="+task.ID()), `trace_id=<a href="https://traces.example/t/a%20b%2F%22%26%2B%C3%BC?v=a%20b%2F%22%26%2B%C3%BC" rel="noreferrer">a b/&#34;&amp;&#43;ü</a>`)
		for _, wrong := range []string{"", "https://traces.example/", "javascript:{value}", "{value}", "/traces/{value}", "httpx"} {
			assert.Panics(t, func() {
				tetherhttp.Debug(reg, tetherhttp.DebugConfig{LabelLinks: map[string]string{"x": wrong}})
			}, wrong)
		}
	})
	t.Run("where one is now", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		up := make(chan struct{})
		task := named(t, reg, "task", func(ctx context.Context) error { close(up); return untilCanceled(ctx) })
		<-up
		h := tetherhttp.Debug(reg)
		look := func(query string) string {
			return ask(t, h, request("GET", debugAt+"?task="+task.ID()+query, "")).Body.String()
		}
		assert.Contains(t, look(""), "Show where it is now")
		assert.NotContains(t, look(""), "tetherhttp_test.TestDebugTask.func3.1(")
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				page := look("&stack=now")
				assert.Contains(t, page, "Where it is now")
				assert.Contains(t, page, "TestDebugTask")
			})
		}
		all.Wait()
		task.Cancel(nil)
		<-task.Done()
		assert.NotContains(t, look("&stack=now"), "here it is now")
	})
}

func TestDebugStop(t *testing.T) {
	bubble(t, "what it waits for, and until when", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		for range 2 {
			named(t, reg, "import", takesSeconds(100))
		}
		named(t, reg, "charge", untilCanceled)
		h := tetherhttp.Debug(reg)
		assert.Empty(t, section(shownPage(t, h, ""), "stop"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- reg.Shutdown(ctx) }()
		synctest.Wait()
		assert.Equal(t, "Stopping since 00:00:01 Now drain, 19 s left, until 00:00:21 Contexts are canceled in 14 s , at 00:00:16 Waiting for 2 × import 1 × charge", section(shownPage(t, h, ""), "stop"))
		stop := decoded[struct {
			Stop struct {
				Began, CancelAt time.Time
				Steps           []struct {
					Name     string
					Deadline time.Time
				}
				Waiting []struct {
					Name string
					Live int
				} `json:"waiting_for"`
			}
		}](t, h, "").Stop
		require.Len(t, stop.Steps, 1)
		assert.Equal(t, "drain", stop.Steps[0].Name)
		assert.Equal(t, "00:00:21", stop.Steps[0].Deadline.Format("15:04:05"))
		assert.Len(t, stop.Waiting, 2)
		time.Sleep(14 * time.Second)
		assert.Contains(t, section(shownPage(t, h, ""), "stop"), "Contexts were canceled at 00:00:16 Waiting for 2 × import")
		require.Error(t, <-done)
		assert.Contains(t, section(shownPage(t, h, ""), "stop"), "Contexts were canceled at 00:00:16 Waiting for 2 × import", "they go on")
		time.Sleep(time.Minute + 30*time.Second)
		assert.Empty(t, section(shownPage(t, h, ""), "stop"), "nothing is waited for")
	})
	bubble(t, "without a deadline", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		slow := named(t, reg, "import", takesSeconds(100))
		go func() { _ = reg.Shutdown(context.Background()) }()
		synctest.Wait()
		assert.Contains(t, section(shownPage(t, tetherhttp.Debug(reg), ""), "stop"), "drain, without a deadline Contexts are not canceled: there is no deadline")
		<-slow.Done()
	})
}

func TestDebugRecurring(t *testing.T) {
	bubble(t, "loops, schedules, shares, and tasks on no pool", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		loop, err := reg.Loop(t.Context(), "consume", func(ctx context.Context) error {
			time.Sleep(time.Second)
			return errors.New("connection lost")
		}, tether.LoopConfig{Restarts: tether.Unbounded, Backoff: func(int, error) time.Duration { return 30 * time.Second }})
		require.NoError(t, err)
		times := schedule.New(reg)
		_, err = times.Add(t.Context(), "tick", schedule.Every(time.Minute), failing("no disk"))
		require.NoError(t, err)
		pool := reg.NewPool("fair", tether.PoolConfig{Workers: 1, Queue: 10})
		named(t, pool, "a", untilCanceled, tether.Share("tenant-a"))
		synctest.Wait()
		named(t, pool, "b", succeed, tether.Share("tenant-b"))
		named(t, pool, "b", succeed, tether.Share("tenant-b"))
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{Schedules: times})
		time.Sleep(70 * time.Second)
		page := shownPage(t, h, "")
		assert.Regexp(t, `Loops 1 .*consume queued again in 2\d s 2 connection lost`, section(page, "loops"))
		assert.Regexp(t, `Schedules 1 .*tick every 1m0s in 49 s failed 00:01:00, took 0 ms 1 0 0 0`, section(page, "schedules"))
		assert.Regexp(t, `tenant-b 2`, section(page, "pools"))
		assert.Regexp(t, `no pool 0 each its own 1 0 0 0 1 2$`, section(page, "pools"))
		p := debugged(t, h, "")
		assert.Equal(t, []string{"consume"}, names(p.Loops))
		assert.Equal(t, 1, p.Counts["loops"])
		loop.Cancel(nil)
	})
}

func TestDebugActions(t *testing.T) {
	send := func(target string, form ...string) *http.Request {
		v := make(url.Values)
		for i := 0; i < len(form); i += 2 {
			v.Set(form[i], form[i+1])
		}
		return request("POST", debugAt+target, v.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	}
	var all tetherhttp.DebugConfig
	all.AllowCancel, all.AllowControl = true, true
	bubble(t, "none is allowed by itself", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 3})
		for _, cfg := range []tetherhttp.DebugConfig{{}, {AllowCancel: true}} {
			h := tetherhttp.Debug(reg, cfg)
			for _, action := range []string{"pause", "resume", "resize", "run", "pause-schedule", "resume-schedule"} {
				assert.Equal(t, http.StatusMethodNotAllowed, ask(t, h, send(action, "pool", "pool", "workers", "1")).problem(t).Status, action)
			}
			assert.NotContains(t, shownPage(t, h, ""), `aria-label="Pause pool"`)
		}
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{AllowControl: true})
		assert.Equal(t, http.StatusMethodNotAllowed, ask(t, h, send("cancel-matching?state=running")).problem(t).Status)
		assert.Equal(t, 3, pool.Stats().Workers)
		assert.False(t, pool.Stats().Paused)
	})
	bubble(t, "a pool", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("a <pool>", tether.PoolConfig{Workers: 3})
		h := tetherhttp.Debug(reg, all)
		do := func(action string, form ...string) string {
			w := ask(t, h, send(action+"?q=x", append(form, "pool", "a <pool>")...))
			require.Equal(t, http.StatusSeeOther, w.Code, w.Body.String())
			page := shownPage(t, h, strings.TrimPrefix(w.Header().Get("Location"), "./?"))
			assert.NotContains(t, page, "did=", "links leave that behind")
			return html.UnescapeString(regexp.MustCompile(`role="status">([^<]*)<`).FindStringSubmatch(page)[1])
		}
		assert.Contains(t, shownPage(t, h, "q=x"), `action="./pause?q=x"`)
		assert.Equal(t, "“a <pool>” starts no further task.", do("pause"))
		assert.True(t, pool.Stats().Paused)
		assert.Contains(t, shownPage(t, h, ""), `aria-label="Resume a &lt;pool&gt;"`)
		for _, action := range []string{"resume", "pause"} { // shown at once, not when the next snapshot is due
			require.Equal(t, http.StatusSeeOther, ask(t, h, send(action, "pool", "a <pool>")).Code)
			page := ask(t, h, request("GET", debugAt, "")).Body.String()
			assert.Equal(t, action == "pause", strings.Contains(page, `aria-label="Resume a &lt;pool&gt;"`), action)
		}
		assert.Equal(t, "“a <pool>” starts tasks again.", do("resume"))
		assert.False(t, pool.Stats().Paused)
		assert.Equal(t, "“a <pool>” has been resized.", do("resize", "workers", " 7 "))
		assert.Equal(t, 7, pool.Stats().Workers)
		for _, n := range []string{"", "-1", "x", "1.5", "99999999999999999999"} {
			assert.Equal(t, http.StatusBadRequest, ask(t, h, send("resize", "pool", "a <pool>", "workers", n)).problem(t).Status, n)
		}
		assert.Equal(t, http.StatusNotFound, ask(t, h, send("pause", "pool", "other")).problem(t).Status)
		reg.NewPool("a <pool>", tether.PoolConfig{})
		assert.Equal(t, http.StatusBadRequest, ask(t, h, send("pause", "pool", "a <pool>")).problem(t).Status, "it is not clear which")
		assert.Equal(t, 7, pool.Stats().Workers)
	})
	bubble(t, "a schedule", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		times := schedule.New(reg)
		runs := 0
		sch, err := times.Add(t.Context(), "tick", schedule.Every(time.Hour), func(context.Context) error { runs++; return nil })
		require.NoError(t, err)
		cfg := all
		cfg.Schedules = times
		h := tetherhttp.Debug(reg, cfg)
		assert.Contains(t, shownPage(t, h, ""), `aria-label="Run tick now"`)
		do := func(action string) {
			require.Equal(t, http.StatusSeeOther, ask(t, h, send(action, "schedule", sch.ID())).Code)
			synctest.Wait()
		}
		do("pause-schedule")
		assert.True(t, sch.Info().Paused)
		do("run")
		assert.Equal(t, 1, runs)
		do("resume-schedule")
		assert.False(t, sch.Info().Paused)
		assert.Equal(t, http.StatusNotFound, ask(t, h, send("run", "schedule", "no")).problem(t).Status)
		assert.Equal(t, http.StatusNotFound, ask(t, tetherhttp.Debug(reg, all), send("run", "schedule", sch.ID())).problem(t).Status)
		require.NoError(t, reg.Shutdown(t.Context()))
		assert.Equal(t, http.StatusServiceUnavailable, ask(t, h, send("run", "schedule", sch.ID())).problem(t).Status, "it is not admitted")
	})
	bubble(t, "all tasks that match, but none that came later", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		var mails []*tether.Task
		for range 3 {
			mails = append(mails, named(t, reg, "mail", untilCanceled))
		}
		other := named(t, reg, "other", untilCanceled)
		h := tetherhttp.Debug(reg, all)
		assert.NotContains(t, shownPage(t, h, ""), "Cancel all", "there is no filter")
		assert.NotContains(t, shownPage(t, h, "confirm=cancel"), `id="confirm"`)
		assert.NotContains(t, shownPage(t, h, "q=none"), "Cancel all", "there is nothing to cancel")
		assert.Contains(t, shownPage(t, h, "q=mai"), `<a id="ask" href="./?confirm=cancel&amp;q=mai#confirm">`)
		page := shownPage(t, h, "q=mai&state=running&confirm=cancel")
		assert.Contains(t, section(page, "confirm"), "Cancel 3 live tasks? Those below that mention “mai” that are running. What")
		form := regexp.MustCompile(`action="(\./cancel-matching[^"]*)"><input type="hidden" name="until" value="([^"]*)">`).FindStringSubmatch(page)
		require.NotNil(t, form)
		time.Sleep(time.Millisecond)
		late := named(t, reg, "mail", untilCanceled)
		time.Sleep(time.Second)
		w := ask(t, h, send(html.UnescapeString(form[1]), "until", form[2]))
		assert.Equal(t, "./?did=cancel-matching&q=mai&state=running&to=3", w.Header().Get("Location"))
		synctest.Wait()
		for _, task := range mails {
			assert.ErrorIs(t, task.Err(), tetherhttp.ErrCanceled)
		}
		assert.Equal(t, []tether.State{tether.Running, tether.Running}, []tether.State{late.State(), other.State()})
		assert.Contains(t, shownPage(t, h, "did=cancel-matching&to=3"), "3 tasks are being canceled")
		assert.Equal(t, http.StatusBadRequest, ask(t, h, send("cancel-matching")).problem(t).Status, "without a filter")
		assert.Equal(t, http.StatusBadRequest, ask(t, h, send("cancel-matching?q=m", "until", "now")).problem(t).Status)
		assert.Equal(t, http.StatusSeeOther, ask(t, h, send("cancel-matching?pool=%09&q=mail")).Code)
		synctest.Wait()
		assert.Equal(t, tether.Canceled, late.State())
	})
	bubble(t, "are announced to Audit, which may refuse them", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 3})
		task := named(t, reg, "task", untilCanceled)
		var heard []string
		var answer func() error
		cfg := all
		cfg.Audit = func(r *http.Request, a tetherhttp.DebugAction) error {
			user, _, _ := r.BasicAuth()
			heard = append(heard, user+": "+a.String())
			return answer()
		}
		h := tetherhttp.Debug(reg, cfg)
		do := func(target string, form ...string) int {
			r := send(target, form...)
			r.SetBasicAuth("ann", "secret")
			return ask(t, h, r).Code
		}
		for want, refuse := range map[int]func() error{
			http.StatusForbidden:       func() error { return errTest },
			http.StatusTeapot:          func() error { return &tetherhttp.Problem{Status: http.StatusTeapot} },
			http.StatusForbidden + 1e6: func() error { panic("x") },
		} {
			answer = refuse
			assert.Equal(t, want%1e6, do("pause", "pool", "pool"))
			assert.Equal(t, want%1e6, do("cancel", "task", task.ID()))
			assert.Equal(t, want%1e6, do("cancel-matching?q=task"))
		}
		synctest.Wait()
		assert.False(t, pool.Stats().Paused)
		assert.Equal(t, tether.Running, task.State())
		heard, answer = nil, func() error { return nil }
		do("resize", "pool", "pool", "workers", "8")
		do("pause", "pool", "pool")
		do("pause", "pool", "no such")
		do("cancel-matching?q=task")
		synctest.Wait()
		do("cancel", "task", task.ID())
		assert.Equal(t, []string{
			`ann: resize pool "pool" to 8 workers`, `ann: pause pool "pool"`, `ann: cancel 1 tasks that match "q=task"`,
			`ann: cancel task "task" ` + task.ID(),
		}, heard)
		assert.Equal(t, tether.Canceled, task.State())
	})
	bubble(t, "not for another site", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 3})
		h := tetherhttp.Debug(reg, all)
		for _, action := range []string{"pause", "resize", "cancel-matching?state=running", "run"} {
			r := send(action, "pool", "pool", "workers", "1")
			r.Header.Set("Sec-Fetch-Site", "same-site")
			assert.Equal(t, http.StatusForbidden, ask(t, h, r).problem(t).Status)
			assert.Equal(t, http.StatusMethodNotAllowed, ask(t, h, request("GET", debugAt+action, "")).problem(t).Status)
		}
		assert.False(t, pool.Stats().Paused)
		assert.Equal(t, 3, pool.Stats().Workers)
	})
}
