package tether_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// The model test runs random operations from several goroutines, and checks what
// became of each task against what was done to it. Environment:
//
//	TETHER_MODEL_SEED    replays this seed only
//	TETHER_MODEL_ROUNDS  runs so many seeds, random ones
const (
	modelSeed   = "TETHER_MODEL_SEED"
	modelRounds = "TETHER_MODEL_ROUNDS"
)

func TestModel(t *testing.T) {
	for _, seed := range seeds(t, 12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newModel(t, seed).run(4, 300) })
	}
}

// The same on few and on many processors, with more goroutines.
func TestModel_Processors(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for _, seed := range seeds(t, 3) {
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newModel(t, seed).run(16, 100) })
			}
		})
	}
}

func seeds(t *testing.T, n int) (seeds []uint64) {
	if text := os.Getenv(modelSeed); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		return []uint64{seed}
	}
	if text := os.Getenv(modelRounds); text != "" {
		rounds, err := strconv.Atoi(text)
		require.NoError(t, err)
		for range rounds {
			seeds = append(seeds, rand.Uint64())
		}
		return seeds
	}
	for seed := range uint64(n) {
		seeds = append(seeds, seed)
	}
	return seeds
}

// model is what the test knows of a registry.
type model struct {
	t        *testing.T
	seed     uint64
	r        *tether.Registry
	places   []*place
	unique   [3]atomic.Int64                 // bodies that run, by Unique key
	stopping atomic.Pointer[<-chan struct{}] // closed when the drain has begun
	callers  sync.WaitGroup                  // submissions that may run their body themselves

	mu    sync.Mutex
	tasks []*modelTask // admitted; guarded by mu
	next  int          // guarded by mu
}

// place is a registry or a pool, and what runs there.
type place struct {
	tether.Submitter
	pool    *tether.Pool // nil: the registry
	cfg     tether.PoolConfig
	workers int // most that Resize ever allows
	keys    [3]serialKey
	shares  [modelKeys + 1]meter // bodies that run, by Share; the last has those without
	running meter                // without those run by their submitters
	weight  meter
}

type serialKey struct {
	submitting sync.Mutex // held while a task of the key is submitted
	submitted  int        // guarded by submitting
	active     meter
	mu         sync.Mutex
	started    int // the last submission that started; guarded by mu
}

const modelKeys = 3

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, seed: seed, r: newRegistry(t, tether.Config{Retain: 1 << 16})}
	m.places = append(m.places, &place{Submitter: m.r, cfg: tether.PoolConfig{Overflow: tether.OverflowBlock}})
	for i, cfg := range []tether.PoolConfig{
		{Workers: 2, Queue: 4, Overflow: tether.OverflowReject, ShareLimit: 4},
		{Workers: 1, Queue: 3, Overflow: tether.OverflowDropOldest},
		{Workers: 3, Queue: tether.Unbounded, Capacity: 4, ShareWorkers: 2},
		{Workers: 1, Queue: 0, Overflow: tether.OverflowCallerRuns},
		{Workers: 2, Queue: 2, Overflow: tether.OverflowBlock, ShareWorkers: 1, ShareLimit: 3, MaxWait: time.Millisecond},
		{Workers: 4, Queue: 20, Overflow: tether.OverflowDropOldest, Capacity: 6, ShareLimit: 9},
	} {
		p := m.r.NewPool(fmt.Sprint("pool ", i), cfg)
		m.places = append(m.places, &place{Submitter: p, pool: p, cfg: cfg, workers: max(cfg.Workers, 4)})
	}
	return m
}

// modelTask is one submission.
type modelTask struct {
	n     int
	at    *place
	task  *tether.Task
	freed chan struct{}
	free  func() // closes freed

	behaviour behaviour
	attempts  int // most there may be
	flaky     int // so many fail before the behaviour shows
	loop      bool
	timed     bool
	key       int // Serial; -1: none
	order     int // of its Serial key; 0: any
	unique    int // Unique; -1: none
	share     int // Share; modelKeys: none
	weight    int64
	handsOver bool
	prompt    bool // it is queued when it is submitted, for its first attempt

	runs, handed atomic.Int32
	cancelled    atomic.Bool
	last         atomic.Int32 // how the last attempt ended: a behaviour
}

type behaviour int32

const (
	succeeds behaviour = iota
	fails
	panics
	goexits
	obeys // waits for its context, and returns the cause
	blocks
	spawns
	behaviours
)

