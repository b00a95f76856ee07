//lint:file-ignore SA1019 it is deprecated, and in use

package compat_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With golang.org/x/net/http2/h2c: its handler takes the connection over, and what it
// is given serves the streams. The middleware belongs inside it. (Better is to have no
// such handler: [http.Server.Protocols] can have HTTP/2 without TLS, and Attach works.)
func Example_h2c() {
	reg := tether.New(tether.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", r.PathValue("id"), tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	bg := tetherhttp.NewReleaser(reg)
	srv := &http.Server{Handler: h2c.NewHandler(bg.Handler(mux), &http2.Server{})}
	bg.Hooks(srv)

	post(srv, reg, "/orders/7") // by HTTP/1; by HTTP/2 the delivery would be "frame"
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

func TestH2C(t *testing.T) {
	conform(t, false, func(s *site) {
		s.http1 = true
		mux := http.NewServeMux()
		s.routes(func(path string, h http.HandlerFunc) { mux.Handle(path, h) })
		srv := &http.Server{}
		var h http.Handler = mux
		if !s.bare {
			s.bg = tetherhttp.NewReleaser(s.reg, s.opts...)
			s.bg.Hooks(srv)
			h = s.bg.Handler(mux)
		}
		srv.Handler = h2c.NewHandler(h, &http2.Server{})
		s.serve(srv)
	})
}

// TestH2CStreamsAreApart: wherever the middleware is, and however the connection came
// to HTTP/2, the tasks of a stream are its own, or they are refused. None waits for
// the connection's end.
func TestH2CStreamsAreApart(t *testing.T) {
	for _, place := range []string{"inside", "outside", "inside and outside"} {
		for _, upgraded := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, upgraded is %v", place, upgraded), func(t *testing.T) {
				reg := newRegistry(t, tether.Config{})
				outcomes := make(chan any, 2)
				var h http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
						outcomes <- tetherhttp.DeliveryOf(ctx)
						return nil
					})
					if err != nil {
						outcomes <- err
					}
				})
				srv := &http.Server{}
				bg := tetherhttp.NewReleaser(reg)
				bg.Hooks(srv)
				if place != "outside" {
					h = bg.Handler(h)
				}
				h = h2c.NewHandler(h, &http2.Server{})
				if place != "inside" {
					h = bg.Handler(h)
				}
				handled := make(chan struct{}) // the handler of the whole connection
				srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(handled)
					h.ServeHTTP(w, r)
				})
				l := listen(t)
				go func() { _ = srv.Serve(l) }()
				c := dial(t, l.Addr())
				var r io.Reader = c
				if upgraded {
					r = upgradeToH2C(t, c)
				}
				client := newHTTP2(t, c, r)
				if upgraded {
					client.end(1)
					client.stream = 3
				} else {
					client.end(client.request("GET", "/", true))
				}
				client.end(client.request("GET", "/", true))
				// A task that has waited for the end of the connection is told so by now.
				require.NoError(t, c.Close())
				<-handled
				want := []any{tetherhttp.DeliveryFrame, tetherhttp.DeliveryFrame}
				if upgraded {
					want[0] = tetherhttp.DeliveryUnknown // a request of HTTP/1, answered by HTTP/2: no hook tells of that
				}
				if place == "outside" {
					want = []any{tetherhttp.ErrNoScope, tetherhttp.ErrNoScope}
				}
				require.ElementsMatch(t, want, []any{<-outcomes, <-outcomes})
				require.NoError(t, srv.Close())
			})
		}
	}
}

// upgradeToH2C has a connection that begins with HTTP/1 go on with HTTP/2, of which the
// first stream is the answer to the request that asked for it.
func upgradeToH2C(t *testing.T, c net.Conn) io.Reader {
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"+
		"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "101")
	for line != "\r\n" {
		line, err = r.ReadString('\n')
		require.NoError(t, err)
	}
	return r
}
