package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"io"
	"strings"
)

// profile is the blocks of statements that were executed, by the file's import path.
type profile struct{ blocks map[string][]block }

// block is a range of a file, its end excluded.
type block struct {
	from, to place
	executed bool
}

type place struct{ line, column int }

func (p place) before(q place) bool {
	return p.line < q.line || p.line == q.line && p.column < q.column
}

func readProfile(r io.Reader) (*profile, error) {
	p := &profile{make(map[string][]block)}
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return p, lines.Err()
		}
		file, rest, ok := strings.Cut(lines.Text(), ".go:")
		if !ok {
			continue // the mode
		}
		var b block
		var statements, count int
		_, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.from.line, &b.from.column, &b.to.line, &b.to.column, &statements, &count)
		if err != nil {
			return nil, fmt.Errorf("coverage profile: %q: %w", lines.Text(), err)
		}
		b.executed = count > 0
		p.blocks[file+".go"] = append(p.blocks[file+".go"], b)
	}
}

// executed reports whether the innermost block around a place was executed. The blocks of
// a function literal are inside one of the function around it.
func (p *profile) executed(file string, at place) bool {
	var best *block
	for i, b := range p.blocks[file] {
		if !at.before(b.from) && at.before(b.to) && (best == nil || best.from.before(b.from)) {
			best = &p.blocks[file][i]
		}
	}
	return best != nil && best.executed
}

// any reports whether anything between two places was executed.
func (p *profile) any(file string, from, to place) bool {
	for _, b := range p.blocks[file] {
		if b.executed && !b.from.before(from) && b.from.before(to) {
			return true
		}
	}
	return false
}

// walk is what a reader of one call follows.
type walk struct {
	steps  []step
	calls  int // followed
	across int // those of them into another file
	short  int // functions of one line
	jumps  int
	longer int       // jumps, if functions of one line are not visited
	at     [2]string // the file that the reader is in: for jumps, and for longer
}

// turnTo notes that the reader continues in a file, at a function of one line or not.
func (w *walk) turnTo(file string, short bool) {
	if w.at[0] != "" && w.at[0] != file {
		w.jumps++
	}
	w.at[0] = file
	if short {
		return
	}
	if w.at[1] != "" && w.at[1] != file {
		w.longer++
	}
	w.at[1] = file
}

// step is a function that is read.
type step struct {
	name, file, at string
	depth          int
}

func (w *walk) files() map[string]bool {
	files := make(map[string]bool)
	for _, s := range w.steps {
		files[s.file] = true
	}
	return files
}

// walker follows calls.
type walker struct {
	*core
	*profile
	walk
	funcs  map[types.Object]*function   // declared functions and methods
	stored map[types.Object][]*function // function literals by the field that they are assigned to
}

// function is a declared function or method, or a literal that is stored in a field.
type function struct {
	*pkg
	name string
	node ast.Node
	body *ast.BlockStmt
	read bool
}

// walk follows the calls that were executed, from a method of the root package.
func (c *core) walk(executed *profile, typeName, method string) (*walk, error) {
	w := &walker{
		core: c, profile: executed,
		funcs: make(map[types.Object]*function), stored: make(map[types.Object][]*function),
	}
	for _, p := range c.order {
		for _, f := range p.files {
			w.collect(p, f)
		}
	}
	named := c.root().Scope().Lookup(typeName)
	if named == nil {
		return nil, fmt.Errorf("walk: no type %s", typeName)
	}
	obj, _, _ := types.LookupFieldOrMethod(named.Type(), true, c.root().Package, method)
	start := w.funcs[obj]
	if start == nil {
		return nil, fmt.Errorf("walk: no method %s.%s", typeName, method)
	}
	w.follow(start, 0)
	return &w.walk, nil
}

// collect notes the functions of a file.
func (w *walker) collect(p *pkg, f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if fn := p.info.Defs[n.Name].(*types.Func); n.Body != nil {
				w.funcs[fn] = &function{pkg: p, name: nameOf(fn), node: n, body: n.Body}
			}
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				if sel, ok := to.(*ast.SelectorExpr); ok && i < len(n.Rhs) {
					w.store(p, sel.Sel, n.Rhs[i])
				}
			}
		case *ast.KeyValueExpr:
			if field, ok := n.Key.(*ast.Ident); ok {
				w.store(p, field, n.Value)
			}
		}
		return true
	})
}

// store notes a function literal that is assigned to a field.
func (w *walker) store(p *pkg, field *ast.Ident, value ast.Expr) {
	if lit, ok := value.(*ast.FuncLit); ok {
		obj := origin(p.info.Uses[field])
		w.stored[obj] = append(w.stored[obj], &function{pkg: p, name: "func in " + field.Name, node: lit, body: lit.Body})
	}
}

