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

// Config configures an [Engine]. The zero value is ready to use.
type Config struct {
	// Queue is the name of the queue of jobs, and the prefix of the names of the others.
	// Processes with the same Queue share its jobs. The default is "tether".
	Queue string
	// Timeout bounds Dial, Consume, and an Enqueue without a deadline in its context. Zero
	// means 10 s.
	Timeout time.Duration
	// Logger receives a warning when a connection is lost, and a record when there is one
	// again. If nil, slog.Default is used.
	Logger *slog.Logger
}

// Engine is a queue on RabbitMQ. [Dial] and [Config.Dial] make it. Its methods are safe for
// concurrent use.
type Engine struct {
	cfg      Config
	url      string
	jobs     queue            // of the jobs that are due; its arguments are shared, so they must not be changed
	requests chan *publishing // to the publisher

	closing   context.Context // ended by Close
	close     func()
	published chan struct{} // closed when the publisher has ended

	mu        sync.Mutex
	consumers map[*consumer]bool // that have not ended; guarded by mu
	failure   error              // why there is no connection to publish on; guarded by mu
}

var _ durable.Engine = (*Engine)(nil)

// Dial returns the engine of the zero [Config]: see [Config.Dial].
func Dial(url string) (*Engine, error) { return Config{}.Dial(url) }

// Dial connects to a broker, "amqp://user:password@host:5672/vhost" or amqps, and declares
// the queues. It returns an error if the broker cannot be reached within Timeout, if it
// refuses the user, or if a queue exists that was declared with other arguments. The error
// wraps ErrInvalid if the Config or the URL is invalid. A connection that is lost later is
// made again as long as the engine is open.
func (c Config) Dial(url string) (*Engine, error) {
	if c.Queue == "" {
		c.Queue = "tether"
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	// AMQP allows 255 bytes. The longest suffix is ".alone." and 26 bytes.
	if len(c.Queue) > maxQueue || strings.HasPrefix(c.Queue, "amq.") || c.Timeout < 0 {
		return nil, fmt.Errorf("%w: rabbitmq: Config.Queue %q must have at most %d bytes and not begin with amq., Timeout %v must not be negative",
			durable.ErrInvalid, c.Queue, maxQueue, c.Timeout)
	}
	e := &Engine{
		cfg: c, url: url, requests: make(chan *publishing),
		published: make(chan struct{}), consumers: make(map[*consumer]bool),
	}
	e.jobs = queue{c.Queue, bequeath(amqp.Table{}, e.dead().name)}
	e.closing, e.close = context.WithCancel(context.Background())
	s, err := e.newSession(e.closing)
	if err != nil {
		e.close()
		return nil, err
	}
	go e.publishAll(s)
	return e, nil
}

// maxQueue is the longest name of a queue of jobs.
const maxQueue = 220

// maxTimeout is five minutes less than the broker's consumer_timeout, for the time that a
// delivery waits for its turn, and that its outcome takes.
const maxTimeout = 25 * time.Minute

// Support reports what the engine can do.
func (e *Engine) Support() durable.Support {
	return durable.Support{
		Engine: "rabbitmq", RunAt: true, Pardons: true, Resolution: spans[0], MaxTimeout: maxTimeout,
		Rescue: "at once, or within half a minute if its host has vanished",
	}
}

// Enqueue stores a job. It returns when the broker has confirmed that the job is on the
// disks of a majority of the queue's nodes.
//
// While there is no connection, Enqueue waits for one until ctx ends, or for Config.Timeout
// if ctx has no deadline. If it then returns an error, or if a connection was lost, the job
// may have been stored all the same.
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
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.cfg.Timeout)
		defer cancel()
	}
	if err := e.put(ctx, p); err != nil {
		return durable.Receipt{}, fmt.Errorf("rabbitmq: enqueue job %q: %w", m.Name, err)
	}
	return durable.Receipt{ID: m.ID}, nil
}

// put publishes a job to the queue of jobs, or to the one of the next span of its wait.
func (e *Engine) put(ctx context.Context, p parcel) error {
	q := e.jobs
	if wait := time.Until(p.due); !p.due.IsZero() && wait > 0 {
		q = e.wait(nextSpan(wait, p.slack))
	}
	return e.publish(ctx, q, p.publishing())
}

// Close closes the connections. Calls in progress return ErrClosed, and consumers end with
// it; they should be stopped before. Further calls do nothing.
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

// errClosed is the error of every call after Close.
var errClosed = fmt.Errorf("%w: rabbitmq: the engine is closed", durable.ErrClosed)

// queue is the name of a queue and the arguments it is declared with. The broker refuses other
// arguments for a queue that exists, so they must not change between releases.
type queue struct {
	name string
	args amqp.Table
}

// deliveryLimit is the number of deliveries after which the broker makes a message a dead
// letter. The default of RabbitMQ 4 is 20, and 3.10 does not document -1 for no limit. The
// worker bounds the attempts.
const deliveryLimit = int64(math.MaxInt32)

// bequeath adds the arguments with which a queue passes an expired message on without losing
// it: the broker deletes the message when the other queue has confirmed it. All are needed.
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

func (e *Engine) dead() queue {
	return queue{e.cfg.Queue + ".dead", bequeath(amqp.Table{}, "")}
}

// wait returns the queue of one span. It must not have x-expires: a quorum queue of 3.10
// expires when it has had no consumer for that time, with the messages in it, even if some
// were published meanwhile.
func (e *Engine) wait(span time.Duration) queue {
	return queue{
		e.cfg.Queue + ".wait." + span.String(),
		bequeath(amqp.Table{"x-message-ttl": span.Milliseconds()}, e.jobs.name),
	}
}

// How long a copy that is about to run may be in its queue of jobs that run alone, and how
// long that queue is kept after its last use. The first is the delay with which a job is
// delivered again after a crash; the second must be longer than any attempt.
const (
	aloneTTL     = 5 * time.Second
	aloneExpires = 2 * time.Hour
)

// alone returns the queue in which a consumer holds a job during an attempt that counts. A
// job that the consumer does not hold goes to the queue of jobs after aloneTTL.
func (e *Engine) alone(tag string) queue {
	return queue{
		e.cfg.Queue + ".alone." + tag,
		bequeath(amqp.Table{"x-message-ttl": aloneTTL.Milliseconds(), "x-expires": aloneExpires.Milliseconds()}, e.jobs.name),
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
		return fmt.Errorf("the queue %q exists and was declared with other arguments; delete it, or set another Config.Queue: %w", q.name, err)
	}
	return err
}

// code returns the AMQP reply code of an error, or 0 if it has none.
func code(err error) int {
	var e *amqp.Error
	if !errors.As(err, &e) || e == nil {
		return 0
	}
	return e.Code
}

// link is a connection and its socket.
type link struct {
	*amqp.Connection
	socket *socket
}

// closeTime bounds the wait for the broker's answer when a connection is closed.
const closeTime = 5 * time.Second

// hangUp closes the connection, and its socket if the broker does not answer.
func (l *link) hangUp() {
	late := time.AfterFunc(closeTime, func() { l.socket.Close() })
	defer late.Stop()
	_ = l.CloseDeadline(time.Now().Add(closeTime))
}

// connect opens a connection and sets it up, until ctx ends or Config.Timeout has passed. The
// client's calls take no context, so their socket is closed then.
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
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			l.socket = newSocket(conn)
			inTime = context.AfterFunc(ctx, func() { conn.Close() })
			return l.socket, nil
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
