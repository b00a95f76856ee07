package figures

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Dash stands where there is no figure.
const Dash = "–"

// Table is a Markdown table. The first row is the head.
type Table [][]string

func (t Table) String() string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range t {
		for k, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[k]-utf8.RuneCountInString(cell)) + " ")
		}
		b.WriteString("|\n")
		if i == 0 {
			b.WriteString(rule(widths))
		}
	}
	return b.String()
}

// rule aligns the first column to the left and the figures to the right.
func rule(widths []int) string {
	var b strings.Builder
	for i, w := range widths {
		if i == 0 {
			b.WriteString("|" + strings.Repeat("-", w+2))
		} else {
			b.WriteString("|" + strings.Repeat("-", w+1) + ":")
		}
	}
	return b.String() + "|\n"
}

// Format keeps the digits that are worth reading. NaN is a [Dash].
func Format(v float64) string {
	digits := 2
	switch size := math.Abs(v); {
	case math.IsNaN(v):
		return Dash
	case size >= 100:
		digits = 0
	case size >= 10:
		digits = 1
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(text, "-0.") == "" {
		return "0"
	}
	return text
}
