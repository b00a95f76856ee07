package adaptive

import (
	"fmt"
	"math"
	"time"
)

const (
	// worth is the least elasticity of throughput at which more workers are worth having:
	// the share of an increase of the workers that must arrive as an increase of the
	// throughput. It is the maximum of throughput³ / latency, a form of Kleinrock's power.
	worth = 0.25

	largest  = 1.0   // the largest step, as the binary logarithm of the ratio of workers
	smallest = 0.125 // the smallest; a step is at least one worker

	maxPairs   = 4    // pairs of measurements before a trial is given up as unclear
	minTasks   = 20   // of one measurement, and at least
	perWorker  = 3    // of each worker, unless that takes longer than
	patience   = 20   // intervals
	certainty  = 2.0  // standard errors by which a difference must exceed what is asked of it
	noise      = 0.03 // relative deviation of a measurement that its own tasks do not show
	shift      = 0.35 // of the logarithm of the cost: that the work has changed
	firstRest  = 8    // measurements between two trials of a number that has proved best
	longest    = 64
	nearlyFull = 0.9 // share of the workers that must be busy for a task to count
)

// search looks for the best number of workers. It uses neither locks nor clocks, and is
// told of the tasks that end.
//
// It compares two numbers at a time: the best one so far, its base, and a candidate. A
// trial measures both in turn until the difference is clear. What is measured is the cost:
// the time of workers that one successful task takes. With all workers busy, throughput is
// workers / cost (Little's law).
type search struct {
	min, max int
	interval time.Duration

	workers   int // what the pool should have: base or candidate
	base      int
	candidate int // 0 if there is no trial

	measured block
	at       [2]sums // of the trial: at the base, and with the candidate
	pairs    int     // of measurements with the candidate

	up       bool    // the direction of the trials
	step     float64 // the binary logarithm of the ratio of workers
	turned   float64 // the first step in the other direction
	glance   bool    // one candidate in each direction is enough, because the base has proved best before
	done     [2]bool // by direction, down and up: no better number there
	rejected [2]int  // by direction: the nearest candidate that was no better; 0 if none

	rest, nextRest int     // measurements until the next trial, and from that one to the next
	usual          float64 // the logarithm of the cost at a base that has proved best
	strange        bool    // the last measurement differed from usual

	known         float64 // the cost at the base, as last measured; 0 if it has not been
	trials, moves uint64
}

// block is one measurement.
type block struct {
	settle int // tasks that end before it begins, because they began with other workers
	began  time.Time
	sums
}

// sums are of the tasks of measurements.
type sums struct {
	n, ok, busy, squares float64 // tasks, those that succeeded, their seconds, and the squares of these
	blocks               float64
}

func (s *sums) add(o sums) {
	s.n += o.n
	s.ok += o.ok
	s.busy += o.busy
	s.squares += o.squares
	s.blocks += o.blocks
}

// cost is the seconds of workers that one successful task takes.
func (s *sums) cost() float64 { return s.busy / s.ok }

// variance is that of the logarithm of the cost.
func (s *sums) variance() float64 {
	mean := s.busy / s.n
	return (s.squares/s.n/(mean*mean)-1)/s.n + (s.n/s.ok-1)/s.n + noise*noise/s.blocks
}

// Directions.
const (
	down = 0
	up   = 1
)

func newSearch(least, most, workers int, interval time.Duration) *search {
	s := &search{min: least, max: most, interval: interval}
	s.restart(min(max(workers, least), most), largest)
	return s
}

// restart begins anew with that many workers.
func (s *search) restart(workers int, step float64) {
	s.base, s.candidate, s.known = workers, 0, 0
	s.nextRest = firstRest
	s.look(true, step)
	s.set(workers)
}

// look begins a search of the neighborhood of the base.
func (s *search) look(upward bool, step float64) {
	s.up, s.step, s.turned = upward, step, max(step, largest/2)
	s.done, s.rejected = [2]bool{}, [2]int{}
	s.rest, s.strange, s.glance = 0, false, false
	s.forget()
}

// forget drops what was measured.
func (s *search) forget() { s.at, s.pairs = [2]sums{}, 0 }

// set begins a measurement with that many workers.
func (s *search) set(workers int) {
	settle := max(workers, s.workers)
	if workers == s.workers {
		settle = 0
	}
	s.workers = workers
	s.measured = block{settle: settle}
}

// ended counts a task that has ended: whether it succeeded, how long it ran, how many ran
// at that time, itself included. It returns what has changed.
func (s *search) ended(ok bool, took time.Duration, running int, now time.Time) []Change {
	b := &s.measured
	if b.settle > 0 {
		b.settle--
		return nil
	}
	if b.began.IsZero() || now.Before(b.began) { // the clock may have been set back
		b.began = now
	}
	if float64(running) >= nearlyFull*float64(s.workers) { // otherwise it shows less than this number of workers do
		seconds := max(took.Seconds(), 1e-9)
		b.n++
		b.busy += seconds
		b.squares += seconds * seconds
		if ok {
			b.ok++
		}
	}
	least := float64(max(minTasks, perWorker*s.workers))
	if now.Sub(b.began) > patience*s.interval {
		least = minTasks
	}
	if b.n < least || now.Sub(b.began) < s.interval {
		return nil
	}
	b.blocks = 1
	return s.decide(b.sums)
}

