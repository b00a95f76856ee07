package durable_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// plant is a worker that runs the job "invoice", and what is around it.
type plant struct {
	engine *memory
	reg    *tether.Registry
	worker *durable.Worker
	log    *logbook
}

// newPlant makes a worker of four and does not start it. At the end of the test it must
// stop within a minute.
func newPlant(t *testing.T, h handler, opts durable.JobConfig, cfg ...tether.Config) *plant {
	t.Helper()
	log, book := newLogger()
	p := &plant{engine: newMemory(), reg: newRegistry(t, append(cfg, tether.Config{})[0]), log: book}
	var err error
	p.worker, err = durable.NewWorker(p.engine, durable.WorkerConfig{Registry: p.reg, Concurrency: 4, Logger: log},
		durable.Define("invoice", h, opts))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.worker.Stop(ctx)
	})
	return p
}

// startPlant makes a worker and starts it.
func startPlant(t *testing.T, h handler, opts durable.JobConfig, cfg ...tether.Config) *plant {
	t.Helper()
	p := newPlant(t, h, opts, cfg...)
	require.NoError(t, p.worker.Start(context.Background()))
	return p
}

func (p *plant) deliver(attempt int) <-chan durable.Outcome {
	return p.engine.consumer().deliver(invoice, attempt)
}

// task waits until all is still and returns the only live task.
func (p *plant) task(t *testing.T) *tether.Task {
	t.Helper()
	synctest.Wait()
	tasks := slices.Collect(p.reg.Tasks())
	require.Len(t, tasks, 1)
	return tasks[0]
}

// pending checks that there is no outcome yet.
func pending(t *testing.T, out <-chan durable.Outcome) {
	t.Helper()
	synctest.Wait()
	select {
	case o := <-out:
		require.Fail(t, "an outcome already", "%+v", o)
	default:
	}
}

func TestNewWorkerRefuses(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	job, same := durable.Define("invoice", succeed, options), durable.Define("invoice", fail, options)
	short := newMemory()
	short.support.MaxTimeout = time.Second
	for name, c := range map[string]struct {
		engine durable.Engine
		cfg    durable.WorkerConfig
		jobs   []durable.Definition
		is     error
		text   string
	}{
		"no engine":            {nil, durable.WorkerConfig{Registry: r}, []durable.Definition{job}, durable.ErrInvalid, "needs an engine"},
		"no registry":          {newMemory(), durable.WorkerConfig{}, []durable.Definition{job}, durable.ErrInvalid, "a Registry"},
		"no job":               {newMemory(), durable.WorkerConfig{Registry: r}, nil, durable.ErrInvalid, "at least one job"},
		"nil job":              {newMemory(), durable.WorkerConfig{Registry: r}, []durable.Definition{job, nil}, durable.ErrInvalid, "nil job"},
		"negative concurrency": {newMemory(), durable.WorkerConfig{Registry: r, Concurrency: -1}, []durable.Definition{job}, durable.ErrInvalid, "Concurrency"},
		"pool's name":          {newMemory(), durable.WorkerConfig{Registry: r, Pool: "a\nb"}, []durable.Definition{job}, durable.ErrInvalid, "WorkerConfig.Pool"},
		"two of a name":        {newMemory(), durable.WorkerConfig{Registry: r}, []durable.Definition{job, same}, durable.ErrInvalid, `two jobs are called "invoice"`},
		"a long timeout":       {short, durable.WorkerConfig{Registry: r}, []durable.Definition{job}, durable.ErrUnsupported, "memory allows a Timeout of 1s at most"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := durable.NewWorker(c.engine, c.cfg, c.jobs...)
			require.ErrorIs(t, err, c.is)
			assert.ErrorContains(t, err, c.text)
			assert.Nil(t, w)
			assert.Empty(t, slices.Collect(r.Pools()))
		})
	}
}

func TestWorkerAsksTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		e := newMemory()
		log, _ := newLogger()
		before := slog.Default()
		defer slog.SetDefault(before)
		slog.SetDefault(log)
		w, err := durable.NewWorker(e, durable.WorkerConfig{Registry: r},
			durable.Define("invoice", succeed, options), durable.Define("report", succeed, options), durable.Define("mail", succeed, options))
		require.NoError(t, err)
		require.NoError(t, w.Start(context.Background()))
		asked := e.consumer().asked
		assert.Equal(t, runtime.GOMAXPROCS(0), asked.Concurrency)
		assert.Same(t, log, asked.Logger)
		pools := slices.Collect(r.Pools())
		require.Len(t, pools, 1)
		assert.Equal(t, "durable", pools[0].Name())
		assert.Equal(t, runtime.GOMAXPROCS(0), pools[0].Stats().Workers)
		require.NoError(t, w.Stop(context.Background()))
	})
}

func TestJobsAreTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var meta durable.Meta
		var got order
		p := startPlant(t, func(ctx context.Context, o order) error {
			meta, _ = durable.MetaFrom(ctx)
			got = o
			return untilCanceled(ctx, o)
		}, options)
		out := p.deliver(2)
		info := p.task(t).Info()
		assert.Equal(t, "invoice", info.Name)
		assert.Equal(t, "durable", info.Pool)
		assert.Equal(t, tether.Running, info.State)
		assert.Equal(t, map[string]string{"job": "id-1", "attempt": "2"}, info.Labels)
		assert.Equal(t, durable.Meta{ID: "id-1", Attempt: 2, MaxAttempts: 3}, meta)
		assert.Equal(t, order{5}, got)

		require.NoError(t, <-drain(p.reg))
		assert.Equal(t, durable.Return, (<-out).Verdict)
		report := p.reg.Report()
		require.Len(t, report.Canceled, 1)
		assert.Equal(t, "invoice", report.Canceled[0].Name)
		assert.Equal(t, "id-1", report.Canceled[0].Labels["job"])
	})
}

// verdict is what a handler is to lead to.
type verdict struct {
	name    string
	handler handler
	opts    durable.JobConfig // zero: options
	message durable.Message   // zero: invoice
	attempt int               // 0: 1
	want    durable.Verdict
	after   time.Duration
	is      error  // nil: no matter, if there is a text
	text    string // of Err
	log     string // the level of the record about the job, "" if there is none
}

// run delivers once, lets the test interfere, and checks the outcome.
func (v verdict) run(t *testing.T, interfere func(*plant)) {
	t.Run(v.name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if v.opts.Timeout == 0 {
				v.opts = options
			}
			if v.message.ID == "" {
				v.message = invoice
			}
			p := startPlant(t, v.handler, v.opts)
			out := p.engine.consumer().deliver(v.message, max(v.attempt, 1))
			if interfere != nil {
				p.task(t)
				interfere(p)
			}
			o := <-out
			assert.Equal(t, v.want, o.Verdict, "%v", o.Err)
			assert.Equal(t, v.after, o.After)
			if v.is != nil {
				assert.ErrorIs(t, o.Err, v.is)
			}
			if v.want == durable.Done {
				assert.NoError(t, o.Err)
			} else {
				assert.ErrorContains(t, o.Err, v.text)
			}
			if records := p.log.about("id-1"); v.log == "" {
				assert.Empty(t, records)
			} else if assert.Len(t, records, 1) {
				assert.Equal(t, v.log, records[0]["level"])
				assert.Equal(t, "invoice", records[0]["job"])
			}
		})
	})
}

