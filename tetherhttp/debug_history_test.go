package tetherhttp_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// counted are a history's intervals in which something happened, by when they began.
func counted(p debugJSON) map[string]debugBar {
	all := make(map[string]debugBar)
	for _, b := range p.History.Intervals {
		began := b.Time.Format("15:04:05")
		if b.Time = (time.Time{}); b != (debugBar{}) {
			all[began] = b
		}
	}
	return all
}

// The clock of a bubble starts at midnight.
func TestDebugHistory(t *testing.T) {
	bubble(t, "counts by intervals of ten seconds, from the call of Debug on", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		named(t, reg, "earlier", succeed)
		time.Sleep(5 * time.Second)
		h := tetherhttp.Debug(reg)
		time.Sleep(4 * time.Second)
		named(t, reg, "at 9 s", succeed)
		named(t, reg, "at 9 s", takesSeconds(3))
		time.Sleep(2 * time.Second)
		named(t, reg, "at 11 s", failing("x"))
		named(t, reg, "at 11 s", panicky)
		time.Sleep(14 * time.Second)
		named(t, reg, "at 25 s", succeed, tether.Hold()).Cancel(nil)
		canceled := named(t, reg, "at 25 s", untilCanceled)
		synctest.Wait()
		canceled.Cancel(nil)
		p := debugged(t, h, "") // the first look
		assert.Equal(t, 10.0, p.History.Interval)
		assert.Equal(t, "00:00:05", p.History.Since.Format("15:04:05"))
		assert.Equal(t, map[string]debugBar{
			"00:00:00": {Submitted: 2, Succeeded: 1},
			"00:00:10": {Submitted: 2, Succeeded: 1, Failed: 2},
			"00:00:20": {Submitted: 2, Canceled: 2},
		}, counted(p))
		assert.Len(t, p.History.Intervals, 3)
	})
	bubble(t, "continues without requests, and reaches back ten minutes", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.SampleAlways(tetherhttp.Debug(reg))
		for range 60*6 + 5 { // until 1:00:50
			time.Sleep(5 * time.Second) // amid an interval
			named(t, reg, "task", succeed)
			time.Sleep(5 * time.Second)
		}
		p := debugged(t, h, "")
		assert.Len(t, p.History.Intervals, 60)
		assert.Len(t, counted(p), 59)
		time.Sleep(5 * time.Minute)
		p = debugged(t, h, "")
		assert.Len(t, p.History.Intervals, 60)
		assert.Equal(t, p.History.Intervals[0].Time, p.History.Since)
		assert.Equal(t, "00:56:00", p.History.Since.Format("15:04:05"))
		assert.Len(t, counted(p), 29)
	})
	bubble(t, "stops in a bubble ten minutes after the last look, and begins anew", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		since := debugged(t, h, "").History.Since
		time.Sleep(9*time.Minute + 58*time.Second)
		assert.Len(t, debugged(t, h, "").History.Intervals, 60)
		for range 3 {
			time.Sleep(9 * time.Minute)
			p := debugged(t, h, "")
			assert.Len(t, p.History.Intervals, 60, "it is requested often enough")
		}
		time.Sleep(10*time.Minute + 20*time.Second)
		p := debugged(t, h, "")
		assert.Len(t, p.History.Intervals, 1)
		assert.NotEqual(t, since, p.History.Since)
		assert.Equal(t, p.Time, p.History.Since)
	})
	bubble(t, "keeps nothing alive", func(t *testing.T) {
		registry, handler := func() (weak.Pointer[tether.Registry], weak.Pointer[http.Handler]) {
			reg := tether.New(tether.Config{})
			h := tetherhttp.Debug(reg)
			ask(t, h, request("GET", debugAt, ""))
			return weak.Make(reg), weak.Make(&h)
		}()
		for i := 0; i < 20 && (registry.Value() != nil || handler.Value() != nil); i++ {
			runtime.GC()
		}
		assert.Nil(t, handler.Value())
		assert.Nil(t, registry.Value(), "the timer is still set")
	})
	bubble(t, "is drawn", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		time.Sleep(time.Second)
		for range 4 {
			named(t, reg, "task", succeed)
		}
		time.Sleep(10 * time.Second)
		named(t, reg, "task", failing("x"))
		page := shownPage(t, h, "")
		paths := regexp.MustCompile(`<path d="([^"]*)"`).FindAllStringSubmatch(page, -1)
		require.Len(t, paths, 4)
		assert.Equal(t, "M58.1 20v-20.0h.8v20.0zM59.1 20v-5.0h.8v5.0z", paths[0][1], "submitted: 4 and 1")
		assert.Equal(t, "M58.1 20v-20.0h.8v20.0z", paths[1][1], "succeeded")
		assert.Equal(t, "M59.1 20v-20.0h.8v20.0z", paths[2][1], "failed")
		assert.Empty(t, paths[3][1], "canceled")
		assert.Equal(t, 4, strings.Count(page, `width="58"`), "what was not counted")
		assert.Contains(t, page, `aria-label="Submitted: 5, at most 4 in 10 seconds"`)
		assert.Contains(t, page, "counted since 00:00:00")
	})
}

