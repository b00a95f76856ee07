package tether_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// newPool returns a pool of a registry of its own.
func newPool(t testing.TB, cfg tether.PoolConfig) *tether.Pool {
	t.Helper()
	return newRegistry(t, tether.Config{}).NewPool("pool", cfg)
}

// meter measures how many are inside, and how many were at most.
type meter struct{ now, most atomic.Int64 }

func (m *meter) add(n int64) {
	now := m.now.Add(n)
	for most := m.most.Load(); now > most; most = m.most.Load() {
		if m.most.CompareAndSwap(most, now) {
			return
		}
	}
}

// diary is a list that many write to.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// entry returns a body that writes one line.
func (d *diary) entry(line string) tether.Func {
	return func(context.Context) error {
		d.add(line)
		return nil
	}
}

// watch reads a pool's Stats again and again until stop is called, and checks each.
func watch(t *testing.T, p *tether.Pool, check func(s tether.PoolStats) bool) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			if s := p.Stats(); !check(s) {
				t.Errorf("Stats out of bounds: %+v", s)
				return
			}
			runtime.Gosched()
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func adds(s tether.Stats) bool {
	return s.Submitted == s.Succeeded+s.Failed+s.Panicked+s.Canceled+s.Dropped+uint64(s.Held+s.Queued+s.Running)
}

// bounded tells whether Stats are within the pool's own settings.
func bounded(s tether.PoolStats) bool {
	if s.Running-s.Inline > s.Workers || s.Running < 0 || s.Queued < 0 || s.Held < 0 || s.Inline < 0 {
		return false
	}
	if s.Capacity > 0 && s.Weight > s.Capacity {
		return false
	}
	// A task that waits for a worker that is free already is not one of the queue's.
	return adds(s.Stats) && (s.Queue == tether.Unbounded || s.Held+s.Queued+s.Running-s.Inline <= s.Workers+s.Queue)
}

func TestP1_NeverMoreThanWorkersAndQueue(t *testing.T) {
	for _, cfg := range []tether.PoolConfig{
		{Workers: 1, Queue: 0},
		{Workers: 1, Queue: 1, Overflow: tether.OverflowReject},
		{Workers: 3, Queue: 5},
		{Workers: 3, Queue: 5, Overflow: tether.OverflowReject},
		{Workers: 3, Queue: 5, Overflow: tether.OverflowDropOldest},
		{Workers: 4, Queue: tether.Unbounded},
	} {
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			p := newPool(t, cfg)
			stop := watch(t, p, bounded)
			var running meter
			var admitted, ran, dropped atomic.Int64
			var submitters sync.WaitGroup
			for range 4 {
				submitters.Go(func() {
					for range 500 {
						task, err := p.Go(context.Background(), "task", func(context.Context) error {
							running.add(1)
							defer running.add(-1)
							ran.Add(1)
							runtime.Gosched()
							return nil
						})
						if err != nil {
							assert.ErrorIs(t, err, tether.ErrFull)
							assert.NotEqual(t, tether.OverflowBlock, cfg.Overflow, "only Reject and DropOldest refuse")
							continue
						}
						admitted.Add(1)
						go func() {
							if errors.Is(wait(task), tether.ErrFull) {
								dropped.Add(1)
							}
						}()
					}
				})
			}
			submitters.Wait()
			require.NoError(t, wait(last(t, p)))
			stop()
			assert.LessOrEqual(t, running.most.Load(), int64(cfg.Workers))
			s := p.Stats()
			assert.Equal(t, uint64(admitted.Load()+1), s.Submitted)
			assert.Equal(t, uint64(ran.Load()+1), s.Succeeded)
			assert.Equal(t, s.Submitted-s.Succeeded, s.Dropped)
		})
	}
}

// last submits a task until it is admitted, and waits for the pool to be idle
// before it.
func last(t *testing.T, p *tether.Pool) *tether.Task {
	t.Helper()
	for {
		task, err := p.Go(context.Background(), "last", func(ctx context.Context) error {
			for s := p.Stats(); s.Running+s.Queued+s.Held > 1; s = p.Stats() {
				runtime.Gosched()
			}
			return nil
		})
		if err == nil {
			return task
		}
		require.ErrorIs(t, err, tether.ErrFull)
		runtime.Gosched()
	}
}

func TestP1_NeverMoreThanCapacity(t *testing.T) {
	const capacity = 10
	p := newPool(t, tether.PoolConfig{Workers: 8, Queue: 20, Capacity: capacity, Overflow: tether.OverflowBlock})
	stop := watch(t, p, bounded)
	var weight, running meter
	var submitters sync.WaitGroup
	for i := range 4 {
		submitters.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 500 {
				n := random.Int64N(capacity + 1)
				start(t, p, "task", func(context.Context) error {
					weight.add(n)
					running.add(1)
					runtime.Gosched()
					running.add(-1)
					weight.add(-n)
					return nil
				}, tether.Weight(n))
			}
		})
	}
	submitters.Wait()
	require.NoError(t, wait(last(t, p)))
	stop()
	assert.LessOrEqual(t, weight.most.Load(), int64(capacity))
	assert.LessOrEqual(t, running.most.Load(), int64(8))
	assert.Zero(t, p.Stats().Weight)
}

// The place of a dropped task is free before its end is announced; whoever takes it
// must not make the queue look longer than it may be.
func TestP1_DroppedTasksDoNotCountAsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var announce func()
		r := newRegistry(t, tether.Config{Observer: endObserver{func(*tether.Task) {
			if announce != nil {
				announce()
			}
		}}})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		synctest.Wait()
		queued := start(t, p, "queued", succeed)
		announce = func() {
			announce = nil
			assert.True(t, queued.State().Final())
			_, err := p.Go(context.Background(), "next", succeed)
			assert.NoError(t, err, "its place is free")
			s := p.Stats()
			assert.True(t, adds(s.Stats), "%+v", s)
			assert.LessOrEqual(t, s.Queued, 1, "%+v", s)
		}
		queued.Cancel(nil)
		close(release)
	})
}

type endObserver struct{ ended func(*tether.Task) }

