package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"io"
	"maps"
	"slices"
	"strings"
)

// print prints the gauges of the core's declarations.
func (c *core) print(w io.Writer) {
	files := slices.Sorted(maps.Keys(c.stateWriters()))
	fmt.Fprintf(w, "the state of a task is written in %d files: %s\n", len(files), strings.Join(files, " "))
	flags := c.flags()
	fmt.Fprintf(w, "flags beside the state: %d: %s\n", len(flags), strings.Join(flags, " "))
	hidden := c.unexportedTypes()
	fmt.Fprintf(w, "unexported types in the root: %d: %s\n", len(hidden), strings.Join(hidden, " "))
	name, lines, total := c.largestFile()
	fmt.Fprintf(w, "largest file of the core: %s, %d lines; all: %d lines\n", name, lines, total)
	fmt.Fprintf(w, "overloaded verbs, by the declarations that bear them:\n")
	for _, verb := range overloaded {
		if found := c.bearing(verb); len(found) > 0 {
			fmt.Fprintf(w, "  %-8s %2d  %s\n", verb, len(found), strings.Join(found, ", "))
		}
	}
}

// stateFields returns the fields that hold the state of a Task: its field state, and the
// fields of the struct of the core that is the type of state, or has it as a method.
func (c *core) stateFields() map[types.Object]bool {
	fields := make(map[types.Object]bool)
	task := c.root().Scope().Lookup("Task")
	if task == nil {
		return fields
	}
	var word types.Type
	switch state, _, _ := types.LookupFieldOrMethod(task.Type(), true, c.root().Package, "state"); state := state.(type) {
	case *types.Var:
		fields[state] = true
		word = state.Type()
	case *types.Func: // of an embedded struct
		word = state.Signature().Recv().Type()
	default:
		return fields
	}
	if p, ok := word.(*types.Pointer); ok {
		word = p.Elem()
	}
	if named, ok := word.(*types.Named); !ok || named.Obj().Pkg() != c.root().Package {
		return fields
	}
	if word, ok := word.Underlying().(*types.Struct); ok {
		for i := range word.NumFields() {
			fields[word.Field(i)] = true
		}
	}
	return fields
}

// writing are the methods of an atomic value that change it.
var writing = []string{"Store", "Swap", "CompareAndSwap", "Add", "And", "Or"}

// stateWriters returns the files that write the state word of a task, or take its address.
func (c *core) stateWriters() map[string]bool {
	state := c.stateFields()
	files := make(map[string]bool)
	isState := func(e ast.Expr) bool {
		sel, ok := ast.Unparen(e).(*ast.SelectorExpr)
		return ok && state[c.root().info.Uses[sel.Sel]]
	}
	for _, f := range c.root().files {
		ast.Inspect(f, func(n ast.Node) bool {
			written := false
			switch n := n.(type) {
			case *ast.CallExpr:
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
					written = isState(sel.X) && slices.Contains(writing, sel.Sel.Name)
				}
			case *ast.AssignStmt:
				written = slices.ContainsFunc(n.Lhs, isState)
			case *ast.UnaryExpr:
				written = n.Op == token.AND && isState(n.X)
			}
			if written {
				files[c.file(n.Pos())] = true
			}
			return true
		})
	}
	return files
}

// flags returns the constants of the block that declares stateMask, without the mask.
func (c *core) flags() []string {
	var flags []string
	for _, f := range c.root().files {
		for _, d := range f.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			var names []string
			for _, s := range decl.Specs {
				for _, id := range s.(*ast.ValueSpec).Names {
					names = append(names, id.Name)
				}
			}
			if i := slices.Index(names, "stateMask"); i >= 0 {
				flags = append(flags, slices.Delete(names, i, i+1)...)
			}
		}
	}
	return flags
}

func (c *core) unexportedTypes() []string {
	var hidden []string
	scope := c.root().Scope()
	for _, name := range scope.Names() {
		if _, ok := scope.Lookup(name).(*types.TypeName); ok && !token.IsExported(name) {
			hidden = append(hidden, name)
		}
	}
	return hidden
}

func (c *core) largestFile() (largest string, lines, total int) {
	for _, p := range c.order {
		for _, f := range p.files {
			n := c.fset.File(f.Pos()).LineCount()
			total += n
			if n > lines {
				largest, lines = c.file(f.Pos()), n
			}
		}
	}
	return largest, lines, total
}

// overloaded are words that had several meanings in the core.
var overloaded = []string{
	"release", "claim", "enter", "watch", "over", "kept", "turn", "line", "stop", "leave", "judge", "decide",
	"wish", "grant", "furnish", "staff", "strike", "poke", "tell", "note", "more", "aside", "inner", "seal", "spread",
}

// bearing returns the functions, types, fields and constants of the core that begin with
// the word verb, in singular or plural.
func (c *core) bearing(verb string) []string {
	found := make(map[string]bool)
	for _, p := range c.order {
		for id, obj := range p.info.Defs {
			if obj == nil || !slices.Contains([]string{verb, verb + "s", verb + "es"}, firstWord(id.Name)) {
				continue
			}
			switch o := obj.(type) {
			case *types.Func:
				if recv := o.Signature().Recv(); recv != nil && types.IsInterface(recv.Type()) {
					continue // its implementations are counted
				}
				found[nameOf(o)] = true
			case *types.TypeName, *types.Const:
				if o.Parent() == p.Scope() {
					found[p.Name()+"."+id.Name] = true
				}
			case *types.Var:
				if o.IsField() {
					found["field "+id.Name+" "+c.file(id.Pos())] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// firstWord returns the first word of a name in camel case, in lower case.
func firstWord(name string) string {
	end := strings.IndexFunc(name[1:], func(r rune) bool { return r >= 'A' && r <= 'Z' })
	if end < 0 {
		return strings.ToLower(name)
	}
	return strings.ToLower(name[:end+1])
}
