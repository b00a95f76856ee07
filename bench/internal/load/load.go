// Package load is an HTTP client that sends requests at a constant rate, whatever the
// server does: its loop is open. It runs in a process of its own, so that the CPU time of
// the server's process is that of the server. The process is this program again, so the
// program must call [Main] first.
package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// environment is the variable that makes a process a generator, and says of what.
const environment = "TETHER_BENCH_LOAD"

// patience is how long a generator may take beyond the time of its requests.
const patience = 30 * time.Second

// Config says what to send.
type Config struct {
	URL    string // of the requests, which are POSTs without a body
	Warmup string // URL that each connection asks for once, before the others
	Gap    time.Duration
	N      int
	Size   int // of the body of each response, in bytes
}

// Result is what the client has seen. A response time counts from the instant at which
// the request was due.
type Result struct {
	Failed   int    // requests without the response that was expected
	Failure  string // what the first one of them came to
	P50, P99 time.Duration
}

var mainCalled bool

// Main makes this process a generator, and exits when that has ended, if [Start] has
// started it as one. Otherwise it returns.
func Main() {
	mainCalled = true
	config, ok := os.LookupEnv(environment)
	if !ok {
		return
	}
	os.Unsetenv(environment)
	if err := serve(config, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Generator is the process.
type Generator struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	cancel context.CancelFunc
}

// Start returns when the process has its connections.
func Start(cfg Config) (*Generator, error) {
	if !mainCalled {
		return nil, errors.New("load: the program has not called Main")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(cfg.N)*cfg.Gap+patience)
	g := &Generator{cmd: exec.CommandContext(ctx, self), cancel: cancel}
	g.cmd.Env = append(os.Environ(), environment+"="+string(text))
	g.cmd.Stderr = os.Stderr
	stdout, err := g.cmd.StdoutPipe()
	if err == nil {
		g.stdin, err = g.cmd.StdinPipe()
	}
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	g.stdout = bufio.NewReader(stdout)
	if _, err := g.stdout.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("load: the generator has not begun: %w", err), g.Close())
	}
	return g, nil
}

// Run has the process send its requests, and returns when all are answered.
func (g *Generator) Run() (res Result, err error) {
	if _, err := g.stdin.Write([]byte("\n")); err != nil {
		return res, err
	}
	err = json.NewDecoder(g.stdout).Decode(&res)
	return res, err
}

// Close ends the process if it has not ended.
func (g *Generator) Close() error {
	defer g.cancel()
	g.stdin.Close() // a generator that waits for its start exits
	return g.cmd.Wait()
}
