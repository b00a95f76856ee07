// Command checkout is a small shop that does its heavy work in the background with
// tether: an example to start, use and break.
//
//	go run ./examples/checkout
//
// It prints the URL of a page that says what to try. It needs nothing but Go: the orders
// are in a SQLite file, and the receiver of the webhooks is built in. -help lists the
// flags; -demo plays a customer and exits.
//
//	GET  /                        a page that says what to try, with buttons
//	POST /orders                  an order as JSON; 202 with its URL; Idempotency-Key
//	GET  /orders/{id}             its state: pending, then invoiced, or failed with a reason
//	GET  /orders/{id}/invoice.pdf the invoice; 404 before it is made
//	POST /imports                 a stock list as CSV: sku,name,quantity,price_cents; 202
//	GET  /imports/{id}            progress, rows, bad rows with their line numbers
//	POST /images?width=640        a JPEG or PNG to be resized; 202
//	GET  /images/{id}             progress, and the URL of the picture
//	POST /reports                 the sales: 200 if the report is made in half a second, else 202
//	                              with the URL of a task; ?from= and to= (days), format=csv,
//	                              rate= (orders a second, to leave the disk to other work);
//	                              Idempotency-Key, Prefer: respond-async, Prefer: wait=N
//	GET  /tasks/{id}              the task of a report, with its progress; a stream of events for
//	                              Accept: text/event-stream; Prefer: wait=N
//	GET  /tasks/{id}/result       the report
//	DELETE /tasks/{id}            cancels a report, or forgets one that has ended
//	GET  /audit                   the last 100 lines of the audit log
//	GET  /webhook-receiver        the counts of the built-in receiver
//	GET  /sample.png              a picture for trying POST /images
//	GET  /ready                   the readiness probe: 503 from SIGTERM on
//	GET  /healthz                 the liveness probe
//
// and on the -admin address, for operators, until the drain has ended. The Host of a
// request must be an IP address, localhost or the name in -admin:
//
//	GET  /debug/tether/           the live page: what runs, waits, has failed, is stuck
//	GET  /metrics                 for Prometheus; the dashboard for Grafana is prom/dashboard.json
//	GET  /debug/pprof/            profiles, by task
//
// With -trace, every request and every task prints a span.
//
// # A queue that outlives the process
//
// Without -durable the work on orders is tasks in memory; after a kill -9 the next start
// finds the rest of it in the store. With -durable the work is on a queue before the 202 is
// sent, and any process with a worker does it:
//
//	go run ./examples/checkout -data shop -durable jobs.db               # web and worker in one
//	go run ./examples/checkout -data shop -durable jobs.db -role web     # takes orders
//	go run ./examples/checkout -data shop -durable jobs.db -role worker  # invoices, sends webhooks
//
// jobs.db is a SQLite file; postgres://, redis://, rediss://, amqp:// and amqps:// name a
// server. Any of the processes may be killed between the 202 and the PDF. How soon the work
// on the order continues then depends on the engine: see the package durable.
//
//   - On one -data there may be one web and any number of workers, on one machine: the
//     store is a SQLite file. A second web is refused, except for those of -replicas.
//   - The web has the audit log, the reports, and the work on imports and images. A worker
//     has the invoices and the webhooks. It listens on -admin only, which has the
//     probes /ready and /healthz too.
//   - The queue takes any number of orders: -queue bounds nothing, and an order is answered
//     503 only if the queue cannot be reached. Such an order leaves no trace. (If it cannot
//     be removed, it is kept and done.)
//   - A failure of the shop, such as a full disk, is retried for three and a half minutes
//     rather than a moment. An order whose workers were killed in each of its ten attempts
//     stays pending until a web starts, which enqueues what is pending.
//   - A webhook that a killed worker was sending is sent again by the next worker that starts.
//
// # Several replicas
//
//	go run ./examples/checkout -replicas 3
//
// starts three processes of the shop and, at -addr, a small proxy that sends each request to
// the next of them. Any replica answers for everything: an order, its invoice, a report that
// another one makes, an Idempotency-Key. The header X-Replica says which one it was. The work
// on orders is on a queue, as with -durable, which is jobs.db in the -data folder unless it is
// given. The reports and their keys are in the store of the same engine (tetherhttp.Store).
//
//   - A replica that is killed is logged and started again. Meanwhile the proxy passes it by: a
//     request that it could not be given, or a GET that it has not answered, goes to the next
//     one. Another request is answered 502, and may be sent again with its Idempotency-Key.
//   - The report that a killed replica was making is lost. The others say so within ten
//     seconds. Its orders are done by the others, its imports and images by itself when it is
//     back; another replica shows an import by what is stored of it, as pending.
//   - SIGTERM or Ctrl-C ends the proxy when its requests have been answered, and then drains
//     the replicas. They end too if the process that has started them is killed.
//   - Each has a live page, a receiver of webhooks and metrics of its own. The audit log is one
//     file.
//
// # What it promises
//
// What was answered 202 is on the disk and its work is admitted. Whatever happens to the
// process then, the work is done: in the drain after SIGTERM or Ctrl-C, or, if the time for
// the stop was too short or the process was killed, by the next start with the same -data.
//
// A request for which there is no room is answered 503 with Retry-After, and leaves no
// trace. (With -durable there is room for all orders.)
//
// What was answered 202 has a line in the audit log, audit.jsonl in the -data folder,
// which is written after the response. The drain writes the lines that are left. (A
// kill -9 may lose the last lines, but not the orders.)
//
// A report that was answered 202 is finished in the drain. It ends with the process, and can
// be requested again.
//
// An order with an invoice is invoiced. Its webhook has a state of its own: it may be
// delivered later, by the next process too, or fail for good, with a reason.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// config has the values of the flags.
type config struct {
	addr, data      string
	admin           string // if empty, a port near addr: see listen
	demo            bool
	trace           bool
	traces          io.Writer // where spans are printed; may be nil
	stuck           time.Duration
	workers, queue  int
	durable, role   string
	replicas        int    // that this process starts; zero if it is the shop itself
	replica         int    // the number of this one, if another process has started it
	public          string // the URL that customers use, if it is not that of addr
	given           *flag.FlagSet
	durableBackoff  func(attempt int, err error) time.Duration
	preStop         time.Duration
	stopTimeout     time.Duration
	maxImport       int64
	webhook         string
	webhookSecret   string
	webhookDelay    time.Duration
	webhookFail     int
	webhookAttempts int
	webhookBackoff  func(attempt int, err error) time.Duration
}

