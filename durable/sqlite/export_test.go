package sqlite

import (
	"context"

	"github.com/seed-2e639f12/tether/durable/internal/river"
)

// Enter is a consumer's, without its lock's folder.
func (e *Engine) Enter(ctx context.Context, lock, id string) (river.Presence, error) {
	return enter(ctx, lock, e.own, river.DefaultQueue, id)
}