func TestVerdicts(t *testing.T) {
	mail := durable.Define("mail", func(context.Context, unencodable) error { return nil }, options)
	withArgs := func(args string) durable.Message {
		m := invoice
		m.Args = json.RawMessage(args)
		return m
	}
	used := func(n int) durable.Message {
		m := invoice
		m.Used = n
		return m
	}
	never := func(context.Context, order) error { panic("it has run") }
	isThird := func(ctx context.Context, _ order) error {
		m, _ := durable.MetaFrom(ctx)
		return fmt.Errorf("attempt %d of %d", m.Attempt, m.MaxAttempts)
	}
	five := options
	five.MaxAttempts = 5
	for _, v := range []verdict{
		{name: "success", handler: succeed, want: durable.Done},
		{name: "failure", handler: fail, want: durable.Retry, after: time.Second, is: errTest, log: "WARN"},
		{name: "failure of a later attempt", handler: fail, attempt: 2, want: durable.Retry, after: 2 * time.Second, is: errTest, log: "WARN"},
		{name: "failure of the last attempt", handler: fail, attempt: 3, want: durable.Dead, is: errTest, log: "ERROR"},
		{name: "success of the last attempt", handler: succeed, attempt: 3, want: durable.Done},
		{name: "permanent", handler: func(context.Context, order) error { return durable.Permanent(errTest) }, want: durable.Dead, is: errTest, log: "ERROR"},
		{name: "permanent, wrapped", handler: func(context.Context, order) error {
			return fmt.Errorf("x: %w", durable.Permanent(errTest))
		}, want: durable.Dead, is: errTest, text: "x: ", log: "ERROR"},
		{name: "args of another type", handler: never, message: withArgs(`"five"`), want: durable.Retry, after: time.Second, text: `durable: arguments of job "invoice"`, log: "WARN"},
		{name: "args that are no JSON", handler: never, message: withArgs(`{`), want: durable.Retry, after: time.Second, text: `durable: arguments of job "invoice"`, log: "WARN"},
		{name: "args of null", handler: succeed, message: withArgs(`null`), want: durable.Done},
		{name: "another job's args", handler: func(ctx context.Context, _ order) error {
			_, err := mail.Enqueue(ctx, newMemory(), unencodable{math.NaN()})
			return err
		}, want: durable.Retry, after: time.Second, text: `"mail"`, log: "WARN"},
		{name: "panic", handler: func(context.Context, order) error { panic(errTest) }, want: durable.Retry, after: time.Second, is: errTest, text: "panicked", log: "WARN"},
		{name: "panic with a permanent error", handler: func(context.Context, order) error { panic(durable.Permanent(errTest)) }, want: durable.Retry, after: time.Second, is: errTest, log: "WARN"},
		{name: "panic in the last attempt", handler: func(context.Context, order) error { panic(errTest) }, attempt: 3, want: durable.Dead, is: errTest, log: "ERROR"},
		{name: "Goexit", handler: func(context.Context, order) error { runtime.Goexit(); return nil }, want: durable.Retry, after: time.Second, is: tether.ErrGoexit, log: "WARN"},
		{name: "an error whose methods panic", handler: func(context.Context, order) error { return (*badError)(nil) }, want: durable.Retry, after: time.Second, text: "nil", log: "WARN"},
		{name: "an error that wraps a cancellation that did not happen", handler: func(context.Context, order) error {
			return fmt.Errorf("%w, %w", context.Canceled, tether.ErrShutdown)
		}, want: durable.Retry, after: time.Second, is: context.Canceled, log: "WARN"},
		{name: "one attempt too many", handler: never, attempt: 4, want: durable.Dead, text: `job "invoice": the process ended while it ran, in the last of 3 attempts`, log: "ERROR"},
		{name: "used attempts count", handler: isThird, opts: five, message: used(2), want: durable.Retry, after: 3 * time.Second, text: "attempt 3 of 5", log: "WARN"},
		{name: "used attempts count for the last one", handler: isThird, message: used(2), want: durable.Dead, text: "attempt 3 of 3", log: "ERROR"},
		{name: "used attempts count for one too many", handler: never, attempt: 2, message: used(2), want: durable.Dead, text: "the process ended while it ran", log: "ERROR"},
		{name: "used attempts that overflow", handler: never, message: used(math.MaxInt), want: durable.Dead, text: "the process ended while it ran", log: "ERROR"},
	} {
		v.run(t, nil)
	}
}

