package tetherhttp

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

const (
	maxLive     = 100_000 // tasks in a snapshot
	maxFinished = 10_000
	maxFailures = 20 // shown at the top
	maxStuck    = 5
	maxText     = 16 << 10 // bytes of an error
	livePage    = 100      // rows on a page of live tasks
	endedPage   = 25
)

// snapshot is the state of a registry at one time. It is immutable.
type snapshot struct {
	time     time.Time // when taking it began
	ended    time.Time // when it was complete
	ready    bool
	drain    *tether.Report
	stats    tether.Stats
	pools    []tether.PoolStats
	live     []tether.Info // the oldest first
	finished []tether.Info // the newest first
	stuck    []int         // indexes into live
	history  debugHistory

	moreLive, moreFinished bool // there are tasks that were not examined
}

// fresh reports whether a snapshot is recent enough to be shown. One that took long to take
// is shown for longer, so that taking snapshots costs at most an eleventh of the time.
func (s *snapshot) fresh(now time.Time) bool {
	return now.Sub(s.ended) < max(time.Second, 10*s.ended.Sub(s.time))
}

func newSnapshot(reg *tether.Registry, now time.Time) *snapshot {
	s := &snapshot{time: now, ready: reg.Ready(), drain: reg.Report(), stats: reg.Stats()}
	for p := range reg.Pools() {
		s.pools = append(s.pools, p.Stats())
	}
	for t := range reg.Tasks() {
		if s.moreLive = len(s.live) == maxLive; s.moreLive {
			break
		}
		if info := t.Info(); !info.State.Final() {
			s.live = append(s.live, info)
		}
	}
	slices.SortFunc(s.live, func(a, b tether.Info) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), strings.Compare(a.ID, b.ID))
	})
	for i := range s.live {
		if s.live[i].Stuck != nil {
			s.stuck = append(s.stuck, i)
		}
	}
	for t := range reg.Finished() {
		if s.moreFinished = len(s.finished) == maxFinished; s.moreFinished {
			break
		}
		s.finished = append(s.finished, t.Info())
	}
	s.ended = time.Now()
	return s
}
