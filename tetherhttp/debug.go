package tetherhttp

import (
	"bytes"
	"context"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

// DebugConfig configures [Debug]. The zero value is ready to use.
type DebugConfig struct {
	// AllowCancel adds buttons that cancel tasks with [ErrCanceled]. Otherwise such a request
	// is answered 405. A request that a browser sends for another site is answered 403, see
	// [http.CrossOriginProtection]; so may be the page's own behind a proxy that rewrites
	// the Host header: configure the proxy to keep it.
	AllowCancel bool
	// Hosts are the host names, without a port, under which the page may be requested, in
	// addition to localhost and IP addresses, which are always allowed. Other requests are
	// answered 421, see [AllowHosts]. If Hosts is empty, that applies only to connections to
	// a loopback address; set it if a reverse proxy on the same machine passes the Host
	// header on.
	Hosts []string
}

// Debug returns a handler that serves a page about reg for its operators: whether it serves or
// drains, which tasks failed and which are stuck, the pools, the live tasks, and the tasks
// that ended last.
//
//	mux.Handle("/debug/tether/", tetherhttp.Debug(reg))
//
// The page shows errors, stacks, and the IDs with which [Tasks] can be asked. Protect it with
// a middleware that authenticates, or listen on a loopback address, to which only the users and
// programs of the same machine have access: there the handler refuses foreign host names, by
// which a web page in a browser could reach it (DNS rebinding), see [DebugConfig].Hosts.
//
// The page loads nothing from other hosts, its Content-Security-Policy allows nothing inline,
// and it works without JavaScript. With JavaScript it refreshes every two seconds while it is
// visible. It can be mounted at any path that ends with a slash; the path without the slash is
// redirected.
//
// All viewers share one snapshot of the registry. A snapshot is taken on request, at most once
// a second, and at most once in eleven times as long as the last one took. At most 100,000 live
// tasks are examined, not necessarily the oldest, and the 10,000 finished tasks that ended
// last. The plots begin with the first request, and are updated until ten minutes after the
// last one; they reach further back if reg retains every task that has ever ended. A single
// task's page is always current.
//
// Query parameters select what is shown; invalid ones are ignored:
//
//	q=mail            tasks with this text in their name, ignoring case
//	pool=outbound     tasks of this pool; a tab, pool=%09, selects tasks without a pool
//	state=failed      tasks in this state, see [tether.State], or "stuck", see [tether.Config].StuckAfter
//	sort=-age&page=2  live tasks by name, pool, state, age, running, progress or parent,
//	                  descending with "-"; 100 on a page
//	fsort=-took&fpage=2  finished tasks by name, pool, state, ended, took or attempt; 25 on a page
//	task=…            one task, by its ID; 404 or 410 if there is none
//	format=json       the same as JSON
//
// The JSON is
//
//	{"time", "state": "serving", "draining", "drained", or "abandoned" if a Shutdown has left live tasks,
//	 "counts": {"submitted", "refused", "succeeded", "failed", "panicked", "canceled", "dropped",
//	            "held", "queued", "running", "stuck"},
//	 "pools": [{"name", "workers", "queue", "inline", "weight", "capacity", "paused", "counts"}],
//	 "history": {"interval_seconds", "since", "intervals": [{"time", "submitted", "succeeded",
//	             "failed" (and panicked), "canceled" (and dropped)}]},
//	 "stuck": [task], "failures": [task],
//	 "live": {"total", "matched", "capped", "sort", "page", "pages", "tasks": [task]}, "finished": likewise,
//	 "drain": {"began", "ended", "took_seconds", "finished", "canceled": [task], "handed_over", "never_started",
//	           "abandoned", "omitted", "stacks"}}
//
// or, for one task, {"time", "state", "counts" without "stuck", "task"}. "queue" is omitted if
// it has no bound; "capped" says that there are more tasks than were examined. A task is
//
//	{"id", "name", "pool", "parent", "parent_name", "state", "func", "submitted", "started", "finished",
//	 "age_seconds", "running_seconds", "attempt", "progress": {"done", "total", "message"}, "unique",
//	 "labels", "error", "panic_stack", "stuck_stack"}
//
// Times are as in RFC 3339, and fields that do not apply are omitted. Age and running time end
// when the task does.
//
// Debug panics if reg is nil, which is a programming error.
func Debug(reg *tether.Registry, cfg ...DebugConfig) http.Handler {
	if reg == nil {
		panic("tetherhttp: Debug needs a registry")
	}
	h := &debug{reg: reg, origin: http.NewCrossOriginProtection(), assets: make(map[string]*asset), looking: make(chan struct{}, 1)}
	c := optional("Debug", cfg)
	h.cancel, h.hosts = c.AllowCancel, slices.Clone(c.Hosts)
	for name, contentType := range map[string]string{
		"debug.css": "text/css; charset=utf-8", "debug.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml",
	} {
		body, err := debugFiles.ReadFile("debug/" + name)
		if err != nil {
			panic(err) // the file is embedded
		}
		sum := hashOf(string(body))
		h.assets[name] = &asset{contentType, body, hex.EncodeToString(sum[:8])}
	}
	// Parsed here, not in a package variable, so that programs that do not call Debug do not
	// link html/template.
	h.page = template.Must(template.New("page.html").Funcs(template.FuncMap{
		"asset": func(name string) string { return name + "?v=" + h.assets[name].version },
		"num":   grouped, "dur": duration, "clock": clock, "percent": percent, "first": first,
	}).ParseFS(debugFiles, "debug/page.html"))
	return h
}

//go:embed debug
var debugFiles embed.FS

// debug is the handler that Debug returns.
type debug struct {
	reg    *tether.Registry
	cancel bool
	hosts  []string
	origin *http.CrossOriginProtection
	page   *template.Template
	assets map[string]*asset // by name

	// looking is a lock with a context: it is full while a snapshot is taken, and requests
	// that arrive meanwhile wait for that snapshot until their context is done. No code of
	// the program is called while it is held.
	looking chan struct{}
	last    *snapshot // guarded by looking; nil if there was no request for a while
	history history   // guarded by looking
}

const debugPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (h *debug) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", debugPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	if h.cancel {
		// With no-referrer a browser sends a form with "Origin: null". On plain HTTP it sends
		// no Sec-Fetch-Site either, and the form would seem to come from another site.
		header.Set("Referrer-Policy", "same-origin")
	}
	if (len(h.hosts) > 0 || onLoopback(r)) && !allowedHost(r.Host, h.hosts) {
		refuseHost(w, r)
		return
	}
	// Limits for clients that do not read, or do not send the body of a POST. A wrapper around
	// w may not support deadlines; the page works without.
	srv, control := serverOf(r), http.NewResponseController(w)
	if srv == nil || srv.WriteTimeout <= 0 {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	if r.Method == http.MethodPost && (srv == nil || srv.ReadTimeout <= 0) {
		_ = control.SetReadDeadline(time.Now().Add(writeTimeout))
	}

	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case r.Method == http.MethodPost && name == "cancel" && h.cancel:
		h.serveCancel(w, r)
	case name == "cancel" && h.cancel:
		header.Set("Allow", "POST")
		newProblem(ProblemMethod, "").ServeHTTP(w, r)
	case !get:
		header.Set("Allow", "GET, HEAD")
		newProblem(ProblemMethod, "").ServeHTTP(w, r)
	case h.assets[name] != nil:
		h.assets[name].ServeHTTP(w, r)
	case name == "" && r.URL.Path != "" || strings.HasSuffix(requestPath(r), "/"):
		h.servePage(w, r)
	default:
		// Relative URLs need the slash. The handler does not know where it is mounted, since
		// r.Pattern may belong to another router, so that it cannot tell an unknown path.
		redirect(w, http.StatusSeeOther, "./"+path.Base(requestPath(r))+"/", r.URL.RawQuery)
	}
}

