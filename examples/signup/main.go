// Command signup is a small service with all that Tether asks for: one pool, one handler
// that puts work into it, a loop, a schedule, a stop that waits for what was accepted, and
// a live page.
//
//	go run ./examples/signup
//
// The program prints what to try. Press Ctrl-C, or send SIGTERM, while mails are being
// sent: no further request is taken, the loop and the schedule end, the mails that were
// answered 202 are sent, and the program prints its report. A second Ctrl-C, a second later or more, ends it at once.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

var (
	addr        = flag.String("addr", "localhost:8082", "`address` to listen on")
	admin       = flag.String("admin", "localhost:8083", "`address` of the live page; it has no authentication")
	work        = flag.Duration("work", 3*time.Second, "how long it takes to send a mail")
	every       = flag.Duration("every", 10*time.Second, "how often the number of mails is printed")
	preStop     = flag.Duration("pre-stop", 0, "time for a load balancer to notice the stop; the server serves meanwhile")
	stopTimeout = flag.Duration("stop-timeout", 25*time.Second, "time for all of the stop")
)

func main() {
	flag.Parse()
	// The registry knows all tasks. The pool has two workers, and refuses a task when
	// ten others wait: a burst of requests must not become a burst of goroutines.
	reg := tether.New(tether.Config{StuckAfter: time.Minute})
	mails := reg.NewPool("mails", tether.PoolConfig{Workers: 2, Queue: 10})

	// The loop runs for the life of the process. It is restarted when it fails; if it
	// failed six times in a row, the process would stop with its error.
	ctx := context.Background()
	_, err := reg.Loop(ctx, "bounces", readBounces, tether.LoopConfig{Restarts: 5, Essential: true})
	if err != nil {
		log.Fatal("signup: ", err)
	}
	// Each run of the schedule is a task.
	_, err = schedule.New(reg).Add(ctx, "count", schedule.Every(*every), func(context.Context) error {
		fmt.Println("sent so far:", sent.Load())
		return nil
	})
	if err != nil {
		log.Fatal("signup: ", err)
	}

	mux := http.NewServeMux()
	mux.Handle("POST /signup", signup(mails))
	mux.Handle("GET /ready", tetherhttp.Readiness(reg)) // 503 from the signal on
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, try(r.Host)) })
	public := &http.Server{Addr: *addr, Handler: mux, ReadTimeout: 10 * time.Second, BaseContext: whenListening(func(at string) {
		fmt.Printf("signup: serving http://%s\n%s", at, try(at))
	})}

	// The live page is a last server: it stops after the tasks, so that it shows the drain.
	pages := http.NewServeMux()
	pages.Handle("/debug/tether/", tetherhttp.Debug(reg))
	live := &http.Server{Addr: *admin, Handler: pages, ReadTimeout: 10 * time.Second, BaseContext: whenListening(func(at string) {
		fmt.Printf("signup: live page http://%s/debug/tether/\n", at)
	})}

	// ListenAndServe returns when everything has ended, or its time has.
	err = tetherhttp.ListenAndServe(ctx, reg, tether.RunConfig{
		LastServers: []tether.Server{tetherhttp.Server("live page", live)},
		PreStop:     *preStop,
		StopTimeout: *stopTimeout,
	}, public)
	fmt.Println(reg.Report())
	if err != nil {
		log.Fatal("signup: ", err)
	}
}

// signup accepts an address and sends the welcome mail in the background. 202 is a
// promise: the task has been admitted, and the stop waits for it.
func signup(mails *tether.Pool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		to, err := mail.ParseAddress(r.FormValue("email"))
		if err != nil {
			http.Error(w, "email: "+err.Error(), http.StatusBadRequest)
			return
		}
		// The task keeps the values of the request's context, not its cancellation.
		_, err = mails.Go(r.Context(), "welcome mail", func(ctx context.Context) error {
			return send(ctx, to.Address)
		}, tether.Label("to", to.Address))
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r) // full or stopping: 503 with Retry-After
			return
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintln(w, "a mail is on its way to", to.Address)
	}
}

// send stands for a slow mail server. It returns early if its context is canceled, which
// happens when the time for the stop is almost over.
func send(ctx context.Context, to string) error {
	fmt.Println(to + ": sending")
	timer := time.NewTimer(*work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	fmt.Println(to + ": sent")
	sent.Add(1)
	if strings.HasSuffix(to, ".invalid") {
		select {
		case bounced <- to:
		default: // the loop is restarting
		}
	}
	return nil
}

var (
	sent    atomic.Int64
	bounced = make(chan string, 100) // what the mail server could not deliver
)

// readBounces stands for a connection to the mail server that reports what it could not
// deliver. Its context is canceled when the stop begins.
func readBounces(ctx context.Context) error {
	for {
		select {
		case to := <-bounced:
			fmt.Println(to + ": bounced")
		case <-ctx.Done():
			fmt.Println("bounces: disconnected")
			return ctx.Err()
		}
	}
}

// try returns the lines to try a service at the address with.
func try(at string) string {
	return fmt.Sprintf(`Try, again and again:
  curl -i http://%[1]s/signup -d email=ann@example.com
  curl -i http://%[1]s/signup -d email=nobody@example.invalid
  for i in $(seq 20); do curl -s -o /dev/null -w '%%{http_code}\n' http://%[1]s/signup -d email=user$i@example.com; done
and press Ctrl-C while mails are being sent.
`, at)
}

// whenListening returns a BaseContext of an http.Server that calls fn with the address
// of the listener, whose port the system may have chosen.
func whenListening(fn func(address string)) func(net.Listener) context.Context {
	return func(l net.Listener) context.Context {
		fn(l.Addr().String())
		return context.Background()
	}
}
