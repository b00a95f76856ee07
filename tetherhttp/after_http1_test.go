package tetherhttp_test

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// situation is a request and the handler that answers it.
type situation struct {
	name    string
	request string // all that the client sends
	expect  string // the body it sends when it is told to continue
	handler http.HandlerFunc
	within  func(http.Handler) http.Handler // middleware between ours and the handler

	delivery tetherhttp.Delivery // what the task must be told
	dropped  bool                // the task must not run

	// unlike says why OnlyIf, which wraps the writer, makes a difference.
	unlike string
	// written says why a task that starts at the handler's return is not early: all
	// that the client gets is on the wire by then.
	written string
}

const (
	get   = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
	head  = "HEAD / HTTP/1.1\r\nHost: test\r\n\r\n"
	large = 1<<20 + 1000 // so that the last piece of it stays in a buffer
)

func post(n int) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", n, text(n))
}

// text returns n bytes that are not all the same.
func text(n int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz\n"
	return strings.Repeat(digits, n/len(digits)+1)[:n]
}

func writes(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writePieces(w, n) }
}

// writePieces writes n bytes as an encoder would, not all at once.
func writePieces(w io.Writer, n int) {
	for s := text(n); len(s) > 0; {
		k := min(len(s), 3000)
		_, _ = io.WriteString(w, s[:k])
		s = s[k:]
	}
}

func situations() []situation {
	modified := time.Date(1999, time.May, 1, 0, 0, 0, 0, time.UTC)
	return []situation{
		{name: "empty", request: get, handler: func(http.ResponseWriter, *http.Request) {}, delivery: tetherhttp.DeliverySent},
		{name: "small", request: get, handler: writes(5), delivery: tetherhttp.DeliverySent},
		{name: "2048 bytes", request: get, handler: writes(2048), delivery: tetherhttp.DeliverySent},
		{name: "2049 bytes", request: get, handler: writes(2049), delivery: tetherhttp.DeliverySent},
		{name: "content length", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			writePieces(w, 100)
		}, delivery: tetherhttp.DeliverySent},
		{name: "1 MB chunked", request: get, handler: writes(large), delivery: tetherhttp.DeliverySent},
		{name: "1 MB with a content length", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(large))
			writePieces(w, large)
		}, delivery: tetherhttp.DeliverySent},
		{name: "1 MB by ReadFrom", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader(text(large))})
		}, delivery: tetherhttp.DeliverySent},
		{name: "an error of the handler", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no", http.StatusInternalServerError)
		}, delivery: tetherhttp.DeliverySent},
		{name: "streamed with Flush", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				writePieces(w, 100)
				w.(http.Flusher).Flush()
			}
		}, delivery: tetherhttp.DeliverySent},
		{name: "server-sent events", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		}, delivery: tetherhttp.DeliverySent},
		{name: "HEAD", request: head, handler: writes(5), delivery: tetherhttp.DeliverySent},
		{name: "HEAD of 1 MB", request: head, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(large))
		}, delivery: tetherhttp.DeliverySent},
		{name: "204", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
		}, delivery: tetherhttp.DeliverySent},
		{name: "304", request: "GET / HTTP/1.1\r\nHost: test\r\nIf-None-Match: \"tag\"\r\n\r\n", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			http.ServeContent(w, r, "a.txt", modified, strings.NewReader(text(5000)))
		}, delivery: tetherhttp.DeliverySent},
		{name: "ServeContent", request: get, handler: func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "a.txt", modified, strings.NewReader(text(1000)))
		}, delivery: tetherhttp.DeliverySent},
		{name: "206", request: "GET / HTTP/1.1\r\nHost: test\r\nRange: bytes=100-299\r\n\r\n", handler: func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "a.txt", modified, strings.NewReader(text(5000)))
		}, delivery: tetherhttp.DeliverySent},
		{name: "declared trailers", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Checksum")
			writePieces(w, 100)
			w.Header().Set("Checksum", "abc")
		}, delivery: tetherhttp.DeliverySent},
		{name: "trailers by prefix", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, 3000)
			w.Header().Set(http.TrailerPrefix+"Checksum", "abc")
		}, delivery: tetherhttp.DeliverySent},
		{name: "the client closes", request: "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", handler: writes(100), delivery: tetherhttp.DeliveryClosed},
		{name: "the handler closes", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			writePieces(w, 100)
		}, delivery: tetherhttp.DeliveryClosed},
		{name: "less than the content length", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			writePieces(w, 50)
		}, delivery: tetherhttp.DeliveryClosed},
		{name: "HTTP/1.0", request: "GET / HTTP/1.0\r\n\r\n", handler: writes(100), delivery: tetherhttp.DeliveryClosed},
		{name: "HTTP/1.0 of 1 MB", request: "GET / HTTP/1.0\r\n\r\n", handler: writes(large), delivery: tetherhttp.DeliveryClosed},
		{name: "HTTP/1.0 kept alive", request: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			writePieces(w, 100)
		}, delivery: tetherhttp.DeliverySent},
		{name: "until the connection ends", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Transfer-Encoding", "identity")
			writePieces(w, 5000)
		}, delivery: tetherhttp.DeliveryClosed},
		{name: "read body", request: post(5000), handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}, delivery: tetherhttp.DeliverySent},
		{name: "unread body", request: post(5000), handler: writes(100), delivery: tetherhttp.DeliverySent},
		{name: "unread body of 1 MB", request: post(1 << 20), handler: writes(100), delivery: tetherhttp.DeliveryClosed},
		{name: "unread chunked body of 1 MB", request: "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n" + text(1<<20) + "\r\n0\r\n\r\n", handler: writes(100), delivery: tetherhttp.DeliveryClosed},
		{name: "told to continue", request: "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500\r\nExpect: 100-continue\r\n\r\n", expect: text(500), handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}, delivery: tetherhttp.DeliverySent},
		{name: "not told to continue", request: "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500\r\nExpect: 100-continue\r\n\r\n", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
		}, delivery: tetherhttp.DeliveryTimeout}, // the server waits for the body all the same
		{name: "too large a body", request: post(10_000), handler: func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100)); err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			}
		}, delivery: tetherhttp.DeliveryClosed, unlike: "MaxBytesReader has the server's own writer close the connection, by a method that is not exported"},
		{name: "within its time limit", request: get, handler: writes(3000), within: func(h http.Handler) http.Handler {
			return http.TimeoutHandler(h, time.Second, "late")
		}, delivery: tetherhttp.DeliverySent},
		{name: "beyond its time limit", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(3 * time.Hour) // until long after its 503
			writePieces(w, 100)
		}, within: func(h http.Handler) http.Handler {
			return http.TimeoutHandler(h, time.Second, "late")
		}, delivery: tetherhttp.DeliverySent},
		{name: "gzip", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			writePieces(z, large)
			_ = z.Close()
		}, delivery: tetherhttp.DeliverySent},
		{name: "early hints", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			writePieces(w, 100)
		}, delivery: tetherhttp.DeliverySent},
		{name: "full duplex", request: post(10_000), handler: func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			for p := make([]byte, 1000); ; {
				n, err := r.Body.Read(p)
				_, _ = w.Write(p[:n])
				_ = http.NewResponseController(w).Flush()
				if err != nil {
					return
				}
			}
		}, delivery: tetherhttp.DeliverySent},
		{name: "late header", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, 100)
			w.Header().Set("Late", "yes")
		}, delivery: tetherhttp.DeliverySent},
		{name: "two statuses", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			w.WriteHeader(http.StatusTeapot)
		}, delivery: tetherhttp.DeliverySent},
		{name: "hijacked", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			_ = rw.Flush()
			time.Sleep(time.Second) // a task that starts at the hijacking is early
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}, delivery: tetherhttp.DeliveryHijacked, written: "the handler itself has written all of it"},
		{name: "panic", request: get, handler: func(http.ResponseWriter, *http.Request) {
			panic(errTest)
		}, dropped: true},
		{name: "panic in the middle", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, 10_000)
			panic(errTest)
		}, dropped: true},
		{name: "aborted", request: get, handler: func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, 10_000)
			panic(http.ErrAbortHandler)
		}, dropped: true},
		{name: "panic in a time limit", request: get, handler: func(http.ResponseWriter, *http.Request) {
			panic(errTest)
		}, within: func(h http.Handler) http.Handler {
			return http.TimeoutHandler(h, time.Second, "late")
		}, dropped: true},
	}
}

// how says what a situation's server is given.
type how int

const (
	bare     how = iota // the handler alone
	attached            // Attach
	wrapped             // Attach, with OnlyIf
	atReturn            // the middleware alone, without hooks: tasks start when the handler returns
)

// exchange is what came of a situation.
type exchange struct {
	raw        string // all that the client has read
	parsed     string // what it has made of the first response
	connection string // whether the client can use it again
	writer     string // the ResponseWriter's type, as the handler sees it

	task     *tether.Task
	started  bool
	delivery tetherhttp.Delivery
	early    bool  // the client had not read all of the response, and could not
	onWire   int64 // what the server had written when the task started
	total    int64 // and in the end
}

// run makes the request in a bubble. The server's writes take 15 ms each. The task
// waits until the client has the whole response, and the connection's goroutine
// waits for the task, so that a task that has started too early waits in vain.
func (s situation) run(t *testing.T, secure bool, with how) (e exchange) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet(15 * time.Millisecond)
		complete := make(chan struct{})
		var mu sync.Mutex // guards e
		finished := func() {
			mu.Lock()
			task := e.task
			mu.Unlock()
			if task != nil {
				<-task.Done()
			}
		}

		var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if with != bare {
				task, err := tetherhttp.After(r.Context(), "look", func(ctx context.Context) error {
					mu.Lock()
					e.started, e.delivery, e.onWire = true, tetherhttp.DeliveryOf(ctx), network.written.Load()
					mu.Unlock()
					select {
					case <-complete:
					case <-time.After(time.Hour):
						mu.Lock()
						e.early = true
						mu.Unlock()
					}
					return nil
				})
				assert.NoError(t, err)
				mu.Lock()
				e.task = task
				mu.Unlock()
			}
			s.handler(w, r)
		})
		if s.within != nil {
			handler = s.within(handler)
		}
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/again" {
				return
			}
			mu.Lock()
			e.writer = fmt.Sprintf("%T", w)
			mu.Unlock()
			handler.ServeHTTP(w, r)
		}))
		switch with {
		case attached, wrapped:
			srv.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateIdle || state == http.StateClosed {
					finished()
				}
			}
			var opts []tetherhttp.ReleaserConfig
			if with == wrapped {
				opts = append(opts, tetherhttp.ReleaserConfig{OnlyIf: func(int) bool { return true }})
			}
			tetherhttp.Attach(srv, newRegistry(t, tether.Config{}), opts...)
		case atReturn:
			inner := tetherhttp.NewReleaser(newRegistry(t, tether.Config{})).Handler(srv.Handler)
			srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer finished()
				inner.ServeHTTP(w, r)
			})
		}
		network.serve(t, srv, secure)

		c := network.rawClient(t, secure)
		method, _, _ := strings.Cut(s.request, " ")
		go c.send(s.request)
		parsed := c.response(method, func() { go c.send(s.expect) })
		close(complete)
		time.Sleep(time.Minute) // until all is on the wire that will ever be
		mu.Lock()
		e.parsed, e.total = parsed, network.written.Load()
		mu.Unlock()

		again := make(chan string, 1)
		go c.send("GET /again HTTP/1.1\r\nHost: test\r\n\r\n")
		go func() { again <- c.response(http.MethodGet, nil) }()
		select {
		case answer := <-again:
			e.connection = answer
		case <-time.After(time.Minute):
			e.connection = "silent"
			c.close()
			<-again
		}
		e.raw = c.all()
		c.close()
	})
	return e
}

// TestHTTP1 makes each kind of request, in clear text and with TLS: to the handler
// alone; with Attach, where the task must find all of the response with the client, and
// no other observer must see a difference; the same with OnlyIf; and with a middleware that
// starts tasks when the handler returns. The last one is wrong, and must be found out.
func TestHTTP1(t *testing.T) {
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			for _, secure := range []bool{false, true} {
				name := "plain"
				if secure {
					name = "TLS"
				}
				t.Run(name, func(t *testing.T) {
					want, got, control := s.run(t, secure, bare), s.run(t, secure, attached), s.run(t, secure, atReturn)

					require.NotEmpty(t, want.parsed)
					assert.True(t, want.raw == got.raw, "the bytes differ:\n%.500q\n%.500q", want.raw, got.raw)
					assert.Equal(t, want.parsed, got.parsed, "the response")
					assert.Equal(t, want.connection, got.connection, "the reuse of the connection")
					assert.Equal(t, want.writer, got.writer, "the type of the ResponseWriter")
					filtered := s.run(t, secure, wrapped)
					if s.unlike == "" {
						assert.True(t, want.raw == filtered.raw, "the bytes differ with OnlyIf:\n%.500q\n%.500q", want.raw, filtered.raw)
						assert.Equal(t, want.connection, filtered.connection, "the reuse of the connection with OnlyIf")
						assert.Equal(t, got.delivery, filtered.delivery, "with OnlyIf")
					}
					assert.False(t, filtered.early)
					assert.Equal(t, want.parsed, control.parsed, "the control's response")

					if s.dropped {
						assert.Equal(t, tether.Dropped, got.task.State())
						require.ErrorIs(t, got.task.Err(), tetherhttp.ErrDiscarded)
						assert.False(t, got.started || control.started)
						return
					}
					require.True(t, got.started, "the task has not run")
					assert.Equal(t, tether.Succeeded, got.task.State())
					assert.Equal(t, s.delivery, got.delivery)
					assert.False(t, got.early, "the task has started before the client could have the response")
					assert.Equal(t, got.total, got.onWire, "bytes on the wire when the task has started")

					require.True(t, control.started)
					assert.Equal(t, tetherhttp.DeliveryUnknown, control.delivery)
					assert.Equal(t, s.written == "", control.early, "whether the control is found to be early")
					assert.Equal(t, s.written == "", control.onWire < control.total, "whether the control is found to write later")
				})
			}
		})
	}
}

