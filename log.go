package tether

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// logs is how a registry uses its log handler, which is code of the user's: it may
// be slow, block forever, panic, or end its goroutine.
type logs struct {
	broken atomic.Bool // the handler has panicked, and stderr says so

	mu      sync.Mutex
	records []slog.Record // of the stop, not yet handled; guarded by mu
	empty   chan struct{} // closed when all records have been handled; nil if none is waiting; guarded by mu
}

// Logger returns the Logger of the [Config], or what slog.Default returns now if that is
// nil. It is for packages whose records belong with those of the registry.
func (r *Registry) Logger() *slog.Logger {
	if r.cfg.Logger != nil {
		return r.cfg.Logger
	}
	return slog.Default()
}

// log logs a record on this goroutine, which waits for the handler. A panic of the
// handler is contained.
func (r *Registry) log(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	record := slog.NewRecord(time.Now(), level, msg, 0)
	record.AddAttrs(attrs...)
	r.handle(ctx, record)
}

func (r *Registry) handle(ctx context.Context, record slog.Record) {
	defer func() {
		if v := recover(); v != nil && !r.logs.broken.Swap(true) {
			fmt.Fprintf(os.Stderr, "tether: the log handler panicked, and its record %q is lost (further panics are not reported): %v\n%s", record.Message, v, debug.Stack())
		}
	}()
	if h := r.Logger().Handler(); h.Enabled(ctx, record.Level) {
		_ = h.Handle(ctx, record) // there is no place to report it
	}
}

// log logs a record about the task, with the body's context.
func (t *Task) log(level slog.Level, msg string, attrs ...slog.Attr) {
	t.logWith(t.observedContext(), level, msg, attrs...)
}

func (t *Task) logWith(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	about := []slog.Attr{slog.String("task", t.Name()), slog.String("id", t.ID()), slog.String("pool", t.Pool())}
	start := t.startOptions()
	if start.unique != "" {
		about = append(about, slog.String("unique", start.unique))
	}
	if start.share != "" {
		about = append(about, slog.String("share", start.share))
	}
	if labels := t.opts().labels; len(labels) > 0 {
		about = append(about, slog.Attr{Key: "labels", Value: slog.GroupValue(labels...)})
	}
	t.queue.reg.log(ctx, level, msg, append(about, attrs...)...)
}

// rateLimit allows one event a second and counts the others.
type rateLimit struct {
	next    atomic.Int64 // when the next event is allowed
	omitted atomic.Int64 // events since the last one that was allowed
}

// allow reports whether an event at the time now is allowed, and how many were not since
// the last one.
func (l *rateLimit) allow(now int64) (omitted int64, ok bool) {
	next := l.next.Load()
	if now < next || !l.next.CompareAndSwap(next, now+int64(time.Second)) {
		l.omitted.Add(1)
		return 0, false
	}
	return l.omitted.Swap(0), true
}

// stopLog logs a record of the stop. It does not wait for the handler: Shutdown and
// Run keep their deadlines even if the handler blocks. Records are handled in order.
func (r *Registry) stopLog(level slog.Level, msg string, attrs ...slog.Attr) {
	record := slog.NewRecord(time.Now(), level, msg, 0)
	record.AddAttrs(attrs...)
	l := &r.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, record)
	if l.empty == nil {
		l.empty = make(chan struct{})
		go r.handleStopLog()
	}
}

// handleStopLog handles the records of the stop until none is waiting.
func (r *Registry) handleStopLog() {
	l := &r.logs
	finished := false
	defer func() {
		if !finished {
			go r.handleStopLog() // the handler has ended this goroutine
		}
	}()
	for {
		l.mu.Lock()
		if len(l.records) == 0 {
			close(l.empty)
			l.empty = nil
			finished = true
			l.mu.Unlock()
			return
		}
		record := l.records[0]
		l.records = l.records[1:]
		l.mu.Unlock()
		r.handle(context.Background(), record)
	}
}

// flushStopLog waits until the records of the stop have been handled, but not longer
// than most.
func (r *Registry) flushStopLog(most time.Duration) {
	r.logs.mu.Lock()
	empty := r.logs.empty
	r.logs.mu.Unlock()
	if empty == nil {
		return
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-empty:
	case <-timer.C:
	}
}

// contain calls a function of the user's that belongs to no task, such as a closer,
// and returns what it returns. A panic is logged, and returned as a *PanicError. If fn ends
// the goroutine, that is logged, too.
func (r *Registry) contain(what string, fn func() error) (err error) {
	returned := false
	defer func() {
		switch v := recover(); {
		case v != nil:
			e := &PanicError{Value: v, Stack: debug.Stack(), In: what}
			r.stopLog(slog.LevelError, "panic", e.attrs()...)
			err = e
		case !returned: // the stack still has the call of runtime.Goexit
			r.stopLog(slog.LevelError, "goexit", slog.String("in", what), slog.String("stack", string(debug.Stack())))
		}
	}()
	err = fn()
	returned = true
	return err
}
