package crew_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/crew"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// job is an item: a function to call.
type job struct {
	next  *job
	depth uint16

	id, seq int
	body    func()

	runs, settled, released atomic.Int32
}

func (j *job) Link() (next **job, depth *uint16) { return &j.next, &j.depth }

// host runs jobs and counts what the crew asks of it.
type host struct {
	crew crew.Crew[job, *job]
	take func(*job) crew.Verdict // nil: all start; called under the lock

	running, most int   // guarded by the lock: taken, and not settled yet
	left          []int // workers there were at each Gone; guarded by the lock
	misuse        atomic.Pointer[string]
	lingering     atomic.Int32
}

func newHost(limit int) *host {
	h := new(host)
	h.crew.Init(h, limit)
	return h
}

func (h *host) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.misuse.CompareAndSwap(nil, &text)
}

func (h *host) Clock() int64 { return 0 }

func (h *host) Take(j *job, _ int64) crew.Verdict {
	verdict := crew.Start
	if h.take != nil {
		verdict = h.take(j)
	}
	if verdict == crew.Start {
		h.running++
		h.most = max(h.most, h.running)
	}
	return verdict
}

func (h *host) Run(j *job) int64 {
	if n := j.runs.Add(1); n > 1 {
		h.complain("job %d was run %d times", j.id, n)
	}
	j.body()
	return 0
}

func (h *host) Settle(j *job) {
	h.running--
	if j.settled.Add(1) != 1 || j.runs.Load() != 1 {
		h.complain("job %d: settled %d times, run %d times", j.id, j.settled.Load(), j.runs.Load())
	}
}

func (h *host) Release(j *job) {
	if j.released.Add(1) != 1 || j.settled.Load() != 1 {
		h.complain("job %d: released %d times, settled %d times", j.id, j.released.Load(), j.settled.Load())
	}
}

func (h *host) MayLinger() bool {
	h.lingering.Add(1)
	return true
}

func (h *host) Lingered(bool) {
	if h.lingering.Add(-1) < 0 {
		h.complain("lingered without asking")
	}
}

func (h *host) Gone() { h.left = append(h.left, h.crew.Workers()) }

// eachKind runs a test with crews of these limits, whose idle workers end at once, or
// linger.
func eachKind(limits []int, t *testing.T, test func(t *testing.T, limit int, h *host)) {
	for _, limit := range limits {
		for _, linger := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("limit %d, linger %v", limit, linger), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHost(limit)
					if linger > 0 {
						h.crew.Linger(linger, nil)
					}
					test(t, limit, h)
				})
			})
		}
	}
}

// idle waits until nothing moves any more, in a bubble of synctest: however long
// a worker lingers, it has left then.
func (h *host) idle() {
	time.Sleep(time.Hour)
	synctest.Wait()
}

// check checks what holds when a crew is idle and no job waits.
func (h *host) check(t *testing.T, jobs []*job) {
	t.Helper()
	h.idle()
	if text := h.misuse.Load(); text != nil {
		t.Error(*text)
	}
	for _, j := range jobs {
		if j.runs.Load() != 1 || j.settled.Load() != 1 || j.released.Load() != 1 {
			t.Fatalf("job %d: run %d, settled %d, released %d times, not once each",
				j.id, j.runs.Load(), j.settled.Load(), j.released.Load())
		}
	}
	assert.Zero(t, h.crew.Workers(), "workers of an idle crew")
	assert.Zero(t, h.lingering.Load(), "goroutines that wait to be hired")
	h.crew.Lock()
	defer h.crew.Unlock()
	assert.Zero(t, h.running)
	assert.Nil(t, h.crew.Pop())
	if len(jobs) > 0 {
		// Who waits for the last worker to leave is woken by Gone.
		require.NotEmpty(t, h.left)
		assert.Zero(t, h.left[len(h.left)-1], "workers at the last Gone")
	}
}