func (endObserver) TaskSubmitted(context.Context, *tether.Task)                     {}
func (endObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context { return ctx }
func (o endObserver) TaskEnded(_ context.Context, t *tether.Task)                   { o.ended(t) }
func (endObserver) TaskRefused(context.Context, string, error)                      {}

func TestP1_CallerRunsIsCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 0, Overflow: tether.OverflowCallerRuns})
		release := make(chan struct{})
		for range 2 {
			start(t, p, "worker's", until(release))
		}
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() { start(t, p, "caller's", until(release)) })
		}
		synctest.Wait()
		s := p.Stats()
		assert.Equal(t, 5, s.Running)
		assert.Equal(t, 3, s.Inline)
		assert.Zero(t, s.Queued)
		assert.True(t, adds(s.Stats))
		close(release)
		callers.Wait()
		synctest.Wait()
		s = p.Stats()
		assert.Zero(t, s.Running+s.Inline+s.Queued)
		assert.EqualValues(t, 5, s.Succeeded)
	})
}

func TestP2_FirstInFirstOut(t *testing.T) {
	for _, queue := range []int{300, tether.Unbounded} {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: queue, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "first", until(release))
		var got diary
		var want []string
		var tasks []*tether.Task
		for i := range 300 {
			line := fmt.Sprint(i)
			want = append(want, line)
			tasks = append(tasks, start(t, p, "task", got.entry(line)))
		}
		close(release)
		for _, task := range tasks {
			require.NoError(t, wait(task))
		}
		assert.Equal(t, want, got.read())
	}
}

// Several workers take the front in turn: a task starts only after all earlier ones
// have started.
func TestP2_FirstInFirstOutWithManyWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 3, Queue: tether.Unbounded})
		var tasks []*tether.Task
		for i := range 60 {
			tasks = append(tasks, start(t, p, "task", func(context.Context) error {
				time.Sleep(time.Duration(i%7+1) * time.Second)
				return nil
			}))
		}
		for _, task := range tasks {
			require.NoError(t, wait(task))
		}
		for i := range tasks[1:] {
			assert.False(t, tasks[i+1].Info().Started.Before(tasks[i].Info().Started), "task %d started before its predecessor", i+1)
		}
	})
}

func TestP2_HeavyTaskIsNotOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 8, Queue: tether.Unbounded, Capacity: 4})
		release := make(chan struct{})
		for range 3 {
			start(t, p, "light", until(release))
		}
		var got diary
		heavy := start(t, p, "heavy", got.entry("heavy"), tether.Weight(4))
		var lights []*tether.Task
		for range 20 {
			lights = append(lights, start(t, p, "light", got.entry("light")))
		}
		synctest.Wait()
		assert.Equal(t, tether.Queued, heavy.State())
		assert.Empty(t, got.read(), "a light task that came later fits, and has to wait all the same")
		close(release)
		for _, light := range lights {
			require.NoError(t, wait(light))
		}
		assert.Equal(t, "heavy", got.read()[0])
	})
}

func TestP2_CancelledHeavyTaskLetsTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 8, Queue: tether.Unbounded, Capacity: 4})
		release := make(chan struct{})
		start(t, p, "light", until(release))
		heavy := start(t, p, "heavy", succeed, tether.Weight(4))
		light := start(t, p, "light", succeed, tether.Weight(3))
		synctest.Wait()
		require.Equal(t, tether.Queued, light.State())
		require.True(t, heavy.Cancel(nil))
		synctest.Wait()
		assert.Equal(t, tether.Dropped, heavy.State())
		assert.Equal(t, tether.Succeeded, light.State())
		close(release)
	})
}

func TestP3_BlockGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		start(t, p, "queued", succeed)
		synctest.Wait()

		why := errors.New("the user has left")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		began := time.Now()
		task, err := p.Go(ctx, "late", succeed)
		assert.Nil(t, task)
		assert.Equal(t, time.Second, time.Since(began), "it waits as long as ctx lives, and no longer")
		assert.ErrorIs(t, err, tether.ErrFull)
		assert.ErrorIs(t, err, why)
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.Equal(t, "pool", full.Pool)
		assert.Positive(t, full.RetryAfter)

		_, err = p.Go(ctx, "late", succeed)
		assert.ErrorIs(t, err, tether.ErrFull, "a context that has ended waits for nothing")
		assert.ErrorIs(t, err, why)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Go(ctx, "late", succeed)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualValues(t, 3, p.Stats().Refused)
		assert.EqualValues(t, 2, p.Stats().Submitted)

		close(release)
		synctest.Wait()
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		task, err = p.Go(ctx, "in time", succeed)
		require.NoError(t, err, "there is room: that ctx has ended does not matter")
		assert.NoError(t, wait(task))
	})
}

func TestP3_BlockServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		var got diary
		var submitters sync.WaitGroup
		var want []string
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 20 {
			line := fmt.Sprint(i)
			quits := i%5 == 2
			if !quits {
				want = append(want, line)
			}
			submitters.Go(func() {
				ctx := ctx
				if !quits {
					ctx = context.WithoutCancel(ctx)
				}
				_, err := p.Go(ctx, "task", got.entry(line))
				assert.Equal(t, quits, err != nil)
			})
			synctest.Wait() // so that they stand in line in this order
		}
		cancel() // some in the middle of the line leave
		synctest.Wait()
		close(release)
		submitters.Wait()
		synctest.Wait()
		assert.Equal(t, want, got.read())
	})
}

// Whoever gives up makes way for the next in line, who may want less.
func TestP3_BlockLeaverMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Capacity: 2, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var submitters sync.WaitGroup
		submitters.Go(func() {
			_, err := p.Go(ctx, "heavy", succeed, tether.Weight(2))
			assert.ErrorIs(t, err, tether.ErrFull)
		})
		synctest.Wait()
		submitters.Go(func() { assert.NoError(t, wait(start(t, p, "light", succeed))) })
		began := time.Now()
		submitters.Wait()
		assert.Equal(t, time.Second, time.Since(began))
		close(release)
	})
}

func TestP3_RejectAnswersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowReject})
		// After a while the pool knows how long a body takes.
		for range 100 {
			require.NoError(t, wait(start(t, p, "second", func(context.Context) error {
				time.Sleep(time.Second)
				return nil
			})))
		}
		release := make(chan struct{})
		start(t, p, "running", until(release))
		synctest.Wait()
		start(t, p, "queued", succeed)
		start(t, p, "held", succeed, tether.Hold()).Release()

		began := time.Now()
		_, err := p.Go(t.Context(), "late", succeed)
		assert.Zero(t, time.Since(began))
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.ErrorIs(t, err, tether.ErrFull)
		assert.Equal(t, "mail", full.Pool)
		assert.Equal(t, 1, full.Running)
		assert.Equal(t, 2, full.Queued)
		assert.Equal(t, 3, full.Limit)
		assert.Greater(t, full.RetryAfter, 2*time.Second, "two seconds of work wait already")
		assert.Less(t, full.RetryAfter, 4*time.Second)
		assert.EqualValues(t, 1, p.Stats().Refused)
		assert.EqualValues(t, 1, r.Stats().Refused)
		close(release)
	})
}

