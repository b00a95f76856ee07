package compat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// exchange is a request and the handler that answers it.
type exchange struct {
	name    string
	method  string   // "": GET
	header  []string // names and values
	body    string
	open    bool // the client sends no body, but leaves its side of the stream open
	handler http.HandlerFunc
	drops   bool // the handler panics
}

var exchanges = []exchange{
	{name: "empty", handler: func(http.ResponseWriter, *http.Request) {}},
	{name: "small", handler: text("hello\n")},
	{name: "as long as the buffer", handler: text(kilobytes)},
	{name: "longer than the buffer", handler: text(kilobytes + "x")},
	{name: "in two frames", handler: text(strings.Repeat(kilobytes, 5))},
	{name: "a megabyte at once", handler: text(strings.Repeat(kilobytes, 256))},
	{name: "a megabyte in pieces", handler: func(w http.ResponseWriter, _ *http.Request) {
		for range 256 {
			_, _ = io.WriteString(w, kilobytes)
		}
	}},
	{name: "with a length", handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "6")
		text("hello\n")(w, r)
	}},
	{name: "longer than its length", handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		text("hello\n")(w, r)
	}},
	{name: "204", handler: status(http.StatusNoContent)},
	{name: "304", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.WriteHeader(http.StatusNotModified)
	}},
	{name: "404", handler: http.NotFound},
	{name: "500", handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) }},
	{name: "redirect", handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusSeeOther) }},
	{name: "HEAD", method: "HEAD", handler: text("hello\n")},
	{name: "HEAD of a megabyte", method: "HEAD", handler: text(strings.Repeat(kilobytes, 256))},
	{name: "HEAD without a body", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
	}},
	{name: "a range", header: []string{"range", "bytes=2-4"}, handler: func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader("0123456789"))
	}},
	{name: "trailers, announced", handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Checksum")
		text("hello\n")(w, r)
		w.Header().Set("Checksum", "42")
	}},
	{name: "trailers, not announced", handler: func(w http.ResponseWriter, r *http.Request) {
		text("hello\n")(w, r)
		w.Header().Set(http.TrailerPrefix+"Checksum", "42")
	}},
	{name: "trailers and no body", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Checksum")
		w.WriteHeader(http.StatusOK)
		w.Header().Set("Checksum", "42")
	}},
	{name: "flushed", handler: func(w http.ResponseWriter, r *http.Request) {
		text("one\n")(w, r)
		_ = http.NewResponseController(w).Flush()
		text("two\n")(w, r)
	}},
	{name: "flushed at the end", handler: func(w http.ResponseWriter, r *http.Request) {
		text("one\n")(w, r)
		_ = http.NewResponseController(w).Flush()
	}},
	{name: "flushed and empty", handler: func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
	}},
	{name: "events", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	}},
	{name: "early hints", handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		text("hello\n")(w, r)
	}},
	{name: "a header after the body", handler: func(w http.ResponseWriter, r *http.Request) {
		text("hello\n")(w, r)
		w.Header().Set("Late", "still in the buffer")
	}},
	{name: "two statuses", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusInternalServerError)
	}},
	{name: "echo", method: "POST", body: "ping", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }},
	{name: "an unread body", method: "POST", open: true, handler: text("hello\n")},
	{name: "100 continue", method: "POST", header: []string{"expect", "100-continue"}, body: "ping",
		handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }},
	{name: "a body too long", method: "POST", body: "ping", handler: func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2)); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	}},
	{name: "behind a time limit", handler: http.TimeoutHandler(text("hello\n"), hang, "").ServeHTTP},
	{name: "a panic", drops: true, handler: func(http.ResponseWriter, *http.Request) { panic(errTest) }},
	{name: "a panic within the body", drops: true, handler: func(w http.ResponseWriter, r *http.Request) {
		text("hello\n")(w, r)
		_ = http.NewResponseController(w).Flush()
		panic(errTest)
	}},
	{name: "an abort", drops: true, handler: func(w http.ResponseWriter, r *http.Request) {
		text("hello\n")(w, r)
		panic(http.ErrAbortHandler)
	}},
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestHTTP2Frames: the frames of a response, and where the stream ends in them, are
// those of the bare handler.
func TestHTTP2Frames(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls is ", secure), func(t *testing.T) {
			bare := serveExchanges(t, secure, func(srv *http.Server) <-chan error { return nil })
			others := map[string]*frames{
				"without a task": serveExchanges(t, secure, func(srv *http.Server) <-chan error {
					tetherhttp.Attach(srv, newRegistry(t, tether.Config{}))
					return nil
				}),
				"with a task": serveExchanges(t, secure, func(srv *http.Server) <-chan error { return attachWithTask(t, srv) }),
				"with OnlyIf": serveExchanges(t, secure, func(srv *http.Server) <-chan error { return attachWithTask(t, srv, anyStatus) }),
			}
			for i, x := range exchanges {
				t.Run(x.name, func(t *testing.T) {
					want := bare.transcript(t, i)
					require.NotEmpty(t, want)
					for name, f := range others {
						got := f.transcript(t, i)
						if f.outcomes != nil {
							if err := <-f.outcomes; x.drops {
								require.ErrorIs(t, err, tetherhttp.ErrDiscarded, name)
							} else {
								require.NoError(t, err, name)
							}
						}
						require.Equal(t, want, got, name)
					}
				})
			}
		})
	}
}