func TestDebugSnapshot(t *testing.T) {
	bubble(t, "is made once a second, for all", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		h := tetherhttp.Debug(reg)
		total := func() (p debugJSON) {
			w := ask(t, h, request("GET", debugAt+"?format=json", ""))
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			return p
		}
		first := total()
		start(t, reg, untilCanceled)
		time.Sleep(999 * time.Millisecond)
		again := total()
		assert.Equal(t, first.Time, again.Time)
		assert.Zero(t, again.Live.Total)
		assert.Zero(t, again.Counts["submitted"])
		time.Sleep(time.Millisecond)
		next := total()
		assert.Equal(t, first.Time.Add(time.Second), next.Time)
		assert.Equal(t, 1, next.Live.Total)
	})
	bubble(t, "is shared by simultaneous requests", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		cancelAll(t, reg)
		for range 100 {
			start(t, reg, untilCanceled)
		}
		h := tetherhttp.Debug(reg)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 5 {
					debugged(t, h, "")
					shownPage(t, h, "sort=name")
				}
			})
		}
		wg.Wait()
	})
	t.Run("has an end, of what is finished too", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: 20_000})
		for range 10_001 {
			start(t, reg, succeed)
		}
		require.NoError(t, reg.Shutdown(t.Context()))
		h := tetherhttp.Debug(reg)
		w := ask(t, h, request("GET", debugAt+"?format=json", ""))
		var p debugJSON
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		assert.Equal(t, 10_000, p.Finished.Total)
		assert.True(t, p.Finished.Capped)
		assert.False(t, p.Live.Capped)
		assert.Contains(t, ask(t, h, request("GET", debugAt, "")).Body.String(), "10,000 retained, and older ones that were not examined<")
	})
	t.Run("has an end", func(t *testing.T) {
		if testing.Short() {
			t.Skip("makes 100,001 tasks")
		}
		reg := newRegistry(t, tether.Config{})
		var tasks []*tether.Task
		for range 100_001 {
			tasks = append(tasks, start(t, reg, succeed, tether.Hold()))
		}
		h := tetherhttp.Debug(reg)
		w := ask(t, h, request("GET", debugAt+"?format=json", ""))
		var p debugJSON
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		assert.Equal(t, 100_000, p.Live.Total)
		assert.True(t, p.Live.Capped)
		assert.Equal(t, 100_001, p.Counts["held"])
		assert.False(t, p.Finished.Capped)
		assert.Contains(t, ask(t, h, request("GET", debugAt, "")).Body.String(), "100,000, and more that were not examined; these are not necessarily the oldest<")
		tasks[0].Cancel(nil)
		for _, task := range tasks {
			task.Cancel(nil)
		}
	})
}

