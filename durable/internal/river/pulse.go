package river

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// River has no heartbeat: it presumes that the worker of a job that runs for long has crashed.
// That is disabled. Instead every consumer records regularly that it is alive, and makes the
// jobs of silent consumers available.
const (
	beat      = 5 * time.Second
	beatAgain = time.Second     // after a beat that has failed
	beatTime  = 5 * time.Second // for a beat, and for a rescue; SQLite may wait ten for a lock
	Silence   = 30 * time.Second
)

// outcomeTime is how long a consumer keeps a job whose handler has returned and whose outcome
// is not stored. It is longer than keeper tries to store it.
const outcomeTime = 10 * time.Minute

// Presence is how a consumer is known to its database: by its ID, which River writes into
// attempted_by, in the table tether_worker (id, since, seen). All times are the database's.
// Its methods are not called at the same time.
//
// The invariant: since is the first of a series of times at which the consumer was seen, no two
// of which are more than Silence/2 apart. A consumer rescues only if it was seen just now and
// its since is Silence ago or more. So after an outage, a fail-over to a clock that is ahead, or
// a suspension of the machine, when all consumers seem to have been silent, each has the time to
// be seen again.
type Presence interface {
	// Beat records that the consumer was seen, and returns the database's time.
	Beat(ctx context.Context) (now time.Time, err error)
	// Count stores that this attempt of the job counts even if it is never answered. It reports
	// whether the consumer still runs that attempt.
	Count(ctx context.Context, id int64, attempt int) (mine bool, err error)
	// Rewind makes available jobs due that wait for a time more than ten seconds ahead and have
	// no RunAt: the database's clock was set back, and they would wait until it has caught up.
	Rewind(ctx context.Context) (jobs int64, err error)
	// Rescue makes jobs available that began to run at least Silence ago and whose consumer was
	// not seen for Silence, and jobs of this consumer that are not in mine, which must not be
	// nil. It records the crash: see notes.
	Rescue(ctx context.Context, mine []int64) (jobs int64, err error)
	// End is called when the consumer's last job has ended.
	End()
}

// pulse is a consumer's presence at work.
type pulse struct {
	Presence

	log *slog.Logger

	ahead atomic.Int64 // how far the database's clock is ahead of ours, in nanoseconds

	mu   sync.Mutex
	jobs map[int64]*held // from before the handler is called until the outcome is stored; guarded by mu
}

// held is a job that a consumer has.
type held struct {
	id    int64
	ended time.Time // when its handler returned; zero if it has not
}

func newPulse(p Presence, log *slog.Logger) *pulse {
	return &pulse{Presence: p, log: log, jobs: make(map[int64]*held)}
}

// begin records that a job's handler is about to be called, and end that it has returned.
func (p *pulse) begin(id int64) (h *held, end func()) {
	h = &held{id: id}
	p.mu.Lock()
	p.jobs[id] = h
	p.mu.Unlock()
	return h, func() {
		p.mu.Lock()
		h.ended = time.Now()
		p.mu.Unlock()
	}
}

// superseded reports whether the same consumer has begun another attempt at the job.
func (p *pulse) superseded(h *held) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.jobs[h.id] != h
}

// stored records that the database has the outcomes of these jobs. One of them may have begun
// another attempt by now.
func (p *pulse) stored(ids []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if h := p.jobs[id]; h != nil && !h.ended.IsZero() {
			delete(p.jobs, id)
		}
	}
}

// run beats until ctx ends.
func (p *pulse) run(ctx context.Context) {
	failing := false
	for {
		err := within(ctx, beatTime, p.beat)
		if err == nil {
			err = within(ctx, beatTime, p.rescue)
		}
		if err == nil {
			err = within(ctx, beatTime, p.rewind)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			p.log.Warn("durable: a worker cannot say that it is alive, or look after those that are not", "error", err)
		}
		failing = err != nil
		next := beat
		if failing {
			next = beatAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// beat is Presence.Beat. It notes by how much the clocks differ; of the time that the call
// takes it can only be known that the database's time is within.
func (p *pulse) beat(ctx context.Context) error {
	before := time.Now()
	now, err := p.Beat(ctx)
	if err != nil {
		return err
	}
	after := time.Now()
	switch {
	case now.Before(before):
		p.ahead.Store(int64(now.Sub(before)))
	case now.After(after):
		p.ahead.Store(int64(now.Sub(after)))
	default:
		p.ahead.Store(0)
	}
	return nil
}

func (p *pulse) rewind(ctx context.Context) error {
	n, err := p.Rewind(ctx)
	if n > 0 {
		p.log.Warn("durable: the database's clock was set back; jobs that would have waited for it are due", "jobs", n)
	}
	return err
}

func within(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return fn(ctx)
}

func (p *pulse) rescue(ctx context.Context) error {
	n, err := p.Rescue(ctx, p.mine())
	if n > 0 {
		p.log.Warn("durable: jobs run again whose process has ended", "jobs", n)
	}
	return err
}

// mine returns the jobs that the consumer has.
func (p *pulse) mine() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]int64, 0, len(p.jobs))
	for id, h := range p.jobs {
		if !h.ended.IsZero() && time.Since(h.ended) > outcomeTime {
			delete(p.jobs, id)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}