func TestP3_ALoopThatIsRefusedLetsWorkersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 8})
	const tasks = 1000
	for admitted := 0; admitted < tasks; {
		if _, err := p.Go(t.Context(), "task", succeed); err == nil {
			admitted++
		} else {
			require.ErrorIs(t, err, tether.ErrFull)
		}
	}
	// Otherwise it is refused some thousand times for each task, until the runtime preempts it.
	assert.Less(t, p.Stats().Refused, uint64(64*tasks))
}

func TestP3_RejectKnowsNothingYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		_, err := p.Go(t.Context(), "late", succeed)
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.Positive(t, full.RetryAfter)
		close(release)
	})
}

func TestP3_DropOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		running := start(t, p, "running", until(release))
		synctest.Wait()
		var got diary
		var tasks []*tether.Task
		for i := range 5 {
			tasks = append(tasks, start(t, p, "task", got.entry(fmt.Sprint(i))))
		}
		for _, oldest := range tasks[:3] {
			assert.Equal(t, tether.Dropped, oldest.State())
			assert.ErrorIs(t, oldest.Err(), tether.ErrFull)
			assert.True(t, oldest.Info().Started.IsZero())
		}
		assert.Equal(t, tether.Running, running.State(), "never a running one")
		close(release)
		synctest.Wait()
		assert.Equal(t, tether.Succeeded, running.State())
		assert.Equal(t, []string{"3", "4"}, got.read())
		assert.EqualValues(t, 3, p.Stats().Dropped)
		assert.Zero(t, p.Stats().Refused)
	})
}

func TestP3_DropOldestHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		start(t, p, "running", until(release), tether.HandOver(func(context.Context, tether.Info) error {
			t.Error("a task that has started was handed over")
			return nil
		}))
		synctest.Wait()
		type key struct{}
		var handed []tether.Info
		ctx := context.WithValue(t.Context(), key{}, "value")
		oldest, err := p.Go(ctx, "oldest", succeed, tether.Label("order", "5"),
			tether.HandOver(func(ctx context.Context, info tether.Info) error {
				assert.Equal(t, "value", ctx.Value(key{}), "the values of its submitter")
				handed = append(handed, info)
				return nil
			}))
		require.NoError(t, err)
		failing := start(t, p, "failing", succeed, tether.HandOver(func(context.Context, tether.Info) error { return errTest }))
		require.Len(t, handed, 1)
		assert.Equal(t, oldest.ID(), handed[0].ID)
		assert.Equal(t, "oldest", handed[0].Name)
		assert.Equal(t, map[string]string{"order": "5"}, handed[0].Labels)
		assert.Equal(t, tether.Dropped, oldest.State())
		assert.ErrorIs(t, oldest.Err(), tether.ErrFull)

		panicking := start(t, p, "panicking", succeed, tether.HandOver(func(context.Context, tether.Info) error { panic(errTest) }))
		assert.Equal(t, tether.Dropped, failing.State())
		assert.ErrorIs(t, failing.Err(), tether.ErrFull)
		assert.ErrorIs(t, failing.Err(), errTest)

		goexiting := start(t, p, "goexiting", succeed, tether.HandOver(func(context.Context, tether.Info) error {
			runtime.Goexit()
			return nil
		}))
		var panicked *tether.PanicError
		require.ErrorAs(t, panicking.Err(), &panicked)
		assert.Equal(t, errTest, panicked.Value)
		assert.Equal(t, "panicking", panicked.Task)
		assert.Equal(t, tether.Dropped, panicking.State())

		newest := start(t, p, "newest", succeed)
		assert.Equal(t, tether.Dropped, goexiting.State())
		assert.ErrorIs(t, goexiting.Err(), tether.ErrGoexit)
		assert.ErrorIs(t, goexiting.Err(), tether.ErrFull)

		close(release)
		assert.NoError(t, wait(newest))
		assert.Len(t, handed, 1)
	})
}

func TestP3_DropOldestDoesNotWaitForASlowHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		synctest.Wait()
		var ended error
		oldest := start(t, p, "oldest", succeed, tether.HandOver(func(ctx context.Context, _ tether.Info) error {
			<-ctx.Done()
			ended = context.Cause(ctx)
			time.Sleep(time.Hour)
			return nil
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		newest, err := p.Go(ctx, "newest", succeed)
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(began), "no block past the end of the submitter's ctx")
		assert.False(t, oldest.State().Final())
		close(release)
		assert.NoError(t, wait(newest))
		assert.ErrorIs(t, wait(oldest), tether.ErrFull)
		assert.ErrorIs(t, ended, context.DeadlineExceeded)
		assert.Equal(t, time.Second+time.Hour, time.Since(began))
	})
}

func TestP3_DropOldestRejectsWhenNothingCanBeDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 2, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		synctest.Wait()
		held := start(t, p, "held", succeed, tether.Hold())
		delayed := start(t, p, "delayed", succeed, tether.Delay(time.Hour))
		_, err := p.Go(t.Context(), "late", succeed)
		var full *tether.FullError
		require.ErrorAs(t, err, &full)
		assert.Equal(t, tether.Held, held.State())
		assert.Equal(t, tether.Queued, delayed.State())
		close(release)
		held.Release()
		assert.NoError(t, wait(held))
		assert.NoError(t, wait(delayed))
	})
}

// Tasks that wait for their Serial key's turn are in the queue too.
func TestP3_DropOldestSeesSerialTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 2, Overflow: tether.OverflowDropOldest})
		release := make(chan struct{})
		var got diary
		start(t, p, "first", until(release), tether.Serial("key"))
		var tasks []*tether.Task
		for i := range 4 {
			tasks = append(tasks, start(t, p, "task", got.entry(fmt.Sprint(i)), tether.Serial("key")))
			synctest.Wait()
		}
		assert.Equal(t, tether.Dropped, tasks[0].State())
		assert.Equal(t, tether.Dropped, tasks[1].State())
		close(release)
		synctest.Wait()
		assert.Equal(t, []string{"2", "3"}, got.read())
	})
}

