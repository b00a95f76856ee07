package redis_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/redis"
)

// patience is a guard against hanging.
const patience = time.Minute

// bench is an engine on a queue of its own, and what sees it from outside.
type bench struct {
	testing.TB
	ctx       context.Context
	opt       asynq.RedisClientOpt
	queue     string
	engine    *redis.Engine
	redis     *goredis.Client
	client    *asynq.Client
	inspector *asynq.Inspector
	log       *record
}

func newBench(t testing.TB) *bench {
	server := durabletest.Redis(t)
	opt, err := asynq.ParseRedisURI(server.Address())
	require.NoError(t, err)
	b := &bench{TB: t, opt: opt.(asynq.RedisClientOpt), queue: strings.ToLower(rand.Text()[:12]), log: new(record)}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	b.redis = b.opt.MakeRedisClient().(*goredis.Client)
	t.Cleanup(func() { b.redis.Close() })
	b.client, b.inspector = asynq.NewClientFromRedisClient(b.redis), asynq.NewInspectorFromRedisClient(b.redis)
	b.engine, err = b.open(b.opt)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.engine.Close()) })
	return b
}

func (b *bench) open(opt asynq.RedisConnOpt) (*redis.Engine, error) {
	return redis.Config{Queue: b.queue, Logger: b.log.logger()}.Open(opt)
}

// message is a job of this name.
func message(name, key string) durable.Message {
	return durable.Message{ID: rand.Text(), Name: name, Args: json.RawMessage(`{}`), Unique: key}
}

func (b *bench) enqueue(m durable.Message) durable.Receipt {
	b.Helper()
	r, err := b.engine.Enqueue(b.ctx, m)
	require.NoError(b, err)
	return r
}

// consume handles the queue until the test ends.
func (b *bench) consume(concurrency int, handle func(context.Context, durable.Delivery) durable.Outcome) durable.Consumer {
	b.Helper()
	c, err := b.engine.Consume(b.ctx, durable.Consumption{Concurrency: concurrency, Handle: handle, Logger: b.log.logger()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, c.Stop(b.ctx)) })
	return c
}

// state waits until a task is in a state.
func (b *bench) state(id string, want asynq.TaskState) (info *asynq.TaskInfo) {
	b.Helper()
	require.Eventually(b, func() (ok bool) {
		var err error
		info, err = b.inspector.GetTaskInfo(b.queue, id)
		return err == nil && info.State == want
	}, patience, 5*time.Millisecond, "task %s: state %v", id, want)
	return info
}

// next waits for a delivery.
func next[T any](b *bench, c <-chan T) T {
	b.Helper()
	select {
	case v := <-c:
		return v
	case <-b.ctx.Done():
		require.FailNow(b, "nothing was delivered")
		panic("unreachable")
	}
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *record) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// delivery is a call of Handle.
type delivery struct {
	durable.Message
	attempt int
	at      time.Time
}

func TestAFailedJobFreesItsKey(t *testing.T) {
	b := newBench(t)
	delivered := make(chan delivery, 10)
	b.consume(1, func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		delivered <- delivery{m.Message, attempt, time.Now()}
		return durable.Outcome{Verdict: durable.Dead, Err: errors.New("no such order")}
	})
	first := message("invoice", "order-5")
	require.Equal(t, durable.Receipt{ID: first.ID}, b.enqueue(first))
	require.Equal(t, first.ID, next(b, delivered).ID)
	var archived *asynq.TaskInfo
	require.Eventually(t, func() bool {
		tasks, err := b.inspector.ListArchivedTasks(b.queue)
		if err != nil || len(tasks) != 1 {
			return false
		}
		archived = tasks[0]
		return true
	}, patience, 5*time.Millisecond)
	assert.Equal(t, "no such order", archived.LastErr)
	assert.Equal(t, "invoice", archived.Type)

	require.NoError(t, b.inspector.RunTask(b.queue, archived.ID), "by a tool of asynq's")
	again := next(b, delivered)
	assert.Equal(t, first.ID, again.ID)
	assert.Equal(t, 1, again.attempt, "the attempt in which it had failed for good")
	b.state(archived.ID, asynq.TaskStateArchived)

	second := message("invoice", "order-5")
	require.Equal(t, durable.Receipt{ID: second.ID}, b.enqueue(second))
	require.Equal(t, second.ID, next(b, delivered).ID)
	assert.Contains(t, b.log.String(), first.ID, "the job that is gone")
	assert.Contains(t, b.log.String(), "no such order")
}

