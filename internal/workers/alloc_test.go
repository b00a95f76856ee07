package workers_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether/internal/workers"
)

// node is an item without a body.
type node struct {
	next  *node
	depth uint16
}

func (n *node) Link() (next **node, depth *uint16) { return &n.next, &n.depth }

// bareHost runs its function for each node, first in, first out, and adds as little as
// possible to the cost of the workers.
type bareHost struct {
	workers    workers.Workers[node, *node]
	head, tail *node // guarded by the lock
	idle       bool
	run        func()
	made       time.Time
	ended      sync.WaitGroup
	rehired    atomic.Int64
}

func newBareHost(limit int, idle bool, run func()) *bareHost {
	h := &bareHost{idle: idle, run: run, made: time.Now()}
	h.workers.Init(h, limit)
	return h
}

func (h *bareHost) Clock() int64 { return int64(time.Since(h.made)) }

func (h *bareHost) Push(first, last *node) {
	if h.tail == nil {
		h.head = first
	} else {
		h.tail.next = first
	}
	h.tail = last
}

func (h *bareHost) Next(int64) (*node, bool) {
	n := h.head
	if n == nil {
		return nil, false
	}
	if h.head, n.next = n.next, nil; h.head == nil {
		h.tail = nil
	}
	return n, false
}

func (h *bareHost) Empty() bool { return h.head == nil }

func (h *bareHost) Run(*node) int64 {
	h.run()
	return 0
}

func (h *bareHost) Settle(*node)   {}
func (h *bareHost) Finished(*node) { h.ended.Done() }
func (h *bareHost) WorkerExited()  {}
func (h *bareHost) MayIdle() bool  { return h.idle }
func (h *bareHost) IdleEnded(rehired bool) {
	if rehired {
		h.rehired.Add(1)
	}
}

// To start a worker allocates nothing, a goroutine that Go has to make aside, whether
// it is woken or new.
func TestAllocations(t *testing.T) {
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle %v", idle), func(t *testing.T) {
			const runs = 1000
			h := newBareHost(workers.Unlimited, idle, func() {})
			nodes := make([]node, runs+1) // AllocsPerRun makes one run more
			i := 0
			assert.Zero(t, testing.AllocsPerRun(runs, func() {
				h.ended.Add(1)
				h.workers.Push(&nodes[i])
				i++
				for h.workers.Count() > 0 {
					runtime.Gosched()
				}
			}))
			if idle {
				assert.Positive(t, h.rehired.Load())
			}
			h.workers.RetireIdle()
		})
	}
}
