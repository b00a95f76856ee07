package adaptive

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// service is a simulated service with a saturated pool in front of it. A task takes as long
// as the service says when it starts.
type service struct {
	t       *testing.T
	search  *search
	random  *rand.Rand
	takes   func(running int, random *rand.Rand) time.Duration
	fails   func(running int, random *rand.Rand) bool
	now     time.Time
	running ends

	succeeded int
	changes   []Change
}

type span struct{ began, ends time.Time }

// ends are the tasks that run, in the order in which they end.
type ends []span

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].ends.Before(e[j].ends) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(span)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newService(t *testing.T, s *search, seed uint64) *service {
	return &service{t: t, search: s, random: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0)}
}

func (v *service) fill() {
	for len(v.running) < v.search.workers {
		n := len(v.running) + 1
		heap.Push(&v.running, span{v.now, v.now.Add(v.takes(n, v.random))})
	}
}

// run runs the tasks for d and returns how many succeeded per second.
func (v *service) run(d time.Duration) float64 {
	until, before := v.now.Add(d), v.succeeded
	for v.fill(); v.running[0].ends.Before(until); v.fill() {
		task := v.running[0]
		v.now = task.ends
		running := len(v.running)
		heap.Pop(&v.running)
		ok := v.fails == nil || !v.fails(running, v.random)
		if ok {
			v.succeeded++
		}
		v.changes = append(v.changes, v.search.ended(ok, task.ends.Sub(task.began), running, v.now)...)
		if n := v.search.workers; n < v.search.min || n > v.search.max {
			v.t.Fatalf("%d workers", n)
		}
	}
	v.now = until
	return float64(v.succeeded-before) / d.Seconds()
}

// knee is a service that does capacity tasks at once, each in d, and shares itself among
// more; beyond the knee it gets slower by the given power of the load.
func knee(capacity float64, d time.Duration, power float64) func(int, *rand.Rand) time.Duration {
	return func(running int, random *rand.Rand) time.Duration {
		load := max(1, float64(running)/capacity)
		return time.Duration(float64(d) * math.Pow(load, power) * (0.8 + 0.4*random.Float64()))
	}
}

// services are simulated services with the throughput of their best number of workers, at
// most 64, per second.
var services = map[string]struct {
	takes func(int, *rand.Rand) time.Duration
	best  float64
	warm  time.Duration
}{
	"two processors":    {knee(2, 2*time.Millisecond, 1), 1000, 3 * time.Second},
	"sleeping":          {knee(1e9, 10*time.Millisecond, 1), 6400, 2 * time.Second},
	"a knee at 12":      {knee(12, 10*time.Millisecond, 2), 1200, 8 * time.Second},
	"a soft knee at 24": {knee(24, 10*time.Millisecond, 1), 2400, 3 * time.Second},
	"a steep knee at 7": {knee(7, 5*time.Millisecond, 3), 1400, 40 * time.Second},
	"one at a time":     {knee(1, 5*time.Millisecond, 1.5), 200, 60 * time.Second},
	"very long tasks":   {knee(10, 2*time.Second, 2), 5, 1000 * time.Second},
	"exponential": {func(running int, random *rand.Rand) time.Duration {
		return time.Duration(float64(10*time.Millisecond) * max(1, float64(running)/16) * random.ExpFloat64())
	}, 1600, 4 * time.Second},
	"long and short": {func(running int, random *rand.Rand) time.Duration {
		d := 2 * time.Millisecond
		if random.IntN(2) == 0 {
			d = 20 * time.Millisecond
		}
		return time.Duration(float64(d) * max(1, float64(running)/22))
	}, 2000, 4 * time.Second},
}

// The search comes near the best fixed number, from any number that it begins with.
func TestFindsTheBestNumber(t *testing.T) {
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			for _, from := range []int{1, 64} {
				v := newService(t, newSearch(1, 64, from, 50*time.Millisecond), 1)
				v.takes = service.takes
				v.run(service.warm)
				got := v.run(max(2*time.Second, service.warm/3))
				t.Logf("from %d: %.2f of the best, %d workers, %d trials", from, got/service.best, v.search.base, v.search.trials)
				assert.Greater(t, got/service.best, 0.9, "from %d", from)
			}
		})
	}
}

// Where more workers bring nothing, they go.
func TestGivesUpWorkersThatBringNothing(t *testing.T) {
	v := newService(t, newSearch(1, 64, 64, 50*time.Millisecond), 1)
	v.takes = knee(2, 2*time.Millisecond, 1)
	v.run(20 * time.Second)
	assert.LessOrEqual(t, v.search.base, 3)
}

