// Package readme tests the README and the guide in docs.
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

// The lines for go.mod work in an empty module that has a clone beside it.
func TestUse(t *testing.T) {
	if testing.Short() {
		t.Skip("asks the module proxy")
	}
	dir := t.TempDir()
	clone, err := filepath.Abs(root)
	require.NoError(t, err)
	require.NoError(t, os.Symlink(clone, filepath.Join(dir, "tether")))
	app := filepath.Join(dir, "app")
	require.NoError(t, os.Mkdir(app, 0o700))
	env := []string{"GOWORK=off", "GOFLAGS="}
	run(t, app, env, "go", "mod", "init", "example.com/app")
	imports := []string{"github.com/seed-2e639f12/tether/tetherhttp", "github.com/seed-2e639f12/tether/durable/sqlite"}
	var lines []string
	for _, b := range blocksOf(t, "README.md") {
		if b.info == "sh" && strings.HasPrefix(b.code, "go mod edit") {
			lines = append(lines, b.code)
		}
	}
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

// The links of the pages lead to files of the repository, and to headings that they have.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		text = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAll(text, nil)
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
			link := m[1] + m[2]
			if strings.HasPrefix(link, "https://") {
				continue
			}
			file, heading, _ := strings.Cut(link, "#")
			target := filepath.Join(root, page)
			if file != "" {
				target = filepath.Join(root, filepath.Dir(page), file)
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "%s links to %s", page, link)
			if heading != "" {
				require.Contains(t, headings(t, target), heading, "%s links to %s", page, link)
			}
		}
	}
}

// headings returns the anchors of a Markdown file's headings.
func headings(t *testing.T, file string) (anchors []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

func run(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, args, out)
}
