package redis

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	goredis "github.com/redis/go-redis/v9"
)

// go-redis cannot be interrupted while it waits for an answer. A goroutine for each command
// that the caller can leave makes an Enqueue take twice the time. So the engine keeps
// connections of its own for the commands of Enqueue, and knows the socket of each: when the
// context of a caller ends, the socket of its connection is closed.
//
// A few connections are enough. While they are in use, other callers wait, and the one that is
// given the next connection sends the commands of others together with its own. If its context
// ends meanwhile, these fail with its socket, and each is sent again by its own caller, which
// then waits for a connection of its own: other callers make a command fail once.

const (
	linesInUse = 2        // at most, unless callers wait for replicas
	batchBytes = 64 << 10 // of commands that are sent together
)

// lines has the connections for Enqueue.
type lines struct {
	client *goredis.Client // only used through lines
	most   int             // lines that may be in use

	mu      sync.Mutex
	free    []*line   // the one used last is last; guarded by mu
	used    int       // lines in use; guarded by mu
	waiting []*waiter // oldest first; empty unless used is most; guarded by mu
}

// line is a connection for one caller at a time.
type line struct {
	client *goredis.Client
	conn   *goredis.Conn // stays on one connection, and is useless once that has failed

	mu     sync.Mutex
	use    uint64   // the number of the present use; guarded by mu
	cut    bool     // the context of that use has ended; guarded by mu
	socket net.Conn // guarded by mu
}

// waiter is a caller that needs a line.
type waiter struct {
	cmd  goredis.Cmder // another caller may send it; nil if the caller needs a line of its own
	size int           // of cmd's arguments, in bytes
	// turn is sent the line, or nil when another caller has sent cmd. What takes the waiter
	// off the list sends, once, so a send does not block.
	turn chan *line
	left bool // the context of the caller that has sent cmd has ended; written before the send
}

func newWaiter() *waiter { return &waiter{turn: make(chan *line, 1)} }

func newLines(client *goredis.Client, most int) *lines {
	client.AddHook(dialing{})
	return &lines{client: client, most: max(1, min(most, client.Options().PoolSize))}
}

type (
	linesKey struct{} // the key of the lines by which the commands of a context go
	lineKey  struct{} // the key of the line by which a command goes
)

func linesOf(ctx context.Context) *lines {
	all, _ := ctx.Value(linesKey{}).(*lines)
	return all
}

func lineOf(ctx context.Context) *line {
	l, _ := ctx.Value(lineKey{}).(*line)
	return l
}

// process sends a command, possibly together with those of other callers. When ctx ends, it
// fails at once.
func (all *lines) process(ctx context.Context, cmd goredis.Cmder) error {
	w := newWaiter()
	var answer func()
	w.cmd, answer = copyOf(ctx, cmd) // since this caller may leave while another one sends it
	w.size = sizeOf(cmd)
	l, err := all.acquire(ctx, w)
	if err == nil && l == nil {
		if err = w.cmd.Err(); err == nil || !w.left {
			answer()
			return err
		}
		l, err = all.acquire(ctx, newWaiter())
	}
	if err != nil {
		return err
	}
	inner, release := all.hold(ctx, l)
	defer release()
	others := all.takeCommands(batchBytes - w.size)
	if len(others) == 0 {
		_ = l.conn.Process(inner, cmd)
		l.check(cmd)
		return cmd.Err()
	}
	defer func() {
		for _, other := range others {
			other.left = ctx.Err() != nil
			other.turn <- nil
		}
	}()
	l.pipelined(inner, func(p goredis.Pipeliner) {
		for _, other := range others {
			_ = p.Process(inner, other.cmd)
		}
		_ = p.Process(inner, cmd)
	})
	return cmd.Err()
}

// copyOf returns a copy of a command, and what gives the command the answer to the copy. The
// copy is nil if the command is none that Enqueue sends.
func copyOf(ctx context.Context, cmd goredis.Cmder) (copied goredis.Cmder, answer func()) {
	switch cmd := cmd.(type) {
	case *goredis.Cmd:
		copied := goredis.NewCmd(ctx, cmd.Args()...)
		return copied, func() { cmd.SetVal(copied.Val()) }
	case *goredis.IntCmd:
		copied := goredis.NewIntCmd(ctx, cmd.Args()...)
		return copied, func() { cmd.SetVal(copied.Val()) }
	}
	return nil, nil
}

