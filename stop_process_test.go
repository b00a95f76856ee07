//go:build unix

package tether_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether"
)

// The cells of the fault matrix that lose the most if the stop goes wrong, as processes
// that get a signal. Every process has a server, three closers, a last server, and a task
// that ends when the stop begins.
var faultyProcesses = map[string]struct {
	cfg    tether.Config
	change func(r *tether.Registry, cfg *tether.RunConfig) // makes it faulty
	want   []string                                        // what the process says, instead of allSteps
	errs   []string                                        // in its error; if empty, it ends with status 0
	stderr string                                          // what it says there, once
}{
	"Stop never returns": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) { cfg.Servers[0].Stop = hang },
		errs:   []string{`tether: stopping server "public": did not return`},
	},
	"Serve never returns": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) {
			cfg.Servers = append(cfg.Servers, tether.Server{
				Name: "stream", Serve: func() error { select {} }, Stop: func(context.Context) error { return nil },
			})
		},
		errs: []string{`tether: stopping server "stream": its Serve has not returned`},
	},
	"Serve panics": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) {
			stop := make(chan struct{})
			cfg.Servers = append(cfg.Servers, tether.Server{
				Name: "stream", Serve: func() error { <-stop; panic("closed twice") },
				Stop: func(context.Context) error { close(stop); return nil },
			})
		},
		errs: []string{`tether: serving server "stream": `, "closed twice"},
	},
	"a closer never returns": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) { cfg.Closers[1].Close = hang },
		want:   []string{"task", "database", "telemetry", "admin"},
		errs:   []string{`tether: closing "broker": did not return`},
	},
	"Stop ends its goroutine, and closers panic": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) {
			cfg.Servers[0].Stop = func(context.Context) error { runtime.Goexit(); return nil }
			cfg.Closers[0].Close = func(context.Context) error { panic("nil cache") }
			cfg.Closers[2].Close = func(context.Context) error { panic(brokenError{}) }
		},
		want: []string{"task", "broker", "admin"},
		errs: []string{`tether: stopping server "public": `, `tether: closing "database": `, "nil cache", `tether: closing "telemetry": `},
	},
	"the last server's Stop never returns": {
		change: func(_ *tether.Registry, cfg *tether.RunConfig) { cfg.LastServers[0].Stop = hang },
		want:   []string{"task", "database", "broker", "telemetry"},
		errs:   []string{`tether: stopping last server "admin": did not return`},
	},
	"the log handler blocks": {
		cfg:    tether.Config{Logger: slog.New(blockingLog{slog.DiscardHandler, nil})},
		change: func(*tether.Registry, *tether.RunConfig) {},
	},
	"the log handler panics": {
		cfg: tether.Config{Logger: slog.New(panickingLog{slog.DiscardHandler, false})},
		change: func(r *tether.Registry, _ *tether.RunConfig) {
			_, _ = r.Go(context.Background(), "failing", fail)
			_, _ = r.Go(context.Background(), "panicking", panicking)
		},
		stderr: "tether: the log handler panicked",
	},
	"a body ignores its context": {
		change: func(r *tether.Registry, _ *tether.RunConfig) {
			_, _ = r.Go(context.Background(), "stuck", hang)
		},
		errs: []string{"1 task has not ended: stuck ("},
	},
	"an observer never returns": {
		cfg: tether.Config{Observer: hangingObserver{}},
		change: func(r *tether.Registry, _ *tether.RunConfig) {
			_, _ = r.Go(context.Background(), "observed", func(ctx context.Context) error {
				<-tether.StoppingFrom(ctx)
				return nil
			})
		},
		errs: []string{"1 task has not ended: observed ("},
	},
	"a hand-over never returns": {
		change: func(r *tether.Registry, _ *tether.RunConfig) {
			_, _ = r.Go(context.Background(), "reminder", succeed, tether.Hold(),
				tether.HandOver(func(ctx context.Context, _ tether.Info) error { return hang(ctx) }))
		},
		errs: []string{"1 task has not ended: reminder ("},
	},
	"a backoff never returns": {
		change: func(r *tether.Registry, _ *tether.RunConfig) {
			_, _ = r.Go(context.Background(), "webhook", fail, tether.Retry(tether.RetryPolicy{
				Attempts: 2, Backoff: func(int, error) time.Duration { select {} },
			}))
		},
		errs: []string{"1 task has not ended: webhook ("},
	},
	"everything is called back": {
		change: func(r *tether.Registry, cfg *tether.RunConfig) {
			shutDown := func(ctx context.Context) error {
				if err := r.Shutdown(ctx); err != nil {
					return errors.New("called back")
				}
				return nil
			}
			cfg.Servers = append(cfg.Servers, tether.Server{Name: "stream", Stop: shutDown})
			cfg.LastServers = append(cfg.LastServers, tether.Server{Name: "page", Stop: shutDown})
			cfg.Closers = append(cfg.Closers, tether.Closer{Name: "registry", Close: shutDown})
		},
	},
}

