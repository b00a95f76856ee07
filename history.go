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
// while. Failed and pinned tasks are in rings of their own, so that others cannot evict
// them. A task is in one ring at most. It leaves the table of its queue when it is
// forgotten.
type history struct {
	reg            *Registry
	recent, failed *ring.Ring[Task] // nil if Retain is negative

	pinnedOnce sync.Once
	pinned     atomic.Pointer[ring.Ring[Task]] // made for the first pinned task
}

func (h *history) init(r *Registry) {
	h.reg = r
	if r.cfg.Retain > 0 {
		h.recent, h.failed = h.newRing(r.cfg.Retain, h.evict), h.newRing(r.cfg.Retain, h.evict)
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

// add retains a task that has ended and is about to be done. It reports false if the task
// is not retained.
func (h *history) add(t *Task) bool {
	switch {
	case t.has(pinned):
		h.pins().Add(t)
	case h.recent == nil:
		return !t.forget() && h.add(t) // unless it was pinned just now
	case t.end == Failed || t.end == Panicked:
		h.failed.Add(t)
	default:
		h.recent.Add(t)
	}
	return true
}

// evict forgets a task that has left the recent or failed ones, unless it is pinned: Keep
// may have come too late for add, and not have found the task itself.
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
		return true // add finds the mark, or evict does
	}
	if h.recent != nil && (h.recent.Take(t) || h.failed.Take(t)) {
		h.pins().Add(t)
	}
	return h.retains(t)
}

// drop forgets a finished task now, and reports whether it was retained.
func (h *history) drop(t *Task) bool {
	pins := h.pinned.Load()
	switch {
	case h.recent != nil && (h.recent.Take(t) || h.failed.Take(t)):
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

// all is Registry.Finished.
func (h *history) all() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		apart := slices.Concat(slices.Collect(visible(h.failed)), slices.Collect(visible(h.pinned.Load())))
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
