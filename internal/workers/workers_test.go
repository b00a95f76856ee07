package workers_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// job is an item: a function to call.
type job struct {
	next  *job
	depth uint16

	id   int
	body func()

	runs, settled, finished atomic.Int32
}

func (j *job) Link() (next **job, depth *uint16) { return &j.next, &j.depth }

// host runs jobs first in, first out, and checks what is asked of it. Its clock is no
// bubble's, so its workers may idle in a bubble if a test wants that.
type host struct {
	workers workers.Workers[job, *job]

	// Guarded by the lock.
	head, tail *job            // the queue
	stalled    func(*job) bool // reports whether the job at the head must wait; nil: none must
	complete   bool            // Next takes the inbox over first
	mayIdle    bool
	running    int   // jobs that were started and are not settled
	most       int   // most of running
	left       []int // workers at each WorkerExited

	limit    atomic.Int64 // if not 0, there must never be more workers
	idle     atomic.Int32 // goroutines between MayIdle and IdleEnded
	rehired  atomic.Int32 // calls of IdleEnded(true)
	retired  atomic.Int32 // calls of IdleEnded(false)
	problems atomic.Pointer[string]
}

func newHost(limit int) *host {
	h := new(host)
	h.workers.Init(h, limit)
	return h
}

// push pushes a job that calls body, and returns it.
func (h *host) push(body func()) *job {
	j := &job{body: body}
	h.workers.Push(j)
	return j
}

func (h *host) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.problems.CompareAndSwap(nil, &text)
}

// mustBeLocked complains if the lock is free. That it is held by another goroutine is
// left to the race detector.
func (h *host) mustBeLocked(method string) {
	if h.workers.TryLock() {
		h.workers.Unlock()
		h.complain("%s was called without the lock", method)
	}
}

func (h *host) Clock() int64 { return 1 }

func (h *host) Push(first, last *job) {
	h.mustBeLocked("Push")
	if last.next != nil {
		h.complain("the last job of a chain is linked to another")
	}
	if h.tail == nil {
		h.head = first
	} else {
		h.tail.next = first
	}
	h.tail = last
}

// requeue puts a job into the queue: at the front, or at the end of all that was pushed.
// The lock must be held, and Wake called after it was released.
func (h *host) requeue(j *job, front bool) {
	h.workers.TakeOver()
	if front {
		j.next, h.head = h.head, j
		if h.tail == nil {
			h.tail = j
		}
		return
	}
	j.next = nil
	h.Push(j, j)
}

// pop takes the job at the head out of the queue, nil if there is none.
func (h *host) pop() *job {
	j := h.head
	if j == nil {
		return nil
	}
	h.head, j.next = j.next, nil
	if h.head == nil {
		h.tail = nil
	}
	return j
}

func (h *host) Next(int64) (*job, bool) {
	h.mustBeLocked("Next")
	if limit := h.limit.Load(); limit > 0 && int64(h.workers.Count()) > limit {
		h.complain("%d workers, limit %d", h.workers.Count(), limit)
	}
	if h.complete {
		h.workers.TakeOver()
	}
	if h.head != nil && h.stalled != nil && h.stalled(h.head) {
		return nil, true
	}
	j := h.pop()
	if j != nil {
		h.running++
		h.most = max(h.most, h.running)
	}
	return j, false
}

func (h *host) Empty() bool {
	h.mustBeLocked("Empty")
	return h.head == nil
}

func (h *host) Run(j *job) int64 {
	if n := j.runs.Add(1); n > 1 {
		h.complain("job %d was run %d times", j.id, n)
	}
	j.body()
	return 1
}

func (h *host) Settle(j *job) {
	h.mustBeLocked("Settle")
	h.running--
	if j.settled.Add(1) != 1 || j.runs.Load() != 1 {
		h.complain("job %d: settled %d times, run %d times", j.id, j.settled.Load(), j.runs.Load())
	}
}

func (h *host) Finished(j *job) {
	if j.finished.Add(1) != 1 || j.settled.Load() != 1 {
		h.complain("job %d: finished %d times, settled %d times", j.id, j.finished.Load(), j.settled.Load())
	}
	if h.workers.Count() == 0 {
		h.complain("job %d is finished by no worker", j.id)
	}
}

func (h *host) WorkerExited() {
	h.mustBeLocked("WorkerExited")
	h.left = append(h.left, h.workers.Count())
}

func (h *host) MayIdle() bool {
	h.mustBeLocked("MayIdle")
	if h.mayIdle {
		h.idle.Add(1)
	}
	return h.mayIdle
}

func (h *host) IdleEnded(rehired bool) {
	if h.idle.Add(-1) < 0 {
		h.complain("IdleEnded without MayIdle")
	}
	if rehired {
		h.rehired.Add(1)
		if h.workers.Count() == 0 {
			h.complain("a rehired goroutine is not counted as a worker")
		}
	} else {
		h.retired.Add(1)
	}
}

