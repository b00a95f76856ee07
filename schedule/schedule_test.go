package schedule_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

const min = time.Minute

var errTest = errors.New("test error")

func succeed(context.Context) error { return nil }

func TestEvery(t *testing.T) {
	t.Run("the first run is due after the interval", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(0))
			assert.Equal(t, t.began.Add(10*min), s.Info().Next)
			t.after(35 * min)
			assert.Equal(t, []time.Duration{10 * min, 20 * min, 30 * min}, runs.all())
		})
	})
	t.Run("the first run is due at once", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			t.add(schedule.Every(10*min), runs.body(0), schedule.Config{RunAtOnce: true})
			t.after(25 * min)
			assert.Equal(t, []time.Duration{0, 10 * min, 20 * min}, runs.all())
		})
	})
	t.Run("many schedules with one name", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			for i := range 5 {
				t.add(schedule.Every(time.Duration(5-i)*min), runs.body(0))
			}
			t.after(5 * min)
			assert.Equal(t, []time.Duration{1 * min, 2 * min, 2 * min, 3 * min, 3 * min, 4 * min, 4 * min, 4 * min, 5 * min, 5 * min}, runs.all())
		})
	})
}

// Each run is a task: its name, its pool, its options, its values and its outcome.
func TestS1_RunsAreTasks(t *testing.T) {
	bubble(t, func(t *fixture) {
		type key struct{}
		pool := t.reg.NewPool("jobs", tether.PoolConfig{Workers: 1, Queue: 1})
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, 42))
		var seen any
		var due time.Time
		s, err := t.sched.Add(ctx, "report", schedule.Every(time.Hour), func(ctx context.Context) error {
			seen = ctx.Value(key{})
			due, _ = schedule.Due(ctx)
			assert.NoError(t, ctx.Err())
			time.Sleep(3 * min)
			return errTest
		}, schedule.Config{Pool: pool, Options: []tether.Option{tether.Label("of", "sales")}, Jitter: time.Second})
		require.NoError(t, err)
		cancel() // it only supplies values
		_, ok := schedule.Due(ctx)
		assert.False(t, ok)

		t.after(time.Hour + min)
		running := s.Info()
		require.NotNil(t, running.Running)
		assert.Nil(t, running.Last)

		t.after(time.Hour + 5*min)
		info := s.Info()
		assert.Nil(t, info.Running)
		require.NotNil(t, info.Last)
		run := info.Last.Info()
		assert.Equal(t, "report", run.Name)
		assert.Equal(t, "jobs", run.Pool)
		assert.Equal(t, map[string]string{"of": "sales"}, run.Labels)
		assert.Equal(t, tether.Failed, run.State)
		assert.Equal(t, 3*min, run.Finished.Sub(run.Started))
		assert.Contains(t, run.Func, "TestS1_RunsAreTasks", "the user's function")
		assert.False(t, run.Awaited)
		assert.Contains(t, t.log.String(), "task failed", "a failure is logged")
		assert.Equal(t, 42, seen)
		assert.Equal(t, t.began.Add(time.Hour), due, "without the jitter")
		assert.Equal(t, schedule.Info{
			ID: s.ID(), Name: "report", Pool: "jobs", Timetable: "every 1h0m0s", Next: info.Next, Last: info.Last, Runs: 1,
		}, info)
		assert.WithinRange(t, info.Next, t.began.Add(2*time.Hour), t.began.Add(2*time.Hour+time.Second))
	})
}

