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
}

// Debug shows what the tasks of reg do, to people: whether it serves or drains, what has
// failed and what is stuck, its pools, its live tasks, and those that have ended lately.
//
//	mux.Handle("/debug/tether/", tetherhttp.Debug(reg))
//
// It shows errors, stacks and the ids that [Tasks] takes for keys. Protect it with a middleware
// that authenticates. To listen on a loopback address alone does not: any web page that is open
// in a browser there can reach it by a host name of its own (DNS rebinding), unless a middleware
// refuses each Host that is not yours. Nothing in the page is from elsewhere, its
// Content-Security-Policy allows nothing inline, and it works without JavaScript. With it, it
// asks for itself every two seconds as long as it is looked at. Mount it wherever you like, at a
// path that ends with a slash; a path that does not is redirected to the one that does.
//
// All viewers share one look at the registry, which is made once a second at most, after ten times
// as long as the last one took, and only if somebody asks. Of more than 100,000 live tasks it takes
// so many, and not the oldest; of more than 10,000 finished ones those that ended last. The plots
// begin with the first look, and are kept up for ten minutes after the last request for one; they
// reach further back if reg retains every task that has ever ended. What one task is like needs no
// look.
//
// What is shown is chosen by the query, and what makes no sense there counts as left out:
//
//	q=mail            tasks whose name has this in it, whatever the case
//	pool=outbound     of this pool; a tab, pool=%09: of none
//	state=failed      in this state, see [tether.State]; "stuck", see [tether.Config].Stuck
//	sort=-age&page=2  the live tasks: by name, pool, state, age, running, progress or parent,
//	                  the other way round with "-"; 100 a page
//	fsort=-took&fpage=2  the finished ones: by name, pool, state, ended, took or attempt; 25 a page
//	task=…            one task, by its ID, as it is now; 404 or 410 if there is none
//	format=json       the same for a machine
//
// The JSON is
//
//	{"time", "state": "serving", "draining", "drained", or "abandoned" if tasks live that a Shutdown has left,
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
// or, of one task, {"time", "state", "counts" without "stuck", "task"}. "queue" is left out if it has no
// bound; "capped" says that a list is of those that were looked at, and there are more. A task is
//
//	{"id", "name", "pool", "parent", "parent_name", "state", "func", "submitted", "started", "finished",
//	 "age_seconds", "running_seconds", "attempt", "progress": {"done", "total", "message"}, "unique",
//	 "labels", "error", "panic_stack", "stuck_stack"}
//
// Times are as RFC 3339 has them, what does not apply is left out, and age and running time
// end when the task does.
func Debug(reg *tether.Registry, cfg ...DebugConfig) http.Handler {
	if reg == nil {
		panic("tetherhttp: Debug needs a registry")
	}
	h := &debug{reg: reg, origin: http.NewCrossOriginProtection(), assets: make(map[string]*asset), turn: make(chan struct{}, 1)}
	h.cancel = optional("Debug", cfg).AllowCancel
	for name, contentType := range map[string]string{
		"debug.css": "text/css; charset=utf-8", "debug.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml",
	} {
		body, err := debugFiles.ReadFile("debug/" + name)
		if err != nil {
			panic(err) // it is part of the program
		}
		sum := hashOf(string(body))
		h.assets[name] = &asset{contentType, body, hex.EncodeToString(sum[:8])}
	}
	// Here, and not in a variable: whoever does not call Debug has no html/template in his program.
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
	origin *http.CrossOriginProtection
	page   *template.Template
	assets map[string]*asset // by name

	// turn is full while a snapshot is made, so that whoever comes then waits for it rather
	// than making another, as long as he cares to: hence no mutex. Nothing that belongs to the
	// program is called meanwhile.
	turn    chan struct{}
	last    *snapshot // guarded by turn; nil if nobody has looked for a while
	history history   // guarded by turn
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
		// With no-referrer a browser sends a form with "Origin: null". Where it sends no
		// Sec-Fetch-Site either, on plain HTTP, that would be taken for another site's.
		header.Set("Referrer-Policy", "same-origin")
	}
	// Not supported by all that can stand around w: limits for who does not read, or does not
	// send the body of his POST, and no more.
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
		(&Problem{Status: http.StatusMethodNotAllowed}).ServeHTTP(w, r)
	case !get:
		header.Set("Allow", "GET, HEAD")
		(&Problem{Status: http.StatusMethodNotAllowed}).ServeHTTP(w, r)
	case h.assets[name] != nil:
		h.assets[name].ServeHTTP(w, r)
	case name == "" && r.URL.Path != "" || strings.HasSuffix(asked(r), "/"):
		h.servePage(w, r)
	default:
		// Relative URLs need the slash. Where the handler is mounted is not known here, r.Pattern
		// may be another router's: there is no telling this from a path that is nothing's.
		seeOther(w, "./"+path.Base(asked(r))+"/", r.URL.RawQuery)
	}
}

