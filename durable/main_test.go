package durable_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errTest is an error that only the tests return.
var errTest = errors.New("test error")

// order is what the jobs of these tests take.
type order struct {
	Number int `json:"order"`
}

// noContext is a nil context.
var noContext context.Context

type handler = func(ctx context.Context, o order) error

func succeed(context.Context, order) error { return nil }
func fail(context.Context, order) error    { return errTest }

// untilCanceled is a handler that runs until its context is canceled, and returns the cause.
func untilCanceled(ctx context.Context, _ order) error {
	<-ctx.Done()
	return ctx.Err()
}

// stubborn returns a handler that runs until c is closed, whatever becomes of its context.
func stubborn(c <-chan struct{}) handler {
	return func(context.Context, order) error {
		<-c
		return nil
	}
}

// badError is an error whose methods panic, as those of a nil pointer do.
type badError struct{ text string }

func (e *badError) Error() string   { return e.text }
func (e *badError) Is(error) bool   { return e.text == "" }
func (e *badError) As(any) bool     { return e.text == "" }
func (e *badError) Unwrap() []error { return []error{errors.New(e.text)} }

// options are those of a job that has three attempts of a minute, with waits of as many
// seconds as there were attempts.
var options = durable.JobConfig{
	Timeout: time.Minute, MaxAttempts: 3,
	Backoff: func(attempt int, _ error) time.Duration { return time.Duration(attempt) * time.Second },
}

// newRegistry returns a registry that logs nothing unless cfg says so. At the end of the
// test it must drain without an error.
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

// drain begins a Shutdown that cancels the tasks after 15 s and gives up after 20, and
// returns where its error will be.
func drain(r *tether.Registry) <-chan error {
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended <- r.Shutdown(ctx)
	}()
	return ended
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errTest)
	return ctx
}

// logbook is a slog.Handler that keeps all records.
type logbook struct {
	attrs map[string]string
	shelf *shelf
}

type shelf struct {
	mu      sync.Mutex
	records []map[string]string
}

func newLogger() (*slog.Logger, *logbook) {
	b := &logbook{shelf: new(shelf)}
	return slog.New(b), b
}

// defaultLog has slog.Default log into a logbook until the test ends.
func defaultLog(t *testing.T) *logbook {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	log, book := newLogger()
	slog.SetDefault(log)
	return book
}

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithGroup(string) slog.Handler            { return b }
func (b *logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := &logbook{attrs: maps.Clone(b.attrs), shelf: b.shelf}
	if with.attrs == nil {
		with.attrs = make(map[string]string)
	}
	for _, a := range attrs {
		with.attrs[a.Key] = a.Value.String()
	}
	return with
}

func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	record := map[string]string{"msg": r.Message, "level": r.Level.String()}
	maps.Copy(record, b.attrs)
	r.Attrs(func(a slog.Attr) bool {
		record[a.Key] = a.Value.String()
		return true
	})
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	b.shelf.records = append(b.shelf.records, record)
	return nil
}

// about returns the records whose message or attributes contain text; the message and the
// level stand under "msg" and "level".
func (b *logbook) about(text string) (found []map[string]string) {
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	for _, r := range b.shelf.records {
		for v := range maps.Values(r) {
			if strings.Contains(v, text) {
				found = append(found, r)
				break
			}
		}
	}
	return found
}

// one returns the only record about text.
func (b *logbook) one(t *testing.T, text string) map[string]string {
	t.Helper()
	found := b.about(text)
	require.Len(t, found, 1, "records about %q", text)
	return found[0]
}
