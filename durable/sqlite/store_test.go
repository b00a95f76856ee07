package sqlite_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable/sqlite"
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
