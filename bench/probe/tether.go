package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/seed-2e639f12/tether"
)

// The registry, which does not limit the tasks that run at once. The zero Config is the
// recommended one. The logger writes only errors, which are panics and failed drains, since
// thousands of tasks are dropped or fail here.
func tetherRegistry() candidate {
	on := func(cfg tether.Config) func(int, func(any)) *system {
		return func(_ int, onPanic func(any)) *system {
			r := newRegistry(cfg, onPanic)
			return tetherSystem(r, r)
		}
	}
	return candidate{
		Name: "**tether** registry", Module: "github.com/seed-2e639f12/tether",
		Settings: tetherSettings(on),
	}
}

// A pool with a bounded queue. Submitters wait while it is full, as in most of the peers.
func tetherPool() candidate {
	on := func(cfg tether.Config) func(int, func(any)) *system {
		return func(workers int, onPanic func(any)) *system {
			r := newRegistry(cfg, onPanic)
			return tetherSystem(r, r.NewPool("probe", tether.PoolConfig{Workers: workers, Queue: 1024, Overflow: tether.OverflowBlock}))
		}
	}
	return candidate{
		Name: "**tether** pool", Module: "github.com/seed-2e639f12/tether",
		Settings: tetherSettings(on),
	}
}

func tetherSettings(on func(tether.Config) func(int, func(any)) *system) []setting {
	first := setting{
		New: on(tether.Config{}), ContainsPanics: true, HandlesPanics: true,
		WaitName: "Task.Wait", DrainName: "Shutdown",
	}
	crash := first
	crash.Name, crash.Probes = "Config.OnPanic: PanicCrash", []string{"panic"}
	crash.New, crash.ContainsPanics = on(tether.Config{OnPanic: tether.PanicCrash}), false

	// Shutdown recognizes its caller by the task's own context, and by no other.
	foreign := first
	foreign.Name, foreign.Probes = "a context that is not the task's and never ends", []string{"inside"}
	foreign.New = func(workers int, onPanic func(any)) *system {
		s := first.New(workers, onPanic)
		drain := s.Drain
		s.Drain = func(context.Context) error { return drain(context.Background()) }
		s.DrainWithin = nil
		return s
	}
	return []setting{first, crash, foreign}
}

func newRegistry(cfg tether.Config, onPanic func(any)) *tether.Registry {
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if onPanic != nil {
		cfg.Observer = panicObserver{onPanic: onPanic}
	}
	return tether.New(cfg)
}

// A panicObserver is the closest equivalent of a panic handler: it is notified when a task
// that panicked has ended.
type panicObserver struct {
	tether.NopObserver
	onPanic func(any)
}

func (o panicObserver) TaskEnded(_ context.Context, t *tether.Task) {
	if t.State() == tether.Panicked {
		o.onPanic(t)
	}
}

func tetherSystem(r *tether.Registry, on tether.Submitter) *system {
	submit := func(name string, fn body) (*tether.Task, error) {
		return on.Go(context.Background(), name, func(ctx context.Context) error { fn(ctx); return nil })
	}
	return &system{
		Go: func(name string, fn body) error {
			_, err := submit(name, fn)
			return err
		},
		GoWait: func(name string, fn body) (func() error, error) {
			t, err := submit(name, fn)
			if err != nil {
				return nil, err
			}
			return func() error { return t.Wait(context.Background()) }, nil
		},
		Cancel: func() {
			for t := range r.Tasks() {
				t.Cancel(nil)
			}
		},
		Drain:  r.Shutdown,
		Closes: true,
		DrainWithin: func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return r.Shutdown(ctx)
		},
		Left: func(err error) string {
			var e *tether.DrainError
			if errors.As(err, &e) {
				return e.Report.String()
			}
			return err.Error()
		},
	}
}
