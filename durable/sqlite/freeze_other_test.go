//go:build !unix

package sqlite_test

import (
	"context"
	"errors"

	"github.com/seed-2e639f12/tether/durable"
)

func failOnSignal(context.Context, func(handle) (durable.Consumer, error)) error {
	return errors.New("there are no signals")
}
