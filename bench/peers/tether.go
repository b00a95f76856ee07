package peers

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/adaptive"
)

// Tether is the library with its defaults: every task has a name, an id, a state and a
// context, can be found and is listed, its panic is contained, and the last 1024 finished
// tasks are retained. Only the log is discarded, since no peer writes one. The queue is
// unbounded, like the queues of the peers.
func Tether() Candidate {
	return Candidate{
		Name: "tether", Kind: Ours, Setting: "`Registry.Go`; `Pool{Workers: limit, Queue: Unbounded}`; a bounded queue to reject; `Submit`", Queues: true,
		Unlimited: func() (*System, error) {
			reg := newRegistry(tether.Config{})
			return tetherSystem(reg, reg), nil
		},
		Limited: func(limit int) (*System, error) { return tetherPool(limit, tether.Unbounded), nil },
		Rejecting: func(limit, queue int) (*Rejecting, error) {
			reg := newRegistry(tether.Config{})
			p := reg.NewPool("pool", tether.PoolConfig{Workers: limit, Queue: queue, Overflow: tether.OverflowReject})
			ctx := context.Background()
			return &Rejecting{
				Queues: true,
				Task: func(body func()) func() bool {
					task := func(context.Context) error { body(); return nil }
					return func() bool { _, err := p.Go(ctx, "task", task); return err == nil }
				},
				Close: drain(reg),
			}, nil
		},
		Results:     tetherResults,
		Contexts:    func() (*Contexts, error) { return tetherContexts(context.Background(), func() {}) },
		OwnContexts: func() (*Contexts, error) { return tetherContexts(requestContext()) },
	}
}

// TetherQueue is a pool with a queue of 1024 tasks. A submitter waits while the queue is
// full. It is measured beside the pool with an unbounded queue.
func TetherQueue() Candidate {
	return Candidate{
		Name: "tether bounded", Kind: Ours, Setting: "`Pool{Workers: limit, Queue: 1024, Overflow: OverflowBlock}`",
		Limited: func(limit int) (*System, error) { return tetherPool(limit, 1024), nil },
	}
}

func newRegistry(cfg tether.Config) *tether.Registry {
	cfg.Logger = slog.New(slog.DiscardHandler)
	return tether.New(cfg)
}

func drain(reg *tether.Registry) func() error {
	return func() error { return reg.Shutdown(context.Background()) }
}

func tetherPool(workers, queue int) *System {
	reg := newRegistry(tether.Config{})
	return tetherSystem(reg, reg.NewPool("pool", tether.PoolConfig{Workers: workers, Queue: queue, Overflow: tether.OverflowBlock}))
}

func tetherSystem(reg *tether.Registry, r tether.Submitter) *System {
	background := context.Background()
	taskIn := func(body func()) func(context.Context) error {
		task := func(context.Context) error { body(); return nil }
		return func(ctx context.Context) error { _, err := r.Go(ctx, "task", task); return err }
	}
	return &System{
		Task: func(body func()) func() error {
			task := func(context.Context) error { body(); return nil }
			return func() error { _, err := r.Go(background, "task", task); return err }
		},
		TaskIn: taskIn,
		Close:  drain(reg),
	}
}

func tetherResults() (*Results, error) {
	reg := newRegistry(tether.Config{})
	ctx := context.Background()
	task := func(context.Context) (int, error) { return Answer, nil }
	var handles []*tether.Result[int]
	return &Results{
		Sum: func(n int) (sum int, err error) {
			handles = handles[:0]
			for range n {
				handle, err := tether.Submit(ctx, reg, "task", task)
				if err != nil {
					return 0, err
				}
				handles = append(handles, handle)
			}
			for _, handle := range handles {
				value, err := handle.Value(ctx)
				if err != nil {
					return 0, err
				}
				sum += value
			}
			return sum, nil
		},
		Close: drain(reg),
	}, nil
}

// tetherContexts cancels the tasks one by one: Shutdown cancels them only shortly before
// its deadline.
func tetherContexts(submitter context.Context, answered func()) (*Contexts, error) {
	reg := newRegistry(tether.Config{})
	return &Contexts{
		Task: func(body func(context.Context)) func() error {
			task := func(ctx context.Context) error { body(ctx); return nil }
			return func() error { _, err := reg.Go(submitter, "task", task); return err }
		},
		Cancel: func() {
			for task := range reg.Tasks() {
				task.Cancel(nil)
			}
		},
		Close: func() error { defer answered(); return drain(reg)() },
	}, nil
}

// TetherFixed is a pool with that many workers, whatever limit a workload asks for.
func TetherFixed(workers int) Candidate {
	return Candidate{
		Name: strconv.Itoa(workers) + " workers", Kind: Ours,
		Limited: func(int) (*System, error) { return tetherPool(workers, tether.Unbounded), nil },
	}
}

// TetherAdaptive is a pool that begins with 2 workers. Package adaptive moves them between
// 1 and the limit.
func TetherAdaptive() Candidate {
	return Candidate{
		Name: "adaptive", Kind: Ours, Setting: "`adaptive.Controller.Adapt(pool, 1, limit)`, `Pool{Workers: 2, Queue: Unbounded}`",
		Limited: func(limit int) (*System, error) {
			workers := adaptive.New(adaptive.Config{Logger: slog.New(slog.DiscardHandler)})
			reg := newRegistry(tether.Config{Observer: workers})
			p := reg.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: tether.Unbounded})
			if err := workers.Adapt(p, 1, limit); err != nil {
				return nil, err
			}
			return tetherSystem(reg, p), nil
		},
	}
}

// TetherGuarded is a pool that refuses tasks while less than that many bytes are left below
// GOMEMLIMIT.
func TetherGuarded(headroom int64) Candidate {
	return Candidate{
		Name: "tether guarded", Kind: Ours, Setting: "`Config{MemoryHeadroom: " + strconv.FormatInt(headroom>>20, 10) + " MiB}`, `Pool{Workers: limit, Queue: Unbounded}`", Queues: true,
		Limited: func(limit int) (*System, error) {
			reg := newRegistry(tether.Config{MemoryHeadroom: headroom})
			return tetherSystem(reg, reg.NewPool("pool", tether.PoolConfig{Workers: limit, Queue: tether.Unbounded})), nil
		},
	}
}
