package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readAll shows what a reader makes of a file: "fields|of|a row", "line: reason" for
// a bad one.
func readAll(t *testing.T, r *rowReader) (got []string) {
	t.Helper()
	for {
		row, err := r.next()
		var bad *badRow
		switch {
		case errors.Is(err, io.EOF):
			return got
		case errors.As(err, &bad):
			got = append(got, fmt.Sprintf("%d: %s", bad.line, bad.reason))
		default:
			require.NoError(t, err)
			got = append(got, string(bytes.Join(row, []byte("|"))))
		}
	}
}

func TestRows(t *testing.T) {
	const unclosed = "a quote is opened and not closed"
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"plain":                           {"a,b,c\nd,e,f\n", []string{"a|b|c", "d|e|f"}},
		"no end of the last line":         {"a,b,c\nd,e,f", []string{"a|b|c", "d|e|f"}},
		"windows line ends":               {"a,b,c\r\nd,e,f\r\n", []string{"a|b|c", "d|e|f"}},
		"empty lines are no rows":         {"\na,b,c\n\r\n\nd,e,f\n\n", []string{"a|b|c", "d|e|f"}},
		"empty fields":                    {",,\n\"\",,\n", []string{"||", "||"}},
		"quotes":                          {`a,"b, and b","c ""c"""` + "\n", []string{`a|b, and b|c "c"`}},
		"a field of two lines":            {"a,\"b\nb\",c\nd,e,f\n", []string{"a|b\nb|c", "d|e|f"}},
		"too few fields":                  {"a,b\nd,e,f\n", []string{"1: 2 fields instead of 3", "d|e|f"}},
		"too many fields":                 {"a,b,c,d\ne,f,g\n", []string{"1: 4 fields instead of 3", "e|f|g"}},
		"a quote inside a field":          {"a,b\"b,c\nd,e,f\n", []string{"1: a quote inside a field that does not begin with one", "d|e|f"}},
		"text after a quote":              {"a,\"b\"b,c\nd,e,f\n", []string{"1: something follows a closing quote", "d|e|f"}},
		"a quote that is not closed":      {"a,\"b,c\nd,e,f\ng,h,i\n", []string{"1: " + unclosed, "d|e|f", "g|h|i"}},
		"not closed, at the end":          {"a,b,c\nd,\"e,f", []string{"a|b|c", "2: " + unclosed}},
		"not closed, quotes below":        {"a,\"b,c\nd,\"e\",f\n\"g\",h,i\n", []string{"1: " + unclosed, "d|e|f", "g|h|i"}},
		"not closed twice":                {"a,\"b,c\nd,\"e,f\ng,h,i\n", []string{"1: " + unclosed, "2: " + unclosed, "g|h|i"}},
		"closed too far below":            {"a,\"b" + strings.Repeat("\nx,y,z", rowLines) + "\",c\n", append(append([]string{"1: " + unclosed}, slicesOf("x|y|z", rowLines-1)...), fmt.Sprintf("%d: a quote inside a field that does not begin with one", rowLines+1))},
		"as many lines as a row may have": {"a,\"b" + strings.Repeat("\nx", rowLines-1) + "\",c\n", []string{"a|b" + strings.Repeat("\nx", rowLines-1) + "|c"}},
		"a line that is too long":         {"a,b,c\n" + strings.Repeat("x", 3*rowBytes) + "\nd,e,f\n", []string{"a|b|c", fmt.Sprintf("2: longer than %d bytes", rowBytes), "d|e|f"}},
		"too long, at the end":            {"a,b,c\n" + strings.Repeat("x", 9*rowBytes), []string{"a|b|c", fmt.Sprintf("2: longer than %d bytes", rowBytes)}},
		"nothing":                         {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, readAll(t, newRowReader(strings.NewReader(test.text), 3, 0, 0)))
		})
	}
}

func slicesOf(s string, n int) []string { return strings.Split(strings.Repeat(s+" ", n-1)+s, " ") }

func TestRowsPassOnWhatTheSourceSays(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := newRowReader(io.MultiReader(strings.NewReader("a,b\n"), errorReader{broken}), 2, 0, 0)
	_, err := r.next()
	require.ErrorIs(t, err, broken)
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// A restart continues at any row, with the same rows and the same line numbers.
func TestRowsGoOnFromAnyPlace(t *testing.T) {
	const text = "a,b\n\"c\nc\",d\n\ne,\"f\nbad\ng,h\n"
	want := readAll(t, newRowReader(strings.NewReader(text), 2, 0, 0))
	for n := range want {
		r := newRowReader(strings.NewReader(text), 2, 0, 0)
		for range n {
			_, _ = r.next()
		}
		again := newRowReader(strings.NewReader(text[r.at:]), 2, r.at, r.line)
		require.Equal(t, want[n:], readAll(t, again), "after %d rows", n)
		require.Equal(t, int64(len(text)), again.at)
	}
}

// A quote at the top that is never closed, and a line without an end: encoding/csv
// would hold all that follows in memory.
func TestRowsHoldLittleInMemory(t *testing.T) {
	const size = 16 << 20
	for name, line := range map[string]string{
		"rows":             "sku-1,a name,1,100\n",
		"quotes":           "sku-1,\"a name,1,100\n",
		"one endless line": "sku-1,\"a name,1,100",
	} {
		t.Run(name, func(t *testing.T) {
			src := io.LimitReader(&repeater{text: line}, size)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := newRowReader(io.MultiReader(strings.NewReader("x,\"never closed,1,2\n"), src), 4, 0, 0)
			good, bad := 0, 0
			for {
				_, err := r.next()
				if err == nil {
					good++
					continue
				}
				if errors.Is(err, io.EOF) {
					break
				}
				var wrong *badRow
				require.ErrorAs(t, err, &wrong)
				bad++
			}
			runtime.ReadMemStats(&after)
			require.Greater(t, r.at, int64(size), "the whole file was read")
			// All bytes ever allocated, not those of one moment. A bad row costs its report, and
			// the test's look at it.
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+2000*bad), "%d good, %d bad", good, bad)
			if name == "rows" {
				require.LessOrEqual(t, bad, 2, "the first, and the last if the limit has cut it")
			}
		})
	}
}

// repeater repeats a text forever.
type repeater struct {
	text string
	at   int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.text[r.at:])
		n += c
		r.at = (r.at + c) % len(r.text)
	}
	return n, nil
}

// What encoding/csv reads without an error is read the same here.
func FuzzRowsLikeEncodingCSV(f *testing.F) {
	f.Add("a,b\nc,d\n")
	f.Add("\"a\"\"\",b\r\n\n\"c\nc\",d")
	f.Add("a,\"b\nc,d\ne,\"f\"")
	f.Add("\"\"\n\"a\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := newRowReader(strings.NewReader(text), 2, 0, 0)
		got := readAll(t, r)
		require.Equal(t, int64(len(text)), r.at, "every byte is accounted for")
		require.Equal(t, int64(strings.Count(text, "\n")), r.line-trailing(text))
		reader := csv.NewReader(strings.NewReader(text))
		reader.FieldsPerRecord = 2
		rows, err := reader.ReadAll()
		if err != nil || strings.Contains(text, "\r") || tall(rows) {
			return // encoding/csv also rewrites \r\n inside quotes
		}
		var want []string
		for _, row := range rows {
			want = append(want, strings.Join(row, "|"))
		}
		require.Equal(t, want, got)
	})
}

// trailing is 1 if the last line has no end.
func trailing(text string) int64 {
	if text == "" || strings.HasSuffix(text, "\n") {
		return 0
	}
	return 1
}

func tall(rows [][]string) bool {
	for _, row := range rows {
		if strings.Count(strings.Join(row, ""), "\n") >= rowLines {
			return true
		}
	}
	return false
}