// acquire waits for a line, which must be held then. The line is nil if another caller has sent
// the command of w.
func (all *lines) acquire(ctx context.Context, w *waiter) (*line, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	all.mu.Lock()
	if all.used < all.most {
		defer all.mu.Unlock()
		all.used++
		last := len(all.free) - 1
		if last < 0 {
			return &line{client: all.client, conn: all.client.Conn()}, nil
		}
		l := all.free[last]
		all.free = all.free[:last]
		return l, nil
	}
	all.waiting = append(all.waiting, w)
	all.mu.Unlock()
	var l *line
	came := true // the turn
	select {
	case l = <-w.turn:
	case <-ctx.Done():
		all.mu.Lock()
		if i := slices.Index(all.waiting, w); i >= 0 {
			all.waiting = slices.Delete(all.waiting, i, i+1)
		}
		all.mu.Unlock()
		select {
		case l = <-w.turn:
		default: // w was on the list, or another caller is sending its command
			came = false
		}
	}
	switch {
	case came && l == nil:
		return nil, nil
	case came && ctx.Err() == nil:
		return l, nil
	case came:
		all.pass(l)
	}
	return nil, context.Cause(ctx)
}

// pass gives a line that is in use to the caller that has waited longest, if there is one.
func (all *lines) pass(l *line) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.waiting) > 0 {
		all.waiting[0].turn <- l
		all.waiting = slices.Delete(all.waiting, 0, 1)
		return
	}
	all.used--
	all.free = append(all.free, l)
}

// takeCommands takes the waiters with commands that a caller with a line sends beside its own, the
// oldest first. Their commands have no more than size bytes.
func (all *lines) takeCommands(size int) (taken []*waiter) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.waiting = slices.DeleteFunc(all.waiting, func(w *waiter) bool {
		if w.cmd == nil || w.size > size {
			return false
		}
		size -= w.size
		taken = append(taken, w)
		return true
	})
	return taken
}

// hold begins the use of a line. Until release is called, the end of ctx makes the line's
// commands fail; they must be sent with the inner context.
func (all *lines) hold(ctx context.Context, l *line) (inner context.Context, release func()) {
	l.mu.Lock()
	use := l.use
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.interrupt(use) })
	return context.WithValue(ctx, lineKey{}, l), func() {
		stop()
		if l.endUse() {
			l.renew()
		}
		all.pass(l)
	}
}

// sizeOf returns how many bytes the arguments of a command have, numbers not included.
func sizeOf(cmd goredis.Cmder) (n int) {
	for _, arg := range cmd.Args() {
		switch arg := arg.(type) {
		case string:
			n += len(arg)
		case []byte:
			n += len(arg)
		}
	}
	return n
}

// pipelined sends the commands that f adds to a pipeline.
func (l *line) pipelined(ctx context.Context, f func(goredis.Pipeliner)) {
	l.check(pipelined(ctx, l.conn.Pipelined, f)...)
}

// check prepares the line for another connection if the present one has failed.
func (l *line) check(cmds ...goredis.Cmder) {
	if slices.ContainsFunc(cmds, func(cmd goredis.Cmder) bool { return isAway(cmd.Err()) }) {
		l.renew()
	}
}

var errUnsent = errors.New("the command was not sent")

// pipelined sends the commands that f adds to a pipeline, by the method of a client, and returns
// them. Each has an error unless it was answered: go-redis gives them none if it finds no
// connection, and neither may a hook.
func pipelined(ctx context.Context, send func(context.Context, func(goredis.Pipeliner) error) ([]goredis.Cmder, error), f func(goredis.Pipeliner)) []goredis.Cmder {
	cmds, err := send(ctx, func(p goredis.Pipeliner) error {
		f(p)
		for _, cmd := range p.Cmds() {
			cmd.SetErr(errUnsent) // until it is answered
		}
		return nil
	})
	for _, cmd := range cmds {
		if err != nil && cmd.Err() == errUnsent {
			cmd.SetErr(err)
		}
	}
	return cmds
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

// interrupt closes the socket of a use. The use may have ended meanwhile.
func (l *line) interrupt(use uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.use != use {
		return
	}
	l.cut = true
	if l.socket != nil {
		l.socket.Close()
	}
}

// endUse ends a use, and reports whether it was interrupted.
func (l *line) endUse() (cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cut = l.cut
	l.use, l.cut = l.use+1, false
	return cut
}

// connected notes the socket of a line, and reports false if its use was interrupted.
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
