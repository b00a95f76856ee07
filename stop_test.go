package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// stopNow is the context of a Run that stops as soon as it has started.
func stopNow() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// brokenError is an error whose methods panic.
type brokenError struct{}

func (brokenError) Error() string { panic("test panic in Error") }
func (brokenError) Unwrap() error { panic("test panic in Unwrap") }
func (brokenError) Is(error) bool { panic("test panic in Is") }
func (brokenError) As(any) bool   { panic("test panic in As") }

// mute is an error whose methods return when a channel is closed.
type mute struct{ until <-chan struct{} }

func (e mute) Error() string {
	<-e.until
	return "mute"
}

func (e mute) Is(error) bool {
	<-e.until
	return false
}

// A server whose graceful stop takes no context, and waits for open streams forever.
func TestD9_AStopThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		began := time.Now()
		canceled := make(chan time.Time, 1)
		start(t, r, "import", func(ctx context.Context) error {
			<-ctx.Done()
			canceled <- time.Now()
			return nil
		})
		stream := make(chan struct{})
		err := r.Run(stopNow(), tether.RunConfig{
			Servers:     server(nil, func(context.Context) error { <-stream; return nil }),
			StopTimeout: 10 * time.Second,
			Signals:     noSignals,
		})
		assert.ErrorContains(t, err, `tether: stopping server "public": did not return within 4.5s`)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Less(t, (<-canceled).Sub(began), 9*time.Second, "the drain had no time")
		var left *tether.DrainError
		assert.False(t, errors.As(err, &left))
		close(stream)
	})
}

// The client of a broker that cannot be reached, whose Close never returns.
func TestD9_ACloserThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		began := time.Now()
		broker := make(chan struct{})
		var closed diary
		closer := func(name string, until <-chan struct{}) tether.Closer {
			return tether.Closer{Name: name, Close: func(ctx context.Context) error {
				closed.add(name)
				assert.NoError(t, ctx.Err())
				<-until
				return nil
			}}
		}
		returned := make(chan struct{})
		close(returned)
		err := r.Run(stopNow(), tether.RunConfig{
			Closers:     []tether.Closer{closer("broker", broker), closer("database", returned)},
			StopTimeout: 10 * time.Second,
			Signals:     noSignals,
		})
		assert.ErrorContains(t, err, `tether: closing "broker": did not return within 5s`)
		assert.NotContains(t, err.Error(), "database")
		assert.Equal(t, []string{"broker", "database"}, closed.read())
		assert.Less(t, time.Since(began), 10*time.Second)
		close(broker)
	})
}

// A task that hangs leaves each closer its share of CloseTimeout: telemetry can be flushed.
func TestD9_ClosersHaveTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		start(t, r, "stuck", until(release))
		began := time.Now()
		var left []time.Duration
		flush := func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = append(left, time.Until(deadline))
			<-ctx.Done() // it takes all of its share
			return nil
		}
		err := r.Run(stopNow(), tether.RunConfig{Closers: closers(flush, flush), StopTimeout: 10 * time.Second, Signals: noSignals})
		assert.ErrorContains(t, err, "stuck")
		assert.Equal(t, []time.Duration{time.Second / 2, time.Second / 2}, left)
		assert.Equal(t, 10*time.Second, time.Since(began))
		close(release)
	})
}

func TestD9_AStepThatBreaksDoesNotSkipTheNext(t *testing.T) {
	for name, breaks := range map[string]func(){
		"panic":                   func() { panic("nil cache") },
		"ended its goroutine":     runtime.Goexit,
		"runtime error":           func() { var none *int; *none = 1 },
		"the error's methods too": func() { panic(brokenError{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, book := newLogger()
				r := newRegistry(t, tether.Config{Logger: logger})
				breaking := func(context.Context) error { breaks(); return nil }
				closed := 0
				count := func(context.Context) error { closed++; return nil }
				err := r.Run(stopNow(), tether.RunConfig{
					Servers:     server(nil, breaking),
					Closers:     closers(count, breaking, count),
					LastServers: []tether.Server{{Name: "admin", Stop: breaking}},
					Signals:     noSignals,
				})
				for _, step := range []string{`stopping server "public": `, `closing "2": `, `stopping last server "admin": `} {
					assert.ErrorContains(t, err, "tether: "+step)
				}
				assert.Equal(t, 2, closed)
				msg := "panic"
				if name == "ended its goroutine" {
					assert.ErrorIs(t, err, tether.ErrGoexit)
					msg = "goexit"
				}
				synctest.Wait()
				records := book.about("TestD9_AStepThatBreaksDoesNotSkipTheNext") // the stack
				if assert.Len(t, records, 3, "each is logged once") {
					assert.Equal(t, msg, records[1]["msg"])
					assert.Equal(t, "ERROR", records[1]["level"])
					assert.Equal(t, `closing "2"`, records[1]["in"])
				}
			})
		})
	}
}

