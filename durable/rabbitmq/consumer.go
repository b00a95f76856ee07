package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/seed-2e639f12/tether/durable"
)

// consumer takes jobs from the queue. Each delivery has a goroutine. Their number is bounded
// by the prefetch, and by twice the prefetch while those of a lost connection end.
type consumer struct {
	engine *Engine
	durable.Consumption
	tag    string
	places chan struct{} // holds a value for each call of Handle, of any connection

	deliveries sync.WaitGroup // that are not answered yet
	next       chan fetched   // to a goroutine that waits for a delivery
	quit       chan struct{}  // closed when no delivery follows
	workers    sync.WaitGroup // the goroutines of deliveries

	stopping context.Context // ended by Stop: no job begins
	stop     func()
	killed   context.Context // ended by the engine's Close, and when the consumer has ended
	kill     func()
	done     chan struct{}
	err      error // written before done is closed
}

// Consume begins to deliver jobs. The consumer has a connection of its own. ctx bounds only
// this call, as does Config.Timeout.
func (e *Engine) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	if c.Handle == nil || c.Concurrency < 1 {
		return nil, fmt.Errorf("%w: rabbitmq: a Consumption must have a Handle and a Concurrency of at least 1", durable.ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = e.cfg.Logger
	}
	consumer := &consumer{
		engine: e, Consumption: c, tag: rand.Text(),
		places: make(chan struct{}, c.Concurrency), next: make(chan fetched), quit: make(chan struct{}), done: make(chan struct{}),
	}
	consumer.killed, consumer.kill = context.WithCancel(context.Background())
	consumer.stopping, consumer.stop = context.WithCancel(consumer.killed)
	if err := e.admit(consumer); err != nil {
		consumer.kill()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.closing, cancel)()
	s, err := consumer.subscribe(ctx)
	if err != nil {
		consumer.kill()
		e.dismiss(consumer)
		if e.closing.Err() != nil {
			err = fmt.Errorf("%w: %w", errClosed, err)
		}
		return nil, err
	}
	go consumer.run(s)
	return consumer, nil
}

// admit registers a consumer, for Close.
func (e *Engine) admit(c *consumer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing.Err() != nil {
		return errClosed
	}
	e.consumers[c] = true
	return nil
}

func (e *Engine) dismiss(c *consumer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.consumers, c)
}

