// Package tethertest helps to test programs that use tether.
//
// [New] returns a registry that fails the test if a task leaks, or fails unnoticed. [Inline]
// returns a pool whose tasks have run when Go returns. The package
// tetherhttp/tetherhttptest is for handlers that use tetherhttp.After.
package tethertest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether"
)

// patience is how long New waits for the tasks at the end of a test: half of it for them
// to end by themselves, half for the ones that had to be canceled.
const patience = 10 * time.Second

// New returns a registry for one test. It logs to the test's output. When the test and its
// subtests have ended, the registry is shut down, and the test fails for each task that
//
//   - never ran, because it was held and not released, or was still delayed;
//   - did not end until it was canceled, 5 s after the test, or did not end at all: the
//     message then has the stack;
//   - failed, panicked or timed out, without a call of Wait, Done, Err, Value or Result that
//     asked for the outcome.
//
// The messages have the task's name and ID. What runs until the program stops should be a
// loop ([tether.Registry.Loop]): it is canceled at the end of the test, and fails the test
// only if it has failed then or before.
//
// Each adjust function may change the registry's Config. An Observer or a Logger set there
// is used too. In a synctest bubble, New must be called inside the bubble; waiting then
// takes no time.
func New(t testing.TB, adjust ...func(*tether.Config)) *tether.Registry {
	t.Helper()
	cfg := tether.Config{
		CancelBefore: patience / 2,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range adjust {
		f(&cfg)
	}
	w := &witness{failed: make(map[*tether.Task]bool)}
	cfg.Observer = tether.JoinObservers(cfg.Observer, w)
	reg := tether.New(cfg)
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := reg.Shutdown(ctx)
		report := reg.Report()
		for _, task := range report.NeverStarted {
			if task.Loop {
				continue // it was to run until the stop, which has come
			}
			t.Errorf("task %q (%s) never ran: %v", task.Name, task.ID, task.Err)
		}
		for _, task := range report.Canceled {
			if task.Loop {
				t.Errorf("loop %q (%s) ended with an error: %v", task.Name, task.ID, task.Err)
				continue
			}
			t.Errorf("task %q (%s) did not end until it was canceled", task.Name, task.ID)
		}
		for _, task := range report.Abandoned {
			t.Errorf("task %q (%s) never ended; goroutines of that name:\n%s", task.Name, task.ID, report.Stacks[task.Name])
		}
		if err != nil && len(report.Abandoned) == 0 {
			t.Error(err)
		}
		for _, task := range w.unseen() {
			t.Errorf("task %q (%s) %s, and its outcome was not asked for: %v", task.Name, task.ID, task.State, task.Err)
		}
	})
	return reg
}

// witness remembers the tasks that failed.
type witness struct {
	tether.NopObserver

	mu     sync.Mutex
	failed map[*tether.Task]bool // guarded by mu
}

// TaskEnded implements [tether.Observer].
func (w *witness) TaskEnded(_ context.Context, t *tether.Task) {
	info := t.Info()
	timedOut := info.State == tether.Canceled && errors.Is(info.Err, tether.ErrTimeout)
	if info.State == tether.Failed || info.State == tether.Panicked || timedOut {
		w.mu.Lock()
		w.failed[t] = true
		w.mu.Unlock()
	}
}

// unseen returns the failed tasks with an outcome that has not been asked for.
func (w *witness) unseen() []tether.Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	var infos []tether.Info
	for t := range w.failed {
		if info := t.Info(); !info.Awaited {
			infos = append(infos, info)
		}
	}
	return infos
}

// Inline returns a pool of r whose Go runs the body before it returns, in the calling
// goroutine: when a handler that was given this pool returns, its background work is done.
// The tasks are otherwise like any other; a panic ends the task and not the test. A task
// with Hold, Delay or Serial cannot run like that, and is refused with a
// [*tether.FullError].
//
// The pool has the overflow [tether.OverflowCallerRuns] and is always full: a task occupies
// its only worker until r is shut down.
func Inline(r *tether.Registry) *tether.Pool {
	p := r.NewPool("inline", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
	_, _ = p.Go(context.Background(), "inline", func(ctx context.Context) error { // refused only during the drain, when the pool refuses everything
		<-tether.StoppingFrom(ctx)
		return nil
	})
	return p
}
