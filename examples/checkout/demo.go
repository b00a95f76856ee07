package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
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

// customer is the client of -demo. It uses the shop over HTTP, prints what it receives,
// and checks it.
type customer struct {
	base   string
	admin  string
	client *http.Client
	out    io.Writer

	accepted []string // the URLs of the orders, imports and images that were answered 202
	sold     int64    // orders, as a report has said
}

// playCustomer orders, imports, uploads and requests reports, and then sends the process
// SIGTERM while work is going on. Its error says what was not as expected.
func playCustomer(serving context.Context, base, admin string, out io.Writer) error {
	c := &customer{base: base, admin: admin, client: &http.Client{Timeout: 10 * time.Second}, out: out}
	defer c.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(serving, 3*time.Minute) // a few seconds are usual, a minute on a busy machine
	defer cancel()

	var err error
	for _, scene := range []func(context.Context) error{
		c.orders, c.clicksTwice, c.ordersWithKey, c.ordersTheImpossible, c.writesNonsense, c.importsStock, c.uploadsPicture,
		c.ordersForMany, c.readsReports, c.followsReport, c.cancelsReport, c.readsAuditLog, c.looksBehindTheScenes,
		c.ordersUntilTheEnd,
	} {
		if err = scene(ctx); err != nil {
			break
		}
	}
	if serving.Err() != nil {
		return errors.Join(err, context.Cause(serving)) // the server has ended by itself
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
		clicks    [2]customer
		locations [2]string
		errs      [2]error
	)
	for i := range clicks {
		clicks[i] = customer{base: c.base, client: c.client, out: c.out}
		wg.Go(func() {
			locations[i], errs[i] = clicks[i].post(ctx, "/orders", `{"customer":"bob@example.com","lines":[{"sku":"kettle","quantity":1}]}`)
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	c.accepted = append(c.accepted, locations[:]...)
	if locations[0] != locations[1] {
		return fmt.Errorf("a double click made two orders: %v", locations)
	}
	c.say("a double click: one order")
	return nil
}

// ordersWithKey sends an order twice with one key, which makes one order, and then
// another order with that key, which is refused.
func (c *customer) ordersWithKey(ctx context.Context) error {
	const (
		order = `{"customer":"eve@example.com","lines":[{"sku":"coffee","quantity":1}]}`
		other = `{"customer":"eve@example.com","lines":[{"sku":"coffee","quantity":2}]}`
	)
	key := "Idempotency-Key: " + rand.Text()
	if _, err := c.postTwice(ctx, "/orders", order, key); err != nil {
		return err
	}
	res, body, err := c.do(ctx, http.MethodPost, "/orders", other, key)
	if err != nil {
		return err
	}
	c.say("POST /orders for something else, with the same key: %d %s", res.StatusCode, bytes.TrimSpace(body))
	if res.StatusCode != http.StatusUnprocessableEntity {
		return fmt.Errorf("POST /orders for something else: %s %s", res.Status, body)
	}
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
		{"/reports?from=yesterday", "", http.StatusBadRequest},
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

// ordersForMany makes orders for the reports.
func (c *customer) ordersForMany(ctx context.Context) error {
	quiet := *c
	quiet.out = io.Discard
	var locations []string
	const many = 30
	for i := range many {
		location, err := quiet.post(ctx, "/orders", fmt.Sprintf(`{"customer":"fay%d@example.com","lines":[{"sku":"tea","quantity":%d}]}`, i, 1+i%5))
		if err != nil {
			return err
		}
		locations = append(locations, location)
	}
	c.accepted = quiet.accepted
	for _, location := range locations {
		if _, err := quiet.follow(ctx, location, func(s status) bool { return s.State == "invoiced" }); err != nil {
			return err
		}
	}
	c.say("%d more orders, invoiced", many)
	return nil
}

// readsReports requests reports that are made within half a second: the response has them.
func (c *customer) readsReports(ctx context.Context) error {
	body, err := c.report(ctx, "/reports", "application/json")
	if err != nil {
		return err
	}
	var report salesReport
	if err := json.Unmarshal(body, &report); err != nil {
		return fmt.Errorf("/reports: %w", err)
	}
	if c.sold = report.Orders; c.sold == 0 {
		return errors.New("/reports: nothing was sold")
	}
	_, err = c.report(ctx, "/reports?format=csv", "text/csv; charset=utf-8")
	return err
}

func (c *customer) report(ctx context.Context, path, contentType string) ([]byte, error) {
	start := time.Now()
	// Prefer is for a very busy machine. Elsewhere half a second is enough.
	res, body, err := c.do(ctx, http.MethodPost, path, "", "Prefer: wait=10")
	if err != nil {
		return nil, err
	}
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != contentType {
		return nil, fmt.Errorf("POST %s: %s, %s: %s", path, res.Status, got, body)
	}
	c.say("POST %s: 200 in %.1f ms, %s:\n%s", path, milliseconds(start), contentType, bytes.TrimSpace(body))
	return body, nil
}

// followsReport requests a report that takes longer, repeats the request as after a lost
// response, and watches the one task that both have made.
func (c *customer) followsReport(ctx context.Context) error {
	// The report takes one and a half seconds.
	path := fmt.Sprintf("/reports?rate=%d", max(1, c.sold*2/3))
	location, err := c.postTwice(ctx, path, "", "Idempotency-Key: "+rand.Text())
	if err != nil {
		return err
	}
	if err := c.watch(ctx, location); err != nil {
		return err
	}
	report, err := c.get(ctx, location+"/result")
	if err != nil {
		return err
	}
	c.say("GET %s/result: %d bytes", location, len(report))
	return nil
}

// watch prints a task's events until it has ended, and checks that it succeeded.
func (c *customer) watch(ctx context.Context, location string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+location, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	var last status
	events := bufio.NewScanner(res.Body)
	events.Buffer(nil, 4<<20) // the last one contains the report
	for events.Scan() && !last.Done {
		data, ok := strings.CutPrefix(events.Text(), "data: ")
		if !ok {
			continue
		}
		if err := json.Unmarshal([]byte(data), &last); err != nil {
			return fmt.Errorf("%s: %w", location, err)
		}
		c.say("event: %s %d/%d", last.State, last.Progress.Done, last.Progress.Total)
	}
	if last.State != "succeeded" {
		return fmt.Errorf("%s: the events end with %q: %w", location, last.State, events.Err())
	}
	return nil
}

// cancelsReport requests a report that would take half a minute, and cancels it.
func (c *customer) cancelsReport(ctx context.Context) error {
	location, err := c.post(ctx, "/reports?rate=1", "", "Prefer: respond-async")
	if err != nil {
		return err
	}
	for _, step := range []struct {
		method, path, header string
		status               int
	}{
		{http.MethodDelete, location, "", http.StatusAccepted},
		{http.MethodGet, location, "Prefer: wait=10", http.StatusOK}, // until the task has ended
		{http.MethodGet, location + "/result", "", http.StatusGone},
		{http.MethodDelete, location, "", http.StatusNoContent},
		{http.MethodGet, location, "", http.StatusGone},
	} {
		res, body, err := c.do(ctx, step.method, step.path, "", step.header)
		if err != nil {
			return err
		}
		c.say("%s %s: %d %s", step.method, step.path, res.StatusCode, bytes.TrimSpace(body))
		if res.StatusCode != step.status {
			return fmt.Errorf("%s %s: %s instead of %d", step.method, step.path, res.Status, step.status)
		}
	}
	return nil
}

// looksBehindTheScenes reads the metrics and the live page.
func (c *customer) looksBehindTheScenes(ctx context.Context) error {
	behind := &customer{base: c.admin, client: c.client}
	metrics, err := behind.get(ctx, "/metrics")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, `tether_tasks_ended_total{pool="orders"`) && !strings.HasSuffix(line, " 0\n") {
			c.say("GET /metrics: %s", strings.TrimSpace(line))
		}
	}
	page, err := behind.get(ctx, "/debug/tether/?format=json")
	if err != nil {
		return err
	}
	var seen struct {
		Pools []struct {
			Name   string
			Counts struct{ Succeeded int }
		}
	}
	if err := json.Unmarshal(page, &seen); err != nil {
		return fmt.Errorf("the live page: %w", err)
	}
	for _, p := range seen.Pools {
		if p.Name == "orders" && p.Counts.Succeeded > 0 {
			c.say("GET /debug/tether/: %d tasks of the pool %s have succeeded", p.Counts.Succeeded, p.Name)
			return nil
		}
	}
	return errors.New("the live page does not show the orders' tasks")
}

// readsAuditLog finds a line for each 202. Lines are written after the responses, so the
// last may not be there yet.
func (c *customer) readsAuditLog(ctx context.Context) error {
	var lines []json.RawMessage
	err := poll(ctx, func() (bool, error) {
		body, err := c.get(ctx, "/audit")
		if err != nil {
			return false, err
		}
		var log struct{ Lines []json.RawMessage }
		if err := json.Unmarshal(body, &log); err != nil {
			return false, err
		}
		lines = log.Lines
		missing := slices.Clone(c.accepted)
		for _, text := range lines {
			var line auditLine
			if err := json.Unmarshal(text, &line); err != nil {
				return false, err
			}
			if i := slices.Index(missing, line.URL); i >= 0 {
				missing = slices.Delete(missing, i, i+1)
			}
		}
		return len(missing) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("the audit log lacks a line for a 202: %w", err)
	}
	c.say("GET /audit: a line for each of %d answers, such as", len(c.accepted))
	c.say("  %s", lines[len(lines)-1])
	return nil
}

// ordersUntilTheEnd leaves work for the drain: a report, and orders. At least their
// webhooks are unfinished, since the receiver is slow.
func (c *customer) ordersUntilTheEnd(ctx context.Context) error {
	if _, err := c.post(ctx, "/reports?rate=1", "", "Prefer: respond-async"); err != nil {
		return err
	}
	var last string
	for i := range 20 {
		location, err := c.post(ctx, "/orders", fmt.Sprintf(`{"customer":"dot%d@example.com","lines":[{"sku":"honey","quantity":1}]}`, i))
		if err != nil {
			return err
		}
		last = location
	}
	_, err := c.follow(ctx, last, func(s status) bool { return s.Webhook.State != string(webhookNone) })
	return err
}

// status is the state of an order, an import or an image, as the shop shows it.
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
		text += fmt.Sprintf(" (%d%%)", s.Progress.Done*5/s.Progress.Total*20) // in fifths, so that few lines are printed
	}
	if s.Webhook.State != "" {
		text += ", webhook " + s.Webhook.State
	}
	return text
}

// follow polls a resource and prints each change of its state, until wanted returns true.
func (c *customer) follow(ctx context.Context, location string, wanted func(status) bool) (status, error) {
	var (
		got   status
		shown string
	)
	err := poll(ctx, func() (bool, error) {
		body, err := c.get(ctx, location)
		if err != nil {
			return false, err
		}
		got = status{}
		if err := json.Unmarshal(body, &got); err != nil {
			return false, err
		}
		if text := got.String(); text != shown {
			c.say("GET %s: %s", location, text)
			shown = text
		}
		return wanted(got), nil
	})
	if err != nil {
		return got, fmt.Errorf("%s stays %s: %w", location, got, err)
	}
	return got, nil
}

// poll calls look until it returns true or an error.
func poll(ctx context.Context, look func() (found bool, err error)) error {
	const often = 10 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		if found, err := look(); found || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// post sends a body that must be answered 202, and returns the Location.
func (c *customer) post(ctx context.Context, path, body string, headers ...string) (location string, err error) {
	start := time.Now()
	res, answer, err := c.do(ctx, http.MethodPost, path, body, headers...)
	if err != nil {
		return "", err
	}
	location = res.Header.Get("Location")
	if res.StatusCode != http.StatusAccepted || location == "" {
		return "", fmt.Errorf("POST %s: %s %s", path, res.Status, answer)
	}
	if !strings.HasPrefix(path, "/reports") {
		c.accepted = append(c.accepted, location)
	}
	note := ""
	if res.Header.Get("Idempotency-Replayed") == "true" {
		note = ", Idempotency-Replayed: true"
	}
	c.say("POST %s: 202 in %.1f ms, Location: %s%s", path, milliseconds(start), location, note)
	return location, nil
}

// postTwice repeats a request with the same key, as a client does that has lost the first
// response.
func (c *customer) postTwice(ctx context.Context, path, body, key string) (location string, err error) {
	if location, err = c.post(ctx, path, body, key); err != nil {
		return "", err
	}
	again, err := c.post(ctx, path, body, key)
	if err == nil && again != location {
		err = fmt.Errorf("POST %s twice with one key: %s and %s", path, location, again)
	}
	return location, err
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

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

// do sends a request with headers such as "Prefer: wait=10".
func (c *customer) do(ctx context.Context, method, path, body string, headers ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for _, header := range headers {
		if name, value, ok := strings.Cut(header, ": "); ok {
			req.Header.Set(name, value)
		}
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
