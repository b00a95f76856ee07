// Package systemd tells systemd how a process with a [tether.Registry] does: that it has
// started, that it is stopping and still makes progress, and that it is not stuck. It speaks
// the protocol of sd_notify(3), with the standard library alone:
// https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
//
//	err := reg.Run(ctx, tether.RunConfig{
//		Servers:     []tether.Server{public},
//		LastServers: []tether.Server{systemd.Server(reg)}, // it serves until everything else has ended
//	})
//
// with a unit such as
//
//	[Service]
//	Type=notify
//	WatchdogSec=30
//	TimeoutStopSec=35
//	Restart=on-failure
//
// Without systemd, or with a unit of another Type, it does nothing.
package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Config configures [Server]. The zero value is ready to use.
type Config struct {
	// Ready, if non-nil, returns when the service can be used, and READY=1 is sent then. If
	// it returns an error, the process stops. Its context is done when the stop begins. If
	// nil, READY=1 is sent when Run starts the servers: call net.Listen before Run, so that
	// connections are accepted by then.
	Ready func(ctx context.Context) error

	// Extend is how long systemd is asked to wait for the next message during the stop, if
	// TimeoutStopSec has passed by then (EXTEND_TIMEOUT_USEC). It matters only if
	// [tether.RunConfig].StopTimeout is longer than TimeoutStopSec. Zero means 30 s. If it is
	// negative, no extension is asked for.
	Extend time.Duration

	// Logger is for messages that cannot be sent, of which the first is logged. If nil,
	// slog.Default is used.
	Logger *slog.Logger
}

const (
	defaultExtend = 30 * time.Second
	sendTimeout   = time.Second
)

// Server returns a [tether.Server] for the LastServers of [tether.RunConfig]. It serves until
// everything else has ended, and sends
//
//   - READY=1 when Run has started the servers, or [Config].Ready has returned;
//   - STOPPING=1 when [tether.Registry.Stopping] is closed;
//   - EXTEND_TIMEOUT_USEC with that, and again as long as tasks end, are admitted, begin
//     another attempt or report progress, every third of [Config].Extend. Once nothing of
//     this happens, systemd kills the process at TimeoutStopSec or when the last extension
//     has passed;
//   - STATUS with the number of tasks that are left, during the stop;
//   - WATCHDOG=1 twice in each WatchdogSec while no task is stuck. What is stuck is for
//     [tether.Config].StuckAfter to say: without it, the watchdog only notices a process
//     that does not run at all.
//
// The environment variables of sd_notify(3) and sd_watchdog_enabled(3) are read when Run
// starts the server. A message that systemd does not take within a second is dropped.
//
// Server panics if reg is nil, which is a programming error.
func Server(reg *tether.Registry, cfg ...Config) tether.Server {
	if reg == nil {
		panic("systemd: Server needs a registry")
	}
	if len(cfg) > 1 {
		panic("systemd: Server takes one configuration at most")
	}
	n := &notifier{reg: reg, stopped: make(chan struct{}), seed: maphash.MakeSeed()}
	if len(cfg) == 1 {
		n.cfg = cfg[0]
	}
	n.cfg.Extend = cmp.Or(n.cfg.Extend, defaultExtend)
	return tether.Server{
		Name: "systemd",
		Serve: func() error {
			n.configure()
			return n.serve()
		},
		Stop:  func(context.Context) error { n.stopOnce.Do(func() { close(n.stopped) }); return nil },
		Quiet: func(time.Time) bool { return true },
	}
}

// Notify sends a message to systemd, such as "STATUS=loading the cache" or "RELOADING=1" with
// its MONOTONIC_USEC. It reports whether there is a systemd to send it to, as $NOTIFY_SOCKET
// says. It blocks for a second at most.
func Notify(state string) (sent bool, err error) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return false, nil
	}
	return true, send(socket, state, sendTimeout)
}

// send sends a message to a socket, the name of which may be abstract ("@…").
func send(socket, state string, timeout time.Duration) error {
	if socket[0] != '/' && socket[0] != '@' {
		return fmt.Errorf("systemd: $NOTIFY_SOCKET %q is not supported", socket)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(timeout))
	if err == nil {
		_, err = conn.Write([]byte(state))
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}

// notifier is the server.
type notifier struct {
	reg      *tether.Registry
	cfg      Config // with its defaults
	stopped  chan struct{}
	stopOnce sync.Once // closes stopped
	logOnce  sync.Once
	seed     maphash.Seed

	send     func(state string) error // nil without systemd; set by configure
	watchdog time.Duration            // of the unit; zero if it has none; set by configure

	last uint64 // the work of the last extension; used by serve only
}

// configure reads the environment.
func (n *notifier) configure() {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	n.send = func(state string) error { return send(socket, state, sendTimeout) }
	usec := os.Getenv("WATCHDOG_USEC")
	if pid := os.Getenv("WATCHDOG_PID"); usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return // there is none, or it is that of a parent
	}
	const most = int64(1<<63-1) / int64(time.Microsecond)
	v, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || v <= 0 || v > most {
		n.log(fmt.Errorf("systemd: $WATCHDOG_USEC %q is invalid", usec))
		return
	}
	n.watchdog = time.Duration(v) * time.Microsecond
}

// serve is the Serve of the server.
func (n *notifier) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready := n.awaitReady(ctx)
	stopping := n.reg.Stopping()
	watchdog, stopWatchdog := every(n.watchdog / 2)
	defer stopWatchdog()
	extend, stopExtend := every(0)
	defer func() { stopExtend() }()
	for {
		select {
		case <-n.stopped:
			if stopping != nil { // the stop took no time
				n.notify(n.stopState())
			}
			return nil
		case err := <-ready:
			ready = nil
			switch {
			case stopping == nil: // too late
			case err != nil:
				return fmt.Errorf("systemd: Ready: %w", err)
			default:
				n.notify("READY=1")
			}
		case <-stopping:
			stopping = nil
			cancel()
			n.last = n.work()
			n.notify(n.stopState())
			extend, stopExtend = every(max(n.cfg.Extend, 0) / 3)
		case <-extend:
			state := n.status()
			if now := n.work(); now != n.last {
				n.last = now
				state += n.extension()
			}
			n.notify(state)
		case <-watchdog:
			if !n.stuck() {
				n.notify("WATCHDOG=1")
			}
		}
	}
}

// every returns the channel of a ticker, nil if there is nothing to do.
func every(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(d)
	return t.C, t.Stop
}

// awaitReady calls Ready in a goroutine of its own, since it may not return, and returns the
// channel of its result.
func (n *notifier) awaitReady(ctx context.Context) <-chan error {
	result := make(chan error, 1)
	if n.cfg.Ready == nil {
		result <- nil
		return result
	}
	go func() {
		err := tether.ErrGoexit // unless Ready returns
		defer func() {
			if v := recover(); v != nil {
				err = &tether.PanicError{Value: v, Stack: debug.Stack(), In: "Ready of systemd"}
			}
			result <- err
		}()
		err = n.cfg.Ready(ctx)
	}()
	return result
}

// work returns a number that changes when the registry's tasks make progress.
func (n *notifier) work() uint64 {
	s := n.reg.Stats()
	sum := s.Submitted + s.Succeeded + s.Failed + s.Panicked + s.Canceled + s.Dropped
	for t := range n.reg.Tasks() {
		info := t.Info()
		sum += maphash.Comparable(n.seed, struct {
			id       string
			state    tether.State
			attempt  int
			progress tether.Progress
		}{info.ID, info.State, info.Attempt, info.Progress})
	}
	return sum
}

// stuck reports whether a task is stuck.
func (n *notifier) stuck() bool {
	for t := range n.reg.Tasks() {
		if info := t.Info(); !info.State.Final() && len(info.Stuck) > 0 {
			return true
		}
	}
	return false
}

func (n *notifier) stopState() string { return "STOPPING=1\n" + n.status() + n.extension() }

func (n *notifier) status() string {
	s := n.reg.Stats()
	left := s.Held + s.Queued + s.Running
	if left == 1 {
		return "STATUS=stopping: 1 task left"
	}
	return fmt.Sprintf("STATUS=stopping: %d tasks left", left)
}

func (n *notifier) extension() string {
	if n.cfg.Extend < 0 {
		return ""
	}
	return "\nEXTEND_TIMEOUT_USEC=" + strconv.FormatInt(n.cfg.Extend.Microseconds(), 10)
}

func (n *notifier) notify(state string) {
	if n.send == nil {
		return
	}
	if err := n.send(state); err != nil {
		n.log(err)
	}
}

// log logs the first error. The log handler may not return, so it is not waited for.
func (n *notifier) log(err error) {
	n.logOnce.Do(func() {
		logger := n.cfg.Logger
		if logger == nil {
			logger = slog.Default()
		}
		go logger.Warn("a message to systemd was lost", slog.Any("error", err))
	})
}
