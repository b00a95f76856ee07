package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// replicaSet is the program with -replicas: it starts the replicas, starts one again that has
// ended, and is the proxy in front of them. Each replica is a loop of a registry, so that Run
// stops them all.
type replicaSet struct {
	cfg  config
	out  io.Writer
	reg  *tether.Registry
	base string
	args []string // of each replica
	env  []string

	balancer *balancer
	closed   chan struct{}      // closed when the proxy takes no more requests
	fail     context.CancelFunc // begins the stop

	mu       sync.Mutex // guards the fields below
	begun    []string   // what is said of each replica that has served, in order of their numbers
	startErr error      // why one of them never did
}

// maxReplicas is the most that -replicas takes.
const maxReplicas = 16

// runReplicas is the program with -replicas, once its flags are parsed.
func runReplicas(ctx context.Context, cfg config, out io.Writer) (err error) {
	listener, err := net.Listen("tcp", cfg.addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	temporary := cfg.data == ""
	if temporary {
		if cfg.data, err = os.MkdirTemp("", "checkout-"); err != nil {
			return errors.Join(fmt.Errorf("data folder: %w", err), listener.Close())
		}
	}
	if cfg.durable == "" {
		cfg.durable = filepath.Join(cfg.data, "jobs.db")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &replicaSet{
		cfg: cfg, out: out, base: urlOf(listener), args: replicaArgs(cfg), fail: cancel,
		reg: tether.New(tether.Config{}), begun: make([]string, cfg.replicas),
		balancer: newBalancer(cfg.replicas), closed: make(chan struct{}),
	}
	r.env = append(os.Environ(), publicVariable+"="+r.base, "CHECKOUT_DURABLE="+cfg.durable, "CHECKOUT_WEBHOOK_SECRET="+cfg.webhookSecret)
	for n := 1; n <= cfg.replicas; n++ {
		_, err := r.reg.Loop(ctx, fmt.Sprint("replica-", n), func(ctx context.Context) error { return r.replica(ctx, n) },
			tether.LoopConfig{Restarts: tether.Unbounded, Backoff: tether.ExponentialBackoff(500*time.Millisecond, 30*time.Second)})
		if err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	err = r.reg.Run(ctx, tether.RunConfig{
		Servers:     []tether.Server{r.proxy(listener)},
		PreStop:     cfg.preStop,
		StopTimeout: cfg.stopTimeout,
	})
	r.mu.Lock()
	err = errors.Join(r.startErr, err)
	r.mu.Unlock()
	left, leftErr := leftIn(cfg.data)
	if leftErr != nil {
		return errors.Join(err, leftErr)
	}
	fmt.Fprintf(out, "checkout: the replicas have ended: %d orders invoiced, %d failed, %d pending; %d uploads and %d webhooks pending\n",
		left.Invoiced, left.Failed, left.Pending, left.uploads, left.Undelivered)
	return errors.Join(err, endData(out, cfg.data, temporary, err == nil, left))
}

// replicaArgs returns the arguments of a replica: those of this process, except for what each
// replica has of its own. Secrets are in its environment.
func replicaArgs(cfg config) []string {
	args := []string{"-addr", "127.0.0.1:0", "-data", cfg.data, "-stop-timeout", (cfg.stopTimeout * 5 / 8).String()}
	cfg.given.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "replicas", "addr", "data", "durable", "stop-timeout", "pre-stop":
		default:
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

// leftIn returns the state of the store in a folder that no process uses any more.
func leftIn(data string) (left ending, err error) {
	s, err := openStore(data)
	if err != nil {
		return left, err
	}
	ctx := context.Background()
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	return s.ending(ctx)
}

// replica runs a replica until it ends, which is an error unless the stop has begun.
func (r *replicaSet) replica(ctx context.Context, n int) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, r.args...)
	cmd.Env = append(slices.Clone(r.env), fmt.Sprint(replicaVariable, "=", n))
	cmd.WaitDelay = time.Second
	stdout := &prefixed{prefix: fmt.Sprint("replica ", n, ": "), to: r.out, take: func(line string) bool {
		var number int
		var base, admin string
		if _, err := fmt.Sscanf(line, replicaServes, &number, &base, &admin); err != nil {
			return false
		}
		r.serves(n, cmd.Process.Pid, base, admin)
		return true
	}}
	cmd.Stdout, cmd.Stderr = stdout, &prefixed{prefix: stdout.prefix, to: os.Stderr}
	// The replica ends when this process has gone, since its end of the pipe is then closed.
	line, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		// Requests that the proxy has taken are answered first.
		select {
		case <-r.closed:
			_, _ = io.WriteString(line, stopLine+"\n") // an error means that it has ended
			err = <-ended
		case err = <-ended:
		}
	}
	r.balancer.set(n, "")
	if ctx.Err() != nil {
		return err
	}
	return r.endedEarly(n, fmt.Errorf("replica %d has ended: %v", n, cmd.ProcessState))
}

// serves is called when a replica serves.
func (r *replicaSet) serves(n, pid int, base, admin string) {
	said := fmt.Sprintf("checkout: replica %d is process %d, live page %s/debug/tether/", n, pid, admin)
	r.mu.Lock()
	all := r.begun[n-1] == ""
	r.begun[n-1] = said
	all = all && !slices.Contains(r.begun, "")
	again := !all && !slices.Contains(r.begun, "")
	begun := slices.Clone(r.begun)
	r.mu.Unlock()
	r.balancer.set(n, base)
	switch {
	case again:
		fmt.Fprintln(r.out, said)
	case all:
		r.greet(begun)
	}
}

// endedEarly is called when a replica has ended and the stop has not begun. If it never
// served, all end, since it would not do better the next time.
func (r *replicaSet) endedEarly(n int, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun[n-1] == "" {
		r.startErr = cmp.Or(r.startErr, err)
		r.fail()
	}
	return err // it is logged, and the replica started again
}

// greet prints the addresses, and what to try.
func (r *replicaSet) greet(begun []string) {
	fmt.Fprintf(r.out, "checkout: serving %s, %d replicas, data in %s\n", r.base, r.cfg.replicas, r.cfg.data)
	for _, said := range begun {
		fmt.Fprintln(r.out, said)
	}
	fmt.Fprintln(r.out, "Any replica answers; X-Replica says which one it was. Open the URL in a browser, or order and then ask for a report that takes a minute:")
	for _, line := range replicaLines(r.base) {
		fmt.Fprintln(r.out, "  "+line)
	}
	fmt.Fprintln(r.out, `and then the Location of the answer, again and again; the last line once more finds the same task.
A replica that is killed (kill -9) is started again. Its report is lost, and the others say so within ten seconds.
Ctrl-C drains them all; a second one, a second later or more, ends them at once.`)
}

// replicaLines are shell commands to try the replicas with.
func replicaLines(base string) []string {
	return []string{
		fmt.Sprintf(`for i in $(seq 60); do curl -s %s/orders -H "Idempotency-Key: $RANDOM-$i" -d '{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":2}]}'; done`, base),
		fmt.Sprintf(`curl -i -X POST '%s/reports?rate=1' -H 'Prefer: respond-async' -H 'Idempotency-Key: "one"'`, base),
	}
}

// proxy returns the server in front of the replicas.
func (r *replicaSet) proxy(listener net.Listener) tether.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /ready", tetherhttp.Readiness(r.reg))
	mux.Handle("/", &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme = "http" // the balancer sets the host
			p.SetXForwarded()
		},
		Transport:    r.balancer,
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) { proxyProblem(err).ServeHTTP(w, req) },
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	tetherhttp.Attach(srv, r.reg)
	server := tetherhttp.Server("proxy", srv)
	server.Serve = func() error { return srv.Serve(listener) }
	stop := server.Stop
	server.Stop = func(ctx context.Context) error {
		defer close(r.closed)
		ctx, cancel := context.WithTimeout(ctx, r.cfg.stopTimeout/4) // the replicas need the rest
		defer cancel()
		if err := stop(ctx); err != nil {
			slog.WarnContext(ctx, "slow clients were cut off", "err", err)
		}
		r.balancer.transport.CloseIdleConnections()
		return nil
	}
	return server
}

// proxyProblem returns the problem of a response when no replica has answered.
func proxyProblem(err error) *tetherhttp.Problem {
	if errors.Is(err, errNoReplica) {
		return &tetherhttp.Problem{Status: http.StatusServiceUnavailable, Detail: "no replica can be reached; try again", RetryAfter: time.Second}
	}
	return &tetherhttp.Problem{Status: http.StatusBadGateway, Detail: "the replica has ended before it answered; " +
		"send the request again, with the same Idempotency-Key if it had one"}
}