func TestP3_CallerRuns(t *testing.T) {
	run := func(name string, test func(t *testing.T, p *tether.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowCallerRuns})
				release := make(chan struct{})
				defer close(release)
				start(t, p, "running", until(release))
				test(t, p)
				synctest.Wait()
				s := p.Stats()
				assert.Zero(t, s.Inline)
				assert.Zero(t, s.Queued)
				assert.Equal(t, 1, s.Running)
				assert.True(t, adds(s.Stats))
			})
		})
	}
	run("in the submitter's goroutine", func(t *testing.T, p *tether.Pool) {
		var here, there []uintptr
		body := func(ctx context.Context) error {
			there = callers()
			task, ok := tether.FromContext(ctx)
			assert.True(t, ok)
			assert.Equal(t, tether.Running, task.State())
			assert.Equal(t, "pool", task.Info().Pool)
			return nil
		}
		here = callers()
		task := start(t, p, "caller's", body)
		assert.Equal(t, tether.Succeeded, task.State(), "Go returns when it has ended")
		assert.Subset(t, there, here[1:], "our own frames are above the body's")
	})
	run("error", func(t *testing.T, p *tether.Pool) {
		assert.Equal(t, errTest, wait(start(t, p, "caller's", fail)))
	})
	run("panic", func(t *testing.T, p *tether.Pool) {
		task := start(t, p, "caller's", func(context.Context) error { panic("boom") })
		assert.Equal(t, tether.Panicked, task.State())
		var panicked *tether.PanicError
		assert.ErrorAs(t, task.Err(), &panicked)
	})
	run("goexit", func(t *testing.T, p *tether.Pool) {
		gone := make(chan struct{})
		var task *tether.Task
		go func() {
			defer close(gone)
			p.Go(t.Context(), "caller's", func(ctx context.Context) error {
				task, _ = tether.FromContext(ctx)
				runtime.Goexit()
				return nil
			})
			t.Error("the goroutine has ended: nobody is left to return to")
		}()
		<-gone
		assert.ErrorIs(t, wait(task), tether.ErrGoexit)
		assert.Equal(t, tether.Failed, task.State())
		assert.Zero(t, p.Stats().Inline)
	})
	run("own context", func(t *testing.T, p *tether.Pool) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		task, err := p.Go(ctx, "caller's", func(ctx context.Context) error { return ctx.Err() })
		require.NoError(t, err)
		assert.NoError(t, task.Err(), "a task like any other: without the cancellation of its submitter")
	})
	run("retries", func(t *testing.T, p *tether.Pool) {
		var attempts int
		began := time.Now()
		task := start(t, p, "caller's", func(ctx context.Context) error {
			if attempts++; attempts < 3 {
				return errTest
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 5, Backoff: func(int, error) time.Duration { return time.Minute }}))
		assert.Equal(t, tether.Succeeded, task.State())
		assert.NoError(t, task.Err())
		assert.Equal(t, 3, attempts)
		assert.Equal(t, 3, task.Info().Attempt)
		assert.Equal(t, 2*time.Minute, time.Since(began))
	})
	run("cancelled between attempts", func(t *testing.T, p *tether.Pool) {
		why := errors.New("enough")
		var attempts int
		began := time.Now()
		task := start(t, p, "caller's", func(ctx context.Context) error {
			attempts++
			task, _ := tether.FromContext(ctx)
			time.AfterFunc(time.Second, func() { assert.True(t, task.Cancel(why)) })
			return errTest
		}, tether.Retry(tether.RetryPolicy{Attempts: 5, Backoff: func(int, error) time.Duration { return time.Minute }}))
		assert.Equal(t, time.Second, time.Since(began), "the submitter does not sleep on")
		assert.ErrorIs(t, wait(task), why)
		assert.ErrorIs(t, task.Err(), errTest, "what the last attempt said is not lost")
		assert.Equal(t, tether.Canceled, task.State())
		assert.Equal(t, 1, attempts)
	})
	run("a task that cannot run in its place is rejected", func(t *testing.T, p *tether.Pool) {
		for _, opt := range []tether.Option{tether.Hold(), tether.Delay(time.Second), tether.Serial("key")} {
			_, err := p.Go(t.Context(), "caller's", succeed, opt)
			var full *tether.FullError
			assert.ErrorAs(t, err, &full)
		}
	})
	run("labels", func(t *testing.T, p *tether.Pool) {
		pprof.Do(t.Context(), pprof.Labels("mine", "yes"), func(ctx context.Context) {
			_, err := p.Go(ctx, "caller's", func(ctx context.Context) error {
				v, _ := pprof.Label(ctx, "tether.task")
				assert.Equal(t, "caller's", v)
				assert.Contains(t, labelsHere(t), `"tether.task":"caller's"`)
				assert.Contains(t, labelsHere(t), `"tether.pool":"pool"`)
				return nil
			})
			require.NoError(t, err)
			assert.Contains(t, labelsHere(t), `"mine":"yes"`, "restored")
			assert.NotContains(t, labelsHere(t), "tether.task")
		})
	})
}

// An attempt that ends its goroutine leaves nobody to run the next one in the
// submitter's place. The task must end all the same.
func TestP3_CallerRunsGoexitWithRetryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowCallerRuns})
		release := make(chan struct{})
		defer close(release)
		start(t, p, "running", until(release))
		var task *tether.Task
		var submitter sync.WaitGroup
		submitter.Go(func() {
			p.Go(t.Context(), "caller's", func(ctx context.Context) error {
				task, _ = tether.FromContext(ctx)
				runtime.Goexit()
				return nil
			}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
		})
		submitter.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		assert.ErrorIs(t, task.Wait(ctx), tether.ErrGoexit)
		assert.Equal(t, tether.Failed, task.State())
	})
}

// The second submission of a key gets the first one's task while that runs in its
// submitter's goroutine, and so does the body of that task itself.
func TestP3_CallerRunsUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowCallerRuns})
		release := make(chan struct{})
		defer close(release)
		start(t, p, "running", until(release))
		var bodies atomic.Int64
		var first *tether.Task
		hold := make(chan struct{})
		var submitter sync.WaitGroup
		submitter.Go(func() {
			start(t, p, "unique", func(ctx context.Context) error {
				bodies.Add(1)
				first, _ = tether.FromContext(ctx)
				<-hold
				return nil
			}, tether.Unique("key"))
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		second, err := p.Go(ctx, "unique", func(context.Context) error {
			bodies.Add(1)
			return nil
		}, tether.Unique("key"))
		assert.NoError(t, err)
		assert.Same(t, first, second)
		close(hold)
		submitter.Wait()
		assert.EqualValues(t, 1, bodies.Load())
	})
}

