// Package stacks finds the stacks of goroutines, by what they run or by their profiler
// labels.
package stacks

import (
	"bytes"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
)

// manyGoroutines is the most goroutines that Take stops, for about 10 µs each.
const manyGoroutines = 2000

// Dump holds stacks of a process, taken at one time.
type Dump struct {
	byArgs  map[string][]byte // stacks that contain the function, by its arguments
	byLabel map[string][]byte // stacks by label; not nil if there were too many goroutines
}

// Take returns the stacks of the goroutines that are in a function, which is written as
// "main.(*T).run". It stops all goroutines of the process meanwhile. If there are more
// than 2000 of them, or their stacks take more than 64 MB, it returns the stacks of the
// goroutines that carry the label key, and stops none for long.
func Take(function, key string) Dump {
	if n := runtime.NumGoroutine(); n <= manyGoroutines {
		for size := 1024 * max(n, 64); size <= 64<<20; size *= 2 {
			text := make([]byte, size)
			if n := runtime.Stack(text, true); n < len(text) {
				return Dump{byArgs: split(string(text[:n]), function)}
			}
		}
	}
	return Dump{byLabel: ByLabel(key)}
}

// Of returns the stack of the goroutine that is in the function with these arguments,
// which are written as a stack shows them: "0xc000012345, 0x1". If there were too many
// goroutines, it returns the stacks of all goroutines with the label value. It returns
// nil if there is none.
func (d Dump) Of(args, value string) []byte {
	if d.byLabel != nil {
		return d.byLabel[value]
	}
	return d.byArgs[args]
}

// split returns the stacks in a dump that contain a function, by its arguments. Blank
// lines separate goroutines. A frame is two lines, of which the first is the call. The
// runtime puts a question mark behind an argument that it is not sure of, so that it
// equals no argument that is asked for.
func split(dump, function string) map[string][]byte {
	found := make(map[string][]byte)
	for stack := range strings.SplitSeq(dump, "\n\n") {
		for line := range strings.Lines(stack) {
			if args, ok := strings.CutPrefix(line, function+"("); ok {
				found[strings.TrimSuffix(args, ")\n")] = []byte(strings.TrimSuffix(stack, "\n") + "\n")
			}
		}
	}
	return found
}

// ByLabel returns the stacks of all goroutines that carry the label key, by its value.
// Goroutines with equal stacks are shown once, with their number.
//
// It reads the goroutine profile of the runtime in the legacy text form, the only form
// that has labels and symbols and needs no decoder. Lines that it does not understand
// are left out.
func ByLabel(key string) map[string][]byte {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return nil
	}
	return parse(profile.String(), key)
}

// parse returns the stacks of a profile, by the value of the label key. Blank lines
// separate the records of a profile:
//
//	2 @ 0x47d… 0x40e…
//	# labels: {"key":"value", "other":"value"}
//	#	0x4a1f04	main.work+0x24	/src/main.go:12
func parse(profile, key string) map[string][]byte {
	found := make(map[string][]byte)
	for record := range strings.SplitSeq(profile, "\n\n") {
		var value string
		var labeled bool
		var text strings.Builder
		for line := range strings.Lines(record) {
			if labels, ok := strings.CutPrefix(line, "# labels: "); ok {
				value, labeled = label(labels, key)
				continue
			}
			if frame, ok := strings.CutPrefix(line, "#\t"); ok {
				if _, frame, ok = strings.Cut(frame, "\t"); ok { // drop the address
					text.WriteString("\t" + frame)
				}
				continue
			}
			if n, _, ok := strings.Cut(line, " @ "); ok {
				text.WriteString(n + " goroutine(s):\n")
			}
		}
		if labeled {
			stack := strings.TrimRight(text.String(), "\n") + "\n"
			found[value] = append(found[value], stack...)
		}
	}
	return found
}

// label returns the value of key in {"key":"value", …}, where both are quoted as in Go.
func label(labels, key string) (value string, ok bool) {
	rest := strings.TrimPrefix(labels, "{")
	for {
		k, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return "", false
		}
		rest = strings.TrimPrefix(rest[len(k):], ":")
		v, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return "", false
		}
		rest = strings.TrimPrefix(rest[len(v):], ", ")
		if k, err := strconv.Unquote(k); err == nil && k == key {
			value, err := strconv.Unquote(v)
			return value, err == nil
		}
	}
}
