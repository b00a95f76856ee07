package river

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// database is a Presence that notes what it is asked, in a bubble. A test may look at it, and
// change it, from an until to the next.
type database struct {
	turn      sync.Mutex // the test has it, but for the time that passes
	began     time.Time
	away      bool
	swallows  bool
	forbidden bool
	beats     int
	rescues   int
	mine      []int64 // of the last Rescue
	gone      int64   // what Rescue finds
	ahead     time.Duration
}

func (d *database) Count(context.Context, int64, int) (bool, error) { return true, nil }
func (d *database) Rewind(context.Context) (int64, error)           { return 0, nil }

func (d *database) Beat(ctx context.Context) (time.Time, error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.beats++
	if d.swallows {
		d.turn.Unlock()
		defer d.turn.Lock()
		<-ctx.Done()
		return time.Time{}, ctx.Err()
	}
	if d.away {
		return time.Time{}, errAway
	}
	return time.Now().Add(d.ahead), nil
}

func (d *database) Rescue(_ context.Context, mine []int64) (int64, error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.rescues++
	slices.Sort(mine)
	d.mine = mine
	if d.forbidden {
		return 0, errors.New("forbidden")
	}
	return d.gone, nil
}

func (d *database) End() {}

// beating runs a pulse while fn does.
func beating(t *testing.T, fn func(t *testing.T, p *pulse, d *database, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{began: time.Now()}
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

func TestPulseKnowsWhatIsItsOwn(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, _ *bytes.Buffer) {
		begin := func(id int64) (end func()) { _, end = p.begin(id); return end }
		begin(1)
		begin(2)()
		over := begin(3)
		d.until(6 * time.Second)
		assert.Equal(t, []int64{1, 2, 3}, d.mine, "until its outcome is stored")
		p.stored([]int64{2})
		over()
		begin(3) // the next attempt, before this one hears that the outcome is stored
		p.stored([]int64{3, 1})
		d.until(12 * time.Second)
		assert.Equal(t, []int64{1, 3}, d.mine, "in spite of the outcome of a former attempt")
	})
}

// Otherwise the row would stay in the state running forever.
func TestPulseGivesUpWhatIsNeverStored(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, _ *bytes.Buffer) {
		_, end := p.begin(1)
		end()
		d.until(outcomeTime)
		assert.Equal(t, []int64{1}, d.mine)
		d.until(outcomeTime + 2*beat)
		assert.Empty(t, d.mine)
		assert.Empty(t, p.jobs)
	})
}

func TestPulseBeatsAndRescues(t *testing.T) {
	beating(t, func(t *testing.T, p *pulse, d *database, log *bytes.Buffer) {
		d.until(59 * time.Second)
		assert.Equal(t, 12, d.beats)
		assert.Equal(t, 12, d.rescues)
		assert.Empty(t, log.String())
		d.gone = 7
		d.until(61 * time.Second)
		assert.Contains(t, log.String(), "jobs=7")
		d.gone = 0

		d.away = true
		d.until(81 * time.Second)
		assert.Greater(t, d.beats, 12+14, "it tries again soon")
		assert.Equal(t, 13, d.rescues, "by a consumer that was not seen")
		assert.Equal(t, 1, strings.Count(log.String(), errAway.Error()), "logged once for each outage")
		d.away = false
		d.until(90 * time.Second)
		assert.Greater(t, d.rescues, 13)
		d.swallows = true
		before := d.beats
		d.until(115 * time.Second)
		assert.Greater(t, d.beats, before+2, "none hangs forever")
		d.swallows = false
		d.until(125 * time.Second)
		d.forbidden = true
		d.until(140 * time.Second)
		assert.Equal(t, 1, strings.Count(log.String(), "forbidden"))
	})
}