func callers() []uintptr {
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(1, pcs)]
	var entries []uintptr
	for frames := runtime.CallersFrames(pcs); ; {
		frame, more := frames.Next()
		entries = append(entries, frame.Entry)
		if !more {
			return entries
		}
	}
}

// labelsHere returns the profiler labels of this goroutine.
func labelsHere(t *testing.T) string {
	t.Helper()
	var found string
	inherited := make(chan struct{})
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() { // a new goroutine has the labels of its parent
		labelled(inherited, quit)
		close(gone)
	}()
	<-inherited
	found = labelsOf("tether_test.labelled")
	close(quit)
	<-gone
	return found
}

//go:noinline
func labelled(inherited, quit chan struct{}) {
	close(inherited)
	<-quit
}

func TestP4_OwnFullPoolIsNoDeadlock(t *testing.T) {
	t.Run("reject", func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject})
		assert.ErrorIs(t, wait(start(t, p, "parent", func(ctx context.Context) error {
			_, err := p.Go(ctx, "child", succeed)
			return err
		})), tether.ErrFull)
	})
	t.Run("drop oldest", func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowDropOldest})
		assert.ErrorIs(t, wait(start(t, p, "parent", func(ctx context.Context) error {
			_, err := p.Go(ctx, "child", succeed)
			return err
		})), tether.ErrFull)
	})
	t.Run("caller runs", func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		assert.NoError(t, wait(start(t, p, "parent", func(ctx context.Context) error {
			child, err := p.Go(ctx, "child", func(ctx context.Context) error {
				grandchild, err := p.Go(ctx, "grandchild", succeed)
				return errors.Join(err, grandchild.Wait(ctx))
			})
			return errors.Join(err, child.Wait(ctx))
		})))
	})
	t.Run("block with a bound", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			assert.NoError(t, wait(start(t, p, "parent", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err := p.Go(ctx, "child", succeed)
				assert.ErrorIs(t, err, tether.ErrFull)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				return nil
			})))
		})
	})
	t.Run("block until its own timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			err := wait(start(t, p, "parent", func(ctx context.Context) error {
				_, err := p.Go(ctx, "child", succeed)
				return err
			}, tether.Timeout(time.Second)))
			assert.ErrorIs(t, err, tether.ErrTimeout)
			assert.ErrorIs(t, err, tether.ErrFull)
		})
	})
	t.Run("block until cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			parent := start(t, p, "parent", func(ctx context.Context) error {
				_, err := p.Go(ctx, "child", succeed)
				return err
			})
			synctest.Wait()
			parent.Cancel(errTest)
			assert.ErrorIs(t, wait(parent), errTest)
			assert.Equal(t, tether.Canceled, parent.State())
		})
	})
	t.Run("a wait for the child in its queue is bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
			var child *tether.Task
			err := wait(start(t, p, "parent", func(ctx context.Context) error {
				var err error
				child, err = p.Go(ctx, "child", succeed)
				assert.NoError(t, err)
				return child.Wait(ctx)
			}, tether.Timeout(time.Second)))
			assert.ErrorIs(t, err, tether.ErrTimeout)
			assert.NoError(t, wait(child), "it has only waited for its parent")
		})
	})
	t.Run("the drain ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			parent := start(t, p, "parent", func(ctx context.Context) error {
				_, err := p.Go(ctx, "child", succeed)
				return err
			})
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			assert.NoError(t, r.Shutdown(ctx))
			assert.True(t, parent.State().Final())
		})
	})
}

func TestP5_Resize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 20, Overflow: tether.OverflowBlock})
		running := func() int {
			synctest.Wait()
			return p.Stats().Running
		}
		ends := make(chan struct{})
		for range 20 {
			start(t, p, "task", func(context.Context) error {
				<-ends
				return nil
			})
		}
		assert.Equal(t, 1, running())
		p.Resize(4)
		assert.Equal(t, 4, running(), "up starts queued ones at once")
		assert.Equal(t, 4, p.Stats().Workers)
		p.Resize(2)
		assert.Equal(t, 4, running(), "down lets running bodies end")
		ends <- struct{}{}
		assert.Equal(t, 3, running())
		ends <- struct{}{}
		assert.Equal(t, 2, running())
		ends <- struct{}{}
		assert.Equal(t, 2, running())
		p.Resize(0)
		assert.Equal(t, runtime.GOMAXPROCS(0), p.Stats().Workers)
		assert.Equal(t, max(2, runtime.GOMAXPROCS(0)), running())
		p.Resize(-5)
		assert.Equal(t, runtime.GOMAXPROCS(0), p.Stats().Workers)
		p.Resize(100)
		assert.Equal(t, 17, running())
		close(ends)
		assert.Equal(t, 0, running())
	})
}

func TestP5_ResizeUpLetsSubmittersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 0, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		var submitters sync.WaitGroup
		for range 3 {
			submitters.Go(func() { start(t, p, "task", until(release)) })
		}
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Running)
		p.Resize(3)
		synctest.Wait()
		assert.Equal(t, 3, p.Stats().Running)
		p.Resize(4)
		submitters.Wait()
		synctest.Wait()
		assert.Equal(t, 4, p.Stats().Running)
		close(release)
	})
}

func TestP5_Pause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 3, Queue: 2, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		before := start(t, p, "before", until(release))
		synctest.Wait()
		p.Pause()
		p.Pause()
		assert.True(t, p.Stats().Paused)
		queued := start(t, p, "queued", succeed)
		held := start(t, p, "held", succeed, tether.Hold())
		for range 3 {
			_, err := p.Go(t.Context(), "late", succeed)
			assert.ErrorIs(t, err, tether.ErrFull, "a paused pool's queue is bounded all the same")
		}
		synctest.Wait()
		assert.Equal(t, tether.Running, before.State())
		assert.Equal(t, tether.Queued, queued.State())
		close(release)
		assert.NoError(t, wait(before))
		p.Resize(5)
		held.Release()
		synctest.Wait()
		assert.Equal(t, tether.Queued, queued.State(), "starts nothing new")
		assert.Equal(t, tether.Queued, held.State())
		p.Resume()
		assert.NoError(t, wait(queued))
		assert.NoError(t, wait(held))
		assert.False(t, p.Stats().Paused)
		assert.Equal(t, 5, p.Stats().Workers)
	})
}