// hang is a function that ignores its context.
func hang(context.Context) error { select {} }

// hangingObserver hangs at the end of the task "observed".
type hangingObserver struct{ tether.NopObserver }

func (hangingObserver) TaskEnded(_ context.Context, t *tether.Task) {
	if t.Name() == "observed" {
		select {}
	}
}

var allSteps = []string{"task", "database", "broker", "telemetry", "admin"}

func init() {
	for name := range faultyProcesses {
		children["faulty: "+name] = func(*tether.Registry) error { return faultyChild(name) }
	}
	children["one signal twice"] = signaledTwiceChild
}

func faultyChild(name string) error {
	process := faultyProcesses[name]
	if process.cfg.Logger == nil {
		process.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := tether.New(process.cfg)
	_, err := r.Go(context.Background(), "task", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		fmt.Println("task")
		return nil
	})
	if err != nil {
		return err
	}
	cfg := serving()
	cfg.StopTimeout, cfg.CloseTimeout = 2*time.Second, time.Second
	inTime := func(what string) func(context.Context) error {
		return func(ctx context.Context) error {
			fmt.Println(what)
			return ctx.Err() // which would be in the error
		}
	}
	for _, name := range []string{"database", "broker", "telemetry"} {
		cfg.Closers = append(cfg.Closers, tether.Closer{Name: name, Close: inTime(name)})
	}
	cfg.LastServers = []tether.Server{{Name: "admin", Stop: inTime("admin")}}
	process.change(r, &cfg)
	return r.Run(context.Background(), cfg)
}

func TestD9_Processes(t *testing.T) {
	for name, process := range faultyProcesses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, "faulty: "+name)
			guard := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() }) // Run should have returned long ago
			defer guard.Stop()
			c.hear("running")
			c.signal(syscall.SIGTERM)
			if process.want == nil {
				process.want = allSteps
			}
			c.hear(process.want...)
			status, rest, stderr := c.end()
			text := strings.Join(rest, "\n")
			if len(process.errs) == 0 {
				assert.Zero(t, status)
				assert.Equal(t, "clean", text)
			} else {
				assert.Equal(t, 1, status)
			}
			for _, want := range process.errs {
				assert.Contains(t, text, want)
			}
			if process.stderr == "" {
				assert.Empty(t, stderr)
			} else {
				assert.Equal(t, 1, strings.Count(stderr, process.stderr), stderr)
			}
		})
	}
}

func signaledTwiceChild(r *tether.Registry) error {
	_, err := r.Go(context.Background(), "charge card", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		fmt.Println("stopping")
		fmt.Scanln() // until the parent has sent the second signal
		fmt.Println("charged")
		return nil
	})
	if err != nil {
		return err
	}
	return r.Run(context.Background(), serving(telling("closer")))
}

// One Ctrl-C may arrive twice: from the terminal, which signals the whole process group, and
// from a parent process that forwards it.
func TestD7_OneSignalThatArrivesTwice(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		c := startChild(t, "one signal twice")
		c.hear("running")
		c.signal(signal)
		c.hear("stopping")
		c.signal(signal)
		fmt.Fprintln(c.stdin)
		c.hear("charged", "closer", "clean")
		status, _, stderr := c.end()
		assert.Zero(t, status)
		assert.Empty(t, stderr)
	}
}
