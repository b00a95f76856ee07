package workload

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func TestRequests(t *testing.T) {
	const n = 30
	for _, c := range []peers.Candidate{peers.Go(), peers.Tether(), peers.Pond()} {
		var done atomic.Int64
		m := &meter{t: t, metrics: map[string]float64{}}
		run := requests(unlimited, time.Millisecond, func() error { done.Add(1); return nil })
		assert.NoError(t, run(m, c, n))
		assert.EqualValues(t, n, done.Load(), "a task for each request, and none for those that open connections")
		assert.Positive(t, m.metrics[ResponseP50])
		assert.GreaterOrEqual(t, m.metrics[ResponseP99], m.metrics[ResponseP50])
	}
}

// A task that does not do its work, or is not taken, makes the sample invalid.
func TestRequestsFail(t *testing.T) {
	errWork := errors.New("not done")
	m := &meter{t: t, metrics: map[string]float64{}}
	err := requests(unlimited, time.Millisecond, func() error { return errWork })(m, peers.Go(), 3)
	assert.ErrorContains(t, err, "3 tasks")

	refusing := peers.Candidate{Unlimited: func() (*peers.System, error) {
		return &peers.System{
			TaskIn: func(func()) func(context.Context) error {
				return func(context.Context) error { return errWork }
			},
			Close: func() error { return nil },
		}, nil
	}}
	err = requests(unlimited, time.Millisecond, lifeTask)(m, refusing, 3)
	assert.ErrorContains(t, err, "3 of 3 requests have failed")
}
