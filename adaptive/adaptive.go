// Package adaptive finds out how many workers a pool should have, and keeps looking.
//
// The right number depends on what the tasks wait for: the processors, a database with a
// pool of its own, an API that slows down when it is asked too much. It is known before
// for few pools, and it changes. A [Controller] moves the number of workers of a pool
// between a minimum and a maximum by what it measures:
//
//	workers := adaptive.New(adaptive.Config{})
//	reg := tether.New(tether.Config{Observer: workers})
//	thumbnails := reg.NewPool("thumbnails", tether.PoolConfig{Workers: 4, Queue: 1000})
//	err := workers.Adapt(thumbnails, 2, 64)
//
// # The rule
//
// The controller compares the present number with another one by experiments, as PCC
// does for the rate of a connection (Dong et al., "PCC Vivace: Online-Learning Congestion
// Control", NSDI 2018): it measures both in turn until the difference is clear, keeps the
// better one, takes larger steps while they succeed and smaller ones when they do not.
// A number is better if it brings more of Kleinrock's power, throughput³ / latency
// ("Power and Deterministic Rules of Thumb", ICC 1979): 10 % more workers are kept if
// they bring at least 2.5 % more throughput, 10 % fewer if they cost less than that.
// Throughput is that of tasks that succeed. If all fail, the workers are halved.
//
// No latency is taken for the ideal one, so the tasks of a pool may be of any mix, as long
// as the mix does not change faster than one measurement. A measurement takes at least
// [Config].Interval, 20 tasks, and 3 tasks of each worker unless these take 20 intervals. It
// counts the tasks that end while nearly all workers are busy: a pool that is idle, paused,
// or held up by [tether.PoolConfig].Capacity or Serial keys keeps its number. Of a task with
// Retry, the first attempt is measured.
//
// A number that has proved best is left alone for 8 measurements, then for 16, and so on
// up to 64, before its neighbors are tried again. It is reconsidered at once if the latency
// changes by half.
//
// # Cost
//
// There are no goroutines and no timers. The end of a task decides, on the goroutine that
// ran it, so a pool whose tasks do not end keeps its number. A task of an adapted pool
// costs about 0.3 µs more, one of another pool what any Observer costs.
package adaptive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Config configures a [Controller]. The zero value is ready to use.
type Config struct {
	// Interval is the least time of one measurement. Zero means 50 ms.
	Interval time.Duration

	// Logger gets a record of each new number of workers (Info) and of each trial (Debug),
	// with its reason. If nil, slog.Default is used.
	Logger *slog.Logger

	// OnChange, if non-nil, is called after each change, trials included. It is called on
	// the goroutine that ran a task and must return soon. Calls may overlap and come in
	// another order than the changes if the changes follow each other closely.
	OnChange func(Change)
}

// Change is a change of the number of workers of a pool.
type Change struct {
	Pool     string
	Time     time.Time
	From, To int
	// Trial is true if To is only tried, or was From again after a trial. If it is false, To
	// is the best number so far; it may have been set by a trial before.
	Trial  bool
	Reason string // such as "1.93 times the throughput"
}

// PoolStats are about one pool.
type PoolStats struct {
	Pool     string
	Min, Max int
	Workers  int           // now, a trial's included
	Best     int           // the best number so far
	Resting  bool          // Best has proved best, and no trial is under way
	Latency  time.Duration // time that one success takes a worker, as last measured at Best; zero if unknown
	Rate     float64       // Best / Latency: successes per second with all workers busy; zero if unknown
	Changes  uint64        // of Best
	Trials   uint64
	Last     Change // of Best; zero if there was none
}

// Controller moves the numbers of workers of pools. It is a [tether.Observer] and must be
// the Observer of the pools' registry, or one of them: see [tether.JoinObservers]. It must
// not be shared by registries. Its methods are safe for concurrent use.
type Controller struct {
	tether.NopObserver
	cfg   Config
	mu    sync.Mutex                          // held to replace pools
	pools atomic.Pointer[map[string]*adapted] // by name; replaced and never written
}

