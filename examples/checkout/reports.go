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
	reportInline  = 500 * time.Millisecond // reports that take longer are answered 202
	reportTimeout = 10 * time.Minute
	reportPage    = 1000 // number of orders that are read at once

	// Reports are kept for their clients within these bounds: in memory, or with -replicas in
	// the store that they share, where their number has no bound. A row takes about 100 bytes.
	reportsKept    = 100
	reportsKeptFor = 15 * time.Minute
	reportRows     = 10_000
	reportBytes    = 2 << 20
)

// salesReports answers POST /reports: with the report if it is made within half a second, or
// with the URL of a task that shows its progress and has the report at the end.
func (s *shop) salesReports() http.Handler {
	return tetherhttp.Async(s.reports, "sales-report", s.makeReport, tetherhttp.AsyncConfig{
		Inline:  reportInline,
		MaxBody: -1, // the URL is the whole request
		Check: func(r *http.Request) error {
			_, err := parseReportQuery(r.URL.Query())
			return err
		},
		TaskOptions: []tether.Option{tether.Timeout(reportTimeout)},
		Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: reportsKeptFor, MaxKeys: reportsKept},
		Store:       s.shared,
	})
}

// reportTasks shows and cancels the reports that were answered 202. It does not show other
// tasks, so that an order cannot be canceled by its task's ID.
func (s *shop) reportTasks() http.Handler {
	return tetherhttp.Tasks(s.reg, tetherhttp.TasksConfig{
		AllowCancel: true,
		Store:       s.shared,
		Authorize: func(_ *http.Request, t tether.Info) bool {
			return t.Pool == s.reports.Name()
		},
	})
}

// reportQuery is the query of a report.
type reportQuery struct {
	from, to time.Time // from <= an order < to
	asCSV    bool
	rate     int // orders a second; zero means no limit
}

func parseReportQuery(values url.Values) (query reportQuery, err error) {
	query.to = time.Now().Add(time.Millisecond) // orders have a resolution of one millisecond
	for name, into := range map[string]*time.Time{"from": &query.from, "to": &query.to} {
		text := values.Get(name)
		if text == "" {
			continue
		}
		if *into, err = time.Parse(time.DateOnly, text); err != nil {
			return query, problemf(http.StatusBadRequest, "%s: not a day such as 2026-01-31", name)
		}
	}
	if values.Get("to") != "" {
		query.to = query.to.AddDate(0, 0, 1) // the day is included
	}
	switch format := values.Get("format"); format {
	case "", "json":
	case "csv":
		query.asCSV = true
	default:
		return query, problemf(http.StatusBadRequest, "format: neither json nor csv")
	}
	if text := values.Get("rate"); text != "" {
		if query.rate, err = strconv.Atoi(text); err != nil || query.rate < 1 {
			return query, problemf(http.StatusBadRequest, "rate: not a number of orders a second")
		}
	}
	return query, nil
}

// salesReport has the sales by day (UTC) and product.
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

// salesCSV is a report that is sent as a CSV file: tetherhttp calls a result that is an
// http.Handler.
type salesCSV struct{ *salesReport }

func (c salesCSV) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="sales.csv"`)
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"day", "sku", "quantity", "revenue_cents"}) // Flush does nothing if Write has failed
	for _, row := range c.Rows {
		_ = rows.Write([]string{row.Day, row.SKU, strconv.FormatInt(row.Quantity, 10), strconv.FormatInt(row.RevenueCents, 10)})
	}
	rows.Flush() // an error means that the client has gone
}

// makeReport is the body of a report's task. It reads the orders page by page and holds no
// connection in between, so that new orders do not wait.
func (s *shop) makeReport(ctx context.Context, r *http.Request) (any, error) {
	query, err := parseReportQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	total, err := s.store.countInvoiced(ctx, query.from, query.to)
	if err != nil {
		return nil, err
	}
	sales := sales{rows: make(map[salesKey]*salesRow)}
	for last := (&order{Created: query.from}); ; {
		page, err := s.store.invoicedOrders(ctx, last, query.to, query.page())
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
		query.rest(ctx, len(page))
	}
	report := sales.report()
	if query.asCSV {
		return salesCSV{report}, nil
	}
	return report, nil
}

// page returns the number of orders that are read at once: at most those of 0.1 s.
func (query *reportQuery) page() int {
	if query.rate == 0 {
		return reportPage
	}
	return min(max(1, query.rate/10), reportPage)
}

// rest waits after n orders, to keep to the rate. When the stop begins the rate is lifted:
// there are no new orders, and the report must be done in time.
func (query *reportQuery) rest(ctx context.Context, n int) {
	if query.rate == 0 {
		return
	}
	timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(query.rate))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tether.StoppingFrom(ctx):
		query.rate = 0
	case <-ctx.Done(): // reading the next page fails
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

// countInvoiced counts the orders of a report.
func (s *store) countInvoiced(ctx context.Context, from, to time.Time) (n int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM orders WHERE state = 'invoiced' AND created >= ? AND created < ?`,
		from.UnixMilli(), to.UnixMilli()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count invoiced orders: %w", err)
	}
	return n, nil
}

// invoicedOrders lists up to limit orders after last and before to, oldest first.
func (s *store) invoicedOrders(ctx context.Context, last *order, to time.Time, limit int) ([]*order, error) {
	rows, err := s.read.QueryContext(ctx, selectOrder+`WHERE state = 'invoiced' AND (created, seq) > (?, ?) AND created < ?
		ORDER BY created, seq LIMIT ?`, last.Created.UnixMilli(), last.Seq, to.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("list invoiced orders: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err has reported any error
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