func TestOrder(t *testing.T) {
	t.Run("one worker runs jobs in the order of the pushes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			var order, want []int
			var jobs []*job
			gate := make(chan struct{})
			for i := range 1000 {
				j := &job{id: i, body: func() { order = append(order, i) }}
				if i == 0 {
					j.body = func() { <-gate; order = append(order, i) }
				}
				jobs, want = append(jobs, j), append(want, i)
				h.crew.Push(j)
			}
			close(gate)
			h.check(t, jobs)
			assert.Equal(t, want, order)
		})
	})
	t.Run("each producer's jobs keep their order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			const producers, each = 8, 1000
			var last [producers]int
			var wg sync.WaitGroup
			for p := range producers {
				wg.Go(func() {
					for i := 1; i <= each; i++ {
						h.crew.Push(&job{body: func() {
							if last[p] != i-1 {
								h.complain("producer %d: job %d after job %d", p, i, last[p])
							}
							last[p] = i
						}})
					}
				})
			}
			wg.Wait()
			h.check(t, nil)
			for _, n := range last {
				assert.Equal(t, each, n)
			}
		})
	})
	t.Run("a queue longer than the depth can tell", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(0)
			ran := 0
			for i := range 70_000 {
				h.crew.Push(&job{body: func() {
					if ran != i {
						h.complain("job %d in place %d", i, ran)
					}
					ran++
				}})
			}
			synctest.Wait()
			assert.Zero(t, ran, "started by a crew of nobody")
			h.crew.SetLimit(1)
			h.check(t, nil)
			assert.Equal(t, 70_000, ran)
		})
	})
}

// No job waits for another to end: jobs that wait for each other all get there.
func TestBarrier(t *testing.T) {
	for _, procs := range []int{1, 2} {
		for _, producers := range []int{1, 8} {
			t.Run(fmt.Sprintf("%d processors, %d producers", procs, producers), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				synctest.Test(t, func(t *testing.T) {
					h := newHost(crew.Unlimited)
					jobs := make([]*job, many)
					open := make(chan struct{})
					var there atomic.Int32
					for i := range jobs {
						jobs[i] = &job{id: i, body: func() {
							if there.Add(1) == many {
								close(open)
							}
							<-open
						}}
					}
					for p := range producers {
						go func() {
							for i := p; i < many; i += producers {
								h.crew.Push(jobs[i])
							}
						}()
					}
					<-open // or synctest finds everybody blocked
					h.check(t, jobs)
				})
			})
		}
	}
}

func TestGoexit(t *testing.T) {
	t.Run("hands the only place on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			var jobs []*job
			for i := range 100 {
				body := func() {}
				if i%3 == 0 {
					body = runtime.Goexit
				}
				jobs = append(jobs, &job{id: i, body: body})
				h.crew.Push(jobs[i])
			}
			h.check(t, jobs)
			assert.Equal(t, 1, h.most)
		})
	})
	t.Run("with nothing behind it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(crew.Unlimited)
			j := &job{body: runtime.Goexit}
			h.crew.Push(j)
			h.check(t, []*job{j})
		})
	})
}

