package tetherhttp

import (
	"fmt"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
)

const (
	interval  = 10 * time.Second // of a bar
	intervals = 60               // bars there are
	sampleFor = 10 * time.Minute // after the last request, in a bubble of testing/synctest
)

// history counts the registry's tasks by intervals: the differences between two readings of
// its Stats. No task pays for it.
type history struct {
	since     time.Time    // the counts are complete from this time on
	bars      []bar        // consecutive; the last one is the current interval
	stats     tether.Stats // at the last call of note
	requested time.Time    // the last request for it
}

// bar holds the counts of an interval.
type bar struct {
	Time      time.Time `json:"time"` // when it began
	Submitted uint64    `json:"submitted"`
	Succeeded uint64    `json:"succeeded"`
	Failed    uint64    `json:"failed"`   // and panicked
	Canceled  uint64    `json:"canceled"` // and dropped
}

// newHistory returns a history that begins now.
func newHistory(now time.Time, s tether.Stats) history {
	this := now.Add(-time.Duration(now.UnixNano() % int64(interval))) // keeps the monotonic clock's reading
	return history{since: now, bars: []bar{{Time: this}}, stats: s, requested: now}
}

// note adds what happened since the last call to the interval that was current then, because a
// timer fires a little late.
func (h *history) note(now time.Time, s tether.Stats) {
	b, was := &h.bars[len(h.bars)-1], h.stats
	b.Submitted += s.Submitted - was.Submitted
	b.Succeeded += s.Succeeded - was.Succeeded
	b.Failed += s.Failed + s.Panicked - was.Failed - was.Panicked
	b.Canceled += s.Canceled + s.Dropped - was.Canceled - was.Dropped
	h.stats = s
	for h.left(now) <= 0 {
		next := h.bars[len(h.bars)-1].Time.Add(interval)
		h.bars = append(h.bars[max(0, len(h.bars)-intervals+1):], bar{Time: next})
	}
	if first := h.bars[0].Time; h.since.Before(first) {
		h.since = first
	}
}

// left returns the time until the interval ends.
func (h *history) left(now time.Time) time.Duration {
	return h.bars[len(h.bars)-1].Time.Add(interval).Sub(now)
}

// debugHistory is a history on the page.
type debugHistory struct {
	Interval float64   `json:"interval_seconds"`
	Since    time.Time `json:"since"`
	Bars     []bar     `json:"intervals"`
}

func (h *history) shown() debugHistory {
	s := debugHistory{interval.Seconds(), h.since.UTC(), append([]bar(nil), h.bars...)}
	for i := range s.Bars {
		s.Bars[i].Time = s.Bars[i].Time.UTC()
	}
	return s
}

// plot is a bar chart of one of a history's counts: bars one unit wide, in a box of 60 by 20.
type plot struct {
	Title     string
	Class     string
	Sum, Peak uint64
	Path      string // of the bars
	Unknown   int    // intervals that were not sampled
}

// Plots returns the charts on the page.
func (s debugHistory) Plots() []plot {
	draw := func(title, class string, count func(b *bar) uint64) plot {
		p := plot{Title: title, Class: class, Unknown: intervals - len(s.Bars)}
		for i := range s.Bars {
			p.Sum += count(&s.Bars[i])
			p.Peak = max(p.Peak, count(&s.Bars[i]))
		}
		var d strings.Builder
		for i := range s.Bars {
			if n := count(&s.Bars[i]); n > 0 {
				height := max(20*float64(n)/float64(p.Peak), 0.7) // a single task remains visible beside many
				fmt.Fprintf(&d, "M%.1f 20v-%.1fh.8v%.1fz", float64(p.Unknown+i)+.1, height, height)
			}
		}
		p.Path = d.String()
		return p
	}
	return []plot{
		draw("Submitted", "submitted", func(b *bar) uint64 { return b.Submitted }),
		draw("Succeeded", "succeeded", func(b *bar) uint64 { return b.Succeeded }),
		draw("Failed, panicked", "failed", func(b *bar) uint64 { return b.Failed }),
		draw("Canceled, dropped", "canceled", func(b *bar) uint64 { return b.Canceled }),
	}
}