// Several processes may find the same archived job in their way. None may remove the job
// that another has put in its place.
func TestAFreedKeyIsTakenOnce(t *testing.T) {
	b := newBench(t)
	for round := range 100 {
		old := message("invoice", fmt.Sprint(round))
		b.enqueue(old)
		pending, err := b.inspector.ListPendingTasks(b.queue, asynq.PageSize(1000))
		require.NoError(t, err)
		for _, task := range pending {
			if bytes.Contains(task.Payload, []byte(old.ID)) {
				require.NoError(t, b.inspector.ArchiveTask(b.queue, task.ID))
			}
		}
		receipts := make([]durable.Receipt, 8)
		start := make(chan struct{})
		var group sync.WaitGroup
		for i := range receipts {
			group.Go(func() {
				<-start
				r, err := b.engine.Enqueue(b.ctx, message("invoice", old.Unique))
				assert.NoError(t, err)
				receipts[i] = r
			})
		}
		close(start)
		group.Wait()
		var taken []string
		for _, r := range receipts {
			if !r.Duplicate {
				taken = append(taken, r.ID)
			}
		}
		require.Len(t, taken, 1, "jobs that were accepted in round %d", round)
		for _, r := range receipts {
			require.Equal(t, taken[0], r.ID)
		}
	}
	info, err := b.inspector.GetQueueInfo(b.queue)
	require.NoError(t, err)
	assert.Equal(t, 100, info.Pending)
	assert.Zero(t, info.Archived)
}

func TestKeysOfOtherJobsAreOthers(t *testing.T) {
	b := newBench(t)
	for _, m := range []durable.Message{
		message("a", "b:c"), message("a:b", "c"), message("a", "b"), message("a:b", "b"), message("unique:a", "b"),
		message("a", " "), message("a", "\n"), message("a", strings.Repeat("x", 512)),
	} {
		assert.Equal(t, durable.Receipt{ID: m.ID}, b.enqueue(m), "%q %q", m.Name, m.Unique)
		other := message(m.Name, m.Unique)
		assert.Equal(t, durable.Receipt{ID: m.ID, Duplicate: true}, b.enqueue(other), "%q %q", m.Name, m.Unique)
	}
}

// go-redis sends a command again when the connection breaks before the answer comes.
func TestWhatIsStoredAlreadyIsNoDuplicate(t *testing.T) {
	b := newBench(t)
	for _, m := range []durable.Message{message("plain", ""), message("keyed", "key")} {
		for range 2 {
			assert.Equal(t, durable.Receipt{ID: m.ID}, b.enqueue(m))
		}
	}
	info, err := b.inspector.GetQueueInfo(b.queue)
	require.NoError(t, err)
	assert.Equal(t, 2, info.Pending)

	foreign := message("plain", "")
	_, err = b.client.Enqueue(asynq.NewTask("other", nil), asynq.TaskID(foreign.ID), asynq.Queue(b.queue))
	require.NoError(t, err)
	_, err = b.engine.Enqueue(b.ctx, foreign)
	assert.ErrorIs(t, err, durable.ErrInvalid)
}

// breaking makes clients to which the connection breaks some times at a command.
type breaking struct {
	asynq.RedisClientOpt
	command string
	left    *atomic.Int32
}