func TestDebugDrain(t *testing.T) {
	bubble(t, "draining, and drained", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		task := named(t, reg, "slow", takesSeconds(30))
		assert.Equal(t, "serving", debugged(t, h, "").State)
		drained := make(chan error, 1)
		go func() { drained <- reg.Shutdown(context.Background()) }()
		synctest.Wait()
		p := debugged(t, h, "")
		assert.Equal(t, "draining", p.State)
		assert.Nil(t, p.Drain)
		assert.Contains(t, shownPage(t, h, ""), `<p id="state" class="draining" aria-live="polite">draining</p>`)
		require.NoError(t, <-drained)
		assert.NoError(t, task.Err())
		p = debugged(t, h, "")
		assert.Equal(t, "drained", p.State)
		require.NotNil(t, p.Drain)
		assert.Equal(t, 1, p.Drain.Finished)
		assert.Empty(t, p.Drain.Abandoned)
		page := shownPage(t, h, "")
		assert.Contains(t, page, "1 finished, 0 canceled, 0 handed over,\n0 never started, <strong>0 abandoned</strong>.")
	})
	bubble(t, "what did not end in time", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		hangs := named(t, reg, "hangs", takesSeconds(3600))
		named(t, reg, "gives up", untilCanceled)
		named(t, reg, "never", succeed, tether.Hold())
		for i := range 30 {
			named(t, reg, fmt.Sprint("handed ", i), succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error { return nil }))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.Error(t, reg.Shutdown(ctx))
		p := debugged(t, h, "")
		assert.Equal(t, "abandoned", p.State)
		require.NotNil(t, p.Drain)
		assert.Equal(t, 20.0, p.Drain.Took)
		assert.Equal(t, []string{"hangs"}, names(p.Drain.Abandoned))
		assert.Equal(t, 20.0, p.Drain.Abandoned[0].Age, "at its end")
		assert.Equal(t, []string{"gives up"}, names(p.Drain.Canceled))
		assert.Equal(t, []string{"never"}, names(p.Drain.NeverStarted))
		assert.Contains(t, p.Drain.Stacks["hangs"], "takesSeconds")
		page := shownPage(t, h, "")
		for _, text := range []string{"<strong>1 abandoned</strong>", "Where “hangs” hangs", "takesSeconds", "<summary>30 handed over</summary>", "and 10 more"} {
			assert.Contains(t, page, text)
		}
		<-hangs.Done()
		assert.Equal(t, "drained", debugged(t, h, "").State)
	})
}

func TestDebugMounted(t *testing.T) {
	bubble(t, "wherever the path ends with a slash", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Debug(reg)
		mux := http.NewServeMux()
		mux.Handle("/debug/tether/", h)
		mux.Handle("/a/b/", h)
		mux.Handle("/strip/", http.StripPrefix("/strip/", h))
		mux.Handle("/strip2/", http.StripPrefix("/strip2", h))
		for _, prefix := range []string{"/debug/tether/", "/a/b/", "/strip2/"} {
			w := ask(t, mux, request("GET", prefix, ""))
			assert.Equal(t, http.StatusOK, w.Code, prefix)
			assertNothingInline(t, w.Body.String())
			assert.Equal(t, http.StatusOK, ask(t, mux, request("GET", prefix+"debug.css", "")).Code)
		}
		// What is stripped with the slash is known of what the client has asked for.
		for target, h := range map[string]http.Handler{
			"/strip/": mux, "/debug/": http.StripPrefix("/debug/", h), "/": http.StripPrefix("/", h), "/x/y/": withoutSlash(h),
		} {
			w := ask(t, h, request("GET", target+"?q=a", ""))
			assert.Equal(t, http.StatusOK, w.Code, target)
			assert.Equal(t, http.StatusOK, ask(t, h, request("GET", target+"debug.css", "")).Code, target)
		}
	})
	bubble(t, "where it does not, and that can be known", func(t *testing.T) {
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}))
		mux := http.NewServeMux()
		mux.Handle("/debug/tether/", h)
		w := ask(t, mux, request("GET", "/debug/tether?q=a", ""))
		assert.Equal(t, "/debug/tether/?q=a", w.Header().Get("Location"), "ServeMux does it")
		for target, location := range map[string]string{
			"/debug/tether?q=a%26b": "./tether/?q=a%26b",
			"/tether":               "./tether/",
			"/javascript:alert(1)":  "./javascript:alert(1)/",
			"/a//evil.example":      "./evil.example/",
			"/x%2F%2Fevil.example":  "./x%2F%2Fevil.example/",
		} {
			w := ask(t, h, request("GET", target, ""))
			assert.Equal(t, http.StatusSeeOther, w.Code)
			assert.Equal(t, location, w.Header().Get("Location"), target)
		}
		// Another router, in a ServeMux with a pattern that tells nothing.
		inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/debug/tether") {
				h.ServeHTTP(w, r)
			}
		})
		outer := http.NewServeMux()
		outer.Handle("/", inner)
		for _, h := range []http.Handler{
			inner, outer, http.StripPrefix("/debug/tether", h), http.StripPrefix("/debug", h), http.StripPrefix("/debug/", h), withoutSlash(h),
		} {
			w = ask(t, h, request("GET", "/debug/tether?q=a", ""))
			assert.Equal(t, http.StatusSeeOther, w.Code)
			assert.Equal(t, "./tether/?q=a", w.Header().Get("Location"))
			assert.Equal(t, http.StatusOK, ask(t, h, request("GET", "/debug/tether/?q=a", "")).Code, "once")
		}
	})
}

