// Command wrap shows the smallest step there is: a handler that starts its work with
// a go statement, and the two lines that make a task of it.
//
//	go run ./examples/wrap
//	curl -i localhost:8081/before
//	curl -i localhost:8081/after
//
// Press Ctrl-C, or send SIGTERM, before the ten seconds are over that the work takes.
// What /after has started is finished, and reported; what /before has started is cut
// off: its "done" is never printed. With -demo the program does all that itself.
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
	addr = flag.String("addr", "localhost:8081", "`address` to listen on, but for -demo")
	work = flag.Duration("work", 10*time.Second, "how long the work takes")
	demo = flag.Bool("demo", false, "ask for both, then SIGTERM")
)

// before answers at once and leaves its work to a goroutine. It has five traps:
//
//  1. Nobody waits for it. On SIGTERM the process ends, wherever the work is.
//  2. Nobody sees it: not how many there are, not which hang, and not their errors.
//  3. A panic in it is the end of the process, and of all other requests.
//  4. With r.Context() it would be cancelled as soon as the handler returns. With
//     context.Background() it has lost the trace and the user.
//  5. Nobody says no: a burst of requests starts as many of them.
func before(w http.ResponseWriter, r *http.Request) {
	go func() { _ = sendLetters(context.Background(), r.URL.Path) }()
	w.WriteHeader(http.StatusAccepted)
}

// after does the same as a task: the first line that has changed. The task starts
// when the answer has been sent, and is finished before the process ends; it has a
// context with the request's values that is not cancelled with the request; its
// error, and its panic, are logged. When there are too many of them, or the process
// is about to end, the client hears of it.
func after(w http.ResponseWriter, r *http.Request) {
	_, err := tetherhttp.After(r.Context(), "letters", func(ctx context.Context) error { return sendLetters(ctx, r.URL.Path) })
	if err != nil {
		tetherhttp.ProblemOf(err).ServeHTTP(w, r) // 503 with Retry-After
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// sendLetters is the work of both. A long one had better listen whether the process
// is about to end, and be done soon then. Only a task is told: without one, Stopping
// is a nil channel.
func sendLetters(ctx context.Context, route string) error {
	fmt.Println(route + ": working")
	slowly := time.NewTimer(*work)
	defer slowly.Stop()
	select {
	case <-slowly.C:
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
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}

	if *demo {
		*addr = "localhost:0" // any that is free
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	base := "http://" + listener.Addr().String()
	fmt.Println("wrap: serving", base)
	played := make(chan error, 1)
	if *demo {
		go func() { played <- play(base) }()
	} else {
		played <- nil
	}
	// The second line that has changed. It was: err = srv.Serve(listener)
	err = reg.Run(context.Background(), tether.RunConfig{
		Servers: []tether.Server{{Name: "public", Serve: func() error { return srv.Serve(listener) }, Stop: srv.Shutdown}},
	})
	fmt.Println(reg.Report())
	return errors.Join(err, <-played)
}

// play is the demo's client. It asks for both and has the process told to stop.
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