func TestVerdictsOfBackoffs(t *testing.T) {
	for name, c := range map[string]struct {
		backoff func(int, error) time.Duration
		most    time.Duration
		text    string
	}{
		"negative": {func(int, error) time.Duration { return -time.Hour }, 0, ""},
		"panics":   {func(int, error) time.Duration { panic("of the backoff") }, time.Second, "of the backoff"},
		"goexit":   {func(int, error) time.Duration { runtime.Goexit(); return 0 }, time.Second, tether.ErrGoexit.Error()},
		"hangs":    {func(int, error) time.Duration { time.Sleep(time.Hour); return time.Hour }, time.Second, "did not return within 5s"},
		"asks the error": {func(_ int, err error) time.Duration {
			if errors.Is(err, errTest) {
				return 7 * time.Second
			}
			return time.Hour
		}, 7 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := options
				opts.Backoff = c.backoff
				p := startPlant(t, fail, opts)
				o := <-p.deliver(1)
				assert.Equal(t, durable.Retry, o.Verdict)
				assert.LessOrEqual(t, o.After, c.most)
				assert.GreaterOrEqual(t, o.After, time.Duration(0))
				assert.Equal(t, c.most > 0, o.After > 0)
				assert.ErrorIs(t, o.Err, errTest)
				if c.text != "" {
					assert.Equal(t, "ERROR", p.log.one(t, c.text)["level"])
				} else {
					assert.Empty(t, p.log.about("durable: Backoff"))
				}
				time.Sleep(2 * time.Hour) // until the one that hangs has returned
			})
		})
	}
}

func TestVerdictsOfTimeouts(t *testing.T) {
	last := options
	last.MaxAttempts = 1
	after := func(d time.Duration, err error) handler { // ignores its context
		return func(context.Context, order) error {
			time.Sleep(d)
			return err
		}
	}
	for _, v := range []verdict{
		{name: "the handler heeds it", handler: untilCanceled, want: durable.Retry, after: time.Second, is: tether.ErrTimeout, log: "WARN"},
		{name: "in the last attempt", handler: untilCanceled, opts: last, want: durable.Dead, is: tether.ErrTimeout, log: "ERROR"},
		{name: "the handler ends well", handler: after(time.Hour, nil), want: durable.Done},
		{name: "the handler fails late", handler: after(time.Hour, errTest), want: durable.Retry, after: time.Second, is: errTest, log: "WARN"},
		{name: "in time", handler: after(time.Minute-1, nil), want: durable.Done},
		{name: "a permanent error", handler: after(time.Hour, durable.Permanent(errTest)), want: durable.Dead, is: errTest, log: "ERROR"},
		{name: "its own error, permanent", handler: func(ctx context.Context, o order) error {
			return durable.Permanent(untilCanceled(ctx, o))
		}, want: durable.Dead, is: tether.ErrTimeout, log: "ERROR"},
	} {
		v.run(t, nil)
	}
}

// interrupted are the handlers whose context ends, and what they do then.
func interrupted() (interrupted, well, permanent []verdict) {
	then := func(do func(ctx context.Context) error) handler {
		return func(ctx context.Context, _ order) error {
			<-ctx.Done()
			return do(ctx)
		}
	}
	interrupted = []verdict{
		{name: "heeds it", handler: untilCanceled, text: "context canceled"},
		{name: "returns the cause", handler: then(context.Cause)},
		{name: "fails in other words", handler: then(func(context.Context) error { return errTest }), is: errTest},
		{name: "in its last attempt", handler: untilCanceled, attempt: 3},
		{name: "calls the context's error permanent", handler: then(func(ctx context.Context) error { return durable.Permanent(ctx.Err()) })},
		{name: "panics", handler: then(func(context.Context) error { panic(errTest) }), is: errTest},
		{name: "ends its goroutine", handler: then(func(context.Context) error { runtime.Goexit(); return nil }), is: tether.ErrGoexit},
		{name: "returns an error whose methods panic", handler: then(func(context.Context) error { return (*badError)(nil) })},
	}
	well = []verdict{{name: "ends well", handler: then(func(context.Context) error { return nil }), want: durable.Done}}
	permanent = []verdict{
		{name: "fails for good", handler: then(func(context.Context) error { return durable.Permanent(errTest) }), want: durable.Dead, is: errTest, log: "ERROR"},
		{name: "fails for good in other words", handler: then(func(context.Context) error { return fmt.Errorf("x: %w", durable.Permanent(errTest)) }), want: durable.Dead, is: errTest, log: "ERROR"},
	}
	return interrupted, well, permanent
}

