package tether_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// journal is an Observer that writes everything down, by the task's name, with its
// state then.
type journal struct {
	mu      sync.Mutex
	entries map[string][]string
	onEvent func(event string, t *tether.Task)
}

func newJournal() *journal { return &journal{entries: make(map[string][]string)} }

func (d *journal) write(ctx context.Context, event string, t *tether.Task) {
	entry := event + " " + t.State().String()
	if v := ctx.Value(ctxKey("span")); v != nil {
		entry += fmt.Sprint(" in ", v)
	}
	if task, ok := tether.FromContext(ctx); ok && task != t {
		entry += " by " + task.Name()
	}
	if d.onEvent != nil {
		d.onEvent(event, t)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries[t.Name()] = append(d.entries[t.Name()], entry)
}

func (d *journal) of(name string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entries[name]
}

func (d *journal) TaskSubmitted(ctx context.Context, t *tether.Task) { d.write(ctx, "submitted", t) }
func (d *journal) TaskEnded(ctx context.Context, t *tether.Task)     { d.write(ctx, "ended", t) }
func (d *journal) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	d.write(ctx, "started", t)
	return context.WithValue(ctx, ctxKey("span"), "span of "+t.Name())
}
func (d *journal) TaskRefused(_ context.Context, name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries[name] = append(d.entries[name], "refused: "+err.Error())
}

