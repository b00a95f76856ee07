package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// core is the root package and the internal packages that it imports, with their types.
type core struct {
	module string
	fset   *token.FileSet
	pkgs   map[string]*pkg
	order  []*pkg // dependencies first; the root package is the last one
}

type pkg struct {
	*types.Package
	dir   string
	files []*ast.File
	info  *types.Info
}

// load parses and checks the core of the module in root. Packages of other modules and
// of the standard library come from the export data that the go command makes.
func load(root, module string) (*core, error) {
	out, err := goCommand(root, "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", ".")
	if err != nil {
		return nil, err
	}
	c := &core{module: module, fset: token.NewFileSet(), pkgs: make(map[string]*pkg)}
	exports := make(map[string]string)
	imported := importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var listed struct {
			ImportPath, Dir, Export string
			GoFiles                 []string
		}
		if err := dec.Decode(&listed); err == io.EOF {
			return c, nil
		} else if err != nil {
			return nil, err
		}
		exports[listed.ImportPath] = listed.Export
		if listed.ImportPath != module && !strings.HasPrefix(listed.ImportPath, module+"/") {
			continue
		}
		if err := c.check(listed.ImportPath, listed.Dir, listed.GoFiles, imported); err != nil {
			return nil, err
		}
	}
}

// check adds a package after its dependencies.
func (c *core) check(path, dir string, names []string, others types.Importer) error {
	p := &pkg{dir: dir, info: &types.Info{
		Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}}
	for _, name := range names {
		f, err := parser.ParseFile(c.fset, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		p.files = append(p.files, f)
	}
	cfg := types.Config{Importer: importerFunc(func(path string) (*types.Package, error) {
		if p := c.pkgs[path]; p != nil {
			return p.Package, nil
		}
		return others.Import(path)
	})}
	checked, err := cfg.Check(path, c.fset, p.files, p.info)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	p.Package = checked
	c.pkgs[path] = p
	c.order = append(c.order, p)
	return nil
}

type importerFunc func(path string) (*types.Package, error)

func (f importerFunc) Import(path string) (*types.Package, error) { return f(path) }

// root returns the module's root package.
func (c *core) root() *pkg { return c.order[len(c.order)-1] }

// file returns the name of the file that pos is in, beginning with its package's path in
// the module: "internal/gate/gate.go".
func (c *core) file(pos token.Pos) string {
	name := c.fset.Position(pos).Filename
	rel, err := filepath.Rel(c.root().dir, name)
	if err != nil {
		return name
	}
	return filepath.ToSlash(rel)
}

// dirs returns the directories of the core's packages, relative to the module's.
func (c *core) dirs() map[string]bool {
	dirs := make(map[string]bool)
	for _, p := range c.order {
		if rel, err := filepath.Rel(c.root().dir, p.dir); err == nil {
			dirs[filepath.ToSlash(rel)] = true
		}
	}
	return dirs
}
