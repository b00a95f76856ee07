package tether

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/internal/ring"
)

// history is the finished tasks that can still be found: the newest ones, each for a
// while. Failed, panicked and pinned tasks are in rings of their own, so that others cannot
// evict them. A task is in one ring at most. It leaves the table of its queue when it is
// forgotten.
type history struct {
	reg                      *Registry
	recent, failed, panicked *ring.Ring[Task] // nil if Retain is negative

	pinnedOnce sync.Once
	pinned     atomic.Pointer[ring.Ring[Task]] // made for the first pinned task
}

func (h *history) init(r *Registry) {
	h.reg = r
	if r.cfg.Retain > 0 {
		size := r.cfg.Retain
		h.recent, h.failed, h.panicked = h.newRing(size, h.evict), h.newRing(size, h.evict), h.newRing(size, h.evict)
	}
}

func (h *history) newRing(size int, evict func(*Task)) *ring.Ring[Task] {
	r := new(ring.Ring[Task])
	r.Init(size, h.reg.cfg.RetainFor, func(t *Task) time.Duration { return time.Duration(h.reg.now() - t.ended) }, evict)
	return r
}

// pins returns the ring of the pinned tasks.
func (h *history) pins() *ring.Ring[Task] {
	h.pinnedOnce.Do(func() {
		size := h.reg.cfg.Retain
		if size < 0 {
			size = defaultRetain
		}
		h.pinned.Store(h.newRing(size, forget))
	})
	return h.pinned.Load()
}

// add retains a task that has ended and is about to be done. It returns the ring that the task
// is in, nil if it is not retained.
func (h *history) add(t *Task) *ring.Ring[Task] {
	to := h.recent
	switch {
	case t.has(pinned):
		to = h.pins()
	case h.recent == nil:
		if t.forget() {
			return nil
		}
		to = h.pins() // it was pinned just now
	case t.end == Failed:
		to = h.failed
	case t.end == Panicked:
		to = h.panicked
	}
	to.Add(t)
	return to
}

// settle ends what add has begun, once the task is done. in is what add has returned. A Keep
// that came after add, and before the task was done, has left it to settle to move the task.
func (h *history) settle(t *Task, in *ring.Ring[Task]) {
	switch {
	case in == nil:
		t.slot.Clear()
	case t.has(pinned):
		if pins := h.pins(); in != pins && in.Take(t) {
			pins.Add(t)
		}
	}
}

// take takes a task out of the rings of those that were not pinned, and reports whether it
// was there.
func (h *history) take(t *Task) bool {
	return h.recent != nil && (h.recent.Take(t) || h.failed.Take(t) || h.panicked.Take(t))
}

// evict forgets a task that has left the ring of those that were not pinned, unless it is
// pinned: Keep may have come too late for add, and not have found the task itself.
func (h *history) evict(t *Task) {
	if t.forget() {
		t.slot.Clear()
	} else {
		h.pins().Add(t)
	}
}

// pin is Task.Keep.
func (h *history) pin(t *Task) bool {
	if t.mark(pinned)&forgotten != 0 {
		return false
	}
	if !t.has(done) {
		return true // add finds the mark, or settle does
	}
	if h.take(t) {
		h.pins().Add(t)
	}
	return h.retains(t)
}

// drop forgets a finished task now, and reports whether it was retained.
func (h *history) drop(t *Task) bool {
	pins := h.pinned.Load()
	switch {
	case h.take(t):
	case pins != nil && pins.Take(t):
	default:
		return false
	}
	forget(t)
	return true
}

// forget ends the retention of a task that is in no ring any more.
func forget(t *Task) {
	t.mark(forgotten)
	t.slot.Clear()
}

// retains reports whether a finished task that is still in the table may be found.
func (h *history) retains(t *Task) bool {
	return (h.recent != nil || t.has(pinned)) && h.reg.now()-t.ended < int64(h.reg.cfg.RetainFor)
}

// since is Registry.FinishedSince.
func (h *history) since() time.Time {
	if h.recent == nil {
		return h.reg.time(h.reg.now())
	}
	reach := min(h.recent.Reach(), h.failed.Reach(), h.panicked.Reach())
	if pins := h.pinned.Load(); pins != nil {
		reach = min(reach, pins.Reach())
	}
	return h.reg.time(max(0, h.reg.now()-int64(reach)))
}

// all is Registry.Finished.
func (h *history) all() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		apart := slices.Concat(slices.Collect(visible(h.failed)), slices.Collect(visible(h.panicked)), slices.Collect(visible(h.pinned.Load())))
		slices.SortFunc(apart, func(a, b *Task) int { return cmp.Compare(b.ended, a.ended) })
		for t := range visible(h.recent) {
			for ; len(apart) > 0 && apart[0].ended > t.ended; apart = apart[1:] {
				if !yield(apart[0]) {
					return
				}
			}
			if !yield(t) {
				return
			}
		}
		for _, t := range apart {
			if !yield(t) {
				return
			}
		}
	}
}

// visible returns the tasks of a ring that are done. The ring may be nil.
func visible(r *ring.Ring[Task]) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		if r == nil {
			return
		}
		for t := range r.All() {
			if t.has(done) && !yield(t) {
				return
			}
		}
	}
}
