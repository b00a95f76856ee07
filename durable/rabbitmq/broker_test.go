package rabbitmq_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

const guard = 2 * time.Minute

// rig is a queue of its own, an engine on it, and another client of the broker.
type rig struct {
	*testing.T
	ctx    context.Context
	server durabletest.Server
	queue  string
	engine *rabbitmq.Engine
}

func newRig(t *testing.T) *rig {
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	t.Cleanup(cancel)
	r := &rig{T: t, ctx: ctx, server: durabletest.RabbitMQ(t), queue: "q" + strings.ToLower(rand.Text())}
	var err error
	r.engine, err = rabbitmq.Config{Queue: r.queue}.Dial(r.server.Address())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.engine.Close()) })
	return r
}

// channel is another client's.
func (r *rig) channel() *amqp.Channel {
	r.Helper()
	conn, err := amqp.Dial(r.server.Address())
	require.NoError(r, err)
	r.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	require.NoError(r, err)
	return channel
}

func (r *rig) enqueue(id string, runAt time.Time) {
	r.Helper()
	receipt, err := r.engine.Enqueue(r.ctx, durable.Message{ID: id, Name: "job", Args: json.RawMessage(`{"order":5}`), RunAt: runAt})
	require.NoError(r, err)
	require.Equal(r, id, receipt.ID)
}

// consume is stopped when the test ends, before the engine is closed.
func (r *rig) consume(concurrency int, handle func(ctx context.Context, m durable.Delivery) durable.Outcome) durable.Consumer {
	r.Helper()
	c, err := r.engine.Consume(r.ctx, durable.Consumption{Concurrency: concurrency, Handle: handle})
	require.NoError(r, err)
	r.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		assert.NoError(r, c.Stop(ctx))
	})
	return c
}

// get takes a message from a queue, once there is one.
func (r *rig) get(channel *amqp.Channel, queue string) (d amqp.Delivery) {
	r.Helper()
	r.until("a message in "+queue, func() bool {
		var ok bool
		var err error
		if d, ok, err = channel.Get(queue, true); err != nil {
			channel = r.channel() // the queue was deleted, say, and is to be there again
		}
		return err == nil && ok
	})
	return d
}

func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	require.Eventually(r, ok, guard, 5*time.Millisecond, what)
}

// deliveries hands each delivery to the test, and what the test says is its outcome.
type deliveries chan *delivery

type delivery struct {
	durable.Message
	attempt int
	answer  chan durable.Outcome
}

func (all deliveries) handle(ctx context.Context, given durable.Delivery) durable.Outcome {
	d := &delivery{given.Message, given.Attempt, make(chan durable.Outcome, 1)}
	select {
	case all <- d:
	case <-ctx.Done():
		return durable.Outcome{Verdict: durable.Return}
	}
	return <-d.answer
}

func (r *rig) next(all deliveries) *delivery {
	r.Helper()
	select {
	case d := <-all:
		return d
	case <-r.ctx.Done():
		require.FailNow(r, "no delivery")
		return nil
	}
}

func TestDeadLetter(t *testing.T) {
	r := newRig(t)
	all := make(deliveries)
	r.consume(1, all.handle)
	before := time.Now()
	_, err := r.engine.Enqueue(r.ctx, durable.Message{ID: "the-id", Name: "job", Args: json.RawMessage(`{"order":5}`), Used: 2})
	require.NoError(t, err)
	r.next(all).answer <- durable.Outcome{Verdict: durable.Retry}
	d := r.next(all)
	require.Equal(t, 2, d.attempt)
	d.answer <- durable.Outcome{Verdict: durable.Dead, Err: errors.New("no such order" + strings.Repeat(" ä", 100_000))}

	dead := r.get(r.channel(), r.queue+".dead")
	assert.JSONEq(t, `{"id":"the-id","name":"job","args":{"order":5},"used":2}`, string(dead.Body))
	assert.Equal(t, "the-id", dead.MessageId)
	assert.Equal(t, uint8(amqp.Persistent), dead.DeliveryMode)
	assert.EqualValues(t, 4, dead.Headers["tether-attempt"], "attempt, those made before the engine had it included")
	text, _ := dead.Headers["tether-error"].(string)
	assert.True(t, strings.HasPrefix(text, "no such order ä"))
	assert.Less(t, len(text), 5000)
	at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(dead.Headers["tether-died"]))
	require.NoError(t, err)
	assert.False(t, at.Before(before.Truncate(time.Second)) || at.After(time.Now()), "died at %v", at)

	// Moved by hand to the queue of jobs it is one again, with all its attempts.
	require.NoError(t, r.channel().Publish("", r.queue, false, false, amqp.Publishing{Headers: dead.Headers, Body: dead.Body}))
	d = r.next(all)
	assert.Equal(t, 1, d.attempt)
	d.answer <- durable.Outcome{}
}

