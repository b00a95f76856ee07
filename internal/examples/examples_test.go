// Package examples checks that each exported name of the repository's packages is in an
// example.
package examples

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	root   = "../.."
	module = "github.com/seed-2e639f12/tether"
)

const (
	forEngines  = "for those who write an engine: package durable/sqlite is one"
	forStores   = "for those who write a store: durable/internal has them"
	forTrackers = "between tetherhttp and durable: a program only passes it on"
	contract    = "the package's documentation shows it, and the tests of each engine and store"
)

// exceptions are the names without an example, by package, and why.
var exceptions = map[string]map[string]string{
	"durable": {
		"Consumer": forEngines, "Consumption": forEngines, "Dead": forEngines, "DeadRetrier": forEngines, "Decode": forEngines,
		"Delivery": forEngines, "Done": forEngines, "Message": forEngines, "Outcome": forEngines, "Retry": forEngines,
		"Recorder": forEngines, "Return": forEngines, "Support": forEngines, "Tracking": forEngines, "Verdict": forEngines,
	},
	"durable/durabletest": {
		"Benchmarks": contract, "Contract": contract, "Fixture": contract, "Main": contract, "PgBouncer": contract,
		"Postgres": contract, "RabbitMQ": contract, "Redis": contract, "RefusedAddress": contract, "Server": contract, "Serverless": contract, "StoreAway": contract,
	},
	"tetherhttp/store": {
		"Attempt": forTrackers, "Backend": forStores, "End": forTrackers, "ErrCanceled": forTrackers, "ErrConflict": forStores, "ErrDone": forTrackers,
		"Job": forTrackers, "Record": forStores, "Tracker": forTrackers,
	},
	"tetherhttp/storetest": {"Contract": contract, "Memory.Calls": contract, "Memory.Clear": contract},
}

// implemented are methods that exist because an interface asks for them: of the standard
// library, tether.Observer, prometheus.Collector, durable.Engine and store.Backend. Programs do not call
// them by name.
var implemented = []string{
	"Error", "Is", "ServeHTTP", "String", "Unwrap",
	"TaskSubmitted", "TaskStarted", "TaskRetrying", "TaskStuck", "TaskEnded", "TaskRefused",
	"Collect", "Describe",
	"Consume", "Enqueue", "RetryDead", "Support",
	"Delete", "Get", "Renew", "Swap",
	"Add", "Begin", "Record", "Remove", "Service", "Settle", // store.Tracker
}

// An exported name is in an example if a function Example… mentions it, or a declaration
// in a file *example_test.go. A type is in one, too, if a function, a method, a constant
// or a struct is whose declaration mentions it. Of a struct, the fields count if it is a
// configuration. Methods and fields are found by their name alone, in files that import
// the package.
func TestExamples(t *testing.T) {
	r := load(t)
	require.NotEmpty(t, r.exported)
	for _, pkg := range sorted(r.exported) {
		for _, name := range r.exported[pkg] {
			why := exceptions[pkg][name]
			if prefix, _, ok := strings.Cut(name, "Problem"); ok && prefix == "" && pkg == "tetherhttp" && why == "" && name != "Problem" {
				continue // PROBLEMS.md has them all
			}
			switch shown := r.shows(pkg, name); {
			case !shown && why == "":
				t.Errorf("%s: %s is in no example: add one to the package's example_test.go", path.Join(module, pkg), name)
			case shown && why != "":
				t.Errorf("%s: %s is in an example, and among the exceptions", path.Join(module, pkg), name)
			}
		}
	}
	for pkg, names := range exceptions {
		for name := range names {
			assert.Contains(t, r.exported[pkg], name, "the exceptions of %s", path.Join(module, pkg))
		}
	}
}

func sorted(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// repository is what is exported, and what the examples mention.
type repository struct {
	exported map[string][]string // by the package's folder: Name, or Type.Name for methods and fields
	names    map[string]bool     // folder + "." + Name
	members  map[string]bool     // folder + "." + name of a method or field
	mentions map[string][]string // folder + "." + Type: what mentions the type
}

func (r *repository) shows(pkg, name string) bool {
	if _, member, ok := strings.Cut(name, "."); ok {
		return r.members[pkg+"."+member] || r.names[pkg+"."+name]
	}
	if r.names[pkg+"."+name] {
		return true
	}
	return slices.ContainsFunc(r.mentions[pkg+"."+name], func(by string) bool { return r.shows(pkg, by) })
}

// load reads all packages that other modules can import.
func load(t *testing.T) *repository {
	t.Helper()
	r := &repository{exported: map[string][]string{}, names: map[string]bool{}, members: map[string]bool{}, mentions: map[string][]string{}}
	require.NoError(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skip := []string{".git", "testdata", "internal", "bench", "examples"}; slices.Contains(skip, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(dir))
		if strings.HasSuffix(name, "_test.go") {
			r.addExamples(pkg, name, f)
		} else {
			r.exported[pkg] = append(r.exported[pkg], exportedBy(f)...)
			r.addMentions(pkg, f)
		}
		return nil
	}))
	for pkg, names := range r.exported {
		slices.Sort(names)
		r.exported[pkg] = slices.Compact(names) // of files for different systems
	}
	return r
}

