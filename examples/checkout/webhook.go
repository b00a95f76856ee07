package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/seed-2e639f12/tether"
)

// webhooks announces each invoice to another program. The orders table is the outbox: the
// webhook of an invoiced order waits there until a delivery claims it. The pool of the
// deliveries is small. If the receiver is slow, the outbox grows on the disk, and
// neither memory nor the orders are affected.
//
// A webhook is delivered at least once: the process may end between the receiver's response
// and the record of it. Its webhook-id stays the same, so that the receiver can recognize a
// repetition.
type webhooks struct {
	url      string
	signer   signer
	client   *http.Client
	attempts int
	backoff  func(attempt int, err error) time.Duration
}

// webhookStatus is the state of the webhook, apart from that of the order.
type webhookStatus struct {
	State    webhookState `json:"state"`
	Attempts int          `json:"attempts"`
	Reason   string       `json:"reason,omitempty"` // of the last attempt that failed
}

type webhookState string

const (
	webhookNone      webhookState = "none"      // the order is not invoiced
	webhookSending   webhookState = "sending"   // claimed, also between attempts
	webhookDelivered webhookState = "delivered" // answered 2xx
	webhookFailed    webhookState = "failed"    // refused for good, or too often
)

func newWebhooks(url string, sign signer, attempts int, backoff func(int, error) time.Duration) webhooks {
	return webhooks{
		url:      url,
		signer:   sign,
		attempts: attempts,
		backoff:  backoff,
		client: &http.Client{
			Timeout: 15 * time.Second, // of one attempt
			// A redirect could send the signed body anywhere, so it counts as a refusal.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{MaxIdleConnsPerHost: webhookWorkers, IdleConnTimeout: 30 * time.Second},
		},
	}
}

// refusal is the error for a response that is not 2xx.
type refusal struct{ status int }

func (r *refusal) Error() string {
	return fmt.Sprintf("the receiver answered %d %s", r.status, http.StatusText(r.status))
}

// worthRetrying reports whether another attempt may succeed: after a failure of the network
// or the receiver, but not after a refusal.
func worthRetrying(err error) bool {
	var no *refusal
	if errors.As(err, &no) {
		return no.status >= 500 || no.status == http.StatusTooManyRequests || no.status == http.StatusRequestTimeout
	}
	return true // the network
}

// send makes one attempt.
func (h webhooks) send(ctx context.Context, o *order) error {
	body, err := json.Marshal(map[string]any{
		"type":      "order.invoiced",
		"timestamp": o.Created.UTC().Format(time.RFC3339),
		"data": map[string]any{
			"order":       o.ID,
			"invoice":     "/orders/" + o.ID + "/invoice.pdf",
			"number":      invoiceNumber(o),
			"total_cents": o.totalCents(),
		},
	})
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	h.signer.sign(req.Header, "order-"+o.ID, time.Now(), body)
	res, err := h.client.Do(req)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer func() { _ = res.Body.Close() }()                      // it was only read
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return &refusal{res.StatusCode}
	}
	return nil
}

// deliverNext submits a task that delivers the oldest webhook in the outbox. The task claims
// a webhook when it runs. If the pool is full the webhook stays in the outbox, and one of
// the tasks that fill the pool continues with it (see deliver), so none is forgotten.
func (s *shop) deliverNext(ctx context.Context) {
	var claimed *order // by the first attempt; the others deliver the same
	_, err := s.hooks.Go(ctx, "webhook", func(ctx context.Context) error {
		if claimed == nil {
			o, err := s.store.claimWebhook(ctx, s.member.name)
			if errors.Is(err, errNoRow) {
				return nil // another task has claimed it
			}
			if err != nil {
				return fmt.Errorf("webhook: %w", err)
			}
			claimed = o
		}
		return s.deliver(ctx, claimed)
	}, tether.Retry(tether.RetryPolicy{
		Attempts:    s.webhooks.attempts,
		Backoff:     s.webhooks.backoff,
		ShouldRetry: worthRetrying,
	}))
	if err != nil && !errors.Is(err, tether.ErrFull) && !errors.Is(err, tether.ErrClosed) && !errors.Is(err, tether.ErrShutdown) {
		slog.ErrorContext(ctx, "webhook not submitted; it waits for another delivery", "err", err)
	}
}

// deliver makes one attempt and records its outcome. If that is final, it continues with
// the next webhook in the outbox, except when the stop has begun: the outbox may hold
// hours of work for a slow receiver, and it is safe on the disk.
func (s *shop) deliver(ctx context.Context, o *order) error {
	err := s.webhooks.send(ctx, o)
	if err != nil && ctx.Err() != nil {
		return err // canceled by the drain: the next start delivers it
	}
	o.Webhook.Attempts++
	final := true
	switch {
	case err == nil:
		o.Webhook.State, o.Webhook.Reason = webhookDelivered, ""
	case worthRetrying(err) && attempt(ctx) < s.webhooks.attempts:
		o.Webhook.State, o.Webhook.Reason = webhookSending, err.Error()
		final = false
	default:
		o.Webhook.State, o.Webhook.Reason = webhookFailed, err.Error()
	}
	if err := s.store.noteWebhook(ctx, o.ID, o.Webhook); err != nil {
		return fmt.Errorf("webhook of order %s: %w", o.ID, err)
	}
	if final {
		s.drainOutbox(ctx)
	}
	if err != nil {
		return fmt.Errorf("webhook of order %s: %w", o.ID, err)
	}
	return nil
}

// drainOutbox continues with the webhooks that found no room in the pool.
func (s *shop) drainOutbox(ctx context.Context) {
	select {
	case <-tether.StoppingFrom(ctx):
		return
	default:
	}
	switch n, err := s.store.webhooksWaiting(ctx, 1); {
	case err != nil:
		slog.ErrorContext(ctx, "outbox not read", "err", err)
	case n > 0:
		s.deliverNext(ctx)
	}
}
