package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-2e639f12/tether"
)

// fulfilAttempts is the number of attempts at an order if the shop is the cause, for
// example a full disk. Other causes, such as an empty stock, are final at once.
const fulfilAttempts = 3

// fulfilment returns the options for the work on an order. Unique prevents a second task
// if resume and a new request submit the same order.
func (s *shop) fulfilment(id string) []tether.Option {
	return []tether.Option{
		tether.Unique("order:" + id),
		tether.Retry(tether.RetryPolicy{
			Attempts: fulfilAttempts,
			Backoff:  tether.ExponentialBackoff(100*time.Millisecond, 2*time.Second),
		}),
	}
}

// fulfil returns the body of an order's task: the stock, the invoice, the webhook. Each
// step checks what is done already, so the body may run again after any interruption: a
// retry, a drain that ran out of time, a kill -9.
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
				// The order is marked as failed. The panic continues to tether, which
				// reports it with its stack.
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
		return nil // the order has failed with a reason; the task has succeeded
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

// giveUp marks an order as failed. If that cannot be stored, the order stays pending and
// the next start tries again.
func (s *shop) giveUp(ctx context.Context, o *order, reason string) {
	if err := s.store.failOrder(context.WithoutCancel(ctx), o, reason); err != nil {
		slog.ErrorContext(ctx, "order stays pending", "order", o.ID, "err", err)
	}
}

// interrupted reports whether ctx has been canceled by something other than its timeout.
func interrupted(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), tether.ErrTimeout)
}

// attempt returns the number of the attempt that ctx belongs to.
func attempt(ctx context.Context) int {
	t, ok := tether.FromContext(ctx)
	if !ok {
		return 1
	}
	return t.Attempt()
}
