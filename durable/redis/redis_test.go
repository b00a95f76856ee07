package redis_test

import (
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/redis"
)

var fixture = durabletest.Fixture{
	Server: durabletest.Redis,
	Open:   func(address, queue string) (durable.Engine, error) { return open(address, queue, redis.Config{}) },
	Rescue: 130 * time.Second, // asynq's constants make up two minutes
}

func open(address, queue string, cfg redis.Config) (*redis.Engine, error) {
	opt, err := asynq.ParseRedisURI(address)
	if err != nil {
		return nil, err
	}
	cfg.Queue = queue
	return cfg.Open(opt)
}

func TestContract(t *testing.T) { durabletest.Contract(t, fixture) }

func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }
