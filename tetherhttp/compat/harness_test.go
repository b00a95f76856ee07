package compat_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	goleak.VerifyTestMain(m)
}

// hang is the time after which a test is said to hang. Nothing waits for it otherwise.
const hang = time.Minute

// conform holds a server, whose routes are those of [site.routes], to what tetherhttp
// promises. start serves it; if its framework recovers from panics, recovers says so.
func conform(t *testing.T, recovers bool, start func(*site)) {
	for _, req := range []struct{ name, method, path, header string }{
		{"small", "GET", "/small", ""},
		{"head", "HEAD", "/small", ""},
		{"large", "GET", "/large", ""},
		{"flushed", "GET", "/flush", ""},
		{"no content", "GET", "/empty", ""},
		{"an error that the handler writes", "GET", "/error", ""},
		{"small and compressed", "GET", "/small", "Accept-Encoding: gzip\r\n"},
		{"large and compressed", "GET", "/large", "Accept-Encoding: gzip\r\n"},
		{"flushed and compressed", "GET", "/flush", "Accept-Encoding: gzip\r\n"},
		{"not found", "GET", "/nowhere", ""},
	} {
		t.Run(req.name, func(t *testing.T) {
			want := open(t, variant{bare: true}, start).twice(req.method, req.path, req.header)
			require.Contains(t, want, "HTTP/1.1 ")
			for _, v := range []variant{{}, {opts: []tetherhttp.ReleaserConfig{anyStatus}}} {
				s := open(t, v, start)
				sameBytes(t, want, s.twice(req.method, req.path, req.header))
				if req.path == "/nowhere" {
					require.Empty(t, s.ran)
					continue
				}
				require.Equal(t, s.deliveries, s.ran)
				require.Empty(t, s.early)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		bare := open(t, variant{bare: true}, start).twice("GET", "/panic", "")
		s := open(t, variant{}, start)
		sameBytes(t, bare, s.twice("GET", "/panic", ""))
		require.Empty(t, s.ran, "tasks of a handler that has panicked")
		require.NotEmpty(t, s.dropped)
		for _, err := range s.dropped {
			require.ErrorIs(t, err, tetherhttp.ErrDiscarded)
		}
		if !recovers {
			return
		}
		require.Contains(t, bare, " 500 ")
		s = open(t, variant{unguarded: true}, start)
		sameBytes(t, bare, s.twice("GET", "/panic", ""))
		require.Len(t, s.ran, 2, "without the guard, a recovered panic is a response like any other")
	})
	t.Run("http2", func(t *testing.T) {
		for _, path := range []string{"/small", "/large", "/flush", "/empty", "/error"} {
			want := open(t, variant{bare: true}, start).http2(path)
			s := open(t, variant{}, start)
			sameBytes(t, want, s.http2(path))
			require.Equal(t, []tetherhttp.Delivery{s.delivery2}, s.ran, path)
		}
		s := open(t, variant{}, start)
		s.http2("/panic")
		require.Empty(t, s.ran, "tasks of a handler that has panicked")
		require.Len(t, s.dropped, 1)
	})
}

// sameBytes says where two responses differ. They are long.
func sameBytes(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	at := 0
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	cut := func(s string) string { return s[max(at-60, 0):min(at+60, len(s))] }
	t.Fatalf("the responses differ at byte %d of %d:\nwithout tetherhttp: %q\nwith it: %q", at, len(want), cut(want), cut(got))
}

// anyStatus is OnlyIf where it makes no difference but that the writer is wrapped.
var anyStatus = tetherhttp.ReleaserConfig{OnlyIf: func(int) bool { return true }}

// variant is what differs from one site of a framework to the other.
type variant struct {
	bare      bool // serve without tether: what the others are compared with
	unguarded bool // leave the guard inside the recoverer out
	opts      []tetherhttp.ReleaserConfig
}

// site is a server under test and its one client.
type site struct {
	variant
	t *testing.T

	// For start to change:
	decoded    bool                  // compare the bodies without their chunks, whose sizes are a matter of timing
	http1      bool                  // the server takes HTTP/2 without TLS by other means than its own
	deliveries []tetherhttp.Delivery // what the tasks of [site.twice] are told
	delivery2  tetherhttp.Delivery   // and that of [site.http2]
	started    func(context.Context) // is called by each task with the handler's context; may be nil

	reg      *tether.Registry
	bg       *tetherhttp.Releaser
	listener *wire

	mu       sync.Mutex
	tasks    []*tether.Task        // of the round; guarded by mu
	received chan struct{}         // closed when the client has all of the round's response
	ran      []tetherhttp.Delivery // one for each task that has started; guarded by mu until it has ended
	dropped  []error               // one for each task that never will
	early    []string              // tasks that had started when a write of the server ended; guarded by mu
}

// open serves the site until the test ends.
func open(t *testing.T, v variant, start func(*site)) *site {
	s := &site{
		variant: v, t: t,
		deliveries: []tetherhttp.Delivery{tetherhttp.DeliverySent, tetherhttp.DeliveryClosed}, delivery2: tetherhttp.DeliveryFrame,
	}
	s.reg = newRegistry(t, tether.Config{Observer: &roll{s: s}})
	s.listener = listen(t)
	s.listener.written = s.look
	start(s)
	return s
}

// attach is what the recipes do with their server.
func (s *site) attach(srv *http.Server) {
	if !s.bare {
		s.bg = tetherhttp.Attach(srv, s.reg, s.opts...)
	}
}

// guard is the middleware mounted a second time, inside the recoverer.
func (s *site) guard(next http.Handler) http.Handler {
	if s.bare || s.unguarded {
		return next
	}
	return s.bg.Handler(next)
}

func (s *site) serve(srv *http.Server) {
	s.configure(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.listener) }()
	s.t.Cleanup(func() {
		assert.NoError(s.t, srv.Close())
		assert.ErrorIs(s.t, <-done, http.ErrServerClosed)
	})
}

func (s *site) configure(srv *http.Server) {
	srv.ErrorLog = log.New(io.Discard, "", 0)
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(!s.http1)
}

// after adds a task to the request. The task waits until the client has all of the
// response: if it held that back, there would be a deadlock.
func (s *site) after(ctx context.Context) {
	if s.bare {
		return
	}
	request := ctx
	_, err := tetherhttp.After(ctx, "after", func(ctx context.Context) error {
		if s.started != nil {
			s.started(request)
		}
		s.mu.Lock()
		s.ran = append(s.ran, tetherhttp.DeliveryOf(ctx))
		received := s.received
		s.mu.Unlock()
		select {
		case <-received:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, tether.Timeout(hang))
	assert.NoError(s.t, err)
}

// routes is the site in the manner of net/http, for routers that take handlers.
func (s *site) routes(handle func(path string, h http.HandlerFunc)) {
	handle("/small", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		_, _ = io.WriteString(w, "hello\n")
	})
	handle("/large", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		w.Header().Set("Content-Type", "text/plain")
		for range 8 {
			_, _ = io.WriteString(w, kilobytes)
		}
	})
	handle("/flush", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		_ = http.NewResponseController(w).Flush() // http.TimeoutHandler cannot
		s.after(r.Context())
		_, _ = io.WriteString(w, "two\n")
	})
	handle("/empty", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		w.WriteHeader(http.StatusNoContent)
	})
	handle("/error", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		http.Error(w, "broken", http.StatusInternalServerError)
	})
	handle("/panic", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		panic(errTest)
	})
}

