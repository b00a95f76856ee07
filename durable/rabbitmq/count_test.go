package rabbitmq_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

// handed is a delivery that waits for its outcome.
type handed struct {
	durable.Delivery
	answer chan durable.Outcome
}

func TestDeliveriesTellOfCrashes(t *testing.T) {
	r := newRig(t)
	deliveries := make(chan handed)
	// Each engine stands for a process, which ends when the engine is closed.
	var process *rabbitmq.Engine
	hire := func() {
		t.Helper()
		var err error
		process, err = rabbitmq.Config{Queue: r.queue, Logger: slog.New(slog.DiscardHandler)}.Dial(r.server.Address())
		require.NoError(t, err)
		t.Cleanup(func() { process.Close() })
		_, err = process.Consume(r.ctx, durable.Consumption{Concurrency: 2, Handle: func(ctx context.Context, d durable.Delivery) durable.Outcome {
			h := handed{d, make(chan durable.Outcome, 1)}
			select {
			case deliveries <- h:
			case <-ctx.Done():
				return durable.Outcome{Verdict: durable.Return}
			}
			select {
			case out := <-h.answer:
				return out
			case <-ctx.Done():
				return durable.Outcome{Verdict: durable.Return}
			}
		}})
		require.NoError(t, err)
	}
	crash := func() {
		t.Helper()
		require.NoError(t, process.Close())
		hire()
	}
	next := func() handed {
		t.Helper()
		select {
		case h := <-deliveries:
			return h
		case <-r.ctx.Done():
			require.FailNow(t, "no delivery")
			panic("unreachable")
		}
	}
	expect := func(attempt, pardoned int, crashed bool) handed {
		t.Helper()
		h := next()
		require.Equal(t, "job", h.ID)
		require.Equal(t, []any{attempt, pardoned, crashed}, []any{h.Attempt, h.Pardoned, h.Crashed})
		return h
	}
	hire()
	r.enqueue("job", time.Time{})
	expect(1, 0, false)
	crash()
	expect(2, 1, true)
	crash()
	expect(3, 2, true).answer <- durable.Outcome{Verdict: durable.Return}
	h := expect(3, 2, false)
	require.NoError(t, h.Count(r.ctx))
	require.NoError(t, h.Count(r.ctx), "once more")
	h.answer <- durable.Outcome{Verdict: durable.Return, After: 10 * time.Millisecond}
	h = expect(3, 2, false)
	require.ErrorContains(t, h.Count(canceled()), context.Canceled.Error())
	require.NoError(t, h.Count(r.ctx))
	crash()
	h = expect(4, 2, true)
	crash()
	expect(5, 3, true).answer <- durable.Outcome{Verdict: durable.Retry, Err: errors.New("failed")}
	h = expect(6, 3, false)
	require.NoError(t, h.Count(r.ctx))
	h.answer <- durable.Outcome{Verdict: durable.Dead, Err: errors.New("for good")}
	dead := r.get(r.channel(), r.queue+".dead")
	assert.EqualValues(t, 6, dead.Headers["tether-attempt"])
	require.ErrorContains(t, h.Count(r.ctx), "answered already")

	// Each of several jobs takes its own copy.
	r.enqueue("one", time.Time{})
	r.enqueue("two", time.Time{})
	first, second := next(), next()
	counted := make(chan error, 2)
	for _, h := range []handed{first, second} {
		go func() { counted <- h.Count(r.ctx) }()
	}
	require.NoError(t, errors.Join(<-counted, <-counted))
	first.answer <- durable.Outcome{Verdict: durable.Dead, Err: errors.New(first.ID)}
	dead = r.get(r.channel(), r.queue+".dead")
	assert.Equal(t, first.ID, dead.MessageId)
	second.answer <- durable.Outcome{}
	r.until("an empty queue of the jobs that were done", func() bool { return r.queued() == 0 })
}

// A consumer that stops takes its own queue away.
func TestStopDeletesTheQueueOfCountedJobs(t *testing.T) {
	r := newRig(t)
	queue := make(chan string, 1)
	consumer := r.consume(1, func(ctx context.Context, d durable.Delivery) durable.Outcome {
		assert.NoError(t, d.Count(ctx))
		queue <- r.queue + ".alone." + rabbitmq.Tag(r.engine)
		return durable.Outcome{}
	})
	r.enqueue("job", time.Time{})
	name := <-queue
	exists := func() bool {
		_, err := r.channel().QueueDeclarePassive(name, true, false, false, false, nil)
		return err == nil
	}
	require.True(t, exists())
	require.NoError(t, consumer.Stop(r.ctx))
	require.False(t, exists())
}

// queued returns the number of jobs that are ready.
func (r *rig) queued() int {
	channel := r.channel()
	defer channel.Close()
	q, err := channel.QueueDeclarePassive(r.queue, true, false, false, false, amqp.Table{})
	require.NoError(r, err)
	return q.Messages
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