func TestS2_RunsDoNotOverlap(t *testing.T) {
	t.Run("skip", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(25*min))
			t.after(59 * min)
			assert.Equal(t, []time.Duration{10 * min, 40 * min}, runs.all())
			info := s.Info()
			assert.EqualValues(t, 2, info.Runs)
			assert.EqualValues(t, 3, info.Skipped)
			info.Running.Cancel(nil)
		})
	})
	t.Run("queue one", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(25*min+1), schedule.Config{Overlap: schedule.OverlapQueue})
			t.after(34 * min)
			assert.True(t, s.Info().Queued)
			assert.EqualValues(t, 1, s.Info().Skipped)
			t.after(36 * min)
			assert.False(t, s.Info().Queued)
			t.after(61 * min)
			assert.Equal(t, []time.Duration{10 * min, 35*min + 1, 60*min + 2}, runs.all())
			s.Remove()
			s.Info().Running.Cancel(nil)
		})
	})
	t.Run("a run that has ended, of which the observer is still being notified", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Observer: slowObserver{takes: min}, Logger: slog.New(slog.DiscardHandler)})
			began := time.Now()
			runs := &starts{began: began}
			s, err := schedule.New(reg).Add(context.Background(), "job", schedule.Every(min), runs.body(90*time.Second), schedule.Config{Overlap: schedule.OverlapQueue})
			require.NoError(t, err)
			time.Sleep(3*min + 29*time.Second) // the body ended at 2:30, and the observer returns at 3:30
			synctest.Wait()
			assert.Equal(t, []time.Duration{min}, runs.all())
			assert.EqualValues(t, 1, s.Info().Skipped, "one is queued already")
			time.Sleep(2 * time.Second)
			s.Remove()
			time.Sleep(5 * min)
			assert.Equal(t, []time.Duration{min, 3*min + 30*time.Second}, runs.all())
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
	t.Run("cancel the older", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(25*min), schedule.Config{Overlap: schedule.OverlapCancel})
			t.after(20 * min)
			assert.Equal(t, []time.Duration{10 * min, 20 * min}, runs.all())
			info := s.Info()
			assert.ErrorIs(t, info.Last.Info().Err, schedule.ErrReplaced)
			assert.Equal(t, tether.Canceled, info.Last.State())
			info.Running.Cancel(nil)
			assert.NotContains(t, t.log.String(), "task canceled")
		})
	})
	t.Run("two runs never overlap, though the older ignores its cancellation", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), func(context.Context) error {
				runs.note()
				time.Sleep(25 * min)
				return nil
			}, schedule.Config{Overlap: schedule.OverlapCancel})
			t.after(36 * min)
			assert.Equal(t, []time.Duration{10 * min, 35 * min}, runs.all())
			s.Remove()
			t.after(60 * min)
		})
	})
	t.Run("a run that waits for its place in a pool has not ended", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			pool := t.reg.NewPool("jobs", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
			pool.Pause()
			s := t.add(schedule.Every(10*min), succeed, schedule.Config{Pool: pool})
			t.after(35 * min)
			assert.Equal(t, 1, pool.Stats().Queued)
			assert.EqualValues(t, 2, s.Info().Skipped)
			pool.Resume()
			t.after(45 * min)
			assert.EqualValues(t, 2, s.Info().Runs)
		})
	})
	t.Run("a run that waits for room in a pool delays no other schedule", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			pool := t.reg.NewPool("jobs", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			busy, err := pool.Go(context.Background(), "busy", func(ctx context.Context) error { <-ctx.Done(); return nil })
			require.NoError(t, err)
			runs := t.starts()
			blocked := t.add(schedule.Every(min), runs.body(0), schedule.Config{Pool: pool, Overlap: schedule.OverlapQueue})
			removed := t.add(schedule.Every(min), runs.body(0), schedule.Config{Pool: pool})
			other := t.add(schedule.Every(min), succeed)
			t.after(3*min + 1)
			assert.EqualValues(t, 3, other.Info().Runs)
			assert.EqualValues(t, 1, blocked.Info().Skipped, "one is queued behind the one that waits")
			assert.True(t, removed.Remove())
			synctest.Wait()
			assert.EqualValues(t, 1, removed.Info().Refused, "it does not wait any more")
			busy.Cancel(nil)
			synctest.Wait()
			assert.Equal(t, []time.Duration{3*min + 1, 3*min + 1}, runs.all())
		})
	})
}