// attachWithTask attaches to the server and gives each request a task. It sends how
// they end: with an error if a task is told of another delivery than the frames'.
func attachWithTask(t *testing.T, srv *http.Server, cfg ...tetherhttp.ReleaserConfig) <-chan error {
	reg := newRegistry(t, tether.Config{})
	outcomes := make(chan error, 1)
	var added *tether.Task // of the request at hand
	next := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		task, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
			if d := tetherhttp.DeliveryOf(ctx); d != tetherhttp.DeliveryFrame {
				return fmt.Errorf("delivery: %v", d)
			}
			return nil
		})
		if assert.NoError(t, err) {
			go func() { outcomes <- task.Wait(context.Background()) }()
		}
		added = task
		next.ServeHTTP(w, r)
	})
	tetherhttp.Attach(srv, reg, cfg...)
	attached := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attached.ServeHTTP(w, r)
		if r.Method != http.MethodHead { // whose stream may have ended by now
			assert.Equal(t, tether.Held, added.State(), "before the last of the response is handed over")
		}
	})
	return outcomes
}

// frames is a server of the exchanges, and its client.
type frames struct {
	*h2client
	outcomes <-chan error // of the tasks, one for each request; nil if there are none
}

func serveExchanges(t *testing.T, secure bool, attach func(*http.Server) <-chan error) *frames {
	mux := http.NewServeMux()
	for i, x := range exchanges {
		mux.Handle("/"+strconv.Itoa(i), x.handler)
	}
	srv := httptest.NewUnstartedServer(mux)
	outcomes := attach(srv.Config)
	return &frames{h2client: dialHTTP2(t, startHTTP2(t, srv, secure), secure), outcomes: outcomes}
}

// startHTTP2 starts a server of HTTP/2, which ends with the test, and returns its address.
func startHTTP2(t testing.TB, srv *httptest.Server, secure bool) net.Addr {
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	if secure {
		srv.EnableHTTP2 = true
		srv.StartTLS()
		return srv.Listener.Addr()
	}
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	return srv.Listener.Addr()
}

// transcript makes an exchange and returns what the server has sent on its stream: the
// headers, and the data, however it was cut, with the last frame told apart.
func (h *h2client) transcript(t *testing.T, i int) []string {
	x := exchanges[i]
	id := h.request(x.method, "/"+strconv.Itoa(i), x.body == "" && !x.open, x.header...)
	if x.body != "" {
		require.NoError(t, h.framer.WriteData(id, true, []byte(x.body)))
	}
	var lines []string
	var data bytes.Buffer
	flush := func(how string) {
		if data.Len() > 0 || how != "" {
			lines = append(lines, fmt.Sprintf("DATA %d %x%s", data.Len(), sha256.Sum256(data.Bytes()), how))
		}
		data.Reset()
	}
	// When the stream has ended for the client, the answer to a PING is behind all that
	// the server had to say of it.
	over := false
	ended := func() {
		if !over {
			require.NoError(t, h.framer.WritePing(false, [8]byte{1}))
		}
		over = true
	}
	for {
		switch f := h.read().(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				flush("")
				return lines
			}
		case *http2.DataFrame:
			if f.StreamID != id {
				t.Fatalf("data on another stream: %v", f)
			}
			data.Write(f.Data())
			if f.StreamEnded() {
				how := ", END_STREAM with the data"
				if len(f.Data()) == 0 {
					how = ", END_STREAM in a frame of its own"
				}
				flush(how)
				ended()
			}
		case *http2.MetaHeadersFrame:
			flush("")
			line := "HEADERS"
			for _, field := range f.Fields {
				if field.Name != "date" {
					line += fmt.Sprintf(" %s=%q", field.Name, field.Value)
				}
			}
			if f.StreamEnded() {
				line += ", END_STREAM"
				ended()
			}
			lines = append(lines, line)
		case *http2.RSTStreamFrame:
			flush("")
			lines = append(lines, "RST_STREAM "+f.ErrCode.String())
			ended()
		case *http2.WindowUpdateFrame: // a matter of timing
		default:
			flush("")
			lines = append(lines, f.Header().String())
		}
	}
}

// h2client is a connection of HTTP/2 at the level of frames. Flow control does not
// hold its server up.
type h2client struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	stream uint32 // the next
}

