package durable_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// local is what a job is given that is to run in the process.
type local struct {
	engine *memory
	reg    *tether.Registry
	log    *logbook // of slog.Default
}

func newLocal(t *testing.T, limit ...int) *local {
	cfg := tether.Config{}
	if len(limit) > 0 {
		cfg.Limit = limit[0]
	}
	return &local{engine: newMemory(), reg: newRegistry(t, cfg), log: defaultLog(t)}
}

// run has the job accepted by r.
func (l *local) run(t *testing.T, r tether.Submitter, h handler, opts durable.JobConfig) durable.Receipt {
	t.Helper()
	receipt, err := durable.Define("invoice", h, opts).Go(context.Background(), r, l.engine, order{5})
	require.NoError(t, err)
	require.NotNil(t, receipt.Task)
	require.NotEmpty(t, receipt.ID)
	return receipt
}

// one checks that the engine has this job and no other, and returns it.
func (l *local) one(t *testing.T, receipt durable.Receipt) durable.Message {
	t.Helper()
	require.Len(t, l.engine.taken(), 1)
	m := l.engine.taken()[0]
	assert.Equal(t, receipt.ID, m.ID)
	assert.Equal(t, "invoice", m.Name)
	assert.JSONEq(t, `{"order":5}`, string(m.Args))
	return m
}

// again checks that the engine has the job for the attempt after used ones, no earlier
// than at.
func (l *local) again(t *testing.T, receipt durable.Receipt, used int, at time.Time) {
	t.Helper()
	m := l.one(t, receipt)
	assert.Equal(t, used, m.Used)
	assert.True(t, at.Equal(m.RunAt), "at %v, not %v", m.RunAt, at)
}

// occupied returns a pool of one worker that has something to do until the test ends.
func (l *local) occupied(t *testing.T, queue int, overflow tether.Overflow) *tether.Pool {
	pool := l.reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: queue, Overflow: overflow})
	goOn := make(chan struct{})
	t.Cleanup(func() { close(goOn) })
	_, err := pool.Go(context.Background(), "other", func(context.Context) error { <-goOn; return nil })
	require.NoError(t, err)
	synctest.Wait() // or it could be what a full pool drops
	return pool
}

// down is an engine that is away.
func down(context.Context, durable.Message) error { return errTest }

// hanging is an engine that does not answer.
func hanging(ctx context.Context, _ durable.Message) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// keeping is a Submitter that keeps the options.
type keeping struct {
	tether.Submitter
	options []tether.Option
}

func (k *keeping) Go(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	k.options = opts
	return k.Submitter.Go(ctx, name, fn, opts...)
}