func TestRefusals(t *testing.T) {
	bubble(t, func(t *fixture) {
		pool := t.reg.NewPool("jobs", tether.PoolConfig{Workers: 1})
		s := t.add(schedule.Every(min), succeed, schedule.Config{Pool: pool})
		pool.Pause()
		t.after(min)
		info := s.Info()
		assert.EqualValues(t, 1, info.Refused)
		assert.ErrorIs(t, info.Err, tether.ErrFull)
		assert.Contains(t, t.log.String(), `level=WARN msg="schedule: the run is refused" schedule=job schedule_id=1 pool=jobs`)
		_, err := s.Run(context.Background())
		assert.ErrorIs(t, err, tether.ErrFull)
		pool.Resume()
		t.after(2 * min)
		assert.NoError(t, s.Info().Err)
		assert.EqualValues(t, 1, s.Info().Runs)
	})
}

func TestRun(t *testing.T) {
	ctx := context.Background()
	t.Run("a run in between", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(0))
			t.after(5 * min)
			task, err := s.Run(ctx)
			require.NoError(t, err)
			require.NoError(t, task.Wait(ctx))
			t.after(10 * min)
			assert.Equal(t, []time.Duration{5 * min, 10 * min}, runs.all())
		})
	})
	t.Run("while another goes on", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			skips := t.add(schedule.Every(time.Hour), runs.body(min))
			first, err := skips.Run(ctx)
			require.NoError(t, err)
			same, err := skips.Run(ctx)
			require.NoError(t, err)
			assert.Same(t, first, same)

			queues := t.add(schedule.Every(time.Hour), runs.body(min), schedule.Config{Overlap: schedule.OverlapQueue})
			first, err = queues.Run(ctx)
			require.NoError(t, err)
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err = queues.Run(short)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.True(t, queues.Info().Queued, "it stays queued")
			second, err := queues.Run(ctx)
			require.NoError(t, err)
			assert.NotSame(t, first, second)
			assert.Equal(t, tether.Succeeded, first.State())
			require.NoError(t, second.Wait(ctx))
			t.after(30 * min)
			assert.Equal(t, []time.Duration{0, 0, min}, runs.all())
		})
	})
	t.Run("from the body of its own run", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			s := t.add(schedule.Every(time.Hour), func(ctx context.Context) error {
				me, _ := tether.FromContext(ctx)
				s := collect(t.sched)[0]
				task, err := s.Run(ctx)
				assert.NoError(t, err)
				assert.Same(t, me, task)
				assert.Same(t, me, s.Info().Running)
				s.Remove()
				return nil
			})
			t.after(time.Hour)
			assert.EqualValues(t, 1, s.Info().Runs)
		})
	})
}

func TestPause(t *testing.T) {
	bubble(t, func(t *fixture) {
		runs := t.starts()
		s := t.add(schedule.Every(10*min), runs.body(0))
		s.Resume() // without effect
		s.Pause()
		s.Pause()
		assert.True(t, s.Info().Paused)
		assert.Zero(t, s.Info().Next)
		t.after(25 * min)
		_, err := s.Run(context.Background())
		require.NoError(t, err)
		t.after(26 * min)
		s.Resume()
		assert.Equal(t, t.began.Add(36*min), s.Info().Next)
		t.after(40 * min)
		assert.Equal(t, []time.Duration{25 * min, 36 * min}, runs.all())
	})
}