// errTest is what the handlers of /panic panic with.
var errTest = errors.New("test error")

// kilobytes is 4 KiB of text.
var kilobytes = strings.Repeat("0123456789abcde\n", 256)

// twice makes two requests on one connection, of which the second asks for its end, and
// returns the bytes of the answers. It waits for the tasks of each.
func (s *site) twice(method, path, header string) string {
	c := dial(s.t, s.listener.Addr())
	defer c.Close()
	first := s.round(func() string {
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: test\r\n%s\r\n", method, path, header)
		var raw bytes.Buffer
		decoded, err := answer(io.TeeReader(c, &raw), method)
		if s.decoded && err == nil {
			return decoded
		}
		return raw.String()
	})
	return withoutDate(first + s.round(func() string {
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n%s\r\n", method, path, header)
		if s.decoded {
			decoded, err := answer(c, method)
			if err != nil {
				return err.Error()
			}
			return decoded
		}
		raw, _ := io.ReadAll(c) // an error if the panic before has ended the connection
		return string(raw)
	}))
}

// http2 makes one request of HTTP/2 and returns what the answer says.
func (s *site) http2(path string) string {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	return s.round(func() string {
		res, err := (&http.Client{Transport: transport, Timeout: hang}).Get("http://" + s.listener.Addr().String() + path)
		if err != nil {
			return "no response"
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "no body"
		}
		require.Equal(s.t, 2, res.ProtoMajor)
		res.Header.Del("Date")
		return fmt.Sprint(res.Status, res.Header, len(body), string(body))
	})
}