func (c *consumer) Stop(ctx context.Context) error {
	c.stop()
	select {
	case <-c.done:
		return nil
	default:
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *consumer) Done() <-chan struct{} { return c.done }

func (c *consumer) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// run takes deliveries, from one connection after the other.
func (c *consumer) run(s *subscription) {
	defer close(c.done)
	defer c.engine.dismiss(c)
	defer c.kill()
	for n := 0; s != nil; {
		began := time.Now()
		c.serve(s)
		if c.stopping.Err() != nil {
			break
		}
		s.hangUp()
		<-s.alive.Done()
		// If the queue was deleted, serve has returned because there are no deliveries, and the
		// cause is that we closed the channel. The queue is declared again.
		c.Logger.Warn("rabbitmq: connection lost, or queue deleted", "queue", c.engine.cfg.Queue, "purpose", "consume", "error", context.Cause(s.alive))
		if time.Since(began) > believed {
			n = 0
		}
		s, n = c.again(n)
	}
	if s != nil {
		// Running jobs are answered on this connection.
		unhook := context.AfterFunc(c.killed, s.hangUp)
		c.deliveries.Wait()
		c.finish(s)
		unhook()
	}
	c.deliveries.Wait()
	close(c.quit)
	c.workers.Wait()
	if c.killed.Err() != nil && c.err == nil {
		c.err = errClosed
	}
}

// serve returns when the subscription is lost, or, after a stop, when the broker sends no
// more and each delivery has its goroutine.
func (c *consumer) serve(s *subscription) {
	stopping := c.stopping.Done()
	for {
		select {
		case d, ok := <-s.deliveries:
			if !ok {
				return
			}
			c.take(s, d)
		case <-stopping:
			stopping = nil
			unhook := context.AfterFunc(c.killed, s.hangUp)
			if err := c.leave(s); err != nil {
				s.hangUp()
			} // either closes s.deliveries, after what it has got by then
			unhook()
		}
	}
}

// fetched is a delivery of a subscription.
type fetched struct {
	*subscription
	amqp.Delivery
}

// take gives a delivery to a goroutine. One that waits is preferred: its stack has grown.
func (c *consumer) take(s *subscription, d amqp.Delivery) {
	if d.ConsumerTag != "" {
		s.unanswered.Add(1)
	}
	s.acks.received(d.DeliveryTag)
	c.deliveries.Add(1)
	select {
	case c.next <- fetched{s, d}:
	default:
		f := fetched{s, d} // here, since the closure makes it escape
		c.workers.Go(func() { c.work(f) })
	}
}

// work handles deliveries until no more follow.
func (c *consumer) work(f fetched) {
	for {
		c.deliver(f.subscription, f.Delivery)
		select {
		case f = <-c.next:
		case <-c.quit:
			return
		}
	}
}

// Bounds of leave: how long it waits in all, and for one delivery before it asks again.
const (
	leaveTime  = 2 * time.Second
	leaveAgain = 5 * time.Millisecond
)

// leave ends the flow of deliveries. The client drops a delivery that arrives after the
// answer to basic.cancel, and the broker counts it as failed when the channel ends, so none
// may be under way when basic.cancel is sent.
//
// Answers are locked out meanwhile: each would make the broker send another delivery. None
// is under way once as many deliveries are unanswered as the prefetch allows. If they are
// fewer, because the answers sent last have not reached the queue yet, the broker fills the
// prefetch as long as the queue has jobs. If the queue has none, basic.get confirms it: its
// answer comes after what the queue sent before it.
//
// A job that is enqueued into an empty queue between that answer and basic.cancel may still
// be dropped. It then counts as present at a crash, which uses no attempt.
func (c *consumer) leave(s *subscription) error {
	s.answers.Lock()
	defer s.answers.Unlock()
	late := time.NewTimer(leaveTime)
	defer late.Stop()
	for s.unanswered.Load() < int64(s.prefetch) {
		q, err := s.channel.QueueDeclarePassive(c.engine.cfg.Queue, true, false, false, false, c.engine.jobs.args)
		if err != nil {
			return err
		}
		if q.Messages == 0 {
			d, ok, err := s.channel.Get(c.engine.cfg.Queue, false)
			if err != nil {
				return err
			}
			if ok {
				c.take(s, d)
				continue
			}
			break
		}
		again := time.NewTimer(leaveAgain)
		select {
		case d, ok := <-s.deliveries:
			if !ok {
				again.Stop()
				return nil
			}
			c.take(s, d)
		case <-again.C:
		case <-late.C:
			again.Stop()
			return s.channel.Cancel(c.tag, false)
		}
		again.Stop()
	}
	return s.channel.Cancel(c.tag, false)
}

// refusals has the reply codes of a broker that refuses the user. A broker that starts may
// send them as well, so they are final only after a while.
var refusals = map[int]bool{amqp.AccessRefused: true, amqp.NotAllowed: true}

const believed = time.Minute

// again subscribes, and repeats it until it succeeds. n is the number of subscriptions before
// that were lost soon or failed; again returns the number after it. The pauses grow with it,
// so that a connection that is lost at once, because the client cannot read a message for
// example, is not made again at full speed. It returns nil if the consumer must stop, or
// if the broker refuses it for good: c.err then says why.
func (c *consumer) again(n int) (*subscription, int) {
	var refused time.Time
	for ; pause(c.stopping, n); n++ {
		s, err := c.subscribe(c.stopping)
		if err == nil {
			c.Logger.Info("rabbitmq: connected again", "queue", c.engine.cfg.Queue, "purpose", "consume")
			return s, n + 1
		}
		c.Logger.Debug("rabbitmq: not connected yet", "queue", c.engine.cfg.Queue, "purpose", "consume", "error", err)
		switch reason := code(err); {
		case !refusals[reason]:
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > believed:
			c.err = err
			return nil, n
		}
		if code(err) == amqp.PreconditionFailed {
			c.err = err
			return nil, n
		}
	}
	return nil, n
}

// subscription is a connection with deliveries.
type subscription struct {
	*link
	channel    *amqp.Channel
	deliveries <-chan amqp.Delivery
	prefetch   int
	acks       acks
	unanswered atomic.Int64    // deliveries, without those of basic.get
	answers    sync.RWMutex    // read-locked to answer; locked while no answer may be sent
	alive      context.Context // ends with the channel; its cause says why
	counts     aside           // holds jobs during an attempt that counts
}

// finish ends the connection when the queue has the last acknowledgements. The broker drops
// those that it has not read when it reads that the connection is to end. Its channel also
// holds acknowledgements back while 32 are on their way to a quorum queue, and drops them
// when the channel is closed: the jobs would run again, and count as failed.
//
// The answer to basic.get comes after the queue has what was sent before it, and the channel
// then sends what it holds back. A job that basic.get brings is given back.
func (c *consumer) finish(s *subscription) {
	late := time.AfterFunc(closeTime, func() { s.socket.Close() })
	defer late.Stop()
	for range 2 {
		d, ok, err := s.channel.Get(c.engine.cfg.Queue, false)
		if err != nil {
			break
		}
		if ok {
			c.giveBack(s, d, opened(d))
		}
	}
	s.counts.finish()
	_ = s.channel.Close()
	s.hangUp()
}

func (c *consumer) subscribe(ctx context.Context) (*subscription, error) {
	s := &subscription{prefetch: min(c.Concurrency, math.MaxUint16)}
	err := c.engine.connect(ctx, "consume", func(l *link) (err error) {
		s.link = l
		for _, q := range []queue{c.engine.dead(), c.engine.jobs} {
			if err := declare(l.Connection, q); err != nil {
				return err
			}
		}
		if s.channel, err = l.Channel(); err != nil {
			return err
		}
		closes := s.channel.NotifyClose(make(chan *amqp.Error, 1))
		alive, end := context.WithCancelCause(c.killed)
		s.alive = alive
		go func() {
			var why error = amqp.ErrClosed
			if err := <-closes; err != nil {
				why = err
			}
			end(why)
		}()
		// No more than can be handled at once: a job that is only fetched when the process is
		// killed has used up an attempt.
		if err := s.channel.Qos(s.prefetch, 0, false); err != nil {
			return err
		}
		s.deliveries, err = s.channel.Consume(c.engine.cfg.Queue, c.tag, false, false, false, false, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// placeWait bounds the wait of a delivery for its turn. It waits only if the connection was
// lost and jobs of the former one still run, or if a job runs alone. Then it goes back,
// for another worker.
const placeWait = time.Minute

// deliver handles a delivery and answers it. If the connection is lost meanwhile, the broker
// delivers it again.
func (c *consumer) deliver(s *subscription, d amqp.Delivery) {
	defer c.deliveries.Done()
	p := opened(d)
	m, err := durable.Decode(d.Body)
	switch {
	case err != nil:
		c.Logger.Error("rabbitmq: a message that is not a job is now a dead letter", "queue", c.engine.cfg.Queue, "id", d.MessageId, "error", err)
		c.move(s, d, func(ctx context.Context) error { return c.engine.publish(ctx, c.engine.dead(), p.dead(err, p.used+1)) })
		return
	case !p.due.IsZero() && time.Until(p.due) > 0:
		c.move(s, d, func(ctx context.Context) error { return c.engine.put(ctx, p) })
		return
	case !c.takePlace(s):
		c.giveBack(s, d, p)
		return
	}
	run := &running{consumer: c, from: s, delivery: d, parcel: p}
	out := c.handle(durable.Delivery{Message: m, Attempt: p.used + 1, Pardoned: p.pardoned, Crashed: p.crashed, Count: run.count})
	d = run.end()
	switch out.Verdict {
	case durable.Done:
		s.acknowledge(d)
	case durable.Dead:
		why := p.dead(out.Err, m.Used+p.used+1)
		c.move(s, d, func(ctx context.Context) error { return c.engine.publish(ctx, c.engine.dead(), why) })
	case durable.Return:
		p.answered(out.After)
		if out.After <= 0 {
			c.giveBack(s, d, p)
			return
		}
		c.move(s, d, func(ctx context.Context) error { return c.engine.put(ctx, p) })
	default: // durable.Retry
		p.used++
		p.answered(out.After)
		c.move(s, d, func(ctx context.Context) error { return c.engine.put(ctx, p) })
	}
}

// takePlace waits for a place, and reports false if there is none in time, or if no job may
// begin any more.
func (c *consumer) takePlace(s *subscription) bool {
	select {
	case c.places <- struct{}{}: // as always, without a timer
		if c.stopping.Err() == nil && s.alive.Err() == nil {
			return true
		}
		<-c.places
		return false
	default:
	}
	late := time.NewTimer(placeWait)
	defer late.Stop()
	select {
	case <-c.stopping.Done():
	case <-s.alive.Done():
	case <-late.C:
	case c.places <- struct{}{}:
		if c.stopping.Err() == nil && s.alive.Err() == nil {
			return true
		}
		<-c.places
	}
	return false
}

// handle calls Handle, and gives its place back.
func (c *consumer) handle(d durable.Delivery) (out durable.Outcome) {
	defer func() {
		<-c.places
		if v := recover(); v != nil { // Handle has promised not to
			out = durable.Outcome{Verdict: durable.Retry, After: time.Second, Err: fmt.Errorf("rabbitmq: Handle has panicked: %v", v)}
			c.Logger.Error("rabbitmq: Handle has panicked", "job", d.Name, "id", d.ID, "panic", v)
		}
	}()
	return c.Handle(c.killed, d)
}

// move calls put, which publishes a copy, until it succeeds, and then acknowledges the
// original. If the subscription ends first, the broker delivers the original again.
func (c *consumer) move(s *subscription, d amqp.Delivery, put func(context.Context) error) {
	warn := func(err error) {
		c.Logger.Warn("rabbitmq: the outcome of a job is not stored yet", "queue", c.engine.cfg.Queue, "id", d.MessageId, "error", err)
	}
	// A late confirmation is no reason to publish again: there would be two jobs.
	late := time.AfterFunc(c.engine.cfg.Timeout, func() { warn(errors.New("the broker has not confirmed")) })
	defer late.Stop()
	for n := 0; ; n++ {
		err := put(s.alive)
		if err == nil {
			s.acknowledge(d)
			return
		}
		if n == 0 && s.alive.Err() == nil {
			warn(err)
		}
		if !pause(s.alive, n) {
			return
		}
	}
}

// giveBackTime bounds the publishing of a copy in giveBack. A stop waits for it.
const giveBackTime = 5 * time.Second

// giveBack makes the job available to other consumers, as the same attempt. It publishes a
// copy, because RabbitMQ before 4.3 counts a returned message as failed. If that fails, the
// message is returned, so that it is not kept.
func (c *consumer) giveBack(s *subscription, d amqp.Delivery, p parcel) {
	ctx, cancel := context.WithTimeout(s.alive, giveBackTime)
	defer cancel()
	if err := c.engine.put(ctx, p); err != nil {
		s.requeue(d)
		return
	}
	s.acknowledge(d)
}
