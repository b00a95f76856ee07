// Command probe finds out by running them how the libraries behave when tasks
// go wrong or the process stops: it prints the robustness table.
//
//	go run ./bench/probe                            the table, in under two minutes
//	go run ./bench/probe -out bench/ROBUSTNESS.md   into a file as well
//	go run ./bench/probe -quick                     fewer runs, for CI
//	go run ./bench/probe -run goexit/pond -v        some cells, with what the children wrote
//
// Each probe of each candidate runs in a process of its own, which may crash or
// hang: that is a verdict too. What the probes do and what they count is in
// probes.go; how each library is used is in the file named after it.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	childMain()
	hasty := flag.Bool("quick", false, "fewer runs and less patience: for CI, not for figures")
	out := flag.String("out", "", "write the table to this file as well")
	run := flag.String("run", "", "only the children whose probe/candidate/setting match this `regexp`")
	verbose := flag.Bool("v", false, "show each verdict as it comes, and what the children wrote")
	flag.Parse()

	only, err := regexp.Compile(*run)
	if err != nil {
		fatal(err)
	}
	how := thorough
	if *hasty {
		how = quick
	}
	p := parent{effort: how, only: only}
	if *verbose {
		p.log = os.Stderr
	}
	began := time.Now()
	results, err := p.run(candidates())
	if err != nil {
		fatal(err)
	}
	fmt.Fprintf(os.Stderr, "probe: %d verdicts in %.0f s\n", len(results), time.Since(began).Seconds())

	text := table(candidates(), results, how)
	fmt.Print(text)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
			fatal(err)
		}
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "probe:", err)
	os.Exit(1)
}
