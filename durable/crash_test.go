package durable_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// counting is a Delivery.Count that notes how often it was called.
func counting(calls *int) func(context.Context) error {
	return func(context.Context) error { *calls++; return nil }
}

// What became of a delivery, and of the one before it.
func TestAfterACrash(t *testing.T) {
	once := options
	once.MaxAttempts = 1
	never := func(context.Context, order) error { panic("it must not run") }
	for _, c := range []struct {
		name      string
		delivery  durable.Delivery
		cfg       durable.JobConfig
		handler   handler
		uncounted bool // the engine has no Count
		want      durable.Verdict
		after     time.Duration
		meta      durable.Meta
		counts    int // calls of Count
		text      string
	}{
		{name: "first delivery", delivery: durable.Delivery{Attempt: 1}, handler: fail, want: durable.Retry, after: time.Second, meta: durable.Meta{Attempt: 1, MaxAttempts: 3}},
		{name: "a crash beside others", delivery: durable.Delivery{Attempt: 2, Pardoned: 1, Crashed: true}, handler: fail, want: durable.Retry, after: time.Second, meta: durable.Meta{Attempt: 2, MaxAttempts: 4}},
		{name: "the last attempt after a crash", delivery: durable.Delivery{Attempt: 4, Pardoned: 1}, handler: fail, want: durable.Dead, meta: durable.Meta{Attempt: 4, MaxAttempts: 4}},
		{name: "a second crash beside others", delivery: durable.Delivery{Attempt: 3, Pardoned: 2, Crashed: true}, handler: never, want: durable.Return, after: time.Second, text: "the process ended while it ran"},
		{name: "after its wait", delivery: durable.Delivery{Attempt: 3, Pardoned: 2}, handler: fail, want: durable.Retry, after: time.Second, meta: durable.Meta{Attempt: 3, MaxAttempts: 5}, counts: 1},
		{name: "many crashes of a neighbor", delivery: durable.Delivery{Attempt: 102, Pardoned: 101}, handler: succeed, want: durable.Done, meta: durable.Meta{Attempt: 102, MaxAttempts: 104}, counts: 1},
		{name: "a crash alone", delivery: durable.Delivery{Attempt: 5, Pardoned: 2, Crashed: true}, handler: never, want: durable.Return, after: 2 * time.Second, text: "the process ended while it ran"},
		{name: "the last crash alone", delivery: durable.Delivery{Attempt: 6, Pardoned: 2, Crashed: true}, handler: never, want: durable.Dead, text: `job "invoice": the process ended while it ran, in the last of 3 attempts`},
		{name: "dead, and asked to run again", delivery: durable.Delivery{Attempt: 6, Pardoned: 2, Revived: true}, handler: fail, want: durable.Dead, meta: durable.Meta{Attempt: 6, MaxAttempts: 6}, counts: 1, text: errTest.Error()},
		{name: "dead before its last attempt, and asked to run again", delivery: durable.Delivery{Attempt: 2, Revived: true}, handler: fail, want: durable.Retry, after: 2 * time.Second, meta: durable.Meta{Attempt: 2, MaxAttempts: 3}},
		{name: "one attempt", delivery: durable.Delivery{Attempt: 1}, cfg: once, handler: succeed, want: durable.Done, meta: durable.Meta{Attempt: 1, MaxAttempts: 1}, counts: 1},
		{name: "one attempt, which a crash has used", delivery: durable.Delivery{Attempt: 2, Crashed: true}, cfg: once, handler: never, want: durable.Dead, text: "the process ended while it ran"},
		{name: "one attempt, which had not begun", delivery: durable.Delivery{Attempt: 2, Pardoned: 1, Crashed: true}, cfg: once, handler: succeed, want: durable.Done, meta: durable.Meta{Attempt: 2, MaxAttempts: 2}, counts: 1},
		{name: "an engine that counts all", uncounted: true, delivery: durable.Delivery{Attempt: 3, Crashed: true}, handler: fail, want: durable.Dead, meta: durable.Meta{Attempt: 3, MaxAttempts: 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.cfg.Timeout == 0 {
					c.cfg = options
				}
				var meta durable.Meta
				var counts int
				p := startPlant(t, func(ctx context.Context, o order) error {
					meta, _ = durable.MetaFrom(ctx)
					meta.ID = ""
					return c.handler(ctx, o)
				}, c.cfg)
				c.delivery.Message = invoice
				if !c.uncounted {
					c.delivery.Count = counting(&counts)
				}
				out := <-p.engine.consumer().hand(c.delivery)
				assert.Equal(t, c.want, out.Verdict)
				assert.Equal(t, c.after, out.After)
				assert.Equal(t, c.meta, meta)
				assert.Equal(t, c.counts, counts)
				if c.text != "" {
					assert.ErrorContains(t, out.Err, c.text)
				}
				if c.delivery.Crashed {
					p.log.one(t, "durable: the process ended while the job ran")
				}
			})
		})
	}
}

