package tether

import (
	"context"
	"fmt"
	"slices"
)

// WaitIdle waits until no task of the registry or pool is live, or, if names are given, no
// task of one of these names. It is for tests, and for commands that end when their work
// has. Tasks that are submitted meanwhile are waited for, too, and so are those that are
// held, delayed, or wait for a retry. Loops are not. If ctx is done first, WaitIdle
// returns context.Cause(ctx).
//
// WaitIdle does not mark outcomes as awaited: failures are logged as usual. Unlike
// Shutdown, it does not end the admission of tasks, and it says nothing about tasks that
// other goroutines submit when it returns.
//
// Called with the context of a task that it would wait for, WaitIdle returns an
// [ErrInvalid] at once.
func WaitIdle(ctx context.Context, of Submitter, names ...string) error {
	if ctx == nil || of == nil {
		return fmt.Errorf("%w: WaitIdle: nil context or Submitter", ErrInvalid)
	}
	r, p := of.submitter()
	queues := func() []*queue { return []*queue{&p.queue} }
	if p == nil {
		queues = func() []*queue {
			return slices.DeleteFunc(slices.Clone(r.allQueues()), func(q *queue) bool { return q == r.loops })
		}
	}
	if t, ok := FromContext(ctx); ok && slices.Contains(queues(), t.queue) && t.isOf(names) {
		return fmt.Errorf("%w: WaitIdle was called with the context of task %q, for which it would wait", ErrInvalid, t.Name())
	}
	for {
		all := queues()
		before := submitted(all)
		waited := false
		for _, q := range all {
			for t := range q.table.All() {
				if t.has(done) || !t.isOf(names) {
					continue
				}
				waited = true
				select {
				case <-t.doneChan():
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		// A task that ended before its queue was looked at may have submitted another one
		// to a queue that was looked at before.
		if !waited && before == submitted(queues()) {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// isOf reports whether the task has one of the names. No names stand for all.
func (t *Task) isOf(names []string) bool {
	return len(names) == 0 || slices.Contains(names, t.kind.name)
}

// submitted returns how many tasks were submitted to the queues.
func submitted(queues []*queue) (n uint64) {
	for _, q := range queues {
		n += q.table.Count()
	}
	return n
}