// A panic that the host lets through ends the process, with its own stack.
func TestPanicEndsTheProcess(t *testing.T) {
	if os.Getenv("CREW_TEST_PANIC") != "" {
		h := newHost(1)
		h.crew.Push(&job{body: panicking})
		for h.crew.Workers() > 0 {
			runtime.Gosched()
		}
		return // it was swallowed
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPanicEndsTheProcess$")
	cmd.Env = append(os.Environ(), "CREW_TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "panic: out of cheese")
	assert.Contains(t, string(out), "crew_test.panicking", "the panic's own stack")
}

func panicking() { panic("out of cheese") }

func TestSetLimit(t *testing.T) {
	// start pushes n jobs that block until something is sent on the channel.
	start := func(h *host, n int) (jobs []*job, end chan struct{}) {
		end = make(chan struct{})
		for i := range n {
			jobs = append(jobs, &job{id: i, body: func() { <-end }})
			h.crew.Push(jobs[i])
		}
		synctest.Wait()
		return jobs, end
	}
	running := func(h *host) int {
		synctest.Wait()
		h.crew.Lock()
		defer h.crew.Unlock()
		return h.running
	}
	t.Run("up starts what waits at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(2)
			jobs, end := start(h, 10)
			require.Equal(t, 2, running(h))
			for _, limit := range []int{3, 7, 50} {
				h.crew.SetLimit(limit)
				assert.Equal(t, min(limit, 10), running(h))
			}
			close(end)
			h.check(t, jobs)
		})
	})
	t.Run("down lets run what runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(5)
			jobs, end := start(h, 20)
			h.crew.SetLimit(2)
			for left := 5; left > 2; left-- {
				assert.Equal(t, left, running(h))
				end <- struct{}{}
			}
			for range 10 {
				assert.Equal(t, 2, running(h))
				end <- struct{}{}
			}
			close(end)
			h.check(t, jobs)
			assert.Equal(t, 5, h.most)
		})
	})
	t.Run("0 starts nothing, until it is raised", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			jobs, end := start(h, 5)
			h.crew.SetLimit(0)
			end <- struct{}{}
			assert.Equal(t, 0, running(h))
			h.idle()
			assert.Zero(t, h.crew.Workers())
			h.crew.Push(&job{body: func() {}})
			assert.Equal(t, 0, running(h))
			h.crew.SetLimit(1)
			assert.Equal(t, 1, running(h))
			close(end)
			h.check(t, jobs)
		})
	})
	t.Run("beside pushes and ends", func(t *testing.T) {
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(1)
				const highest = 6
				jobs := make([]*job, 4000)
				for i := range jobs {
					jobs[i] = &job{id: i, body: func() {
						switch i % 8 {
						case 0:
							runtime.Gosched()
						case 1:
							runtime.Goexit()
						}
					}}
				}
				var wg sync.WaitGroup
				for p := range 4 {
					wg.Go(func() {
						for i := p; i < len(jobs); i += 4 {
							h.crew.Push(jobs[i])
							if i%16 < 4 {
								runtime.Gosched()
							}
						}
					})
				}
				for range 2 {
					wg.Go(func() {
						for i := range 2000 {
							h.crew.SetLimit(i % (highest + 1))
							if i%4 == 0 {
								runtime.Gosched()
							}
						}
					})
				}
				wg.Wait()
				h.crew.SetLimit(1)
				h.check(t, jobs)
				assert.LessOrEqual(t, h.most, highest)
			})
		}
	})
}

func TestVerdicts(t *testing.T) {
	t.Run("behind one that has to wait nothing starts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(2)
			var mu sync.Mutex
			var order []int
			stuck := true
			h.take = func(j *job) crew.Verdict {
				if j.id == 0 && stuck {
					return crew.Wait
				}
				return crew.Start
			}
			var jobs []*job
			for i := range 10 {
				jobs = append(jobs, &job{id: i, body: func() {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
				}})
				h.crew.Push(jobs[i])
				synctest.Wait()
			}
			h.idle()
			assert.Empty(t, order)
			assert.Zero(t, h.crew.Workers(), "nobody waits for the head")
			h.crew.Lock()
			stuck = false
			h.crew.Unlock()
			h.crew.Look()
			h.check(t, jobs)
			assert.Len(t, order, 10)
		})
	})
	t.Run("what is skipped is forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			h.take = func(j *job) crew.Verdict {
				if j.id%2 == 0 {
					return crew.Skip
				}
				return crew.Start
			}
			var kept, skipped []*job
			for i := range 100 {
				j := &job{id: i, body: func() {}}
				if i%2 == 0 {
					skipped = append(skipped, j)
				} else {
					kept = append(kept, j)
				}
				h.crew.Push(j)
			}
			h.check(t, kept)
			for _, j := range skipped {
				assert.Zero(t, j.runs.Load()+j.settled.Load()+j.released.Load())
				assert.Nil(t, j.next, "it keeps the jobs behind it alive")
			}
		})
	})
	t.Run("a skipped one may come back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(2)
			var aside []*job
			h.take = func(j *job) crew.Verdict {
				if j.id == 1 && j.seq == 0 {
					aside = append(aside, j)
					return crew.Skip
				}
				return crew.Start
			}
			jobs := []*job{{id: 1, body: func() {}}, {id: 2, body: func() {}}}
			h.crew.Push(jobs[0])
			h.crew.Push(jobs[1])
			synctest.Wait()
			require.Len(t, aside, 1)
			h.crew.Lock()
			aside[0].seq = 1
			h.crew.Append(aside[0])
			h.crew.Unlock()
			h.crew.Look()
			h.check(t, jobs)
		})
	})
}

