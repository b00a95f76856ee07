package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// rowReader reads a CSV file (RFC 4180) row by row in a fixed amount of memory,
// whatever is in the file, and goes on after a row that is broken.
//
// Not encoding/csv: there a quote that is opened and never closed makes the rest
// of the file one field, all of it in memory, and one row bad instead of one line.
// Here a row spans several lines only if it comes out complete; if not, its first
// line is bad and the next line is a new row.
type rowReader struct {
	src    *bufio.Reader
	fields int   // in a good row
	at     int64 // bytes consumed
	line   int64 // the number of the last line consumed

	row  [][]byte // of the last call: into src's buffer, or into buf
	buf  []byte   // the last row's quoted fields, without their quotes
	rowN int64    // the number of the line where the last row began
}

const (
	rowBytes = 64 << 10 // of a row, its line ends included
	rowLines = 16       // of a row. It bounds how often a line can be looked at.
)

// newRowReader reads rows of so many fields from src, which begins at byte at,
// after line number line, of its file.
func newRowReader(src io.Reader, fields int, at, line int64) *rowReader {
	return &rowReader{src: bufio.NewReaderSize(src, 4*rowBytes), fields: fields, at: at, line: line}
}

// badRow is a row that cannot be used, and why. Reading goes on after it.
type badRow struct {
	line   int64
	reason string
}

func (b *badRow) Error() string { return fmt.Sprintf("line %d: %s", b.line, b.reason) }

// next returns the next row; its fields are valid until the following call. The
// error is io.EOF after the last row, a *badRow for one that is broken, or the
// source's own. Empty lines are not rows.
func (r *rowReader) next() ([][]byte, error) {
	for {
		window, err := r.src.Peek(rowBytes)
		if len(window) == 0 {
			return nil, err
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		first := lineLength(window, len(window) < rowBytes)
		if first == 0 {
			return nil, r.skipLongLine()
		}
		if len(trimLineEnd(window[:first])) == 0 {
			r.consume(first, 1)
			continue
		}
		return r.parse(window, first)
	}
}

// parse finds the row at the start of window, whose first line has first bytes.
func (r *rowReader) parse(window []byte, first int) ([][]byte, error) {
	r.rowN = r.line + 1
	end, lines := first, 1
	var reason string
	for {
		open, problem := r.split(trimLineEnd(window[:end]))
		if problem == "" && !open && len(r.row) == r.fields {
			r.consume(end, lines)
			return r.row, nil
		}
		if lines == 1 {
			switch {
			case open:
				reason = "a quote is opened and not closed"
			case problem != "":
				reason = problem
			default:
				reason = fmt.Sprintf("%d fields instead of %d", len(r.row), r.fields)
			}
		}
		more := 0
		if open && lines < rowLines {
			more = lineLength(window[end:], len(window) < rowBytes)
		}
		if more == 0 {
			r.consume(first, 1)
			return nil, &badRow{r.rowN, reason}
		}
		end, lines = end+more, lines+1
	}
}

// split cuts a row into r.row. It reports whether the text ends inside quotes, or
// what is wrong with it.
func (r *rowReader) split(text []byte) (open bool, problem string) {
	r.row, r.buf = r.row[:0], r.buf[:0]
	for {
		if len(text) == 0 || text[0] != '"' {
			field, rest, more := bytes.Cut(text, []byte{','})
			if bytes.IndexByte(field, '"') >= 0 {
				return false, "a quote inside a field that does not begin with one"
			}
			r.row = append(r.row, field)
			if !more {
				return false, ""
			}
			text = rest
			continue
		}
		start := len(r.buf)
		text = text[1:]
		for {
			i := bytes.IndexByte(text, '"')
			if i < 0 {
				return true, ""
			}
			r.buf = append(r.buf, text[:i]...)
			text = text[i+1:]
			if len(text) == 0 || text[0] != '"' {
				break
			}
			r.buf = append(r.buf, '"') // doubled: a quote in the field
			text = text[1:]
		}
		r.row = append(r.row, r.buf[start:])
		if len(text) == 0 {
			return false, ""
		}
		if text[0] != ',' {
			return false, "something follows a closing quote"
		}
		text = text[1:]
	}
}

// skipLongLine drops a line that is longer than a row may be, a piece at a time.
func (r *rowReader) skipLongLine() error {
	r.rowN = r.line + 1
	for {
		piece, err := r.src.ReadSlice('\n')
		r.at += int64(len(piece))
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r.line++
		return &badRow{r.rowN, fmt.Sprintf("longer than %d bytes", rowBytes)}
	}
}

// consume marks so many bytes, which are in the window, as read.
func (r *rowReader) consume(n, lines int) {
	_, _ = r.src.Discard(n) // buffered: cannot fail
	r.at += int64(n)
	r.line += int64(lines)
}

// lineLength is the length of the first line with its end, which the last line of
// a file (last: nothing follows the window) may lack. 0: the window does not tell.
func lineLength(window []byte, last bool) int {
	if i := bytes.IndexByte(window, '\n'); i >= 0 {
		return i + 1
	}
	if last {
		return len(window)
	}
	return 0
}

func trimLineEnd(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'})
}
