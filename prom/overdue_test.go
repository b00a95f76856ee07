package tetherprom_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	tetherprom "github.com/seed-2e639f12/tether/prom"
)

func TestOverdue(t *testing.T) {
	m := tetherprom.New(tetherprom.Config{})
	reg := tether.New(tether.Config{})
	m.Watch(reg)
	p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Queue: 10, MaxWait: time.Millisecond})
	p.Pause()
	ctx := context.Background()
	late, err := p.Go(ctx, "task", func(context.Context) error { return nil })
	require.NoError(t, err)
	require.ErrorIs(t, late.Wait(ctx), tether.ErrFull)
	assert.NoError(t, testutil.CollectAndCompare(m, strings.NewReader(`
# HELP tether_pool_overdue_total Tasks dropped or canceled because they waited for a worker for the pool's MaxWait.
# TYPE tether_pool_overdue_total counter
tether_pool_overdue_total{pool="p"} 1
`), "tether_pool_overdue_total"))
	require.NoError(t, reg.Shutdown(ctx))
}