func (b breaking) MakeRedisClient() any {
	client := b.RedisClientOpt.MakeRedisClient().(*goredis.Client)
	client.AddHook(b)
	return client
}

func (breaking) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (breaking) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (b breaking) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if cmd.Name() == b.command && b.left.Add(-1) >= 0 {
			return io.EOF
		}
		return next(ctx, cmd)
	}
}

func TestAConnectionThatBreaksAtALookForAnotherJob(t *testing.T) {
	b := newBench(t)
	first := b.enqueue(message("job", "key"))
	opt := breaking{b.opt, "sismember", new(atomic.Int32)}
	e, err := b.open(opt)
	require.NoError(t, err)
	defer e.Close()
	opt.left.Store(2)
	second, err := e.Enqueue(b.ctx, message("job", "key"))
	require.NoError(t, err)
	assert.Equal(t, durable.Receipt{ID: first.ID, Duplicate: true}, second)
	assert.Negative(t, opt.left.Load())
}

func TestKeysWorkAfterRedisHasLostItsData(t *testing.T) {
	b := newBench(t)
	b.enqueue(message("keyed", "key"))
	require.NoError(t, b.redis.FlushAll(b.ctx).Err())
	first := message("keyed", "key")
	assert.Equal(t, durable.Receipt{ID: first.ID}, b.enqueue(first))
	assert.Equal(t, durable.Receipt{ID: first.ID, Duplicate: true}, b.enqueue(message("keyed", "key")))
}

func TestWhatIsNoJobIsArchived(t *testing.T) {
	b := newBench(t)
	delivered := make(chan string, 10)
	b.consume(2, func(_ context.Context, m durable.Delivery) durable.Outcome {
		delivered <- m.ID
		return durable.Outcome{}
	})
	for i, payload := range []string{"", "garbage\xff", `[]`, `{"id":"x"}`, `{"id":"x","name":"y","used":-1}`} {
		_, err := b.client.Enqueue(asynq.NewTask("other", []byte(payload)), asynq.TaskID(fmt.Sprint(i)), asynq.Queue(b.queue))
		require.NoError(t, err)
		archived := b.state(fmt.Sprint(i), asynq.TaskStateArchived)
		assert.NotEmpty(t, archived.LastErr)
		assert.Zero(t, archived.Retried)
	}
	assert.Contains(t, b.log.String(), "type=other")

	// As a program in another language would enqueue it.
	_, err := b.client.Enqueue(asynq.NewTask("invoice", []byte(`{"id":"mine","name":"invoice","args":{"order":5}}`)), asynq.Queue(b.queue))
	require.NoError(t, err)
	assert.Equal(t, "mine", next(b, delivered))
}

// asynq cannot store what is not UTF-8, and the job would stay active.
func TestErrorsOfAnyTextAreStored(t *testing.T) {
	b := newBench(t)
	text := "\xff" + strings.Repeat("é", 100_000)
	attempts := make(chan int, 10)
	b.consume(1, func(_ context.Context, d durable.Delivery) durable.Outcome {
		attempt := d.Attempt
		attempts <- attempt
		switch attempt {
		case 1:
			return durable.Outcome{Verdict: durable.Retry, Err: errors.New(text)}
		case 2:
			return durable.Outcome{Verdict: durable.Retry} // without one
		}
		return durable.Outcome{Verdict: durable.Dead, Err: errors.New(text)}
	})
	m := message("invoice", "")
	b.enqueue(m)
	for n := range 3 {
		require.Equal(t, n+1, next(b, attempts))
	}
	stored := b.state(m.ID, asynq.TaskStateArchived).LastErr
	assert.True(t, strings.HasPrefix(stored, "\uFFFDéé"), "%.20q", stored)
	assert.Less(t, len(stored), 5000)
}

