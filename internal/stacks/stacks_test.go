package stacks

import (
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "stacks.test"

// Two functions to find in stacks.
func waitHere(up chan<- struct{}, end <-chan struct{})  { up <- struct{}{}; <-end }
func waitThere(up chan<- struct{}, end <-chan struct{}) { up <- struct{}{}; <-end }

// start runs wait on a goroutine with these labels until the test ends.
func start(t *testing.T, wait func(chan<- struct{}, <-chan struct{}), labels ...string) {
	t.Helper()
	up, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		pprof.Do(context.Background(), pprof.Labels(labels...), func(context.Context) { wait(up, end) })
	}()
	<-up
	t.Cleanup(func() {
		close(end)
		<-ended
	})
}

func TestByLabel(t *testing.T) {
	t.Run("a label that no goroutine carries", func(t *testing.T) {
		assert.Empty(t, ByLabel("no such label"))
	})
	t.Run("by value", func(t *testing.T) {
		start(t, waitHere, key, "one")
		start(t, waitThere, key, "two")
		start(t, waitThere, "other", "three")
		found := ByLabel(key)
		require.Len(t, found, 2)
		assert.Contains(t, string(found["one"]), "stacks.waitHere")
		assert.NotContains(t, string(found["one"]), "stacks.waitThere")
		assert.Contains(t, string(found["two"]), "stacks.waitThere")
		assert.Contains(t, string(found["two"]), "stacks_test.go:")
		assert.NotContains(t, string(found["two"]), "\t0x", "addresses are dropped")
	})
	t.Run("goroutines of one stack are counted", func(t *testing.T) {
		for range 3 {
			start(t, waitHere, key, "many")
		}
		start(t, waitThere, key, "many")
		stack := string(ByLabel(key)["many"])
		// They need not be in one record: some may be at the line where they report.
		assert.Equal(t, 1, strings.Count(stack, "stacks.waitThere"))
		total := 0
		for line := range strings.Lines(stack) {
			var n int
			if _, err := fmt.Sscanf(line, "%d goroutine(s):", &n); err == nil {
				total += n
			}
		}
		assert.Equal(t, 4, total, stack)
	})
	t.Run("among other labels", func(t *testing.T) {
		start(t, waitHere, "a", "first", key, "amid", "z", "last")
		found := ByLabel(key)
		require.Len(t, found, 1)
		assert.Contains(t, string(found["amid"]), "stacks.waitHere")
		assert.Contains(t, ByLabel("z"), "last")
	})
	t.Run("odd characters", func(t *testing.T) {
		values := []string{
			"", " ", `"`, `\`, `a", "b":"c`, `":"`, "}", "{", "#", "# labels: {", "1 @ 0x1", "\n\n", "\x00", "\xff\xfe", "日本語", "🚀",
			`{"stacks.test":"x"}`, strings.Repeat("x", 10_000),
		}
		for _, v := range values {
			start(t, waitHere, "before", v, key, v)
		}
		found := ByLabel(key)
		assert.Len(t, found, len(values))
		for _, v := range values {
			assert.Contains(t, string(found[v]), "stacks.waitHere", "%q", v)
		}
	})
	t.Run("odd keys", func(t *testing.T) {
		odd := `odd "key": \` + "\n"
		start(t, waitHere, odd, "value")
		assert.Contains(t, string(ByLabel(odd)["value"]), "stacks.waitHere")
		assert.Empty(t, ByLabel(`odd "key`))
	})
}

func TestParse(t *testing.T) {
	const profile = `goroutine profile: total 4
2 @ 0x47d 0x40e
# labels: {"k":"v", "other":"w"}
#	0x4a1f04	main.work+0x24	/src/main.go:12
#	0x4a1f05	main.main+0x1	/src/main.go:20

1 @ 0x47d
# labels: {"other":"v"}
#	0x4a1f04	main.not+0x24	/src/main.go:99

1 @ 0x47e
# labels: {"k":"v"}
#	0x4a1f06	main.more+0x24	/src/main.go:30

1 @ 0x1
#	0x4a1f04	main.plain+0x24	/src/main.go:99
`
	found := parse(profile, "k")
	require.Len(t, found, 1)
	assert.Equal(t, `2 goroutine(s):
	main.work+0x24	/src/main.go:12
	main.main+0x1	/src/main.go:20
1 goroutine(s):
	main.more+0x24	/src/main.go:30
`, string(found["v"]))
}

func TestLabel(t *testing.T) {
	for _, c := range []struct {
		labels, key, want string
		ok                bool
	}{
		{`{"k":"v"}`, "k", "v", true},
		{`{"a":"b", "k":"v"}`, "k", "v", true},
		{`{"a":"k", "k":"v"}`, "k", "v", true},
		{`{"a":"\"k\":\"x\"", "k":"v"}`, "k", "v", true},
		{`{"k":""}`, "k", "", true},
		{`{"a":"k"}`, "k", "", false},
		{`{}`, "k", "", false},
		{``, "k", "", false},
		{`{"k"`, "k", "", false},
		{`{"k":`, "k", "", false},
		{`{"k":"v`, "k", "", false},
		{`{"k":v}`, "k", "", false},
	} {
		got, ok := label(c.labels, c.key)
		assert.Equal(t, c.ok, ok, c.labels)
		assert.Equal(t, c.want, got, c.labels)
	}
}

// The form of a profile may change in a later release: nothing panics, and what was
// quoted is returned.
func FuzzParse(f *testing.F) {
	f.Add("1 @ 0x1\n# labels: {\"k\":\"v\"}\n#\t0x1\tf\tx:1\n", "k", "v")
	f.Add("# labels: {", "", "")
	f.Add("# labels: {\"k\":\"v", "k", "\"")
	f.Add("\n\n @ \n#\t", "\\", "\n")
	f.Fuzz(func(t *testing.T, profile, key, value string) {
		parse(profile, key)
		label(profile, key)

		labels := fmt.Sprintf(`{%q:%q, %q:%q}`, key+"x", value, key, value)
		if got, ok := label(labels, key); !ok || got != value {
			t.Errorf("label(%s, %q) = %q, %v", labels, key, got, ok)
		}
		record := "3 @ 0x1\n# labels: " + labels + "\n#\t0x1\tf\tx:1\n"
		if got := string(parse(record, key)[value]); got != "3 goroutine(s):\n\tf\tx:1\n" {
			t.Errorf("parse(%q, %q): %q", record, key, got)
		}
	})
}

// runner is the receiver of a method by which a goroutine is found.
type runner struct{ wait func() }

func (r *runner) run() {
	r.wait()
	runtime.KeepAlive(r)
}

func TestTake(t *testing.T) {
	const function = "github.com/seed-2e639f12/tether/internal/stacks.(*runner).run"
	at := func(r *runner) string { return fmt.Sprintf("%p", r) }
	begin := func(t *testing.T, wait func(chan<- struct{}, <-chan struct{})) *runner {
		r := new(runner)
		start(t, func(up chan<- struct{}, end <-chan struct{}) {
			r.wait = func() { wait(up, end) }
			r.run()
		}, key, "runner")
		return r
	}
	t.Run("each goroutine by its receiver", func(t *testing.T) {
		one, two := begin(t, waitHere), begin(t, waitThere)
		d := Take(function, key)
		assert.Contains(t, string(d.Of(at(one), "runner")), "stacks.waitHere(")
		assert.Contains(t, string(d.Of(at(two), "runner")), "stacks.waitThere(")
		assert.True(t, strings.HasPrefix(string(d.Of(at(one), "")), "goroutine "))
		assert.NotContains(t, string(d.Of(at(one), "")), "\n\n")
		assert.Nil(t, d.Of(at(new(runner)), "runner"), "no goroutine is in its run")
	})
	t.Run("the first and the last in a dump, and one within another", func(t *testing.T) {
		found := split("goroutine 1 [running]:\nmain.run(0x1)\n\t/a.go:1\nmain.run(0x2)\n\t/a.go:1\n\n"+
			"goroutine 2 [select]:\nmain.run(0x3?)\n\t/a.go:1\nmain.runs(0x4)\n\t/a.go:1\n\n"+
			"goroutine 3 [select]:\nmain.run(0x5, 0x6)\n\t/a.go:1\n", "main.run")
		require.Len(t, found, 4)
		assert.Equal(t, found["0x1"], found["0x2"])
		assert.Contains(t, found, "0x3?", "an argument that the runtime is not sure of")
		assert.Equal(t, "goroutine 3 [select]:\nmain.run(0x5, 0x6)\n\t/a.go:1\n", string(found["0x5, 0x6"]))
	})
	t.Run("too many goroutines: by label", func(t *testing.T) {
		end := make(chan struct{})
		defer close(end)
		for range manyGoroutines {
			go func() { <-end }()
		}
		begin(t, waitThere)
		d := Take(function, key)
		assert.Contains(t, string(d.Of("no such", "runner")), "stacks.waitThere")
		assert.Nil(t, d.Of("no such", "other"))
	})
}
