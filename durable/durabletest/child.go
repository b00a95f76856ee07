package durabletest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// childEnv holds the role of a child process, as JSON.
const childEnv = "TETHER_DURABLETEST_CHILD"

// role is what a child process is to do.
type role struct {
	Play           string // worker, producer or enqueuer
	Process        int    // its number in the journal
	Address, Queue string
	Concurrency    int
	Takes          time.Duration // an ordinary job
	Trap           bool          // jobs of the kinds "parked" and "stubborn" do not end by themselves
	Budget, Grace  time.Duration // of the stop, and of what is canceled in it
	Close          time.Duration // of the stop, for the closers; zero means the default
}

// line is what a process tells of itself, as JSON on its stdout, and what the handlers
// of the test's own process note.
type line struct {
	Process int       `json:"process,omitempty"` // 0: that of the test
	What    string    `json:"what"`              // ready; began, ended (of a job); accepted, refused (of Job.Go)
	At      time.Time `json:"at"`
	ID      string    `json:"id,omitempty"`
	Name    string    `json:"name,omitempty"`
	N       int       `json:"n,omitempty"` // the job's number, as the test counts
	Attempt int       `json:"attempt,omitempty"`
	Most    int       `json:"most,omitempty"` // MaxAttempts
	Note    string    `json:"note,omitempty"` // why it has not ended well
}

// work is what the jobs of the contract take.
type work struct {
	N    int
	Kind string `json:",omitempty"` // see childHandler
	Pad  string `json:",omitempty"`
}

// handlerTimeout is that of jobs that an engine has to rescue: no test waits for it.
const handlerTimeout = 20 * time.Minute

func always(d time.Duration) func(int, error) time.Duration {
	return func(int, error) time.Duration { return d }
}

// childJobs are the jobs of the child processes: "plain", "once", which has one attempt, and
// "thrice".
func childJobs(r role, say func(line)) (plain, once, thrice *durable.Job[work]) {
	handler := childHandler(r)
	thrice = durable.Define("thrice", noting("thrice", say, handler), durable.JobConfig{Timeout: handlerTimeout, MaxAttempts: 3, Backoff: always(10 * time.Millisecond)})
	plain = durable.Define("plain", noting("plain", say, handler), durable.JobConfig{Timeout: handlerTimeout, Backoff: always(10 * time.Millisecond)})
	once = durable.Define("once", noting("once", say, handler), durable.JobConfig{Timeout: handlerTimeout, MaxAttempts: 1})
	return plain, once, thrice
}

var errTest = errors.New("test error")

func childHandler(r role) func(context.Context, work) error {
	return func(ctx context.Context, w work) error {
		meta, _ := durable.MetaFrom(ctx)
		switch {
		case w.Kind == "fails at first" && meta.Attempt == 1:
			return errTest
		case w.Kind == "parked" && r.Trap:
			<-ctx.Done()
			return context.Cause(ctx)
		case w.Kind == "stubborn" && r.Trap:
			select {}
		case w.Kind == "poison":
			time.Sleep(r.Takes / 2) // the others are at work
			os.Exit(1)
		}
		time.Sleep(r.Takes)
		return nil
	}
}

// noting has say told when each attempt begins and ends.
func noting(name string, say func(line), handler func(context.Context, work) error) func(context.Context, work) error {
	return func(ctx context.Context, w work) (err error) {
		meta, ok := durable.MetaFrom(ctx)
		l := line{What: "began", At: time.Now(), ID: meta.ID, Name: name, N: w.N, Attempt: meta.Attempt, Most: meta.MaxAttempts}
		if !ok {
			l.Note = "no Meta"
		}
		say(l)
		l.Note = "panic or Goexit"
		defer func() {
			l.What, l.At = "ended", time.Now()
			say(l)
		}()
		err = handler(ctx, w)
		if l.Note = ""; err != nil {
			l.Note = err.Error()
		}
		return err
	}
}

