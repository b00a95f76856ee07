package schedule

import (
	"errors"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Errors to compare with errors.Is.
var (
	// ErrReplaced is the cause with which OverlapCancel cancels a run.
	ErrReplaced = errors.New("schedule: canceled because the next run is due")
	// ErrRemoved is returned for a schedule that was removed.
	ErrRemoved = errors.New("schedule: removed")
)

// Config configures a schedule. The zero value is ready to use.
type Config struct {
	// Pool is where the runs are submitted. It must be one of the Scheduler's registry. If
	// nil, they are submitted to the registry itself.
	Pool *tether.Pool

	// Options are those of each run. Their functions must be safe for concurrent use.
	Options []tether.Option

	// Overlap is what happens when a run is due while an earlier one has not ended. The zero
	// value skips it.
	Overlap Overlap

	// Missed is what happens to runs that were missed because the machine was suspended, or
	// the process had no time. The zero value runs once.
	Missed Missed

	// Jitter delays each run by a random time of less than Jitter, so that many processes do
	// not begin at once. It must be at most the interval of [Every], and should be less than
	// the time between two runs of any other timetable. The timetable does not drift. Zero
	// means no delay.
	Jitter time.Duration

	// RunAtOnce makes the first run due when the schedule is added. Otherwise it is due when
	// the timetable says.
	RunAtOnce bool
}

// Overlap is what happens when a run of a schedule is due while an earlier one has not
// ended, or still waits for its place in a pool. Two runs of a schedule never overlap.
type Overlap uint8

const (
	// OverlapSkip skips the run.
	OverlapSkip Overlap = iota
	// OverlapQueue starts the run when the earlier one has ended. At most one run is queued;
	// others are skipped.
	OverlapQueue
	// OverlapCancel cancels the earlier run with the cause [ErrReplaced], and starts the new
	// one when it has ended. If it does not end, the new one waits as with OverlapQueue.
	OverlapCancel
)

// Missed is what happens to runs that could not start within a minute of their time,
// because the machine was suspended or its clock was set. Runs that are due while an
// earlier one goes on are not missed: see [Overlap].
type Missed uint8

const (
	// MissedRunOnce runs once for all runs that were missed, as soon as that is noticed.
	MissedRunOnce Missed = iota
	// MissedSkip skips them.
	MissedSkip
)

// missedAfter is by how much a run is late that was missed.
const missedAfter = time.Minute

func (c *Config) check(reg *tether.Registry, table Timetable) error {
	switch {
	case c.Pool != nil && c.Pool.Registry() != reg:
		return fmt.Errorf("%w: pool %q is one of another registry", tether.ErrInvalid, c.Pool.Name())
	case c.Overlap > OverlapCancel || c.Missed > MissedSkip:
		return fmt.Errorf("%w: unknown Overlap %d or Missed %d", tether.ErrInvalid, c.Overlap, c.Missed)
	case c.Jitter < 0:
		return fmt.Errorf("%w: negative Jitter", tether.ErrInvalid)
	}
	for _, option := range c.Options {
		if err := option.Err(); err != nil {
			return err
		}
	}
	return c.checkJitter(table)
}

func (c *Config) checkJitter(table Timetable) error {
	if interval, ok := table.(every); ok && c.Jitter > time.Duration(interval) {
		return fmt.Errorf("%w: a Jitter of %v is more than the interval of %v", tether.ErrInvalid, c.Jitter, time.Duration(interval))
	}
	return nil
}
