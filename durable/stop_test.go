package durable_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

var background = context.Background()

// isDone reports whether the worker's Done is closed.
func (p *plant) isDone() bool {
	select {
	case <-p.worker.Done():
		return true
	default:
		return false
	}
}

// stopping calls Stop and returns where its error will be.
func (p *plant) stopping(ctx context.Context) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- p.worker.Stop(ctx) }()
	return ended
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(background, d)
	t.Cleanup(cancel)
	return ctx
}

func TestStart(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"nil context": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			assert.ErrorIs(t, p.worker.Start(noContext), durable.ErrInvalid)
			assert.ErrorIs(t, p.worker.Stop(noContext), durable.ErrInvalid)
			assert.NoError(t, p.worker.Start(background))
		},
		"fails, and again, and then does not": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			for range 2 {
				p.engine.consume = func(context.Context) error { return errTest }
				err := p.worker.Start(background)
				assert.ErrorIs(t, err, errTest)
				assert.ErrorContains(t, err, "durable: start: ")
				assert.False(t, p.isDone())
				assert.NoError(t, p.worker.Err())
			}
			p.engine.consume = nil
			assert.NoError(t, p.worker.Start(background))
			assert.Equal(t, durable.Done, (<-p.deliver(1)).Verdict)
		},
		"twice": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrInvalid)
			assert.Len(t, p.engine.consumers, 1)
			assert.Equal(t, durable.Done, (<-p.deliver(1)).Verdict)
		},
		"twice at once": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			goOn := make(chan struct{})
			p.engine.consume = func(context.Context) error { <-goOn; return nil }
			first := make(chan error, 1)
			go func() { first <- p.worker.Start(background) }()
			synctest.Wait()
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrInvalid)
			close(goOn)
			assert.NoError(t, <-first)
			assert.Len(t, p.engine.consumers, 1)
		},
		"its context bounds the call": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			p.engine.consume = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
			began := time.Now()
			assert.ErrorIs(t, p.worker.Start(within(t, time.Second)), context.DeadlineExceeded)
			assert.Equal(t, time.Second, time.Since(began))
		},
		"its context does not bound the jobs": func(t *testing.T) {
			p := newPlant(t, func(context.Context, order) error { time.Sleep(10 * time.Second); return nil }, options)
			require.NoError(t, p.worker.Start(within(t, time.Second)))
			out := p.deliver(1)
			time.Sleep(5 * time.Second)
			assert.False(t, p.engine.consumer().stopped())
			assert.Equal(t, durable.Done, (<-out).Verdict)
		},
		"jobs may come before it returns": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			p.worker = mustWorker(t, eager{p.engine}, p.reg)
			assert.NoError(t, p.worker.Start(background))
		},
		"after Stop": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			require.NoError(t, p.worker.Stop(background))
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrClosed)
			assert.Len(t, p.engine.consumers, 1)
		},
		"after a Stop before it": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			require.NoError(t, p.worker.Stop(background))
			assert.True(t, p.isDone())
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrClosed)
			assert.Empty(t, p.engine.consumers)
			require.NoError(t, p.worker.Stop(background))
			require.NoError(t, p.worker.Err())
		},
		"after Shutdown": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			require.NoError(t, <-drain(p.reg))
			err := p.worker.Start(background)
			assert.ErrorIs(t, err, durable.ErrClosed)
			assert.ErrorContains(t, err, "registry")
			assert.Empty(t, p.engine.consumers)
			require.NoError(t, p.worker.Stop(background))
			assert.True(t, p.isDone())
		},
		"failed, then Stop": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			p.engine.consume = func(context.Context) error { return errTest }
			require.ErrorIs(t, p.worker.Start(background), errTest)
			require.NoError(t, p.worker.Stop(background))
			assert.True(t, p.isDone())
		},
		"Stop ends it": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			p.engine.consume = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			started := make(chan error, 1)
			go func() { started <- p.worker.Start(background) }()
			synctest.Wait()
			stopped := p.stopping(background)
			assert.ErrorIs(t, <-started, durable.ErrClosed)
			assert.NoError(t, <-stopped)
			assert.True(t, p.isDone())
		},
		"an engine that ignores Stop": func(t *testing.T) {
			p := newPlant(t, succeed, options)
			goOn := make(chan struct{})
			p.engine.consume = func(context.Context) error { <-goOn; return nil }
			started := make(chan error, 1)
			go func() { started <- p.worker.Start(background) }()
			synctest.Wait()
			stopped := p.stopping(background)
			synctest.Wait()
			assert.False(t, p.isDone())
			close(goOn)
			assert.ErrorIs(t, <-started, durable.ErrClosed)
			assert.NoError(t, <-stopped)
			assert.True(t, p.engine.consumer().stopped())
			assert.True(t, p.isDone())
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// eager is an engine that has a job done before its Consume returns.
type eager struct{ *memory }

func (e eager) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	consumer, err := e.memory.Consume(ctx, c)
	if err == nil && c.Handle(background, durable.Delivery{Message: invoice, Attempt: 1}).Verdict != durable.Done {
		err = errTest
	}
	return consumer, err
}

