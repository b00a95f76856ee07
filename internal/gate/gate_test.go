package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/gate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newGate(slots, queue int) *gate.Gate {
	g := new(gate.Gate)
	g.Init(slots, queue)
	return g
}

// Random operations, compared with two counts.
func TestModel(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		slots, queue := rnd.IntN(4), rnd.IntN(4)
		g := newGate(slots, queue)
		wait, run := 0, 0
		for range 2000 {
			switch rnd.IntN(8) {
			case 0, 1, 2:
				could := rnd.IntN(2) == 0
				room := queue
				if could {
					room += max(0, slots-run)
				}
				require.Equal(t, wait < room, g.TryAcquire(could),
					"seed %d: slots %d, queue %d, queued %d, running %d, could start: %v", seed, slots, queue, wait, run, could)
				if wait < room {
					wait++
				}
			case 3:
				if wait > 0 && run < slots {
					g.Start()
					wait, run = wait-1, run+1
				}
			case 4:
				if run > 0 {
					g.Exit()
					run--
				}
			case 5:
				if run > 0 {
					g.Requeue()
					wait, run = wait+1, run-1
				}
			case 6:
				if wait > 0 {
					g.Withdraw()
					wait--
				}
			case 7:
				slots = rnd.IntN(4)
				g.SetSlots(slots)
				require.Equal(t, slots, g.Slots())
			}
			w, r := g.Count()
			require.Equal(t, [2]int{wait, run}, [2]int{w, r}, "queued and running; seed %d", seed)
		}
	}
}

// To look for room and to acquire are one step.
func TestTryAcquireConcurrently(t *testing.T) {
	for _, room := range []int64{1, 2} {
		g := newGate(1, int(room)-1)
		var inside, over atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 100_000 {
					if !g.TryAcquire(true) {
						continue
					}
					if inside.Add(1) > room {
						over.Add(1)
					}
					inside.Add(-1)
					g.Withdraw()
				}
			})
		}
		wg.Wait()
		assert.Zero(t, over.Load(), "times that more than %d had acquired", room)
		wait, run := g.Count()
		assert.Equal(t, [2]int{}, [2]int{wait, run})
	}
}

// acquire calls Acquire in a goroutine of its own, and returns where its result arrives.
func acquire(ctx context.Context, g *gate.Gate, stop <-chan struct{}, try func() bool) <-chan bool {
	result := make(chan bool, 1)
	go func() { result <- g.Acquire(ctx, stop, try) }()
	synctest.Wait()
	return result
}

// arrived returns the result, and whether there is one yet.
func arrived(result <-chan bool) (ok, there bool) {
	synctest.Wait()
	select {
	case ok = <-result:
		return ok, true
	default:
		return false, false
	}
}

func TestAcquire(t *testing.T) {
	try := func(g *gate.Gate) func() bool { return func() bool { return g.TryAcquire(true) } }

	t.Run("returns at once if there is room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 1)
			assert.True(t, g.Acquire(t.Context(), nil, try(g)))
			assert.True(t, g.Acquire(t.Context(), nil, try(g)))
			assert.False(t, g.HasWaiters())
		})
	})
	t.Run("acquires if there is room, even if ctx is done", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 { // because select chooses at random
			g := newGate(1, 0)
			require.True(t, g.Acquire(ctx, nil, try(g)), "it has acquired, and reports that it has not")
			wait, _ := g.Count()
			require.Equal(t, 1, wait)
			require.False(t, g.Acquire(ctx, nil, try(g)))
			wait, _ = g.Count()
			require.Equal(t, 1, wait)
			require.False(t, g.HasWaiters())
		}
	})
	t.Run("serves waiters in FIFO order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			require.True(t, g.TryAcquire(true))
			g.Start()
			var results []<-chan bool
			for range 5 {
				results = append(results, acquire(t.Context(), g, nil, try(g)))
			}
			for i := range results {
				assert.True(t, g.HasWaiters())
				g.Exit()
				g.Wake()
				for j, result := range results {
					ok, there := arrived(result)
					assert.Equal(t, j == i, there, "waiter %d after %d exits", j, i+1)
					assert.Equal(t, j == i, ok)
				}
				g.Start()
			}
			assert.False(t, g.HasWaiters())
		})
	})
	t.Run("wakes as many as there is room for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(0, 0)
			var results []<-chan bool
			for range 5 {
				results = append(results, acquire(t.Context(), g, nil, try(g)))
			}
			g.SetSlots(3)
			g.Wake()
			for j, result := range results {
				_, there := arrived(result)
				assert.Equal(t, j < 3, there, "waiter %d", j)
			}
			g.SetSlots(5)
			g.Wake()
			for _, result := range results[3:] {
				ok, _ := arrived(result)
				assert.True(t, ok)
			}
		})
	})
	for _, how := range []string{"ctx is done", "stop is closed"} {
		t.Run("returns false when "+how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				stop, never := make(chan struct{}), make(chan struct{})
				end := cancel
				if how != "ctx is done" {
					end = func() { close(stop) }
				}
				defer cancel()
				result := acquire(ctx, g, stop, try(g))
				behind := acquire(t.Context(), g, never, try(g))
				end()
				ok, there := arrived(result)
				assert.True(t, there)
				assert.False(t, ok)
				assert.True(t, g.HasWaiters(), "the waiter behind")
				g.SetSlots(1)
				g.Wake()
				ok, _ = arrived(behind)
				assert.True(t, ok, "the waiter behind is next")
				assert.False(t, g.HasWaiters())
			})
		})
	}
	t.Run("a waiter that gives up lets the next one try, which may need less", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			ctx, cancel := context.WithCancel(t.Context())
			heavy := acquire(ctx, g, nil, func() bool { return false })
			light := acquire(t.Context(), g, nil, try(g))
			_, there := arrived(light)
			require.False(t, there, "overtaken")
			cancel()
			ok, _ := arrived(heavy)
			assert.False(t, ok)
			ok, _ = arrived(light)
			assert.True(t, ok)
		})
	})
	t.Run("a ctx that is done while it acquires loses nothing", func(t *testing.T) {
		for range 100 {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := acquire(ctx, g, nil, func() bool {
					if !g.TryAcquire(true) {
						return false
					}
					cancel()
					return true
				})
				g.SetSlots(1)
				g.Wake()
				ok, there := arrived(result)
				require.True(t, there)
				wait, _ := g.Count()
				require.Equal(t, 1, wait)
				require.True(t, ok, "it has acquired, and reports that it has not")
			})
		}
	})
}

