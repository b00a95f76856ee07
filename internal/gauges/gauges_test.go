package main

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The source of a core of two files.
var source = map[string]string{
	"/m/pool.go": `package m

import "sync/atomic"

type Pool struct {
	host   host
	worker func()
}

type host interface{ next(t *Task) }

func New() *Pool {
	p := &Pool{host: &lane{}}
	p.worker = func() {
		p.host.next(new(Task))
	}
	return p
}

func (p *Pool) Go() {
	if p == nil {
		refuse()
	}
	first(p)
	go p.worker()
	first(p)
}

func refuse() {}

const (
	stateMask = 1<<3 - 1
	begun = 1 << 3
	ended = 1 << 4
)

type Task struct{ word }

type word struct{ bits atomic.Uint32 }

func (w *word) state() uint32 { return w.bits.Load() }
`,
	"/m/lane.go": `package m

type lane struct{}

func first[T any](T) { second() }

func second() {}

func (*lane) next(t *Task) {
	t.bits.Store(begun)
}

type other struct{}

func (*other) next(t *Task) {
	t.bits.Load()
}
`,
}

func testCore(t *testing.T) *core {
	t.Helper()
	c := &core{module: "m", fset: token.NewFileSet(), pkgs: make(map[string]*pkg)}
	p := &pkg{dir: "/m", info: &types.Info{
		Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}}
	for _, name := range []string{"/m/pool.go", "/m/lane.go"} {
		f, err := parser.ParseFile(c.fset, name, source[name], parser.ParseComments)
		require.NoError(t, err)
		p.files = append(p.files, f)
	}
	cfg := types.Config{Importer: importer.ForCompiler(c.fset, "source", nil)}
	checked, err := cfg.Check("m", c.fset, p.files, p.info)
	require.NoError(t, err)
	p.Package = checked
	c.pkgs["m"], c.order = p, []*pkg{p}
	return c
}

// everything is the profile of an execution of each line but these.
func everything(t *testing.T, but ...string) *profile {
	t.Helper()
	var text strings.Builder
	text.WriteString("mode: atomic\n")
	for name, src := range source {
		for i, line := range strings.Split(src, "\n") {
			if line == "}" {
				continue
			}
			count := "1"
			for _, b := range but {
				if strings.Contains(line, b) {
					count = "0"
				}
			}
			text.WriteString(strings.TrimPrefix(name, "/") + ":" + position(i+1, 1) + "," + position(i+2, 1) + " 1 " + count + "\n")
		}
	}
	p, err := readProfile(strings.NewReader(text.String()))
	require.NoError(t, err)
	return p
}

func position(line, column int) string { return fmt.Sprintf("%d.%d", line, column) }

// TestWalk follows a generic call, a literal in a field and an interface's method, and
// leaves out what was not executed.
func TestWalk(t *testing.T) {
	w, err := testCore(t).walk(everything(t, "refuse()", "Load()"), "Pool", "Go")
	require.NoError(t, err)
	var names []string
	for _, s := range w.steps {
		names = append(names, s.name)
	}
	assert.Equal(t, []string{"Pool.Go", "first", "second", "func in worker", "lane.next"}, names)
	assert.Equal(t, 5, w.calls, "first twice, second, the literal, next")
	assert.Equal(t, 3, w.across, "first twice, next")
	assert.Equal(t, 4, w.jumps, "to first, back for the literal, to next, back for the other first")
	assert.Equal(t, 2, w.short, "first, second")
	assert.Equal(t, 1, w.longer, "to next")
	assert.Len(t, w.files(), 2)

	w, err = testCore(t).walk(everything(t, "Load()"), "Pool", "Go")
	require.NoError(t, err)
	assert.Equal(t, 6, w.calls, "with refuse")

	_, err = testCore(t).walk(everything(t), "Pool", "Stop")
	assert.Error(t, err)
}

func TestShape(t *testing.T) {
	c := testCore(t)
	assert.Equal(t, map[string]bool{"lane.go": true}, c.stateWriters())
	assert.Equal(t, []string{"begun", "ended"}, c.flags())
	assert.Equal(t, []string{"host", "lane", "other", "word"}, c.unexportedTypes())
	name, lines, total := c.largestFile()
	assert.Equal(t, "pool.go", name)
	assert.Equal(t, strings.Count(source["/m/pool.go"], "\n"), lines)
	assert.Equal(t, lines+strings.Count(source["/m/lane.go"], "\n"), total)
	assert.Equal(t, []string{"lane.next", "other.next"}, c.bearing("next"))
}

func TestProse(t *testing.T) {
	p, err := proseOf("a.go", []byte(`// Package a is nobody's.
package a

//go:generate whose

var s = "// who" // who's

/* whoever
   two */
var text = `+"`\n\n// no comment\n`\n"))
	require.NoError(t, err)
	assert.Equal(t, prose{lines: 9, commentOnly: 4, words: 7, persons: 3}, p)
}
