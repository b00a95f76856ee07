package tether

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever is submitted, canceled, paused and resized, the counts of the order are zero once
// nothing is live.
func TestP8_CountsReturnToZero(t *testing.T) {
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			r := New(Config{Logger: slog.New(slog.DiscardHandler)})
			pick := func(n int) int { return random.IntN(n) }
			cfg := PoolConfig{Workers: 1 + pick(4), Queue: pick(20), Overflow: Overflow(pick(4)), Capacity: int64(pick(2) * 4), ShareWorkers: pick(3), ShareLimit: pick(8), MaxWait: time.Duration(pick(2)) * 3 * time.Second}
			if pick(2) == 0 {
				cfg.ShareRate = Rate{Tasks: 2, Per: time.Second, Burst: 1 + pick(3)}
			}
			if pick(3) == 0 {
				cfg.Rate = Rate{Tasks: 5, Per: time.Second}
			}
			if cfg.Overflow == OverflowCallerRuns {
				cfg.Rate, cfg.ShareRate = Rate{}, Rate{}
			}
			p := r.NewPool("pool", cfg)
			end := make(chan struct{})
			for range 2 { // cancels from other goroutines
				go func() {
					for {
						select {
						case <-end:
							return
						case <-time.After(time.Duration(rand.IntN(300)) * time.Millisecond):
						}
						for task := range r.Tasks() {
							if rand.IntN(6) == 0 {
								task.Cancel(nil)
							}
						}
					}
				}()
			}
			for i := range 400 {
				var opts []Option
				if pick(2) == 0 {
					opts = append(opts, Share(fmt.Sprint("share ", pick(4))))
				}
				if pick(4) == 0 {
					opts = append(opts, Serial(fmt.Sprint("key ", pick(3))))
				}
				if pick(5) == 0 {
					opts = append(opts, Urgent())
				}
				if pick(5) == 0 {
					opts = append(opts, Weight(int64(1+pick(4))))
				}
				if pick(6) == 0 {
					opts = append(opts, Delay(time.Duration(pick(2000))*time.Millisecond))
				}
				if pick(6) == 0 {
					opts = append(opts, Retry(RetryPolicy{Attempts: 3, Backoff: ExponentialBackoff(time.Second, time.Minute)}))
				}
				kind, d := pick(8), time.Duration(pick(700))*time.Millisecond
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(pick(3000))*time.Millisecond)
				go func() {
					defer cancel()
					_, _ = p.Go(ctx, "task", func(ctx context.Context) error {
						time.Sleep(d)
						switch kind {
						case 0:
							return errors.New("on purpose")
						case 1:
							panic("on purpose")
						case 2:
							runtime.Goexit()
						case 3:
							return PauseShare(ctx, time.Now().Add(2*time.Second))
						}
						return nil
					}, opts...)
				}()
				switch pick(20) {
				case 0:
					p.Pause()
				case 1, 2:
					p.Resume()
				case 3:
					_ = p.Resize(1 + pick(5))
				}
				if i%3 == 0 {
					time.Sleep(time.Duration(pick(200)) * time.Millisecond)
				}
			}
			p.Resume()
			if seed%2 == 0 {
				if err := WaitIdle(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
			close(end)
			ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
			defer cancel()
			if err := r.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Hour)
			q := &p.queue
			q.workers.Lock()
			defer q.workers.Unlock()
			o := &q.order
			var live, waiting, running int32
			listed, sum := 0, 0
			o.eachShare(func(s *share) {
				live, waiting, running = live+s.live, waiting+s.waiting, running+s.running
				for l := range s.lists {
					for n := s.lists[l].head; n != nil; n = n.next {
						listed++
					}
				}
			})
			if o.turns != nil {
				sum = o.turns.waiting
			}
			queued, runs := q.gate.Count()
			if live != 0 || waiting != 0 || running != 0 || sum != 0 || o.weight != 0 || o.used != 0 || len(o.keys) != 0 || queued != 0 || runs != 0 || q.held != 0 || q.inline != 0 || q.alarm.busy != 0 {
				t.Errorf("seed %d: live %d, waiting %d, running %d, sum %d, weight %d, used %d, keys %d, gate %d %d, held %d, inline %d, busy %d, listed %d", seed, live, waiting, running, sum, o.weight, o.used, len(o.keys), queued, runs, q.held, q.inline, q.alarm.busy, listed)
			}
		})
	}
}