var _ tether.RetryObserver = (*Controller)(nil)

// New returns a Controller that does nothing until [Controller.Adapt]. It panics if the
// Interval is negative, which is a programming error.
func New(cfg Config) *Controller {
	if cfg.Interval < 0 {
		panic(fmt.Sprintf("adaptive: New: negative Interval %v", cfg.Interval))
	}
	if cfg.Interval == 0 {
		cfg.Interval = 50 * time.Millisecond
	}
	c := &Controller{cfg: cfg}
	c.pools.Store(&map[string]*adapted{})
	return c
}

// Adapt moves the number of workers of a pool between least and most from now on. It
// begins with the number that the pool has, or the nearest within the bounds. If the
// program calls Resize later, the search goes on from that number as soon as a task ends.
//
// Adapt returns a [tether.ErrInvalid] and changes nothing if the pool is nil, a bound is
// less than 1, least is more than most, or a pool of that name is adapted already.
func (c *Controller) Adapt(p *tether.Pool, least, most int) error {
	switch {
	case p == nil:
		return fmt.Errorf("%w: adaptive: nil pool", tether.ErrInvalid)
	case least < 1 || least > most:
		return fmt.Errorf("%w: adaptive: pool %q: %d to %d workers", tether.ErrInvalid, p.Name(), least, most)
	}
	c.mu.Lock()
	known := *c.pools.Load()
	if known[p.Name()] != nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: adaptive: a pool %q is adapted already", tether.ErrInvalid, p.Name())
	}
	had := p.Stats().Workers
	a := &adapted{controller: c, pool: p, since: time.Now(), search: newSearch(least, most, had, c.cfg.Interval), applied: had}
	if a.search.base != had {
		a.search.moves = 1
	}
	pools := maps.Clone(known)
	pools[p.Name()] = a
	c.pools.Store(&pools)
	c.mu.Unlock()
	if n := min(max(had, least), most); n != had {
		a.announce([]Change{{From: had, To: n, Reason: "outside the bounds"}})
	}
	return nil
}

// Stats returns the state of each adapted pool, ordered by name.
func (c *Controller) Stats() []PoolStats {
	var all []PoolStats
	for _, a := range *c.pools.Load() {
		all = append(all, a.stats())
	}
	slices.SortFunc(all, func(a, b PoolStats) int { return strings.Compare(a.Pool, b.Pool) })
	return all
}

// TaskStarted implements [tether.Observer].
func (c *Controller) TaskStarted(ctx context.Context, t *tether.Task) context.Context {
	if a := (*c.pools.Load())[t.Pool()]; a != nil {
		if _, started, _ := t.Times(); !started.Before(a.since) {
			a.mu.Lock()
			a.running++
			a.mu.Unlock()
		}
	}
	return ctx
}

// TaskRetrying implements [tether.RetryObserver].
func (c *Controller) TaskRetrying(_ context.Context, t *tether.Task, _ error, _ time.Duration) {
	if a := (*c.pools.Load())[t.Pool()]; a != nil && t.Attempt() == 1 {
		_, started, _ := t.Times()
		a.ended(started, time.Now(), false)
	}
}

// TaskEnded implements [tether.Observer].
func (c *Controller) TaskEnded(_ context.Context, t *tether.Task) {
	a := (*c.pools.Load())[t.Pool()]
	if a == nil {
		return
	}
	_, started, ended := t.Times()
	if started.IsZero() || t.Attempt() > 1 { // it was dropped, or TaskRetrying has counted it
		return
	}
	switch t.State() {
	case tether.Succeeded:
		a.ended(started, ended, true)
	case tether.Canceled:
		if info := t.Info(); !errors.Is(info.Err, tether.ErrTimeout) {
			a.canceled(started)
			return
		}
		fallthrough
	default:
		a.ended(started, ended, false)
	}
}

