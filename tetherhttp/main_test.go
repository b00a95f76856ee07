package tetherhttp_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errTest is an error that no other code returns.
var errTest = errors.New("test error")

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
