package redis_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
)

// handed is a delivery that waits for its outcome.
type handed struct {
	durable.Delivery
	answer chan durable.Outcome
}

func TestDeliveriesTellOfCrashes(t *testing.T) {
	b := newBench(t)
	deliveries, ended := make(chan handed), make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	// Each consumer stands for a process. One that has crashed holds its job until the end.
	hire := func() {
		b.consume(1, func(_ context.Context, d durable.Delivery) durable.Outcome {
			h := handed{d, make(chan durable.Outcome, 1)}
			select {
			case deliveries <- h:
			case <-ended:
				return durable.Outcome{}
			}
			select {
			case out := <-h.answer:
				return out
			case <-ended:
				return durable.Outcome{}
			}
		})
		b.Cleanup(end) // before the consumer is stopped
	}
	m := message("job", "")
	b.enqueue(m)
	expect := func(attempt, pardoned int, crashed, revived bool) handed {
		t.Helper()
		h := next(b, deliveries)
		assert.Equal(t, m.ID, h.ID)
		assert.Equal(t, []any{attempt, pardoned, crashed, revived}, []any{h.Attempt, h.Pardoned, h.Crashed, h.Revived})
		return h
	}
	crash := func() {
		require.NoError(t, expireLeases(b.ctx, b.redis, b.queue))
		hire()
	}
	hire()
	expect(1, 0, false, false)
	crash()
	expect(2, 1, true, false)
	crash()
	expect(3, 2, true, false).answer <- durable.Outcome{Verdict: durable.Return, Err: errors.New("not now")}
	h := expect(3, 2, false, false)
	require.NoError(t, h.Count(b.ctx))
	h.answer <- durable.Outcome{Verdict: durable.Return, Err: errors.New("interrupted")}
	h = expect(3, 2, false, false)
	crash()
	expect(4, 3, true, false).answer <- durable.Outcome{Verdict: durable.Retry, Err: errors.New("failed")}
	require.ErrorContains(t, h.Count(b.ctx), "no longer", "a job that another worker has")
	h = expect(5, 3, false, false)
	require.NoError(t, h.Count(b.ctx))
	crash()
	h = expect(6, 3, true, false)
	require.NoError(t, h.Count(b.ctx))
	h.answer <- durable.Outcome{Verdict: durable.Dead, Err: errors.New("for good")}
	b.state(m.ID, asynq.TaskStateArchived)
	require.ErrorIs(t, b.engine.RetryDead(b.ctx, "another"), durable.ErrNotDead)
	require.NoError(t, b.engine.RetryDead(b.ctx, m.ID))
	h = expect(6, 3, false, true)
	require.ErrorIs(t, b.engine.RetryDead(b.ctx, m.ID), durable.ErrNotDead)
	h.answer <- durable.Outcome{}
	require.Eventually(t, func() bool {
		_, err := b.inspector.GetTaskInfo(b.queue, m.ID)
		return errors.Is(err, asynq.ErrTaskNotFound)
	}, patience, 5*time.Millisecond)
	left, err := b.redis.Exists(b.ctx, "asynq:{"+b.queue+"}:t:"+m.ID).Result()
	require.NoError(t, err)
	assert.Zero(t, left, "fields of a job that is done")
}

// A job with a Unique key has a task of another name.
func TestRetryDeadFindsKeys(t *testing.T) {
	b := newBench(t)
	require.ErrorIs(t, b.engine.RetryDead(b.ctx, "none"), durable.ErrNotDead, "a queue without jobs")
	deliveries := make(chan int, 10)
	b.consume(1, func(_ context.Context, d durable.Delivery) durable.Outcome {
		deliveries <- d.Attempt
		return durable.Outcome{Verdict: durable.Dead, Err: errors.New("for good")}
	})
	m := message("job", "key")
	b.enqueue(m)
	require.Equal(t, 1, next(b, deliveries))
	require.Eventually(t, func() bool { return b.engine.RetryDead(b.ctx, m.ID) == nil }, patience, 5*time.Millisecond)
	require.Equal(t, 1, next(b, deliveries))
}