// adapted is a pool with its search.
type adapted struct {
	controller *Controller
	pool       *tether.Pool
	since      time.Time // tasks that started earlier are not counted

	mu      sync.Mutex
	search  *search   // guarded by mu
	running int       // tasks that have started and not ended, without retries; guarded by mu
	applied int       // the pool's workers as set last; written with resizing held, too
	last    Change    // guarded by mu
	checked time.Time // when the pool's workers were last compared with applied; guarded by mu

	resizing sync.Mutex // held while the pool is resized, so that the last number is the newest. Locked before mu
}

// ended counts an attempt that has ended.
func (a *adapted) ended(started, now time.Time, ok bool) {
	if started.Before(a.since) {
		return
	}
	a.mu.Lock()
	running := a.running
	a.running--
	changes := a.search.ended(ok, now.Sub(started), running, now)
	check := now.Sub(a.checked) >= a.controller.cfg.Interval || now.Before(a.checked)
	if check {
		a.checked = now
	}
	a.mu.Unlock()
	if check || changes != nil {
		a.announce(changes)
	}
}

// canceled counts a task that was canceled by the program: it is no measurement.
func (a *adapted) canceled(started time.Time) {
	if started.Before(a.since) {
		return
	}
	a.mu.Lock()
	a.running--
	a.mu.Unlock()
}

// announce resizes the pool and makes the changes known.
func (a *adapted) announce(changes []Change) {
	now := time.Now()
	for i := range changes {
		changes[i].Pool, changes[i].Time = a.pool.Name(), now
	}
	changes = append(a.resize(now), changes...)
	if len(changes) == 0 {
		return
	}
	a.mu.Lock()
	for _, change := range changes {
		if !change.Trial {
			a.last = change
		}
	}
	a.mu.Unlock()
	for _, change := range changes {
		a.report(change)
	}
}

// resize gives the pool the number of workers that the search wants now. If the program
// has resized the pool meanwhile, the search restarts from there.
func (a *adapted) resize(now time.Time) []Change {
	a.resizing.Lock()
	defer a.resizing.Unlock()
	a.mu.Lock()
	var changes []Change
	has := a.pool.Stats().Workers
	if has != a.applied {
		s := a.search
		change := Change{Pool: a.pool.Name(), Time: now, From: a.applied, To: min(max(has, s.min), s.max), Reason: fmt.Sprintf("resized to %d by the program", has)}
		s.restart(change.To, largest/4)
		s.moves++
		changes = []Change{change}
	}
	n := a.search.workers
	a.applied = n
	a.mu.Unlock()
	if n != has {
		_ = a.pool.Resize(n) // it fails for negative numbers alone
	}
	return changes
}

// report logs a change and calls OnChange.
func (a *adapted) report(change Change) {
	logger, level := a.controller.cfg.Logger, slog.LevelInfo
	if logger == nil {
		logger = slog.Default()
	}
	if change.Trial {
		level = slog.LevelDebug
	}
	logger.LogAttrs(context.Background(), level, "workers changed", slog.String("pool", change.Pool),
		slog.Int("from", change.From), slog.Int("to", change.To), slog.Bool("trial", change.Trial), slog.String("reason", change.Reason))
	if a.controller.cfg.OnChange != nil {
		a.controller.cfg.OnChange(change)
	}
}

func (a *adapted) stats() PoolStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.search
	stats := PoolStats{
		Pool: a.pool.Name(), Min: s.min, Max: s.max, Workers: s.workers, Best: s.base, Resting: s.rest > 0,
		Changes: s.moves, Trials: s.trials, Last: a.last,
	}
	if s.known > 0 {
		stats.Latency = time.Duration(s.known * float64(time.Second))
		stats.Rate = float64(s.base) / s.known
	}
	return stats
}
