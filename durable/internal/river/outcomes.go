package river

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// River tries three times within seven seconds to store what has become of jobs, and then
// forgets it: jobs that were done would be taken for interrupted. A database that fails over
// takes longer. So each of River's attempts is many here.
const (
	storeTime  = time.Minute      // for each of River's three
	storeEach  = 10 * time.Second // for each of ours, as River has it
	storeAgain = time.Second      // between two
)

// keeping is a driver whose outcomes are tried for longer, until life ends.
type keeping[TTx any] struct {
	riverdriver.Driver[TTx]
	life  context.Context
	pulse *pulse
	kinds []string // of the jobs to fetch; nil means all
}

// silent is a driver that River sends no notifications through and expects none from: River
// then looks for jobs at an interval, and at once for those that the same client inserts.
// River emulates notifications on SQLite, by a table that it polls: that is slower, for a
// worker in the same process, than no notifications are.
type silent[TTx any] struct {
	riverdriver.Driver[TTx]
}

func (silent[TTx]) SupportsListener() bool     { return false }
func (silent[TTx]) SupportsListenNotify() bool { return false }

func (d *keeping[TTx]) GetExecutor() riverdriver.Executor {
	return &keeper{d.Driver.GetExecutor(), d.life, d.pulse, d.kinds}
}

type keeper struct {
	riverdriver.Executor
	life  context.Context
	pulse *pulse
	kinds []string
}

// JobGetAvailable fetches only jobs that the worker has, and gives them the kind that
// River's own worker has.
func (k *keeper) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	known := *p
	known.Kind = k.kinds
	res, err := k.Executor.JobGetAvailable(ctx, &known)
	if err != nil {
		return nil, err
	}
	for _, j := range res.Jobs {
		j.Kind = Kind
	}
	return res, nil
}

func (k *keeper) JobSetStateIfRunningMany(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	ctx = context.WithoutCancel(ctx) // its deadline is that of one attempt
	until := time.Now().Add(storeTime)
	for first := true; ; first = false {
		rows, err := k.try(ctx, p)
		if err == nil {
			k.pulse.stored(p.ID)
		}
		if err == nil || errors.Is(err, riverdriver.ErrClosedPool) {
			return rows, err
		}
		if first {
			k.pulse.log.Warn("durable: what has become of jobs is not stored yet", "jobs", len(p.ID), "error", err)
		}
		if !time.Now().Before(until) {
			return nil, err
		}
		select {
		case <-time.After(storeAgain):
		case <-k.life.Done():
			return nil, context.Canceled // which River does not try again
		}
	}
}

func (k *keeper) try(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	ctx, cancel := context.WithTimeout(ctx, storeEach)
	defer cancel()
	defer context.AfterFunc(k.life, cancel)()
	return k.Executor.JobSetStateIfRunningMany(ctx, p)
}
