package tether

import (
	"context"
	"runtime/pprof"
	"time"
)

// runInline runs a task of OverflowCallerRuns on this goroutine, its submitter's, and
// returns when it has ended.
func (q *queue) runInline(ctx context.Context, t *Task) {
	d := &q.reg.drain
	d.helpers.Add(1)
	defer func() {
		pprof.SetGoroutineLabels(ctx) // the submitter's own
		d.helpers.Add(-1)
		d.notify()
	}()
	for q.waitInline(t); q.startInline(t) && q.attemptInline(t); q.waitInline(t) {
	}
}

// waitInline waits until the next attempt is due, or the task has ended.
func (q *queue) waitInline(t *Task) {
	if !t.has(begun) {
		return
	}
	q.dropStopped(t) // the drain may have begun during the last attempt
	timer := time.NewTimer(t.opts().retry.wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.doneChan(): // canceled between two attempts
	}
}

// startInline makes the task Running. It reports false if the task has ended.
func (q *queue) startInline(t *Task) bool {
	q.workers.Lock()
	word := t.clear(notifying)
	if State(word&stateMask) > Queued || word&aborting != 0 {
		q.workers.Unlock()
		<-t.doneChan() // another goroutine ends it
		return false
	}
	if cause := q.stopCauseLocked(t, atOnce); cause != nil {
		limit := q.abortLocked(t, cause)
		q.workers.Unlock()
		q.abort(limit, t, cause)
		return false
	}
	t.clear(parked)
	q.startLocked(t, q.reg.now())
	q.inline++
	q.workers.Unlock()
	return true
}

// attemptInline makes one attempt, and reports whether another follows on this goroutine.
func (q *queue) attemptInline(t *Task) (again bool) {
	returned := false
	defer func() { // also if the body ends this goroutine
		q.workers.Lock()
		q.inline--
		if again = t.end == Queued; again {
			q.requeueLocked(t, 0)
			q.workers.Unlock()
			t.notifyWatchers()
			if !returned { // the observer or the log handler has ended this goroutine
				go q.runInline(context.Background(), t)
			}
			return
		}
		q.countEndLocked(t)
		q.workers.Unlock()
		t.finish()
	}()
	t.runAttempt()
	returned = true
	return
}
