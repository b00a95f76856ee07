package tetherhttp_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// streamCase is a request on HTTP/2 and the handler that answers it.
type streamCase struct {
	name         string
	method, body string
	header       http.Header
	handler      http.HandlerFunc
	within       func(http.Handler) http.Handler
	dropped      bool

	// sent says why a task that starts at the handler's return is not early: the client
	// has all of the response by then.
	sent string
}

func streamCases() []streamCase {
	limit := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Second, "late") }
	return []streamCase{
		{name: "empty", handler: func(http.ResponseWriter, *http.Request) {}},
		{name: "small", handler: writes(5)},
		{name: "4096 bytes", handler: writes(4096)},
		{name: "1 MB", handler: writes(large)},
		{name: "1 MB with a content length", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(large))
			writePieces(w, large)
		}},
		{name: "an error of the handler", handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) }},
		{name: "streamed with Flush", handler: func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				writePieces(w, 100)
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
			}
		}},
		{name: "HEAD", method: http.MethodHead, handler: writes(5)},
		{name: "HEAD, with the header flushed", method: http.MethodHead, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			time.Sleep(time.Second)
		}, sent: "a response to HEAD ends with its header"},
		{name: "204", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		{name: "304", header: http.Header{"If-None-Match": {`"tag"`}}, handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			http.ServeContent(w, r, "a.txt", time.Time{}, strings.NewReader(text(5000)))
		}},
		{name: "206", header: http.Header{"Range": {"bytes=100-299"}}, handler: func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "a.txt", time.Time{}, strings.NewReader(text(5000)))
		}},
		{name: "trailers", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Checksum")
			writePieces(w, 100)
			w.Header().Set("Checksum", "abc")
			w.Header().Set(http.TrailerPrefix+"Other", "def")
		}},
		{name: "early hints", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			writePieces(w, 100)
		}},
		{name: "read body", method: http.MethodPost, body: text(100_000), handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}},
		{name: "unread body", method: http.MethodPost, body: text(100_000), handler: writes(100)},
		{name: "late header", handler: func(w http.ResponseWriter, _ *http.Request) {
			writePieces(w, 100)
			w.Header().Set("Late", "yes")
		}},
		{name: "within its time limit", handler: writes(3000), within: limit},
		{name: "beyond its time limit", handler: func(http.ResponseWriter, *http.Request) { time.Sleep(time.Hour) }, within: limit},
		{name: "panic", handler: func(http.ResponseWriter, *http.Request) { panic(errTest) }, dropped: true},
		{name: "panic in the middle", handler: func(w http.ResponseWriter, _ *http.Request) { writePieces(w, 10_000); panic(errTest) }, dropped: true},
		{name: "aborted", handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, dropped: true},
	}
}

// conversation is what came of a stream.
type conversation struct {
	response string // as the client has it
	writer   string // the ResponseWriter's type, as the handler sees it

	task     *tether.Task
	started  bool
	delivery tetherhttp.Delivery
	early    bool // the client did not have the whole response when the task started
}

// opaque hides that the writer is HTTP/2's: what is left is to start tasks at the
// handler's return.
type opaque struct{ http.ResponseWriter }

func (w opaque) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// run makes the request in a bubble, where the server's writes take long enough to
// tell what comes after them, and the frames' buffer is written within a moment.
func (s streamCase) run(t *testing.T, secure bool, with how) (c conversation) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet(100 * time.Microsecond)
		protos := protocols("h2c")
		if secure {
			protos = protocols("h2")
		}
		var mu sync.Mutex // guards c and complete
		complete := false
		var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if with != bare {
				task, err := tetherhttp.After(r.Context(), "look", func(ctx context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					c.started, c.delivery, c.early = true, tetherhttp.DeliveryOf(ctx), !complete
					return nil
				})
				assert.NoError(t, err)
				mu.Lock()
				c.task = task
				mu.Unlock()
			}
			s.handler(w, r)
		})
		if s.within != nil {
			handler = s.within(handler)
		}
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			c.writer = fmt.Sprintf("%T", w)
			mu.Unlock()
			handler.ServeHTTP(w, r)
		}))
		switch with {
		case attached:
			tetherhttp.Attach(srv, newRegistry(t, tether.Config{}))
		case atReturn:
			inner := tetherhttp.NewReleaser(newRegistry(t, tether.Config{})).Handler(srv.Handler)
			srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(opaque{w}, r) })
		}
		srv.Protocols = protos
		network.serve(t, srv, secure)

		req, err := http.NewRequest(s.method, network.url(secure), strings.NewReader(s.body))
		require.NoError(t, err)
		if s.body == "" {
			req.Body = nil
		}
		for k, v := range s.header {
			req.Header[k] = v
		}
		response := ""
		res, err := network.client(t, protos).Do(req)
		if err != nil {
			response = err.Error()
		} else {
			assert.Equal(t, 2, res.ProtoMajor)
			h := sha256.New()
			n, err := io.Copy(h, res.Body)
			_ = res.Body.Close()
			response = fmt.Sprintf("%s %v, %d bytes, %x, %v, trailer %v", res.Status, res.Header, n, h.Sum(nil)[:4], err, res.Trailer)
		}
		mu.Lock()
		c.response, complete = response, true
		mu.Unlock()
		time.Sleep(time.Minute)
	})
	return c
}