func mustWorker(t *testing.T, e durable.Engine, r *tether.Registry) *durable.Worker {
	w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: r, Pool: "another"}, durable.Define("invoice", succeed, options))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.Stop(background)) })
	return w
}

func TestStop(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"waits for the jobs, and takes no more": func(t *testing.T) {
			goOn := make(chan struct{})
			p := startPlant(t, stubborn(goOn), options)
			out := p.deliver(1)
			task := p.task(t)
			stopped := p.stopping(background)
			pending(t, out)
			assert.True(t, p.engine.consumer().stopped())
			assert.False(t, p.isDone())
			o := <-p.deliver(1) // it was on its way
			assert.Equal(t, durable.Return, o.Verdict)
			assert.Zero(t, o.After)
			assert.ErrorIs(t, o.Err, durable.ErrClosed)
			o = <-p.engine.consumer().deliver(durable.Message{ID: "x", Name: "unknown"}, 1)
			assert.Equal(t, durable.Return, o.Verdict)
			time.Sleep(30 * time.Second)
			assert.Equal(t, tether.Running, task.State())
			close(goOn)
			assert.NoError(t, <-stopped)
			assert.Equal(t, durable.Done, (<-out).Verdict)
			assert.True(t, p.isDone())
			assert.NoError(t, p.worker.Err())
		},
		"twice, and many at once": func(t *testing.T) {
			goOn := make(chan struct{})
			p := startPlant(t, stubborn(goOn), options)
			p.deliver(1)
			p.task(t)
			var all []<-chan error
			for range 10 {
				all = append(all, p.stopping(background))
			}
			synctest.Wait()
			close(goOn)
			for _, stopped := range all {
				assert.NoError(t, <-stopped)
			}
			assert.NoError(t, p.worker.Stop(background))
			assert.NoError(t, p.worker.Stop(ended()))
			assert.Equal(t, 1, p.engine.consumer().stops)
		},
		"cancels the jobs when its context ends": func(t *testing.T) {
			p := startPlant(t, untilCanceled, options)
			out := p.deliver(1)
			task := p.task(t)
			began := time.Now()
			assert.NoError(t, p.worker.Stop(within(t, 10*time.Second)))
			assert.Equal(t, 5*time.Second, time.Since(began))
			assert.Equal(t, durable.Return, (<-out).Verdict)
			assert.ErrorIs(t, task.Err(), tether.ErrShutdown)
		},
		"with an ended context": func(t *testing.T) {
			p := startPlant(t, untilCanceled, options)
			out := p.deliver(1)
			p.task(t)
			began := time.Now()
			assert.NoError(t, p.worker.Stop(ended()))
			assert.Zero(t, time.Since(began))
			assert.Equal(t, durable.Return, (<-out).Verdict)
		},
		"with an ended context when idle": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			assert.NoError(t, p.worker.Stop(ended()))
			assert.True(t, p.isDone())
		},
		"waits two seconds for a handler that takes its time": func(t *testing.T) {
			p := startPlant(t, func(ctx context.Context, o order) error {
				err := untilCanceled(ctx, o)
				time.Sleep(1999 * time.Millisecond)
				return err
			}, options)
			out := p.deliver(1)
			task := p.task(t)
			assert.NoError(t, p.worker.Stop(ended()))
			assert.Equal(t, durable.Return, (<-out).Verdict)
			assert.Equal(t, tether.Canceled, task.State())
		},
		"leaves a handler alone that ignores it": func(t *testing.T) {
			goOn := make(chan struct{})
			p := startPlant(t, stubborn(goOn), options)
			out := p.deliver(1)
			task := p.task(t)
			began := time.Now()
			err := p.worker.Stop(ended())
			assert.Equal(t, 2*time.Second, time.Since(began))
			assert.ErrorContains(t, err, `job "invoice" (id-1) ignores its cancellation`)
			assert.ErrorIs(t, err, errTest, "the cause of its context")
			assert.NotContains(t, err.Error(), "the engine")
			o := <-out
			assert.Equal(t, durable.Return, o.Verdict)
			assert.ErrorIs(t, o.Err, tether.ErrShutdown)
			assert.True(t, p.isDone())
			assert.NoError(t, p.worker.Err())
			assert.NoError(t, p.worker.Stop(background))
			assert.Equal(t, tether.Running, task.State())
			close(goOn)
			<-task.Done()
		},
		"a handler that ignores it and one that does not": func(t *testing.T) {
			goOn := make(chan struct{})
			p := startPlant(t, func(ctx context.Context, o order) error {
				if m, _ := durable.MetaFrom(ctx); m.Attempt == 1 {
					<-goOn
				}
				return untilCanceled(ctx, o)
			}, options)
			p.deliver(1)
			heeds := p.deliver(2)
			synctest.Wait()
			err := p.worker.Stop(ended())
			assert.Len(t, p.log.about("job put back"), 1)
			assert.Equal(t, durable.Return, (<-heeds).Verdict)
			assert.Equal(t, "durable: job \"invoice\" (id-1) ignores its cancellation\ntest error", err.Error())
			close(goOn)
		},
		"a second one is in a hurry": func(t *testing.T) {
			p := startPlant(t, untilCanceled, options)
			p.deliver(1)
			p.task(t)
			patient := p.stopping(background)
			synctest.Wait()
			assert.NoError(t, p.worker.Stop(ended()))
			assert.NoError(t, <-patient)
		},
		"cancels what was on its way": func(t *testing.T) {
			// The job is in the worker, and not a task yet, when the tasks are canceled.
			p := startPlant(t, untilCanceled, options)
			for pool := range p.reg.Pools() {
				pool.Pause()
			}
			out := p.deliver(1)
			synctest.Wait()
			assert.NoError(t, p.worker.Stop(ended()))
			assert.Equal(t, durable.Return, (<-out).Verdict)
		},
		"an engine that fails to stop": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			p.engine.stop = func(context.Context) error { return errTest }
			err := p.worker.Stop(background)
			assert.ErrorIs(t, err, errTest)
			assert.ErrorContains(t, err, "durable: stop: ")
			assert.ErrorIs(t, p.worker.Stop(background), errTest)
			assert.NoError(t, p.worker.Err())
			assert.Equal(t, map[string]string{"msg": "durable: stop", "level": "WARN", "engine": "memory", "error": "test error"}, p.log.one(t, "durable: stop"))
		},
		"an engine that does not stop until its context ends": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			p.engine.stop = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			began := time.Now()
			err := p.worker.Stop(ended())
			assert.Equal(t, 4*time.Second, time.Since(began))
			assert.ErrorIs(t, err, errTest)
			assert.ErrorContains(t, err, "durable: stop: context canceled")
			assert.True(t, p.isDone())
		},
		"an engine that hangs": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			goOn := make(chan struct{})
			p.engine.stop = func(context.Context) error { <-goOn; return nil }
			began := time.Now()
			err := p.worker.Stop(ended())
			assert.Equal(t, 6*time.Second, time.Since(began))
			assert.ErrorIs(t, err, errTest)
			assert.ErrorContains(t, err, "durable: the engine has not stopped")
			assert.False(t, p.isDone())
			assert.NoError(t, p.worker.Err())
			close(goOn)
			assert.NoError(t, p.worker.Stop(background))
			assert.True(t, p.isDone())
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func TestTheDrainStopsTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := startPlant(t, stubborn(goOn), options)
		out := p.deliver(1)
		p.task(t)
		drained := drain(p.reg)
		pending(t, out)
		assert.True(t, p.engine.consumer().stopped())
		assert.False(t, p.isDone(), "a job runs still")
		assert.Equal(t, durable.Return, (<-p.deliver(1)).Verdict)
		close(goOn)
		assert.Equal(t, durable.Done, (<-out).Verdict)
		require.NoError(t, <-drained)
		<-p.worker.Done()
		assert.NoError(t, p.worker.Err())
		assert.NoError(t, p.worker.Stop(background))
	})
}

// The drain has run out of time, and the Closers stop the worker.
func TestStopAfterADrainThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := startPlant(t, stubborn(goOn), options)
		out := p.deliver(1)
		p.task(t)
		require.ErrorIs(t, <-drain(p.reg), context.DeadlineExceeded)
		assert.Len(t, p.reg.Report().Abandoned, 1)
		pending(t, out)
		assert.ErrorContains(t, p.worker.Stop(ended()), "ignores its cancellation")
		assert.Equal(t, durable.Return, (<-out).Verdict)
		close(goOn)
	})
}

func TestALostEngine(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"while idle": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			p.engine.consumer().end(errTest)
			<-p.worker.Done()
			assert.ErrorIs(t, p.worker.Err(), durable.ErrLost)
			assert.ErrorIs(t, p.worker.Err(), errTest)
			assert.Equal(t, map[string]string{"msg": "durable: the worker has lost its engine", "level": "ERROR", "engine": "memory", "error": "test error"},
				p.log.one(t, "lost"))
			assert.ErrorIs(t, p.worker.Stop(background), durable.ErrLost)
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrClosed)
		},
		"and not started again": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			p.engine.consumer().end(errTest)
			<-p.worker.Done()
			assert.ErrorIs(t, p.worker.Start(background), durable.ErrInvalid)
		},
		"jobs that run are waited for": func(t *testing.T) {
			goOn := make(chan struct{})
			p := startPlant(t, stubborn(goOn), options)
			p.deliver(1)
			p.task(t)
			p.engine.consumer().end(errTest)
			synctest.Wait()
			assert.False(t, p.isDone())
			assert.NoError(t, p.worker.Err())
			close(goOn)
			<-p.worker.Done()
			assert.ErrorIs(t, p.worker.Err(), durable.ErrLost)
		},
		"as it is stopped": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			p.engine.stop = func(context.Context) error { p.engine.consumer().end(errTest); return nil }
			assert.ErrorIs(t, p.worker.Stop(background), durable.ErrLost)
			assert.ErrorIs(t, p.worker.Err(), errTest)
		},
		"and it forgets why": func(t *testing.T) {
			p := startPlant(t, succeed, options)
			c := p.engine.consumer()
			p.engine.stop = func(context.Context) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.lost = nil // it has been stopped now
				return nil
			}
			c.end(errTest)
			<-p.worker.Done()
			assert.ErrorIs(t, p.worker.Err(), errTest)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// gate is an observer that has submissions wait.
