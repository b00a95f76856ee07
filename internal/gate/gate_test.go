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

// Random operations, against two counts.
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
				require.Equal(t, wait < room, g.Try(could),
					"seed %d: slots %d, queue %d, waiting %d, running %d, could start: %v", seed, slots, queue, wait, run, could)
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
					g.Stop()
					run--
				}
			case 5:
				if run > 0 {
					g.Back()
					wait, run = wait+1, run-1
				}
			case 6:
				if wait > 0 {
					g.Leave()
					wait--
				}
			case 7:
				slots = rnd.IntN(4)
				g.SetSlots(slots)
				require.Equal(t, slots, g.Slots())
			}
			w, r := g.Count()
			require.Equal(t, [2]int{wait, run}, [2]int{w, r}, "waiting and running; seed %d", seed)
		}
	}
}

// To look whether there is room and to take it are one step.
func TestTryAtOnce(t *testing.T) {
	for _, room := range []int64{1, 2} {
		g := newGate(1, int(room)-1)
		var inside, over atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 100_000 {
					if !g.Try(true) {
						continue
					}
					if inside.Add(1) > room {
						over.Add(1)
					}
					inside.Add(-1)
					g.Leave()
				}
			})
		}
		wg.Wait()
		assert.Zero(t, over.Load(), "times that more than %d were inside", room)
		wait, run := g.Count()
		assert.Equal(t, [2]int{}, [2]int{wait, run})
	}
}

// enter calls Enter on a goroutine of its own, and returns its answer.
func enter(ctx context.Context, g *gate.Gate, stop <-chan struct{}, try func() bool) <-chan bool {
	answer := make(chan bool, 1)
	go func() { answer <- g.Enter(ctx, stop, try) }()
	synctest.Wait()
	return answer
}

// answered returns the answer, and whether there is one yet.
func answered(answer <-chan bool) (ok, there bool) {
	synctest.Wait()
	select {
	case ok = <-answer:
		return ok, true
	default:
		return false, false
	}
}

func TestEnter(t *testing.T) {
	try := func(g *gate.Gate) func() bool { return func() bool { return g.Try(true) } }

	t.Run("at once if there is room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 1)
			assert.True(t, g.Enter(t.Context(), nil, try(g)))
			assert.True(t, g.Enter(t.Context(), nil, try(g)))
			assert.False(t, g.Crowded())
		})
	})
	t.Run("even with a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 { // for select chooses at random
			g := newGate(1, 0)
			require.True(t, g.Enter(ctx, nil, try(g)), "a place taken and not given back")
			wait, _ := g.Count()
			require.Equal(t, 1, wait)
			require.False(t, g.Enter(ctx, nil, try(g)))
			wait, _ = g.Count()
			require.Equal(t, 1, wait)
			require.False(t, g.Crowded())
		}
	})
	t.Run("in the order of coming", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			require.True(t, g.Try(true))
			g.Start()
			var answers []<-chan bool
			for range 5 {
				answers = append(answers, enter(t.Context(), g, nil, try(g)))
			}
			for i := range answers {
				assert.True(t, g.Crowded())
				g.Stop()
				g.Freed()
				for j, answer := range answers {
					ok, there := answered(answer)
					assert.Equal(t, j == i, there, "visitor %d after %d places", j, i+1)
					assert.Equal(t, j == i, ok)
				}
				g.Start()
			}
			assert.False(t, g.Crowded())
		})
	})
	t.Run("one at a time for each place", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(0, 0)
			var answers []<-chan bool
			for range 5 {
				answers = append(answers, enter(t.Context(), g, nil, try(g)))
			}
			g.SetSlots(3)
			g.Freed()
			for j, answer := range answers {
				_, there := answered(answer)
				assert.Equal(t, j < 3, there, "visitor %d", j)
			}
			g.SetSlots(5)
			g.Freed()
			for _, answer := range answers[3:] {
				ok, _ := answered(answer)
				assert.True(t, ok)
			}
		})
	})
	for _, how := range []string{"its context ends", "stop is closed"} {
		t.Run("gives up when "+how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				stop, never := make(chan struct{}), make(chan struct{})
				end := cancel
				if how != "its context ends" {
					end = func() { close(stop) }
				}
				defer cancel()
				answer := enter(ctx, g, stop, try(g))
				behind := enter(t.Context(), g, never, try(g))
				end()
				ok, there := answered(answer)
				assert.True(t, there)
				assert.False(t, ok)
				assert.True(t, g.Crowded(), "the one behind")
				g.SetSlots(1)
				g.Freed()
				ok, _ = answered(behind)
				assert.True(t, ok, "the one behind comes next")
				assert.False(t, g.Crowded())
			})
		})
	}
	t.Run("who gives up lets the next one try, which may want less", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			ctx, cancel := context.WithCancel(t.Context())
			heavy := enter(ctx, g, nil, func() bool { return false })
			light := enter(t.Context(), g, nil, try(g))
			_, there := answered(light)
			require.False(t, there, "overtaken")
			cancel()
			ok, _ := answered(heavy)
			assert.False(t, ok)
			ok, _ = answered(light)
			assert.True(t, ok)
		})
	})
	t.Run("a context that ends as the place comes does not lose the place", func(t *testing.T) {
		for range 100 {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				answer := enter(ctx, g, nil, func() bool {
					if !g.Try(true) {
						return false
					}
					cancel()
					return true
				})
				g.SetSlots(1)
				g.Freed()
				ok, there := answered(answer)
				require.True(t, there)
				wait, _ := g.Count()
				require.Equal(t, 1, wait)
				require.True(t, ok, "it has a place, and was told that it has none")
			})
		}
	})
}

