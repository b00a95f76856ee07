package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInvoice(t *testing.T) {
	plain := func() *order {
		return &order{
			Seq: 42, ID: "ABC", Customer: "ann@example.com", Created: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
			Lines: []line{{SKU: "tea", Name: "Green tea", Quantity: 2, PriceCents: 690}},
		}
	}
	draw := func(t *testing.T, o *order) []byte {
		t.Helper()
		var pdf bytes.Buffer
		require.NoError(t, renderInvoice(&pdf, o))
		require.True(t, bytes.HasPrefix(pdf.Bytes(), []byte("%PDF-")))
		require.True(t, bytes.HasSuffix(bytes.TrimSpace(pdf.Bytes()), []byte("%%EOF")))
		return pdf.Bytes()
	}
	first := draw(t, plain())
	require.Equal(t, first, draw(t, plain()), "made again it is the same")

	for name, customer := range map[string]string{
		"latin": "Zoë Nuñez <zoe@example.com>", "greek": "Αθηνά <athina@example.com>", "cyrillic": "Юлия <julia@example.com>",
		"chinese": "王芳 <wang@example.com>", "emoji": "🦄 <u@example.com>", "arabic": "ليلى <l@example.com>",
		"long": strings.Repeat("Wolfeschlegelsteinhausen ", 9) + "<w@example.com>", "broken": "\xff\xfe@example.com",
	} {
		t.Run(name, func(t *testing.T) {
			o := plain()
			o.Customer = customer
			require.NotEqual(t, first, draw(t, o))
		})
	}
	t.Run("joiners and soft hyphens are not drawn", func(t *testing.T) {
		o := plain()
		o.Lines[0].Name = "Green tea" + "\u200d"
		require.Equal(t, first, draw(t, o), "nor do they need another typeface")
		o.Lines[0].Name = "Zu\u00adcker"
		hyphen := draw(t, o)
		o.Lines[0].Name = "Zucker"
		require.Equal(t, draw(t, o), hyphen)
		o.Customer = "Αθη\u200dνά <athina@example.com>"
		joined := draw(t, o)
		o.Customer = "Αθηνά <athina@example.com>"
		require.Equal(t, draw(t, o), joined)
	})
	t.Run("many lines take several pages", func(t *testing.T) {
		o := plain()
		o.Lines = slicesOfLines(o.Lines[0], orderLines)
		require.Equal(t, 4, bytes.Count(draw(t, o), []byte("/Type /Page\n")))
	})
}

func slicesOfLines(l line, n int) (lines []line) {
	for range n {
		lines = append(lines, l)
	}
	return lines
}

func TestMoney(t *testing.T) {
	for cents, want := range map[int64]string{0: "0.00", 5: "0.05", 1234: "12.34", 100_000_00: "100,000.00", 1_234_567_89: "1,234,567.89"} {
		require.Equal(t, want, money(cents))
	}
}

func BenchmarkInvoice(b *testing.B) {
	o := &order{Seq: 42, ID: "ABC", Customer: "ann@example.com", Created: time.Unix(0, 0),
		Lines: []line{{SKU: "tea", Name: "Green tea", Quantity: 2, PriceCents: 690}}}
	for b.Loop() {
		var pdf bytes.Buffer
		if err := renderInvoice(&pdf, o); err != nil {
			b.Fatal(err)
		}
	}
}
