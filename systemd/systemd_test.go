package systemd

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is what systemd sees of a process, in a bubble of testing/synctest.
type manager struct {
	*testing.T
	reg  *tether.Registry
	stop context.CancelFunc
	done chan error // receives what Run returns

	mu   sync.Mutex
	sent []string // guarded by mu
}

// run runs a registry with a notifier until the test stops it. systemd has a watchdog of
// 20 s, and is asked for 30 s more.
func run(t *testing.T, reg tether.Config, cfg Config, n *notifier) *manager {
	t.Helper()
	reg.Logger = slog.New(slog.DiscardHandler)
	m := &manager{T: t, reg: tether.New(reg), done: make(chan error, 1)}
	server := Server(m.reg, cfg)
	*n = notifier{reg: m.reg, cfg: cfg, stopped: make(chan struct{}), watchdog: 20 * time.Second, send: m.send, seed: maphash.MakeSeed()}
	if n.cfg.Extend == 0 {
		n.cfg.Extend = defaultExtend
	}
	server.Serve = n.serve
	server.Stop = func(context.Context) error { close(n.stopped); return nil }
	ctx, stop := context.WithCancel(t.Context())
	m.stop = stop
	go func() {
		m.done <- m.reg.Run(ctx, tether.RunConfig{
			LastServers: []tether.Server{server}, Signals: []os.Signal{}, StopTimeout: time.Hour,
		})
	}()
	synctest.Wait()
	return m
}

func (m *manager) send(state string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent = append(m.sent, state)
	return nil
}

// gets checks what systemd has got since the last call.
func (m *manager) gets(want ...string) {
	m.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.Equal(m, want, m.sent)
	m.sent = nil
}

func (m *manager) start(fn tether.Func, opts ...tether.Option) *tether.Task {
	m.Helper()
	t, err := m.reg.Go(context.Background(), "task", fn, opts...)
	require.NoError(m, err)
	return t
}

const (
	alive  = "WATCHDOG=1"
	more   = "\nEXTEND_TIMEOUT_USEC=30000000"
	none   = "STATUS=stopping: 0 tasks left"
	one    = "STATUS=stopping: 1 task left"
	two    = "STATUS=stopping: 2 tasks left"
	stops  = "STOPPING=1\n"
	starts = "READY=1"
)