// Each at its own part of a second, which asynq would cut off.
func TestJobsNeverRunEarly(t *testing.T) {
	b := newBench(t)
	const jobs, wait = 8, 300 * time.Millisecond
	var mu sync.Mutex
	due := make(map[string]time.Time)
	count := make(map[string]int)
	done := make(chan struct{}, jobs)
	b.consume(jobs, func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		mu.Lock()
		defer mu.Unlock()
		now := time.Now().Round(0) // by the wall clock, which RunAt is of
		assert.False(t, now.Before(due[m.ID]), "delivery %d, attempt %d: %v early", count[m.ID], attempt, due[m.ID].Sub(now))
		count[m.ID]++
		due[m.ID] = time.Now().Add(wait).Round(0)
		switch count[m.ID] {
		case 1:
			assert.Equal(t, 1, attempt)
			return durable.Outcome{Verdict: durable.Return, After: wait, Err: errors.New("not here")}
		case 2:
			assert.Equal(t, 1, attempt, "after a Return")
			return durable.Outcome{Verdict: durable.Retry, After: wait, Err: errors.New("failed")}
		}
		assert.Equal(t, 2, attempt, "after a Retry")
		done <- struct{}{}
		return durable.Outcome{}
	})
	for i := range jobs {
		m := message("later", "")
		m.RunAt = time.Now().Round(0).Add(time.Duration(i)*137*time.Millisecond + 50*time.Millisecond)
		mu.Lock()
		due[m.ID] = m.RunAt
		mu.Unlock()
		b.enqueue(m)
	}
	for range jobs {
		next(b, done)
	}
}

func TestAJobInThePastRunsAtOnce(t *testing.T) {
	b := newBench(t)
	m := message("now", "")
	m.RunAt = time.Now()
	b.enqueue(m)
	b.state(m.ID, asynq.TaskStatePending)
	m = message("before", "")
	m.RunAt = time.Unix(0, 0)
	b.enqueue(m)
	b.state(m.ID, asynq.TaskStatePending)
	m = message("far", "")
	m.RunAt = time.Now().Add(1<<63 - 1)
	b.enqueue(m)
	assert.False(t, b.state(m.ID, asynq.TaskStateScheduled).NextProcessAt.Before(m.RunAt))
}

// The longest wait there is must not become one in the past.
func TestLongWaits(t *testing.T) {
	b := newBench(t)
	b.consume(1, func(context.Context, durable.Delivery) durable.Outcome {
		return durable.Outcome{Verdict: durable.Retry, After: 1<<63 - 1}
	})
	m := message("patient", "")
	b.enqueue(m)
	assert.Greater(t, time.Until(b.state(m.ID, asynq.TaskStateRetry).NextProcessAt), 99*365*24*time.Hour)
}

// asynq believes that a handler has ended which it has canceled, and starts the next.
func TestHandlersThatIgnoreTheirCancellationKeepTheirPlace(t *testing.T) {
	b := newBench(t)
	var running atomic.Int32
	begun, free := make(chan string, 10), make(chan struct{})
	c := b.consume(1, func(ctx context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		assert.EqualValues(t, 1, running.Add(1), "handlers at once")
		defer running.Add(-1)
		begun <- m.Name
		if m.Name == "stubborn" && attempt == 1 {
			<-free
			for range 200 { // so that it ends well after Done, were that closed too early
				assert.NoError(t, b.redis.Ping(b.ctx).Err())
			}
			assert.Error(t, ctx.Err(), "the context of a canceled attempt")
		}
		return durable.Outcome{}
	})
	stubborn, other := message("stubborn", ""), message("other", "")
	b.enqueue(stubborn)
	require.Equal(t, "stubborn", next(b, begun))
	require.NoError(t, b.inspector.CancelProcessing(stubborn.ID))
	// asynq delivers it again, as it does after a lost lease.
	require.Eventually(t, func() bool {
		info, err := b.inspector.GetTaskInfo(b.queue, stubborn.ID)
		return err == nil && info.Retried == 1
	}, patience, 5*time.Millisecond)
	b.enqueue(other)
	require.Eventually(t, func() bool { // both have been fetched and put back, unused
		info, err := b.inspector.GetTaskInfo(b.queue, other.ID)
		again, err2 := b.inspector.GetTaskInfo(b.queue, stubborn.ID)
		return err == nil && err2 == nil && strings.Contains(info.LastErr, "busy") && strings.Contains(again.LastErr, "busy")
	}, patience, 5*time.Millisecond)

	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	left := make(chan int32, 1)
	go func() {
		<-c.Done()
		left <- running.Load()
	}()
	require.ErrorIs(t, c.Stop(ctx), context.Canceled)
	require.Eventually(t, func() bool { // asynq has ended, though the handler runs
		servers, err := b.inspector.Servers()
		return err == nil && !slices.ContainsFunc(servers, func(s *asynq.ServerInfo) bool { return s.Queues[b.queue] > 0 })
	}, patience, 5*time.Millisecond)
	close(free)
	require.NoError(t, c.Stop(b.ctx), "once the handler has returned")
	require.Zero(t, next(b, left), "handlers that ran when Done was closed")
	require.NoError(t, c.Err())

	b.consume(1, func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		begun <- fmt.Sprint(m.Name, attempt)
		return durable.Outcome{}
	})
	require.ElementsMatch(t, []string{"other1", "stubborn2"}, []string{next(b, begun), next(b, begun)})
}