func TestGo(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"runs the job in the process": func(t *testing.T) {
			l := newLocal(t)
			var meta durable.Meta
			var got order
			pool := l.reg.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			receipt := l.run(t, pool, func(ctx context.Context, o order) error {
				meta, _ = durable.MetaFrom(ctx)
				got = o
				return nil
			}, options)
			require.NoError(t, receipt.Task.Wait(background))
			assert.Equal(t, order{5}, got)
			assert.Equal(t, durable.Meta{ID: receipt.ID, Attempt: 1, MaxAttempts: 3}, meta)
			info := receipt.Task.Info()
			assert.Equal(t, "invoice", info.Name)
			assert.Equal(t, "pool", info.Pool)
			assert.Equal(t, map[string]string{"job": receipt.ID}, info.Labels)
			assert.Contains(t, info.Func, "durable_test.TestGo", "the handler")
			l.engine.none(t)
		},
		"with a copy of its args": func(t *testing.T) {
			l := newLocal(t)
			args := []int{1, 2, 3}
			goOn := make(chan struct{})
			var got []int
			job := durable.Define("invoice", func(_ context.Context, a []int) error {
				<-goOn
				got = a
				return nil
			}, options)
			receipt, err := job.Go(background, l.reg, l.engine, args)
			require.NoError(t, err)
			args[0] = 99
			close(goOn)
			require.NoError(t, receipt.Task.Wait(background))
			assert.Equal(t, []int{1, 2, 3}, got)
		},
		"with args that are not as they are encoded": func(t *testing.T) {
			l := newLocal(t)
			type args struct {
				Text   string
				secret int
			}
			var got [2]any
			receipt, err := durable.Define("invoice", func(_ context.Context, a args) error { got[0] = a; return nil }, options).
				Go(background, l.reg, l.engine, args{"x", 5})
			require.NoError(t, err)
			require.NoError(t, receipt.Task.Wait(background))
			receipt, err = durable.Define("invoice", func(_ context.Context, a [1]string) error { got[1] = a; return nil }, options).
				Go(background, l.reg, l.engine, [1]string{"x\xff"})
			require.NoError(t, err)
			require.NoError(t, receipt.Task.Wait(background))
			assert.Equal(t, [2]any{args{Text: "x"}, [1]string{"x\uFFFD"}}, got)
		},
		"with a Submitter of the program's": func(t *testing.T) {
			l := newLocal(t)
			s := &keeping{Submitter: l.reg}
			require.NoError(t, l.run(t, s, succeed, options).Task.Wait(background))
			assert.Len(t, s.options, 5)
		},
		"full pool": func(t *testing.T) {
			l := newLocal(t)
			pool := l.occupied(t, 0, tether.OverflowReject)
			receipt, err := durable.Define("invoice", succeed, options).Go(background, pool, l.engine, order{5})
			require.NoError(t, err)
			assert.Nil(t, receipt.Task)
			l.again(t, receipt, 0, time.Time{})
		},
		"full registry": func(t *testing.T) {
			l := newLocal(t, 1)
			l.occupied(t, 0, tether.OverflowReject)
			receipt, err := durable.Define("invoice", succeed, options).Go(background, l.reg, l.engine, order{5})
			require.NoError(t, err)
			assert.Nil(t, receipt.Task)
			l.again(t, receipt, 0, time.Time{})
		},
		"closed registry": func(t *testing.T) {
			l := newLocal(t)
			require.NoError(t, <-drain(l.reg))
			receipt, err := durable.Define("invoice", succeed, options).Go(background, l.reg, l.engine, order{5})
			require.NoError(t, err)
			assert.Nil(t, receipt.Task)
			l.again(t, receipt, 0, time.Time{})
		},
		"full pool and the engine fails": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			pool := l.occupied(t, 0, tether.OverflowReject)
			receipt, err := durable.Define("invoice", succeed, options).Go(background, pool, l.engine, order{5})
			assert.ErrorIs(t, err, tether.ErrFull)
			assert.ErrorIs(t, err, errTest)
			assert.ErrorContains(t, err, `durable: job "invoice": not here (`)
			assert.Zero(t, receipt)
		},
		"pool that waits for room": func(t *testing.T) {
			l := newLocal(t)
			pool := l.occupied(t, 0, tether.OverflowBlock)
			began := time.Now()
			_, err := durable.Define("invoice", succeed, options).Go(within(t, time.Second), pool, l.engine, order{5})
			assert.Equal(t, time.Second, time.Since(began))
			assert.ErrorIs(t, err, tether.ErrFull)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		},
		"args that do not encode": func(t *testing.T) {
			l := newLocal(t)
			_, err := durable.Define("sum", func(context.Context, unencodable) error { return nil }, options).Go(background, l.reg, l.engine, unencodable{math.NaN()})
			var wrong *durable.ArgsError
			assert.ErrorAs(t, err, &wrong)
			l.engine.none(t)
			assert.Zero(t, l.reg.Stats().Submitted)
		},
		"unsupported timeout": func(t *testing.T) {
			l := newLocal(t)
			l.engine.support.MaxTimeout = time.Second
			_, err := durable.Define("invoice", succeed, options).Go(background, l.reg, l.engine, order{5})
			assert.ErrorIs(t, err, durable.ErrUnsupported)
			l.engine.none(t)
			assert.Zero(t, l.reg.Stats().Submitted)
		},
		"nil of anything": func(t *testing.T) {
			l := newLocal(t)
			job := durable.Define("invoice", succeed, options)
			_, err := job.Go(noContext, l.reg, l.engine, order{5})
			assert.ErrorIs(t, err, durable.ErrInvalid)
			_, err = job.Go(background, nil, l.engine, order{5})
			assert.ErrorIs(t, err, durable.ErrInvalid)
			_, err = job.Go(background, l.reg, nil, order{5})
			assert.ErrorIs(t, err, durable.ErrInvalid)
			l.engine.none(t)
			assert.Zero(t, l.reg.Stats().Submitted)
		},
		"a runner of one's own that refuses": func(t *testing.T) {
			l := newLocal(t)
			_, err := durable.Define("invoice", succeed, options).Go(background, refusing{errTest, l.reg}, l.engine, order{5})
			assert.Equal(t, errTest, err)
			l.engine.none(t)
		},
		"a runner of one's own that is full": func(t *testing.T) {
			l := newLocal(t)
			receipt, err := durable.Define("invoice", succeed, options).Go(background, refusing{&tether.FullError{}, l.reg}, l.engine, order{5})
			require.NoError(t, err)
			l.again(t, receipt, 0, time.Time{})
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// refusing is a Submitter that refuses every task with err.
type refusing struct {
	err error
	*tether.Registry
}

func (r refusing) Go(context.Context, string, tether.Func, ...tether.Option) (*tether.Task, error) {
	return nil, r.err
}

func TestGoBeforeTheStart(t *testing.T) {
	// waiting has a job wait in the queue of a pool.
	waiting := func(t *testing.T, l *local, overflow tether.Overflow) (*tether.Pool, durable.Receipt) {
		pool := l.occupied(t, 1, overflow)
		return pool, l.run(t, pool, succeed, options)
	}
	replace := func(t *testing.T, ctx context.Context, pool *tether.Pool) {
		_, err := pool.Go(ctx, "newer", func(context.Context) error { return nil })
		require.NoError(t, err)
	}
	for name, test := range map[string]func(t *testing.T){
		"the drain drops it": func(t *testing.T) {
			l := newLocal(t)
			_, receipt := waiting(t, l, tether.OverflowReject)
			drained := drain(l.reg)
			<-receipt.Task.Done()
			l.again(t, receipt, 0, time.Time{})
			require.ErrorIs(t, <-drained, context.DeadlineExceeded)
			require.Len(t, l.reg.Report().HandedOver, 1)
			assert.Equal(t, receipt.ID, l.reg.Report().HandedOver[0].Labels["job"])
		},
		"the drain drops it, and has no time": func(t *testing.T) {
			l := newLocal(t)
			_, receipt := waiting(t, l, tether.OverflowReject)
			_ = l.reg.Shutdown(ended())
			<-receipt.Task.Done()
			l.again(t, receipt, 0, time.Time{})
		},
		"the drain drops it, and the engine fails": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			_, receipt := waiting(t, l, tether.OverflowReject)
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded)
			require.Len(t, l.reg.Report().NeverStarted, 1)
			assert.ErrorIs(t, l.reg.Report().NeverStarted[0].Err, errTest)
			assert.ErrorIs(t, receipt.Task.Err(), errTest)
		},
		"the drain drops it, and the engine panics": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { panic("of the engine") }
			_, receipt := waiting(t, l, tether.OverflowReject)
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded)
			require.Len(t, l.reg.Report().NeverStarted, 1)
			assert.ErrorContains(t, receipt.Task.Err(), "of the engine")
		},
		"the drain drops it, and the engine hangs": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = hanging
			_, receipt := waiting(t, l, tether.OverflowReject)
			began := time.Now()
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded) // cancels at 15 s, ends at 20
			<-receipt.Task.Done()
			assert.Equal(t, 22*time.Second, time.Since(began))
			assert.ErrorIs(t, receipt.Task.Err(), context.DeadlineExceeded)
		},
		"the pool drops it": func(t *testing.T) {
			l := newLocal(t)
			pool, receipt := waiting(t, l, tether.OverflowDropOldest)
			replace(t, background, pool)
			<-receipt.Task.Done()
			assert.ErrorIs(t, receipt.Task.Err(), tether.ErrFull)
			assert.True(t, receipt.Task.Info().HandedOver)
			l.again(t, receipt, 0, time.Time{})
		},
		"the pool drops it for a client that has gone": func(t *testing.T) {
			l := newLocal(t)
			pool, receipt := waiting(t, l, tether.OverflowDropOldest)
			replace(t, ended(), pool)
			<-receipt.Task.Done()
			l.again(t, receipt, 0, time.Time{})
		},
		"the pool drops it for a client that goes": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error {
				time.Sleep(2*time.Second + 500*time.Millisecond)
				return nil
			}
			pool, receipt := waiting(t, l, tether.OverflowDropOldest)
			replace(t, within(t, time.Second), pool)
			<-receipt.Task.Done()
			l.again(t, receipt, 0, time.Time{})
		},
		"the pool drops it, and the engine hangs": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = hanging
			pool, receipt := waiting(t, l, tether.OverflowDropOldest)
			began := time.Now()
			replace(t, background, pool)
			<-receipt.Task.Done()
			assert.Equal(t, 10*time.Second, time.Since(began))
			assert.ErrorIs(t, receipt.Task.Err(), context.DeadlineExceeded)
			assert.ErrorIs(t, receipt.Task.Err(), tether.ErrFull)
		},
		"the program cancels it": func(t *testing.T) {
			l := newLocal(t)
			_, receipt := waiting(t, l, tether.OverflowReject)
			receipt.Task.Cancel(nil)
			<-receipt.Task.Done()
			l.engine.none(t)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func TestGoAndTheDrainCancels(t *testing.T) {
	then := func(do func() error) handler {
		return func(ctx context.Context, _ order) error {
			<-ctx.Done()
			return do()
		}
	}
	for name, c := range map[string]struct {
		handler handler
		opts    durable.JobConfig
		state   tether.State
	}{
		"one that heeds it":                   {untilCanceled, options, tether.Canceled},
		"one that fails in other words":       {then(func() error { return errTest }), options, tether.Canceled},
		"one that fails for good":             {then(func() error { time.Sleep(time.Second); return durable.Permanent(errTest) }), options, tether.Canceled},
		"one that ends well later":            {then(func() error { time.Sleep(time.Second); return nil }), options, tether.Succeeded},
		"one that panics":                     {then(func() error { panic(errTest) }), options, tether.Panicked},
		"one that ends its goroutine":         {then(func() error { runtime.Goexit(); return nil }), options, tether.Failed},
		"one whose only attempt it is":        {untilCanceled, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1}, tether.Canceled},
		"one whose error has methods that do": {then(func() error { return (*badError)(nil) }), options, tether.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocal(t)
				receipt := l.run(t, l.reg, c.handler, c.opts)
				synctest.Wait()
				require.NoError(t, <-drain(l.reg))
				assert.Equal(t, c.state, receipt.Task.State())
				l.again(t, receipt, 0, time.Time{})
				assert.Equal(t, 1, l.engine.asked())
				assert.Empty(t, l.log.about("durable"))
			})
		})
	}
	for name, test := range map[string]func(t *testing.T){
		"one that ignores it": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			synctest.Wait()
			drained := drain(l.reg)
			time.Sleep(15*time.Second - 1)
			synctest.Wait()
			l.engine.none(t)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			l.again(t, receipt, 0, time.Time{})
			require.ErrorIs(t, <-drained, context.DeadlineExceeded)
			close(goOn)
			<-receipt.Task.Done()
			assert.Equal(t, 1, l.engine.asked())
		},
		"one that ignores it and has just begun": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			synctest.Wait()
			now, cancel := context.WithCancel(background)
			cancel()
			require.Error(t, l.reg.Shutdown(now))
			synctest.Wait()
			l.again(t, receipt, 0, time.Time{})
			close(goOn)
			<-receipt.Task.Done()
			assert.Equal(t, 1, l.engine.asked())
		},
		"one that has just begun, and fails": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, func(context.Context, order) error { <-goOn; return errTest }, options)
			synctest.Wait()
			now, cancel := context.WithCancel(background)
			cancel()
			require.Error(t, l.reg.Shutdown(now))
			close(goOn)
			<-receipt.Task.Done()
			l.again(t, receipt, 0, time.Time{})
			assert.ErrorIs(t, receipt.Task.Err(), tether.ErrShutdown)
		},
		"one that begins during the drain": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			var receipt durable.Receipt
			_, err := l.reg.Go(background, "parent", func(ctx context.Context) (err error) {
				<-l.reg.Stopping()
				receipt, err = durable.Define("invoice", stubborn(goOn), options).Go(ctx, l.reg, l.engine, order{5})
				return err
			})
			require.NoError(t, err)
			drained := drain(l.reg)
			time.Sleep(15*time.Second - 1)
			synctest.Wait()
			require.NotNil(t, receipt.Task)
			l.engine.none(t)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			l.again(t, receipt, 0, time.Time{})
			close(goOn)
			require.NoError(t, <-drained)
		},
		"one that ends well before": func(t *testing.T) {
			l := newLocal(t)
			receipt := l.run(t, l.reg, func(context.Context, order) error { time.Sleep(15*time.Second - 1); return nil }, options)
			synctest.Wait()
			require.NoError(t, <-drain(l.reg))
			assert.Equal(t, tether.Succeeded, receipt.Task.State())
			l.engine.none(t)
		},
		"and the engine fails": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			receipt := l.run(t, l.reg, untilCanceled, options)
			synctest.Wait()
			require.NoError(t, <-drain(l.reg))
			require.Len(t, l.reg.Report().Canceled, 1)
			assert.ErrorIs(t, l.reg.Report().Canceled[0].Err, errTest)
			assert.ErrorIs(t, receipt.Task.Err(), tether.ErrShutdown)
			assert.ErrorContains(t, receipt.Task.Err(), `durable: job "invoice" has no further attempt: not on the engine: test error`)
			assert.Equal(t, 1, l.engine.asked())
		},
		"and the engine fails for one that ignores it": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			synctest.Wait()
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded)
			record := l.log.one(t, receipt.ID)
			assert.Equal(t, "ERROR", record["level"])
			assert.Contains(t, record["error"], "test error")
			close(goOn)
			require.NoError(t, receipt.Task.Wait(background))
		},
		"and the engine takes longer than the handler": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { time.Sleep(3 * time.Second); return nil }
			receipt := l.run(t, l.reg, untilCanceled, options)
			synctest.Wait()
			began := time.Now()
			require.NoError(t, <-drain(l.reg))
			assert.Equal(t, 18*time.Second, time.Since(began))
			l.again(t, receipt, 0, time.Time{})
		},
		"and the engine takes longer than the handler that ends well": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { time.Sleep(3 * time.Second); return nil }
			receipt := l.run(t, l.reg, then(func() error { time.Sleep(time.Second); return nil }), options)
			synctest.Wait()
			require.NoError(t, <-drain(l.reg))
			require.NoError(t, receipt.Task.Err())
			assert.Len(t, l.engine.taken(), 1, "nothing is at work when Shutdown has returned")
		},
		"and the engine hangs": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = hanging
			receipt := l.run(t, l.reg, untilCanceled, options)
			synctest.Wait()
			began := time.Now()
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded)
			<-receipt.Task.Done()
			assert.Equal(t, 25*time.Second, time.Since(began))
			assert.ErrorIs(t, receipt.Task.Err(), context.DeadlineExceeded)
		},
		"and the engine panics": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { panic("of the engine") }
			receipt := l.run(t, l.reg, untilCanceled, options)
			synctest.Wait()
			require.NoError(t, <-drain(l.reg))
			assert.Equal(t, tether.Canceled, receipt.Task.State())
			assert.ErrorContains(t, receipt.Task.Err(), "of the engine")
		},
		"and the engine ends its goroutine": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { runtime.Goexit(); return nil }
			receipt := l.run(t, l.reg, untilCanceled, options)
			synctest.Wait()
			require.NoError(t, <-drain(l.reg))
			assert.Equal(t, tether.Canceled, receipt.Task.State())
			assert.ErrorIs(t, receipt.Task.Err(), tether.ErrGoexit)
		},
		"one that has ignored its timeout": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			l.engine.none(t)
			drained := drain(l.reg)
			synctest.Wait()
			l.again(t, receipt, 1, time.Now().Add(time.Second))
			close(goOn)
			require.NoError(t, <-drained)
			assert.Equal(t, 1, l.engine.asked())
		},
		"one that ignores its timeout after the drain has begun": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			time.Sleep(50 * time.Second)
			drained := drain(l.reg)
			time.Sleep(10*time.Second - 1)
			synctest.Wait()
			l.engine.none(t)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			l.again(t, receipt, 1, time.Now().Add(time.Second))
			close(goOn)
			require.NoError(t, <-drained)
			assert.Equal(t, 1, l.engine.asked())
		},
		"one that has ignored its last timeout": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1})
			time.Sleep(2 * time.Minute)
			drained := drain(l.reg)
			synctest.Wait()
			close(goOn)
			require.NoError(t, <-drained)
			require.NoError(t, receipt.Task.Err())
			l.engine.none(t)
		},
		"one that the program has canceled": func(t *testing.T) {
			l := newLocal(t)
			goOn := make(chan struct{})
			receipt := l.run(t, l.reg, stubborn(goOn), options)
			synctest.Wait()
			receipt.Task.Cancel(nil)
			synctest.Wait()
			require.ErrorIs(t, <-drain(l.reg), context.DeadlineExceeded)
			close(goOn)
			<-receipt.Task.Done()
			l.engine.none(t)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func TestGoAndTheAttemptFails(t *testing.T) {
	long := func(context.Context, order) error { time.Sleep(time.Hour); return errTest }
	for name, c := range map[string]struct {
		handler handler
		state   tether.State
		is      error
	}{
		"error":                       {fail, tether.Failed, errTest},
		"panic":                       {func(context.Context, order) error { panic(errTest) }, tether.Panicked, errTest},
		"panic with an error of ours": {func(context.Context, order) error { panic(durable.Permanent(errTest)) }, tether.Panicked, errTest},
		"Goexit":                      {func(context.Context, order) error { runtime.Goexit(); return nil }, tether.Failed, tether.ErrGoexit},
		"timeout":                     {untilCanceled, tether.Canceled, tether.ErrTimeout},
		"error long after":            {long, tether.Canceled, errTest},
		"methods that panic":          {func(context.Context, order) error { return (*badError)(nil) }, tether.Failed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocal(t)
				receipt := l.run(t, l.reg, c.handler, options)
				<-receipt.Task.Done()
				assert.Equal(t, c.state, receipt.Task.State())
				if c.is != nil {
					assert.ErrorIs(t, receipt.Task.Err(), c.is)
				}
				l.again(t, receipt, 1, time.Now().Add(time.Second))
				assert.Empty(t, l.log.about("durable"))
			})
		})
	}
	once := durable.JobConfig{Timeout: time.Minute, MaxAttempts: 1}
	for name, c := range map[string]struct {
		handler handler
		opts    durable.JobConfig
	}{
		"permanent":               {func(context.Context, order) error { return durable.Permanent(errTest) }, options},
		"permanent long after":    {func(context.Context, order) error { time.Sleep(time.Hour); return durable.Permanent(errTest) }, options},
		"at most once":            {fail, once},
		"at most once, a panic":   {func(context.Context, order) error { panic(errTest) }, once},
		"at most once, a timeout": {untilCanceled, once},
	} {
		t.Run(name+" is final", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocal(t)
				receipt := l.run(t, l.reg, c.handler, c.opts)
				<-receipt.Task.Done()
				assert.Error(t, receipt.Task.Err())
				l.engine.none(t)
			})
		})
	}
	for name, test := range map[string]func(t *testing.T){
		"on an engine without waits": func(t *testing.T) {
			l := newLocal(t)
			l.engine.support.RunAt = false
			receipt := l.run(t, l.reg, fail, options)
			assert.Equal(t, errTest, receipt.Task.Wait(background))
			l.again(t, receipt, 1, time.Time{})
		},
		"and the program has canceled it": func(t *testing.T) {
			for _, cause := range []error{nil, errTest, (*badError)(nil)} {
				for _, h := range []handler{untilCanceled, func(ctx context.Context, _ order) error { <-ctx.Done(); return errTest }} {
					l := newLocal(t)
					receipt := l.run(t, l.reg, h, options)
					synctest.Wait()
					receipt.Task.Cancel(cause)
					<-receipt.Task.Done()
					l.engine.none(t)
				}
			}
		},
		"and the engine fails": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			receipt := l.run(t, l.reg, func(context.Context, order) error { return context.Canceled }, options)
			err := receipt.Task.Wait(background)
			assert.ErrorIs(t, err, context.Canceled)
			assert.ErrorIs(t, err, errTest)
			assert.Equal(t, "ERROR", l.log.one(t, receipt.ID)["level"])
		},
		"with a panic, and the engine fails": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = down
			receipt := l.run(t, l.reg, explode, options)
			var panicked *tether.PanicError
			require.ErrorAs(t, receipt.Task.Wait(background), &panicked)
			assert.Equal(t, "bang", panicked.Value)
			assert.Contains(t, string(panicked.Stack), "durable_test.explode")
			record := l.log.one(t, receipt.ID)
			assert.Equal(t, "ERROR", record["level"])
			assert.Contains(t, record["error"], "test error")
		},
		"with a panic, and the engine panics": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = func(context.Context, durable.Message) error { panic("of the engine") }
			receipt := l.run(t, l.reg, explode, options)
			var panicked *tether.PanicError
			require.ErrorAs(t, receipt.Task.Wait(background), &panicked)
			assert.Equal(t, "bang", panicked.Value)
			assert.Contains(t, l.log.one(t, receipt.ID)["error"], "of the engine")
		},
		"and the engine hangs": func(t *testing.T) {
			l := newLocal(t)
			l.engine.enqueue = hanging
			began := time.Now()
			receipt := l.run(t, l.reg, fail, options)
			err := receipt.Task.Wait(background)
			assert.Equal(t, 10*time.Second, time.Since(began))
			assert.ErrorIs(t, err, errTest)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		},
		"and Backoff panics": func(t *testing.T) {
			l := newLocal(t)
			opts := options
			opts.Backoff = func(int, error) time.Duration { panic("of the backoff") }
			receipt := l.run(t, l.reg, fail, opts)
			assert.Equal(t, errTest, receipt.Task.Wait(background))
			m := l.one(t, receipt)
			assert.Equal(t, 1, m.Used)
			assert.WithinRange(t, m.RunAt, time.Now(), time.Now().Add(time.Second))
			assert.Contains(t, l.log.one(t, receipt.ID)["error"], "of the backoff")
		},
		"as the drain cancels it": func(t *testing.T) {
			// The handler has failed, and asks for its wait, when its context ends.
			l := newLocal(t)
			opts := options
			opts.Backoff = func(int, error) time.Duration { time.Sleep(2 * time.Second); return time.Second }
			receipt := l.run(t, l.reg, fail, opts)
			synctest.Wait()
			_ = l.reg.Shutdown(ended())
			<-receipt.Task.Done()
			l.again(t, receipt, 1, time.Now().Add(time.Second))
			assert.Equal(t, 1, l.engine.asked())
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func explode(context.Context, order) error { panic("bang") }

// What Go has accepted is on the engine or done, whenever the drain comes.
func TestGoLosesNothing(t *testing.T) {
	for range 200 {
		l := newLocal(t)
		pool := l.reg.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: 4, Overflow: tether.OverflowDropOldest})
		done := make(chan string, 100)
		job := durable.Define("invoice", func(ctx context.Context, o order) error {
			runtime.Gosched()
			if m, _ := durable.MetaFrom(ctx); o.Number%2 == 0 && ctx.Err() == nil {
				done <- m.ID
				return nil
			}
			return errTest
		}, options)
		ctx, cancel := context.WithCancelCause(background)
		accepted := make(chan map[string]bool)
		go func() {
			ids := make(map[string]bool)
			for i := range 20 {
				receipt, err := job.Go(background, pool, l.engine, order{i})
				if assert.NoError(t, err) {
					ids[receipt.ID] = true
				}
				if i == 10 {
					cancel(errors.New("now"))
				}
			}
			accepted <- ids
		}()
		_ = l.reg.Shutdown(ctx)
		ids := <-accepted
		require.NoError(t, l.reg.Shutdown(background))
		close(done)
		for id := range done {
			delete(ids, id)
		}
		for _, m := range l.engine.taken() {
			delete(ids, m.ID)
		}
		require.Empty(t, ids, "lost")
	}
}
