package tetherhttp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/schedule"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

// A service: a task after the response, work that may take longer than a client waits,
// the status of that work, and a live page.
func Example() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(context.Context) error {
			fmt.Println("logged")
			return nil
		})
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r) // 503 with Retry-After
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", func(context.Context, *http.Request) (string, error) { return "7 pages", nil }))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
	mux.Handle("/debug/tether/", tetherhttp.Debug(reg)) // in a service, on a port of its own

	srv := httptest.NewUnstartedServer(mux) // in a service, tetherhttp.ListenAndServe
	tetherhttp.Attach(srv.Config, reg)
	srv.Start()
	fmt.Println(send(http.NewRequest("POST", srv.URL+"/orders", nil)).status)
	report := send(http.NewRequest("POST", srv.URL+"/reports", nil))
	fmt.Print(report.status, " ", report.body)
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Unordered output:
	// 201
	// logged
	// 200 "7 pages"
	// <nil>
}

// A confirmation, and then an invoice: the second does not run if the first fails. They
// are discarded if the order turns out to be wrong.
func ExampleAfterInOrder() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	ended := make(chan error, 2)
	print := func(text string) tether.Func {
		return func(context.Context) error { fmt.Println(text); return nil }
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		task, err := tetherhttp.AfterInOrder(r.Context(), "order", print("confirmation"), print("invoice"))
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
			return
		}
		go func() { ended <- task.Wait(context.Background()) }()
		if r.URL.Query().Has("wrong") {
			tetherhttp.Discard(r.Context(), nil)
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	tetherhttp.Attach(srv.Config, reg)
	srv.Start()
	fmt.Println(send(http.NewRequest("POST", srv.URL+"?wrong", nil)).status)
	fmt.Println("discarded:", errors.Is(<-ended, tetherhttp.ErrDiscarded))
	fmt.Println(send(http.NewRequest("POST", srv.URL, nil)).status == http.StatusOK, <-ended)
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Unordered output:
	// 400
	// discarded: true
	// confirmation
	// invoice
	// true <nil>
	// <nil>
}

// A task after the response that runs on a pool, and the errors of After.
func ExampleAfterOn() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	mails := reg.NewPool("mails", tether.PoolConfig{Workers: 8, Queue: 1000})
	mail := func(ctx context.Context) error {
		switch d := tetherhttp.DeliveryOf(ctx); d {
		case tetherhttp.DeliverySent, tetherhttp.DeliveryFrame, tetherhttp.DeliveryUnknown:
			fmt.Println("after the response:", d)
		case tetherhttp.DeliveryClosed, tetherhttp.DeliveryHijacked, tetherhttp.DeliveryTimeout:
			fmt.Println("the client may have nothing:", d)
		}
		return nil
	}
	var late context.Context
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		late = r.Context()
		if _, err := tetherhttp.AfterOn(r.Context(), mails, "welcome mail", mail); err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
		}
	}))
	tetherhttp.Attach(srv.Config, reg, tetherhttp.ReleaserConfig{
		MaxWait: time.Minute,
		Share:   func(r *http.Request) string { return r.Header.Get("X-Tenant") }, // tenants take turns
	})
	srv.Start()
	send(http.NewRequest("GET", srv.URL, nil))
	srv.Close()
	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}

	_, err := tetherhttp.AfterOn(late, mails, "welcome mail", mail)
	fmt.Println("after the handler:", errors.Is(err, tetherhttp.ErrFinished))
	_, err = tetherhttp.AfterOn(context.Background(), mails, "welcome mail", mail)
	fmt.Println("outside of a request:", errors.Is(err, tetherhttp.ErrNoScope))
	// Output:
	// after the response: sent
	// after the handler: true
	// outside of a request: true
}

// A framework that owns the server's handler: the Releaser's middleware is mounted inside
// its recoverer, and tasks run after successes only.
func ExampleReleaser() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	releaser := tetherhttp.NewReleaser(reg, tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool { return status < 300 }})
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(context.Context) error {
			fmt.Println("logged:", r.URL.Path)
			return nil
		})
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
			return
		}
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	srv := httptest.NewUnstartedServer(releaser.Handler(app))
	releaser.Hooks(srv.Config)
	srv.Start()
	send(http.NewRequest("GET", srv.URL+"/bad", nil))
	send(http.NewRequest("GET", srv.URL+"/good", nil))
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// logged: /good
	// <nil>
}

// A server on a listener of its own, and one for operators that stops last: it has the
// probes, and refuses host names that are not its own.
func ExampleServer() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	tetherhttp.Attach(srv, reg)
	public := tetherhttp.Server("public", srv)
	public.Serve = func() error { return srv.Serve(listener) }

	probes := http.NewServeMux()
	probes.Handle("/ready", tetherhttp.Readiness(reg))
	probes.Handle("/live", tetherhttp.Liveness())
	probes.Handle("/debug/tether/", tetherhttp.Debug(reg, tetherhttp.DebugConfig{Hosts: []string{"admin.example.com"}}))
	ctx, stop := context.WithCancel(context.Background())
	admin := &http.Server{Addr: "127.0.0.1:0", Handler: tetherhttp.AllowHosts(probes, "admin.example.com")}
	admin.BaseContext = func(l net.Listener) context.Context {
		go func() {
			url := "http://" + l.Addr().String()
			fmt.Print(send(http.NewRequest("GET", url+"/ready", nil)).body)
			foreign, err := http.NewRequest("GET", url+"/live", nil)
			foreign.Host = "rebound.example.net"
			fmt.Println(send(foreign, err).status)
			stop()
		}()
		return context.Background()
	}
	fmt.Println(reg.Run(ctx, tether.RunConfig{
		Servers:     []tether.Server{public},
		LastServers: []tether.Server{tetherhttp.Server("admin", admin)},
	}))
	// Output:
	// ready
	// 421
	// <nil>
}

// Requests that are checked first, answered with 202 always, and polled under the path
// prefix that a proxy has stripped.
func ExampleAsyncConfig() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	makeReport := func(context.Context, *http.Request) (string, error) { return "7 pages", nil }
	poll := func(tether.Info) time.Duration { return 5 * time.Second }
	srv := httptest.NewServer(tetherhttp.Async(reg, "report", makeReport, tetherhttp.AsyncConfig{
		Always202: true, // instead of a result within Inline, or what a client asks for, up to MaxWait
		Inline:    500 * time.Millisecond,
		StatusAt:  "/jobs/", // unless there is a StatusURL
		Check: func(r *http.Request) error {
			if r.URL.Query().Get("year") == "" {
				return &tetherhttp.Problem{Status: http.StatusBadRequest, Detail: "which year?"}
			}
			_, err := tetherhttp.IdempotencyKey(r.Header) // a Problem if it is malformed
			return err
		},
		MaxBody:          1 << 10,
		KeepOnDisconnect: true,
		StatusURL: func(r *http.Request, id string) string {
			return tetherhttp.ForwardedPrefix(r) + "/jobs/" + id
		},
		PollAfter:   poll,
		Share:       func(r *http.Request) string { return r.Header.Get("X-Tenant") }, // tenants take turns
		TaskOptions: []tether.Option{tether.Timeout(time.Minute)},
		Idempotency: &tetherhttp.IdempotencyConfig{
			MaxKeys: 1000, RetainFor: time.Hour,
			Principal: func(r *http.Request) string { return r.Header.Get("X-User") }, // as a middleware has set it
		},
	}))
	fmt.Println(send(http.NewRequest("POST", srv.URL, nil)).status)
	r, err := http.NewRequest("POST", srv.URL+"?year=1999", nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-Forwarded-Prefix", "/api")
	res := send(r, nil)
	fmt.Println(res.status, path.Dir(res.header.Get("Location")), res.header.Get("Retry-After"))
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// 400
	// 202 /api/jobs 5
	// <nil>
}