func TestVerdictsOfInterruptions(t *testing.T) {
	for name, interfere := range map[string]func(*plant){
		"by the drain":             func(p *plant) { drain(p.reg) },
		"by Stop":                  func(p *plant) { go p.worker.Stop(ended()) },
		"by the engine":            func(p *plant) { p.engine.consumer().cancel(errTest) },
		"by the engine's deadline": func(p *plant) { p.engine.consumer().cancel(tether.ErrTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			interrupted, well, permanent := interrupted()
			for _, v := range interrupted {
				v.want, v.log = durable.Return, "INFO"
				v.run(t, interfere)
			}
			for _, v := range slices.Concat(well, permanent) {
				v.run(t, interfere)
			}
		})
	}
}

// Cancelling a task is final, whatever its handler makes of it, unless that ends well.
func TestVerdictsOfCancel(t *testing.T) {
	for name, cause := range map[string]error{"without a cause": nil, "with a cause": errTest, "with one whose methods panic": (*badError)(nil)} {
		t.Run(name, func(t *testing.T) {
			interfere := func(p *plant) {
				for task := range p.reg.Tasks() {
					task.Cancel(cause)
				}
			}
			interrupted, well, permanent := interrupted()
			for _, v := range slices.Concat(interrupted, permanent) {
				if _, bad := cause.(*badError); bad {
					v.text, v.is = "", nil // it is of what comes first
				}
				v.want, v.log = durable.Dead, "ERROR"
				v.run(t, interfere)
			}
			for _, v := range well {
				v.run(t, interfere)
			}
		})
	}
}

func TestAJobOfAnEndedContextIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPlant(t, untilCanceled, options)
		p.engine.consumer().cancel(errTest)
		o := <-p.deliver(1)
		assert.Equal(t, durable.Return, o.Verdict)
		assert.ErrorIs(t, o.Err, errTest)
	})
}

func TestTheLimitPutsJobsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPlant(t, untilCanceled, options, tether.Config{Limit: 1})
		first := p.deliver(1)
		p.task(t)
		o := <-p.deliver(1)
		assert.Equal(t, durable.Return, o.Verdict)
		assert.Equal(t, time.Second, o.After)
		assert.ErrorIs(t, o.Err, tether.ErrFull)
		assert.Equal(t, "WARN", p.log.one(t, "durable: job put back")["level"])
		p.engine.consumer().cancel(errTest)
		<-first
	})
}

// A pool can be paused, or shrunk, by any part of the program: it is in the registry.
func TestAPausedPool(t *testing.T) {
	paused := func(t *testing.T) (*plant, <-chan durable.Outcome) {
		p := startPlant(t, succeed, options)
		for pool := range p.reg.Pools() {
			pool.Pause()
		}
		out := p.deliver(1)
		pending(t, out)
		return p, out
	}
	t.Run("runs jobs when it is resumed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, out := paused(t)
			for pool := range p.reg.Pools() {
				pool.Resume()
			}
			assert.Equal(t, durable.Outcome{}, <-out)
		})
	})
	for name, end := range map[string]func(*plant){
		"puts jobs back at Stop":                 func(p *plant) { go p.worker.Stop(context.Background()) },
		"puts jobs back when their context ends": func(p *plant) { p.engine.consumer().cancel(errTest) },
		"puts jobs back when the drain begins":   func(p *plant) { drain(p.reg) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, out := paused(t)
				began := time.Now()
				end(p)
				o := <-out
				assert.Equal(t, durable.Return, o.Verdict)
				assert.Zero(t, o.After)
				assert.Error(t, o.Err)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

func TestUnknownJobs(t *testing.T) {
	unknown := func(name string) durable.Message { return durable.Message{ID: "x", Name: name, Args: invoice.Args} }
	t.Run("are put back, and logged once a minute", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := startPlant(t, succeed, options)
			deliver := func(name string) {
				t.Helper()
				o := <-p.engine.consumer().deliver(unknown(name), 99)
				assert.Equal(t, durable.Return, o.Verdict)
				assert.Equal(t, 5*time.Second, o.After)
				assert.ErrorContains(t, o.Err, fmt.Sprintf("no job is called %q here", name))
			}
			for range 12 { // a minute
				deliver("mail")
				deliver("report")
				time.Sleep(5 * time.Second)
			}
			assert.Equal(t, "WARN", p.log.one(t, "mail")["level"])
			p.log.one(t, "report")
			deliver("mail")
			assert.Len(t, p.log.about("mail"), 2)
			p.log.one(t, "report")
		})
	})
	t.Run("are remembered up to a bound", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := startPlant(t, succeed, options)
			for i := range 1001 {
				<-p.engine.consumer().deliver(unknown(fmt.Sprintf("mail %04d", i)), 1)
			}
			<-p.engine.consumer().deliver(unknown("mail 0000"), 1)
			assert.Len(t, p.log.about("mail 0000"), 2)
		})
	})
}

func TestManyJobsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Int64
		p := startPlant(t, func(context.Context, order) error {
			time.Sleep(time.Second)
			if ran.Add(1)%3 == 0 {
				return errTest
			}
			return nil
		}, options)
		counts := make(map[durable.Verdict]int)
		for range 25 {
			var outs []<-chan durable.Outcome
			for range 4 {
				outs = append(outs, p.deliver(1))
			}
			for _, out := range outs {
				counts[(<-out).Verdict]++
			}
		}
		assert.Equal(t, map[durable.Verdict]int{durable.Done: 67, durable.Retry: 33}, counts)
		assert.EqualValues(t, 100, ran.Load())
	})
}

// The tasks of a worker have the shares that their arguments name.
func TestWorkerShares(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	engine := newMemory()
	shares := make(chan string, 1)
	job := durable.Define("mail", func(ctx context.Context, _ json.RawMessage) error {
		task, _ := tether.FromContext(ctx)
		shares <- task.Info().Share
		return nil
	}, durable.JobConfig{Timeout: time.Minute})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, ShareField: "tenant"}, job)
	require.NoError(t, err)
	require.NoError(t, worker.Start(context.Background()))
	m := invoice
	m.Name, m.Args = "mail", json.RawMessage(`{"tenant":"acme"}`)
	done := engine.consumer().deliver(m, 1)
	assert.Equal(t, "acme", <-shares)
	<-done
	require.NoError(t, worker.Stop(context.Background()))
}

func TestWorkerShareWorkers(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	engine := newMemory()
	began, end := make(chan struct{}), make(chan struct{})
	job := durable.Define("mail", func(context.Context, json.RawMessage) error {
		began <- struct{}{}
		<-end
		return nil
	}, durable.JobConfig{Timeout: time.Minute})
	for _, invalid := range []durable.WorkerConfig{{ShareWorkers: 1}, {ShareWorkers: -1, ShareField: "tenant"}} {
		invalid.Registry = reg
		_, err := durable.NewWorker(engine, invalid, job)
		assert.ErrorIs(t, err, durable.ErrInvalid)
	}
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: 4, ShareField: "tenant", ShareWorkers: 1}, job)
	require.NoError(t, err)
	require.NoError(t, worker.Start(context.Background()))
	deliver := func(args string) <-chan durable.Outcome {
		m := invoice
		m.Name, m.Args = "mail", json.RawMessage(args)
		return engine.consumer().deliver(m, 1)
	}
	var done []<-chan durable.Outcome
	for _, args := range []string{`{"tenant":"acme"}`, `{"tenant":"other"}`, `{}`} {
		done = append(done, deliver(args))
		<-began
		out := <-deliver(args)
		assert.Equal(t, durable.Return, out.Verdict)
		assert.Equal(t, time.Second, out.After)
		assert.ErrorIs(t, out.Err, tether.ErrFull)
	}
	close(end)
	for _, d := range done {
		assert.Equal(t, durable.Done, (<-d).Verdict)
	}
	require.NoError(t, worker.Stop(context.Background()))
}
