package tetherotel

import (
	"cmp"
	"context"
	"math"
	"slices"

	"go.opentelemetry.io/otel/metric"

	"github.com/seed-2e639f12/tether"
)

// observeShares observes the shares of all watched registries. It is one callback for all
// of them, since pools with the same name may be in several: the largest shares are those
// of their sum.
func (m *metrics) observeShares(_ context.Context, to metric.Observer) error {
	byPool := make(map[string]shares)
	for _, reg := range *m.registries.Load() {
		for p := range reg.Pools() {
			all := byPool[p.Name()]
			all.add(p.Shares(math.MaxInt)) // all: the others are added up
			byPool[p.Name()] = all
		}
	}
	for pool, all := range byPool {
		in := poolName.String(pool)
		to.ObserveInt64(m.shareCount, int64(all.count()), metric.WithAttributes(in))
		for _, s := range all.largest(m.shares) {
			of := shareName.String(s.Share)
			to.ObserveInt64(m.shareTasks, int64(s.Queued), metric.WithAttributes(in, of, taskState.String(tether.Queued.String())))
			to.ObserveInt64(m.shareTasks, int64(s.Running), metric.WithAttributes(in, of, taskState.String(tether.Running.String())))
		}
	}
	return nil
}

// shares are the tasks of all pools of one name by share, largest first.
type shares []tether.ShareStats

// add adds what Pool.Shares has returned for another pool.
func (s *shares) add(more []tether.ShareStats) {
	if len(*s) == 0 {
		*s = more
		return
	}
	at := make(map[string]int, len(*s))
	for i, sum := range *s {
		at[sum.Share] = i
	}
	for _, one := range more {
		i, ok := at[one.Share]
		if !ok {
			*s = append(*s, one)
			continue
		}
		(*s)[i].Queued += one.Queued
		(*s)[i].Running += one.Running
	}
	slices.SortFunc(*s, func(a, b tether.ShareStats) int {
		return cmp.Or(b.Queued-a.Queued, b.Running-a.Running, cmp.Compare(a.Share, b.Share))
	})
}

// count returns how many shares there are. The tasks without one are none.
func (s shares) count() int {
	if slices.ContainsFunc(s, func(one tether.ShareStats) bool { return one.Share == "" }) {
		return len(s) - 1
	}
	return len(s)
}

// largest returns the first n, the sum of the others as otherName, and the tasks without a
// share. A share with the name otherName is one of the others.
func (s shares) largest(n int) (rows shares) {
	var others tether.ShareStats
	for _, one := range s {
		switch {
		case one.Share == "":
			rows = append(rows, one)
		case one.Share != otherName && n > 0:
			n--
			rows = append(rows, one)
		default:
			others.Share = otherName
			others.Queued += one.Queued
			others.Running += one.Running
		}
	}
	if others.Share == otherName {
		rows = append(rows, others)
	}
	return rows
}
