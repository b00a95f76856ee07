package rabbitmq

import (
	"math/rand/v2"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A broker that keeps track of what is acknowledged never loses a job that runs, and in the
// end has none left.
func TestAcks(t *testing.T) {
	shared := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var a acks
		unanswered := make(map[uint64]bool) // by the broker's books
		var waiting, running []uint64       // in the client, and received
		sending := false
		acknowledge := func(tag uint64) {
			require.True(t, unanswered[tag], "seed %d: tag %d is acknowledged twice", seed, tag)
			delete(unanswered, tag)
		}
		due := make(map[uint64]bool)
		send := func() {
			batch, upTo, single := a.next()
			if upTo > 0 {
				shared++
				n := 0
				for tag := range unanswered {
					if tag <= upTo {
						require.True(t, due[tag], "seed %d: tag %d was acknowledged with %d, and its job runs", seed, tag, upTo)
						delete(unanswered, tag)
						n++
					}
				}
				require.NotZero(t, n, "seed %d: the broker closes the channel", seed)
			}
			for _, tag := range single {
				require.True(t, due[tag], "seed %d", seed)
				acknowledge(tag)
			}
			sending = len(batch) > 0
		}
		var last uint64
		for step := range 400 {
			if len(waiting)+len(running) < 20 && step < 300 {
				last++
				unanswered[last] = true
				waiting = append(waiting, last)
			}
			if len(waiting) > 0 && rng.IntN(3) > 0 {
				i := 0
				if seed%3 == 0 && rng.IntN(50) == 0 {
					i = len(waiting) - 1 // basic.get
				}
				tag := waiting[i]
				waiting = append(waiting[:i], waiting[i+1:]...)
				a.received(tag)
				running = append(running, tag)
			}
			for len(running) > 0 && rng.IntN(4) > 0 {
				i := rng.IntN(len(running))
				if seed%2 == 0 && i == 0 && step < 350 {
					continue // one that takes long
				}
				tag := running[i]
				running = append(running[:i], running[i+1:]...)
				if rng.IntN(10) == 0 {
					acknowledge(tag)
					a.answered(tag)
					continue
				}
				due[tag] = true
				mine := a.add(amqp.Delivery{DeliveryTag: tag})
				require.Equal(t, !sending, mine, "seed %d: one sends", seed)
				sending = true
			}
			if sending && rng.IntN(2) == 0 {
				send()
			}
		}
		for sending {
			send()
		}
		for _, tag := range append(waiting, running...) {
			require.True(t, unanswered[tag], "seed %d: tag %d", seed, tag)
		}
		assert.Len(t, unanswered, len(waiting)+len(running), "seed %d", seed)
		assert.LessOrEqual(t, len(a.open), 20, "seed %d", seed)
	}
	assert.Greater(t, shared, 1000)
}

// writer acknowledges by a write to a socket.
type writer struct {
	amqp.Acknowledger
	*socket
}

func (w writer) Ack(uint64, bool) error {
	_, err := w.Write([]byte("ack"))
	return err
}

// acknowledgeNow has sent when it returns, also while acknowledgeDue holds the socket: Count
// relies on it.
func TestAcknowledgeNow(t *testing.T) {
	w := new(written)
	s := &subscription{link: &link{socket: newSocket(w)}}
	s.socket.hold()
	s.acknowledgeNow(amqp.Delivery{Acknowledger: writer{socket: s.socket}})
	require.Equal(t, []string{"ack"}, w.all)
}
