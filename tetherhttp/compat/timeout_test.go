package compat_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With [http.TimeoutHandler]: its place is behind the middleware, as it is if it is in
// the handler of the server that Attach is given. What a handler adds in time runs
// after its response, or after the 503 for it. A handler that goes on after that finds
// its request over: ErrFinished.
func Example_timeoutHandler() {
	reg := tether.New(tether.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", r.PathValue("id"), tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down, or too late
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	srv := &http.Server{Handler: http.TimeoutHandler(mux, 10*time.Second, "too slow")}
	tetherhttp.Attach(srv, reg)

	post(srv, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

// inFront and behind are the two places for a TimeoutHandler.
var timeoutPlaces = map[string]func(s *site, srv *http.Server, mux http.Handler){
	"tether in front": func(s *site, srv *http.Server, mux http.Handler) {
		srv.Handler = http.TimeoutHandler(mux, hang, "too slow")
		s.attach(srv)
	},
	"tether behind": func(s *site, srv *http.Server, mux http.Handler) {
		if !s.bare {
			s.bg = tetherhttp.NewReleaser(s.reg, s.opts...)
			s.bg.Hooks(srv)
			mux = s.bg.Handler(mux)
		}
		srv.Handler = http.TimeoutHandler(mux, hang, "too slow")
	},
}

func TestTimeoutHandler(t *testing.T) {
	for name, place := range timeoutPlaces {
		t.Run(name, func(t *testing.T) {
			conform(t, false, func(s *site) {
				mux := http.NewServeMux()
				s.routes(func(path string, h http.HandlerFunc) { mux.Handle(path, h) })
				srv := &http.Server{}
				place(s, srv, mux)
				if name == "tether behind" {
					s.delivery2 = tetherhttp.DeliveryUnknown // the TimeoutHandler's writer tells nothing of the stream
				}
				s.serve(srv)
			})
		})
	}
}

// TestTimeoutHandlerTooLate: a handler that outlives its 503.
func TestTimeoutHandlerTooLate(t *testing.T) {
	for name, place := range timeoutPlaces {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := newRegistry(t, tether.Config{})
				l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				ran := make(chan string, 4)
				body := func(name string) tether.Func {
					return func(ctx context.Context) error {
						ran <- name + " " + tetherhttp.DeliveryOf(ctx).String()
						return nil
					}
				}
				goOn, late := make(chan struct{}), make(chan error, 1)
				mux := http.NewServeMux()
				mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
					_, err := tetherhttp.After(r.Context(), "in time", body("in time"))
					require.NoError(t, err)
					<-goOn
					_, err = tetherhttp.After(r.Context(), "late", body("late"))
					late <- err
				})
				mux.HandleFunc("/next", func(_ http.ResponseWriter, r *http.Request) {
					_, err := tetherhttp.After(r.Context(), "next", body("next"))
					require.NoError(t, err)
					close(goOn) // the slow handler wakes in the middle of the next request of its connection
					require.ErrorIs(t, <-late, tetherhttp.ErrFinished)
				})
				srv := &http.Server{}
				place(&site{reg: reg}, srv, mux)
				go func() { _ = srv.Serve(l) }()
				c := l.dial()
				r := bufio.NewReader(c)
				began := time.Now()
				for _, want := range []struct {
					path   string
					status int
					task   string
				}{{"/slow", 503, "in time sent"}, {"/next", 200, "next sent"}} {
					_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", want.path)
					require.NoError(t, err)
					res, err := http.ReadResponse(r, nil)
					require.NoError(t, err)
					require.Equal(t, want.status, res.StatusCode)
					_, err = r.Discard(int(res.ContentLength))
					require.NoError(t, err)
					require.Equal(t, want.task, <-ran)
				}
				require.Equal(t, hang, time.Since(began), "of the bubble's time")
				require.NoError(t, c.Close())
				require.NoError(t, srv.Close())
				synctest.Wait()
				require.Empty(t, ran)
			})
		})
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipes) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { close(l.closed); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }
