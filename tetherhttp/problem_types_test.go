package tetherhttp

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The constants, their statuses and the table of PROBLEMS.md say the same, and every problem
// of this package has a type.
func TestProblemTypes(t *testing.T) {
	table, err := os.ReadFile("PROBLEMS.md")
	require.NoError(t, err)
	documented := make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| <a id=\"([^\"]+)\"></a>`([^`]+)` \\| (\\d+) \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(string(table), -1) {
		require.Equal(t, row[1], row[2])
		documented[row[1]], err = strconv.Atoi(row[3])
		require.NoError(t, err)
	}
	require.Equal(t, strings.Count(string(table), "<a id="), len(documented), "rows")

	file, err := parser.ParseFile(gotoken.NewFileSet(), "problem_types.go", nil, 0)
	require.NoError(t, err)
	constants := make(map[string]int)
	titles := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Problem") {
			return true
		}
		fragment, err := strconv.Unquote(spec.Values[0].(*ast.BinaryExpr).Y.(*ast.BasicLit).Value)
		require.NoError(t, err)
		p := newProblem(problemBase+fragment, "")
		constants[fragment] = p.Status
		assert.False(t, titles[p.Title], "two types have the title %q", p.Title)
		titles[p.Title] = true
		return true
	})
	assert.Equal(t, documented, constants)
	status, title := problemType(ProblemFailed)
	assert.Equal(t, http.StatusInternalServerError, status)
	assert.Equal(t, "Failed", title)

	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		source, err := os.ReadFile(e.Name())
		require.NoError(t, err)
		want := 0
		if e.Name() == "problem_types.go" {
			want = 1
		}
		assert.Equal(t, want, strings.Count(string(source), "&Problem{"), "%s: problems without a type", e.Name())
	}
}