func TestChangeAndRemove(t *testing.T) {
	bubble(t, func(t *fixture) {
		runs := t.starts()
		a := t.add(schedule.Every(10*min), runs.body(0), schedule.Config{Jitter: 1})
		b := t.add(schedule.Every(time.Hour), succeed)
		assert.Equal(t, []*schedule.Schedule{a, b}, collect(t.sched))
		assert.Same(t, b, t.sched.Find(b.ID()))
		assert.Nil(t, t.sched.Find("3"))
		assert.Nil(t, t.sched.Find("no number"))

		t.after(15 * min)
		require.NoError(t, a.Change(schedule.Every(2*min)))
		assert.Equal(t, "every 2m0s", a.Info().Timetable)
		t.after(18 * min)
		assert.ErrorIs(t, a.Change(schedule.Every(0)), tether.ErrInvalid)
		a.Pause()
		require.NoError(t, a.Change(schedule.Every(min)), "paused schedules can be changed")
		t.after(22 * min)
		a.Resume()
		t.after(23 * min)
		assert.Equal(t, []time.Duration{10 * min, 17 * min, 23 * min}, runs.all())

		assert.True(t, a.Remove())
		assert.False(t, a.Remove())
		assert.Zero(t, a.Info().Next)
		assert.ErrorIs(t, a.Change(schedule.Every(min)), schedule.ErrRemoved)
		_, err := a.Run(context.Background())
		assert.ErrorIs(t, err, schedule.ErrRemoved)
		a.Resume()
		assert.Equal(t, []*schedule.Schedule{b}, collect(t.sched))
		assert.Nil(t, t.sched.Find(a.ID()))
		t.after(30 * min)
		assert.Len(t, runs.all(), 3)
	})
	t.Run("what is queued does not start", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(15*min), schedule.Config{Overlap: schedule.OverlapQueue})
			t.after(21 * min)
			failed := make(chan error)
			go func() {
				_, err := s.Run(context.Background())
				failed <- err
			}()
			synctest.Wait()
			s.Remove()
			assert.ErrorIs(t, <-failed, schedule.ErrRemoved)
			t.after(time.Hour)
			assert.Equal(t, []time.Duration{10 * min}, runs.all())
		})
	})
}

func collect(s *schedule.Scheduler) (all []*schedule.Schedule) {
	for sch := range s.All() {
		all = append(all, sch)
	}
	return all
}

func TestJitter(t *testing.T) {
	bubble(t, func(t *fixture) {
		runs := t.starts()
		t.add(schedule.Every(time.Hour), runs.body(0), schedule.Config{Jitter: time.Hour, RunAtOnce: true})
		t.after(50 * time.Hour)
		all := runs.all()
		require.GreaterOrEqual(t, len(all), 50)
		different := make(map[time.Duration]bool)
		for i, at := range all[:50] {
			late := at - time.Duration(i)*time.Hour
			assert.GreaterOrEqual(t, late, time.Duration(0))
			assert.Less(t, late, time.Hour, "the timetable does not drift")
			different[late] = true
		}
		assert.Greater(t, len(different), 40)
	})
}

// The stop ends all schedules.
func TestS5_TheStopEndsSchedules(t *testing.T) {
	t.Run("nothing starts once the stop has begun", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.Every(10*min), runs.body(25*min), schedule.Config{Overlap: schedule.OverlapQueue})
			t.after(21 * min)
			require.True(t, s.Info().Queued)
			waits := make(chan error)
			go func() {
				_, err := s.Run(context.Background())
				waits <- err
			}()
			synctest.Wait()
			stopped := make(chan error)
			go func() { stopped <- t.reg.Shutdown(context.Background()) }()
			synctest.Wait()
			assert.ErrorIs(t, <-waits, tether.ErrClosed)
			assert.Zero(t, s.Info().Next)
			_, err := s.Run(context.Background())
			assert.ErrorIs(t, err, tether.ErrClosed)
			assert.ErrorIs(t, s.Change(schedule.Every(min)), tether.ErrClosed)
			_, err = t.sched.Add(context.Background(), "late", schedule.Every(min), succeed)
			assert.ErrorIs(t, err, tether.ErrClosed)
			require.NoError(t, <-stopped)
			assert.Equal(t, 35*min, time.Since(t.began), "the drain waits for the run alone")
			t.after(100 * time.Hour)
			assert.Equal(t, []time.Duration{10 * min}, runs.all())
			s.Pause()
			s.Resume()
			assert.True(t, s.Remove())
		})
	})
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	t.Run("the signal ends them, before the drain begins", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			t.add(schedule.Every(time.Second), runs.body(0))
			queued := t.add(schedule.Every(time.Second), runs.body(3*time.Second), schedule.Config{Overlap: schedule.OverlapQueue})
			t.after(time.Second)
			_, err := queued.Run(stopped)
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, queued.Info().Queued)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.NoError(t, t.reg.Run(ctx, tether.RunConfig{Signals: []os.Signal{}, Servers: []tether.Server{{Stop: func(context.Context) error {
				time.Sleep(5 * time.Second) // the drain begins after this
				assert.False(t, queued.Info().Queued)
				return nil
			}}}}))
			assert.Equal(t, []time.Duration{time.Second, time.Second}, runs.all())
		})
	})
}

