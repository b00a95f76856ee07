package schedule_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
)

// Schedules that wait have no goroutine, and little memory.
func TestS7_WaitingSchedulesCostLittle(t *testing.T) {
	const n = 10_000
	reg := tether.New(tether.Config{})
	sched := schedule.New(reg)
	body := func(context.Context) error { return nil }
	goroutines := runtime.NumGoroutine()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		_, err := sched.Add(context.Background(), "job", schedule.Every(time.Hour+time.Duration(i)), body)
		require.NoError(t, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	perSchedule := float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / n
	t.Logf("%.0f bytes a schedule", perSchedule)
	assert.Less(t, perSchedule, 800.0)
	runtime.KeepAlive(sched)
	require.NoError(t, reg.Shutdown(context.Background()))
}

func BenchmarkAdd(b *testing.B) {
	sched := schedule.New(tether.New(tether.Config{}))
	body := func(context.Context) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sched.Add(context.Background(), "job", schedule.Every(time.Hour), body); err != nil {
			b.Fatal(err)
		}
	}
}
