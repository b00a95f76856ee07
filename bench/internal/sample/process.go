package sample

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/seed-2e639f12/tether/bench/peers"
	"github.com/seed-2e639f12/tether/bench/workload"
)

// The protocol between a command that collects samples and the report command that
// measures them: run as
//
//	report -child '{"Workload":"W1/producers=1","Candidate":"tether","N":100000}'
//
// it measures one sample and writes an Answer as JSON. It exits with a status other
// than zero, and says why on stderr, if it has no such workload or candidate. The
// comparison of two checkouts depends on this, so it must not change: fields may only
// be added.
type (
	// Request asks for one sample.
	Request struct {
		Workload, Candidate string
		N                   int
	}
	// Answer has the sample, or reports why there is none.
	Answer struct {
		Sample Sample
		Lacks  bool // the candidate lacks what the workload needs
		Err    string
	}
)

// ErrUnknown reports that the process has no such workload or candidate.
var ErrUnknown = errors.New("sample: no such workload or candidate")

// Ask starts the report command at path and has it measure one sample. The process is
// killed when ctx ends.
func Ask(ctx context.Context, path string, req Request) (Sample, error) {
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-child", string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if strings.Contains(stderr.String(), unknownText) {
			return nil, fmt.Errorf("%w: %s of %s", ErrUnknown, req.Workload, req.Candidate)
		}
		return nil, fmt.Errorf("%s of %s in a process of its own: %w\n%s", req.Workload, req.Candidate, errors.Join(ctx.Err(), err), &stderr)
	}
	var answer Answer
	switch err := json.Unmarshal(out, &answer); {
	case err != nil:
		return nil, err
	case answer.Lacks:
		return nil, workload.ErrLacks
	case answer.Err != "":
		return nil, errors.New(answer.Err)
	}
	return answer.Sample, nil
}

// Serve is the side of the process that measures.
func Serve(request string, out io.Writer) error {
	var req Request
	if err := json.Unmarshal([]byte(request), &req); err != nil {
		return err
	}
	w, c, err := find(req.Workload, req.Candidate)
	if err != nil {
		return err
	}
	var answer Answer
	answer.Sample, err = Measure(w, c, req.N)
	switch {
	case errors.Is(err, workload.ErrLacks):
		answer.Lacks = true
	case err != nil:
		answer.Err = err.Error()
	default:
		if peak, ok := highWater(); ok {
			answer.Sample[PeakRSS] = peak
		}
	}
	return json.NewEncoder(out).Encode(answer)
}

const unknownText = "no candidate"

func find(id, candidate string) (workload.Workload, peers.Candidate, error) {
	for _, f := range workload.All() {
		for _, w := range f.Workloads {
			if f.ID+"/"+w.Name != id {
				continue
			}
			for _, c := range w.AllCandidates() {
				if c.Name == candidate {
					return w, c, nil
				}
			}
		}
	}
	return workload.Workload{}, peers.Candidate{}, fmt.Errorf(unknownText+" %q of a workload %q", candidate, id)
}

// highWater returns the largest resident set that this process has had, in MiB. It
// reads /proc and does not use getrusage, which starts with what the parent had when it
// started the child.
func highWater() (float64, bool) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, err == nil
		}
	}
	return 0, false
}
