package tetherprom

import (
	"cmp"
	"slices"

	"github.com/seed-2e639f12/tether"
)

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

// largest returns the first n, the sum of the others as Other, and the tasks without a
// share. A share with the name Other is one of the others.
func (s shares) largest(n int) (rows shares) {
	var others tether.ShareStats
	for _, one := range s {
		switch {
		case one.Share == "":
			rows = append(rows, one)
		case one.Share != Other && n > 0:
			n--
			rows = append(rows, one)
		default:
			others.Share = Other
			others.Queued += one.Queued
			others.Running += one.Running
		}
	}
	if others.Share == Other {
		rows = append(rows, others)
	}
	return rows
}