// follow reads a function, and what it calls in the order of the source.
func (w *walker) follow(fn *function, depth int) {
	if fn.read {
		return
	}
	fn.read = true
	file := w.file(fn.node.Pos())
	short := w.isShort(fn)
	if short {
		w.short++
	}
	w.turnTo(file, short)
	at := fmt.Sprintf("%s:%d", file, w.fset.Position(fn.node.Pos()).Line)
	w.steps = append(w.steps, step{fn.name, file, at, depth})
	ast.Inspect(fn.body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || !w.executed(w.source(call.Pos())) {
			return true
		}
		for _, callee := range w.callees(fn.pkg, call) {
			w.calls++
			if w.file(callee.node.Pos()) != file {
				w.across++
			}
			w.turnTo(file, short || w.isShort(callee))
			w.follow(callee, depth+1)
		}
		return true
	})
}

// isShort reports whether a function is on one line: a reader of the call sees what it does.
func (w *walker) isShort(fn *function) bool {
	return w.fset.Position(fn.node.Pos()).Line == w.fset.Position(fn.node.End()).Line
}

// callees returns the functions of the core that a call may be of: one, or each that was
// executed of an interface's implementations or of the literals stored in a field.
func (w *walker) callees(p *pkg, call *ast.CallExpr) []*function {
	fun := ast.Unparen(call.Fun)
	switch f := fun.(type) { // an explicit instantiation
	case *ast.IndexExpr:
		fun = f.X
	case *ast.IndexListExpr:
		fun = f.X
	}
	var id *ast.Ident
	switch f := fun.(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return nil
	}
	obj := origin(p.info.Uses[id])
	if fn := w.funcs[obj]; fn != nil {
		return []*function{fn}
	}
	if fn, ok := obj.(*types.Func); ok {
		if recv := fn.Signature().Recv(); recv != nil && types.IsInterface(recv.Type()) {
			return w.implementations(fn, recv.Type())
		}
	}
	var all []*function
	for _, fn := range w.stored[obj] {
		if w.ran(fn) {
			all = append(all, fn)
		}
	}
	return all
}

// origin returns the generic function or field that obj is an instance of.
func origin(obj types.Object) types.Object {
	switch o := obj.(type) {
	case *types.Func:
		return o.Origin()
	case *types.Var:
		return o.Origin()
	}
	return obj
}

// implementations returns the methods of the core that implement an interface's and were
// executed. The interface may be generic, so methods are compared by name and number of
// parameters.
func (w *walker) implementations(method *types.Func, of types.Type) []*function {
	var all []*function
	iface := of.Underlying().(*types.Interface)
	for _, p := range w.order {
		for _, name := range p.Scope().Names() {
			named, ok := p.Scope().Lookup(name).(*types.TypeName)
			if !ok || types.IsInterface(named.Type()) {
				continue
			}
			set := types.NewMethodSet(types.NewPointer(named.Type()))
			has := true
			for i := range iface.NumMethods() {
				m := iface.Method(i)
				have := set.Lookup(m.Pkg(), m.Name())
				has = has && have != nil && have.Type().(*types.Signature).Params().Len() == m.Signature().Params().Len()
			}
			if !has {
				continue
			}
			fn := w.funcs[origin(set.Lookup(method.Pkg(), method.Name()).Obj())]
			if fn != nil && w.ran(fn) {
				all = append(all, fn)
			}
		}
	}
	return all
}

// ran reports whether anything of a function was executed.
func (w *walker) ran(fn *function) bool {
	file, from := w.source(fn.body.Pos())
	_, to := w.source(fn.body.End())
	return w.any(file, from, to)
}

// source returns a position as the coverage profile has it.
func (w *walker) source(pos token.Pos) (file string, at place) {
	p := w.fset.Position(pos)
	return w.module + "/" + w.file(pos), place{p.Line, p.Column}
}

// nameOf returns the name of a function as a reader says it: "Task.run", "gate.Gate.Try".
func nameOf(fn *types.Func) string {
	name := fn.Name()
	if recv := fn.Signature().Recv(); recv != nil {
		t := recv.Type()
		if p, ok := t.(*types.Pointer); ok {
			t = p.Elem()
		}
		if n, ok := t.(*types.Named); ok {
			name = n.Obj().Name() + "." + name
		}
	}
	if strings.Contains(fn.Pkg().Path(), "/internal/") {
		name = fn.Pkg().Name() + "." + name
	}
	return name
}