// What Serve returns after Stop is expected. A panic is not.
func TestD9_AServeThatBreaksDuringTheStop(t *testing.T) {
	for name, test := range map[string]struct {
		serve func() error
		want  string
	}{
		"panic":               {func() error { panic("closed twice") }, "closed twice"},
		"ended its goroutine": {func() error { runtime.Goexit(); return nil }, tether.ErrGoexit.Error()},
		"error":               {func() error { return errTest }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				serving := func(name string) tether.Server {
					stopped := make(chan struct{})
					return tether.Server{
						Name:  name,
						Serve: func() error { <-stopped; return test.serve() },
						Stop:  func(context.Context) error { close(stopped); return nil },
					}
				}
				err := r.Run(stopNow(), tether.RunConfig{
					Servers:     []tether.Server{serving("public")},
					LastServers: []tether.Server{serving("admin")},
					Signals:     noSignals,
				})
				if test.want == "" {
					assert.NoError(t, err)
					return
				}
				assert.ErrorContains(t, err, `tether: serving server "public": `)
				assert.ErrorContains(t, err, `tether: serving last server "admin": `)
				assert.ErrorContains(t, err, test.want)
			})
		})
	}
}

// The Error method of what a server returned hangs: the stop begins, and ends, in time.
func TestD9_AnErrorWhoseMethodsDoNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		mute := mute{release}
		began := time.Now()
		closed := false
		err := r.Run(t.Context(), tether.RunConfig{
			Servers: server(func() error { return mute }, func(context.Context) error { return mute }),
			Closers: closers(func(context.Context) error { return mute },
				func(context.Context) error { closed = true; return nil }),
			StopTimeout: 10 * time.Second,
			Signals:     noSignals,
		})
		assert.LessOrEqual(t, time.Since(began), 11*time.Second)
		assert.ErrorContains(t, err, `tether: serving server "public": an error of type tether_test.mute`)
		assert.ErrorContains(t, err, `tether: stopping server "public": did not return`)
		assert.ErrorContains(t, err, `tether: closing "1": did not return`)
		assert.True(t, closed)
		close(release)
	})
}

// A step that takes longer than two seconds is logged, with what it waits for.
func TestD9_SlowStepsAreLogged(t *testing.T) {
	for name, test := range map[string]struct {
		pending func() string
		want    string
	}{
		"says":                {func() string { return "3 open connections" }, "3 open connections"},
		"panics":              {func() string { panic("test panic") }, "unknown"},
		"ends its goroutine":  {func() string { runtime.Goexit(); return "" }, "unknown"},
		"does not return":     {nil, "unknown"},
		"says after a second": {func() string { time.Sleep(time.Second - 1); return "1 connection" }, "1 connection"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, book := newLogger()
				r := newRegistry(t, tether.Config{Logger: logger})
				task := start(t, r, "import", func(context.Context) error { time.Sleep(9 * time.Second); return nil })
				pending := test.pending
				if pending == nil {
					release := make(chan struct{})
					pending = func() string { <-release; return "" }
					t.Cleanup(func() { close(release) })
				}
				_ = r.Run(stopNow(), tether.RunConfig{
					Servers: []tether.Server{{Name: "public", Pending: pending, Stop: func(context.Context) error {
						time.Sleep(6 * time.Second)
						return nil
					}}},
					Signals: noSignals,
				})
				assert.NoError(t, task.Err())
				synctest.Wait()
				slow := book.about("stop: slow step")
				steps := make(map[string]int)
				for _, record := range slow {
					steps[record["step"]]++
					assert.Equal(t, "WARN", record["level"])
					assert.NotEmpty(t, record["left"])
					if record["step"] == "drain" {
						assert.Equal(t, "1 import", record["waiting_for"])
					} else {
						assert.Contains(t, record["waiting_for"], test.want)
					}
				}
				assert.GreaterOrEqual(t, steps[`stopping server "public"`], 1)
				assert.Equal(t, 1, steps["drain"], "%v", slow)
			})
		})
	}
}

