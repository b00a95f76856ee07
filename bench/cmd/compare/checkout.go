package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/seed-2e639f12/tether/bench/internal/sample"
)

// checkout is one side: a directory with a checkout of Tether, and what is built from it.
type checkout struct {
	root    string // absolute
	commit  string
	temp    string // for what is built
	name    string
	program string // its report command

	// borrowed is the report command with the other side's workloads, "" if it could not
	// be built; set once tried is true.
	borrowed string
	tried    bool
	why      error // why borrowed could not be built
}

func build(ctx context.Context, root, temp, name string) (*checkout, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	c := &checkout{root: root, temp: temp, name: name, program: filepath.Join(temp, name)}
	if err := c.goBuild(ctx, c.program); err != nil {
		return nil, err
	}
	c.commit = c.describe(ctx)
	return c, nil
}

func (c *checkout) String() string { return c.root + " " + c.commit }

// describe returns the commit, or nothing if the directory is not git's.
func (c *checkout) describe(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "-C", c.root, "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return "(" + strings.TrimSpace(string(out)) + ")"
}

func (c *checkout) goBuild(ctx context.Context, program string, flags ...string) error {
	args := slices.Concat([]string{"build", "-o", program}, flags, []string{"./cmd/report"})
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(c.root, "bench")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building bench/cmd/report of %s: %w\n%s", c.root, err, out)
	}
	return nil
}

// ask measures a sample, with the workloads of the other side if this one lacks that one.
func (c *checkout) ask(ctx context.Context, other *checkout, req sample.Request) (sample.Sample, error) {
	s, err := sample.Ask(ctx, c.program, req)
	if !errors.Is(err, sample.ErrUnknown) {
		return s, err
	}
	if !c.tried {
		c.tried = true
		c.why = c.borrow(ctx, other)
	}
	if c.why != nil {
		return nil, errors.Join(err, c.why)
	}
	return sample.Ask(ctx, c.borrowed, req)
}

// borrow builds the report command from the other side's files, except those that know
// Tether's API.
func (c *checkout) borrow(ctx context.Context, other *checkout) error {
	replace, err := overlay(c.root, other.root)
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	path := filepath.Join(c.temp, c.name+"-overlay.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	c.borrowed = filepath.Join(c.temp, c.name+"-borrowed")
	return c.goBuild(ctx, c.borrowed, "-overlay", path)
}

// Of these folders everything is borrowed except the own files.
var (
	borrowedFolders = []string{"bench/peers", "bench/workload", "bench/internal", "bench/cmd/report"}
	ownFiles        = []string{"bench/peers/tether.go", "bench/peers/ablation.go"}
)

// overlay says, as go build's -overlay wants it, which file is read in the place of
// which: "" stands for a file that is not there.
func overlay(own, other string) (map[string]string, error) {
	replace := map[string]string{}
	for _, folder := range borrowedFolders {
		for _, root := range []string{own, other} { // the second one's files replace the first one's
			files, err := goFiles(root, folder)
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				if slices.Contains(ownFiles, file) {
					continue
				}
				source := ""
				if root == other {
					source = filepath.Join(other, filepath.FromSlash(file))
				}
				replace[filepath.Join(own, filepath.FromSlash(file))] = source
			}
		}
	}
	return replace, nil
}

// goFiles returns the paths below root, with slashes, of the Go files in a folder and in
// those within it, except tests.
func goFiles(root, folder string) (files []string, err error) {
	err = fs.WalkDir(os.DirFS(root), folder, func(path string, _ fs.DirEntry, err error) error {
		if path == folder && errors.Is(err, fs.ErrNotExist) {
			return fs.SkipAll
		}
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return err
	})
	return files, err
}