func TestOutcomesAreStoredWhenRedisIsBack(t *testing.T) {
	b := newBench(t)
	server := durabletest.Redis(t)
	begun, away := make(chan string, 10), make(chan struct{})
	b.consume(3, func(_ context.Context, m durable.Delivery) durable.Outcome {
		begun <- m.Name
		<-away
		return map[string]durable.Outcome{
			"done": {}, "dead": {Verdict: durable.Dead}, "retry": {Verdict: durable.Retry, After: time.Hour},
		}[m.Name]
	})
	ids := make(map[string]string)
	for _, name := range []string{"done", "dead", "retry"} {
		m := message(name, "")
		ids[name] = m.ID
		b.enqueue(m)
	}
	for range ids {
		next(b, begun)
	}
	server.Stop(t)
	close(away)
	for range 3 { // longer than go-redis tries by itself
		require.Error(t, b.redis.Ping(b.ctx).Err())
	}
	server.Start(t)
	b.state(ids["dead"], asynq.TaskStateArchived)
	assert.Greater(t, time.Until(b.state(ids["retry"], asynq.TaskStateRetry).NextProcessAt), time.Minute)
	require.Eventually(t, func() bool {
		_, err := b.inspector.GetTaskInfo(b.queue, ids["done"])
		return errors.Is(err, asynq.ErrTaskNotFound)
	}, patience, 5*time.Millisecond)
	assert.Empty(t, begun, "further deliveries")
}

