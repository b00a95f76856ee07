// Command gauges prints figures about how readable the repository is. It judges
// nothing: a figure that grows is a reason to look, not a failure.
//
//	go run ./internal/gauges          # from the repository's root
//	go run ./internal/gauges -walk    # and the functions that one Pool.Go walks through
//
// # The walk
//
// The walk is what a reader follows to learn what one Pool.Go does, from the call to the
// end of its task. One task, the first one, is run on a pool, with coverage counters that
// are cleared right before. Beginning at Pool.Go, each function is read once. Each call in it that
// was executed, of a function of the core or of its internal packages, is followed:
// static calls, methods, go and defer statements. A call through an interface, or of a
// literal that is stored in a field, is followed to each that was executed. Then
//
//   - calls are the calls followed, by their place in the source; those of a function in
//     another file are counted as across files too;
//   - functions are the functions read, and files the files that they are in;
//   - jumps are the times that the reader changes to another file: to a function that has
//     not been read, and back to the next call of the function that called it. They are
//     counted a second time for a reader that does not visit functions of one line.
//
// Calls through other function values, such as the task's body, are not followed.
//
// # The other gauges
//
// The core is the root package and the internal packages that it imports. Tests are left
// out everywhere. A comment-only line has nothing but a comment on it, and its share is
// that of the lines that are not blank. Person-words are the pronouns of personWords: the
// standard library has at most 0.5 of them in 1,000 words of comments. Overloaded verbs
// are the words that once had several meanings in the core, each with the declarations
// that still begin with it; one declaration of a word is no overload.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gauges: ")
	list := flag.Bool("walk", false, "list the functions of the walk")
	flag.Parse()
	if err := run(os.Stdout, *list); err != nil {
		log.Fatal(err)
	}
}

func run(w io.Writer, list bool) error {
	root, module, err := findModule()
	if err != nil {
		return err
	}
	core, err := load(root, module)
	if err != nil {
		return err
	}
	profile, err := record(root, module)
	if err != nil {
		return err
	}
	walked, err := core.walk(profile, "Pool", "Go")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "one Pool.Go: %d calls through %d functions in %d files, with %d jumps between files; %d calls across files\n",
		walked.calls, len(walked.steps), len(walked.files()), walked.jumps, walked.across)
	fmt.Fprintf(w, "  without its %d functions of one line: %d jumps\n", walked.short, walked.longer)
	if list {
		for _, s := range walked.steps {
			fmt.Fprintf(w, "  %s%s  %s\n", strings.Repeat("  ", s.depth), s.name, s.at)
		}
	}
	core.print(w)
	return printProse(w, root, core.dirs())
}

// findModule returns the directory and the path of the module that the command is run in.
func findModule() (dir, path string, err error) {
	out, err := goCommand("", "list", "-m", "-f", "{{.Dir}}\n{{.Path}}")
	if err != nil {
		return "", "", err
	}
	dir, path, _ = strings.Cut(strings.TrimSpace(out), "\n")
	return dir, path, nil
}

// record runs the program in walk and returns the path of each block of statements that
// it executed, as the cover tool writes it.
func record(root, module string) (*profile, error) {
	tmp, err := os.MkdirTemp("", "gauges")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	program, counters, text := filepath.Join(tmp, "walk"), filepath.Join(tmp, "counters"), filepath.Join(tmp, "profile")
	if err := os.Mkdir(counters, 0o700); err != nil {
		return nil, err
	}
	_, err = goCommand(root, "build", "-cover", "-covermode=atomic",
		"-coverpkg="+module+","+module+"/internal/...", "-o", program, "./internal/gauges/walk")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, counters)
	cmd.Env = append(os.Environ(), "GOCOVERDIR="+tmp) // for what it writes at its exit
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("walk: %w: %s", err, out)
	}
	if _, err := goCommand(root, "tool", "covdata", "textfmt", "-i="+counters, "-o="+text); err != nil {
		return nil, err
	}
	f, err := os.Open(text)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readProfile(f)
}

// goCommand runs the go command on the module in dir alone, and returns its output.
func goCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, exit.Stderr)
	}
	return string(out), err
}