// serves reports whether this process takes orders, works whether it works on them. Without
// -role it does both.
func (c config) serves() bool { return c.role != "worker" }
func (c config) works() bool  { return c.role != "web" }

func main() {
	// Run handles signals too, but opening the queue before it can take long.
	ctx, stop := stopContext()
	context.AfterFunc(ctx, stop) // before Run, a second signal ends the process
	os.Exit(exit(run(ctx, os.Args[1:], os.Stdout), os.Stderr))
}

// exit prints the error of run and returns the exit status: 2 for wrong flags.
func exit(err error, to io.Writer) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(to, "checkout: %s; -help lists the flags\n", err)
		return 2
	}
	fmt.Fprintln(to, "checkout:", err)
	return 1
}

// usageError is an error in the program's arguments.
type usageError struct{ error }

// run is the program, from its arguments to its last line.
func run(ctx context.Context, args []string, out io.Writer) error {
	cfg, err := parseFlags(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return usageError{err}
	}
	out = &lines{to: out}
	if cfg.replicas > 0 {
		return runReplicas(ctx, cfg, out)
	}
	listener, admin, err := listen(cfg)
	if err != nil {
		return err
	}
	temporary := cfg.data == ""
	if temporary {
		if cfg.data, err = os.MkdirTemp("", "checkout-"); err != nil {
			return errors.Join(fmt.Errorf("data folder: %w", err), shut(listener, admin))
		}
	}
	if cfg.trace {
		cfg.traces = out
	}
	s, err := newShop(cfg)
	if err != nil {
		err = errors.Join(err, shut(listener, admin))
		if temporary {
			err = errors.Join(err, os.RemoveAll(cfg.data))
		}
		return err
	}
	base, adminBase := urlOf(listener), urlOf(admin)
	greet(out, s, base, adminBase)
	warnIfPublic(admin)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	played := make(chan error, 1)
	if cfg.demo {
		go func() { played <- playCustomer(ctx, base, adminBase, out) }()
	} else {
		played <- nil
	}
	var (
		left ending
		sum  bytes.Buffer // printed last, below what may be a long list of tasks
	)
	err = s.serve(ctx, listener, admin, out, func(ctx context.Context) (err error) {
		left, err = s.sum(ctx, &sum)
		return err
	})
	cancel()
	if report := s.reg.Report(); report != nil {
		fmt.Fprintln(out, report)
	}
	fmt.Fprint(out, sum.String())
	if cfg.replica == 0 { // otherwise it is others' too
		err = errors.Join(err, endData(out, cfg.data, temporary, err == nil, left))
	}
	if err = errors.Join(err, <-played); err == nil && cfg.demo && left.Pending > 0 && cfg.durable == "" {
		err = fmt.Errorf("%d orders are still pending after the drain", left.Pending)
	}
	return err
}

