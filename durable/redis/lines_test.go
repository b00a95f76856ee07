package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable/durabletest"
)

// socket notes that it was closed.
type socket struct {
	net.Conn
	closed atomic.Bool
}

func (s *socket) Close() error {
	s.closed.Store(true)
	return nil
}

// newTestLines returns lines that connect nowhere.
func newTestLines(t *testing.T, most int) *lines {
	all := newLines(goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:1"}), most)
	t.Cleanup(func() { all.client.Close() })
	return all
}

// take takes a line until release is called.
func (all *lines) take(t *testing.T, ctx context.Context) (l *line, release func()) {
	t.Helper()
	l, err := all.acquire(ctx, newWaiter())
	require.NoError(t, err)
	ctx, release = all.hold(ctx, l)
	require.Same(t, l, lineOf(ctx))
	return l, release
}

// awaitWaiting returns when n callers wait for a line.
func (all *lines) awaitWaiting(n int) {
	for waiting := -1; waiting != n; runtime.Gosched() {
		all.mu.Lock()
		waiting = len(all.waiting)
		all.mu.Unlock()
	}
}

func TestACanceledCallClosesItsOwnSocketOnly(t *testing.T) {
	all := newTestLines(t, 2)
	first, second := new(socket), new(socket)
	ctx, cancel := context.WithCancel(t.Context())
	used, release := all.take(t, ctx)
	require.True(t, used.connected(first))
	release()

	l, release := all.take(t, t.Context())
	require.Same(t, used, l, "the line used last")
	cancel()          // by the first caller, which has released the line
	used.interrupt(0) // as if the cancellation had been late
	assert.False(t, first.closed.Load())
	release()

	ctx, cancel = context.WithCancel(t.Context())
	l, release = all.take(t, ctx)
	require.Same(t, used, l)
	cancel()
	used.interrupt(2) // which the cancellation does as well
	assert.True(t, first.closed.Load())
	require.False(t, used.connected(second), "a connection that comes late")
	release()

	l, release = all.take(t, t.Context())
	assert.True(t, l.connected(second), "the next use")
	release()
	assert.False(t, second.closed.Load())
}

func TestACallWaitsForALineUntilItsContextEnds(t *testing.T) {
	all := newTestLines(t, 1)
	l, release := all.take(t, t.Context())
	mine := errors.New("mine")
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error)
	for range 2 {
		go func() {
			_, err := all.acquire(ctx, newWaiter())
			failed <- err
		}()
	}
	all.awaitWaiting(2)
	cancel(mine)
	assert.ErrorIs(t, <-failed, mine)
	assert.ErrorIs(t, <-failed, mine)
	all.awaitWaiting(0)

	next := newWaiter()
	all.waiting = append(all.waiting, next)
	release()
	assert.Same(t, l, <-next.turn)
	_, release = all.hold(t.Context(), l)
	release()
	assert.Zero(t, all.used)
}

// A caller may be given a line when its context has just ended.
func TestALineThatComesLateIsNotLost(t *testing.T) {
	for range 1000 {
		all := newTestLines(t, 1)
		l, release := all.take(t, t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if got, err := all.acquire(ctx, newWaiter()); err == nil {
				assert.Same(t, l, got)
				_, release := all.hold(ctx, got)
				release()
			}
		}()
		all.awaitWaiting(1)
		cancel()
		release() // often before the caller sees that
		<-ended
		require.Zero(t, all.used)
		require.Len(t, all.free, 1)
	}
}

// A context that has ended costs no connection.
func TestAnEndedContextTakesNoLine(t *testing.T) {
	all := newTestLines(t, 1)
	mine := errors.New("mine")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(mine)
	assert.ErrorIs(t, all.process(ctx, goredis.NewCmd(ctx, "eval", "return 1", 0)), mine)
	assert.Zero(t, all.used)
	assert.Empty(t, all.free)
}

func TestCommandsThatAreSentTogether(t *testing.T) {
	all := newTestLines(t, 1)
	wait := func(cmd string) *waiter {
		w := newWaiter()
		if cmd != "" {
			w.cmd = goredis.NewCmd(t.Context(), cmd)
			w.size = sizeOf(w.cmd)
		}
		all.waiting = append(all.waiting, w)
		return w
	}
	a, b, alone, c, d := wait("12345"), wait("12345"), wait(""), wait("1"), wait("12345")
	assert.Empty(t, all.takeCommands(0))
	assert.Equal(t, []*waiter{a, c}, all.takeCommands(9))
	assert.Equal(t, []*waiter{b, d}, all.takeCommands(100))
	assert.Equal(t, []*waiter{alone}, all.waiting)
	assert.Equal(t, 7, sizeOf(goredis.NewCmd(t.Context(), "eval", []byte("xyz"), 7)))
}

