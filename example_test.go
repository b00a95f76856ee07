package tether_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-2e639f12/tether"
)

// A server that answers at once, mails in the background, and loses nothing on
// SIGTERM.
func Example() {
	sendWelcomeMail := func(ctx context.Context) error {
		<-tether.StoppingFrom(ctx) // it takes so long that the server is told to stop meanwhile
		fmt.Println("mail sent")
		return nil
	}

	reg := tether.New(tether.Config{})
	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 8, Queue: 1000, Overflow: tether.OverflowReject})

	mux := http.NewServeMux()
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		if _, err := mail.Go(r.Context(), "welcome mail", sendWelcomeMail); err != nil {
			http.Error(w, "busy", http.StatusServiceUnavailable) // full, or shutting down
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { // a customer, and then the end
		response, err := http.Post("http://"+listener.Addr().String()+"/users", "", nil)
		if err == nil {
			response.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			fmt.Println(response.Status)
		}
		terminate()
	}()

	srv := &http.Server{Handler: mux}
	err = reg.Run(context.Background(), tether.RunConfig{
		Servers: []tether.Server{{
			Name:  "public",
			Serve: func() error { return srv.Serve(listener) },
			Stop:  srv.Shutdown,
		}},
	})
	fmt.Println(err)
	// Output:
	// 202 Accepted
	// mail sent
	// <nil>
}

// terminate sends SIGTERM to the program itself.
func terminate() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGTERM)
	}
	if err != nil {
		fmt.Println(err)
	}
}

// A handler submits its fire-and-forget work and answers at once. The task has the
// values of the request's context, but is not cancelled with it.
func ExampleRegistry_Go() {
	reg := tether.New(tether.Config{})

	task, err := reg.Go(context.Background(), "welcome-email", func(ctx context.Context) error {
		fmt.Println("sending")
		return nil
	})
	if err != nil {
		fmt.Println(err) // refused: it will not run
		return
	}
	fmt.Println(task.Wait(context.Background()), task)
	// Output:
	// sending
	// <nil> welcome-email (succeeded)
}

// A body that returns a value is submitted with Submit.
func ExampleSubmit() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	answer, err := tether.Submit(ctx, reg, "answer", func(ctx context.Context) (int, error) {
		return 6 * 7, nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Value(ctx))
	// Output: 42 <nil>
}

// A full pool that rejects says when to come again.
func ExamplePool_Go() {
	reg := tether.New(tether.Config{})
	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowReject})

	server := make(chan struct{})
	send := func(ctx context.Context) error {
		<-server
		return nil
	}
	for range 3 {
		_, err := mail.Go(context.Background(), "welcome-email", send)
		var full *tether.FullError
		if errors.As(err, &full) {
			fmt.Printf("503, Retry-After: %.0f\n", full.RetryAfter.Seconds())
		} else {
			fmt.Println("202")
		}
	}
	close(server)
	// Output:
	// 202
	// 202
	// 503, Retry-After: 1
}

// A double click makes one invoice.
func ExampleUnique() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	printer := make(chan struct{})
	invoice := func(context.Context) error {
		fmt.Println("printing")
		<-printer
		return nil
	}
	first, _ := reg.Go(ctx, "invoice", invoice, tether.Unique("order-5"))
	second, _ := reg.Go(ctx, "invoice", invoice, tether.Unique("order-5"))
	fmt.Println(first == second)
	close(printer)
	second.Wait(ctx)
	// Unordered output:
	// true
	// printing
}

// Tasks of one account run one at a time and in order, those of others beside them.
func ExampleSerial() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	var last *tether.Task
	for _, step := range []string{"open", "deposit", "close"} {
		last, _ = reg.Go(ctx, step, func(context.Context) error {
			fmt.Println(step)
			return nil
		}, tether.Serial("account-7"))
	}
	last.Wait(ctx)
	// Output:
	// open
	// deposit
	// close
}

