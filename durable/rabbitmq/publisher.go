package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publishing is a message on its way to a queue.
type publishing struct {
	ctx     context.Context // of who waits for done
	queue   queue
	missing bool // the queue was found to be gone
	message amqp.Publishing
	done    chan error // has room for one, and gets one
}

var (
	errReturned = errors.New("the queue is gone")
	errRefused  = errors.New("the broker has refused the message")
	errUnsent   = errors.New("the connection is lost")
	errUnsure   = errors.New("the connection was lost before the broker has confirmed; the job may be there")
)

// publish returns nil when the broker has confirmed the message, and waits for it until ctx
// ends: who gives up and publishes again may have two of it. A queue that is gone is
// declared again.
//
// The client blocks for as long as the broker does not read, which is what a broker does
// that is short of memory or of disk. So one goroutine publishes, and others can leave it.
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
			// Not at once: a broker (3.10) that sees a queue declared again before it has told the
			// consumers that it is gone never tells them.
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return e.unpublished(ctx)
			}
			// What is given away is not touched any more, so this is another one.
			p = &publishing{ctx: ctx, queue: q, message: message, missing: true}
		default:
			return err
		}
	}
}

// unpublished says why a message was not confirmed in time.
func (e *Engine) unpublished(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), e.failure)
	}
	return fmt.Errorf("%w: the broker has not confirmed", ctx.Err())
}

// publishAll is the goroutine that publishes. It has a connection of its own: the broker
// stops reading from one that publishes too much, and acknowledgements would be stuck there.
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

// again makes a session, however often that fails, and returns nil if the engine is closed.
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
	jobs     *lane  // to it
	others   *lane  // to those beside it: confirmations come in order, and jobs do not wait for these
	declared map[string]bool

	ends sync.WaitGroup // the lanes'
	once sync.Once
	lost chan struct{} // closed when a lane has ended
	err  error         // why; written before lost is closed
}

// newSession connects and declares the queues that are always there.
func (e *Engine) newSession(ctx context.Context) (*session, error) {
	s := &session{first: e.cfg.Queue, declared: make(map[string]bool), lost: make(chan struct{})}
	err := e.connect(ctx, "publish", func(l *link) (err error) {
		s.link = l
		for _, q := range []queue{e.dead(), e.jobs()} {
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
			if p.ctx.Err() != nil {
				p.done <- p.ctx.Err() // nobody waits for it
				continue
			}
			if p.missing || !s.declared[p.queue.name] {
				if err := declare(s.link.Connection, p.queue); err != nil {
					if s.link.IsClosed() {
						err = errUnsent
					}
					p.done <- err
					continue
				}
				s.declared[p.queue.name] = true
			}
			s.laneOf(p.queue).publish(p)
		}
	}
}

func (s *session) laneOf(q queue) *lane {
	if q.name == s.first {
		return s.jobs
	}
	return s.others
}

// close ends the connection. What is not confirmed by then has failed.
func (s *session) close() {
	s.link.hangUp()
	s.ends.Wait()
}

// reason says why the session is lost. It has ended.
func (s *session) reason() error {
	<-s.lost
	return s.err
}

// lane is a channel in confirm mode. One goroutine publishes on it.
type lane struct {
	channel *amqp.Channel
	last    uint64 // the number that the broker has for the message published last

	mu      sync.Mutex
	pending map[uint64]*publishing // not confirmed yet, by number; nil: the channel has ended; guarded by mu
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
	// Without room, so that what was returned is known when its confirmation arrives, which
	// the broker sends after it: the client does not go on before it has been taken here.
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation))
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

// publish has p.done told, now or when the broker has confirmed.
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

// settleAll tells who waits what the broker says, until the channel has ended.
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

// end tells who still waits why nothing will be confirmed any more.
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

// returned settles what the broker could not route, which has no number: the first one of
// the same ID to the same queue. If it was another one's, the two are the same job.
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