// TestForeign has another client enqueue: a job, and what is none.
func TestForeign(t *testing.T) {
	r := newRig(t)
	channel := r.channel()
	all := make(deliveries)
	r.consume(2, all.handle)
	for _, junk := range []string{"", "no JSON", `{"id":"","name":"job"}`} {
		require.NoError(t, channel.Publish("", r.queue, true, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, Headers: amqp.Table{"trace": "abc", "tether-used": int32(1)}, Body: []byte(junk),
		}))
		dead := r.get(channel, r.queue+".dead")
		assert.Equal(t, junk, string(dead.Body))
		assert.Equal(t, "abc", dead.Headers["trace"])
		assert.EqualValues(t, 2, dead.Headers["tether-attempt"])
		assert.Contains(t, dead.Headers["tether-error"], durable.ErrInvalid.Error())
	}
	require.NoError(t, channel.Publish("", r.queue, true, false, amqp.Publishing{
		Headers: amqp.Table{"trace": "abc"}, Body: []byte(`{"id":"theirs","name":"job","args":7}`),
	}))
	d := r.next(all)
	assert.Equal(t, durable.Message{ID: "theirs", Name: "job", Args: json.RawMessage("7")}, d.Message)
	assert.Equal(t, 1, d.attempt)
	d.answer <- durable.Outcome{Verdict: durable.Retry}
	d = r.next(all)
	assert.Equal(t, 2, d.attempt)
	d.answer <- durable.Outcome{Verdict: durable.Dead}
	dead := r.get(channel, r.queue+".dead")
	assert.Equal(t, "abc", dead.Headers["trace"], "a header of theirs, after a retry")
}

// TestRunAt has jobs of many waits, each of more than one span, start no earlier than they may.
func TestRunAt(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	due := make(map[string]time.Time)
	started := make(chan string, 100)
	r.consume(4, func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		mu.Lock()
		defer mu.Unlock()
		assert.False(t, time.Now().Before(due[m.ID]), "job %s is early", m.ID)
		assert.Equal(t, 1, attempt)
		started <- m.ID
		return durable.Outcome{}
	})
	year := time.Now().AddDate(1, 0, 0)
	r.enqueue("in a year", year)
	for i := range 40 {
		id := fmt.Sprint(i)
		at := time.Now().Add(time.Duration(i) * 73 * time.Millisecond)
		mu.Lock()
		due[id] = at
		mu.Unlock()
		r.enqueue(id, at)
	}
	ran := make(map[string]bool)
	for range 40 {
		select {
		case id := <-started:
			ran[id] = true
		case <-r.ctx.Done():
			require.FailNow(t, "not all have started")
		}
	}
	assert.Len(t, ran, 40)
	far, err := r.channel().QueueDeclarePassive(r.queue+".wait.27h46m40s", true, false, false, false, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, far.Messages, "what runs in a year waits for the longest span")
}

