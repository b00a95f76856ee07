package postgres_test

import (
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

// openTwice opens the tests' database twice, as two replicas do.
func openTwice(t *testing.T) (engines [2]*postgres.Engine, pools [2]*pgxpool.Pool) {
	server := durabletest.Postgres(t)
	for i := range engines {
		var err error
		pools[i], err = connect(server.Address(), "store")
		require.NoError(t, err)
		t.Cleanup(pools[i].Close)
		engines[i], err = postgres.Open(pools[i])
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, engines[i].Close()) })
	}
	return engines, pools
}

func TestStore(t *testing.T) {
	replicas, _ := openTwice(t)
	var n atomic.Int64
	storetest.Contract(t, func(t *testing.T) store.Backend { return replicas[n.Add(1)%2].Store() })
}

func TestStoreInAnOldDatabase(t *testing.T) {
	ctx := t.Context()
	replicas, pools := openTwice(t)
	_, err := pools[0].Exec(ctx, `DROP TABLE tether_record, tether_lease`) // an older version has none
	require.NoError(t, err)
	e, err := postgres.Open(pools[0])
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, e.Store().Swap(ctx, "", store.Record{Key: "k", Tag: "a", Version: 1, Keep: 1 << 40}))
	found, err := replicas[1].Store().Get(ctx, "k")
	require.NoError(t, err)
	assert.Len(t, found, 1)
}

// Handlers that keep the whole pool busy do not keep the store from its leases.
func TestStoreWithABusyPool(t *testing.T) {
	ctx := t.Context()
	replicas, pools := openTwice(t)
	for range pools[0].Config().MaxConns {
		conn, err := pools[0].Acquire(ctx)
		require.NoError(t, err)
		defer conn.Release()
	}
	_, err := replicas[0].Store().Renew(ctx, "owner", 1<<40)
	assert.NoError(t, err)
}

func TestStoreOfAClosedEngine(t *testing.T) {
	replicas, pools := openTwice(t)
	e, err := postgres.Open(pools[0])
	require.NoError(t, err)
	require.NoError(t, e.Close())
	_, err = e.Store().Get(t.Context(), "k")
	assert.Error(t, err)
	_, err = replicas[0].Store().Get(t.Context(), "k")
	assert.NoError(t, err)
}

// Open fails while the database is away, except with NoMigrate.
func TestStoreAway(t *testing.T) {
	_, pools := openTwice(t) // creates the tables
	durabletest.StoreAway(t, durabletest.Postgres(t), func(t *testing.T) store.Backend {
		_, err := postgres.Open(pools[0])
		require.ErrorContains(t, err, "connect")
		e, err := postgres.Config{NoMigrate: true}.Open(pools[0])
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, e.Close()) })
		return e.Store()
	})
}

func TestTrackedTx(t *testing.T) {
	pool := newPool(t)
	e := newEngine(t, postgres.Config{Schema: "tracked"}, pool)
	ctx := t.Context()
	shared := tetherhttp.NewStore("shop", e.Store())
	job, _ := define("job")
	place := func(finish func(pgx.Tx) error, opts ...durable.EnqueueOption) durable.Receipt {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		receipt, err := postgres.EnqueueTx(ctx, e, tx, job, "tracked", append(opts, durable.Tracked(shared.Tracker()))...)
		require.NoError(t, err)
		if !receipt.Duplicate {
			_, err = shared.Find(ctx, receipt.ID)
			assert.ErrorIs(t, err, tether.ErrNotFound, "before the transaction has ended")
		}
		require.NoError(t, finish(tx))
		return receipt
	}
	dropped := place(func(tx pgx.Tx) error { return tx.Rollback(ctx) })
	_, err := shared.Find(ctx, dropped.ID)
	assert.ErrorIs(t, err, tether.ErrNotFound)
	commit := func(tx pgx.Tx) error { return tx.Commit(ctx) }
	kept := place(commit, durable.Unique("k"))
	now, err := shared.Find(ctx, kept.ID)
	require.NoError(t, err)
	assert.Equal(t, tether.Queued, now.Info.State)
	assert.Equal(t, kept.ID, place(commit, durable.Unique("k")).ID)
	now, err = shared.Cancel(ctx, kept.ID)
	require.NoError(t, err)
	assert.Equal(t, tether.Canceled, now.Info.State)

	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = postgres.EnqueueTx(ctx, e, tx, job, "elsewhere", durable.Tracked(tetherhttp.NewStore("shop", storetest.NewMemory()).Tracker()))
	assert.ErrorIs(t, err, durable.ErrUnsupported)
	require.NoError(t, tx.Rollback(ctx))
}