// decide decides what follows a measurement.
func (s *search) decide(m sums) []Change {
	if s.workers != s.base {
		s.at[1].add(m)
		s.pairs++
		return s.judge()
	}
	if m.ok == 0 {
		return s.allFailed()
	}
	s.at[0].add(m)
	s.known = m.cost()
	if s.glance && s.hasShifted(m) {
		// Measure the base again: a part of this measurement may be of the time before.
		s.nextRest, s.candidate = firstRest, 0
		s.look(math.Log(m.cost()) < s.usual, largest/2)
		s.set(s.base)
		s.measured.settle = s.base
		return nil
	}
	if s.rest > 0 {
		if s.rest--; s.rest > 0 {
			s.at[0] = m // what a trial is compared with is the last measurement
			s.set(s.base)
			return nil
		}
	}
	return s.try()
}

// allFailed halves the workers: a service that only fails is not to get more.
func (s *search) allFailed() []Change {
	from := s.workers
	s.restart(max(s.min, from/2), largest/2)
	if s.base == from {
		return nil
	}
	s.moves++
	return []Change{{From: from, To: s.base, Reason: "no task succeeded"}}
}

// hasShifted compares a measurement at the base with the usual one. It reports whether the cost
// has changed twice in a row, or by far.
func (s *search) hasShifted(m sums) bool {
	d := math.Log(m.cost()) - s.usual
	if math.Abs(d) < shift+certainty*math.Sqrt(m.variance()) {
		s.usual += d / 4
		s.strange = false
		return false
	}
	if s.strange || math.Abs(d) > 4*shift {
		return true
	}
	s.strange = true
	return false
}

// try begins a trial, or goes on with one. If there is no better number, the search rests.
func (s *search) try() []Change {
	if s.candidate == 0 {
		s.candidate = s.next()
	}
	if s.candidate == 0 {
		s.relax()
		return nil
	}
	if s.pairs == 0 {
		s.trials++
	}
	from := s.workers
	s.set(s.candidate)
	return []Change{{From: from, To: s.candidate, Trial: true, Reason: fmt.Sprintf("trial beside %d", s.base)}}
}

// next returns the next candidate, 0 if all have been tried.
func (s *search) next() int {
	for !s.done[down] || !s.done[up] {
		d := down
		if s.up {
			d = up
		}
		for !s.done[d] {
			if c := s.neighbor(); c != s.base && !s.wasRejected(c) {
				return c
			}
			s.smaller(d)
		}
		s.up, s.step = !s.up, s.turned
	}
	return 0
}

// neighbor returns the number that is one step away from the base, within the bounds.
func (s *search) neighbor() int {
	ratio := math.Exp2(s.step)
	if s.up {
		return min(s.max, max(s.base+1, int(math.Round(float64(s.base)*ratio))))
	}
	return max(s.min, min(s.base-1, int(math.Round(float64(s.base)/ratio))))
}

func (s *search) wasRejected(c int) bool {
	if s.up {
		return s.rejected[up] != 0 && c >= s.rejected[up]
	}
	return c <= s.rejected[down]
}

// smaller halves the step, or ends the search in that direction.
func (s *search) smaller(d int) {
	if s.step /= 2; s.step < smallest || s.glance {
		s.step, s.done[d] = smallest, true
	}
}

// judge compares the candidate with the base.
func (s *search) judge() []Change {
	more := math.Log(float64(s.candidate) / float64(s.base))
	cost, margin := math.Inf(1), 0.0
	if s.at[1].ok > 0 {
		cost = math.Log(s.at[1].cost() / s.at[0].cost())
		margin = certainty * math.Sqrt(s.at[0].variance()+s.at[1].variance())
	}
	switch d := cost - (1-worth)*more; {
	case d < -margin:
		return s.accept(math.Exp(more - cost))
	case d > margin, s.pairs == maxPairs:
		return s.reject(math.Exp(more - cost))
	}
	from := s.workers
	s.set(s.base)
	return []Change{{From: from, To: s.base, Trial: true, Reason: fmt.Sprintf("trial of %d: unclear yet", s.candidate)}}
}

// accept makes the candidate the base, and goes on in that direction. throughput is its
// ratio to the one of the base.
func (s *search) accept(throughput float64) []Change {
	change := Change{From: s.base, To: s.candidate, Reason: fmt.Sprintf("%.2f times the throughput", throughput)}
	s.base, s.candidate, s.known = s.candidate, 0, s.at[1].cost()
	s.at[0], s.at[1], s.pairs = s.at[1], sums{}, 0
	s.nextRest, s.glance = firstRest, false
	s.done = [2]bool{down: s.up, up: !s.up} // the number behind it is known to be worse
	s.step = min(2*s.step, largest)
	s.moves++
	s.set(s.base)
	return append([]Change{change}, s.try()...)
}

// reject goes back to the base.
func (s *search) reject(throughput float64) []Change {
	from := s.workers
	d := down
	if s.up {
		d = up
	}
	s.rejected[d] = s.candidate
	s.candidate = 0
	s.smaller(d)
	s.forget()
	s.set(s.base)
	return []Change{{From: from, To: s.base, Trial: true, Reason: fmt.Sprintf("%d: %.2f times the throughput", from, throughput)}}
}

// relax leaves the base alone for a while.
func (s *search) relax() {
	if !s.glance {
		s.usual, s.strange = math.Log(s.at[0].cost()), false
	}
	strange := s.strange
	s.look(true, smallest)
	s.glance, s.turned, s.strange = true, largest/4, strange
	s.rest = s.nextRest
	s.nextRest = min(2*s.nextRest, longest)
	s.set(s.base)
}
