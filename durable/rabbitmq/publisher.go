package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publishing is a message on its way to a queue.
type publishing struct {
	ctx     context.Context // of the caller that waits for done
	queue   queue
	missing bool // the queue was found to be gone
	message amqp.Publishing
	done    chan error // buffered; receives one value
}

var (
	errReturned = errors.New("the queue is gone")
	errRefused  = errors.New("the broker has refused the message")
	errUnsent   = errors.New("the connection is lost")
	errUnsure   = errors.New("the connection was lost before the broker has confirmed; the job may be there")
)

// publish returns nil when the broker has confirmed the message. If ctx ends first, the
// message may have been published all the same. A queue that is gone is declared again.
//
// The client blocks while the broker does not read, for example because it is short of
// memory or of disk. So one goroutine publishes, and callers only wait for it. It writes the
// messages of callers that wait at the same time together.
func (e *Engine) publish(ctx context.Context, q queue, message amqp.Publishing) error {
	p := &publishing{ctx: ctx, queue: q, message: message}
	for {
		if e.closing.Err() != nil {
			return errClosed
		}
		if ctx.Err() != nil {
			return e.unpublished(ctx)
		}
		p.done = make(chan error, 1)
		select {
		case e.requests <- p:
		case <-e.closing.Done():
			return errClosed
		case <-ctx.Done():
			return e.unpublished(ctx)
		}
		var err error
		select {
		case err = <-p.done:
		case <-ctx.Done():
			return e.unpublished(ctx)
		}
		switch {
		case err == nil:
			return nil
		case e.closing.Err() != nil:
			return fmt.Errorf("%w: %w", errClosed, err)
		case err == errUnsent:
		case err == errReturned && !p.missing:
			// Not at once: if a queue is declared again before RabbitMQ (3.10) has told its consumers
			// that it is gone, it never tells them.
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return e.unpublished(ctx)
			}
			// The publisher may still read the first one.
			p = &publishing{ctx: ctx, queue: q, message: message, missing: true}
		default:
			return err
		}
	}
}

// unpublished returns the error of a message that was not confirmed in time.
func (e *Engine) unpublished(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), e.failure)
	}
	return fmt.Errorf("%w: the broker has not confirmed", ctx.Err())
}

// publishAll is the goroutine that publishes. Its connection is not used for anything else:
// the broker stops reading from a connection that publishes too much, and acknowledgements
// would be stuck there.
func (e *Engine) publishAll(s *session) {
	defer close(e.published)
	for s != nil {
		unhook := context.AfterFunc(e.closing, s.link.hangUp) // serve may be blocked by the broker
		s.serve(e.requests, e.closing)
		unhook()
		s.close()
		if e.closing.Err() != nil {
			return
		}
		err := s.reason()
		e.cfg.Logger.Warn("rabbitmq: connection lost", "queue", e.cfg.Queue, "purpose", "publish", "error", err)
		e.failed(fmt.Errorf("rabbitmq: connection lost: %w", err))
		s = e.again()
	}
}

// again makes a session, and repeats it until it succeeds. It returns nil if the engine is
// closed.
func (e *Engine) again() *session {
	for n := 0; pause(e.closing, n); n++ {
		s, err := e.newSession(e.closing)
		e.failed(err)
		if err == nil {
			e.cfg.Logger.Info("rabbitmq: connected again", "queue", e.cfg.Queue, "purpose", "publish")
			return s
		}
		e.cfg.Logger.Debug("rabbitmq: not connected yet", "queue", e.cfg.Queue, "purpose", "publish", "error", err)
	}
	return nil
}

func (e *Engine) failed(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure = err
}

// session is a connection to publish on.
type session struct {
	link     *link
	first    string // the queue of jobs
	jobs     *lane  // to that queue
	others   *lane  // to the other queues: their confirmations would delay those of jobs
	declared map[string]bool

	ends sync.WaitGroup // of the lanes
	once sync.Once
	lost chan struct{} // closed when a lane has ended
	err  error         // why; written before lost is closed
}

