//go:build unix

package tether_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// childEnv names the scenario that a child process plays.
const childEnv = "TETHER_TEST_CHILD"

// TestProcessChild is the main function of the child processes of this file.
func TestProcessChild(t *testing.T) {
	scenario := os.Getenv(childEnv)
	if scenario == "" {
		t.Skip("for child processes")
	}
	r := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	if err := children[scenario](r); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("clean")
	os.Exit(0)
}

// child is a running child process.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	stderr *bytes.Buffer
}

func startChild(t *testing.T, scenario string) *child {
	t.Helper()
	executable, err := os.Executable()
	require.NoError(t, err)
	c := &child{t: t, cmd: exec.Command(executable, "-test.run=^TestProcessChild$"), stderr: new(bytes.Buffer)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+scenario)
	c.cmd.Stderr = c.stderr
	c.stdin, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.stdout = bufio.NewScanner(stdout)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() { // for a test that has failed half-way
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// read returns the next line that the child says.
func (c *child) read() string {
	c.t.Helper()
	if !c.stdout.Scan() {
		c.cmd.Wait()
		require.FailNow(c.t, "the child has ended", "%v\n%s", c.stdout.Err(), c.stderr)
	}
	return c.stdout.Text()
}

// hear has the child say these lines, in this order.
func (c *child) hear(lines ...string) {
	c.t.Helper()
	for _, line := range lines {
		require.Equal(c.t, line, c.read())
	}
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(s))
}

// end waits for the child to end, and returns its exit status, the rest of what it
// says, and its stderr.
func (c *child) end() (status int, rest []string, stderr string) {
	c.t.Helper()
	for c.stdout.Scan() {
		rest = append(rest, c.stdout.Text())
	}
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(c.t, err, &exit)
	}
	return c.cmd.ProcessState.ExitCode(), rest, c.stderr.String()
}

// signalUntilEnd sends a signal until the child has ended: a second signal counts once a
// second has passed since the first.
func (c *child) signalUntilEnd(s os.Signal) (status int, rest []string, stderr string) {
	c.t.Helper()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			_ = c.cmd.Process.Signal(s) // it may have ended
			select {
			case <-ended:
				return
			case <-ticker.C:
			}
		}
	}()
	return c.end()
}

// children are the scenarios, by name.
var children = map[string]func(*tether.Registry) error{
	"polite":      politeChild,
	"stuck":       stuckChild,
	"budget":      budgetChild,
	"serve fails": failingServerChild,
	"stop hangs":  hangingStopChild,
	"http":        httpChild,
	"pre-stop":    preStopChild,
	"usr1":        usr1Child,
}

// serving is a RunConfig whose server says "running" once signals are heard.
func serving(each ...func(context.Context) error) tether.RunConfig {
	stopped := make(chan struct{})
	return tether.RunConfig{
		Servers: server(func() error {
			fmt.Println("running")
			<-stopped
			return nil
		}, func(context.Context) error { close(stopped); return nil }),
		Closers: closers(each...),
	}
}

func telling(what string) func(context.Context) error {
	return func(context.Context) error {
		fmt.Println(what)
		return nil
	}
}

func politeChild(r *tether.Registry) error {
	p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
	stop := make(chan struct{})
	p.Go(context.Background(), "polite", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		<-stop // so that what it says comes after the server's
		fmt.Println("task")
		_, err := p.Go(ctx, "child", telling("child"))
		return err
	})
	return r.Run(context.Background(), tether.RunConfig{
		Servers: server(func() error {
			fmt.Println("serving")
			<-stop
			return http.ErrServerClosed
		}, func(context.Context) error {
			fmt.Println("stop, ready:", r.Ready())
			close(stop)
			return nil
		}),
		Closers: closers(telling("database"), telling("broker")),
	})
}

func TestProcess_FirstSignalDrains(t *testing.T) {
	t.Parallel()
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c := startChild(t, "polite")
		c.hear("serving")
		c.signal(s)
		c.hear("stop, ready: false", "task", "child", "database", "broker", "clean")
		status, rest, stderr := c.end()
		assert.Zero(t, status)
		assert.Empty(t, rest)
		assert.Empty(t, stderr)
	}
}