// act is the main function of a child process. It returns the exit status.
func act(encoded string, f Fixture) int {
	go func() { // the test has ended, however it did: so does this
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	var r role
	if err := json.Unmarshal([]byte(encoded), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(l line) {
		l.Process = r.Process
		if l.At.IsZero() {
			l.At = time.Now()
		}
		mu.Lock()
		defer mu.Unlock()
		out.Encode(l) // one write, so that a kill leaves no line that was not
	}
	err := fmt.Errorf("no role is called %q", r.Play)
	switch r.Play {
	case "worker":
		err = workIn(r, f, say)
	case "enqueuer":
		err = enqueueIn(r, f, say)
	case "producer":
		err = produceIn(r, f, say)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// workIn is a program that only works, as a user would write it.
func workIn(r role, f Fixture, say func(line)) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	engine, err := f.Open(r.Address, r.Queue)
	if err != nil {
		return err
	}
	reg := tether.New(tether.Config{Logger: logger, CancelBefore: r.Grace})
	plain, once, thrice := childJobs(r, say)
	cfg := durable.WorkerConfig{Registry: reg, Concurrency: r.Concurrency, Logger: logger}
	closeStore := func(context.Context) error { return nil }
	if f.Store != nil {
		shared := tetherhttp.NewStore(service, f.Store(engine))
		cfg.Tracker, closeStore = shared.Tracker(), shared.Close
	}
	worker, err := durable.NewWorker(engine, cfg, plain, once, thrice)
	if err != nil {
		return err
	}
	// Jobs run before Run takes signals.
	told, ignore := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer ignore()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := worker.Start(ctx); err != nil {
		return err
	}
	stopped := make(chan struct{})
	return reg.Run(told, tether.RunConfig{
		Servers: []tether.Server{{
			Serve: func() error {
				say(line{What: "ready"})
				select {
				case <-stopped:
					return nil
				case <-worker.Done(): // also when the drain begins
					<-stopped
					return worker.Err()
				}
			},
			Stop: func(context.Context) error { close(stopped); return nil },
		}},
		StopTimeout:  r.Budget,
		CloseTimeout: r.Close,
		Closers: []tether.Closer{
			{Name: "worker", Close: worker.Stop},
			{Name: "status store", Close: closeStore},
			{Name: "engine", Close: func(context.Context) error { return engine.Close() }},
		},
	})
}

// produceIn is a program that does what it can of its jobs itself, and is given more than
// it can do, until some time after the signal.
func produceIn(r role, f Fixture, say func(line)) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	engine, err := f.Open(r.Address, r.Queue)
	if err != nil {
		return err
	}
	reg := tether.New(tether.Config{Logger: logger, CancelBefore: r.Grace})
	pool := reg.NewPool("few", tether.PoolConfig{Workers: r.Concurrency, Queue: 4 * r.Concurrency, Overflow: tether.OverflowReject})
	plain, _, _ := childJobs(r, say)
	var count atomic.Int64
	submit := func() {
		w := work{N: int(count.Add(1))}
		switch {
		case w.N > 300 && w.N%10 == 0: // the pool will be stuck
			w.Kind = "parked"
		case w.N%7 == 0 && engine.Support().RunAt: // or the job could not wait for its next attempt
			w.Kind = "fails at first"
		}
		l := line{What: "accepted", N: w.N}
		receipt, err := plain.Go(context.Background(), pool, engine, w)
		if l.ID = receipt.ID; err != nil {
			l.What, l.Note = "refused", err.Error()
		}
		if receipt.Task == nil {
			l.Note = "on the engine at once"
		}
		say(l)
	}
	var producers sync.WaitGroup
	stopped := make(chan struct{})
	return reg.Run(context.Background(), tether.RunConfig{
		Servers: []tether.Server{{Serve: func() error {
			say(line{What: "ready"})
			for range 4 {
				producers.Go(func() {
					for {
						select {
						case <-reg.Stopping():
							for range 5 {
								submit()
							}
							return
						default:
							submit()
						}
					}
				})
			}
			<-stopped
			return nil
		}, Stop: func(context.Context) error { close(stopped); return nil }}},
		StopTimeout: r.Budget,
		Closers: []tether.Closer{
			{Name: "producers", Close: func(context.Context) error { producers.Wait(); return nil }},
			{Name: "engine", Close: func(context.Context) error { return engine.Close() }},
		},
	})
}

// enqueueIn is a program that only enqueues, by some goroutines, until it is killed. It says
// which jobs the engine has accepted.
func enqueueIn(r role, f Fixture, say func(line)) error {
	engine, err := f.Open(r.Address, r.Queue)
	if err != nil {
		return err
	}
	plain, _, _ := childJobs(r, say)
	failed := make(chan error)
	for range max(1, r.Concurrency) {
		go func() {
			for {
				receipt, err := plain.Enqueue(context.Background(), engine, work{})
				if err != nil && r.Trap { // the server is killed meanwhile
					continue
				}
				if err != nil {
					failed <- err
					return
				}
				say(line{What: "accepted", ID: receipt.ID})
			}
		}()
	}
	return <-failed
}

// process is a child process, as the test sees it.
type process struct {
	lab    *lab
	number int
	cmd    *exec.Cmd
	stderr *tail
	began  time.Time
	ended  chan struct{} // closed when it has ended, and all that it said is in the journal
}

// spawn starts a child process, whose lines go into the test's journal.
func (l *lab) spawn(r role) *process {
	l.Helper()
	l.processes++
	r.Process, r.Address, r.Queue = l.processes, l.address, l.queue
	if r.Budget == 0 {
		r.Budget, r.Grace = patience, patience/2
	}
	encoded, err := json.Marshal(r)
	require.NoError(l, err)
	executable, err := os.Executable()
	require.NoError(l, err)
	p := &process{lab: l, number: r.Process, cmd: exec.Command(executable), stderr: new(tail), began: time.Now(), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(encoded))
	p.cmd.Stderr = p.stderr
	stdin, err := p.cmd.StdinPipe()
	require.NoError(l, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(l, err)
	require.NoError(l, p.cmd.Start())
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var said line
			if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
				p.stderr.Write(append([]byte("on stdout: "), lines.Bytes()...))
				continue
			}
			l.journal.note(said)
		}
		p.cmd.Wait() // its status is in ProcessState
	}()
	l.Cleanup(func() {
		stdin.Close()
		p.cmd.Process.Kill()
		<-p.ended
		if l.Failed() {
			l.Logf("process %d (%s): %v\n%s", p.number, r.Play, p.cmd.ProcessState, p.stderr)
		}
	})
	return p
}

