package tether_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
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

// The fault matrix combines each place where the library calls code that is not its
// own with each way in which that code can misbehave, before, at and after the signal.
// Each cell is a Run with background load. Environment:
//
//	TETHER_MATRIX_SEED    replays this seed only
//	TETHER_MATRIX_ROUNDS  runs each cell with so many random seeds
const (
	matrixSeed   = "TETHER_MATRIX_SEED"
	matrixRounds = "TETHER_MATRIX_ROUNDS"
)

// The phases of a cell.
const (
	beforeSignal = "before the signal"
	atSignal     = "at the signal"
	afterSignal  = "after the signal"
)

func TestD9_UserCodeCannotBreakTheStop(t *testing.T) {
	muteStderr(t)
	seeds := matrixSeeds(t)
	for _, where := range sites {
		for _, what := range faults {
			for _, when := range []string{beforeSignal, atSignal, afterSignal} {
				t.Run(where.name+"/"+what.name+"/"+when, func(t *testing.T) {
					t.Parallel()
					for _, seed := range seeds {
						synctest.Test(t, func(t *testing.T) { newCell(t, where, what, when, seed).run() })
						if t.Failed() {
							t.Logf("replay with %s=%d", matrixSeed, seed)
							return
						}
					}
				})
			}
		}
	}
}

// muteStderr keeps the library's messages about a broken log handler out of the output.
func muteStderr(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	stderr := os.Stderr
	os.Stderr = null
	t.Cleanup(func() {
		os.Stderr = stderr
		null.Close()
	})
}

func matrixSeeds(t *testing.T) (seeds []uint64) {
	if text := os.Getenv(matrixSeed); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		return []uint64{seed}
	}
	if text := os.Getenv(matrixRounds); text != "" {
		rounds, err := strconv.Atoi(text)
		require.NoError(t, err)
		for range rounds {
			seeds = append(seeds, rand.Uint64())
		}
		return seeds
	}
	return []uint64{0, 1}
}

// cell is one Run in which one site misbehaves.
type cell struct {
	t      *testing.T
	site   site
	fault  fault
	when   string
	random *rand.Rand // used by the goroutine of the test only

	r                              *tether.Registry
	queue, free, inline, drop, old *tether.Pool
	cfg                            tether.RunConfig // with StopTimeout set
	log                            logbook

	unit   time.Duration // 1/25 of StopTimeout: with the default, a second
	late   time.Duration // how long a call takes that returns late
	bound  time.Duration // how long a Shutdown in a callback may take
	own    bool          // callbacks use the context they are given
	child  bool          // the trigger is the body of the task "parent", else a goroutine of its own
	signal time.Time     // when Run's context ends
	moment time.Time     // when the site misbehaves for the first time

	release chan struct{} // closed after Run has returned: what never returns waits for it
	stopped chan struct{} // closed by the Stop of "public"
	lastEnd chan struct{} // closed by the Stop of "admin"
	fired   atomic.Int64  // calls that misbehaved
	nested  atomic.Int64  // calls back into the registry
	steps   diary         // the steps of the stop, as they began
	loops   atomic.Int64  // tasks "loop" whose contexts are not canceled

	mu        sync.Mutex
	stopBegan time.Time              // the signal, or the end of the first server; guarded by mu
	lives     map[*tether.Task]*life // guarded by mu
}

