package river

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// River tries three times within seven seconds to store the outcomes of jobs, and then drops
// them: jobs that were done would run again. A database that fails over takes longer. So each
// of River's attempts is repeated here.
const (
	storeTime  = time.Minute      // for each of River's three
	storeEach  = 10 * time.Second // for each of ours; River's own limit
	storeAgain = time.Second      // between two
)

// silent is a driver from which River expects no notifications: it then looks for jobs at an
// interval, and at once for those that the same client inserts. River emulates notifications
// on SQLite, by a table that it polls: that is slower, for a worker in the same process, than
// no notifications are.
type silent[TTx any] struct {
	riverdriver.Driver[TTx]
	notifies bool // others are listening
}

func (silent[TTx]) SupportsListener() bool       { return false }
func (s silent[TTx]) SupportsListenNotify() bool { return s.notifies }

// keeping is a driver whose executor is a keeper.
type keeping[TTx any] struct {
	riverdriver.Driver[TTx]
	keeper keeper // without its Executor
}

func (d *keeping[TTx]) GetExecutor() riverdriver.Executor {
	k := d.keeper
	k.Executor = d.Driver.GetExecutor()
	return &k
}

// keeper is the executor of a consumer. It fetches only jobs that the worker has. It stores
// the outcome of an attempt only if the row still belongs to that attempt of this consumer:
// one that stood still may wake up after its jobs were taken over. And it stores outcomes
// until the database is back, or life ends.
type keeper struct {
	riverdriver.Executor
	life   context.Context
	pulse  *pulse
	kinds  []string // of the jobs to fetch; nil means all
	client string   // the consumer's ID
	owned  func(ctx context.Context, tx riverdriver.ExecutorTx, client string, ids []int64, attempts []int) ([]int64, error)
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
	o := k.outcomesOf(p)
	until := time.Now().Add(storeTime)
	for first := true; ; first = false {
		rows, err := k.try(ctx, o)
		if err == nil {
			k.pulse.stored(p.ID)
		}
		if err == nil || errors.Is(err, riverdriver.ErrClosedPool) {
			return rows, err
		}
		if first {
			k.pulse.log.Warn("durable: outcomes of jobs are not stored yet", "jobs", len(p.ID), "error", err)
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

// outcomes are River's parameters, with the attempt that each belongs to.
type outcomes struct {
	*riverdriver.JobSetStateIfRunningManyParams
	attempts []int // 0 if it is not known
}

// outcomesOf reads the attempts from the metadata, and makes the times the database's.
func (k *keeper) outcomesOf(p *riverdriver.JobSetStateIfRunningManyParams) outcomes {
	o := pick(outcomes{p, make([]int, len(p.ID))}, func(int64) bool { return true })
	ahead := time.Duration(k.pulse.ahead.Load())
	for i := range o.ID {
		o.attempts[i], o.MetadataUpdates[i] = attemptOf(o.MetadataUpdates[i])
		o.MetadataDoMerge[i] = o.MetadataDoMerge[i] && o.MetadataUpdates[i] != nil
		if at := o.ScheduledAt[i]; at != nil && ahead != 0 {
			moved := roundUp(at.Add(ahead))
			o.ScheduledAt[i] = &moved
		}
	}
	return o
}

// pick copies the outcomes of the jobs that want accepts.
func pick(from outcomes, want func(id int64) bool) outcomes {
	to := outcomes{JobSetStateIfRunningManyParams: &riverdriver.JobSetStateIfRunningManyParams{Now: from.Now, Schema: from.Schema}}
	for i, id := range from.ID {
		if want(id) {
			to.ID = append(to.ID, id)
			to.Attempt = append(to.Attempt, from.Attempt[i])
			to.ErrData = append(to.ErrData, from.ErrData[i])
			to.FinalizedAt = append(to.FinalizedAt, from.FinalizedAt[i])
			to.MetadataDoMerge = append(to.MetadataDoMerge, from.MetadataDoMerge[i])
			to.MetadataUpdates = append(to.MetadataUpdates, from.MetadataUpdates[i])
			to.ScheduledAt = append(to.ScheduledAt, from.ScheduledAt[i])
			to.State = append(to.State, from.State[i])
			to.attempts = append(to.attempts, from.attempts[i])
		}
	}
	return to
}

func (k *keeper) try(ctx context.Context, o outcomes) ([]*rivertype.JobRow, error) {
	ctx, cancel := context.WithTimeout(ctx, storeEach)
	defer cancel()
	defer context.AfterFunc(k.life, cancel)()
	tx, err := k.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	owned, err := k.owned(ctx, tx, k.client, o.ID, o.attempts)
	if err != nil {
		return nil, err
	}
	if len(owned) < len(o.ID) {
		mine := make(map[int64]bool, len(owned))
		for _, id := range owned {
			mine[id] = true
		}
		var others []int64
		for _, id := range o.ID {
			if !mine[id] {
				others = append(others, id)
			}
		}
		k.pulse.log.Warn("durable: outcomes are not stored: the jobs are no longer this worker's", "rows", others)
		o = pick(o, func(id int64) bool { return mine[id] })
	}
	var rows []*rivertype.JobRow
	if len(o.ID) > 0 {
		if rows, err = tx.JobSetStateIfRunningMany(ctx, o.JobSetStateIfRunningManyParams); err != nil {
			return nil, err
		}
	}
	return rows, tx.Commit(ctx)
}
