package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// prose is what is counted of a package's comments, or of a text.
type prose struct {
	lines, commentOnly int // lines without blank ones, and those with nothing but a comment
	words, persons     int
}

func (p *prose) add(q prose) {
	p.lines += q.lines
	p.commentOnly += q.commentOnly
	p.words += q.words
	p.persons += q.persons
}

func (p prose) String() string {
	return fmt.Sprintf("%6d lines, %4.1f %% comment-only, %6d words of comments, %3d person-words: %4.1f per 1,000",
		p.lines, percent(p.commentOnly, p.lines), p.words, p.persons, 10*percent(p.persons, p.words))
}

func percent(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return 100 * float64(n) / float64(of)
}

// printProse prints the gauges of the comments of each package below root, and of the
// Markdown beside them. core has the directories of the core's packages.
func printProse(w io.Writer, root string, core map[string]bool) error {
	byDir, markdown := make(map[string]prose), prose{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != root && (strings.HasPrefix(base, ".") || base == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		isGo := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !isGo && !strings.HasSuffix(name, ".md") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !isGo {
			markdown.count(string(src))
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		file, err := proseOf(name, src)
		sum := byDir[filepath.ToSlash(rel)]
		sum.add(file)
		byDir[filepath.ToSlash(rel)] = sum
		return err
	})
	if err != nil {
		return err
	}
	var all prose
	for dir := range core {
		all.add(byDir[dir])
	}
	fmt.Fprintf(w, "comments, without tests:\n  %-32s %v\n", "core", all)
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		fmt.Fprintf(w, "  %-32s %v\n", path.Clean(dir), byDir[dir])
	}
	fmt.Fprintf(w, "  %-32s %d words, %d person-words: %.1f per 1,000\n", "Markdown", markdown.words, markdown.persons, 10*percent(markdown.persons, markdown.words))
	return nil
}

// proseOf counts one Go file.
func proseOf(name string, src []byte) (p prose, err error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return p, err
	}
	code := codeLines(src)
	comment := make(map[int]bool)
	for _, group := range f.Comments {
		for _, c := range group.List {
			for line := fset.Position(c.Pos()).Line; line <= fset.Position(c.End()).Line; line++ {
				comment[line] = true
			}
			if !isDirective(c) {
				p.count(c.Text)
			}
		}
	}
	for i, line := range strings.Split(string(src), "\n") {
		switch {
		case strings.TrimSpace(line) == "":
		case comment[i+1] && !code[i+1]:
			p.commentOnly++
			fallthrough
		default:
			p.lines++
		}
	}
	return p, nil
}

// isDirective reports whether a comment is for a tool: //go:build and its like.
func isDirective(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:") }

// codeLines returns the lines that something other than a comment is on.
func codeLines(src []byte) map[int]bool {
	fset := token.NewFileSet()
	file := fset.AddFile("", fset.Base(), len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0)
	lines := make(map[int]bool)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue // the scanner's own, at the end of a line
		}
		first := file.Line(pos)
		for line := first; line <= first+strings.Count(text, "\n"); line++ {
			lines[line] = true
		}
	}
}

var (
	word        = regexp.MustCompile(`[\pL][\pL'’-]*`)
	personWords = map[string]bool{
		"somebody": true, "someone": true, "nobody": true, "anybody": true, "anyone": true,
		"whoever": true, "who": true, "whom": true, "whose": true,
	}
)

// count counts the words of a text.
func (p *prose) count(text string) {
	for _, w := range word.FindAllString(text, -1) {
		p.words++
		w, _, _ = strings.Cut(strings.ToLower(w), "'")
		if personWords[w] {
			p.persons++
		}
	}
}
