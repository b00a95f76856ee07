package tether

import (
	"fmt"
	"sync/atomic"
)

// State is where a task is in its life. Held, Queued and Running are live; the
// others are final.
type State uint8

const (
	Held      State = iota // admitted, waits for Release
	Queued                 // waits for a worker, for its delay, or for its next attempt
	Running                // its body runs
	Succeeded              // the body returned nil
	Failed                 // the body returned an error, or ended its goroutine: ErrGoexit
	Panicked               // the body panicked: Err is a *PanicError
	Canceled               // the body returned an error after the task was canceled
	Dropped                // the body never ran
)

func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case Queued:
		return "queued"
	case Running:
		return "running"
	case Succeeded:
		return "succeeded"
	case Failed:
		return "failed"
	case Panicked:
		return "panicked"
	case Canceled:
		return "canceled"
	case Dropped:
		return "dropped"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Final reports whether a task in this state never changes again.
func (s State) Final() bool { return s >= Succeeded }

// The life of a task is one word, a State with flags. It is written by the functions of
// this file alone:
//
//	Go ──┬─ Hold ─▶ Held ── release ──▶ Queued ◀──────── requeue ────────┐
//	     └────────────────────────────▶ Queued ── start ──▶ Running ─────┤
//	                                      │                    │
//	          Cancel, drain, DropOldest: abort              finish
//	                                      ▼                    ▼
//	                  Dropped; Canceled if         Succeeded, Failed,
//	                  an attempt was made          Panicked, Canceled
//
//	writer    lock             from
//	admit     none, it is new  –
//	release   the queue's      Held
//	start     the queue's      Queued
//	requeue   the queue's      Running
//	abort     the queue's      Held, Queued; the flag aborting keeps others away
//	reveal    none             Running, or aborting: by the one goroutine that ends the task
//	finish    none             as reveal, or after it
//
// An abort is a flag first, because callbacks of the user's run before the task is
// final, and no lock is held over those.
type stateWord struct{ word atomic.Uint32 }

const (
	stateMask = 1<<3 - 1

	// aborting: a goroutine is about to end the task without running it. Written under
	// the queue's lock, never cleared.
	aborting uint32 = 1 << (3 + iota)
	// notifying: the submitter still calls the observer, or an attempt has just ended.
	// The task can neither start nor be aborted until schedule has cleared the flag under
	// the queue's lock; the goroutine that is to call schedule finds what came meanwhile.
	notifying
	// parked: the task is in no order: it is held, delayed, between attempts, or run by
	// its submitter. Written under the queue's lock once the task is published.
	parked
	// begun: the task has started once, so that Task.started is set.
	begun
	// awaited: the outcome was asked for.
	awaited
	// recorded: the drain's tally has the task's end.
	recorded
	// done: the outcome may be seen; Done is closed.
	done
	// pinned: Keep was called. forgotten: the task is not retained any more. Whichever is
	// set first decides between Keep and an eviction.
	pinned
	forgotten
	// listed: the order counts the task as waiting, or has. Written under the queue's lock.
	listed
)

func (s *stateWord) load() uint32          { return s.word.Load() }
func (s *stateWord) state() State          { return State(s.word.Load() & stateMask) }
func (s *stateWord) has(flags uint32) bool { return s.word.Load()&flags != 0 }

// mark sets flags that do not change the state: awaited, recorded, pinned, forgotten, listed. It
// returns the word as it was before.
func (s *stateWord) mark(flags uint32) (before uint32) {
	if now := s.word.Load(); now&flags == flags {
		return now
	}
	return s.word.Or(flags)
}

// forget sets forgotten unless the task is pinned, and reports whether it is forgotten.
func (s *stateWord) forget() bool {
	for {
		now := s.word.Load()
		if now&pinned != 0 {
			return false
		}
		if s.word.CompareAndSwap(now, now|forgotten) {
			return true
		}
	}
}

// admit is the first state of a task that no other goroutine knows yet.
func (s *stateWord) admit(state State, flags uint32) { s.word.Store(uint32(state) | flags) }

// release moves the task from Held to Queued. The queue's lock must be held.
func (s *stateWord) release() { s.word.Add(uint32(Queued) - uint32(Held)) }

// start moves the task from Queued to Running, for the first time if first is true. The
// queue's lock must be held.
func (s *stateWord) start(first bool) {
	delta := uint32(Running) - uint32(Queued)
	if first {
		delta += begun
	}
	s.word.Add(delta)
}

// requeue moves the task from Running to Queued, parked until it is due. The queue's
// lock must be held.
func (s *stateWord) requeue(flags uint32) { s.word.Add(parked + flags - uint32(Running-Queued)) }

// clear removes notifying or parked, and returns the word after that. The queue's lock
// must be held.
func (s *stateWord) clear(flag uint32) uint32 { return s.word.And(^flag) &^ flag }

// abort sets aborting and returns the word as it was. The queue's lock must be held, and
// abortable must have reported true.
func (s *stateWord) abort() (before uint32) { return s.word.Or(aborting) }

// abortable reports whether the task can be ended without being run. The queue's lock
// must be held.
func (s *stateWord) abortable() bool {
	now := s.word.Load()
	return State(now&stateMask) <= Queued && now&(aborting|notifying) == 0
}

// reveal makes the state final for the observer, which sees it before the task is done.
// It is called by the goroutine that ends the task. No other goroutine changes the state
// of a task that has run or is aborting, so one addition does it.
func (s *stateWord) reveal(end State) { s.word.Add(uint32(end) - s.word.Load()&stateMask) }

// finish makes the state final and sets done, in one step. It is called once, by the
// goroutine that ends the task.
func (s *stateWord) finish(end State) { s.word.Add(uint32(end) - s.word.Load()&stateMask + done) }