// D10: streams and producers are told before the servers stop, while tasks are
// still admitted. A stream that ends then does not delay the stop.
func TestD10_StoppingIsClosedBeforeAServerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var streams sync.WaitGroup
		var ended time.Time
		streams.Go(func() { // a handler that serves events
			<-r.Stopping()
			ended = time.Now()
			assert.False(t, r.Ready())
			_, err := r.Go(context.Background(), "saves the position", succeed)
			assert.NoError(t, err, "the drain has not begun")
		})
		began := time.Now()
		var stopped time.Time
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the signal
		defer cancel()
		require.NoError(t, r.Run(ctx, tether.RunConfig{
			Servers: server(nil, func(ctx context.Context) error {
				stopped = time.Now()
				streams.Wait()
				return ctx.Err()
			}),
			PreStop: 5 * time.Second,
			Signals: noSignals,
		}))
		assert.Equal(t, time.Minute, ended.Sub(began))
		assert.Equal(t, time.Minute+5*time.Second, stopped.Sub(began))
		assert.Equal(t, time.Minute+5*time.Second, time.Since(began))
	})
}

// The page and the metrics are served until everything else has ended.
func TestD7_LastServersShowTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var seen diary
		start(t, r, "task", func(ctx context.Context) error {
			<-tether.StoppingFrom(ctx)
			time.Sleep(time.Second)
			seen.add("task")
			return nil
		})
		serving := func(name string) tether.Server {
			stopped := make(chan struct{})
			return tether.Server{
				Name:  name,
				Serve: func() error { <-stopped; return nil },
				Stop:  func(context.Context) error { seen.add(name); close(stopped); return nil },
			}
		}
		require.NoError(t, r.Run(stopNow(), tether.RunConfig{
			Servers:     []tether.Server{serving("public")},
			LastServers: []tether.Server{serving("admin")},
			Closers:     closers(func(context.Context) error { seen.add("closer"); return nil }),
			Signals:     noSignals,
		}))
		assert.Equal(t, []string{"public", "task", "closer", "admin"}, seen.read())
	})
}

// blockingLog is a log handler that blocks until a channel is closed.
type blockingLog struct {
	slog.Handler
	until <-chan struct{}
}

func (blockingLog) Enabled(context.Context, slog.Level) bool    { return true }
func (l blockingLog) Handle(context.Context, slog.Record) error { <-l.until; return nil }

func newBlockingLog() (logger *slog.Logger, release func()) {
	until := make(chan struct{})
	return slog.New(blockingLog{slog.DiscardHandler, until}), func() { close(until) }
}

func TestD9_ALogHandlerThatBlocks(t *testing.T) {
	t.Run("Shutdown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, release := newBlockingLog()
			r := newRegistry(t, tether.Config{Logger: logger})
			start(t, r, "normal", func(context.Context) error { time.Sleep(time.Second); return nil })
			began := time.Now()
			assert.NoError(t, within(r, 10*time.Second))
			assert.LessOrEqual(t, time.Since(began), 2*time.Second, "it waits for the task, and hardly for the log")
			release()
		})
	})
	t.Run("Run, and a task has failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, release := newBlockingLog()
			r := newRegistry(t, tether.Config{Logger: logger, StuckAfter: time.Second})
			for range 3 {
				start(t, r, "failing", fail)
				start(t, r, "panicking", panicking)
				start(t, r, "stuck", func(context.Context) error { time.Sleep(4 * time.Second); return nil })
			}
			time.Sleep(2 * time.Second)
			began := time.Now()
			closed := false
			_ = r.Run(stopNow(), tether.RunConfig{
				Closers:     closers(func(ctx context.Context) error { closed = true; return ctx.Err() }),
				StopTimeout: 10 * time.Second,
				Signals:     noSignals,
			}) // the tasks' own records may hold them
			assert.LessOrEqual(t, time.Since(began), 11*time.Second)
			assert.True(t, closed)
			release()
		})
	})
}

