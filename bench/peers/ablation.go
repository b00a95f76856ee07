package peers

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Names of the baselines of the two ablations.
const (
	PlainTask   = "Registry.Go, no options"
	PooledTask  = "Pool.Go, no options"
	plainBudget = 2 // workers of each pool
)

// feature is one addition to a plain task.
type feature struct {
	name    string
	reg     tether.Config
	pool    *tether.PoolConfig // nil for a task of the registry itself
	options func() []tether.Option
	wrap    func(tether.Func) tether.Func // adds to what the body does
	submit  func(ctx context.Context, r tether.Submitter, fn tether.Func) error
}

// RegistryFeatures returns a plain task of a registry, and the same with one addition each.
func RegistryFeatures() []Candidate {
	return ablation([]feature{
		{name: PlainTask},
		{name: "Retain: -1, nothing retained", reg: tether.Config{Retain: -1}},
		{name: "Limit, not reached", reg: tether.Config{Limit: 1 << 30}},
		{name: "Config.Timeout", reg: tether.Config{Timeout: time.Hour}},
		{name: "an Observer that does nothing", reg: tether.Config{Observer: tether.NopObserver{}}},
		{name: "StuckAfter", reg: tether.Config{StuckAfter: time.Hour}},
		{name: "Timeout", options: func() []tether.Option { return []tether.Option{tether.Timeout(time.Hour)} }},
		{name: "Retry, not needed", options: func() []tether.Option {
			return []tether.Option{tether.Retry(tether.RetryPolicy{Attempts: 3})}
		}},
		{name: "Label", options: func() []tether.Option { return []tether.Option{tether.Label("key", "value")} }},
		{name: "HandOver", options: func() []tether.Option { return []tether.Option{tether.HandOver(keep)} }},
		{name: "Unique, a new key each", options: func() []tether.Option { return []tether.Option{tether.Unique(newKey())} }},
		{name: "Serial, a new key each", options: func() []tether.Option { return []tether.Option{tether.Serial(newKey())} }},
		{name: "Serial, one key for all", options: func() []tether.Option { return []tether.Option{tether.Serial("key")} }},
		{name: "Delay of 1 µs", options: func() []tether.Option { return []tether.Option{tether.Delay(time.Microsecond)} }},
		{name: "Hold and Release", submit: holdAndRelease},
		{name: "Submit, a typed result", submit: submitTyped},
		{name: "ID asked for", submit: asking(func(t *tether.Task) { _ = t.ID() })},
		{name: "Done asked for", submit: asking(func(t *tether.Task) { t.Done() })},
		{name: "ctx.Value used", wrap: before(func(ctx context.Context) { _ = ctx.Value(requestKey{}) })},
		{name: "ctx.Done used", wrap: before(func(ctx context.Context) { ctx.Done() })},
		{name: "ReportProgress", wrap: before(func(ctx context.Context) {
			tether.ReportProgress(ctx, tether.Progress{Done: 1, Total: 2})
		})},
		{name: "an error, logged", wrap: after(func() error { return errTask })},
		{name: "a panic, logged with its stack", wrap: after(func() error { panic(errTask) })},
		{name: "a Goexit, logged", wrap: after(func() error { runtime.Goexit(); return nil })},
	})
}

var shareKeys = func() (keys [100]string) {
	for i := range keys {
		keys[i] = "tenant " + strconv.Itoa(i)
	}
	return keys
}()