func TestInvalid(t *testing.T) {
	assert.Panics(t, func() { schedule.New(nil) })
	bubble(t, func(t *fixture) {
		foreign := tether.New(tether.Config{}).NewPool("other", tether.PoolConfig{})
		ctx := context.Background()
		var none context.Context
		for what, add := range map[string]func() (*schedule.Schedule, error){
			"name":     func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "", schedule.Every(min), succeed) },
			"context":  func() (*schedule.Schedule, error) { return t.sched.Add(none, "job", schedule.Every(min), succeed) },
			"body":     func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", schedule.Every(min), nil) },
			"table":    func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", nil, succeed) },
			"interval": func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", schedule.Every(-min), succeed) },
			"hour": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Daily(24, 0, time.UTC), succeed)
			},
			"location": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Daily(2, 0, nil), succeed)
			},
			"wall": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.WallClock(time.UTC, nil), succeed)
			},
			"past":   func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", returns(t.began.Add(-1)), succeed) },
			"same":   func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", returns(t.began), succeed) },
			"never":  func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", returns(time.Time{}), succeed) },
			"panics": func() (*schedule.Schedule, error) { return t.sched.Add(ctx, "job", (*broken)(nil), succeed) },
			"two": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{}, schedule.Config{})
			},
			"pool": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Pool: foreign})
			},
			"overlap": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Overlap: 3})
			},
			"missed": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Missed: 2})
			},
			"jitter": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Jitter: -1})
			},
			"more jitter": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Jitter: min + 1})
			},
			"option": func() (*schedule.Schedule, error) {
				return t.sched.Add(ctx, "job", schedule.Every(min), succeed, schedule.Config{Options: []tether.Option{tether.Timeout(-1)}})
			},
		} {
			s, err := add()
			assert.ErrorIs(t, err, tether.ErrInvalid, what)
			assert.Nil(t, s)
		}
		assert.Empty(t, collect(t.sched))
	})
}

// returns is a timetable that always returns the same.
func returns(at time.Time) schedule.Timetable {
	return schedule.NextFunc(func(time.Time) time.Time { return at })
}

type broken struct{ next func(time.Time) time.Time }

func (b *broken) Next(t time.Time) time.Time { return b.next(t) }
func (b *broken) String() string             { panic("no text") }