// All calls of Run that are invalid start nothing.
func TestD7_InvalidRun(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	serve := func() error { t.Error("a server was started"); return nil }
	stop := func(context.Context) error { return nil }
	for i, cfg := range []tether.RunConfig{
		{StopTimeout: -1},
		{CloseTimeout: -1},
		{PreStop: -1},
		{StopTimeout: time.Second, PreStop: time.Second},
		{StopTimeout: time.Second, CloseTimeout: 501 * time.Millisecond},
		{LastServers: []tether.Server{{Name: "none"}}},
		{Closers: []tether.Closer{{Name: "none"}}},
	} {
		cfg.Servers = server(serve, stop)
		assert.ErrorIs(t, r.Run(t.Context(), cfg), tether.ErrInvalid, fmt.Sprint(i))
	}
	assert.True(t, r.Ready())
}

// PreStop ends early when the servers say that nothing comes any more, and only then.
func TestD7_PreStopEndsWhenTheServersAreQuiet(t *testing.T) {
	const preStop = 5 * time.Second
	always := func(time.Time) bool { return true }
	after := func(d time.Duration) func(time.Time) bool {
		return func(began time.Time) bool { return time.Since(began) >= d }
	}
	for name, test := range map[string]struct {
		quiet []func(time.Time) bool // of each server
		want  time.Duration
	}{
		"at once":                        {[]func(time.Time) bool{always}, 100 * time.Millisecond},
		"after a while":                  {[]func(time.Time) bool{after(2 * time.Second)}, 2 * time.Second},
		"all of them":                    {[]func(time.Time) bool{always, after(3 * time.Second), after(time.Second)}, 3 * time.Second},
		"later than PreStop":             {[]func(time.Time) bool{after(time.Minute)}, preStop},
		"not together":                   {[]func(time.Time) bool{after(time.Second), func(began time.Time) bool { return time.Since(began) < time.Second }}, preStop},
		"one that does not know":         {[]func(time.Time) bool{always, nil}, preStop},
		"one that panics":                {[]func(time.Time) bool{func(time.Time) bool { panic("quiet") }}, preStop},
		"one that ends its goroutine":    {[]func(time.Time) bool{func(time.Time) bool { runtime.Goexit(); return true }}, preStop},
		"one that returns much too late": {[]func(time.Time) bool{func(time.Time) bool { time.Sleep(time.Minute); return true }}, preStop},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
				cfg := tether.RunConfig{PreStop: preStop, Signals: noSignals}
				stopped := make(chan time.Time, len(test.quiet))
				for _, quiet := range test.quiet {
					down := make(chan struct{})
					cfg.Servers = append(cfg.Servers, tether.Server{
						Serve: func() error { <-down; return nil },
						Stop:  func(context.Context) error { stopped <- time.Now(); close(down); return nil },
						Quiet: quiet,
					})
				}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- reg.Run(ctx, cfg) }()
				synctest.Wait()
				began := time.Now()
				stop()
				assert.NoError(t, <-done)
				for range test.quiet {
					assert.Equal(t, test.want, (<-stopped).Sub(began))
				}
				time.Sleep(2 * time.Minute) // for the Quiet that is late
			})
		})
	}
	t.Run("a server that has ended, or is not to be stopped, is not asked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			ctx, stop := context.WithCancel(t.Context())
			down := make(chan struct{})
			go func() {
				time.Sleep(time.Second)
				stop()
			}()
			began := time.Now()
			err := reg.Run(ctx, tether.RunConfig{PreStop: preStop, Signals: noSignals, Servers: []tether.Server{
				{Serve: func() error { <-down; return nil }, Stop: func(context.Context) error { close(down); return nil }, Quiet: always},
				{Serve: func() error { time.Sleep(2050 * time.Millisecond); return nil }, Stop: func(context.Context) error { return nil }},
				{Serve: func() error { time.Sleep(time.Hour); return nil }},
			}})
			assert.NoError(t, err)
			assert.Equal(t, 2100*time.Millisecond, time.Since(began).Round(10*time.Millisecond))
			time.Sleep(time.Hour)
		})
	})
}
