// Command testall runs the tests of all modules, as "go test work" does, and ends with a
// list of the tests that were skipped, and why.
//
//	go run ./internal/testall [flags of go test]
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	began := time.Now()
	cmd := exec.Command("go", append(append([]string{"test", "-json"}, os.Args[1:]...), "work")...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		os.Exit(1)
	}
	skipped := show(events, os.Stdout)
	err = cmd.Wait()
	skipped.print(os.Stdout)
	fmt.Printf("\nThe tests took %v.\n", time.Since(began).Round(time.Second))
	if err != nil {
		fmt.Println("FAIL")
		os.Exit(1)
	}
}

// event is an event of go test -json, see go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// test identifies a test. The name is empty for the output of the package itself.
type test struct{ pkg, name string }

// skips are the skipped tests: their number by reason and package.
type skips map[string]map[string]int

// show prints the events in the format of go test: a line for each package, and the
// output of what failed. It returns the tests that were skipped.
func show(events io.Reader, out io.Writer) skips {
	skipped := skips{}
	output := map[test][]string{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return skipped
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			_, _ = out.Write(line) // not an event: a message of the go command
			continue
		}
		id := test{e.Package, e.Test}
		switch e.Action {
		case "output":
			output[id] = append(output[id], e.Output)
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "pass", "skip", "fail":
			text := output[id]
			delete(output, id)
			switch {
			case e.Test == "":
				printPackage(out, text, e.Action)
			case e.Action == "skip":
				skipped.add(reason(text), e.Package)
			case e.Action == "fail":
				fmt.Fprint(out, strings.Join(text, ""))
			}
		}
	}
}

// printPackage prints the result of a package, and its other output if it failed.
func printPackage(out io.Writer, text []string, action string) {
	for _, line := range text {
		result := strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t") || strings.HasPrefix(line, "?   \t")
		if result || action == "fail" && line != "FAIL\n" {
			fmt.Fprint(out, line)
		}
	}
}

// location is the position of a call of t.Skip, which precedes its text.
var location = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason returns the text of a call of t.Skip in the output of a test.
func reason(text []string) string {
	for _, line := range slices.Backward(text) {
		if at := location.FindString(line); at != "" {
			return strings.TrimPrefix(strings.TrimSpace(line[len(at):]), "SKIPPED: ")
		}
	}
	return "no reason given"
}

func (s skips) add(reason, pkg string) {
	if s[reason] == nil {
		s[reason] = map[string]int{}
	}
	s[reason][pkg]++
}

// print lists the reasons, those for the most tests first.
func (s skips) print(out io.Writer) {
	if len(s) == 0 {
		fmt.Fprintln(out, "\nNo test was skipped.")
		return
	}
	total := func(reason string) (n int) {
		for count := range maps.Values(s[reason]) {
			n += count
		}
		return n
	}
	reasons := slices.SortedFunc(maps.Keys(s), func(a, b string) int {
		return cmp.Or(cmp.Compare(total(b), total(a)), cmp.Compare(a, b))
	})
	fmt.Fprintln(out, "\nSkipped tests, by reason:")
	for _, reason := range reasons {
		fmt.Fprintf(out, "%5d  %s\n", total(reason), reason)
		for _, pkg := range slices.Sorted(maps.Keys(s[reason])) {
			fmt.Fprintf(out, "       - %d in %s\n", s[reason][pkg], pkg)
		}
	}
}
