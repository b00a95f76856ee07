package tetherhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// A task that starts when the client has its answer.
func ExampleAfter() {
	reg := tether.New(tether.Config{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged:", r.URL.Path, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "hello")
	}))
	tetherhttp.Attach(srv.Config, reg)
	srv.Start()

	res, err := http.Get(srv.URL + "/greeting")
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	srv.Close()
	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output: logged: /greeting sent
}

// A report that may be done at once, or take its time.
func ExampleAsync() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	type Report struct {
		Year  string `json:"year"`
		Pages int    `json:"pages"`
	}
	finish := make(chan struct{})
	makeReport := func(ctx context.Context, r *http.Request) (Report, error) {
		if r.PathValue("year") == "all" { // it takes longer than a client should wait
			select {
			case <-finish:
			case <-ctx.Done():
				return Report{}, context.Cause(ctx)
			}
		}
		return Report{r.PathValue("year"), 7}, nil
	}
	mux := http.NewServeMux()
	mux.Handle("POST /reports/{year}", tetherhttp.Async(reg, "report", makeReport))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
	srv := httptest.NewServer(mux)
	defer srv.Close()

	quick := send(http.NewRequest("POST", srv.URL+"/reports/1999", nil))
	fmt.Print(quick.status, " ", quick.body)

	slow := send(http.NewRequest("POST", srv.URL+"/reports/all", nil))
	fmt.Println(slow.status, slow.header.Get("Retry-After"))
	status := srv.URL + slow.header.Get("Location")
	fmt.Println(send(http.NewRequest("GET", status+"/result", nil)).status)

	close(finish)
	wait, err := http.NewRequest("GET", status, nil)
	wait.Header.Set("Prefer", "wait=20") // seconds
	send(wait, err)
	fmt.Print(send(http.NewRequest("GET", status+"/result", nil)).body)

	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output:
	// 200 {"year":"1999","pages":7}
	// 202 1
	// 409
	// {"year":"all","pages":7}
}

// response is what the examples look at.
type response struct {
	status int
	header http.Header
	body   string
}

func send(r *http.Request, err error) response {
	if err != nil {
		panic(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		panic(err)
	}
	return response{res.StatusCode, res.Header, string(body)}
}

// An existing handler. Its response is kept until the client fetches it.
func ExampleAsyncHandler() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	loaded := make(chan struct{})
	thumbnail := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("large") {
			<-loaded
		}
		w.Header().Set("Content-Type", "image/svg+xml")
		fmt.Fprint(w, "<svg/>")
	})
	mux := http.NewServeMux()
	mux.Handle("GET /thumbnail", tetherhttp.AsyncHandler(reg, "thumbnail", thumbnail))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
	srv := httptest.NewServer(mux)
	defer srv.Close()

	inline := send(http.NewRequest("GET", srv.URL+"/thumbnail", nil))
	fmt.Println(inline.status, inline.header.Get("Content-Type"), inline.body)

	later, err := http.NewRequest("GET", srv.URL+"/thumbnail?large", nil)
	later.Header.Set("Prefer", "respond-async")
	promise := send(later, err)
	fmt.Println(promise.status, promise.header.Get("Preference-Applied"))
	close(loaded)
	if err := reg.Shutdown(context.Background()); err != nil { // it ends when the work has ended
		panic(err)
	}
	result := send(http.NewRequest("GET", srv.URL+promise.header.Get("Location")+"/result", nil))
	fmt.Println(result.status, result.header.Get("Content-Type"), result.body)
	// Output:
	// 200 image/svg+xml <svg/>
	// 202 respond-async
	// 200 image/svg+xml <svg/>
}

// A task of any kind, watched as it goes on.
func ExampleTasks() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	srv := httptest.NewServer(tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true, Authorize: func(r *http.Request, t tether.Info) bool {
		return t.Labels["owner"] == r.Header.Get("X-User") // as a middleware has set it
	}}))
	defer srv.Close()

	seen := make(chan struct{})
	task, err := reg.Go(context.Background(), "import", func(ctx context.Context) error {
		tether.ReportProgress(ctx, tether.Progress{Done: 500, Total: 1000, Message: "half of it"})
		<-seen
		return nil
	}, tether.Label("owner", "me"), tether.Hold())
	if err != nil {
		panic(err)
	}
	fmt.Println("for others:", send(http.NewRequest("GET", srv.URL+"/"+task.ID(), nil)).status)

	r, err := http.NewRequest("GET", srv.URL+"/"+task.ID(), nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-User", "me")
	r.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	task.Release()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		line := lines.Text()
		if _, progress, ok := strings.Cut(line, `"progress":`); ok && strings.Contains(line, `"running"`) {
			fmt.Println("data:", strings.TrimSuffix(progress, "}"))
			close(seen)
		}
		if line == "event: done" {
			fmt.Println(line)
		}
	}
	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output:
	// for others: 404
	// data: {"done":500,"total":1000,"message":"half of it"}
	// event: done
}

// An order that is made once, however often the client sends it.
func ExampleIdempotencyConfig() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	orders := 0
	order := func(context.Context, *http.Request) (string, error) {
		orders++
		return fmt.Sprint("order ", orders), nil
	}
	srv := httptest.NewServer(tetherhttp.Async(reg, "order", order, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Required: true}}))
	defer srv.Close()

	for _, key := range []string{"8e03978e", "8e03978e", "0f3a5c11", ""} {
		r, err := http.NewRequest("POST", srv.URL, strings.NewReader(`{"book":1}`))
		if err != nil {
			panic(err)
		}
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		res := send(r, nil)
		if res.status == http.StatusBadRequest {
			var p tetherhttp.Problem
			if err := json.Unmarshal([]byte(res.body), &p); err != nil {
				panic(err)
			}
			fmt.Println(res.status, p.Type == tetherhttp.ProblemKeyMissing)
			continue
		}
		fmt.Printf("%d %q %s", res.status, res.header.Get("Idempotency-Replayed"), res.body)
	}
	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output:
	// 200 "" "order 1"
	// 200 "true" "order 1"
	// 200 "" "order 2"
	// 400 true
}

// A server that stops when it is told to, and leaves nothing undone.
func ExampleListenAndServe() {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	mux.Handle("/ready", tetherhttp.Readiness(reg))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(context.Context) error {
			fmt.Println("logged")
			return nil
		})
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
		}
	})

	ctx, stop := context.WithCancel(context.Background()) // a signal does the same
	srv := &http.Server{Addr: "127.0.0.1:0", Handler: mux}
	srv.BaseContext = func(l net.Listener) context.Context { // it listens: here is a client, in place of the world
		go func() {
			url := "http://" + l.Addr().String()
			fmt.Print(send(http.NewRequest("GET", url+"/ready", nil)).body)
			send(http.NewRequest("GET", url, nil))
			stop()
		}()
		return context.Background()
	}
	err := tetherhttp.ListenAndServe(ctx, reg, tether.RunConfig{
		Closers: []tether.Closer{
			{Name: "database", Close: func(context.Context) error { fmt.Println("database closed"); return nil }},
		},
	}, srv)
	fmt.Println(err)
	// Output:
	// ready
	// logged
	// database closed
	// <nil>
}

// Counts without Prometheus or OpenTelemetry: the standard
// library's expvar, which shows them at /debug/vars.
func Example_expvar() {
	reg := tether.New(tether.Config{})
	mail := reg.NewPool("mail", tether.PoolConfig{Workers: 2, Queue: 100, Overflow: tether.OverflowReject})
	counts := expvar.Func(func() any {
		all := map[string]any{"all": reg.Stats()}
		for p := range reg.Pools() {
			all["pool "+p.Name()] = p.Stats()
		}
		return all
	})
	// Once in a program: expvar.Publish("tether", counts)

	t, err := mail.Go(context.Background(), "welcome mail", func(context.Context) error { return nil })
	if err != nil {
		panic(err)
	}
	t.Wait(context.Background())

	var shown map[string]tether.PoolStats
	if err := json.Unmarshal([]byte(counts.String()), &shown); err != nil {
		panic(err)
	}
	fmt.Println(shown["all"].Submitted, shown["pool mail"].Succeeded, shown["pool mail"].Workers)
	// Output: 1 1 2
}
