package tetherhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestProbes(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	check := func(h http.Handler, status int, text string) {
		t.Helper()
		for _, method := range []string{"GET", "HEAD"} {
			w := ask(t, h, request(method, "/", ""))
			assert.Equal(t, status, w.Code)
			assert.Equal(t, text, w.Body.String())
			assert.Equal(t, http.Header{"Cache-Control": {"no-store"}, "Content-Type": {"text/plain; charset=utf-8"}}, w.Header())
		}
	}
	check(tetherhttp.Readiness(reg), 200, "ready\n")
	check(tetherhttp.Liveness(), 200, "alive\n")
	require.NoError(t, reg.Shutdown(context.Background()))
	check(tetherhttp.Readiness(reg), 503, "stopping\n")
	check(tetherhttp.Liveness(), 200, "alive\n")
}

// serveChildEnv has this test be the main function of a child process.
const serveChildEnv = "TETHERHTTP_TEST_CHILD"

func TestServeChild(t *testing.T) {
	if os.Getenv(serveChildEnv) == "" {
		t.Skip("for the child process of TestListenAndServe_Signal")
	}
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	ready := tetherhttp.Readiness(reg)
	mux.Handle("/ready", ready)
	answered := make(chan struct{})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("request")
		_, _ = fmt.Scanln() // until the parent lets it
		probe := httptest.NewRecorder()
		ready.ServeHTTP(probe, r)
		fmt.Println("ready:", probe.Code)
		close(answered)
		_, err := tetherhttp.After(r.Context(), "audit", func(ctx context.Context) error {
			fmt.Println("after:", tetherhttp.DeliveryOf(ctx))
			return nil
		})
		fmt.Fprintln(w, "slow", err)
	})
	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (report, error) {
		fmt.Println("report begun")
		<-tether.StoppingFrom(ctx)
		<-answered
		fmt.Println("report done")
		return report{7}, nil
	}, tetherhttp.AsyncConfig{Inline: -1}))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
	srv := &http.Server{
		Addr:    "127.0.0.1:0",
		Handler: mux,
		BaseContext: func(l net.Listener) context.Context {
			fmt.Println(l.Addr())
			return context.Background()
		},
	}
	srv.RegisterOnShutdown(func() { fmt.Println("stop") })
	err := tetherhttp.ListenAndServe(context.Background(), reg, tether.RunConfig{
		StopTimeout: time.Hour,
		Closers:     []tether.Closer{{Name: "closer", Close: func(context.Context) error { fmt.Println("closer"); return nil }}},
	}, srv)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("clean")
	os.Exit(0)
}

