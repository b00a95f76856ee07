package tether_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// panickingLog is a log handler one of whose methods panics.
type panickingLog struct {
	slog.Handler
	enabled bool
}

func (l panickingLog) Enabled(context.Context, slog.Level) bool {
	if l.enabled {
		panic("the log handler")
	}
	return true
}

func (panickingLog) Handle(context.Context, slog.Record) error { panic("the log handler") }

// A panic of the log handler does not end the process, and stderr says so once.
func TestT6_ALogHandlerThatPanics(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		stderr := captureStderr(t)
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{
				Logger: slog.New(panickingLog{slog.DiscardHandler, enabled}), StuckAfter: time.Second,
			})
			tasks := []*tether.Task{
				start(t, r, "mail", func(context.Context) error { return errors.New("no such host") }),
				start(t, r, "panics", panicking),
				start(t, r, "hangs", func(context.Context) error { time.Sleep(10 * time.Second); return nil }),
			}
			require.NoError(t, r.Run(stopNow(), tether.RunConfig{
				Closers: closers(func(context.Context) error { time.Sleep(time.Second); return nil }), Signals: noSignals,
			}))
			for i, want := range []tether.State{tether.Failed, tether.Panicked, tether.Succeeded} {
				assert.Equal(t, want, tasks[i].State())
			}
			synctest.Wait()
		})
		text := stderr()
		assert.Equal(t, 1, strings.Count(text, "the log handler panicked"), text)
		assert.Contains(t, text, "panickingLog", "the stack")
	}
}

// captureStderr replaces os.Stderr until the returned function is called, which returns
// what was written.
func captureStderr(t *testing.T) (read func() string) {
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	require.NoError(t, err)
	stderr := os.Stderr
	os.Stderr = file
	t.Cleanup(func() { os.Stderr = stderr })
	return func() string {
		os.Stderr = stderr
		require.NoError(t, file.Close())
		text, err := os.ReadFile(file.Name())
		require.NoError(t, err)
		return string(text)
	}
}

func TestLogger(t *testing.T) {
	logger, _ := newLogger()
	r := newRegistry(t, tether.Config{Logger: logger})
	assert.Same(t, logger, r.Logger())
	assert.Same(t, slog.Default(), tether.New(tether.Config{}).Logger())
	assert.Same(t, r, r.NewPool("pool", tether.PoolConfig{}).Registry())
}
