package readme

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the table of docs/comparison.md from bench/RESULTS.md")

var (
	libraries = []string{"tether", "errgroup", "pond", "ants", "conc"}
	// workloads are sections and columns of bench/RESULTS.md.
	workloads = []struct{ section, column, about string }{
		{"W1", "producers=2", "an empty task, no limit, two submitters"},
		{"W2", "limit=2/producers=1", "a pool of 2, one submitter"},
		{"W2", "limit=1000/producers=1000", "a pool of 1,000, as many submitters"},
		{"W3", "10µs/limit=16", "10 µs of computing, a pool of 16"},
		{"W4", "100k/no-limit", "100,000 tasks that sleep"},
		{"W5", "32KB/burst/no-limit", "a stack of 32 KB, in bursts"},
		{"W6", "results=1", "a result, waited for at once"},
		{"W6", "results=100", "100 results at once"},
	}
)

const (
	tableBegin = "<!-- from bench/RESULTS.md: go test ./examples/readme -update -->\n"
	tableEnd   = "<!-- end -->\n"
)

// The figures of docs/comparison.md are those of the last run in bench/RESULTS.md.
func TestComparison(t *testing.T) {
	results, err := os.ReadFile(filepath.Join(root, "bench", "RESULTS.md"))
	require.NoError(t, err)
	table := "| × `go` | " + strings.Join(libraries, " | ") + " |\n|---|" + strings.Repeat("---:|", len(libraries)) + "\n"
	for _, w := range workloads {
		table += "| " + w.about
		for _, library := range libraries {
			table += " | " + cell(t, string(results), w.section, w.column, library)
		}
		table += " |\n"
	}

	file := filepath.Join(root, "docs", "comparison.md")
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), tableBegin)
	require.True(t, ok)
	old, after, ok := strings.Cut(rest, tableEnd)
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+tableBegin+table+tableEnd+after), 0o600))
		return
	}
	assert.Equal(t, table, old, "run go test ./examples/readme -update")
}

// cell returns a figure of the first table in a section of the results.
func cell(t *testing.T, results, section, column, row string) string {
	t.Helper()
	_, text, ok := strings.Cut(results, "\n## "+section+". ")
	require.True(t, ok, section)
	var columns []string
	for line := range strings.Lines(text) {
		cells := regexp.MustCompile(`\s*\|\s*`).Split(strings.Trim(line, "| \n"), -1)
		switch {
		case !strings.HasPrefix(line, "|") && columns != nil:
			t.Fatalf("no row %s in %s", row, section)
		case !strings.HasPrefix(line, "|"):
		case columns == nil:
			columns = cells
		case strings.Trim(cells[0], "*") == row:
			for i, c := range columns {
				if c == column {
					return cells[i]
				}
			}
			t.Fatalf("no column %s in %s", column, section)
		}
	}
	t.Fatalf("no table in %s", section)
	return ""
}