// Beside a job that was present at two crashes no other runs: it waits for those that run,
// and those that come later wait for it.
func TestASuspectRunsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, free := make(chan string, 10), make(chan struct{})
		p := startPlant(t, func(ctx context.Context, _ order) error {
			m, _ := durable.MetaFrom(ctx)
			began <- m.ID
			<-free
			return nil
		}, options)
		counted := make(chan struct{}, 10)
		hand := func(id string, pardoned int) <-chan durable.Outcome {
			m := invoice
			m.ID = id
			out := p.engine.consumer().hand(durable.Delivery{Message: m, Attempt: pardoned + 1, Pardoned: pardoned, Count: func(context.Context) error {
				counted <- struct{}{}
				return nil
			}})
			synctest.Wait()
			return out
		}
		first, second := hand("first", 0), hand("second", 1)
		assert.Len(t, began, 2)
		suspect := hand("suspect", 2)
		third := hand("third", 0)
		pending(t, suspect)
		assert.Len(t, began, 2)
		assert.Empty(t, counted, "it counts when nothing runs beside it, and not before")
		free <- struct{}{}
		free <- struct{}{}
		<-first
		<-second
		synctest.Wait()
		assert.Len(t, counted, 1)
		assert.Equal(t, []string{"first", "second", "suspect"}, []string{<-began, <-began, <-began})
		assert.Empty(t, began, "beside it")
		close(free)
		assert.Equal(t, durable.Done, (<-suspect).Verdict)
		assert.Equal(t, durable.Done, (<-third).Verdict)
	})
}

// No delivery waits for its turn for long: other workers may have room for it.
func TestADeliveryGoesBackIfItsTurnDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		p := startPlant(t, func(context.Context, order) error { <-free; return nil }, options)
		runs := p.deliver(1)
		pending(t, runs)
		suspect := p.engine.consumer().hand(durable.Delivery{Message: invoice, Attempt: 3, Pardoned: 2, Count: counting(new(int))})
		pending(t, suspect)
		began := time.Now()
		time.Sleep(time.Minute)
		next := p.deliver(1)
		pending(t, next)
		assert.Equal(t, durable.Return, (<-suspect).Verdict)
		close(free)
		assert.Equal(t, durable.Done, (<-next).Verdict, "behind the one that has gone back")
		assert.Equal(t, durable.Done, (<-runs).Verdict)
		assert.Positive(t, time.Since(began))
		assert.Less(t, time.Since(began), 5*time.Minute, "the time that RabbitMQ has left beside the longest Timeout")
	})
}

// What waits for its turn goes back when the worker stops.
func TestASuspectDoesNotDelayTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPlant(t, untilCanceled, options)
		runs := p.deliver(1)
		suspect := p.engine.consumer().hand(durable.Delivery{Message: invoice, Attempt: 3, Pardoned: 2, Count: counting(new(int))})
		pending(t, suspect)
		began := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- p.worker.Stop(ended()) }()
		assert.Equal(t, durable.Return, (<-suspect).Verdict)
		assert.Equal(t, durable.Return, (<-runs).Verdict)
		assert.NoError(t, <-stopped)
		assert.Zero(t, time.Since(began))
	})
}

// An attempt that could not be counted is not made.
func TestCountFails(t *testing.T) {
	for name, count := range map[string]func(context.Context) error{
		"error":  func(context.Context) error { return errTest },
		"panics": func(context.Context) error { panic("of the engine") },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPlant(t, func(context.Context, order) error { return errors.New("it must not run") }, options)
				out := <-p.engine.consumer().hand(durable.Delivery{Message: invoice, Attempt: 3, Pardoned: 2, Count: count})
				assert.Equal(t, durable.Return, out.Verdict)
				assert.Positive(t, out.After)
				require.Error(t, out.Err)
				p.log.one(t, "durable: job put back")
			})
		})
	}
}

// No job begins after the first signal, though the servers are still being stopped.
func TestNoJobBeginsAfterTheSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPlant(t, succeed, options)
		assert.Equal(t, durable.Done, (<-p.deliver(1)).Verdict)
		signaled, signal := context.WithCancel(background)
		signal()
		stopping, stopped := make(chan struct{}), make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- p.reg.Run(signaled, tether.RunConfig{
				Signals: []os.Signal{},
				Servers: []tether.Server{{Name: "slow", Stop: func(context.Context) error { close(stopping); <-stopped; return nil }}},
				Closers: []tether.Closer{{Name: "worker", Close: p.worker.Stop}},
			})
		}()
		<-stopping
		out := <-p.deliver(1)
		assert.Equal(t, durable.Return, out.Verdict)
		assert.Zero(t, out.After)
		synctest.Wait()
		assert.True(t, p.engine.consumer().stopped(), "nothing is fetched any more")
		close(stopped)
		require.NoError(t, <-ended)
	})
}
