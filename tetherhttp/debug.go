package tetherhttp

import (
	"bytes"
	"context"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/internal/bubble"
	"github.com/seed-2e639f12/tether/internal/weaktimer"
	"github.com/seed-2e639f12/tether/schedule"
)

// DebugConfig configures [Debug]. The zero value is ready to use.
type DebugConfig struct {
	// Title is the heading of the page. If empty, it is the name of the program.
	Title string
	// Version is the version of the program. If empty, it is what the build information has:
	// the version of the main module, or its commit.
	Version string
	// AllowCancel adds buttons that cancel a task, or all live tasks that match a filter, with
	// [ErrCanceled]. AllowControl adds buttons that pause, resume and resize pools, and run,
	// pause and resume schedules. Otherwise such requests are answered 405. A request that a browser sends for another site is
	// answered 403, see [http.CrossOriginProtection]; so may be the page's own behind a proxy
	// that rewrites the Host header: configure the proxy to keep it.
	AllowCancel, AllowControl bool
	// Audit is called before each action, with the request that it is from: it tells who is
	// about to do what. If it returns an error, the action is not done, and the answer is the
	// error if it is a [*Problem], and 403 otherwise. So it is if Audit panics. It may be nil.
	Audit func(r *http.Request, a DebugAction) error
	// Schedules are shown with their next and last runs. They should be those of the registry.
	Schedules *schedule.Scheduler
	// LabelLinks makes the values of labels links, by the label's key:
	// "trace_id": "https://traces.example/trace/{value}". The value is escaped.
	LabelLinks map[string]string
	// Hosts are the host names, without a port, under which the page may be requested, in
	// addition to localhost and IP addresses, which are always allowed. Other requests are
	// answered 421, see [AllowHosts]. If Hosts is empty, that applies only to connections to
	// a loopback address; set it if a reverse proxy on the same machine passes the Host
	// header on.
	Hosts []string
}

// Debug returns a handler that serves a page about reg for its operators: which process it is,
// whether it serves or stops and what for it waits, what has failed and is stuck, the tasks by
// name, the pools, loops and schedules, the live tasks, and those that ended last.
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
// a second, and at most once in eleven times as long as the last one took, except after an
// action. At most 100,000 live
// tasks are examined, not necessarily the oldest, and the 10,000 finished tasks that ended
// last, and of older ones those that panicked or failed. A single task's page is always
// current.
//
// The plots begin with the call of Debug: every ten seconds a timer reads the registry's counts.
// So call it when the program starts. No task pays for the plots, and the timer does not keep
// the handler or the registry alive.
//
// With format=json among the parameters of its URL, the page is JSON. docs/livepage.md lists the
// parameters, the fields of the JSON, and the actions, which are forms that a program can send
// too.
//
// Debug panics if reg is nil or cfg is invalid, which is a programming error: a link of
// LabelLinks must begin with https:// or http:// and contain {value}.
func Debug(reg *tether.Registry, cfg ...DebugConfig) http.Handler {
	if reg == nil {
		panic("tetherhttp: Debug needs a registry")
	}
	now := time.Now()
	h := &debug{
		reg: reg, cfg: optional("Debug", cfg), inBubble: bubble.Inside(now), origin: http.NewCrossOriginProtection(),
		assets: make(map[string]*asset), stacking: make(chan struct{}, 1), looking: make(chan struct{}, 1),
	}
	h.cfg.Hosts, h.cfg.LabelLinks = slices.Clone(h.cfg.Hosts), maps.Clone(h.cfg.LabelLinks)
	for key, link := range h.cfg.LabelLinks {
		if _, rest, ok := strings.Cut(link, "://"); !ok || !strings.HasPrefix(link, "http") || !strings.Contains(rest, "{value}") {
			panic(fmt.Sprintf("tetherhttp: Debug: the link %q of label %q must begin with https:// or http:// and contain {value}", link, key))
		}
	}
	h.process = thisProcess(h.cfg.Title, h.cfg.Version, now)
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
		"num":   grouped, "dur": duration, "clock": clock, "percent": percent, "first": first, "share": shareText, "rate": rate,
	}).ParseFS(debugFiles, "debug/page.html"))
	h.history = newHistory(now, reg.Stats())
	h.tickLater(now)
	return h
}

//go:embed debug
var debugFiles embed.FS

// debug is the handler that Debug returns.
type debug struct {
	reg      *tether.Registry
	cfg      DebugConfig
	inBubble bool // made inside a bubble of testing/synctest; guarded by looking
	process  debugProcess
	origin   *http.CrossOriginProtection
	page     *template.Template
	assets   map[string]*asset // by name

	stacking  chan struct{} // a lock with a context: it is full while a stack is taken
	nextStack time.Time     // no stack is taken before; guarded by stacking

	// looking is a lock with a context: it is full while a snapshot is taken, and requests
	// that arrive meanwhile wait for that snapshot until their context is done. No code of
	// the program is called while it is held.
	looking chan struct{}
	last    *snapshot // guarded by looking; nil if there was no request for a while
	// acted is when the last action was done. A snapshot that is older does not show it.
	acted   atomic.Pointer[time.Time]
	history history // guarded by looking
}

const debugPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (h *debug) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", debugPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	if h.cfg.AllowCancel || h.cfg.AllowControl {
		// With no-referrer a browser sends a form with "Origin: null". On plain HTTP it sends
		// no Sec-Fetch-Site either, and the form would seem to come from another site.
		header.Set("Referrer-Policy", "same-origin")
	}
	if (len(h.cfg.Hosts) > 0 || onLoopback(r)) && !allowedHost(r.Host, h.cfg.Hosts) {
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
	allowed, _ := h.allows(DebugActionKind(name))
	switch {
	case r.Method == http.MethodPost && allowed:
		h.serveAction(w, r, DebugActionKind(name))
	case allowed:
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

func (h *debug) servePage(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	q := parseQuery(values)
	if id, ok := h.searchedID(q); ok {
		q.Name, q.Task = "", id
		to := q.encode()
		if values.Get("format") == "json" {
			to += "&format=json"
		}
		redirect(w, http.StatusSeeOther, "./", to)
		return
	}
	p := &debugPage{Process: h.process, Query: q, CanCancel: h.cfg.AllowCancel, CanControl: h.cfg.AllowControl, links: h.cfg.LabelLinks, schedules: h.cfg.Schedules}
	status := http.StatusOK
	client := clientOf(w, r)
	stop := sync.OnceFunc(client.stop)
	defer stop()
	if q.Task != "" {
		now := time.Now()
		p.begin(now, h.reg.Ready(), h.reg.Report(), h.reg.Stats())
		var wrong *Problem
		if p.Task, wrong = h.detail(client, q, now); wrong != nil {
			status, p.Notice = wrong.Status, wrong.Detail
			if values.Get("format") == "json" {
				wrong.ServeHTTP(w, r)
				return
			}
		}
	} else {
		s := h.look(client)
		if s == nil { // the client has gone
			newProblem(ProblemPageUnavailable, "").after(time.Second).ServeHTTP(w, r)
			return
		}
		p.begin(s.time, s.ready, s.drain, s.stats)
		p.list(h.reg, s)
	}
	stop()
	if values.Get("format") == "json" {
		writeJSON(w, r, "application/json", http.StatusOK, p)
		return
	}
	if p.Notice == "" {
		p.Notice = h.notice(q.Told)
	}
	var b bytes.Buffer
	if err := h.page.Execute(&b, p); err != nil {
		logf(r, "tetherhttp: the debug page: %v", err)
		newProblem(ProblemFailed, "").ServeHTTP(w, r)
		return
	}
	writeBody(w, "text/html; charset=utf-8", status, b.Bytes())
}

// searchedID returns the ID of a task of the registry, if that is what the text of a search
// is.
func (h *debug) searchedID(q query) (string, bool) {
	id := strings.TrimSpace(q.Name)
	if len(id) != lenID || q.Task != "" {
		return "", false
	}
	_, err := h.reg.Find(id)
	return id, err == nil || errors.Is(err, tether.ErrExpired)
}

// detail returns a task in its current state, or a problem if there is none.
func (h *debug) detail(ctx context.Context, q query, now time.Time) (*debugTask, *Problem) {
	t, err := h.reg.Find(q.Task)
	switch {
	case errors.Is(err, tether.ErrExpired):
		return nil, newProblem(ProblemTaskForgotten, "This task has ended and is no longer retained.")
	case err != nil:
		return nil, newProblem(ProblemTaskUnknown, "There is no such task.")
	}
	info := t.Info()
	shown := newDebugTask(h.reg, &info, now)
	if q.Stack && info.State == tether.Running {
		shown.Stack = h.stackOf(ctx, t)
	}
	return shown, nil
}

// notice says what has become of an action.
func (h *debug) notice(did told) string {
	switch did.Did {
	case DebugPause:
		return "“" + did.To + "” starts no further task."
	case DebugResume:
		return "“" + did.To + "” starts tasks again."
	case DebugResize:
		return "“" + did.To + "” has been resized."
	case DebugRun:
		return "A run of “" + did.To + "” was started, or is queued."
	case DebugPauseSchedule:
		return "“" + did.To + "” starts no further run by itself."
	case DebugResumeSchedule:
		return "“" + did.To + "” runs by its timetable again."
	case DebugCancelMatching:
		if did.To == "1" {
			return "1 task is being canceled; it ends when its body returns."
		}
		return did.To + " tasks are being canceled; each ends when its body returns."
	}
	t, err := h.reg.Find(did.Asked)
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
	acted := h.acted.Load()
	if h.last == nil || !h.last.fresh(now) || acted != nil && !h.last.time.After(*acted) {
		h.last = newSnapshot(h.reg, now)
		if h.history.bars == nil {
			h.history = newHistory(now, h.last.stats)
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
func (h *debug) tickLater(now time.Time) {
	weaktimer.AfterFunc(h.history.left(now), h, (*debug).tick)
}

// tick continues the history. In a bubble of testing/synctest it stops if there was no request
// for a while: a timer that is always set would keep a test that hangs from being found.
func (h *debug) tick() {
	h.looking <- struct{}{}
	defer func() { <-h.looking }()
	now := time.Now()
	idle := now.Sub(h.history.requested)
	if idle > interval && h.last != nil && !h.last.fresh(now) {
		h.last = nil // it may hold many tasks
	}
	if h.inBubble && idle > sampleFor {
		h.history = history{}
		return
	}
	h.history.note(now, h.reg.Stats())
	h.tickLater(now)
}
