package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
	"github.com/seed-2e639f12/tether/durable/redis"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	tetherotel "github.com/seed-2e639f12/tether/otel"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// queue is where the work on orders waits with -durable, instead of in this process:
// what is in it is done by whichever process has a worker, whatever becomes of the others.
type queue struct {
	engine durable.Engine
	fulfil *durable.Job[fulfilArgs]
	worker *durable.Worker // nil in the role web
}

// fulfilArgs is what travels: where the order is. What it is stays in the store.
type fulfilArgs struct {
	Order string `json:"order"`
}

const (
	// With a queue an order can be patient: its attempts take three minutes and a half,
	// in any process. Those that end in a kill -9 count.
	durableAttempts = 10
	fulfilTimeout   = time.Minute     // of one attempt; some engines start a lost job again after that
	enqueueTimeout  = 5 * time.Second // a client waits for it
)

func durableBackoff(attempt int, err error) time.Duration {
	return tether.ExponentialBackoff(500*time.Millisecond, time.Minute)(attempt, err)
}

// openQueue opens the queue of -durable, and makes this process' worker if it is one.
func (s *shop) openQueue(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q := &queue{fulfil: durable.Define("fulfil-order",
		func(ctx context.Context, args fulfilArgs) error { return s.fulfilQueued(ctx, args.Order) },
		durable.JobConfig{Timeout: fulfilTimeout, MaxAttempts: durableAttempts, Backoff: s.cfg.durableBackoff, Headers: tetherotel.JobHeaders})}
	if q.engine, err = openEngine(ctx, s.cfg.durable); err != nil {
		return fmt.Errorf("-durable: %w", err)
	}
	s.queue = q
	if !s.cfg.works() {
		return nil
	}
	q.worker, err = durable.NewWorker(q.engine, durable.WorkerConfig{
		Registry: s.reg, Concurrency: s.cfg.workers, Pool: "orders", Context: tetherotel.JobContext,
	}, q.fulfil)
	return err
}

// openEngine is all that the engines differ by.
func openEngine(ctx context.Context, address string) (durable.Engine, error) {
	scheme, _, found := strings.Cut(address, "://")
	if !found {
		scheme = "" // a file
	}
	switch scheme {
	case "":
		return opened(sqlite.Open(address))
	case "postgres", "postgresql":
		pool, err := pgxpool.New(ctx, address)
		if err != nil {
			return nil, err
		}
		engine, err := postgres.Open(pool)
		if err != nil {
			pool.Close()
			return nil, err
		}
		return &ownPool{engine, pool}, nil
	case "redis", "rediss":
		opt, err := asynq.ParseRedisURI(address)
		if err != nil {
			return nil, err
		}
		return opened(redis.Open(opt))
	case "amqp", "amqps":
		return opened(rabbitmq.Dial(address))
	}
	return nil, fmt.Errorf("%s:// is none of postgres://, redis://, rediss://, amqp:// and amqps://, nor a file for SQLite", scheme)
}

// opened has no engine be nil, and not an interface that holds a nil one.
func opened[E durable.Engine](engine E, err error) (durable.Engine, error) {
	if err != nil {
		return nil, err
	}
	return engine, nil
}

// ownPool closes what an engine on Postgres leaves to whoever has made it.
type ownPool struct {
	durable.Engine
	pool *pgxpool.Pool
}

func (o *ownPool) Close() error {
	defer o.pool.Close()
	return o.Engine.Close()
}

// start has the worker take jobs. If it loses its engine for good, lost is called: the
// process had better end, and be started again.
func (q *queue) start(ctx context.Context, lost func()) error {
	if q == nil || q.worker == nil {
		return nil
	}
	if err := q.worker.Start(ctx); err != nil {
		return err
	}
	go func() {
		<-q.worker.Done() // when the drain begins, at the latest
		if q.worker.Err() != nil {
			lost()
		}
	}()
	return nil
}

// close is for the end of the drain: what runs has ended, or is given back now.
func (q *queue) close(ctx context.Context) error {
	if q == nil {
		return nil
	}
	var err error
	if q.worker != nil {
		err = q.worker.Stop(ctx)
	}
	return errors.Join(err, q.engine.Close())
}

// enqueue puts an order's work onto the queue. A second time it changes nothing while the
// first waits or runs; where the engine has no unique keys (RabbitMQ) the work is done
// twice, and finds the second time that it was done.
func (q *queue) enqueue(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	var opts []durable.EnqueueOption
	if q.engine.Support().Unique {
		opts = append(opts, durable.Unique("order:"+id))
	}
	_, err := q.fulfil.Enqueue(ctx, q.engine, fulfilArgs{Order: id}, opts...)
	return err
}

// acceptDurably stores the order and puts its work onto the queue, both or neither. In
// this order: work that comes before its order would find nothing to do. A crash in
// between leaves an order that no client was told of; the next start enqueues it.
func (s *shop) acceptDurably(ctx context.Context, o, older *order) error {
	if err := s.store.insertOrder(ctx, o, older); err != nil {
		return err
	}
	err := s.queue.enqueue(ctx, o.ID)
	if err == nil {
		return nil
	}
	// The work may be there all the same, if only the answer was lost. If a worker has
	// begun with the order it is accepted; else it is withdrawn, and the work for it,
	// if there is any, finds none.
	withdrawn, storeErr := s.store.withdrawOrder(context.WithoutCancel(ctx), o.ID)
	switch {
	case storeErr != nil:
		slog.ErrorContext(ctx, "order that was refused stays, and will be done", "order", o.ID, "err", storeErr)
	case !withdrawn:
		return nil
	}
	return queueAway(ctx, err)
}

// acceptAgain answers a second click on an order. It may have come before the first one's
// work was on the queue, if the process was killed then.
func (s *shop) acceptAgain(ctx context.Context, o *order) error {
	if s.queue == nil || o.State != pending {
		return nil
	}
	if err := s.queue.enqueue(ctx, o.ID); err != nil {
		return queueAway(ctx, err)
	}
	return nil
}

// queueAway is what the client is told; the rest is for the log.
func queueAway(ctx context.Context, err error) error {
	slog.ErrorContext(ctx, "order not enqueued", "err", err)
	return &tetherhttp.Problem{
		Status: http.StatusServiceUnavailable, Detail: "the queue of the orders cannot be reached; try again",
		RetryAfter: enqueueTimeout,
	}
}

// resumeQueued enqueues a pending order of an earlier process, which most likely has its
// work on the queue already. While the queue is away it waits: the shop is open.
func (s *shop) resumeQueued(ctx context.Context, id string) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := s.queue.enqueue(ctx, id)
		if err == nil || errors.Is(err, durable.ErrUnsupported) {
			return err
		}
		slog.WarnContext(ctx, "order not resumed yet", "order", id, "again in", wait, "err", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-tether.StoppingFrom(ctx):
			again.Stop()
			return errLater
		}
	}
}

// fulfilQueued is the work as a job: that which is done without a queue.
func (s *shop) fulfilQueued(ctx context.Context, id string) error {
	err := s.fulfil(id)(ctx)
	if errors.Is(err, errNoRow) {
		return durable.Permanent(err) // it was withdrawn
	}
	return err
}

// lastAttempt reports whether ctx is that of an attempt that no other follows.
func lastAttempt(ctx context.Context) bool {
	if job, ok := durable.MetaFrom(ctx); ok {
		return job.Attempt >= job.MaxAttempts
	}
	return attempt(ctx) >= fulfilAttempts
}
