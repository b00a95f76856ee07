// Package tethertest helps to test programs that use tether.
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

// patience is how long New waits for the tasks at the end of a test: half of it
// for them to end by themselves, half for those that have to be cancelled.
const patience = 10 * time.Second

// New returns a registry for one test. It logs to the test's output, and is shut
// down when the test and its subtests have ended. The test fails then, with the
// task's name and ID, for each task that
//
//   - never ran, because it was held and nobody has released it, or it was to start
//     later than the test has ended;
//   - did not end before it was cancelled, 5 s after the test, or not even then: that
//     one's stack is shown;
//   - failed, panicked or ran out of time, when nobody has asked for its outcome by
//     Wait, Done, Err, Value or Result.
//
// A task that is to run until the program stops can end on [tether.StoppingFrom], or be
// cancelled by the test.
//
// adjust may change the registry's Config; an Observer or a Logger given there are
// used as well. In a synctest bubble, call New inside it: the waiting takes no time.
func New(t testing.TB, adjust ...func(*tether.Config)) *tether.Registry {
	t.Helper()
	cfg := tether.Config{
		CancelBefore: patience / 2,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range adjust {
		f(&cfg)
	}
	w := &witness{Observer: cfg.Observer, failed: make(map[*tether.Task]bool)}
	if w.Observer == nil {
		w.Observer = tether.NopObserver{}
	}
	cfg.Observer = w
	reg := tether.New(cfg)
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := reg.Shutdown(ctx)
		report := reg.Report()
		for _, task := range report.NeverStarted {
			t.Errorf("task %q (%s) never ran: %v", task.Name, task.ID, task.Err)
		}
		for _, task := range report.Canceled {
			t.Errorf("task %q (%s) did not end until it was cancelled", task.Name, task.ID)
		}
		for _, task := range report.Abandoned {
			t.Errorf("task %q (%s) never ended; goroutines of that name:\n%s", task.Name, task.ID, report.Stacks[task.Name])
		}
		if err != nil && len(report.Abandoned) == 0 {
			t.Error(err)
		}
		for _, task := range w.unseen() {
			t.Errorf("task %q (%s) %s, and nobody has asked for its outcome: %v", task.Name, task.ID, task.State, task.Err)
		}
	})
	return reg
}

// witness remembers the tasks that have failed.
type witness struct {
	tether.Observer // the program's own

	mu     sync.Mutex
	failed map[*tether.Task]bool // guarded by mu
}

func (w *witness) TaskEnded(ctx context.Context, t *tether.Task) {
	w.Observer.TaskEnded(ctx, t)
	info := t.Info()
	timedOut := info.State == tether.Canceled && errors.Is(info.Err, tether.ErrTimeout)
	if info.State == tether.Failed || info.State == tether.Panicked || timedOut {
		w.mu.Lock()
		w.failed[t] = true
		w.mu.Unlock()
	}
}

// unseen returns the failures that nobody has asked for, by now.
func (w *witness) unseen() []tether.Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	var infos []tether.Info
	for t := range w.failed {
		if info := t.Info(); !info.Waited {
			infos = append(infos, info)
		}
	}
	return infos
}

// Inline returns a pool of r whose Go runs the body before it returns, in the
// goroutine that calls it: a handler that is given this pool has done its
// background work when it returns. The task is one like any other, so a panic ends
// the task and not the test. A task with Hold, Delay or Serial, which cannot be run
// like that, is refused with a [*tether.FullError].
//
// The pool is one of [tether.OverflowCallerRuns] that is always full, of a task that keeps
// its only worker until r is shut down.
func Inline(r *tether.Registry) *tether.Pool {
	p := r.NewPool("inline", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
	_, _ = p.Go(context.Background(), "inline", func(ctx context.Context) error { // refused only in a drain, when nothing else is admitted either
		<-tether.StoppingFrom(ctx)
		return nil
	})
	return p
}
