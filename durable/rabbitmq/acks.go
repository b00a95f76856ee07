package rabbitmq

import (
	"runtime"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// An acknowledgement is a write to the socket, and a message to the broker's queue, which
// together take longer than a short job. So jobs that end at the same time share one: AMQP
// acknowledges all deliveries up to a tag at once.

// acks has the tags of a channel's deliveries, which the broker numbers 1, 2, 3, ….
type acks struct {
	mu      sync.Mutex
	last    uint64          // the tag received last; guarded by mu
	open    []uint64        // the tags up to last that are not answered, ascending; nil if gap; guarded by mu
	gap     bool            // a tag was not the one after last: unknown ones may be open below any; guarded by mu
	due     []amqp.Delivery // to be acknowledged; guarded by mu
	sent    []amqp.Delivery // what next returned last, and then the memory of due; guarded by mu
	sending bool            // a goroutine sends what is due, until nothing is; guarded by mu
}

// received records a delivery, before it is handled.
func (a *acks) received(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gap || tag != a.last+1 {
		// basic.get has overtaken deliveries that wait in the client.
		a.gap, a.open = true, nil
		return
	}
	a.last = tag
	a.open = append(a.open, tag)
}

// answered records that a delivery was answered by itself.
func (a *acks) answered(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closeLocked(tag)
}

// closeLocked removes a tag from open, and reports whether it was there.
func (a *acks) closeLocked(tag uint64) bool {
	i, open := slices.BinarySearch(a.open, tag)
	if open {
		a.open = slices.Delete(a.open, i, i+1)
	}
	return open
}

// add makes a delivery due, and reports whether the caller must send.
func (a *acks) add(d amqp.Delivery) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = append(a.due, d)
	if a.sending {
		return false
	}
	a.sending = true
	return true
}

// next takes what is due. All deliveries up to the tag upTo are acknowledged by it, if it is
// not zero, and those of single, which are among batch, one by one. An empty batch ends the
// caller's duty to send. A batch is valid until the next call.
func (a *acks) next() (batch []amqp.Delivery, upTo uint64, single []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.sent)
	a.due, a.sent = a.sent[:0], a.due
	batch = a.sent
	if len(batch) == 0 {
		a.sending = false
		return nil, 0, nil
	}
	var known []uint64
	for _, d := range batch {
		if a.closeLocked(d.DeliveryTag) {
			known = append(known, d.DeliveryTag)
		} else {
			single = append(single, d.DeliveryTag)
		}
	}
	slices.Sort(known)
	n := len(known) // of those below which nothing is open
	if len(a.open) > 0 {
		n, _ = slices.BinarySearch(known, a.open[0])
	}
	if n > 1 {
		upTo, known = known[n-1], known[n:]
	}
	return batch, upTo, append(single, known...)
}

// acknowledge removes a delivery from the queue, soon: see acks. If the connection is lost,
// the broker delivers it again, and counts it. The goroutine that sends for others has not
// ended its own delivery meanwhile, for which a stop waits.
func (s *subscription) acknowledge(d amqp.Delivery) {
	if d.Acknowledger != amqp.Acknowledger(s.channel) {
		s.acknowledgeNow(d) // a copy, which is on another channel
		return
	}
	if !s.acks.add(d) {
		return
	}
	runtime.Gosched() // for those that are about to end
	for s.acknowledgeDue() {
	}
}

// acknowledgeDue sends what is due, and reports false if there was nothing.
func (s *subscription) acknowledgeDue() bool {
	s.answers.RLock()
	defer s.answers.RUnlock()
	batch, upTo, single := s.acks.next()
	if len(batch) == 0 {
		return false // another goroutine may send by now
	}
	s.socket.hold()
	if upTo > 0 {
		_ = s.channel.Ack(upTo, true)
	}
	for _, tag := range single {
		_ = s.channel.Ack(tag, false)
	}
	s.socket.release()
	for _, d := range batch {
		s.gone(d)
	}
	return true
}

// acknowledgeNow is acknowledge, which has sent when it returns.
func (s *subscription) acknowledgeNow(d amqp.Delivery) {
	s.answer(d, func() error { return d.Ack(false) })
}

// requeue returns a delivery to its queue. The end of the connection does so too: an answer
// just before it would have the broker deliver the message once more on this connection, and
// count that.
func (s *subscription) requeue(d amqp.Delivery) {
	s.counts.kept.Store(true)
	s.answer(d, func() error {
		if s.alive.Err() != nil {
			return nil
		}
		return d.Nack(false, true)
	})
}

func (s *subscription) answer(d amqp.Delivery, send func() error) {
	s.answers.RLock()
	defer s.answers.RUnlock()
	_ = send()
	s.socket.flush() // acknowledgeDue may hold it
	if d.Acknowledger == amqp.Acknowledger(s.channel) {
		s.acks.answered(d.DeliveryTag)
	}
	s.gone(d)
}

// gone counts a delivery that was answered.
func (s *subscription) gone(d amqp.Delivery) {
	if d.ConsumerTag != "" {
		s.unanswered.Add(-1)
	}
}