func TestP5_PausedPoolWithoutAQueueAdmitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 3, Overflow: tether.OverflowBlock})
		p.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Go(ctx, "late", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
		var submitter sync.WaitGroup
		submitter.Go(func() { start(t, p, "patient", succeed) })
		synctest.Wait()
		p.Resume()
		submitter.Wait()
		assert.NoError(t, wait(last(t, p)))
	})
}

// Pause means that nothing starts, wherever it would run.
func TestP5_PausedPoolHasNoCallerRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
		p.Pause()
		_, err := p.Go(t.Context(), "caller's", func(context.Context) error {
			t.Error("started while paused")
			return nil
		})
		assert.ErrorIs(t, err, tether.ErrFull)
		p.Resume()
	})
}

// After Pause has returned, no further task turns Running, whatever races with it.
func TestP5_PauseUnderLoad(t *testing.T) {
	p := newPool(t, tether.PoolConfig{Workers: 4, Queue: 100, Overflow: tether.OverflowBlock})
	var submitters sync.WaitGroup
	for range 2 {
		submitters.Go(func() {
			for range 2000 {
				start(t, p, "task", succeed)
			}
		})
	}
	for range 100 {
		p.Pause()
		s := p.Stats()
		begun := s.Submitted - uint64(s.Queued) - s.Dropped
		runtime.Gosched()
		s = p.Stats()
		assert.LessOrEqual(t, s.Succeeded+uint64(s.Running), begun)
		p.Resume()
		runtime.Gosched()
	}
	submitters.Wait()
	require.NoError(t, wait(last(t, p)))
	assert.EqualValues(t, 4001, p.Stats().Succeeded)
}

func TestP6_NothingCostsAWorker(t *testing.T) {
	const workers, tasks = 4, 2000
	for name, body := range map[string]tether.Func{
		"panic":  func(context.Context) error { panic("boom") },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
		"cancel": func(ctx context.Context) error {
			task, _ := tether.FromContext(ctx)
			task.Cancel(errTest)
			return untilCanceled(ctx)
		},
		"error": fail,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, tether.PoolConfig{Workers: workers, Queue: 10, Overflow: tether.OverflowBlock})
			stop := watch(t, p, bounded)
			for i := range tasks {
				task := start(t, p, "task", body)
				if i%3 == 0 {
					task.Cancel(nil) // while it is queued, with luck
				}
			}
			stop()
			// All the workers there are meet here.
			var meet sync.WaitGroup
			meet.Add(workers)
			var met []*tether.Task
			for range workers {
				met = append(met, start(t, p, "meet", func(context.Context) error {
					meet.Done()
					meet.Wait()
					return nil
				}))
			}
			for _, task := range met {
				require.NoError(t, wait(task))
			}
			s := p.Stats()
			assert.EqualValues(t, tasks, s.Failed+s.Panicked+s.Canceled+s.Dropped)
		})
	}
}

func TestP7_WeightAboveCapacityIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, overflow := range []tether.Overflow{tether.OverflowBlock, tether.OverflowReject, tether.OverflowDropOldest, tether.OverflowCallerRuns} {
			p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Capacity: 10, Overflow: overflow})
			release := make(chan struct{})
			for _, full := range []bool{false, true} {
				_, err := p.Go(t.Context(), "heavy", func(context.Context) error {
					t.Error("it ran")
					return nil
				}, tether.Weight(11))
				assert.ErrorIs(t, err, tether.ErrInvalid)
				assert.NotErrorIs(t, err, tether.ErrFull, "to try again is of no use")
				if !full {
					start(t, p, "running", until(release), tether.Weight(10))
					synctest.Wait()
					start(t, p, "queued", succeed)
				}
			}
			assert.EqualValues(t, 2, p.Stats().Refused)
			close(release)
		}
	})
}

func TestPool_Queue0TakesWhatCanStartAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		start(t, p, "running", until(release))
		start(t, p, "running", until(release)) // at once, though the first worker may not have got to its task
		_, err := p.Go(t.Context(), "late", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
		close(release)
	})
}

func TestPool_Unbounded(t *testing.T) {
	p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded, Overflow: tether.OverflowReject})
	release := make(chan struct{})
	var ran atomic.Int64
	for range 10_000 {
		start(t, p, "task", func(context.Context) error {
			<-release
			ran.Add(1)
			return nil
		})
	}
	s := p.Stats()
	assert.Equal(t, 10_000, s.Queued+s.Running)
	close(release)
	require.NoError(t, wait(last(t, p)))
	assert.EqualValues(t, 10_000, ran.Load())
}

// Whoever has waited for a task finds its place free.
func TestPool_PlaceIsFreeAfterWait(t *testing.T) {
	for name, body := range map[string]tether.Func{
		"success": succeed,
		"error":   fail,
		"panic":   func(context.Context) error { panic("boom") },
		"goexit":  func(context.Context) error { runtime.Goexit(); return nil },
	} {
		for _, opts := range [][]tether.Option{nil, {tether.Weight(3), tether.Serial("key")}} {
			t.Run(fmt.Sprint(name, len(opts)), func(t *testing.T) {
				cfg := tether.PoolConfig{Workers: 1, Overflow: tether.OverflowReject}
				if opts != nil {
					cfg.Capacity = 3
				}
				p := newPool(t, cfg)
				n := 10_000
				if name != "success" {
					n = 1000
				}
				for i := range n {
					task, err := p.Go(context.Background(), "task", body, opts...)
					require.NoError(t, err, "submission %d", i)
					if i%2 == 0 {
						wait(task)
					} else {
						<-task.Done()
					}
				}
			})
		}
	}
	t.Run("cancelled in the queue", func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject})
		release := make(chan struct{})
		running := start(t, p, "running", until(release))
		for running.State() != tether.Running {
			runtime.Gosched()
		}
		for i := range 5000 {
			opts := [][]tether.Option{nil, {tether.Hold()}, {tether.Delay(time.Hour)}, {tether.Serial("key")}}[i%4]
			task, err := p.Go(context.Background(), "task", succeed, opts...)
			require.NoError(t, err, "submission %d", i)
			require.True(t, task.Cancel(nil))
			require.Equal(t, tether.Dropped, task.State())
		}
		close(release)
	})
}

func TestPool_HeldAndDelayedTasksTakeAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject})
		held := start(t, p, "held", succeed, tether.Hold())
		delayed := start(t, p, "delayed", succeed, tether.Delay(time.Minute))
		s := p.Stats()
		assert.Equal(t, 1, s.Held)
		assert.Equal(t, 1, s.Queued)
		_, err := p.Go(t.Context(), "late", succeed)
		assert.ErrorIs(t, err, tether.ErrFull)
		require.True(t, held.Release())
		require.NoError(t, wait(held))
		start(t, p, "now", succeed)
		began := time.Now()
		require.NoError(t, wait(delayed))
		assert.Equal(t, time.Minute, time.Since(began))
	})
}

// Between its attempts a task holds its place, but no worker.
func TestPool_RetryingTaskTakesAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject})
		attempts := 0
		task := start(t, p, "again", func(context.Context) error {
			if attempts++; attempts == 1 {
				return errTest
			}
			return nil
		}, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Hour }}))
		synctest.Wait()
		require.Equal(t, tether.Queued, task.State())
		require.NoError(t, wait(start(t, p, "meanwhile", succeed)), "the worker is free")
		release := make(chan struct{})
		start(t, p, "running", until(release))
		_, err := p.Go(t.Context(), "late", succeed)
		assert.ErrorIs(t, err, tether.ErrFull, "its place is not")
		close(release)
		assert.NoError(t, wait(task))
	})
}

// The tasks of a key may have several shares.
func TestSerial_OneAtATimeInOrder(t *testing.T) {
	for _, shares := range []int{0, 1, 4} {
		t.Run(fmt.Sprint(shares, " shares"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, tether.PoolConfig{Workers: 16, Queue: tether.Unbounded})
				const keys = 3
				var active [keys]meter
				var tasks [keys][]*tether.Task
				random := rand.New(rand.NewPCG(2, 3))
				for range 200 {
					key := random.IntN(keys)
					nap := time.Duration(random.IntN(3)) * time.Second
					opts := []tether.Option{tether.Serial(fmt.Sprint("key ", key))}
					if n := random.IntN(shares + 1); n > 0 {
						opts = append(opts, tether.Share(fmt.Sprint("share ", n)))
					}
					tasks[key] = append(tasks[key], start(t, p, "task", func(context.Context) error {
						active[key].add(1)
						defer active[key].add(-1)
						time.Sleep(nap)
						return nil
					}, opts...))
				}
				for key := range keys {
					for i, task := range tasks[key] {
						require.NoError(t, wait(task))
						if i > 0 {
							assert.False(t, task.Info().Started.Before(tasks[key][i-1].Info().Finished), "started before its predecessor had ended")
						}
					}
					assert.EqualValues(t, 1, active[key].most.Load())
				}
			})
		})
	}
}

func TestSerial_OtherKeysAreNotBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 2, Queue: 100, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		start(t, p, "first", until(release), tether.Serial("busy"))
		var waiting []*tether.Task
		for range 10 {
			waiting = append(waiting, start(t, p, "busy", succeed, tether.Serial("busy")))
		}
		require.NoError(t, wait(start(t, p, "other", succeed, tether.Serial("other"))))
		require.NoError(t, wait(start(t, p, "none", succeed)))
		for _, task := range waiting {
			assert.Equal(t, tether.Queued, task.State())
		}
		// The key of another pool, and of the registry, is another key.
		assert.Equal(t, 1, p.Stats().Running)
		close(release)
		for _, task := range waiting {
			assert.NoError(t, wait(task))
		}
	})
}

func TestSerial_KeysBelongToTheirPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		a, b := r.NewPool("a", tether.PoolConfig{Workers: 2, Overflow: tether.OverflowBlock}), r.NewPool("b", tether.PoolConfig{Workers: 2, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		for _, runner := range []tether.Submitter{a, b, r} {
			task := start(t, runner, "first", until(release), tether.Serial("key"))
			synctest.Wait()
			assert.Equal(t, tether.Running, task.State())
		}
		waiting := start(t, r, "second", succeed, tether.Serial("key"))
		synctest.Wait()
		assert.Equal(t, tether.Queued, waiting.State())
		close(release)
		assert.NoError(t, wait(waiting))
	})
}

func TestSerial_CancelledTasksLeaveTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 4, Queue: tether.Unbounded})
		var got diary
		first := start(t, p, "first", untilCanceled, tether.Serial("key"))
		synctest.Wait()
		var tasks []*tether.Task
		var want []string
		for i := range 300 {
			line := fmt.Sprint(i)
			tasks = append(tasks, start(t, p, "task", got.entry(line), tether.Serial("key")))
			if i%3 == 0 {
				want = append(want, line)
			}
		}
		synctest.Wait()
		for i, task := range tasks {
			if i%3 != 0 {
				require.True(t, task.Cancel(nil))
			}
		}
		first.Cancel(nil)
		synctest.Wait()
		assert.Equal(t, want, got.read())
		assert.NoError(t, wait(start(t, p, "after", succeed, tether.Serial("key"))))
	})
}

// A key that was called up but has found no worker yet is cancelled: the next one's
// turn.
func TestSerial_CancelledOnItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		release := make(chan struct{})
		attempts := 0
		// Between its attempts the first has its turn, but no worker.
		first := start(t, p, "first", func(context.Context) error {
			attempts++
			return errTest
		}, tether.Serial("key"), tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return time.Second }}))
		second := start(t, p, "second", succeed, tether.Serial("key"))
		synctest.Wait()
		busy := start(t, p, "busy", until(release))
		time.Sleep(time.Minute)
		require.Equal(t, tether.Queued, first.State())
		require.Equal(t, tether.Queued, second.State())
		require.True(t, first.Cancel(nil))
		close(release)
		assert.NoError(t, wait(second))
		assert.NoError(t, wait(busy))
		assert.Equal(t, tether.Canceled, first.State())
		assert.Equal(t, 1, attempts)
	})
}

