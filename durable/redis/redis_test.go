package redis_test

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/redis"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

var fixture = durabletest.Fixture{
	Server: durabletest.Redis,
	Open:   func(address, queue string) (durable.Engine, error) { return open(address, queue, redis.Config{}) },
	Store:  func(e durable.Engine) store.Backend { return e.(*redis.Engine).Store() },
	Rescue: 130 * time.Second, // asynq's constants make up two minutes
	Hasten: func(address, queue string) error {
		opt, err := asynq.ParseRedisURI(address)
		if err != nil {
			return err
		}
		client := opt.MakeRedisClient().(goredis.UniversalClient)
		defer client.Close()
		return expireLeases(context.Background(), client, queue)
	},
}

// expireLeases has the leases of all running jobs expire, as those of dead processes do.
func expireLeases(ctx context.Context, client goredis.UniversalClient, queue string) error {
	key := "asynq:{" + queue + "}:lease"
	leases, err := client.ZRangeWithScores(ctx, key, 0, -1).Result()
	if err != nil {
		return err
	}
	for _, lease := range leases {
		lease.Score -= time.Hour.Seconds()
		if err := client.ZAddXX(ctx, key, lease).Err(); err != nil {
			return err
		}
	}
	return nil
}

func open(address, queue string, cfg redis.Config) (*redis.Engine, error) {
	opt, err := asynq.ParseRedisURI(address)
	if err != nil {
		return nil, err
	}
	cfg.Queue = queue
	return cfg.Open(opt)
}

func TestMain(m *testing.M) { durabletest.Main(m, fixture) }

func TestContract(t *testing.T) { durabletest.Contract(t, fixture) }

func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }
