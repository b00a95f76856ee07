package tether_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether"
)

// A fault is one way in which code that is not the library's misbehaves.
type fault struct {
	name string
	kind kind
	do   func(c *cell, ctx context.Context) error
}

// kind is what the caller of the faulty code sees.
type kind int

const (
	returnsLate kind = iota
	hangs            // the call has not returned when Run does
	breaks           // the call panics
	exits            // the call ends its goroutine
	errs             // the call returns an error
	mutes            // the call returns an error whose methods do not return
	lies             // the call returns, and its result is not true or makes no sense
	callsBack        // the call calls the registry, and returns
)

var faults = []fault{
	{"returns late", returnsLate, func(c *cell, _ context.Context) error {
		time.Sleep(c.late)
		return nil
	}},
	{"never returns", hangs, func(c *cell, _ context.Context) error {
		<-c.release
		return nil
	}},
	{"ignores its context", hangs, func(c *cell, _ context.Context) error {
		time.Sleep(2 * c.cfg.StopTimeout)
		return nil
	}},
	{"panics", breaks, func(*cell, context.Context) error { panic("test panic") }},
	{"ends its goroutine", exits, func(*cell, context.Context) error {
		runtime.Goexit()
		return nil
	}},
	{"returns a typed nil", errs, func(*cell, context.Context) error {
		var null *strictError
		return null
	}},
	{"returns an error whose methods panic", errs, func(*cell, context.Context) error { return brokenError{} }},
	{"returns an error whose methods do not return", mutes, func(c *cell, _ context.Context) error { return mute{c.release} }},
	{"lies", lies, func(*cell, context.Context) error { return errTest }},
	{"submits tasks", callsBack, submitTasks},
	{"shuts down", callsBack, shutDown},
	{"cancels tasks", callsBack, cancelTasks},
	{"changes pools", callsBack, changePools},
	{"reads statistics", callsBack, readStatistics},
}

// strictError is an error whose methods panic for a nil pointer.
type strictError struct{ err error }

func (e *strictError) Error() string   { return e.err.Error() }
func (e *strictError) Unwrap() error   { return e.err }
func (e *strictError) Is(t error) bool { return e.err == t }

// mostCalls bounds the calls back: an observer that submits is called for what it submits.
const mostCalls = 10

// callContext returns a context for a call into the registry. ok is false after mostCalls.
func (c *cell) callContext(given context.Context, d time.Duration) (ctx context.Context, cancel context.CancelFunc, ok bool) {
	ctx = context.Background()
	if c.own {
		ctx = given
	}
	ctx, cancel = context.WithTimeout(ctx, d)
	return ctx, cancel, c.nested.Add(1) <= mostCalls
}

func submitTasks(c *cell, given context.Context) error {
	ctx, cancel, ok := c.callContext(given, 2*c.unit)
	defer cancel()
	if !ok {
		return nil
	}
	for _, to := range []tether.Submitter{c.r, c.queue, c.free, c.inline, c.drop, c.old} {
		task, err := to.Go(ctx, "submitted by a callback", succeed)
		if err != nil {
			admissible := errors.Is(err, tether.ErrClosed) || errors.Is(err, tether.ErrFull)
			assert.True(c.t, admissible, "%v", err)
			continue
		}
		c.admitted(task)
		_ = task.Wait(ctx) // it may be dropped, or wait for the caller
	}
	return nil
}

func shutDown(c *cell, given context.Context) error {
	ctx, cancel, ok := c.callContext(given, c.bound)
	defer cancel()
	if !ok {
		return nil
	}
	began := time.Now()
	err := c.r.Shutdown(ctx)
	var left *tether.DrainError
	assert.True(c.t, err == nil || errors.Is(err, tether.ErrInvalid) || errors.As(err, &left), "%v", err)
	assert.LessOrEqual(c.t, time.Since(began), c.bound+time.Second, "Shutdown returned too late")
	return nil
}

func cancelTasks(c *cell, _ context.Context) error {
	if c.nested.Add(1) <= mostCalls {
		for task := range c.r.Tasks() {
			task.Cancel(errTest)
			task.Release()
		}
	}
	return nil
}

func changePools(c *cell, _ context.Context) error {
	if c.nested.Add(1) > mostCalls {
		return nil
	}
	for p := range c.r.Pools() {
		p.Pause()
		for _, n := range []int{0, 1, 5} {
			assert.NoError(c.t, p.Resize(n))
		}
		p.Resume()
	}
	return nil
}

func readStatistics(c *cell, _ context.Context) error {
	if c.nested.Add(1) > mostCalls {
		return nil
	}
	for task := range c.r.Tasks() {
		found, err := c.r.Find(task.ID())
		assert.True(c.t, found == task || errors.Is(err, tether.ErrExpired), "%v", err)
		assert.Equal(c.t, task.ID(), task.Info().ID)
		task.Keep()
	}
	for task := range c.r.Finished() {
		_ = task.Info()
	}
	for p := range c.r.Pools() {
		_ = p.Stats()
	}
	s := c.r.Stats()
	assert.EqualValues(c.t, s.Submitted, s.Succeeded+s.Failed+s.Panicked+s.Canceled+s.Dropped+uint64(live(s)))
	_, _, _ = c.r.OwnStats(), c.r.Report(), c.r.Ready()
	return nil
}

// A site is a place where the library calls code that is not its own.
type site struct {
	name string
	step string // what errors call it, if it belongs to a step of Run

	// trigger makes the library call the site, for the task "culprit".
	trigger  func(c *cell, ctx context.Context)
	early    time.Duration // how many units before the site's time the trigger must be called
	observer bool          // it is a method of the observer
	panics   bool          // it cannot return an error: it panics with it
}

var sites = []site{
	{name: "Serve", step: `server "public"`},
	{name: "Stop", step: `stopping server "public"`},
	{name: "Pending", step: `stopping server "public"`},
	{name: "closer", step: `closing "broker"`},
	{name: "last Serve", step: `last server "admin"`},
	{name: "last Stop", step: `stopping last server "admin"`},
	{name: "log Handle", trigger: failingCulprit},
	{name: "log Enabled", trigger: failingCulprit},
	{name: "TaskSubmitted", observer: true, panics: true, trigger: quickCulprit},
	{name: "TaskStarted", observer: true, panics: true, trigger: quickCulprit},
	{name: "TaskEnded", observer: true, panics: true, trigger: quickCulprit},
	{name: "TaskRefused", observer: true, panics: true, trigger: func(c *cell, ctx context.Context) {
		_, err := c.r.Go(ctx, "not\na name", succeed)
		assert.ErrorIs(c.t, err, tether.ErrInvalid)
	}},
	{name: "TaskStuck", observer: true, panics: true, early: 2, trigger: func(c *cell, ctx context.Context) {
		c.submitCulprit(ctx, untilCanceled)
	}},
	{name: "TaskRetrying", observer: true, panics: true, trigger: retriedCulprit},
	{name: "HandOver", trigger: func(c *cell, ctx context.Context) {
		_, _ = c.old.Go(ctx, "evicts the culprit", succeed)
	}},
	{name: "Backoff", panics: true, trigger: retriedCulprit},
	{name: "ShouldRetry", panics: true, trigger: retriedCulprit},
	{name: "OnDuplicate", panics: true, trigger: func(c *cell, ctx context.Context) {
		_, _ = c.r.Go(ctx, "duplicate", succeed, tether.Unique("key"), tether.OnDuplicate(func(*tether.Task) {
			c.mustMisbehave(ctx, "OnDuplicate")
		}))
	}},
	{name: "body", trigger: func(c *cell, ctx context.Context) {
		c.submitCulprit(ctx, func(ctx context.Context) error { return c.unlessLie(c.misbehave(ctx, "body")) })
	}},
	{name: loopBody}, // it runs from the beginning
}

const loopBody = "body of a loop"

// submitCulprit submits a task that can start at once. Nothing waits for it.
func (c *cell) submitCulprit(ctx context.Context, body tether.Func, opts ...tether.Option) {
	to := []tether.Submitter{c.r, c.free, c.inline}[int(c.late)%3]
	_, err := to.Go(ctx, "culprit", func(ctx context.Context) error {
		task, _ := tether.FromContext(ctx)
		c.admitted(task)
		return body(ctx)
	}, opts...)
	if c.fault.kind != callsBack || !errors.Is(err, tether.ErrClosed) {
		assert.NoError(c.t, err)
	}
}

func quickCulprit(c *cell, ctx context.Context)   { c.submitCulprit(ctx, succeed) }
func failingCulprit(c *cell, ctx context.Context) { c.submitCulprit(ctx, fail) }

func retriedCulprit(c *cell, ctx context.Context) {
	c.submitCulprit(ctx, fail, tether.Retry(tether.RetryPolicy{
		Attempts: 3,
		Backoff: func(int, error) time.Duration {
			if c.mustMisbehave(ctx, "Backoff") {
				return []time.Duration{math.MinInt64, math.MaxInt64}[int(c.late)%2]
			}
			return c.unit / 4
		},
		ShouldRetry: func(error) bool {
			return !c.mustMisbehave(ctx, "ShouldRetry")
		},
	}))
}

// faultyObserver is an observer of which one method may misbehave.
type faultyObserver struct{ c *cell }

func (o faultyObserver) TaskSubmitted(ctx context.Context, _ *tether.Task) {
	o.c.mustMisbehave(ctx, "TaskSubmitted")
}

func (o faultyObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	if o.c.mustMisbehave(ctx, "TaskStarted") {
		return nil
	}
	return ctx
}

func (o faultyObserver) TaskEnded(ctx context.Context, _ *tether.Task) {
	o.c.mustMisbehave(ctx, "TaskEnded")
}

func (o faultyObserver) TaskRefused(ctx context.Context, _ string, _ error) {
	o.c.mustMisbehave(ctx, "TaskRefused")
}

func (o faultyObserver) TaskStuck(ctx context.Context, _ *tether.Task, _ []byte) {
	o.c.mustMisbehave(ctx, "TaskStuck")
}

func (o faultyObserver) TaskRetrying(ctx context.Context, _ *tether.Task, _ error, _ time.Duration) {
	o.c.mustMisbehave(ctx, "TaskRetrying")
}

// faultyLog is a log handler of which one method may misbehave.
type faultyLog struct{ c *cell }

func (l *faultyLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *faultyLog) WithGroup(string) slog.Handler      { return l }

func (l *faultyLog) Enabled(ctx context.Context, _ slog.Level) bool {
	return !l.c.mustMisbehave(ctx, "log Enabled")
}

func (l *faultyLog) Handle(ctx context.Context, record slog.Record) error {
	if err := l.c.misbehave(ctx, "log Handle"); err != nil {
		return l.c.unlessLie(err)
	}
	return l.c.log.Handle(ctx, record)
}
