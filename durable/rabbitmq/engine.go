package rabbitmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/seed-2e639f12/tether/durable"
)

// Config sets an [Engine] up.
type Config struct {
	// Queue is the name of the queue of jobs, and what the names of those beside it begin
	// with. Processes that share a queue share its jobs. "": "tether".
	Queue string
	// Timeout bounds Dial, and what an Enqueue or a Consume may take whose context does not
	// end sooner. 0: 30 seconds.
	Timeout time.Duration
	// Logger gets a Warn when a connection is lost, and an Info when it is back. nil:
	// slog.Default().
	Logger *slog.Logger
}

// Engine is a queue on RabbitMQ. It is made by [Dial], and by [Config.Dial].
type Engine struct {
	cfg      Config
	url      string
	requests chan *publishing // to the publisher

	closing   context.Context // ended by Close
	close     func()
	published chan struct{} // closed when the publisher has ended

	mu        sync.Mutex
	consumers map[*consumer]bool // that have not ended; guarded by mu
	failure   error              // why there is no connection to publish on; guarded by mu
}

// Dial is Config{}.Dial(url).
func Dial(url string) (*Engine, error) { return Config{}.Dial(url) }

// Dial connects to a broker, "amqp://user:password@host:5672/vhost" or amqps, and declares
// the queues. It fails if the broker cannot be reached or does not let the user in, and
// if a queue is there already that was declared otherwise. A connection that is lost later
// is made again for as long as the engine is open.
func (c Config) Dial(url string) (*Engine, error) {
	if c.Queue == "" {
		c.Queue = "tether"
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	// 255 bytes are what AMQP allows, and ".wait.27h46m40s" is the longest that is added.
	if len(c.Queue) > 230 || strings.HasPrefix(c.Queue, "amq.") || c.Timeout < 0 {
		return nil, fmt.Errorf("%w: rabbitmq: Config.Queue %q must have at most 230 bytes and not begin with amq., Timeout %v must not be negative",
			durable.ErrInvalid, c.Queue, c.Timeout)
	}
	e := &Engine{
		cfg: c, url: url, requests: make(chan *publishing),
		published: make(chan struct{}), consumers: make(map[*consumer]bool),
	}
	e.closing, e.close = context.WithCancel(context.Background())
	s, err := e.newSession(e.closing)
	if err != nil {
		e.close()
		return nil, err
	}
	go e.publishAll(s)
	return e, nil
}

// maxTimeout leaves the broker's consumer_timeout five minutes for what is not the
// handler: the wait for a place, and the copy that is put elsewhere.
const maxTimeout = 25 * time.Minute

// Support says what the engine can do.
func (e *Engine) Support() durable.Support {
	return durable.Support{
		Engine: "rabbitmq", RunAt: true, Resolution: spans[0], MaxTimeout: maxTimeout,
		Rescue: "at once, or within half a minute if its host has vanished",
	}
}

// Enqueue stores a job. It returns when the broker has confirmed that the job is on the
// disks of a majority of the queue's nodes. While there is no connection it waits for
// one, until ctx ends or Config.Timeout has passed. When it returns an error because of
// that, or because a connection was lost, the job may be there all the same.
func (e *Engine) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	if m.Unique != "" {
		return durable.Receipt{}, fmt.Errorf("%w: rabbitmq has no unique keys (job %q)", durable.ErrUnsupported, m.Name)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return durable.Receipt{}, fmt.Errorf("%w: rabbitmq: message: %w", durable.ErrInvalid, err)
	}
	p := parcel{id: m.ID, body: body}
	if !m.RunAt.IsZero() {
		p.dueAt(m.RunAt)
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	if err := e.put(ctx, p); err != nil {
		return durable.Receipt{}, fmt.Errorf("rabbitmq: job %q: %w", m.Name, err)
	}
	return durable.Receipt{ID: m.ID}, nil
}

// put publishes a job to where it belongs now.
func (e *Engine) put(ctx context.Context, p parcel) error {
	q := e.jobs()
	if wait := time.Until(p.due); !p.due.IsZero() && wait > 0 {
		q = e.wait(nextSpan(wait, p.slack))
	}
	return e.publish(ctx, q, p.publishing())
}

// Close ends the connections, and with them what consumers there are. What Enqueue is
// waiting for has an error then. It may be called more than once.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.close()
	consumers := make([]*consumer, 0, len(e.consumers))
	for c := range e.consumers {
		consumers = append(consumers, c)
	}
	e.mu.Unlock()
	for _, c := range consumers {
		c.kill()
	}
	<-e.published
	return nil
}