// withoutSlash takes the last slash from the path, as some routers' middlewares do.
func withoutSlash(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.TrimSuffix(r.URL.Path, "/")
		h.ServeHTTP(w, r)
	})
}

func TestDebugNetwork(t *testing.T) {
	for name, limit := range map[string]time.Duration{"30 s": 0, "the server's own limit": 5 * time.Second, "that, if it is longer": time.Minute} {
		bubble(t, "a reader that never reads holds nothing up, and is cut off after "+name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			cancelAll(t, reg)
			for range 100 {
				start(t, reg, untilCanceled)
			}
			n := newMemNet(0)
			returned := make(chan time.Duration, 1)
			h := tetherhttp.Debug(reg)
			began := time.Now()
			srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r)
				returned <- time.Since(began)
			}))
			srv.WriteTimeout = limit
			n.serve(t, srv, false)
			conn, err := n.dial(t.Context(), "", "")
			require.NoError(t, err)
			_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", debugAt)
			require.NoError(t, err)
			time.Sleep(3 * time.Second)
			require.Empty(t, returned)
			assert.Equal(t, 100, debugged(t, h, "").Live.Total, "for others")
			assert.Equal(t, cmp.Or(limit, 30*time.Second), <-returned)
			require.NoError(t, conn.Close())
		})
	}
	overTheNetwork(t, "a body that never comes is waited for 30 s", func(t *testing.T, n *memNet, version int) {
		returned := make(chan time.Duration, 1)
		h := tetherhttp.Debug(newRegistry(t, tether.Config{}), tetherhttp.DebugConfig{AllowCancel: true})
		n.serve(t, n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			h.ServeHTTP(w, r)
			returned <- time.Since(began)
		})), version == 2)
		body, never := io.Pipe()
		r := outbound(t.Context(), "POST", debugAt+"cancel", body)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		c := clientOf(t, n, version)
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			if res, err := c.Do(r); err == nil {
				_ = res.Body.Close()
			}
		}()
		assert.Equal(t, 30*time.Second, <-returned)
		require.NoError(t, never.Close())
		<-answered
	})
	overTheNetwork(t, "one connection after the other look, however late", func(t *testing.T, n *memNet, version int) {
		srv := n.server(tetherhttp.Debug(newRegistry(t, tether.Config{})))
		n.serve(t, srv, version == 2)
		c := clientOf(t, n, version)
		for range 3 {
			got := look(t, c, outbound(t.Context(), "GET", debugAt, nil))
			assert.Equal(t, http.StatusOK, got.status)
			assert.Contains(t, got.body, "</html>")
			time.Sleep(45 * time.Second)
		}
	})
	overTheNetwork(t, "the server's shutdown does not wait for viewers", func(t *testing.T, n *memNet, version int) {
		srv := n.server(tetherhttp.Debug(newRegistry(t, tether.Config{})))
		n.serve(t, srv, version == 2)
		c := clientOf(t, n, version)
		look(t, c, outbound(t.Context(), "GET", debugAt, nil))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, srv.Shutdown(ctx))
		assert.Less(t, time.Since(began), 10*time.Second)
	})
}