// endData says what is left in the data folder. A temporary one with nothing left is removed,
// if there was no error.
func endData(out io.Writer, data string, temporary, ok bool, left ending) error {
	switch {
	case left.pending() > 0:
		fmt.Fprintf(out, "checkout: what is pending is safe in %[1]s: start with -data %[1]s to continue\n", data)
	case temporary && ok:
		fmt.Fprintf(out, "checkout: nothing is pending, so the temporary folder is removed; -data keeps the orders and invoices\n")
		return os.RemoveAll(data)
	case temporary:
		fmt.Fprintf(out, "checkout: the temporary folder %s stays\n", data)
	}
	return nil
}

// listen opens both addresses; in the role worker the first listener is nil. Without -admin,
// if the next port is taken, the second listener is on a free port, which greet prints.
func listen(cfg config) (listener, admin net.Listener, err error) {
	if cfg.serves() {
		if listener, err = net.Listen("tcp", cfg.addr); err != nil {
			return nil, nil, fmt.Errorf("-addr: %w", err)
		}
	}
	if cfg.admin != "" {
		admin, err = net.Listen("tcp", cfg.admin)
	} else if admin, err = net.Listen("tcp", nextPort(cfg.addr)); err != nil {
		admin, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("-admin: %w", err), shut(listener))
	}
	return listener, admin, nil
}