// addExamples adds what the examples of a file mention.
func (r *repository) addExamples(pkg, file string, f *ast.File) {
	imported := map[string]string{} // the folder of a package of the repository, by its name in the file
	for _, spec := range f.Imports {
		full, err := strconv.Unquote(spec.Path.Value)
		dir, ours := strings.CutPrefix(full, module)
		if err != nil || !ours {
			continue
		}
		dir = path.Clean(strings.TrimPrefix(dir, "/"))
		name := path.Base(full)
		if spec.Name != nil {
			name = spec.Name.Name
		} else if dir == "otel" || dir == "prom" {
			name = "tether" + dir
		}
		imported[name] = dir
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		example := ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Example")
		if example {
			name, method, ok := strings.Cut(strings.TrimPrefix(fn.Name.Name, "Example"), "_")
			r.names[pkg+"."+name] = true
			if ok && ast.IsExported(method) {
				r.names[pkg+"."+name+"."+method] = true
			}
		}
		if !example && !strings.HasSuffix(file, "example_test.go") {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && imported[x.Name] != "" {
					r.names[imported[x.Name]+"."+n.Sel.Name] = true
					break
				}
				r.addMember(imported, n.Sel.Name)
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok {
					r.addMember(imported, key.Name)
				}
			case *ast.FuncDecl: // a method of an observer, say
				r.addMember(imported, n.Name.Name)
			}
			return true
		})
	}
}

func (r *repository) addMember(imported map[string]string, name string) {
	for _, dir := range imported {
		r.members[dir+"."+name] = true
	}
}

// addMentions adds which types the exported functions, methods and constants mention.
func (r *repository) addMentions(pkg string, f *ast.File) {
	add := func(by string, in ast.Node) {
		ast.Inspect(in, func(n ast.Node) bool {
			if typ, ok := n.(*ast.Ident); ok && typ.IsExported() {
				r.mentions[pkg+"."+typ.Name] = append(r.mentions[pkg+"."+typ.Name], by)
			}
			return true
		})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !d.Name.IsExported() || slices.Contains(implemented, d.Name.Name) {
				continue
			}
			name := d.Name.Name
			if typ := receiver(d); typ != "" {
				name = typ + "." + name
			}
			add(name, d.Type)
		case *ast.GenDecl:
			var typ ast.Expr
			for _, s := range d.Specs {
				if t, ok := s.(*ast.TypeSpec); ok && t.Name.IsExported() {
					if body, ok := t.Type.(*ast.StructType); ok {
						for _, field := range body.Fields.List {
							if len(field.Names) > 0 && field.Names[0].IsExported() {
								add(t.Name.Name, field.Type)
							}
						}
					}
				}
				v, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				if v.Type != nil {
					typ = v.Type
				} else if len(v.Values) > 0 {
					typ = nil // in a list of constants, the type is repeated if the value is
				}
				for _, n := range v.Names {
					if typ != nil && n.IsExported() {
						add(n.Name, typ)
					}
				}
			}
		}
	}
}

// exportedBy returns the exported names that a file declares.
func exportedBy(f *ast.File) (names []string) {
	if f.Name.Name == "main" {
		return nil
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			switch typ := receiver(d); {
			case !d.Name.IsExported():
			case typ == "":
				names = append(names, d.Name.Name)
			case ast.IsExported(typ) && !slices.Contains(implemented, d.Name.Name):
				names = append(names, typ+"."+d.Name.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				names = append(names, exportedSpec(s)...)
			}
		}
	}
	return names
}

func exportedSpec(s ast.Spec) (names []string) {
	switch s := s.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() {
				names = append(names, n.Name)
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil
		}
		names = append(names, s.Name.Name)
		body, ok := s.Type.(*ast.StructType)
		if !ok || !strings.HasSuffix(s.Name.Name, "Config") && !strings.HasSuffix(s.Name.Name, "Policy") {
			return names
		}
		for _, field := range body.Fields.List {
			for _, n := range field.Names {
				if n.IsExported() {
					names = append(names, s.Name.Name+"."+n.Name)
				}
			}
		}
	}
	return names
}

// receiver returns the type that a function is a method of.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
