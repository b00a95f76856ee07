package crew

import (
	"sync"
	"sync/atomic"
	"time"
)

// idle is the goroutines that wait to be hired again. The one that has waited least is
// hired first, so that the others' time runs out.
type idle struct {
	linger time.Duration   // 0: none waits; written once, by Linger
	quit   <-chan struct{} // as is this

	n     atomic.Int32 // len(stack): nobody takes the lock for nothing
	mu    sync.Mutex   // taken after the crew's lock, if at all
	stack []*seat      // newest last; guarded by mu
}

// seat is where one goroutine waits.
type seat struct {
	hired chan struct{} // has room for one: who takes the seat off the stack sends
	timer *time.Timer
}

// wait waits to be hired, and reports whether that came. The seat is made for the
// first wait.
func (i *idle) wait(s **seat) bool {
	if *s == nil {
		*s = &seat{make(chan struct{}, 1), time.NewTimer(i.linger)}
	} else {
		(*s).timer.Reset(i.linger)
	}
	me := *s
	i.mu.Lock()
	i.stack = append(i.stack, me)
	i.n.Store(int32(len(i.stack)))
	i.mu.Unlock()
	select {
	case <-me.hired:
		me.timer.Stop()
		return true
	case <-me.timer.C:
	case <-i.quit:
		me.timer.Stop()
	}
	if i.leave(me) {
		return false
	}
	<-me.hired // somebody has been quicker
	return true
}

// leave takes a seat off the stack, and reports whether it was there.
func (i *idle) leave(me *seat) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for at, s := range i.stack {
		if s == me {
			i.stack = append(i.stack[:at], i.stack[at+1:]...)
			i.stack[:len(i.stack)+1][len(i.stack)] = nil
			i.n.Store(int32(len(i.stack)))
			return true
		}
	}
	return false
}

// hire hires the goroutine that has waited least, if any waits.
func (i *idle) hire() bool {
	if i.n.Load() == 0 {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.stack) - 1
	if last < 0 {
		return false
	}
	i.stack[last].hired <- struct{}{}
	i.stack[last], i.stack = nil, i.stack[:last]
	i.n.Store(int32(last))
	return true
}
