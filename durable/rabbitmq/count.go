package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A message cannot be changed in its queue. So that a crash counts against a job, a copy that
// says so takes its place while the job runs: it is published to a queue that only this
// consumer reads, taken from there, and not acknowledged before the job is answered. Then
// the original is acknowledged. If the process ends, the broker has the copy in that queue
// again, finds that its time there is over, and moves it to the queue of jobs.

// aside is the channel on which a subscription holds such copies.
type aside struct {
	mu      sync.Mutex    // held during a count, so that each takes its own copy
	channel *amqp.Channel // nil before the first; guarded by mu
	queue   string        // guarded by mu
	kept    atomic.Bool   // a copy was returned to the queue, and goes on from there
}

// running is a delivery that is handled.
type running struct {
	consumer *consumer
	from     *subscription

	mu       sync.Mutex    // held during a count
	delivery amqp.Delivery // to be acknowledged; guarded by mu
	parcel   parcel
	counted  bool // guarded by mu
	ended    bool // guarded by mu
}

var (
	errAnswered = errors.New("rabbitmq: the job was answered already")
	errNoCopy   = errors.New("rabbitmq: the copy of the job that counts the attempt was not found")
)

// count is durable.Delivery.Count.
func (r *running) count(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ended:
		return errAnswered
	case r.counted:
		return nil
	}
	copied := r.parcel
	copied.crashed, copied.counted = false, true
	d, err := r.consumer.hold(ctx, r.from, copied)
	if err != nil {
		return fmt.Errorf("rabbitmq: count an attempt: %w", err)
	}
	r.from.acknowledgeNow(r.delivery) // or there would be two jobs if this one ends the process
	r.delivery, r.counted = d, true
	return nil
}

// end returns the delivery to answer. No count begins afterwards.
func (r *running) end() amqp.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.delivery
}

// hold publishes a copy to the queue of this consumer, and takes it from there.
func (c *consumer) hold(ctx context.Context, s *subscription, p parcel) (amqp.Delivery, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.alive, cancel)()
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	if s.counts.channel == nil {
		channel, err := s.link.Channel()
		if err != nil {
			return amqp.Delivery{}, err
		}
		s.counts.channel, s.counts.queue = channel, c.engine.alone(c.tag).name
	}
	message := p.publishing()
	if err := c.engine.publish(ctx, c.engine.alone(c.tag), message); err != nil {
		return amqp.Delivery{}, err
	}
	for {
		d, ok, err := s.counts.channel.Get(s.counts.queue, false)
		switch {
		case err != nil:
			s.counts.channel = nil // it is closed
			return amqp.Delivery{}, err
		case !ok:
			return amqp.Delivery{}, errNoCopy
		case d.MessageId == message.MessageId:
			return d, nil
		}
		// A copy of a count that failed before it took the copy. The job itself has been
		// answered, or will be.
		_ = d.Ack(false)
	}
}

// finish waits until the queue has the acknowledgements of the channel, as consumer.finish
// does, and then deletes the queue. No job is left in it.
func (a *aside) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.channel == nil {
		return
	}
	for range 2 {
		if d, ok, err := a.channel.Get(a.queue, false); err != nil {
			return
		} else if ok {
			_ = d.Ack(false)
		}
	}
	if !a.kept.Load() {
		_, _ = a.channel.QueueDelete(a.queue, false, false, false)
	}
}