// rest waits until nothing moves any more, in a bubble of synctest. All idle goroutines
// have exited then.
func (h *host) rest() {
	time.Sleep(time.Hour)
	synctest.Wait()
}

// check checks what holds when no job waits and nothing runs.
func (h *host) check(t *testing.T, jobs ...*job) {
	t.Helper()
	h.rest()
	if text := h.problems.Load(); text != nil {
		t.Error(*text)
	}
	for _, j := range jobs {
		if j.runs.Load() != 1 || j.settled.Load() != 1 || j.finished.Load() != 1 {
			t.Fatalf("job %d: run %d, settled %d, finished %d times, not once each",
				j.id, j.runs.Load(), j.settled.Load(), j.finished.Load())
		}
		assert.Nil(t, j.next, "it keeps the jobs behind it alive")
	}
	assert.Zero(t, h.workers.Count(), "workers without a job")
	assert.Zero(t, h.idle.Load(), "idle goroutines")
	h.workers.Lock()
	defer h.workers.Unlock()
	h.workers.TakeOver()
	assert.Zero(t, h.running)
	assert.Nil(t, h.head)
	if len(jobs) > 0 {
		// A goroutine that waits for the last worker to exit is woken by WorkerExited.
		require.NotEmpty(t, h.left)
		assert.Zero(t, h.left[len(h.left)-1], "workers at the last WorkerExited")
	}
}

// eachKind runs a test in bubbles, with hosts of these limits: hosts whose goroutines exit
// when they find nothing, hosts whose goroutines idle, and hosts of which Next takes the
// inbox over.
func eachKind(limits []int, t *testing.T, test func(t *testing.T, limit int, h *host)) {
	for _, limit := range limits {
		for kind, prepare := range map[string]func(*host){
			"exiting":  func(h *host) {},
			"idling":   func(h *host) { h.mayIdle = true },
			"complete": func(h *host) { h.mayIdle, h.complete = true, true },
		} {
			t.Run(fmt.Sprintf("limit %d, %s", limit, kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHost(limit)
					prepare(h)
					test(t, limit, h)
				})
			})
		}
	}
}

func TestOrder(t *testing.T) {
	t.Run("the host is given jobs in the order of the pushes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			var order, want []int
			var jobs []*job
			begin := make(chan struct{})
			for i := range 1000 {
				j := &job{id: i, body: func() { order = append(order, i) }}
				if i == 0 {
					j.body = func() { <-begin; order = append(order, i) }
				}
				jobs, want = append(jobs, j), append(want, i)
				h.workers.Push(j)
				if i%7 == 0 {
					synctest.Wait() // some are taken over alone, some in a chain
				}
			}
			close(begin)
			h.check(t, jobs...)
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
						h.push(func() {
							if last[p] != i-1 {
								h.complain("producer %d: job %d after job %d", p, i, last[p])
							}
							last[p] = i
						})
					}
				})
			}
			wg.Wait()
			h.check(t)
			for _, n := range last {
				assert.Equal(t, each, n)
			}
		})
	})
	t.Run("an inbox that is longer than the depth can count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(0)
			ran := 0
			for i := range 70_000 {
				h.push(func() {
					if ran != i {
						h.complain("job %d in place %d", i, ran)
					}
					ran++
				})
			}
			synctest.Wait()
			assert.Zero(t, ran, "run without a worker")
			h.workers.SetLimit(1)
			h.check(t)
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
					h := newHost(workers.Unlimited)
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
								h.workers.Push(jobs[i])
							}
						}()
					}
					<-open // or synctest finds all goroutines blocked
					h.check(t, jobs...)
				})
			})
		}
	}
}

// Searchers that do not get to the queue are followed by others, fewer and fewer. Here
// the lock keeps them from it.
func TestEscalation(t *testing.T) {
	eachKind([]int{workers.Unlimited, 3}, t, func(t *testing.T, limit int, h *host) {
		var jobs []*job
		h.workers.Lock()
		for n, want := range []int{1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5} {
			jobs = append(jobs, h.push(func() {}))
			assert.Equal(t, min(want, limit), h.workers.Count(), "after %d pushes", n+1)
		}
		h.workers.Unlock()
		h.check(t, jobs...)
	})
}

func TestGoexit(t *testing.T) {
	t.Run("of the only worker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(1)
			var jobs []*job
			for i := range 100 {
				body := func() {}
				if i%3 == 0 {
					body = runtime.Goexit
				}
				jobs = append(jobs, h.push(body))
			}
			h.check(t, jobs...)
			assert.Equal(t, 1, h.most)
		})
	})
	t.Run("with nothing queued", func(t *testing.T) {
		eachKind([]int{1, workers.Unlimited}, t, func(t *testing.T, _ int, h *host) {
			h.check(t, h.push(runtime.Goexit))
		})
	})
}

