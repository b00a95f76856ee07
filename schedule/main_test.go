package schedule_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a registry with a Scheduler, in a bubble of testing/synctest.
type fixture struct {
	*testing.T
	reg   *tether.Registry
	sched *schedule.Scheduler
	log   *logBuffer
	began time.Time
}

// bubble runs f in a bubble. At the end the registry must drain without an error and at
// once.
func bubble(t *testing.T, f func(t *fixture)) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		reg := tether.New(tether.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
		x := &fixture{T: t, reg: reg, sched: schedule.New(reg), log: log, began: time.Now()}
		f(x)
		before := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		require.NoError(t, reg.Shutdown(ctx))
		assert.Equal(t, before, time.Now(), "schedules cost the drain nothing")
	})
}

func (t *fixture) add(when schedule.Timetable, fn tether.Func, cfg ...schedule.Config) *schedule.Schedule {
	t.Helper()
	s, err := t.sched.Add(context.Background(), "job", when, fn, cfg...)
	require.NoError(t, err)
	return s
}

// after sleeps until d after the beginning of the test, and until all is quiet then.
func (t *fixture) after(d time.Duration) {
	time.Sleep(time.Until(t.began.Add(d)))
	synctest.Wait()
}

// starts records when runs start, as time since the beginning of the test.
type starts struct {
	began time.Time
	mu    sync.Mutex
	at    []time.Duration
}

func (t *fixture) starts() *starts { return &starts{began: t.began} }

func (s *starts) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.began))
}

// body returns a body that takes d.
func (s *starts) body(d time.Duration) tether.Func {
	return func(ctx context.Context) error {
		s.note()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *starts) all() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration{}, s.at...)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
