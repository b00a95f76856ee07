package readme

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// block is a code block of a Markdown file. Its info is the line after the backquotes:
// the language, and what the tests know the block by.
type block struct {
	file string // relative to the root
	line int    // of its first line of code
	info string
	code string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

var fence = regexp.MustCompile("(?ms)^```([^\n`]+)\n(.*?)^```$")

// blocksOf returns the code blocks of a Markdown file.
func blocksOf(t *testing.T, file string) (found []block) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	for _, m := range fence.FindAllSubmatchIndex(text, -1) {
		found = append(found, block{
			file: file,
			line: 1 + bytes.Count(text[:m[4]], []byte("\n")),
			info: string(text[m[2]:m[3]]),
			code: string(text[m[4]:m[5]]),
		})
	}
	return found
}

// pages returns the README and the files of the guide.
func pages(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	found := []string{"README.md"}
	for _, file := range files {
		found = append(found, "docs/"+filepath.Base(file))
	}
	return found
}

// The Go code of the README and of the guide compiles. A block is a file, declarations, or
// statements. What it takes for granted is declared in testdata/given.go; packages that it
// does not import are imported for it. Of a diff, both sides compile.
func TestSnippets(t *testing.T) {
	var snippets []block
	for _, file := range pages(t) {
		for _, b := range blocksOf(t, file) {
			switch b.info {
			case "go":
				snippets = append(snippets, b)
			case "diff":
				snippets = append(snippets, side(b, '-'), side(b, '+'))
			}
		}
	}
	c := newChecker(t)
	for _, b := range snippets {
		if err := c.check(b.String(), b.code); err != nil {
			t.Errorf("%v\n%v", b, err)
		}
	}
	t.Log(len(snippets), "snippets")
}

// A snippet that does not compile is found out.
func TestCheck(t *testing.T) {
	c := newChecker(t)
	for code, want := range map[string]string{
		"reg.Go(ctx, name, fn)":                           "",
		"type reg struct{}\nvar _ reg":                    "",
		"package p\nimport \"fmt\"\nvar _ = fmt.Sprint()": "",
		"reg.Gone(ctx, name, fn)":                         "reg.Gone undefined",
		"unused := 1":                                     "declared and not used",
		"return 1":                                        "cannot use 1",
		"package p\nimport \"fmt\"":                       "imported and not used",
		"func f() { undeclared() }":                       "undefined: undeclared",
		"nonsense(":                                       "expected",
	} {
		err := c.check("code", code)
		if want == "" {
			require.NoError(t, err, code)
		} else {
			require.ErrorContains(t, err, want, code)
		}
	}
}

// side returns the code of a diff before (-) or after it (+).
func side(b block, sign byte) block {
	var code strings.Builder
	for line := range strings.Lines(b.code) {
		switch line[0] {
		case ' ', sign:
			code.WriteString(line[1:])
		case '-', '+':
			code.WriteByte('\n') // so that line numbers are right
		default:
			code.WriteString(line)
		}
	}
	b.code = code.String()
	return b
}

// imports are the packages that snippets need not import.
var imports = map[string]string{
	"context": "context", "errors": "errors", "expvar": "expvar", "fmt": "fmt", "http": "net/http", "httptest": "net/http/httptest",
	"json": "encoding/json", "log": "log", "net": "net", "os": "os", "signal": "os/signal", "slog": "log/slog", "sql": "database/sql",
	"strconv": "strconv", "sync": "sync", "synctest": "testing/synctest", "syscall": "syscall", "testing": "testing", "time": "time",
	"tether": module, "tetherhttp": module + "/tetherhttp", "tethertest": module + "/tethertest",
	"tetherhttptest": module + "/tetherhttp/tetherhttptest", "tetherprom": module + "/prom", "tetherotel": module + "/otel",
	"schedule": module + "/schedule", "systemd": module + "/systemd", "durable": module + "/durable", "sqlite": module + "/durable/sqlite",
	"prometheus": "github.com/prometheus/client_golang/prometheus", "goleak": "go.uber.org/goleak",
	"pprof": "net/http/pprof", "promhttp": "github.com/prometheus/client_golang/prometheus/promhttp",
	"errgroup": "golang.org/x/sync/errgroup", "pond": "github.com/alitto/pond/v2", "ants": "github.com/panjf2000/ants/v2",
	"cron": "github.com/robfig/cron/v3", "debounce": module + "/debounce", "group": module + "/group", "rate": "golang.org/x/time/rate",
}

const module = "github.com/seed-2e639f12/tether"

// checker type-checks snippets. The packages that they import are compiled once, and their
// export data is read.
type checker struct {
	fset  *token.FileSet
	given []byte
	types types.Importer
}

func newChecker(t *testing.T) *checker {
	t.Helper()
	given, err := os.ReadFile("testdata/given.go")
	require.NoError(t, err)
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Export"}, slices.Sorted(maps.Values(imports))...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	exports := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	return &checker{fset: fset, given: given, types: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
}

// check compiles a snippet, and what it takes for granted, as a package.
func (c *checker) check(name, code string) error {
	file, err := c.parse(name, code)
	if err != nil {
		return err
	}
	files := []*ast.File{file}
	if !strings.HasPrefix(code, "package ") {
		given, err := parser.ParseFile(c.fset, "given.go", c.given, 0)
		if err != nil {
			return err
		}
		given.Decls = slices.DeleteFunc(given.Decls, func(d ast.Decl) bool { return declaresAny(d, file.Decls) })
		files = append(files, given)
	}
	pkg := files[0].Name.Name
	for _, f := range files[1:] {
		f.Name.Name = pkg
	}
	var errs []error
	cfg := types.Config{Importer: c.types, Error: func(err error) {
		if !strings.HasSuffix(err.Error(), "declared and not used: err") { // a reader knows what to do with it
			errs = append(errs, err)
		}
	}}
	_, _ = cfg.Check(pkg, c.fset, files, nil)
	return errors.Join(errs...)
}

// parse makes a file of a snippet.
func (c *checker) parse(name, code string) (*ast.File, error) {
	if strings.HasPrefix(code, "package ") {
		return parser.ParseFile(c.fset, name, code, 0)
	}
	var used strings.Builder
	uncommented := regexp.MustCompile(`//.*`).ReplaceAllString(code, "")
	for pkg, path := range imports {
		// A package is used where its name is not preceded by a dot, a letter or a quote.
		if regexp.MustCompile(`(?m)(^|[^.\w"/])` + pkg + `\.[A-Z]`).MatchString(uncommented) {
			fmt.Fprintf(&used, "%s %q; ", pkg, path)
		}
	}
	head := "package snippet; import (" + used.String() + "); "
	if strings.HasPrefix(code, "import ") {
		head = "package snippet; "
	}
	file, err := parser.ParseFile(c.fset, name, head+code, 0)
	if err == nil {
		return file, nil
	}
	if inFunc, err := parser.ParseFile(c.fset, name, head+"func _() error { "+code+"\nreturn nil }", 0); err == nil {
		return inFunc, nil
	} else if !strings.Contains(err.Error(), "expected declaration") {
		return nil, err
	}
	return nil, err
}

// declaresAny reports whether a declares a name that one of bs declares too.
func declaresAny(a ast.Decl, bs []ast.Decl) bool {
	return slices.ContainsFunc(bs, func(b ast.Decl) bool {
		return slices.ContainsFunc(declared(a), func(name string) bool { return slices.Contains(declared(b), name) })
	})
}

func declared(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil && d.Name.Name != "_" {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.Name != "_" {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}
