//go:build unix

package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// node is a redis-server of one test.
type node struct {
	port  string
	redis *goredis.Client
	cmd   *exec.Cmd
}

func (n *node) addr() string { return net.JoinHostPort("127.0.0.1", n.port) }

// startNode starts a redis-server with these arguments, and ends it with the test.
func startNode(t *testing.T, args ...string) *node {
	t.Helper()
	durabletest.Redis(t) // skips the test where there is none
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	n := &node{port: port, redis: goredis.NewClient(&goredis.Options{Addr: net.JoinHostPort("127.0.0.1", port)})}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	n.cmd = exec.Command("redis-server", append(args, "--port", port, "--bind", "127.0.0.1", "--dir", dir)...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	require.NoError(t, n.cmd.Start())
	t.Cleanup(func() {
		n.redis.Close()
		n.cmd.Process.Kill()
		n.cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("redis-server %v:\n%s", args, text[max(0, len(text)-4000):])
		}
		log.Close()
	})
	require.Eventually(t, func() bool { return n.redis.Ping(t.Context()).Err() == nil }, patience, 5*time.Millisecond, "a redis-server that answers")
	return n
}

// startPrimary starts a primary that replicates without a disk.
func startPrimary(t *testing.T) *node {
	return startNode(t, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
}

// startReplica starts a replica, and waits until it is in step.
func startReplica(t *testing.T, of *node) *node {
	t.Helper()
	n := startNode(t, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1 "+of.port)
	require.Eventually(t, func() bool {
		return strings.Contains(n.redis.Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, patience, 5*time.Millisecond, "a replica in step")
	return n
}

func TestReplicasConfirmWhatIsEnqueued(t *testing.T) {
	t.Parallel()
	primary := startPrimary(t)
	replica := startReplica(t, primary)
	opt := asynq.RedisClientOpt{Addr: primary.addr()}
	e, err := redis.Config{Replicas: 1}.Open(opt)
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	on := asynq.NewInspectorFromRedisClient(replica.redis)
	for _, key := range []string{"", "key"} {
		m := message("job", key)
		receipt, err := e.Enqueue(ctx, m)
		require.NoError(t, err)
		require.Equal(t, durable.Receipt{ID: m.ID}, receipt)
		again, err := e.Enqueue(ctx, m)
		require.NoError(t, err)
		require.Equal(t, receipt, again)
	}
	pending, err := on.ListPendingTasks("tether")
	require.NoError(t, err)
	require.Len(t, pending, 2, "jobs on the replica when Enqueue has returned")

	// A replica that stands still, and another process that finds the job stored.
	other, err := redis.Config{Replicas: 1}.Open(opt)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	require.NoError(t, replica.cmd.Process.Signal(syscall.SIGSTOP))
	late := message("job", "another key")
	for _, engine := range []*redis.Engine{e, other} {
		short, end := context.WithTimeout(ctx, time.Second)
		_, err = engine.Enqueue(short, message("job", "another key"))
		end()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "0 of 1 replicas")
	}
	stored, err := asynq.NewInspectorFromRedisClient(primary.redis).ListPendingTasks("tether")
	require.NoError(t, err)
	require.Len(t, stored, 3, "jobs that are stored, confirmed or not")
	duplicate := make(chan error, 1)
	go func() {
		receipt, err := other.Enqueue(ctx, late)
		if err == nil && (!receipt.Duplicate || receipt.ID == late.ID) {
			err = fmt.Errorf("%+v", receipt)
		}
		duplicate <- err
	}()
	require.NoError(t, replica.cmd.Process.Signal(syscall.SIGCONT))
	require.NoError(t, <-duplicate, "once the replica goes on")
	pending, err = on.ListPendingTasks("tether")
	require.NoError(t, err)
	require.Len(t, pending, 3)
}

func TestReplicasNeedOnePrimary(t *testing.T) {
	server := durabletest.Redis(t)
	_, err := redis.Config{Replicas: 1}.Open(asynq.RedisClusterClientOpt{Addrs: []string{strings.TrimPrefix(server.Address(), "redis://")}})
	require.ErrorIs(t, err, durable.ErrUnsupported)
}

// A planned fail-over by Sentinel takes a primary away that goes on to accept jobs for a
// moment: they are on no other node. With Replicas none of them has been accepted.
func TestAPlannedFailOverLosesNoJobThatAReplicaHas(t *testing.T) {
	t.Parallel()
	primary := startPrimary(t)
	replica := startReplica(t, primary)
	sentinelConf := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(sentinelConf, []byte("sentinel monitor mine 127.0.0.1 "+primary.port+" 1\nsentinel down-after-milliseconds mine 60000\n"), 0o600))
	sentinel := startNode(t, sentinelConf, "--sentinel")
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	require.Eventually(t, func() bool {
		return strings.Contains(sentinel.redis.Info(ctx, "sentinel").Val(), "status=ok,address="+primary.addr()+",slaves=1")
	}, patience, 5*time.Millisecond, "a sentinel that knows the replica")

	log := new(record)
	e, err := redis.Config{Replicas: 1, Logger: log.logger()}.Open(asynq.RedisFailoverClientOpt{MasterName: "mine", SentinelAddrs: []string{sentinel.addr()}})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	var mu sync.Mutex
	accepted := make(map[string]bool)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted)
	}
	var enough atomic.Bool
	var failed atomic.Int64
	var group sync.WaitGroup
	defer group.Wait()
	defer enough.Store(true)
	for range 8 {
		group.Go(func() {
			for !enough.Load() {
				m := message("job", "")
				if _, err := e.Enqueue(ctx, m); err != nil {
					failed.Add(1)
					continue
				}
				mu.Lock()
				accepted[m.ID] = true
				mu.Unlock()
			}
		})
	}
	require.Eventually(t, func() bool { return count() > 200 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { // once the sentinel has looked at the replica
		return sentinel.redis.Do(ctx, "SENTINEL", "FAILOVER", "mine").Err() == nil
	}, patience, 50*time.Millisecond, "a fail-over")
	require.Eventually(t, func() bool {
		return strings.Contains(primary.redis.Info(ctx, "replication").Val(), "role:slave")
	}, patience, 5*time.Millisecond, "the old primary as a replica")
	during := count()
	require.Eventually(t, func() bool { return count() > during+200 }, patience, 5*time.Millisecond, "Enqueue on the new primary")
	enough.Store(true)
	group.Wait()

	inspector := asynq.NewInspectorFromRedisClient(replica.redis)
	there := make(map[string]bool)
	for page := 1; ; page++ {
		tasks, err := inspector.ListPendingTasks("tether", asynq.PageSize(1000), asynq.Page(page))
		require.NoError(t, err)
		for _, task := range tasks {
			there[task.ID] = true
		}
		if len(tasks) < 1000 {
			break
		}
	}
	lost := 0
	for id := range accepted {
		if !there[id] {
			lost++
		}
	}
	assert.Zero(t, lost, "jobs lost, of %d that were accepted", len(accepted))
	assert.Zero(t, failed.Load(), "Enqueues that failed")
	t.Logf("%d jobs accepted, %d lost", len(accepted), lost)
}

// Enqueue waits for Redis for as long as its context allows.
func TestEnqueueWaitsForRedis(t *testing.T) {
	b := newBench(t)
	e, v := b.behind()
	v.down(true)
	short, cancel := context.WithCancelCause(b.ctx)
	mine := errors.New("mine")
	failed := make(chan error, 2)
	go func() {
		_, err := e.Enqueue(short, message("job", ""))
		failed <- err
	}()
	for range 10 { // more often than go-redis tries
		next(b, v.resets)
	}
	cancel(mine)
	err := next(b, failed)
	require.ErrorIs(t, err, mine)
	require.Greater(t, len(err.Error()), len("redis: enqueue job \"job\": mine"), "why Redis could not be reached")

	var callers sync.WaitGroup
	for range 20 { // more than there are connections
		m := message("job", "")
		callers.Go(func() {
			_, err := e.Enqueue(b.ctx, m)
			assert.NoError(t, err)
			b.state(m.ID, asynq.TaskStatePending)
		})
	}
	for range 20 {
		next(b, v.resets)
	}
	v.down(false)
	callers.Wait()

	// What Redis refuses is an error at once.
	require.NoError(t, b.redis.Do(b.ctx, "ACL", "SETUSER", "reader", "reset", "on", ">secret", "~*", "&*", "+@all", "-eval", "-evalsha", "-sadd").Err())
	defer b.redis.Do(b.ctx, "ACL", "DELUSER", "reader")
	opt := b.opt
	opt.Username, opt.Password = "reader", "secret"
	reader, err := b.open(opt)
	require.NoError(t, err)
	defer reader.Close()
	_, err = reader.Enqueue(b.ctx, message("job", ""))
	require.ErrorContains(t, err, "NOPERM")
	require.NoError(t, b.ctx.Err())
}