func FuzzDebugQuery(f *testing.F) {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	for i := range 30 {
		if _, err := reg.Go(context.Background(), fmt.Sprint("task ", i), func(context.Context) error { return errTest }); err != nil {
			f.Fatal(err)
		}
	}
	if err := reg.Shutdown(context.Background()); err != nil {
		f.Fatal(err)
	}
	h := tetherhttp.Debug(reg)
	for _, query := range []string{"", "q=task+1&page=2&sort=-name", "page=-1&fpage=99999999999999999999", "fsort=-took&fpage=3",
		"state=failed&pool=-", "task=x", "asked=x", "%zz", "a;b", "q=%00%ff<script>", "sort=--name", "format=json"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", debugAt, nil)
		r.URL.RawQuery = query
		w := ask(t, h, r)
		if r.URL.Query().Get("task") != "" {
			require.Equal(t, http.StatusNotFound, w.Code)
			return
		}
		require.Equal(t, http.StatusOK, w.Code)
		if r.URL.Query().Get("format") != "json" {
			assertNothingInline(t, w.Body.String())
		}
		r.URL.RawQuery = "format=json&" + query
		w = ask(t, h, r)
		var p debugJSON
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		for _, list := range []struct{ page, pages, matched, rows int }{
			{p.Live.Page, p.Live.Pages, p.Live.Matched, 100}, {p.Finished.Page, p.Finished.Pages, p.Finished.Matched, 25},
		} {
			require.True(t, 1 <= list.page && list.page <= list.pages)
			require.Equal(t, max(1, (list.matched+list.rows-1)/list.rows), list.pages)
		}
		require.Len(t, p.Finished.Tasks, min(25, p.Finished.Matched-25*(p.Finished.Page-1)))
	})
}

// BenchmarkDebug is a page: the snapshot is made anew for each in "looked", and shared
// otherwise.
func BenchmarkDebug(b *testing.B) {
	for _, tasks := range []int{10, 10_000} {
		reg := newRegistry(b, tether.Config{})
		for range tasks {
			start(b, reg, succeed, tether.Hold())
		}
		for range 100 {
			start(b, reg, succeed)
		}
		render := func(b *testing.B, h http.Handler, query string) {
			w := httptest.NewRecorder()
			w.Body = nil
			h.ServeHTTP(w, httptest.NewRequest("GET", debugAt+query, nil))
			if w.Code != http.StatusOK {
				b.Fatal(w.Code)
			}
		}
		b.Run(strconv.Itoa(tasks)+"/shared", func(b *testing.B) {
			b.ReportAllocs()
			h := tetherhttp.Debug(reg)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", debugAt, nil))
			for b.Loop() {
				render(b, h, "")
			}
			var small bytes.Buffer
			z := gzip.NewWriter(&small)
			if _, err := io.Copy(z, bytes.NewReader(w.Body.Bytes())); err != nil || z.Close() != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(w.Body.Len()), "html-B")
			b.ReportMetric(float64(small.Len()), "gzip-B")
		})
		b.Run(strconv.Itoa(tasks)+"/sorted", func(b *testing.B) {
			b.ReportAllocs()
			h := tetherhttp.Debug(reg)
			for b.Loop() {
				render(b, h, "?q=task&sort=name")
			}
		})
		b.Run(strconv.Itoa(tasks)+"/looked", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				h := tetherhttp.Debug(reg)
				b.StartTimer()
				render(b, h, "")
			}
		})
		for task := range reg.Tasks() {
			task.Cancel(nil)
		}
	}
}
