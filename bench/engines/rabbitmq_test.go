package engines

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

var rabbitEngine = engine{
	name: "rabbitmq", server: durabletest.RabbitMQ, jobs: 2000,
	direct: directRabbit,
	tether: func(address, queue string) (*system, error) {
		e, err := rabbitmq.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)}.Dial(address)
		if err != nil {
			return nil, err
		}
		return tetherOn(e, e.Close), nil
	},
}

// directRabbit publishes persistent messages to a quorum queue and waits for the broker to
// confirm each.
func directRabbit(address, queue string) (*system, error) {
	conn, err := amqp.Dial(address)
	if err != nil {
		return nil, err
	}
	channel, err := conn.Channel()
	if err == nil {
		_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	}
	if err == nil {
		err = channel.Confirm(false)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &system{
		enqueue: func(ctx context.Context, n int) error {
			body, err := json.Marshal(payload{n})
			if err != nil {
				return err
			}
			confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false,
				amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Type: "job", Body: body})
			if err != nil {
				return err
			}
			ack, err := confirm.WaitContext(ctx)
			if err == nil && !ack {
				err = errors.New("the broker has not confirmed the message")
			}
			return err
		},
		work: func(atOnce int, ran func(int)) (func() error, error) {
			channel, err := conn.Channel()
			if err != nil {
				return nil, err
			}
			if err := channel.Qos(atOnce, 0, false); err != nil {
				return nil, err
			}
			deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
			if err != nil {
				return nil, err
			}
			var workers sync.WaitGroup
			for range atOnce {
				workers.Go(func() {
					for d := range deliveries {
						var p payload
						if json.Unmarshal(d.Body, &p) == nil {
							ran(p.N)
							d.Ack(false)
						}
					}
				})
			}
			return func() error {
				err := channel.Close()
				workers.Wait()
				return err
			}, nil
		},
		close: conn.Close,
	}, nil
}