var errCancel = errors.New("cancelled by the model")

func (m *model) run(goroutines, operations int) {
	m.t.Logf("replay with %s=%d", modelSeed, m.seed)
	stop := m.watch()
	var workers sync.WaitGroup
	for i := range goroutines {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(m.seed, uint64(i)))
			for range operations {
				m.operate(random)
			}
		})
	}
	workers.Wait()
	m.drain(rand.New(rand.NewPCG(m.seed, 1<<32)))
	m.callers.Wait()
	stop()
	m.check()
}

func (m *model) operate(random *rand.Rand) {
	place := m.places[random.IntN(len(m.places))]
	switch n := random.IntN(100); {
	case n < 60:
		m.submit(context.Background(), place, random)
	case n < 70:
		m.pick(random, func(task *modelTask) {
			task.cancelled.Store(true)
			if !task.task.Cancel(errCancel) && !task.task.State().Final() {
				m.t.Error("Cancel says that a live task is final")
			}
		})
	case n < 78:
		m.pick(random, func(task *modelTask) { task.task.Release() })
	case n < 88:
		m.pick(random, func(task *modelTask) { task.free() })
	case n < 91:
		if place.pool != nil {
			place.pool.Resize(1 + random.IntN(place.workers))
		}
	case n < 93:
		if place.pool != nil {
			place.pool.Pause()
			runtime.Gosched()
			place.pool.Resume()
		}
	case n < 97:
		m.pick(random, func(task *modelTask) {
			if found, err := m.r.Find(task.task.ID()); err != nil || found != task.task {
				m.t.Errorf("Find: %v, %v", found, err)
			}
		})
	default:
		seen := make(map[*tether.Task]bool)
		for task := range m.r.Tasks() {
			if seen[task] {
				m.t.Error("Tasks has one twice")
			}
			seen[task] = true
		}
	}
}

// pick does something to a random task.
func (m *model) pick(random *rand.Rand, do func(*modelTask)) {
	m.mu.Lock()
	var task *modelTask
	if n := len(m.tasks); n > 0 {
		task = m.tasks[max(0, n-1-random.IntN(60))] // the late ones are the live ones
	}
	m.mu.Unlock()
	if task != nil {
		do(task)
	}
}

// submit submits a task of random options.
func (m *model) submit(ctx context.Context, at *place, random *rand.Rand) {
	m.mu.Lock()
	m.next++
	task := &modelTask{n: m.next, at: at, attempts: 1, key: -1, unique: -1, share: modelKeys, weight: 1, freed: make(chan struct{})}
	m.mu.Unlock()
	task.free = sync.OnceFunc(func() { close(task.freed) })
	task.behaviour = behaviour(random.IntN(int(behaviours)))
	task.last.Store(-1)
	label := strconv.Itoa(task.n)
	opts := []tether.Option{tether.Label("n", label)}
	chance := func(percent int) bool { return random.IntN(100) < percent }
	late := false
	if chance(10) {
		opts, late = append(opts, tether.Hold()), true
	}
	task.loop = at.pool == nil && chance(15)
	if chance(10) {
		opts, late = append(opts, tether.Delay(time.Duration(random.IntN(1000))*time.Microsecond)), true
	}
	backoff := func(int, error) time.Duration { return time.Duration(task.n%3) * 100 * time.Microsecond }
	if chance(20) {
		task.attempts, task.flaky = 1+random.IntN(4), random.IntN(3)
		if !task.loop {
			opts = append(opts, tether.Retry(tether.RetryPolicy{Attempts: task.attempts, Backoff: backoff}))
		}
	}
	if !task.loop && chance(10) {
		task.timed = true
		opts = append(opts, tether.Timeout(time.Duration(1+random.IntN(2000))*time.Microsecond))
	}
	if chance(40) {
		task.share = random.IntN(modelKeys)
		opts = append(opts, tether.Share(fmt.Sprint("share ", task.share)))
	}
	if chance(20) {
		opts = append(opts, tether.Urgent())
	}
	if at.cfg.Capacity > 0 && chance(70) {
		task.weight = random.Int64N(at.cfg.Capacity + 1)
		opts = append(opts, tether.Weight(task.weight))
	}
	if !task.loop && chance(20) {
		task.handsOver = true
		opts = append(opts, tether.HandOver(func(context.Context, tether.Info) error {
			task.handed.Add(1)
			switch task.n % 3 {
			case 0:
				return errTest
			case 1:
				panic("hand-over")
			}
			return nil
		}))
	}
	if chance(10) {
		task.unique = random.IntN(modelKeys)
		opts = append(opts, tether.Unique(fmt.Sprint("unique ", task.unique)))
	} else if !task.loop && chance(30) {
		task.key = random.IntN(modelKeys)
		opts = append(opts, tether.Serial(fmt.Sprint("serial ", task.key)))
	}
	task.prompt = !late
	patience := time.Duration(random.IntN(500)) * time.Microsecond
	childSeed := random.Uint64()

	submit := func() {
		ctx, cancel := context.WithTimeout(ctx, patience) // so that Block ends
		defer cancel()
		if task.key >= 0 {
			key := &at.keys[task.key]
			key.submitting.Lock()
			defer key.submitting.Unlock()
			key.submitted++
			if !late {
				task.order = key.submitted
			}
		}
		name, body := "task "+strconv.Itoa(task.n%5), m.body(task, childSeed)
		var got *tether.Task
		var err error
		if task.loop {
			got, err = m.r.Loop(ctx, name, body, tether.LoopConfig{Restarts: task.attempts - 1, Backoff: backoff}, opts...)
		} else {
			got, err = at.Go(ctx, name, body, opts...)
		}
		switch {
		case err != nil:
			if !errors.Is(err, tether.ErrFull) && !errors.Is(err, tether.ErrClosed) {
				m.t.Errorf("refused: %v", err)
			}
			return
		case got.Info().Labels["n"] != label:
			if task.unique < 0 {
				m.t.Error("a task of somebody else's")
			}
			return
		}
		m.admitted(task, got)
	}
	if at.cfg.Overflow == tether.OverflowCallerRuns {
		m.callers.Go(submit)
	} else {
		submit()
	}
}

