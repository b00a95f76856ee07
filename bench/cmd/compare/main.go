// Command compare measures the same workloads on two checkouts of Tether in one
// interleaved run, to see whether a change makes it slower.
//
//	git worktree add ../before main
//	go run ./bench/cmd/compare -old ../before -new .
//
// It builds the report command of both checkouts (see package internal/sample for what
// it asks of them), runs the two one after the other, in random order, in each
// repetition, and prints the medians of the ratios new/old within a repetition, with
// their quartiles and with bounds that hold the true median with a probability of 95 %.
// Compare a checkout with itself (-old . -new .) to see the noise of the machine.
//
// A workload that one checkout lacks is built into it from the other one, in memory: the
// workloads, the peers and the report come from there, and only bench/peers/tether.go and
// ablation.go, which know the API of Tether, are its own. Where that cannot be built, the
// workload is skipped, and the output says so.
//
// With -max 1.03 the command fails if the bounds of a compared metric lie above 1.03.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/workload"
)

const usual = "W1,W2,W5/32KB/paced,W5/empty/paced,W6,W7,W14"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	before := flags.String("old", "", "`directory` with the checkout to compare with")
	after := flags.String("new", ".", "`directory` with the checkout to compare")
	workloads := flags.String("workloads", usual, "`names` or their beginnings, separated by commas: W1,W2/limit=2; all means all that are not long")
	candidates := flags.String("candidates", "", "`names`, separated by commas: tether,go (default Tether in all its settings)")
	reps := flags.Int("reps", 20, "repetitions; fewer than 6 give no bounds")
	atLeast := flags.Duration("time", 300*time.Millisecond, "least `duration` of a sample, except of workloads with a fixed size")
	quick := flags.Bool("quick", false, "one small repetition, as a smoke test")
	most := flags.Float64("max", 0, "fail if the bounds of a compared metric lie above this `ratio`; zero means never")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *before == "" || flags.NArg() > 0 {
		flags.Usage()
		return errors.New("-old names no directory")
	}
	dir, err := os.MkdirTemp("", "tether-compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var sides [2]*checkout
	for i, root := range []string{*before, *after} {
		fmt.Fprintf(stderr, "building %s\n", root)
		if sides[i], err = build(ctx, root, dir, sideNames[i]); err != nil {
			return err
		}
	}
	c := comparison{
		pairs: pairs(list(*workloads), list(*candidates)), reps: max(*reps, 1), atLeast: *atLeast, quick: *quick, log: stderr,
		ask: func(ctx context.Context, side int, req sample.Request) (sample.Sample, error) {
			return sides[side].ask(ctx, sides[1-side], req)
		},
	}
	if len(c.pairs) == 0 {
		return fmt.Errorf("-workloads %s, -candidates %s: no such workload or candidate", *workloads, *candidates)
	}
	err = c.run(ctx)
	fmt.Fprintf(stdout, "old: %s\nnew: %s\n\n%s", sides[0], sides[1], c.table())
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; the table has what was measured until then")
	}
	if slow := c.slower(*most); err == nil && *most > 0 && len(slow) > 0 {
		return fmt.Errorf("above %v: %s", *most, strings.Join(slow, ", "))
	}
	return err
}

// pairs returns what to measure on both sides, in the order of the workloads.
func pairs(workloads, candidates []string) (all []pair) {
	for _, f := range workload.All() {
		for _, w := range f.Workloads {
			id := f.ID + "/" + w.Name
			if !workload.Chosen(id, w.Long, workloads) {
				continue
			}
			for _, c := range w.AllCandidates() {
				if chosenCandidate(c, candidates) {
					all = append(all, pair{id: id, workload: w, candidate: c.Name})
				}
			}
		}
	}
	return all
}

func list(s string) []string {
	if s == "all" {
		return nil
	}
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}