func TestServer(t *testing.T) {
	bubble := func(name string, f func(t *testing.T)) {
		t.Helper()
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	bubble("the start, the watchdog, the stop", func(t *testing.T) {
		m := run(t, tether.Config{}, Config{}, new(notifier))
		m.gets(starts)
		time.Sleep(30 * time.Second)
		m.gets(alive, alive, alive)
		m.stop()
		m.gets(stops + none + more)
		assert.NoError(t, <-m.done)
		m.gets()
	})
	bubble("it is asked for more time while there is progress", func(t *testing.T) {
		m := run(t, tether.Config{}, Config{}, &notifier{})
		for _, d := range []time.Duration{15 * time.Second, 10 * time.Minute} {
			m.start(func(context.Context) error { time.Sleep(d); return nil })
		}
		reports := m.start(func(ctx context.Context) error {
			time.Sleep(35 * time.Second)
			tether.ReportProgress(ctx, tether.Progress{Done: 1})
			time.Sleep(time.Second)
			return nil
		}, tether.Timeout(time.Hour))
		time.Sleep(time.Second)
		m.stop()
		m.gets(starts, stops+"STATUS=stopping: 3 tasks left"+more)
		time.Sleep(10*time.Second - time.Nanosecond)
		m.gets(alive) // after 10 s
		time.Sleep(time.Nanosecond)
		m.gets("STATUS=stopping: 3 tasks left") // nothing has happened
		time.Sleep(10 * time.Second)
		m.gets(alive, two+more) // a task has ended
		time.Sleep(20 * time.Second)
		m.gets(alive, two, alive, one+more)
		assert.True(t, reports.State().Final())
		time.Sleep(10 * time.Second)
		m.gets(alive, one)
		m.reg.Tasks()(func(t *tether.Task) bool { t.Cancel(nil); return true })
		time.Sleep(10 * time.Minute)
		assert.NoError(t, <-m.done)
	})
	bubble("progress of any kind", func(t *testing.T) {
		attempts := make(chan struct{})
		m := run(t, tether.Config{}, Config{}, new(notifier))
		progress := make(chan int64)
		m.start(func(ctx context.Context) error {
			for n := range progress {
				tether.ReportProgress(ctx, tether.Progress{Done: n})
			}
			return nil
		})
		m.start(func(ctx context.Context) error {
			<-attempts
			return errors.New("again")
		}, tether.Retry(tether.RetryPolicy{Attempts: 3, Backoff: func(int, error) time.Duration { return 0 }}))
		time.Sleep(time.Second) // or two tickers would be due at the same time
		m.stop()
		m.gets(starts, stops+two+more)
		for range 2 { // each extension needs something new
			progress <- 5
			time.Sleep(10 * time.Second)
		}
		m.gets(alive, two+more, alive, two)
		attempts <- struct{}{}
		time.Sleep(10 * time.Second)
		m.gets(alive, two+more)
		close(attempts)
		close(progress)
		assert.NoError(t, <-m.done)
	})
	bubble("no watchdog while a task is stuck", func(t *testing.T) {
		m := run(t, tether.Config{StuckAfter: time.Minute}, Config{}, new(notifier))
		end := make(chan struct{})
		task := m.start(func(context.Context) error { <-end; return nil })
		time.Sleep(55 * time.Second)
		m.gets(starts, alive, alive, alive, alive, alive)
		time.Sleep(10 * time.Minute)
		require.NotEmpty(t, task.Info().Stuck)
		m.mu.Lock()
		assert.LessOrEqual(t, len(m.sent), 1, "the report comes up to 3.75 s late")
		m.sent = nil
		m.mu.Unlock()
		close(end)
		time.Sleep(10 * time.Second)
		m.gets(alive)
		m.stop()
		assert.NoError(t, <-m.done)
	})
	bubble("without an extension", func(t *testing.T) {
		m := run(t, tether.Config{}, Config{Extend: -1}, new(notifier))
		m.start(func(context.Context) error { time.Sleep(65 * time.Second); return nil })
		m.stop()
		m.gets(starts, stops+one)
		assert.NoError(t, <-m.done)
		m.gets(alive, alive, alive, alive, alive, alive)
	})
	for name, test := range map[string]struct {
		ready func(context.Context) error
		err   string
	}{
		"an error":  {func(context.Context) error { return errors.New("no licence") }, `tether: serving last server "systemd": systemd: Ready: no licence`},
		"a panic":   {func(context.Context) error { panic("no licence") }, `tether: serving last server "systemd": systemd: Ready: `},
		"a Goexit":  {func(context.Context) error { runtime.Goexit(); return nil }, `tether: serving last server "systemd": systemd: Ready: tether: the function ended`},
		"a success": {func(context.Context) error { time.Sleep(5 * time.Second); return nil }, ""},
	} {
		bubble("Ready returns "+name, func(t *testing.T) {
			m := run(t, tether.Config{}, Config{Ready: test.ready}, new(notifier))
			if test.err != "" {
				assert.ErrorContains(t, <-m.done, test.err)
				return
			}
			m.gets()
			time.Sleep(5 * time.Second)
			m.gets(starts)
			m.stop()
			assert.NoError(t, <-m.done)
		})
	}
	bubble("the stop begins before Ready returns", func(t *testing.T) {
		m := run(t, tether.Config{}, Config{Ready: func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second); return ctx.Err() }}, new(notifier))
		m.start(func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		m.stop()
		assert.NoError(t, <-m.done)
		m.gets(stops + one + more)
	})
	bubble("messages that are lost", func(t *testing.T) {
		var log strings.Builder
		n := new(notifier)
		m := run(t, tether.Config{}, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, n)
		m.stop()
		require.NoError(t, <-m.done)
		n.send = func(string) error { return errors.New("gone") }
		for range 3 {
			n.notify("STATUS=test")
		}
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(log.String(), "gone"), "it is logged once")
	})
}

// systemd is a datagram socket as systemd has it.
func systemd(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skip(err) // not on this system
	}
	t.Setenv("NOTIFY_SOCKET", name)
	return conn
}