// A held task has its place, and starts when the transaction is committed.
// One worker, and a tenant that has submitted more than the others: the tenants take turns.
func ExampleShare() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()
	exports := reg.NewPool("exports", tether.PoolConfig{Workers: 1, Queue: 100, ShareLimit: 5})

	exports.Pause() // so that the workers do not begin before everything is submitted
	for _, tenant := range []string{"acme", "acme", "acme", "acme", "globex", "initech"} {
		exports.Go(ctx, "export", func(context.Context) error {
			fmt.Println("export for", tenant)
			return nil
		}, tether.Share(tenant))
	}
	exports.Resume()
	reg.Shutdown(ctx)
	// Output:
	// export for acme
	// export for globex
	// export for initech
	// export for acme
	// export for acme
	// export for acme
}

func ExampleUrgent() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()
	mails := reg.NewPool("mails", tether.PoolConfig{Workers: 1, Queue: 100})
	send := func(what string) tether.Func {
		return func(context.Context) error {
			fmt.Println(what)
			return nil
		}
	}

	mails.Pause() // so that the workers do not begin before everything is submitted
	mails.Go(ctx, "newsletter", send("newsletter"))
	mails.Go(ctx, "password reset", send("password reset"), tether.Urgent())
	mails.Resume()
	reg.Shutdown(ctx)
	// Output:
	// password reset
	// newsletter
}

func ExampleHold() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	task, err := reg.Go(ctx, "index", func(context.Context) error {
		fmt.Println("indexing")
		return nil
	}, tether.Hold())
	if err != nil {
		fmt.Println(err) // no place: roll back
		return
	}
	fmt.Println("committed")
	task.Release() // or task.Cancel, after a rollback
	task.Wait(ctx)
	// Output:
	// committed
	// indexing
}

func ExampleDelay() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	task, _ := reg.Go(ctx, "reminder", func(context.Context) error { return nil }, tether.Delay(10*time.Millisecond))
	task.Wait(ctx)
	info := task.Info()
	fmt.Println(info.Started.Sub(info.Submitted) >= 10*time.Millisecond)
	// Output: true
}

func ExampleRetry() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	attempts := 0
	task, _ := reg.Go(ctx, "webhook", func(context.Context) error {
		if attempts++; attempts < 3 {
			return errors.New("503 Service Unavailable")
		}
		return nil
	}, tether.Retry(tether.RetryPolicy{
		Attempts: 5,
		Backoff:  tether.ExponentialBackoff(time.Millisecond, time.Second),
	}))
	fmt.Println(task.Wait(ctx), "after", task.Info().Attempt, "attempts")
	// Output: <nil> after 3 attempts
}

func ExampleTimeout() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	task, _ := reg.Go(ctx, "report", func(ctx context.Context) error {
		<-ctx.Done() // a query that takes too long
		return ctx.Err()
	}, tether.Timeout(10*time.Millisecond))
	err := task.Wait(ctx)
	fmt.Println(errors.Is(err, tether.ErrTimeout), errors.Is(err, context.DeadlineExceeded), task.State())
	// Output: true true canceled
}

// What the drain cannot run any more is handed over to something that survives the
// process.
func ExampleHandOver() {
	reg := tether.New(tether.Config{})

	reg.Go(context.Background(), "invoice", func(context.Context) error { return nil },
		tether.Delay(time.Hour),
		tether.Label("order", "5"),
		tether.HandOver(func(ctx context.Context, info tether.Info) error {
			fmt.Println("stored:", info.Name, "of order", info.Labels["order"])
			return nil
		}))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	reg.Shutdown(ctx)                         // hands it over, and may give up before that has ended
	err := reg.Shutdown(context.Background()) // waits for it
	fmt.Println(err, len(reg.Report().HandedOver))
	// Output:
	// stored: invoice of order 5
	// <nil> 1
}

// A body that waits for the next message ends when the stop begins.
func ExampleOnStop() {
	reg := tether.New(tether.Config{})
	here, there := net.Pipe() // a connection to a broker
	defer there.Close()

	reg.Go(context.Background(), "messages", func(context.Context) error {
		messages := bufio.NewScanner(here)
		for messages.Scan() {
			fmt.Println("message:", messages.Text())
		}
		fmt.Println("no more messages")
		return nil
	}, tether.OnStop(func(context.Context) { here.Close() }))

	fmt.Fprintln(there, "hello")
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// message: hello
	// no more messages
	// <nil>
}

