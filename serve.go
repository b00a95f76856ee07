package tether

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// RunConfig configures [Registry.Run]: what it serves, and how it stops.
//
// The whole stop takes at most StopTimeout, counted from the signal. With the default of
// 25 s, and [Config].CancelBefore at its default of 5 s:
//
//	 0 s        the signal: Ready is false, Stopping is closed
//	 0 s        PreStop, if it is set: the servers still serve
//	 0 – 17.5 s the Servers stop, all at once
//	      …     the drain begins when they have stopped: no new tasks
//	17.5 s      contexts of the tasks that are left are canceled
//	22.5 s      the drain's deadline: tasks that are left are reported
//	22.5 – 25 s the Closers, one after the other, and then the LastServers
//
// If the servers use all of their time, contexts are canceled halfway between the end of
// that time and the drain's deadline: after 20 s.
//
// A step that ends early leaves its time to the steps after it. A step that exceeds its
// time is abandoned, and named in the error that Run returns. Run returns at
// most one second after StopTimeout.
type RunConfig struct {
	// Servers start together when Run is called, and stop together when the stop
	// begins. The stop also begins if one of them returns on its own.
	Servers []Server

	// LastServers start together with Servers and serve until everything else has
	// ended. They are for the metrics and the live page, which show the drain.
	LastServers []Server

	// PreStop is how long the Servers keep serving after the signal, with Ready already
	// false, so that a load balancer can notice. Requests that it sends after that are
	// refused. It should be at least the period of its probe times the
	// failures after which it gives up, plus the time until all its nodes have heard of it;
	// in Kubernetes, where a pod that is deleted is taken out without a probe, the latter
	// alone, which is usually a few seconds. It ends early if [Server].Quiet of each of the
	// Servers allows it. It counts against StopTimeout, of which it must be at most half.
	// Zero means no wait.
	PreStop time.Duration

	// StopTimeout bounds the whole stop, from the signal until Run returns. It should be
	// shorter than the time after which the process is killed:
	// terminationGracePeriodSeconds in Kubernetes (30 s by default), TimeoutStopSec in
	// systemd (90 s by default). Zero means 25 s.
	StopTimeout time.Duration

	// CloseTimeout is the last part of StopTimeout, reserved for the Closers and the
	// LastServers, so that telemetry can be flushed even if a task has not ended. It
	// must be at most half of StopTimeout. Zero means a tenth of StopTimeout, but at
	// most 10 s.
	CloseTimeout time.Duration

	// Closers close databases, brokers and telemetry. They are called one after the
	// other once the drain has ended, even if it timed out. The remaining time is shared
	// equally, so that each is called with a context that is not done, whatever the
	// earlier ones did.
	Closers []Closer

	// Signals are the signals that begin the stop. If nil, they are SIGTERM and SIGINT.
	// If non-nil and empty, no signal begins it.
	Signals []os.Signal
}

// A Server is started and stopped by [Registry.Run]: an HTTP or gRPC server, or a
// queue's consumer. Package tetherhttp makes one from an http.Server.
type Server struct {
	// Name is for errors and log records. If empty, the server's number in its list is
	// used.
	Name string

	// Serve serves until Stop is called, as http.Server.ListenAndServe does. If nil,
	// the server is taken to be serving already.
	Serve func() error

	// Stop makes Serve return once in-flight requests have been answered, as
	// http.Server.Shutdown does. It should return when ctx is done; if it does not,
	// Run continues without it. If nil, the server is not stopped.
	Stop func(ctx context.Context) error

	// Pending describes what Stop waits for, such as "3 open connections". Run calls
	// it for the log record about a slow stop. It may be nil.
	Pending func() string

	// Quiet reports whether the requests that came before the stop began have ceased, so
	// that the load balancer can be taken to have noticed. During PreStop, Run calls it ten
	// times a second, and ends PreStop once it has returned true for all of the Servers
	// that are left to stop. If nil, or if it panics or does not return, PreStop passes in
	// full. For a server that takes no requests, such as a queue's consumer, it should
	// return true.
	Quiet func(began time.Time) bool
}

// A Closer is called by [Registry.Run] after the drain.
type Closer struct {
	// Name is for errors and log records. If empty, the closer's number is used.
	Name string

	// Close should return when ctx is done; if it does not, Run continues without it.
	Close func(ctx context.Context) error
}