// A signal comes while a request is being answered, a task runs that a client was
// promised, and a stream is open: all that was accepted is done.
func TestListenAndServe_Signal(t *testing.T) {
	executable, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a guard against hanging
	defer cancel()
	child := exec.CommandContext(ctx, executable, "-test.run=^TestServeChild$")
	child.Env = append(os.Environ(), serveChildEnv+"=1")
	var stderr bytes.Buffer
	child.Stderr = &stderr
	stdin, err := child.StdinPipe()
	require.NoError(t, err)
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	t.Cleanup(func() { // for a test that has failed half-way
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	lines := bufio.NewScanner(stdout)
	next := func() string {
		t.Helper()
		require.True(t, lines.Scan(), "the child has ended: %s", &stderr)
		return lines.Text()
	}
	url := "http://" + next()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	send := func(method, path string, header ...string) (int, http.Header, string) {
		res, err := client.Do(outbound(ctx, method, url+path, nil, header...))
		if !assert.NoError(t, err) {
			return 0, nil, ""
		}
		return res.StatusCode, res.Header, readAll(t, res)
	}

	status, _, _ := send("GET", "/ready")
	require.Equal(t, 200, status)
	status, header, _ := send("POST", "/reports")
	require.Equal(t, 202, status)
	require.Equal(t, "report begun", next())
	events, slow := make(chan string, 1), make(chan string, 1)
	go func() {
		_, _, text := send("GET", "/slow")
		slow <- text
	}()
	require.Equal(t, "request", next())
	res, err := client.Do(outbound(ctx, "GET", url+header.Get("Location"), nil, "Accept", "text/event-stream"))
	require.NoError(t, err)
	go func() { events <- readAll(t, res) }()

	require.NoError(t, child.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "stop", next())
	assert.Contains(t, <-events, `"state":"running"`, "the stream ends with the server")
	_, err = io.WriteString(stdin, "\n")
	require.NoError(t, err)
	require.Equal(t, "ready: 503", next())
	assert.Equal(t, "slow <nil>\n", <-slow)
	assert.ElementsMatch(t, []string{"after: closed", "report done"}, []string{next(), next()})
	assert.Equal(t, "closer", next())
	assert.Equal(t, "clean", next())
	assert.False(t, lines.Scan())
	assert.NoError(t, child.Wait())
	assert.Empty(t, stderr.String())
}

func TestListenAndServe(t *testing.T) {
	// quiet is a server on a port of its own, and a way to learn it.
	quiet := func(h http.Handler) (*http.Server, chan net.Addr) {
		addr := make(chan net.Addr, 1)
		return &http.Server{
			Addr: "127.0.0.1:0", Handler: h, ErrorLog: log.New(io.Discard, "", 0),
			BaseContext: func(l net.Listener) context.Context { addr <- l.Addr(); return context.Background() },
		}, addr
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		task, err := tetherhttp.After(r.Context(), "task", succeed) // it is attached
		_, _ = fmt.Fprint(w, r.TLS != nil, " ", task, " ", err)
	})
	none := []os.Signal{}
	certified := certificate()
	for name, test := range map[string]struct {
		config *tls.Config
		secure bool
	}{
		"without TLS":                        {nil, false},
		"with a TLS config that has nothing": {&tls.Config{MinVersion: tls.VersionTLS13}, false},
		"with a certificate":                 {&tls.Config{Certificates: []tls.Certificate{certified}}, true},
		"with GetCertificate": {&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &certified, nil
		}}, true},
		"with GetConfigForClient": {&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{certified}}, nil
		}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			srv, addr := quiet(hello)
			srv.TLSConfig = test.config
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				done <- tetherhttp.ListenAndServe(ctx, reg, tether.RunConfig{Signals: none, StopTimeout: time.Minute}, srv)
			}()
			var at net.Addr
			select {
			case at = <-addr:
			case err := <-done:
				require.FailNow(t, "it does not serve", "%v", err)
			}
			url := "http://" + at.String()
			if test.secure {
				url = "https://" + at.String()
			}
			transport := &http.Transport{TLSClientConfig: clientTLS(), DisableKeepAlives: true}
			res, err := (&http.Client{Transport: transport}).Get(url)
			if assert.NoError(t, err) {
				assert.Equal(t, fmt.Sprint(test.secure, " task (held) <nil>"), readAll(t, res))
			}
			cancel()
			assert.NoError(t, <-done)
			assert.EqualValues(t, 1, reg.Stats().Succeeded)
			assert.False(t, reg.Ready())
		})
	}
	bubble(t, "with a listener of the caller's", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		n := newMemNet(0)
		srv := n.server(hello)
		tetherhttp.Attach(srv, reg)
		public := tetherhttp.Server("public", srv)
		public.Serve = func() error { return srv.Serve(n) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- reg.Run(ctx, tether.RunConfig{Signals: none, Servers: []tether.Server{public}}) }()
		synctest.Wait()
		res, err := clientOf(t, n, 1).Do(outbound(t.Context(), "GET", "/", nil))
		require.NoError(t, err)
		assert.Equal(t, "false task (held) <nil>", readAll(t, res))
		cancel()
		assert.NoError(t, <-done)
	})
	t.Run("a server that has failed", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = taken.Close() }()
		srv, _ := quiet(hello)
		srv.Addr = taken.Addr().String()
		task := start(t, reg, func(ctx context.Context) error { <-tether.StoppingFrom(ctx); return nil })
		err = tetherhttp.ListenAndServe(t.Context(), reg, tether.RunConfig{Signals: none}, srv)
		assert.ErrorContains(t, err, "address already in use")
		assert.Equal(t, tether.Succeeded, task.State())
	})
	t.Run("a server is attached once", func(t *testing.T) {
		serve := func(srv *http.Server, reg *tether.Registry) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.NoError(t, tetherhttp.ListenAndServe(ctx, reg, tether.RunConfig{Signals: none}, srv))
		}
		reg := newRegistry(t, tether.Config{})
		srv, _ := quiet(hello)
		tetherhttp.Attach(srv, reg)
		for range 3 {
			serve(srv, reg)
			assert.Equal(t, 1, tetherhttp.Attachments(srv.Handler))
		}
		serve(srv, newRegistry(t, tether.Config{})) // to that one it was not
		assert.Equal(t, 2, tetherhttp.Attachments(srv.Handler))
	})
}