// go-redis gives the commands of a pipeline no error if it finds no connection.
func TestCommandsThatAreNotSentHaveFailed(t *testing.T) {
	all := newLines(goredis.NewClient(&goredis.Options{Addr: durabletest.RefusedAddress(t), MaxRetries: 1}), 1)
	defer all.client.Close()
	_, release := all.take(t, t.Context())
	var group sync.WaitGroup
	for _, cmd := range []goredis.Cmder{
		goredis.NewCmd(t.Context(), "eval", "return 1", 0), goredis.NewCmd(t.Context(), "eval", "return 2", 0),
		goredis.NewIntCmd(t.Context(), "sadd", "a", "b"),
	} {
		group.Go(func() { assert.True(t, isAway(all.process(t.Context(), cmd)), "%v", cmd) })
	}
	all.awaitWaiting(3)
	release()
	group.Wait()
}

// pipelines notes how many commands each pipeline has.
type pipelines struct{ sizes []int }

func (*pipelines) DialHook(next goredis.DialHook) goredis.DialHook          { return next }
func (*pipelines) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook { return next }

func (p *pipelines) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		p.sizes = append(p.sizes, len(cmds))
		return next(ctx, cmds)
	}
}

// newRedisLines returns lines to a server.
func newRedisLines(t *testing.T, most int) *lines {
	opt, err := goredis.ParseURL(durabletest.Redis(t).Address())
	require.NoError(t, err)
	all := newLines(goredis.NewClient(opt), most)
	t.Cleanup(func() { all.client.Close() })
	return all
}

// echo has a script return a text. It reports false if the script failed.
func (all *lines) echo(ctx context.Context, t *testing.T, text string) bool {
	cmd := goredis.NewCmd(ctx, "eval", "return ARGV[1]", 0, text)
	if err := all.process(ctx, cmd); err != nil {
		return false
	}
	return assert.Equal(t, text, cmd.Val())
}

func TestACallerSendsTheCommandsOfOthers(t *testing.T) {
	all, seen := newRedisLines(t, 1), new(pipelines)
	all.client.AddHook(seen)
	_, release := all.take(t, t.Context())
	const callers = 10
	set := rand.Text()
	var group sync.WaitGroup
	for n := range callers {
		group.Go(func() {
			if n%2 == 0 {
				assert.True(t, all.echo(t.Context(), t, strconv.Itoa(n)))
				return
			}
			cmd := goredis.NewIntCmd(t.Context(), "sadd", set, n)
			assert.NoError(t, all.process(t.Context(), cmd))
			assert.EqualValues(t, 1, cmd.Val())
		})
	}
	all.awaitWaiting(callers)
	release()
	group.Wait()
	assert.Contains(t, seen.sizes, callers, "beside what sets a connection up")
	assert.NoError(t, all.client.Del(t.Context(), set).Err())
}

// A command fails with the caller that sends it once at most.
func TestACommandWhoseSenderLeaves(t *testing.T) {
	all := newRedisLines(t, 1)
	admin := goredis.NewClient(all.client.Options())
	defer admin.Close()
	require.True(t, all.echo(t.Context(), t, "connected"))
	require.NoError(t, admin.Do(t.Context(), "client", "pause", time.Minute.Milliseconds(), "write").Err()) // and scripts
	defer admin.Do(t.Context(), "client", "unpause")
	_, release := all.take(t, t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { assert.False(t, all.echo(ctx, t, "leaves")) })
	all.awaitWaiting(1)
	for n := range 10 {
		group.Go(func() { assert.True(t, all.echo(t.Context(), t, strconv.Itoa(n))) })
	}
	all.awaitWaiting(11)
	release()
	all.awaitWaiting(0) // the first caller has all commands
	cancel()
	all.awaitWaiting(9) // one of the others has the line now, alone
	require.NoError(t, admin.Do(t.Context(), "client", "unpause").Err())
	group.Wait()
}

// Each command is answered to its own caller, and no line is lost, whenever callers leave. Those
// that stay do not fail.
func TestCallersThatLeaveAndCallersThatStay(t *testing.T) {
	all := newRedisLines(t, 2)
	var group sync.WaitGroup
	for n := range 32 {
		group.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				leaves := n%4 == 0
				if leaves {
					go cancel()
				}
				if n%8 == 1 {
					_, release := all.take(t, ctx)
					runtime.Gosched()
					release()
				}
				answered := all.echo(ctx, t, fmt.Sprint(n, " ", i))
				assert.True(t, answered || leaves)
				cancel()
			}
		})
	}
	group.Wait()
	assert.Zero(t, all.used)
	assert.Empty(t, all.waiting)
	assert.LessOrEqual(t, len(all.free), 2)
}

// A dialer may ignore its context.
func TestADialIsLeftWhenItsContextEnds(t *testing.T) {
	all := newTestLines(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	late, closed := make(chan net.Conn), make(chan struct{})
	dial := dialing{}.DialHook(func(context.Context, string, string) (net.Conn, error) {
		cancel()
		return <-late, nil
	})
	l, err := all.acquire(ctx, newWaiter())
	require.NoError(t, err)
	ctx, release := all.hold(ctx, l)
	defer release()
	_, err = dial(ctx, "tcp", "redis:6379")
	require.ErrorIs(t, err, context.Canceled)
	late <- closer{closed: closed}
	<-closed
}

type closer struct {
	net.Conn
	closed chan struct{}
}

func (c closer) Close() error {
	close(c.closed)
	return nil
}