const (
	defaultStopTimeout = 25 * time.Second
	maxCloseTimeout    = 10 * time.Second // of the default

	slowStep       = 2 * time.Second        // a step that takes longer is logged
	sameSignal     = time.Second            // signals closer together than this are one
	lateReturn     = 100 * time.Millisecond // for a step to return after its context is done
	pendingTimeout = time.Second            // for a server's Pending
	quietPoll      = 100 * time.Millisecond // between calls of the servers' Quiet
	leastClosing   = 500 * time.Millisecond // for all closers, if their time is used up
	lastRecords    = 250 * time.Millisecond // for the log handler, once everything has ended
	reportTimeout  = time.Second            // for the report that a second signal prints
)

// Run starts the servers and serves until a signal arrives, ctx is done, or one of the
// servers returns. Then it stops, in this order:
//
//  1. [Registry.Ready] is false, and [Registry.Stopping] is closed: streams,
//     websockets and producers end now.
//  2. PreStop passes, or the servers are quiet.
//  3. The Servers stop, all at once.
//  4. The drain, as [Registry.Shutdown] describes it.
//  5. The Closers are called, one after the other.
//  6. The LastServers stop, all at once.
//
// See [RunConfig] for how StopTimeout is divided. No server, closer or task can skip
// a step or exceed its time: one that does not return in time is abandoned, a panic
// or runtime.Goexit in one is contained and logged with its stack. A step that takes
// longer than two seconds is logged with what it waits for.
//
// Run returns nil after a signal and a clean stop. Otherwise it returns all errors,
// joined, each prefixed with its step: `stopping server "public": context deadline
// exceeded`. An error that Serve returns while its server is being stopped is ignored; a
// panic is not. Run returns an [ErrInvalid] at once, and starts nothing, if cfg is
// invalid.
//
// A second signal, one second or more after the first, ends the process at once, with
// the drain's report on stderr and exit status 128 plus the signal's number: 143 for
// SIGTERM, 130 for SIGINT. Signals within a second of the first count as the same
// one, since a terminal and a parent process may both deliver it. If the stop began
// without a signal, the first signal is only logged.
func (r *Registry) Run(ctx context.Context, cfg RunConfig) error {
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	if ctx == nil {
		return fmt.Errorf("%w: nil context", ErrInvalid)
	}
	signals := make(chan os.Signal, 2)
	if len(cfg.Signals) > 0 { // without any, Notify would relay all signals
		signal.Notify(signals, cfg.Signals...)
		defer signal.Stop(signals)
	}
	s := &serving{reg: r, cfg: cfg, signals: signals, ended: make(chan *server, len(cfg.Servers)+len(cfg.LastServers))}
	s.servers = s.start("server", cfg.Servers)
	s.lastServers = s.start("last server", cfg.LastServers)
	signaled := s.wait(ctx)

	s.began = time.Now()
	s.ctx = context.WithoutCancel(ctx)
	r.drain.beginStop(r)
	finished := make(chan struct{})
	defer close(finished)
	go s.watchSignals(signaled, finished)
	return s.stop()
}

// setDefaults replaces the zero values of cfg, and returns what is wrong with it.
func (cfg *RunConfig) setDefaults() error {
	if cfg.Signals == nil {
		cfg.Signals = []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	}
	cfg.StopTimeout = cmp.Or(cfg.StopTimeout, defaultStopTimeout)
	cfg.CloseTimeout = cmp.Or(cfg.CloseTimeout, min(cfg.StopTimeout/10, maxCloseTimeout))
	switch {
	case cfg.StopTimeout < 0, cfg.CloseTimeout < 0, cfg.PreStop < 0:
		return fmt.Errorf("%w: RunConfig: negative duration", ErrInvalid)
	case cfg.PreStop > cfg.StopTimeout/2:
		return fmt.Errorf("%w: RunConfig: PreStop %v is more than half of StopTimeout %v", ErrInvalid, cfg.PreStop, cfg.StopTimeout)
	case cfg.CloseTimeout > cfg.StopTimeout/2:
		return fmt.Errorf("%w: RunConfig: CloseTimeout %v is more than half of StopTimeout %v", ErrInvalid, cfg.CloseTimeout, cfg.StopTimeout)
	}
	cfg.Servers, cfg.LastServers, cfg.Closers = slices.Clone(cfg.Servers), slices.Clone(cfg.LastServers), slices.Clone(cfg.Closers)
	for _, list := range [][]Server{cfg.Servers, cfg.LastServers} {
		for i := range list {
			list[i].Name = cmp.Or(list[i].Name, strconv.Itoa(i+1))
			if list[i].Serve == nil && list[i].Stop == nil {
				return fmt.Errorf("%w: RunConfig: server %q has neither Serve nor Stop", ErrInvalid, list[i].Name)
			}
		}
	}
	for i := range cfg.Closers {
		cfg.Closers[i].Name = cmp.Or(cfg.Closers[i].Name, strconv.Itoa(i+1))
		if cfg.Closers[i].Close == nil {
			return fmt.Errorf("%w: RunConfig: closer %q has no Close", ErrInvalid, cfg.Closers[i].Name)
		}
	}
	return nil
}