// A panic that the host lets through ends the process, and shows its own stack.
func TestPanicEndsTheProcess(t *testing.T) {
	if os.Getenv("WORKERS_TEST_PANIC") != "" {
		h := newHost(1)
		h.push(panicking)
		for h.workers.Count() > 0 {
			runtime.Gosched()
		}
		return // the panic was swallowed
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPanicEndsTheProcess$")
	cmd.Env = append(os.Environ(), "WORKERS_TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "panic: out of cheese")
	assert.Contains(t, string(out), "workers_test.panicking", "the panic's own stack")
}

func panicking() { panic("out of cheese") }

func TestSetLimit(t *testing.T) {
	// start pushes n jobs that block until something is sent on the channel.
	start := func(h *host, n int) (jobs []*job, end chan struct{}) {
		end = make(chan struct{})
		for range n {
			jobs = append(jobs, h.push(func() { <-end }))
		}
		synctest.Wait()
		return jobs, end
	}
	running := func(h *host) int {
		synctest.Wait()
		h.workers.Lock()
		defer h.workers.Unlock()
		return h.running
	}
	t.Run("up starts what is queued at once", func(t *testing.T) {
		eachKind([]int{2}, t, func(t *testing.T, _ int, h *host) {
			jobs, end := start(h, 10)
			require.Equal(t, 2, running(h))
			for _, limit := range []int{3, 7, 50} {
				h.workers.SetLimit(limit)
				assert.Equal(t, min(limit, 10), running(h))
			}
			close(end)
			h.check(t, jobs...)
		})
	})
	t.Run("down lets jobs end", func(t *testing.T) {
		eachKind([]int{5}, t, func(t *testing.T, _ int, h *host) {
			jobs, end := start(h, 20)
			h.workers.SetLimit(2)
			for left := 5; left > 2; left-- {
				assert.Equal(t, left, running(h))
				end <- struct{}{}
			}
			for range 10 {
				assert.Equal(t, 2, running(h))
				end <- struct{}{}
			}
			close(end)
			h.check(t, jobs...)
			assert.Equal(t, 5, h.most)
		})
	})
	t.Run("0 starts nothing until it is raised", func(t *testing.T) {
		eachKind([]int{1}, t, func(t *testing.T, _ int, h *host) {
			jobs, end := start(h, 5)
			h.workers.SetLimit(0)
			end <- struct{}{}
			assert.Equal(t, 0, running(h))
			h.rest()
			assert.Zero(t, h.workers.Count())
			h.push(func() {})
			assert.Equal(t, 0, running(h))
			h.workers.Lock()
			h.workers.SetLimit(1) // under the lock, as it may be
			h.workers.Unlock()
			assert.Equal(t, 1, running(h))
			close(end)
			h.check(t, jobs...)
		})
	})
	t.Run("beside pushes and ends", func(t *testing.T) {
		eachKind([]int{1}, t, func(t *testing.T, _ int, h *host) {
			const highest = 6
			for range 10 {
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
							h.workers.Push(jobs[i])
							if i%16 < 4 {
								runtime.Gosched()
							}
						}
					})
				}
				for range 2 {
					wg.Go(func() {
						for i := range 2000 {
							h.workers.SetLimit(i % (highest + 1))
							if i%4 == 0 {
								runtime.Gosched()
							}
						}
					})
				}
				wg.Wait()
				h.workers.SetLimit(1)
				h.check(t, jobs...)
				assert.LessOrEqual(t, h.most, highest)
			}
		})
	})
}

func TestStall(t *testing.T) {
	t.Run("nothing starts until Wake", func(t *testing.T) {
		eachKind([]int{2}, t, func(t *testing.T, _ int, h *host) {
			var ran atomic.Int32
			stuck := true
			h.stalled = func(j *job) bool { return j.id == 0 && stuck }
			var jobs []*job
			for i := range 10 {
				jobs = append(jobs, &job{id: i, body: func() { ran.Add(1) }})
				h.workers.Push(jobs[i])
				synctest.Wait()
			}
			h.rest()
			assert.Zero(t, ran.Load())
			assert.Zero(t, h.workers.Count(), "no worker waits for the stall to end")
			h.workers.Lock()
			stuck = false
			h.workers.Unlock()
			h.workers.Wake()
			h.check(t, jobs...)
			assert.EqualValues(t, 10, ran.Load())
		})
	})
	t.Run("ended by a job that settles", func(t *testing.T) {
		eachKind([]int{1, 2}, t, func(t *testing.T, _ int, h *host) {
			h.stalled = func(j *job) bool { return j.id == 1 && h.running > 0 }
			end := make(chan struct{})
			first := h.push(func() { <-end })
			synctest.Wait()
			second := &job{id: 1, body: func() {}}
			h.workers.Push(second)
			synctest.Wait()
			assert.Zero(t, second.runs.Load())
			close(end)
			h.check(t, first, second)
		})
	})
}

