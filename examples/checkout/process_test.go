package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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
	cmd   *exec.Cmd
	base  string // "" of a worker
	admin string // of the last replica with -replicas

	mu    sync.Mutex // guards out
	out   bytes.Buffer
	ended chan struct{} // closed when all it said is in out

	serving chan bool // receives when it serves
}

// start starts the program, and returns when it serves.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := startProcess(t, args...)
	select {
	case <-p.serving:
	case <-p.ended:
		t.Fatal("the program did not start: ", p.said())
	}
	return p
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, os.Args[0], args...), ended: make(chan struct{}), serving: make(chan bool, 1)}
	p.cmd.Env = append(os.Environ(), "CHECKOUT_AS_PROGRAM=1")
	var log bytes.Buffer // written until Wait has returned
	p.cmd.Stderr = &log
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // an error means that it has ended
		_ = p.wait()
		if t.Failed() {
			t.Log("the log of the process:\n", log.String())
		}
	})
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.out, lines.Text())
			p.mu.Unlock()
			if _, rest, ok := strings.Cut(lines.Text(), "serving "); ok {
				p.base, _, _ = strings.Cut(rest, ",")
			}
			if _, rest, ok := strings.Cut(lines.Text(), "live page "); ok {
				p.admin, _, _ = strings.Cut(rest, "/debug")
				select {
				case p.serving <- true:
				default: // another replica has said so
				}
			}
		}
	}()
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
	t.Parallel()
	dir := t.TempDir()
	p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-queue", "100", "-webhook-delay", "50ms", "-stop-timeout", "60s")
	accepted, enough := p.orderUntil(8, 200)
	<-enough
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	locations := accepted()
	require.NoError(t, p.wait(), p.said())
	require.Equal(t, map[orderState]int{invoiced: len(locations)}, fates(t, dir, locations))
	require.Contains(t, p.said(), "drained in")

	noted := map[string]int{}
	for _, line := range auditLines(t, dir) {
		noted[line.URL]++
	}
	for _, location := range locations {
		require.Equal(t, 1, noted[location], location)
	}
	require.Contains(t, p.said(), fmt.Sprintf("%d orders accepted", len(noted)), "nor is there a line of anything else")
	require.Contains(t, p.said(), fmt.Sprintf("%d answers noted in the audit log, 0 not", len(noted)))
}

// SIGTERM with a report under way that was answered 202, and an order half sent: the
// one is finished, the other is answered, invoiced and noted.
func TestTerminatedInTheMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A report of the orders takes more than the time for the stop, if it keeps to its rate.
	const orders, stopTimeout = 60, "20s"
	p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-stop-timeout", stopTimeout)
	c := &customer{base: p.base, client: new(http.Client), out: io.Discard}
	defer c.client.CloseIdleConnections()
	for i := range orders {
		_, err := c.post(t.Context(), "/orders", orderBy(fmt.Sprint("ann", i)))
		require.NoError(t, err)
	}
	for _, location := range c.accepted {
		_, err := c.follow(t.Context(), location, func(s status) bool { return s.State == "invoiced" })
		require.NoError(t, err)
	}
	report, err := c.post(t.Context(), "/reports?rate=1", "", "Prefer: respond-async")
	require.NoError(t, err)
	_, err = c.follow(t.Context(), report, func(s status) bool { return s.Progress.Done > 0 })
	require.NoError(t, err)

	conn, err := net.Dial("tcp", strings.TrimPrefix(p.base, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	answers, order := bufio.NewReader(conn), orderBy("bob")
	_, err = fmt.Fprintf(conn, "POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(order))
	require.NoError(t, err)
	res, err := http.ReadResponse(answers, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusContinue, res.StatusCode, "the handler reads")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	for { // until the drain has begun
		res, err := c.client.Get(p.base + "/ready")
		if err != nil {
			break
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			break
		}
	}
	_, err = io.WriteString(conn, order)
	require.NoError(t, err)
	res, err = http.ReadResponse(answers, nil)
	require.NoError(t, err)
	_ = res.Body.Close()
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	location := res.Header.Get("Location")

	require.NoError(t, p.wait(), p.said())
	require.Equal(t, map[orderState]int{invoiced: 1}, fates(t, dir, []string{location}))
	lines := auditLines(t, dir)
	require.Len(t, lines, orders+1)
	require.Equal(t, location, lines[orders].URL)
	require.Contains(t, p.said(), "1 reports made, 0 canceled")
	require.Contains(t, p.said(), " 0 canceled, 0 handed over, 0 never started, 0 abandoned")
}

// A drain that has no time, and kill -9: the next start does the rest.
func TestCutShortUnderLoad(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*os.Process) error{
		"no time to drain": func(p *os.Process) error { return p.Signal(syscall.SIGTERM) },
		"kill -9":          func(p *os.Process) error { return p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-queue", "1000", "-stop-timeout", "10ms")
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
	t.Parallel()
	p := start(t, "-demo")
	require.NoError(t, p.wait(), p.said())
	for _, seen := range []string{
		"pending", "invoiced", "bytes of PDF", "a double click: one order", "failed: out of stock",
		"line 3: a quote is opened and not closed", "320 x 180",
		"Idempotency-Replayed: true", "422 {", "application/json:\n{\"orders\":33,", "text/csv; charset=utf-8:\nday,sku,",
		"event: running ", "event: succeeded 33/33", `"state":"canceled"`, "410 {", "a line for each of 38 answers",
		"SIGTERM", " 0 pending; 0 uploads and 0 webhooks pending", "drained in", "58 answers noted in the audit log, 0 not; 4 reports made, 1 canceled",
	} {
		require.Contains(t, p.said(), seen)
	}
}

// The first signal says what the stop waits for and how to end at once; a second one, a
// second later, ends the process, and what is unfinished is in the folder that was named.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, "-addr", "127.0.0.1:0", "-data", dir, "-webhook-delay", "1h", "-stop-timeout", "10m")
	c := &customer{base: p.base, client: new(http.Client), out: io.Discard}
	defer c.client.CloseIdleConnections()
	location, err := c.post(t.Context(), "/orders", orderBy("ann"))
	require.NoError(t, err)
	_, err = c.follow(t.Context(), location, func(s status) bool { return s.Webhook.State == string(webhookSending) })
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.Eventually(t, func() bool { return strings.Contains(p.said(), "stopping, waiting for ") }, time.Minute, time.Millisecond)
	require.Contains(t, p.said(), "1 webhooks; to stop at once, press Ctrl-C again")
	require.Contains(t, p.said(), "stays in "+dir)
	// How long the two must be apart is Run's business: the signal is repeated until it counts.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
			_ = p.cmd.Process.Signal(syscall.SIGINT) // an error means that it has ended
		case <-p.ended:
			ended = true
		}
	}
	_ = p.wait()
	require.Equal(t, 130, p.cmd.ProcessState.ExitCode())
	require.Equal(t, map[orderState]int{invoiced: 1}, fates(t, dir, []string{location}))
}
