package compat_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With a reverse proxy: attach to the proxy's server. ModifyResponse is given a
// request whose context is that of the request that came in; it knows the status. A
// backend that breaks off in the middle has the proxy panic with
// [http.ErrAbortHandler], which drops the tasks.
func Example_reverseProxy() {
	reg := tether.New(tether.Config{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		panic(err)
	}

	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(res *http.Response) error {
			path, status := res.Request.URL.Path, res.StatusCode
			_, err := tetherhttp.After(res.Request.Context(), "access log", func(ctx context.Context) error {
				fmt.Println("logged:", path, status, tetherhttp.DeliveryOf(ctx))
				return nil
			})
			return err // full, or shutting down: the proxy answers 502
		},
	}
	srv := &http.Server{Handler: proxy}
	tetherhttp.Attach(srv, reg)

	post(srv, reg, "/orders/7")
	// Output:
	// logged: /orders/7 201 sent
	// answered: 201 Created
}

// proxyTo returns a proxy. Its connections end with the test.
func (s *site) proxyTo(addr string, modify func(*http.Response) error) *httputil.ReverseProxy {
	transport := &http.Transport{DisableCompression: true}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: addr}) },
		Transport:      transport,
		ModifyResponse: modify,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
}

// backend serves h, without tether, until the test ends.
func (s *site) backend(h http.Handler) string {
	b := httptest.NewUnstartedServer(h)
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.Start()
	s.t.Cleanup(b.Close)
	return b.Listener.Addr().String()
}

func TestInFrontOfReverseProxy(t *testing.T) {
	conform(t, false, func(s *site) {
		s.decoded = true
		origin := http.NewServeMux()
		bare := &site{variant: variant{bare: true}}
		bare.routes(func(path string, h http.HandlerFunc) { origin.Handle(path, h) })
		// Of /panic the backend sends half, so that it is the proxy that panics.
		origin.HandleFunc("/half", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		proxy := s.proxyTo(s.backend(origin), func(res *http.Response) error {
			if res.StatusCode != http.StatusNotFound {
				s.after(res.Request.Context())
			}
			return nil
		})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				r.URL.Path = "/half"
			}
			proxy.ServeHTTP(w, r)
		})}
		s.attach(srv)
		s.serve(srv)
	})
}

func TestBehindReverseProxy(t *testing.T) {
	conform(t, true, func(s *site) {
		s.decoded = true
		s.deliveries = []tetherhttp.Delivery{tetherhttp.DeliverySent, tetherhttp.DeliverySent} // that the client hangs up is the proxy's business
		s.delivery2 = tetherhttp.DeliverySent                                                  // it speaks HTTP/1 to its backends
		mux := http.NewServeMux()
		s.routes(func(path string, h http.HandlerFunc) { mux.Handle(path, h) })
		backend := httptest.NewUnstartedServer(nil)
		backend.Listener.Close()
		wire := listen(s.t)
		wire.written = s.listener.written
		s.listener.written = nil // the proxy's writes say nothing of the backend's tasks
		backend.Listener = wire
		backend.Config.Handler = recoverer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.guard(mux).ServeHTTP(w, r) }))
		s.attach(backend.Config)
		s.serve(&http.Server{Handler: s.proxyTo(wire.Addr().String(), nil)})
		backend.Start()
		s.t.Cleanup(backend.Close)
	})
}

// recoverer is a recoverer as many programs have it.
func recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// TestReverseProxyBadGateway: a backend that cannot be reached is an answer like any
// other, unless ErrorHandler says otherwise.
func TestReverseProxyBadGateway(t *testing.T) {
	for _, discard := range []bool{false, true} {
		s := open(t, variant{}, func(s *site) {
			gone := listen(t)
			require.NoError(t, gone.Close())
			proxy := s.proxyTo(gone.Addr().String(), nil)
			proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
				if discard {
					tetherhttp.Discard(r.Context(), err)
				}
				w.WriteHeader(http.StatusBadGateway)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.after(r.Context())
				proxy.ServeHTTP(w, r)
			})}
			s.attach(srv)
			s.serve(srv)
		})
		require.Contains(t, s.twice("GET", "/", ""), " 502 ")
		if discard {
			require.Empty(t, s.ran)
			require.Len(t, s.dropped, 2)
		} else {
			require.Equal(t, s.deliveries, s.ran)
		}
	}
}

// TestReverseProxyUpgrade: the proxy takes the connection over, and its handler
// returns when one side has hung up.
func TestReverseProxyUpgrade(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	delivery := make(chan tetherhttp.Delivery, 1)
	var task *tether.Task
	s := &site{t: t}
	proxy := s.proxyTo(s.backend(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, line)
		_, _ = rw.ReadString('\n') // until the client is gone
	})), nil)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		task, err = tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
			delivery <- tetherhttp.DeliveryOf(ctx)
			return nil
		})
		assert.NoError(t, err)
		proxy.ServeHTTP(w, r)
	})}
	tetherhttp.Attach(srv, reg)
	l := listen(t)
	go func() { _ = srv.Serve(l) }()
	c := dial(t, l.Addr())
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	_, err = io.WriteString(c, "hello\n")
	require.NoError(t, err)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
	require.Equal(t, tether.Held, task.State(), "while the conversation goes on")
	require.NoError(t, c.Close())
	require.Equal(t, tetherhttp.DeliveryHijacked, <-delivery)
	require.NoError(t, srv.Close())
}
