package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
)

// invoices is the folder of the invoices: one PDF for each invoiced order.
type invoices struct{ dir string }

func (i invoices) path(o *order) string { return filepath.Join(i.dir, o.ID+".pdf") }

// make writes the invoice of an order. The file appears whole or not at all, and making it
// again produces the same bytes.
func (i invoices) make(o *order) error {
	var pdf bytes.Buffer
	if err := renderInvoice(&pdf, o); err != nil {
		return fmt.Errorf("invoice: %w", err)
	}
	if err := writeWhole(i.path(o), pdf.Bytes()); err != nil {
		return fmt.Errorf("invoice: %w", err)
	}
	return nil
}

// open opens the invoice of an invoiced order. If the file has been deleted, it is made
// again from the store.
func (i invoices) open(o *order) (*os.File, error) {
	f, err := os.Open(i.path(o))
	if errors.Is(err, fs.ErrNotExist) {
		if err := i.make(o); err != nil {
			return nil, err
		}
		f, err = os.Open(i.path(o))
	}
	if err != nil {
		return nil, fmt.Errorf("invoice: %w", err)
	}
	return f, nil
}

const partSuffix = ".part"

// writeWhole writes a file under another name and renames it when it is on the disk, so
// that half a file is never visible.
func writeWhole(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+partSuffix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func invoiceNumber(o *order) string { return fmt.Sprintf("%d-%06d", o.Created.UTC().Year(), o.Seq) }

// typeface is the typeface of an invoice.
type typeface struct {
	family string
	encode func(string) string // returns text in the family's encoding
}

// chooseTypeface returns a typeface that can draw all texts of an order. The standard
// fonts of PDF need no embedding: such an invoice is small and takes a tenth of the time.
// They have Western European letters only. For other letters the Go fonts are embedded,
// which add Greek and Cyrillic. A character that these lack, such as a Chinese one, is
// drawn as '?', so that no name makes an invoice fail. Invisible characters are omitted,
// since neither family can join letters.
func chooseTypeface(pdf *fpdf.Fpdf, o *order) typeface {
	western := fits(withoutInvisible(o.Customer), isLatin1)
	for _, l := range o.Lines {
		western = western && fits(l.SKU, isLatin1) && fits(withoutInvisible(l.Name), isLatin1)
	}
	if western {
		cp1252 := pdf.UnicodeTranslatorFromDescriptor("") // "" is cp1252
		return typeface{"Helvetica", func(text string) string { return cp1252(withoutInvisible(text)) }}
	}
	pdf.AddUTF8FontFromBytes("go", "", goregular.TTF)
	pdf.AddUTF8FontFromBytes("go", "B", gobold.TTF)
	return typeface{"go", func(text string) string {
		return strings.Map(func(r rune) rune {
			if hasGlyph(r) {
				return r
			}
			return '?'
		}, withoutInvisible(text))
	}}
}

func fits(text string, has func(rune) bool) bool {
	return strings.IndexFunc(text, func(r rune) bool { return !has(r) }) < 0
}

func isLatin1(r rune) bool { return r >= 0x20 && r <= 0x7e || r >= 0xa0 && r <= 0xff }

// hasGlyph reports whether the Go fonts can draw r. They cover the WGL4 set; these are its
// letters and punctuation.
func hasGlyph(r rune) bool {
	switch {
	case r >= 0x20 && r <= 0x7e, r >= 0xa0 && r <= 0x17f: // Latin
		return true
	case r >= 0x384 && r <= 0x3ce && r != 0x38b && r != 0x38d && r != 0x3a2: // Greek
		return true
	case r >= 0x400 && r <= 0x45f, r == 0x490, r == 0x491: // Cyrillic
		return true
	}
	return strings.ContainsRune("€–—‘’“”„…", r)
}

// sheet is an invoice that is being drawn.
type sheet struct {
	*fpdf.Fpdf
	face typeface
}

// renderInvoice draws the invoice on as many A4 pages as it needs.
func renderInvoice(out *bytes.Buffer, o *order) error {
	pdf := fpdf.New("P", "mm", "A4", "")
	pdf.SetTitle("Invoice "+invoiceNumber(o), true)
	pdf.SetCreator("checkout", true)
	pdf.SetCreationDate(o.Created.UTC())
	pdf.SetModificationDate(o.Created.UTC())
	pdf.SetCatalogSort(true) // the same order produces the same bytes
	s := &sheet{pdf, chooseTypeface(pdf, o)}
	s.SetMargins(20, 20, 20)
	s.SetAutoPageBreak(true, bottom)
	s.AliasNbPages("{pages}")
	s.SetFooterFunc(func() {
		s.SetY(-18)
		s.font("", 8, grey)
		// The alias becomes a number later: without the difference in width the text would
		// not be centered.
		page := fmt.Sprintf("Invoice %s   page %d of {pages}", invoiceNumber(o), s.PageNo())
		s.CellFormat(s.GetStringWidth("{pages}")-s.GetStringWidth("1"), 5, "", "", 0, "", false, 0, "")
		s.CellFormat(0, 5, page, "", 0, "C", false, 0, "")
	})
	s.AddPage()
	s.head(o)
	s.columns()
	for _, l := range o.Lines {
		s.line(l)
	}
	s.font("B", 10, black)
	s.CellFormat(colSKU+colName+colQuantity+colPrice, 10, "Total (EUR)", "", 0, "R", false, 0, "")
	s.CellFormat(colSum, 10, money(o.totalCents()), "", 1, "R", false, 0, "")
	return s.Output(out)
}

// Columns of the table, in mm: they add up to the 170 between the margins.
const (
	colSKU, colName, colQuantity, colPrice, colSum = 34.0, 62.0, 20.0, 26.0, 28.0

	rowHeight = 7.5
	bottom    = 25.0 // of a page, for the footer
	black     = 0
	grey      = 110
)

func (s *sheet) font(style string, size float64, shade int) {
	s.SetFont(s.face.family, style, size)
	s.SetTextColor(shade, shade, shade)
}

// head draws the number, the date and the customer.
func (s *sheet) head(o *order) {
	s.font("B", 22, black)
	s.CellFormat(0, 12, "Invoice", "", 1, "L", false, 0, "")
	s.Ln(4)
	for _, field := range [][2]string{
		{"Number", invoiceNumber(o)},
		{"Date", o.Created.UTC().Format("2 January 2006")},
		{"Order", o.ID},
		{"Customer", o.Customer},
	} {
		s.font("", 10, grey)
		s.CellFormat(28, 6, field[0], "", 0, "L", false, 0, "")
		s.font("", 10, black)
		s.CellFormat(0, 6, s.fit(field[1], 142), "", 1, "L", false, 0, "")
	}
	s.Ln(8)
}

// columns draws the head of the table.
func (s *sheet) columns() {
	s.font("B", 9, black)
	s.SetFillColor(240, 240, 240)
	s.SetDrawColor(200, 200, 200)
	for _, col := range []struct {
		width       float64
		text, align string
	}{
		{colSKU, "Article", "L"}, {colName, "Name", "L"}, {colQuantity, "Quantity", "R"},
		{colPrice, "Price (EUR)", "R"}, {colSum, "Sum (EUR)", "R"},
	} {
		s.CellFormat(col.width, rowHeight, col.text, "", 0, col.align, true, 0, "")
	}
	s.Ln(-1)
	s.font("", 10, black)
}

// line draws a row of the table, on a new page if this one is full.
func (s *sheet) line(l line) {
	if _, height := s.GetPageSize(); s.GetY()+rowHeight > height-bottom {
		s.AddPage()
		s.columns()
	}
	cell := func(width float64, text, align string) {
		s.CellFormat(width, rowHeight, s.fit(text, width), "B", 0, align, false, 0, "")
	}
	cell(colSKU, l.SKU, "L")
	cell(colName, l.Name, "L")
	cell(colQuantity, fmt.Sprint(l.Quantity), "R")
	cell(colPrice, money(l.PriceCents), "R")
	cell(colSum, money(l.Quantity*l.PriceCents), "R")
	s.Ln(-1)
}

// fit encodes a text for one cell. A text that is too wide is cut off and ends in dots.
func (s *sheet) fit(text string, width float64) string {
	room := width - 2*s.GetCellMargin()
	whole := s.face.encode(text)
	if s.GetStringWidth(whole) <= room {
		return whole
	}
	letters := []rune(text)
	for len(letters) > 0 {
		letters = letters[:len(letters)-1]
		if cut := s.face.encode(string(letters)) + "..."; s.GetStringWidth(cut) <= room {
			return cut
		}
	}
	return ""
}

// money formats cents as euros.
func money(cents int64) string {
	euros := fmt.Sprint(cents / 100)
	for i := len(euros) - 3; i > 0; i -= 3 {
		euros = euros[:i] + "," + euros[i:]
	}
	return fmt.Sprintf("%s.%02d", euros, cents%100)
}