// TestRestart takes the broker away from callers of Enqueue, from jobs that run, and from one that waits.
func TestRestart(t *testing.T) {
	r := newRig(t)
	const places = 4
	var now, most, begun atomic.Int64
	var mu sync.Mutex
	confirmed, done := make(map[string]bool), make(map[string]bool)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	consumer := r.consume(places, func(_ context.Context, m durable.Delivery) durable.Outcome {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if begun.Add(1) > 20 {
			<-hold
		}
		mu.Lock()
		defer mu.Unlock()
		done[m.ID] = true
		return durable.Outcome{}
	})
	t.Cleanup(release)
	r.enqueue("waits", time.Now().Add(time.Minute))
	waiting, err := r.channel().QueueDeclarePassive(r.queue+".wait.40s", true, false, false, false, nil)
	require.NoError(t, err)
	require.Equal(t, 1, waiting.Messages)

	var enough atomic.Bool
	var failed atomic.Int64
	var group sync.WaitGroup
	t.Cleanup(func() {
		enough.Store(true)
		group.Wait()
	})
	for range 8 {
		group.Go(func() {
			for !enough.Load() {
				id := rand.Text()
				if _, err := r.engine.Enqueue(r.ctx, durable.Message{ID: id, Name: "job"}); err != nil {
					failed.Add(1)
					continue
				}
				mu.Lock()
				confirmed[id] = true
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(confirmed)
	}
	r.until("jobs to be in flight", func() bool { return now.Load() == places && count() > 100 })
	r.server.Stop(t)
	start := sync.OnceFunc(func() { r.server.Start(t) })
	t.Cleanup(start)
	short, cancel := context.WithTimeout(r.ctx, 50*time.Millisecond)
	defer cancel()
	_, err = r.engine.Enqueue(short, durable.Message{ID: "away", Name: "job"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connect", "why there is no connection")
	before := count()
	start()
	r.until("Enqueue to work again", func() bool { return count() > before+100 })
	enough.Store(true)
	group.Wait()
	r.until("the consumer to be back", func() bool {
		q, err := r.channel().QueueDeclarePassive(r.queue, true, false, false, false, nil)
		return err == nil && q.Consumers == 1
	})
	release()
	r.until("each confirmed job to be done", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for id := range confirmed {
			if !done[id] {
				return false
			}
		}
		return true
	})
	assert.LessOrEqual(t, most.Load(), int64(places), "handled at once, across the restart")
	select {
	case <-consumer.Done():
		assert.Fail(t, "the consumer has ended", "%v", consumer.Err())
	default:
	}
	waiting, err = r.channel().QueueDeclarePassive(r.queue+".wait.40s", true, false, false, false, nil)
	require.NoError(t, err)
	if waiting.Messages == 0 { // the span may be over by now: it waits for the rest, or has run
		r.until("the job that waited", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return done["waits"]
		})
	}
	t.Logf("%d jobs confirmed, %d Enqueues failed", count(), failed.Load())
}

// TestDrain stops a consumer that has many jobs. None may lose an attempt: neither those
// that were fetched and not handled, nor those that were interrupted, nor those that were done
// while the broker was slow to take their acknowledgements.
func TestDrain(t *testing.T) {
	const jobs = 1000
	for name, c := range map[string]struct {
		concurrency int
		outcome     durable.Outcome
	}{
		"jobs that are done":            {100, durable.Outcome{}},
		"jobs that are interrupted":     {1000, durable.Outcome{Verdict: durable.Return}},
		"few jobs that are interrupted": {100, durable.Outcome{Verdict: durable.Return}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var group sync.WaitGroup
			for n := range 50 {
				group.Go(func() {
					for i := range jobs / 50 {
						r.enqueue(fmt.Sprint(n, "-", i), time.Time{})
					}
				})
			}
			group.Wait()
			var mu sync.Mutex
			done := make(map[string]int)
			count := func(m durable.Message) int {
				mu.Lock()
				defer mu.Unlock()
				done[m.ID]++
				return len(done)
			}
			begun, stopping := make(chan struct{}, jobs), make(chan struct{})
			consumer := r.consume(c.concurrency, func(_ context.Context, m durable.Delivery) durable.Outcome {
				attempt := m.Attempt
				assert.Equal(t, 1, attempt)
				begun <- struct{}{}
				<-stopping
				if c.outcome.Verdict == durable.Done {
					count(m.Message)
				}
				return c.outcome
			})
			for range min(c.concurrency, 300) {
				<-begun
			}
			stopped := make(chan error, 1)
			go func() { stopped <- consumer.Stop(r.ctx) }()
			close(stopping)
			require.NoError(t, <-stopped)
			all := make(chan struct{})
			end := sync.OnceFunc(func() { close(all) })
			next := r.consume(50, func(_ context.Context, m durable.Delivery) durable.Outcome {
				attempt := m.Attempt
				assert.Equal(t, 1, attempt, "job %s, which has not failed", m.ID)
				if count(m.Message) == jobs {
					end()
				}
				return durable.Outcome{}
			})
			select {
			case <-all:
			case <-r.ctx.Done():
				require.FailNow(t, "not all are done")
			}
			require.NoError(t, next.Stop(r.ctx))
			for id, n := range done {
				assert.Equal(t, 1, n, "job %s, times done", id)
			}
		})
	}
}

// TestQueueDeleted deletes what the engine has declared.
func TestQueueDeleted(t *testing.T) {
	r := newRig(t)
	channel := r.channel()
	all := make(deliveries)
	consumer := r.consume(2, all.handle)
	r.enqueue("first", time.Time{})
	r.next(all).answer <- durable.Outcome{}
	for _, name := range []string{r.queue, r.queue + ".dead"} {
		_, err := channel.QueueDelete(name, false, false, false)
		require.NoError(t, err)
	}
	r.enqueue("second", time.Time{})
	d := r.next(all)
	assert.Equal(t, "second", d.ID)
	_, err := channel.QueueDelete(r.queue+".dead", false, false, false)
	require.NoError(t, err)
	d.answer <- durable.Outcome{Verdict: durable.Dead, Err: errors.New("for good")}
	r.until("the dead letter's queue", func() bool {
		_, err := r.channel().QueueDeclarePassive(r.queue+".dead", true, false, false, false, nil)
		return err == nil
	})
	assert.Equal(t, "second", r.get(r.channel(), r.queue+".dead").MessageId)

	r.enqueue("later", time.Now().Add(time.Hour))
	_, err = channel.QueueDelete(r.queue+".wait.41m40s", false, false, false)
	require.NoError(t, err)
	r.enqueue("later, too", time.Now().Add(time.Hour))
	wait, err := channel.QueueDeclarePassive(r.queue+".wait.41m40s", true, false, false, false, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, wait.Messages)
	select {
	case <-consumer.Done():
		assert.Fail(t, "the consumer has ended", "%v", consumer.Err())
	default:
	}
}

// TestDeclaredOtherwise meets queues that are not the engine's.
func TestDeclaredOtherwise(t *testing.T) {
	server := durabletest.RabbitMQ(t)
	for _, kind := range []string{"", ".dead"} {
		r := &rig{T: t, server: server, queue: "q" + strings.ToLower(rand.Text())}
		_, err := r.channel().QueueDeclare(r.queue+kind, true, false, false, false, nil)
		require.NoError(t, err)
		_, err = rabbitmq.Config{Queue: r.queue}.Dial(server.Address())
		require.ErrorContains(t, err, `"`+r.queue+kind+`"`)
		require.ErrorContains(t, err, "other arguments")
	}

	// That a queue is exchanged is a loss for good.
	r := newRig(t)
	consumer := r.consume(1, make(deliveries).handle)
	_, err := r.channel().QueueDelete(r.queue, false, false, false)
	require.NoError(t, err)
	r.until("the queue to be exchanged", func() bool { // the consumer may declare it first
		if _, err := r.channel().QueueDeclare(r.queue, true, false, false, false, nil); err == nil {
			return true
		}
		_, _ = r.channel().QueueDelete(r.queue, false, false, false)
		return false
	})
	select {
	case <-consumer.Done():
	case <-r.ctx.Done():
		require.FailNow(t, "the consumer has not ended")
	}
	require.ErrorContains(t, consumer.Err(), "other arguments")
	_, err = r.engine.Consume(r.ctx, durable.Consumption{Concurrency: 1, Handle: make(deliveries).handle})
	require.ErrorContains(t, err, "other arguments")
}

func TestDial(t *testing.T) {
	address := durabletest.RabbitMQ(t).Address()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close() // it accepts and says nothing
	for _, c := range []struct{ url, says string }{
		{strings.Replace(address, "guest:guest", "guest:secret", 1), "403"},
		{address + "nowhere", "vhost"},
		{"amqp://guest:secret@" + durabletest.RefusedAddress(t), "refused"},
		{"amqp://guest:secret@" + silent.Addr().String(), context.DeadlineExceeded.Error()},
		{"amqp://guest:secret@127.0.0.1:port", "URL"},
		{"http://guest:secret@127.0.0.1", "scheme"},
	} {
		timeout := 30 * time.Second
		if strings.Contains(c.url, silent.Addr().String()) {
			timeout = 50 * time.Millisecond
		}
		_, err := rabbitmq.Config{Timeout: timeout}.Dial(c.url)
		require.ErrorContains(t, err, c.says, c.url)
		assert.NotContains(t, err.Error(), "secret")
	}
	for _, c := range []rabbitmq.Config{{Queue: strings.Repeat("q", 231)}, {Queue: "amq.mine"}, {Timeout: -1}} {
		_, err := c.Dial(address)
		require.ErrorIs(t, err, durable.ErrInvalid)
	}
}

// TestClose closes an engine with a consumer that has not been stopped.
func TestClose(t *testing.T) {
	r := newRig(t)
	ended := make(chan struct{})
	consumer := r.consume(1, func(ctx context.Context, m durable.Delivery) durable.Outcome {
		close(ended)
		<-ctx.Done()
		return durable.Outcome{Verdict: durable.Return}
	})
	r.enqueue("job", time.Time{})
	<-ended
	require.NoError(t, r.engine.Close())
	select {
	case <-consumer.Done():
	case <-r.ctx.Done():
		require.FailNow(t, "the consumer has not ended")
	}
	require.ErrorIs(t, consumer.Err(), durable.ErrClosed)
	_, err := r.engine.Enqueue(r.ctx, durable.Message{ID: "late", Name: "job"})
	require.ErrorIs(t, err, durable.ErrClosed)
	_, err = r.engine.Consume(r.ctx, durable.Consumption{Concurrency: 1, Handle: make(deliveries).handle})
	require.ErrorIs(t, err, durable.ErrClosed)
	assert.Equal(t, "job", r.get(r.channel(), r.queue).MessageId, "it is back")
}

// stall is a way to a broker that can be made to take nothing any more, as a broker does
// that is short of memory or of disk.
type stall struct {
	net.Listener
	stalled chan struct{} // closed from then on
	holds   chan struct{} // told when it has something that it does not pass on
	cut     chan struct{} // closed: there is no way any more
	muted   chan struct{} // closed: the first connection's answers are kept
	heard   chan struct{} // closed: they are passed on
}

func newStall(t *testing.T, to string) *stall {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &stall{l, make(chan struct{}), make(chan struct{}, 100), make(chan struct{}), make(chan struct{}), make(chan struct{})}
	var group sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		group.Wait()
	})
	group.Go(func() {
		for n := 0; ; n++ {
			client, err := l.Accept()
			if err != nil {
				return
			}
			broker, err := net.Dial("tcp", to)
			if !assert.NoError(t, err) {
				client.Close()
				return
			}
			group.Go(func() {
				defer client.Close()
				for buf := make([]byte, 4096); ; {
					read, err := broker.Read(buf)
					if err != nil {
						return
					}
					select {
					case <-s.muted:
						if n == 0 {
							select {
							case <-s.heard:
							case <-t.Context().Done():
							}
						}
					default:
					}
					if _, err := client.Write(buf[:read]); err != nil {
						return
					}
				}
			})
			group.Go(func() {
				defer broker.Close()
				for buf := make([]byte, 4096); ; {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					select {
					case <-s.stalled:
						s.holds <- struct{}{}
						select {
						case <-s.cut:
						case <-t.Context().Done():
						}
						return
					default:
					}
					if _, err := broker.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return s
}

// TestStall: neither Enqueue nor Close waits for a broker that has stopped reading.
func TestStall(t *testing.T) {
	address := durabletest.RabbitMQ(t).Address()
	to, err := amqp.ParseURI(address)
	require.NoError(t, err)
	s := newStall(t, net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	engine, err := rabbitmq.Config{Queue: "q" + strings.ToLower(rand.Text())}.Dial("amqp://guest:guest@" + s.Addr().String())
	require.NoError(t, err)
	close(s.stalled)
	args := json.RawMessage(`"` + strings.Repeat("x", 16<<20) + `"`) // more than the sockets hold
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err = engine.Enqueue(ctx, durable.Message{ID: "id", Name: "job", Args: args})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := engine.Enqueue(context.Background(), durable.Message{ID: "id", Name: "job"})
		waits <- err
	}()
	closed := make(chan error, 1)
	go func() { closed <- engine.Close() }()
	for range 2 {
		select {
		case err := <-closed:
			require.NoError(t, err)
		case err := <-waits:
			require.ErrorIs(t, err, durable.ErrClosed)
		case <-time.After(guard):
			require.FailNow(t, "Close does not return")
		}
	}
}

// TestUnconfirmed loses the connection while an Enqueue waits for its confirmation.
func TestUnconfirmed(t *testing.T) {
	to, err := amqp.ParseURI(durabletest.RabbitMQ(t).Address())
	require.NoError(t, err)
	s := newStall(t, net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	engine, err := rabbitmq.Config{Queue: "q" + strings.ToLower(rand.Text())}.Dial("amqp://guest:guest@" + s.Addr().String())
	require.NoError(t, err)
	close(s.stalled)
	waits := make(chan error, 1)
	go func() {
		_, err := engine.Enqueue(context.Background(), durable.Message{ID: "id", Name: "job"})
		waits <- err
	}()
	<-s.holds
	close(s.cut)
	err = <-waits
	require.ErrorContains(t, err, "may be there")
	require.ErrorAs(t, err, new(*amqp.Error), "why the connection was lost")
	require.NoError(t, engine.Close())
}

// TestUnsent loses the connection before a job is sent: then there is nothing that may be
// there, and Enqueue waits for another connection.
func TestUnsent(t *testing.T) {
	to, err := amqp.ParseURI(durabletest.RabbitMQ(t).Address())
	require.NoError(t, err)
	s := newStall(t, net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	engine, err := rabbitmq.Config{Queue: "q" + strings.ToLower(rand.Text())}.Dial("amqp://guest:guest@" + s.Addr().String())
	require.NoError(t, err)
	close(s.stalled)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	waits := make(chan error, 1)
	go func() { // its queue has to be declared first
		_, err := engine.Enqueue(ctx, durable.Message{ID: "id", Name: "job", RunAt: time.Now().Add(time.Hour)})
		waits <- err
	}()
	<-s.holds
	close(s.cut)
	require.ErrorIs(t, <-waits, context.DeadlineExceeded)
	require.NoError(t, engine.Close())
}

// logged passes on the texts that are logged.
type logged struct {
	slog.Handler
	texts chan string
}

func newLogged() *logged { return &logged{slog.DiscardHandler, make(chan string, 1000)} }

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.texts <- r.Message
	return nil
}

func (r *rig) awaitLog(l *logged, part string) {
	r.Helper()
	for {
		select {
		case text := <-l.texts:
			if strings.Contains(text, part) {
				return
			}
		case <-r.ctx.Done():
			require.FailNow(r, "not logged: "+part)
		}
	}
}

// TestSlowConfirm: what the broker is slow to confirm is not published once more.
func TestSlowConfirm(t *testing.T) {
	r := newRig(t)
	to, err := amqp.ParseURI(r.server.Address())
	require.NoError(t, err)
	s := newStall(t, net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	engine, err := rabbitmq.Config{Queue: r.queue, Timeout: 2 * time.Second}.Dial("amqp://guest:guest@" + s.Addr().String())
	require.NoError(t, err)
	defer engine.Close()
	all, log := make(deliveries), newLogged()
	consumer, err := engine.Consume(r.ctx, durable.Consumption{Concurrency: 1, Handle: all.handle, Logger: slog.New(log)})
	require.NoError(t, err)
	r.enqueue("job", time.Time{})
	d := r.next(all)
	close(s.muted)
	d.answer <- durable.Outcome{Verdict: durable.Dead}
	r.awaitLog(log, "not stored yet")
	close(s.heard)
	require.NoError(t, consumer.Stop(r.ctx))
	dead, err := r.channel().QueueDeclarePassive(r.queue+".dead", true, false, false, false, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, dead.Messages, "dead letters of one job")
}

// TestUnreadable has another client enqueue what ours cannot read, which ends the connection
// each time: at ever longer intervals.
func TestUnreadable(t *testing.T) {
	r := newRig(t)
	nested := amqp.Table{}
	for range 100 {
		nested = amqp.Table{"in": nested}
	}
	log := newLogged()
	consumer, err := r.engine.Consume(r.ctx, durable.Consumption{Concurrency: 1, Handle: make(deliveries).handle, Logger: slog.New(log)})
	require.NoError(t, err)
	require.NoError(t, r.channel().Publish("", r.queue, true, false, amqp.Publishing{Headers: nested, Body: []byte("{}")}))
	r.awaitLog(log, "connection lost")
	first := time.Now()
	for range 5 {
		r.awaitLog(log, "connection lost")
	}
	assert.GreaterOrEqual(t, time.Since(first), 1500*time.Millisecond, "of pauses of 50, 100, 200, 400 and 800 ms at least")
	require.NoError(t, consumer.Stop(r.ctx))
}

// TestReturned has many callers publish at once to a queue that is gone: what the broker
// confirms, but has returned before, is not stored.
func TestReturned(t *testing.T) {
	r := newRig(t)
	const callers = 200
	at := time.Now().Add(time.Hour)
	r.enqueue("first", at)
	channel := r.channel()
	_, err := channel.QueueDelete(r.queue+".wait.41m40s", false, false, false)
	require.NoError(t, err)
	var group sync.WaitGroup
	for n := range callers {
		group.Go(func() {
			_, err := r.engine.Enqueue(r.ctx, durable.Message{ID: fmt.Sprint(n), Name: "job", RunAt: at})
			assert.NoError(t, err)
		})
	}
	group.Wait()
	wait, err := channel.QueueDeclarePassive(r.queue+".wait.41m40s", true, false, false, false, nil)
	require.NoError(t, err)
	assert.Equal(t, callers, wait.Messages)
}
