package tetherhttp

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPrefer(t *testing.T) {
	none := preferences{}
	async := preferences{async: true}
	wait := func(s int) preferences { return preferences{waits: true, wait: time.Duration(s) * time.Second} }
	both := preferences{async: true, waits: true, wait: 10 * time.Second}
	for _, test := range []struct {
		lines []string
		want  preferences
	}{
		{nil, none},
		{[]string{""}, none},
		{[]string{"respond-async"}, async},
		{[]string{"Respond-ASYNC"}, async},
		{[]string{"wait=10"}, wait(10)},
		{[]string{"WAIT=10"}, wait(10)},
		{[]string{"wait=0"}, wait(0)},
		{[]string{"wait=007"}, wait(7)},
		// RFC 7240, section 2: one line, or several; bad whitespace; a quoted string.
		{[]string{"respond-async, wait=10"}, both},
		{[]string{"wait=10,respond-async"}, both},
		{[]string{"respond-async", "wait=10"}, both},
		{[]string{"\trespond-async\t,\twait \t= 10 "}, both},
		{[]string{`wait="10"`}, wait(10)},
		{[]string{`wait="1\0"`}, wait(10)},
		{[]string{`respond-async=""`}, async},
		{[]string{"respond-async="}, none}, // malformed: a word is a token or a quoted string
		{[]string{",, respond-async,,"}, async},
		// Others, and parameters.
		{[]string{"return=minimal; foo=\"some parameter\", respond-async, wait=10"}, both},
		{[]string{"respond-async; a=b, wait=10; c"}, both},
		{[]string{"respond-async;;a = \"x;y\" ;"}, async},
		{[]string{`foo; bar, wait=10`}, wait(10)},
		{[]string{"wait=10 ; a=b"}, wait(10)},
		{[]string{`foo; bar="a, wait=5, b", wait=10`}, wait(10)},
		{[]string{`foo="a\", wait=5", wait=10`}, wait(10)},
		{[]string{`handling=lenient, wait=10, respond-async`}, both},
		// The first instance counts.
		{[]string{"wait=10, wait=20"}, wait(10)},
		{[]string{"wait=10", "wait=20"}, wait(10)},
		{[]string{"respond-async, respond-async=x"}, async},
		// Malformed.
		{[]string{"wait"}, none},
		{[]string{"wait="}, none},
		{[]string{`wait=""`}, none},
		{[]string{"wait=-1"}, none},
		{[]string{"wait=+1"}, none},
		{[]string{"wait=1.5"}, none},
		{[]string{"wait=1s"}, none},
		{[]string{"wait=0x10"}, none},
		{[]string{"wait=1_0"}, none},
		{[]string{"wait=１"}, none},
		{[]string{"wait=10 20"}, none},
		{[]string{"wait:10"}, none},
		{[]string{"=10"}, none},
		{[]string{`"wait"=10`}, none},
		{[]string{`wait="10`}, none},
		{[]string{`wait="10\`}, none},
		{[]string{`wait=10"`}, none},
		{[]string{`wait="10"x`}, none},
		{[]string{"respond-async=1"}, none},
		{[]string{"respond-async x"}, none},
		{[]string{"respond async"}, none},
		{[]string{"respond-asynchronous, awaits=10"}, none},
		{[]string{`foo="unterminated, wait=10`, "respond-async"}, async},
		// More than a day.
		{[]string{"wait=86400"}, wait(86400)},
		{[]string{"wait=86401"}, wait(86400)},
		{[]string{"wait=9223372037"}, wait(86400)},
		{[]string{"wait=18446744073709551616"}, wait(86400)},
		{[]string{"wait=" + strings.Repeat("9", 1000)}, wait(86400)},
	} {
		assert.Equal(t, test.want, parsePrefer(http.Header{"Prefer": test.lines}), "%q", test.lines)
	}
}

func TestListItems(t *testing.T) {
	for line, want := range map[string][]string{
		"":          {""},
		"a":         {"a"},
		"a,b":       {"a", "b"},
		"a, b ,":    {"a", " b ", ""},
		`"a,b",c`:   {`"a,b"`, "c"},
		`"a\",b",c`: {`"a\",b"`, "c"},
		`"a\\",b`:   {`"a\\"`, "b"},
		`a\,b`:      {`a\`, "b"},
		`a,"b`:      {"a"},
		`a,"b\`:     {"a"},
		`a"b,c"d,e`: {`a"b,c"d`, "e"},
	} {
		assert.Equal(t, want, slices.Collect(listItems(line)), line)
	}
	for range listItems("a,b") {
		break // the loop may end early
	}
	for item := range listItems("a,b") {
		assert.Equal(t, "a", item)
		break
	}
}

func FuzzPrefer(f *testing.F) {
	for _, s := range []string{
		"respond-async, wait=10", `wait="10"; a="b,c"`, `a="\`, ",,;=", "wait=99999999999999999999", "\x00wait=1", "wait\x80=1",
	} {
		f.Add(s, "")
		f.Add(s, "wait=5")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		p := parsePrefer(http.Header{"Prefer": {a, b}})
		if p.wait < 0 || p.wait > 24*time.Hour || p.wait%time.Second != 0 || p.wait != 0 && !p.waits {
			t.Errorf("%q, %q: %+v", a, b, p)
		}
		lower := strings.ToLower(a + "," + b)
		if p.async && !strings.Contains(lower, "respond-async") || p.waits && !strings.Contains(lower, "wait") {
			t.Errorf("%q, %q: %+v", a, b, p)
		}
		// Two lines are one list, unless a quote is left open.
		if !strings.Contains(a, `"`) {
			if got := parsePrefer(http.Header{"Prefer": {a + "," + b}}); got != p {
				t.Errorf("%q, %q: %+v in two lines, %+v in one", a, b, p, got)
			}
		}
		// What was seen first counts: nothing that follows changes it.
		if !strings.Contains(a+b, `"`) && p.waits && p.async {
			if got := parsePrefer(http.Header{"Prefer": {a, b, "wait=86399, respond-async=no"}}); got != p {
				t.Errorf("%q, %q: %+v, and with more behind it %+v", a, b, p, got)
			}
		}
		for item := range listItems(a) {
			if name, _, ok := preference(item); ok && (name == "" || strings.ContainsAny(name, " \t,;=\"")) {
				t.Errorf("%q: a preference named %q", a, name)
			}
		}
	})
}