// ready waits until the process is at work.
func (p *process) ready() {
	p.lab.Helper()
	p.lab.await(fmt.Sprintf("process %d to be ready", p.number), func(lines []line) bool {
		for _, l := range lines {
			if l.What == "ready" && l.Process == p.number {
				return true
			}
		}
		if closed(p.ended) {
			require.FailNow(p.lab, "a child process has ended", "%v\n%s", p.cmd.ProcessState, p.stderr)
		}
		return false
	})
}

// kill ends the process as a crash would. Afterwards the journal has all it said.
func (p *process) kill() {
	p.lab.Helper()
	if closed(p.ended) {
		require.FailNow(p.lab, "the process was gone before it was killed", "%v\n%s", p.cmd.ProcessState, p.stderr)
	}
	require.NoError(p.lab, p.cmd.Process.Kill())
	<-p.ended
}

// terminate sends SIGTERM, waits for the end, and returns the exit status.
func (p *process) terminate() int {
	p.lab.Helper()
	require.NoError(p.lab, p.cmd.Process.Signal(syscall.SIGTERM))
	guard := time.NewTimer(p.lab.patience)
	defer guard.Stop()
	select {
	case <-p.ended:
	case <-guard.C:
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.ended
		require.FailNow(p.lab, "the process does not end", "%s", p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const tailKept = 1 << 16

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if len(t.text) > 2*tailKept {
		t.text = append([]byte(nil), t.text[len(t.text)-tailKept:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