//go:noinline
func hangInChild(line string) {
	fmt.Println(line)
	select {}
}

func stuckChild(r *tether.Registry) error {
	finished, _ := r.Go(context.Background(), "finished", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		return nil
	})
	r.Go(context.Background(), "stuck", func(ctx context.Context) error {
		<-finished.Done()
		hangInChild("stopping")
		return nil
	})
	cfg := serving(telling("closer"))
	cfg.StopTimeout = time.Hour
	return r.Run(context.Background(), cfg)
}

func TestProcess_SecondSignalExits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		first, second os.Signal
		status        int
	}{
		{syscall.SIGTERM, syscall.SIGTERM, 143},
		{syscall.SIGINT, syscall.SIGINT, 130},
		{syscall.SIGTERM, syscall.SIGINT, 130},
	} {
		c := startChild(t, "stuck")
		c.hear("running")
		c.signal(test.first)
		c.hear("stopping")
		status, rest, stderr := c.signalUntilEnd(test.second)
		assert.Equal(t, test.status, status)
		assert.Empty(t, rest, "no closer, nothing")
		assert.Contains(t, stderr, "second signal")
		assert.Contains(t, stderr, "abandoned: stuck (")
		assert.Contains(t, stderr, "running")
		assert.Contains(t, stderr, "tether_test.hangInChild")
		assert.NotContains(t, stderr, "abandoned: finished")
	}
}

func usr1Child(r *tether.Registry) error {
	r.Go(context.Background(), "stuck", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		hangInChild("stopping")
		return nil
	})
	cfg := serving()
	cfg.Signals = []os.Signal{syscall.SIGUSR1}
	return r.Run(context.Background(), cfg)
}

func TestProcess_OwnSignals(t *testing.T) {
	t.Parallel()
	c := startChild(t, "usr1")
	c.hear("running")
	c.signal(syscall.SIGUSR1)
	c.hear("stopping")
	status, _, stderr := c.signalUntilEnd(syscall.SIGUSR1)
	assert.Equal(t, 128+int(syscall.SIGUSR1), status)
	assert.Contains(t, stderr, "abandoned: stuck (")
}

func budgetChild(r *tether.Registry) error {
	var started sync.WaitGroup // or the budget may be over before they are
	started.Add(10)
	for range 10 {
		r.Go(context.Background(), "stuck", func(context.Context) error { started.Done(); select {} })
	}
	started.Wait()
	cfg := serving(telling("closer"))
	cfg.StopTimeout = 500 * time.Millisecond
	return r.Run(context.Background(), cfg)
}

// Nothing hangs on a body that ignores its context.
func TestProcess_EndsWithStuckTasks(t *testing.T) {
	t.Parallel()
	c := startChild(t, "budget")
	c.hear("running")
	c.signal(syscall.SIGTERM)
	c.hear("closer")
	line := c.read()
	assert.Contains(t, line, "error: tether: context deadline exceeded: 10 tasks have not ended: stuck (")
	status, _, _ := c.end()
	assert.Equal(t, 1, status)
}

func failingServerChild(r *tether.Registry) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	srv := &http.Server{Addr: listener.Addr().String()} // which is taken
	r.Go(context.Background(), "task", func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx)
		fmt.Println("task, ready:", r.Ready())
		return nil
	})
	return r.Run(context.Background(), tether.RunConfig{
		Servers:     server(srv.ListenAndServe, srv.Shutdown),
		PreStop:     time.Hour,
		StopTimeout: 2 * time.Hour,
		Closers:     closers(telling("closer")),
	})
}

func TestProcess_FailingServerDrains(t *testing.T) {
	t.Parallel()
	c := startChild(t, "serve fails")
	c.hear("task, ready: false", "closer")
	assert.Contains(t, c.read(), `error: tether: serving server "public": listen tcp`)
	status, _, _ := c.end()
	assert.Equal(t, 1, status)
}