// A timetable is code of the user's. Whatever its Next does, the run that was due starts,
// other schedules go on, and the schedule recovers when its timetable does.
func TestS6_TimetablesThatBreak(t *testing.T) {
	for what, next := range map[string]func(t time.Time) time.Time{
		"panics":           func(time.Time) time.Time { panic("no time") },
		"ends a goroutine": func(time.Time) time.Time { runtime.Goexit(); return time.Time{} },
		"the past":         func(t time.Time) time.Time { return t.Add(-time.Hour) },
		"the same instant": func(t time.Time) time.Time { return t },
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *fixture) {
				runs := t.starts()
				breaks := 2
				s := t.add(&broken{func(now time.Time) time.Time {
					if now.Sub(t.began) >= min && breaks > 0 {
						breaks--
						return next(now)
					}
					return now.Add(min)
				}}, runs.body(0))
				other := t.add(schedule.Every(min), succeed)
				assert.Equal(t, "*schedule_test.broken", s.Info().Timetable)
				t.after(min)
				info := s.Info()
				assert.Error(t, info.Err)
				assert.Zero(t, info.Next)
				assert.EqualValues(t, 1, info.Runs)
				t.after(3*min + 1) // it was asked again twice
				assert.NoError(t, s.Info().Err)
				assert.Equal(t, t.began.Add(4*min), s.Info().Next)
				t.after(5 * min)
				assert.Equal(t, []time.Duration{1 * min, 4 * min, 5 * min}, runs.all())
				assert.EqualValues(t, 5, other.Info().Runs)
				assert.Equal(t, 2, strings.Count(t.log.String(), `level=ERROR msg="schedule: the timetable is wrong" schedule=job`))
			})
		})
	}
	t.Run("blocks", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			block := make(chan struct{})
			s := t.add(schedule.NextFunc(func(now time.Time) time.Time {
				if !now.Before(t.began.Add(min)) {
					<-block
				}
				return now.Add(min)
			}), runs.body(0))
			other := t.add(schedule.Every(min), succeed)
			t.after(5 * min)
			assert.Zero(t, s.Info().Next)
			assert.EqualValues(t, 5, other.Info().Runs)
			_, err := s.Run(context.Background())
			require.NoError(t, err)
			require.NoError(t, s.Change(schedule.Every(10*min)))
			close(block)
			synctest.Wait()
			assert.Equal(t, t.began.Add(15*min), s.Info().Next, "what the old timetable returned late is not wanted")
			t.after(16 * min)
			assert.Equal(t, []time.Duration{1 * min, 5 * min, 15 * min}, runs.all())
		})
	})
	t.Run("is slow", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			t.add(schedule.NextFunc(func(now time.Time) time.Time {
				if now.Equal(t.began.Add(min)) {
					time.Sleep(10*min + 30*time.Second)
				}
				return now.Truncate(min).Add(min)
			}), runs.body(0))
			t.after(13 * min)
			assert.Equal(t, []time.Duration{1 * min, 12 * min, 13 * min}, runs.all(), "what is over is not made up for")
		})
	})
	t.Run("ends", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			runs := t.starts()
			s := t.add(schedule.NextFunc(func(now time.Time) time.Time {
				if now.Sub(t.began) >= 2*min {
					return time.Time{}
				}
				return now.Add(min)
			}), runs.body(0))
			t.after(10 * min)
			assert.Equal(t, []time.Duration{1 * min, 2 * min}, runs.all())
			assert.Zero(t, s.Info().Next)
			assert.NoError(t, s.Info().Err)
			require.NoError(t, s.Change(schedule.Every(min)))
			t.after(11 * min)
			assert.Len(t, runs.all(), 3)
		})
	})
	t.Run("an interval of nothing does not spin", func(t *testing.T) {
		bubble(t, func(t *fixture) {
			s := t.add(schedule.Every(1), func(context.Context) error { time.Sleep(time.Hour); return nil })
			time.Sleep(1000)
			assert.LessOrEqual(t, s.Info().Skipped, uint64(1000))
			s.Remove()
			time.Sleep(time.Hour)
		})
	})
}

// An observer that ends the goroutine of a submission does not break the schedule.
func TestS6_AnObserverThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := tether.New(tether.Config{Observer: leaver{}})
		s, err := schedule.New(reg).Add(context.Background(), "job", schedule.Every(min), succeed)
		require.NoError(t, err)
		time.Sleep(3 * min)
		synctest.Wait()
		assert.EqualValues(t, 3, s.Info().Runs+s.Info().Refused)
		require.NoError(t, reg.Shutdown(context.Background()))
	})
}

// slowObserver takes its time when a task has ended.
type slowObserver struct {
	tether.NopObserver
	takes time.Duration
}

func (o slowObserver) TaskEnded(context.Context, *tether.Task) { time.Sleep(o.takes) }

type leaver struct{ tether.NopObserver }

func (leaver) TaskSubmitted(context.Context, *tether.Task) { runtime.Goexit() }