// asked returns the path that the client has asked for, escaped, whatever was stripped of it
// since.
func asked(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return r.URL.EscapedPath()
}

// seeOther redirects to a path that begins with "./": what the client takes it relative to
// is not known here, [http.Redirect] would take r.URL for it.
func seeOther(w http.ResponseWriter, to, query string) {
	if query != "" {
		to += "?" + query
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// asset is a file of the page's.
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
		(&Problem{Status: http.StatusForbidden, Detail: err.Error()}).ServeHTTP(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	id := r.PostFormValue("task") // a field named "id" would hide the form's own from scripts
	switch t, err := h.reg.Find(id); {
	case err == nil:
		t.Cancel(ErrCanceled)
	case !errors.Is(err, tether.ErrExpired): // that one has ended, as was wished
		(&Problem{Status: http.StatusNotFound, Detail: "there is no such task"}).ServeHTTP(w, r)
		return
	}
	back := parseQuery(r.URL.Query())
	back.Asked = id
	seeOther(w, "./", back.encode())
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
		if s == nil { // nobody is left to be told, most likely
			(&Problem{Status: http.StatusServiceUnavailable}).ServeHTTP(w, r)
			return
		}
		p.begin(s.time, s.ready, s.drain, s.stats)
		p.list(h.reg, s)
	}
	if values.Get("format") == "json" {
		writeJSON(w, r, "application/json", http.StatusOK, p)
		return
	}
	if q.Asked != "" {
		p.Notice = h.answerToCancel(q.Asked)
	}
	var b bytes.Buffer
	if err := h.page.Execute(&b, p); err != nil {
		logf(r, "tetherhttp: the debug page: %v", err)
		(&Problem{Status: http.StatusInternalServerError}).ServeHTTP(w, r)
		return
	}
	writeBody(w, "text/html; charset=utf-8", status, b.Bytes())
}

// detail returns a task as it is now, or why it cannot.
func (h *debug) detail(id string, now time.Time) (*debugTask, *Problem) {
	t, err := h.reg.Find(id)
	switch {
	case errors.Is(err, tether.ErrExpired):
		return nil, &Problem{Status: http.StatusGone, Detail: "This task has ended and is forgotten."}
	case err != nil:
		return nil, &Problem{Status: http.StatusNotFound, Detail: "There is no such task."}
	}
	info := t.Info()
	return newDebugTask(h.reg, &info, now), nil
}

// answerToCancel says what has become of a task whose cancellation was asked for.
func (h *debug) answerToCancel(id string) string {
	t, err := h.reg.Find(id)
	if err != nil {
		return ""
	}
	if s := t.State(); s.Final() {
		return "“" + t.Name() + "” has ended: " + s.String() + "."
	}
	return "“" + t.Name() + "” was told to end, and does when its body returns."
}

// look returns a snapshot that is fresh, or nil if ctx ends before there is one.
func (h *debug) look(ctx context.Context) *snapshot {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-h.turn }()
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
	h.history.asked = now
	return h.last
}

// tickLater has tick called when the interval ends. Between two calls there is a timer and
// no goroutine.
func (h *debug) tickLater(now time.Time) { time.AfterFunc(h.history.left(now), h.tick) }

// tick goes on with the history, or lets go of everything if nobody wants it any more.
func (h *debug) tick() {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	now := time.Now()
	if now.Sub(h.history.asked) > sampleFor {
		h.last, h.history = nil, history{}
		return
	}
	if now.Sub(h.history.asked) > interval && h.last != nil && !h.last.fresh(now) {
		h.last = nil // of many tasks it is large
	}
	h.history.note(now, h.reg.Stats())
	h.tickLater(now)
}