func TestFollowsAChange(t *testing.T) {
	for name, capacity := range map[string][2]float64{
		"the service gets larger":  {8, 40},
		"the service gets smaller": {40, 8},
		"the service breaks down":  {40, 2},
		"and recovers":             {2, 40},
	} {
		t.Run(name, func(t *testing.T) {
			v := newService(t, newSearch(1, 64, 4, 50*time.Millisecond), 3)
			for _, c := range capacity {
				v.takes = knee(c, 20*time.Millisecond, 1.5)
				v.run(15 * time.Second)
				got := v.run(2*time.Second) / (c * 50)
				assert.Greater(t, got, 0.9, "a knee at %v, with %d workers", c, v.search.base)
			}
		})
	}
}

// While a service is at its usual, it is left alone most of the time.
func TestRests(t *testing.T) {
	v := newService(t, newSearch(1, 64, 8, 50*time.Millisecond), 1)
	v.takes = knee(12, 10*time.Millisecond, 2)
	v.run(30 * time.Second)
	v.changes = nil
	v.run(30 * time.Second)
	assert.Less(t, len(v.changes), 200, "of some 500 measurements")
}

// A service that refuses quickly what is too much is not taken for a fast one.
func TestFailuresAreNotThroughput(t *testing.T) {
	v := newService(t, newSearch(1, 64, 32, 50*time.Millisecond), 1)
	v.takes = func(running int, random *rand.Rand) time.Duration {
		if running > 10 {
			return time.Millisecond // "503 Service Unavailable"
		}
		return 10 * time.Millisecond
	}
	v.fails = func(running int, _ *rand.Rand) bool { return running > 10 }
	v.run(5 * time.Second)
	assert.Greater(t, v.run(3*time.Second), 850.0)
	assert.LessOrEqual(t, v.search.base, 11)
}

func TestAServiceThatOnlyFails(t *testing.T) {
	v := newService(t, newSearch(2, 64, 32, 50*time.Millisecond), 1)
	v.takes = knee(1e9, 10*time.Millisecond, 1)
	failing := true
	v.fails = func(int, *rand.Rand) bool { return failing }
	v.run(5 * time.Second)
	assert.Equal(t, 2, v.search.workers)
	assert.Equal(t, []Change{
		{From: 32, To: 16, Reason: "no task succeeded"}, {From: 16, To: 8, Reason: "no task succeeded"},
		{From: 8, To: 4, Reason: "no task succeeded"}, {From: 4, To: 2, Reason: "no task succeeded"},
	}, v.changes)
	failing = false
	v.run(5 * time.Second)
	assert.Equal(t, 64, v.search.base, "it has recovered")
}

// The clock jumps, forth and back, and tasks that were running seem to have taken so long.
func TestClockJumps(t *testing.T) {
	v := newService(t, newSearch(1, 64, 4, 50*time.Millisecond), 5)
	v.takes = knee(12, 10*time.Millisecond, 2)
	for i := range 20 {
		v.run(time.Duration(v.random.IntN(int(time.Second))))
		jump := time.Duration(v.random.IntN(int(time.Hour)))
		if i%2 == 1 {
			jump = -jump
		}
		v.now = v.now.Add(jump)
		for i := range v.running {
			v.running[i].ends = v.running[i].ends.Add(jump)
		}
	}
	v.run(30 * time.Second)
	assert.Greater(t, v.run(3*time.Second), 0.9*1200, "%d workers", v.search.base)
}

// Whatever ends, the search stays within its bounds, and its sums stay numbers.
func TestAnyTasks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		least := 1 + random.IntN(5)
		most := least + random.IntN(100)
		s := newSearch(least, most, random.IntN(200), time.Duration(random.IntN(int(time.Second))))
		now := time.Unix(0, 0)
		for range 3000 {
			took := time.Duration(random.Int64() >> random.IntN(64))
			if random.IntN(3) == 0 {
				took = -took
			}
			now = now.Add(time.Duration(random.IntN(int(time.Second))) - 100*time.Millisecond)
			for _, c := range s.ended(random.IntN(4) > 0, took, random.IntN(2*s.workers+1)-1, now) {
				assert.NotEqual(t, c.From, c.To, c.Reason)
				assert.NotEmpty(t, c.Reason)
			}
			if s.workers < least || s.workers > most || s.base < least || s.base > most {
				t.Fatalf("%d workers, base %d, bounds %d to %d", s.workers, s.base, least, most)
			}
			assert.False(t, math.IsNaN(s.usual) || math.IsNaN(s.known))
		}
	}
}
