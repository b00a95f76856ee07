package redis

import (
	"context"
	"net"
	"sync"

	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"
)

// go-redis cannot be interrupted while it waits for an answer. A goroutine for each command
// that the caller can leave makes an Enqueue take twice the time. So the engine keeps
// connections of its own for the commands of Enqueue, and knows the socket of each: when the
// context of a caller ends, its socket is closed.

// lines has the connections for Enqueue.
type lines struct {
	client *goredis.Client // only used through lines
	places *semaphore.Weighted

	mu   sync.Mutex
	free []*line // the one used last is last; guarded by mu
}

// line is a connection for one call at a time.
type line struct {
	client *goredis.Client
	conn   *goredis.Conn // stays on one connection, and is useless once that has failed

	mu     sync.Mutex
	call   uint64   // the number of the call that uses the line; guarded by mu
	cut    bool     // the context of that call has ended; guarded by mu
	socket net.Conn // guarded by mu
}

func newLines(client *goredis.Client) *lines {
	client.AddHook(dialing{})
	return &lines{client: client, places: semaphore.NewWeighted(int64(max(1, client.Options().PoolSize)))}
}

// lineKey is the key of the line in the context of a command.
type lineKey struct{}

func lineOf(ctx context.Context) *line {
	l, _ := ctx.Value(lineKey{}).(*line)
	return l
}

// with calls f with a context whose commands go through a line. When ctx ends, f's command
// fails at once.
func (all *lines) with(ctx context.Context, f func(context.Context) error) error {
	if err := all.places.Acquire(ctx, 1); err != nil {
		return err
	}
	defer all.places.Release(1)
	l := all.take()
	l.mu.Lock()
	call := l.call
	l.mu.Unlock()
	defer func() {
		if l.release() {
			l.renew()
		}
		all.mu.Lock()
		all.free = append(all.free, l)
		all.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, func() { l.interrupt(call) })()
	return f(context.WithValue(ctx, lineKey{}, l))
}

func (all *lines) take() *line {
	all.mu.Lock()
	defer all.mu.Unlock()
	last := len(all.free) - 1
	if last < 0 {
		return &line{client: all.client, conn: all.client.Conn()}
	}
	l := all.free[last]
	all.free = all.free[:last]
	return l
}

// process sends a command, and prepares the line for another connection if this one failed.
func (l *line) process(ctx context.Context, cmd goredis.Cmder) error {
	err := l.conn.Process(ctx, cmd)
	if isAway(err) {
		l.renew()
	}
	return err
}

// renew has the next command make a new connection.
func (l *line) renew() {
	l.mu.Lock()
	if l.socket != nil {
		l.socket.Close() // so that go-redis does not use it for another line
		l.socket = nil
	}
	l.mu.Unlock()
	_ = l.conn.Close()
	l.conn = l.client.Conn()
}

// interrupt closes the socket of a call. The call may have ended meanwhile.
func (l *line) interrupt(call uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.call != call {
		return
	}
	l.cut = true
	if l.socket != nil {
		l.socket.Close()
	}
}

// release ends a call, and reports whether it was interrupted.
func (l *line) release() (cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cut = l.cut
	l.call, l.cut = l.call+1, false
	return cut
}

// connected notes the socket of a line, and reports false if the call was interrupted.
func (l *line) connected(socket net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.socket = socket
	return true
}

// dialing is a hook of go-redis that tells a line of its socket. A dialer may ignore its
// context, as that of TLS does, so it is left when the context ends.
type dialing struct{}

func (dialing) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook { return next }

func (dialing) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (dialing) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		l := lineOf(ctx)
		if l == nil {
			return next(ctx, network, addr)
		}
		type dialed struct {
			socket net.Conn
			err    error
		}
		done := make(chan dialed, 1)
		go func() {
			socket, err := next(ctx, network, addr)
			done <- dialed{socket, err}
		}()
		select {
		case d := <-done:
			if d.err == nil && !l.connected(d.socket) {
				d.socket.Close()
				return nil, context.Cause(ctx)
			}
			return d.socket, d.err
		case <-ctx.Done():
			go func() {
				if d := <-done; d.err == nil {
					d.socket.Close()
				}
			}()
			return nil, ctx.Err()
		}
	}
}