// requestPath returns the escaped path that the client requested, before a prefix was
// stripped from it.
func requestPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return r.URL.EscapedPath()
}

// redirect redirects to a path that begins with "./" or "../" and is relative to the URL that the
// client requested. [http.Redirect] would make it relative to r.URL, which may have been
// stripped.
func redirect(w http.ResponseWriter, status int, to, query string) {
	if query != "" {
		to += "?" + query
	}
	w.Header().Set("Location", to)
	w.WriteHeader(status)
}

// asset is a file that the page loads.
type asset struct {
	contentType string
	body        []byte
	version     string // changes with body
}

func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("ETag", `"`+a.version+`"`)
	if r.URL.Query().Get("v") == a.version {
		w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	} else {
		w.Header().Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

func (h *debug) serveCancel(w http.ResponseWriter, r *http.Request) {
	if err := h.origin.Check(r); err != nil {
		newProblem(ProblemCrossSite, err.Error()).ServeHTTP(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	id := r.PostFormValue("task") // not "id": such a field hides the id property of its form
	switch t, err := h.reg.Find(id); {
	case err == nil:
		t.Cancel(ErrCanceled)
	case !errors.Is(err, tether.ErrExpired): // such a task has ended already
		newProblem(ProblemTaskUnknown, "there is no such task").ServeHTTP(w, r)
		return
	}
	back := parseQuery(r.URL.Query())
	back.Canceled = id
	redirect(w, http.StatusSeeOther, "./", back.encode())
}

func (h *debug) servePage(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	q := parseQuery(values)
	p := &debugPage{Query: q, CanCancel: h.cancel}
	status := http.StatusOK
	if q.Task != "" {
		now := time.Now()
		p.begin(now, h.reg.Ready(), h.reg.Report(), h.reg.Stats())
		var wrong *Problem
		if p.Task, wrong = h.detail(q.Task, now); wrong != nil {
			status, p.Notice = wrong.Status, wrong.Detail
			if values.Get("format") == "json" {
				wrong.ServeHTTP(w, r)
				return
			}
		}
	} else {
		client := clientOf(w, r)
		s := h.look(client)
		client.stop()
		if s == nil { // the client has gone
			newProblem(ProblemPageUnavailable, "").after(time.Second).ServeHTTP(w, r)
			return
		}
		p.begin(s.time, s.ready, s.drain, s.stats)
		p.list(h.reg, s)
	}
	if values.Get("format") == "json" {
		writeJSON(w, r, "application/json", http.StatusOK, p)
		return
	}
	if q.Canceled != "" {
		p.Notice = h.cancelNotice(q.Canceled)
	}
	var b bytes.Buffer
	if err := h.page.Execute(&b, p); err != nil {
		logf(r, "tetherhttp: the debug page: %v", err)
		newProblem(ProblemFailed, "").ServeHTTP(w, r)
		return
	}
	writeBody(w, "text/html; charset=utf-8", status, b.Bytes())
}

// detail returns a task in its current state, or a problem if there is none.
func (h *debug) detail(id string, now time.Time) (*debugTask, *Problem) {
	t, err := h.reg.Find(id)
	switch {
	case errors.Is(err, tether.ErrExpired):
		return nil, newProblem(ProblemTaskForgotten, "This task has ended and is no longer retained.")
	case err != nil:
		return nil, newProblem(ProblemTaskUnknown, "There is no such task.")
	}
	info := t.Info()
	return newDebugTask(h.reg, &info, now), nil
}

// cancelNotice describes the state of a task after a request to cancel it.
func (h *debug) cancelNotice(id string) string {
	t, err := h.reg.Find(id)
	if err != nil {
		return ""
	}
	if s := t.State(); s.Final() {
		return "“" + t.Name() + "” has ended: " + s.String() + "."
	}
	return "“" + t.Name() + "” is being canceled; it ends when its body returns."
}

// look returns a fresh snapshot, or nil if ctx is done before there is one.
func (h *debug) look(ctx context.Context) *snapshot {
	select {
	case h.looking <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-h.looking }()
	now := time.Now()
	if h.last == nil || !h.last.fresh(now) {
		h.last = newSnapshot(h.reg, now)
		if h.history.bars == nil {
			h.history.begin(h.reg, h.last)
			h.tickLater(now)
		} else {
			h.history.note(now, h.last.stats)
		}
		h.last.history = h.history.shown()
	}
	h.history.requested = now
	return h.last
}

// tickLater sets a timer that calls tick when the interval ends. There is no goroutine between
// two calls.
func (h *debug) tickLater(now time.Time) { time.AfterFunc(h.history.left(now), h.tick) }

// tick continues the history, or drops everything if there was no request for a while.
func (h *debug) tick() {
	h.looking <- struct{}{}
	defer func() { <-h.looking }()
	now := time.Now()
	if now.Sub(h.history.requested) > sampleFor {
		h.last, h.history = nil, history{}
		return
	}
	if now.Sub(h.history.requested) > interval && h.last != nil && !h.last.fresh(now) {
		h.last = nil // it may hold many tasks
	}
	h.history.note(now, h.reg.Stats())
	h.tickLater(now)
}
