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
	taskstore "github.com/seed-2e639f12/tether/tetherhttp/store"
)

// queue holds the work on orders with -durable, instead of this process's memory. Any
// process with a worker takes jobs from it, so work survives the end of each process.
type queue struct {
	engine durable.Engine
	status taskstore.Backend // nil for an engine that keeps no state
	fulfil *durable.Job[fulfilArgs]
	worker *durable.Worker // nil in the role web
}

// fulfilArgs are the arguments of a job: the order's ID. The order itself is in the store.
type fulfilArgs struct {
	Order string `json:"order"`
}

const (
	// The attempts of an order on a queue take three and a half minutes, in any process.
	// An attempt that ends with a kill -9 counts.
	durableAttempts = 10
	fulfilTimeout   = time.Minute     // of one attempt; some engines start a lost job again after it
	enqueueTimeout  = 5 * time.Second // the client waits meanwhile
)

func durableBackoff(attempt int, err error) time.Duration {
	return tether.ExponentialBackoff(500*time.Millisecond, time.Minute)(attempt, err)
}

// openQueue opens the queue of -durable, and makes a worker unless the role is web.
func (s *shop) openQueue(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q := &queue{fulfil: durable.Define("fulfil-order",
		func(ctx context.Context, args fulfilArgs) error { return s.fulfilQueued(ctx, args.Order) },
		durable.JobConfig{Timeout: fulfilTimeout, MaxAttempts: durableAttempts, Backoff: s.cfg.durableBackoff, Headers: tetherotel.JobHeaders})}
	if q.engine, q.status, err = openEngine(ctx, s.cfg.durable); err != nil {
		return fmt.Errorf("-durable: %w", err)
	}
	s.queue = q
	if s.cfg.replica != 0 {
		s.shared = tetherhttp.NewStore("checkout", q.status, tetherhttp.StoreConfig{RetainFor: reportsKeptFor, MaxResult: reportBytes})
	}
	if !s.cfg.works() {
		return nil
	}
	q.worker, err = durable.NewWorker(q.engine, durable.WorkerConfig{
		Registry: s.reg, Concurrency: s.cfg.workers, Pool: "orders", Context: tetherotel.JobContext,
	}, q.fulfil)
	return err
}

// openEngine has all that differs between the engines. It also returns the engine's store for
// the status of tasks, nil if it has none.
func openEngine(ctx context.Context, address string) (durable.Engine, taskstore.Backend, error) {
	scheme, _, found := strings.Cut(address, "://")
	if !found {
		scheme = "" // a file
	}
	switch scheme {
	case "":
		engine, err := sqlite.Open(address)
		if err != nil {
			return nil, nil, err
		}
		return engine, engine.Store(), nil
	case "postgres", "postgresql":
		pool, err := pgxpool.New(ctx, address)
		if err != nil {
			return nil, nil, err
		}
		engine, err := postgres.Open(pool)
		if err != nil {
			pool.Close()
			return nil, nil, err
		}
		return &ownPool{engine, pool}, engine.Store(), nil
	case "redis", "rediss":
		opt, err := asynq.ParseRedisURI(address)
		if err != nil {
			return nil, nil, err
		}
		engine, err := redis.Open(opt)
		if err != nil {
			return nil, nil, err
		}
		return engine, engine.Store(), nil
	case "amqp", "amqps":
		engine, err := rabbitmq.Dial(address)
		if err != nil {
			return nil, nil, err
		}
		return engine, nil, nil
	}
	return nil, nil, fmt.Errorf("%s:// is none of postgres://, redis://, rediss://, amqp:// and amqps://, nor a file for SQLite", scheme)
}

// ownPool closes the connection pool too, which the engine on Postgres leaves open.
type ownPool struct {
	durable.Engine
	pool *pgxpool.Pool
}

func (o *ownPool) Close() error {
	defer o.pool.Close()
	return o.Engine.Close()
}

// start makes the worker take jobs. lost is called if the worker loses its engine for
// good: the process should end then, and be started again.
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

// close is called when the drain has ended. Jobs that still run are given back.
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

// enqueue puts an order's work onto the queue. It does nothing if that work is already
// waiting or running. On an engine without unique keys (RabbitMQ) there is a second job,
// which finds the order done.
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

// acceptDurably stores the order and puts its work onto the queue, both or neither. The
// order comes first, since work without an order would find nothing to do. A crash in
// between leaves an order that was never confirmed; the next start enqueues it.
func (s *shop) acceptDurably(ctx context.Context, o, older *order) error {
	if err := s.store.insertOrder(ctx, o, older); err != nil {
		return err
	}
	err := s.queue.enqueue(ctx, o.ID)
	if err == nil {
		return nil
	}
	// The job may exist all the same, if only the engine's answer was lost. If a worker
	// has begun with the order, the order is accepted. If not, it is withdrawn, and a job
	// for it finds no order.
	withdrawn, storeErr := s.store.withdrawOrder(context.WithoutCancel(ctx), o.ID)
	switch {
	case storeErr != nil:
		slog.ErrorContext(ctx, "refused order stays in the store and will be done", "order", o.ID, "err", storeErr)
	case !withdrawn:
		return nil
	}
	return queueAway(ctx, err)
}

// acceptAgain is called for a second request of an order. It enqueues the work once more:
// the process may have been killed before the first request's work was on the queue.
func (s *shop) acceptAgain(ctx context.Context, o *order) error {
	if s.queue == nil || o.State != pending {
		return nil
	}
	err := s.queue.enqueue(ctx, o.ID)
	if err == nil && s.cfg.replica != 0 {
		// The first request may be another replica's, which withdraws the order if it
		// cannot enqueue it.
		err = s.store.confirmOrder(ctx, o.ID)
	}
	if err != nil {
		return queueAway(ctx, err)
	}
	return nil
}

// queueAway returns the problem for the client, and logs the error.
func queueAway(ctx context.Context, err error) error {
	slog.ErrorContext(ctx, "order not enqueued", "err", err)
	return &tetherhttp.Problem{
		Status: http.StatusServiceUnavailable, Detail: "the queue of the orders cannot be reached; try again",
		RetryAfter: enqueueTimeout,
	}
}

// resumeQueued enqueues a pending order of an earlier process, whose work most likely is
// on the queue already. It retries while the queue cannot be reached.
func (s *shop) resumeQueued(ctx context.Context, id string) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := s.queue.enqueue(ctx, id)
		if err == nil || errors.Is(err, durable.ErrUnsupported) {
			return err
		}
		slog.WarnContext(ctx, "order not resumed yet", "order", id, "retry_in", wait, "err", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-tether.StoppingFrom(ctx):
			again.Stop()
			return errLater
		}
	}
}

// fulfilQueued is the body of a job. It does the same as the task without a queue.
func (s *shop) fulfilQueued(ctx context.Context, id string) error {
	err := s.fulfil(id)(ctx)
	if errors.Is(err, errNoRow) {
		return durable.Permanent(err) // the order was withdrawn
	}
	return err
}

// lastAttempt reports whether ctx belongs to the last attempt.
func lastAttempt(ctx context.Context) bool {
	if job, ok := durable.MetaFrom(ctx); ok {
		return job.Attempt >= job.MaxAttempts
	}
	return attempt(ctx) >= fulfilAttempts
}