// round has a request made, and waits for its tasks.
func (s *site) round(request func() string) string {
	s.mu.Lock()
	s.tasks, s.received = nil, make(chan struct{})
	s.mu.Unlock()
	answer := request()
	close(s.received)
	s.mu.Lock()
	tasks := s.tasks
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	for _, task := range tasks {
		if err := task.Wait(ctx); err != nil {
			require.Equal(s.t, tether.Dropped, task.State(), "%v", err)
			s.dropped = append(s.dropped, err)
		}
	}
	return answer
}

// look is called when a write of the server has ended.
func (s *site) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.tasks {
		if state := task.State(); state != tether.Held {
			s.early = append(s.early, state.String())
		}
	}
}

// roll notes the tasks of the site's round.
type roll struct {
	tether.NopObserver
	s *site
}

func (r *roll) TaskSubmitted(_ context.Context, t *tether.Task) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.tasks = append(r.s.tasks, t)
}

// newRegistry returns a registry that drains at the end of the test.
func newRegistry(t testing.TB, cfg tether.Config) *tether.Registry {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	reg := tether.New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		defer cancel()
		assert.NoError(t, reg.Shutdown(ctx), "drain at the end of the test")
	})
	return reg
}

// wire is a listener that tells when a write of its connections has ended.
type wire struct {
	net.Listener
	written func() // may be nil
}

func listen(t testing.TB) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return &wire{Listener: l}
}

func (l *wire) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || l.written == nil {
		return c, err
	}
	return &wireConn{Conn: c, written: l.written}, nil
}

type wireConn struct {
	net.Conn
	written func()
}

func (c *wireConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written()
	return n, err
}

func dial(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(hang)))
	return c
}

// answer reads a response of HTTP/1 and returns its status, header and body.
func answer(r io.Reader, method string) (string, error) {
	res, err := http.ReadResponse(bufio.NewReader(r), &http.Request{Method: method})
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(res.Proto + " " + res.Status + "\r\n")
	if err := res.Header.Write(&b); err != nil {
		return "", err
	}
	b.WriteString(strconv.Itoa(len(body)) + "\r\n")
	b.Write(body)
	return b.String(), nil
}

// withoutDate returns a response, or several, without the one header that differs
// from one to the next.
func withoutDate(raw string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(raw, "\r\nDate: ")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, rest, _ := strings.Cut(after, "\r\n")
		raw = "\r\n" + rest
	}
}

func listenLocal() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return l
}

// post is the rest of an example: the server serves one request and stops, and the
// tasks end.
func post(srv *http.Server, reg *tether.Registry, path string) {
	l := listenLocal()
	postTo(l.Addr(), func() error { return srv.Serve(l) }, srv.Shutdown, reg, path)
}

func postTo(addr net.Addr, serve func() error, stop func(context.Context) error, reg *tether.Registry, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- serve() }()
	client := &http.Client{Transport: &http.Transport{}}
	res, err := client.Post("http://"+addr.String()+path, "text/plain", nil)
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	client.CloseIdleConnections()
	if err := errors.Join(stop(ctx), reg.Shutdown(ctx)); err != nil {
		panic(err)
	}
	<-served
	fmt.Println("answered:", res.Status)
}
