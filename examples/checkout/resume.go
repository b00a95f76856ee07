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

// resume continues what an earlier process accepted and did not finish, because it was
// killed or its drain ran out of time. It is the body of a task, so that the shop serves
// meanwhile.
func (s *shop) resume(ctx context.Context) error {
	if s.cfg.works() {
		if err := s.resumeWebhooks(ctx); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
	}
	if !s.cfg.serves() {
		return nil // the web resumes orders and uploads
	}
	if err := s.resumeUploads(ctx); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := s.resumeOrders(ctx); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// errLater ends the resumption when the stop begins.
var errLater = errors.New("the rest is left for the next start")

func (s *shop) resumeOrders(ctx context.Context) error {
	last, err := s.store.lastOrder(ctx) // newer orders have their tasks already
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
	uploads, err := s.store.pendingUploads(ctx, s.member.name)
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

// resumeWebhooks fills the pool. Each delivery continues with the next in the outbox.
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

// tidy cleans up after killed processes, before the shop serves. Webhooks that were being
// sent return to the outbox. Files that no row refers to are removed: their uploads were
// not answered 202. Whatever another live process may be using is left alone.
func (s *shop) tidy(ctx context.Context) error {
	if s.cfg.works() {
		if err := s.store.unclaimWebhooks(ctx, s.member.others); err != nil {
			return err
		}
	}
	if s.cfg.serves() {
		if err := s.store.holdUploads(ctx, s.member.name, s.member.others); err != nil {
			return err
		}
		if !s.member.colleagues() { // which may be receiving uploads
			if err := s.tidySpool(ctx); err != nil {
				return err
			}
		}
	}
	if !s.member.alone() {
		return nil // another process may be writing an invoice
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
	uploads, err := s.store.pendingUploads(ctx, "")
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

// admit calls submit. While the pool is full it waits, for the time in the pool's error, and
// calls submit again.
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
