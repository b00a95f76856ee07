package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShow(t *testing.T) {
	var events bytes.Buffer
	for _, e := range []event{
		{"start", "mod/a", "", ""},
		{"output", "mod/a", "TestGood", "=== RUN   TestGood\n"},
		{"pass", "mod/a", "TestGood", ""},
		{"output", "mod/a", "TestServer", "=== RUN   TestServer\n"},
		{"output", "mod/a", "TestServer", "    a_test.go:12: SKIPPED: redis-server is not installed\n"},
		{"output", "mod/a", "TestServer", "--- SKIP: TestServer (0.00s)\n"},
		{"skip", "mod/a", "TestServer", ""},
		{"output", "mod/a", "TestOther/sub", "    a_test.go:30: redis-server is not installed\n"},
		{"skip", "mod/a", "TestOther/sub", ""},
		{"output", "mod/a", "", "PASS\n"},
		{"output", "mod/a", "", "ok  \tmod/a\t0.1s\n"},
		{"pass", "mod/a", "", ""},
		{"output", "mod/b", "TestBad", "    b_test.go:7: broken\n"},
		{"output", "mod/b", "TestBad", "--- FAIL: TestBad (0.00s)\n"},
		{"fail", "mod/b", "TestBad", ""},
		{"output", "mod/b", "", "panic: outside of a test\n"},
		{"output", "mod/b", "", "FAIL\tmod/b\t0.1s\n"},
		{"fail", "mod/b", "", ""},
		{"skip", "mod/c", "TestSilent", ""},
		{"output", "mod/c", "", "?   \tmod/c\t[no test files]\n"},
		{"skip", "mod/c", "", ""},
		{"build-output", "", "", "# mod/d\nsyntax error\n"},
	} {
		require.NoError(t, json.NewEncoder(&events).Encode(e))
	}
	events.WriteString("go: a message\n")

	var out strings.Builder
	skipped := show(&events, &out)
	require.Equal(t, `ok  	mod/a	0.1s
    b_test.go:7: broken
--- FAIL: TestBad (0.00s)
panic: outside of a test
FAIL	mod/b	0.1s
?   	mod/c	[no test files]
# mod/d
syntax error
go: a message
`, out.String())

	out.Reset()
	skipped.print(&out)
	require.Equal(t, `
Skipped tests, by reason:
    2  redis-server is not installed
       - 2 in mod/a
    1  no reason given
       - 1 in mod/c
`, out.String())

	out.Reset()
	skips{}.print(&out)
	require.Equal(t, "\nNo test was skipped.\n", out.String())
}