func ExampleReportProgress() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	task, _ := reg.Go(ctx, "import", func(ctx context.Context) error {
		for line := range int64(3) {
			tether.ReportProgress(ctx, tether.Progress{Done: line + 1, Total: 3, Message: "importing"})
		}
		return nil
	})
	task.Wait(ctx)
	fmt.Printf("%+v\n", task.Info().Progress)
	// Output: {Done:3 Total:3 Message:importing}
}

// A long body saves its place when the drain begins.
func ExampleStoppingFrom() {
	reg := tether.New(tether.Config{})

	reg.Go(context.Background(), "crawl", func(ctx context.Context) error {
		for page := 1; ; page++ {
			select {
			case <-tether.StoppingFrom(ctx):
				fmt.Println("saved")
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond): // fetch the page
			}
		}
	})
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// saved
	// <nil>
}

// counter is an Observer that watches the ends only.
type counter struct{ tether.NopObserver }

func (counter) TaskEnded(_ context.Context, t *tether.Task) {
	fmt.Println(t.Name(), "has", t.State())
}

func ExampleObserver() {
	reg := tether.New(tether.Config{Observer: counter{}})
	ctx := context.Background()

	task, _ := reg.Go(ctx, "welcome-email", func(context.Context) error { return nil })
	task.Wait(ctx)
	// Output: welcome-email has succeeded
}

func ExampleRegistry_Stats() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	sent, _ := reg.Go(ctx, "mail", func(context.Context) error { return nil })
	lost, _ := reg.Go(ctx, "mail", func(context.Context) error { return errors.New("no such user") })
	reg.Go(ctx, "mail", func(context.Context) error { return nil }, tether.Hold())
	sent.Wait(ctx)
	lost.Wait(ctx)
	s := reg.Stats()
	fmt.Println(s.Submitted, "submitted:", s.Succeeded, "succeeded,", s.Failed, "failed,", s.Held, "held")
	// Output: 3 submitted: 1 succeeded, 1 failed, 1 held
}

// Shutdown waits for the tasks, then cancels them, and names those that do not end.
func ExampleRegistry_Shutdown() {
	reg := tether.New(tether.Config{})

	running, network := make(chan struct{}), make(chan struct{})
	reg.Go(context.Background(), "upload", func(context.Context) error {
		close(running)
		<-network // ignores its context
		return nil
	})
	<-running // else it would not be started any more

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err := reg.Shutdown(ctx)
	var drain *tether.DrainError
	if errors.As(err, &drain) {
		for _, info := range drain.Report.Abandoned {
			fmt.Println("still", info.State, info.Name)
		}
	}
	close(network)
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// still running upload
	// <nil>
}

// Run serves until SIGTERM and stops in order. Here the program sends the signal to
// itself; srv.ListenAndServe and srv.Shutdown of net/http fit Serve and Stop.
func ExampleRegistry_Run() {
	reg := tether.New(tether.Config{})

	stopped := make(chan struct{})
	err := reg.Run(context.Background(), tether.RunConfig{
		Servers: []tether.Server{{Name: "public", Serve: func() error {
			reg.Go(context.Background(), "welcome-email", func(ctx context.Context) error {
				<-tether.StoppingFrom(ctx)
				<-stopped // so that the order of the output is certain
				fmt.Println("sent")
				return nil
			})
			terminate()
			<-stopped
			return nil
		}, Stop: func(context.Context) error {
			fmt.Println("no new requests, ready:", reg.Ready())
			close(stopped)
			return nil
		}}},
		Closers: []tether.Closer{
			{Name: "database", Close: func(context.Context) error { fmt.Println("database closed"); return nil }},
		},
	})
	fmt.Println(err)
	// Output:
	// no new requests, ready: false
	// sent
	// database closed
	// <nil>
}

