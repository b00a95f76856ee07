package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/figures"
	"github.com/seed-2e639f12/tether/bench/peers"
)

const howToRead = `Every figure is a median; its quartiles follow in brackets. "× go" is the median of the ratios to the go statement *of the same
repetition*. Each repetition runs every candidate once, in random order and on a new system, so a slow phase of the machine
affects all of them. Less is better. Differences of 10 to 15 % are noise on a machine like this one.
A dash means that the library lacks the feature, or that it failed. Tether is in bold. The other names are libraries, except go
(the go statement and a WaitGroup) and channel (workers that read a buffered channel), which are written by hand.
"× <library>" is the ratio to the best library in that workload.
`

// document returns the whole report as Markdown. plot returns the path of a family's plot,
// or "" if there is none.
func document(families [][]result, took time.Duration, plot func(family string) string) string {
	var b strings.Builder
	b.WriteString("# Tether, the go statement and the libraries\n\n" + howToRead + "\n")
	b.WriteString("`go run ./bench/cmd/report` writes this file. Package bench/workload defines what is measured, package bench/peers how each candidate is used.\n\n")
	for _, results := range families {
		f := results[0].family
		fmt.Fprintf(&b, "## %s. %s\n\n%s\n\n", f.ID, f.Title, f.About)
		if path := plot(f.ID); path != "" {
			fmt.Fprintf(&b, "![%s](%s)\n\n", f.Title, path)
		}
		b.WriteString(familyTables(results))
	}
	b.WriteString(setting(families, took))
	return b.String()
}

// familyTables returns the ratios of all workloads of a family in one table, and the table
// of each workload below it, folded.
func familyTables(results []result) string {
	var b strings.Builder
	folded := len(results) > 1 && !results[0].family.Apart
	if folded {
		b.WriteString(overviews(results) + "\n<details><summary>All figures</summary>\n\n")
	}
	for _, r := range results {
		b.WriteString(r.section() + "\n")
	}
	if folded {
		b.WriteString("</details>\n\n")
	}
	return b.String()
}

func (r result) section() string {
	text := fmt.Sprintf("**%s** (%d repetitions of %d)\n\n%s\n", r.id(), r.reps, r.n, r.detail())
	if names := r.absent(); len(names) > 0 {
		text += figures.Dash + ": " + strings.Join(names, ", ") + "\n"
	}
	return text
}

// absent returns the candidates that lack something or have failed.
func (r result) absent() (names []string) {
	for _, c := range r.candidates {
		if len(r.samples[c.Name]) == 0 {
			names = append(names, c.Name)
		}
	}
	return names
}

// setting describes the machine and the versions.
func setting(families [][]result, took time.Duration) string {
	var all []result
	for _, results := range families {
		all = append(all, results...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## Machine and versions\n\n%s; %d processors, GOMAXPROCS %d; %s %s/%s; %s, %s long.\n\n",
		processor(), runtime.NumCPU(), runtime.GOMAXPROCS(0), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		time.Now().Format(time.DateOnly), took.Round(time.Second))
	t := figures.Table{{"", "version", "used as"}}
	for _, c := range candidatesOf(all) {
		if c.Setting != "" { // the names of the ablation's candidates explain themselves
			t = append(t, []string{label(c), version(c), c.Setting})
		}
	}
	b.WriteString(strings.ReplaceAll(t.String(), ":|", "-|"))
	return b.String()
}

func version(c peers.Candidate) string {
	if c.Kind == peers.Ours {
		return "this tree"
	}
	if c.Module == "" {
		return runtime.Version()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return figures.Dash
	}
	for _, m := range info.Deps {
		if m.Path == c.Module {
			return m.Version
		}
	}
	return figures.Dash
}

func processor() string {
	const key = "model name"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(info)) {
		if strings.HasPrefix(line, key) {
			_, name, _ := strings.Cut(line, ":")
			return strings.TrimSpace(name)
		}
	}
	return "unknown processor"
}

func mustExist(dir string) error {
	if dir == "" {
		return nil
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("-out: no directory %q; run from the root of the repository, or name one", dir)
	}
	return nil
}

// write writes RESULTS.md and the plots to dir, which must exist.
func write(dir string, families [][]result, took time.Duration) error {
	const plots = "plots"
	if err := os.MkdirAll(filepath.Join(dir, plots), 0o755); err != nil {
		return err
	}
	drawn := map[string]string{}
	for _, results := range families {
		id := results[0].family.ID
		name := plots + "/" + id + ".svg"
		if err := savePlot(results, filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("plot of %s: %w", id, err)
		}
		drawn[id] = name
	}
	text := document(families, took, func(family string) string { return drawn[family] })
	return os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(text), 0o644)
}