// Random operations on a queue that nobody works on, against a slice.
func TestQueueModel(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				h := newHost(0)
				h.take = func(*job) crew.Verdict { return crew.Wait }
				var model []int
				serial := 0
				fresh := func() *job {
					serial++
					return &job{id: serial, body: func() {}}
				}
				pop := func() {
					t.Helper()
					h.crew.Lock()
					j := h.crew.Pop()
					h.crew.Unlock()
					if len(model) == 0 {
						require.Nil(t, j)
						return
					}
					require.NotNil(t, j, "model: %v", model)
					require.Equal(t, model[0], j.id)
					require.Nil(t, j.next, "it keeps the jobs behind it alive")
					model = model[1:]
				}
				for range 400 {
					switch op := rnd.IntN(12); op {
					case 0, 1, 2, 3:
						j := fresh()
						h.crew.Push(j)
						model = append(model, j.id)
					case 4, 5:
						j := fresh()
						h.crew.Lock()
						h.crew.Append(j)
						h.crew.Unlock()
						model = append(model, j.id)
					case 6, 7:
						// In front of the first one above a random number, which may be
						// the head, in the middle, or nobody.
						bar := rnd.IntN(serial + 2)
						j := fresh()
						h.crew.Lock()
						h.crew.Insert(j, func(other *job) bool { return other.id > bar })
						h.crew.Unlock()
						at := slices.IndexFunc(model, func(id int) bool { return id > bar })
						if at < 0 {
							at = len(model)
						}
						model = slices.Insert(model, at, j.id)
					case 8:
						k := 1 + rnd.IntN(4)
						h.crew.Lock()
						h.crew.Sweep(func(j *job) bool { return j.id%k == 0 })
						h.crew.Unlock()
						model = slices.DeleteFunc(model, func(id int) bool { return id%k == 0 })
					case 9:
						// A worker looks, and puts the head back.
						h.crew.SetLimit(1)
						synctest.Wait()
						h.crew.SetLimit(0)
					default:
						pop()
					}
				}
				for len(model) > 0 {
					pop()
				}
				pop()
				h.idle()
				assert.Zero(t, h.crew.Workers())
			})
		})
	}
}

// Everything at once: each job is run exactly once, and never more of them at a
// time than the limit.
func TestStress(t *testing.T) {
	eachKind([]int{1, 2, 50, crew.Unlimited}, t, func(t *testing.T, limit int, h *host) {
		const producers, each = 8, 2500
		var stuck bool // guarded by the lock
		h.take = func(*job) crew.Verdict {
			if n := h.crew.Workers(); n > limit {
				h.complain("%d workers, limit %d", n, limit)
			}
			if stuck {
				return crew.Wait
			}
			return crew.Start
		}
		jobs := make([][]*job, producers)
		var inside, most atomic.Int64
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(p), 2))
				for i := range each {
					how := rnd.IntN(16)
					j := &job{id: p*each + i}
					j.body = func() {
						n := inside.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						defer inside.Add(-1)
						switch how {
						case 0:
							runtime.Goexit()
						case 1, 2:
							runtime.Gosched()
						}
					}
					jobs[p] = append(jobs[p], j)
					switch how {
					case 3:
						h.crew.Lock()
						h.crew.Append(j)
						h.crew.Unlock()
						h.crew.Look()
					case 4:
						h.crew.Lock()
						h.crew.Insert(j, func(other *job) bool { return other.id > j.id })
						h.crew.Unlock()
						h.crew.Look()
					default:
						h.crew.Push(j)
					}
					if how > 12 {
						runtime.Gosched()
					}
				}
			})
		}
		wg.Go(func() {
			for range 500 {
				h.crew.Lock()
				stuck = !stuck
				h.crew.Sweep(func(*job) bool { return false })
				h.crew.Unlock()
				h.crew.Look()
				runtime.Gosched()
			}
		})
		wg.Go(func() {
			for range 200 {
				h.crew.Lock()
				if j := h.crew.Pop(); j != nil {
					// Back to where it was, under the same lock.
					h.crew.Insert(j, func(*job) bool { return true })
				}
				h.crew.Unlock()
				h.crew.Look()
				runtime.Gosched()
			}
		})
		wg.Wait()
		h.check(t, slices.Concat(jobs...))
		assert.LessOrEqual(t, most.Load(), int64(limit))
		assert.LessOrEqual(t, h.most, limit)
	})
}

// The moment at which a worker finds nothing and leaves is when a push may be lost.
func TestNoLostWakeUp(t *testing.T) {
	eachKind([]int{1, 2, crew.Unlimited}, t, func(t *testing.T, limit int, h *host) {
		var wg sync.WaitGroup
		for p := range 4 {
			wg.Go(func() {
				for i := range 5000 {
					ran := make(chan struct{})
					body := func() { close(ran) }
					if (i+p)%5 == 0 {
						body = func() { close(ran); runtime.Goexit() }
					}
					h.crew.Push(&job{id: i, body: body})
					<-ran // or synctest finds everybody blocked
				}
			})
		}
		wg.Wait()
		h.check(t, nil)
	})
}

