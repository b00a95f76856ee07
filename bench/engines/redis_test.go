package engines

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/hibiken/asynq"

	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/redis"
)

var redisEngine = engine{
	name: "redis", server: durabletest.Redis, jobs: 2000,
	direct: directAsynq,
	tether: func(address, queue string) (*system, error) {
		opt, err := asynq.ParseRedisURI(address)
		if err != nil {
			return nil, err
		}
		e, err := redis.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)}.Open(opt)
		if err != nil {
			return nil, err
		}
		return tetherOn(e, e.Close), nil
	},
}

func directAsynq(address, queue string) (*system, error) {
	opt, err := asynq.ParseRedisURI(address)
	if err != nil {
		return nil, err
	}
	client := asynq.NewClient(opt)
	return &system{
		enqueue: func(ctx context.Context, n int) error {
			args, err := json.Marshal(payload{n})
			if err != nil {
				return err
			}
			_, err = client.EnqueueContext(ctx, asynq.NewTask("job", args, asynq.Queue(queue)))
			return err
		},
		work: func(atOnce int, ran func(int)) (func() error, error) {
			server := asynq.NewServer(opt, asynq.Config{
				Concurrency: atOnce, Queues: map[string]int{queue: 1}, LogLevel: asynq.ErrorLevel,
				TaskCheckInterval: fetchPoll,
			})
			err := server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
				var p payload
				if err := json.Unmarshal(t.Payload(), &p); err != nil {
					return err
				}
				ran(p.N)
				return nil
			}))
			return func() error { server.Shutdown(); return nil }, err
		},
		close: client.Close,
	}, nil
}
