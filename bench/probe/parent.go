package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A job is one probe of one setting of one candidate, run in a child process.
type job struct {
	probe              probe
	candidate, setting int // indexes
}

// results has the verdicts by job.key.
type results map[string]verdict

func (j job) key() string { return fmt.Sprintf("%s/%d/%d", j.probe.Name, j.candidate, j.setting) }

// childEnv is the environment variable with a child's job and its effort.
const childEnv = "TETHER_PROBE"

// verdictMark begins the line with the verdict. The libraries may print other lines.
const verdictMark = "verdict: "

// childMain runs the probe and exits if this process is a child. Otherwise it returns.
func childMain() {
	spec := os.Getenv(childEnv)
	if spec == "" {
		return
	}
	parts := strings.Split(spec, "/")
	i := slices.IndexFunc(probes, func(p probe) bool { return p.Name == parts[0] })
	c, _ := strconv.Atoi(parts[1])
	s, _ := strconv.Atoi(parts[2])
	how := slices.IndexFunc(efforts, func(e effort) bool { return e.Name == parts[3] })
	line, err := json.Marshal(probes[i].Run(candidates()[c].Settings[s], efforts[how]))
	if err != nil {
		panic(err)
	}
	fmt.Printf("\n%s%s\n", verdictMark, line)
	os.Exit(0)
}

// A parent runs the children.
type parent struct {
	effort effort
	only   *regexp.Regexp // matches probe/candidate/setting
	log    io.Writer      // nil means no log
}

// run runs every child: several at once of the probes that mostly wait, and one after the
// other of the probes that look for races.
func (p parent) run(rows []candidate) (results, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var idle, busy []job
	for c, row := range rows {
		for s, set := range row.Settings {
			for _, probe := range probes {
				if set.Probes != nil && !slices.Contains(set.Probes, probe.Name) ||
					!p.only.MatchString(probe.Name+"/"+row.Name+"/"+set.Name) {
					continue
				}
				if j := (job{probe, c, s}); probe.Busy {
					busy = append(busy, j)
				} else {
					idle = append(idle, j)
				}
			}
		}
	}

	all := make(results)
	var mu sync.Mutex // guards all and p.log
	do := func(j job) {
		began := time.Now()
		v, output := p.child(exe, j)
		mu.Lock()
		defer mu.Unlock()
		all[j.key()] = v
		if p.log != nil {
			fmt.Fprintf(p.log, "%s/%s/%s (%.1f s): %s %q\n%s", j.probe.Name, rows[j.candidate].Name,
				rows[j.candidate].Settings[j.setting].Name, time.Since(began).Seconds(), v.Text, v.Notes, indent(output))
		}
	}
	const atOnce = 8 // they mostly wait
	var group sync.WaitGroup
	next := make(chan job)
	for range atOnce {
		group.Go(func() {
			for j := range next {
				do(j)
			}
		})
	}
	for _, j := range idle {
		next <- j
	}
	close(next)
	group.Wait()
	for _, j := range busy {
		do(j)
	}
	return all, nil
}

// child runs one child and returns its verdict and the rest of its output.
func (p parent) child(exe string, j job) (verdict, []byte) {
	// The probes have time limits of their own. This one is for what they do not foresee.
	limit := 10*p.effort.Patience + 30*time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+j.key()+"/"+p.effort.Name)
	cmd.WaitDelay = time.Second
	output, err := cmd.CombinedOutput()

	if before, line, found := bytes.Cut(output, []byte("\n"+verdictMark)); found {
		var v verdict
		line, after, _ := bytes.Cut(line, []byte("\n"))
		if err := json.Unmarshal(line, &v); err != nil {
			return bad("no verdict: " + err.Error()), output
		}
		output = append(before[:len(before):len(before)], after...)
		if j.probe.Name == "panic" && !v.Raised && !bytes.Contains(output, []byte(deliberatePanic)) {
			v = v.note("Nothing is logged.")
		}
		if bytes.Contains(output, []byte("WARNING: DATA RACE")) {
			v = v.note("The race detector reports a data race.")
		}
		return v, output
	}
	switch {
	case ctx.Err() != nil:
		return bad(fmt.Sprintf("no end within %v", limit)), output
	case j.probe.Name == "panic" && bytes.Contains(output, []byte("panic: "+deliberatePanic)):
		return bad("yes"), output
	case err != nil:
		return bad("ends the process: " + cause(output, err)), output
	}
	return bad("ends the process, without an error"), output
}

// cause returns the line of the output with the reason why the runtime ended the process.
func cause(output []byte, err error) string {
	for line := range bytes.Lines(output) {
		if bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
			return string(bytes.TrimSpace(line))
		}
	}
	return err.Error()
}

// indent returns the first lines of a child's output.
func indent(output []byte) string {
	var b strings.Builder
	n := 0
	for line := range bytes.Lines(output) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if n++; n > 10 {
			b.WriteString("\t...\n")
			break
		}
		fmt.Fprintf(&b, "\t%.160s\n", line)
	}
	return b.String()
}