func TestObserver(t *testing.T) {
	bubble := func(name string, test func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newJournal()
				r := newRegistry(t, tether.Config{Observer: d})
				test(t, d, r, r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest}))
			})
		})
	}
	ends := map[string]struct {
		body tether.Func
		end  string
	}{
		"success": {succeed, "succeeded"},
		"failure": {fail, "failed"},
		"panic":   {panicking, "panicked"},
		"goexit":  {func(context.Context) error { runtime.Goexit(); return nil }, "failed"},
		"timeout": {untilCanceled, "canceled"},
	}
	for name, c := range ends {
		bubble(name, func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
			for _, on := range []tether.Submitter{r, p} {
				d.entries = make(map[string][]string)
				d.onEvent = func(event string, task *tether.Task) {
					if event == "ended" {
						assert.True(t, task.State().Final())
						assert.False(t, closed(task.Done()), "told before anybody who waits")
						info := task.Info()
						assert.Equal(t, c.end, info.State.String())
						assert.Equal(t, c.end != "succeeded", info.Err != nil)
						assert.False(t, info.Finished.IsZero())
					}
				}
				wait(start(t, on, "task", c.body, tether.Timeout(time.Minute)))
				assert.Equal(t, []string{"submitted queued", "started running", "ended " + c.end + " in span of task"}, d.of("task"))
			}
		})
	}
	bubble("a retried task starts and ends once", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		var spans []any
		wait(start(t, p, "task", func(ctx context.Context) error {
			spans = append(spans, ctx.Value(ctxKey("span")))
			return errTest
		}, tether.Retry(every(3, time.Second))))
		assert.Equal(t, []string{"submitted queued", "started running", "ended failed in span of task"}, d.of("task"))
		assert.Equal(t, []any{"span of task", "span of task", "span of task"}, spans, "each attempt has the context")
	})
	bubble("cancelled between two attempts", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		task := start(t, r, "task", fail, tether.Retry(every(3, time.Hour)))
		synctest.Wait()
		task.Cancel(nil)
		assert.Equal(t, []string{"submitted queued", "started running", "ended canceled in span of task"}, d.of("task"))
	})
	bubble("tasks that never run", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		start(t, r, "held", succeed, tether.Hold()).Cancel(nil)
		assert.Equal(t, []string{"submitted held", "ended dropped"}, d.of("held"))
		start(t, r, "delayed", succeed, tether.Delay(time.Hour)).Cancel(nil)
		assert.Equal(t, []string{"submitted queued", "ended dropped"}, d.of("delayed"))
		gate := make(chan struct{})
		defer close(gate)
		start(t, p, "running", until(gate))
		synctest.Wait()
		start(t, p, "oldest", succeed)
		start(t, p, "newer", succeed)
		assert.Equal(t, []string{"submitted queued", "ended dropped"}, d.of("oldest"))
	})
	bubble("a held task that is released", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		task := start(t, r, "task", succeed, tether.Hold())
		task.Release()
		require.NoError(t, wait(task))
		assert.Equal(t, []string{"submitted held", "started running", "ended succeeded in span of task"}, d.of("task"))
	})
	bubble("who submitted it", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		wait(start(t, r, "parent", func(ctx context.Context) error {
			child, err := r.Go(ctx, "child", succeed)
			if err != nil {
				return err
			}
			return child.Wait(ctx)
		}))
		assert.Equal(t, []string{"submitted queued in span of parent by parent", "started running in span of parent", "ended succeeded in span of child"}, d.of("child"))
	})
	bubble("refusals", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		_, err := r.Go(context.Background(), "task", nil)
		assert.Equal(t, []string{"refused: " + err.Error()}, d.of("task"))
		_, err = tether.Submit[int](context.Background(), p, "typed", nil)
		assert.Equal(t, []string{"refused: " + err.Error()}, d.of("typed"))
		require.NoError(t, r.Shutdown(context.Background()))
		_, err = p.Go(context.Background(), "late", succeed)
		assert.Equal(t, []string{"refused: " + err.Error()}, d.of("late"))
	})
	bubble("joining a unique task is no event", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		task := start(t, r, "task", succeed, tether.Hold(), tether.Unique("key"))
		start(t, r, "task", succeed, tether.Unique("key"))
		task.Cancel(nil)
		assert.Len(t, d.of("task"), 2)
	})
	for _, opts := range map[string][]tether.Option{"plain": nil, "held": {tether.Hold()}, "delayed": {tether.Delay(time.Hour)}} {
		bubble("cancelled inside TaskSubmitted", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
			d.onEvent = func(event string, task *tether.Task) {
				if event == "submitted" {
					assert.True(t, task.Cancel(errTest))
				}
			}
			for _, on := range []tether.Submitter{r, p} {
				d.entries = make(map[string][]string)
				task := start(t, on, "task", func(context.Context) error { t.Error("ran"); return nil }, opts...)
				assert.ErrorIs(t, wait(task), errTest)
				assert.Equal(t, tether.Dropped, task.State())
				require.Len(t, d.of("task"), 2)
				assert.Equal(t, "ended dropped", d.of("task")[1])
			}
			assert.Equal(t, tether.Stats{Submitted: 2, Dropped: 2}, r.Stats())
		})
	}
	bubble("released inside TaskSubmitted", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		d.onEvent = func(event string, task *tether.Task) {
			if event == "submitted" {
				assert.True(t, task.Release())
			}
		}
		assert.NoError(t, wait(start(t, r, "task", succeed, tether.Hold())))
		assert.Len(t, d.of("task"), 3)
	})
	bubble("by its submitter", func(t *testing.T, d *journal, r *tether.Registry, _ *tether.Pool) {
		p, free := fullPool(t, r, tether.OverflowCallerRuns)
		defer free()
		wait(start(t, p, "task", succeed))
		assert.Equal(t, []string{"submitted queued", "started running", "ended succeeded in span of task"}, d.of("task"))
		d.onEvent = func(event string, task *tether.Task) {
			if event == "submitted" {
				assert.True(t, task.Cancel(errTest))
			}
		}
		task := start(t, p, "canceled", func(context.Context) error { t.Error("ran"); return nil })
		assert.ErrorIs(t, wait(task), errTest)
		assert.Equal(t, []string{"submitted queued", "ended dropped"}, d.of("canceled"))
	})
	bubble("cancelled inside TaskStarted", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		d.onEvent = func(event string, task *tether.Task) {
			if event == "started" {
				assert.True(t, task.Cancel(errTest))
			}
		}
		assert.ErrorIs(t, wait(start(t, r, "task", untilCanceled)), errTest)
	})
	bubble("a task that its end submits", func(t *testing.T, d *journal, r *tether.Registry, p *tether.Pool) {
		var next *tether.Task
		d.onEvent = func(event string, task *tether.Task) {
			if event == "ended" && task.Name() == "first" {
				assert.False(t, task.Cancel(nil))
				next = start(t, p, "next", succeed)
			}
		}
		require.NoError(t, wait(start(t, p, "first", succeed)))
		require.NoError(t, wait(next))
	})
	bubble("a nil context from TaskStarted is the body's own", func(t *testing.T, _ *journal, _ *tether.Registry, _ *tether.Pool) {
		r := newRegistry(t, tether.Config{Observer: nilObserver{}})
		assert.NoError(t, wait(start(t, r, "task", func(ctx context.Context) error { return ctx.Err() })))
	})
}

type nilObserver struct{ tether.NopObserver }

func (nilObserver) TaskStarted(context.Context, *tether.Task) context.Context { return nil }
