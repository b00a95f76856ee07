//go:build unix

package compat_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	xhttp2 "golang.org/x/net/http2"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// BenchmarkEarly measures how many tasks start before all of their response is in the
// client's kernel. When a task starts, it takes what is there from the client's
// socket, without waiting, and looks for the end of the response in it. The share of
// those that find none is reported as early/op.
//
// Of HTTP/1 it must be 0. Of HTTP/2 it is small: see [tetherhttp.Releaser]. What it
// would be if tasks started when their handlers return is measured as well.
func BenchmarkEarly(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 64 << 10} {
		for _, proto := range []struct {
			name     string
			http2    bool
			delivery tetherhttp.Delivery
			attach   func(*http.Server, *tether.Registry)
		}{
			{"http=1", false, tetherhttp.DeliverySent, attach},
			{"http=1/start=at-return", false, tetherhttp.DeliveryUnknown, func(srv *http.Server, reg *tether.Registry) {
				srv.Handler = tetherhttp.NewReleaser(reg).Handler(srv.Handler)
			}},
			{"http=2", true, tetherhttp.DeliveryFrame, attach},
			{"http=2/start=at-return", true, tetherhttp.DeliveryUnknown, func(srv *http.Server, reg *tether.Registry) {
				h := tetherhttp.NewReleaser(reg).Handler(srv.Handler)
				srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) // hides the CloseNotifier
				})
			}},
		} {
			b.Run("size="+strconv.Itoa(size)+"/"+proto.name, func(b *testing.B) {
				early := countEarly(b, size, proto.http2, proto.delivery, proto.attach)
				b.ReportMetric(float64(early)/float64(b.N), "early/op")
				if proto.delivery == tetherhttp.DeliverySent && early > 0 {
					b.Errorf("%d of %d tasks have started before the end of their response", early, b.N)
				}
			})
		}
	}
}

func attach(srv *http.Server, reg *tether.Registry) { tetherhttp.Attach(srv, reg) }

// countEarly makes b.N requests, one at a time, and counts the tasks that have started
// too early.
func countEarly(b *testing.B, size int, http2 bool, want tetherhttp.Delivery, attach func(*http.Server, *tether.Registry)) int {
	body := []byte(strings.Repeat("x", size))
	reg := newRegistry(b, tether.Config{})
	var client *socket
	complete := make(chan bool)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
				client.drain()
				if d := tetherhttp.DeliveryOf(ctx); d != want {
					b.Errorf("delivery: %v, not %v", d, want)
				}
				complete <- client.complete(size)
				return nil
			})
			if err != nil {
				b.Error(err)
			}
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = w.Write(body)
		}),
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(!http2)
	srv.Protocols.SetUnencryptedHTTP2(http2)
	attach(srv, reg)
	l := listen(b)
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	client = connectTo(b, l.Addr(), http2)
	defer client.conn.Close()

	early := 0
	for b.Loop() {
		client.request()
		if <-complete {
			continue
		}
		early++
		for !client.complete(size) {
			client.read()
		}
	}
	return early
}

// socket is a client that can look into its kernel.
type socket struct {
	b    *testing.B
	conn net.Conn
	raw  syscall.RawConn
	h2   *h2client // nil: HTTP/1
	got  []byte    // of the response
	buf  []byte
}

func connectTo(b *testing.B, addr net.Addr, http2 bool) *socket {
	// All of a response must fit into the kernel: the client reads nothing before the task starts.
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<20)
		})
	}}
	conn, err := d.Dial("tcp", addr.String())
	require.NoError(b, err)
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(b, err)
	s := &socket{b: b, conn: conn, raw: raw, buf: make([]byte, 128<<10)}
	if http2 {
		s.h2 = newHTTP2(b, conn, conn)
		require.NoError(b, s.h2.framer.WritePing(false, [8]byte{1}))
		for !s.h2.read().Header().Flags.Has(xhttp2.FlagPingAck) { // behind all of the set-up
		}
	}
	return s
}

func (s *socket) request() {
	s.got = s.got[:0]
	if s.h2 != nil {
		s.h2.request("GET", "/", true)
		return
	}
	_, err := io.WriteString(s.conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
	require.NoError(s.b, err)
}

// drain takes what the kernel has, and waits for nothing.
func (s *socket) drain() {
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.Read(int(fd), s.buf)
			if n <= 0 || err != nil {
				return true
			}
			s.got = append(s.got, s.buf[:n]...)
		}
	})
	if err != nil {
		s.b.Error(err)
	}
}

// read waits for more.
func (s *socket) read() {
	n, err := s.conn.Read(s.buf)
	require.NoError(s.b, err)
	s.got = append(s.got, s.buf[:n]...)
}

// complete reports whether the end of the response is there.
func (s *socket) complete(size int) bool {
	if s.h2 == nil {
		_, body, found := bytes.Cut(s.got, []byte("\r\n\r\n"))
		return found && len(body) == size
	}
	const header = 9
	for b := s.got; len(b) >= header; {
		length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		kind, flags := xhttp2.FrameType(b[3]), xhttp2.Flags(b[4])
		if len(b) < header+length {
			return false
		}
		if kind == xhttp2.FrameData && flags.Has(xhttp2.FlagDataEndStream) {
			return true
		}
		b = b[header+length:]
	}
	return false
}
