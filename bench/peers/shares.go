package peers

import (
	"context"

	"github.com/seed-2e639f12/tether"
)

// TetherShares is a pool whose tasks have the share of the body's number. The other libraries
// have nothing of the kind: their tasks wait in one queue.
func TetherShares(cfg tether.PoolConfig) Candidate {
	return Candidate{
		Name: "tether shares", Kind: Ours, Setting: "`Pool.Go(…, Share(key))`, `Pool{Workers: limit, Queue: Unbounded}`", Queues: true,
		Limited: func(limit int) (*System, error) {
			reg := newRegistry(tether.Config{})
			cfg.Workers, cfg.Queue = limit, tether.Unbounded
			pool := reg.NewPool("pool", cfg)
			s := tetherSystem(reg, pool)
			s.TaskOf = func(share string, body func()) func() error {
				fn := func(context.Context) error { body(); return nil }
				option := tether.Share(share)
				return func() error {
					_, err := pool.Go(context.Background(), "task", fn, option)
					return err
				}
			}
			return s, nil
		},
	}
}
