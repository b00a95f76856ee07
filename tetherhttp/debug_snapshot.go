package tetherhttp

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

const (
	maxLive     = 100_000 // tasks in a snapshot
	maxFinished = 10_000
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
	own      tether.Stats // of the tasks on no pool
	pools    []tether.PoolStats
	shares   [][]debugShare           // of pools
	oldest   map[string]time.Duration // for how long the oldest task of a pool is queued; "": on no pool
	stop     *debugStop
	live     []tether.Info // the oldest first
	finished []tether.Info // the newest first
	older    []tether.Info // failures that ended before finished, the newest first
	since    time.Time     // finished is complete from this time on
	stuck    []int         // indexes into live
	loops    []int         // likewise
	history  debugHistory

	// Made for the first request that searches, so that the next ones are fast.
	liveTexts, finishedTexts func() []string
	// Made for the first request that shows them. They call methods of errors.
	names    func() debugNames
	failures func() debugFailures

	moreLive, moreFinished bool // there are tasks that were not examined
}

// fresh reports whether a snapshot is recent enough to be shown. One that took long to take
// is shown for longer, so that taking snapshots costs at most an eleventh of the time.
func (s *snapshot) fresh(now time.Time) bool {
	return now.Sub(s.ended) < max(time.Second, 10*s.ended.Sub(s.time))
}

func newSnapshot(reg *tether.Registry, now time.Time) *snapshot {
	s := &snapshot{time: now, ready: reg.Ready(), drain: reg.Report(), stats: reg.Stats(), own: reg.OwnStats()}
	for p := range reg.Pools() {
		s.pools, s.shares = append(s.pools, p.Stats()), append(s.shares, sharesOf(p))
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
	s.oldest = make(map[string]time.Duration)
	for i := range s.live {
		info := &s.live[i]
		if info.Stuck != nil {
			s.stuck = append(s.stuck, i)
		}
		if info.Loop {
			s.loops = append(s.loops, i)
		}
		if info.State == tether.Queued && queuedFor(info, now) > s.oldest[info.Pool] {
			s.oldest[info.Pool] = queuedFor(info, now)
		}
	}
	s.stop = stopOf(reg, s.live, now)
	for t := range reg.Finished() {
		if len(s.finished) < maxFinished {
			s.finished = append(s.finished, t.Info())
			continue
		}
		if s.moreFinished = true; len(s.older) == maxFinished {
			break
		}
		if state := t.State(); state == tether.Failed || state == tether.Panicked {
			s.older = append(s.older, t.Info())
		}
	}
	s.since = reg.FinishedSince() // after that: a task may have been evicted meanwhile
	if s.moreFinished {
		if oldest := s.finished[maxFinished-1].Finished; oldest.After(s.since) {
			s.since = oldest
		}
	}
	s.liveTexts = sync.OnceValue(func() []string { return searchTexts(s.live) })
	s.finishedTexts = sync.OnceValue(func() []string { return searchTexts(s.finished) })
	s.names = sync.OnceValue(func() debugNames { return namesOf(s) })
	s.failures = sync.OnceValue(func() debugFailures { return groupFailures(s.finished, s.older) })
	s.ended = time.Now()
	return s
}