func newCell(t *testing.T, where site, what fault, when string, seed uint64) *cell {
	name := fnv.New64()
	fmt.Fprint(name, where.name, what.name, when)
	c := &cell{
		t: t, site: where, fault: what, when: when, random: rand.New(rand.NewPCG(seed, name.Sum64())),
		release: make(chan struct{}), stopped: make(chan struct{}), lastEnd: make(chan struct{}),
		lives: make(map[*tether.Task]*life),
	}
	c.cfg.StopTimeout = []time.Duration{10 * time.Second, 25 * time.Second, time.Minute, 10 * time.Minute, 5 * time.Second}[c.random.IntN(5)]
	if where.name == "Pending" {
		c.cfg.StopTimeout = max(c.cfg.StopTimeout, 10*time.Second) // or no step is slow
	}
	c.unit = c.cfg.StopTimeout / 25
	c.late = c.unit/2 + time.Duration(c.random.Int64N(int64(2*c.unit)))
	c.bound = c.unit/2 + time.Duration(c.random.Int64N(int64(40*c.unit)))
	c.own, c.child = c.coin(), c.coin() && when != beforeSignal
	if c.coin() {
		c.cfg.CloseTimeout = c.cfg.StopTimeout / 5
	}
	c.signal = time.Now().Add(10 * c.unit)
	switch when {
	case beforeSignal:
		c.moment = c.signal.Add(-2 * c.unit)
	case atSignal:
		c.moment = c.signal
	case afterSignal:
		c.moment = c.signal.Add(c.unit)
	}
	if when != beforeSignal && !c.child {
		c.cfg.PreStop = 3 * c.unit // tasks are admitted, and servers serve, after the signal
	}
	return c
}

func (c *cell) coin() bool { return c.random.IntN(2) == 0 }

// armed reports whether the site misbehaves now.
func (c *cell) armed() bool {
	now := time.Now()
	switch {
	case closed(c.release):
		return false
	case c.site.step != "":
		return true // each step of Run is called at its own time
	case now.Before(c.moment):
		return false
	case c.when == beforeSignal:
		return now.Before(c.signal)
	case c.when == atSignal:
		return now.Sub(c.signal) <= c.unit/8
	}
	return true
}

// misbehave is called by each site. At the site of the cell it does what the fault is.
func (c *cell) misbehave(ctx context.Context, site string) error {
	if site != c.site.name || !c.armed() {
		return nil
	}
	c.fired.Add(1)
	return c.fault.do(c, ctx)
}

// mustMisbehave is misbehave for sites that cannot return an error: they panic with it.
// It reports whether the site is to lie.
func (c *cell) mustMisbehave(ctx context.Context, site string) (lie bool) {
	err := c.misbehave(ctx, site)
	if c.unlessLie(err) != nil {
		panic(err)
	}
	return err != nil
}

// unlessLie returns err, nil if it stands for a lie.
func (c *cell) unlessLie(err error) error {
	if c.fault.kind == lies {
		return nil
	}
	return err
}

func (c *cell) run() {
	c.setUp()
	c.load()
	ctx, signal := context.WithCancel(context.Background())
	time.AfterFunc(time.Until(c.signal), func() {
		c.stopBegins()
		signal()
	})
	if c.site.trigger != nil && !c.child {
		go c.triggerInTime(context.Background())
	}
	sampling, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		c.sample(sampling)
	}()
	returned := make(chan error, 1)
	go func() { returned <- c.r.Run(ctx, c.cfg) }()
	var err error
	select {
	case err = <-returned:
	case <-time.After(time.Until(c.signal) + c.cfg.StopTimeout + time.Second + time.Nanosecond):
		c.t.Error("Run has not returned")
	}
	close(sampling)
	<-sampled
	c.checkSteps()
	report := c.r.Report()
	c.checkError(err, report)

	close(c.release)
	time.Sleep(3 * c.cfg.StopTimeout) // until every call has returned
	shutdown, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	require.NoError(c.t, c.r.Shutdown(shutdown), "once all has returned")
	c.checkReport(report)
	c.checkReport(c.r.Report())
	c.checkLog()
	c.checkBystanders()
	s := c.r.Stats()
	assert.Zero(c.t, live(s))
	assert.Equal(c.t, s.Submitted, s.Succeeded+s.Failed+s.Panicked+s.Canceled+s.Dropped)
	assert.NotZero(c.t, c.fired.Load(), "the site was not called at that time: the cell tests nothing")
}