// A proxy, as HAProxy or a Kubernetes service, accepts connections while Redis is away, and
// resets them.
func TestOutcomesAreStoredBehindAProxyThatResets(t *testing.T) {
	b := newBench(t)
	e, v := b.behind()
	const jobs = 4
	begun, away := make(chan string, 100), make(chan struct{})
	c, err := e.Consume(b.ctx, durable.Consumption{Concurrency: jobs, Logger: b.log.logger(), Handle: func(_ context.Context, m durable.Delivery) durable.Outcome {
		attempt := m.Attempt
		begun <- m.ID
		assert.Equal(t, 1, attempt)
		<-away
		if m.Name == "dead" {
			return durable.Outcome{Verdict: durable.Dead}
		}
		return durable.Outcome{}
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Stop(b.ctx)) }()
	var ids []string
	for _, name := range []string{"done", "done", "dead", "done"} {
		m := message(name, "")
		ids = append(ids, m.ID)
		b.enqueue(m)
	}
	for range jobs {
		next(b, begun)
	}
	v.down(true)
	require.NoError(t, b.redis.ScriptFlush(b.ctx).Err(), "Redis restarts, and forgets the scripts")
	close(away)
	for range 5 * jobs { // each outcome has met a connection that was reset
		next(b, v.resets)
	}
	v.down(false)
	b.state(ids[2], asynq.TaskStateArchived)
	for _, id := range []string{ids[0], ids[1], ids[3]} {
		require.Eventually(t, func() bool {
			_, err := b.inspector.GetTaskInfo(b.queue, id)
			return errors.Is(err, asynq.ErrTaskNotFound)
		}, patience, 5*time.Millisecond)
	}
	assert.Empty(t, begun, "further deliveries")
	m := message("done", "")
	b.enqueue(m)
	require.Equal(t, m.ID, next(b, begun))
}

// valve stands between an engine and Redis.
type valve struct {
	frozen  atomic.Bool
	reached chan struct{} // gets a value for what arrives while it is frozen, and waits

	resets chan struct{} // gets a value for each connection that was reset when it was accepted, if it has room

	mu     sync.Mutex
	isDown bool                  // reset each connection; guarded by mu
	conns  map[*net.TCPConn]bool // of the engine; guarded by mu
}

// down has the valve reset the connections that there are, and accept others only to reset them.
func (v *valve) down(is bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.isDown = is
	if is {
		for c := range v.conns {
			c.SetLinger(0)
			c.Close()
		}
		clear(v.conns)
	}
}

// admits reports whether a connection stays; else it was reset.
func (v *valve) admits(c *net.TCPConn) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.isDown {
		v.conns[c] = true
		return true
	}
	c.SetLinger(0)
	c.Close()
	select {
	case v.resets <- struct{}{}:
	default:
	}
	return false
}

// behind opens the bench's queue behind a valve.
func (b *bench) behind() (*redis.Engine, *valve) {
	b.Helper()
	v := &valve{reached: make(chan struct{}, 100), resets: make(chan struct{}, 100), conns: make(map[*net.TCPConn]bool)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	var group sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(func() {
		stop()
		l.Close()
		group.Wait()
	})
	group.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			if !v.admits(from.(*net.TCPConn)) {
				continue
			}
			to, err := net.Dial("tcp", b.opt.Addr)
			if !assert.NoError(b, err) {
				from.Close()
				return
			}
			context.AfterFunc(ctx, func() { from.Close(); to.Close() })
			group.Go(func() { v.pass(ctx, from, to) })
			group.Go(func() { io.Copy(from, to); from.Close() })
		}
	})
	opt := b.opt
	opt.Addr, opt.ReadTimeout = l.Addr().String(), -1 // so that nothing ends by that
	e, err := b.open(opt)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, e.Close()) })
	return e, v
}

func (v *valve) pass(ctx context.Context, from, to net.Conn) {
	defer to.Close()
	for buf := make([]byte, 1<<16); ; {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if v.frozen.Load() {
			v.reached <- struct{}{}
			<-ctx.Done()
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func handleNone(context.Context, durable.Delivery) durable.Outcome { return durable.Outcome{} }

func TestCallsEndWithTheirContext(t *testing.T) {
	b := newBench(t)
	e, v := b.behind()
	mine := errors.New("mine")
	for name, call := range map[string]func(context.Context) error{
		"Enqueue": func(ctx context.Context) error {
			_, err := e.Enqueue(ctx, message("first", ""))
			return err
		},
		"Consume": func(ctx context.Context) error {
			_, err := e.Consume(ctx, durable.Consumption{Concurrency: 1, Handle: handleNone})
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(b.ctx)
		failed := make(chan error, 1)
		v.frozen.Store(true)
		go func() { failed <- call(ctx) }()
		next(b, v.reached)
		cancel(mine)
		require.ErrorIs(t, next(b, failed), mine, name)
	}
}

// Callers that leave take no connection away from others.
func TestCanceledCallersDisturbNoOthers(t *testing.T) {
	b := newBench(t)
	var group sync.WaitGroup
	var stored atomic.Int64
	for n := range 16 {
		group.Go(func() {
			for range 100 {
				ctx, cancel := context.WithCancel(b.ctx)
				if n%2 == 0 {
					go cancel()
				}
				_, err := b.engine.Enqueue(ctx, message("job", ""))
				cancel()
				switch {
				case err == nil:
					stored.Add(1)
				case n%2 != 0:
					assert.NoError(t, err)
				}
			}
		})
	}
	group.Wait()
	info, err := b.inspector.GetQueueInfo(b.queue)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, int64(info.Pending), stored.Load())
	assert.GreaterOrEqual(t, stored.Load(), int64(800))
}

// The caller that has a connection sends the jobs of others. Neither its end nor theirs loses
// or delays those of the rest.
func TestACallerThatLeavesWhileItSendsTheJobsOfOthers(t *testing.T) {
	b := newBench(t)
	e, v := b.behind()
	type caller struct {
		durable.Message
		cancel context.CancelFunc
		ended  chan error
	}
	start := func() caller {
		ctx, cancel := context.WithCancel(b.ctx)
		c := caller{message("job", ""), cancel, make(chan error, 1)}
		go func() {
			_, err := e.Enqueue(ctx, c.Message)
			c.ended <- err
		}()
		return c
	}
	first := start()
	require.NoError(t, next(b, first.ended))
	v.frozen.Store(true)
	var owners []caller // of the connections
	for range redis.LinesInUse {
		owners = append(owners, start())
		next(b, v.reached)
	}
	sender := start()
	e.AwaitWaiting(1)
	var others []caller
	for range 5 {
		others = append(others, start())
	}
	e.AwaitWaiting(6)
	owners[0].cancel()
	require.ErrorIs(t, next(b, owners[0].ended), context.Canceled)
	next(b, v.reached) // sender has the connection, and sends all six
	e.AwaitWaiting(0)
	others[0].cancel()
	require.ErrorIs(t, next(b, others[0].ended), context.Canceled)
	v.frozen.Store(false)
	sender.cancel()
	require.ErrorIs(t, next(b, sender.ended), context.Canceled)
	for _, c := range others[1:] {
		require.NoError(t, next(b, c.ended))
		b.state(c.ID, asynq.TaskStatePending)
	}
	for _, c := range owners[1:] {
		c.cancel()
		require.ErrorIs(t, next(b, c.ended), context.Canceled)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	b := newBench(t)
	e, v := b.behind()
	failed := make(chan error, 1)
	v.frozen.Store(true)
	go func() {
		_, err := e.Enqueue(b.ctx, message("late", ""))
		failed <- err
	}()
	next(b, v.reached)
	require.NoError(t, e.Close())
	require.ErrorIs(t, next(b, failed), durable.ErrClosed)
	require.NoError(t, e.Close())
	_, err := e.Enqueue(b.ctx, message("late", ""))
	require.ErrorIs(t, err, durable.ErrClosed)
	_, err = e.Consume(b.ctx, durable.Consumption{Concurrency: 1, Handle: handleNone})
	require.ErrorIs(t, err, durable.ErrClosed)
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	b := newBench(t)
	t.Run("no server", func(t *testing.T) {
		address := durabletest.RefusedAddress(t)
		_, err := b.open(asynq.RedisClientOpt{Addr: address})
		require.ErrorContains(t, err, "redis cannot be reached")
		require.ErrorContains(t, err, address)
	})
	t.Run("password", func(t *testing.T) {
		require.NoError(t, b.redis.Do(b.ctx, "ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all").Err())
		defer b.redis.Do(b.ctx, "ACL", "DELUSER", "app")
		opt := b.opt
		opt.Username, opt.Password = "app", "wrong"
		_, err := b.open(opt)
		require.ErrorContains(t, err, "WRONGPASS")
		require.NotContains(t, err.Error(), "wrong")
		opt.Password = "secret"
		e, err := b.open(opt)
		require.NoError(t, err)
		require.NoError(t, e.Close())
	})
	t.Run("config", func(t *testing.T) {
		for _, cfg := range []redis.Config{{Queue: " "}, {Queue: "{a}"}, {Poll: -1}, {Timeout: -1}, {Replicas: -1}} {
			_, err := cfg.Open(b.opt)
			require.ErrorIs(t, err, durable.ErrInvalid, "%+v", cfg)
		}
		_, err := redis.Open(nil)
		require.ErrorIs(t, err, durable.ErrInvalid)
		_, err = redis.Open(notRedis{})
		require.ErrorIs(t, err, durable.ErrInvalid)
	})
}

type notRedis struct{}

func (notRedis) MakeRedisClient() any { return 5 }

func TestOpenLooksWhetherJobsAreSafe(t *testing.T) {
	b := newBench(t)
	set := func(t *testing.T, setting, value string) {
		old, err := b.redis.ConfigGet(b.ctx, setting).Result()
		require.NoError(t, err)
		require.NoError(t, b.redis.ConfigSet(b.ctx, setting, value).Err())
		t.Cleanup(func() { require.NoError(t, b.redis.ConfigSet(b.ctx, setting, old[setting]).Err()) })
	}
	works := func(t *testing.T, opt asynq.RedisConnOpt) (logged string) {
		before := len(b.log.String())
		e, err := b.open(opt)
		require.NoError(t, err)
		require.NoError(t, e.Close())
		return b.log.String()[before:]
	}
	t.Run("as it should be", func(t *testing.T) { assert.Empty(t, works(t, b.opt)) })
	t.Run("jobs may be evicted", func(t *testing.T) {
		set(t, "maxmemory-policy", "allkeys-lru")
		assert.Contains(t, works(t, b.opt), "allkeys-lru")
		set(t, "maxmemory", "100mb")
		_, err := b.open(b.opt)
		require.ErrorContains(t, err, "maxmemory-policy is allkeys-lru")

		require.NoError(t, b.redis.Do(b.ctx, "ACL", "SETUSER", "few", "reset", "on", ">secret", "~*", "&*", "+@all", "-config", "-info").Err())
		defer b.redis.Do(b.ctx, "ACL", "DELUSER", "few")
		opt := b.opt
		opt.Username, opt.Password = "few", "secret"
		assert.Empty(t, works(t, opt), "where CONFIG is forbidden")
	})
	t.Run("only keys that expire may be", func(t *testing.T) {
		set(t, "maxmemory-policy", "volatile-lru")
		set(t, "maxmemory", "100mb")
		assert.Empty(t, works(t, b.opt))
	})
	t.Run("the clocks differ", func(t *testing.T) {
		for _, ahead := range []time.Duration{-time.Hour, -11 * time.Second, 0, 9 * time.Second, time.Minute} {
			before := len(b.log.String())
			cfg := redis.Config{Queue: b.queue, Logger: b.log.logger()}.WithClock(func() time.Time { return time.Now().Add(ahead) })
			e, err := cfg.Open(b.opt)
			require.NoError(t, err)
			require.NoError(t, e.Close())
			if logged := b.log.String()[before:]; ahead.Abs() < 10*time.Second {
				assert.Empty(t, logged, "%v ahead", ahead)
			} else {
				assert.Contains(t, logged, "clocks", "%v ahead", ahead)
			}
		}
	})
	t.Run("a restart loses jobs", func(t *testing.T) {
		t.Cleanup(func() { // Redis ignores that it is to end while it writes the file anew
			require.Eventually(t, func() bool {
				return strings.Contains(b.redis.Info(b.ctx, "persistence").Val(), "aof_rewrite_in_progress:0")
			}, patience, 5*time.Millisecond)
		})
		set(t, "appendonly", "no")
		assert.Contains(t, works(t, b.opt), "appendonly")
	})
}