// errClosed is what every call returns after Close.
var errClosed = fmt.Errorf("%w: rabbitmq: the engine is closed", durable.ErrClosed)

// queue is one of the broker, and how it is declared. Who declares it otherwise is refused,
// so the arguments must stay as they are, in each release.
type queue struct {
	name string
	args amqp.Table
}

// A broker gives a job up after so many deliveries: RabbitMQ 4 does after 20 unless told
// otherwise, and 3.10 takes no -1 by its documentation. How often a job is tried is not
// the broker's to say. Should it ever come to that, the job becomes a dead letter.
const deliveryLimit = int64(math.MaxInt32)

// bequeath is how a queue passes a message on without losing it on the way: the broker
// deletes it when the other queue has confirmed it. That needs all of these arguments.
func bequeath(args amqp.Table, to string) amqp.Table {
	args["x-queue-type"] = "quorum"
	args["x-delivery-limit"] = deliveryLimit
	if to != "" {
		args["x-dead-letter-exchange"] = ""
		args["x-dead-letter-routing-key"] = to
		args["x-dead-letter-strategy"] = "at-least-once"
		args["x-overflow"] = "reject-publish"
	}
	return args
}

func (e *Engine) jobs() queue {
	return queue{e.cfg.Queue, bequeath(amqp.Table{}, e.dead().name)}
}

func (e *Engine) dead() queue {
	return queue{e.cfg.Queue + ".dead", bequeath(amqp.Table{}, "")}
}

// wait returns the queue of one span. It has no x-expires: a quorum queue expires by the
// time since it had a consumer, whatever was published to it or declared meanwhile, and
// takes the messages along that are in it (3.10, tried).
func (e *Engine) wait(span time.Duration) queue {
	return queue{
		e.cfg.Queue + ".wait." + span.String(),
		bequeath(amqp.Table{"x-message-ttl": span.Milliseconds()}, e.jobs().name),
	}
}

// declare makes a queue if it is not there.
func declare(conn *amqp.Connection, q queue) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close()
	_, err = channel.QueueDeclare(q.name, true, false, false, false, q.args)
	if code(err) == amqp.PreconditionFailed {
		return fmt.Errorf("the queue %q is there already and was declared otherwise; delete it, or set another Config.Queue: %w", q.name, err)
	}
	return err
}

// code returns the number that AMQP has for an error, 0 if it is none of AMQP's.
func code(err error) int {
	var e *amqp.Error
	if !errors.As(err, &e) || e == nil {
		return 0
	}
	return e.Code
}

// link is a connection, and the socket below it.
type link struct {
	*amqp.Connection
	socket net.Conn
}

// closeTime is what a broker is given to answer that it has understood the end.
const closeTime = 5 * time.Second

// hangUp ends a connection, in an orderly way if the broker answers.
func (l *link) hangUp() {
	late := time.AfterFunc(closeTime, func() { l.socket.Close() })
	defer late.Stop()
	_ = l.CloseDeadline(time.Now().Add(closeTime))
}

// connect opens a connection and sets it up, all of which ends when ctx does or
// Config.Timeout has passed: the client's calls know no context, so they lose their socket then.
func (e *Engine) connect(ctx context.Context, purpose string, setUp func(*link) error) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	l := new(link)
	inTime := func() bool { return true }
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("tether " + e.cfg.Queue + " " + purpose)
	// No Config.Recovery: after it the channel is the same one, and its delivery tags begin
	// at 1 again, so that the acknowledgement of a job that was running when the connection
	// was lost would remove another job. It also gives up after a number of attempts.
	var err error
	l.Connection, err = amqp.DialConfig(e.url, amqp.Config{
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			socket, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				l.socket = socket
				inTime = context.AfterFunc(ctx, func() { socket.Close() })
			}
			return socket, err
		},
	})
	if invalid := new(url.Error); errors.As(err, &invalid) {
		err = fmt.Errorf("%w: URL: %w", durable.ErrInvalid, invalid.Err) // without the URL, which has a password
	}
	if err == nil {
		err = setUp(l)
	}
	if !inTime() {
		err = errors.Join(ctx.Err(), err)
	}
	if err == nil {
		return nil
	}
	if l.socket != nil {
		l.socket.Close()
	}
	return fmt.Errorf("rabbitmq: connect: %w", err)
}

// Pauses between attempts to do what the broker did not let us do. The first is short, since
// a broker that restarts is most often back soon.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// pause waits before attempt n+1, and returns false if the context ends first.
func pause(ctx context.Context, n int) bool {
	wait := min(firstPause<<min(n, 10), lastPause)
	wait += time.Duration(mathrand.Int64N(int64(wait))) / 2 // so that not all come back at once
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
