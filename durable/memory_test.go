package durable_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether/durable"
)

// memory is an engine that keeps what it is asked for, and delivers what the test says
// when the test says so. Its fields are set before it is used.
type memory struct {
	support durable.Support
	enqueue func(ctx context.Context, m durable.Message) error // what Enqueue does first; nil: nothing
	consume func(ctx context.Context) error                    // what Consume does first; nil: nothing
	stop    func(ctx context.Context) error                    // what a consumer's Stop does at last; nil: nothing

	mu        sync.Mutex
	messages  []durable.Message // that it has taken
	calls     int               // of Enqueue
	consumers []*consumer
}

func newMemory() *memory {
	return &memory{support: durable.Support{Engine: "memory", Unique: true, RunAt: true}}
}

func (e *memory) Support() durable.Support { return e.support }
func (e *memory) Close() error             { return nil }

func (e *memory) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	e.mu.Lock()
	e.calls++
	e.mu.Unlock()
	if e.enqueue != nil {
		if err := e.enqueue(ctx, m); err != nil {
			return durable.Receipt{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return durable.Receipt{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.messages = append(e.messages, m)
	return durable.Receipt{ID: m.ID}, nil
}

// taken returns the messages that are in the engine.
func (e *memory) taken() []durable.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.messages)
}

// asked returns how often Enqueue was called.
func (e *memory) asked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls
}

func (e *memory) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	if e.consume != nil {
		if err := e.consume(ctx); err != nil {
			return nil, err
		}
	}
	made := &consumer{engine: e, asked: c, stopAsked: make(chan struct{}), idle: make(chan struct{}), done: make(chan struct{})}
	made.ctx, made.cancel = context.WithCancelCause(context.Background())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.consumers = append(e.consumers, made)
	return made, nil
}

// consumer returns the newest one.
func (e *memory) consumer() *consumer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.consumers[len(e.consumers)-1]
}

// consumer is a memory at work.
type consumer struct {
	engine *memory
	asked  durable.Consumption
	ctx    context.Context // of each Handle
	cancel context.CancelCauseFunc

	stopAsked, idle, done chan struct{}

	mu       sync.Mutex
	running  int   // guarded by mu, as are those below
	stops    int   // calls of Stop
	lost     error // the loss
	isDone   bool
	outcomes []durable.Outcome
}

// deliver has a job handled, and returns where its outcome will be.
func (c *consumer) deliver(m durable.Message, attempt int) <-chan durable.Outcome {
	return c.hand(durable.Delivery{Message: m, Attempt: attempt})
}

func (c *consumer) hand(d durable.Delivery) <-chan durable.Outcome {
	c.mu.Lock()
	c.running++
	c.mu.Unlock()
	out := make(chan durable.Outcome, 1)
	go func() {
		o := c.asked.Handle(c.ctx, d)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.outcomes = append(c.outcomes, o)
		if c.running--; c.running == 0 && c.stops > 0 {
			c.rest()
		}
		out <- o
	}()
	return out
}

func (c *consumer) Stop(ctx context.Context) error {
	c.mu.Lock()
	if c.stops++; c.stops == 1 {
		close(c.stopAsked)
		if c.running == 0 {
			c.rest()
		}
	}
	c.mu.Unlock()
	select {
	case <-c.idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.engine.stop != nil {
		if err := c.engine.stop(ctx); err != nil {
			return err
		}
	}
	c.end(nil)
	return nil
}

// rest notes that nothing runs; mu is held. A delivery may come while it is being stopped.
func (c *consumer) rest() {
	select {
	case <-c.idle:
	default:
		close(c.idle)
	}
}

// end closes Done: the engine is lost, or has stopped if err is nil.
func (c *consumer) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isDone {
		c.isDone, c.lost = true, err
		close(c.done)
	}
}

func (c *consumer) Done() <-chan struct{} { return c.done }

func (c *consumer) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// stopped reports whether Stop was called.
func (c *consumer) stopped() bool {
	select {
	case <-c.stopAsked:
		return true
	default:
		return false
	}
}

// invoice is a delivery of the job that newWorker's workers know.
var invoice = durable.Message{ID: "id-1", Name: "invoice", Args: json.RawMessage(`{"order":5}`)}

// none checks that nothing has gone onto the engine, nor was tried to.
func (e *memory) none(t *testing.T) {
	t.Helper()
	assert.Zero(t, e.asked(), "calls of Enqueue")
}
