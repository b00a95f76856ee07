package tetherhttp

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPrefersEvents(t *testing.T) {
	for _, test := range []struct {
		accept string
		want   bool
	}{
		{"", false},
		{"*/*", false},
		{"text/event-stream", true},
		{"Text/Event-Stream", true},
		{"text/*", true},
		{"text/html", false}, // accepts neither
		{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false},
		// Zero means "not acceptable" (RFC 9110, 12.4.2).
		{"text/event-stream;q=0, */*", false},
		{"text/event-stream; q=0.0, */*", false},
		{"text/event-stream;q=0.000", false},
		{"application/json, */*;q=0.5, text/event-stream;q=0", false},
		{"application/json;q=0, text/event-stream", true},
		{"application/json;q=0, */*", true},
		{"*/*;q=0, text/event-stream;q=0.001", true},
		// The higher quality wins, then the more specific range, then JSON.
		{"text/event-stream, */*", true},
		{"text/*, */*", true},
		{"text/event-stream;q=0.5, */*;q=0.5", true},
		{"text/event-stream, application/*", true},
		{"application/json, text/*", false},
		{"application/json, text/event-stream", false},
		{"text/event-stream, application/json", false},
		{"application/json;q=0.1, text/event-stream", true},
		{"application/json;q=0.9, text/event-stream;q=0.901", true},
		{"application/json;q=0.9, text/event-stream;q=0.9", false},
		{"text/event-stream;q=0.5, */*", false},
		{"text/event-stream, */*;q=0.1", true},
		{"text/event-stream;Q=0.2, application/json ;\tq=0.1", true},
		// The most specific range counts, whatever the order; of equal ones the highest.
		{"text/*;q=0.1, text/event-stream;q=0.9, */*;q=0.5", true},
		{"*/*, text/*;q=0.3, application/*;q=0.2", true},
		{"*/*;q=0, text/event-stream;q=0", false},
		{"text/event-stream;q=0, text/*;q=1, application/json;q=0.1", false},
		{"text/event-stream;q=0.1, text/event-stream;q=0.6, */*;q=0.5", true},
		// Parameters are ignored, and what follows the weight.
		{`text/event-stream;charset="utf-8, application/json"`, true},
		{"text/event-stream;charset=utf-8;q=0, */*", false},
		{"text/event-stream;;q=0 ;ext=1, */*", false},
		{"text/event-stream;q=0;q=1, */*", false},
		{"text/event-stream;", true},
		{" , text/event-stream ,, ", true},
		// Malformed elements are ignored.
		{"text/event-stream;q=", false},
		{"text/event-stream;q", false},
		{"text/event-stream;q=2", false},
		{"text/event-stream;q=1.001", false},
		{"text/event-stream;q=0.1234", false},
		{"text/event-stream;q=.5", false},
		{"text/event-stream;q=-1", false},
		{"text/event-stream;q=1e0", false},
		{"text/event-stream;q=0.5x", false},
		{"text/event-stream;q=0.x", false},
		{"text/event-stream x", false},
		{"text /event-stream", false},
		{"text/", false},
		{"/event-stream", false},
		{"text", false},
		{"*/event-stream", false},
		{"*", false},
		{`text/event-stream;a="`, false},
		{"text/event-stream;q=x, text/event-stream", true},
		{"text/event-stream;q=1., application/json;q=0.9", true}, // allowed by the grammar
		{`text/event-stream;q="1"`, true},
	} {
		assert.Equal(t, test.want, prefersEvents(http.Header{"Accept": {test.accept}}), "Accept: %s", test.accept)
	}
	assert.False(t, prefersEvents(nil))
	assert.True(t, prefersEvents(http.Header{"Accept": {"application/json;q=0.1", "text/event-stream"}}), "several lines are one list")
}

// Each byte of the input is one element of a header. What the parser makes of it is
// compared with the rule applied to the elements themselves.
func FuzzAccept(f *testing.F) {
	types := []string{"text/event-stream", "text/*", "*/*", "application/json", "application/*", "text/html"}
	qualities := []string{"", ";q=0", ";q=0.001", "; q=0.5", ";a=b;q=0.50", ";q=0.999", ";q=1", ` ; a="x,y;q=0" ; Q=1.000`}
	thousandths := []int{1000, 0, 1, 500, 500, 999, 1000, 1000}
	f.Add([]byte{0, 1, 2}, "")
	f.Add([]byte{8, 2}, "text/event-stream;q=0, */*")
	f.Add([]byte{}, `text/event-stream;a="\",q=0`)
	f.Add([]byte{3}, ";;=,,/;q=")
	f.Fuzz(func(t *testing.T, elements []byte, raw string) {
		best := func(ranges ...string) int { // the most specific range first
			for i, want := range ranges {
				quality, found := 0, false
				for _, b := range elements {
					if types[int(b)%len(types)] == want {
						quality, found = max(quality, thousandths[int(b)/len(types)%len(thousandths)]), true
					}
				}
				if found && quality > 0 {
					return 10*quality - i // of equal ones the more specific
				} else if found {
					return 0
				}
			}
			return 0
		}
		var list []string
		for _, b := range elements {
			list = append(list, types[int(b)%len(types)]+qualities[int(b)/len(types)%len(qualities)])
		}
		want := best("text/event-stream", "text/*", "*/*") > best("application/json", "application/*", "*/*")
		for _, h := range []http.Header{{"Accept": list}, {"Accept": {strings.Join(list, ", ")}}} {
			if got := prefersEvents(h); got != want {
				t.Errorf("%q: %v, want %v", h["Accept"], got, want)
			}
		}
		parsed := parseAccept(http.Header{"Accept": {raw}})
		for _, r := range parsed {
			if r.quality < 0 || r.quality > 1000 || r.main == "" || r.sub == "" || r.main == "*" && r.sub != "*" {
				t.Errorf("%q: %+v", raw, r)
			}
		}
		// Malformed lines spoil nothing in others.
		with := parseAccept(http.Header{"Accept": {raw, "text/event-stream;q=0.7"}})
		if !slices.Equal(with[:len(parsed)], parsed) || len(with) != len(parsed)+1 || with[len(parsed)].quality != 700 {
			t.Errorf("%q: %+v, and with a line behind it %+v", raw, parsed, with)
		}
	})
}