// receive reads all messages, so that the queue is never full, and returns them one by one.
func receive(t *testing.T, conn *net.UnixConn) (received func() string) {
	messages := make(chan string, 10_000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buffer := make([]byte, 4096); ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			messages <- string(buffer[:n])
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return func() string {
		t.Helper()
		select {
		case m := <-messages:
			return m
		case <-time.After(time.Minute): // a guard against hanging
			require.FailNow(t, "no message")
			return ""
		}
	}
}

// socketName returns the name of a socket, which must be short.
func socketName(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// The same on a real socket, as a process sees it.
func TestServer_Socket(t *testing.T) {
	for _, abstract := range []bool{false, true} {
		t.Run(fmt.Sprintf("abstract: %v", abstract), func(t *testing.T) {
			name := socketName(t)
			if abstract {
				if runtime.GOOS != "linux" {
					t.Skip("only Linux has abstract names")
				}
				name = "@" + name
			}
			received := receive(t, systemd(t, name))
			t.Setenv("WATCHDOG_USEC", "100000")
			t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			end := make(chan struct{})
			_, err := reg.Go(context.Background(), "task", func(context.Context) error { <-end; return nil })
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- reg.Run(ctx, tether.RunConfig{Signals: []os.Signal{}, LastServers: []tether.Server{Server(reg)}})
			}()
			assert.Equal(t, starts, received())
			assert.Equal(t, alive, received())
			assert.Equal(t, alive, received())
			stop()
			got := alive
			for got == alive {
				got = received()
			}
			assert.Equal(t, stops+one+more, got)
			assert.Equal(t, alive, received())
			close(end)
			assert.NoError(t, <-done)
			sent, err := Notify("STATUS=the process goes on")
			assert.True(t, sent)
			assert.NoError(t, err)
			for got = alive; got == alive; {
				got = received()
			}
			assert.Equal(t, "STATUS=the process goes on", got)
		})
	}
}

func TestConfigure(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for name, test := range map[string]struct {
		socket, usec, pid string
		watchdog          time.Duration
		logged            string
	}{
		"no systemd":            {usec: "1000", pid: pid},
		"no watchdog":           {socket: "/s"},
		"a watchdog":            {socket: "/s", usec: "30000000", pid: pid, watchdog: 30 * time.Second},
		"of any process":        {socket: "/s", usec: "1000", watchdog: time.Millisecond},
		"that of a parent":      {socket: "/s", usec: "1000", pid: "1"},
		"that is no number":     {socket: "/s", usec: "soon", pid: pid, logged: "soon"},
		"that is zero":          {socket: "/s", usec: "0", pid: pid, logged: "WATCHDOG_USEC"},
		"that is far too large": {socket: "/s", usec: "9223372036854775807", pid: pid, logged: "WATCHDOG_USEC"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", test.socket)
			t.Setenv("WATCHDOG_USEC", test.usec)
			t.Setenv("WATCHDOG_PID", test.pid)
			logged := make(chan string, 1)
			n := &notifier{cfg: Config{Logger: slog.New(logTo{slog.DiscardHandler, logged})}}
			n.configure()
			assert.Equal(t, test.socket != "", n.send != nil)
			assert.Equal(t, test.watchdog, n.watchdog)
			if test.logged != "" {
				assert.Contains(t, <-logged, test.logged)
			}
		})
	}
}

// logTo is a log handler that sends the text of a record's attributes.
type logTo struct {
	slog.Handler
	to chan string
}

func (l logTo) Enabled(context.Context, slog.Level) bool { return true }

func (l logTo) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { l.to <- a.String(); return true })
	return nil
}

func TestNotify(t *testing.T) {
	t.Run("without systemd", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", "")
		sent, err := Notify("READY=1")
		assert.False(t, sent)
		assert.NoError(t, err)
	})
	for name, socket := range map[string]string{"vsock": "vsock:2:1234", "a relative path": "socket", "a socket that is not there": "/nonexistent/socket"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", socket)
			sent, err := Notify("READY=1")
			assert.True(t, sent)
			assert.ErrorContains(t, err, "systemd: ")
		})
	}
	t.Run("a systemd that does not read", func(t *testing.T) {
		name := socketName(t)
		conn := systemd(t, name)
		defer func() { _ = conn.Close() }()
		for range 100_000 { // more than a queue holds
			if err := send(name, strings.Repeat("x", 1000), time.Millisecond); err != nil {
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				return
			}
		}
		assert.Fail(t, "the queue has no end")
	})
}

func TestServer_Misuse(t *testing.T) {
	reg := tether.New(tether.Config{})
	assert.Panics(t, func() { Server(nil) })
	assert.Panics(t, func() { Server(reg, Config{}, Config{}) })
	require.NoError(t, reg.Shutdown(t.Context()))
}

// Without systemd the server does nothing until it is stopped.
func TestServer_WithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	server := Server(reg)
	assert.True(t, server.Quiet(time.Now()), "it does not hold up PreStop")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	assert.NoError(t, reg.Run(ctx, tether.RunConfig{Signals: []os.Signal{}, LastServers: []tether.Server{server}}))
	assert.NoError(t, server.Stop(t.Context()), "it may be stopped twice")
}
