package tether_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errTest is an error that is nobody else's.
var errTest = errors.New("test error")

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errTest }

// untilCanceled is a body that runs until its context is cancelled, and says why.
func untilCanceled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// until returns a body that runs until c is closed, whatever becomes of its context.
func until(c <-chan struct{}) tether.Func {
	return func(context.Context) error {
		<-c
		return nil
	}
}

// server returns the list of one server, named "public". serve and stop may be nil.
func server(serve func() error, stop func(context.Context) error) []tether.Server {
	return []tether.Server{{Name: "public", Serve: serve, Stop: stop}}
}

// closers returns a list of closers, named by their numbers.
func closers(each ...func(context.Context) error) (list []tether.Closer) {
	for _, fn := range each {
		list = append(list, tether.Closer{Close: fn})
	}
	return list
}

// newRegistry returns a registry that logs nothing unless cfg says so. At the end
// of the test it must drain without an error.
func newRegistry(t testing.TB, cfg tether.Config) *tether.Registry {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := tether.New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
		defer cancel()
		assert.NoError(t, r.Shutdown(ctx), "drain at the end of the test")
	})
	return r
}

// drain shuts a registry down, all of whose tasks are about to end by themselves.
func drain(t testing.TB, r *tether.Registry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a guard against hanging
	defer cancel()
	require.NoError(t, r.Shutdown(ctx))
	require.Empty(t, r.Report().Canceled, "tasks that hung")
	require.Empty(t, r.Report().NeverStarted, "tasks that hung")
}

// start submits a task that must be admitted.
func start(t testing.TB, r tether.Submitter, name string, fn tether.Func, opts ...tether.Option) *tether.Task {
	t.Helper()
	task, err := r.Go(context.Background(), name, fn, opts...)
	require.NoError(t, err)
	require.NotNil(t, task)
	return task
}

// wait waits for a task and returns its error.
func wait(task *tether.Task) error { return task.Wait(context.Background()) }

// logbook is a slog.Handler that keeps all records.
type logbook struct {
	mu      sync.Mutex
	records []slog.Record
}

func newLogger() (*slog.Logger, *logbook) {
	b := new(logbook)
	return slog.New(b), b
}

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logbook) WithGroup(string) slog.Handler            { return b }
func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r.Clone())
	return nil
}

// about returns the attributes of each record whose message or attributes contain
// text; the message and the level stand under "msg" and "level".
func (b *logbook) about(text string) (found []map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		attrs := map[string]string{"msg": r.Message, "level": r.Level.String()}
		hit := strings.Contains(r.Message, text)
		r.Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value.String()
			hit = hit || strings.Contains(a.Value.String(), text)
			return true
		})
		if hit {
			found = append(found, attrs)
		}
	}
	return found
}
