package compat_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With gorilla/websocket: Upgrade takes the connection over, and there is no response
// to come after. Tasks start when the handler returns, at the end of the conversation:
// one that should start now is for [tether.Registry.Go].
func Example_gorillaWebsocket() {
	reg := tether.New(tether.Config{})
	upgrader := websocket.Upgrader{}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines := 0
		_, err := tetherhttp.After(r.Context(), "store conversation", func(ctx context.Context) error {
			fmt.Println("stored:", lines, "lines,", tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			tetherhttp.Discard(r.Context(), err) // answered by Upgrade: 400
			return
		}
		defer conn.Close()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
			lines++
		}
	})}
	tetherhttp.Attach(srv, reg)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = srv.Serve(l) }()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+l.Addr().String(), nil)
	if err != nil {
		panic(err)
	}
	_ = conn.WriteMessage(websocket.TextMessage, []byte("hello"))
	_ = conn.WriteMessage(websocket.TextMessage, []byte("bye"))
	_ = conn.Close()

	// The server's Shutdown does not wait for connections that were taken over, but the
	// registry's waits for the tasks.
	if err := errors.Join(srv.Shutdown(context.Background()), reg.Shutdown(context.Background())); err != nil {
		panic(err)
	}
	// Output: stored: 2 lines, hijacked
}

// conversation is a handler of websockets that end when the stop begins. The server's Shutdown
// does not know of them, but their tasks wait for their handlers, and the drain for the tasks.
func conversation(reg *tether.Registry, task tether.Func) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tetherhttp.After(r.Context(), "store conversation", task); err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
			return
		}
		conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			tetherhttp.Discard(r.Context(), err) // Upgrade has answered 400
			return
		}
		defer conn.Close()
		ended := make(chan struct{})
		defer close(ended)
		go func() { // ReadMessage knows no context
			select {
			case <-reg.Stopping():
				limit := time.Now().Add(time.Second) // for the client to answer
				bye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "restarting")
				_ = conn.WriteControl(websocket.CloseMessage, bye, limit)
				_ = conn.SetReadDeadline(limit)
			case <-ended:
			}
		}()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
}

// A websocket that is told of the stop does not delay it, whether its client answers the
// close frame or reads nothing at all.
func TestGorillaWebsocketStops(t *testing.T) {
	for name, reads := range map[string]bool{"a client that answers": true, "a client that does not read": false} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			delivery := make(chan tetherhttp.Delivery, 1)
			srv := &http.Server{Handler: conversation(reg, func(ctx context.Context) error {
				delivery <- tetherhttp.DeliveryOf(ctx)
				return nil
			})}
			tetherhttp.Attach(srv, reg)
			l := listen(t)
			server := tetherhttp.Server("public", srv)
			server.Serve = func() error { return srv.Serve(l) }
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := make(chan error, 1)
			go func() {
				done <- reg.Run(ctx, tether.RunConfig{
					Servers:     []tether.Server{server},
					StopTimeout: time.Hour, // nothing may wait for it
					Signals:     []os.Signal{},
				})
			}()
			conn, _, err := websocket.DefaultDialer.Dial("ws://"+l.Addr().String(), nil)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte("hello")))
			stop()
			if reads {
				require.NoError(t, conn.SetReadDeadline(time.Now().Add(hang)))
				_, _, err = conn.ReadMessage()
				require.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
			}
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(hang):
				require.FailNow(t, "the websocket delays the stop")
			}
			require.Equal(t, tetherhttp.DeliveryHijacked, <-delivery)
		})
	}
}

func TestGorillaWebsocket(t *testing.T) {
	for _, v := range []variant{{}, {opts: []tetherhttp.ReleaserConfig{{OnlyIf: func(status int) bool {
		return status == http.StatusSwitchingProtocols
	}}}}} {
		reg := newRegistry(t, tether.Config{})
		returned := make(chan struct{})
		delivery := make(chan tetherhttp.Delivery, 2)
		var tasks []*tether.Task
		add := func(ctx context.Context) {
			task, err := tetherhttp.After(ctx, "after", func(ctx context.Context) error {
				delivery <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
			tasks = append(tasks, task)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			add(r.Context())
			conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			if !assert.NoError(t, err) {
				return
			}
			defer conn.Close()
			add(r.Context())
			for {
				kind, text, err := conn.ReadMessage()
				if err != nil {
					return
				}
				for _, task := range tasks {
					text = fmt.Append(text, " ", task.State())
				}
				assert.NoError(t, conn.WriteMessage(kind, text))
			}
		})}
		tetherhttp.Attach(srv, reg, v.opts...)
		l := listen(t)
		go func() { _ = srv.Serve(l) }()
		conn, _, err := websocket.DefaultDialer.Dial("ws://"+l.Addr().String(), nil)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(hang)))
		for range 2 {
			require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte("tasks:")))
			_, text, err := conn.ReadMessage()
			require.NoError(t, err)
			require.Equal(t, "tasks: held held", string(text))
		}
		require.NoError(t, conn.Close())
		<-returned
		for _, task := range tasks {
			require.NoError(t, task.Wait(t.Context()))
			require.Equal(t, tetherhttp.DeliveryHijacked, <-delivery)
		}
		require.NoError(t, srv.Close())
	}
}

func TestGorillaWebsocketRefused(t *testing.T) {
	s := open(t, variant{}, func(s *site) {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.after(r.Context())
			_, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			assert.Error(s.t, err)
			tetherhttp.Discard(r.Context(), err)
		})}
		s.attach(srv)
		s.serve(srv)
	})
	require.Contains(t, s.twice("GET", "/", ""), " 400 ")
	require.Empty(t, s.ran)
	require.Len(t, s.dropped, 2)
	var refused websocket.HandshakeError
	require.ErrorAs(t, s.dropped[0], &refused)
}
