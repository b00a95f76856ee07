package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether/bench/peers"
)

// Metrics of the storm.
const (
	Undone  = "undone-%" // requests that were not done: refused, or lost with the process
	Kills   = "kills"    // of the process: 0 or 1
	PeakMiB = "peak-MiB" // the largest resident set that was seen
)

const (
	stormMemory   = 256 << 20 // of the process: it is killed when its resident set is larger
	stormLimit    = 190 << 20 // GOMEMLIMIT
	stormHeadroom = 70 << 20
	stormWorkers  = 16
	stormPayload  = 256 << 10 // that a request has from its beginning until its task has ended
	stormWork     = 20 * time.Millisecond
	stormOverload = 10 // times the rate that the workers can do
)

// stormEnvironment is the variable that makes a process the service of the storm. Its value
// is the candidate's name and the number of requests.
const stormEnvironment = "TETHER_BENCH_STORM"

var aboutStorm = "`storm`: a service in a process of its own, with GOMEMLIMIT at " + mebibytes(stormLimit>>20) + ", is killed when its resident set is larger than " + mebibytes(stormMemory>>20) + ", as a container is. " +
	"It gets ten times the requests that its " + strconv.Itoa(stormWorkers) + " workers can do. Each has a goroutine and 256 KiB, which its task uses for 20 ms. " +
	"`undone` are the requests that were refused or lost, " + strconv.Itoa(100-100/stormOverload) + " % if none is lost."

func stormWorkloads() []Workload {
	return []Workload{{
		Name: "storm", N: 16_000, Quick: 100, Reps: 5,
		Metric: Undone, Extra: []string{Kills, PeakMiB}, Baseline: peers.Tether().Name,
		Candidates: stormCandidates, Run: storm,
	}}
}

// stormCandidates leaves the go statement out, which has no limit.
func stormCandidates() []peers.Candidate {
	all := slices.DeleteFunc(peers.All(), func(c peers.Candidate) bool { return c.Name == goStatement })
	return append([]peers.Candidate{peers.TetherGuarded(stormHeadroom)}, all...)
}

// storm starts the service and watches it.
func storm(m Meter, c peers.Candidate, n int) error {
	if c.Limited == nil {
		return ErrLacks
	}
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		return ErrLacks // there is no way to see its memory
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), stormEnvironment+"="+c.Name+"/"+strconv.Itoa(n), "GOMEMLIMIT="+strconv.Itoa(stormLimit))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	m.StartTimer()
	if err := cmd.Start(); err != nil {
		m.StopTimer()
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak, killed, err := watchMemory(cmd, ended)
	m.StopTimer()
	if err != nil {
		return fmt.Errorf("workload: the service of the storm: %w", err)
	}
	done := 0
	for line := range strings.Lines(out.String()) { // the last one that is complete
		if strings.HasSuffix(line, "\n") {
			_ = json.Unmarshal([]byte(line), &done)
		}
	}
	m.ReportMetric(100*float64(n-done)/float64(n), Undone)
	m.ReportMetric(killed, Kills)
	m.ReportMetric(float64(peak)/(1<<20), PeakMiB)
	return nil
}

// watchMemory waits for the process and kills it if it has too much memory.
func watchMemory(cmd *exec.Cmd, ended <-chan error) (peak int64, killed float64, err error) {
	path := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/statm"
	page := int64(os.Getpagesize())
	patience := time.After(2 * time.Minute)
	for tick := time.Tick(time.Millisecond); ; {
		select {
		case err = <-ended:
			if killed > 0 {
				err = nil
			}
			return peak, killed, err
		case <-patience:
			_ = cmd.Process.Kill()
			return peak, killed, errors.Join(<-ended, errors.New("it has not ended"))
		case <-tick:
		}
		text, _ := os.ReadFile(path)
		fields := strings.Fields(string(text))
		if len(fields) < 2 {
			continue // it has ended
		}
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		if peak = max(peak, pages*page); peak > stormMemory && killed == 0 {
			killed = 1
			_ = cmd.Process.Kill()
		}
	}
}

// StormMain makes this process the service of the storm, and exits when the storm has ended,
// if that is what it was started for. Otherwise it returns.
func StormMain() {
	what, ok := os.LookupEnv(stormEnvironment)
	if !ok {
		return
	}
	name, count, _ := strings.Cut(what, "/")
	n, _ := strconv.Atoi(count)
	all := stormCandidates()
	i := slices.IndexFunc(all, func(c peers.Candidate) bool { return c.Name == name })
	if err := serveStorm(all[i], n); err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveStorm gets n requests, and prints how many are done, now and then and at the end.
func serveStorm(c peers.Candidate, n int) error {
	s, err := limited(stormWorkers)(c)
	if err != nil {
		return err
	}
	var done atomic.Int64
	stop := make(chan struct{})
	var printer, requests sync.WaitGroup
	printer.Go(func() {
		for tick := time.Tick(10 * time.Millisecond); ; {
			select {
			case <-tick:
				fmt.Println(done.Load())
			case <-stop:
				fmt.Println(done.Load())
				return
			}
		}
	})
	const rate = stormOverload * stormWorkers * float64(time.Second/stormWork) // per second
	began := time.Now()
	for sent := 0; sent < n; time.Sleep(time.Millisecond) {
		for due := min(n, int(rate*time.Since(began).Seconds())); sent < due; sent++ {
			requests.Add(1)
			go func() {
				payload := bytes.Repeat([]byte("x"), stormPayload)
				submit := s.Task(func() {
					defer requests.Done()
					time.Sleep(stormWork)
					if payload[len(payload)-1] == 'x' {
						done.Add(1)
					}
				})
				if submit() != nil {
					requests.Done() // refused
				}
			}()
		}
	}
	requests.Wait()
	close(stop)
	printer.Wait()
	return s.Close()
}
