// Package promises checks that PROMISES.md and the tests that it names agree.
package promises

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the lists of tests in PROMISES.md")

const (
	root = "../.."
	file = root + "/PROMISES.md"
)

var (
	heading  = regexp.MustCompile(`^### ([A-Z][0-9]+): `)
	numbered = regexp.MustCompile(`^Test([A-Z][0-9]+)_`)
	quoted   = regexp.MustCompile("`([a-z/0-9]*Test[A-Za-z0-9_]+)`")
)

// TestPromises finds each promise guarded, each test that has a promise's number listed
// there, and each test that is listed.
func TestPromises(t *testing.T) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	tests := allTests(t)
	listed := list(string(text), tests)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(listed), 0o644))
		text = []byte(listed)
	}
	assert.Equal(t, listed, string(text), "run go test ./internal/promises -update")

	known := make(map[string]bool)
	for i, section := range strings.Split(listed, "\n### ") {
		number, _, _ := strings.Cut(section, ":")
		names := quoted.FindAllStringSubmatch(section, -1)
		if i > 0 {
			known[number] = true
			assert.NotEmpty(t, names, "no test guards %s", number)
		}
		for _, name := range names {
			assert.Contains(t, tests, name[1], "%s is listed, and does not exist", name[1])
		}
	}
	for _, test := range tests {
		if m := numbered.FindStringSubmatch(path.Base(test)); m != nil {
			assert.True(t, known[m[1]], "%s has the number of no promise", test)
		}
	}
}

// list returns text with the tests that have a promise's number listed under it, in front
// of those without a number that are listed there already.
func list(text string, tests []string) string {
	var out bytes.Buffer
	number := ""
	for line := range strings.Lines(text) {
		if m := heading.FindStringSubmatch(line); m != nil {
			number = m[1]
		}
		others, ok := strings.CutPrefix(line, "Tests:")
		if !ok {
			out.WriteString(line)
			continue
		}
		var names []string
		for _, test := range tests {
			if m := numbered.FindStringSubmatch(path.Base(test)); m != nil && m[1] == number {
				names = append(names, "`"+test+"`")
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(others, -1) {
			if !numbered.MatchString(path.Base(m[1])) {
				names = append(names, m[0])
			}
		}
		if len(names) == 0 {
			names = []string{"none"}
		}
		out.WriteString("Tests: " + strings.Join(names, ", ") + ".\n")
	}
	return out.String()
}

// allTests returns the names of all tests of the repository, each with the path of its
// package before it if that is not the root package.
func allTests(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(name))
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names = append(names, path.Join(filepath.ToSlash(dir), fn.Name.Name))
			}
		}
		return err
	})
	require.NoError(t, err)
	slices.Sort(names)
	return names
}

func TestList(t *testing.T) {
	const text = "### T1: one\n\nText.\n\nTests: `TestT1_Gone`, `TestModel`.\n\n### T2: two\n\nTests: none.\n"
	want := "### T1: one\n\nText.\n\nTests: `TestT1_A`, `a/b/TestT1_B`, `TestModel`.\n\n### T2: two\n\nTests: none.\n"
	assert.Equal(t, want, list(text, []string{"TestT1_A", "TestT11_C", "a/b/TestT1_B", "TestModel"}))
}