// TestHTTP2 is TestHTTP1 for HTTP/2. Here no task can hold the connection's goroutine
// up; but what has come in the time that stands still is known.
func TestHTTP2(t *testing.T) {
	for _, s := range streamCases() {
		t.Run(s.name, func(t *testing.T) {
			for _, secure := range []bool{false, true} {
				name := "unencrypted"
				if secure {
					name = "TLS"
				}
				t.Run(name, func(t *testing.T) {
					want, got, control := s.run(t, secure, bare), s.run(t, secure, attached), s.run(t, secure, atReturn)
					assert.Equal(t, want.response, got.response)
					assert.Equal(t, want.writer, got.writer, "the type of the ResponseWriter")
					if s.dropped {
						assert.Equal(t, tether.Dropped, got.task.State())
						require.ErrorIs(t, got.task.Err(), tetherhttp.ErrDiscarded)
						assert.False(t, got.started || control.started)
						return
					}
					require.True(t, got.started, "the task has not run")
					assert.Equal(t, tether.Succeeded, got.task.State())
					assert.Equal(t, tetherhttp.DeliveryFrame, got.delivery)
					assert.False(t, got.early, "the task has started before the client had the response")

					require.True(t, control.started)
					assert.Equal(t, tetherhttp.DeliveryUnknown, control.delivery)
					assert.Equal(t, s.sent == "", control.early, "whether the control is found to be early")
				})
			}
		})
	}
}

// The end of the stream is found behind wrappers too: ours, and those of middlewares
// further out.
func TestHTTP2Wrapped(t *testing.T) {
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"by OnlyIf alone": func(w http.ResponseWriter) http.ResponseWriter { return w },
		"twice":           func(w http.ResponseWriter) http.ResponseWriter { return wrapper{wrapper{w}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(100 * time.Microsecond)
				reg := newRegistry(t, tether.Config{})
				inner := tetherhttp.NewReleaser(reg, tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool { return status == http.StatusOK }}).
					Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
							assert.Equal(t, tetherhttp.DeliveryFrame, tetherhttp.DeliveryOf(ctx))
							return nil
						})
						assert.NoError(t, err)
						status, _ := strconv.Atoi(r.URL.Query().Get("status"))
						w.WriteHeader(status)
					}))
				srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					inner.ServeHTTP(wrap(w), r)
				}))
				srv.Protocols = protocols("h2c")
				network.serve(t, srv, false)
				client := network.client(t, srv.Protocols)
				for _, status := range []string{"200", "500"} {
					res, err := client.Get("http://test/?status=" + status)
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
				}
				time.Sleep(time.Second)
				assert.EqualValues(t, 1, reg.Stats().Succeeded)
				assert.EqualValues(t, 1, reg.Stats().Dropped)
			})
		})
	}
}

type wrapper struct{ http.ResponseWriter }

func (w wrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// The client gives up while the handler runs.
func TestHTTP2ClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet(0)
		deliveries := make(chan tetherhttp.Delivery, 1)
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return ctx.Err()
			})
			assert.NoError(t, err)
			writePieces(w, 100)
		}))
		srv.Protocols = protocols("h2c")
		reg := newRegistry(t, tether.Config{})
		tetherhttp.Attach(srv, reg)
		network.serve(t, srv, false)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://test/", nil)
		require.NoError(t, err)
		_, err = network.client(t, srv.Protocols).Do(req) //nolint:bodyclose // there is none
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, tetherhttp.DeliveryClosed, <-deliveries)
		time.Sleep(time.Second)
		assert.EqualValues(t, 1, reg.Stats().Succeeded)
	})
}

// A client that does not read its response does not delay tasks forever.
func TestHTTP2MaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 4 << 20 // of net/http's client, for each stream
		network := newMemNet(0)
		var returned time.Time
		started := make(chan tetherhttp.Delivery, 1)
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				assert.Equal(t, time.Minute, time.Since(returned))
				started <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
			time.Sleep(time.Second)
			_, err = io.WriteString(w, text(window))
			assert.NoError(t, err)
			_, err = io.WriteString(w, "more") // stays in a buffer
			assert.NoError(t, err)
			returned = time.Now()
		}))
		srv.Protocols = protocols("h2c")
		reg := newRegistry(t, tether.Config{})
		tetherhttp.Attach(srv, reg, tetherhttp.ReleaserConfig{MaxWait: time.Minute})
		network.serve(t, srv, false)
		res, err := network.client(t, srv.Protocols).Get("http://test/")
		require.NoError(t, err)
		assert.Equal(t, tetherhttp.DeliveryTimeout, <-started)
		n, err := io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.EqualValues(t, window+4, n)
		time.Sleep(time.Hour)
		assert.EqualValues(t, 1, reg.Stats().Succeeded)
	})
}

// A middleware that answers for a handler that is late, lets it go on, and lends it the
// server's own writer by Unwrap: that writer panics by then. The task must run all the same.
func TestHTTP2HandlerOutlivesItsWriter(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.ProtoMajor, r.ProtoMinor = 2, 0
	var task *tether.Task
	h := tetherhttp.NewReleaser(reg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		task, err = tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
			assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		assert.NoError(t, err)
	}))
	assert.NotPanics(t, func() { h.ServeHTTP(finished{httptest.NewRecorder()}, r) })
	assert.NotEqual(t, tether.Held, task.State(), "the task will not run before the registry is shut down")
	task.Release()
	_ = task.Wait(context.Background())
}

// finished is a writer of HTTP/2 whose handler has returned.
type finished struct{ http.ResponseWriter }

func (finished) CloseNotify() <-chan bool { panic("CloseNotify called after Handler finished") }

// Many streams of one connection at once: what is added runs, or is dropped, once.
func TestHTTP2Concurrent(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("secure: %v", secure), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const requests = 320
				network := newMemNet(100 * time.Microsecond)
				kinds := streamCases()
				var counts [requests * 2]atomic.Int64
				srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					i, _ := strconv.Atoi(r.URL.Query().Get("i"))
					for k := range 2 {
						_, err := tetherhttp.After(r.Context(), "count", func(context.Context) error {
							counts[2*i+k].Add(1)
							return nil
						})
						assert.NoError(t, err)
					}
					kinds[i%len(kinds)].handler(w, r)
				}))
				srv.Protocols = protocols("h2c")
				if secure {
					srv.Protocols = protocols("h2")
				}
				srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 64}
				reg := newRegistry(t, tether.Config{})
				tetherhttp.Attach(srv, reg)
				network.serve(t, srv, secure)
				client := network.client(t, srv.Protocols)
				var wg sync.WaitGroup
				for worker := range 64 {
					wg.Go(func() {
						for i := worker; i < requests; i += 64 {
							s := kinds[i%len(kinds)]
							ctx, cancel := context.WithCancel(t.Context())
							req, err := http.NewRequestWithContext(ctx, s.method, fmt.Sprintf("%s?i=%d", network.url(secure), i), strings.NewReader(s.body))
							assert.NoError(t, err)
							res, err := client.Do(req)
							if err == nil {
								if i%5 != 0 { // the others give up
									_, _ = io.Copy(io.Discard, res.Body)
								}
								_ = res.Body.Close()
							} else {
								assert.True(t, s.dropped, "%s: %v", s.name, err)
							}
							cancel()
						}
					})
				}
				wg.Wait()
				time.Sleep(2 * time.Hour)
				ran := 0
				for i := range counts {
					n := int(counts[i].Load())
					ran += n
					if kinds[i/2%len(kinds)].dropped {
						assert.Zero(t, n, "tasks that were dropped have run")
					} else {
						assert.Equal(t, 1, n, "runs of one task")
					}
				}
				stats := reg.Stats()
				assert.EqualValues(t, requests*2, stats.Submitted)
				assert.EqualValues(t, ran, stats.Succeeded)
				assert.Equal(t, stats.Submitted, stats.Succeeded+stats.Dropped)
			})
		})
	}
}
