package browser

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// browser is the context of the browser that all tests share, nil if there is none.
var browser context.Context

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		fmt.Fprintln(os.Stderr, "THE BROWSER TESTS ARE SKIPPED: there is no chromium, chromium-browser or google-chrome in PATH")
		return m.Run()
	}
	profile, err := os.MkdirTemp("", "tether-browser")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(profile)
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		// A host that is not localhost: plain HTTP is not a secure context there.
		chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1"),
	)
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	defer cancel()
	browser, cancel = chromedp.NewContext(allocator)
	defer cancel()
	if err := chromedp.Do(browser, chromedp.Navigate("about:blank")); err != nil {
		fmt.Fprintln(os.Stderr, "the browser does not start:", err)
		return 1
	}
	return m.Run()
}

const path = "/debug/tether/"

// viewer is a browser tab with a registry's page.
type viewer struct {
	t   *testing.T
	ctx context.Context
	reg *tether.Registry
	srv *httptest.Server

	mu      sync.Mutex
	handler http.Handler // of srv, guarded by mu
	wrong   []string     // errors in the console, and dialogs; guarded by mu
	allowed []string     // that may be among them
}

// before has f called before each request from now on.
func (v *viewer) before(f func(r *http.Request)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	inner := v.handler
	v.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f(r)
		inner.ServeHTTP(w, r)
	})
}

// newViewer opens a tab. At the end of the test nothing may have gone wrong there.
func newViewer(t *testing.T, cfg tether.Config, page ...tetherhttp.DebugConfig) *viewer {
	t.Helper()
	if browser == nil {
		t.Skip("there is no browser")
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	v := &viewer{t: t, reg: tether.New(cfg)}
	mux := http.NewServeMux()
	mux.Handle(path, tetherhttp.Debug(v.reg, page...))
	// An answer that is no page of ours names no icon, and the browser asks for one when it likes.
	mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	v.handler = mux
	v.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		h := v.handler
		v.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(v.srv.Close)
	t.Cleanup(func() {
		for task := range v.reg.Tasks() {
			task.Cancel(nil)
		}
	})
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	v.ctx, cancel = context.WithTimeout(ctx, 2*time.Minute) // a guard against hanging
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Listen(v.ctx, v.listen))
	t.Cleanup(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, text := range v.wrong {
			ok := false
			for _, part := range v.allowed {
				ok = ok || strings.Contains(text, part)
			}
			if !ok {
				t.Error("in the browser: " + text)
			}
		}
	})
	return v
}

func (v *viewer) listen(event any) {
	text := ""
	switch e := event.(type) {
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			text = e.Entry.Text
		}
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Text
	case *runtime.EventConsoleAPICalled:
		text = "console." + string(e.Type)
	case *page.EventJavascriptDialogOpening:
		text = "dialog: " + e.Message
	}
	if text != "" {
		v.mu.Lock()
		v.wrong = append(v.wrong, text)
		v.mu.Unlock()
	}
}

// open shows the page of a query.
func (v *viewer) open(query string) {
	v.t.Helper()
	v.do(chromedp.Navigate(v.srv.URL + path + "?" + query))
	// Updates come more often than for people, lest the tests take so long.
	eval[any](v, `typeof every !== 'undefined' && (every = 300, later())`)
}

func (v *viewer) do(steps ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	require.NoError(v.t, chromedp.Do(v.ctx, steps...))
}

func (v *viewer) screen(width, height int64) {
	v.t.Helper()
	_, err := chromedp.Call(v.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500})
	require.NoError(v.t, err)
}

// eval returns what an expression is in the page.
func eval[T any](v *viewer, js string) T {
	v.t.Helper()
	value, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	require.NoError(v.t, err, js)
	return value
}

// until waits until an expression is true in the page.
func (v *viewer) until(js string) {
	v.t.Helper()
	for {
		is, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool]("!!("+js+")"))
		if v.ctx.Err() != nil {
			v.t.Fatalf("it does not become true: %s\n%s", js, v.text())
		}
		if err == nil && is { // it may fail while a page is loading
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-v.ctx.Done():
		}
	}
}

func (v *viewer) text() string {
	text, _ := chromedp.Run(context.WithoutCancel(v.ctx), chromedp.Evaluate[string]("document.body.innerText"))
	return text
}

// updated waits until the page has been brought up to date n times.
func (v *viewer) updated(n int) {
	v.t.Helper()
	for range n {
		was := eval[string](v, now)
		v.until(fmt.Sprintf("%s !== %q", now, was))
	}
}

const now = `document.querySelector('#controls time').textContent`

// names is an expression: the names in the rows of a table.
func names(section string) string {
	return `[...document.querySelectorAll('#` + section + ` tbody tr:not([data-left]) th')].map(th => th.innerText)`
}

// shows waits until the rows of a table have these names.
func (v *viewer) shows(section string, want ...string) {
	v.t.Helper()
	v.until(fmt.Sprintf("%s.join('|') === %q", names(section), strings.Join(want, "|")))
}

// hold submits a task that lives until it is canceled.
func (v *viewer) hold(name string, opts ...tether.Option) *tether.Task {
	v.t.Helper()
	task, err := v.reg.Go(context.Background(), name, func(context.Context) error { return nil }, append(opts, tether.Hold())...)
	require.NoError(v.t, err)
	return task
}

func (v *viewer) run(name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	v.t.Helper()
	task, err := v.reg.Go(context.Background(), name, fn, opts...)
	require.NoError(v.t, err)
	return task
}

// ended submits a task and waits for its end.
func (v *viewer) ended(name string, fn tether.Func) *tether.Task {
	v.t.Helper()
	task := v.run(name, fn)
	<-task.Done()
	return task
}

func untilCanceled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}