// newSession connects, and declares the queues of jobs and of dead letters.
func (e *Engine) newSession(ctx context.Context) (*session, error) {
	s := &session{first: e.cfg.Queue, declared: make(map[string]bool), lost: make(chan struct{})}
	err := e.connect(ctx, "publish", func(l *link) (err error) {
		s.link = l
		for _, q := range []queue{e.dead(), e.jobs} {
			if err := declare(l.Connection, q); err != nil {
				return err
			}
			s.declared[q.name] = true
		}
		if s.jobs, err = s.newLane(); err != nil {
			return err
		}
		s.others, err = s.newLane()
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// serve publishes until the connection is lost or the engine is closed.
func (s *session) serve(requests <-chan *publishing, closing context.Context) {
	for {
		select {
		case <-closing.Done():
			return
		case <-s.lost:
			return
		case p := <-requests:
			s.link.socket.hold()
			for n := 1; p != nil; n++ {
				s.publish(p)
				p = nil
				if n < batch {
					p = another(requests)
				}
			}
			s.link.socket.release()
		}
	}
}

// batch bounds the messages that are written together.
const batch = 64

// another returns the request of another caller, or nil if none waits. It lets callers run that
// can: those that were confirmed together enqueue again together.
func another(requests <-chan *publishing) *publishing {
	for yielded := false; ; yielded = true {
		select {
		case p := <-requests:
			return p
		default:
			if yielded {
				return nil
			}
			runtime.Gosched()
		}
	}
}

// publish publishes p, to a queue that is declared first if need be.
func (s *session) publish(p *publishing) {
	if p.ctx.Err() != nil {
		p.done <- p.ctx.Err() // its caller has left
		return
	}
	if p.missing || !s.declared[p.queue.name] {
		s.link.socket.release() // declare waits for the broker
		err := declare(s.link.Connection, p.queue)
		s.link.socket.hold()
		if err != nil {
			if s.link.IsClosed() {
				err = errUnsent
			}
			p.done <- err
			return
		}
		s.declared[p.queue.name] = true
	}
	s.laneOf(p.queue).publish(p)
}

func (s *session) laneOf(q queue) *lane {
	if q.name == s.first {
		return s.jobs
	}
	return s.others
}

// close closes the connection. Messages that are not confirmed by then have failed.
func (s *session) close() {
	s.link.hangUp()
	s.ends.Wait()
}

// reason waits for the end of the session, and returns why it was lost.
func (s *session) reason() error {
	<-s.lost
	return s.err
}

// lane is a channel in confirm mode, on which one goroutine publishes.
type lane struct {
	channel *amqp.Channel
	last    uint64 // the broker's number of the message published last

	mu      sync.Mutex
	pending map[uint64]*publishing // not confirmed yet, by number; nil if the channel has ended; guarded by mu
}

func (s *session) newLane() (*lane, error) {
	channel, err := s.link.Channel()
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		return nil, err
	}
	l := &lane{channel: channel, pending: make(map[uint64]*publishing)}
	// Unbuffered: the broker returns a message before it confirms it, and the client delivers
	// the confirmation only when the return has been received here. Confirmations are buffered,
	// so that those of a batch are received without a switch of goroutines for each.
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, batch))
	closes := channel.NotifyClose(make(chan *amqp.Error, 1))
	s.ends.Go(func() {
		l.settleAll(returns, confirms)
		var err error = amqp.ErrClosed
		if e := <-closes; e != nil {
			err = e
		}
		l.end(err)
		s.once.Do(func() {
			s.err = err
			close(s.lost)
		})
	})
	return l, nil
}

// publish publishes p. The result is sent to p.done, now or when the broker has confirmed.
func (l *lane) publish(p *publishing) {
	l.mu.Lock()
	if l.pending == nil {
		l.mu.Unlock()
		p.done <- errUnsent
		return
	}
	l.last++
	number := l.last
	l.pending[number] = p
	l.mu.Unlock()
	if err := l.channel.Publish("", p.queue.name, true, false, p.message); err != nil {
		l.last-- // as the client counts
		l.settle(number, fmt.Errorf("%w: %w", errUnsure, err))
	}
}

// settleAll passes the broker's answers to the waiting callers, until the channel has ended.
func (l *lane) settleAll(returns <-chan amqp.Return, confirms <-chan amqp.Confirmation) {
	for open := true; open; {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil // and then confirms is closed
				continue
			}
			l.returned(r)
		case c, ok := <-confirms:
			switch {
			case !ok:
				open = false
			case c.Ack:
				l.settle(c.DeliveryTag, nil)
			default:
				l.settle(c.DeliveryTag, errRefused)
			}
		}
	}
}

// end passes the reason why the channel has ended to the callers that still wait.
func (l *lane) end(why error) {
	l.mu.Lock()
	pending := l.pending
	l.pending = nil
	l.mu.Unlock()
	for _, p := range pending {
		p.done <- fmt.Errorf("%w: %w", errUnsure, why)
	}
}

func (l *lane) settle(number uint64, err error) {
	l.mu.Lock()
	p := l.pending[number]
	delete(l.pending, number)
	l.mu.Unlock()
	if p != nil {
		p.done <- err
	}
}

// returned settles a message that the broker could not route. A return has no number, so it
// is the first one of the same ID and queue: two such messages are the same job.
func (l *lane) returned(r amqp.Return) {
	l.mu.Lock()
	var first uint64
	for number, p := range l.pending {
		if p.message.MessageId == r.MessageId && p.queue.name == r.RoutingKey && (first == 0 || number < first) {
			first = number
		}
	}
	l.mu.Unlock()
	l.settle(first, errReturned)
}