// setUp makes the registry, the pools, the servers and the closers.
func (c *cell) setUp() {
	cfg := tether.Config{Logger: slog.New(&faultyLog{c: c}), Retain: 1 << 12, StuckAfter: c.site.early * c.unit}
	if c.site.observer || c.coin() {
		cfg.Observer = faultyObserver{c}
	}
	if c.coin() {
		cfg.Observer = tether.JoinObservers(tether.NopObserver{}, cfg.Observer)
	}
	if c.coin() {
		cfg.CancelBefore = 3 * c.unit
	}
	c.r = tether.New(cfg)
	c.queue = c.r.NewPool("queue", tether.PoolConfig{Workers: 2, Queue: 10, Overflow: tether.OverflowBlock})
	c.free = c.r.NewPool("free", tether.PoolConfig{Workers: 50, Queue: 50})
	c.inline = c.r.NewPool("inline", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns})
	c.drop = c.r.NewPool("dropped at the stop", tether.PoolConfig{Workers: 1, Queue: 5, AtStop: tether.AtStopDrop})
	c.old = c.r.NewPool("oldest", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})

	c.cfg.Signals = noSignals
	c.cfg.Servers = []tether.Server{
		{Name: "public", Serve: c.serve("Serve", c.stopped), Stop: c.stop("Stop", "public", c.stopped), Pending: func() string {
			if c.mustMisbehave(context.Background(), "Pending") {
				return strings.Repeat("connection\n", 1<<16)
			}
			return "1 connection"
		}},
		c.other(),
	}
	c.cfg.LastServers = []tether.Server{
		{Name: "admin", Serve: c.serve("last Serve", c.lastEnd), Stop: c.stop("last Stop", "admin", c.lastEnd)},
	}
	for _, name := range []string{"database", "broker", "telemetry"} {
		c.cfg.Closers = append(c.cfg.Closers, tether.Closer{Name: name, Close: func(ctx context.Context) error {
			c.step(ctx, name)
			if name == "broker" {
				return c.unlessLie(c.misbehave(ctx, "closer"))
			}
			return ctx.Err()
		}})
	}
}

// serve returns a Serve that misbehaves at the cell's time if it is the cell's site, and
// otherwise serves until stopped is closed.
func (c *cell) serve(site string, stopped chan struct{}) func() error {
	return func() error {
		defer c.stopBegins()
		if site == c.site.name {
			select {
			case <-time.After(time.Until(c.moment)):
			case <-stopped:
			}
			if err := c.misbehave(context.Background(), site); err != nil || c.fault.kind != callsBack {
				return c.unlessLie(err)
			}
		}
		select {
		case <-stopped:
		case <-c.release: // Stop has lied
		}
		return nil
	}
}

// stop returns a Stop, which closes stopped.
func (c *cell) stop(site, name string, stopped chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		c.step(ctx, "stop "+name)
		if site == c.site.name && c.fault.kind == lies {
			return c.unlessLie(c.misbehave(ctx, site)) // it does not stop the server
		}
		close(stopped)
		if c.site.name == "Pending" && name == "public" {
			<-ctx.Done() // Pending is for slow ones
			return ctx.Err()
		}
		return c.misbehave(ctx, site)
	}
}

// other returns a server that behaves well. If a step of Run must misbehave before the
// signal, this server ends then, so that the stop begins.
func (c *cell) other() tether.Server {
	stopped := make(chan struct{})
	serve := c.serve("", stopped)
	if c.when == beforeSignal && c.site.step != "" && !strings.HasSuffix(c.site.name, "Serve") {
		serve = func() error {
			defer c.stopBegins()
			time.Sleep(time.Until(c.moment))
			return nil
		}
	}
	return tether.Server{Name: "other", Serve: serve, Stop: c.stop("", "other", stopped)}
}

// stopBegins records when the stop began, at its first call.
func (c *cell) stopBegins() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopBegan.IsZero() {
		c.stopBegan = time.Now()
	}
}

