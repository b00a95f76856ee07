package compat_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// Tasks after responses of HTTP/3. quic-go has a server of its own, so there is no Attach.
func ExampleReleaser_http3() {
	reg := tether.New(tether.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("task:", tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	srv := &http3.Server{Handler: tetherhttp.NewReleaser(reg).Handler(mux), TLSConfig: certified(), Logger: slog.New(slog.DiscardHandler)}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background()) // or a signal
	done := make(chan error, 1)
	go func() {
		done <- reg.Run(ctx, tether.RunConfig{
			Servers: []tether.Server{{Name: "HTTP/3", Serve: func() error { return srv.Serve(conn) }, Stop: srv.Shutdown}},
			Closers: []tether.Closer{{Name: "socket", Close: func(context.Context) error { return conn.Close() }}},
		})
	}()
	client := client3()
	res, err := client.Post("https://"+conn.LocalAddr().String()+"/orders", "text/plain", nil)
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	fmt.Println("answered:", res.Status)
	for reg.Stats().Succeeded == 0 {
		time.Sleep(time.Millisecond)
	}
	_ = client.Transport.(*http3.Transport).Close()
	stop()
	if err := <-done; err != nil {
		panic(err)
	}
	// Unordered output:
	// answered: 201 Created
	// task: frame
}

func client3() *http.Client {
	return &http.Client{Transport: &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Logger: slog.New(slog.DiscardHandler)}, Timeout: hang}
}

// certified is a TLS configuration with a certificate for HTTP/3.
func certified() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}})
}

// On HTTP/3 a task starts when the last frame of the response was handed to the stream. It
// cannot delay the response, nor change it.
func TestHTTP3(t *testing.T) {
	s, bare := &site{t: t}, &site{t: t, variant: variant{bare: true}}
	s.reg = newRegistry(t, tether.Config{Observer: &roll{s: s}})
	s.started = func(request context.Context) {
		assert.Error(t, request.Err(), "the stream ends before the task starts")
	}
	mux, bareMux := http.NewServeMux(), http.NewServeMux()
	s.routes(func(path string, h http.HandlerFunc) { mux.HandleFunc(path, h) })
	bare.routes(func(path string, h http.HandlerFunc) { bareMux.HandleFunc(path, h) })
	stream := make(chan context.Context, 1) // of a request that is to be canceled
	mux.HandleFunc("/cancel", func(w http.ResponseWriter, r *http.Request) {
		s.after(r.Context())
		stream <- r.Context()
		<-r.Context().Done()
	})
	with := tetherhttp.NewReleaser(s.reg).Handler(mux)

	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	srv := &http3.Server{TLSConfig: certified(), Logger: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Bare") != "" {
			bareMux.ServeHTTP(w, r)
			return
		}
		with.ServeHTTP(w, r)
		time.Sleep(10 * time.Millisecond) // as if the rest of the response took its time
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(conn) }()
	client := client3()
	defer func() {
		assert.NoError(t, client.Transport.(*http3.Transport).Close())
		assert.NoError(t, srv.Close())
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
		assert.NoError(t, conn.Close())
	}()
	url := "https://" + conn.LocalAddr().String()
	get := func(path, bare string) string {
		r, err := http.NewRequest("GET", url+path, nil)
		require.NoError(t, err)
		r.Header.Set("Bare", bare)
		res, err := client.Do(r)
		if err != nil {
			return "no response"
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, 3, res.ProtoMajor)
		res.Header.Del("Date")
		return fmt.Sprint(res.Status, res.Header, len(body), string(body))
	}
	for _, path := range []string{"/small", "/large", "/flush", "/empty", "/error", "/nowhere"} {
		s.ran = nil
		// Each task waits until the client has all of the response.
		sameBytes(t, get(path, "yes"), s.round(func() string { return get(path, "") }))
		if path != "/nowhere" {
			assert.Equal(t, []tetherhttp.Delivery{tetherhttp.DeliveryFrame}, s.ran, path)
		}
	}
	t.Run("a panic", func(t *testing.T) {
		s.ran, s.dropped = nil, nil
		assert.Equal(t, "no response", s.round(func() string { return get("/panic", "") }))
		assert.Empty(t, s.ran)
		require.Len(t, s.dropped, 1)
		assert.ErrorIs(t, s.dropped[0], tetherhttp.ErrDiscarded)
	})
	t.Run("a client that resets the stream", func(t *testing.T) {
		s.ran = nil
		s.round(func() string {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", url+"/cancel", nil)
			require.NoError(t, err)
			go func() { <-stream; cancel() }()
			_, err = client.Do(r) //nolint:bodyclose // there is none
			assert.Error(t, err)
			return ""
		})
		assert.Equal(t, []tetherhttp.Delivery{tetherhttp.DeliveryClosed}, s.ran)
	})
}
