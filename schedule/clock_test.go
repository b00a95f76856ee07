package schedule

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// The wall clock jumps while timers do not: the machine was suspended, or its clock was set.
func TestS4_TheClockJumps(t *testing.T) {
	const min = time.Minute
	utc := func(hour, minute int) time.Time { return time.Date(2000, 1, 1, hour, minute, 0, 0, time.UTC) }
	for _, test := range []struct {
		what  string
		when  Timetable
		cfg   Config
		jump  time.Duration // at 01:00:30
		until time.Duration // after the jump, on both clocks
		want  []time.Time   // what the wall clock showed
	}{
		{
			what: "suspended over many runs: one is made up for", when: Every(10 * min),
			jump: 3 * time.Hour, until: 15 * min,
			want: []time.Time{utc(0, 10), utc(0, 20), utc(0, 30), utc(0, 40), utc(0, 50), utc(1, 0), utc(4, 1), utc(4, 11)},
		},
		{
			what: "suspended over many runs: none is", when: Every(10 * min), cfg: Config{Missed: MissedSkip},
			jump: 3 * time.Hour, until: 15 * min,
			want: []time.Time{utc(0, 10), utc(0, 20), utc(0, 30), utc(0, 40), utc(0, 50), utc(1, 0), utc(4, 11)},
		},
		{
			what: "suspended over a daily run: it is made up for", when: Daily(2, 30, time.UTC),
			jump: 3 * time.Hour, until: 24 * time.Hour,
			want: []time.Time{utc(4, 1), utc(26, 30)},
		},
		{
			what: "suspended over a daily run: it is not", when: Daily(2, 30, time.UTC), cfg: Config{Missed: MissedSkip},
			jump: 3 * time.Hour, until: 24 * time.Hour,
			want: []time.Time{utc(26, 30)},
		},
		{
			what: "late by less than a minute is not missed", when: Daily(1, 1, time.UTC), cfg: Config{Missed: MissedSkip},
			jump: min, until: 5 * min,
			want: []time.Time{utc(1, 2)},
		},
		{
			what: "set back: an interval is no longer for that", when: Every(10 * min),
			jump: -30 * min, until: 16 * min,
			want: []time.Time{utc(0, 10), utc(0, 20), utc(0, 30), utc(0, 40), utc(0, 50), utc(1, 0), utc(0, 41)},
		},
		{
			what: "set back: a time of day is not repeated", when: Daily(0, 45, time.UTC),
			jump: -30 * min, until: 2 * time.Hour,
			want: []time.Time{utc(0, 45)},
		},
		{
			what: "set forward over a time of day while a timer of hours is set", when: Daily(6, 0, time.UTC),
			jump: 4*time.Hour + 59*min, until: 2 * min,
			want: []time.Time{utc(6, 0)},
		},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := tether.New(tether.Config{})
				s := New(reg)
				var offset time.Duration
				s.maxWait, s.now = wakeEvery, func() time.Time { return wallNow().Add(offset) }
				var ran []time.Time
				sch, err := s.Add(context.Background(), "job", test.when, func(context.Context) error {
					ran = append(ran, s.now().UTC().Truncate(min))
					return nil
				}, test.cfg)
				require.NoError(t, err)
				time.Sleep(time.Hour + 30*time.Second)
				synctest.Wait()
				s.mu.Lock()
				offset = test.jump
				s.mu.Unlock()
				time.Sleep(test.until)
				synctest.Wait()
				assert.Equal(t, test.want, ran)
				missed := uint64(0)
				if test.cfg.Missed == MissedSkip && test.jump > min {
					missed = 1
				}
				assert.Equal(t, missed, sch.Info().Missed)
				require.NoError(t, reg.Shutdown(context.Background()))
			})
		})
	}
}

// The timer is set for at most a minute outside of bubbles.
func TestNew(t *testing.T) {
	assert.Equal(t, time.Minute, New(tether.New(tether.Config{})).maxWait)
	synctest.Test(t, func(t *testing.T) {
		assert.Zero(t, New(tether.New(tether.Config{})).maxWait)
	})
}
