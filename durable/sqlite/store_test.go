package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it's 5% of a store.db")
	var replicas [2]*sqlite.Engine
	for i := range replicas {
		var err error
		replicas[i], err = sqlite.Open(path)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, replicas[i].Close()) })
	}
	var n atomic.Int64
	storetest.Contract(t, func(t *testing.T) store.Backend { return replicas[n.Add(1)%2].Store() })
}

func TestStoreWhileTheFileIsLocked(t *testing.T) {
	e, err := sqlite.Open(filepath.Join(t.TempDir(), "jobs.db"))
	require.NoError(t, err)
	defer e.Close()
	ctx := t.Context()
	r := store.Record{Key: "k", Tag: "a", Version: 1, Keep: time.Hour}
	require.NoError(t, e.Store().Swap(ctx, "", r))
	tx, err := e.DB().BeginTx(ctx, nil)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	r.Tag = "b"
	assert.ErrorIs(t, e.Store().Swap(short, "a", r), context.DeadlineExceeded)
	_, err = e.Store().Renew(short, "owner", time.Hour)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	found, err := e.Store().Get(ctx, "k") // readers do not wait
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "a", found[0].Tag)
	require.NoError(t, tx.Rollback())
	assert.NoError(t, e.Store().Swap(ctx, "a", r))
}

func TestStoreOfAClosedEngine(t *testing.T) {
	e, err := sqlite.Open(filepath.Join(t.TempDir(), "jobs.db"))
	require.NoError(t, err)
	require.NoError(t, e.Close())
	_, err = e.Store().Get(t.Context(), "k")
	assert.Error(t, err)
}

func TestTrackedTx(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jobs.db")
	e, err := sqlite.Open(path)
	require.NoError(t, err)
	defer e.Close()
	ctx := t.Context()
	shared := tetherhttp.NewStore("shop", e.Store())
	job := durable.Define("job", func(context.Context, int) error { return nil }, durable.JobConfig{Timeout: time.Minute})
	place := func(finish func(*sql.Tx) error, opts ...durable.EnqueueOption) durable.Receipt {
		tx, err := e.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		receipt, err := sqlite.EnqueueTx(ctx, e, tx, job, 1, append(opts, durable.Tracked(shared.Tracker()))...)
		require.NoError(t, err)
		_, err = shared.Find(ctx, receipt.ID)
		if !receipt.Duplicate {
			assert.ErrorIs(t, err, tether.ErrNotFound, "before the transaction has ended")
		}
		require.NoError(t, finish(tx))
		return receipt
	}
	dropped := place((*sql.Tx).Rollback)
	_, err = shared.Find(ctx, dropped.ID)
	assert.ErrorIs(t, err, tether.ErrNotFound)
	kept := place((*sql.Tx).Commit, durable.Unique("k"))
	now, err := shared.Find(ctx, kept.ID)
	require.NoError(t, err)
	assert.Equal(t, tether.Queued, now.Info.State)
	assert.Equal(t, kept.ID, place((*sql.Tx).Commit, durable.Unique("k")).ID)
	now, err = shared.Cancel(ctx, kept.ID)
	require.NoError(t, err)
	assert.Equal(t, tether.Canceled, now.Info.State)

	another, err := sqlite.Config{Queue: "another"}.Open(path)
	require.NoError(t, err)
	defer another.Close()
	elsewhere := tetherhttp.NewStore("shop", another.Store()) // of the same file
	tx, err := e.DB().BeginTx(ctx, nil)
	require.NoError(t, err)
	receipt, err := sqlite.EnqueueTx(ctx, e, tx, job, 1, durable.Tracked(elsewhere.Tracker()))
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	_, err = shared.Find(ctx, receipt.ID)
	assert.NoError(t, err)

	tx, err = e.DB().BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = sqlite.EnqueueTx(ctx, e, tx, job, 1, durable.Tracked(tetherhttp.NewStore("shop", storetest.NewMemory()).Tracker()))
	assert.ErrorIs(t, err, durable.ErrUnsupported)
	require.NoError(t, tx.Rollback())
}

// BenchmarkStoreGet reads one record, as a poll does.
func BenchmarkStoreGet(b *testing.B) {
	e, err := sqlite.Open(filepath.Join(b.TempDir(), "jobs.db"))
	require.NoError(b, err)
	defer e.Close()
	s := e.Store()
	require.NoError(b, s.Swap(b.Context(), "", store.Record{Key: "k", Tag: "a", Version: 1, Data: make([]byte, 500), Keep: 1 << 40}))
	for b.Loop() {
		if _, err := s.Get(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
}