// TestHTTP1File looks at a response that the server leaves to the kernel: that it
// still does, and that the task sees all of it.
func TestHTTP1File(t *testing.T) {
	content := text(4 << 20)
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	sum := sha256.Sum256([]byte(content))

	for name, opts := range map[string][]tetherhttp.ReleaserConfig{
		"unwrapped": nil,
		"wrapped":   {tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool { return status == http.StatusOK }}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			complete := make(chan struct{})
			var task *tether.Task
			var early, received atomic.Bool
			srv := &http.Server{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					var err error
					task, err = tetherhttp.After(r.Context(), "look", func(ctx context.Context) error {
						assert.Equal(t, tetherhttp.DeliverySent, tetherhttp.DeliveryOf(ctx))
						select {
						case <-complete:
						case <-time.After(time.Minute): // a guard against hanging: the connection waits for us
							early.Store(true)
						}
						return nil
					})
					assert.NoError(t, err)
					f, err := os.Open(path)
					if !assert.NoError(t, err) {
						return
					}
					defer func() { _ = f.Close() }()
					http.ServeContent(w, r, "file.txt", time.Time{}, f)
				}),
				ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateIdle {
						<-task.Done()
					}
				},
			}
			tetherhttp.Attach(srv, reg, opts...)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() {
				done <- srv.Serve(acceptor{l, func(c net.Conn) net.Conn { return &fileConn{c.(*net.TCPConn), &received} }})
			}()

			res, err := http.Get("http://" + l.Addr().String())
			require.NoError(t, err)
			h := sha256.New()
			n, err := io.Copy(h, res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			close(complete)
			assert.EqualValues(t, len(content), n)
			assert.Equal(t, sum[:], h.Sum(nil))
			require.NoError(t, task.Wait(context.Background()))
			assert.False(t, early.Load(), "the task has started before the client could have the response")
			assert.True(t, received.Load(), "the connection was not given the file to send")

			http.DefaultClient.CloseIdleConnections()
			require.NoError(t, srv.Close())
			require.ErrorIs(t, <-done, http.ErrServerClosed)
		})
	}
}

// fileConn notes whether it was given a file to send.
type fileConn struct {
	*net.TCPConn
	file *atomic.Bool
}

func (c *fileConn) ReadFrom(r io.Reader) (int64, error) {
	inner := r
	if l, ok := r.(*io.LimitedReader); ok {
		inner = l.R
	}
	if _, ok := inner.(*os.File); ok {
		c.file.Store(true)
	}
	return c.TCPConn.ReadFrom(r)
}

// acceptor is a listener that wraps what it accepts.
type acceptor struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (a acceptor) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return a.wrap(c), nil
}

// Requests that the client has sent before it has read the responses: each task
// belongs to its own.
func TestHTTP1Pipelining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 200
		network := newMemNet(15 * time.Millisecond)
		type start struct {
			request  int
			onWire   int64
			delivery tetherhttp.Delivery
		}
		starts := make(chan start, requests)
		var tasks sync.Map
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			i, _ := strconv.Atoi(r.URL.Query().Get("i"))
			task, err := tetherhttp.After(r.Context(), "note", func(ctx context.Context) error {
				starts <- start{i, network.written.Load(), tetherhttp.DeliveryOf(ctx)}
				return nil
			})
			assert.NoError(t, err)
			tasks.Store(task, nil)
			writePieces(w, 100)
		}))
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateIdle { // the next request must not write while this one's task looks
				tasks.Range(func(task, _ any) bool { <-task.(*tether.Task).Done(); return true })
			}
		}
		tetherhttp.Attach(srv, newRegistry(t, tether.Config{}))
		network.serve(t, srv, false)

		c := network.rawClient(t, false)
		go func() {
			var all strings.Builder
			for i := range requests {
				fmt.Fprintf(&all, "GET /?i=%d HTTP/1.1\r\nHost: test\r\n\r\n", i)
			}
			c.send(all.String())
		}()
		size := 0
		for i := range requests {
			require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
			s := <-starts
			if i == 0 {
				size = int(s.onWire)
			}
			require.Equal(t, start{i, int64(size * (i + 1)), tetherhttp.DeliverySent}, s)
		}
		c.close()
	})
}
