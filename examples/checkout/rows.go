package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// rowReader reads a CSV file (RFC 4180) row by row in a fixed amount of memory, and
// continues after a broken row.
//
// encoding/csv cannot do that: a quote that is opened and never closed makes the rest of
// the file one field, and all of it is held in memory. Here a row spans several lines only
// if that makes it complete. If not, its first line is a bad row, and the next line begins
// a new one.
type rowReader struct {
	src    *bufio.Reader
	fields int   // in a good row
	at     int64 // bytes consumed
	line   int64 // the number of the last line consumed

	row  [][]byte // the last row: slices of src's buffer or of buf
	buf  []byte   // the quoted fields of the last row, without their quotes
	rowN int64    // the number of the first line of the last row
}

const (
	rowBytes = 64 << 10 // most bytes of a row, with its line ends
	rowLines = 16       // most lines of a row; it bounds how often a line is parsed
)

// newRowReader returns a reader of rows with the given number of fields. src begins at byte
// at of its file, after line number line.
func newRowReader(src io.Reader, fields int, at, line int64) *rowReader {
	return &rowReader{src: bufio.NewReaderSize(src, 4*rowBytes), fields: fields, at: at, line: line}
}

// badRow is the error for a row that cannot be used. Reading continues after it.
type badRow struct {
	line   int64
	reason string
}

func (b *badRow) Error() string { return fmt.Sprintf("line %d: %s", b.line, b.reason) }

// next returns the next row. Its fields are valid until the next call. The error is io.EOF
// after the last row, a *badRow for a broken one, or that of the source. Empty lines are
// skipped.
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

// parse parses the row at the start of window, whose first line has first bytes.
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

// split splits a row into r.row. It reports whether the text ends inside quotes, and
// returns what is wrong with it.
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

// skipLongLine skips a line that is longer than a row may be.
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

// consume marks n bytes of the window, with their lines, as read.
func (r *rowReader) consume(n, lines int) {
	_, _ = r.src.Discard(n) // buffered: cannot fail
	r.at += int64(n)
	r.line += int64(lines)
}

// lineLength returns the length of the first line, with its line end. If the window has no
// line end, it is zero, or the length of the window if that is the last of the file.
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
