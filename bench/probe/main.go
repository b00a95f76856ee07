// Command probe runs each library in situations where tasks fail or the process stops, and
// prints a table of what happened.
//
//	go run ./bench/probe                            print the table, in under two minutes
//	go run ./bench/probe -out bench/ROBUSTNESS.md   write it to a file too
//	go run ./bench/probe -quick                     fewer runs, for CI
//	go run ./bench/probe -run goexit/pond -v        some cells, with the output of the children
//
// Each probe of each candidate runs in a child process, so that a crash or a hang is a
// verdict too. The file probes.go documents what the probes do and what they count; the
// file named after a library shows how it is used.
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
	hurry := flag.Bool("quick", false, "fewer runs and shorter waits: for CI, not for figures")
	out := flag.String("out", "", "write the table to this file as well")
	run := flag.String("run", "", "run only the children with a probe/candidate/setting that matches this `regexp`")
	verbose := flag.Bool("v", false, "print each verdict at once, with the output of the child")
	flag.Parse()

	only, err := regexp.Compile(*run)
	if err != nil {
		fatal(err)
	}
	how := thorough
	if *hurry {
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
