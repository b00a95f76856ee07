package workload

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/bench/internal/load"
	"github.com/seed-2e639f12/tether/bench/peers"
)

// TestMain lets the test binary be the client of W15, and the service of W16's storm.
func TestMain(m *testing.M) {
	load.Main()
	StormMain()
	// The ants package starts a pool when it is imported and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

var _ Meter = (*testing.B)(nil)

// meter checks that it is used as a stopwatch.
type meter struct {
	t       *testing.T
	running bool
	started int
	metrics map[string]float64
}

func (m *meter) StartTimer() {
	assert.False(m.t, m.running)
	m.running = true
	m.started++
}

func (m *meter) StopTimer() {
	assert.True(m.t, m.running)
	m.running = false
}

func (m *meter) ReportMetric(value float64, unit string) { m.metrics[unit] = value }

// never lists the candidates that cannot do a family, so that no dash is there by mistake.
var never = map[string][]string{
	"W1":  {"tether bounded", "semaphore", "channel", "workerpool"},
	"W11": {"tether bounded", "semaphore", "channel", "workerpool"},
	"W9":  {"tether bounded", "WaitGroup.Go", "semaphore", "channel", "ants", "ants MultiPool", "workerpool", "gopool"},
}

func TestWorkloads(t *testing.T) {
	for _, f := range All() {
		for _, w := range f.Workloads {
			t.Run(f.ID+"/"+w.Name, func(t *testing.T) {
				if testing.Short() && w.Name == "shares/newcomer" {
					t.Skip("a flood of 100,000 tasks for each candidate")
				}
				var lacks []string
				for _, c := range w.AllCandidates() {
					if testing.Short() && f.ID == "W16" && !strings.HasPrefix(c.Name, "tether") {
						continue // each storm is a process
					}
					m := &meter{t: t, metrics: map[string]float64{}}
					err := w.Run(m, c, 50)
					if errors.Is(err, ErrLacks) {
						lacks = append(lacks, c.Name)
						continue
					}
					require.NoError(t, err, c.Name)
					assert.False(t, m.running)
					assert.Positive(t, m.started, c.Name)
					for _, metric := range append(w.Also, w.Metric) {
						if metric != NsPerOp {
							assert.Contains(t, slices.Collect(maps.Keys(m.metrics)), metric, c.Name)
						}
					}
				}
				assert.NotContains(t, lacks, w.Baseline)
				if want, ok := never[f.ID]; ok {
					assert.Equal(t, want, lacks)
				}
			})
		}
	}
}

func TestNamesAreDistinct(t *testing.T) {
	ids := map[string]bool{}
	for _, f := range All() {
		for _, w := range f.Workloads {
			id := f.ID + "/" + w.Name
			assert.False(t, ids[id], id)
			ids[id] = true
			names := map[string]bool{}
			for _, c := range w.AllCandidates() {
				assert.False(t, names[c.Name], id+": "+c.Name)
				names[c.Name] = true
			}
		}
	}
}

func TestSubmissionFails(t *testing.T) {
	errRefused := errors.New("refused")
	for _, producers := range []int{1, 7} {
		var submitted, ran atomic.Int64
		system := &peers.System{
			Task: func(body func()) func() error {
				return func() error {
					if submitted.Add(1) > 20 {
						return errRefused
					}
					ran.Add(1)
					go body()
					return nil
				}
			},
			Close: func() error { return nil },
		}
		err := submitAll(system, 1000, producers, 100, noWork)
		assert.ErrorIs(t, err, errRefused)
		assert.EqualValues(t, 20, ran.Load())
	}
}

func TestProduceSharesAll(t *testing.T) {
	for _, producers := range []int{1, 2, 3, 100} {
		for _, n := range []int{1, 2, 99, 1000} {
			var left sync.WaitGroup
			left.Add(n)
			var count atomic.Int64
			require.NoError(t, produce(producers, n, &left, func() error { count.Add(1); left.Done(); return nil }))
			left.Wait()
			assert.EqualValues(t, n, count.Load())
		}
	}
}
