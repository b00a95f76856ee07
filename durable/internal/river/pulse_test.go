package river

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// database is a Presence that notes what it hears, in a bubble. A test may look at it, and
// change it, from an until to the next.
type database struct {
	turn   sync.Mutex // the test has it, but for the time that passes
	began  time.Time
	away   bool
	heard  map[int64][]time.Duration // since began
	rescue []time.Duration
	beats  int
}

func (d *database) Alive(_ context.Context, jobs []int64) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.beats++
	if d.away {
		return errAway
	}
	for _, id := range jobs {
		d.heard[id] = append(d.heard[id], time.Since(d.began))
	}
	return nil
}

func (d *database) Rescue(context.Context, time.Duration) (int64, error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.rescue = append(d.rescue, time.Since(d.began))
	return 1, nil
}

func (d *database) End() {}

// beating runs a pulse while fn does.
func beating(t *testing.T, fn func(t *testing.T, p *pulse, d *database, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{began: time.Now(), heard: make(map[int64][]time.Duration)}
		log := new(bytes.Buffer)
		p := newPulse(d, slog.New(slog.NewTextHandler(log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		time.Sleep(time.Millisecond) // no beat comes at just the time at which a test looks
		go p.run(ctx)
		d.turn.Lock()
		fn(t, p, d, log)
		d.turn.Unlock()
		cancel()
		synctest.Wait()
	})
}

// until waits for a time since the start.
func (d *database) until(at time.Duration) {
	d.turn.Unlock()
	defer d.turn.Lock()
	time.Sleep(at - time.Since(d.began))
	synctest.Wait()
}

func TestPulseSaysWhatIsAlive(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, _ *bytes.Buffer) {
		p.begin(1)
		short := p.begin(2)
		over := p.begin(3)
		d.until(2 * time.Second)
		short()
		p.stored([]int64{2})
		d.until(12 * time.Second)
		over()
		d.until(17 * time.Second)
		assert.Len(t, d.heard[1], 3, "a job that runs")
		assert.Empty(t, d.heard[2], "one that is over before the first beat")
		assert.Len(t, d.heard[3], 3, "one whose outcome is not stored")

		p.begin(3) // of the next attempt, before this one hears that it is stored
		p.stored([]int64{3, 1})
		d.until(22 * time.Second)
		assert.Len(t, d.heard[1], 4, "an outcome of a former attempt")
		assert.Len(t, d.heard[3], 4, "an outcome of a former attempt, and one that runs")
		gap := time.Duration(0)
		for i := range d.heard[1][1:] {
			gap = max(gap, d.heard[1][i+1]-d.heard[1][i])
		}
		assert.Equal(t, beat, gap)
	})
}

// Otherwise it would be running for ever, and its worker none the wiser.
func TestPulseGivesUpWhatIsNeverStored(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, _ *bytes.Buffer) {
		p.begin(1)()
		d.until(time.Hour)
		last := d.heard[1][len(d.heard[1])-1]
		assert.Greater(t, last, 3*storeTime, "while River tries to store it")
		assert.LessOrEqual(t, last, outcomeTime+beat)
		assert.Empty(t, p.jobs)
	})
}

func TestPulseRescuesOnlyWhenItIsInTouch(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, log *bytes.Buffer) {
		since := func(at time.Duration) int { // rescues
			return len(d.rescue) - len(slices.DeleteFunc(slices.Clone(d.rescue), func(r time.Duration) bool { return r > at }))
		}
		d.until(29 * time.Second)
		assert.Empty(t, d.rescue, "others have had no time to say what is alive")
		d.until(31 * time.Second)
		assert.Len(t, d.rescue, 1)
		assert.Contains(t, log.String(), "jobs=1")

		d.away = true // too short for anybody's jobs to seem dead
		d.until(41 * time.Second)
		d.away = false
		d.until(43 * time.Second)
		assert.Equal(t, 1, since(41*time.Second))

		d.away = true
		before := d.beats
		d.until(63 * time.Second)
		assert.Greater(t, d.beats-before, 14, "it tries again soon")
		d.away = false
		back := 65 * time.Second
		d.until(92 * time.Second)
		assert.Zero(t, since(43*time.Second), "after an outage all seem to be dead")
		d.until(back + silence + beat)
		assert.NotZero(t, since(43*time.Second))
		assert.Equal(t, 2, strings.Count(log.String(), errAway.Error()), "logged once for each outage")
	})
}

// A machine that has slept: its monotonic clock may say that nothing has happened. Or whose
// clock is set.
func TestPulseGoesByTheWallClock(t *testing.T) {
	for name, jump := range map[string]time.Duration{"slept": time.Hour, "set back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &database{heard: make(map[int64][]time.Duration)}
				p := newPulse(d, slog.New(slog.DiscardHandler))
				beats := func() {
					for range silence/beat + 1 {
						require.NoError(t, p.once(t.Context()))
						time.Sleep(beat)
					}
				}
				beats()
				require.Len(t, d.rescue, 1)
				p.last, p.since = p.last.Add(-jump), p.since.Add(-jump)
				beats()
				assert.Len(t, d.rescue, 2, "after as long as at first")
			})
		})
	}
}
