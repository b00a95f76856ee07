package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGroupPassesThePeersTests runs the test suites of errgroup and of conc's pools on
// package group, by way of the shims in testdata. The suites are copied from the module cache
// into a temporary module.
func TestGroupPassesThePeersTests(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs two test suites")
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off", "GONOSUMDB=*", "GONOSUMCHECK=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s:\n%s", strings.Join(args, " "), out)
		return string(out)
	}
	moduleDir := func(module string) string {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if at := strings.TrimSpace(string(out)); err == nil && at != "" {
			return at
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not in the module cache", module)
		}
		t.Skipf("%s is not in the module cache: go mod download", module)
		return ""
	}
	copyFile := func(from, to string, edit func(string) string) {
		t.Helper()
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), []byte(edit(string(text))), 0o644))
	}
	as := func(s string) string { return s }

	// The module requires what bench does, in the same versions.
	copyFile("go.mod", "go.mod", func(s string) string {
		s = strings.Replace(s, "module github.com/seed-2e639f12/tether/bench", "module shim", 1)
		return strings.Replace(s, "=> ../", fmt.Sprintf("=> %q", root), 1)
	})
	copyFile("go.sum", "go.sum", as)
	for _, suite := range []struct{ module, dir, shim string }{
		{"golang.org/x/sync", "errgroup", "errgroup"},
		{"github.com/sourcegraph/conc", "pool", "pool"},
	} {
		copyFile(filepath.Join("testdata/groupshim", suite.shim, suite.shim+".go"), filepath.Join(suite.shim, suite.shim+".go"), as)
		files, err := filepath.Glob(filepath.Join(moduleDir(suite.module), suite.dir, "*_test.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			copyFile(file, filepath.Join(suite.shim, filepath.Base(file)), func(s string) string {
				return strings.ReplaceAll(s, `"golang.org/x/sync/errgroup"`, `"shim/errgroup"`)
			})
		}
	}
	out := run("test", "-v", "-count=1", "./errgroup", "./pool")
	for _, test := range []string{"TestZeroGroup", "TestGoLimit", "TestCancelCause", "TestContextPool", "TestResultContextPool", "TestResultErrorGroup"} {
		require.Contains(t, out, "--- PASS: "+test)
	}
}