// shut closes the listeners that are not nil.
func shut(listeners ...net.Listener) (err error) {
	for _, l := range listeners {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	return err
}

// lines is a writer for concurrent use.
type lines struct {
	mu sync.Mutex // held while a line is written
	to io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// prefixed is a writer that puts a prefix before each line. It is used by one goroutine.
type prefixed struct {
	prefix string
	to     io.Writer
	take   func(line string) bool // if not nil, it is asked for each line, and keeps it if it returns true

	rest []byte // of a line that has not ended
}

func (p *prefixed) Write(text []byte) (int, error) {
	p.rest = append(p.rest, text...)
	for {
		line, rest, ended := bytes.Cut(p.rest, []byte("\n"))
		if !ended {
			return len(text), nil
		}
		if p.take == nil || !p.take(string(line)) {
			if _, err := fmt.Fprintf(p.to, "%s%s\n", p.prefix, line); err != nil {
				return 0, err
			}
		}
		p.rest = rest
	}
}

// parseFlags parses the program's arguments. For -help it prints the help and returns
// flag.ErrHelp.
func parseFlags(args []string, help io.Writer) (config, error) {
	cfg := config{webhookAttempts: 8, webhookBackoff: tether.ExponentialBackoff(500*time.Millisecond, time.Minute), durableBackoff: durableBackoff}
	f := flag.NewFlagSet("checkout", flag.ContinueOnError)
	f.SetOutput(io.Discard) // run's caller prints errors
	f.StringVar(&cfg.addr, "addr", "127.0.0.1:8080", "`address` to listen on; with -demo the default is a free port")
	f.StringVar(&cfg.admin, "admin", "", "`address` of the live page, metrics and profiles (default: the port after that of -addr, or a free one, on 127.0.0.1)")
	f.BoolVar(&cfg.trace, "trace", false, "print a span for each request and each task")
	f.DurationVar(&cfg.stuck, "stuck-after", 5*time.Minute, "how long a task may run before it is reported as stuck; 0 means that none is")
	f.StringVar(&cfg.data, "data", "", "`folder` of the orders, invoices and uploads (default: a new temporary one)")
	f.BoolVar(&cfg.demo, "demo", false, "play a customer, send SIGTERM, and exit")
	f.IntVar(&cfg.workers, "workers", max(4, runtime.GOMAXPROCS(0)), "number of orders in work at once; they mostly wait for the disk")
	f.IntVar(&cfg.queue, "queue", 1000, "number of orders that may wait; more are answered 503. With -durable any number may wait, on the queue")
	f.StringVar(&cfg.durable, "durable", "", "`queue` for the work on orders, to outlive the process: a SQLite file's name, or the URL of a server: postgres://, redis://, rediss://, amqp://, amqps:// (default: none; orders wait in memory)")
	f.StringVar(&cfg.role, "role", "both", "with -durable: web takes orders, worker works on them and sends the webhooks, both does both. On one -data there may be one web and any number of workers")
	f.IntVar(&cfg.replicas, "replicas", 0, "start this `number` of shops on one -data, and a proxy in front of them at -addr that asks one after the other; 0 means that this process is the shop")
	f.DurationVar(&cfg.preStop, "pre-stop", 0, "time for a load balancer to notice the stop at /ready, in which the shop still serves; at most half of -stop-timeout")
	f.DurationVar(&cfg.stopTimeout, "stop-timeout", 25*time.Second, "time for all of the stop, from the signal to the end of the process")
	f.Int64Var(&cfg.maxImport, "max-import", 2<<30, "`bytes` of the largest import; more are answered 413")
	f.StringVar(&cfg.webhook, "webhook", "", "`URL` that each invoice is announced to (default: a built-in receiver)")
	f.DurationVar(&cfg.webhookDelay, "webhook-delay", 0, "time that the built-in receiver takes to respond")
	f.IntVar(&cfg.webhookFail, "webhook-fail", 0, "make the built-in receiver answer every `n`th webhook with 500; 0 means none")
	f.Usage = func() {}
	cfg.given = f
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(help, `checkout: a small shop that does its heavy work in the background.

The secret of the webhooks' signatures is read from CHECKOUT_WEBHOOK_SECRET (whsec_ and
base64); without it each start makes a new one. A -durable that has a password in it can
be given in CHECKOUT_DURABLE instead.

`)
			f.SetOutput(help)
			f.PrintDefaults()
		}
		return cfg, err
	}
	if f.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if cfg.workers < 1 || cfg.queue < 1 || cfg.maxImport < 1 || cfg.stopTimeout <= 0 || cfg.preStop < 0 || cfg.preStop > cfg.stopTimeout/2 || cfg.webhookFail < 0 || cfg.stuck < 0 {
		return cfg, errors.New("-workers, -queue, -max-import and -stop-timeout must be positive, -webhook-fail and -stuck-after must not be negative, -pre-stop must be at most half of -stop-timeout")
	}
	// Not only a flag: other users of the machine can read the arguments of a process.
	if cfg.durable == "" {
		cfg.durable = os.Getenv("CHECKOUT_DURABLE")
	}
	switch {
	case cfg.role != "both" && cfg.role != "web" && cfg.role != "worker":
		return cfg, fmt.Errorf("-role: %q is not web, worker or both", cfg.role)
	case cfg.role != "both" && (cfg.durable == "" || cfg.data == ""):
		return cfg, errors.New("-role: the web and the workers need a common -durable and -data")
	case cfg.role != "both" && cfg.demo:
		return cfg, errors.New("-demo needs web and worker in one process, so it cannot have a -role")
	case cfg.replicas < 0 || cfg.replicas > maxReplicas:
		return cfg, fmt.Errorf("-replicas: %d is not between 0 and %d", cfg.replicas, maxReplicas)
	case cfg.replicas > 0 && (cfg.demo || cfg.role != "both" || cfg.admin != ""):
		return cfg, errors.New("-replicas: each is web and worker, with an -admin address of its own; it cannot have -role, -admin or -demo")
	case cfg.replicas > 0 && strings.HasPrefix(cfg.durable, "amqp"):
		return cfg, errors.New("-replicas: RabbitMQ keeps no state that the replicas could share; use SQLite, Postgres or Redis")
	}
	cfg.public = os.Getenv(publicVariable)
	var err error
	if cfg.replica, err = replicaNumber(); err != nil {
		return cfg, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if cfg.demo && !given["addr"] {
		cfg.addr = "127.0.0.1:0"
	}
	if cfg.demo && !given["webhook-delay"] {
		cfg.webhookDelay = 500 * time.Millisecond // so that a task is still running at the SIGTERM
	}
	if cfg.webhookSecret = os.Getenv("CHECKOUT_WEBHOOK_SECRET"); cfg.webhookSecret == "" {
		cfg.webhookSecret = newSecret()
	}
	return cfg, nil
}

// nextPort returns an address on 127.0.0.1 with the port after that of addr, or with port
// 0 if addr has no numeric port.
func nextPort(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || n == 65535 {
		return "127.0.0.1:0"
	}
	return net.JoinHostPort("127.0.0.1", strconv.FormatUint(n+1, 10))
}

// greet prints the addresses, and what to try.
func greet(out io.Writer, s *shop, base, admin string) {
	if s.cfg.replica != 0 {
		fmt.Fprintf(out, replicaServes+"\n", s.cfg.replica, base, admin)
		return
	}
	if s.cfg.serves() {
		fmt.Fprintf(out, "checkout: serving %s, data in %s\n", base, s.cfg.data)
	}
	if s.queue != nil {
		fmt.Fprintf(out, "checkout: %s, orders wait on %s, data in %s\n", s.cfg.role, s.queue.engine.Support().Engine, s.cfg.data)
	}
	fmt.Fprintf(out, "checkout: live page %[1]s/debug/tether/, metrics %[1]s/metrics\n", admin)
	if s.cfg.works() && s.cfg.webhook != "" && os.Getenv("CHECKOUT_WEBHOOK_SECRET") == "" {
		fmt.Fprintf(out, "checkout: webhooks are signed with %s\n", s.cfg.webhookSecret)
	}
	if s.cfg.demo || !s.cfg.serves() {
		return
	}
	fmt.Fprintf(out, "Open %s in a browser, or try:\n", base)
	for _, line := range tryLines(base) {
		fmt.Fprintln(out, "  "+line)
	}
	fmt.Fprintln(out, `and then the Location of the answer; that of a report with -H 'Accept: text/event-stream'.
Ctrl-C drains and prints the report; a second one, a second later or more, ends the program at once.`)
}

// ending is the state of the store after the drain.
type ending struct {
	tally
	uploads int // that are pending
}

// pending returns the number of things that the next start has to continue.
func (e ending) pending() int { return e.Pending + e.uploads + e.Undelivered }

func (s *store) ending(ctx context.Context) (left ending, err error) {
	if left.tally, err = s.tally(ctx); err != nil {
		return left, err
	}
	uploads, err := s.pendingUploads(ctx, "")
	left.uploads = len(uploads)
	return left, err
}

// sum prints the state of the orders, when the drain has ended.
func (s *shop) sum(ctx context.Context, out io.Writer) (left ending, err error) {
	if left, err = s.store.ending(ctx); err != nil {
		return left, err
	}
	fmt.Fprintf(out, "checkout: %d orders accepted since the start; in all %d invoiced, %d failed, %d pending; %d uploads and %d webhooks pending\n",
		s.accepted.Load(), left.Invoiced, left.Failed, left.Pending, left.uploads, left.Undelivered)
	if s.cfg.serves() {
		audit, reports := s.audit.pool.Stats(), s.reports.Stats()
		fmt.Fprintf(out, "checkout: %d answers noted in the audit log, %d not; %d reports made, %d canceled\n",
			audit.Succeeded, audit.Failed+audit.Panicked, reports.Succeeded, reports.Canceled+reports.Dropped)
	}
	return left, nil
}
