package tether

import (
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether/internal/headroom"
)

// MemoryError describes how little memory was left when a task was refused: see
// [Config].MemoryHeadroom. It is an [ErrFull]. Refusals may share one value, which must
// not be changed.
type MemoryError struct {
	InUse, Limit, Headroom int64         // in bytes; Limit is that of GOMEMLIMIT
	RetryAfter             time.Duration // a guess of when there will be memory
}

func (e *MemoryError) Error() string {
	const mib = 1 << 20
	return fmt.Sprintf("tether: out of memory: %d MiB in use, limit %d MiB, headroom %d MiB", e.InUse/mib, e.Limit/mib, e.Headroom/mib)
}

func (e *MemoryError) Is(target error) bool { return target == ErrFull }

// initMemory makes the guard of the headroom, if there is one.
func (r *Registry) initMemory() {
	if r.cfg.MemoryHeadroom == 0 {
		return
	}
	r.memory = headroom.New(r.cfg.MemoryHeadroom, headroom.Runtime(), func(collect func()) {
		r.drain.helpers.Add(1) // Shutdown waits for it
		go func() {
			defer r.drain.notify()
			defer r.drain.helpers.Add(-1)
			collect()
		}()
	})
}