// serving is one call of Run.
type serving struct {
	reg         *Registry
	cfg         RunConfig // with its defaults
	signals     chan os.Signal
	servers     []*server
	lastServers []*server
	ended       chan *server // receives each server whose Serve has returned

	ctx   context.Context // has the values of Run's context and is never done
	began time.Time       // when the stop began
	errs  []error
}

// server is a Server that was started.
type server struct {
	Server
	label    string        // `server "public"`
	done     chan struct{} // closed when Serve has returned; nil if there is no Serve
	err      error         // what Serve returned; written before done is closed
	crashed  bool          // Serve has panicked or ended its goroutine; written before done is closed
	reported bool          // err is in errs; used by the goroutine of Run only
}

func (s *serving) start(kind string, list []Server) []*server {
	var servers []*server
	for _, config := range list {
		srv := &server{Server: config, label: fmt.Sprintf("%s %q", kind, config.Name)}
		servers = append(servers, srv)
		if srv.Serve == nil {
			continue
		}
		srv.done = make(chan struct{})
		go func() {
			err := ErrGoexit // unless Serve returns
			defer func() {
				_, panicked := err.(*PanicError)
				srv.crashed = panicked || err == ErrGoexit
				srv.err = err
				close(srv.done)
				s.ended <- srv
			}()
			err = s.reg.contain(srv.label, srv.Serve)
		}()
	}
	return servers
}

// wait returns when the stop is to begin, and reports whether a signal is the reason.
func (s *serving) wait(ctx context.Context) (signaled bool) {
	log := s.reg.stopLog
	select {
	case sig := <-s.signals:
		log(slog.LevelInfo, "stopping", slog.String("signal", sig.String()))
		return true
	case <-ctx.Done():
		log(slog.LevelInfo, "stopping", slog.Any("cause", context.Cause(ctx)))
	case srv := <-s.ended:
		s.serveFailed(srv)
		log(slog.LevelError, "stopping: a server has ended", slog.String("server", srv.Name), slog.Any("error", srv.err))
	case t := <-s.reg.lost:
		s.loopFailed(t)
		log(slog.LevelError, "stopping: a loop has ended", slog.String("loop", t.Name()), slog.Any("error", t.Err()))
	}
	return false
}

// named returns err with the step it is from, nil if it is nil. It calls the Error
// method of err, which may not return: the goroutine of Run does not call named.
func named(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tether: %s: %w", step, err)
}

func (s *serving) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// serveFailed notes what a Serve that has ended returned.
func (s *serving) serveFailed(srv *server) {
	srv.reported = true
	s.failSafely("serving "+srv.label, srv.err)
}

// failSafely is fail for an error of the user's, whose Error method may not return.
func (s *serving) failSafely(step string, err error) {
	safe, ok := inTime(func() error { return named(step, err) })
	if !ok {
		safe = fmt.Errorf("tether: %s: %s", step, withoutText(err))
	}
	s.fail(safe)
}

// watchSignals ends the process at the second signal, until finished is closed.
func (s *serving) watchSignals(signaled bool, finished <-chan struct{}) {
	first := s.began
	for {
		select {
		case sig := <-s.signals:
			switch {
			case !signaled: // it may be the signal that ended Run's context
				signaled, first = true, time.Now()
				s.reg.stopLog(slog.LevelInfo, "stopping already", slog.String("signal", sig.String()))
			case time.Since(first) >= sameSignal:
				s.reg.exit(sig)
			}
		case <-finished:
			return
		}
	}
}

// exit ends the process, with the report so far.
func (r *Registry) exit(sig os.Signal) {
	status := 1
	if n, ok := sig.(syscall.Signal); ok {
		status = 128 + int(n)
	}
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		fmt.Fprintf(os.Stderr, "tether: second signal (%v): exiting with tasks left\n%v\n", sig, r.drain.makeReport(r))
	}()
	select {
	case <-printed:
	case <-time.After(reportTimeout): // an error's method does not return
	}
	os.Exit(status)
}