func hangingStopChild(*tether.Registry) error {
	r := tether.New(tether.Config{CancelBefore: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	r.Go(context.Background(), "task", func(ctx context.Context) error {
		<-ctx.Done()
		fmt.Println("task:", context.Cause(ctx))
		return ctx.Err()
	})
	cfg := serving(telling("closer"))
	cfg.StopTimeout = 4 * time.Second
	cfg.Servers[0].Stop = func(ctx context.Context) error {
		fmt.Println("stop")
		<-ctx.Done()
		return fmt.Errorf("stop: %w", ctx.Err())
	}
	err := r.Run(context.Background(), cfg)
	var drain *tether.DrainError
	if errors.As(err, &drain) {
		return fmt.Errorf("the drain had no time: %w", drain)
	}
	return err
}

func TestProcess_HangingStopLeavesTheDrainItsTime(t *testing.T) {
	t.Parallel()
	c := startChild(t, "stop hangs")
	c.hear("running")
	c.signal(syscall.SIGTERM)
	c.hear("stop", "task: "+tether.ErrShutdown.Error(), "closer", `error: tether: stopping server "public": stop: context deadline exceeded`)
	status, _, _ := c.end()
	assert.Equal(t, 1, status)
}

func httpChild(r *tether.Registry) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Println("request")
		task, err := r.Go(q.Context(), "mail", func(ctx context.Context) error {
			fmt.Println("task")
			return ctx.Err()
		}, tether.Hold())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Scanln() // until the parent lets it
		io.WriteString(w, "accepted")
		go func() {
			<-r.Stopping()
			task.Release()
		}()
	})}
	fmt.Println(listener.Addr())
	return r.Run(context.Background(), tether.RunConfig{
		Servers: server(func() error { return srv.Serve(listener) }, func(ctx context.Context) error {
			fmt.Println("stop")
			return srv.Shutdown(ctx)
		}),
		StopTimeout: time.Hour,
		Closers:     closers(telling("closer")),
	})
}

// The request that is being answered when the signal comes is answered, and what it
// has put off until later is done.
func TestProcess_HTTPServer(t *testing.T) {
	t.Parallel()
	c := startChild(t, "http")
	url := "http://" + c.read()
	answer := make(chan string, 1)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		body, err := get(client, url)
		answer <- fmt.Sprint(body, err)
	}()
	c.hear("request")
	c.signal(syscall.SIGTERM)
	c.hear("stop")
	fmt.Fprintln(c.stdin)
	assert.Equal(t, "accepted<nil>", <-answer)
	c.hear("task", "closer", "clean")
	status, rest, _ := c.end()
	assert.Zero(t, status)
	assert.Empty(t, rest)
}

func get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func preStopChild(r *tether.Registry) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/ready":
			fmt.Fprint(w, r.Ready())
		case "/work":
			task, err := r.Go(q.Context(), "work", succeed)
			if err == nil {
				err = task.Wait(q.Context())
			}
			fmt.Fprint(w, err)
		}
	})}
	fmt.Println(listener.Addr())
	return r.Run(context.Background(), tether.RunConfig{
		Servers: server(func() error { return srv.Serve(listener) },
			func(ctx context.Context) error { fmt.Println("stop"); return srv.Shutdown(ctx) }),
		PreStop:     time.Hour,
		StopTimeout: 2 * time.Hour,
	})
}

func TestProcess_PreStopServesWhileNotReady(t *testing.T) {
	t.Parallel()
	c := startChild(t, "pre-stop")
	url := "http://" + c.read()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ready := func() string {
		text, err := get(client, url+"/ready")
		require.NoError(t, err)
		return text
	}
	require.Equal(t, "true", ready())
	c.signal(syscall.SIGTERM)
	for ready() != "false" { // the probe, as the load balancer asks it
	}
	text, err := get(client, url+"/work")
	require.NoError(t, err)
	assert.Equal(t, "<nil>", text, "still serving, tasks as well")
	status, rest, stderr := c.signalUntilEnd(syscall.SIGTERM)
	assert.Equal(t, 143, status)
	assert.Empty(t, rest, "Stop was not called")
	assert.Contains(t, stderr, "second signal")
}
