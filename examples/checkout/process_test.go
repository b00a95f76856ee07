package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is the program in a process of its own, which can be stopped and killed.
type process struct {
	cmd  *exec.Cmd
	base string

	mu    sync.Mutex // guards out
	out   bytes.Buffer
	ended chan struct{} // closed when all it said is in out
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, os.Args[0], args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "CHECKOUT_AS_PROGRAM=1")
	p.cmd.Stderr = io.Discard
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	serving := make(chan string, 1)
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.out, lines.Text())
			p.mu.Unlock()
			if _, rest, ok := strings.Cut(lines.Text(), "serving "); ok {
				base, _, _ := strings.Cut(rest, ",")
				serving <- base
			}
		}
	}()
	select {
	case p.base = <-serving:
	case <-p.ended:
		t.Fatal("the program did not start: ", p.said())
	}
	return p
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// wait returns how the process ended.
func (p *process) wait() error {
	<-p.ended
	return p.cmd.Wait()
}

// orderUntil sends orders from many customers at once until the server takes no
// more, and returns where those are that were accepted. enough is closed when that
// many were.
func (p *process) orderUntil(customers, many int) (accepted func() []string, enough <-chan struct{}) {
	var (
		mu        sync.Mutex // guards locations
		locations []string
		wg        sync.WaitGroup
		reached   = make(chan struct{})
	)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: customers}, Timeout: 20 * time.Second}
	for c := range customers {
		wg.Go(func() {
			for i := 0; ; i++ {
				res, err := client.Post(p.base+"/orders", "application/json", strings.NewReader(orderBy(fmt.Sprintf("c%d-%d", c, i))))
				if err != nil {
					return // the server is gone
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != http.StatusAccepted {
					continue
				}
				mu.Lock()
				locations = append(locations, res.Header.Get("Location"))
				if len(locations) == many {
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	return func() []string {
		wg.Wait()
		client.CloseIdleConnections()
		return locations
	}, reached
}

// fates counts what has become of the orders, in the store that the process left.
func fates(t *testing.T, dir string, locations []string) map[orderState]int {
	t.Helper()
	s, err := openStore(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.close(context.Background())) }()
	states := map[orderState]int{}
	for _, location := range locations {
		o, err := s.order(context.Background(), strings.TrimPrefix(location, "/orders/"))
		require.NoError(t, err, "an accepted order is not in the store")
		states[o.State]++
	}
	return states
}

// SIGTERM under load: all that was answered 202 is done when the process has ended.
func TestTerminatedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-queue", "100", "-webhook-delay", "50ms", "-budget", "60s")
	accepted, enough := p.orderUntil(8, 200)
	<-enough
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	locations := accepted()
	require.NoError(t, p.wait(), p.said())
	require.Equal(t, map[orderState]int{invoiced: len(locations)}, fates(t, dir, locations))
	require.Contains(t, p.said(), "drained in")
}

// A drain that has no time, and kill -9: the next start does the rest.
func TestCutShortUnderLoad(t *testing.T) {
	for name, end := range map[string]func(*os.Process) error{
		"no time to drain": func(p *os.Process) error { return p.Signal(syscall.SIGTERM) },
		"kill -9":          func(p *os.Process) error { return p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-queue", "1000", "-budget", "10ms")
			accepted, enough := p.orderUntil(8, 200)
			<-enough
			require.NoError(t, end(p.cmd.Process))
			locations := accepted()
			_ = p.wait() // not with 0
			left := fates(t, dir, locations)
			t.Log("after the end: ", left)
			require.Equal(t, len(locations), left[pending]+left[invoiced])

			again := start(t, "-addr", "127.0.0.1:0", "-data", dir)
			require.Eventually(t, func() bool {
				return fates(t, dir, locations)[invoiced] == len(locations)
			}, 2*time.Minute, 50*time.Millisecond)
			require.NoError(t, again.cmd.Process.Signal(syscall.SIGTERM))
			require.NoError(t, again.wait(), again.said())
		})
	}
}

func TestDemo(t *testing.T) {
	p := start(t, "-demo")
	require.NoError(t, p.wait(), p.said())
	for _, seen := range []string{
		"pending", "invoiced", "bytes of PDF", "a double click: one order", "failed: out of stock",
		"line 3: a quote is opened and not closed", "320 x 180", "SIGTERM", " 0 pending; 0 uploads and 0 webhooks pending", "drained in",
	} {
		require.Contains(t, p.said(), seen)
	}
}
