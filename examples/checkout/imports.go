package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/seed-2e639f12/tether"
)

// product is one row of an import.
type product struct {
	sku, name            string
	quantity, priceCents int64
}

const (
	skuBytes    = 64
	nameBytes   = 200
	mostInStock = 1_000_000_000
	mostCents   = 1_000_000_000

	// importBatch is the number of rows in a transaction. It is small enough for an order
	// to wait only milliseconds to write.
	importBatch = 500
	badRowsKept = 1000 // bad rows that are listed; the rest are counted
)

// importColumns are the columns of an import. The header line may have them in any order.
var importColumns = []string{"sku", "name", "quantity", "price_cents"}

// postImport streams a stock list into the spool and answers. The rows are imported in
// the background.
func (s *shop) postImport(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > s.cfg.maxImport {
		return &http.MaxBytesError{Limit: s.cfg.maxImport}
	}
	body := s.uploadBody(w, r)
	if _, _, err := readHeader(body.src); err != nil {
		return body.readError(err)
	}
	return s.acceptUpload(w, r, s.imports, &upload{Kind: anImport, Format: "csv"}, body, s.cfg.maxImport)
}

// getImport shows the progress of an import, and its bad rows.
func (s *shop) getImport(w http.ResponseWriter, r *http.Request) error {
	u, err := s.store.upload(r.Context(), anImport, r.PathValue("id"))
	if err != nil {
		return err
	}
	bad, err := s.store.badRows(r.Context(), u.ID)
	if err != nil {
		return err
	}
	type row struct {
		Line   int64  `json:"line"`
		Reason string `json:"reason"`
	}
	view := struct {
		uploadView
		Rows    int64 `json:"rows"`
		BadRows []row `json:"bad_rows"`
		Omitted int64 `json:"bad_rows_omitted"`
	}{uploadView: s.view(u), Rows: u.Rows, BadRows: make([]row, len(bad)), Omitted: max(0, u.BadRows-int64(len(bad)))}
	for i, b := range bad {
		view.BadRows[i] = row{b.line, b.reason}
	}
	w.Header().Set("Cache-Control", "no-store") // the state changes
	writeJSON(w, http.StatusOK, view)
	return nil
}

// readHeader reads the header line without consuming it. It returns the index of each of
// importColumns in a row, and the length of the line.
func readHeader(src *bufio.Reader) (columns []int, length int, err error) {
	window, err := peekLine(src)
	if err != nil {
		return nil, 0, err
	}
	notAList := problemf(http.StatusUnprocessableEntity,
		"not a stock list: the first line must name the columns sku,name,quantity,price_cents")
	if !utf8.Valid(window) {
		return nil, 0, problemf(http.StatusUnprocessableEntity, "not UTF-8: save the stock list as CSV in UTF-8")
	}
	var header rowReader
	text := trimLineEnd(bytes.TrimPrefix(window, []byte("\ufeff"))) // some spreadsheets begin with a BOM
	if open, reason := header.split(text); open || reason != "" || len(header.row) != len(importColumns) {
		return nil, 0, notAList
	}
	names := make([]string, len(header.row))
	for i, name := range header.row {
		names[i] = string(bytes.TrimSpace(name))
	}
	for _, column := range importColumns {
		i := slices.Index(names, column)
		if i < 0 {
			return nil, 0, notAList
		}
		columns = append(columns, i)
	}
	return columns, len(window), nil
}

// peekLine returns the first line without consuming it, or as much of it as a header can
// need. It does not wait for more bytes than that.
func peekLine(src *bufio.Reader) ([]byte, error) {
	const most = 1024
	for {
		_, err := src.Peek(min(src.Buffered()+1, most))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		window, _ := src.Peek(min(src.Buffered(), most)) // buffered: cannot fail
		if i := bytes.IndexByte(window, '\n'); i >= 0 {
			return window[:i+1], nil
		}
		if err != nil || len(window) == most {
			return window, nil
		}
	}
}

// importRows imports the rows of an upload, from where an earlier process has stopped. It
// holds one batch of rows in memory, whatever the size of the file.
func (s *shop) importRows(ctx context.Context, u *upload) (err error) {
	f, err := os.Open(s.spool.path(u.ID))
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	columns, length, err := readHeader(bufio.NewReader(f))
	if err != nil {
		return err
	}
	if u.At == 0 {
		u.At, u.Line = int64(length), 1
	}
	if _, err := f.Seek(u.At, io.SeekStart); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	rows := newRowReader(f, len(importColumns), u.At, u.Line)
	var (
		products []product
		bad      []badRow
		stopped  error
	)
	for stopped == nil {
		products, bad = products[:0], bad[:0]
		for range importBatch {
			p, wrong, err := nextProduct(rows, columns)
			if err != nil {
				stopped = err
				break
			}
			if wrong == nil {
				u.Rows++
				products = append(products, p)
				continue
			}
			if u.BadRows++; u.BadRows <= badRowsKept {
				bad = append(bad, *wrong)
			}
		}
		u.At, u.Line = rows.at, rows.line
		if err := s.store.saveRows(ctx, u, products, bad); err != nil {
			return err
		}
		tether.ReportProgress(ctx, tether.Progress{
			Done: u.At, Total: u.Size, Message: fmt.Sprintf("%d rows, %d bad", u.Rows, u.BadRows),
		})
		if stopped == nil && ctx.Err() != nil {
			return context.Cause(ctx) // the position is saved: the next start continues from it
		}
	}
	if !errors.Is(stopped, io.EOF) {
		return fmt.Errorf("import: %w", stopped)
	}
	return nil
}

// nextProduct reads one row and checks it. wrong is set for a row that cannot be used; an
// error ends the import.
func nextProduct(rows *rowReader, columns []int) (p product, wrong *badRow, err error) {
	row, err := rows.next()
	if err != nil {
		if errors.As(err, &wrong) {
			return p, wrong, nil
		}
		return p, nil, err
	}
	field := func(i int) string { return string(row[columns[i]]) }
	p.sku, p.name = field(0), field(1)
	if wrong := checkSKU(p.sku); wrong != "" {
		return p, &badRow{rows.rowN, "sku: " + wrong}, nil
	}
	if wrong := checkText(p.name, nameBytes); wrong != "" {
		return p, &badRow{rows.rowN, "name: " + wrong}, nil
	}
	for i, number := range []struct {
		to   *int64
		most int64
	}{{&p.quantity, mostInStock}, {&p.priceCents, mostCents}} {
		n, err := strconv.ParseInt(field(2+i), 10, 64)
		if err != nil || n < 0 || n > number.most {
			return p, &badRow{rows.rowN, fmt.Sprintf("%s: not a whole number from 0 to %d", importColumns[2+i], number.most)}, nil
		}
		*number.to = n
	}
	return p, nil, nil
}