func BenchmarkPush(b *testing.B) {
	for _, limit := range []int{2, 1000, crew.Unlimited} {
		for _, producers := range []string{"1", "P", "1000"} {
			n := map[string]int{"1": 1, "P": runtime.GOMAXPROCS(0), "1000": 1000}[producers]
			name := strings.Replace(fmt.Sprintf("limit=%d/producers=%s", limit, producers), fmt.Sprint(crew.Unlimited), "none", 1)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				h := new(bareHost)
				h.crew.Init(h, limit)
				h.ended.Add(b.N)
				var wg sync.WaitGroup
				for p := range n {
					share := b.N / n
					if p < b.N%n {
						share++
					}
					wg.Go(func() {
						for range share {
							h.crew.Push(new(node))
						}
					})
				}
				wg.Wait()
				h.ended.Wait()
			})
		}
	}
}

// bareHost is a host that adds as little as possible to the crew's own cost.
type bareHost struct {
	crew  crew.Crew[node, *node]
	ended sync.WaitGroup
}

type node struct {
	next  *node
	depth uint16
}

func (n *node) Link() (next **node, depth *uint16) { return &n.next, &n.depth }

func (h *bareHost) Clock() int64                   { return 0 }
func (h *bareHost) Take(*node, int64) crew.Verdict { return crew.Start }
func (h *bareHost) Run(*node) int64                { return 0 }
func (h *bareHost) Settle(*node)                   {}
func (h *bareHost) Release(*node)                  { h.ended.Done() }
func (h *bareHost) Gone()                          {}
func (h *bareHost) MayLinger() bool                { return false }
func (h *bareHost) Lingered(bool)                  {}

func TestLinger(t *testing.T) {
	goroutine := func() string {
		text := make([]byte, 64)
		return strings.Fields(string(text[:runtime.Stack(text, false)]))[1]
	}
	// run pushes a job and returns the goroutine that has run it.
	run := func(h *host) (who string) {
		h.crew.Push(&job{body: func() { who = goroutine() }})
		synctest.Wait()
		return who
	}
	bubble := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	bubble("the goroutine of an idle worker is used again", func(t *testing.T) {
		h := newHost(1)
		h.crew.Linger(time.Minute, nil)
		first := run(h)
		for range 10 {
			time.Sleep(time.Minute - 1)
			assert.Equal(t, first, run(h))
			assert.Zero(t, h.crew.Workers(), "it is not on the staff")
		}
		time.Sleep(time.Minute + 1)
		assert.NotEqual(t, first, run(h), "it has waited long enough")
		h.check(t, nil)
	})
	bubble("the one that has waited least is hired first, and the others leave", func(t *testing.T) {
		h := newHost(100)
		h.crew.Linger(time.Minute, nil)
		open := make(chan struct{})
		for range 50 {
			h.crew.Push(&job{body: func() { <-open }})
		}
		synctest.Wait()
		close(open)
		synctest.Wait()
		assert.EqualValues(t, 50, h.lingering.Load())
		first := run(h)
		for range 10 {
			time.Sleep(10 * time.Second)
			assert.Equal(t, first, run(h))
		}
		assert.EqualValues(t, 1, h.lingering.Load())
		h.check(t, nil)
	})
	bubble("until quit is closed", func(t *testing.T) {
		h := newHost(1)
		quit := make(chan struct{})
		h.crew.Linger(time.Minute, quit)
		first := run(h)
		assert.EqualValues(t, 1, h.lingering.Load())
		close(quit)
		synctest.Wait()
		assert.Zero(t, h.lingering.Load())
		assert.NotEqual(t, first, run(h))
	})
	bubble("without it none is", func(t *testing.T) {
		h := newHost(1)
		assert.NotEqual(t, run(h), run(h))
	})
	bubble("one that a job has ended does not", func(t *testing.T) {
		h := newHost(1)
		h.crew.Linger(time.Minute, nil)
		h.crew.Push(&job{body: runtime.Goexit})
		h.check(t, nil)
	})
}