func ExampleTask_Cancel() {
	reg := tether.New(tether.Config{})
	ctx := context.Background()

	errLeft := errors.New("the user has left")
	running := make(chan struct{})
	task, _ := reg.Go(ctx, "export", func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	<-running
	task.Cancel(errLeft)
	fmt.Println(task.Wait(ctx), task)
	// Output: the user has left export (canceled)
}

// The id in a 202's Location finds the task again, for as long as it is retained.
func ExampleRegistry_Find() {
	reg := tether.New(tether.Config{Retain: 1})
	ctx := context.Background()

	nothing := func(context.Context) error { return nil }
	first, _ := reg.Go(ctx, "first", nothing)
	first.Wait(ctx)
	fmt.Println(reg.Find(first.ID()))

	second, _ := reg.Go(ctx, "second", nothing) // takes the first one's place
	second.Wait(ctx)
	_, err := reg.Find(first.ID())
	fmt.Println(errors.Is(err, tether.ErrExpired))

	_, err = reg.Find("made up")
	fmt.Println(errors.Is(err, tether.ErrNotFound))
	// Output:
	// first (succeeded) <nil>
	// true
	// true
}

// A service that sheds load before its memory runs out. The memory limit is GOMEMLIMIT,
// which leaves room below that of the container; here the example sets it.
func ExampleMemoryError() {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(8 << 30))

	reg := tether.New(tether.Config{MemoryHeadroom: 8 << 30}) // as if 8 GiB were in use
	_, err := reg.Go(context.Background(), "thumbnail", func(context.Context) error { return nil })

	var short *tether.MemoryError
	fmt.Println(errors.As(err, &short), errors.Is(err, tether.ErrFull))
	fmt.Println(short.Limit>>30, "GiB limit, try again in", short.RetryAfter)
	// Output:
	// true true
	// 8 GiB limit, try again in 1s
}

// A consumer runs for the life of the process. When it fails it is restarted, and it ends
// when the stop begins.
func ExampleRegistry_Loop() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	events := make(chan string)

	consumer, _ := reg.Loop(context.Background(), "order events", func(ctx context.Context) error {
		if t, _ := tether.FromContext(ctx); t.Attempt() == 1 {
			return errors.New("connection refused")
		}
		for {
			select {
			case event := <-events:
				fmt.Println(event)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, tether.LoopConfig{
		Restarts: tether.Unbounded, // with ExponentialBackoff(time.Second, time.Minute) if there is no other
		Backoff:  tether.ExponentialBackoff(time.Millisecond, time.Second),
	})
	events <- "order 5"
	fmt.Println("loops:", reg.Stats().Loops)

	reg.Shutdown(context.Background())
	fmt.Println(consumer, "in attempt", consumer.Attempt())
	// Unordered output:
	// loops: 1
	// order 5
	// order events (succeeded) in attempt 2
}

// No caller can be told that the pool is full: the log is.
func ExampleDetach() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "error" {
				return slog.Attr{}
			}
			return a
		},
	}))})
	pool := reg.NewPool("cache", tether.PoolConfig{Workers: 1})

	flushed := make(chan struct{})
	flush := func(context.Context) error { <-flushed; return nil }
	tether.Detach(context.Background(), pool, "flush", flush)
	tether.Detach(context.Background(), pool, "flush", flush)
	close(flushed)
	// Output: level=WARN msg="task refused" task=flush pool=cache omitted=0
}

// A command that has nothing to serve ends when its work has.
func ExampleWaitIdle() {
	reg := tether.New(tether.Config{})
	feeds := reg.NewPool("feeds", tether.PoolConfig{Workers: 4, Queue: tether.Unbounded})

	var refreshed atomic.Int64
	for range 10 {
		feeds.Go(context.Background(), "refresh feed", func(context.Context) error {
			refreshed.Add(1)
			return nil
		})
	}
	tether.WaitIdle(context.Background(), feeds)
	fmt.Println(refreshed.Load(), "feeds")
	// Output: 10 feeds
}
