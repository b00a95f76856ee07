package redis_test

import (
	"sync/atomic"
	"testing"

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
