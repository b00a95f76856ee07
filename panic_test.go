package tether_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

func panicking(context.Context) error { panic("test panic") }

func TestT6_PanicsAreOutcomesAndNeverInvisible(t *testing.T) {
	// run submits to a pool whose one worker must survive, and returns the ended
	// task and what was logged about it.
	run := func(t *testing.T, cfg tether.Config, body tether.Func, opts ...tether.Option) (*tether.Task, []map[string]string) {
		t.Helper()
		logger, book := newLogger()
		cfg.Logger = logger
		r := newRegistry(t, cfg)
		p := r.NewPool("the pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		task := start(t, p, "the task", body, opts...)
		wait(task)
		assert.NoError(t, wait(start(t, p, "next", succeed)), "the worker is free again")
		return task, book.about(task.ID())
	}
	assertLogged := func(t *testing.T, task *tether.Task, records []map[string]string, in, value, function string) {
		t.Helper()
		if assert.Len(t, records, 1) {
			assert.Equal(t, "ERROR", records[0]["level"])
			assert.Equal(t, "the task", records[0]["task"])
			assert.Equal(t, "the pool", records[0]["pool"])
			assert.Equal(t, task.ID(), records[0]["id"])
			assert.Equal(t, in, records[0]["in"])
			assert.Equal(t, value, records[0]["panic"])
			assert.Contains(t, records[0]["stack"], function)
		}
	}
	t.Run("of the body", func(t *testing.T) {
		task, records := run(t, tether.Config{}, panicking)
		assert.Equal(t, tether.Panicked, task.State())
		var e *tether.PanicError
		require.ErrorAs(t, task.Err(), &e)
		assert.Equal(t, "test panic", e.Value)
		assert.Equal(t, "the task", e.Task)
		assert.Equal(t, task.ID(), e.ID)
		assert.Contains(t, string(e.Stack), "tether_test.panicking")
		assert.Contains(t, e.Error(), "test panic")
		assert.Contains(t, e.Error(), "the task")
		assertLogged(t, task, records, "body", "test panic", "tether_test.panicking")
	})
	t.Run("of the body, with an error", func(t *testing.T) {
		task, records := run(t, tether.Config{}, func(context.Context) error { panic(fmt.Errorf("wrapped: %w", errTest)) })
		assert.Equal(t, tether.Panicked, task.State())
		assert.ErrorIs(t, task.Err(), errTest)
		assertLogged(t, task, records, "body", "wrapped: test error", "panic_test.go")
	})
	t.Run("of the body, with nil", func(t *testing.T) {
		task, records := run(t, tether.Config{}, func(context.Context) error { panic(nil) }) //nolint:govet // the subject
		assert.Equal(t, tether.Panicked, task.State())
		var e *runtime.PanicNilError
		assert.ErrorAs(t, task.Err(), &e)
		assert.Len(t, records, 1)
	})
	t.Run("of the runtime", func(t *testing.T) {
		task, records := run(t, tether.Config{}, func(context.Context) error {
			var nothing []error
			return nothing[len(nothing)]
		})
		var e runtime.Error
		assert.ErrorAs(t, task.Err(), &e)
		assert.Len(t, records, 1)
	})
	t.Run("of the body after a cancellation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			task, records := run(t, tether.Config{}, func(ctx context.Context) error { <-ctx.Done(); panic(ctx.Err()) }, tether.Timeout(time.Second))
			assert.Equal(t, tether.Panicked, task.State())
			assert.Len(t, records, 1)
		})
	})
	t.Run("of an error that the body returned", func(t *testing.T) {
		task, records := run(t, tether.Config{}, func(ctx context.Context) error {
			self, _ := tether.FromContext(ctx)
			self.Cancel(nil)
			return hostileError{}
		})
		assert.Equal(t, tether.Canceled, task.State(), "its methods are not needed to know that")
		assert.Empty(t, records)
	})
	t.Run("of Retry.If", func(t *testing.T) {
		task, records := run(t, tether.Config{}, fail, tether.Retry(tether.RetryPolicy{Attempts: 3, ShouldRetry: func(error) bool { panic("test panic") }}))
		assert.Equal(t, tether.Panicked, task.State())
		var e *tether.PanicError
		require.ErrorAs(t, task.Err(), &e)
		assert.Equal(t, "test panic", e.Value)
		assert.ErrorIs(t, task.Err(), errTest, "what the body returned is not lost")
		assert.Equal(t, 1, task.Info().Attempt)
		assertLogged(t, task, records, "retry policy", "test panic", "panic_test.go")
	})
	t.Run("of Retry.Backoff", func(t *testing.T) {
		task, records := run(t, tether.Config{}, fail, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { panic(errTest) }}))
		assert.Equal(t, tether.Panicked, task.State())
		assert.ErrorIs(t, task.Err(), errTest)
		assertLogged(t, task, records, "retry policy", "test error", "panic_test.go")
	})
	t.Run("of HandOver in the drain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			logger, book := newLogger()
			r := newRegistry(t, tether.Config{Logger: logger})
			p := r.NewPool("the pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
			task := start(t, p, "the task", succeed, tether.Hold(), tether.HandOver(func(context.Context, tether.Info) error { panic("test panic") }))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			require.NoError(t, r.Shutdown(ctx))
			assert.Equal(t, tether.Dropped, task.State())
			assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
			var e *tether.PanicError
			assert.ErrorAs(t, task.Err(), &e)
			assertLogged(t, task, book.about("test panic"), "hand-over", "test panic", "panic_test.go")
			require.Len(t, r.Report().NeverStarted, 1)
			assert.Equal(t, task.Err(), r.Report().NeverStarted[0].Err)
			assert.Empty(t, r.Report().HandedOver)
			assert.False(t, task.Info().HandedOver)
		})
	})
	t.Run("of HandOver at a full pool", func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p := r.NewPool("the pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
		gate, running := make(chan struct{}), make(chan struct{})
		defer close(gate)
		start(t, p, "running", func(context.Context) error { close(running); <-gate; return nil })
		<-running
		task := start(t, p, "the task", succeed, tether.HandOver(func(context.Context, tether.Info) error { panic("test panic") }))
		start(t, p, "newer", succeed)
		assert.ErrorIs(t, wait(task), tether.ErrFull)
		assert.Equal(t, tether.Dropped, task.State())
		var e *tether.PanicError
		assert.ErrorAs(t, task.Err(), &e)
		assertLogged(t, task, book.about("panic_test.go"), "hand-over", "test panic", "panic_test.go")
	})
	for _, where := range []string{"submitted", "started", "ended"} {
		t.Run("of the observer's task "+where, func(t *testing.T) {
			task, records := run(t, tether.Config{Observer: &panicObserver{where: where, what: "the task"}}, succeed)
			assert.Equal(t, tether.Succeeded, task.State())
			assertLogged(t, task, records, "observer", "test panic", "panicObserver")
		})
	}
	t.Run("of the observer's task refused", func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger, Observer: &panicObserver{where: "refused", what: "the task"}})
		_, err := r.Go(context.Background(), "the task", nil)
		assert.ErrorIs(t, err, tether.ErrInvalid)
		records := book.about("test panic")
		require.Len(t, records, 1)
		assert.Contains(t, records[0]["stack"], "panicObserver")
		assert.Equal(t, "the task", records[0]["task"])
	})
	t.Run("of a body that its submitter runs", func(t *testing.T) {
		logger, book := newLogger()
		r := newRegistry(t, tether.Config{Logger: logger})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		task := start(t, p, "the task", panicking)
		assert.Equal(t, tether.Panicked, task.State())
		assert.Len(t, book.about(task.ID()), 1)
	})
}

// hostileError panics when it is looked into.
type hostileError struct{}

func (hostileError) Error() string { return "hostile" }
func (hostileError) Is(error) bool { panic("test panic") }

// panicObserver panics in one of its methods, for tasks of one name.
type panicObserver struct {
	tether.NopObserver
	where, what string
}

func (o *panicObserver) at(where, name string) {
	if o.where == where && o.what == name {
		panic("test panic")
	}
}

func (o *panicObserver) TaskSubmitted(_ context.Context, t *tether.Task) { o.at("submitted", t.Name()) }
func (o *panicObserver) TaskEnded(_ context.Context, t *tether.Task)     { o.at("ended", t.Name()) }
func (o *panicObserver) TaskRefused(_ context.Context, name string, _ error) {
	o.at("refused", name)
}
func (o *panicObserver) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	o.at("started", t.Name())
	return ctx
}

// The ways in which a process with Crash is to end, each in a process of its own.
// A child says what it must never get to say.
var crashes = map[string]struct {
	stack string // a function that panicked
	child func(cfg tether.Config)
}{
	"in a body on the registry": {"tether_test.crashingBody", func(cfg tether.Config) {
		r := tether.New(cfg)
		report(r.Go(context.Background(), "task", crashingBody))
		select {}
	}},
	"in a body on a pool": {"tether_test.crashingBody", func(cfg tether.Config) {
		r := tether.New(cfg)
		report(r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock}).Go(context.Background(), "task", crashingBody))
		select {}
	}},
	"in a body that its submitter runs": {"tether_test.crashingBody", func(cfg tether.Config) {
		submitInline(cfg, crashingBody)
	}},
	"in a body that its submitter runs and recovers from, as net/http does": {"tether_test.crashingBody", func(cfg tether.Config) {
		func() {
			defer func() {
				recover()
				say("the submitter recovered")
			}()
			submitInline(cfg, crashingBody)
		}()
		select {}
	}},
	"in a retry policy": {"tether_test.crashingIf", func(cfg tether.Config) {
		r := tether.New(cfg)
		report(r.Go(context.Background(), "task", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, ShouldRetry: crashingIf})))
		select {}
	}},
	"in a hand-over": {"tether_test.crashingHandOver", func(cfg tether.Config) {
		r := tether.New(cfg)
		report(r.Go(context.Background(), "task", succeed, tether.Hold(), tether.HandOver(crashingHandOver)))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.Shutdown(ctx)
		select {}
	}},
	"in an observer told of a start": {"crashingObserver", func(cfg tether.Config) {
		cfg.Observer = crashingObserver{where: "started"}
		report(tether.New(cfg).Go(context.Background(), "task", succeed))
		select {}
	}},
	"in an observer told of an end": {"crashingObserver", func(cfg tether.Config) {
		cfg.Observer = crashingObserver{where: "ended"}
		report(tether.New(cfg).Go(context.Background(), "task", succeed))
		select {}
	}},
	"in an observer told of the end of a task that never ran": {"crashingObserver", func(cfg tether.Config) {
		cfg.Observer = crashingObserver{where: "ended"}
		task, err := tether.New(cfg).Go(context.Background(), "task", succeed, tether.Hold())
		report(task, err)
		defer sayIfEnded(task)
		task.Cancel(nil)
	}},
	"in an observer told of a submission by one who recovers": {"crashingObserver", func(cfg tether.Config) {
		cfg.Observer = crashingObserver{where: "submitted"}
		func() {
			defer func() {
				recover()
				say("the submitter recovered")
			}()
			tether.New(cfg).Go(context.Background(), "task", succeed)
		}()
		select {}
	}},
}

func crashingBody(context.Context) error                  { panic("crash now") }
func crashingIf(error) bool                               { panic("crash now") }
func crashingHandOver(context.Context, tether.Info) error { panic("crash now") }

// crashingObserver panics in one of its methods.
type crashingObserver struct {
	tether.NopObserver
	where string
}

func (o crashingObserver) at(where string) {
	if o.where == where {
		panic("crash now")
	}
}

func (o crashingObserver) TaskSubmitted(context.Context, *tether.Task) { o.at("submitted") }
func (o crashingObserver) TaskEnded(context.Context, *tether.Task)     { o.at("ended") }
func (o crashingObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	o.at("started")
	return ctx
}

func say(what string) { fmt.Println("CHILD: " + what) }

// report says so if the task's waiters are released.
func report(task *tether.Task, err error) {
	if err != nil {
		say(err.Error())
		os.Exit(0)
	}
	go func() {
		task.Wait(context.Background())
		say("a waiter was released")
	}()
}

func sayIfEnded(task *tether.Task) {
	if task.State().Final() || closed(task.Done()) {
		say("a waiter was released")
	}
}

// submitInline submits to a full pool whose submitters run their bodies, and looks
// at the task while the panic goes by.
func submitInline(cfg tether.Config, body tether.Func) {
	r := tether.New(cfg)
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
	p.Go(context.Background(), "running", func(context.Context) error { select {} })
	var self *tether.Task
	defer func() { sayIfEnded(self) }()
	p.Go(context.Background(), "task", func(ctx context.Context) error {
		self, _ = tether.FromContext(ctx)
		return body(ctx)
	})
}

const crashVariable = "TETHER_TEST_CRASH"

func TestT6_CrashEndsTheProcess(t *testing.T) {
	if how := os.Getenv(crashVariable); how != "" {
		crashes[how].child(tether.Config{OnPanic: tether.PanicCrash})
		say("survived")
		os.Exit(0)
	}
	for how, c := range crashes {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard: a child that does not crash hangs
			defer cancel()
			child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestT6_CrashEndsTheProcess$")
			child.Env = append(os.Environ(), crashVariable+"="+how)
			var stdout, stderr strings.Builder
			child.Stdout, child.Stderr = &stdout, &stderr
			err := child.Run()
			var exit *exec.ExitError
			if assert.ErrorAs(t, err, &exit) {
				assert.Equal(t, 2, exit.ExitCode(), "as the runtime exits on a panic")
			}
			text := stderr.String()
			assert.NotContains(t, stdout.String(), "CHILD: ")
			// The runtime's own report, after whatever was logged.
			i := strings.LastIndex(text, "panic: ")
			if assert.GreaterOrEqual(t, i, 0, "%s", text) {
				assert.Contains(t, text[i:], c.stack)
			}
			assert.Contains(t, text, "crash now")
		})
	}
}

func TestT7_GoexitEndsTheTask(t *testing.T) {
	goexit := func(context.Context) error {
		runtime.Goexit()
		return nil
	}
	assertGoexit := func(t *testing.T, task *tether.Task) {
		t.Helper()
		assert.ErrorIs(t, wait(task), tether.ErrGoexit)
		assert.Equal(t, tether.Failed, task.State())
	}
	t.Run("on the registry", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		for range 100 {
			assertGoexit(t, start(t, r, "task", goexit))
		}
		assert.EqualValues(t, 100, r.Stats().Failed)
	})
	t.Run("on a pool of one worker", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 200, Capacity: 1, Overflow: tether.OverflowBlock})
		for range 100 {
			assertGoexit(t, start(t, p, "task", goexit, tether.Serial("key")))
		}
		var tasks []*tether.Task
		for range 100 {
			tasks = append(tasks, start(t, p, "task", goexit), start(t, p, "task", succeed))
		}
		for i, task := range tasks {
			if i%2 == 0 {
				assertGoexit(t, task)
			} else {
				assert.NoError(t, wait(task))
			}
		}
		assert.Zero(t, p.Stats().Running)
		assert.Zero(t, p.Stats().Weight)
	})
	t.Run("after a cancellation", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		task := start(t, r, "task", func(ctx context.Context) error {
			<-ctx.Done()
			runtime.Goexit()
			return nil
		})
		task.Cancel(nil)
		wait(task)
		if task.State() != tether.Dropped { // it may have been cancelled before it ran
			assertGoexit(t, task)
		}
	})
	t.Run("with deferred calls of the body, which still see the task live", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		var state tether.State
		assertGoexit(t, start(t, r, "task", func(ctx context.Context) error {
			defer func() {
				task, _ := tether.FromContext(ctx)
				state = task.State()
			}()
			runtime.Goexit()
			return nil
		}))
		assert.Equal(t, tether.Running, state)
	})
	t.Run("in every attempt", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		attempts := 0
		task := start(t, p, "task", func(context.Context) error {
			attempts++
			runtime.Goexit()
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return 0 }}))
		assertGoexit(t, task)
		assert.Equal(t, 3, attempts)
	})
	// inline submits to a full pool on a goroutine of its own, which the body ends,
	// and returns the task.
	inline := func(t *testing.T, p *tether.Pool, body tether.Func, opts ...tether.Option) *tether.Task {
		t.Helper()
		began, ended := make(chan *tether.Task, 10), make(chan struct{})
		go func() {
			defer close(ended)
			p.Go(context.Background(), "inline", func(ctx context.Context) error {
				task, _ := tether.FromContext(ctx)
				began <- task
				return body(ctx)
			}, opts...)
			t.Error("Goexit ends the submitter's goroutine: it is the body's")
		}()
		<-ended
		return <-began
	}
	t.Run("in its submitter", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		assertGoexit(t, inline(t, p, goexit))
		assert.Zero(t, p.Stats().Inline)
		assert.Equal(t, 1, p.Stats().Running)
	})
	t.Run("in its submitter, with a unique key", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		assertGoexit(t, inline(t, p, goexit, tether.Unique("key")))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
		defer cancel()
		task, err := r.Go(ctx, "next", succeed, tether.Unique("key"))
		require.NoError(t, err)
		assert.NoError(t, wait(task))
	})
	t.Run("in its submitter, to be retried", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		began, ended := make(chan *tether.Task, 3), make(chan struct{})
		go func() {
			defer close(ended)
			p.Go(context.Background(), "inline", func(ctx context.Context) error {
				task, _ := tether.FromContext(ctx)
				began <- task
				runtime.Goexit()
				return nil
			}, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return 0 }}))
		}()
		<-ended
		task := <-began
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // a guard against hanging
		defer cancel()
		assert.ErrorIs(t, task.Wait(ctx), tether.ErrGoexit)
	})
	t.Run("of a submitter inside the observer", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Observer: goexitObserver{}})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.Go(context.Background(), "task", succeed)
		}()
		<-ended
		for task := range r.Tasks() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // a guard against hanging
			defer cancel()
			assert.False(t, errors.Is(task.Wait(ctx), context.DeadlineExceeded), "the task is stuck: %v", task)
		}
	})
}

