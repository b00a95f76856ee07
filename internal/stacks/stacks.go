// Package stacks finds goroutines by their profiler labels.
package stacks

import (
	"bytes"
	"runtime/pprof"
	"strconv"
	"strings"
)

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