func dialHTTP2(t testing.TB, addr net.Addr, secure bool) *h2client {
	c := dial(t, addr)
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	t.Cleanup(func() { _ = c.Close() })
	return newHTTP2(t, c, c)
}

// newHTTP2 begins a conversation of HTTP/2. What the server says is read from r.
func newHTTP2(t testing.TB, c net.Conn, r io.Reader) *h2client {
	h := &h2client{t: t, conn: c, framer: http2.NewFramer(c, r), stream: 1}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.hpack = hpack.NewEncoder(&h.block)
	_, err := io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, h.framer.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30},
	))
	require.NoError(t, h.framer.WriteWindowUpdate(0, 1<<30))
	return h
}

// request opens a stream and returns its number. end says that there is no body.
func (h *h2client) request(method, path string, end bool, header ...string) uint32 {
	if method == "" {
		method = "GET"
	}
	h.block.Reset()
	fields := append([]string{":method", method, ":scheme", "http", ":authority", "test", ":path", path}, header...)
	for i := 0; i < len(fields); i += 2 {
		require.NoError(h.t, h.hpack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	id := h.stream
	h.stream += 2
	require.NoError(h.t, h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.block.Bytes(), EndStream: end, EndHeaders: true,
	}))
	return id
}

// read returns the next frame that is not of the connection's set-up.
func (h *h2client) read() http2.Frame {
	for {
		f, err := h.framer.ReadFrame()
		require.NoError(h.t, err)
		if s, ok := f.(*http2.SettingsFrame); ok {
			if !s.IsAck() {
				require.NoError(h.t, h.framer.WriteSettingsAck())
			}
			continue
		}
		return f
	}
}

// end reads until a stream has ended.
func (h *h2client) end(stream uint32) {
	for {
		f := h.read()
		if f.Header().StreamID != stream {
			continue
		}
		if _, reset := f.(*http2.RSTStreamFrame); reset {
			return
		}
		if s, ok := f.(interface{ StreamEnded() bool }); ok && s.StreamEnded() {
			return
		}
	}
}

// TestHTTP2StreamsAreApart: the tasks of a stream do not wait for another one of the
// connection.
func TestHTTP2StreamsAreApart(t *testing.T) {
	for _, secure := range []bool{false, true} {
		reg := newRegistry(t, tether.Config{})
		goOn := make(chan struct{})
		tasks := make(chan *tether.Task, 2)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			task, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
				assert.Equal(t, tetherhttp.DeliveryFrame, tetherhttp.DeliveryOf(ctx))
				return nil
			})
			assert.NoError(t, err)
			tasks <- task
			if r.URL.Path == "/slow" {
				<-goOn
			}
		}))
		tetherhttp.Attach(srv.Config, reg)
		h := dialHTTP2(t, startHTTP2(t, srv, secure), secure)
		slow := h.request("GET", "/slow", true)
		first := <-tasks
		h.end(h.request("GET", "/quick", true))
		require.NoError(t, (<-tasks).Wait(t.Context()))
		require.Equal(t, tether.Held, first.State())
		close(goOn)
		h.end(slow)
		require.NoError(t, first.Wait(t.Context()))
	}
}

// TestHTTP2Reset: a client that resets its stream, or hangs up, is told of as such.
func TestHTTP2Reset(t *testing.T) {
	for _, hangUp := range []bool{false, true} {
		reg := newRegistry(t, tether.Config{})
		handling := make(chan struct{})
		delivery := make(chan tetherhttp.Delivery, 1)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
				delivery <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
			close(handling)
			<-r.Context().Done()
		}))
		tetherhttp.Attach(srv.Config, reg)
		h := dialHTTP2(t, startHTTP2(t, srv, false), false)
		id := h.request("GET", "/", true)
		<-handling
		if hangUp {
			require.NoError(t, h.conn.Close())
		} else {
			require.NoError(t, h.framer.WriteRSTStream(id, http2.ErrCodeCancel))
		}
		require.Equal(t, tetherhttp.DeliveryClosed, <-delivery)
	}
}

// TestHTTP2Head: the response to HEAD may be out, and its stream closed, before the
// handler returns. It was delivered all the same.
func TestHTTP2Head(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	delivery := make(chan tetherhttp.Delivery, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
			delivery <- tetherhttp.DeliveryOf(ctx)
			return nil
		})
		assert.NoError(t, err)
		// If the stream is closed before Flush looks, net/http has it return an error,
		// though the response went out whole.
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // the stream is closed
	}))
	tetherhttp.Attach(srv.Config, reg)
	h := dialHTTP2(t, startHTTP2(t, srv, false), false)
	h.end(h.request("HEAD", "/", true))
	require.Equal(t, tetherhttp.DeliveryFrame, <-delivery)
}