type gate struct {
	tether.NopObserver
	goOn chan struct{}
}

func (g gate) TaskSubmitted(context.Context, *tether.Task) { <-g.goOn }

// A job that is on its way into the pool, and no task of the worker yet, when Stop
// cancels the tasks, is canceled as well.
func TestStopCancelsWhatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := startPlant(t, untilCanceled, options, tether.Config{Observer: gate{goOn: goOn}})
		out := p.engine.consumer().deliver(invoice, 1)
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- p.worker.Stop(ended()) }()
		time.Sleep(time.Second)
		close(goOn)
		assert.NoError(t, <-stopped)
		assert.Equal(t, durable.Return, (<-out).Verdict)
	})
}

// endGate is an observer that has tasks end late.
type endGate struct {
	tether.NopObserver
	goOn chan struct{}
}

func (g endGate) TaskEnded(context.Context, *tether.Task) { <-g.goOn }

// A job whose handler has ended well is done, though Stop has given up waiting.
func TestStopKeepsWhatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := startPlant(t, succeed, options, tether.Config{Observer: endGate{goOn: goOn}})
		out := p.engine.consumer().deliver(invoice, 1)
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- p.worker.Stop(ended()) }()
		time.Sleep(3 * time.Second)
		pending(t, out)
		close(goOn)
		assert.Equal(t, durable.Done, (<-out).Verdict)
		assert.Error(t, <-stopped)
	})
}
