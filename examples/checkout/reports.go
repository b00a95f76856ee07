package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

const (
	reportInline  = 500 * time.Millisecond // longer than that, and the answer is 202
	reportTimeout = 10 * time.Minute
	reportPage    = 1000 // orders are read at once

	// Reports are kept in memory for their clients to fetch: as many, for so long, and
	// of so many rows, about 100 bytes each.
	reportsKept    = 100
	reportsKeptFor = 15 * time.Minute
	reportRows     = 10_000
)

// salesReports answers POST /reports: within half a second with the report, or with
// the URL of a task that shows how far it is, and the report when it is done.
func (s *shop) salesReports() http.Handler {
	return tetherhttp.Async(s.reports, "sales-report", s.makeReport, tetherhttp.AsyncConfig{
		Inline:  reportInline,
		MaxBody: -1, // the URL is the whole request
		Check: func(r *http.Request) error {
			_, err := readReportWish(r.URL.Query())
			return err
		},
		TaskOptions: []tether.Option{tether.Timeout(reportTimeout)},
		Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: reportsKeptFor, MaxKeys: reportsKept},
	})
}

// reportTasks shows the reports that were answered 202, and cancels them. Reports
// alone: nobody cancels an order here, whatever id he has found.
func (s *shop) reportTasks() http.Handler {
	return tetherhttp.Tasks(s.reg, tetherhttp.TasksConfig{
		AllowCancel: true,
		Authorize: func(_ *http.Request, t *tether.Task) bool {
			return t.Info().Pool == s.reports.Name()
		},
	})
}

// reportWish is what a client wants to know.
type reportWish struct {
	from, to time.Time // from <= an order < to
	asCSV    bool
	rate     int // orders a second; 0: as quickly as it goes
}

func readReportWish(query url.Values) (wish reportWish, err error) {
	wish.to = time.Now().Add(time.Millisecond) // orders know the millisecond, not more
	for name, into := range map[string]*time.Time{"from": &wish.from, "to": &wish.to} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		if *into, err = time.Parse(time.DateOnly, text); err != nil {
			return wish, problemf(http.StatusBadRequest, "%s: not a day such as 2026-01-31", name)
		}
	}
	if query.Get("to") != "" {
		wish.to = wish.to.AddDate(0, 0, 1) // the day is included
	}
	switch format := query.Get("format"); format {
	case "", "json":
	case "csv":
		wish.asCSV = true
	default:
		return wish, problemf(http.StatusBadRequest, "format: neither json nor csv")
	}
	if text := query.Get("rate"); text != "" {
		if wish.rate, err = strconv.Atoi(text); err != nil || wish.rate < 1 {
			return wish, problemf(http.StatusBadRequest, "rate: not a number of orders a second")
		}
	}
	return wish, nil
}

// salesReport is what was sold, by day (UTC) and product.
type salesReport struct {
	Orders       int64      `json:"orders"`
	RevenueCents int64      `json:"revenue_cents"`
	Rows         []salesRow `json:"rows"`
}

type salesRow struct {
	Day          string `json:"day"`
	SKU          string `json:"sku"`
	Quantity     int64  `json:"quantity"`
	RevenueCents int64  `json:"revenue_cents"`
}

// salesCSV is a report that is sent as a CSV file: tetherhttp has a result that is a
// handler write itself.
type salesCSV struct{ *salesReport }

func (c salesCSV) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="sales.csv"`)
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"day", "sku", "quantity", "revenue_cents"}) // Flush gives up where Write has failed
	for _, row := range c.Rows {
		_ = rows.Write([]string{row.Day, row.SKU, strconv.FormatInt(row.Quantity, 10), strconv.FormatInt(row.RevenueCents, 10)})
	}
	rows.Flush() // if the client is gone nobody is left to tell
}

// makeReport is the body of a report's task. It reads the orders page by page and
// holds no connection in between: the orders that come in meanwhile do not wait.
func (s *shop) makeReport(ctx context.Context, r *http.Request) (any, error) {
	wish, err := readReportWish(r.URL.Query())
	if err != nil {
		return nil, err
	}
	total, err := s.store.countInvoiced(ctx, wish.from, wish.to)
	if err != nil {
		return nil, err
	}
	sales := sales{rows: make(map[salesKey]*salesRow)}
	for last := (&order{Created: wish.from}); ; {
		page, err := s.store.invoicedOrders(ctx, last, wish.to, wish.page())
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, o := range page {
			if err := sales.add(o); err != nil {
				return nil, err
			}
		}
		last = page[len(page)-1]
		tether.ReportProgress(ctx, tether.Progress{
			Done: sales.orders, Total: max(total, sales.orders), Message: last.Created.UTC().Format(time.DateOnly),
		})
		wish.rest(ctx, len(page))
	}
	report := sales.report()
	if wish.asCSV {
		return salesCSV{report}, nil
	}
	return report, nil
}

// page is how many orders are read at once: a tenth of a second's at most.
func (wish *reportWish) page() int {
	if wish.rate == 0 {
		return reportPage
	}
	return min(max(1, wish.rate/10), reportPage)
}

// rest keeps to the rate, after n orders. When the shop is told to stop there is no
// rate any more: nobody orders now, and the report is to be done in time.
func (wish *reportWish) rest(ctx context.Context, n int) {
	if wish.rate == 0 {
		return
	}
	timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(wish.rate))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tether.StoppingFrom(ctx):
		wish.rate = 0
	case <-ctx.Done(): // the next page will say so
	}
}

// sales adds orders up.
type sales struct {
	orders int64
	rows   map[salesKey]*salesRow
}

type salesKey struct{ day, sku string }

func (s *sales) add(o *order) error {
	s.orders++
	day := o.Created.UTC().Format(time.DateOnly)
	for _, l := range o.Lines {
		row := s.rows[salesKey{day, l.SKU}]
		if row == nil {
			if len(s.rows) == reportRows {
				return problemf(http.StatusUnprocessableEntity, "more than %d rows: ask for fewer days", reportRows)
			}
			row = &salesRow{Day: day, SKU: l.SKU}
			s.rows[salesKey{day, l.SKU}] = row
		}
		row.Quantity += l.Quantity
		row.RevenueCents += l.Quantity * l.PriceCents
	}
	return nil
}

func (s *sales) report() *salesReport {
	report := &salesReport{Orders: s.orders, Rows: make([]salesRow, 0, len(s.rows))}
	for row := range maps.Values(s.rows) {
		report.RevenueCents += row.RevenueCents
		report.Rows = append(report.Rows, *row)
	}
	slices.SortFunc(report.Rows, func(a, b salesRow) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.SKU, b.SKU))
	})
	return report
}

// countInvoiced counts the orders that a report is about.
func (s *store) countInvoiced(ctx context.Context, from, to time.Time) (n int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM orders WHERE state = 'invoiced' AND created >= ? AND created < ?`,
		from.UnixMilli(), to.UnixMilli()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count invoiced orders: %w", err)
	}
	return n, nil
}

// invoicedOrders lists up to limit orders behind last and before to, in their order.
func (s *store) invoicedOrders(ctx context.Context, last *order, to time.Time, limit int) ([]*order, error) {
	rows, err := s.read.QueryContext(ctx, selectOrder+`WHERE state = 'invoiced' AND (created, seq) > (?, ?) AND created < ?
		ORDER BY created, seq LIMIT ?`, last.Created.UnixMilli(), last.Seq, to.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("list invoiced orders: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err has told already
	var orders []*order
	for rows.Next() {
		o, err := scanOrder(rows)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}
