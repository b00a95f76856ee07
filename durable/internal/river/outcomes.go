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
}

func (d *keeping[TTx]) GetExecutor() riverdriver.Executor {
	return &keeper{d.Driver.GetExecutor(), d.life, d.pulse}
}

type keeper struct {
	riverdriver.Executor
	life  context.Context
	pulse *pulse
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