func TestSerial_RetryKeepsItsTurn(t *testing.T) {
	for _, where := range []string{"pool", "registry"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, tether.Config{})
				var runner tether.Submitter = r
				if where == "pool" {
					runner = r.NewPool("pool", tether.PoolConfig{Workers: 4, Queue: 10, Overflow: tether.OverflowBlock})
				}
				var got diary
				first := start(t, runner, "first", func(context.Context) error {
					got.add("first")
					return errTest
				}, tether.Serial("key"), tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return time.Second }}))
				second := start(t, runner, "second", got.entry("second"), tether.Serial("key"))
				other := start(t, runner, "other", succeed, tether.Serial("other key"))
				assert.NoError(t, wait(other))
				assert.False(t, first.State().Final())
				assert.NoError(t, wait(second))
				assert.ErrorIs(t, wait(first), errTest)
				assert.Equal(t, []string{"first", "first", "first", "second"}, got.read())
			})
		})
	}
}

func TestSerial_WithCapacity(t *testing.T) {
	p := newPool(t, tether.PoolConfig{Workers: 8, Queue: tether.Unbounded, Capacity: 6})
	stop := watch(t, p, bounded)
	const keys = 4
	var weight meter
	var active [keys]meter
	random := rand.New(rand.NewPCG(4, 5))
	var tasks []*tether.Task
	for range 2000 {
		key, n := random.IntN(keys), random.Int64N(7)
		attempts := 0
		opts := []tether.Option{tether.Serial(fmt.Sprint(key)), tether.Weight(n)}
		if random.IntN(4) == 0 {
			opts = append(opts, tether.Retry(tether.RetryPolicy{Attempts: 2, Backoff: func(int, error) time.Duration { return 0 }}))
		}
		task := start(t, p, "task", func(context.Context) error {
			weight.add(n)
			active[key].add(1)
			defer weight.add(-n)
			defer active[key].add(-1)
			runtime.Gosched()
			if attempts++; attempts == 1 {
				return errTest
			}
			return nil
		}, opts...)
		if random.IntN(4) == 0 {
			task.Cancel(nil)
		}
		tasks = append(tasks, task)
	}
	for _, task := range tasks {
		wait(task)
	}
	stop()
	assert.LessOrEqual(t, weight.most.Load(), int64(6))
	for key := range active {
		assert.LessOrEqual(t, active[key].most.Load(), int64(1))
	}
	assert.Zero(t, p.Stats().Weight)
}

func TestWeight_Defaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 10, Queue: 10, Capacity: 2, Overflow: tether.OverflowBlock})
		release := make(chan struct{})
		for range 4 {
			start(t, p, "one", until(release))
		}
		synctest.Wait()
		assert.Equal(t, 2, p.Stats().Running, "1 without the option")
		assert.EqualValues(t, 2, p.Stats().Weight)
		close(release)
		require.NoError(t, wait(last(t, p)))

		release = make(chan struct{})
		start(t, p, "all", until(release), tether.Weight(2))
		nothing := start(t, p, "nothing", succeed, tether.Weight(0))
		assert.NoError(t, wait(nothing), "what weighs nothing runs beside a full pool")
		close(release)

		_, err := p.Go(t.Context(), "negative", succeed, tether.Weight(-1))
		assert.ErrorIs(t, err, tether.ErrInvalid)
		light := newPool(t, tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
		assert.NoError(t, wait(start(t, light, "heavy", succeed, tether.Weight(1<<40))), "without a capacity weights mean nothing")
	})
}

func TestNewPool_PanicsOnWhatNoRunCouldMend(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	for _, cfg := range []tether.PoolConfig{
		{Workers: -1}, {Queue: -1}, {Capacity: -1}, {ShareWorkers: -1}, {ShareLimit: -1}, {Overflow: tether.OverflowCallerRuns + 1},
	} {
		assert.Panics(t, func() { r.NewPool("pool", cfg) }, "%+v", cfg)
	}
	for _, name := range []string{"", "two\nlines", string(make([]byte, 129)), "\xff"} {
		assert.Panics(t, func() { r.NewPool(name, tether.PoolConfig{Overflow: tether.OverflowBlock}) }, "%q", name)
	}
	assert.Empty(t, slices.Collect(r.Pools()))
	assert.NotPanics(t, func() {
		p := r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
		assert.Equal(t, runtime.GOMAXPROCS(0), p.Stats().Workers)
		r.NewPool("pool", tether.PoolConfig{Workers: math.MaxInt, Queue: math.MaxInt, Capacity: 1 << 62, ShareWorkers: math.MaxInt, ShareLimit: math.MaxInt, Overflow: tether.OverflowBlock})
	})
}

// A clock may stand still between the making of a registry and a submission.
func TestPool_SubmittedWhenTheRegistryWasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		held := start(t, p, "held", succeed, tether.Hold())
		assert.Equal(t, time.Now(), held.Info().Submitted)
		began := time.Now()
		delayed := start(t, p, "delayed", succeed, tether.Delay(time.Minute))
		assert.NoError(t, wait(delayed))
		assert.Equal(t, began, delayed.Info().Submitted)
		assert.Equal(t, began.Add(time.Minute), delayed.Info().Started)
		held.Release()
		assert.NoError(t, wait(held))
		assert.Equal(t, began, held.Info().Submitted)
	})
}

func TestPool_Names(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		mail := r.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		images := r.NewPool("images", tether.PoolConfig{Workers: 1, Queue: 5, Overflow: tether.OverflowBlock})
		assert.Equal(t, []*tether.Pool{mail, images}, slices.Collect(r.Pools()))
		for _, p := range []*tether.Pool{mail, images} {
			task := start(t, p, "task", func(ctx context.Context) error {
				v, _ := pprof.Label(ctx, "tether.pool")
				assert.Equal(t, p.Name(), v)
				return nil
			})
			assert.NoError(t, wait(task))
			assert.Equal(t, p.Name(), task.Info().Pool)
			assert.Equal(t, p.Name(), p.Stats().Name)
			assert.EqualValues(t, 1, p.Stats().Submitted)
		}
		assert.Empty(t, start(t, r, "task", succeed).Info().Pool)
		assert.EqualValues(t, 3, r.Stats().Submitted, "the pools' tasks are the registry's too")
	})
}

// labelsOf returns the labels of the goroutine that runs the function.
func labelsOf(function string) string {
	var profile bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	for record := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(record, function+"+") {
			if _, labels, ok := strings.Cut(record, "# labels: "); ok {
				labels, _, _ = strings.Cut(labels, "\n")
				return labels
			}
		}
	}
	return ""
}
