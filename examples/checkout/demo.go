package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// customer plays somebody who uses the shop over HTTP, shows what is seen, and
// checks it: the demo's part of the program.
type customer struct {
	base   string
	client *http.Client
	out    io.Writer
}

// playCustomer orders, imports and uploads, then has the process told to stop while
// work is going on. Its error says what was not as it should be.
func playCustomer(ctx context.Context, base string, out io.Writer) error {
	c := &customer{base: base, client: &http.Client{Timeout: 10 * time.Second}, out: out}
	defer c.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	var err error
	for _, scene := range []func(context.Context) error{
		c.orders, c.clicksTwice, c.ordersTheImpossible, c.writesNonsense, c.importsStock, c.uploadsPicture, c.ordersUntilTheEnd,
	} {
		if err = scene(ctx); err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return errors.Join(err, context.Cause(ctx)) // the server has ended by itself: nobody to signal
	}
	c.say("SIGTERM")
	self, findErr := os.FindProcess(os.Getpid())
	if findErr != nil {
		return errors.Join(err, findErr)
	}
	return errors.Join(err, self.Signal(syscall.SIGTERM))
}

func (c *customer) orders(ctx context.Context) error {
	location, err := c.post(ctx, "/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":2},{"sku":"mug","quantity":1}]}`)
	if err != nil {
		return err
	}
	got, err := c.follow(ctx, location, func(s status) bool { return s.State != "pending" })
	if err != nil {
		return err
	}
	if got.State != "invoiced" {
		return fmt.Errorf("%s: %s (%s) instead of invoiced", location, got.State, got.Reason)
	}
	pdf, err := c.get(ctx, location+"/invoice.pdf")
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		return fmt.Errorf("%s: the invoice is not a PDF", location)
	}
	c.say("GET %s/invoice.pdf: %d bytes of PDF", location, len(pdf))
	return nil
}

func (c *customer) clicksTwice(ctx context.Context) error {
	var (
		wg        sync.WaitGroup
		locations [2]string
		errs      [2]error
	)
	for i := range 2 {
		wg.Go(func() {
			locations[i], errs[i] = c.post(ctx, "/orders", `{"customer":"bob@example.com","lines":[{"sku":"kettle","quantity":1}]}`)
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if locations[0] != locations[1] {
		return fmt.Errorf("a double click made two orders: %v", locations)
	}
	c.say("a double click: one order")
	return nil
}

func (c *customer) ordersTheImpossible(ctx context.Context) error {
	location, err := c.post(ctx, "/orders", `{"customer":"cid@example.com","lines":[{"sku":"unicorn","quantity":1}]}`)
	if err != nil {
		return err
	}
	got, err := c.follow(ctx, location, func(s status) bool { return s.State != "pending" })
	if err != nil {
		return err
	}
	if got.State != "failed" || got.Reason == "" {
		return fmt.Errorf("%s: %s (%s) instead of failed with a reason", location, got.State, got.Reason)
	}
	return nil
}

func (c *customer) writesNonsense(ctx context.Context) error {
	for _, bad := range []struct {
		path, body string
		status     int
	}{
		{"/orders", `{"customer":`, http.StatusBadRequest},
		{"/orders", `{"customer":"ann@example.com","lines":[]}`, http.StatusUnprocessableEntity},
		{"/imports", "\x00\x01\x02", http.StatusUnprocessableEntity},
		{"/images", "not a picture", http.StatusUnsupportedMediaType},
	} {
		res, body, err := c.do(ctx, http.MethodPost, bad.path, bad.body)
		if err != nil {
			return err
		}
		if res.StatusCode != bad.status || res.Header.Get("Content-Type") != "application/problem+json" {
			return fmt.Errorf("POST %s %q: %s %s", bad.path, bad.body, res.Status, body)
		}
		c.say("POST %s %q: %d %s", bad.path, bad.body, res.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

func (c *customer) importsStock(ctx context.Context) error {
	var csv strings.Builder
	csv.WriteString("sku,name,quantity,price_cents\n")
	csv.WriteString("jam,\"Jam, strawberry\",40,390\n") // line 2
	csv.WriteString("oops,\"never closed,1,100\n")      // line 3: bad
	csv.WriteString("tart,Tart,many,450\n")             // line 4: bad
	const rest = 10_000
	for i := range rest {
		fmt.Fprintf(&csv, "book-%d,Book %d,%d,1500\n", i, i, i%100)
	}
	location, err := c.post(ctx, "/imports", csv.String())
	if err != nil {
		return err
	}
	got, err := c.follow(ctx, location, func(s status) bool { return s.Done })
	if err != nil {
		return err
	}
	var lines []int64
	for _, bad := range got.BadRows {
		c.say("  line %d: %s", bad.Line, bad.Reason)
		lines = append(lines, bad.Line)
	}
	c.say("GET %s: %d rows imported, %d bad", location, got.Rows, len(got.BadRows))
	if got.State != "done" || got.Rows != rest+1 || !slices.Equal(lines, []int64{3, 4}) {
		return fmt.Errorf("%s: %s with %d rows and bad lines %v, instead of %d rows and bad lines 3 and 4",
			location, got.State, got.Rows, lines, rest+1)
	}
	return nil
}

func (c *customer) uploadsPicture(ctx context.Context) error {
	var picture bytes.Buffer
	if err := png.Encode(&picture, samplePicture(1600, 900)); err != nil {
		return err
	}
	location, err := c.post(ctx, "/images?width=320", picture.String())
	if err != nil {
		return err
	}
	got, err := c.follow(ctx, location, func(s status) bool { return s.Done })
	if err != nil {
		return err
	}
	small, err := c.get(ctx, got.Picture)
	if err != nil {
		return err
	}
	config, err := png.DecodeConfig(bytes.NewReader(small))
	if err != nil || config.Width != 320 || config.Height != 180 {
		return fmt.Errorf("%s: %d x %d instead of 320 x 180 (%v)", got.Picture, config.Width, config.Height, err)
	}
	c.say("GET %s: %d x %d, %d bytes", got.Picture, config.Width, config.Height, len(small))
	return nil
}

// ordersUntilTheEnd leaves with orders under way: their webhooks at least, which
// the receiver takes a while to answer.
func (c *customer) ordersUntilTheEnd(ctx context.Context) error {
	var last string
	for i := range 20 {
		location, err := c.post(ctx, "/orders", fmt.Sprintf(`{"customer":"dot%d@example.com","lines":[{"sku":"honey","quantity":1}]}`, i))
		if err != nil {
			return err
		}
		last = location
	}
	_, err := c.follow(ctx, last, func(s status) bool { return s.Webhook.State == string(webhookSending) || s.Webhook.State == "pending" })
	return err
}

// status is what the shop shows of an order, an import or an image.
type status struct {
	State    string   `json:"state"`
	Done     bool     `json:"done"`
	Reason   string   `json:"reason"`
	Progress progress `json:"progress"`
	Rows     int64    `json:"rows"`
	BadRows  []struct {
		Line   int64  `json:"line"`
		Reason string `json:"reason"`
	} `json:"bad_rows"`
	Picture string `json:"picture"`
	Webhook struct {
		State  string `json:"state"`
		Reason string `json:"reason"`
	} `json:"webhook"`
}

func (s status) String() string {
	text := s.State
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	if s.Progress.Total > 0 {
		text += fmt.Sprintf(" (%d%%)", s.Progress.Done*5/s.Progress.Total*20) // in fifths: enough to watch
	}
	if s.Webhook.State != "" {
		text += ", webhook " + s.Webhook.State
	}
	return text
}

// follow shows each change of a resource's state until it is as wanted.
func (c *customer) follow(ctx context.Context, location string, wanted func(status) bool) (status, error) {
	const often = 10 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	for shown := ""; ; {
		body, err := c.get(ctx, location)
		if err != nil {
			return status{}, err
		}
		var got status
		if err := json.Unmarshal(body, &got); err != nil {
			return got, fmt.Errorf("%s: %w", location, err)
		}
		if text := got.String(); text != shown {
			c.say("GET %s: %s", location, text)
			shown = text
		}
		if wanted(got) {
			return got, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return got, fmt.Errorf("%s stays %s: %w", location, got, context.Cause(ctx))
		}
	}
}

// post sends a body that must be accepted and returns where its state is shown.
func (c *customer) post(ctx context.Context, path, body string) (location string, err error) {
	start := time.Now()
	res, answer, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return "", err
	}
	location = res.Header.Get("Location")
	if res.StatusCode != http.StatusAccepted || location == "" {
		return "", fmt.Errorf("POST %s: %s %s", path, res.Status, answer)
	}
	c.say("POST %s: 202 in %.1f ms, Location: %s", path, float64(time.Since(start).Microseconds())/1000, location)
	return location, nil
}

func (c *customer) get(ctx context.Context, path string) ([]byte, error) {
	res, body, err := c.do(ctx, http.MethodGet, path, "")
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s %s", path, res.Status, body)
	}
	return body, nil
}

func (c *customer) do(ctx context.Context, method, path, body string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	answer, err := io.ReadAll(res.Body)
	return res, answer, err
}

func (c *customer) say(format string, args ...any) {
	fmt.Fprintf(c.out, "demo: "+format+"\n", args...)
}
