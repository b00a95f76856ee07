package workers_test

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/bubble"
	"github.com/seed-2e639f12/tether/internal/workers"
)

// round is that of the package.
const round = 100 * time.Millisecond

// goroutine returns the number of the calling goroutine.
func goroutine() string {
	text := make([]byte, 64)
	return strings.Fields(string(text[:runtime.Stack(text, false)]))[1]
}

// run runs a job in a bubble and returns the goroutine that has run it.
func run(h *host) (id string) {
	h.push(func() { id = goroutine() })
	synctest.Wait()
	return id
}

func TestIdle(t *testing.T) {
	// test runs f in a bubble, in which goroutines may idle all the same: the main
	// goroutine returns only when they are gone.
	test := func(name string, limit int, f func(t *testing.T, h *host)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(limit)
				h.mayIdle = true
				f(t, h)
				h.check(t)
			})
		})
	}
	// burst makes n goroutines idle.
	burst := func(h *host, n int) {
		open := make(chan struct{})
		for range n {
			h.push(func() { <-open })
			synctest.Wait() // or an inbox that grows may start more workers than there are jobs
		}
		close(open)
		synctest.Wait()
	}
	test("the goroutine is used again", 1, func(t *testing.T, h *host) {
		first := run(h)
		for range 10 {
			time.Sleep(round - 1)
			assert.Equal(t, first, run(h))
			assert.Zero(t, h.workers.Count(), "an idle goroutine is no worker")
		}
		assert.EqualValues(t, 10, h.rehired.Load())
		time.Sleep(2 * round)
		assert.NotEqual(t, first, run(h), "it has waited long enough")
	})
	test("it waits a whole round, and less than two", 1, func(t *testing.T, h *host) {
		for _, into := range []time.Duration{0, 1, round / 2, round - 1} {
			h.rest()
			run(h) // begins the first round
			time.Sleep(into)
			run(h)
			time.Sleep(2*round - into - 1)
			synctest.Wait()
			assert.EqualValues(t, 1, h.idle.Load(), "it began %v into a round", into)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			assert.Zero(t, h.idle.Load(), "it began %v into a round", into)
		}
	})
	test("the one that has waited least is woken first, and the others exit", 100, func(t *testing.T, h *host) {
		burst(h, 50)
		require.EqualValues(t, 50, h.idle.Load())
		first := run(h)
		for range 5 {
			time.Sleep(round / 2)
			assert.Equal(t, first, run(h))
		}
		assert.EqualValues(t, 1, h.idle.Load())
	})
	test("only those that began before the round exit", 100, func(t *testing.T, h *host) {
		burst(h, 10)
		time.Sleep(round + 1) // the first round has ended
		burst(h, 4)           // of those 4 wait anew, on top of the 6
		time.Sleep(round - 1)
		synctest.Wait()
		assert.EqualValues(t, 4, h.idle.Load())
		time.Sleep(round)
		synctest.Wait()
		assert.Zero(t, h.idle.Load())
	})
	test("the host decides", 1, func(t *testing.T, h *host) {
		h.mayIdle = false
		assert.NotEqual(t, run(h), run(h))
	})
	test("one that a job has ended does not idle", 1, func(t *testing.T, h *host) {
		h.push(runtime.Goexit)
		synctest.Wait()
		// The goroutine that has settled the job idles in its place.
		assert.EqualValues(t, 1, h.idle.Load())
	})
	test("one at a time wakes one", 100, func(t *testing.T, h *host) {
		burst(h, 10)
		for range 20 {
			run(h)
		}
		assert.EqualValues(t, 20, h.rehired.Load())
	})
	t.Run("RetireIdle", func(t *testing.T) {
		test("makes all exit at once", 100, func(t *testing.T, h *host) {
			burst(h, 10)
			began := time.Now()
			h.workers.RetireIdle()
			synctest.Wait()
			assert.Zero(t, time.Since(began))
			assert.Zero(t, h.idle.Load())
			assert.EqualValues(t, 10, h.retired.Load())
		})
		test("lets none idle from then on", 100, func(t *testing.T, h *host) {
			h.workers.Lock() // it may be held
			h.workers.RetireIdle()
			h.workers.Unlock()
			h.workers.RetireIdle()
			for range 3 {
				run(h)
				assert.Zero(t, h.idle.Load())
			}
			assert.EqualValues(t, 3, h.retired.Load(), "each was counted by MayIdle")
			assert.Zero(t, h.rehired.Load())
		})
		test("beside pushes", 10, func(t *testing.T, h *host) {
			var jobs [4][]*job
			var wg sync.WaitGroup
			for p := range jobs {
				wg.Go(func() {
					for i := range 2000 {
						ran := make(chan struct{})
						jobs[p] = append(jobs[p], h.push(func() { close(ran) }))
						<-ran
						if p == 0 && i == 1000 {
							h.workers.RetireIdle()
						}
					}
				})
			}
			wg.Wait()
			for _, each := range jobs {
				h.check(t, each...)
			}
		})
	})
}

// Outside of bubbles, in real time: goroutines that idle are gone soon enough for
// goleak's default retries, and leave nothing that keeps the host alive.
func TestIdleLeavesNothing(t *testing.T) {
	goleak.VerifyNone(t)
	var gone atomic.Bool
	func() {
		h := newHost(workers.Unlimited)
		h.mayIdle = true
		var wg sync.WaitGroup
		for range 20 {
			wg.Add(1)
			h.push(wg.Done)
		}
		wg.Wait()
		runtime.AddCleanup(h, func(int) { gone.Store(true) }, 0)
	}()
	goleak.VerifyNone(t) // waits
	for !gone.Load() {
		runtime.GC()
		runtime.Gosched()
	}
}

// clocked is a host that follows the rules about bubbles, as a registry does.
type clocked struct {
	*host
	made time.Time
}

func newClocked() *clocked {
	c := &clocked{new(host), time.Now().Add(-1)}
	c.mayIdle = !bubble.Inside(c.made)
	c.workers.Init(c, workers.Unlimited)
	return c
}

func (c *clocked) Clock() int64 { return int64(time.Since(c.made)) }

func (c *clocked) Run(j *job) int64 {
	c.host.Run(j)
	return c.Clock()
}

// runs runs a job and returns its goroutine.
func (c *clocked) runs() string {
	done := make(chan string) // of the bubble, if there is one
	c.push(func() { done <- goroutine() })
	return <-done
}

// untilIdle waits until no worker is left, without a clock.
func (c *clocked) untilIdle() {
	for c.workers.Count() > 0 {
		runtime.Gosched()
	}
	c.workers.Lock() // the last one has left the counts, and decides under the lock
	defer c.workers.Unlock()
}

// untilGone waits until no goroutine is idle either.
func (c *clocked) untilGone() {
	for c.untilIdle(); c.idle.Load() > 0; {
		runtime.Gosched()
	}
}

// In the first three cases the channel that the job uses was made in the bubble. A
// goroutine from outside would end the process.
func TestBubble(t *testing.T) {
	t.Run("a host made inside has no idle goroutines", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newClocked()
			for range 10 {
				c.runs()
				synctest.Wait()
				assert.Zero(t, c.idle.Load())
			}
			assert.Zero(t, c.rehired.Load()+c.retired.Load())
		}) // which fails if a goroutine is left
	})
	t.Run("a host made outside has none inside", func(t *testing.T) {
		c := newClocked()
		synctest.Test(t, func(t *testing.T) {
			for range 10 {
				c.runs()
				synctest.Wait()
				assert.Zero(t, c.idle.Load())
				time.Sleep(time.Hour)
			}
			c.push(runtime.Goexit)
			synctest.Wait()
		})
		assert.Zero(t, c.rehired.Load()+c.retired.Load())
		// Outside it has them again. A slow machine may take more than one try.
		for c.rehired.Load() == 0 {
			c.runs()
			c.untilIdle()
		}
		c.workers.RetireIdle()
		c.untilGone()
	})
	t.Run("a goroutine that is idle outside runs nothing inside, and stays", func(t *testing.T) {
		c := newClocked()
		outside := c.runs()
		c.untilIdle()
		synctest.Test(t, func(t *testing.T) {
			for range 10 {
				assert.NotEqual(t, outside, c.runs())
			}
		})
		assert.Zero(t, c.rehired.Load())
		c.workers.RetireIdle()
		c.untilGone()
		assert.EqualValues(t, 1, c.retired.Load())
	})
	t.Run("RetireIdle inside makes the idle ones outside exit", func(t *testing.T) {
		c := newClocked()
		c.runs()
		c.untilIdle()
		synctest.Test(t, func(t *testing.T) {
			c.workers.RetireIdle()
			c.runs()
		})
		c.untilGone()
		assert.EqualValues(t, 1, c.retired.Load())
	})
	t.Run("a host made inside that is used outside has none", func(t *testing.T) {
		var c *clocked
		synctest.Test(t, func(t *testing.T) {
			c = newClocked()
			c.runs()
		})
		for range 10 {
			c.runs()
			c.untilIdle()
		}
		assert.Zero(t, c.idle.Load())
		assert.Zero(t, c.rehired.Load()+c.retired.Load())
		c.workers.RetireIdle()
	})
	t.Run("bubbles one after the other, and idle goroutines between them", func(t *testing.T) {
		c := newClocked()
		for range 3 {
			outside := c.runs()
			c.untilIdle()
			synctest.Test(t, func(t *testing.T) { assert.NotEqual(t, outside, c.runs()) })
		}
		c.workers.RetireIdle()
		c.untilGone()
	})
	// Which goroutine runs an item is not settled if both sides push at once. But all
	// items run, and no goroutine idles inside.
	t.Run("used on both sides at once", func(t *testing.T) {
		c := newClocked()
		const each = 2000
		var ran atomic.Int64
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for range each {
					c.push(func() { ran.Add(1) })
					runtime.Gosched()
				}
			})
		}
		synctest.Test(t, func(t *testing.T) {
			for range each {
				c.push(func() { ran.Add(1) })
				runtime.Gosched()
			}
		})
		wg.Wait()
		for ran.Load() < 3*each {
			runtime.Gosched()
		}
		c.workers.RetireIdle()
		c.untilGone()
		assert.Nil(t, c.problems.Load())
	})
}