// admitted notes a task, which may have run already, or be running.
func (m *model) admitted(task *modelTask, got *tether.Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if task.task == nil {
		task.task = got
		m.tasks = append(m.tasks, task)
	}
}

// body returns the task's body.
func (m *model) body(task *modelTask, seed uint64) tether.Func {
	return func(ctx context.Context) error {
		got, _ := tether.FromContext(ctx)
		m.admitted(task, got) // its submitter may not get to it: Goexit
		stopping := tether.StoppingFrom(ctx)
		m.stopping.Store(&stopping)
		run := task.runs.Add(1)
		if got.State() != tether.Running || got.Info().Attempt != int(run) {
			m.t.Errorf("task %d runs: state %v, attempt %d, run %d", task.n, got.State(), got.Info().Attempt, run)
		}
		if int(run) > task.attempts {
			m.t.Errorf("task %d: attempt %d of %d", task.n, run, task.attempts)
		}
		defer m.occupy(task)()
		act := task.behaviour
		if int(run) <= task.flaky {
			act = []behaviour{fails, goexits}[int(run)%2]
		}
		task.last.Store(int32(act))
		switch act {
		case fails:
			return errTest
		case panics:
			panic("body")
		case goexits:
			runtime.Goexit()
		case obeys:
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-task.freed:
				task.last.Store(int32(succeeds))
			}
		case blocks:
			<-task.freed
		case spawns:
			random := rand.New(rand.NewPCG(seed, 0))
			for range random.IntN(3) {
				at := m.places[random.IntN(len(m.places))]
				m.submit(ctx, at, random)
			}
			runtime.Gosched()
		}
		return nil
	}
}

// occupy counts a running body in, and returns what counts it out.
func (m *model) occupy(task *modelTask) func() {
	at := task.at
	inline := at.cfg.Overflow == tether.OverflowCallerRuns // whose bodies are not told apart here
	if !inline {
		at.running.add(1)
		at.shares[task.share].add(1)
		if at.cfg.Capacity > 0 {
			at.weight.add(task.weight)
		}
	}
	if task.unique >= 0 && m.unique[task.unique].Add(1) > 1 {
		m.t.Errorf("task %d: two of Unique key %d run", task.n, task.unique)
	}
	if task.key >= 0 {
		key := &at.keys[task.key]
		key.active.add(1)
		if task.order > 0 && task.runs.Load() == 1 {
			key.mu.Lock()
			if task.order < key.started {
				m.t.Errorf("task %d of key %d starts after task %d of it", task.order, task.key, key.started)
			}
			key.started = task.order
			key.mu.Unlock()
		}
	}
	return func() {
		if !inline {
			at.running.add(-1)
			at.shares[task.share].add(-1)
			if at.cfg.Capacity > 0 {
				at.weight.add(-task.weight)
			}
		}
		if task.unique >= 0 {
			m.unique[task.unique].Add(-1)
		}
		if task.key >= 0 {
			at.keys[task.key].active.add(-1)
		}
	}
}

