package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/mail"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// order is an order with its state.
type order struct {
	Seq      int64 // the number on the invoice
	ID       string
	Customer string
	Lines    []line
	Created  time.Time
	State    orderState
	Reason   string // why it failed
	Webhook  webhookStatus

	// click identifies the order among requests: two requests with the same click are one
	// order. It is the client's Idempotency-Key, or the fingerprint. The fingerprint
	// is a hash of the customer and the lines.
	click       string
	fingerprint string
	stocked     bool // its goods have been taken from the stock
}

// line is one position of an order, with the price at the time of the order.
type line struct {
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"`
	Name       string `json:"name,omitempty"`
	PriceCents int64  `json:"price_cents,omitempty"`
}

func (o *order) totalCents() int64 {
	var total int64
	for _, l := range o.Lines {
		total += l.Quantity * l.PriceCents
	}
	return total
}

// orderState changes once, from pending to invoiced or failed. The webhook does not change
// it: an order with an invoice is invoiced even if its webhook cannot be delivered.
type orderState string

const (
	pending  orderState = "pending"
	invoiced orderState = "invoiced"
	failed   orderState = "failed"
)

const (
	orderBytes = 64 << 10 // of an order's JSON
	orderLines = 100

	customerBytes = 254       // of an address
	mostOfOne     = 1_000_000 // of one line, so that totals stay far from overflow

	// doubleClick is the time after an order in which the same order of the same customer
	// counts as a second click. While the first order is pending it always does, and with
	// an Idempotency-Key it does forever.
	doubleClick = 5 * time.Second
)

// postOrder accepts an order. When it answers 202 the order is on the disk, and its work
// and its line in the audit log have been admitted.
//
// Every click becomes a task that accepts the order. Unique makes the clicks of one order
// share that task and its outcome while the task lives. A later click finds the order in
// the store.
func (s *shop) postOrder(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > orderBytes {
		return &http.MaxBytesError{Limit: orderBytes}
	}
	o, err := decodeOrder(http.MaxBytesReader(w, r.Body, orderBytes))
	if err != nil {
		return err
	}
	if o.click, err = click(r.Header, o.fingerprint); err != nil {
		return err
	}
	line, err := s.audit.note(r, o.Customer)
	if err != nil {
		return err
	}
	accepting, err := tether.Submit(r.Context(), s.reg, "accept-order",
		func(ctx context.Context) (*order, error) { return s.accept(ctx, o) },
		tether.Unique(o.click), tether.Timeout(30*time.Second))
	if err != nil {
		return err
	}
	// Wait even if the client has gone: the order may be placed all the same, and the audit
	// log must have it. The task's Timeout bounds the wait.
	placed, err := accepting.Value(context.WithoutCancel(r.Context()))
	if err != nil {
		return err
	}
	if placed.fingerprint != o.fingerprint {
		return problemf(http.StatusUnprocessableEntity,
			"this Idempotency-Key was used for another order; use a new key for a new order")
	}
	location := "/orders/" + placed.ID
	w.Header().Set("Location", location)
	if placed.ID != o.ID {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	line.URL, line.Replayed = location, placed.ID != o.ID
	writeJSON(w, http.StatusAccepted, struct {
		ID       string     `json:"id"`
		State    orderState `json:"state"`
		URL      string     `json:"url"`
		Replayed bool       `json:"replayed,omitempty"` // an earlier request made the order
	}{placed.ID, placed.State, location, line.Replayed})
	return nil
}

// accept stores the order and admits its work, both or neither. It runs in one task at a
// time for each click. Another replica may accept the same order at the same time: the store
// decides which of the two it is.
func (s *shop) accept(ctx context.Context, o *order) (*order, error) {
	for {
		placed, err := s.acceptOnce(ctx, o)
		if !errors.Is(err, errClickTaken) {
			return placed, err
		}
	}
}

func (s *shop) acceptOnce(ctx context.Context, o *order) (*order, error) {
	first, err := s.store.orderByClick(ctx, o.click)
	switch {
	case errors.Is(err, errNoRow):
	case err != nil:
		return nil, err
	case s.sameOrder(first, o):
		return first, s.acceptAgain(ctx, first)
	}
	if err := s.store.price(ctx, o); err != nil {
		return nil, err
	}
	if s.queue != nil {
		if err := s.acceptDurably(ctx, o, first); err != nil {
			return nil, err
		}
		s.accepted.Add(1)
		return o, nil
	}
	// The work is admitted before the order is stored, so that nothing needs to be undone
	// if the pool is full. It is held until the order is on the disk, since the commit may
	// fail.
	work, err := s.orders.Go(ctx, "fulfil-order", s.fulfil(o.ID),
		append(s.fulfilment(o.ID), tether.Hold())...)
	if err != nil {
		return nil, err
	}
	if err := s.store.insertOrder(ctx, o, first); err != nil {
		work.Cancel(err)
		return nil, err
	}
	s.accepted.Add(1)
	work.Release()
	return o, nil
}

// sameOrder reports whether o repeats first, which has the same click.
func (s *shop) sameOrder(first, o *order) bool {
	if strings.HasPrefix(o.click, clientKey) {
		return true
	}
	return first.State == pending || o.Created.Sub(first.Created) < doubleClick
}

// decodeOrder reads and checks an order.
func decodeOrder(body io.Reader) (*order, error) {
	var request struct {
		Customer string `json:"customer"`
		Lines    []line `json:"lines"`
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, notJSON(err)
	}
	if !utf8.Valid(text) { // the decoder would replace such bytes with U+FFFD
		return nil, problemf(http.StatusBadRequest, "not JSON: the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&request); err != nil {
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("more follows the order")
		}
		return nil, notJSON(err)
	}
	if err := checkCustomer(request.Customer); err != nil {
		return nil, err
	}
	if len(request.Lines) == 0 {
		return nil, problemf(http.StatusUnprocessableEntity, "lines: an order needs at least one line")
	}
	if len(request.Lines) > orderLines {
		return nil, problemf(http.StatusUnprocessableEntity, "lines: %d are more than the %d of one order", len(request.Lines), orderLines)
	}
	lines := make([]line, len(request.Lines))
	for i, l := range request.Lines {
		if wrong := checkSKU(l.SKU); wrong != "" {
			return nil, problemf(http.StatusUnprocessableEntity, "lines[%d].sku: %s", i, wrong)
		}
		if l.Quantity < 1 || l.Quantity > mostOfOne {
			return nil, problemf(http.StatusUnprocessableEntity, "lines[%d].quantity: %d is not between 1 and %d", i, l.Quantity, mostOfOne)
		}
		lines[i] = line{SKU: l.SKU, Quantity: l.Quantity} // the price is the shop's, not the client's
	}
	o := &order{ID: rand.Text(), Customer: request.Customer, Lines: lines, State: pending, Created: time.Now()}
	o.Webhook.State = webhookNone
	o.fingerprint = fingerprint(o)
	return o, nil
}

func notJSON(err error) error {
	var tooMuch *http.MaxBytesError
	if errors.As(err, &tooMuch) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return problemf(http.StatusBadRequest, "the body ends before the JSON does")
	}
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return problemf(http.StatusBadRequest, "%s: a JSON %s does not belong here", wrongType.Field, wrongType.Value)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return problemf(http.StatusBadRequest, "not JSON at byte %d: %s", syntax.Offset, syntax)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problemf(http.StatusRequestTimeout, "the body did not arrive in time")
	}
	return problemf(http.StatusBadRequest, "not one JSON object: the body must be an order and nothing else")
}

