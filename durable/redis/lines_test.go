package redis

import (
	"context"
	"errors"
	"net"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// socket notes that it was closed.
type socket struct {
	net.Conn
	closed bool
}

func (s *socket) Close() error {
	s.closed = true
	return nil
}

// newTestLines returns lines that connect nowhere.
func newTestLines(t *testing.T, places int) *lines {
	all := newLines(goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:1", PoolSize: places}))
	t.Cleanup(func() { all.client.Close() })
	return all
}

func TestACanceledCallClosesItsOwnSocketOnly(t *testing.T) {
	all := newTestLines(t, 2)
	first, second := new(socket), new(socket)
	ctx, cancel := context.WithCancel(context.Background())
	var used *line
	require.NoError(t, all.with(ctx, func(ctx context.Context) error {
		used = lineOf(ctx)
		require.True(t, used.connected(first))
		return nil
	}))
	require.NoError(t, all.with(context.Background(), func(next context.Context) error {
		require.Same(t, used, lineOf(next), "the line used last")
		cancel()          // by the first caller, whose call has ended
		used.interrupt(0) // as if the cancellation had been late
		assert.False(t, first.closed)
		return nil
	}))
	ctx, cancel = context.WithCancel(context.Background())
	interrupted := errors.New("interrupted")
	require.ErrorIs(t, all.with(ctx, func(ctx context.Context) error {
		require.Same(t, used, lineOf(ctx))
		cancel()
		used.interrupt(2) // which the cancellation does as well
		assert.True(t, first.closed)
		require.False(t, used.connected(second), "a connection that comes late")
		return interrupted
	}), interrupted)
	require.NoError(t, all.with(context.Background(), func(ctx context.Context) error {
		assert.True(t, lineOf(ctx).connected(second), "the next call")
		return nil
	}))
	assert.False(t, second.closed)
}

func TestACallWaitsForALineUntilItsContextEnds(t *testing.T) {
	all := newTestLines(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, all.with(context.Background(), func(context.Context) error {
		assert.ErrorIs(t, all.with(ctx, func(context.Context) error { return nil }), context.Canceled)
		return nil
	}))
	require.NoError(t, all.with(context.Background(), func(context.Context) error { return nil }))
}

// A dialer may ignore its context.
func TestADialIsLeftWhenItsContextEnds(t *testing.T) {
	all := newTestLines(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	late, closed := make(chan net.Conn), make(chan struct{})
	dial := dialing{}.DialHook(func(context.Context, string, string) (net.Conn, error) {
		cancel()
		return <-late, nil
	})
	require.ErrorIs(t, all.with(ctx, func(ctx context.Context) error {
		_, err := dial(ctx, "tcp", "redis:6379")
		return err
	}), context.Canceled)
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
