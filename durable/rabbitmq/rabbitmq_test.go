package rabbitmq_test

import (
	"testing"
	"time"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

var fixture = durabletest.Fixture{Server: durabletest.RabbitMQ, Open: open, Rescue: 2 * time.Minute,
	NoKill: "RabbitMQ 3.10 confirms nothing on a queue that was declared seconds before a kill -9 of its only node"}

func open(address, queue string) (durable.Engine, error) {
	return rabbitmq.Config{Queue: queue}.Dial(address)
}

func TestMain(m *testing.M)        { durabletest.Main(m, fixture) }
func TestContract(t *testing.T)    { durabletest.Contract(t, fixture) }
func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }
