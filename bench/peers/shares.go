package peers

import (
	"context"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// TetherShares is a pool whose tasks have the share of the body's number. The other libraries
// have nothing of the kind: their tasks wait in one queue.
func TetherShares(cfg tether.PoolConfig) Candidate {
	return Candidate{
		Name: "tether shares", Kind: Ours, Setting: "`Pool.Go(…, Share(key))`, `Pool{Workers: limit, Queue: Unbounded}`", Queues: true,
		Limited: func(limit int) (*System, error) {
			cfg.Workers, cfg.Queue = limit, tether.Unbounded
			return tetherOf(cfg, func(share string) []tether.Option { return []tether.Option{tether.Share(share)} }), nil
		},
	}
}

// TetherPools has a pool of its own for each share.
func TetherPools() Candidate {
	return Candidate{
		Name: "a pool each", Kind: Ours, Setting: "a `Pool{Workers: limit, Queue: Unbounded}` for each share", Queues: true,
		Limited: func(limit int) (*System, error) {
			reg := newRegistry(tether.Config{})
			pools := make(map[string]*System)
			task := func(share string, body func()) func() error {
				if pools[share] == nil {
					pools[share] = tetherSystem(reg, reg.NewPool("pool", tether.PoolConfig{Workers: limit, Queue: tether.Unbounded}))
				}
				return pools[share].Task(body)
			}
			return &System{Task: func(body func()) func() error { return task("", body) }, TaskOf: task, Close: drain(reg)}, nil
		},
	}
}

// UrgentShare is the share whose tasks TetherUrgent makes urgent.
const UrgentShare = "urgent"

// TetherUrgent is a pool without shares, in which the tasks of UrgentShare are urgent.
func TetherUrgent() Candidate {
	return Candidate{
		Name: "tether urgent", Kind: Ours, Setting: "`Pool.Go(…, Urgent())`, `Pool{Workers: limit, Queue: Unbounded}`", Queues: true,
		Limited: func(limit int) (*System, error) {
			return tetherOf(tether.PoolConfig{Workers: limit, Queue: tether.Unbounded}, func(share string) []tether.Option {
				if share == UrgentShare {
					return []tether.Option{tether.Urgent()}
				}
				return nil
			}), nil
		},
	}
}

// tetherOf is a pool whose tasks have the options of their share.
func tetherOf(cfg tether.PoolConfig, options func(share string) []tether.Option) *System {
	reg := newRegistry(tether.Config{})
	pool := reg.NewPool("pool", cfg)
	s := tetherSystem(reg, pool)
	s.TaskOf = func(share string, body func()) func() error {
		fn := func(context.Context) error { body(); return nil }
		opts := options(share)
		return func() error {
			_, err := pool.Go(context.Background(), "task", fn, opts...)
			return err
		}
	}
	return s
}

// TetherMaxWait is a pool with an unbounded queue in which no task waits longer.
func TetherMaxWait(maxWait time.Duration) Candidate {
	return Candidate{
		Name: "tether MaxWait", Kind: Ours, Setting: "`Pool{Workers: limit, Queue: Unbounded, MaxWait: " + maxWait.String() + "}`", Queues: true,
		Rejecting: func(limit, _ int) (*Rejecting, error) {
			reg := newRegistry(tether.Config{})
			p := reg.NewPool("pool", tether.PoolConfig{Workers: limit, Queue: tether.Unbounded, MaxWait: maxWait})
			return &Rejecting{
				Queues: true,
				Task: func(body func()) func() bool {
					task := func(context.Context) error { body(); return nil }
					return func() bool { _, err := p.Go(context.Background(), "task", task); return err == nil }
				},
				Close: drain(reg),
			}, nil
		},
	}
}

// TetherRate is a pool that starts one task in each gap.
func TetherRate(gap time.Duration) Candidate {
	return Candidate{
		Name: "tether rate", Kind: Ours, Setting: "`Pool{Workers: limit, Queue: Unbounded, Rate: Rate{1, " + gap.String() + ", 0}}`", Queues: true,
		Limited: func(limit int) (*System, error) {
			return tetherOf(tether.PoolConfig{Workers: limit, Queue: tether.Unbounded, Rate: tether.Rate{Tasks: 1, Per: gap}}, func(string) []tether.Option { return nil }), nil
		},
	}
}

// Ticks is a goroutine that starts one task at each tick of a time.Ticker.
func Ticks(gap time.Duration) Candidate {
	return Candidate{
		Name: "ticker", Kind: Baseline, Setting: "a goroutine that runs one body at each tick of `time.NewTicker(" + gap.String() + ")`", Queues: true,
		Limited: func(int) (*System, error) {
			bodies := make(chan func(), 1<<20)
			var ended sync.WaitGroup
			ended.Go(func() {
				ticker := time.NewTicker(gap)
				defer ticker.Stop()
				for body := range bodies {
					<-ticker.C
					body()
				}
			})
			return &System{
				Task:  func(body func()) func() error { return func() error { bodies <- body; return nil } },
				Close: func() error { close(bodies); ended.Wait(); return nil },
			}, nil
		},
	}
}

// Timers runs each body at once on the submitter's goroutine, and has a timer for each share
// from its first task on, as a rate limit for each share may be written by hand.
func Timers(gap time.Duration) Candidate {
	return Candidate{
		Name: "timers", Kind: Baseline, Setting: "a map of shares, with a `time.AfterFunc(" + gap.String() + ", …)` for each",
		Limited: func(int) (*System, error) {
			var mu sync.Mutex
			timers := make(map[string]*time.Timer)
			task := func(share string, body func()) func() error {
				return func() error {
					body()
					mu.Lock()
					defer mu.Unlock()
					if timers[share] == nil {
						timers[share] = time.AfterFunc(gap, func() {})
					}
					return nil
				}
			}
			return &System{
				Task:   func(body func()) func() error { return task("", body) },
				TaskOf: task,
				Close: func() error {
					for _, t := range timers {
						t.Stop()
					}
					return nil
				},
			}, nil
		},
	}
}
