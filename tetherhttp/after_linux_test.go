package tetherhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// TestHTTP1Kernel looks at what the client's kernel has when a task starts, on
// real sockets, while the connection's goroutine stands still: all of the response.
func TestHTTP1Kernel(t *testing.T) {
	sizes := []int{0, 100, 2048, 2049, 4096, 9000, 32 << 10}
	for _, kind := range []string{"tcp", "unix"} {
		for _, with := range []how{attached, atReturn} {
			t.Run(fmt.Sprintf("%s, control: %v", kind, with == atReturn), func(t *testing.T) {
				requests := 420
				if with == atReturn {
					requests = 2 * len(sizes)
				}
				var client net.Conn
				var mu sync.Mutex
				var task *tether.Task // guarded by mu
				finished := func() {
					mu.Lock()
					running := task
					mu.Unlock()
					if running != nil {
						<-running.Done()
					}
				}
				found := make(chan []byte, 1)
				var deliveries sync.Map
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					added, err := tetherhttp.After(r.Context(), "look", func(ctx context.Context) error {
						deliveries.Store(tetherhttp.DeliveryOf(ctx), nil)
						inKernel, err := drainSocket(client)
						assert.NoError(t, err)
						found <- inKernel
						return nil
					})
					assert.NoError(t, err)
					mu.Lock()
					task = added
					mu.Unlock()
					size, _ := strconv.Atoi(r.URL.Query().Get("size"))
					writePieces(w, size)
				})}
				reg := newRegistry(t, tether.Config{})
				want := tetherhttp.DeliveryUnknown
				if with == attached {
					want = tetherhttp.DeliverySent
					srv.ConnState = func(_ net.Conn, state http.ConnState) {
						if state == http.StateIdle {
							finished()
						}
					}
					tetherhttp.Attach(srv, reg)
				} else {
					inner := tetherhttp.NewReleaser(reg).Handler(srv.Handler)
					srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer finished()
						inner.ServeHTTP(w, r)
					})
				}
				address := "127.0.0.1:0"
				if kind == "unix" {
					address = filepath.Join(t.TempDir(), "s")
				}
				l, err := net.Listen(kind, address)
				require.NoError(t, err)
				done := make(chan error, 1)
				go func() { done <- srv.Serve(l) }()
				client, err = net.Dial(kind, l.Addr().String())
				require.NoError(t, err)

				complete := 0
				for i := range requests {
					size := sizes[i%len(sizes)]
					_, err := fmt.Fprintf(client, "GET /?size=%d HTTP/1.1\r\nHost: test\r\n\r\n", size)
					require.NoError(t, err)
					inKernel := <-found
					rest := bufio.NewReader(io.MultiReader(bytes.NewReader(inKernel), client))
					if with == attached {
						rest = bufio.NewReader(bytes.NewReader(inKernel))
					}
					res, err := http.ReadResponse(rest, nil)
					require.NoError(t, err, "request %d of %d bytes: the kernel has %d", i, size, len(inKernel))
					body, err := io.ReadAll(res.Body)
					require.NoError(t, err, "request %d of %d bytes: the kernel has %d", i, size, len(inKernel))
					assert.Len(t, body, size)
					if bytes.HasSuffix(inKernel, []byte("\r\n0\r\n\r\n")) || len(inKernel) > size {
						complete++
					}
				}
				if with == atReturn {
					assert.Less(t, complete, requests/4, "responses that the control has found complete")
				}
				deliveries.Range(func(d, _ any) bool { return assert.Equal(t, want, d) })
				require.NoError(t, client.Close())
				require.NoError(t, srv.Close())
				require.ErrorIs(t, <-done, http.ErrServerClosed)
			})
		}
	}
}

// drainSocket reads what the kernel has for c, and does not wait for more.
func drainSocket(c net.Conn) ([]byte, error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var data []byte
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		for p := make([]byte, 64<<10); ; {
			n, err := syscall.Read(int(fd), p)
			switch {
			case err == syscall.EINTR:
				continue
			case err == syscall.EAGAIN || n == 0:
				return true
			case err != nil:
				readErr = err
				return true
			}
			data = append(data, p[:n]...)
		}
	})
	if err == nil {
		err = readErr
	}
	return data, err
}
