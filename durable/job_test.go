package durable_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

func TestDefine(t *testing.T) {
	t.Run("completes the options", func(t *testing.T) {
		j := durable.Define("invoice", succeed, durable.JobConfig{Timeout: time.Minute})
		assert.Equal(t, "invoice", j.Name())
		o := j.Config()
		assert.Equal(t, 25, o.MaxAttempts)
		assert.Equal(t, time.Minute, o.Timeout)
		for range 100 {
			wait := o.Backoff(1, nil)
			assert.True(t, wait > 0 && wait <= time.Second, wait)
			assert.LessOrEqual(t, o.Backoff(25, nil), time.Hour)
		}
	})
	t.Run("keeps the options", func(t *testing.T) {
		o := durable.Define("invoice", succeed, options).Config()
		assert.Equal(t, 3, o.MaxAttempts)
		assert.Equal(t, 7*time.Second, o.Backoff(7, nil))
	})
	for name, define := range map[string]func(){
		"empty name":           func() { durable.Define("", succeed, options) },
		"name with a newline":  func() { durable.Define("a\nb", succeed, options) },
		"no handler":           func() { durable.Define[order]("invoice", nil, options) },
		"no timeout":           func() { durable.Define("invoice", succeed, durable.JobConfig{}) },
		"negative timeout":     func() { durable.Define("invoice", succeed, durable.JobConfig{Timeout: -1}) },
		"negative MaxAttempts": func() { durable.Define("invoice", succeed, durable.JobConfig{Timeout: 1, MaxAttempts: -1}) },
	} {
		t.Run("panics on "+name, func(t *testing.T) {
			defer func() { assert.Contains(t, recover(), "durable: Define") }()
			define()
		})
	}
}

// unencodable are args that encoding/json refuses.
type unencodable struct{ F float64 }

