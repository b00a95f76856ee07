// Package readme tests the README.
package readme

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// blocks returns the code blocks of a language in the README, below a heading.
func blocks(t *testing.T, language, heading string) (found []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), heading+"\n")
	require.True(t, ok, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, block := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(section, -1) {
		found = append(found, block[1])
	}
	require.NotEmpty(t, found, "%s in %s", language, heading)
	return found
}

// snippets are what the Go code below each heading takes for granted.
var snippets = map[string]struct{ imports, before, after string }{
	"# Tether": {},
	"## With net/http": {
		imports: `"context"; "database/sql"; "net/http"; "github.com/seed-2e639f12/tether"; "github.com/seed-2e639f12/tether/tetherhttp"`,
		before: `func _(ctx context.Context, reg *tether.Registry, mux *http.ServeMux, db *sql.DB, audit tether.Func,
			makeReport func(context.Context, *http.Request) (any, error)) error {`,
		after: "return err }",
	},
	"## What must survive the process": {
		imports: `"context"; "time"; "github.com/seed-2e639f12/tether"; "github.com/seed-2e639f12/tether/durable"; "github.com/seed-2e639f12/tether/durable/sqlite"`,
		before: `type InvoiceArgs struct{}
			func _(ctx context.Context, reg *tether.Registry, makeInvoice func(context.Context, InvoiceArgs) error) error {`,
		after: "return err }",
	},
	"## Seeing it": {
		imports: `"net/http"; "time"; "github.com/prometheus/client_golang/prometheus"; "github.com/seed-2e639f12/tether";
			tetherprom "github.com/seed-2e639f12/tether/prom"; "github.com/seed-2e639f12/tether/tetherhttp"`,
		before: "func _(admin *http.ServeMux) {",
		after:  "}",
	},
}

// The Go code compiles.
func TestSnippets(t *testing.T) {
	for heading, around := range snippets {
		t.Run(heading, func(t *testing.T) {
			for _, code := range blocks(t, "go", heading) {
				if around.before != "" {
					code = "package snippet\nimport (" + around.imports + ")\n" + around.before + "\n" + code + "\n" + around.after
				}
				file := filepath.Join(t.TempDir(), "snippet.go")
				require.NoError(t, os.WriteFile(file, []byte(code), 0o600))
				run(t, ".", nil, "go", "vet", file)
			}
		})
	}
}

// The one-line change of a task to a job compiles too.
func TestDiff(t *testing.T) {
	around := snippets["## What must survive the process"]
	for _, diff := range blocks(t, "diff", "## What must survive the process") {
		for line := range strings.Lines(diff) {
			code := "package snippet\nimport (" + `"context"; "github.com/seed-2e639f12/tether"; "github.com/seed-2e639f12/tether/durable"` + ")\n" +
				"type InvoiceArgs struct{}\n" + `func _(ctx context.Context, invoices *tether.Pool, invoice *durable.Job[InvoiceArgs], engine durable.Engine,
				args InvoiceArgs, makeInvoice func(context.Context, InvoiceArgs) error) error {` + "\nvar _ = durable.Unique\n" + line[1:] + "\n" + around.after
			file := filepath.Join(t.TempDir(), "snippet.go")
			require.NoError(t, os.WriteFile(file, []byte(code), 0o600))
			run(t, ".", nil, "go", "vet", file)
		}
	}
}

// The lines for go.mod work in an empty module that has a clone beside it.
func TestUse(t *testing.T) {
	if testing.Short() {
		t.Skip("asks the module proxy")
	}
	dir := t.TempDir()
	clone, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(clone, filepath.Join(dir, "tether")))
	app := filepath.Join(dir, "app")
	require.NoError(t, os.Mkdir(app, 0o700))
	env := []string{"GOWORK=off", "GOFLAGS="}
	run(t, app, env, "go", "mod", "init", "example.com/app")
	imports := []string{"github.com/seed-2e639f12/tether/tetherhttp", "github.com/seed-2e639f12/tether/durable/sqlite"}
	lines := blocks(t, "sh", "## Use")
	require.Len(t, lines, len(imports))
	for i, shell := range lines {
		code := "package app\nimport (\n"
		for _, path := range imports[:i+1] {
			code += "_ \"" + path + "\"\n"
		}
		require.NoError(t, os.WriteFile(filepath.Join(app, "app.go"), []byte(code+")\n"), 0o600))
		run(t, app, env, "bash", "-ec", shell)
		run(t, app, env, "go", "vet", ".")
	}
}

// The links to files of the repository lead somewhere.
func TestLinks(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	for _, link := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(string(text), -1) {
		_, err := os.Stat(filepath.Join("../..", link[1]))
		require.NoError(t, err)
	}
}

func run(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, args, out)
}