// Many come and go at once: never more are inside than may be, nobody is forgotten
// in the line, and nothing stays behind.
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
							try := func() bool { return g.Try(true) }
							if g.Crowded() || !try() {
								if !g.Enter(t.Context(), nil, try) {
									over.Add(1)
									return
								}
							}
							if inside.Add(1) > int64(c.slots+c.queue) {
								over.Add(1)
							}
							check()
							if rnd.IntN(8) == 0 { // cancelled before it has started
								inside.Add(-1)
								g.Leave()
								g.Freed()
								continue
							}
							slots <- struct{}{}
							g.Start()
							g.Freed()
							check()
							if rnd.IntN(4) == 0 {
								runtime.Gosched()
							}
							inside.Add(-1)
							g.Stop()
							<-slots
							g.Freed()
						}
					})
				}
				wg.Wait() // or synctest finds somebody in line for ever
				assert.Zero(t, over.Load(), "times that more were inside than may be")
				wait, run := g.Count()
				assert.Equal(t, [2]int{}, [2]int{wait, run})
				assert.False(t, g.Crowded())
			})
		})
	}
}

// The same with slots that change and visitors that give up: whoever stays in line
// gets in.
func TestNoLostWakeUp(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 0)
			var entered, left atomic.Int64
			var visitors, others sync.WaitGroup
			done := make(chan struct{})
			for p := range 8 {
				visitors.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(p)))
					for range 300 {
						ctx, cancel := context.WithCancel(t.Context())
						impatient := rnd.IntN(3) == 0
						if impatient {
							go cancel()
						}
						if g.Enter(ctx, nil, func() bool { return g.Try(true) }) {
							entered.Add(1)
							runtime.Gosched()
							left.Add(1)
							g.Leave()
							g.Freed()
						} else if !impatient {
							t.Error("refused without a reason")
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
					g.Freed()
					runtime.Gosched()
					if n == 2000 {
						g.SetSlots(1) // and then it stays so
						g.Freed()
						return
					}
				}
			})
			visitors.Wait()
			close(done)
			others.Wait()
			assert.Equal(t, entered.Load(), left.Load())
			wait, run := g.Count()
			assert.Equal(t, [2]int{}, [2]int{wait, run})
			assert.False(t, g.Crowded())
		})
	}
}