func TestEnqueue(t *testing.T) {
	invoice := durable.Define("invoice", succeed, options)
	ctx := context.Background()
	t.Run("gives the engine the job", func(t *testing.T) {
		e := newMemory()
		at := time.Now().Add(time.Hour)
		receipt, err := invoice.Enqueue(ctx, e, order{5}, durable.RunAt(at), durable.Unique("order-5"), durable.EnqueueOption{})
		require.NoError(t, err)
		require.Len(t, e.taken(), 1)
		m := e.taken()[0]
		assert.Equal(t, durable.Receipt{ID: m.ID}, receipt)
		assert.NotEmpty(t, m.ID)
		assert.JSONEq(t, `{"order":5}`, string(m.Args))
		assert.Equal(t, durable.Message{
			ID: m.ID, Name: "invoice", Args: m.Args, Unique: "order-5", RunAt: at,
		}, m)
	})
	t.Run("gives each its own ID", func(t *testing.T) {
		e := newMemory()
		ids := make(map[string]bool)
		for range 100 {
			receipt, err := invoice.Enqueue(ctx, e, order{5})
			require.NoError(t, err)
			ids[receipt.ID] = true
		}
		assert.Len(t, ids, 100)
	})
	t.Run("hands the engine the context", func(t *testing.T) {
		e := newMemory()
		_, err := invoice.Enqueue(ended(), e, order{5})
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("RunAt the zero time is no wish, a past one is", func(t *testing.T) {
		e := newMemory()
		past := time.Now().Add(-time.Hour)
		_, err := invoice.Enqueue(ctx, e, order{5}, durable.RunAt(time.Time{}))
		require.NoError(t, err)
		_, err = invoice.Enqueue(ctx, e, order{5}, durable.RunAt(past))
		require.NoError(t, err)
		assert.Zero(t, e.taken()[0].RunAt)
		assert.Equal(t, past, e.taken()[1].RunAt)
	})
	t.Run("returns the engine's error", func(t *testing.T) {
		e := newMemory()
		e.enqueue = func(context.Context, durable.Message) error { return errTest }
		receipt, err := invoice.Enqueue(ctx, e, order{5})
		require.ErrorIs(t, err, errTest)
		assert.Zero(t, receipt)
	})
	t.Run("args that do not encode", func(t *testing.T) {
		e := newMemory()
		j := durable.Define("sum", func(context.Context, unencodable) error { return nil }, options)
		_, err := j.Enqueue(ctx, e, unencodable{math.NaN()})
		var wrong *durable.ArgsError
		require.ErrorAs(t, err, &wrong)
		assert.Equal(t, "sum", wrong.Job)
		assert.ErrorContains(t, err, `durable: arguments of job "sum": json: unsupported value: NaN`)
		assert.ErrorContains(t, errors.Unwrap(err), "json: unsupported value")
		e.none(t)
	})

	long := strings.Repeat("k", 512)
	for _, refused := range []struct {
		name string
		do   func(e *memory) (durable.Receipt, error)
		is   error
		text string
	}{
		{"nil context", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(noContext, e, order{5})
		}, durable.ErrInvalid, `job "invoice": nil context`},
		{"nil engine", func(*memory) (durable.Receipt, error) { return invoice.Enqueue(ctx, nil, order{5}) }, durable.ErrInvalid, "nil context or engine"},
		{"empty key", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(ctx, e, order{5}, durable.Unique(""))
		}, durable.ErrInvalid, `job "invoice": Unique key of 0 bytes`},
		{"a year too late", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(ctx, e, order{5}, durable.RunAt(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)))
		}, durable.ErrInvalid, "RunAt in the year 10000: must be 9999 or before"},
		{"long key", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(ctx, e, order{5}, durable.Unique(long+"k"))
		}, durable.ErrInvalid, "513 bytes"},
		{"key that is not UTF-8", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(ctx, e, order{5}, durable.Unique("\xff"))
		}, durable.ErrInvalid, "UTF-8"},
		{"invalid before valid", func(e *memory) (durable.Receipt, error) {
			return invoice.Enqueue(ctx, e, order{5}, durable.Unique(""), durable.Unique("k"))
		}, durable.ErrInvalid, "0 bytes"},
		{"unsupported key", func(e *memory) (durable.Receipt, error) {
			e.support.Unique = false
			return invoice.Enqueue(ctx, e, order{5}, durable.Unique("k"))
		}, durable.ErrUnsupported, `memory has no unique keys (job "invoice")`},
		{"unsupported delay", func(e *memory) (durable.Receipt, error) {
			e.support.RunAt = false
			return invoice.Enqueue(ctx, e, order{5}, durable.RunAt(time.Unix(1, 0)))
		}, durable.ErrUnsupported, `memory cannot delay a job ("invoice")`},
		{"unsupported timeout", func(e *memory) (durable.Receipt, error) {
			e.support.MaxTimeout = time.Minute - 1
			return invoice.Enqueue(ctx, e, order{5})
		}, durable.ErrUnsupported, `memory allows a Timeout of 59.999999999s at most, job "invoice" has 1m0s`},
	} {
		t.Run(refused.name, func(t *testing.T) {
			e := newMemory()
			receipt, err := refused.do(e)
			require.ErrorIs(t, err, refused.is)
			assert.ErrorContains(t, err, refused.text)
			assert.Zero(t, receipt)
			e.none(t)
		})
	}
	t.Run("what is not asked for needs no support", func(t *testing.T) {
		e := newMemory()
		e.support = durable.Support{Engine: "memory", MaxTimeout: time.Minute}
		_, err := invoice.Enqueue(ctx, e, order{5})
		require.NoError(t, err)
	})
	t.Run("the longest key", func(t *testing.T) {
		e := newMemory()
		_, err := invoice.Enqueue(ctx, e, order{5}, durable.Unique(long))
		require.NoError(t, err)
		assert.Equal(t, long, e.taken()[0].Unique)
	})
}

func FuzzUnique(f *testing.F) {
	for _, seed := range []string{"", "order-5", "\x00", "ü", "\xff", strings.Repeat("k", 512), strings.Repeat("k", 513)} {
		f.Add(seed)
	}
	job := durable.Define("invoice", succeed, options)
	f.Fuzz(func(t *testing.T, key string) {
		e := newMemory()
		_, err := job.Enqueue(context.Background(), e, order{5}, durable.Unique(key))
		if key == "" || len(key) > 512 || !utf8.ValidString(key) {
			require.ErrorIs(t, err, durable.ErrInvalid)
			e.none(t)
			return
		}
		require.NoError(t, err)
		require.Equal(t, key, e.taken()[0].Unique)
	})
}

func TestPermanent(t *testing.T) {
	assert.NoError(t, durable.Permanent(nil))
	err := durable.Permanent(fmt.Errorf("wrapped: %w", errTest))
	assert.ErrorIs(t, err, errTest)
	assert.EqualError(t, err, "wrapped: test error")
	var wrong *durable.ArgsError
	assert.ErrorAs(t, durable.Permanent(&durable.ArgsError{Job: "invoice", Err: errTest}), &wrong)
}

func TestMetaFromOutsideAJob(t *testing.T) {
	for _, ctx := range []context.Context{nil, context.Background(), ended()} {
		meta, ok := durable.MetaFrom(ctx)
		assert.False(t, ok)
		assert.Zero(t, meta)
	}
	r := newRegistry(t, tether.Config{})
	task, err := r.Go(context.Background(), "no job", func(ctx context.Context) error {
		if _, ok := durable.MetaFrom(ctx); ok {
			return errTest
		}
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, task.Wait(context.Background()))
}