// checkCustomer checks an e-mail address, which may have a name.
func checkCustomer(customer string) error {
	if wrong := checkText(customer, customerBytes); wrong != "" {
		return problemf(http.StatusUnprocessableEntity, "customer: %s", wrong)
	}
	if _, err := mail.ParseAddress(customer); err != nil {
		return problemf(http.StatusUnprocessableEntity, "customer: not an e-mail address such as ann@example.com")
	}
	return nil
}

// fingerprint returns a hash that two orders have in common if their customers and lines
// are the same.
func fingerprint(o *order) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", o.Customer) // quoted, so that the end of each field is unambiguous
	for _, l := range o.Lines {
		fmt.Fprintf(h, "\n%q %d", l.SKU, l.Quantity)
	}
	return hex.EncodeToString(h.Sum(nil))
}

const clientKey = "key:" // prefix of a click from an Idempotency-Key

// click returns what makes two requests one order. It is stored with the order, so that a
// key is valid forever, in the next process too. (tetherhttp.IdempotencyConfig remembers
// keys in memory and for a limited time, which is enough for a report.)
func click(h http.Header, fingerprint string) (string, error) {
	key, err := tetherhttp.IdempotencyKey(h)
	switch {
	case err != nil:
		return "", err
	case key == "":
		return "sum:" + fingerprint, nil
	}
	return clientKey + key, nil
}

// getOrder shows an order and what has become of it.
func (s *shop) getOrder(w http.ResponseWriter, r *http.Request) error {
	o, err := s.store.order(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	view := struct {
		ID         string        `json:"id"`
		State      orderState    `json:"state"`
		Reason     string        `json:"reason,omitempty"`
		Customer   string        `json:"customer"`
		Lines      []line        `json:"lines"`
		TotalCents int64         `json:"total_cents"`
		Created    time.Time     `json:"created"`
		Invoice    string        `json:"invoice,omitempty"`
		Webhook    webhookStatus `json:"webhook"`
	}{o.ID, o.State, o.Reason, o.Customer, o.Lines, o.totalCents(), o.Created.UTC(), "", o.Webhook}
	if o.State == invoiced {
		view.Invoice = "/orders/" + o.ID + "/invoice.pdf"
	}
	w.Header().Set("Cache-Control", "no-store") // it changes
	writeJSON(w, http.StatusOK, view)
	return nil
}

// getInvoice sends the PDF.
func (s *shop) getInvoice(w http.ResponseWriter, r *http.Request) error {
	o, err := s.store.order(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if o.State != invoiced {
		return problemf(http.StatusNotFound, "this order is %s and has no invoice", o.State)
	}
	f, err := s.invoices.open(o)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	w.Header().Set("Content-Type", "application/pdf")
	w.Header().Set("Content-Disposition", `inline; filename="invoice-`+invoiceNumber(o)+`.pdf"`)
	http.ServeContent(w, r, "", o.Created, f)
	return nil
}