// A task that a client has canceled, and one whose client has gone.
func ExampleTasksConfig() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	started := make(chan struct{})
	task, err := reg.Go(context.Background(), "import", func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		cause := context.Cause(ctx)
		fmt.Println(errors.Is(cause, tetherhttp.ErrCanceled), errors.Is(cause, tetherhttp.ErrClientGone))
		return cause
	})
	if err != nil {
		panic(err)
	}
	<-started
	srv := httptest.NewServer(tetherhttp.Tasks(reg, tetherhttp.TasksConfig{
		AllowCancel: true,
		MaxWait:     10 * time.Second,
		PollAfter:   func(tether.Info) time.Duration { return 2 * time.Second },
	}))
	status := send(http.NewRequest("GET", srv.URL+"/"+task.ID(), nil))
	fmt.Println(status.status, status.header.Get("Retry-After"))
	fmt.Println(send(http.NewRequest("DELETE", srv.URL+"/"+task.ID(), nil)).status)
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Unordered output:
	// 200 2
	// true false
	// 202
	// <nil>
}

// A task that starts now, from code that knows no registry.
func ExampleGo() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tetherhttp.Go(r.Context(), "warm up", func(context.Context) error { return nil }); err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
		}
	}))
	tetherhttp.Attach(srv.Config, reg)
	srv.Start()
	send(http.NewRequest("GET", srv.URL, nil))
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()), reg.Stats().Succeeded)
	// Output: <nil> 1
}

// A store that is away: what is answered meanwhile, and what becomes of the tasks.
func ExampleStoreConfig() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	memory := storetest.NewMemory() // in a service: engine.Store() of sqlite, postgres or redis
	shared := tetherhttp.NewStore("shop", memory, tetherhttp.StoreConfig{
		RetainFor: time.Hour, MaxResult: 1 << 20, Timeout: time.Second,
		Logger: slog.New(slog.DiscardHandler),
	})
	report := func(ctx context.Context, _ *http.Request) (string, error) {
		<-ctx.Done()
		cause := context.Cause(ctx)
		switch {
		case errors.Is(cause, tetherhttp.ErrStoreUnavailable): // no other replica would know the 202
			fmt.Println("canceled: the store is away")
		case errors.Is(cause, tetherhttp.ErrLost): // this process could not reach it for too long
			fmt.Println("canceled: given up")
		}
		return "", cause
	}
	srv := httptest.NewServer(tetherhttp.Async(reg, "report", report, tetherhttp.AsyncConfig{Store: shared, Always202: true}))
	memory.Fail(func(string) error { return errors.New("no route to host") })
	res := send(http.NewRequest("POST", srv.URL, nil))
	fmt.Println(res.status, res.header.Get("Retry-After") != "")
	srv.Close()
	fmt.Println(reg.Shutdown(context.Background()))
	// Unordered output:
	// canceled: the store is away
	// 503 true
	// <nil>
}

// A page whose operators may cancel tasks, and on-call engineers also change pools and
// schedules. Each action is logged before it is done.
func ExampleDebugConfig() {
	reg := tether.New(tether.Config{})
	page := tetherhttp.Debug(reg, tetherhttp.DebugConfig{
		Title: "shop", Version: "1.2.3",
		AllowCancel: true, AllowControl: true,
		Schedules:  schedule.New(reg),
		LabelLinks: map[string]string{"trace_id": "https://traces.example/trace/{value}"},
		Audit: func(r *http.Request, a tetherhttp.DebugAction) error {
			switch a.Kind {
			case tetherhttp.DebugCancel, tetherhttp.DebugCancelMatching:
			case tetherhttp.DebugPause, tetherhttp.DebugResume, tetherhttp.DebugResize,
				tetherhttp.DebugRun, tetherhttp.DebugPauseSchedule, tetherhttp.DebugResumeSchedule:
				if r.Header.Get("X-Group") != "on-call" { // as a middleware has set it
					return errors.New("only on-call engineers may do that")
				}
			}
			slog.InfoContext(r.Context(), "live page", "action", a.String())
			return nil
		},
	})
	recorder := httptest.NewRecorder()
	page.ServeHTTP(recorder, httptest.NewRequest("GET", "http://localhost/debug/tether/?format=json", nil))
	fmt.Println(recorder.Code, reg.Shutdown(context.Background()))
	// Output: 200 <nil>
}
