package river

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// River has no heartbeat: it takes a job that runs for long for one whose worker has crashed.
// So that is out of the way, and this is in its place. Every consumer says again and again
// that the jobs it has are alive, by a new attempted_at, and makes those available of which
// nobody has said so for the length of silence. All times are the database's.
const (
	beat      = 5 * time.Second
	beatAgain = time.Second     // after one that has failed
	beatTime  = 5 * time.Second // for a beat
	silence   = 30 * time.Second
)

// outcomeTime is how long a job is said to be alive whose handler has returned and whose
// outcome is not stored: longer than anybody tries to (see keeper), and not for ever.
const outcomeTime = 5 * time.Minute

// Presence is how a consumer is known to its database. Its methods are not called at the
// same time.
type Presence interface {
	// Alive says of these jobs, those of them that run, that their worker lives.
	Alive(ctx context.Context, jobs []int64) error
	// Rescue makes those jobs available that run, and of which that was last said so long ago.
	Rescue(ctx context.Context, silence time.Duration) (jobs int64, err error)
	// End is called when the consumer's last job has ended.
	End()
}

// pulse is a consumer's presence at work.
//
// The invariant: a job is in jobs from before its handler is called until its outcome is
// stored. And who rescues has itself been in touch with the database for as long as it takes
// anybody to fall silent: after an outage, or a night in which the machine slept, the jobs of
// all seem to be dead, and each worker first has the time to say that its own are not.
type pulse struct {
	Presence

	log *slog.Logger

	mu   sync.Mutex
	jobs map[int64]*vital // guarded by mu

	// Of run's goroutine. Of the wall clock, since the monotonic one may stand still in a
	// machine that sleeps.
	since, last time.Time // the first and the last of the beats that have kept time
}

// vital is a job that a consumer has.
type vital struct {
	began time.Time
	ended time.Time // when its handler returned; zero: it has not
}

func newPulse(p Presence, log *slog.Logger) *pulse {
	return &pulse{Presence: p, log: log, jobs: make(map[int64]*vital)}
}

// begin notes a job whose handler is about to be called; end, that it has returned.
func (p *pulse) begin(id int64) (end func()) {
	v := &vital{began: wall()}
	p.mu.Lock()
	p.jobs[id] = v
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		v.ended = wall()
		p.mu.Unlock()
	}
}

// stored notes that the database has the outcomes of these jobs. One of them may have begun
// anew by now.
func (p *pulse) stored(ids []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if v := p.jobs[id]; v != nil && !v.ended.IsZero() {
			delete(p.jobs, id)
		}
	}
}

// run beats until ctx ends.
func (p *pulse) run(ctx context.Context) {
	failing := false
	for {
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			p.log.Warn("durable: the database does not hear that jobs are alive", "error", err)
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

func (p *pulse) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	now := wall()
	if err := p.Alive(ctx, p.due(now)); err != nil {
		return err
	}
	if gap := now.Sub(p.last); gap > silence/2 || gap < 0 {
		p.since = now
	}
	p.last = now
	if now.Sub(p.since) < silence {
		return nil
	}
	n, err := p.Rescue(ctx, silence)
	if n > 0 {
		p.log.Warn("durable: jobs start again whose worker is gone", "jobs", n)
	}
	return err
}

// due returns the jobs of which the database should hear. Short ones have ended before.
func (p *pulse) due(now time.Time) []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := []int64{}
	for id, v := range p.jobs {
		switch {
		case !v.ended.IsZero() && now.Sub(v.ended) > outcomeTime:
			delete(p.jobs, id)
		case now.Sub(v.began) >= beat/2:
			ids = append(ids, id)
		}
	}
	return ids
}

func wall() time.Time { return time.Now().Round(0) }