// TakeOver makes the host's queue complete, however it was filled.
func TestTakeOver(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			h := newHost(0)
			var model []*job // what is queued, the inbox included
			id := 0
			for range 400 {
				j := &job{id: id, body: func() {}}
				id++
				h.workers.Lock()
				switch rnd.IntN(8) {
				case 0:
					h.requeue(j, false)
					model = append(model, j)
				case 1:
					h.requeue(j, true)
					model = slices.Insert(model, 0, j)
				case 2, 3:
					h.workers.TakeOver()
					popped := h.pop()
					if len(model) == 0 {
						require.Nil(t, popped)
						break
					}
					require.Same(t, model[0], popped)
					require.Nil(t, popped.next, "it keeps the jobs behind it alive")
					model = model[1:]
				default:
					h.workers.Push(j) // without the lock, or with it
					model = append(model, j)
				}
				h.workers.Unlock()
			}
			h.workers.Lock()
			h.workers.TakeOver()
			at := h.head
			for _, j := range model {
				require.Same(t, j, at)
				at = at.next
			}
			require.Nil(t, at)
			h.workers.Unlock()
			h.workers.SetLimit(1)
			h.check(t, model...)
		})
	}
}

// Everything at once: each job is run exactly once, and there are never more workers
// than the limit.
func TestStress(t *testing.T) {
	eachKind([]int{1, 2, 50, workers.Unlimited}, t, func(t *testing.T, limit int, h *host) {
		const producers, each = 8, 2500
		h.limit.Store(int64(limit))
		var stuck bool // guarded by the lock
		h.stalled = func(*job) bool { return stuck }
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
					case 3, 4:
						h.workers.Lock()
						h.requeue(j, how == 4)
						h.workers.Unlock()
						h.workers.Wake()
					default:
						h.workers.Push(j)
					}
					switch {
					case how > 12:
						runtime.Gosched()
					case how == 5 && i%8 == 0:
						time.Sleep(time.Millisecond) // all workers are done, some idle
					case how == 6 && i%64 == 0:
						time.Sleep(150 * time.Millisecond) // some idle goroutines have exited
					}
				}
			})
		}
		wg.Go(func() {
			for i := range 500 {
				h.workers.Lock()
				stuck = i%2 == 0
				h.workers.Unlock()
				h.workers.Wake()
				runtime.Gosched()
			}
		})
		wg.Go(func() {
			for range 200 {
				h.workers.Lock()
				h.workers.TakeOver()
				if j := h.pop(); j != nil {
					h.requeue(j, true) // back to where it was, under the same lock
				}
				h.workers.Unlock()
				h.workers.Wake()
				runtime.Gosched()
			}
		})
		wg.Wait()
		h.check(t, slices.Concat(jobs...)...)
		assert.LessOrEqual(t, most.Load(), int64(limit))
		assert.LessOrEqual(t, h.most, limit)
	})
}

// A push may be lost if it comes when a worker has looked at the inbox and is still
// counted as searching, because Push starts no other worker then.
func TestPushBesideSearch(t *testing.T) {
	// The host pushes late when it is asked for the next job, which is first.
	test := func(name string, answer func(h *host)) {
		t.Run(name, func(t *testing.T) {
			eachKind([]int{1, 2, workers.Unlimited}, t, func(t *testing.T, limit int, h *host) {
				ran := make(chan struct{})
				late := &job{body: func() { close(ran) }}
				var once sync.Once
				h.stalled = func(*job) bool {
					once.Do(func() {
						h.workers.Push(late)
						answer(h)
					})
					return false
				}
				first := h.push(func() {
					if limit > 1 {
						<-ran // or synctest finds all goroutines blocked
					}
				})
				<-ran
				h.check(t, late)
				assert.Equal(t, first.runs.Load(), first.finished.Load())
			})
		})
	}
	test("that finds nothing", func(h *host) { h.pop() })
	test("that finds a job", func(*host) {})
}

// The same, left to chance.
func TestNoLostWakeUp(t *testing.T) {
	eachKind([]int{1, 2, workers.Unlimited}, t, func(t *testing.T, limit int, h *host) {
		var wg sync.WaitGroup
		for p := range 4 {
			wg.Go(func() {
				for i := range 5000 {
					ran := make(chan struct{})
					body := func() { close(ran) }
					if (i+p)%5 == 0 {
						body = func() { close(ran); runtime.Goexit() }
					}
					h.push(body)
					<-ran // or synctest finds all goroutines blocked
				}
			})
		}
		wg.Wait()
		h.check(t)
	})
}