// goexitObserver ends the goroutine of whoever submits, as t.FailNow would.
type goexitObserver struct{ tether.NopObserver }

func (goexitObserver) TaskSubmitted(context.Context, *tether.Task) { runtime.Goexit() }

// A nil pointer that was returned as an error has methods that panic.
func TestT6_ErrorsWhoseMethodsPanic(t *testing.T) {
	var null *fs.PathError
	logger, _ := newLogger()
	r := newRegistry(t, tether.Config{Logger: logger})
	failed := start(t, r, "failed", func(context.Context) error { return null })
	<-failed.Done()
	assert.Equal(t, tether.Failed, failed.State())

	runs := make(chan struct{})
	running := start(t, r, "running", func(ctx context.Context) error {
		close(runs)
		<-ctx.Done()
		return null
	})
	<-runs
	assert.True(t, running.Cancel(errTest))
	<-running.Done()
	assert.Equal(t, tether.Canceled, running.State())

	held := start(t, r, "held", succeed, tether.Hold())
	assert.True(t, held.Cancel(null))
	<-held.Done()
	assert.Equal(t, tether.Dropped, held.State())

	start(t, r, "canceled by it", func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}).Cancel(null)
	start(t, r, "held too", succeed, tether.Hold()).Cancel(null)
	require.NoError(t, r.Shutdown(t.Context()))
	require.NotPanics(t, func() { _ = r.Report().String() })
	for task := range r.Finished() {
		require.NotPanics(t, func() { _ = fmt.Sprint(task, task.Info()) })
	}
}
