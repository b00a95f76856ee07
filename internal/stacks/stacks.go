// Package stacks finds goroutines by what they run, or by their profiler labels.
package stacks

import (
	"bytes"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
)

// manyGoroutines is how many may be stopped for a Dump, at about 10 µs each.
const manyGoroutines = 2000

// Dump is the stacks of a process at one time.
type Dump struct {
	byArgs  map[string][]byte // of the goroutines that are in the function
	byLabel map[string][]byte // instead, if there are too many goroutines
}

// Take takes the stacks of the goroutines that are in a function, "main.(*T).run",
// and stops all of them for the while. If they are too many it takes, without a stop,
// the stacks of those that carry the label key.
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
// written as in a stack: "0xc000012345, 0x1". If the goroutines were too many it is
// the stacks of all whose label is value. It is nil if there is none.
func (d Dump) Of(args, value string) []byte {
	if d.byLabel != nil {
		return d.byLabel[value]
	}
	return d.byArgs[args]
}

// split finds the goroutines in a dump that are in a function, by the function's
// arguments. Blank lines part goroutines; a frame is two lines, of which the first is
// the call. An argument of which the runtime is not sure has a question mark, and so
// is not what anybody asks for.
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

// ByLabel returns the stacks of all goroutines that carry the label key, by its
// value. Goroutines with one stack are shown once, with their number.
//
// It reads the runtime's goroutine profile in its legacy text form, the only one
// that shows labels and symbols without a decoder; what it does not understand
// there it leaves out.
func ByLabel(key string) map[string][]byte {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return nil
	}
	return parse(profile.String(), key)
}

// parse splits the profile into records, which blank lines part:
//
//	2 @ 0x47d… 0x40e…
//	# labels: {"key":"value", "other":"value"}
//	#	0x4a1f04	main.work+0x24	/src/main.go:12
func parse(profile, key string) map[string][]byte {
	found := make(map[string][]byte)
	for record := range strings.SplitSeq(profile, "\n\n") {
		var value string
		var labelled bool
		var text strings.Builder
		for line := range strings.Lines(record) {
			if labels, ok := strings.CutPrefix(line, "# labels: "); ok {
				value, labelled = label(labels, key)
				continue
			}
			if frame, ok := strings.CutPrefix(line, "#\t"); ok {
				if _, frame, ok = strings.Cut(frame, "\t"); ok { // without the address
					text.WriteString("\t" + frame)
				}
				continue
			}
			if n, _, ok := strings.Cut(line, " @ "); ok {
				text.WriteString(n + " goroutine(s):\n")
			}
		}
		if labelled {
			stack := strings.TrimRight(text.String(), "\n") + "\n"
			found[value] = append(found[value], stack...)
		}
	}
	return found
}

// label finds the value of key in {"key":"value", …}, where both are Go strings.
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
