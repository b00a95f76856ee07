package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
)

// fulfilAttempts is how often an order is tried that fails for a reason of ours (a
// full disk, say). A customer's reason, such as an empty shelf, is final at once.
const fulfilAttempts = 3

// fulfilment is how every order's work is submitted. Unique by the order's id: the
// resumer at start and a new order may both submit it, and one body runs.
func (s *shop) fulfilment(id string) []tether.Option {
	return []tether.Option{
		tether.Unique("order:" + id),
		tether.Retry(tether.RetryPolicy{
			Attempts: fulfilAttempts,
			Backoff:  tether.ExponentialBackoff(100*time.Millisecond, 2*time.Second),
		}),
	}
}

// fulfil is the heavy part of an order: the stock, the invoice, the webhook. Every
// step looks at what is done already, so it may be run again after any
// interruption: a retry, a drain that ran out of time, a kill -9.
func (s *shop) fulfil(id string) tether.Func {
	return func(ctx context.Context) error {
		o, err := s.store.order(ctx, id)
		if err != nil {
			return fmt.Errorf("order %s: %w", id, err)
		}
		if o.State != pending {
			return nil
		}
		defer func() {
			if v := recover(); v != nil {
				// The order is told apart from one that still waits; the panic goes on
				// to tether, which reports it with its stack.
				s.giveUp(ctx, o, "an internal error")
				panic(v)
			}
		}()
		err = s.invoice(ctx, o)
		if err != nil && !interrupted(ctx) && lastAttempt(ctx) {
			s.giveUp(ctx, o, "the invoice could not be made")
		}
		return err
	}
}

func (s *shop) invoice(ctx context.Context, o *order) error {
	reason, err := s.store.takeStock(ctx, o)
	if err != nil {
		return fmt.Errorf("order %s: %w", o.ID, err)
	}
	if reason != "" {
		return nil // decided: the order has failed and says why, the task has done its work
	}
	if err := s.invoices.make(o); err != nil {
		return fmt.Errorf("order %s: %w", o.ID, err)
	}
	if err := s.store.invoiceOrder(ctx, o.ID); err != nil {
		return fmt.Errorf("order %s: %w", o.ID, err)
	}
	s.deliverNext(ctx)
	return nil
}

// giveUp fails an order. If even that cannot be stored, the order stays pending
// and the next start tries again.
func (s *shop) giveUp(ctx context.Context, o *order, reason string) {
	if err := s.store.failOrder(context.WithoutCancel(ctx), o, reason); err != nil {
		slog.ErrorContext(ctx, "order stays pending", "order", o.ID, "err", err)
	}
}

// interrupted reports whether somebody has cancelled ctx, other than its own timeout.
func interrupted(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), tether.ErrTimeout)
}

// attempt is the number of the attempt that ctx belongs to.
func attempt(ctx context.Context) int {
	t, ok := tether.FromContext(ctx)
	if !ok {
		return 1
	}
	return t.Attempt()
}
