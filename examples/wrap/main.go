// Command wrap shows the smallest step there is: a handler that starts its work with
// a go statement, and the two lines that make a task of it.
//
//	go run ./examples/wrap
//	curl -i localhost:8081/before
//	curl -i localhost:8081/after
//
// The work takes ten seconds. Press Ctrl-C, or send SIGTERM, before they have passed.
// What /after has started is finished; what /before has started is cut off, and its
// "done" is never printed. With -demo the program does all that itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

var (
	addr = flag.String("addr", "localhost:8081", "`address` to listen on; -demo takes a free port")
	work = flag.Duration("work", 10*time.Second, "how long the work takes")
	demo = flag.Bool("demo", false, "request both, send SIGTERM, and exit")
)

// before answers at once and leaves its work to a goroutine. It has five traps:
//
//  1. Nothing waits for the goroutine. On SIGTERM the process ends in the middle of the work.
//  2. Nothing lists it. How many there are, which of them hang and their errors stay unknown.
//  3. A panic in it ends the process, and with it all other requests.
//  4. With r.Context() the work would be canceled when the handler returns. With
//     context.Background() it has lost the trace and the user.
//  5. Nothing bounds it. A burst of requests starts as many goroutines.
func before(w http.ResponseWriter, r *http.Request) {
	go func() { _ = sendLetters(context.Background(), r.URL.Path) }()
	w.WriteHeader(http.StatusAccepted)
}

// after does the same as a task: the first line that has changed. The task starts when
// the response has been sent, and ends before the process does. Its context has the
// request's values and is not canceled with the request. Its error, and its panic, are
// logged. If there are too many tasks, or the process is stopping, the client is told.
func after(w http.ResponseWriter, r *http.Request) {
	_, err := tetherhttp.After(r.Context(), "letters", func(ctx context.Context) error { return sendLetters(ctx, r.URL.Path) })
	if err != nil {
		tetherhttp.ProblemOf(err).ServeHTTP(w, r) // 503 with Retry-After
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// sendLetters is the work of both. Long work should listen for the stop of the process,
// and end soon after it has begun. Only a task can: without one, StoppingFrom returns a
// nil channel.
func sendLetters(ctx context.Context, route string) error {
	fmt.Println(route + ": working")
	timer := time.NewTimer(*work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tether.StoppingFrom(ctx):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	fmt.Println(route + ": done")
	return nil
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	reg := tether.New(tether.Config{Limit: 1000})
	mux := http.NewServeMux()
	mux.HandleFunc("/before", before)
	mux.HandleFunc("/after", after)
	if *demo {
		*addr = "localhost:0" // a free port
	}
	played := make(chan error, 1)
	srv := &http.Server{
		Addr: *addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(l net.Listener) context.Context { // is called when the server listens
			base := "http://" + l.Addr().String()
			fmt.Println("wrap: serving", base)
			if *demo {
				go func() { played <- play(base) }()
			}
			return context.Background()
		},
	}
	// The second line that has changed. It was: err := srv.ListenAndServe()
	err := tetherhttp.ListenAndServe(context.Background(), reg, tether.RunConfig{}, srv)
	fmt.Println(reg.Report())
	if err == nil && *demo {
		err = <-played
	}
	return err
}

// play is the client of -demo. It requests both and sends the process SIGTERM.
func play(base string) error {
	var errs []error
	for _, route := range []string{"/before", "/after"} {
		res, err := http.Get(base + route)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, res.Body.Close())
		fmt.Println("GET", route+":", res.Status)
	}
	fmt.Println("SIGTERM")
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGTERM)
	}
	return errors.Join(append(errs, err)...)
}