// Many holders at once: there are never more than there may be, no waiter is forgotten, and
// no count is released.
func TestStress(t *testing.T) {
	for _, c := range []struct{ slots, queue int }{{1, 0}, {1, 1}, {3, 0}, {2, 5}} {
		t.Run(fmt.Sprintf("%d slots, queue of %d", c.slots, c.queue), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(c.slots, c.queue)
				slots := make(chan struct{}, c.slots)
				var inside, over atomic.Int64
				check := func() {
					if w, r := g.Count(); w+r > c.slots+c.queue || r > c.slots {
						over.Add(1)
					}
				}
				var wg sync.WaitGroup
				for p := range 16 {
					wg.Go(func() {
						rnd := rand.New(rand.NewPCG(uint64(p), 2))
						for range 500 {
							try := func() bool { return g.TryAcquire(true) }
							if g.HasWaiters() || !try() {
								if !g.Acquire(t.Context(), nil, try) {
									over.Add(1)
									return
								}
							}
							if inside.Add(1) > int64(c.slots+c.queue) {
								over.Add(1)
							}
							check()
							if rnd.IntN(8) == 0 { // canceled before it has started
								inside.Add(-1)
								g.Withdraw()
								g.Wake()
								continue
							}
							slots <- struct{}{}
							g.Start()
							g.Wake()
							check()
							if rnd.IntN(4) == 0 {
								runtime.Gosched()
							}
							inside.Add(-1)
							g.Exit()
							<-slots
							g.Wake()
						}
					})
				}
				wg.Wait() // or synctest finds a waiter blocked forever
				assert.Zero(t, over.Load(), "times that there were too many holders")
				wait, run := g.Count()
				assert.Equal(t, [2]int{}, [2]int{wait, run})
				assert.False(t, g.HasWaiters())
			})
		})
	}
}

// The same with slots that change and waiters that give up: a waiter that does not give
// up acquires.
func TestNoLostWakeUp(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			var acquired, released atomic.Int64
			var holders, others sync.WaitGroup
			done := make(chan struct{})
			for p := range 8 {
				holders.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(p)))
					for range 300 {
						ctx, cancel := context.WithCancel(t.Context())
						impatient := rnd.IntN(3) == 0
						if impatient {
							go cancel()
						}
						if g.Acquire(ctx, nil, func() bool { return g.TryAcquire(true) }) {
							acquired.Add(1)
							runtime.Gosched()
							released.Add(1)
							g.Withdraw()
							g.Wake()
						} else if !impatient {
							t.Error("Acquire has returned false without a reason")
						}
						cancel()
					}
				})
			}
			others.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					g.SetSlots(n % 3)
					g.Wake()
					runtime.Gosched()
					if n == 2000 {
						g.SetSlots(1) // and then it stays so
						g.Wake()
						return
					}
				}
			})
			holders.Wait()
			close(done)
			others.Wait()
			assert.Equal(t, acquired.Load(), released.Load())
			wait, run := g.Count()
			assert.Equal(t, [2]int{}, [2]int{wait, run})
			assert.False(t, g.HasWaiters())
		})
	}
}