// PoolFeatures returns the same for a task of a pool.
func PoolFeatures() []Candidate {
	weight := func() []tether.Option { return []tether.Option{tether.Weight(1)} }
	return ablation([]feature{
		{name: PooledTask, pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded}},
		{name: "a queue of 1024, OverflowBlock", pool: &tether.PoolConfig{Workers: plainBudget, Queue: 1024, Overflow: tether.OverflowBlock}},
		{name: "a queue of 20 000, OverflowReject", pool: &tether.PoolConfig{Workers: plainBudget, Queue: 20_000, Overflow: tether.OverflowReject}},
		{name: "Capacity", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded, Capacity: plainBudget}},
		{name: "Capacity and Weight", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded, Capacity: plainBudget}, options: weight},
		{name: "Serial, a new key each", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded},
			options: func() []tether.Option { return []tether.Option{tether.Serial(newKey())} }},
		{name: "Share, one of 100", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded},
			options: func() []tether.Option { return []tether.Option{tether.Share(shareKeys[rand.IntN(len(shareKeys))])} }},
		{name: "Urgent", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded},
			options: func() []tether.Option { return []tether.Option{tether.Urgent()} }},
		{name: "MaxWait", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded, MaxWait: time.Hour}},
		{name: "Hold and Release", pool: &tether.PoolConfig{Workers: plainBudget, Queue: tether.Unbounded}, submit: holdAndRelease},
		{name: "OverflowCallerRuns, no queue, one worker", pool: &tether.PoolConfig{Workers: 1, Overflow: tether.OverflowCallerRuns}},
	})
}

func ablation(features []feature) []Candidate {
	candidates := []Candidate{Go()}
	for _, f := range features {
		candidates = append(candidates, Candidate{
			Name: f.name, Kind: Ours,
			Unlimited: func() (*System, error) { return f.system(), nil },
		})
	}
	return candidates
}

// system makes new options for each task, as a program does.
func (f feature) system() *System {
	reg := newRegistry(f.reg)
	var runner tether.Submitter = reg
	if f.pool != nil {
		runner = reg.NewPool("pool", *f.pool)
	}
	ctx, answered := requestContext()
	submit := f.submit
	switch {
	case submit != nil:
	case f.options != nil:
		submit = func(ctx context.Context, r tether.Submitter, fn tether.Func) error {
			_, err := r.Go(ctx, "task", fn, f.options()...)
			return err
		}
	default:
		submit = func(ctx context.Context, r tether.Submitter, fn tether.Func) error {
			_, err := r.Go(ctx, "task", fn)
			return err
		}
	}
	return &System{
		Task: func(body func()) func() error {
			fn := tether.Func(func(context.Context) error { body(); return nil })
			if f.wrap != nil {
				fn = f.wrap(fn)
			}
			return func() error { return submit(ctx, runner, fn) }
		},
		Close: func() error { defer answered(); return drain(reg)() },
	}
}

var errTask = errors.New("the task's error")

func keep(context.Context, tether.Info) error { return nil }

func holdAndRelease(ctx context.Context, r tether.Submitter, fn tether.Func) error {
	task, err := r.Go(ctx, "task", fn, tether.Hold())
	if err == nil {
		task.Release()
	}
	return err
}

func submitTyped(ctx context.Context, r tether.Submitter, fn tether.Func) error {
	_, err := tether.Submit(ctx, r, "task", func(ctx context.Context) (int, error) { return Answer, fn(ctx) })
	return err
}

func asking(question func(*tether.Task)) func(context.Context, tether.Submitter, tether.Func) error {
	return func(ctx context.Context, r tether.Submitter, fn tether.Func) error {
		task, err := r.Go(ctx, "task", fn)
		if err == nil {
			question(task)
		}
		return err
	}
}

func before(do func(context.Context)) func(tether.Func) tether.Func {
	return func(fn tether.Func) tether.Func {
		return func(ctx context.Context) error { do(ctx); return fn(ctx) }
	}
}

func after(do func() error) func(tether.Func) tether.Func {
	return func(fn tether.Func) tether.Func {
		return func(ctx context.Context) error { _ = fn(ctx); return do() }
	}
}

// keys are made once, outside the measured time. There are more of them than there can be
// live tasks: a Unique key that is taken would lose a task.
var keys = sync.OnceValue(func() []string {
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = "customer " + strconv.Itoa(i)
	}
	return keys
})

var nextKey atomic.Uint32

func newKey() string {
	keys := keys()
	return keys[nextKey.Add(1)%uint32(len(keys))]
}
