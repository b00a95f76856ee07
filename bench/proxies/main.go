// Command proxies shows what clients see when one of two processes behind a load balancer is
// told to stop, with and without PreStop. It starts nginx and HAProxy, which must be installed,
// two processes of a service behind them, and a client; after three seconds one of the
// processes gets SIGTERM.
//
//	go run ./bench/proxies          # about four minutes
//	go run ./bench/proxies -only haproxy
//
// docs/proxies.md has the tables that it has printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	only    = flag.String("only", "", "run the rows whose front contains this `text`")
	rate    = flag.Int("rate", 250, "requests per second")
	clients = flag.Int("clients", 8, "connections of the client")
	backend = flag.String("backend", "", "be a process of the service at this `address`")
	preStop = flag.Duration("pre-stop", 0, "PreStop of that process")
)

func main() {
	flag.Parse()
	if *backend != "" {
		if err := serve(*backend, *preStop); err != nil {
			log.Fatal(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "proxies")
	if err == nil {
		err = errors.Join(tables(dir), os.RemoveAll(dir))
	}
	if err != nil {
		log.Fatal("proxies: ", err)
	}
}

func tables(dir string) error {
	fmt.Println("| front | request | PreStop | answered 200 or 202 | errors of the client | slowest | tasks admitted = ended | stop took |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, f := range fronts {
		if !strings.Contains(f.name, *only) {
			continue
		}
		for _, preStop := range []time.Duration{0, 3 * time.Second} {
			row, err := stopOne(dir, f, preStop)
			if err != nil {
				return fmt.Errorf("%s, PreStop %v: %w", f.name, preStop, err)
			}
			fmt.Println(row)
		}
	}
	if !strings.Contains("none", *only) {
		return nil
	}
	fmt.Println("\n| endpoint removed after | requests | refused | last request to exit |")
	fmt.Println("|---|---|---|---|")
	for _, after := range []time.Duration{0, 3 * time.Second, 12 * time.Second} {
		row, err := remove(after)
		if err != nil {
			return fmt.Errorf("removed after %v: %w", after, err)
		}
		fmt.Println(row)
	}
	return nil
}

// process is a process of the service.
type process struct {
	addr string
	cmd  *exec.Cmd
	out  strings.Builder
}

func start(preStop time.Duration) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{addr: addr, cmd: exec.Command(executable, "-backend", addr, "-pre-stop", preStop.String())}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, await("http://" + addr + "/ready")
}

// stop sends SIGTERM, and returns what the process has said of its tasks and how long the stop
// took.
func (p *process) stop() (tasks string, took time.Duration, err error) {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return "", 0, err
	}
	err = p.cmd.Wait()
	return strings.TrimSpace(p.out.String()), time.Since(began), err
}

// stopOne stops one of two processes behind a front, and returns a row of the table.
func stopOne(dir string, f front, preStop time.Duration) (row string, err error) {
	var service [2]*process
	for i := range service {
		if service[i], err = start(preStop); err != nil {
			return "", err
		}
	}
	proxy, url, err := f.start(dir, service[0].addr, service[1].addr)
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, proxy.Process.Signal(syscall.SIGTERM))
		_ = proxy.Wait()
	}()
	if err := await(url + "/ready"); err != nil {
		return "", err
	}
	load := newLoad(url, f)
	answered := make(chan struct{})
	go func() { defer close(answered); load.run(*rate, *clients) }()
	time.Sleep(3 * time.Second)
	tasks, took, err := service[0].stop()
	if err != nil {
		return "", fmt.Errorf("the process that was stopped: %w", err)
	}
	time.Sleep(max(0, 6*time.Second-took))
	load.stop()
	<-answered
	if _, _, err := service[1].stop(); err != nil {
		return "", fmt.Errorf("the other process: %w", err)
	}
	return fmt.Sprintf("| %s | %s %s | %v | %d | %s | %v | %s | %v |", f.name, f.method, f.path, preStop,
		load.good.Load(), load.errors(), time.Duration(load.slowest.Load()).Round(time.Millisecond), tasks, took.Round(100*time.Millisecond)), nil
}

// remove is a load balancer that removes the only endpoint some time after it was told to
// stop: the client's last request is sent then.
func remove(after time.Duration) (row string, err error) {
	const before, requests = 32 * time.Second, 10_000 // a younger process is not quiet
	p, err := start(20 * time.Second)
	if err != nil {
		return "", err
	}
	load := newLoad("http://"+p.addr, front{method: "GET", path: "/after", fresh: true})
	load.limit.Store(requests)
	done := make(chan struct{})
	go func() { defer close(done); load.run(int(requests/(before+after).Seconds()), *clients) }()
	time.Sleep(before)
	ended := make(chan time.Time, 1)
	var stopErr error
	go func() {
		_, _, stopErr = p.stop()
		ended <- time.Now()
	}()
	<-done
	last := time.Unix(0, load.last.Load())
	end := <-ended
	return fmt.Sprintf("| %v | %d | %s | %v |", after, load.good.Load()+load.bad(), load.errors(), end.Sub(last).Round(10*time.Millisecond)), stopErr
}

// load is a client.
type load struct {
	url    string
	f      front
	client *http.Client
	ctx    context.Context
	stop   context.CancelFunc

	limit, sent, good, slowest, last atomic.Int64
	mu                               sync.Mutex
	failed                           map[string]int // by what the client saw; guarded by mu
	ended                            sync.WaitGroup
}
