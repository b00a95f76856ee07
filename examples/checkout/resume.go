package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/seed-2e639f12/tether"
)

// resume goes on with what an earlier process accepted and did not finish: it was
// killed, or its drain ran out of time. It is a task like any other, so the shop
// opens at once, and new orders come in between.
func (s *shop) resume(ctx context.Context) error {
	if s.cfg.works() {
		if err := s.resumeWebhooks(ctx); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
	}
	if !s.cfg.serves() {
		return nil // the rest comes from the web
	}
	if err := s.resumeUploads(ctx); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := s.resumeOrders(ctx); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// errLater ends the resumption when the shop is told to stop: the rest is for the
// next start.
var errLater = errors.New("the rest is left for the next start")

func (s *shop) resumeOrders(ctx context.Context) error {
	last, err := s.store.lastOrder(ctx) // newer ones have their tasks already
	if err != nil {
		return err
	}
	for after := int64(0); ; {
		ids, seq, err := s.store.pendingOrders(ctx, after, last, 256)
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			if err := s.resumeOrder(ctx, id); errors.Is(err, errLater) {
				return nil
			} else if err != nil {
				return err
			}
		}
		after = seq
	}
}

func (s *shop) resumeOrder(ctx context.Context, id string) error {
	if s.queue != nil {
		return s.resumeQueued(ctx, id)
	}
	_, err := admit(ctx, func() (*tether.Task, error) {
		return s.orders.Go(ctx, "fulfil-order", s.fulfil(id), s.fulfilment(id)...)
	})
	return err
}

func (s *shop) resumeUploads(ctx context.Context) error {
	uploads, err := s.store.pendingUploads(ctx)
	if err != nil {
		return err
	}
	for _, u := range uploads {
		pool := s.imports
		if u.Kind == anImage {
			pool = s.images
		}
		task, err := admit(ctx, func() (*tether.Task, error) {
			return pool.Go(ctx, string(u.Kind), s.work(u.ID, u.Kind), s.workOptions(u)...)
		})
		if errors.Is(err, errLater) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.store.handUpload(ctx, u.ID, task.ID()); err != nil {
			return err
		}
	}
	return nil
}

// resumeWebhooks fills the pool; each delivery goes on to the next in the outbox.
func (s *shop) resumeWebhooks(ctx context.Context) error {
	n, err := s.store.webhooksWaiting(ctx, webhookWorkers)
	if err != nil {
		return err
	}
	for range n {
		s.deliverNext(ctx)
	}
	return nil
}

// tidy puts right what a killed process has left, before anything new comes in:
// webhooks that were being sent go back to the outbox, and half a file that no row
// knows, so that no client was told 202, is removed. What may be another process' that
// is at work is left alone.
func (s *shop) tidy(ctx context.Context) error {
	if s.cfg.works() {
		if err := s.store.unclaimWebhooks(ctx, s.roll.others); err != nil {
			return err
		}
	}
	if s.cfg.serves() { // nobody else receives uploads
		if err := s.tidySpool(ctx); err != nil {
			return err
		}
	}
	if !s.roll.alone() {
		return nil // half an invoice may be about to be whole
	}
	for _, dir := range []string{s.invoices.dir, s.pictures.dir} {
		halves, err := filepath.Glob(filepath.Join(dir, "*"+partSuffix))
		if err != nil {
			return fmt.Errorf("tidy: %w", err)
		}
		for _, half := range halves {
			if err := os.Remove(half); err != nil {
				return fmt.Errorf("tidy: %w", err)
			}
		}
	}
	return nil
}

func (s *shop) tidySpool(ctx context.Context) error {
	uploads, err := s.store.pendingUploads(ctx)
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(uploads))
	for _, u := range uploads {
		known[u.ID] = true
	}
	received, err := os.ReadDir(s.spool.dir)
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	for _, f := range received {
		if !known[f.Name()] {
			s.spool.remove(f.Name())
		}
	}
	return nil
}

// admit submits, and while the pool is full waits for as long as it says.
func admit(ctx context.Context, submit func() (*tether.Task, error)) (*tether.Task, error) {
	for {
		task, err := submit()
		var full *tether.FullError
		switch {
		case err == nil:
			return task, nil
		case errors.Is(err, tether.ErrClosed), errors.Is(err, tether.ErrShutdown):
			return nil, errLater
		case !errors.As(err, &full):
			return nil, err
		}
		wait := time.NewTimer(min(max(full.RetryAfter, 10*time.Millisecond), time.Second))
		select {
		case <-wait.C:
		case <-tether.StoppingFrom(ctx):
			wait.Stop()
			return nil, errLater
		}
	}
}
