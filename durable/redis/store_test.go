package redis_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/redis"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

func TestStore(t *testing.T) {
	server := durabletest.Redis(t)
	var replicas [2]*redis.Engine
	for i := range replicas {
		var err error
		replicas[i], err = open(server.Address(), "store", redis.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, replicas[i].Close()) })
	}
	var n atomic.Int64
	storetest.Contract(t, func(t *testing.T) store.Backend { return replicas[n.Add(1)%2].Store() })
}

func TestStoreOfAClosedEngine(t *testing.T) {
	e, err := open(durabletest.Redis(t).Address(), "closedstore", redis.Config{})
	require.NoError(t, err)
	require.NoError(t, e.Close())
	_, err = e.Store().Get(t.Context(), "k")
	assert.ErrorIs(t, err, durable.ErrClosed)
}

// Open fails while Redis is away. A service that it goes away from before the store's first call
// answers what it can.
func TestStoreAway(t *testing.T) {
	server := durabletest.Redis(t)
	e, err := open(server.Address(), "storeaway", redis.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	durabletest.StoreAway(t, server, func(t *testing.T) store.Backend {
		_, err := open(server.Address(), "storeaway", redis.Config{Timeout: time.Second})
		require.ErrorContains(t, err, "connection refused")
		return e.Store()
	})
}