// watch reads Stats all the time.
func (m *model) watch() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			if s := m.r.Stats(); !adds(s) || s.Loops < 0 || s.Loops > s.Held+s.Queued+s.Running {
				m.t.Errorf("%+v", s)
			}
			for _, at := range m.places[1:] {
				s := at.pool.Stats()
				if !adds(s.Stats) || s.Running-s.Inline > at.workers || s.Queued < 0 || s.Running < s.Inline ||
					s.Capacity > 0 && s.Weight > s.Capacity {
					m.t.Errorf("%+v", s)
				}
				for _, share := range at.pool.Shares(100) {
					if limit := at.cfg.ShareLimit; share.Queued < 0 || share.Running < 0 || limit > 0 && share.Queued+share.Running > limit {
						m.t.Errorf("%+v", share)
					}
				}
			}
			runtime.Gosched()
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func (m *model) each(do func(*modelTask)) {
	m.mu.Lock()
	tasks := slices.Clone(m.tasks)
	m.mu.Unlock()
	for _, task := range tasks {
		do(task)
	}
}

// drain ends the registry one way or another.
func (m *model) drain(random *rand.Rand) {
	ended := 0
	m.each(func(task *modelTask) {
		select {
		case <-task.task.Done():
			ended++
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var drains sync.WaitGroup
	for range 1 + random.IntN(3) {
		drains.Go(func() {
			err := m.r.Shutdown(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				m.t.Error(err)
			}
		})
	}
	<-*m.stopping.Load()
	began := time.Now() // what ends from here on is in the report for certain
	if random.IntN(2) == 0 {
		m.each(func(task *modelTask) { task.task.Release() })
	}
	cancel()
	drains.Wait()
	// Bodies that block have been submitted meanwhile, perhaps.
	for m.r.Shutdown(ctx) != nil {
		m.each(func(task *modelTask) {
			if task.behaviour == blocks {
				task.free()
			}
		})
		runtime.Gosched()
	}
	m.callers.Wait()

	report, after := m.r.Report(), m.r.Stats()
	if live(after) != 0 || total(report) > int(after.Submitted)-ended {
		m.t.Errorf("%d tasks ended before, %+v after: %v", ended, after, report)
	}
	early := 0
	m.each(func(task *modelTask) {
		if !task.task.Info().Finished.After(began) {
			early++
		}
	})
	if total(report) < int(after.Submitted)-early {
		m.t.Errorf("%d of %d ended early: %v", early, after.Submitted, report)
	}
	if len(report.Abandoned) > 0 {
		m.t.Errorf("abandoned, though Shutdown returned nil: %v", report)
	}
}

func (m *model) check() {
	for task := range m.r.Tasks() {
		m.t.Errorf("left: %v", task)
	}
	count := make(map[tether.State]uint64)
	began := m.r.Report().Began
	m.each(func(task *modelTask) {
		count[task.task.State()]++
		if err := task.check(began); err != nil {
			m.t.Errorf("task %d (%v on %q): %v; %+v", task.n, task.task, task.task.Info().Pool, err, task.task.Info())
		}
	})
	s := m.r.Stats()
	want := tether.Stats{
		Submitted: uint64(len(m.tasks)), Refused: s.Refused,
		Succeeded: count[tether.Succeeded], Failed: count[tether.Failed], Panicked: count[tether.Panicked],
		Canceled: count[tether.Canceled], Dropped: count[tether.Dropped],
	}
	if s != want {
		m.t.Errorf("Stats %+v, want %+v", s, want)
	}
	for _, at := range m.places {
		for i := range at.keys {
			if most := at.keys[i].active.most.Load(); most > 1 {
				m.t.Errorf("%d of a Serial key at once: %+v", most, at.cfg)
			}
		}
		if at.pool == nil {
			continue
		}
		if most := at.running.most.Load(); most > int64(at.workers) {
			m.t.Errorf("%d bodies at once: %+v", most, at.cfg)
		}
		for i := range at.shares {
			if most := at.shares[i].most.Load(); at.cfg.ShareWorkers > 0 && most > int64(at.cfg.ShareWorkers) {
				m.t.Errorf("%d bodies of a Share at once: %+v", most, at.cfg)
			}
		}
		if left := at.pool.Shares(100); len(left) > 0 {
			m.t.Errorf("shares are left: %+v", left)
		}
		if most := at.weight.most.Load(); at.cfg.Capacity > 0 && most > at.cfg.Capacity {
			m.t.Errorf("weight %d at once: %+v", most, at.cfg)
		}
		if s := at.pool.Stats(); live(s.Stats) != 0 || s.Inline != 0 || s.Weight != 0 {
			m.t.Errorf("left: %+v", s)
		}
	}
}

// check tells what is wrong with a task's end. The drain began at began.
func (task *modelTask) check(began time.Time) error {
	t, info := task.task, task.task.Info()
	state, err, runs := t.State(), t.Err(), int(task.runs.Load())
	select {
	case <-t.Done():
	default:
		return errors.New("not done")
	}
	if !state.Final() || info.State != state || (err == nil) != (state == tether.Succeeded) {
		return fmt.Errorf("not consistent: error %v", err)
	}
	between := task.attempts > 1 && state == tether.Canceled // perhaps its next attempt had its number already
	if info.Attempt != runs && !(between && info.Attempt == runs+1) || info.Started.IsZero() != (runs == 0) || info.Finished.Before(info.Submitted) {
		return fmt.Errorf("it ran %d times, attempt %d", runs, info.Attempt)
	}
	if handed := task.handed.Load(); handed > 1 || handed > 0 && (runs > 0 || !task.handsOver) {
		return fmt.Errorf("handed over %d times", handed)
	}
	asked := task.cancelled.Load() && errors.Is(err, errCancel)
	drained := errors.Is(err, tether.ErrShutdown)
	expired := task.timed && errors.Is(err, tether.ErrTimeout)
	var overdue *tether.MaxWaitError
	if errors.As(err, &overdue) && (overdue.MaxWait != task.at.cfg.MaxWait || overdue.Waited < overdue.MaxWait) {
		return fmt.Errorf("it has not waited: %v", err)
	}
	if most := task.at.cfg.MaxWait; most > 0 && task.prompt && !info.Started.IsZero() && info.Started.Sub(info.Submitted) >= most {
		return fmt.Errorf("it has started %v after its submission", info.Started.Sub(info.Submitted))
	}
	ousted := overdue != nil || task.at.cfg.Overflow == tether.OverflowDropOldest && errors.Is(err, tether.ErrFull)
	last := behaviour(task.last.Load())
	switch state {
	case tether.Dropped:
		if runs != 0 {
			return errors.New("dropped, but it ran")
		}
		if !asked && !drained && !ousted {
			return errors.New("dropped for no reason")
		}
		return nil
	case tether.Canceled:
		between = between && runs < task.attempts && (last == fails || last == goexits)
		between = between || task.loop && task.attempts > runs && last == panics
		gaveUp := last == obeys || last == fails && errors.Is(err, errTest) // any error after a cancellation
		if !gaveUp && !between {
			return fmt.Errorf("canceled, though it ended as %d", last)
		}
		if !asked && !drained && !expired && !(ousted && between) {
			return errors.New("canceled for no reason")
		}
		return nil
	case tether.Succeeded:
		if last != succeeds && last != blocks && last != spawns && !(task.loop && last == obeys) {
			return fmt.Errorf("succeeded, though it ended as %d", last)
		}
	case tether.Failed:
		if last == fails && errors.Is(err, errTest) || last == goexits && errors.Is(err, tether.ErrGoexit) {
			stranded := last == goexits && task.at.cfg.Overflow == tether.OverflowCallerRuns // its goroutine is gone
			if runs < task.attempts && !stranded && !task.cancelled.Load() && !task.timed && !task.loop && info.Finished.Before(began) {
				return fmt.Errorf("it ran %d times of %d", runs, task.attempts)
			}
			return nil
		}
		return fmt.Errorf("failed, though it ended as %d", last)
	case tether.Panicked:
		var panicked *tether.PanicError
		if last != panics || !errors.As(err, &panicked) {
			return fmt.Errorf("panicked, though it ended as %d", last)
		}
	}
	return nil
}
