// Command report runs the comparison and writes its tables and plots.
//
//	go run ./bench/cmd/report
//
// Each repetition runs every candidate once, in random order and on a new system. Ratios
// are taken within a repetition. The command prints the table of each workload as soon as
// it is complete, and writes RESULTS.md and plots/*.svg to the -out directory at the end.
//
// With -quick it runs for a few seconds, to show that everything works. The figures are
// then meaningless, and are written only if -out is given.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/load"
	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/workload"
)

func main() {
	load.Main()
	workload.StormMain()
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(stderr)
	workloads := flags.String("workloads", "", "`names` or their beginnings, separated by commas: W1,W2/limit=2 (default all except the long ones)")
	candidates := flags.String("candidates", "", "`names`, separated by commas: tether,pond (default all; the baselines always run)")
	reps := flags.Int("reps", 12, "repetitions")
	quick := flags.Bool("quick", false, "one small repetition, as a smoke test")
	long := flags.Bool("long", false, "include the workloads that take minutes and gigabytes")
	out := flags.String("out", "bench", "`directory` for RESULTS.md and plots/; if empty, nothing is written")
	child := flags.String("child", "", "measure one sample, described in JSON; used by the command itself and by bench/cmd/compare")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *child != "" {
		return sample.Serve(*child, stdout)
	}
	if *quick && !isSet(flags, "out") {
		*out = ""
	}
	p := plan{
		workloads: list(*workloads), candidates: list(*candidates), reps: max(*reps, 1), quick: *quick, long: *long, log: stderr,
		stuck: func(what string) {
			fmt.Fprintf(stderr, "report: %s has not ended within %v; it has probably lost a task\n", what, patience)
			os.Exit(1)
		},
	}
	return p.report(*out, stdout)
}

func (p plan) report(out string, stdout io.Writer) error {
	began := time.Now()
	families := p.chosen()
	if len(families) == 0 {
		return fmt.Errorf("-workloads %s: no such workload", strings.Join(p.workloads, ","))
	}
	if err := mustExist(out); err != nil {
		return err // now, and not after the series
	}
	var all [][]result
	for _, f := range families {
		fmt.Fprintf(stdout, "## %s. %s\n\n", f.ID, f.Title)
		var results []result
		for _, w := range f.Workloads {
			since := time.Now()
			r := p.run(f, w)
			fmt.Fprintf(p.log, "%s: %v\n", r.id(), time.Since(since).Round(100*time.Millisecond))
			fmt.Fprintln(stdout, r.section())
			results = append(results, r)
		}
		if !f.Apart && len(results) > 1 {
			fmt.Fprintln(stdout, overviews(results))
		}
		all = append(all, results)
	}
	took := time.Since(began)
	fmt.Fprintln(stdout, setting(all, took))
	if out == "" {
		return nil
	}
	return write(out, all, took)
}

func isSet(flags *flag.FlagSet, name string) (set bool) {
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}