// step records that a step of the stop began, and checks that it has time left.
func (c *cell) step(ctx context.Context, name string) {
	c.steps.add(name)
	deadline, ok := ctx.Deadline()
	assert.NoError(c.t, ctx.Err(), name)
	assert.True(c.t, ok && time.Until(deadline) > 0, "%s has no time: %v", name, time.Until(deadline))
	assert.False(c.t, c.r.Ready(), name)
	if name == "database" {
		assert.Zero(c.t, c.loops.Load(), "the drain has ended, and contexts are not canceled")
	}
}

// load submits the background load, and the tasks that the trigger needs.
func (c *cell) load() {
	sleepUntil := func(units time.Duration) tether.Func {
		return func(ctx context.Context) error {
			select {
			case <-time.After(time.Until(c.signal.Add(units * c.unit))):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	taken := tether.HandOver(func(context.Context, tether.Info) error { return nil })
	faulty := tether.HandOver(func(ctx context.Context, _ tether.Info) error {
		return c.unlessLie(c.misbehave(ctx, "HandOver"))
	})
	for i := range time.Duration(3) {
		start(c.t, c.r, "normal", sleepUntil(i+1))
	}
	start(c.t, c.r, "held", succeed, tether.Hold())
	start(c.t, c.r, "delayed", succeed, tether.Delay(time.Hour), taken)
	start(c.t, c.r, "retrying", fail, tether.Retry(again))
	start(c.t, c.r, "unique", sleepUntil(2), tether.Unique("key"))
	start(c.t, c.inline, "busy", sleepUntil(4))
	start(c.t, c.drop, "busy", func(ctx context.Context) error {
		time.Sleep(time.Until(c.signal))
		for c.drop.Stats().Queued > 0 && ctx.Err() == nil { // until they are dropped
			time.Sleep(min(c.unit/8, time.Second/2))
		}
		return ctx.Err()
	})
	for range 4 {
		start(c.t, c.queue, "queued", sleepUntil(2))
		start(c.t, c.drop, "queued to be dropped", succeed, taken)
	}
	start(c.t, c.old, "busy", sleepUntil(3))
	start(c.t, c.old, "culprit", succeed, faulty)
	if c.coin() { // more than the hand-overs that run at once
		for range 20 {
			start(c.t, c.r, "held", succeed, tether.Hold())
			start(c.t, c.free, "held", succeed, tether.Hold(), faulty)
		}
	}
	if c.coin() {
		for _, to := range []tether.Submitter{c.r, c.free} {
			c.loops.Add(1)
			start(c.t, to, "loop", func(ctx context.Context) error {
				defer c.loops.Add(-1)
				return untilCanceled(ctx)
			})
		}
	}
	loop(c.t, c.r, "consumer", untilCanceled, tether.LoopConfig{Essential: true})
	if c.coin() {
		loop(c.t, c.r, "restarting", fail, tether.LoopConfig{
			Restarts: tether.Unbounded, Backoff: func(int, error) time.Duration { return c.unit * 3 / 7 },
		})
	}
	if c.site.name == loopBody {
		loop(c.t, c.r, "culprit", func(ctx context.Context) error {
			time.Sleep(time.Until(c.moment)) // canceled or not
			if err := c.unlessLie(c.misbehave(ctx, loopBody)); err != nil {
				return err
			}
			return untilCanceled(ctx)
		}, tether.LoopConfig{Restarts: tether.Unbounded, Backoff: func(int, error) time.Duration { return c.unit }})
	}
	if c.child && c.site.trigger != nil {
		start(c.t, c.r, "parent", func(ctx context.Context) error {
			c.triggerInTime(ctx)
			return nil
		})
	}
	synctest.Wait()
}

// triggerInTime calls the trigger so that the site is called at the cell's time.
func (c *cell) triggerInTime(ctx context.Context) {
	time.Sleep(time.Until(c.moment) - c.site.early*c.unit)
	c.site.trigger(c, ctx)
}
